"""fragmented: free memory lies in single pages, so that somebody has to make blocks for emergency objects."""

from __future__ import annotations

from dataclasses import replace

from splvm.evidence.expectation import Expectation
from splvm.evidence.rule import Rule, clauses
from splvm.evidence.verdict import Outcome
from splvm.run import readings
from splvm.run.scenarios import Scenario, Step, Workload
from splvm.scenarios.held import held_worker
from splvm.scenarios.parts import HELD, HELD_PHASES

# More than a guest has, MiB: all of its free memory is meant.
MOST_MIB = 1 << 20


def _steps(window_s: float) -> tuple[Step, ...]:
    fragment = f"fragment {MOST_MIB}"
    return (
        Step("fragment", (fragment,), readings.in_single_pages, 20),
        # What was freed since then has made blocks again.
        *(
            replace(step, commands=(fragment, *step.commands)) if step.name == "hold" else step
            for step in held_worker(window_s)
        ),
    )


def _large_objects(window_s: float) -> Workload:
    """Few, for they may have many sizes.

    Of 256 KiB, which are not found by chance as smaller blocks are: somebody has to make them.
    """
    return Workload(objects=8, size=262_144)


SCENARIOS = (
    Scenario(
        name="fragmented",
        summary="free memory lies in single pages, then the worker is held",
        steps=_steps,
        window_s=3.0,
        workload=_large_objects,
        rule=Rule(
            required=clauses(f"phases fragment {HELD_PHASES}"),
            checks=(*clauses("made"), *HELD, *clauses("fragmented")),
            good="large",
        ),
        expects={
            "stock": Expectation(
                Outcome.PROGRESS,
                "callers that may do I/O compact memory themselves; docs/claims.md has those that may not",
            ),
            "no-emergency": Expectation(
                Outcome.STALLED, "callers wait for the held worker, and what memory looks like does not matter"
            ),
            "unscoped": Expectation(
                Outcome.STALLED,
                "GFP_NOIO in every flag, with which the page allocator does not compact: nobody makes blocks",
            ),
            "sync-grow": Expectation(
                Outcome.NOT_TRIGGERED, "callers take single pages by vmalloc themselves, and there is no worker to hold"
            ),
            "list-walk": Expectation(
                Outcome.PROGRESS, "how emergency objects are found does not matter to where their memory comes from"
            ),
        },
    ),
)
