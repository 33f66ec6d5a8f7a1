"""Checks of a pool: its txgs go on while the worker is stuck."""

from __future__ import annotations

from collections.abc import Iterator

from splvm.evidence.checks.case import HOLE_NS, Case, Complaint, seconds, seqs, unless_starved
from splvm.evidence.checks.starvation import excuse_standstill
from splvm.evidence.formats.txgs import STATES, Txgs
from splvm.evidence.standstill import TXG_NS
from splvm.evidence.timeline import Sample, between, widest_gap_ns
from splvm.evidence.verdict import Outcome, Reason

# Name of the pool (images/zfs/zfs).
POOL = "tank"

# CPU time with which a guest syncs a txg, whatever else it does, ns: measured were up to 0.1 s.
_ENOUGH_NS = 2_500_000_000


def check_txgs(case: Case) -> Iterator[Complaint]:
    """The pool was there throughout the window, and its txgs were synced one after the other."""
    start, end = case.window
    states = between(case.timeline.other.get("poolstate", ()), start, end)
    if not states:
        yield Complaint(Outcome.INCONCLUSIVE, Reason(f"nobody looked at the state of pool {POOL} in the window"))
    for state in states:
        if state.value.strip() != "ONLINE":
            reason = f"pool {POOL} was {state.value.strip()[:40]} at {seconds(state.start_ns)}"
            yield Complaint(Outcome.INCONCLUSIVE, Reason(reason, (state.seq,)))
            return
    samples = between(case.timeline.txgs, start, end)
    gap_ns = widest_gap_ns(samples, start, end)
    if len(samples) < 2 or gap_ns > HOLE_NS:
        reason = f"for {seconds(gap_ns)} of the window nobody looked at the txgs of pool {POOL}"
        yield Complaint(Outcome.INCONCLUSIVE, Reason(reason))
        return
    last = samples[-1]
    standing = _standing(case, last)
    stood_ns = last.end_ns - standing[0].start_ns
    if stood_ns >= min(TXG_NS, (end - start) * 4 // 5):
        under_way = "".join(f"; txg {txg.number} is {STATES[txg.state]}" for txg in last.value.under_way)
        text = f"pool {POOL}: no txg was synced for {seconds(stood_ns)} up to the end of the window{under_way}"
        why = excuse_standstill(case, standing[0].start_ns, last.end_ns, _ENOUGH_NS)
        yield unless_starved(Outcome.STALLED, text, why, seqs(standing))


def _standing(case: Case, last: Sample[Txgs]) -> list[Sample[Txgs]]:
    """The readings up to one of them in which the last synced txg was the same. It may have stood still before."""
    same = last.value.committed
    return [it for it in case.timeline.txgs if it.value.committed == same and it.end_ns <= last.end_ns]


def pool_gave_up(case: Case) -> bool:
    """Whether no txg was synced for so long up to the end of the window that the window may end early."""
    samples = between(case.timeline.txgs, *case.window)
    return bool(samples) and samples[-1].end_ns - _standing(case, samples[-1])[0].start_ns >= TXG_NS


def because_txgs(case: Case) -> Reason:
    """How many were synced in the window."""
    samples = between(case.timeline.txgs, *case.window)
    first, last = samples[0].value.committed, samples[-1].value.committed
    return Reason(f"pool {POOL}: {last - first} txgs were synced in the window, the last one is {last}", seqs(samples))
