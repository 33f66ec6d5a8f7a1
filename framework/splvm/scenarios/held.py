"""The worker that grows the cache is held, then released: alone, and beside a ZFS pool that has to go on."""

from __future__ import annotations

from splvm.evidence.expectation import Expectation
from splvm.evidence.rule import Rule, clauses
from splvm.evidence.verdict import Outcome
from splvm.run import readings
from splvm.run.scenarios import Scenario, Step
from splvm.scenarios.parts import AUDIT, FINISH, HELD, HELD_PHASES, SETTLE, release, window


def held_worker(window_s: float) -> tuple[Step, ...]:
    return (
        SETTLE,
        Step("hold", ("hold",), readings.held, 5),
        *window(window_s),
        *AUDIT,
        *release("release", "resume"),
        *FINISH,
    )


SCENARIOS = (
    Scenario(
        name="held-worker",
        summary="the worker that grows the cache is held, then released",
        steps=held_worker,
        window_s=3.0,
        rule=Rule(required=clauses(f"phases {HELD_PHASES}"), checks=HELD, good="progress"),
        expects={
            "stock": Expectation(Outcome.PROGRESS, "callers time out and go on with emergency objects"),
            "no-emergency": Expectation(Outcome.STALLED, "callers wait for the worker, and it is held"),
            "unscoped": Expectation(
                Outcome.PROGRESS, "timeout and emergency objects are those of stock, and the lever does not reclaim"
            ),
            "sync-grow": Expectation(
                Outcome.NOT_TRIGGERED, "there is no worker that the lever could hold: callers call vmalloc themselves"
            ),
            "list-walk": Expectation(Outcome.PROGRESS, "with some sixty emergency objects a walk of the list is short"),
        },
    ),
    Scenario(
        name="zfs-held-worker",
        summary="the worker is held while a process writes to a ZFS pool: do the pool's transaction groups go on?",
        steps=held_worker,
        window_s=5.0,
        load="zfs",
        rule=Rule(required=clauses(f"phases {HELD_PHASES}", "loaded zfs"), checks=HELD, good="progress"),
        expects={
            "stock": Expectation(
                Outcome.PROGRESS, "buffers for records of 128 KiB come as emergency objects, so writers and txgs go on"
            ),
            "no-emergency": Expectation(
                Outcome.STALLED,
                "whoever writes to the pool waits for a buffer within its transaction, and the txg for it",
            ),
            "unscoped": Expectation(
                Outcome.PROGRESS, "timeout and emergency objects are those of stock, for ZFS too, and memory is not low"
            ),
            "sync-grow": Expectation(
                Outcome.NOT_TRIGGERED, "there is no worker to hold: ZFS calls vmalloc for its buffers itself"
            ),
            "list-walk": Expectation(
                Outcome.PROGRESS, "ZFS has a few emergency buffers at a time, and a walk of the list is short"
            ),
        },
    ),
)
