"""Which public reports, and which scenarios of ours, have the shape of what a text shows; the table is known.toml."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

# Functions of which one has to be in a stack; all the groups of a shape have to be in the same one.
Shape = tuple[frozenset[str], ...]


@dataclass(frozen=True, slots=True)
class KnownIssue:
    """A public report, and what its stacks have in common."""

    issue: str
    versions: str
    # Empty while it is open, or where nobody knows.
    fixed_in: str
    why: str
    # Each of another thread; empty if it is a complaint.
    threads: tuple[Shape, ...]
    # The kind of the complaint, and a shape of its frames.
    finding: str
    functions: Shape


@dataclass(frozen=True, slots=True)
class KnownScenario:
    """A scenario of ours that comes to such stacks."""

    name: str
    command: str
    threads: tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class KnownTable:
    """The rows of known.toml."""

    issues: tuple[KnownIssue, ...]
    scenarios: tuple[KnownScenario, ...]


@functools.cache
def known_table() -> KnownTable:
    """The table that comes with splvm."""
    text = resources.files(__package__).joinpath("known.toml").read_text(encoding="utf-8")
    return parse_known(tomllib.loads(text))


def parse_known(table: Mapping[str, Any]) -> KnownTable:
    """:raises KeyError: when a row lacks a key."""
    return KnownTable(
        tuple(
            KnownIssue(
                issue=row["issue"],
                versions=row["versions"],
                fixed_in=row["fixed_in"],
                why=row["why"],
                threads=tuple(map(_shape, row.get("threads", ()))),
                finding=row.get("finding", {}).get("kind", ""),
                functions=_shape(row.get("finding", {}).get("functions", ())),
            )
            for row in table["known"]
        ),
        tuple(
            KnownScenario(row["name"], row["command"], tuple(map(_shape, row["threads"]))) for row in table["scenario"]
        ),
    )


def _shape(groups: Iterable[str]) -> Shape:
    return tuple(frozenset(group.split("|")) for group in groups)


def fits(threads: Sequence[Shape], stacks: Sequence[frozenset[str]]) -> bool:
    """Whether each shape is in a stack of its own."""
    if not threads:
        return False
    return _assign(threads, 0, stacks, frozenset())


def _assign(threads: Sequence[Shape], at: int, stacks: Sequence[frozenset[str]], taken: frozenset[int]) -> bool:
    if at == len(threads):
        return True
    for number, stack in enumerate(stacks):
        if number not in taken and has_shape(threads[at], stack):
            # Equal stacks are as good as each other, so the first that fits is enough where no other shape wants it.
            if _assign(threads, at + 1, stacks, taken | {number}):
                return True
            if not any(has_shape(other, stack) for other in threads[at + 1 :]):
                return False
    return False


def has_shape(shape: Shape, stack: frozenset[str]) -> bool:
    """Whether all of it is in one stack."""
    return all(not group.isdisjoint(stack) for group in shape)
