"""Verdicts: what they are, and which of two wins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

SCHEMA_VERSION = 1


class Outcome(StrEnum):
    """What a run showed. In order of precedence: where several hold, the first one is the verdict."""

    # Oops, panic, BUG, lockdep or KASAN report.
    CRASHED = "CRASHED"
    # QEMU or every channel gone without evidence of a crash.
    LOST = "LOST"
    # Worker stuck, no progress.
    STALLED = "STALLED"
    # Emergency objects do not drain, the deadlocked flag stays, or callers do not come back.
    NO_RECOVERY = "NO_RECOVERY"
    # The slab file contradicts itself or the probe's own counts.
    MISCOUNTED = "MISCOUNTED"
    # Progress, but a latency bound was broken.
    SLOW = "SLOW"
    # Nothing stood still, but the kernel warned of SPL, or SPL's marks, flags or use of memory are not those of a right
    # SPL.
    SUSPECT = "SUSPECT"
    # The worker was never proven stuck, or nobody needed it.
    NOT_TRIGGERED = "NOT_TRIGGERED"
    # Gaps in the evidence.
    INCONCLUSIVE = "INCONCLUSIVE"
    # Worker proven stuck throughout the window, critical threads advance in every slice of it, recovery complete after.
    PROGRESS = "PROGRESS"
    # Nothing stuck, no emergency object, no timeout, no accounting fault.
    HEALTHY = "HEALTHY"
    # The trap was sprung, and declined each time because the flags of the allocation forbid it.
    IMMUNE = "IMMUNE"

    @property
    def is_good(self) -> bool:
        """Whether the module did what it promises."""
        return self in (Outcome.PROGRESS, Outcome.HEALTHY, Outcome.IMMUNE)

    @property
    def says_nothing(self) -> bool:
        """Whether it says nothing of the module, unless it is just what was to be shown."""
        return self in (Outcome.NOT_TRIGGERED, Outcome.INCONCLUSIVE)


# Verdicts of which a module is to blame: each that says something of it and is not good.
BAD = frozenset(it for it in Outcome if not it.is_good and not it.says_nothing)


@dataclass(frozen=True, slots=True)
class Reason:
    """One sentence, and the frames of the agent's stream that it rests on."""

    text: str
    samples: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"text": self.text, "samples": list(self.samples)}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a run, why, and the figures that go with it."""

    outcome: Outcome
    # Why, the most telling first; never empty.
    reasons: tuple[Reason, ...]
    # What else was wrong, with the outcome it would have given by itself.
    also: tuple[tuple[Outcome, Reason], ...] = ()
    # Numbers for people and plots; nothing is judged by them.
    figures: Mapping[str, Any] = field(default_factory=dict)
    # How the host gave the guest too little CPU, in words; empty when it did not.
    starved: str = ""
    # Who waited for whom, where it was asked: the graph with its source, and what the list of tasks lacks.
    wait_for: Mapping[str, Any] = field(default_factory=dict)
    # Of all that a guest in virtual time left; empty in real time.
    digest: str = ""

    @property
    def is_starved(self) -> bool:
        """Whether nothing can be said because the host gave the guest too little: the one reason to run again."""
        return self.outcome is Outcome.INCONCLUSIVE and bool(self.starved)

    def to_json(self) -> dict[str, Any]:
        """The content of verdict.json."""
        return {
            "schema_version": SCHEMA_VERSION,
            "verdict": self.outcome.value,
            "reasons": [reason.to_json() for reason in self.reasons],
            "also": [{"verdict": outcome.value, **reason.to_json()} for outcome, reason in self.also],
            "figures": dict(self.figures),
            "starved": self.starved,
            "wait_for": dict(self.wait_for),
            **({"digest": self.digest} if self.digest else {}),
        }
