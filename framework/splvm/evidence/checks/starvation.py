"""What the host withheld from a guest, and when: it excuses what took long only as far as it can have been the cause.

Three facts bound it. Virtual CPUs waited for one of the host's for so long, in the very time that something took. The
agent's readings have a hole there. And a thread that sleeps, while nobody runs who could wake it, is not ready to run:
from such a one the host withholds nothing, but may keep its timer waiting, by the longest time for which a virtual CPU
can have stood still.

In virtual time the host withholds nothing: a guest's time is the number of its own instructions.

Clocks of guest and host are not compared; what is a while after a phase began is that on either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from splvm.evidence.checks.case import Case, millis, seconds
from splvm.evidence.diagnosis import STARVED_SHARE
from splvm.evidence.formats.stacks import Task
from splvm.evidence.timeline import HostReading, between, widest_gap_ns

# A guest also counts as starved when its readings are further apart than this, ns (they are due every 50 ms).
STARVED_GAP_NS = 300_000_000

# Less than this, withheld at one place, explains nothing, ns: not even a caller's timeout (HZ/10) comes of it.
WITHHELD_AT_LEAST_NS = 67_000_000

# The host notes a phase before it tells the guest; the guest's own mark is later by less than this, s.
_MARK_S = 0.1

# A virtual CPU that waited for all of a time but this part stood still throughout.
_STILL_SHARE = 0.05

# The name of SPL's slab workers: spl_kmem_init() in OpenZFS, module/os/linux/spl/spl-kmem-cache.c.
WORKER = "spl_kmem_cache"

# Where a worker waits that has nothing to do, and where others wait for SPL's worker or for the probe.
_IDLE = "taskq_thread"
_OWN = re.compile(rf"{_IDLE}|spl_\w+|slabprobe_\w+")


def starved(case: Case, first: str = "window", last: str = "window-end") -> str:
    """Why there may be too little to judge by between two marks; empty when that is not the host's doing."""
    if case.evidence.is_virtual:
        return ""
    start, end = case.marks[first], case.marks[last]
    gap = widest_gap_ns(between(case.timeline.probe, start, end), start, end)
    if gap > STARVED_GAP_NS:
        return f" (the guest was starved: readings {millis(gap)} apart)"
    phases = case.timeline.host_phases
    readings = [r for r in case.timeline.host if phases.get(first, 0) - 1 <= r.at_s <= phases.get(last, 0) + 1]
    if len(readings) >= 2:
        wait_s = readings[-1].wait_s - readings[0].wait_s
        run_s = readings[-1].run_s - readings[0].run_s
        # Less than before means that a CPU is gone, and so are its figures.
        if run_s >= 0 and wait_s > STARVED_SHARE * (run_s + wait_s):
            return f" (the guest was starved: its CPUs ran {run_s:.1f} s and waited {wait_s:.1f} s for the host's)"
        stolen_s = readings[-1].steal_s - readings[0].steal_s
        cores = case.evidence.facts.get("host", {}).get("cores") or 1
        if stolen_s > STARVED_SHARE * cores * (readings[-1].at_s - readings[0].at_s):
            return f" (the guest was starved: {stolen_s:.1f} s were stolen from the host's own CPUs)"
    return ""


def excuse(case: Case, start_ns: int, end_ns: int, needed_ns: int = 0) -> str:
    """Why the guest cannot be blamed for `needed_ns` of the time between two moments; empty when it can."""
    if case.evidence.is_virtual:
        return ""
    needed_ns = max(needed_ns, WITHHELD_AT_LEAST_NS)
    if sum(_holes_ns(case, start_ns, end_ns)) >= needed_ns:
        apart = max(_holes_ns(case, start_ns, end_ns))
        return f" (the guest was starved: readings {millis(apart)} apart)"
    # Whoever was delayed was on one CPU at a time, so it cannot be more than the waits of all of them.
    waits_s = (min(span.within_s, sum(span.waits_s) + span.stolen_s) for span in _spans(case, start_ns, end_ns))
    waited_ns = min(int(1e9 * sum(waits_s)), end_ns - start_ns)
    if waited_ns < needed_ns:
        return ""
    return (
        f" (the guest was starved: of {seconds(end_ns - start_ns)} its CPUs waited up to {seconds(waited_ns)} "
        "for the host's)"
    )


def excuse_standstill(case: Case, start_ns: int, end_ns: int, enough_ns: int) -> str:
    """Why the guest cannot be blamed for doing nothing between two moments; empty when it can.

    A guest whose CPUs ran for long enough had what it needed, also while they waited for the host's: one that stands
    still may well spin, and so starve itself and its neighbours.

    :param enough_ns: of CPU time of all its CPUs together, with which it would have done something.
    """
    ran_ns = sum(int(1e9 * span.ran_s * span.within_s / span.length_s) for span in _spans(case, start_ns, end_ns))
    return "" if ran_ns >= enough_ns else excuse(case, start_ns, end_ns, (end_ns - start_ns) // 2)


def excuse_wait(case: Case, pid: int, when: tuple[int, int], took_ns: int, bearable_ns: int) -> str:
    """Why the guest cannot be blamed for a thread that waited longer than it may; empty when it can.

    :param when: the beginning of its wait at the earliest and the end at the latest, ns.
    :param took_ns: how long it waited.
    :param bearable_ns: how long it may wait with nobody to blame.
    """
    for since_ns, until_ns in _sleeps(case, pid, *when):
        if until_ns - since_ns - _standstill_ns(case, since_ns, until_ns) > bearable_ns:
            return ""
    return excuse(case, *when, took_ns - bearable_ns)


def asleep(case: Case, pid: int, when: tuple[int, int]) -> tuple[int, int, int]:
    """The longest sleep in SPL of a critical thread, while each worker slept too: how long it was at least, from when
    until when, ns; zeros if there was none.

    At least, because a host that lets a virtual CPU stand still keeps timers waiting, and so makes a sleep longer.
    """
    sleeps = (
        (until_ns - since_ns - _standstill_ns(case, since_ns, until_ns), since_ns, until_ns)
        for since_ns, until_ns in _sleeps(case, pid, *when, _waits_for_worker)
    )
    return max(sleeps, default=(0, 0, 0))


def unwoken(case: Case, start_ns: int, end_ns: int) -> int:
    """How often a critical thread slept in SPL from one reading to the next while no worker had anything to do.

    Whoever is woken is ready to run from then on, also while it gets no CPU. So the host has no part in this.
    """
    pids = {thread.pid for sample in case.timeline.probe for thread in sample.value.threads}
    count = 0
    for before, after in pairwise(between(case.timeline.tasks, start_ns, end_ns)):
        workers = _workers(after.value)
        if workers and all(task.blocked_on[:1] == (_IDLE,) and _slept_on(before.value, task) for task in workers):
            callers = [it for it in after.value if it.pid in pids and _waits_for_worker(it)]
            count += sum(_slept_on(before.value, task) for task in callers)
    return count


@dataclass(frozen=True, slots=True)
class _Span:
    """The time between two readings of the host."""

    length_s: float
    # How much of it belongs to what is asked about.
    within_s: float
    # How long each virtual CPU waited for one of the host's, and what was stolen from these, together.
    waits_s: tuple[float, ...]
    stolen_s: float
    # How long all virtual CPUs ran, together.
    ran_s: float


def _spans(case: Case, start_ns: int, end_ns: int) -> Iterator[_Span]:
    start_s, end_s = _on_host(case, start_ns), _on_host(case, end_ns)
    if start_s is None or end_s is None:
        return
    for first, last in pairwise(case.timeline.host):
        within_s = min(last.at_s, end_s + _MARK_S) - max(first.at_s, start_s)
        if within_s > 0:
            stolen_s = max(0.0, last.steal_s - first.steal_s)
            ran_s = max(0.0, last.run_s - first.run_s)
            yield _Span(last.at_s - first.at_s, within_s, _waits(first, last), stolen_s, ran_s)


def _waits(first: HostReading, last: HostReading) -> tuple[float, ...]:
    """Of a CPU that is gone there are no figures, and what is not known is no excuse."""
    if len(first.waits_s) != len(last.waits_s):
        return ()
    return tuple(max(0.0, after - before) for before, after in zip(first.waits_s, last.waits_s, strict=True))


def _on_host(case: Case, time_ns: int) -> float | None:
    """A moment of the guest's time on the host's clock, by the phase in which it lies; None if there is none."""
    phases = case.timeline.host_phases
    marks = sorted((at_ns, name) for name, at_ns in case.marks.items() if name in phases)
    at_ns, name = next((mark for mark in reversed(marks) if mark[0] <= time_ns), marks[0] if marks else (0, ""))
    return phases[name] + (time_ns - at_ns) / 1e9 if name else None


def _holes_ns(case: Case, start_ns: int, end_ns: int) -> list[int]:
    times = [start_ns, *(s.end_ns for s in between(case.timeline.probe, start_ns, end_ns)), end_ns]
    return [later - earlier for earlier, later in pairwise(times) if later - earlier > STARVED_GAP_NS]


def _standstill_ns(case: Case, start_ns: int, end_ns: int) -> int:
    """The longest time for which a virtual CPU can have stood still: it may go on from one span into the next."""
    spans = list(_spans(case, start_ns, end_ns))
    longest_s = 0.0
    for cpu in range(max((len(span.waits_s) for span in spans), default=0)):
        lasts_s = 0.0
        for span in spans:
            waited_s = span.stolen_s + (span.waits_s[cpu] if cpu < len(span.waits_s) else 0.0)
            longest_s = max(longest_s, lasts_s + waited_s)
            lasts_s = waited_s if waited_s < (1 - _STILL_SHARE) * span.length_s else lasts_s + waited_s
    return max([int(1e9 * longest_s), *_holes_ns(case, start_ns, end_ns)])


def _sleeps(
    case: Case, pid: int, start_ns: int, end_ns: int, where: Callable[[Task], bool] = lambda task: True
) -> Iterator[tuple[int, int]]:
    """From when until when a critical thread, and every worker, are known to have slept without a break.

    :param where: whether a sleep of the thread counts.
    """
    since_ns = None
    samples = between(case.timeline.tasks, start_ns, end_ns)
    for before, after in pairwise(samples):
        caller = [task for task in after.value if task.pid == pid and where(task)]
        workers = _workers(after.value)
        asleep = bool(caller and workers) and all(_slept_on(before.value, it) for it in (*caller, *workers))
        if asleep and since_ns is None:
            since_ns = before.end_ns
        if since_ns is not None and (not asleep or after is samples[-1]):
            yield since_ns, (after if asleep else before).start_ns
            since_ns = None


def _waits_for_worker(task: Task) -> bool:
    """Whether a thread sleeps in SPL for SPL's worker, and not for somebody who reaps the cache."""
    return "".join(task.blocked_on[:1]).startswith("spl_") and not any("wait_on_bit" in name for name in task.frames)


def _workers(tasks: tuple[Task, ...]) -> list[Task]:
    return [task for task in tasks if task.comm.startswith(WORKER)]


def _slept_on(earlier: tuple[Task, ...], task: Task) -> bool:
    """Whether a task has slept since it was looked at before, in SPL or where the probe holds it: it was not on a CPU,
    and is not waiting for one, nor for anybody else in the kernel, who might be.
    """
    same = next((it for it in earlier if it.pid == task.pid), None)
    if same is None or same.moved or task.moved or "R" in (same.state, task.state):
        return False
    switched = (same.voluntary, same.nonvoluntary) != (task.voluntary, task.nonvoluntary)
    return not switched and same.frames == task.frames and bool(_OWN.fullmatch("".join(task.blocked_on[:1])))
