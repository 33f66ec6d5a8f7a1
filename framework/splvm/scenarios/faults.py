"""Allocations fail, some times and no more: those of the worker's growth, or those of emergency objects."""

from __future__ import annotations

from splvm.evidence.expectation import Expectation
from splvm.evidence.rule import Rule, clauses
from splvm.evidence.verdict import Outcome
from splvm.run import readings
from splvm.run.scenarios import Faults, Scenario, Step
from splvm.scenarios.parts import (
    AFTERWARDS,
    AUDIT,
    COUNTS_RIGHT,
    FINISH,
    GOES_ON,
    HELD,
    HELD_PHASES,
    IN_WINDOW,
    RECOVERS,
    SETTLE,
    release,
    window,
)

# Page allocations that are let fail: enough for several growths in a row, and for so few that no caller waits as long
# as the bound on the latency. A growth that fails costs the callers SPL's timeout, for nobody wakes them.
GROW_FAULTS = 8
# In the emergency branch a caller tries again at once.
EMERGENCY_FAULTS = 16


def _grow_fails(window_s: float) -> tuple[Step, ...]:
    return (
        SETTLE,
        Step("fail", ("fail grow",), readings.injected, 5),
        *window(window_s),
        *AUDIT,
        *release("fail off", "resume"),
        *FINISH,
    )


def _emergency_fails(window_s: float) -> tuple[Step, ...]:
    return (
        SETTLE,
        Step("hold", ("fail emergency", "hold"), readings.held, 5),
        *window(window_s),
        *AUDIT,
        *release("fail off", "release", "resume"),
        *FINISH,
    )


SCENARIOS = (
    Scenario(
        name="grow-fails",
        summary="the worker's growth of the cache fails several times, because it gets no pages, and then succeeds",
        steps=_grow_fails,
        window_s=3.0,
        faults=Faults(times=GROW_FAULTS),
        rule=Rule(
            required=clauses(f"phases fail {IN_WINDOW} {AFTERWARDS}"),
            checks=(*clauses("injected"), *GOES_ON, *COUNTS_RIGHT, *RECOVERS),
            good="retries",
        ),
        expects={
            "stock": Expectation(
                Outcome.HEALTHY, "a growth that fails is asked for again by whoever waited for it, until one succeeds"
            ),
            "no-emergency": Expectation(
                Outcome.STALLED, "a growth that fails wakes nobody, and without a timeout nobody asks for another one"
            ),
            "unscoped": Expectation(Outcome.HEALTHY, "marks and flags do not matter to a fault"),
            "sync-grow": Expectation(
                Outcome.NOT_TRIGGERED, "there is no worker whose growth could fail: callers call vmalloc themselves"
            ),
            "list-walk": Expectation(
                Outcome.HEALTHY,
                "a growth that fails is tried again as in stock, before anybody takes an emergency object",
            ),
        },
    ),
    Scenario(
        name="emergency-fails",
        summary="the worker is held, and the allocation of emergency objects fails several times before it succeeds",
        steps=_emergency_fails,
        window_s=3.0,
        # An object of 64 KiB: no other allocation on the way to it takes so many pages at once.
        faults=Faults(times=EMERGENCY_FAULTS, min_order=4),
        rule=Rule(required=clauses(f"phases {HELD_PHASES}"), checks=(*clauses("injected"), *HELD), good="spare"),
        expects={
            "stock": Expectation(
                Outcome.PROGRESS, "a caller whose emergency object cannot be had tries again until it can"
            ),
            "no-emergency": Expectation(
                Outcome.STALLED, "callers wait for the worker, and never come to ask for an emergency object"
            ),
            "unscoped": Expectation(
                Outcome.PROGRESS, "timeout and emergency objects are those of stock, and the faults do not reclaim"
            ),
            "sync-grow": Expectation(
                Outcome.NOT_TRIGGERED,
                "without a worker nothing is held, and so nobody comes to ask for an emergency object",
            ),
            "list-walk": Expectation(
                Outcome.PROGRESS, "an emergency object is tried for again as in stock, and then goes to a short list"
            ),
        },
    ),
)
