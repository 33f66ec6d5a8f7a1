"""The digest of all that a guest in virtual time left: the same template, plan and seed give the same one. Pure.

What the host noted is not in it: not when a frame came, and not by which way. Neither is what was done to the guest
after it had let the host in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any

# What the host adds to a frame.
_OF_THE_HOST = ("at_s", "path")
# Of so many frames one may come at the same time as that of another run.
_APART = 10


def is_virtual(facts: Mapping[str, Any]) -> bool:
    """Whether a run's guest was in virtual time.

    :param facts: its run.json.
    """
    parameters = facts.get("parameters")
    return isinstance(parameters, Mapping) and parameters.get("clock") == "virtual"


# What decides the digest, by its place in run.json.
_DECIDES = (
    *(("scenario",), ("parameters",), ("template",)),
    *(("kernel", "release"), ("spl", "modules"), ("qemu", "sha256")),
)


def decided_otherwise(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What two runs differ in of what decides the digest, by its place in run.json; nothing if it has to be one.

    :param one: run.json of a run; `other` likewise.
    """
    return [".".join(place) for place in _DECIDES if _at(one, place) != _at(other, place)]


def _at(facts: object, place: Iterable[str]) -> object:
    for key in place:
        facts = facts.get(key) if isinstance(facts, Mapping) else None
    return facts


def closed_console(facts: Mapping[str, Any], console: bytes) -> bytes | None:
    """What a guest had said on its console when the host was let in; None where run.json says nothing that can be.

    :param console: all of it.
    """
    outcome = facts.get("outcome")
    count = outcome.get("closed_bytes") if isinstance(outcome, Mapping) else None
    return console[:count] if isinstance(count, int) and 0 <= count <= len(console) else None


def digest_of(records: Iterable[Mapping[str, Any]], console: bytes) -> str:
    """64 hexadecimal digits.

    :param records: of samples.jsonl.
    :param console: what the guest said before the host was let in.
    """
    digest = hashlib.sha256()
    for frame in frame_texts(records):
        digest.update(f"{frame}\n".encode("utf-8", "surrogatepass"))
    digest.update(console)
    return digest.hexdigest()


def first_difference(one: Iterable[Mapping[str, Any]], other: Iterable[Mapping[str, Any]]) -> str:
    """The first frame in which two runs differ, in words; empty if they have the same frames."""
    for number, (here, there) in enumerate(zip_longest(frame_texts(one), frame_texts(other))):
        if here != there:
            return f"frame {number}: {str(here)[:300]} in one, {str(there)[:300]} in the other"
    return ""


def came_at_once(one: Iterable[Mapping[str, Any]], other: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a tenth of the frames of two runs or more came at one time, to the microsecond, since the run began.

    What the host notes is no part of the digest, and no two runs have it in common. Two may begin at once, though.
    """
    pairs = list(zip(_times(one), _times(other), strict=False))
    return sum(here == there for here, there in pairs) * _APART > len(pairs)


def _times(records: Iterable[Mapping[str, Any]]) -> Iterator[object]:
    return (record.get("at_s") for record in records if record.get("kind") == "frame")


def frame_texts(records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Each frame among the records, without what the host has added to it, on one line."""
    for record in records:
        if record.get("kind") == "frame":
            yield json.dumps({key: value for key, value in record.items() if key not in _OF_THE_HOST}, sort_keys=True)
