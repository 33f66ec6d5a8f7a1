"""Check of the magazines: objects come from that of the CPU, and only now and then from a slab.

SPL keeps objects of each cache at each CPU (spl_kmem_magazine_t). One that is given back goes there, and an allocation
that finds none there moves a batch (spl_cache_refill() in OpenZFS, module/os/linux/spl/spl-kmem-cache.c), under the
lock of the whole cache. The probe sees which it was.
"""

from __future__ import annotations

from collections.abc import Iterator

from splvm.evidence.checks.case import Case, Complaint, seqs
from splvm.evidence.formats.probestatus import ProbeStatus
from splvm.evidence.verdict import Outcome, Reason


def check_magazines(case: Case) -> Iterator[Complaint]:
    """What was given back comes from the magazine again, and what a growth brought comes in batches."""
    samples = case.probes("window", "window-end")
    if not samples:
        return
    first, last = samples[0].value, samples[-1].value
    # With a reap after every round nothing is there to come again; that is how all runs were before this was counted.
    reuses = last.config.reap_rounds != 1
    if first.magazine is None or last.magazine is None:
        if reuses:
            reason = "nobody counted which objects came from the magazines of the CPUs"
            yield Complaint(Outcome.INCONCLUSIVE, Reason(reason, seqs(samples)))
        return
    # Since loading: of two readings either may be in the middle of an allocation.
    reusable, reused = last.magazine.reusable, last.magazine.reused
    # Threads that share a CPU take each other's objects, so what one gave back need not be there. Batches are batches.
    shared = last.config.threads > last.magazine.cpus
    if reuses and not shared and not reusable:
        reason = "no object was given back to a magazine and asked for again"
        yield Complaint(Outcome.INCONCLUSIVE, Reason(reason, seqs(samples)))
    if not shared and reused < reusable:
        reason = (
            f"objects do not come from the magazines: of {reusable} that a thread had given back on the same CPU, "
            f"{reusable - reused} were not there when it asked again"
        )
        yield Complaint(Outcome.SLOW, Reason(reason, seqs(samples[-1:])))
    hits, refills = last.magazine.hits - first.magazine.hits, last.magazine.refills - first.magazine.refills
    # A slab has several objects and a batch is one of several, so each refill serves the next allocation too. Only the
    # last batch of a slab may be of one: whoever takes it waits for a growth before the rest (spl_cache_grow()).
    grown = _slabs(last) - _slabs(first)
    if hits + last.config.threads + grown < refills:
        reason = (
            f"objects do not come from the magazines: only {hits} of {hits + refills} allocations found one there; "
            f"a magazine holds {last.magazine.size} and is refilled with up to {last.magazine.refill}"
        )
        yield Complaint(Outcome.SLOW, Reason(reason, seqs(samples)))


def _slabs(status: ProbeStatus) -> int:
    """Slabs that the cache grew by; 0 if nobody counted."""
    return (status.growth.slabs or 0) if status.growth is not None else 0


def because_magazines(case: Case) -> tuple[Reason, ...]:
    """What a good run says of them; nothing if the probe did not count."""
    samples = case.probes("window", "window-end")
    first, last = samples[0].value, samples[-1].value
    if first.magazine is None or last.magazine is None:
        return ()
    hits, refills = last.magazine.hits - first.magazine.hits, last.magazine.refills - first.magazine.refills
    grew = last.magazine.grew - first.magazine.grew
    text = f"{hits} of {hits + refills} objects came from the magazines of the CPUs"
    return (Reason(f"{text}; of {refills} refills {grew} had the cache grow", seqs(samples)),)
