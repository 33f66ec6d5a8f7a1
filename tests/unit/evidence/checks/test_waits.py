"""Waits for SPL's worker: what no host has made long, wake-ups that are lost at times, and threads without a CPU."""

from __future__ import annotations

import functools
import re
from dataclasses import replace

import pytest

from simulated import simulate
from simulated_faults import FAULTS
from simulated_guest import Knobs, Span
from simulated_kinds import HELD, NOMINAL
from splvm.evidence.checks.case import Case, Complaint
from splvm.evidence.checks.timeouts import CROWD, because_in_time, check_quiet
from splvm.evidence.timeline import Evidence
from splvm.evidence.verdict import Outcome, Verdict
from splvm.scenarios.judged import judge_evidence as judge


def judged(scenario: str, *knobs: Knobs) -> Verdict:
    return judge(simulate(scenario, functools.reduce(Knobs.__or__, knobs)).evidence())


def asleep(for_s: float) -> Knobs:
    """A critical thread sleeps for the held worker; the bound on gaps is 500 ms here."""
    return Knobs(waiting={1: Span("window", 1.2, for_s)})


@pytest.mark.parametrize(
    ("for_s", "outcome"),
    [(0.11, Outcome.PROGRESS), (0.25, Outcome.PROGRESS), (0.45, Outcome.SLOW)],
)
def test_how_long_a_caller_may_sleep(for_s: float, outcome: Outcome) -> None:
    verdict = judged(HELD, asleep(for_s))
    assert verdict.outcome is outcome
    if outcome is Outcome.SLOW:
        said = r"critical thread 1 \(pid 129\) slept for \d{3}\.\d ms or more, from \d\.\d{3} s on, for one growth"
        assert re.match(said + r" of the cache; SPL's timeout is 100\.0 ms$", verdict.reasons[0].text)


# CPU time that the host withholds, as a share of the time, while a caller sleeps for 450 ms.
@pytest.mark.parametrize(("share", "outcome"), [(0.15, Outcome.SLOW), (0.95, Outcome.PROGRESS)])
def test_starvation_excuses_only_as_long_as_it_lasted(share: float, outcome: Outcome) -> None:
    """67 ms of it no more than 67 ms of a sleep; and what it may have caused is not even inconclusive."""
    starved = Knobs(starving=Span("window", 1.0, 1.0), host_wait=share)
    assert judged(HELD, asleep(0.45), starved).outcome is outcome


def test_a_thread_that_is_ready_to_run_does_not_sleep() -> None:
    assert judged(HELD, asleep(0.45), Knobs(ready=True)).outcome is Outcome.PROGRESS


SOME = Span("window", 1.0, 0.25)
LATE, ASLEEP = Knobs(timeouts=SOME), Knobs(unwoken=SOME)


def test_wake_ups_that_are_lost_at_times() -> None:
    """A few waits among hundreds end by the timeout, and readings show who sleeps though nobody is at work."""
    verdict = judged(NOMINAL, LATE, ASLEEP)
    assert verdict.outcome is Outcome.SLOW
    assert re.match(
        r"wake-ups are lost: between window and window-end, \d of \d+ that slept .* came back 67 ms or more after "
        r"that; \d+ readings show one asleep beside a worker that has nothing to do, and \d\.\d% of the threads' time",
        verdict.reasons[0].text,
    )


@pytest.mark.parametrize("knobs", [LATE, ASLEEP], ids=["late", "asleep"])
def test_one_of_both_is_not_enough(knobs: Knobs) -> None:
    """A busy host makes a few waits late, and who waits for the reaping of a cache sleeps beside an idle worker."""
    verdict = judged(NOMINAL, knobs)
    assert not any("wake-ups" in reason.text for reason in (*verdict.reasons, *(each for _, each in verdict.also)))
    assert verdict.outcome is not Outcome.SLOW


def test_what_a_busy_host_makes_late_is_not_lost() -> None:
    assert judged(NOMINAL, LATE, FAULTS["host starves the guest"]).outcome is Outcome.HEALTHY


def quiet(cpus: int, knobs: Knobs) -> tuple[list[Complaint], str]:
    """What the check of timeouts says of a guest with so many CPUs, and what a good verdict would."""
    evidence: Evidence = simulate(NOMINAL, FAULTS["callers time out for nothing"] | knobs).evidence()
    facts = {**evidence.facts, "parameters": {**evidence.facts["parameters"], "cpus": cpus}}
    case = Case(replace(evidence, facts=facts), evidence.timeline, evidence.timeline.marks, 500_000_000)
    return list(check_quiet(case)), because_in_time(case).text


def test_more_threads_than_cpus_wait_for_a_cpu() -> None:
    """Two threads and the worker, of which two are ready to run, on one CPU; on two they are not many."""
    assert CROWD == 2
    complaints, text = quiet(1, Knobs())
    assert not complaints
    assert text.startswith("3 callers timed out, of more threads than CPUs: each time the worker grew the cache for")
    (complaint,) = quiet(2, Knobs())[0]
    assert complaint.outcome is Outcome.SLOW


def test_a_busy_host_changes_nothing_of_that() -> None:
    assert not quiet(1, FAULTS["host starves the guest"])[0]
    (complaint,) = quiet(2, FAULTS["host starves the guest"])[0]
    assert complaint.outcome is Outcome.INCONCLUSIVE


def test_threads_that_sleep_do_not_wait_for_a_cpu() -> None:
    (complaint,) = quiet(1, Knobs(unwoken=Span(""), uncounted=True))[0]
    assert complaint.outcome is Outcome.SLOW


def test_whoever_waits_while_the_worker_grows_the_cache_for_others() -> None:
    """Nobody is ready to run in the readings, but growths are done."""
    assert not quiet(1, Knobs(unwoken=Span("")))[0]


def test_nobody_timed_out() -> None:
    verdict = judged(NOMINAL, Knobs())
    assert verdict.reasons[1].text == "nobody timed out (dlock 0), and the slab file agrees with the probe"
