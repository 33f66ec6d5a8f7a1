"""Checks of the agent's lists of tasks against the probe's status: what both say of a thread agrees."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from splvm.evidence.checks.case import Case, seconds
from splvm.evidence.formats.probestatus import Hold
from splvm.evidence.formats.stacks import Task
from splvm.evidence.verdict import Reason

# A critical thread, by its index (images/slabprobe/threads.c).
_CRITICAL = re.compile(r"slabprobe/(\d{1,9})")
# Where the lever holds a worker (images/slabprobe/hold.c); the inner one may be a part of the outer.
_HELD_IN = frozenset({"slabprobe_held_grow", "slabprobe_grow_work"})


def threads_of_nobody(case: Case) -> Iterator[Reason]:
    """The agent's critical threads have the numbers that the probe gives them."""
    pids = {thread.index: thread.pid for sample in case.timeline.probe for thread in sample.value.threads}
    for sample in case.timeline.tasks if pids else ():
        for task in sample.value:
            named = _CRITICAL.fullmatch(task.comm)
            if named is not None and pids.get(int(named[1])) != task.pid:
                reason = f"the tasks that were read at {seconds(sample.start_ns)} have {task.comm} with pid {task.pid}"
                told = pids.get(int(named[1]), "no such thread")
                yield Reason(f"{reason}; the probe says {told}", (sample.seq,))
                return


def held_by_nobody(case: Case) -> Iterator[Reason]:
    """Between two readings that say the same of the lever, the tasks show the same: who is held, or that nobody is."""
    probe = case.timeline.probe
    starts, ends = [sample.start_ns for sample in probe], [sample.end_ns for sample in probe]
    for sample in case.timeline.tasks:
        before, after = bisect_right(ends, sample.start_ns) - 1, bisect_left(starts, sample.end_ns)
        if before < 0 or after == len(probe) or not _is_same(probe[before].value.hold, probe[after].value.hold):
            continue
        hold = probe[before].value.hold
        held = [task.pid for task in sample.value if _is_held(task)]
        # One that has just been made may not be in the list yet, while another one is held.
        if hold.held and not held and hold.pid not in {task.pid for task in sample.value}:
            told, seen = f"pid {hold.pid} is held", "has no such task"
        elif held and not hold.held:
            told, seen = "no worker is held", f"shows pid {held[0]} held"
        else:
            continue
        yield Reason(
            f"the probe says around {seconds(sample.start_ns)} that {told}, and the list of tasks {seen}",
            (probe[before].seq, sample.seq),
        )
        return


def _is_same(one: Hold, other: Hold) -> bool:
    """Whether nobody came to be held between two readings, nor was let go."""
    return (one.held, one.pid, one.entries, one.released_ns) == (
        other.held,
        other.pid,
        other.entries,
        other.released_ns,
    )


def _is_held(task: Task) -> bool:
    return task.state == "D" and not task.moved and bool(task.blocked_on) and task.blocked_on[0] in _HELD_IN
