"""What a check is given, and what it answers: the evidence of one run with its times, and complaints.

Pure, as all of evidence. Also the words in which times and samples are told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from splvm.evidence.formats.probestatus import ProbeStatus
from splvm.evidence.formats.slab import CacheRow
from splvm.evidence.timeline import Evidence, Sample, Timeline, between, cache_rows, hold_of
from splvm.evidence.verdict import Outcome, Reason

# Name of the probe's cache in the slab file.
CACHE = "slabprobe"

# Readings further apart than this leave a hole in which anything may have happened, ns.
HOLE_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Complaint:
    """What a check found wrong."""

    outcome: Outcome
    reason: Reason
    # Why the module cannot be blamed for it; then `outcome` is INCONCLUSIVE.
    excuse: str = ""


def unless_starved(outcome: Outcome, text: str, excuse: str, samples: tuple[int, ...]) -> Complaint:
    """A complaint about what took too long: it tells of the module only if the host has no part in that."""
    return Complaint(Outcome.INCONCLUSIVE if excuse else outcome, Reason(f"{text}{excuse}", samples), excuse)


@dataclass(frozen=True, slots=True)
class Case:
    """The evidence of one run, and the times on the guest's clock that the checks refer to."""

    evidence: Evidence
    timeline: Timeline
    marks: Mapping[str, int]
    # Longest gap between two allocations that is still progress, ns.
    latency_bound_ns: int

    @property
    def window(self) -> tuple[int, int]:
        """Beginning and end of the window, ns; only after `check_phases` found both."""
        return self.marks["window"], self.marks["window-end"]

    @property
    def pulled_ns(self) -> int:
        """When the lever was pulled, the trap was set or faults were asked for; else the beginning of the window."""
        pulled = next((name for name in ("hold", "trap", "fail") if name in self.marks), "window")
        return self.marks[pulled]

    def probes(self, start: str, end: str) -> tuple[Sample[ProbeStatus], ...]:
        """The probe's readings between two marks."""
        return between(self.timeline.probe, self.marks[start], self.marks[end])

    def rows(self) -> list[Sample[CacheRow]]:
        """The slab file's rows of the probe's cache, in order."""
        return cache_rows(self.timeline, CACHE)

    def flags(self, row: CacheRow) -> dict[str, bool]:
        """Which of the probe's named flag bits are set in a row."""
        return {name: bool(row.flags & bit) for name, bit in self.timeline.probe[-1].value.bits.items()}


Check = Callable[[Case], Iterator[Complaint]]


def held_worker(case: Case) -> int | None:
    """The number of the worker that was held when the window began; see `hold_of`."""
    hold = hold_of(case.timeline, *case.window)
    return hold.pid if hold else None


def caught_thread(case: Case) -> int | None:
    """The thread that was caught last in the trap before the end of the window."""
    end = case.window[1]
    caught = [s.value.trap.pid for s in case.timeline.probe if s.value.trap.waiting and s.start_ns <= end]
    return caught[-1] if caught else None


def is_count(value: object) -> TypeGuard[int]:
    """Whether it is a number of things. True is none, although it equals 1."""
    return type(value) is int and value >= 0


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a number, whole or not. True is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def seconds(ns: int) -> str:
    return f"{ns / 1e9:.3f} s"


def millis(ns: int) -> str:
    return f"{ns / 1e6:.1f} ms"


def seqs(samples: list[Sample[Any]] | tuple[Sample[Any], ...]) -> tuple[int, ...]:
    """First and last of them: what lies between can be looked up."""
    return tuple(dict.fromkeys((samples[0].seq, samples[-1].seq))) if samples else ()
