"""The shape of run.json, as far as anybody uses it. Pure.

What is not there is not known, and whoever needs it says so; what is there and is something else than it should be is
one error, whoever would have used it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from splvm.errors import EvidenceError

# How deep run.json may be, and how many values it may have: far more than any run's.
_MOST_DEPTH = 30
_MOST_VALUES = 200_000
_MOST_NUMBER = 1e15


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_named(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, Mapping) and _is_text(each.get("name")) for each in value)


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(each, str) for each in value.values())


def _is_digest(value: object) -> bool:
    if not isinstance(value, Mapping) or not _is_count(value.get("bytes")):
        return False
    return value.get("sha256") is None or isinstance(value.get("sha256"), str)


def _is_digests(value: object) -> bool:
    return isinstance(value, Mapping) and all(map(_is_digest, value.values()))


# Whether a value is one, and what it is called.
_Shape = tuple[Callable[[object], bool], str]
_TEXT: _Shape = (_is_text, "a text")
_NUMBER: _Shape = (_is_number, "a number")
_COUNT: _Shape = (_is_count, "a whole number from 0 on")
_MAPPING: _Shape = (_is_mapping, "a mapping")
_TEXTS: _Shape = (_is_texts, "a list of texts")
_NAMED: _Shape = (_is_named, "a list of mappings, each with a name")
_TABLE: _Shape = (_is_table, "a mapping to texts")
_DIGESTS: _Shape = (_is_digests, "bytes and sha256 of each file")

# What is used of run.json. `None` at one of these places is a value of its own.
SHAPES: Mapping[str, _Shape] = {
    "scenario": _TEXT,
    "expected": _TEXTS,
    "rule": _MAPPING,
    "started": _TEXT,
    "batch": _TEXT,
    "argv": _TEXTS,
    "splvm": _TEXT,
    "seal": _TEXT,
    "boots": _COUNT,
    "line": _TEXT,
    "differs": _MAPPING,
    "parameters": _MAPPING,
    "parameters.window_s": _NUMBER,
    "parameters.latency_bound_ms": _NUMBER,
    "parameters.rate_hz": _NUMBER,
    "parameters.ram_mib": _COUNT,
    "parameters.cpus": _COUNT,
    "parameters.load": _TEXT,
    "parameters.workload": _MAPPING,
    "loads": _NAMED,
    "kernel": _MAPPING,
    "kernel.id": _TEXT,
    "kernel.release": _TEXT,
    "kernel.package": _TEXT,
    "spl": _MAPPING,
    "spl.source": _TEXT,
    "spl.version": _TEXT,
    "spl.variant": _TEXT,
    "spl.content": _TEXT,
    "spl.patches": _NAMED,
    "spl.modules": _TABLE,
    "qemu": _MAPPING,
    "qemu.version": _TEXT,
    "accelerator": _MAPPING,
    "accelerator.name": _TEXT,
    "host": _MAPPING,
    "host.cores": _COUNT,
    "host.system": _TEXT,
    "outcome": _MAPPING,
    "outcome.kind": _TEXT,
    "outcome.console_bytes": _COUNT,
    "evidence": _DIGESTS,
}

# Where null is what was recorded: there was nothing of the kind.
NULLABLE = frozenset({"rule", "spl.content", "parameters.load", "host.cores"})


def check_facts(facts: object) -> dict[str, Any]:
    """run.json as it was parsed, if all that is used of it is what it should be.

    :raises EvidenceError: when it is not; with the first place that is wrong.
    """
    if not isinstance(facts, dict):
        raise EvidenceError("it is not the record of a run")
    _check_size(facts)
    for place, (test, what) in SHAPES.items():
        value: Any = facts
        for key in place.split("."):
            value = value.get(key, _ABSENT) if isinstance(value, Mapping) else _ABSENT
        if value is not _ABSENT and not test(value) and not (value is None and place in NULLABLE):
            raise EvidenceError(f"{place} is {_shown(value)}, and not {what}")
    return facts


_ABSENT = object()


def _check_size(facts: Mapping[str, Any]) -> None:
    """:raises EvidenceError: when it is deeper or larger than any run's, or has a number that is none."""
    level: list[Any] = [facts]
    count = 0
    for _ in range(_MOST_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif isinstance(value, (int, float)) and not (math.isfinite(value) and abs(value) < _MOST_NUMBER):
                raise EvidenceError(f"a number in it is {_shown(value)}")
        count += len(below)
        if count > _MOST_VALUES:
            raise EvidenceError(f"it has more than {_MOST_VALUES} values")
        if not below:
            return
        level = below
    raise EvidenceError(f"it is more than {_MOST_DEPTH} levels deep")


def _shown(value: object) -> str:
    if isinstance(value, (dict, list)) and value:
        return f"a {'mapping' if isinstance(value, dict) else 'list'}"
    return repr(value)[:60] if not isinstance(value, int) or abs(value) < _MOST_NUMBER else "too large"
