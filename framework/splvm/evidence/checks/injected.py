"""Checks of injected faults: whether there were any, and what is said of them.

The kernel lets page allocations of marked tasks fail (images/slabprobe/fail.c), as often as it was told to and no more.
"""

from __future__ import annotations

from collections.abc import Iterator

from splvm.evidence.checks.case import Case, Complaint, millis, seqs
from splvm.evidence.timeline import between
from splvm.evidence.verdict import Outcome, Reason


def check_injected(case: Case) -> Iterator[Complaint]:
    """Allocations failed before the end of the window, as many as were asked for, and all of them were counted."""
    samples = between(case.timeline.probe, case.pulled_ns, case.window[1])
    if not samples:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("nobody looked at the faults"))
        return
    last = samples[-1]
    fail, asked = last.value.fail, _asked(case)
    if not fail.injected:
        reason = f"no allocation was made to fail, although {fail.marked} were open to it"
        yield Complaint(Outcome.NOT_TRIGGERED, Reason(reason, (last.seq,)))
    elif fail.missed or isinstance(asked, bool) or fail.injected != asked:
        reason = (
            f"{fail.injected} allocations failed before the end of the window, and {asked} were to; of {fail.missed} "
            "it is not known"
        )
        yield Complaint(Outcome.INCONCLUSIVE, Reason(reason, (last.seq,)))


def _asked(case: Case) -> object:
    """How many allocations the kernel was told to let fail."""
    faults = case.evidence.facts.get("faults")
    return faults.get("times") if isinstance(faults, dict) else None


def because_faults(case: Case) -> Reason:
    """What failed, and what callers noticed of it."""
    start, end = case.pulled_ns, case.window[1]
    samples = between(case.timeline.probe, start, end)
    first, last = samples[0].value, samples[-1].value
    gap_ns = max(t.gap_max_ns for s in samples for t in s.value.threads)
    got = sum(t.allocs for t in last.threads) - sum(t.allocs for t in first.threads)
    return Reason(
        f"{last.fail.injected} page allocations were made to fail; no caller was refused, {len(last.threads)} critical "
        f"threads got {got} objects from then on, longest gap {millis(gap_ns)}",
        seqs(samples),
    )
