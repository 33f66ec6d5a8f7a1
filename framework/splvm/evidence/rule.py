"""Rules: how the runs of a scenario are judged, as data. A run takes its rule along in run.json.

What the names stand for is in judge.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from splvm.errors import EvidenceError

# More than any rule has, so that a rule of a stranger's is bounded.
_MOST_CLAUSES = 100
_MOST_WORDS = 50
_MOST_CHARS = 100


@dataclass(frozen=True, slots=True)
class Clause:
    """A check by its name, and the words that it takes: names of phases, of a verdict."""

    check: str
    words: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((self.check, *self.words))


@dataclass(frozen=True, slots=True)
class Rule:
    """How a scenario is judged."""

    # What has to have happened at all; without it the other checks have nothing to look at.
    required: tuple[Clause, ...]
    # What is looked at in a run that came to the end of its window.
    checks: tuple[Clause, ...]
    # Name of the verdict when nobody complains.
    good: str

    def to_json(self) -> dict[str, Any]:
        """As run.json has it: a clause is a list, the name of the check first."""
        return {
            "required": [[it.check, *it.words] for it in self.required],
            "checks": [[it.check, *it.words] for it in self.checks],
            "good": self.good,
        }


def clause(text: str) -> Clause:
    """A clause as a row of the table has it: the name of a check and its words, with spaces between."""
    check, *words = text.split()
    return Clause(check, tuple(words))


def clauses(*texts: str) -> tuple[Clause, ...]:
    return tuple(clause(text) for text in texts)


def parse_rule(value: object) -> Rule:
    """The rule of a run.json. Whether its names stand for anything is not looked at.

    :raises EvidenceError: when it is no rule.
    """
    if not isinstance(value, dict) or set(value) != {"required", "checks", "good"}:
        raise EvidenceError(f"run.json: rule is {_shown(value)}, and has to have required, checks and good")
    if not isinstance(value["good"], str) or len(value["good"]) > _MOST_CHARS:
        raise EvidenceError(f"run.json: rule: good is {_shown(value['good'])}, and not a name")
    return Rule(_parse_clauses(value["required"]), _parse_clauses(value["checks"]), value["good"])


def _parse_clauses(value: object) -> tuple[Clause, ...]:
    if not isinstance(value, list) or len(value) > _MOST_CLAUSES:
        raise EvidenceError(f"run.json: rule: {_shown(value)} is not a list of at most {_MOST_CLAUSES} checks")
    return tuple(_parse_clause(each) for each in value)


def _parse_clause(value: object) -> Clause:
    is_clause = (
        isinstance(value, list)
        and 0 < len(value) <= _MOST_WORDS
        and all(isinstance(word, str) and 0 < len(word) <= _MOST_CHARS for word in value)
    )
    if not isinstance(value, list) or not is_clause:
        raise EvidenceError(f"run.json: rule: {_shown(value)} is not a check: its name, and the words that it takes")
    check, *words = value
    return Clause(check, tuple(words))


def _shown(value: object) -> str:
    return repr(value)[:80]
