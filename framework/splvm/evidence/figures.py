"""Figures of a run for people and plots, made from the same timeline as the verdict. Nothing is judged by them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from splvm.evidence.checks.loadlevel import load_figures
from splvm.evidence.checks.longlived import cost_ns
from splvm.evidence.formats.histogram import difference, distribution
from splvm.evidence.formats.slab import CacheRow
from splvm.evidence.timeline import Evidence, Sample, Timeline, between, cache_rows, hold_of

# Points of a series: enough for a plot in a terminal or on a page.
SERIES_POINTS = 60


def describe(evidence: Evidence, cache: str) -> dict[str, Any]:
    """What a summary shows. A figure that the evidence does not give is absent.

    :param cache: name of the probe's cache in the slab file.
    """
    timeline, marks = evidence.timeline, evidence.timeline.marks
    rows = cache_rows(timeline, cache)
    figures: dict[str, Any] = {}
    if "window" in marks and "window-end" in marks:
        start, end = marks["window"], marks["window-end"]
        figures["window_s"] = round((end - start) / 1e9, 3)
        figures.update(_progress(timeline, marks.get("hold", marks.get("trap", start)), start, end))
        figures.update(_service(timeline, start, end))
        figures.update(_worker(timeline, start, end))
        if "trap" in marks:
            figures.update(_trap(timeline, start, end))
        figures.update(_kept(timeline, start, end))
        figures.update(load_figures(timeline, start, end))
        figures.update(_txgs(timeline, start, end))
    figures["slab"] = _slab_lines(timeline, rows, marks)
    figures.update(_recovery(timeline, rows, marks))
    figures["series"] = _series(timeline, rows)
    return figures


def _progress(timeline: Timeline, hold_ns: int, start: int, end: int) -> dict[str, Any]:
    probes = between(timeline.probe, start, end)
    if len(probes) < 2:
        return {}
    first, last = probes[0].value, probes[-1].value
    seconds = (probes[-1].end_ns - probes[0].end_ns) / 1e9
    if seconds <= 0:
        return {}
    got = sum(t.allocs for t in last.threads) - sum(t.allocs for t in first.threads)
    gaps = [t.gap_max_ns for s in between(timeline.probe, hold_ns, end) for t in s.value.threads]
    return {
        "threads": len(last.threads),
        "object_size": last.config.size,
        "objects": got,
        "objects_per_s": round(got / seconds, 1),
        "emergency_objects": last.live.emergency_total - first.live.emergency_total,
        "longest_gap_ms": round(max(gaps) / 1e6, 1) if gaps else None,
    }


def _service(timeline: Timeline, start: int, end: int) -> dict[str, Any]:
    """How long allocations took, and where the objects came from."""
    probes = between(timeline.probe, start, end)
    if len(probes) < 2:
        return {}
    first, last = probes[0].value, probes[-1].value
    kinds = {"all": "latency", "waited": "waited", "woken": "woken"}
    latency = {
        kind: distribution(difference(getattr(first, name), getattr(last, name))) for kind, name in kinds.items()
    }
    figures: dict[str, Any] = {"latency": {kind: told for kind, told in latency.items() if told}}
    if first.magazine is not None and last.magazine is not None:
        counters = ("hits", "refills", "grew", "reusable", "reused")
        figures["magazines"] = {name: getattr(last.magazine, name) - getattr(first.magazine, name) for name in counters}
        figures["magazines"]["size"] = last.magazine.size
    if first.growth is not None and last.growth is not None:
        figures["growths"] = last.growth.done - first.growth.done
        if first.growth.slabs is not None and last.growth.slabs is not None:
            figures["slabs_grown"] = last.growth.slabs - first.growth.slabs
    return figures


def _worker(timeline: Timeline, start: int, end: int) -> dict[str, Any]:
    """Who was held by the lever or caught in the trap, and what it looked like."""
    probes = between(timeline.probe, start, end)
    held = hold_of(timeline, start, end)
    caught = [s.value.trap for s in probes if s.value.trap.waiting]
    if held is None and not caught:
        return {}
    stuck = held or caught[-1]
    readings = [t for s in between(timeline.tasks, start, end) for t in s.value if t.pid == stuck.pid]
    figures: dict[str, Any] = {"pid": stuck.pid, "how": "held" if held else "caught", "readings": len(readings)}
    if readings:
        figures["comm"] = readings[0].comm
        figures["stack"] = list(readings[0].frames)
        figures["switches"] = sorted({t.voluntary + t.nonvoluntary for t in readings})
    last = timeline.probe[-1].value
    released = last.hold.released_ns if held else last.trap.released_ns
    if released > stuck.since_ns:
        figures["held_s"] = round((released - stuck.since_ns) / 1e9, 3)
    return {"worker": figures}


def _trap(timeline: Timeline, start: int, end: int) -> dict[str, Any]:
    probes = between(timeline.probe, start, end)
    if not probes:
        return {}
    first, last, trap = probes[0].value.tx, probes[-1].value.tx, timeline.probe[-1].value.trap
    figures: dict[str, Any] = {name: getattr(trap, name) for name in ("sprung", "declined", "entered", "waited", "gfp")}
    figures |= {"commits": last.commits - first.commits, "carried": last.carried - first.carried}
    return {"trap": figures}


def _kept(timeline: Timeline, start: int, end: int) -> dict[str, Any]:
    """What a free costs, ns, by the number of objects kept."""
    probes = between(timeline.probe, start, end)
    costs = {str(it.count): round(cost_ns(it)) for it in probes[-1].value.kept} if probes else {}
    return {"free_ns": costs} if costs else {}


def reading_times(marks: Mapping[str, int]) -> dict[str, int]:
    """Until when, ns, a reading counts as `before`, `during` or `after`; of each the last one tells.

    That is before the lever, at rest or else in the window, and at the end.
    """
    times = {
        "before": marks.get("hold", marks.get("trap", marks.get("window"))),
        "during": marks.get("audit-end", marks.get("window-end")),
        # Beyond every time of a frame, which has 64 bits.
        "after": 1 << 64,
    }
    return {when: until_ns for when, until_ns in times.items() if until_ns is not None}


def _txgs(timeline: Timeline, start: int, end: int) -> dict[str, Any]:
    """Txgs that were synced, and the number of the last one. Absent where there is no pool."""
    samples = between(timeline.txgs, start, end)
    if not samples:
        return {}
    first, last = samples[0].value.committed, samples[-1].value.committed
    return {"txgs": {"synced": last - first, "last": last}}


def _slab_lines(timeline: Timeline, rows: list[Sample[CacheRow]], marks: dict[str, int]) -> dict[str, Any]:
    """The slab file's row before, during and after, and which flags are set in it, by the bits that the probe names."""
    lines: dict[str, Any] = {}
    bits = timeline.probe[-1].value.bits if timeline.probe else {}
    for when, until_ns in reading_times(marks).items():
        row = next((s.value for s in reversed(rows) if s.end_ns <= until_ns), None)
        if row is not None:
            lines[when] = {**row.to_json(), "states": [name for name, bit in bits.items() if row.flags & bit]}
    return lines


def _recovery(timeline: Timeline, rows: list[Sample[CacheRow]], marks: dict[str, int]) -> dict[str, Any]:
    if "release" not in marks or not timeline.probe:
        return {}
    deadlocked = timeline.probe[-1].value.bits.get("deadlocked", 0)
    for sample in rows:
        drained = not sample.value.emergency.alloc and not sample.value.flags & deadlocked
        if sample.start_ns >= marks["release"] and drained:
            return {"recovery_ms": round((sample.end_ns - marks["release"]) / 1e6, 1)}
    return {}


def _series(timeline: Timeline, rows: list[Sample[CacheRow]]) -> dict[str, Any]:
    """Emergency objects in use, and objects handed out per second, over the run; times are seconds of guest time."""
    if len(timeline.probe) < 2:
        return {}
    first, last = timeline.probe[0].end_ns, timeline.probe[-1].end_ns
    width = max(1, (last - first) // SERIES_POINTS)
    edges = [first + i * width for i in range(SERIES_POINTS + 1)]
    used = [(s.end_ns, s.value.emergency.alloc or 0) for s in rows]
    emergency = [max((count for at, count in used if a <= at < b), default=0) for a, b in pairwise(edges)]
    counts = [_allocs_at(timeline, edge) for edge in edges]
    rates = [round((b - a) / (width / 1e9), 1) for a, b in pairwise(counts)]
    return {"start_s": first / 1e9, "step_s": width / 1e9, "emergency": emergency, "objects_per_s": rates}


def _allocs_at(timeline: Timeline, time_ns: int) -> int:
    before = [s for s in timeline.probe if s.end_ns <= time_ns]
    return sum(t.allocs for t in before[-1].value.threads) if before else 0
