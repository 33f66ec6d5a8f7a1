"""The load on a guest: what its generator reported, and whether it was there for as long as something is said about.

A load has a level, which is measured in the guest, and a band in which it is to be. What a run shows of SPL it shows
under this load, so one that was not there takes a good verdict away. It never makes a bad one of it, but for this: what
is written back to a disk is progress too, and where none is while the worker is stuck, something stands still.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from splvm.errors import EvidenceError
from splvm.evidence.checks.case import HOLE_NS, Case, Check, Complaint, seconds, seqs, unless_starved
from splvm.evidence.checks.starvation import excuse_standstill
from splvm.evidence.checks.zpool import because_txgs, check_txgs
from splvm.evidence.formats.loadstatus import LoadLevel, LoadStatus
from splvm.evidence.loads import LOADS
from splvm.evidence.standstill import WORK_NS
from splvm.evidence.timeline import Sample, Timeline, between, widest_gap_ns
from splvm.evidence.verdict import Outcome, Reason

# A level may be out of its band for this long, ns: it is steered twenty times a second, and reclaim comes in bursts.
MOMENT_NS = 500_000_000

# KiB by which counts of pages written back may fall, for each CPU: one that hands over what it counted hands over up to
# half of its threshold too much, which is 125 pages at most, and takes it back later (__inc_node_state(), mm/vmstat.c).
OVERSTEP_KIB = 62 * 4


def wanted(facts: Mapping[str, Any]) -> list[str]:
    """Names of the loads that a run was to have.

    :raises EvidenceError: when run.json does not tell.
    """
    loads = facts.get("loads", [])
    if not isinstance(loads, list) or not all(isinstance(load, Mapping) and "name" in load for load in loads):
        raise EvidenceError(f"run.json: loads are {str(loads)[:80]}, and not a list of loads")
    return [str(load["name"]) for load in loads]


def check_loaded(*names: str) -> Check:
    """The loads that belong to a scenario are among those of the run: without them it shows nothing."""

    def check(case: Case) -> Iterator[Complaint]:
        missing = [name for name in names if name not in wanted(case.evidence.facts)]
        if missing:
            yield Complaint(Outcome.INCONCLUSIVE, Reason(f"run.json does not name the load {', '.join(missing)}"))

    return check


def check_any_load(case: Case) -> Iterator[Complaint]:
    """There was a load: where nothing else is judged, a run without one shows nothing."""
    if not wanted(case.evidence.facts):
        yield Complaint(Outcome.INCONCLUSIVE, Reason("run.json names no load"))


def check_pool(case: Case) -> Iterator[Complaint]:
    """A run of this kind without the load on a pool shows nothing of a pool. Rules of before `loaded` ask for it."""
    if not on_pool(wanted(case.evidence.facts)):
        yield Complaint(Outcome.INCONCLUSIVE, Reason("run.json names no load on a pool"))


def on_pool(names: Sequence[str]) -> list[str]:
    """Those loads that are on a pool; its progress is theirs."""
    return [name for name in names if name in LOADS and LOADS[name].pool]


def _whole(samples: Sequence[Sample[LoadStatus]]) -> list[Sample[LoadStatus]]:
    return [sample for sample in samples if not sample.value.torn]


_Levels = list[tuple[Sample[LoadStatus], LoadLevel]]


def _levels(samples: Sequence[Sample[LoadStatus]], name: str) -> _Levels:
    return [(sample, load) for sample in samples if (load := sample.value.load(name)) is not None]


def check_loads(case: Case) -> Iterator[Complaint]:
    """Every load was held in its band throughout the window, by all of its processes, and did its work."""
    names = wanted(case.evidence.facts)
    if not names:
        return
    if on_pool(names):
        yield from check_txgs(case)
    start, end = case.window
    samples = _whole(between(case.timeline.load, start, end))
    gap_ns = widest_gap_ns(samples, start, end)
    if len(samples) < 2 or gap_ns > HOLE_NS:
        yield Complaint(Outcome.INCONCLUSIVE, Reason(f"for {seconds(gap_ns)} of the window nobody looked at the load"))
        return
    yield from _check_kills(case, samples[-1])
    for name in names:
        levels = _levels(samples, name)
        if len(levels) < len(samples):
            reason = f"load {name} is missing in {len(samples) - len(levels)} of {len(samples)} reports"
            yield Complaint(Outcome.INCONCLUSIVE, Reason(reason, seqs(samples)))
            continue
        # What explains the others comes first.
        yield from _check_workers(name, levels[-1])
        yield from _check_level(name, levels)
        yield from _check_work(case, name, levels)


def _check_level(name: str, levels: _Levels) -> Iterator[Complaint]:
    stretches: list[_Levels] = [[]]
    for sample, load in levels:
        if load.is_held:
            stretches.append([])
        else:
            stretches[-1].append((sample, load))
    out = max(stretches, key=lambda stretch: stretch[-1][0].end_ns - stretch[0][0].start_ns if stretch else 0)
    if not out:
        return
    lasted_ns = out[-1][0].end_ns - out[0][0].start_ns
    if lasted_ns < MOMENT_NS:
        return
    load = out[0][1]
    values = sorted(load.level for _, load in out)
    yield Complaint(
        Outcome.INCONCLUSIVE,
        Reason(
            f"load {name} was not held for {seconds(lasted_ns)} from {seconds(out[0][0].start_ns)} on: it was at "
            f"{load.told(values[0])} to {load.told(values[-1])}, and {load.asked} are asked for",
            seqs([sample for sample, _ in out]),
        ),
    )


def _check_workers(name: str, last: tuple[Sample[LoadStatus], LoadLevel]) -> Iterator[Complaint]:
    sample, load = last
    if not load.workers:
        yield Complaint(Outcome.INCONCLUSIVE, Reason(f"load {name} had no process", (sample.seq,)))
    for worker in load.workers:
        if not worker.alive:
            reason = f"load {name}: its {worker.role} (pid {worker.pid}) {worker.death}"
            yield Complaint(Outcome.INCONCLUSIVE, Reason(reason, (sample.seq,)))


def _check_work(case: Case, name: str, levels: _Levels) -> Iterator[Complaint]:
    start, end = case.window
    kind = LOADS.get(name)
    if levels[-1][1].done_kib is None and kind is not None and (kind.progress or kind.pool):
        reason = f"load {name} does not report what it did"
        yield Complaint(Outcome.INCONCLUSIVE, Reason(reason, (levels[-1][0].seq,)))
    # Where somebody who should work is gone, that nothing is done says nothing more.
    if levels[-1][1].done_kib is None or not all(worker.alive for worker in levels[-1][1].workers):
        return
    work = kind.progress if kind else None
    outcome = Outcome.STALLED if work else Outcome.INCONCLUSIVE
    did, slice_ns = (work.did, work.stands_ns) if work else ("was done", WORK_NS)
    for begin in range(start, end - slice_ns + 1, slice_ns):
        inside = [(s, load) for s, load in levels if begin <= s.start_ns and s.end_ns <= begin + slice_ns]
        if len(inside) >= 2 and inside[0][1].done_kib != inside[-1][1].done_kib:
            continue
        at = f"between {seconds(begin)} and {seconds(begin + slice_ns)}"
        text = f"load {name}: nothing {did} {at}"
        why = excuse_standstill(case, begin, begin + slice_ns, slice_ns // 2)
        if len(inside) < 2:
            yield Complaint(Outcome.INCONCLUSIVE, Reason(f"load {name} was looked at {len(inside)} times {at}"))
        else:
            yield unless_starved(outcome, text, why, seqs([s for s, _ in inside]))
        return


def _check_kills(case: Case, last: Sample[LoadStatus]) -> Iterator[Complaint]:
    """The OOM killer frees what the load took, and so ends the low memory that it was to be."""
    kills = last.value.memory["oom_kills"] - case.timeline.load[0].value.memory["oom_kills"]
    if kills:
        reason = f"the OOM killer ran {kills} times under the load, up to the end of the window"
        yield Complaint(Outcome.INCONCLUSIVE, Reason(reason, (last.seq,)))


def because_loads(case: Case) -> tuple[Reason, ...]:
    """How each load stood in the window."""
    samples = _whole(between(case.timeline.load, *case.window))
    reasons = [because_txgs(case)] if on_pool(wanted(case.evidence.facts)) else []
    for name in wanted(case.evidence.facts):
        levels = _levels(samples, name)
        first, last = levels[0][1], levels[-1][1]
        values = sorted(load.level for _, load in levels)
        text = f"load {name} was at {last.told(values[0])} to {last.told(values[-1])} ({last.asked} are asked for)"
        work = LOADS[name].progress if name in LOADS else None
        if work and first.done_kib is not None and last.done_kib is not None:
            text += f", and {(last.done_kib - first.done_kib) / 1024:.1f} MiB {work.did}"
        reasons.append(Reason(text, seqs([sample for sample, _ in levels])))
    return tuple(reasons)


def load_figures(timeline: Timeline, start_ns: int, end_ns: int) -> dict[str, Any]:
    """Level and work of each load between two times, and how memory was. Absent where there was no load.

    Levels are in the load's unit; `some` and `full` are the shares of the time in which some or all tasks waited for
    memory (Documentation/accounting/psi.rst), `cpu` that of a CPU which the generator itself took to steer and report.
    """
    samples = _whole(between(timeline.load, start_ns, end_ns))
    if len(samples) < 2:
        return {}
    first, last = samples[0].value, samples[-1].value
    span_us = max(1, (last.now_ns - first.now_ns) // 1000)
    stalls = {kind: (last.memory[f"{kind}_us"] - first.memory[f"{kind}_us"]) / span_us for kind in ("some", "full")}
    figures: dict[str, Any] = {
        "memory": {
            "available_kib": round(median(s.value.memory["available"] for s in samples)),
            "free_kib": round(median(s.value.memory["free"] for s in samples)),
            "scanned": last.memory["scanned"] - first.memory["scanned"],
            "scanned_direct": last.memory["scanned_direct"] - first.memory["scanned_direct"],
            **{kind: round(share, 4) for kind, share in stalls.items()},
        },
        "cpu": round((last.cpu_us - first.cpu_us) / span_us, 4),
        "levels": {},
    }
    for load in last.loads:
        levels = [it for _, it in _levels(samples, load.name)]
        values = [it.level for it in levels]
        work = {}
        if load.done_kib is not None and levels[0].done_kib is not None:
            work = {"done_kib_per_s": round((load.done_kib - levels[0].done_kib) * 1e6 / span_us)}
        asked = {"unit": load.unit, "low": load.low, "high": load.high if load.is_bounded else None}
        figures["levels"][load.name] = {
            **asked,
            "min": min(values),
            "median": median(values),
            "max": max(values),
            **work,
        }
    return {"loads": figures}
