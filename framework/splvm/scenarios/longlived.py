"""long-lived: thousands of emergency objects are kept, and what a free costs may not grow with their number."""

from __future__ import annotations

from dataclasses import replace

from splvm.evidence.expectation import Expectation
from splvm.evidence.rule import Rule, clauses
from splvm.evidence.verdict import Outcome
from splvm.run import readings
from splvm.run.scenarios import Scenario, Step, Workload
from splvm.scenarios.held import held_worker
from splvm.scenarios.parts import HELD, HELD_PHASES

# Objects of 4 KiB that are kept: a guest of 512 MiB has room for them in either kind of memory.
KEPT = 10_000


def _steps(window_s: float) -> tuple[Step, ...]:
    return tuple(
        replace(step, until=readings.timed(window_s)) if step.name == "window" else step
        for step in held_worker(window_s)
    )


def _hoard(window_s: float) -> Workload:
    """One thread that keeps up to thousands of objects, and gives back ten of them at a time."""
    return Workload(threads=1, objects=10, size=4096, keep=KEPT)


SCENARIOS = (
    Scenario(
        name="long-lived",
        summary="thousands of emergency objects are kept while the worker is held",
        steps=_steps,
        window_s=3.0,
        workload=_hoard,
        rule=Rule(required=clauses(f"phases {HELD_PHASES}"), checks=(*HELD, *clauses("costs", "kept")), good="kept"),
        expects={
            "stock": Expectation(
                Outcome.PROGRESS, "emergency objects are in a tree: a look-up among thousands takes a few steps more"
            ),
            "no-emergency": Expectation(
                Outcome.STALLED, "there is no emergency object that could be kept: the thread waits for the worker"
            ),
            "unscoped": Expectation(
                Outcome.PROGRESS, "the tree is that of stock, and marks and flags do not matter to a free"
            ),
            "sync-grow": Expectation(
                Outcome.NOT_TRIGGERED, "there is no worker to hold, so every object that is kept is one of a slab"
            ),
            "list-walk": Expectation(
                Outcome.SLOW,
                "each object given back is looked for in a list, half of it on average: a free costs by number",
            ),
        },
    ),
)
