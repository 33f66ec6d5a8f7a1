"""CPU time of callers against work done: callers that spin are found, whatever the workload."""

from __future__ import annotations

import re

import pytest

from modern import RunNs, in_virtual_time, modern
from simulated_guest import Knobs, Skew, Span
from simulated_kinds import CACHES, HELD, NOMINAL
from splvm.evidence.checks.case import Case, Complaint
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


# From one reading to the next there are six rounds of 32 objects, and twelve growths, 2.5 ms each. They are 50 ms
# apart, and all threads have two CPUs in them.
GROWTHS_NS = 30_000_000
SPINS_NS, WORKS_NS = 18_000_000, 8_000_000


@pytest.mark.parametrize(
    ("callers_ns", "worker_ns", "outcome"),
    [
        (WORKS_NS, GROWTHS_NS, Outcome.HEALTHY),
        (SPINS_NS, GROWTHS_NS, Outcome.SUSPECT),
        # Larger objects.
        (SPINS_NS, 13 * GROWTHS_NS // 10, Outcome.HEALTHY),
        # Small ones: most of the time is not that of pages.
        (4_000_000, GROWTHS_NS // 10, Outcome.HEALTHY),
        (12_000_000, GROWTHS_NS // 10, Outcome.SUSPECT),
    ],
)
def test_callers_that_spin(callers_ns: int, worker_ns: int, outcome: Outcome) -> None:
    got, reason = used(callers_ns, worker_ns)
    assert got is outcome
    if outcome is Outcome.SUSPECT:
        said = (
            r"callers used \d+\.\d ms of CPU time for \d+ objects in \d+ rounds, and the worker \d+\.\d ms for \d+ "
            r"growths; \d+\.\d ms are the bound of that"
        )
        assert re.match(said, reason)


def check(run_ns: RunNs, *skews: Skew) -> list[Complaint]:
    evidence = in_virtual_time(modern(NOMINAL, Knobs(skews=skews), run_ns=run_ns)).evidence()
    return list(check_cpu(Case(evidence, evidence.timeline, evidence.timeline.marks, 500_000_000)))


def spins(comm: str, tick: int) -> int:
    return (GROWTHS_NS if comm.startswith("spl_kmem_cache") else SPINS_NS) * tick


@pytest.mark.parametrize(("rounds", "count"), [(0, 1), (1500, 0)])
def test_a_round_has_its_cost(rounds: int, count: int) -> None:
    """Threads that take one object in each round use most of the time for pauses, reaping and slabs given back."""
    assert len(check(spins, Skew("probe", {"thread 0.rounds": rounds}, Span("window", 1.5)))) == count


@pytest.mark.parametrize(("emergency", "count"), [(0, 1), (4000, 0)])
def test_emergency_objects_cost_the_caller_what_others_cost_the_worker(emergency: int, count: int) -> None:
    """A third of all."""
    assert len(check(spins, Skew("probe", {"live.emergency_total": emergency}, Span("window", 1.5)))) == count


def test_real_time_says_nothing() -> None:
    """A thread counts as running there while its virtual CPU waits for one of the host's."""
    assert used(SPINS_NS, GROWTHS_NS, clock="real")[0] is Outcome.HEALTHY


@pytest.mark.parametrize(
    ("kernel", "outcome"),
    [
        ("built:tiny", Outcome.HEALTHY),
        ("debian-12", Outcome.INCONCLUSIVE),
        ("debian-12@6.1.0-1-cloud-amd64", Outcome.INCONCLUSIVE),
    ],
)
def test_a_kernel_that_counts_no_cpu_time(kernel: str, outcome: Outcome) -> None:
    """Packaged ones do, so nobody is let off by zeros alone."""
    run = modern(NOMINAL, run_ns=lambda comm, tick: 0)
    run.facts["kernel"]["id"] = kernel
    verdict = judge(run.evidence())
    assert verdict.outcome is outcome
    assert (outcome is Outcome.HEALTHY) != ("counts CPU time, and nobody used any" in verdict.reasons[0].text)


def test_a_worker_that_grows_the_cache_uses_cpu_time() -> None:
    found = check(lambda comm, tick: 0 if comm.startswith("spl_kmem_cache") else WORKS_NS * tick)
    assert [it.outcome for it in found] == [Outcome.INCONCLUSIVE]
    assert "nobody saw a worker use CPU time" in found[0].reason.text


def nothing_for_the_worker(comm: str, tick: int) -> int:
    return 0 if comm.startswith("spl_kmem_cache") else 2_000_000 * tick


def nothing_up_to_the_end_of_the_window(comm: str, tick: int) -> int:
    return 0 if tick <= 72 else 2_000_000 * tick


@pytest.mark.parametrize("run_ns", [nothing_for_the_worker, nothing_up_to_the_end_of_the_window])
def test_who_is_switched_to_uses_cpu_time(run_ns: RunNs) -> None:
    """In real time too."""
    verdict = judge(modern(NOMINAL, run_ns=run_ns).evidence())
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert any("times in the window, and used no CPU time" in reason.text for reason in verdict.reasons)


def test_a_worker_that_is_held_does_not_grow_the_cache() -> None:
    assert used(25_000_000, 1, HELD)[0] is Outcome.PROGRESS


def test_work_with_other_caches_is_not_asked() -> None:
    """It takes from the pages and slabs of the cache, and gives back to them."""
    assert used(SPINS_NS, GROWTHS_NS, CACHES)[0] is Outcome.HEALTHY


@pytest.mark.parametrize(
    ("callers_ns", "worker_ns", "words"),
    [
        (1_000_000, 65_000_000, r"pid 114 used \d+\.\d ms of CPU time in \d+\.\d ms up to \d"),
        (45_000_000, 45_000_000, r"the threads together used \d+\.\d ms of CPU time in \d+\.\d ms of 2 CPUs up to \d"),
    ],
)
def test_more_cpu_time_than_passes(callers_ns: int, worker_ns: int, words: str) -> None:
    def run_ns(comm: str, tick: int) -> int:
        return (worker_ns if comm.startswith("spl_kmem_cache") else callers_ns) * tick

    def reasons(clock: str) -> list[str]:
        run = modern(NOMINAL, run_ns=run_ns)
        verdict = judge((in_virtual_time(run) if clock == "virtual" else run).evidence())
        return [reason.text for reason in (*verdict.reasons, *(reason for _, reason in verdict.also))]

    assert any(re.match(words, text) for text in reasons("virtual"))
    assert not any(re.match(words, text) for text in reasons("real"))


@pytest.mark.parametrize("clock", ["virtual", "real"])
def test_who_takes_objects_uses_cpu_time(clock: str) -> None:
    """Also where nobody was switched to."""
    run = modern(NOMINAL, run_ns=lambda comm, tick: 5_000_000)
    for record in run.records:
        if record.get("source") == "tasks":
            record["text"] = re.sub(r"voluntary=\d+", "voluntary=9", record["text"])
    verdict = judge((in_virtual_time(run) if clock == "virtual" else run).evidence())
    assert verdict.outcome is Outcome.INCONCLUSIVE
    found = [reason.text for reason in (*verdict.reasons, *(reason for _, reason in verdict.also))]
    assert any(re.search(r"took \d+ objects in the window, and used no CPU time$", text) for text in found), found
