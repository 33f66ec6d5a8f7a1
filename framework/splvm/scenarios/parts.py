"""What scenarios are put together from: steps, phases and checks that several of them have."""

from __future__ import annotations

from splvm.evidence.rule import clauses
from splvm.run import readings
from splvm.run.scenarios import Step

# Steps. Nearly every scenario is: settle, something, window, audit, something, finish.

SETTLE = Step("settle", ("start",), readings.settled, 20)


def window(window_s: float) -> tuple[Step, ...]:
    """The window of a scenario in which only time has to pass."""
    return (Step("window", (), readings.lasts(window_s), window_s + 5), WINDOW_END)


WINDOW_END = Step("window-end", (), readings.lasts(0), 1)
# Threads are parked with their objects in hand, so that counts stand still and can be compared.
AUDIT = (
    Step("park", ("park",), readings.at_rest, 1.5),
    Step("audit", (), readings.read_often, 3),
    Step("audit-end", (), readings.lasts(0), 1),
)


def release(*commands: str) -> tuple[Step, ...]:
    """What was done is undone, and the guest recovers.

    The wait after it is long enough for a caller that is not woken to show it a few times over (evidence/checks/
    timeouts.py, TIMEOUTS_AT_LEAST).
    """
    return (
        Step("release", commands, readings.recovered, 10, then="recovered"),
        Step("", (), readings.lasts(0.7), 3),
    )


FINISH = (
    Step("stop", ("stop",), readings.stopped, 5),
    Step("final", (), readings.read_often, 3),
    Step("end", (), readings.lasts(0.1), 1),
)

# Phases that a run has to come to, as the check `phases` takes them.

IN_WINDOW = "window window-end audit audit-end"
AFTERWARDS = "release recovered final end"
HELD_PHASES = f"hold {IN_WINDOW} {AFTERWARDS}"

# Checks that several scenarios ask for, in the order in which complaints are listed.

GOES_ON = clauses("threads", "progress", "latency")
COUNTS_RIGHT = clauses("read", "rows", "maximum", "audit")
RECOVERS = clauses("recovered", "woken recovered final NO_RECOVERY", "drained")
# All that is asked of a run whose worker is held.
HELD = (*clauses("stuck", "needed", "order"), *GOES_ON, *COUNTS_RIGHT, *RECOVERS)
