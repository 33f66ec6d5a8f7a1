"""The deadlock itself: memory is low while the cache grows, and a shrinker waits for the transaction that needs it."""

from __future__ import annotations

import math

from splvm.evidence.expectation import Expectation
from splvm.evidence.rule import Rule, clauses
from splvm.evidence.verdict import Outcome
from splvm.run import readings
from splvm.run.scenarios import Scenario, Step, Workload
from splvm.scenarios.parts import (
    AFTERWARDS,
    AUDIT,
    COUNTS_RIGHT,
    FINISH,
    GOES_ON,
    IN_WINDOW,
    RECOVERS,
    SETTLE,
    WINDOW_END,
    release,
)


def _cycle(window_s: float, springs: tuple[Step, ...], ends: tuple[str, ...]) -> tuple[Step, ...]:
    return (
        SETTLE,
        *springs,
        Step("window", (), readings.carried(window_s), window_s + 6),
        WINDOW_END,
        *AUDIT,
        # The trap stays: what it caught has to come out by itself.
        Step("resolve", ("resume",), readings.resolved, 15),
        *release(*ends),
        *FINISH,
    )


def _induced(window_s: float) -> tuple[Step, ...]:
    return _cycle(window_s, (Step("trap", ("trap induced",), readings.sprung, 10),), ("trap off",))


def _organic(window_s: float) -> tuple[Step, ...]:
    springs = (
        Step("press", ("pressure on",), readings.low, 30),
        Step("trap", ("trap organic",), readings.sprung_at_all, 60),
    )
    return _cycle(window_s, springs, ("trap off", "pressure off"))


def _transactions(window_s: float) -> Workload:
    """One transaction thread, and a wait that outlasts the window, by its number of commits.

    A transaction takes 12 ms or more, so fewer than 84 are committed in a second.
    """
    return Workload(threads=1, objects=64, size=32768, pause_us=12000, commits=max(300, math.ceil(100 * window_s)))


_REQUIRED = clauses(f"phases trap {IN_WINDOW} resolve {AFTERWARDS}")
_CHECKS = (
    *clauses("trap", "commits", "caught", "carried"),
    *GOES_ON,
    *COUNTS_RIGHT,
    *clauses("resolved"),
    *RECOVERS,
)

SCENARIOS = (
    Scenario(
        name="reclaim-cycle",
        summary="memory is low while the cache grows, and a shrinker waits for the transaction that needs the growth",
        steps=_induced,
        window_s=3.0,
        workload=_transactions,
        rule=Rule(required=_REQUIRED, checks=_CHECKS, good="survival"),
        expects={
            "stock": Expectation(
                Outcome.IMMUNE, "the worker is marked (PF_MEMALLOC_NOIO), which holds for page tables on every kernel"
            ),
            "no-emergency": Expectation(
                Outcome.IMMUNE,
                "marks and flags are those of stock, so the worker is never stuck and its callers need no fallback",
            ),
            "unscoped": Expectation(
                Outcome.IMMUNE,
                "vmalloc passes the flags on to its page tables; where it ignores them, the worker is caught and "
                "emergency objects carry the transactions until it comes free",
                ignoring=Outcome.PROGRESS,
            ),
            "sync-grow": Expectation(
                Outcome.IMMUNE,
                "vmalloc passes the flags on to its page tables; where it ignores them, the transaction waits in "
                "reclaim for its own commit",
                ignoring=Outcome.STALLED,
            ),
            "list-walk": Expectation(
                Outcome.IMMUNE,
                "how emergency objects are found has nothing to do with marks and flags, which are stock's",
            ),
        },
    ),
    Scenario(
        name="reclaim-organic",
        summary="as reclaim-cycle, but the guest is really short of memory, and this alone has to spring the trap",
        steps=_organic,
        window_s=3.0,
        workload=_transactions,
        rule=Rule(required=_REQUIRED, checks=(*_CHECKS, *clauses("low")), good="survival-low"),
        expects={
            "stock": Expectation(
                Outcome.IMMUNE, "as in reclaim-cycle: the marks hold whatever makes the page table's allocation reclaim"
            ),
            "no-emergency": Expectation(
                Outcome.IMMUNE,
                "as in reclaim-cycle: the worker is marked, and its reclaim gets back what the pressure took",
            ),
            "unscoped": Expectation(
                Outcome.IMMUNE,
                "as in reclaim-cycle: where the flags are ignored, low memory alone catches the worker sooner or later",
                ignoring=Outcome.PROGRESS,
            ),
            "sync-grow": Expectation(
                Outcome.IMMUNE,
                "as in reclaim-cycle: where the flags are ignored, low memory alone catches the transaction",
                ignoring=Outcome.STALLED,
            ),
            "list-walk": Expectation(
                Outcome.IMMUNE,
                "as in reclaim-cycle: marks and flags are stock's, whatever emergency objects are kept in",
            ),
        },
    ),
)
