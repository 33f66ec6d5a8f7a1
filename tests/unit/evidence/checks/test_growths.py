"""Large slabs: callers time out while the worker is at work on one, and that says nothing of SPL."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modern import modern
from simulated import simulate
from simulated_faults import FAULTS
from simulated_guest import Knobs, Skew
from simulated_kinds import HELD, NOMINAL
from simulated_texts import SLAB_SIZE
from splvm.evidence.checks.accounting import check_recovered
from splvm.evidence.checks.case import Case, Complaint
from splvm.evidence.checks.growths import NS_PER_MIB, TIMEOUT_NS, takes_long
from splvm.evidence.checks.timeouts import because_in_time, check_quiet
from splvm.evidence.timeline import Evidence
from splvm.evidence.verdict import Outcome

MIB = 1 << 20
# Two threads and the worker share two CPUs.
LONG_MIB = TIMEOUT_NS / NS_PER_MIB / 1.5
TIMED_OUT = FAULTS["callers time out for nothing"]


def slabs_of(mib: float) -> Knobs:
    """The slab file tells slabs of this size."""
    return Knobs(skews=(Skew("slab", {"slabsize": int(mib * MIB) - SLAB_SIZE}),))


def case_of(mib: float, worker_ns: int, knobs: Knobs = TIMED_OUT) -> Case:
    """Three callers time out in the first reading of the window.

    :param worker_ns: CPU time of the worker from one reading to the next; it grows the cache twelve times in that time.
    """
    run = modern(NOMINAL, knobs | slabs_of(mib), run_ns=lambda comm, tick: worker_ns * tick)
    evidence: Evidence = run.evidence()
    return Case(evidence, evidence.timeline, evidence.timeline.marks, 500_000_000)


def said(case: Case) -> list[Complaint]:
    return list(check_quiet(case))


def test_a_growth_that_takes_as_long_as_the_timeout() -> None:
    case = case_of(8.0, 20_000_000)
    assert not said(case)
    assert because_in_time(case).text == (
        "3 callers timed out, while the worker was at work on a slab of 8.0 MiB; the slab file agrees with the probe"
    )


def test_the_smallest_slab_for_which_that_holds() -> None:
    assert not said(case_of(LONG_MIB + 0.1, 20_000_000))


@pytest.mark.parametrize(
    ("mib", "worker_ns"),
    [
        pytest.param(LONG_MIB - 0.1, 20_000_000, id="small slab"),
        pytest.param(8.0, 0, id="worker is idle"),
        # Twelve growths of 8 MiB may take so long, and these take longer.
        pytest.param(8.0, 13 * 8 * NS_PER_MIB, id="worker takes longer than the slab explains"),
    ],
)
def test_what_the_size_of_a_slab_does_not_explain(mib: float, worker_ns: int) -> None:
    (complaint,) = said(case_of(mib, worker_ns))
    assert (complaint.outcome, complaint.reason.text) == (
        Outcome.SLOW,
        "3 callers timed out although nothing held the worker",
    )


@pytest.mark.parametrize(("mib", "worker_ns", "count"), [(8.0, 1_000_000, 0), (8.0, 0, 1), (0.5, 1_000_000, 1)])
def test_emergency_objects_after_a_recovery(mib: float, worker_ns: int, count: int) -> None:
    knobs = FAULTS["emergency objects after the recovery"] | slabs_of(mib)
    evidence = modern(HELD, knobs, run_ns=lambda comm, tick: worker_ns * tick).evidence()
    case = Case(evidence, evidence.timeline, evidence.timeline.marks, 500_000_000)
    said = [complaint.outcome for complaint in check_recovered(case)]
    assert said == [Outcome.NO_RECOVERY] * count


def test_a_worker_that_waits_for_a_cpu_is_at_work() -> None:
    """It is ready to run in each reading, and others have the CPU."""
    case = case_of(8.0, 0)
    ready = [
        replace(sample, value=tuple(replace(task, state="R") for task in sample.value))
        for sample in case.timeline.tasks
    ]
    case = replace(case, timeline=replace(case.timeline, tasks=tuple(ready)))
    assert takes_long(case, case.marks["window"] + TIMEOUT_NS)


def test_nobody_looked() -> None:
    case = case_of(8.0, 20_000_000)
    assert not takes_long(replace(case, timeline=replace(case.timeline, tasks=())), case.marks["window"])


def test_an_agent_that_tells_no_cpu_time_excuses_nothing() -> None:
    evidence = simulate(NOMINAL, TIMED_OUT | slabs_of(8.0)).evidence()
    case = Case(evidence, evidence.timeline, evidence.timeline.marks, 500_000_000)
    assert [complaint.outcome for complaint in said(case)] == [Outcome.SLOW]
