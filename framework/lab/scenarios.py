"""Scenarios: what is done to a guest, step by step, and which verdict is expected of it.

A scenario is a row of `SCENARIOS`; what it does is a tuple of steps. A step sends commands to the probe and waits, on
the guest's own clock, until a condition holds in what the agent reports. How a run is judged is in evidence/judge.py,
under the scenario's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from framework.errors import UsageError
from framework.evidence.probe import ProbeStatus
from framework.evidence.slab import CacheRow
from framework.evidence.verdict import Outcome


@dataclass(frozen=True, slots=True)
class Reading:
    """What the agent has reported last."""

    probe: ProbeStatus
    # The probe's row of the slab file, None before the cache is there.
    row: CacheRow | None
    # Readings of the slab file since the step began.
    slab_readings: int
    # Guest time since the step began, ns.
    elapsed_ns: int
    # Rounds of each thread when the step began.
    rounds_before: tuple[int, ...]

    @property
    def deadlocked(self) -> bool:
        """Whether SPL has flagged the cache."""
        return self.row is not None and bool(self.row.flags & self.probe.bits.get("deadlocked", 0))


@dataclass(frozen=True, slots=True)
class Step:
    """One phase of a scenario."""

    # Name of the phase; it becomes a mark in the probe, unless it is empty.
    name: str
    # Commands for the probe, after the mark.
    commands: tuple[str, ...]
    # The phase is over when this holds.
    until: Callable[[Reading], bool]
    # ... or when it has lasted this long in guest time. Then the next step begins; what that means, judge() says.
    limit_s: float
    # Mark that is set when `until` held, and only then.
    then: str | None = None


def _lasts(seconds: float) -> Callable[[Reading], bool]:
    return lambda reading: reading.elapsed_ns >= seconds * 1e9


def _settled(reading: Reading) -> bool:
    """A second has passed, and every thread has been round more than once."""
    enough = reading.probe.threads and all(t.rounds > 2 for t in reading.probe.threads)
    return reading.elapsed_ns >= 1e9 and bool(enough)


def _held(reading: Reading) -> bool:
    return reading.probe.hold.held > 0


def _at_rest(reading: Reading) -> bool:
    return reading.probe.run.parked == reading.probe.config.threads


def _stopped(reading: Reading) -> bool:
    return reading.probe.run.stopped == reading.probe.config.threads


def _read_often(reading: Reading) -> bool:
    return reading.slab_readings >= 4


def _recovered(reading: Reading) -> bool:
    """Nothing held, nothing flagged, no emergency object in use, and every thread has been round again."""
    moved = all(t.rounds > before + 1 for t, before in zip(reading.probe.threads, reading.rounds_before, strict=False))
    drained = reading.row is not None and not reading.row.emergency.alloc
    return moved and drained and not reading.deadlocked and not reading.probe.hold.held


_START = Step("settle", ("start",), _settled, 20)
_AUDIT = (
    Step("park", ("park",), _at_rest, 1.5),
    Step("audit", (), _read_often, 3),
    Step("audit-end", (), _lasts(0), 1),
)
_FINISH = (Step("stop", ("stop",), _stopped, 5), Step("final", (), _read_often, 3), Step("end", (), _lasts(0.2), 1))


def _nominal(window_s: float) -> tuple[Step, ...]:
    return (
        _START,
        Step("window", (), _lasts(window_s), window_s + 5),
        Step("window-end", (), _lasts(0), 1),
        *_AUDIT,
        Step("resume", ("resume",), _lasts(0.2), 1),
        *_FINISH,
    )


def _held_worker(window_s: float) -> tuple[Step, ...]:
    return (
        _START,
        Step("hold", ("hold",), _held, 5),
        Step("window", (), _lasts(window_s), window_s + 5),
        Step("window-end", (), _lasts(0), 1),
        *_AUDIT,
        Step("release", ("release", "resume"), _recovered, 10, then="recovered"),
        Step("", (), _lasts(1.5), 3),
        *_FINISH,
    )


@dataclass(frozen=True, slots=True)
class Scenario:
    """One experiment."""

    name: str
    # One line for people.
    summary: str
    steps: Callable[[float], tuple[Step, ...]]
    # Default length of the window, seconds of guest time.
    window_s: float
    # Longest gap between two allocations of a critical thread that is still progress, ms. SPL's own timeout is HZ/10,
    # that is 100 ms (a whole HZ before 2015); the factor is for a guest that is emulated on a busy host.
    latency_bound_ms: int
    # Expected verdicts by variant of SPL.
    expected: Mapping[str, Outcome]


SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "nominal",
            "threads allocate and free, nothing is stuck",
            _nominal,
            3.0,
            1000,
            # The fallback is for a worker that is stuck; without one it must not matter.
            {"stock": Outcome.HEALTHY, "no-emergency": Outcome.HEALTHY},
        ),
        Scenario(
            "held-worker",
            "the worker that grows the cache is held, then released",
            _held_worker,
            3.0,
            1000,
            {"stock": Outcome.PROGRESS, "no-emergency": Outcome.STALLED},
        ),
    )
}

# What a user's own source or patch has to show.
GOOD = frozenset(outcome for outcome in Outcome if outcome.is_good)


def find_scenario(name: str) -> Scenario:
    """:raises UsageError: when there is none of that name; the message lists them."""
    try:
        return SCENARIOS[name]
    except KeyError:
        raise UsageError(f"there is no scenario {name!r}; there are: {', '.join(SCENARIOS)}") from None


def expected_outcomes(scenario: Scenario, variant: str, *, own: bool) -> frozenset[Outcome]:
    """Which verdicts count as expected.

    :param own: whether the user's source or patches are in the build: then every good verdict does.
    """
    if own or variant not in scenario.expected:
        return GOOD
    return frozenset({scenario.expected[variant]})
