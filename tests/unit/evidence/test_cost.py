"""CPU time of a guest for each object, from what the host's scheduler said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from simulated import simulate
from simulated_guest import Knobs, Record
from simulated_kinds import NOMINAL
from splvm.evidence.cost import Cost, cost_of_objects, cpu_rate
from splvm.evidence.timeline import HostReading, Timeline


def readings(*pairs: tuple[float, float]) -> Sequence[HostReading]:
    return [HostReading(at_s, run_s, 0.0) for at_s, run_s in pairs]


@pytest.mark.parametrize(
    ("host", "start_s", "end_s", "rate"),
    [
        ([(0, 0), (10, 5)], 0, 10, 0.5),
        # Between readings it is as if the CPUs had run evenly.
        ([(0, 0), (10, 5)], 2, 4, 0.5),
        ([(0, 0), (1, 0), (2, 2), (3, 2)], 0.5, 2.5, 1.0),
        ([(0, 0), (1, 0), (2, 2), (3, 2)], 1.5, 2.0, 2.0),
        # What is not spanned is not guessed, nor is what makes no sense.
        ([], 0, 1, None),
        ([(0, 0)], 0, 0, None),
        ([(1, 1), (2, 2)], 0, 2, None),
        ([(1, 1), (2, 2)], 1, 3, None),
        ([(1, 1), (2, 2)], 2, 2, None),
        ([(1, 1), (2, 2)], 2, 1, None),
        # A virtual CPU is gone, and a clock that goes back.
        ([(0, 0), (1, 4), (2, 3), (3, 5)], 0, 3, None),
        ([(0, 0), (2, 1), (1, 2), (3, 5)], 0, 3, None),
        # Two readings at one moment.
        ([(0, 0), (1, 1), (1, 2), (2, 3)], 0, 2, 1.5),
    ],
)
def test_cpu_rate(host: list[tuple[float, float]], start_s: float, end_s: float, rate: float | None) -> None:
    assert cpu_rate(readings(*host), start_s, end_s) == rate


def test_cost_for_each() -> None:
    cost = Cost(objects=4000, emergency=0, slabs=500, objects_per_s=1000.0, idle_cpu=0.1, window_cpu=0.6)
    assert cost.cpu_us_per_object == pytest.approx(500)
    assert cost.cpu_us_per_slab(0) == pytest.approx(4000)
    # Of these 500 microseconds an object takes 20 in any case.
    assert cost.cpu_us_per_slab(20) == pytest.approx(480 * 8)


# In these runs the host is not watched before the threads are at work.
IDLE = ("audit", "resume")


def test_cost_of_a_run() -> None:
    timeline = simulate(NOMINAL, Knobs(host_wait=0.75)).evidence().timeline
    cost = cost_of_objects(timeline, IDLE)
    assert cost is not None
    # All virtual CPUs together, of which there are two.
    assert cost.idle_cpu == pytest.approx(0.5, abs=0.05)
    assert cost.window_cpu == pytest.approx(0.5, abs=0.01)
    assert cost.objects > 1000
    assert cost.emergency == 0
    assert cost.slabs == pytest.approx(cost.objects * 6 / 104, rel=0.1)
    assert cost.objects_per_s == pytest.approx(cost.objects / 2.95, rel=0.01)


def only(kind: str) -> Callable[[Record], Record | None]:
    return lambda record: None if record["kind"] == kind else record


def edited(old: str, new: str) -> Callable[[Record], Record | None]:
    return lambda record: {**record, "text": record["text"].replace(old, new)} if record["kind"] == "frame" else record


@pytest.mark.parametrize(
    "change",
    [only("host"), only("phase"), only("frame"), edited("growth ", "shrinkage "), edited(" slabs=", " plates=")],
    ids=["no host", "no phases", "no readings", "no growth", "no slabs"],
)
def test_what_is_missing_is_not_guessed(change: Any) -> None:
    records = [record for it in simulate(NOMINAL).records if (record := change(it)) is not None]
    assert cost_of_objects(Timeline.from_records(records), IDLE) is None


def test_phases_that_are_not_there() -> None:
    timeline = simulate(NOMINAL).evidence().timeline
    assert cost_of_objects(timeline, ("rest", "settle")) is None
    assert cost_of_objects(replace(timeline, probe=timeline.probe[:3]), IDLE) is None
