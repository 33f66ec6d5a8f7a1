"""Nothing is held: a load runs until something stands still by itself, each scenario beside its control.

There is no lever, so only the load is judged (evidence/checks/loadlevel.py), and the pool if it has one. How SPL grows
its caches is not asked for, so its variant has no say in what is expected.
"""

from __future__ import annotations

from splvm.evidence.expectation import Expectation
from splvm.evidence.rule import Rule, clauses
from splvm.evidence.verdict import Outcome
from splvm.run import readings
from splvm.run.scenarios import Scenario, Step
from splvm.scenarios.parts import WINDOW_END


def _endured(window_s: float) -> tuple[Step, ...]:
    return (
        Step("window", (), readings.lasts_unless_the_pool_stands(window_s), window_s + 5),
        WINDOW_END,
        Step("end", (), readings.lasts(0.1), 1),
    )


_PHASES = "phases window window-end end"


def _under(*loads: str) -> Rule:
    return Rule(required=clauses(_PHASES, f"loaded {' '.join(loads)}"), checks=(), good="endurance")


SCENARIOS = (
    Scenario(
        name="zfs-mmap",
        summary="a process writes to a mapped file on a ZFS pool while little memory is available",
        steps=_endured,
        window_s=10.0,
        load="zfs-mmap,lowmem:available_mib=64",
        rule=_under("zfs-mmap", "lowmem"),
        expects=Expectation(
            Outcome.HEALTHY,
            "pages of a mapping are written back by copies into ZFS's cache, which finds the memory for them",
        ),
    ),
    Scenario(
        name="ext4-mmap",
        summary="the control for zfs-mmap: the file is on ext4",
        steps=_endured,
        window_s=10.0,
        load="writeback,lowmem:available_mib=64",
        rule=_under("writeback", "lowmem"),
        expects=Expectation(Outcome.HEALTHY, "ext4 writes back the very pages that are mapped"),
    ),
    Scenario(
        name="zvol-swap",
        summary="processes that are larger than memory, with swap on a zvol: openzfs #7734",
        steps=_endured,
        window_s=20.0,
        load="zvol-swap",
        least_mib=640,
        rule=_under("zvol-swap"),
        expects=Expectation(
            Outcome.STALLED,
            "openzfs #7734: reclaim waits for a bio that only the zvol's thread can end, which waits in reclaim itself",
        ),
    ),
    Scenario(
        name="disk-swap",
        summary="the control for zvol-swap: swap is on a disk",
        steps=_endured,
        window_s=20.0,
        load="disk-swap",
        least_mib=640,
        rule=_under("disk-swap"),
        expects=Expectation(Outcome.HEALTHY, "whoever swaps to a disk needs no memory but what is set aside for that"),
    ),
    Scenario(
        name="zfs-arc-mlock",
        summary="a process locks more memory than is free; ZFS's cache is full, its pool is scrubbed: openzfs #4319",
        steps=_endured,
        window_s=10.0,
        load="arc-mlock",
        least_mib=1024,
        rule=_under("arc-mlock"),
        expects=Expectation(
            Outcome.HEALTHY,
            "ZFS's cache gives back what is asked of it, also within reclaim; openzfs #4319 says otherwise",
        ),
    ),
    Scenario(
        name="zfs-arc-room",
        summary="the control for zfs-arc-mlock: half of the memory is free",
        steps=_endured,
        window_s=10.0,
        load="arc-mlock:grab_mib=300",
        least_mib=1024,
        rule=_under("arc-mlock"),
        expects=Expectation(Outcome.HEALTHY, "there is room for the cache and for what is locked beside it"),
    ),
)
