"""Verdicts: good runs, each thing that can be wrong with one, two of them at once, and evidence that is not whole."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import splvm.evidence.judge as judge_module
from judge_rows import HARMLESS, ROWS, STARVED, Row
from places import PROJECT
from simulated import simulate
from simulated_faults import FAULTS
from simulated_guest import GOOD, Knobs, Record
from simulated_kinds import (
    CYCLE,
    DECLINED,
    FRAGMENTED,
    GROW,
    HELD,
    KINDS,
    LOADED,
    LONG,
    NOMINAL,
    ORGANIC,
    POOL,
    SPARE,
    scenario_of,
)
from simulated_texts import CONSOLE, SIZE, SLAB_HEADER, WORKER_PID, kernel_row, slab_row
from splvm.errors import EvidenceError
from splvm.evidence.checks.case import Case, Check, Complaint
from splvm.evidence.checks.large import order_of
from splvm.evidence.formats.slab import parse_slab
from splvm.evidence.judge import ALWAYS, LAST, make_check
from splvm.evidence.judge import judge as judge_by
from splvm.evidence.rule import Clause, Rule
from splvm.evidence.timeline import Evidence, Sample, Timeline
from splvm.evidence.verdict import Outcome, Verdict
from splvm.scenarios.judged import judge_evidence as judge
from splvm.scenarios.table import SCENARIOS as TABLE

SETTINGS = settings(deadline=None, derandomize=True)

DATA = PROJECT / "tests" / "data"

BEST = {name: kind.best for name, kind in KINDS.items()}
SCENARIOS = tuple(BEST)


@functools.cache
def evidence_of(scenario: str, *faults: str) -> Evidence:
    """The evidence of a run in which all of `faults` hold."""
    knobs = functools.reduce(Knobs.__or__, (FAULTS[fault] for fault in faults), GOOD)
    return simulate(scenario, knobs).evidence()


def verdict_of(scenario: str, *faults: str) -> Verdict:
    return judge(evidence_of(scenario, *faults))


def judge_records(scenario: str, records: list[Record], **parameters: Any) -> Verdict:
    """The verdict on other records with a good run's facts, of whose parameters some are others."""
    facts = simulate(scenario).facts
    facts = {**facts, "parameters": {**facts["parameters"], **parameters}}
    return judge(Evidence(facts, Timeline.from_records(records), CONSOLE))


# Good runs


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_good_run(scenario: str) -> None:
    verdict = verdict_of(scenario)
    assert (verdict.outcome, verdict.also) == (BEST[scenario], ())


def test_the_reasons_for_progress() -> None:
    worker, threads, recovery = (reason.text for reason in verdict_of(HELD).reasons)
    assert re.fullmatch(
        r"worker spl_kmem_cache \(pid 114\) was stuck for 3\.000 s in slabprobe_grow_work <- taskq_thread: "
        r"60 readings, its context-switch count stayed at 74",
        worker,
    )
    assert re.fullmatch(
        r"2 critical threads got (\d{4,}) objects meanwhile, \1 of them emergency objects; longest gap 100\.0 ms",
        threads,
    )
    assert re.fullmatch(r"recovered \d+\.\d ms after the release: no emergency object left, flags clear", recovery)


def test_the_reasons_for_health() -> None:
    threads, slab, magazines = (reason.text for reason in verdict_of(NOMINAL).reasons)
    assert re.fullmatch(r"2 critical threads got \d{4,} objects, none of them an emergency object", threads)
    assert slab == "nobody timed out (dlock 0), and the slab file agrees with the probe"
    assert re.fullmatch(
        r"\d{4,} of \d{4,} objects came from the magazines of the CPUs; of (\d+) refills \1 had the cache grow",
        magazines,
    )


def test_without_a_second_round_there_is_nothing_to_find_in_a_magazine() -> None:
    """So were runs of before these counts; they are worth what they were."""
    records = simulate(NOMINAL, FAULTS["magazines not counted"]).records
    for record in frames(records, "probe"):
        record["text"] = record["text"].replace("reap_rounds=2", "reap_rounds=1")
    workload = {**simulate(NOMINAL).facts["parameters"]["workload"], "reap_rounds": 1}
    verdict = judge_records(NOMINAL, records, workload=workload)
    assert (verdict.outcome, len(verdict.reasons)) == (Outcome.HEALTHY, 2)


def test_threads_that_share_a_magazine_may_find_it_empty() -> None:
    records = simulate(NOMINAL, FAULTS["objects are not there again"]).records
    for record in frames(records, "probe"):
        record["text"] = record["text"].replace("cpus=2", "cpus=1")
    for record in (record for record in records if record["kind"] == "host"):
        record["vcpus"] = record["vcpus"][:1]
    assert judge_records(NOMINAL, records, cpus=1).outcome is Outcome.HEALTHY


def test_threads_that_share_a_magazine_are_served_in_batches_too() -> None:
    """What another thread took is no excuse for a batch of one."""
    records = simulate(NOMINAL, FAULTS["magazines of one"]).records
    for record in frames(records, "probe"):
        record["text"] = record["text"].replace("cpus=2", "cpus=1")
    verdict = judge_records(NOMINAL, records)
    assert verdict.outcome is Outcome.SLOW
    assert "allocations found one there" in verdict.reasons[0].text


def test_figures_of_the_window_tell_how_long_and_where_from() -> None:
    figures = verdict_of(NOMINAL).figures
    assert figures["latency"]["all"]["under_ns"] == {"p50": 512, "p90": 512, "p99": 2**21, "max": 2**21}
    assert figures["latency"]["woken"]["under_ns"] == dict.fromkeys(("p50", "p90", "p99", "max"), 2**15)
    assert figures["latency"]["waited"]["count"] == figures["magazines"]["refills"] == figures["magazines"]["grew"]
    assert figures["slabs_grown"] == figures["growths"] == 2 * figures["magazines"]["grew"]
    assert figures["magazines"]["reused"] == figures["magazines"]["reusable"] > 0
    # With the worker held nobody is served by a growth.
    assert {"waited", "woken"}.isdisjoint(verdict_of(HELD).figures["latency"])
    assert "magazines" not in verdict_of(NOMINAL, "magazines not counted").figures


def test_the_reasons_for_progress_in_the_trap() -> None:
    verdict = verdict_of(CYCLE)
    worker, transactions, end, cycle = (reason.text for reason in verdict.reasons)
    assert re.fullmatch(
        r"worker spl_kmem_cache \(pid 114\) was caught for 3\.000 s in slabprobe_wait_commit <- try_to_free_pages <- "
        r"slabprobe_pte_alloc_kernel <- __vmalloc <- spl_cache_grow_work: 60 readings, "
        r"its context-switch count stayed at 74",
        worker,
    )
    assert re.fullmatch(
        r"(\d{3}) of \1 transactions were carried by emergency objects meanwhile \(\d{4} of them\); "
        r"longest gap 100\.0 ms",
        transactions,
    )
    assert re.fullmatch(r"the cycle ended by itself, \d\.\d{3} s and \d+ commits after it began", end)
    assert re.fullmatch(
        r"by agent, cycle: the transaction thread slabprobe/tx \(pid 128\) waits in spl_kmem_cache_alloc for the slab "
        r"worker spl_kmem_cache \(pid 114\); the slab worker .* waits in slabprobe_wait_commit, in shrinker "
        r"slabprobe_shrink_scan, in direct reclaim, for the commit of the transaction thread slabprobe/tx \(pid 128\) "
        r"\(by role, a guess: no line of the kernel's says who holds the slab worker, the commit\)",
        cycle,
    )
    assert verdict.wait_for["cycle"] == [128, 114]


def test_the_reasons_for_immunity() -> None:
    trap, transactions = (reason.text for reason in verdict_of(DECLINED).reasons)
    assert re.fullmatch(
        r"the trap was sprung (\d+) times and declined \1 times, by the flags \(the last GFP mask 0xd00 is without "
        r"__GFP_FS\), and nobody was caught",
        trap,
    )
    assert re.fullmatch(r"\d{3} transactions were committed in the window", transactions)


def test_low_memory_is_among_the_reasons() -> None:
    assert re.fullmatch(
        r"memory was low throughout: 8000 to 8000 KiB free in the readings, 359 MiB taken; \d{3} times there was no "
        r"page above the watermark, and reclaim got \d{4} pages back",
        verdict_of(ORGANIC).reasons[-1].text,
    )


def test_the_reasons_with_faults() -> None:
    faults, end = (reason.text for reason in verdict_of(GROW).reasons)
    assert re.fullmatch(
        r"8 page allocations were made to fail; no caller was refused, 2 critical threads got \d{4,} objects from "
        r"then on, longest gap \d\.\d ms",
        faults,
    )
    assert end == "afterwards no emergency object is left, flags clear"
    worker, *_, faults = (reason.text for reason in verdict_of(SPARE).reasons)
    assert worker.startswith("worker spl_kmem_cache (pid 114) was stuck for 3.000 s")
    assert faults.startswith("8 page allocations were made to fail; no caller was refused")


def test_the_reasons_for_progress_with_many_objects_kept() -> None:
    worker, costs, threads, _ = (reason.text for reason in verdict_of(LONG).reasons)
    assert "was stuck for 3.000 s" in worker
    assert re.fullmatch(
        r"cost of a free by emergency objects kept \(median of \d\d batches or more\): 10: 0\.62 us, 100: 0\.75 us, "
        r"1\.2 times",
        costs,
    )
    assert threads.startswith("1 critical threads got")


def test_the_reasons_for_progress_in_fragmented_memory() -> None:
    worker, memory, threads, _ = (reason.text for reason in verdict_of(FRAGMENTED).reasons)
    assert "was stuck for 3.000 s" in worker
    assert memory == (
        "free blocks for an object of 64 KiB (order 4): 5662 before memory was fragmented, 0 after; the longest "
        "allocation while the worker was held took 67.1 ms to 134.2 ms"
    )
    assert threads.startswith("2 critical threads got")


def test_the_reasons_for_progress_under_load() -> None:
    *_, writeback, lowmem = (reason.text for reason in verdict_of(LOADED).reasons)
    assert re.fullmatch(
        r"load writeback was at 12\.6 MiB to 12\.6 MiB \(4\.0 MiB to 24\.0 MiB are asked for\), and 17\.\d MiB was "
        r"written back to the disk",
        writeback,
    )
    assert lowmem == "load lowmem was at 32.2 MiB to 32.2 MiB (16.0 MiB to 48.0 MiB are asked for)"


def test_the_reasons_for_progress_of_a_pool() -> None:
    *_, txgs, load = (reason.text for reason in verdict_of(POOL).reasons)
    assert re.fullmatch(r"pool tank: 3 txgs were synced in the window, the last one is 2\d", txgs)
    assert load == "load zfs was at 5.9 MiB/s to 5.9 MiB/s (0.1 MiB/s and more are asked for)"


def test_the_load_is_among_the_figures() -> None:
    loads = verdict_of(LOADED).figures["loads"]
    assert loads["memory"]["available_kib"] == 33_000
    levels = loads["levels"]
    assert (levels["lowmem"]["min"], levels["lowmem"]["high"]) == (33_000, 49_152)
    assert levels["writeback"]["done_kib_per_s"] == pytest.approx(6000, rel=0.01)
    assert loads["cpu"] == pytest.approx(0.006, rel=0.01)
    assert "loads" not in verdict_of(HELD).figures


def test_under_a_load_on_memory_some_callers_time_out_after_the_recovery_too() -> None:
    assert verdict_of(LOADED, "emergency objects after the recovery").outcome is Outcome.PROGRESS


def test_a_load_that_is_not_there_does_not_make_a_bad_verdict_better() -> None:
    verdict = verdict_of(LOADED, "no fallback", "memory is not low")
    assert verdict.outcome is Outcome.STALLED
    assert Outcome.INCONCLUSIVE in {outcome for outcome, _ in verdict.also}


@pytest.mark.parametrize("loads", [None, "lowmem", [["lowmem"]], [{}]])
def test_loads_that_are_none(loads: Any) -> None:
    run = simulate(LOADED)
    with pytest.raises(EvidenceError, match="not a list of loads"):
        judge(Evidence({**run.facts, "loads": loads}, Timeline.from_records(run.records), ""))


@pytest.mark.parametrize(
    ("size", "order"), [(64, 0), (4096, 0), (4097, 1), (8192, 1), (32768, 3), (65536, 4), (65537, 5), (1 << 20, 8)]
)
def test_the_order_of_an_object(size: int, order: int) -> None:
    assert order_of(size) == order


def test_a_transaction_that_waits_for_itself_is_named() -> None:
    assert verdict_of(CYCLE, "transaction waits for itself").reasons[-1].text == (
        "by agent, cycle: the transaction thread slabprobe/tx (pid 128) waits in slabprobe_wait_commit, in shrinker "
        "slabprobe_shrink_scan, in direct reclaim, for its own commit (by role, a guess: no line of the kernel's "
        "says who holds the commit)"
    )


def test_simulated_rows_are_printed_as_the_kernel_prints_them() -> None:
    text = (DATA / "slab-2012-11.txt").read_text()
    lines = text.splitlines(keepends=True)
    row = parse_slab(text).cache("slabprobe")
    assert row is not None
    cells = {"flags": row.flags, "size": row.size, "alloc": row.alloc, "slabsize": row.slabsize, "objsize": row.objsize}
    for group in ("slab", "object", "emergency"):
        usage = getattr(row, group)
        cells |= {f"{group}.{name}": getattr(usage, name) for name in usage.__slots__}
    assert "".join(lines[:2]) == SLAB_HEADER
    assert slab_row(row.name, {name: value or 0 for name, value in cells.items()}) in lines
    assert kernel_row("zio_cache", 0).replace(f"{SIZE:8}", f"{1280:8}") in lines


# One thing wrong

CASES = [(row, scenario) for row in ROWS for scenario in row.scenarios]


@pytest.mark.parametrize(("row", "scenario"), [pytest.param(r, s, id=f"{s}: {r.fault}") for r, s in CASES])
def test_a_fault(row: Row, scenario: str) -> None:
    verdict = verdict_of(scenario, row.fault)
    assert verdict.outcome is row.outcome
    assert re.match(row.reason, verdict.reasons[0].text)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("fault", HARMLESS)
def test_a_starved_guest_that_made_progress_is_good(fault: str, scenario: str) -> None:
    verdict = verdict_of(scenario, fault)
    assert (verdict.outcome, verdict.also) == (BEST[scenario], ())
    assert not verdict.is_starved


def test_every_fault_is_judged() -> None:
    assert {row.fault for row in ROWS} | set(HARMLESS) == set(FAULTS)


def test_every_outcome_is_reached() -> None:
    assert {row.outcome for row in ROWS} | set(BEST.values()) == set(Outcome)


def test_reasons_name_readings_that_are_there() -> None:
    for row, scenario in CASES:
        timeline = evidence_of(scenario, row.fault).timeline
        read: list[Sequence[Sample[Any]]] = [
            timeline.probe,
            timeline.slab,
            timeline.tasks,
            timeline.load,
            timeline.txgs,
            timeline.sites,
        ]
        read += timeline.other.values()
        kept = {sample.seq for samples in read for sample in samples}
        verdict = verdict_of(scenario, row.fault)
        for reason in (*verdict.reasons, *(reason for _, reason in verdict.also)):
            assert kept.issuperset(reason.samples), row.fault


RULED = [
    (name, at)
    for name, scenario in TABLE.items()
    for at in range(len((*ALWAYS, *scenario.rule.required, *scenario.rule.checks, *LAST)))
]


@pytest.mark.parametrize(("scenario", "at"), RULED)
def test_every_check_is_needed(scenario: str, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, at least one run would get another verdict or another first reason."""
    rule = TABLE[scenario].rule
    left = (*ALWAYS, *rule.required, *rule.checks, *LAST)[at]
    # Where it does not complain, nothing changes without it.
    verdicts = [(evidence, whole) for evidence, whole, complain in whole_verdicts(scenario) if left in complain]
    monkeypatch.setattr(judge_module, "ALWAYS", tuple(it for it in ALWAYS if it != left))
    monkeypatch.setattr(judge_module, "LAST", tuple(it for it in LAST if it != left))
    less = without(rule, left)
    assert any(first_reason(evidence, less) != whole for evidence, whole in verdicts)


@functools.cache
def whole_verdicts(scenario: str) -> list[tuple[Evidence, tuple[Outcome, str] | str, frozenset[Clause]]]:
    """The verdicts of all checks together on all faults, and on a run that did not come to its end; who complained."""
    runs = [evidence_of(kind, row.fault) for row, kind in CASES if scenario_of(kind) == scenario]
    kinds = [kind for kind in SCENARIOS if scenario_of(kind) == scenario]
    runs += [evidence_of(kind, row.fault) for kind in kinds for row in ROWS if KINDS[kind].like in row.scenarios]
    runs += [simulate(kind, Knobs(unmarked=frozenset({"end"}))).evidence() for kind in kinds]
    return [(evidence, *first_reason_and_complaining(evidence, TABLE[scenario].rule)) for evidence in runs]


def first_reason_and_complaining(evidence: Evidence, rule: Rule) -> tuple[tuple[Outcome, str] | str, frozenset[Clause]]:
    complain = set()

    def make_noting(clause: Clause) -> Check:
        def check(case: Case) -> Iterator[Complaint]:
            for complaint in make_check(clause)(case):
                complain.add(clause)
                yield complaint

        return check

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge_module, "make_check", make_noting)
        first = first_reason(evidence, rule)
    return first, frozenset(complain)


def without(rule: Rule, left: Clause) -> Rule:
    required = tuple(it for it in rule.required if it != left)
    return replace(rule, required=required, checks=tuple(it for it in rule.checks if it != left))


def first_reason(evidence: Evidence, rule: Rule) -> tuple[Outcome, str] | str:
    """The verdict in short. Where a check is gone, a run may be called good that has nothing to show for it."""
    try:
        verdict = judge_by(evidence, rule)
    except (LookupError, ValueError, StopIteration) as error:
        return repr(error)
    return verdict.outcome, verdict.reasons[0].text


# Phases

MARKS = [(name, phase.name) for name, kind in KINDS.items() for phase in kind.phases if phase.name]


def needed(kind: str) -> set[str]:
    """Phases that a run of a kind has to come to, by its rule and its loads."""
    required = TABLE[scenario_of(kind)].rule.required
    named = {word for it in required if it.check == "phases" for word in it.words}
    return named | ({"load"} if KINDS[kind].loads else set())


@pytest.mark.parametrize(("scenario", "mark"), MARKS)
def test_a_phase_that_the_run_never_came_to(scenario: str, mark: str) -> None:
    verdict = judge(simulate(scenario, Knobs(unmarked=frozenset({mark}))).evidence())
    noted = f"only one of probe and harness noted the phase {mark}"
    first = f"the run never came to: {mark}" if mark in needed(scenario) else noted
    assert verdict.outcome is Outcome.INCONCLUSIVE
    # Where the probe shows what only this phase does, that is said before.
    assert first in [reason.text for reason in verdict.reasons[:2]]


# Two things wrong

# For each bad outcome a fault that leads to it and leaves the others alone, in order of precedence.
ONE_OF_EACH = {
    Outcome.CRASHED: FAULTS["oops"],
    Outcome.LOST: Knobs(outcome=("lost", "QEMU ended")),
    Outcome.STALLED: FAULTS["thread 1 stands still until the release"],
    Outcome.NO_RECOVERY: FAULTS["flagged growing at the end"],
    Outcome.MISCOUNTED: FAULTS["size is wrong"],
    Outcome.SLOW: FAULTS["thread 1 waits too long before the window"],
    Outcome.SUSPECT: FAULTS["kernel warns"],
    Outcome.NOT_TRIGGERED: FAULTS["worker runs"],
    Outcome.INCONCLUSIVE: FAULTS["frames dropped"],
}


def test_one_of_each() -> None:
    assert [outcome for outcome in Outcome if not outcome.is_good] == list(ONE_OF_EACH)
    for outcome, knobs in ONE_OF_EACH.items():
        assert judge(simulate(HELD, knobs).evidence()).outcome is outcome


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(ONE_OF_EACH, 2)))
def test_of_two_faults_the_worse_one_counts(first: Outcome, second: Outcome) -> None:
    verdict = judge(simulate(HELD, ONE_OF_EACH[first] | ONE_OF_EACH[second]).evidence())
    assert verdict.outcome is first
    assert second in {outcome for outcome, _ in verdict.also}


def test_what_else_is_wrong_is_told_the_worst_first() -> None:
    verdict = judge(simulate(HELD, functools.reduce(Knobs.__or__, ONE_OF_EACH.values())).evidence())
    assert [verdict.outcome, *dict.fromkeys(outcome for outcome, _ in verdict.also)] == list(ONE_OF_EACH)


@pytest.mark.parametrize("fault", ["oops", "thread 1 stands still", "size is wrong"])
def test_a_damaged_record_is_worth_no_verdict(fault: str) -> None:
    verdict = judge(replace(evidence_of(HELD, fault), damage=("console.log: missing",)))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert [reason.text for reason in verdict.reasons] == ["the record is damaged: console.log: missing"]


@pytest.mark.parametrize("scenario", [None, "", "gravity", 7])
def test_an_unknown_scenario(scenario: object) -> None:
    with pytest.raises(EvidenceError, match=r"scenario .* is not known, and it has no rule; known are nominal, held-"):
        judge(Evidence({"scenario": scenario}, Timeline(), ""))


# Starved guests


@pytest.mark.parametrize("starved", STARVED)
@pytest.mark.parametrize("outcome", list(ONE_OF_EACH))
def test_a_starved_guest_is_excused_for_being_slow_only(outcome: Outcome, starved: str) -> None:
    verdict = judge(simulate(HELD, ONE_OF_EACH[outcome] | FAULTS[starved]).evidence())
    # The moment without a CPU is another one.
    excused = outcome is Outcome.SLOW and starved == "host starves the guest"
    assert verdict.outcome is (Outcome.INCONCLUSIVE if excused else outcome)
    assert verdict.is_starved == (verdict.outcome is Outcome.INCONCLUSIVE)


def test_the_worker_is_the_one_that_was_held_when_the_window_began() -> None:
    """Seen beside a pool: the probe named another cache's worker before the agent had it in its list of tasks."""
    verdict = verdict_of(HELD, "another worker is held as well")
    assert (verdict.outcome, verdict.figures["worker"]["pid"]) == (Outcome.PROGRESS, WORKER_PID)


def test_the_bound_is_that_of_the_run() -> None:
    # A thread that is ready to run: one that sleeps for so long is not asked for this bound.
    evidence = simulate(HELD, FAULTS["thread 1 waits too long once"] | Knobs(ready=True)).evidence()
    for bound_ms, outcome in ((749, Outcome.SLOW), (750, Outcome.PROGRESS)):
        parameters = {**evidence.facts["parameters"], "latency_bound_ms": bound_ms}
        assert judge(replace(evidence, facts={**evidence.facts, "parameters": parameters})).outcome is outcome


# The kernel's own words

FATAL = {"bug", "kasan", "lockdep", "oops", "oops-gpf", "panic", "soft-lockup", "spl-panic"}
FATAL |= {"double-fault", "spl-panic-0.6", "spl-panic-prefixed"}
# With OpenZFS or the probe in the stack.
SUSPECT = {"hard-lockup", "hung-task", "kcsan", "rcu-stall", "refcount", "ubsan", "unexpected-gfp"}
SUSPECT |= {"unexpected-gfp-vmalloc", "warning", "warning-6.19"}


@pytest.mark.parametrize("log", sorted((DATA / "kernlog").rglob("*.log")), ids=lambda path: path.stem)
def test_recorded_kernel_logs(log: Path) -> None:
    verdict = judge(replace(evidence_of(HELD), console=CONSOLE + log.read_text().replace("Linux version", "Linux")))
    if log.stem in FATAL:
        assert verdict.outcome is Outcome.CRASHED
        assert re.match(r"[A-Z]+: .+ \(console\.log line \d+\)$", verdict.reasons[0].text)
    else:
        assert verdict.outcome is (Outcome.SUSPECT if log.stem in SUSPECT else Outcome.PROGRESS)


# Records


def frames(records: list[Record], source: str) -> list[Record]:
    return [record for record in records if record.get("source") == source]


def test_what_is_the_same_as_something_unreadable_is_not_guessed() -> None:
    records = simulate(NOMINAL).records
    slabs = frames(records, "slab")
    same = next(at for at, record in enumerate(slabs) if record["what"] == "same" and at > 10)
    slabs[same - 1].update(what="data", text="not a slab file\n")
    losses = Timeline.from_records(records).losses
    assert losses[0].startswith(f"frame {slabs[same - 1]['seq']}: slab cannot be read")
    assert f"frame {slabs[same]['seq']}: slab is the same as nothing" in losses


def test_what_is_the_same_as_something_lost_is_not_guessed() -> None:
    """The row before the loss, taken for the one after it, would make the slab file contradict the probe."""
    records = simulate(HELD).records
    last = [record for record in frames(records, "slab") if record["what"] == "data"][-1]
    timeline = Timeline.from_records([record for record in records if record is not last])
    assert timeline.slab[-1].seq < last["seq"]
    assert f"frames {last['seq']} to {last['seq']} are missing" in timeline.losses


@pytest.mark.parametrize("what", ["error", "blocked"])
def test_a_reading_that_failed_is_no_reading(what: str) -> None:
    records = simulate(HELD).records
    frame = frames(records, "slab")[50]
    frame.update(what=what, text="errno=5 Input/output error" if what == "error" else "")
    timeline = Timeline.from_records(records)
    assert frame["seq"] not in {sample.seq for sample in timeline.slab}
    assert [(sample.seq, sample.value) for sample in timeline.blocked] == [(frame["seq"], "slab")] * (what == "blocked")


# Less evidence


def indexes(records: list[Record]) -> st.SearchStrategy[Collection[int]]:
    """Some records: a few, or a stretch of them."""
    last = len(records) - 1
    few = st.sets(st.integers(0, last), min_size=1, max_size=8)
    stretch = st.tuples(st.integers(0, last), st.integers(1, 200)).map(lambda x: range(x[0], min(last + 1, sum(x))))
    return st.one_of(few, stretch)


GOOD_RECORDS = {scenario: simulate(scenario).records for scenario in SCENARIOS}
BAD_CASES = [(scenario, row.fault) for row, scenario in CASES]


@settings(SETTINGS, max_examples=30)
@given(st.data(), st.sampled_from(SCENARIOS))
def test_a_good_run_is_good_only_with_all_its_frames(data: st.DataObject, scenario: str) -> None:
    records = GOOD_RECORDS[scenario]
    gone = data.draw(indexes(records))
    verdict = judge_records(scenario, [record for at, record in enumerate(records) if at not in gone])
    # Of the host's readings some may be missing.
    kinds = {records[at]["kind"] for at in gone}
    assert verdict.outcome.is_good <= (kinds <= {"host"})
    assert verdict.outcome.is_good or kinds


@pytest.mark.parametrize("kind", ["host", "phase", "start"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_good_run_needs_the_word_of_the_host(scenario: str, kind: str) -> None:
    records = [record for record in GOOD_RECORDS[scenario] if record["kind"] != kind]
    assert judge_records(scenario, records).outcome is Outcome.INCONCLUSIVE


@settings(SETTINGS, max_examples=20)
@given(st.data(), st.sampled_from(SCENARIOS))
def test_a_good_run_cut_short_is_not_good(data: st.DataObject, scenario: str) -> None:
    records = GOOD_RECORDS[scenario]
    kept = data.draw(st.integers(0, len(records) - 1))
    verdict = judge_records(scenario, records[:kept])
    assert not verdict.outcome.is_good
    assert any("the agent's stream has no end" in reason.text for reason in verdict.reasons)


@settings(SETTINGS, max_examples=40)
@given(st.data(), st.sampled_from(BAD_CASES))
def test_a_bad_run_does_not_get_good_by_losing_evidence(data: st.DataObject, case: tuple[str, str]) -> None:
    scenario, fault = case
    run = simulate(scenario, FAULTS[fault])
    gone = data.draw(indexes(run.records))
    run.records[:] = [record for at, record in enumerate(run.records) if at not in gone]
    assert not judge(run.evidence()).outcome.is_good


# Hostile evidence

HUGE = (10**19, 10**20, 10**30, 10**400, -1, -(10**400))
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(HUGE),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
NUMBER = re.compile(r"\d+")


def delete_field(record: Record, data: st.DataObject) -> None:
    del record[data.draw(st.sampled_from(sorted(record)))]


def replace_field(record: Record, data: st.DataObject) -> None:
    record[data.draw(st.sampled_from(sorted(record)))] = data.draw(JUNK)


def replace_text(record: Record, data: st.DataObject) -> None:
    record["text"] = data.draw(st.text())


def cut_text(record: Record, data: st.DataObject) -> None:
    text = str(record.get("text", ""))
    record["text"] = text[: data.draw(st.integers(0, len(text)))]


def replace_number(record: Record, data: st.DataObject) -> None:
    text = str(record.get("text", ""))
    if numbers := list(NUMBER.finditer(text)):
        number = data.draw(st.sampled_from(numbers))
        new = data.draw(st.one_of(st.integers(0, 2**64), st.sampled_from((-1, *HUGE[:3]))))
        record["text"] = f"{text[: number.start()]}{new}{text[number.end() :]}"


def edit_lines(record: Record, data: st.DataObject) -> None:
    """A line goes, comes twice, or changes places with another."""
    lines = str(record.get("text", "")).splitlines(keepends=True)
    if lines:
        line = lines.pop(data.draw(st.integers(0, len(lines) - 1)))
        for _ in range(data.draw(st.integers(0, 2))):
            lines.insert(data.draw(st.integers(0, len(lines))), line)
    record["text"] = "".join(lines)


MUTATIONS: tuple[Callable[[Record, st.DataObject], None], ...] = (
    delete_field,
    replace_field,
    replace_text,
    cut_text,
    replace_number,
    edit_lines,
)


IMPOSSIBLE: tuple[tuple[str, str, Any], ...] = (
    ("frame", "seq", -1),
    ("frame", "seq", 10**400),
    ("frame", "start_ns", 1 << 64),
    ("frame", "start_ns", float("inf")),
    ("frame", "end_ns", "soon"),
    ("frame", "source", None),
    ("host", "at_s", 10**400),
    ("host", "vcpus", [{"run_ns": 10**400, "wait_ns": 0}]),
    ("host", "vcpus", [7]),
    ("phase", "at_s", [1]),
)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    IMPOSSIBLE,
    ids=[f"{at} {kind}.{field}" for at, (kind, field, _) in enumerate(IMPOSSIBLE)],
)
def test_an_impossible_value_is_a_loss(kind: str, field: str, value: Any) -> None:
    records = simulate(HELD).records
    at = next(at for at, record in enumerate(records) if record["kind"] == kind and at > 10)
    if value is None:
        del records[at][field]
    else:
        records[at][field] = value
    verdict = judge_records(HELD, records)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reasons[0].text.startswith(f"record {at + 1} cannot be read: ")


@pytest.mark.parametrize(
    "said", ["dropped=some", "dropped=-1", f"dropped={'9' * 5000}", ""], ids=lambda said: said[:12]
)
def test_the_agents_last_word_has_to_be_a_number(said: str) -> None:
    records = simulate(HELD).records
    records[-1]["text"] = f"end frames=1 {said}"
    verdict = judge_records(HELD, records)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert re.match(rf"record {len(records)} cannot be read: .{{,400}}$", verdict.reasons[0].text)


def test_a_probe_without_threads_proves_nothing() -> None:
    records = simulate(HELD).records
    for record in frames(records, "probe"):
        kept = (line for line in record["text"].splitlines() if not line.startswith("thread "))
        record["text"] = re.sub(r"(threads|parked|stopped)=\d", r"\1=0", "".join(f"{line}\n" for line in kept))
    verdict = judge_records(HELD, records)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert re.match(r"the status at 4\.\d{3} s has 0 critical threads of 0$", verdict.reasons[0].text)


def check_bearable(judged: Callable[[], Verdict]) -> None:
    """A verdict that can be written down, or an EvidenceError."""
    try:
        verdict = judged()
    except EvidenceError as error:
        assert len(str(error)) < 1000
    else:
        assert verdict.reasons
        assert all(len(reason.text) < 1000 for reason in verdict.reasons)
        assert json.loads(json.dumps(verdict.to_json()))["verdict"] == verdict.outcome.value


@settings(SETTINGS, max_examples=80)
@given(st.data(), st.sampled_from([*SCENARIOS, *SCENARIOS, *BAD_CASES]))
def test_mutated_records_are_judged_or_refused(data: st.DataObject, case: Any) -> None:
    scenario, knobs = (case, GOOD) if isinstance(case, str) else (case[0], FAULTS[case[1]])
    run = simulate(scenario, knobs)
    # What is read at the end weighs most: marks and counters are taken from there.
    weights = st.one_of(
        st.integers(0, len(run.records) - 1), st.integers(max(0, len(run.records) - 8), len(run.records) - 1)
    )
    for _ in range(data.draw(st.integers(1, 3))):
        data.draw(st.sampled_from(MUTATIONS))(run.records[data.draw(weights)] or {"kind": "frame"}, data)
    check_bearable(lambda: judge(run.evidence()))


@settings(SETTINGS, max_examples=40)
@given(st.data(), st.sampled_from(SCENARIOS), st.sampled_from(("probe", "slab", "tasks")))
def test_a_source_that_lies_all_the_time_is_judged_or_refused(data: st.DataObject, scenario: str, source: str) -> None:
    """The same change in all of its texts, so that they agree with one another."""
    run = simulate(scenario)
    readings = [record for record in frames(run.records, source) if record["what"] == "data"]
    lines = sorted({NUMBER.sub("#", line) for line in readings[-1]["text"].splitlines()})
    line, at = data.draw(st.sampled_from(lines)), data.draw(st.integers(0, 12))
    new = data.draw(st.sampled_from(("", "0", "1", "-1", "99999999999999999999", "0x7", "x")))
    for record in readings:
        changed = (change(text, line, at, new) for text in record["text"].splitlines())
        record["text"] = "".join(f"{text}\n" for text in changed if text)
    check_bearable(lambda: judge(run.evidence()))


def change(text: str, line: str, at: int, new: str) -> str:
    """If `text` is `line` but for its numbers, put `new` for one of them; all of it goes when there is no such one."""
    if NUMBER.sub("#", text) != line:
        return text
    numbers = list(NUMBER.finditer(text))
    return f"{text[: numbers[at].start()]}{new}{text[numbers[at].end() :]}" if at < len(numbers) else ""


def test_a_case_knows_its_flags() -> None:
    evidence = evidence_of(HELD, "cache stays deadlocked")
    case = Case(evidence, evidence.timeline, evidence.timeline.marks, 0)
    assert case.flags(case.rows()[-1].value) == {"kvmem": True, "deadlocked": True, "growing": False, "reaping": False}


@pytest.mark.parametrize("parameters", [None, [], {"latency_bound_ms": "x"}, {"latency_bound_ms": -1}])
def test_parameters_that_are_none(parameters: Any) -> None:
    evidence = simulate(HELD).evidence()
    with pytest.raises(EvidenceError, match="latency_bound_ms"):
        judge(replace(evidence, facts={**evidence.facts, "parameters": parameters}))
