"""Checks of emergency objects that are large: whether the page allocator can have them, and was short of them.

An emergency object is one block of the page allocator, of 2^order pages (spl_emergency_alloc() in OpenZFS,
module/os/linux/spl/spl-kmem-cache.c). There is a largest order, and where memory is fragmented blocks have to be made
first.
"""

from __future__ import annotations

from collections.abc import Iterator

from splvm.evidence.checks.case import Case, Complaint, millis, seqs
from splvm.evidence.formats.probestatus import ProbeStatus
from splvm.evidence.standstill import THREAD_NS
from splvm.evidence.verdict import Outcome, Reason

PAGE_SIZE = 4096

KIB = 1024


def order_of(size: int) -> int:
    """The order of the block that an object of so many bytes takes."""
    return max(0, (max(size, 1) - 1) // PAGE_SIZE).bit_length()


def blocks_for(status: ProbeStatus, when: str) -> int:
    """How many objects the free blocks are enough for."""
    order = order_of(status.config.size)
    blocks = status.blocks.get(when, ())
    return sum(count << (at - order) for at, count in enumerate(blocks) if at >= order)


def _last_when_still(case: Case) -> tuple[ProbeStatus, tuple[int, ...]] | None:
    """The last status of the window, if for long nobody had got an object by then, and the frames that show it."""
    start, end = case.window
    since = end - min(THREAD_NS, (end - start) // 2)
    samples = [s for s in case.probes("window", "window-end") if s.start_ns >= since]
    if len(samples) < 2 or "now" not in samples[-1].value.blocks:
        return None
    allocs = [sum(t.allocs for t in s.value.threads) for s in samples]
    return (samples[-1].value, seqs(samples)) if allocs[0] == allocs[-1] else None


def _largest(status: ProbeStatus) -> int:
    """Bytes of the largest block that the page allocator has."""
    return PAGE_SIZE << (len(status.blocks["now"]) - 1)


def check_order(case: Case) -> Iterator[Complaint]:
    """An object larger than the largest block cannot be had from the page allocator, whatever is free."""
    still = _last_when_still(case)
    if still is None or still[0].config.size <= _largest(still[0]):
        return
    reason = (
        f"no emergency object can be had: {still[0].config.size // KIB} KiB are more than the page allocator's largest "
        f"block, {_largest(still[0]) // KIB} KiB"
    )
    yield Complaint(Outcome.STALLED, Reason(reason, still[1]))


def check_made(case: Case) -> Iterator[Complaint]:
    """Where callers may have emergency objects and nobody gets one any more, it is said that there was no block."""
    still = _last_when_still(case)
    rows = [s.value for s in case.rows() if s.end_ns <= case.window[1]]
    if still is None or not rows or not case.flags(rows[-1]).get("deadlocked"):
        return
    if still[0].config.size > _largest(still[0]):
        return
    status, size = still[0], still[0].config.size
    there, needed = blocks_for(status, "now"), status.config.threads * status.config.objects
    if there < needed:
        reason = (
            f"nobody made blocks for objects of {size // KIB} KiB (order {order_of(size)}): at the end of the window "
            f"there were {there} of {needed} that a round takes, and {status.blocks['now'][0]} single pages"
        )
        yield Complaint(Outcome.STALLED, Reason(reason, still[1]))


def check_fragmented(case: Case) -> Iterator[Complaint]:
    """When the lever was pulled there were fewer free blocks than a round needs: they had to be made."""
    done = [s for s in case.timeline.probe if "after" in s.value.blocks and s.end_ns <= case.window[1]]
    if not done:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("nobody looked at what became of free memory"))
        return
    last = done[-1]
    config = last.value.config
    needed, there = config.threads * config.objects, blocks_for(last.value, "after")
    if there >= needed:
        reason = (
            f"memory was not fragmented: there were free blocks for {there} objects of {config.size // KIB} KiB, and a "
            f"round takes {needed}"
        )
        yield Complaint(Outcome.NOT_TRIGGERED, Reason(reason, (last.seq,)))


def because_fragmented(case: Case) -> Reason:
    """For the good verdict: what there was, and what it cost to make more."""
    samples = case.probes("hold", "window-end")
    first, last = samples[0].value, samples[-1].value
    grown = {bucket: count - first.latency.get(bucket, 0) for bucket, count in last.latency.items()}
    longest = max((bucket for bucket, count in grown.items() if count > 0), default=0)
    size = last.config.size // KIB
    reason = (
        f"free blocks for an object of {size} KiB (order {order_of(last.config.size)}): {blocks_for(last, 'before')} "
        f"before memory was fragmented, {blocks_for(last, 'after')} after; the longest allocation while the worker was "
        f"held took {millis(2**longest)} to {millis(2 ** (longest + 1))}"
    )
    return Reason(reason, seqs(samples))
