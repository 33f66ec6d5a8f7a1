"""nominal: nothing is stuck, so nobody may notice that there are emergency objects at all."""

from __future__ import annotations

from splvm.evidence.expectation import Expectation
from splvm.evidence.rule import Rule, clauses
from splvm.evidence.verdict import Outcome
from splvm.run import readings
from splvm.run.scenarios import Scenario, Step, Workload
from splvm.scenarios.parts import AUDIT, COUNTS_RIGHT, FINISH, GOES_ON, IN_WINDOW, SETTLE, window


def _steps(window_s: float) -> tuple[Step, ...]:
    return (SETTLE, *window(window_s), *AUDIT, Step("resume", ("resume",), readings.lasts(0.2), 1), *FINISH)


def _reusing(window_s: float) -> Workload:
    """Every other round finds in the magazines what the one before gave back."""
    return Workload(reap_rounds=2)


SCENARIOS = (
    Scenario(
        name="nominal",
        summary="threads allocate and free, nothing is stuck",
        steps=_steps,
        window_s=3.0,
        workload=_reusing,
        rule=Rule(
            required=clauses(f"phases {IN_WINDOW} final end"),
            checks=(
                *GOES_ON,
                *clauses("quiet", "magazines", "woken window window-end SLOW"),
                *COUNTS_RIGHT,
                *clauses("drained"),
            ),
            good="health",
        ),
        expects={
            "stock": Expectation(Outcome.HEALTHY, "the worker is fast, so nobody times out"),
            "no-emergency": Expectation(
                Outcome.HEALTHY, "emergency objects are for a worker that is stuck; without one they must not matter"
            ),
            "unscoped": Expectation(
                Outcome.HEALTHY, "marks and flags only matter to an allocation that reclaims, and memory is not low"
            ),
            "sync-grow": Expectation(
                Outcome.HEALTHY, "callers that grow the cache themselves wait for nobody, and memory is not low"
            ),
            "list-walk": Expectation(
                Outcome.HEALTHY, "nobody times out, so there is nothing in the list and nothing walks it"
            ),
        },
    ),
)
