"""What runs are compared within: one scenario on one line of builds and one kernel, under the same loads.

And with the same parameters: those that the scenario does not have by itself are a part of the cell. Seed, rate, number
of runs, dumps and templates are not: they do not change what is done to a guest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypedDict
from urllib.parse import quote, unquote

from splvm.record.cellfacts import PACKAGED, UNKNOWN
from splvm.record.typedjson import from_json

# What stands for itself in a name or a value; all else would be taken for what divides them.
_SAFE = "./+:@~"


class CellRow(TypedDict):
    """A cell as files have it."""

    scenario: str
    kernel: str
    variant: str
    loads: str
    line: str
    parameters: dict[str, str]


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One cell of a matrix, and of the history."""

    scenario: str
    kernel: str
    variant: str
    # As `--load` takes them; empty without.
    loads: str = ""
    # Of builds: the distribution's, the user's own by name, or unknown.
    line: str = PACKAGED
    # Name and value of each parameter that is not the scenario's own, by name.
    parameters: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", tuple(sorted(self.parameters)))

    @property
    def words(self) -> tuple[str, ...]:
        """The parts of its name that say something."""
        return tuple(filter(None, (self.scenario, self.kernel, self.variant, self.loads, *self.other)))

    @property
    def other(self) -> tuple[str, ...]:
        """Those of them that tell it from the packaged build's, with the scenario's own parameters."""
        line = "" if self.line == PACKAGED else f"line={self.line}"
        return tuple(filter(None, (line, write_parameters(self.parameters))))

    @property
    def is_known(self) -> bool:
        """Whether its runs can be compared with each other."""
        return self.line != UNKNOWN

    def __str__(self) -> str:
        return " ".join(self.words)

    def columns(self) -> dict[str, str]:
        """As a row of the history has it."""
        return {
            "scenario": self.scenario,
            "kernel": self.kernel,
            "variant": self.variant,
            "loads": self.loads,
            "line": self.line,
            "parameters": write_parameters(self.parameters),
        }

    def to_json(self) -> dict[str, Any]:
        """The columns, with the parameters as a mapping."""
        return {**self.columns(), "parameters": dict(self.parameters)}

    @classmethod
    def from_json(cls, told: object) -> Cell:
        """:raises ValueError: when it is no such mapping."""
        row = from_json(told, CellRow)
        words = (row["scenario"], row["kernel"], row["variant"], row["loads"], row["line"])
        return cls(*words, tuple(row["parameters"].items()))


def write_parameters(parameters: Iterable[tuple[str, str]]) -> str:
    """`NAME=VALUE`, separated by commas, sorted: equal texts are equal parameters."""
    return ",".join(f"{_quoted(name)}={_quoted(value)}" for name, value in sorted(parameters))


def read_parameters(text: str) -> tuple[tuple[str, str], ...]:
    """What `write_parameters` has written, or a user like it.

    :raises ValueError: when a part of it is not of that form.
    """
    parts = [part.partition("=") for part in text.split(",") if part]
    if not all(name and sign for name, sign, _ in parts):
        raise ValueError(f"{text}: it is NAME=VALUE, separated by commas")
    return tuple(sorted((unquote(name), unquote(value)) for name, _, value in parts))


def _quoted(text: str) -> str:
    return quote(text, safe=_SAFE, errors="backslashreplace")
