"""Checks of low memory: whether the guest was really short of it for as long as something is said about that.

The probe takes every free page down to the min watermark and goes on (images/slabprobe/pressure.c). Each time that it
finds none, memory is as low as it can be for everybody who may not reclaim.
"""

from __future__ import annotations

from collections.abc import Iterator

from splvm.evidence.checks.case import Case, Complaint, seconds, seqs
from splvm.evidence.checks.progress import SLICE_NS
from splvm.evidence.verdict import Outcome, Reason

_PAGE_KIB = 4

# Free pages that count as a use of the reserves, by the min watermark, and readings that have to show it: what comes in
# from the network is put into pages of the reserves too, for a moment.
_RESERVE_SHARE = 1.0
_USED_AT_LEAST = 2


def check_low(case: Case) -> Iterator[Complaint]:
    """In every second of the window memory was at its watermark, and nothing but that sprang the trap."""
    samples = case.probes("window", "window-end")
    if not samples:
        return
    last = samples[-1]
    if last.value.trap.induced:
        reason = f"{last.value.trap.induced} reclaims were induced: what sprang the trap was not low memory"
        yield Complaint(Outcome.INCONCLUSIVE, Reason(reason, (last.seq,)))
    start, end = case.window
    for begin in range(start, end - SLICE_NS + 1, SLICE_NS):
        inside = [s for s in samples if begin <= s.start_ns and s.end_ns <= begin + SLICE_NS]
        refused = {s.value.pressure.refused for s in inside}
        if len(refused) < 2 or not all(s.value.pressure.on for s in inside):
            reason = f"memory was not seen to be low between {seconds(begin)} and {seconds(begin + SLICE_NS)}"
            yield Complaint(Outcome.INCONCLUSIVE, Reason(reason, seqs(inside)))


def check_reserve(case: Case) -> Iterator[Complaint]:
    """While memory is kept low, the reserves stay where they are: SPL promises not to take its slabs from them.

    The reserves are for those who give memory back, and for interrupts. Whoever else finds no page above the min
    watermark waits for reclaim (__alloc_pages_slowpath(), mm/page_alloc.c).
    """
    if "press" not in case.marks:
        return
    samples = [s for s in case.probes("press", "window-end") if s.value.pressure.on and s.value.pressure.min]
    used = [s for s in samples if s.value.pressure.free < _RESERVE_SHARE * (s.value.pressure.min or 0)]
    if len(used) >= _USED_AT_LEAST:
        low = min(used, key=lambda sample: sample.value.pressure.free).value.pressure
        text = (
            f"the reserves of memory were used: {len(used)} of {len(samples)} readings have fewer free pages than the "
            f"min watermark ({low.min}), the lowest {low.free}"
        )
        yield Complaint(Outcome.SUSPECT, Reason(text, seqs(used)))


def because_low(case: Case) -> Reason:
    """How low memory was, and what reclaim got of it."""
    samples = case.probes("window", "window-end")
    first, last = samples[0].value.pressure, samples[-1].value.pressure
    free = sorted(s.value.pressure.free * _PAGE_KIB for s in samples)
    return Reason(
        f"memory was low throughout: {free[0]} to {free[-1]} KiB free in the readings, "
        f"{last.held * _PAGE_KIB // 1024} MiB taken; {last.refused - first.refused} times there was no page above the "
        f"watermark, and reclaim got {last.given - first.given} pages back",
        seqs(samples),
    )
