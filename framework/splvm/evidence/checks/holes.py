"""Checks that nobody cut a piece out of the record: in the window each source was read again and again.

Order and number of frames say nothing of it, for whoever can write a record can number its frames anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from splvm.evidence.checks.asked import parameters_of
from splvm.evidence.checks.case import HOLE_NS, Case, is_count, seconds
from splvm.evidence.timeline import Sample
from splvm.evidence.verdict import Reason

# Ticks between two readings of the slow sources (images/guest/agent.c). The harness never asks for more, so an agent
# that says more is not believed.
_SLOW_EVERY = 10


def unread(case: Case) -> Iterator[Reason]:
    """Each source was read throughout the window, or the agent noted that a read of it had not come back."""
    hello = case.timeline.hello
    period_ns, slow_every = hello.get("period_ns"), hello.get("slow_every")
    # That of another rate than run.json's is a complaint of its own.
    if not is_count(period_ns) or "window" not in case.marks:
        return
    slow_every = min(slow_every, _SLOW_EVERY) if is_count(slow_every) else _SLOW_EVERY
    start, end = case.marks["window"], case.marks.get("window-end", 0)
    last = max((it.end_ns for samples in _all(case) for it in samples[-1:]), default=0)
    # How often each is read, images/guest/agent_sources.c.
    read: tuple[tuple[str, Sequence[Sample[Any]], int], ...] = (
        ("tasks", case.timeline.tasks, 1),
        ("probe", case.timeline.probe, 1),
        ("slab", case.timeline.slab, 1),
        ("meminfo", case.timeline.other.get("meminfo", ()), slow_every),
        *([("sites", case.timeline.sites, 2 * slow_every)] if "storm" in parameters_of(case) else []),
    )
    for source, samples, ticks in read:
        blocked = [it.end_ns for it in case.timeline.blocked if it.value == source]
        times = sorted([*(it.end_ns for it in samples), *blocked])
        for before, after in pairwise([min([start, *times[:1]]), *times, max(last, end)]):
            if before < end and after > start and after - before > HOLE_NS + ticks * period_ns:
                yield Reason(f"{source} was not read for {seconds(after - before)} from {seconds(before)} on")
                return


def _all(case: Case) -> Sequence[Sequence[Sample[Any]]]:
    timeline = case.timeline
    return (timeline.tasks, timeline.probe, timeline.slab)
