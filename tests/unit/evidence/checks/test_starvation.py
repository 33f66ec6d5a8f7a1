"""What a starved guest is excused for: what the host can have withheld from it, in the time that is asked about."""

from __future__ import annotations

import copy
import functools
import re
from dataclasses import replace

import pytest

from simulated import simulate
from simulated_faults import FAULTS
from simulated_guest import Knobs, Record, Skew, Span
from simulated_kinds import HELD, NOMINAL
from simulated_texts import worker_text
from splvm.evidence.timeline import Evidence, Timeline
from splvm.evidence.verdict import Outcome, Verdict
from splvm.scenarios.judged import judge_evidence as judge


def judged(scenario: str, *knobs: Knobs) -> Verdict:
    return judge(simulate(scenario, functools.reduce(Knobs.__or__, knobs)).evidence())


def judge_records(scenario: str, records: list[Record]) -> Verdict:
    return judge(Evidence(simulate(scenario).facts, Timeline.from_records(records), ""))


STARVED = FAULTS["host starves the guest"]
BY_HOST = r"\(the guest was starved: of \d\.\d{3} s its CPUs waited up to \d\.\d{3} s for the host's\)$"
BY_HOLE = r"\(the guest was starved: readings \d+\.\d ms apart\)$"


EXCUSED = (
    (HELD, "thread 1 waits too long once"),
    (HELD, "emergency objects after the recovery"),
    (HELD, "thread 1 rests after the recovery"),
    (HELD, "nobody is woken after the recovery"),
    (NOMINAL, "nobody is woken"),
    (NOMINAL, "emergency objects for nothing"),
    (NOMINAL, "callers time out for nothing"),
)


@pytest.mark.parametrize(("scenario", "fault"), EXCUSED)
def test_what_a_starved_guest_is_excused_for(scenario: str, fault: str) -> None:
    verdict = judged(scenario, FAULTS[fault], STARVED)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert re.search(BY_HOST, verdict.reasons[0].text)
    assert verdict.is_starved
    unexcused = judged(scenario, FAULTS[fault])
    assert unexcused.outcome in (Outcome.SLOW, Outcome.NO_RECOVERY)
    assert not unexcused.starved


def test_no_excuse_for_a_thread_that_never_comes_back() -> None:
    assert judged(HELD, FAULTS["thread 1 does not stop"], STARVED).outcome is Outcome.NO_RECOVERY
    assert judged(HELD, FAULTS["no fallback"], STARVED).outcome is Outcome.STALLED


def test_an_excuse_counts_for_its_own_time_only() -> None:
    window, after = FAULTS["guest gets no CPU for a moment"], Knobs(unread={"probe": Span("recovered", 0.4, 0.4)})
    assert judged(HELD, FAULTS["emergency objects after the recovery"], window).outcome is Outcome.NO_RECOVERY
    assert judged(HELD, FAULTS["nobody is woken after the recovery"], window).outcome is Outcome.NO_RECOVERY
    assert judged(HELD, FAULTS["thread 1 waits too long once"], after).outcome is Outcome.SLOW
    assert judged(HELD, FAULTS["emergency objects after the recovery"], after).outcome is Outcome.INCONCLUSIVE


# From 1.2 s of the window on, and for how long something takes; a part of the time, and when the host withheld it.
LATE, LATER = Span("window", 1.2, 0.7), Span("window", 0.8, 1.6)
MEANWHILE = (
    (0.08, Span(""), Outcome.SLOW),
    (0.25, Span(""), Outcome.INCONCLUSIVE),
    (0.25, LATE, Outcome.INCONCLUSIVE),
    (0.9, Span("settle", 0.0, 0.5), Outcome.SLOW),
    (0.9, Span("window", 0.0, 0.9), Outcome.SLOW),
    (0.9, Span("recovered"), Outcome.SLOW),
)


@pytest.mark.parametrize(("share", "when", "outcome"), MEANWHILE)
@pytest.mark.parametrize("scenario", [HELD, NOMINAL])
def test_the_host_has_to_explain_by_how_much_a_wait_is_too_long(
    scenario: str, share: float, when: Span, outcome: Outcome
) -> None:
    verdict = judged(scenario, Knobs(waiting={1: LATE}, ready=True, host_wait=share, starving=when))
    assert verdict.outcome is outcome
    assert verdict.is_starved == (outcome is Outcome.INCONCLUSIVE)


@pytest.mark.parametrize(
    ("hole", "outcome"),
    [
        (Span("window", 1.3, 0.4), Outcome.INCONCLUSIVE),
        (Span("window", 1.3, 0.1), Outcome.SLOW),
        (Span("window", 0.3, 0.4), Outcome.SLOW),
    ],
)
def test_a_hole_in_the_readings_explains_what_it_covers(hole: Span, outcome: Outcome) -> None:
    verdict = judged(HELD, FAULTS["thread 1 waits too long once"], Knobs(unread={"probe": hole}))
    assert verdict.outcome is outcome
    assert bool(re.search(BY_HOLE, verdict.reasons[0].text)) == (outcome is Outcome.INCONCLUSIVE)


@pytest.mark.parametrize(("ready", "share"), [(False, 0.7), (True, 0.7), (False, 1.0)])
def test_the_host_withholds_nothing_from_a_thread_that_sleeps(ready: bool, share: float) -> None:
    """But its timer may be late, as long as a CPU stood still."""
    verdict = judged(HELD, Knobs(waiting={1: LATER}, ready=ready, host_wait=share))
    assert verdict.outcome is (Outcome.SLOW if (ready, share) == (False, 0.7) else Outcome.INCONCLUSIVE)


def test_who_sleeps_may_wait_for_a_worker_that_gets_no_cpu() -> None:
    busy = Knobs(worker=(Span("window"), worker_text("R", "")), host_wait=0.7)
    assert judged(NOMINAL, Knobs(waiting={1: LATER}), busy).outcome is Outcome.INCONCLUSIVE
    idle = Knobs(unwoken=LATER, host_wait=0.7)
    assert judged(NOMINAL, Knobs(waiting={1: LATER}), idle).outcome is Outcome.SLOW


def test_of_several_long_waits_the_host_has_to_explain_each() -> None:
    waits = Knobs(waiting={0: Span("window", 0.2, 0.9), 1: Span("window", 1.9, 0.7)}, ready=True, host_wait=0.9)
    first = judged(HELD, waits, Knobs(starving=Span("window", 0.0, 1.2)))
    assert first.outcome is Outcome.SLOW
    assert re.match(r"critical thread 1 \(pid 129\) waited 750\.0 ms between two allocations", first.reasons[0].text)
    assert judged(HELD, waits).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("scenario", "span", "bad"),
    [(NOMINAL, Span("window"), Outcome.SLOW), (HELD, Span("recovered", 0.4), Outcome.NO_RECOVERY)],
)
def test_callers_that_timed_out_have_waited_for_it_also_on_a_busy_host(scenario: str, span: Span, bad: Outcome) -> None:
    many = Knobs(
        skews=(
            Skew("slab", {"emergency.dlock": 40, "emergency.max": 2}, span),
            Skew("probe", {"live.emergency_total": 90, "live.emergency_max": 2}, span),
        )
    )
    early = judged(scenario, many, STARVED)
    assert early.outcome is bad
    assert "40 timed out, and only 0 allocations took 33 ms or more, so they did not wait" in early.reasons[0].text
    waited = judged(scenario, many, STARVED, Knobs(timeouts=replace(span, after_s=0.0)))
    assert waited.outcome is Outcome.INCONCLUSIVE
    assert judged(scenario, many, Knobs(timeouts=replace(span, after_s=0.0))).outcome is bad


@pytest.mark.parametrize(("bucket", "outcome"), [(24, Outcome.SLOW), (25, Outcome.INCONCLUSIVE)])
def test_who_waited_for_a_good_part_of_the_timeout_may_have_timed_out(bucket: int, outcome: Outcome) -> None:
    skew = Skew("slab", {"emergency.dlock": 40}, Span("window"))
    records = simulate(NOMINAL, Knobs(skews=(skew,), host_wait=0.7)).records
    for record in records:
        if record.get("source") == "probe":
            record["text"] = record["text"].replace("latency 20 ", f"latency {bucket} ")
    assert judge_records(NOMINAL, records).outcome is outcome


def test_each_timeout_has_to_be_explained() -> None:
    """Three callers at one time, for which the host was busy, and one at another."""
    span = Span("window", 0.5)
    once = Knobs(skews=(Skew("slab", {"emergency.dlock": 3}, span),), host_wait=0.9, starving=Span("window", 0.3, 0.4))
    assert judged(NOMINAL, once).outcome is Outcome.INCONCLUSIVE
    again = Knobs(skews=(Skew("slab", {"emergency.dlock": 1}, Span("window", 2.0)),))
    assert judged(NOMINAL, once, again).outcome is Outcome.SLOW


@pytest.mark.parametrize(
    ("scenario", "span", "bad"),
    [(NOMINAL, Span("window"), Outcome.SLOW), (HELD, Span("recovered"), Outcome.NO_RECOVERY)],
)
def test_who_sleeps_while_the_worker_idles_was_not_woken_however_busy_the_host_is(
    scenario: str, span: Span, bad: Outcome
) -> None:
    late = Knobs(timeouts=span, host_wait=0.7)
    assert judged(scenario, late).outcome is Outcome.INCONCLUSIVE
    assert judged(scenario, late, Knobs(unwoken=replace(span, for_s=0.8))).outcome is bad
    # One reading may be of a moment in which the worker had just been asked.
    assert judged(scenario, late, Knobs(unwoken=replace(span, for_s=0.1))).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(("share", "outcome"), [(0.5, Outcome.INCONCLUSIVE), (0.1, Outcome.SLOW)])
def test_a_host_that_is_starved_itself_starves_its_guest(share: float, outcome: Outcome) -> None:
    run = simulate(NOMINAL, FAULTS["thread 1 waits too long once"])
    for record in run.records:
        if record["kind"] == "host":
            record["steal_s"] = share * record["at_s"]
    verdict = judge(run.evidence())
    assert verdict.outcome is outcome
    assert bool(re.search(BY_HOST, verdict.reasons[0].text)) == (outcome is Outcome.INCONCLUSIVE)


def test_a_virtual_cpu_that_is_gone_is_no_excuse() -> None:
    records = simulate(NOMINAL, FAULTS["thread 1 waits too long once"] | STARVED).records
    assert judge_records(NOMINAL, records).outcome is Outcome.INCONCLUSIVE
    hosts = [record for record in records if record["kind"] == "host"]
    for at, record in enumerate(hosts):
        record["vcpus"] = record["vcpus"][at % 2 :]
    assert judge_records(NOMINAL, records).outcome is Outcome.SLOW


@pytest.mark.parametrize("kind", ["host", "phase"])
def test_where_the_host_says_nothing_it_is_no_excuse(kind: str) -> None:
    records = simulate(HELD, FAULTS["thread 1 waits too long once"] | STARVED).records
    assert judge_records(HELD, [record for record in records if record["kind"] != kind]).outcome is Outcome.SLOW


def test_in_virtual_time_starvation_has_no_say() -> None:
    """A run that the host would excuse in real time."""
    waits = Knobs(waiting={1: LATER}, ready=True, host_wait=0.9)
    run = copy.deepcopy(simulate(HELD, waits))
    assert judge(run.evidence()).is_starved
    run.facts["parameters"]["clock"] = "virtual"
    verdict = judge(run.evidence())
    assert verdict.outcome is Outcome.SLOW
    assert verdict.starved == ""
