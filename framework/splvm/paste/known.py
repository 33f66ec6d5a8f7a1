"""Which public reports, and which scenarios of ours, have the shape of what a text shows; the table is known.toml."""

from __future__ import annotations

import functools
import itertools
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

# Functions, or reasons as "@zio", of which one has to be in a stack, and with "!" before them none; all the groups of a
# shape have to be in the same stack.
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


class Stacks:
    """The stacks of a moment, each given as its functions and what its thread waits for."""

    def __init__(self, stacks: Iterable[frozenset[str]]) -> None:
        self.stacks = tuple(stacks)
        self.places: dict[str, list[int]] = defaultdict(list)
        for at, stack in enumerate(self.stacks):
            for name in stack:
                self.places[name].append(at)

    def with_shape(self, shape: Shape, enough: int) -> list[int]:
        """The places of the first stacks that have all of a shape."""
        wanted = [self.with_any(group) for group in shape if not any(name[:1] == "!" for name in group)]
        places = min(wanted, key=len, default=range(len(self.stacks)))
        return list(itertools.islice((at for at in places if has_shape(shape, self.stacks[at])), enough))

    def with_any(self, group: frozenset[str]) -> Sequence[int]:
        """The places of the stacks that have one of the functions."""
        found = [self.places[name] for name in group if name in self.places]
        return found[0] if len(found) == 1 else sorted({at for places in found for at in places})


def fits(threads: Sequence[Shape], stacks: Stacks) -> bool:
    """Whether each shape is in a stack of its own."""
    # With as many stacks of each shape as there are shapes, one is left whichever the others take.
    found = [stacks.with_shape(shape, len(threads)) for shape in threads]
    return bool(threads) and all(found) and any(len(set(each)) == len(each) for each in itertools.product(*found))


def has_shape(shape: Shape, stack: frozenset[str]) -> bool:
    """Whether all of it is in one stack, given as its functions and what its thread waits for."""
    return all(_has_group(group, stack) for group in shape)


def _has_group(group: frozenset[str], stack: frozenset[str]) -> bool:
    unwanted = {name[1:] for name in group if name[:1] == "!"}
    return unwanted.isdisjoint(stack) if unwanted else not group.isdisjoint(stack)
