"""Checks of the work with memory that is no object of a cache: each step ends, promises are kept, SPL falls back."""

from __future__ import annotations

from collections.abc import Iterator

from splvm.evidence.checks.case import Case, Complaint, seconds, unless_starved
from splvm.evidence.checks.kinds import not_given_back
from splvm.evidence.checks.promises import broken
from splvm.evidence.checks.starvation import starved
from splvm.evidence.formats.probestatus import ProbeStatus
from splvm.evidence.formats.workstatus import Memory, Taker, WorkState
from splvm.evidence.timeline import Sample
from splvm.evidence.verdict import Outcome, Reason, Verdict

# A step takes some hundredths of a second; one that took so long, ns, never ends.
STANDS_NS = 1_000_000_000

# Rounds that each thread has to have made in the window, and large pieces that have to have come from vmalloc.
ROUNDS = 1
PIECES = 10


def _samples(case: Case, start: str, end: str) -> list[tuple[Sample[ProbeStatus], Memory]]:
    if start not in case.marks or end not in case.marks:
        return []
    return [(it, it.value.memory) for it in case.probes(start, end) if it.value.memory is not None]


def check_memory(case: Case) -> Iterator[Complaint]:
    """There was work, and it went on."""
    inside = _samples(case, "window", "window-end")
    if not inside:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("the probe tells nothing of memory that is no object of a cache"))
        return
    stuck = False
    for longest in _longest(inside).values():
        took, sample, taker = longest
        if took >= STANDS_NS:
            stuck = True
            marked = "is marked and " if taker.marked else ""
            text = (
                f"thread {taker.index} (pid {taker.pid}) {marked}is in step {taker.step[:40]} of its work with memory "
                f"for {seconds(took)}"
            )
            yield unless_starved(Outcome.STALLED, text, starved(case, "window", "window-end"), (sample.seq,))
    for before, after in zip(inside[0][1].takers, inside[-1][1].takers, strict=False):
        if after.rounds - before.rounds < ROUNDS and not stuck:
            text = f"thread {after.index} made {after.rounds - before.rounds} rounds with memory in the window"
            yield Complaint(Outcome.INCONCLUSIVE, Reason(text, (inside[-1][0].seq,)))


def _longest(inside: list[tuple[Sample[ProbeStatus], Memory]]) -> dict[int, tuple[int, Sample[ProbeStatus], Taker]]:
    """For each thread for how long it was in one step at most, ns, and where that was read."""
    found: dict[int, tuple[int, Sample[ProbeStatus], Taker]] = {}
    for sample, memory in inside:
        for taker in memory.takers:
            took = sample.value.now_ns - taker.since_ns if taker.step else 0
            if taker.index not in found or took > found[taker.index][0]:
                found[taker.index] = (took, sample, taker)
    return found


def check_memory_falls_back(case: Case) -> Iterator[Complaint]:
    """Where free memory lay in single pages large pieces came from vmalloc."""
    inside = _samples(case, "window", "window-end")
    if not inside:
        return
    seqs = (inside[0][0].seq, inside[-1][0].seq)
    if "after" not in inside[-1][0].value.blocks:
        yield Complaint(Outcome.NOT_TRIGGERED, Reason("free memory did not lie in single pages", seqs))
        return
    for before, after in zip(inside[0][1].takers, inside[-1][1].takers, strict=False):
        counts = {"vmem_alloc()": after.vmem_back - before.vmem_back}
        counts |= {"kmem_alloc()": after.kmem_back - before.kmem_back} if after.kmem_falls_back else {}
        for call, pieces in counts.items():
            if pieces < PIECES:
                text = f"{pieces} large pieces that {call} was asked for came from vmalloc: there were blocks of pages"
                yield Complaint(Outcome.NOT_TRIGGERED, Reason(text, seqs))


def check_memory_promises(case: Case) -> Iterator[Complaint]:
    """What SPL promises of such memory it keeps."""
    yield from broken((it.seq, it.value.memory.promises) for it in case.timeline.probe if it.value.memory is not None)


def check_memory_gone(case: Case) -> Iterator[Complaint]:
    """What was given back is the kernel's again."""
    if "gone" not in case.marks or "end" not in case.marks:
        return
    found = _samples(case, "gone", "end")
    if not found or found[-1][1].state is not WorkState.GONE:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("nobody looked after all memory had been given back"))
        return
    yield from not_given_back(case, "at the end")


def good_memory(case: Case) -> Verdict:
    inside = _samples(case, "window", "window-end")
    before, after = inside[0][1], inside[-1][1]
    pieces = sum(it.kmem + it.vmem for it in after.takers) - sum(it.kmem + it.vmem for it in before.takers)
    back = sum(it.kmem_back + it.vmem_back for it in after.takers)
    back -= sum(it.kmem_back + it.vmem_back for it in before.takers)
    asked = sum(it.asked for it in after.promises)
    reasons = (
        Reason(
            f"of {pieces} large pieces that were taken while free memory lay in single pages {back} came from vmalloc, "
            f"and SPL kept its promises, asked {asked} times",
            (inside[0][0].seq, inside[-1][0].seq),
        ),
        Reason("what was given back is the kernel's again"),
    )
    return Verdict(Outcome.HEALTHY, reasons)
