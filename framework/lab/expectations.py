"""Which verdict is expected of a scenario on a variant of SPL, and why: a table, one cell for each pair.

A verdict may depend on the kernel, but only through what the kernel does, and that is a column of `KERNELS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from framework.build.kernels import KernelSpec
from framework.evidence.verdict import Outcome


@dataclass(frozen=True, slots=True)
class Expectation:
    """One cell."""

    outcome: Outcome
    # One sentence.
    why: str
    # What is expected instead where vmalloc ignores the caller's flags for page tables; None: the same.
    ignoring: Outcome | None = None

    def on(self, kernel: KernelSpec) -> Outcome:
        """The verdict that is expected on a kernel."""
        return self.outcome if self.ignoring is None or kernel.vmalloc_honours_gfp else self.ignoring


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
}


def expected_outcome(scenario: str, variant: str, kernel: KernelSpec) -> Outcome | None:
    """The verdict of the table; None for a pair that it does not have."""
    cell = EXPECTED.get((scenario, variant))
    return cell.on(kernel) if cell is not None else None


# What a user's own source or patch has to show.
GOOD = frozenset(outcome for outcome in Outcome if outcome.is_good)


def expected_outcomes(scenario: str, variant: str, kernel: KernelSpec, *, own: bool) -> frozenset[Outcome]:
    """Which verdicts count as expected.

    :param own: whether the user's source or patches are in the build: then every good verdict does.
    """
    outcome = expected_outcome(scenario, variant, kernel)
    return GOOD if own or outcome is None else frozenset({outcome})
