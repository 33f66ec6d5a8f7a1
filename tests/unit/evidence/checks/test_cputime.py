"""CPU time of callers against work done: callers that spin are found, whatever the speed of host and emulation."""

from __future__ import annotations

import re

import pytest

from modern import in_virtual_time, modern
from simulated import HELD, NOMINAL
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
        (500_000, 250_000, Outcome.SUSPECT),
        (500_000, 6_250_000, Outcome.HEALTHY),
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


def test_real_time_says_nothing() -> None:
    """A thread counts as running there while its virtual CPU waits for one of the host's."""
    assert used(500_000, 250_000, clock="real")[0] is Outcome.HEALTHY


def test_a_kernel_that_counts_no_cpu_time() -> None:
    assert used(0, 0)[0] is Outcome.HEALTHY


def test_a_worker_that_is_held_does_not_grow_the_cache() -> None:
    assert used(25_000_000, 1, HELD)[0] is Outcome.PROGRESS
