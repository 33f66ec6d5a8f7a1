"""Which verdict is expected of a scenario on a variant of SPL, and why: a table, one cell for each pair.

A verdict may depend on the kernel, but only through what the kernel does, and that is measured (traits.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from splvm.evidence.verdict import Outcome
from splvm.run.expected import STOCK, Yardstick


@dataclass(frozen=True, slots=True)
class Expectation:
    """One cell."""

    outcome: Outcome
    # One sentence.
    why: str
    # What is expected instead where vmalloc ignores GFP_NOIO for page tables; None: the same.
    ignoring: Outcome | None = None

    def on(self, *, honours: bool) -> Outcome:
        """The verdict that is expected on a kernel.

        :param honours: whether its vmalloc allocates page tables with the caller's flags.
        """
        return self.outcome if self.ignoring is None or honours else self.ignoring

    def to_json(self) -> dict[str, object]:
        """As `splvm variants --json` has it."""
        return {"outcome": self.outcome, "where_noio_is_ignored": self.ignoring or self.outcome, "why": self.why}


EXPECTED: Mapping[tuple[str, str], Expectation] = {
    ("nominal", "stock"): Expectation(Outcome.HEALTHY, "the worker is fast, so nobody times out"),
    ("nominal", "no-emergency"): Expectation(
        Outcome.HEALTHY, "emergency objects are for a worker that is stuck; without one they must not matter"
    ),
    ("nominal", "unscoped"): Expectation(
        Outcome.HEALTHY, "marks and flags only matter to an allocation that reclaims, and memory is not low"
    ),
    ("nominal", "sync-grow"): Expectation(
        Outcome.HEALTHY, "callers that grow the cache themselves wait for nobody, and memory is not low"
    ),
    ("held-worker", "stock"): Expectation(Outcome.PROGRESS, "callers time out and go on with emergency objects"),
    ("held-worker", "no-emergency"): Expectation(Outcome.STALLED, "callers wait for the worker, and it is held"),
    ("held-worker", "unscoped"): Expectation(
        Outcome.PROGRESS, "timeout and emergency objects are those of stock, and the lever does not reclaim"
    ),
    ("held-worker", "sync-grow"): Expectation(
        Outcome.NOT_TRIGGERED, "there is no worker that the lever could hold: callers call vmalloc themselves"
    ),
    ("zfs-held-worker", "stock"): Expectation(
        Outcome.PROGRESS, "buffers for records of 128 KiB come as emergency objects, so writers and txgs go on"
    ),
    ("zfs-held-worker", "no-emergency"): Expectation(
        Outcome.STALLED, "whoever writes to the pool waits for a buffer within its transaction, and the txg for it"
    ),
    ("zfs-held-worker", "unscoped"): Expectation(
        Outcome.PROGRESS, "timeout and emergency objects are those of stock, for ZFS too, and memory is not low"
    ),
    ("zfs-held-worker", "sync-grow"): Expectation(
        Outcome.NOT_TRIGGERED, "there is no worker to hold: ZFS calls vmalloc for its buffers itself"
    ),
    ("zfs-held-worker", "list-walk"): Expectation(
        Outcome.PROGRESS, "ZFS has a few emergency buffers at a time, and a walk of the list is short"
    ),
    ("grow-fails", "stock"): Expectation(
        Outcome.HEALTHY, "a growth that fails is asked for again by whoever waited for it, until one succeeds"
    ),
    ("grow-fails", "no-emergency"): Expectation(
        Outcome.STALLED, "a growth that fails wakes nobody, and without a timeout nobody asks for another one"
    ),
    ("grow-fails", "unscoped"): Expectation(Outcome.HEALTHY, "marks and flags do not matter to a fault"),
    ("grow-fails", "sync-grow"): Expectation(
        Outcome.NOT_TRIGGERED, "there is no worker whose growth could fail: callers call vmalloc themselves"
    ),
    ("emergency-fails", "stock"): Expectation(
        Outcome.PROGRESS, "a caller whose emergency object cannot be had tries again until it can"
    ),
    ("emergency-fails", "no-emergency"): Expectation(
        Outcome.STALLED, "callers wait for the worker, and never come to ask for an emergency object"
    ),
    ("emergency-fails", "unscoped"): Expectation(
        Outcome.PROGRESS, "timeout and emergency objects are those of stock, and the faults do not reclaim"
    ),
    ("emergency-fails", "sync-grow"): Expectation(
        Outcome.NOT_TRIGGERED, "without a worker nothing is held, and so nobody comes to ask for an emergency object"
    ),
    ("reclaim-cycle", "stock"): Expectation(
        Outcome.IMMUNE, "the worker is marked (PF_MEMALLOC_NOIO), which holds for page tables on every kernel"
    ),
    ("reclaim-cycle", "no-emergency"): Expectation(
        Outcome.IMMUNE,
        "marks and flags are those of stock, so the worker is never stuck and its callers need no fallback",
    ),
    ("reclaim-cycle", "unscoped"): Expectation(
        Outcome.IMMUNE,
        "vmalloc passes the flags on to its page tables; where it ignores them, the worker is caught and emergency "
        "objects carry the transactions until it comes free",
        ignoring=Outcome.PROGRESS,
    ),
    ("reclaim-cycle", "sync-grow"): Expectation(
        Outcome.IMMUNE,
        "vmalloc passes the flags on to its page tables; where it ignores them, the transaction waits in reclaim for "
        "its own commit",
        ignoring=Outcome.STALLED,
    ),
    ("reclaim-organic", "stock"): Expectation(
        Outcome.IMMUNE, "as in reclaim-cycle: the marks hold whatever makes the page table's allocation reclaim"
    ),
    ("reclaim-organic", "no-emergency"): Expectation(
        Outcome.IMMUNE, "as in reclaim-cycle: the worker is marked, and its reclaim gets back what the pressure took"
    ),
    ("reclaim-organic", "unscoped"): Expectation(
        Outcome.IMMUNE,
        "as in reclaim-cycle: where the flags are ignored, low memory alone catches the worker sooner or later",
        ignoring=Outcome.PROGRESS,
    ),
    ("reclaim-organic", "sync-grow"): Expectation(
        Outcome.IMMUNE,
        "as in reclaim-cycle: where the flags are ignored, low memory alone catches the transaction",
        ignoring=Outcome.STALLED,
    ),
    ("reclaim-organic", "list-walk"): Expectation(
        Outcome.IMMUNE, "as in reclaim-cycle: marks and flags are stock's, whatever emergency objects are kept in"
    ),
    ("grow-fails", "list-walk"): Expectation(
        Outcome.HEALTHY, "a growth that fails is tried again as in stock, before anybody takes an emergency object"
    ),
    ("emergency-fails", "list-walk"): Expectation(
        Outcome.PROGRESS, "an emergency object is tried for again as in stock, and then goes to a short list"
    ),
    ("long-lived", "stock"): Expectation(
        Outcome.PROGRESS, "emergency objects are in a tree: a look-up among thousands takes a few steps more"
    ),
    ("long-lived", "no-emergency"): Expectation(
        Outcome.STALLED, "there is no emergency object that could be kept: the thread waits for the worker"
    ),
    ("long-lived", "unscoped"): Expectation(
        Outcome.PROGRESS, "the tree is that of stock, and marks and flags do not matter to a free"
    ),
    ("long-lived", "sync-grow"): Expectation(
        Outcome.NOT_TRIGGERED, "there is no worker to hold, so every object that is kept is one of a slab"
    ),
    ("long-lived", "list-walk"): Expectation(
        Outcome.SLOW, "each object given back is looked for in a list, half of it on average: a free costs by number"
    ),
    ("fragmented", "stock"): Expectation(
        Outcome.PROGRESS, "callers that may do I/O compact memory themselves; docs/claims.md has those that may not"
    ),
    ("fragmented", "no-emergency"): Expectation(
        Outcome.STALLED, "callers wait for the held worker, and what memory looks like does not matter"
    ),
    ("fragmented", "unscoped"): Expectation(
        Outcome.STALLED, "GFP_NOIO in every flag, with which the page allocator does not compact: nobody makes blocks"
    ),
    ("fragmented", "sync-grow"): Expectation(
        Outcome.NOT_TRIGGERED, "callers take single pages by vmalloc themselves, and there is no worker to hold"
    ),
    ("fragmented", "list-walk"): Expectation(
        Outcome.PROGRESS, "how emergency objects are found does not matter to where their memory comes from"
    ),
    ("nominal", "list-walk"): Expectation(
        Outcome.HEALTHY, "nobody times out, so there is nothing in the list and nothing walks it"
    ),
    ("held-worker", "list-walk"): Expectation(
        Outcome.PROGRESS, "with some sixty emergency objects a walk of the list is short"
    ),
    ("reclaim-cycle", "list-walk"): Expectation(
        Outcome.IMMUNE, "how emergency objects are found has nothing to do with marks and flags, which are stock's"
    ),
}


# Scenarios that do not ask how SPL grows its caches, so that its variant has no say.
WHATEVER_SPL: Mapping[str, Expectation] = {
    "zvol-swap": Expectation(
        Outcome.STALLED,
        "openzfs #7734: reclaim waits for a bio that only the zvol's thread can end, which waits in reclaim itself",
    ),
    "disk-swap": Expectation(Outcome.HEALTHY, "whoever swaps to a disk needs no memory but what is set aside for that"),
    "zfs-arc-mlock": Expectation(
        Outcome.HEALTHY, "ZFS's cache gives back what is asked of it, also within reclaim; openzfs #4319 says otherwise"
    ),
    "zfs-mmap": Expectation(
        Outcome.HEALTHY,
        "pages of a mapping are written back by copies into ZFS's cache, which finds the memory for them",
    ),
    "ext4-mmap": Expectation(Outcome.HEALTHY, "ext4 writes back the very pages that are mapped"),
    "zfs-arc-room": Expectation(Outcome.HEALTHY, "there is room for the cache and for what is locked beside it"),
}


def yardstick_of(scenario: str, variant: str, honours: Callable[[], bool], *, own: bool) -> Yardstick:
    """What a verdict is measured against.

    :param honours: tells whether the kernel's vmalloc allocates page tables with the caller's flags. To measure that
        takes a guest, so it is only asked where the verdict depends on it.
    :param own: whether the user's source or patches are in the build.
    """

    def on_this_kernel(name: str) -> Outcome | None:
        cell = EXPECTED.get((scenario, name)) or WHATEVER_SPL.get(scenario)
        return cell.on(honours=cell.ignoring is None or honours()) if cell else None

    packaged = on_this_kernel(variant)
    # Only a verdict that is bad may become better.
    stock = on_this_kernel(STOCK) if own and packaged is not None and not packaged.is_good else None
    return Yardstick(variant, packaged, packaged if variant == STOCK else stock, own)


def expected_outcomes(scenario: str, variant: str, honours: Callable[[], bool], *, own: bool) -> frozenset[Outcome]:
    """Which verdicts count as expected; parameters as `yardstick_of` takes them."""
    return yardstick_of(scenario, variant, honours, own=own).outcomes
