"""Checks of how callers came out of their wait for the worker: woken by it, or by the timeout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

from splvm.evidence.checks.asked import parameters_of
from splvm.evidence.checks.case import Case, Check, Complaint, is_count, millis, seconds, seqs, unless_starved
from splvm.evidence.checks.growths import TIMEOUT_NS, slab_mib, takes_long
from splvm.evidence.checks.starvation import asleep, excuse, unwoken
from splvm.evidence.formats.histogram import difference
from splvm.evidence.formats.probestatus import ProbeStatus
from splvm.evidence.formats.slab import CacheRow
from splvm.evidence.timeline import Sample, between
from splvm.evidence.verdict import Outcome, Reason

T = TypeVar("T")

# Allocations in these latency buckets (powers of two, ns) waited for as long as the timeout (from 67 ms), or long, but
# less (from 8 ms). On a host that is busy long waits get rarer with their length. Where those as long as the timeout
# are many, and more than twice as many as the shorter ones, it is the timeout that ended them, and not the worker.
TIMEOUT_BUCKET = 26
LONG_BUCKET = 23
# And those that took a good part of it (from 33 ms).
HALF_BUCKET = 25
TIMEOUTS_AT_LEAST = 4
# A caller that sleeps for longer than this was not woken by the timeout of today. The kernel rounds such a timer up by
# an eighth at most (the timer wheel, kernel/time/timer.c).
SLEEP_NS = 3 * TIMEOUT_NS
# Waits that end late, and readings that show a caller asleep beside a worker that has nothing to do, from which on a
# wake-up is lost at times: no stock SPL showed either (docs/performance.md).
LOST_AT_LEAST = 2
# Threads that are ready to run, by CPU, from which on threads of the guest's own keep each other waiting for a CPU; and
# growths that are done while a caller waits, from which on they were for others.
CROWD = 2
OTHERS_AT_LEAST = 2
_CROWDED = (
    "of more threads than CPUs: each time the worker grew the cache for others meanwhile, or "
    f"{CROWD} threads for each CPU were ready to run"
)
_MILLIS = {bucket: f"{2**bucket // 1_000_000} ms" for bucket in (LONG_BUCKET, HALF_BUCKET, TIMEOUT_BUCKET)}


def check_quiet(case: Case) -> Iterator[Complaint]:
    """With nothing stuck, nobody times out and nobody takes an emergency object."""
    before_stop = case.marks.get("final", case.window[1])
    probes = [s for s in case.timeline.probe if s.end_ns <= before_stop]
    rows = case.rows()
    early, excuse = weigh_timeouts(case, 0, before_stop)
    if not early and explain_timeouts(case, 0, before_stop):
        # because_in_time() tells of it. A busy host makes it worse, and explains no more than that.
        return
    if probes and probes[-1].value.live.emergency_total:
        count = probes[-1].value.live.emergency_total
        text = f"{count} emergency objects were handed out although nothing held the worker{early}"
        yield unless_starved(Outcome.SLOW, text, excuse, (probes[-1].seq,))
    late = next((s for s in rows if s.value.emergency.dlock), None)
    if late is not None:
        text = f"{late.value.emergency.dlock} callers timed out although nothing held the worker{early}"
        yield unless_starved(Outcome.SLOW, text, excuse, (late.seq,))
    if rows and not rows[-1].value.slab.max:
        yield Complaint(Outcome.NOT_TRIGGERED, Reason("the cache never grew", (rows[-1].seq,)))


def weigh_timeouts(case: Case, start_ns: int, end_ns: int) -> tuple[str, str]:
    """What shows that callers who timed out had not waited for it, and why the guest cannot be blamed for them.

    Both are of the time between two moments, and empty if there is no such thing; the first rules out the second.
    A starved host delays the worker, so that callers time out. But then they have waited, on the guest's own clock.
    """
    probes = between(case.timeline.probe, start_ns, end_ns)
    rows = between(case.rows(), start_ns, end_ns)
    early = _came_early(probes, rows)
    if early:
        return early, ""
    excuses = [excuse(case, since_ns, until_ns) for since_ns, until_ns in _late(case, start_ns, end_ns)]
    return "", excuses[0] if excuses and all(excuses) else ""


def because_in_time(case: Case) -> Reason:
    """That nobody timed out, or why those who did say nothing of SPL."""
    row = case.rows()[-1]
    count = row.value.emergency.dlock
    if not count:
        return Reason(f"nobody timed out (dlock {count}), and the slab file agrees with the probe", (row.seq,))
    told = explain_timeouts(case, 0, case.marks.get("final", case.window[1]))
    return Reason(f"{count} callers timed out, {told}; the slab file agrees with the probe", (row.seq,))


def explain_timeouts(case: Case, start_ns: int, end_ns: int) -> str:
    """Why callers who timed out between two moments, all of them, say nothing of SPL; empty if they do.

    Either there were too many threads for the guest's CPUs each time, or slabs are so large that the worker was at work
    on one for as long as the timeout lasts.
    """
    rises = _late(case, start_ns, end_ns)
    crowded = {rise for rise in rises if _are_too_many(case, rise)}
    long = {rise for rise in rises if rise not in crowded and takes_long(case, rise[1])}
    # A host that is busy leaves out the readings that would show some of them.
    if not crowded | long or not all(rise in crowded | long or excuse(case, *rise) for rise in rises):
        return ""
    why = [
        *([_CROWDED] if crowded else []),
        *([f"while the worker was at work on a slab of {slab_mib(case):.1f} MiB"] if long else []),
    ]
    return ", or ".join(why)


def _are_too_many(case: Case, when: tuple[int, int]) -> bool:
    """Whether there are more critical threads than CPUs, and between two moments they were in each other's way.

    A worker that waits for a CPU is late. A caller that is woken and waits for one finds no object any more, and that
    the cache grows again.
    """
    cpus = parameters_of(case).get("cpus")
    if not is_count(cpus) or not cpus or case.timeline.probe[-1].value.config.threads <= cpus:
        return False
    ready = (sum(task.state == "R" for task in sample.value) for sample in between(case.timeline.tasks, *when))
    told = [sample.value.growth for sample in between(case.timeline.probe, *when)]
    done = [growth.done for growth in told if growth is not None]
    return max(ready, default=0) >= CROWD * cpus or (len(done) > 1 and done[-1] - done[0] >= OTHERS_AT_LEAST)


def _late(case: Case, start_ns: int, end_ns: int) -> list[tuple[int, int]]:
    """Between which moments callers waited that timed out, or took an emergency object."""
    rises = _rises(between(case.rows(), start_ns, end_ns), lambda row: row.emergency.dlock)
    rises += _rises(between(case.timeline.probe, start_ns, end_ns), lambda probe: probe.live.emergency_total)
    return [(since_ns - TIMEOUT_NS, until_ns) for since_ns, until_ns in rises]


def _rises(samples: Sequence[Sample[T]], count: Callable[[T], int | None]) -> list[tuple[int, int]]:
    """Between which readings a counter went up."""
    steps = pairwise(samples)
    return [(a.start_ns, b.end_ns) for a, b in steps if (count(b.value) or 0) > (count(a.value) or 0)]


def _came_early(probes: Sequence[Sample[ProbeStatus]], rows: Sequence[Sample[CacheRow]]) -> str:
    """Far more callers timed out than there are allocations that took a good part of the timeout.

    On a starved guest the timeout may be shorter than it should: when the CPU that keeps the kernel's time stands
    still, that time lags, and catches up at once (tick_do_update_jiffies64(), kernel/time/tick-sched.c). But then most
    of those who time out had begun to wait when it stopped, and the rest of it is left for the others.
    """
    if not probes or not rows:
        return ""
    first, last = probes[0].value, probes[-1].value
    timeouts = (rows[-1].value.emergency.dlock or 0) - (rows[0].value.emergency.dlock or 0)
    lasted = difference(first.latency, last.latency)
    for thread in last.threads:
        if 0 < thread.alloc_since_ns < last.now_ns:
            bucket = (last.now_ns - thread.alloc_since_ns).bit_length() - 1
            lasted[bucket] = lasted.get(bucket, 0) + 1
    long = {bucket: count for bucket, count in lasted.items() if bucket >= HALF_BUCKET}
    # One that took several times as long may have timed out as often.
    possible = sum(count << (bucket - HALF_BUCKET) for bucket, count in long.items())
    if timeouts < TIMEOUTS_AT_LEAST or timeouts <= 2 * possible:
        return ""
    return (
        f": {timeouts} timed out, and only {sum(long.values())} allocations took {_MILLIS[HALF_BUCKET]} or more, "
        "so they did not wait for the worker"
    )


def check_slept(case: Case) -> Iterator[Complaint]:
    """Nobody sleeps for one growth of the cache for longer than SPL's timeout lasts.

    A thread that sleeps is not ready to run, so it is not the host that keeps it: of the sleep only that counts which
    no virtual CPU's standstill can have added.
    """
    for thread in case.timeline.probe[-1].value.threads if case.timeline.probe else ():
        least_ns, since_ns, until_ns = asleep(case, thread.pid, (case.pulled_ns, case.window[1]))
        if least_ns > SLEEP_NS:
            samples = between(case.timeline.tasks, since_ns, until_ns)
            text = (
                f"critical thread {thread.index} (pid {thread.pid}) slept for {millis(until_ns - since_ns)} or more, "
                f"from {seconds(since_ns)} on, for one growth of the cache; SPL's timeout is {millis(TIMEOUT_NS)}"
            )
            yield Complaint(Outcome.SLOW, Reason(text, seqs(samples)))
            return


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
        when = case.marks[start], case.marks[end]
        if seen is not None and (unwoken(case, *when) >= TIMEOUTS_AT_LEAST or not _are_too_many(case, when)):
            text = f"callers are not woken: between {start} and {end}, {seen[1]}"
            excused = _excuse_late(case, case.marks[start], case.marks[end], seen[0])
            yield unless_starved(outcome, text, excused, seqs(samples))
        elif (lost := _lost(case, case.marks[start], case.marks[end], first, last)) is not None:
            yield Complaint(outcome, Reason(f"wake-ups are lost: between {start} and {end}, {lost}", seqs(samples)))

    return check


def _lost(case: Case, start_ns: int, end_ns: int, first: ProbeStatus, last: ProbeStatus) -> str | None:
    """Some callers slept on after the growth had ended, until the timeout woke them, and readings show them asleep."""
    woken = difference(first.woken, last.woken)
    late = {bucket: count for bucket, count in woken.items() if bucket >= TIMEOUT_BUCKET}
    count, total = sum(late.values()), sum(woken.values())
    if count < LOST_AT_LEAST or (seen := unwoken(case, start_ns, end_ns)) < LOST_AT_LEAST:
        return None
    # Where threads are in each other's way, a worker that was just made may be at work that nobody has listed yet.
    if _are_too_many(case, (start_ns, end_ns)):
        return None
    lost_ns = sum(number << bucket for bucket, number in late.items())
    share = lost_ns / ((end_ns - start_ns) * max(1, last.config.threads))
    return (
        f"{count} of {total} that slept until the worker had grown the cache came back {_MILLIS[TIMEOUT_BUCKET]} "
        f"or more after that; {seen} readings show one asleep beside a worker that has nothing to do, and {share:.1%} "
        "of the threads' time went there"
    )


def _excuse_late(case: Case, start_ns: int, end_ns: int, late: int) -> str:
    """Why the guest cannot be blamed for callers that came back late. Those that nobody woke are not the host's."""
    if unwoken(case, start_ns, end_ns) >= TIMEOUTS_AT_LEAST:
        return ""
    # All threads may have been late at once.
    threads = max(1, case.timeline.probe[-1].value.config.threads)
    return excuse(case, start_ns, end_ns, late * (1 << TIMEOUT_BUCKET) // threads)


def _slept_on(first: ProbeStatus, last: ProbeStatus) -> tuple[int, str] | None:
    """Of the callers that slept for a growth, most were still asleep when it had long ended."""
    woken = difference(first.woken, last.woken)
    late, total = sum(count for bucket, count in woken.items() if bucket >= TIMEOUT_BUCKET), sum(woken.values())
    if late < TIMEOUTS_AT_LEAST or late <= total - late:
        return None
    return late, (
        f"{late} of {total} that slept until the worker had grown the cache came back {_MILLIS[TIMEOUT_BUCKET]} "
        "or more after that, as late as by the timeout"
    )


def _took_as_long(first: ProbeStatus, last: ProbeStatus) -> tuple[int, str] | None:
    """The same of a probe that did not count who slept: by how long all allocations took."""
    grown = difference(first.latency, last.latency)
    timeouts = sum(count for bucket, count in grown.items() if bucket >= TIMEOUT_BUCKET)
    shorter = sum(count for bucket, count in grown.items() if LONG_BUCKET <= bucket < TIMEOUT_BUCKET)
    if timeouts < TIMEOUTS_AT_LEAST or timeouts <= 2 * shorter:
        return None
    return timeouts, (
        f"{timeouts} allocations took {_MILLIS[TIMEOUT_BUCKET]} or more, as long as the timeout, and only {shorter} "
        f"took {_MILLIS[LONG_BUCKET]} to that"
    )
