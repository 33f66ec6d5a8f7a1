"""CPU time of callers against work done: callers that spin are found, whatever the speed of host and emulation."""

from __future__ import annotations

import re

import pytest

from modern import in_virtual_time, modern
from simulated import HELD, NOMINAL, Knobs, Skew, Span
from splvm.evidence.checks.case import Case
from splvm.evidence.checks.cputime import check_cpu
from splvm.evidence.verdict import Outcome
from splvm.scenarios.judged import judge_evidence as judge


def used(callers_ns: int, worker_ns: int, kind: str = NOMINAL, clock: str = "virtual") -> tuple[Outcome, str]:
    """Verdict and first reason of a run in which each thread uses so much CPU time from one reading to the next."""

    def run_ns(comm: str, tick: int) -> int:
        return (worker_ns if comm.startswith("spl_kmem_cache") else callers_ns) * tick

    run = modern(kind, run_ns=run_ns)
    verdict = judge((in_virtual_time(run) if clock == "virtual" else run).evidence())
    return verdict.outcome, verdict.reasons[0].text


# A simulated thread gets some 70 objects from one reading to the next, and the worker grows the cache twelve times.
@pytest.mark.parametrize("speed", [1, 10, 100])
@pytest.mark.parametrize(
    ("callers_ns", "worker_ns", "outcome"),
    [
        (20_000, 250_000, Outcome.HEALTHY),
        (200_000, 250_000, Outcome.SUSPECT),
        (200_000, 2_500_000, Outcome.HEALTHY),
    ],
)
def test_callers_that_spin(callers_ns: int, worker_ns: int, outcome: Outcome, speed: int) -> None:
    got, reason = used(speed * callers_ns, speed * worker_ns)
    assert got is outcome
    if outcome is Outcome.SUSPECT:
        said = (
            r"callers used \d+\.\d ms of CPU time for \d+ objects, and the worker \d+\.\d ms for \d+ growths: 0\.\d+ of"
        )
        assert re.match(said, reason)


@pytest.mark.parametrize(("emergency", "count"), [(0, 1), (4000, 0)])
def test_emergency_objects_cost_the_caller_what_others_cost_the_worker(emergency: int, count: int) -> None:
    """Half of some 8000 objects; without them a caller that uses so much is one that spins."""

    def run_ns(comm: str, tick: int) -> int:
        return (250_000 if comm.startswith("spl_kmem_cache") else 200_000) * tick

    knobs = Knobs(skews=(Skew("probe", {"live.emergency_total": emergency}, Span("window", 1.5)),))
    evidence = in_virtual_time(modern(NOMINAL, knobs, run_ns=run_ns)).evidence()
    case = Case(evidence, evidence.timeline, evidence.timeline.marks, 500_000_000)
    assert len(list(check_cpu(case))) == count


def test_real_time_says_nothing() -> None:
    """A thread counts as running there while its virtual CPU waits for one of the host's."""
    assert used(200_000, 250_000, clock="real")[0] is Outcome.HEALTHY


def test_a_kernel_that_counts_no_cpu_time() -> None:
    assert used(0, 0)[0] is Outcome.HEALTHY


def test_a_worker_that_is_held_does_not_grow_the_cache() -> None:
    assert used(25_000_000, 1, HELD)[0] is Outcome.PROGRESS
