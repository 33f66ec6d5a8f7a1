"""What a run's plots show: series over the guest's clock, made of its timeline. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from splvm.evidence.checks.case import CACHE
from splvm.evidence.timeline import Sample, Timeline, cache_rows

# Points of a series at most: as many as a plot has room for.
MOST_POINTS = 400
# Threads whose state is shown.
_THREADS = 6


@dataclass(frozen=True, slots=True)
class PlotSeries:
    """One line: times in seconds of the guest's clock, and values."""

    name: str
    points: tuple[tuple[float, float], ...]
    # Whether a value holds until the next one.
    steps: bool = False


@dataclass(frozen=True, slots=True)
class States:
    """The state of one thread, by the letters of /proc/PID/stat."""

    name: str
    points: tuple[tuple[float, str], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines that share an axis."""

    title: str
    # Empty where the title says it.
    unit: str
    series: tuple[PlotSeries, ...]


def panels(timeline: Timeline) -> list[Panel]:
    """Those of which the run has readings."""
    found = [
        Panel("emergency objects in use", "", tuple(_emergency(timeline))),
        Panel("objects that critical threads got", "per s", tuple(_rates(timeline))),
        Panel("longest gap of a thread since the last phase began", "ms", tuple(_gaps(timeline))),
        Panel("memory", "MiB", tuple(_memory(timeline, MemAvailable="available", MemFree="free"))),
        Panel("waiting for memory (PSI)", "% of the time", tuple(_pressure(timeline))),
        Panel("pages to be written back", "MiB", tuple(_memory(timeline, Dirty="dirty", Writeback="under writeback"))),
    ]
    return [panel for panel in found if panel.series]


def states(timeline: Timeline, worker: int | None) -> list[States]:
    """States of the worker, and then of other threads that the agent looked at."""
    found: dict[tuple[int, str], list[tuple[float, str]]] = {}
    for sample in timeline.tasks:
        for task in sample.value:
            found.setdefault((task.pid, task.comm), []).append((_s(sample.end_ns), task.state))
    ordered = sorted(found.items(), key=lambda item: (item[0][0] != worker, -len(item[1])))
    return [
        States(f"{comm} ({pid})", tuple(_changes(points, MOST_POINTS))) for (pid, comm), points in ordered[:_THREADS]
    ]


def phases(timeline: Timeline) -> list[tuple[str, float, float]]:
    """Name, beginning and end of each phase, s."""
    marks = sorted(timeline.marks.items(), key=lambda mark: mark[1])
    if not marks:
        return []
    last = max((sample.end_ns for sample in timeline.probe), default=marks[-1][1])
    ends = [*(time_ns for _, time_ns in marks[1:]), max(last, marks[-1][1])]
    return [(name, _s(start), _s(end)) for (name, start), end in zip(marks, ends, strict=True)]


def _emergency(timeline: Timeline) -> Iterator[PlotSeries]:
    rows = [(_s(row.end_ns), row.value.emergency.alloc or 0) for row in cache_rows(timeline, CACHE)]
    yield from _series("by the slab file", rows, steps=True)
    counted = [(_s(sample.end_ns), sample.value.live.emergency) for sample in timeline.probe]
    yield from _series("by the probe", counted, steps=True)


def _rates(timeline: Timeline) -> Iterator[PlotSeries]:
    counts = [(_s(it.end_ns), sum(thread.allocs for thread in it.value.threads)) for it in timeline.probe]
    yield from _series("objects", _slopes(counts))


def _gaps(timeline: Timeline) -> Iterator[PlotSeries]:
    gaps = [(it, [thread.gap_max_ns for thread in it.value.threads]) for it in timeline.probe]
    yield from _series("longest gap", [(_s(it.end_ns), max(each) / 1e6) for it, each in gaps if each])


def _memory(timeline: Timeline, **names: str) -> Iterator[PlotSeries]:
    for key, name in names.items():
        points = [
            (at, kib / 1024)
            for at, kib in _numbers(timeline.other.get("meminfo", ()), rf"^{key}:\s{{1,20}}(\d{{1,15}}) kB")
        ]
        yield from _series(name, points)


def _pressure(timeline: Timeline) -> Iterator[PlotSeries]:
    for kind, name in (("some", "some task waits"), ("full", "all tasks wait")):
        pattern = rf"^# memory\n(?:some [^\n]{{0,80}}\n)?{kind} [^\n]{{0,80}}total=(\d{{1,15}})"
        totals = _numbers(timeline.other.get("pressure", ()), pattern)
        # Microseconds of waiting per second are a ten-thousandth of a percent each.
        yield from _series(name, [(at, min(100.0, us_per_s / 1e4)) for at, us_per_s in _slopes(totals)])


def _numbers(samples: Iterable[Sample[str]], pattern: str) -> list[tuple[float, float]]:
    compiled = re.compile(pattern, re.MULTILINE)
    found = ((sample, compiled.search(sample.value)) for sample in samples)
    return [(_s(sample.end_ns), float(match[1])) for sample, match in found if match]


def _slopes(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """How fast a counter grew up to each reading, per second."""
    return [(b, max(0.0, (y - x) / (b - a))) for (a, x), (b, y) in pairwise(points) if b > a]


def _series(name: str, points: Sequence[tuple[float, float]], *, steps: bool = False) -> Iterator[PlotSeries]:
    if points:
        yield PlotSeries(name, tuple(thin_out(points)), steps)


def thin_out(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """As many points as there is room for; of those that have to share a place the highest, so that no peak is lost."""
    if len(points) <= most:
        return [(round(at, 4), _short(value)) for at, value in points]
    cuts = [len(points) * number // most for number in range(most + 1)]
    highest: Callable[[tuple[float, float]], float] = lambda point: point[1]  # noqa: E731
    return thin_out([max(points[a:b], key=highest) for a, b in pairwise(cuts)], most)


def _changes(points: Sequence[tuple[float, str]], most: int) -> Iterator[tuple[float, str]]:
    """The first and the last one, and those where the state changes; the first ones of them."""
    for number, (at, state) in enumerate(points):
        first_or_last = number in (0, len(points) - 1)
        if first_or_last or (state != points[number - 1][1] and number < most):
            yield round(at, 4), state


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _s(ns: int) -> float:
    return ns / 1e9
