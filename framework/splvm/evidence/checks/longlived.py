"""Checks of emergency objects that are kept: what a free costs, against how many of them there are.

SPL looks up each emergency object that is given back. As they came in 2012 they were in a list, and a look-up walked
it; in the tree of today its steps grow with the logarithm of their number.
"""

from __future__ import annotations

from collections.abc import Iterator

from splvm.evidence.checks.case import Case, Complaint
from splvm.evidence.formats.probestatus import Kept, ProbeStatus
from splvm.evidence.timeline import Sample
from splvm.evidence.verdict import Outcome, Reason

# Objects kept at the least, and how many times more with each step up.
FIRST = 10
STEP = 10

# Batches of frees that have to have been timed at each number of objects kept.
BATCHES_AT_LEAST = 10

# A free with the most objects kept may cost so many times what one with the fewest costs. From 20 to 10,010 objects the
# steps of a tree grow 3.1 times, as the logarithm, and more of its nodes are in no cache: measured was 3.6 to 5.0, with
# a list (variant list-walk) 42 to 57.
BOUND = 10.0


def cost_ns(kept: Kept) -> float:
    """Of one free: the median of the batches."""
    return kept.median_ns / max(kept.objects, 1)


def levels(keep: int) -> list[int]:
    """The numbers of objects kept at which frees are timed."""
    counts = [FIRST]
    while counts[-1] * STEP <= keep:
        counts.append(counts[-1] * STEP)
    return counts


def _last(case: Case) -> Sample[ProbeStatus] | None:
    """The last reading of the window."""
    samples = case.probes("window", "window-end")
    return samples[-1] if samples else None


def check_costs(case: Case) -> Iterator[Complaint]:
    """A free costs about the same, however many emergency objects are kept."""
    last = _last(case)
    if last is None:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("nobody looked at what frees cost"))
        return
    timed, asked = {kept.count: kept for kept in last.value.kept}, levels(last.value.config.keep)
    if len(asked) < 2 or not timed.keys() <= set(asked):
        reason = (
            f"the thread was to keep {last.value.config.keep} objects, and frees were timed with "
            f"{', '.join(map(str, timed)) or 'none'} kept: two numbers of {', '.join(map(str, asked))} are compared"
        )
        yield Complaint(Outcome.INCONCLUSIVE, Reason(reason, (last.seq,)))
        return
    for count in asked:
        batches = timed[count].batches if count in timed else 0
        if batches < BATCHES_AT_LEAST:
            reason = (
                f"with {count} emergency objects kept {batches} batches of frees were timed; {BATCHES_AT_LEAST} are "
                "asked for"
            )
            yield Complaint(Outcome.INCONCLUSIVE, Reason(reason, (last.seq,)))
            return
    few, many = timed[FIRST], timed[asked[-1]]
    if cost_ns(many) > BOUND * max(cost_ns(few), 1):
        # No excuse for a starved guest: these are medians of moments that took turns, and their ratio.
        reason = f"a free costs more the more emergency objects are kept: {told(last.value.kept)}; the bound is "
        yield Complaint(Outcome.SLOW, Reason(f"{reason}{BOUND:.0f} times", (last.seq,)))


def check_kept(case: Case) -> Iterator[Complaint]:
    """At rest the thread has all of them, in emergency objects."""
    if "audit" not in case.marks or "audit-end" not in case.marks:
        return
    resting = [s for s in case.probes("audit", "audit-end") if s.value.run.parked]
    if not resting:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("nobody looked at what the thread keeps at rest"))
    for sample in resting[-1:]:
        config, live = sample.value.config, sample.value.live
        if live.emergency < config.keep:
            reason = f"at rest {live.emergency} emergency objects were held; {config.keep} are asked for"
            yield Complaint(Outcome.NOT_TRIGGERED, Reason(reason, (sample.seq,)))


def told(kept: tuple[Kept, ...]) -> str:
    """What a free costs with each number kept, and how many times the first the last is."""
    each = ", ".join(f"{it.count}: {cost_ns(it) / 1000:.2f} us" for it in kept)
    return f"{each}, {cost_ns(kept[-1]) / max(cost_ns(kept[0]), 1):.1f} times"


def because_kept(case: Case) -> Reason:
    """For the good verdict."""
    last = _last(case)
    assert last is not None, "check_costs() was content"
    batches = min(it.batches for it in last.value.kept)
    reason = f"cost of a free by emergency objects kept (median of {batches} batches or more): {told(last.value.kept)}"
    return Reason(reason, (last.seq,))
