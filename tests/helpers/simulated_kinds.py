"""Kinds of runs that can be simulated: a scenario, or one of the ways that it may go, with its phases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from splvm.evidence.verdict import Outcome

HELD = "held-worker"
NOMINAL = "nominal"
# The worker is caught in the trap, and comes out of it by itself.
CYCLE = "reclaim-cycle"
# The same, and the flags forbid it each time.
DECLINED = "reclaim-cycle, declined"
# The worker is caught because memory is low.
ORGANIC = "reclaim-organic"

# The growth of the cache fails some times, and emergency objects cannot be had at first.
GROW = "grow-fails"
SPARE = "emergency-fails"
# One thread keeps many objects while the worker is held.
LONG = "long-lived"

# Free memory lies in single pages.
FRAGMENTED = "fragmented"

# The worker is held while the guest writes back with little memory.
LOADED = "held-worker, loaded"
# The same, and what is written goes to a pool.
POOL = "zfs-held-worker"
# Nothing is held: what is looked at is the load, with a pool and without.
ZVOL, DISK, ARC, ROOM = "zvol-swap", "disk-swap", "zfs-arc-mlock", "zfs-arc-room"
MAPPED, EXT4 = "zfs-mmap", "ext4-mmap"

# Reclaim comes at allocation sites, while two threads make transactions.
STORM = "storm"

# Taskqs, and caches of several kinds, are used as by SPL's users.
TASKQS, CACHES = "taskqs", "caches"
# The same while CPUs come and go, and memory that is no object of a cache.
HOTPLUG, MEMORY = "hotplug", "memory"


@dataclass(frozen=True, slots=True)
class Phase:
    """One step of a scenario; without a name it sets no mark."""

    name: str
    ticks: int
    commands: tuple[str, ...] = ()


_AUDIT = (Phase("window-end", 0), Phase("park", 2, ("park",)), Phase("audit", 4), Phase("audit-end", 0))
_FINISH = (Phase("stop", 2, ("stop",)), Phase("final", 4), Phase("end", 2))

_CYCLE = (
    Phase("", 2),
    Phase("settle", 10, ("start",)),
    Phase("trap", 4, ("trap induced",)),
    Phase("window", 60),
    *_AUDIT,
    Phase("resolve", 8, ("resume",)),
    Phase("release", 2, ("trap off",)),
    Phase("recovered", 20),
    *_FINISH,
)

_ORGANIC = tuple(
    replace(phase, commands=tuple(command.replace("induced", "organic") for command in phase.commands))
    for phase in (*_CYCLE[:2], Phase("press", 0, ("pressure on",)), *_CYCLE[2:])
)

_HELD_PHASES = (
    Phase("", 2),
    Phase("settle", 10, ("start",)),
    Phase("hold", 4, ("hold",)),
    Phase("window", 60),
    *_AUDIT,
    Phase("release", 2, ("release", "resume")),
    Phase("recovered", 20),
    *_FINISH,
)

_STORM = (
    Phase("", 2),
    Phase("storm", 10, ("storm start",)),
    Phase("window", 40),
    Phase("hold", 20, ("hold",)),
    Phase("window-end", 0),
    Phase("release", 4, ("release", "storm stop")),
    Phase("final", 22),
    Phase("end", 2),
)


def _at_rest(*nouns: str) -> tuple[Phase, ...]:
    """All is at rest with a known number of everything in hand, then empty, then gone."""
    return (
        Phase("load", 2, tuple(f"{noun} loaded" for noun in nouns)),
        Phase("loaded", 6),
        Phase("empty", 2, tuple(f"{noun} emptied" for noun in nouns)),
        Phase("emptied", 6),
        Phase("destroy", 2, tuple(f"{noun} gone" for noun in nouns)),
        Phase("gone", 14),
        Phase("end", 2),
    )


_TASKQS = (
    Phase("", 2),
    Phase("make", 2, ("queues running",)),
    Phase("window", 60),
    Phase("window-end", 0),
    *_at_rest("queues"),
)

_CACHES = (
    Phase("", 2),
    Phase("before", 12),
    Phase("make", 10, ("start", "caches running")),
    Phase("window", 60),
    Phase("window-end", 0),
    Phase("caught", 4, ("hold own",)),
    Phase("alone", 12),
    Phase("together", 6, ("release",)),
    Phase("stop", 2, ("stop",)),
    *_at_rest("caches"),
)

_HOTPLUG = (
    Phase("", 2),
    Phase("before", 12),
    Phase("away", 2, ("cpus away",)),
    Phase("make", 4, ("queues running", "caches running")),
    Phase("window", 60, ("cpus moving",)),
    Phase("window-end", 0),
    Phase("come", 4, ("cpus all",)),
    *_at_rest("queues", "caches"),
)

_MEMORY = (
    Phase("", 2),
    Phase("before", 12),
    Phase("fragment", 2, ("fragment pinned",)),
    Phase("make", 2, ("memory running",)),
    Phase("window", 60),
    Phase("window-end", 0),
    Phase("mend", 10, ("fragment 0",)),
    *_at_rest("memory"),
)

_ENDURED = (Phase("", 2), Phase("load", 20), Phase("window", 120), Phase("window-end", 0), Phase("end", 2))


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of run that can be simulated: a scenario, or one of the ways that it may go."""

    phases: tuple[Phase, ...]
    # The verdict when nothing is wrong.
    best: Outcome
    # Names of loads.
    loads: tuple[str, ...] = ()
    # The kind that it is besides, and something more: what goes wrong in that can go wrong in this.
    like: str = ""
    # CPUs of its guest.
    cpus: int = 2


def _also(phase: Phase) -> tuple[Phase, ...]:
    """The phases of a held worker, and one before them."""
    return (_HELD_PHASES[0], phase, *_HELD_PHASES[1:])


def _held_by(command: str, *releases: str) -> tuple[Phase, ...]:
    """The phases of a held worker, with other commands."""
    commands = {"hold": (command, "hold"), "release": releases}
    return tuple(replace(phase, commands=commands.get(phase.name, phase.commands)) for phase in _HELD_PHASES)


KINDS: Mapping[str, Kind] = {
    HELD: Kind(_HELD_PHASES, Outcome.PROGRESS),
    NOMINAL: Kind(
        (
            Phase("", 2),
            Phase("settle", 10, ("start",)),
            Phase("window", 60),
            *_AUDIT,
            Phase("resume", 4, ("resume",)),
            *_FINISH,
        ),
        Outcome.HEALTHY,
    ),
    CYCLE: Kind(_CYCLE, Outcome.PROGRESS),
    DECLINED: Kind(_CYCLE, Outcome.IMMUNE),
    ORGANIC: Kind(_ORGANIC, Outcome.PROGRESS),
    GROW: Kind(
        (
            Phase("", 2),
            Phase("settle", 10, ("start",)),
            Phase("fail", 2, ("fail grow",)),
            Phase("window", 60),
            *_AUDIT,
            Phase("release", 2, ("fail off", "resume")),
            Phase("recovered", 20),
            *_FINISH,
        ),
        Outcome.HEALTHY,
    ),
    SPARE: Kind(_held_by("fail emergency", "fail off", "release", "resume"), Outcome.PROGRESS),
    LONG: Kind(_HELD_PHASES, Outcome.PROGRESS, like=HELD),
    FRAGMENTED: Kind(_also(Phase("fragment", 2, ("fragment 512",))), Outcome.PROGRESS, like=HELD),
    LOADED: Kind(_also(Phase("load", 20)), Outcome.PROGRESS, loads=("writeback", "lowmem")),
    POOL: Kind(_also(Phase("load", 0)), Outcome.PROGRESS, loads=("zfs",), like=HELD),
    ZVOL: Kind(_ENDURED, Outcome.HEALTHY, loads=("zvol-swap",)),
    DISK: Kind(_ENDURED, Outcome.HEALTHY, loads=("disk-swap",)),
    ARC: Kind(_ENDURED, Outcome.HEALTHY, loads=("arc-mlock",)),
    ROOM: Kind(_ENDURED, Outcome.HEALTHY, loads=("arc-mlock",)),
    MAPPED: Kind(_ENDURED, Outcome.HEALTHY, loads=("zfs-mmap", "lowmem")),
    EXT4: Kind(_ENDURED, Outcome.HEALTHY, loads=("writeback", "lowmem")),
    STORM: Kind(_STORM, Outcome.IMMUNE),
    TASKQS: Kind(_TASKQS, Outcome.HEALTHY),
    CACHES: Kind(_CACHES, Outcome.HEALTHY),
    HOTPLUG: Kind(_HOTPLUG, Outcome.HEALTHY, cpus=4),
    MEMORY: Kind(_MEMORY, Outcome.HEALTHY),
}


def scenario_of(kind: str) -> str:
    """The scenario that a kind of run is of."""
    return kind.partition(",")[0]
