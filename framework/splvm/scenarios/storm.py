"""Reclaim at every allocation site of SPL that transactions reach: nobody chose where."""

from __future__ import annotations

from splvm.evidence.expectation import Expectation
from splvm.evidence.rule import Rule, clauses
from splvm.evidence.verdict import Outcome
from splvm.run import readings
from splvm.run.scenarios import Scenario, Step, Storm


def _steps(window_s: float) -> tuple[Step, ...]:
    """The worker is free at first; in the last third it is held, so that emergency objects are asked for."""
    return (
        Step("storm", ("storm start",), readings.storming, 10),
        Step("window", (), readings.weathered(window_s * 2 / 3), window_s + 5),
        Step("hold", ("hold",), readings.weathered(window_s / 3), window_s + 5),
        Step("window-end", (), readings.lasts(0), 1),
        Step("release", ("release", "storm stop"), readings.storm_over, 10),
        # The list of sites is read once a second.
        Step("final", (), readings.lasts(1.1), 3),
        Step("end", (), readings.lasts(0.1), 1),
    )


SCENARIOS = (
    Scenario(
        name="storm",
        summary="memory is low at every allocation of SPL, and shrinkers wait for the transactions that allocate",
        steps=_steps,
        window_s=3.0,
        rule=Rule(
            required=clauses("phases window hold window-end release final end"),
            checks=clauses("storm", "storm-seen", "storm-safe", "storm-atomic"),
            good="storm",
        ),
        storm=Storm(),
        expects={
            "stock": Expectation(
                Outcome.IMMUNE,
                "marks take IO and FS from every mask in a thread that makes transactions, and in SPL's own threads",
            ),
            "no-emergency": Expectation(
                Outcome.IMMUNE, "what is allocated while the worker is held is less, and all of it in marked threads"
            ),
            "unscoped": Expectation(
                Outcome.IMMUNE,
                "flags without IO and FS do for every allocation of SPL; where vmalloc ignores them the worker is "
                "caught at its page tables, until emergency objects have carried the transaction to its commit",
                ignoring=Outcome.PROGRESS,
            ),
            "sync-grow": Expectation(
                Outcome.IMMUNE,
                "flags without IO and FS do for every allocation of SPL; where vmalloc ignores them the transaction "
                "itself is caught at the page tables of the cache that it grows",
                ignoring=Outcome.STALLED,
            ),
            "list-walk": Expectation(
                Outcome.IMMUNE, "a list of emergency objects allocates nothing more than the tree, in the same threads"
            ),
        },
    ),
)
