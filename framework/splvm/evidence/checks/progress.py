"""Checks of the worker and of those who wait for it: whether it was stuck, and whether they went on in time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from splvm.evidence.checks.case import HOLE_NS, Case, Complaint, held_worker, millis, seconds, seqs, unless_starved
from splvm.evidence.checks.starvation import excuse_wait
from splvm.evidence.formats.probestatus import CriticalThread, ProbeStatus
from splvm.evidence.formats.stacks import Task
from splvm.evidence.standstill import THREAD_NS
from splvm.evidence.timeline import Sample, between, widest_gap_ns
from splvm.evidence.verdict import Outcome, Reason
from splvm.evidence.waiting.roles import ROLES, Role

# The window is looked at in slices of this length, ns: in each, every critical thread has to advance.
SLICE_NS = 1_000_000_000

# Where a worker stands that the lever holds: in the probe's function (images/slabprobe/hold.c), which goes on to SPL's
# own when it is let go, and which SPL's taskq has called.
_LEVER, _TASKQ = "slabprobe_grow_work", "taskq_thread"

# The name of SPL's worker, in all versions that have one.
_WORKER = re.compile(next(row.comm for row in ROLES if row.role is Role.SLAB_WORKER))


def check_stuck(case: Case) -> Iterator[Complaint]:
    """The same worker, on the same stack, without one context switch, in every reading of the window."""
    pid = held_worker(case)
    if pid is not None:
        loose = list(prove_stuck(case, pid))
        yield from loose or _held_elsewhere(case, pid)
        return
    none = all(not s.value.hold.worker for s in case.timeline.probe)
    lacking = ": this SPL has none, spl_cache_grow_work() is not in it" if none else ""
    yield Complaint(Outcome.NOT_TRIGGERED, Reason(f"the lever was pulled and no worker came to be held{lacking}"))


def _held_elsewhere(case: Case, pid: int) -> Iterator[Complaint]:
    """It is SPL's worker, and stuck where the probe holds it. The stack is the same in each reading."""
    sample = between(case.timeline.tasks, *case.window)[0]
    worker = next(task for task in sample.value if task.pid == pid)
    inside, held, _ = " ".join(worker.frames).partition(_LEVER)
    if held and "spl_cache_grow" not in inside and is_growing_worker(worker):
        return
    reason = f"{worker.comm} (pid {pid}) is not where the probe holds a worker: {' <- '.join(worker.frames[:4])}"
    yield Complaint(Outcome.NOT_TRIGGERED, Reason(reason, (sample.seq,)))


def is_growing_worker(task: Task) -> bool:
    """Whether it is SPL's worker, by its name, at the growth of a cache, to which its taskq has sent it."""
    _, growth, outside = " ".join(task.frames).rpartition(_LEVER)
    return bool(growth) and _TASKQ in outside.split() and _WORKER.fullmatch(task.comm) is not None


def prove_stuck(case: Case, pid: int) -> Iterator[Complaint]:
    """What speaks against it, that the worker was stuck in every reading of the window."""
    start, end = case.window
    samples = between(case.timeline.tasks, start, end)
    if not samples or widest_gap_ns(samples, start, end) > HOLE_NS:
        gap = seconds(widest_gap_ns(samples, start, end))
        yield Complaint(Outcome.INCONCLUSIVE, Reason(f"for {gap} of the window nobody looked at the worker"))
    first = next((t for s in samples for t in s.value if t.pid == pid and t.state == "D" and t.frames), None)
    loose = [(s, why) for s in samples if (why := _why_not_stuck(s.value, pid, first))]
    if not loose:
        yield from _still_growing(case, pid)
        return
    everywhere = len(loose) == len(samples)
    sample, why = loose[0]
    yield Complaint(
        Outcome.NOT_TRIGGERED if everywhere else Outcome.INCONCLUSIVE,
        Reason(
            f"worker {pid} is not proven stuck in {len(loose)} of {len(samples)} readings: "
            f"at {seconds(sample.start_ns)} {why}",
            tuple(s.seq for s, _ in loose[:20]),
        ),
    )


def _still_growing(case: Case, pid: int) -> Iterator[Complaint]:
    """SPL grows a cache by one worker at a time, so while one is stuck no growth is done."""
    told = [(sample, sample.value.growth) for sample in case.probes("window", "window-end")]
    done = [(sample, growth.done) for sample, growth in told if growth is not None]
    if done and done[-1][1] > done[0][1]:
        reason = f"worker {pid} is not stuck: {done[-1][1] - done[0][1]} growths of the cache were done in the window"
        yield Complaint(Outcome.INCONCLUSIVE, Reason(reason, seqs([sample for sample, _ in done])))


def _why_not_stuck(tasks: tuple[Task, ...], pid: int, first: Task | None) -> str | None:
    task = next((t for t in tasks if t.pid == pid), None)
    if task is None:
        return "it is not in the list of tasks"
    if task.state != "D":
        return f"its state is {task.state}, not D"
    if not task.frames:
        return "its stack cannot be read"
    if first is not None and task.comm != first.comm:
        return f"its name has changed to {task.comm}"
    if first is None or task.frames != first.frames:
        return f"its stack has changed: {' <- '.join(task.frames[:3])}"
    if task.moved or (task.voluntary, task.nonvoluntary) != (first.voluntary, first.nonvoluntary):
        return "it has run in between: its context switches went on"
    return None


def check_needed(case: Case) -> Iterator[Complaint]:
    """Progress proves nothing if the callers never needed the worker."""
    samples = case.probes("window", "window-end")
    if samples and samples[-1].value.live.emergency_total <= samples[0].value.live.emergency_total:
        total = samples[-1].value.live.emergency_total
        yield Complaint(
            Outcome.NOT_TRIGGERED,
            Reason(f"no emergency object was handed out in the window ({total} before it)", seqs(samples)),
        )


def check_progress(case: Case) -> Iterator[Complaint]:
    start, end = case.window
    samples = between(case.timeline.probe, start, end)
    if len(samples) < 2 or widest_gap_ns(samples, start, end) > HOLE_NS:
        gap = seconds(widest_gap_ns(samples, start, end))
        yield Complaint(Outcome.INCONCLUSIVE, Reason(f"for {gap} of the window nobody looked at the critical threads"))
        return
    # Of two threads with one index the first counts.
    allocs = [{t.index: t.allocs for t in reversed(s.value.threads)} for s in samples]
    for thread in samples[-1].value.threads:
        counts = [(s, got.get(thread.index, 0)) for s, got in zip(samples, allocs, strict=True)]
        yield from _look_at_thread(case, thread.index, thread.pid, counts)


def check_threads(case: Case) -> Iterator[Complaint]:
    """Every critical thread is in every reading from the window on: one that is left out may stand still."""
    for sample in case.timeline.probe:
        threads, expected = sample.value.threads, sample.value.config.threads
        complete = threads and [t.index for t in threads] == list(range(len(threads))) and len(threads) == expected
        if sample.start_ns >= case.window[0] and not complete:
            reason = f"the status at {seconds(sample.start_ns)} has {len(threads)} critical threads of {expected}"
            yield Complaint(Outcome.INCONCLUSIVE, Reason(reason, (sample.seq,)))
            return


def _look_at_thread(
    case: Case, thread: int, pid: int, counts: list[tuple[Sample[ProbeStatus], int]]
) -> Iterator[Complaint]:
    start, end = case.window
    name = f"critical thread {thread} (pid {pid})"
    last_sample, last_count = counts[-1]
    standing = [s for s, count in counts if count == last_count]
    stood_ns = last_sample.end_ns - standing[0].start_ns
    if stood_ns >= min(THREAD_NS, (end - start) // 2):
        place = where(case, pid)
        reason = f"{name} got no object for the last {seconds(stood_ns)} of the window{place}"
        yield Complaint(Outcome.STALLED, Reason(reason, seqs(standing)))
        return
    for slice_start in range(start, end - SLICE_NS + 1, SLICE_NS):
        inside = [(s, c) for s, c in counts if slice_start <= s.start_ns and s.end_ns <= slice_start + SLICE_NS]
        at = f"between {seconds(slice_start)} and {seconds(slice_start + SLICE_NS)}"
        if len(inside) < 2:
            yield Complaint(Outcome.INCONCLUSIVE, Reason(f"{name} was looked at {len(inside)} times {at}"))
        elif inside[0][1] == inside[-1][1]:
            stood = [s for s, count in counts if count == inside[0][1]]
            since_ns, until_ns = stood[0].start_ns, stood[-1].end_ns
            excuse = excuse_wait(case, pid, (since_ns, until_ns), until_ns - since_ns, SLICE_NS)
            yield unless_starved(Outcome.SLOW, f"{name} got no object {at}", excuse, seqs([s for s, _ in inside]))


def where(case: Case, pid: int) -> str:
    """What a task waits in, from the last reading of the window."""
    for sample in reversed(between(case.timeline.tasks, *case.window)):
        for task in sample.value:
            if task.pid == pid and task.frames:
                return f": state {task.state}, {' <- '.join(task.blocked_on[:4])}"
    return ""


def check_latency(case: Case) -> Iterator[Complaint]:
    """The longest gap from the pull of the lever, or when the trap was set, or the start of the window, to its end."""
    start, end = case.pulled_ns, case.window[1]
    samples = between(case.timeline.probe, start, end)
    complaints = [_too_late(case, *gap) for gap in _long_gaps(samples, case.latency_bound_ns)]
    # One that the host has no part in is enough.
    yield from [it for it in complaints if not it.excuse][:1] or complaints[:1]


def _long_gaps(
    samples: Sequence[Sample[ProbeStatus]], bound_ns: int
) -> list[tuple[CriticalThread, Sample[ProbeStatus], int]]:
    """Gaps over the bound, the longest first: in the reading that first tells its length, and when it may have begun.

    An open gap grows from one reading to the next.
    """
    found = []
    for index in sorted({thread.index for sample in samples for thread in sample.value.threads}):
        told = [(sample, thread) for sample in samples for thread in sample.value.threads if thread.index == index]
        for at, (sample, thread) in enumerate(told):
            gap_ns, before = thread.gap_max_ns, told[max(0, at - 1)]
            grows = at + 1 < len(told) and told[at + 1][1].gap_max_ns > gap_ns
            if gap_ns > bound_ns and not grows and (at == 0 or before[1].gap_max_ns != gap_ns):
                found.append((thread, sample, before[0].start_ns - gap_ns))
    return sorted(found, key=lambda gap: -gap[0].gap_max_ns)


def _too_late(case: Case, thread: CriticalThread, sample: Sample[ProbeStatus], since_ns: int) -> Complaint:
    gap_ns, bound_ns = thread.gap_max_ns, case.latency_bound_ns
    text = (
        f"critical thread {thread.index} (pid {thread.pid}) waited {millis(gap_ns)} between two allocations; "
        f"the bound is {millis(bound_ns)}"
    )
    excuse = excuse_wait(case, thread.pid, (since_ns, sample.end_ns), gap_ns, bound_ns)
    return unless_starved(Outcome.SLOW, text, excuse, (sample.seq,))
