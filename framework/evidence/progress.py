"""Checks of the worker and of those who wait for it: whether it was stuck, and whether they went on."""

from __future__ import annotations

from collections.abc import Iterator

from framework.evidence.case import HOLE_NS, Case, Check, Complaint, held_worker, millis, seconds, seqs, starved
from framework.evidence.histogram import difference
from framework.evidence.probe import ProbeStatus
from framework.evidence.stacks import Task
from framework.evidence.timeline import Sample, between, widest_gap_ns
from framework.evidence.verdict import Outcome, Reason

# The window is looked at in slices of this length, ns: in each, every critical thread has to advance.
SLICE_NS = 1_000_000_000

# A critical thread that got nothing for this long up to the end of the window stands still, ns.
STALL_NS = 1_500_000_000

# Allocations in these latency buckets (powers of two, ns) waited for as long as SPL's timeout of HZ/10 (from 67 ms), or
# long, but less (from 8 ms): spl_cache_grow() in OpenZFS, module/os/linux/spl/spl-kmem-cache.c. On a host that is busy
# long waits get rarer with their length. Where those as long as the timeout are many, and more than twice as many as
# the shorter ones, it is the timeout that ended them, and not the worker.
TIMEOUT_BUCKET = 26
LONG_BUCKET = 23
TIMEOUTS_AT_LEAST = 4
_MILLIS = {bucket: f"{2**bucket // 1_000_000} ms" for bucket in (LONG_BUCKET, TIMEOUT_BUCKET)}


def check_stuck(case: Case) -> Iterator[Complaint]:
    """The same worker, on the same stack, without one context switch, in every reading of the window."""
    pid = held_worker(case)
    if pid is not None:
        yield from prove_stuck(case, pid)
        return
    none = all(not s.value.hold.worker for s in case.timeline.probe)
    lacking = ": this SPL has none, spl_cache_grow_work() is not in it" if none else ""
    yield Complaint(Outcome.NOT_TRIGGERED, Reason(f"the lever was pulled and no worker came to be held{lacking}"))


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


def _why_not_stuck(tasks: tuple[Task, ...], pid: int, first: Task | None) -> str | None:
    task = next((t for t in tasks if t.pid == pid), None)
    if task is None:
        return "it is not in the list of tasks"
    if task.state != "D":
        return f"its state is {task.state}, not D"
    if not task.frames:
        return "its stack cannot be read"
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
    if stood_ns >= min(STALL_NS, (end - start) // 2):
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
            excuse = starved(case)
            outcome = Outcome.INCONCLUSIVE if excuse else Outcome.SLOW
            yield Complaint(outcome, Reason(f"{name} got no object {at}{excuse}", seqs([s for s, _ in inside])))


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
    worst = max(((t.gap_max_ns, t, s) for s in samples for t in s.value.threads), key=lambda x: x[0], default=None)
    if worst is None or worst[0] <= case.latency_bound_ns:
        return
    gap_ns, thread, sample = worst
    excuse = starved(case)
    outcome = Outcome.INCONCLUSIVE if excuse else Outcome.SLOW
    yield Complaint(
        outcome,
        Reason(
            f"critical thread {thread.index} (pid {thread.pid}) waited {millis(gap_ns)} between two allocations; "
            f"the bound is {millis(case.latency_bound_ns)}{excuse}",
            (sample.seq,),
        ),
    )


def check_quiet(case: Case) -> Iterator[Complaint]:
    """With nothing stuck, nobody times out and nobody takes an emergency object."""
    before_stop = case.marks.get("final", case.window[1])
    probes = [s for s in case.timeline.probe if s.end_ns <= before_stop]
    rows = case.rows()
    excuse = starved(case)
    outcome = Outcome.INCONCLUSIVE if excuse else Outcome.SLOW
    if probes and probes[-1].value.live.emergency_total:
        count = probes[-1].value.live.emergency_total
        reason = f"{count} emergency objects were handed out although nothing held the worker{excuse}"
        yield Complaint(outcome, Reason(reason, (probes[-1].seq,)))
    late = next((s for s in rows if s.value.emergency.dlock), None)
    if late is not None:
        reason = f"{late.value.emergency.dlock} callers timed out although nothing held the worker{excuse}"
        yield Complaint(outcome, Reason(reason, (late.seq,)))
    if rows and not rows[-1].value.slab.max:
        yield Complaint(Outcome.NOT_TRIGGERED, Reason("the cache never grew", (rows[-1].seq,)))


def check_woken(start: str, end: str, outcome: Outcome) -> Check:
    """Callers are woken by the worker: their waits do not all last as long as the timeout."""

    def check(case: Case) -> Iterator[Complaint]:
        if start not in case.marks or end not in case.marks:
            return
        samples = case.probes(start, end)
        if len(samples) < 2:
            return
        first, last = samples[0].value, samples[-1].value
        seen = _slept_on(first, last) if last.growth is not None else _took_as_long(first, last)
        if seen is not None:
            excuse = starved(case, start, end)
            yield Complaint(
                Outcome.INCONCLUSIVE if excuse else outcome,
                Reason(f"callers are not woken: between {start} and {end}, {seen}{excuse}", seqs(samples)),
            )

    return check


def _slept_on(first: ProbeStatus, last: ProbeStatus) -> str | None:
    """Of the callers that slept for a growth, most were still asleep when it had long ended."""
    woken = difference(first.woken, last.woken)
    late, total = sum(count for bucket, count in woken.items() if bucket >= TIMEOUT_BUCKET), sum(woken.values())
    if late < TIMEOUTS_AT_LEAST or late <= total - late:
        return None
    return (
        f"{late} of {total} that slept until the worker had grown the cache came back {_MILLIS[TIMEOUT_BUCKET]} "
        "or more after that, as late as by the timeout"
    )


def _took_as_long(first: ProbeStatus, last: ProbeStatus) -> str | None:
    """The same of a probe that did not count who slept: by how long all allocations took."""
    grown = difference(first.latency, last.latency)
    timeouts = sum(count for bucket, count in grown.items() if bucket >= TIMEOUT_BUCKET)
    shorter = sum(count for bucket, count in grown.items() if LONG_BUCKET <= bucket < TIMEOUT_BUCKET)
    if timeouts < TIMEOUTS_AT_LEAST or timeouts <= 2 * shorter:
        return None
    return (
        f"{timeouts} allocations took {_MILLIS[TIMEOUT_BUCKET]} or more, as long as the timeout, and only {shorter} "
        f"took {_MILLIS[LONG_BUCKET]} to that"
    )
