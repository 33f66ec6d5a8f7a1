"""Checks of the agent's lists of tasks against the probe's status: what both say of a thread agrees."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise

from splvm.evidence.checks.asked import parameters_of
from splvm.evidence.checks.case import Case, is_count, millis, seconds
from splvm.evidence.formats.probestatus import Hold, ProbeStatus
from splvm.evidence.formats.stacks import Task
from splvm.evidence.timeline import Sample, between
from splvm.evidence.verdict import Reason

# A critical thread, by its index (images/slabprobe/threads.c).
_CRITICAL = re.compile(r"slabprobe/(\d{1,9})")
# States of a thread that sleeps (/proc/PID/stat).
_ASLEEP = frozenset("SDI")
# CPU time that nobody uses on the way to sleep, ns.
_AWAKE_NS = 50_000_000
# Where the lever holds a worker (images/slabprobe/hold.c); the inner one may be a part of the outer.
_HELD_IN = frozenset({"slabprobe_held_grow", "slabprobe_grow_work"})

# Tasks that a list has at most (MAX_TASKS, images/guest/agent_tasks.c): one that is full may lack others.
_LISTED = 64
# Context switches of a thread from which on it used some CPU time; and growths that may be under way at once.
_SWITCHES, _GROWTHS = 20, 32
# What the CPU time of a thread that runs may lack, ns: the kernel adds it up at each tick, 100 times a second at least.
_TICK_NS = 10_000_000
# Time until which what a thread has used is told for certain, ns: some ticks.
_SETTLES_NS = 10 * _TICK_NS
# Of threads, by pid: CPU time, and when the reading of it began, ns.
_Used = dict[int, tuple[int, int]]


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
        if hold.held and not held and unlisted({hold.pid}, [sample]):
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


def unlisted(pids: set[int], lists: Sequence[Sample[tuple[Task, ...]]]) -> set[int]:
    """Of these threads those that are in none of the lists; nobody where a list is full, and they may be left out."""
    if any(len(sample.value) >= _LISTED for sample in lists):
        return set()
    return pids - {task.pid for sample in lists for task in sample.value}


def used_by_nobody(case: Case) -> Iterator[Reason]:
    """Threads that get objects are in the lists of tasks of the window, and who was switched to used CPU time."""
    if "window" not in case.marks or "window-end" not in case.marks:
        return
    probes, lists = case.probes("window", "window-end"), between(case.timeline.tasks, *case.window)
    if not probes or len(lists) < 2:
        return
    if missing := unlisted({thread.pid for thread in probes[-1].value.threads}, lists):
        yield Reason(f"the lists of tasks have no critical thread with pid {min(missing)}", (lists[0].seq,))
    first = {task.pid: task for task in lists[0].value}
    # Some kernels count no CPU time, of nobody.
    if not any(task.run_ns for sample in case.timeline.tasks for task in sample.value):
        return
    took = _took(case, lists[0].end_ns, lists[-1].start_ns - _SETTLES_NS)
    for task in lists[-1].value:
        was = first.get(task.pid)
        if was is None or task.run_ns is None:
            continue
        if task.run_ns == was.run_ns and took.get(task.pid, 0) > 0:
            text = f"{task.comm} (pid {task.pid}) took {took[task.pid]} objects in the window"
            yield Reason(f"{text}, and used no CPU time", (lists[0].seq, lists[-1].seq))
            return
        switches = (task.voluntary or 0) - (was.voluntary or 0)
        if task.run_ns == was.run_ns and switches >= _SWITCHES:
            text = f"{task.comm} (pid {task.pid}) was switched to {switches} times in the window"
            yield Reason(f"{text}, and used no CPU time", (lists[0].seq, lists[-1].seq))
            return


def never_switched(case: Case) -> Iterator[Reason]:
    """Who sleeps in two readings and used CPU time between them went to sleep meanwhile, which is a voluntary switch.

    The agent reads the time after the switches, so the last reading before they differ may tell of what comes after.
    And who is about to sleep counts as asleep already.
    """
    # Of threads, by pid: the first reading that has these switches, and whether a later one has more CPU time.
    asleep: dict[int, tuple[int, Task, bool]] = {}
    for sample in case.timeline.tasks:
        for task in sample.value:
            if task.state not in _ASLEEP or task.moved or task.run_ns is None:
                continue
            seq, was, has_run = asleep.get(task.pid, (sample.seq, task, False))
            if task.voluntary != was.voluntary:
                asleep[task.pid] = (sample.seq, task, False)
                continue
            used = task.run_ns - (was.run_ns or 0)
            if has_run and used > _AWAKE_NS:
                text = f"{task.comm} (pid {task.pid}) slept, and used {millis(used)} of CPU"
                yield Reason(f"{text} time up to {seconds(sample.start_ns)} and never went to sleep", (seq, sample.seq))
                return
            asleep[task.pid] = (seq, was, used > 0)


def _took(case: Case, start_ns: int, end_ns: int) -> dict[int, int]:
    """Objects that each critical thread took between two times, by pid."""
    inside = [it for it in case.timeline.probe if start_ns <= it.start_ns and it.end_ns <= end_ns]
    if not inside:
        return {}
    before = {thread.pid: thread.allocs for thread in inside[0].value.threads}
    return {it.pid: it.allocs - before[it.pid] for it in inside[-1].value.threads if it.pid in before}


def used_too_much(case: Case) -> Iterator[Reason]:
    """A thread uses no more CPU time than passes, and all of them no more than that of all CPUs.

    In virtual time alone. In real time the kernel measures both by clocks that may differ where the host is busy.
    """
    cpus = parameters_of(case).get("cpus")
    first: _Used = {}
    last: _Used = {}
    if not case.evidence.is_virtual or not is_count(cpus):
        return
    for sample in case.timeline.tasks:
        told = {task.pid: (task.run_ns, sample.start_ns) for task in sample.value if task.run_ns is not None}
        text = _too_much(first, told, sample.end_ns, cpus) or _too_much(last, told, sample.end_ns, cpus)
        if text:
            yield Reason(f"{text} up to {seconds(sample.end_ns)}", (sample.seq,))
            return
        first, last = told | first, last | told


def _too_much(before: _Used, now: _Used, end_ns: int, cpus: int) -> str:
    """What is too much since the earlier readings, in words; empty if nothing is."""
    used = {pid: now[pid][0] - before[pid][0] for pid in now.keys() & before.keys()}
    passed = {pid: end_ns - before[pid][1] + _TICK_NS for pid in used}
    for pid in sorted(used):
        if used[pid] > passed[pid]:
            return f"pid {pid} used {millis(used[pid])} of CPU time in {millis(passed[pid])}"
    together, longest = sum(used.values()), max(passed.values(), default=0)
    if together > cpus * longest:
        return f"the threads together used {millis(together)} of CPU time in {millis(longest)} of {cpus} CPUs"
    return ""


def renamed(case: Case) -> Iterator[Reason]:
    """A thread of SPL's, or of the probe's, keeps its name."""
    names: dict[int, str] = {}
    for sample in case.timeline.tasks:
        for task in sample.value:
            if (name := names.get(task.pid, task.comm)) != task.comm:
                yield Reason(f"pid {task.pid} was {name}, and is {task.comm[:16]} later", (sample.seq,))
                return
            if task.comm.startswith(("spl_", "slabprobe")):
                names[task.pid] = task.comm


def grown_by_nobody(case: Case) -> Iterator[Reason]:
    """A growth that was begun is done soon, and the worker that made slabs has done a growth.

    Slabs are counted whoever makes them: an SPL without a worker makes them in its callers, and other caches of the
    probe's, or ZFS's, may have slabs of that size (images/slabprobe/growth.c).
    """
    others = "zfs" in case.evidence.facts or any(sample.value.kinds is not None for sample in case.timeline.probe)
    for sample in case.timeline.probe:
        growth = sample.value.growth
        if growth is None:
            continue
        slabs = (growth.slabs or 0) if sample.value.hold.worker and not others else 0
        if max(growth.begun or 0, slabs) - (growth.done or 0) > _GROWTHS:
            text = f"the probe counts {growth.begun} growths that began and {growth.slabs} slabs at"
            yield Reason(f"{text} {seconds(sample.start_ns)}, and {growth.done} growths that were done", (sample.seq,))
            return


def grown_unseen(case: Case) -> Iterator[Reason]:
    """Slabs that come to be, and refills during which the cache grew, are growths that the probe counts.

    The probe writes growths down before it counts who waited for one (images/slabprobe/service.c), and before a slab is
    in the slab file. So where its counts stand still, at most what was under way comes after: one for each thread.
    """
    rows = [it for it in case.rows() if case.timeline.probe and case.flags(it.value).get("kvmem")]
    starts, came = [row.start_ns for row in rows], [0]
    for fewer, more in pairwise(row.value.slab.total or 0 for row in rows):
        came.append(came[-1] + max(0, more - fewer))
    for stretch in _of_one_growth(case.timeline.probe):
        first = stretch[0].value
        under_way = len(first.threads) + 1
        inside = slice(bisect_left(starts, stretch[0].end_ns), bisect_left(starts, stretch[-1].start_ns))
        slabs = came[inside][-1] - came[inside][0] if came[inside] else 0
        if first.growth is not None and first.growth.slabs is not None and slabs > under_way:
            text = f"the probe counts no slab from {seconds(stretch[0].start_ns)} to {seconds(stretch[-1].start_ns)}"
            yield Reason(f"{text}, and {slabs} came to the slab file", (stretch[0].seq, stretch[-1].seq))
            return
        # The counts of the last reading were read after its growths were.
        before = stretch[-2].value.magazine if len(stretch) > 2 else None
        if before is None or first.magazine is None or first.growth is None or first.growth.begun != first.growth.done:
            continue
        grew = before.grew - first.magazine.grew
        if grew > under_way:
            text = f"the probe counts no growth from {seconds(stretch[0].start_ns)} to {seconds(stretch[-1].start_ns)}"
            yield Reason(f"{text}, and {grew} refills during one", (stretch[0].seq, stretch[-1].seq))
            return


def _of_one_growth(probe: Sequence[Sample[ProbeStatus]]) -> Iterator[list[Sample[ProbeStatus]]]:
    """Readings one after the other in which the counts of growths are the same."""
    for growth, found in groupby(probe, key=lambda sample: sample.value.growth):
        if growth is not None and len(stretch := list(found)) > 1:
            yield stretch
