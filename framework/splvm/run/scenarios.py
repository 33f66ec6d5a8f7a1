"""Scenarios: what is done to a guest, step by step.

A scenario is a row of `SCENARIOS`; what it does is a tuple of steps. A step sends commands to the probe and waits, on
the guest's own clock, until a condition holds in what the agent reports. How a run is judged is in evidence/judge.py,
under the scenario's name, and which verdict is expected of it in expectations.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from splvm.errors import UsageError
from splvm.run import readings
from splvm.run.readings import Reading

# Seconds of guest time in which a load has to reach its target.
REACH_S = 30.0

# Page allocations that are let fail: enough for several growths in a row, and for so few that no caller waits as long
# as the bound on the latency. A growth that fails costs the callers SPL's timeout, for nobody wakes them.
GROW_FAULTS = 8
# In the emergency branch a caller tries again at once.
EMERGENCY_FAULTS = 16

# Objects of 4 KiB that are kept: a guest of 512 MiB has room for them in either kind of memory.
KEPT = 10_000

# More than a guest has, MiB: all of its free memory is meant.
MOST_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Workload:
    """What the critical threads do; the keys of the probe's `set` command."""

    # Threads, and objects that each takes in a round.
    threads: int = 2
    objects: int = 32
    # Bytes of an object: over 16 KiB, so that SPL backs it with vmalloc by its own choice too.
    size: int = 65536
    # Sleep between two rounds, microseconds. A guest that leaves its CPUs idle for a part of the time still gets
    # what it needs when the host is busy.
    pause_us: int = 5000
    # Rounds after which empty slabs are given back, so that the cache has to grow again.
    reap_rounds: int = 1
    # Commits that a shrinker in the trap waits for. 0: rounds are no transactions; else there is one thread only.
    commits: int = 0
    # 1: threads are marked as SPL marks those that write back, so that they allocate with GFP_NOIO.
    noio: int = 0
    # Objects that the one thread keeps besides while the worker is held, at most: ten first, then ten times more. 0:
    # none.
    keep: int = 0

    def command(self) -> str:
        """The probe's command."""
        return "set " + " ".join(f"{name}={getattr(self, name)}" for name in self.__slots__)


@dataclass(frozen=True, slots=True)
class Faults:
    """How the kernel's fail_page_alloc is set up; the probe's `fail` says when, and for which tasks."""

    # Allocations that fail, one after the other, before they succeed again.
    times: int
    # Smallest order of pages that fails.
    min_order: int = 0

    def settings(self) -> Mapping[str, str]:
        """Its files below /sys/kernel/debug/fail_page_alloc, in the order to write them in: the filter comes first.

        Linux, Documentation/fault-injection/fault-injection.rst.
        """
        return {
            "task-filter": "Y",
            "interval": "1",
            "space": "0",
            "verbose": "1",
            "min-order": str(self.min_order),
            # vmalloc's pages may sleep, and may be high memory; by default such allocations are spared.
            "ignore-gfp-wait": "N",
            "ignore-gfp-highmem": "N",
            "times": str(self.times),
            "probability": "100",
        }


@dataclass(frozen=True, slots=True)
class Step:
    """One phase of a scenario."""

    # Name of the phase; it becomes a mark in the probe, unless it is empty.
    name: str
    # Commands for the probe, after the mark.
    commands: tuple[str, ...]
    # The phase is over when this holds.
    until: Callable[[Reading], bool]
    # ... or when it has lasted this long in guest time. Then the next step begins; what that means, judge() says.
    limit_s: float
    # Mark that is set when `until` held, and only then.
    then: str | None = None


# Before the steps of any scenario, if there is a load: it is to be there first. What it means that it is not, the judge
# says.
LOAD_STEP = Step("load", (), readings.reached, REACH_S)

_START = Step("settle", ("start",), readings.settled, 20)
_AUDIT = (
    Step("park", ("park",), readings.at_rest, 1.5),
    Step("audit", (), readings.read_often, 3),
    Step("audit-end", (), readings.lasts(0), 1),
)
# Long enough for a caller that is not woken to show it a few times over (evidence/progress.py, TIMEOUTS_AT_LEAST).
_AFTERWARDS = Step("", (), readings.lasts(0.7), 3)
_FINISH = (
    Step("stop", ("stop",), readings.stopped, 5),
    Step("final", (), readings.read_often, 3),
    Step("end", (), readings.lasts(0.1), 1),
)


def _nominal(window_s: float) -> tuple[Step, ...]:
    return (
        _START,
        Step("window", (), readings.lasts(window_s), window_s + 5),
        Step("window-end", (), readings.lasts(0), 1),
        *_AUDIT,
        Step("resume", ("resume",), readings.lasts(0.2), 1),
        *_FINISH,
    )


def _held_worker(window_s: float) -> tuple[Step, ...]:
    return (
        _START,
        Step("hold", ("hold",), readings.held, 5),
        Step("window", (), readings.lasts(window_s), window_s + 5),
        Step("window-end", (), readings.lasts(0), 1),
        *_AUDIT,
        Step("release", ("release", "resume"), readings.recovered, 10, then="recovered"),
        _AFTERWARDS,
        *_FINISH,
    )


def _endured(window_s: float) -> tuple[Step, ...]:
    return (
        Step("window", (), readings.lasts_unless_the_pool_stands(window_s), window_s + 5),
        Step("window-end", (), readings.lasts(0), 1),
        Step("end", (), readings.lasts(0.1), 1),
    )


def _long_lived(window_s: float) -> tuple[Step, ...]:
    return tuple(
        replace(step, until=readings.timed(window_s)) if step.name == "window" else step
        for step in _held_worker(window_s)
    )


def _fragmented(window_s: float) -> tuple[Step, ...]:
    fragment = f"fragment {MOST_MIB}"
    return (
        Step("fragment", (fragment,), readings.in_single_pages, 20),
        # What was freed since then has made blocks again.
        *(
            replace(step, commands=(fragment, *step.commands)) if step.name == "hold" else step
            for step in _held_worker(window_s)
        ),
    )


def _reclaim_cycle(window_s: float) -> tuple[Step, ...]:
    return _cycle(window_s, (Step("trap", ("trap induced",), readings.sprung, 10),), ("trap off",))


def _reclaim_organic(window_s: float) -> tuple[Step, ...]:
    springs = (
        Step("press", ("pressure on",), readings.low, 30),
        Step("trap", ("trap organic",), readings.sprung_at_all, 60),
    )
    return _cycle(window_s, springs, ("trap off", "pressure off"))


def _cycle(window_s: float, springs: tuple[Step, ...], ends: tuple[str, ...]) -> tuple[Step, ...]:
    return (
        _START,
        *springs,
        Step("window", (), readings.carried(window_s), window_s + 6),
        Step("window-end", (), readings.lasts(0), 1),
        *_AUDIT,
        # The trap stays: what it caught has to come out by itself.
        Step("resolve", ("resume",), readings.resolved, 15),
        Step("release", ends, readings.recovered, 10, then="recovered"),
        _AFTERWARDS,
        *_FINISH,
    )


def _rounds(window_s: float) -> Workload:
    """The same for every window."""
    return Workload()


def _grow_fails(window_s: float) -> tuple[Step, ...]:
    return (
        _START,
        Step("fail", ("fail grow",), readings.injected, 5),
        Step("window", (), readings.lasts(window_s), window_s + 5),
        Step("window-end", (), readings.lasts(0), 1),
        *_AUDIT,
        Step("release", ("fail off", "resume"), readings.recovered, 10, then="recovered"),
        _AFTERWARDS,
        *_FINISH,
    )


def _emergency_fails(window_s: float) -> tuple[Step, ...]:
    return (
        _START,
        Step("hold", ("fail emergency", "hold"), readings.held, 5),
        Step("window", (), readings.lasts(window_s), window_s + 5),
        Step("window-end", (), readings.lasts(0), 1),
        *_AUDIT,
        Step("release", ("fail off", "release", "resume"), readings.recovered, 10, then="recovered"),
        _AFTERWARDS,
        *_FINISH,
    )


def _reusing(window_s: float) -> Workload:
    """Every other round finds in the magazines what the one before gave back."""
    return Workload(reap_rounds=2)


def _transactions(window_s: float) -> Workload:
    """One transaction thread, and a wait for so many commits that it outlasts the window.

    A transaction takes 12 ms or more, so fewer than 84 are committed in a second.
    """
    return Workload(threads=1, objects=64, size=32768, pause_us=12000, commits=max(300, math.ceil(100 * window_s)))


def _hoard(window_s: float) -> Workload:
    """One thread that keeps up to thousands of objects, and gives back ten of them at a time."""
    return Workload(threads=1, objects=10, size=4096, keep=KEPT)


def _large_objects(window_s: float) -> Workload:
    """Few, for they may have many sizes.

    Of 256 KiB, which are not found by chance as smaller blocks are: somebody has to make them.
    """
    return Workload(objects=8, size=262_144)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One experiment. Its functions have names, so that it can be sent to another process."""

    name: str
    # One line for people.
    summary: str
    steps: Callable[[float], tuple[Step, ...]]
    # Default length of the window, seconds of guest time.
    window_s: float
    # Longest gap between two allocations of a critical thread that is still progress, ms. SPL's own timeout is HZ/10,
    # that is 100 ms (a whole HZ before 2015); the factor is for a guest that is emulated on a busy host.
    latency_bound_ms: int
    # What the critical threads do, for a window of so many seconds.
    workload: Callable[[float], Workload] = _rounds
    # What the kernel's fault injection is set to; None: it is not used, and the kernel need not have it.
    faults: Faults | None = None
    # Loads that belong to it, as `--load` names them; what the command line names comes on top.
    load: str = ""
    # MiB that its guest has at least.
    least_mib: int = 0


SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "nominal",
            "threads allocate and free, nothing is stuck",
            _nominal,
            3.0,
            1000,
            _reusing,
        ),
        Scenario(
            "held-worker",
            "the worker that grows the cache is held, then released",
            _held_worker,
            3.0,
            1000,
        ),
        Scenario(
            "zfs-held-worker",
            "the worker is held while something writes to a ZFS pool: do its transaction groups go on?",
            _held_worker,
            5.0,
            1000,
            load="zfs",
        ),
        Scenario(
            "zfs-mmap",
            "a file on a ZFS pool is written by a mapping while little memory is available",
            _endured,
            10.0,
            1000,
            load="zfs-mmap,lowmem:available_mib=64",
        ),
        Scenario(
            "ext4-mmap",
            "the control for zfs-mmap: the same on ext4",
            _endured,
            10.0,
            1000,
            load="writeback,lowmem:available_mib=64",
        ),
        Scenario(
            "zvol-swap",
            "processes that are larger than memory, with swap on a zvol: openzfs #7734",
            _endured,
            20.0,
            1000,
            load="zvol-swap",
            least_mib=640,
        ),
        Scenario(
            "disk-swap",
            "the control for zvol-swap: the same with swap on a disk",
            _endured,
            20.0,
            1000,
            load="disk-swap",
            least_mib=640,
        ),
        Scenario(
            "zfs-arc-mlock",
            "a process locks more than is free, while ZFS's cache is full and its pool is scrubbed: openzfs #4319",
            _endured,
            10.0,
            1000,
            load="arc-mlock",
            least_mib=1024,
        ),
        Scenario(
            "zfs-arc-room",
            "the control for zfs-arc-mlock: the same with half of the memory free",
            _endured,
            10.0,
            1000,
            load="arc-mlock:grab_mib=300",
            least_mib=1024,
        ),
        Scenario(
            "reclaim-cycle",
            "memory is low while the cache grows, and a shrinker waits for the transaction that needs it",
            _reclaim_cycle,
            3.0,
            1000,
            _transactions,
        ),
        Scenario(
            "reclaim-organic",
            "the same, and the guest is really short of memory: that alone has to spring the trap",
            _reclaim_organic,
            3.0,
            1000,
            _transactions,
        ),
        Scenario(
            "grow-fails",
            "the worker's growth of the cache fails some times, for want of pages, and then succeeds again",
            _grow_fails,
            3.0,
            1000,
            faults=Faults(GROW_FAULTS),
        ),
        Scenario(
            "emergency-fails",
            "the worker is held, and the allocation of emergency objects fails some times before it succeeds",
            _emergency_fails,
            3.0,
            1000,
            # An object of 64 KiB: no other allocation on the way to it takes so many pages at once.
            faults=Faults(EMERGENCY_FAULTS, min_order=4),
        ),
        Scenario(
            "fragmented",
            "free memory lies in single pages, then the worker is held",
            _fragmented,
            3.0,
            1000,
            _large_objects,
        ),
        Scenario(
            "long-lived",
            "thousands of emergency objects are kept while the worker is held",
            _long_lived,
            3.0,
            1000,
            _hoard,
        ),
    )
}

# Those that need nothing that not every kernel has, and no pool, which takes minutes to build.
ANYWHERE = tuple(name for name, scenario in SCENARIOS.items() if scenario.faults is None and not scenario.load)


def find_scenario(name: str) -> Scenario:
    """:raises UsageError: when there is none of that name; the message lists them."""
    try:
        return SCENARIOS[name]
    except KeyError:
        raise UsageError(f"there is no scenario {name!r}; there are: {', '.join(SCENARIOS)}") from None
