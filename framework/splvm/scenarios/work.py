"""SPL as its users have it: taskqs that are made, used and destroyed, caches of every kind at once, and memory."""

from __future__ import annotations

from splvm.evidence.expectation import Expectation
from splvm.evidence.rule import Rule, clauses
from splvm.evidence.verdict import Outcome
from splvm.run import readings
from splvm.run.scenarios import Scenario, Step, Workload

# Seconds of guest time that a state may take to come to; one that is never reached has a client that stands.
_STATE_S = 3.0
# The agent reads memory twice a second.
_LOOK_S = 0.7


def _states(at: readings.At, *nouns: str) -> tuple[Step, ...]:
    """From the window to the end: all is at rest with a known number of everything in hand, then empty, then gone."""
    return (
        Step("load", _told(nouns, "loaded"), at("loaded"), _STATE_S),
        Step("loaded", (), readings.lasts(0.3), 2),
        Step("empty", _told(nouns, "emptied"), at("emptied"), _STATE_S),
        Step("emptied", (), readings.lasts(0.3), 2),
        Step("destroy", _told(nouns, "gone"), at("gone"), _STATE_S),
        Step("gone", (), readings.lasts(_LOOK_S), 2),
        Step("end", (), readings.lasts(0.1), 1),
    )


def _told(nouns: tuple[str, ...], state: str) -> tuple[str, ...]:
    """The probe's commands for a state."""
    return tuple(f"{noun} {state}" for noun in nouns)


def _taskqs(window_s: float) -> tuple[Step, ...]:
    return (
        Step("make", ("queues running",), readings.queues_at("running"), 5),
        Step("window", (), readings.lasts(window_s), window_s + 5),
        Step("window-end", (), readings.lasts(0), 1),
        *_states(readings.queues_at, "queues"),
    )


def _caches(window_s: float) -> tuple[Step, ...]:
    return (
        Step("before", (), readings.lasts(_LOOK_S), 2),
        Step("make", ("start", "caches running"), readings.kinds_at("running"), 10),
        Step("window", (), readings.lasts(window_s), window_s + 5),
        Step("window-end", (), readings.lasts(0), 1),
        # The worker of one cache alone is held, and the others go on.
        Step("caught", ("hold own",), readings.held, 5),
        Step("alone", (), readings.lasts(0.6), 2),
        Step("together", ("release",), readings.recovered, 5),
        Step("stop", ("stop",), readings.stopped, 5),
        *_states(readings.kinds_at, "caches"),
    )


def _hotplug(window_s: float) -> tuple[Step, ...]:
    return (
        Step("before", (), readings.lasts(_LOOK_S), 2),
        Step("away", ("cpus away",), readings.one_cpu, 10),
        Step("make", ("queues running", "caches running"), readings.work_at("running"), 10),
        Step("window", ("cpus moving",), readings.lasts(window_s), window_s + 5),
        Step("window-end", (), readings.lasts(0), 1),
        Step("come", ("cpus all",), readings.all_cpus, 5),
        *_states(readings.work_at, "queues", "caches"),
    )


def _memory(window_s: float) -> tuple[Step, ...]:
    return (
        Step("before", (), readings.lasts(_LOOK_S), 2),
        Step("fragment", ("fragment pinned",), readings.in_single_pages, 20),
        Step("make", ("memory running",), readings.memory_at("running"), 5),
        Step("window", (), readings.lasts(window_s), window_s + 5),
        Step("window-end", (), readings.lasts(0), 1),
        Step("mend", ("fragment 0",), readings.lasts(0.5), 5),
        *_states(readings.memory_at, "memory"),
    )


_REST = "load loaded empty emptied destroy gone end"


def _one_thread(window_s: float) -> Workload:
    """One critical thread, whose worker is held for a while."""
    return Workload(threads=1, objects=12)


SCENARIOS = (
    Scenario(
        name="taskqs",
        summary="taskqs are made, used in every way, and destroyed, and SPL is asked for each promise",
        steps=_taskqs,
        window_s=3.0,
        rule=Rule(
            required=clauses(f"phases make window window-end {_REST}"),
            checks=clauses("queues", "queue-promises", "queue-counts", "queues-gone"),
            good="queues",
        ),
        expects=Expectation(Outcome.HEALTHY, "taskqs have no part in how caches grow"),
    ),
    Scenario(
        name="caches",
        summary="caches of several kinds are used at once, every object and every number is looked at",
        steps=_caches,
        window_s=2.0,
        workload=_one_thread,
        rule=Rule(
            required=clauses(f"phases before make window window-end caught alone together stop {_REST}"),
            checks=clauses("kinds", "kind-promises", "kind-counts", "kinds-alone", "kinds-gone"),
            good="kinds",
        ),
        expects={
            "stock": Expectation(Outcome.HEALTHY, "objects are what they are to be, and numbers are right"),
            "no-emergency": Expectation(
                Outcome.HEALTHY,
                "who may not sleep gets an emergency object all the same, and others wait for the worker",
            ),
            "unscoped": Expectation(Outcome.HEALTHY, "marks and flags only matter to an allocation that reclaims"),
            "sync-grow": Expectation(
                Outcome.NOT_TRIGGERED, "callers grow caches themselves, so there is no worker that can be held"
            ),
            "list-walk": Expectation(
                Outcome.HEALTHY, "a few emergency objects in a list are found as well as in a tree"
            ),
        },
    ),
    Scenario(
        name="hotplug",
        summary="taskqs and caches are made with one CPU, and used while others come and go",
        steps=_hotplug,
        window_s=3.0,
        least_cpus=4,
        rule=Rule(
            required=clauses(f"phases before away make window window-end come {_REST}"),
            checks=clauses(
                "comers",
                *("queues", "queue-promises", "queue-counts", "queues-gone"),
                *("kinds", "kind-promises", "kind-counts", "kinds-gone"),
            ),
            good="hotplug",
        ),
        expects=Expectation(Outcome.HEALTHY, "each CPU finds what it needs, and how caches grow has no part in it"),
    ),
    Scenario(
        name="memory",
        summary="memory is asked for in every way, large pieces also while free memory lies in single pages",
        steps=_memory,
        window_s=2.0,
        # Debian's kernels clear all memory that they give, so memory that is not zeroed would not show. And Linux 7, if
        # it is asked to, looks at each page that is given or freed.
        words=("init_on_alloc=0", "check_pages=1"),
        rule=Rule(
            required=clauses(f"phases before fragment make window window-end mend {_REST}"),
            checks=clauses("memory", "memory-falls-back", "memory-promises", "memory-gone"),
            good="memory",
        ),
        expects=Expectation(Outcome.HEALTHY, "caches have no part in it"),
    ),
)
