"""The probe's status against itself, and the slab file's row of its cache: what each says twice agrees.

A reading is not made at one moment: threads go on while they are counted. So what is counted in two places is compared
with the readings before and after, between which it was.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from itertools import pairwise

from splvm.evidence.checks.case import Case, seconds
from splvm.evidence.formats.probestatus import ProbeStatus, RunState
from splvm.evidence.formats.slab import CacheRow, Layout
from splvm.evidence.timeline import Sample
from splvm.evidence.verdict import Reason

# See `_stuck`.
_Stuck = tuple[str, int, int]

# What is counted twice (images/slabprobe/threads.c, service.c): its name, and both counts.
_TWICE: Mapping[str, tuple[Callable[[ProbeStatus], int], Callable[[ProbeStatus], int]]] = {
    "allocations, by how long they took and by thread": (
        lambda status: sum(status.latency.values()),
        lambda status: sum(thread.allocs for thread in status.threads),
    ),
    "objects, by where they came from and by thread": (
        lambda status: _came(status),
        lambda status: sum(thread.allocs for thread in status.threads) if status.magazine is not None else 0,
    ),
    "emergency objects, of all and by thread": (
        lambda status: status.live.emergency_total,
        lambda status: sum(thread.emergency for thread in status.threads),
    ),
    "refills that slept, by when they were woken and by how long they took": (
        lambda status: sum(status.woken.values()),
        lambda status: sum(status.waited.values()),
    ),
}

# Columns that a layout of the slab file does not have.
_LACKING: Mapping[Layout, frozenset[str]] = {
    Layout.BEFORE: frozenset({"dlock", "alloc", "max"}),
    Layout.AUGUST_2012: frozenset({"dlock"}),
}


def counted_twice(case: Case) -> Iterator[Reason]:
    """Counts of one thing in two places of the status are the same; the first one of each kind that is not."""
    samples = [sample for sample in case.timeline.probe if sample.value.threads]
    for name, (told, counted) in _TWICE.items():
        for before, now, after in zip(samples, samples[1:], samples[2:], strict=False):
            # Each thread may be between its two counts.
            threads = len(now.value.threads)
            low, high = counted(before.value) - threads, counted(after.value) + threads
            if not low <= told(now.value) <= high:
                reason = f"the probe counts {name}: {told(now.value)} and {counted(now.value)} at"
                yield Reason(f"{reason} {seconds(now.start_ns)}", (now.seq,))
                break


def _came(status: ProbeStatus) -> int:
    """Objects from a magazine, from a refill of it, and from the emergency path (images/slabprobe/service.c)."""
    magazine = status.magazine
    return magazine.hits + magazine.refills + status.live.emergency_total if magazine is not None else 0


def parts_of_refills(case: Case) -> Iterator[Reason]:
    """Who waited for a growth was one whose refill grew the cache, and an object that was there again was a hit."""
    for before, now in pairwise(case.timeline.probe):
        magazine, then = now.value.magazine, before.value.magazine
        if magazine is None or then is None:
            continue
        # What is counted first is read again later.
        pairs = (
            ("waits for a growth", sum(before.value.waited.values()), "refills during one", magazine.grew),
            ("refills during a growth", then.grew, "refills", magazine.refills),
            ("objects that were there again", then.reused, "objects from magazines", magazine.hits),
            ("objects that were there again", then.reused, "objects that had to be", magazine.reusable),
        )
        if wrong := next((it for it in pairs if it[1] > it[3]), None):
            text = f"the probe counts {wrong[1]} {wrong[0]} and {wrong[3]} {wrong[2]} at"
            yield Reason(f"{text} {seconds(now.start_ns)}", (before.seq, now.seq))
            return


def held_at_rest(case: Case) -> Iterator[Reason]:
    """While all threads are parked, or stopped, they hold what they took and did not give back."""
    for sample in case.timeline.probe:
        status = sample.value
        resting = {RunState.PARKED: status.run.parked, RunState.STOPPED: status.run.stopped}
        if resting.get(status.run.state) != len(status.threads):
            continue
        taken = sum(thread.allocs - thread.frees for thread in status.threads)
        live = status.live.slab + status.live.emergency
        if live != taken:
            reason = f"at rest at {seconds(sample.start_ns)} threads had taken {taken} objects more than they gave back"
            yield Reason(f"{reason}, and the probe says that they hold {live}", (sample.seq,))
            return


def flag_bits(case: Case) -> Iterator[Reason]:
    """The bits that flags are read by are bits, and stay the same."""
    probe = case.timeline.probe
    changed = next((now for before, now in pairwise(probe) if before.value.bits != now.value.bits), None)
    if changed is not None:
        yield Reason(f"the flag bits at {seconds(changed.start_ns)} are other ones than before", (changed.seq,))
    other = next((now for before, now in pairwise(probe) if before.value.kernel != now.value.kernel), None)
    if other is not None:
        yield Reason(f"the kernel's bits at {seconds(other.start_ns)} are other ones than before", (other.seq,))
    kernel = probe[0].value.kernel if probe else None
    if kernel is not None and any(bit <= 0 or bit & (bit - 1) for bit in (kernel.noio, kernel.io, kernel.fs)):
        told = f"noio={kernel.noio:#x} io={kernel.io:#x} fs={kernel.fs:#x}"
        yield Reason(f"the kernel's bits are not one bit each: {told}", (probe[0].seq,))
    bits = list(probe[0].value.bits.values()) if probe else []
    if any(bit <= 0 or bit & (bit - 1) for bit in bits) or len(set(bits)) < len(bits):
        told = " ".join(f"{name}={bit:#x}" for name, bit in probe[0].value.bits.items())
        yield Reason(f"the probe's flag bits are not one bit each: {told[:200]}", (probe[0].seq,))


def lasting_flags(case: Case) -> Iterator[Reason]:
    """What the flags of the probe's cache say in one reading they say in each, as long as nobody changes it.

    Of what sort the cache is never changes. Whether it grows, and whether callers time out, only the end of the growth
    changes, and that does not come as long as the worker is held or caught.
    """
    rows = case.rows() if case.timeline.probe else []
    bits = case.timeline.probe[-1].value.bits if rows else {}
    moving = bits.get("deadlocked", 0) | bits.get("growing", 0) | bits.get("reaping", 0)
    changed = next(((a, b) for a, b in pairwise(rows) if (a.value.flags ^ b.value.flags) & ~moving), None)
    if changed is not None:
        before, now = changed
        reason = (
            f"the cache's flags at {seconds(now.start_ns)} are {now.value.flags:#x}, before {before.value.flags:#x}"
        )
        yield Reason(f"{reason}: it has become one of another sort", (before.seq, now.seq))
    shown: set[tuple[str, _Stuck]] = set()
    for stuck, row in _rows_while_stuck(case):
        for name in ("growing", "deadlocked"):
            if row.value.flags & bits[name]:
                shown.add((name, stuck))
            # An emergency object is for a caller that timed out, and callers time out while the cache grows.
            elif row.value.emergency.alloc or (name, stuck) in shown:
                reason = f"the worker is stuck, and the cache's flags at {seconds(row.start_ns)}, {row.value.flags:#x},"
                yield Reason(f"{reason} do not show that it is {name}", (row.seq,))
                return


def _rows_while_stuck(case: Case) -> Iterator[tuple[_Stuck, Sample[CacheRow]]]:
    """The rows of the window and later that were read while one and the same worker was held or caught."""
    probe = case.timeline.probe
    starts, ends = [sample.start_ns for sample in probe], [sample.end_ns for sample in probe]
    for row in case.rows() if "window" in case.marks else ():
        before, after = bisect_right(ends, row.start_ns) - 1, bisect_left(starts, row.end_ns)
        if row.start_ns < case.marks["window"] or before < 0 or after == len(probe):
            continue
        stuck = _stuck(probe[before].value)
        if stuck is not None and stuck == _stuck(probe[after].value):
            yield stuck, row


def _stuck(status: ProbeStatus) -> _Stuck | None:
    """Who is held or caught, and how many were let go before; None if it is nobody, or a critical thread itself."""
    hold, trap = status.hold, status.trap
    if hold.held > 0:
        return "held", hold.released_ns, 0
    if trap.waiting > 0 and trap.pid not in {thread.pid for thread in status.threads}:
        return "caught", trap.pid, trap.waited + trap.let_go
    return None


def times_over(case: Case) -> Iterator[Reason]:
    """No time in a status is of later than its reading, and no allocation is under way for longer than the gap says."""
    for sample in case.timeline.probe:
        status = sample.value
        threads = status.threads
        times = [status.hold.since_ns, status.hold.released_ns, status.trap.since_ns, status.trap.released_ns]
        times += [time for thread in threads for time in (thread.alloc_since_ns, thread.last_ns)]
        if max(times) > sample.end_ns:
            reason = f"the status that was read at {seconds(sample.start_ns)} has a time of {seconds(max(times))}"
            yield Reason(reason, (sample.seq,))
            return
        for thread in threads:
            # One that began after the last allocation had ended is a part of the gap.
            if thread.alloc_since_ns and thread.gap_max_ns < status.now_ns - max(thread.alloc_since_ns, thread.last_ns):
                reason = f"critical thread {thread.index} waits for an object since {seconds(thread.alloc_since_ns)}"
                told = f"its longest gap is {seconds(thread.gap_max_ns)} at {seconds(sample.start_ns)}"
                yield Reason(f"{reason}, and {told}", (sample.seq,))
                return
            if thread.gap_max_ns > thread.gap_total_max_ns:
                reason = f"critical thread {thread.index}: a gap is longer than the longest one of all"
                yield Reason(f"{reason} at {seconds(sample.start_ns)}", (sample.seq,))
                return


def lever_let_go(case: Case) -> Iterator[Reason]:
    """Once a worker is held, one is held until the harness lets it go."""
    if "hold" not in case.marks or "window-end" not in case.marks:
        return
    until = case.marks.get("release", case.marks["window-end"])
    inside = [s for s in case.timeline.probe if case.marks["hold"] <= s.start_ns and s.end_ns <= until]
    held = next((at for at, sample in enumerate(inside) if sample.value.hold.held > 0), len(inside))
    loose = next((sample for sample in inside[held:] if sample.value.hold.held < 1), None)
    if loose is not None:
        yield Reason(f"the probe says that it held no worker at {seconds(loose.start_ns)}", (loose.seq,))


def not_running(case: Case) -> Iterator[Reason]:
    """Threads that were asked to run run throughout the window."""
    if "window" not in case.marks or "window-end" not in case.marks:
        return
    for sample in case.probes("window", "window-end"):
        run = sample.value.run
        if sample.value.threads and (run.state is not RunState.RUNNING or run.parked):
            reason = f"the threads were {run.state} at {seconds(sample.start_ns)}, in the window, {run.parked} of them"
            yield Reason(f"{reason} parked", (sample.seq,))
            return


def listed_twice(case: Case) -> Iterator[Reason]:
    """Nobody is twice in one list of tasks."""
    for sample in case.timeline.tasks:
        pids = [task.pid for task in sample.value]
        if len(set(pids)) < len(pids):
            yield Reason(f"the tasks that were read at {seconds(sample.start_ns)} have one twice", (sample.seq,))
            return


def empty_columns(case: Case) -> Iterator[Reason]:
    """The row of the probe's cache has a number in each column, since its slabs are SPL's own."""
    layouts = {sample.seq: sample.value.layout for sample in case.timeline.slab}
    for sample in case.rows() if case.timeline.probe else ():
        if case.flags(sample.value).get("kvmem") and (empty := _empty(sample, layouts[sample.seq])):
            reason = f"slab file at {seconds(sample.start_ns)}: the probe's cache has no number in {', '.join(empty)}"
            yield Reason(reason, (sample.seq,))
            return


def _empty(sample: Sample[CacheRow], layout: Layout) -> list[str]:
    row, lacking = sample.value, _LACKING.get(layout, frozenset())
    found = [name for name in ("size", "alloc", "slabsize", "objsize") if getattr(row, name) is None]
    for group in ("slab", "object"):
        usage = getattr(row, group)
        found += [f"{group}.{field.name}" for field in fields(usage) if getattr(usage, field.name) is None]
    told = {field.name: getattr(row.emergency, field.name) for field in fields(row.emergency)}
    return found + [f"emergency.{name}" for name, value in told.items() if value is None and name not in lacking]
