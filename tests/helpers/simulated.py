"""Runs that never took place: the records that a real one would leave, with one thing wrong where a test wants it.

A run is two critical threads, the worker that grows their cache, and what SPL counts. They are moved on from tick to
tick through the phases of a scenario, and read at each tick as the agent reads them, in the formats of docs/formats.md.
Every run is the same each time; one without faults is what a good SPL shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from splvm.evidence.checks.loadlevel import on_pool
from splvm.evidence.checks.promises import OF_KINDS, OF_MEMORY, OF_QUEUES
from splvm.evidence.checks.worksaid import CLIENTS, QUEUES
from splvm.evidence.checks.worksaid import KINDS as WORK_KINDS
from splvm.evidence.formats.stream import Frame, What
from splvm.evidence.timeline import Evidence, Timeline
from splvm.evidence.verdict import Outcome
from splvm.record.writer import RunDirectory

Record = dict[str, Any]

QEMU_LOG = b"$ qemu-system-x86_64 -M q35\n"
HARNESS_LOG = b"booting a guest ...\nbooting a guest: done in 4.3 s\n"

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

# Page allocations that were to fail.
INJECTED = 8
# One thread keeps many objects while the worker is held.
LONG = "long-lived"

PERIOD_NS = 50_000_000
BASE_NS = 4_000_000_000

# What each critical thread does: so many objects a round, so many rounds a tick.
THREADS = 2
OBJECTS = 32
ROUNDS = 3
SIZE = 65_536

# Part of the time for which virtual CPUs wait for the host's even if it has nothing else to do.
QUIET_HOST = 0.02

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
# What a storm is set to.
STORM_SETTINGS = {"ops": 0xFFF, "rate": 1, "trap": 3, "mark": 1, "helpers": 0, "threads": 3, "how": 3}
STORM_PIDS = (131, 132)

# Taskqs, and caches of several kinds, are used as by SPL's users.
TASKQS, CACHES = "taskqs", "caches"
CLIENT_PIDS = (141, 142)
# The same while CPUs come and go, and memory that is no object of a cache.
HOTPLUG, MEMORY = "hotplug", "memory"
TAKER_PIDS = (151, 152)
# Objects in hand of each kind, and those of the first that are emergency objects.
IN_HAND = 12
IN_EMERGENCY = 2

# Commits that whoever is caught in the trap waits for.
COMMITS = 300

# What the thread of LONG keeps at most, besides those that it gives back while that is timed.
KEEP = 100
TIMED = 12

PER_SLAB = 8
SLAB_SIZE = 524_672
KVMEM, DEADLOCKED, GROWING = 0x80, 0x4000, 0x8000

HOLD = ("armed", "held", "pid", "since_ns", "entries", "released_ns")
WORKER_PID = 114
THREAD_PIDS = (128, 129)
BLOCKS: tuple[int, ...] = (0, 2, 2, 3, 2, 2, 2, 2, 2, 3, 86)
LATENCY_BOUND_MS = 500


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


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a run: it begins `after_s` into a phase and lasts `for_s`."""

    phase: str
    after_s: float = 0.0
    for_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Skew:
    """For as long as `span` lasts, a text says something else than what is true: these are added to its numbers."""

    # slab: size, slab.max, emergency.alloc, ...; probe: `live.emergency`, `thread 1.corrupt`, ...
    source: str
    cells: Mapping[str, int]
    span: Span = Span("")


@dataclass(frozen=True, slots=True)
class Knobs:
    """What goes wrong in a run; the defaults are one in which nothing does."""

    # --- SPL and the worker
    # Emergency objects for callers whom the worker keeps waiting.
    fallback: bool = True
    # The kernel's own allocator backs the cache, so that it never grows by the worker.
    kernel_cache: bool = False
    # The lever does not hold the worker.
    free_worker: Span | None = None
    # The threads find enough objects in slabs and do not need the worker.
    ample_slabs: bool = False
    # What `tasks` says of the worker instead; empty: nothing.
    worker: tuple[Span, str] | None = None
    # --- low memory
    # Memory is taken, and there is enough of it all the same.
    relieved: Span | None = None
    # --- the trap
    # Nobody is asked in it.
    deaf: bool = False
    # The thread itself is caught, for there is no worker.
    own: bool = False
    # Commits do not let go whom it caught.
    forever: bool = False
    # In a storm somebody is caught at a site, and nobody lets it go.
    stormed: Span | None = None
    # Waits at that site that commits have ended.
    storm_waits: int = 0
    # Nobody watches the allocator.
    unwatched: bool = False
    # A client of taskqs does not come out of a step.
    standing: Span | None = None
    # Transactions are not committed, and not carried by emergency objects.
    uncommitted: Span | None = None
    uncarried: Span | None = None
    # --- faults
    # No allocation fails.
    faultless: bool = False
    # --- memory
    # Larger blocks stay when it is fragmented.
    unbroken: bool = False
    # --- the critical threads
    # Thread to when it waits for an object.
    waiting: Mapping[int, Span] = field(default_factory=dict)
    # Those that wait are ready to run, and only get no CPU.
    ready: bool = False
    # Waits for the worker that last as long as SPL's timeout; and when those who wait sleep, and the worker idles.
    timeouts: Span | None = None
    unwoken: Span | None = None
    # The threads never ask again for what they gave back; and nobody counts where objects come from.
    unused: bool = False
    uncounted: bool = False
    # --- the load
    # Its reports are read while they are written.
    torn: Span | None = None
    # Nothing is written back to the disk, or to the pool; and no txg is synced.
    unwritten: Span | None = None
    unsynced: Span | None = None
    # run.json names no load.
    unloaded: bool = False
    # --- what is read of it
    skews: tuple[Skew, ...] = ()
    # Source to when it reads this instead.
    garbled: Mapping[str, tuple[Span, str]] = field(default_factory=dict)
    # Source to when it is not read.
    unread: Mapping[str, Span] = field(default_factory=dict)
    # Phases that the run never came to.
    unmarked: frozenset[str] = frozenset()
    # --- what is kept of it
    # Frames that did not arrive.
    lost: Span | None = None
    # Everything from here on did not arrive.
    cut: Span | None = None
    # Frames that the agent says it dropped, and whether it says anything at the end.
    dropped: int = 0
    ended: bool = True
    # --- the host
    # Part of the time for which virtual CPUs had to wait for one of the host's, and when that was so.
    host_wait: float = QUIET_HOST
    starving: Span = Span("")
    # More lines on the console.
    console: str = ""
    # How the run ended, according to run.json.
    outcome: tuple[str, str] = ("ended", "all steps were taken")

    def __or__(self, other: Knobs) -> Knobs:
        """Both at once."""
        both: dict[str, Any] = {}
        for name in (f.name for f in fields(Knobs)):
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
                both[name] = {**mine, **theirs}
            elif name in ("skews", "console"):
                both[name] = mine + theirs
            else:
                both[name] = mine if theirs == getattr(GOOD, name) else theirs
        return Knobs(**both)


GOOD = Knobs()


@dataclass(frozen=True, slots=True)
class Run:
    """What is left of a run."""

    facts: dict[str, Any]
    records: list[Record]
    console: str

    def evidence(self) -> Evidence:
        """The same as if it had been written to a directory and read back."""
        count = self.facts.get("outcome", {}).get("closed_bytes")
        closed = self.console[:count] if isinstance(count, int) and 0 <= count <= len(self.console) else None
        return Evidence(self.facts, Timeline.from_records(self.records), self.console, closed=closed)

    def frames(self) -> list[Frame]:
        """The frames of the agent among the records."""
        names = [f.name for f in fields(Frame)]
        frames = [{name: r[name] for name in names} for r in self.records if r["kind"] == "frame"]
        return [Frame(**{**frame, "what": What(frame["what"])}) for frame in frames]

    def start_record(self, path: Path, more: Mapping[str, Any] | None = None) -> RunDirectory:
        """The run in a directory, as the harness leaves it, but not finished.

        :param more: what run.json says besides.
        """
        record = RunDirectory(
            path, {**{key: self.facts[key] for key in self.facts if key != "outcome"}, **(more or {})}
        )
        frames = iter(self.frames())
        for line in self.records:
            match line["kind"]:
                case "frame":
                    record.record_frame(next(frames), line["path"])
                case "host":
                    record.record_host({key: line[key] for key in ("vcpus", "load1")})
                case "phase":
                    record.record_phase(line["name"])
                case "afterwards":
                    record.record_afterwards(line["source"], line["text"])
        (path / "console.log").write_text(self.console)
        (path / "qemu.log").write_bytes(QEMU_LOG)
        (path / "harness.log").write_bytes(HARNESS_LOG)
        return record


def simulate(scenario: str, knobs: Knobs = GOOD) -> Run:
    """Let a run take its course."""
    console = CONSOLE + knobs.console
    simulation = _Simulation(scenario, knobs)
    facts = {
        "schema_version": 1,
        "scenario": scenario_of(scenario),
        "expected": [KINDS[scenario].best],
        "parameters": {
            "window_s": 3.0,
            "latency_bound_ms": LATENCY_BOUND_MS,
            "rate_hz": 20,
            "ram_mib": 512,
            "cpus": KINDS[scenario].cpus,
            "workload": simulation.workload(),
        },
        # The keys are those of that version.
        "splvm": "0.1.0",
        "argv": ["splvm", "run", scenario_of(scenario)],
        "started": "2026-11-01T00:00:00+00:00",
        "kernel": {
            "id": "debian-12",
            "release": "6.1.0-56-cloud-amd64",
            "package": "linux-image-6.1.0-56-cloud-amd64 6.1.192-2",
            "sha256": "51" * 32,
        },
        "spl": {
            "source": "debian",
            "version": "2.1.11-1+deb12u1",
            "variant": "stock",
            "patches": [],
            "modules": {"spl.ko": "68" * 32, "slabprobe.ko": "5e" * 32},
        },
        "spl_parameters": {"spl_kmem_cache_obj_per_slab": "8"},
        "qemu": {"version": "7.2.22", "sha256": "14" * 32},
        "accelerator": {"name": "tcg", "reason": "/dev/kvm is not there"},
        "host": {"cores": 2, "load": [0.5, 0.4, 0.3], "system": "Linux 6.18.44 x86_64"},
        "outcome": {**dict(zip(("kind", "detail"), knobs.outcome, strict=True)), "console_bytes": len(console)},
    }
    if scenario == STORM:
        parameters: Any = facts["parameters"]
        parameters |= {"storm": {**STORM_SETTINGS, "only": []}, "seed": 7, "watched": "spl"}
    if scenario in (GROW, SPARE):
        facts["faults"] = {"times": INJECTED, "min_order": 0}
    if (loads := KINDS[scenario].loads) and not knobs.unloaded:
        facts["loads"] = [{"name": name, "values": {}} for name in loads]
    return Run(facts, simulation.run(), console)


CONSOLE = """\
[    0.000000] Linux version 6.1.0-56-cloud-amd64 (builder@example) (gcc-12 (Debian 12.2.0-14) 12.2.0) #1 SMP
[    0.000000] Command line: console=ttyS0 panic=-1 oops=panic ignore_loglevel
[    1.880030] Run /init as init process
[    3.402118] slabprobe: loading out-of-tree module taints kernel.
"""

_KTHREAD = "[<0>] kthread+0xd7/0x100\n[<0>] ret_from_fork+0x1f/0x30\n"
_LISTENS = f"[<0>] taskq_thread+0x425/0x510 [spl]\n{_KTHREAD}"
_HELD = f"[<0>] slabprobe_grow_work+0xfa/0x140 [slabprobe]\n[<0>] taskq_thread+0x2e0/0x510 [spl]\n{_KTHREAD}"
GROWS_STACK = (
    "[<0>] __vmalloc_node+0x4a/0x60\n[<0>] spl_cache_grow_work+0x7c/0x2b0 [spl]\n"
    f"[<0>] taskq_thread+0x2e0/0x510 [spl]\n{_KTHREAD}"
)
TRAP_STACK = (
    "[<0>] slabprobe_wait_commit+0xe8/0x130 [slabprobe]\n[<0>] slabprobe_shrink_scan+0x7c/0xb0 [slabprobe]\n"
    "[<0>] do_shrink_slab+0x142/0x240\n[<0>] shrink_slab+0xac/0x2a0\n[<0>] shrink_node+0x2c0/0x710\n"
    "[<0>] do_try_to_free_pages+0xd1/0x4d0\n[<0>] try_to_free_pages+0xf1/0x1a0\n"
)
_TABLE = (
    "[<0>] slabprobe_pte_alloc_kernel+0xf5/0x120 [slabprobe]\n[<0>] map_kernel_range_noflush+0x30d/0x380\n"
    "[<0>] __vmalloc_area_node+0x19d/0x230\n[<0>] __vmalloc+0x97/0xd0\n"
)
GROWTH_STACK = (
    "[<0>] spl_cache_grow_work+0x6f/0x240 [spl]\n[<0>] slabprobe_grow_work+0x51/0x140 [slabprobe]\n"
    f"[<0>] taskq_thread+0x2e0/0x510 [spl]\n{_KTHREAD}"
)
_CAUGHT = TRAP_STACK + _TABLE + GROWTH_STACK
_CAUGHT_ITSELF = (
    f"{TRAP_STACK}{_TABLE}[<0>] spl_kmem_cache_alloc+0x328/0x5d0 [spl]\n"
    f"[<0>] slabprobe_transaction+0x1b/0x30 [slabprobe]\n[<0>] critical_thread+0x74/0x340 [slabprobe]\n{_KTHREAD}"
)
_WAITS = f"[<0>] spl_kmem_cache_alloc+0x550/0x5c0 [spl]\n[<0>] critical_thread+0x74/0x340 [slabprobe]\n{_KTHREAD}"
# The probe's own thread that takes memory, asleep for good but in `reclaim-organic`.
_MEMORY_TASK = (
    "task pid=120 comm=slabprobe/mem state=I voluntary=2 nonvoluntary=0\n"
    f"[<0>] slabprobe_take+0x5f/0x220 [slabprobe]\n{_KTHREAD}"
)
_IDLES = f"[<0>] idle+0xaf/0xf0 [slabprobe]\n[<0>] critical_thread+0x32/0x340 [slabprobe]\n{_KTHREAD}"


_STORMED = (
    "[<0>] slabprobe_storm_wait+0xb8/0x130 [slabprobe]\n[<0>] slabprobe_storm_scan+0x7c/0xb0 [slabprobe]\n"
    f"{TRAP_STACK.split(chr(10), 2)[2]}[<0>] slabprobe_storm_reclaim+0x51/0x60 [slabprobe]\n"
    "[<0>] __get_free_pages+0x11/0x40\n[<0>] spl_emergency_alloc+0xd7/0x200 [spl]\n"
    f"[<0>] slabprobe_storm_transaction+0x33/0xd0 [slabprobe]\n{_KTHREAD}"
)

# Context switches of the worker when it comes to be held: a few for each tick before.
WORKER_SWITCHES = 2 + 6 * 12


def worker_text(
    state: str = "D", stack: str = _HELD, switches: tuple[int, int] = (WORKER_SWITCHES, 0), rest: str = ""
) -> str:
    """What `tasks` says of the worker."""
    header = f"task pid={WORKER_PID} comm=spl_kmem_cache state={state}"
    return f"{header} voluntary={switches[0]} nonvoluntary={switches[1]}{rest}\n{stack}"


@dataclass(slots=True)
class _Thread:
    """One critical thread. Objects are counted by kind when they are taken and when they are given back."""

    index: int
    # Of a round.
    objects: int = OBJECTS
    rounds: int = 0
    slab: int = 0
    emergency: int = 0
    allocs: int = 0
    frees: int = 0
    emergency_total: int = 0
    gap_max_ns: int = 0
    gap_total_max_ns: int = 0
    # 0: it does not wait.
    waits_since_ns: int = 0
    # 0: it is idle.
    last_ns: int = 0
    reached: str = "running"
    # Whether the next object's latency is counted already: that of a wait.
    counted: bool = False

    def take(self, count: int, emergency: bool) -> None:
        self.allocs += count
        if emergency:
            self.emergency += count
            self.emergency_total += count
        else:
            self.slab += count

    def finish_round(self, emergency: bool) -> None:
        self.take(self.objects - self.slab - self.emergency, emergency)
        self.frees += self.slab + self.emergency
        self.slab = self.emergency = 0
        self.rounds += 1

    def note_gap(self, gap_ns: int) -> None:
        self.gap_max_ns = max(self.gap_max_ns, gap_ns)
        self.gap_total_max_ns = max(self.gap_total_max_ns, gap_ns)

    def idle(self, state: str) -> None:
        self.reached = state
        self.last_ns = 0


class _Simulation:
    """The guest, and the harness that drives it and writes down what it reads."""

    def __init__(self, scenario: str, knobs: Knobs) -> None:
        self.phases = KINDS[scenario].phases
        self.knobs = knobs
        # Rounds are transactions, and there is a trap for one thread.
        self.is_cycle = scenario_of(scenario) in (CYCLE, ORGANIC)
        self.is_declined = scenario == DECLINED
        self.is_organic = scenario == ORGANIC
        self.is_long = scenario == LONG
        self.is_storm, self.is_taskqs = scenario == STORM, scenario == TASKQS
        self.has_clients = scenario in (TASKQS, HOTPLUG)
        # Whether transactions are made; how many shrinkers were asked; since when somebody is caught, 0: nobody is.
        self.storms = False
        self.storm_asked = self.storm_commits = self.stormed_ns = self.storm_let_go = 0
        # Since when somebody was caught last, and when it came free.
        self.caught_ns = self.storm_left_ns = 0
        # The site's mask, where its thread is marked; and without the mark, where somebody is caught.
        self.storm_mask = 0xCC0 if knobs.stormed else 0xC00
        # What the work with taskqs, or with caches, has come to; and since when a client stands, 0: it does not.
        self.queues = self.kinds = self.memory = "none"
        self.work_rounds = self.stood_ns = 0
        # Large pieces that came from vmalloc; which CPUs are to be there, and how many went and came.
        self.fallen = 0
        self.cpus = KINDS[scenario].cpus
        self.cpus_wish = ""
        self.went = self.came = 0
        self.loads = KINDS[scenario].loads
        self.txg = 20
        self.written = 0
        self.count = 1 if self.is_cycle or self.is_long else THREADS
        # The clock, and when each phase began.
        self.tick = 0
        self.now_ns = BASE_NS
        self.begun: dict[str, int] = {"": BASE_NS}
        # The probe.
        self.threads: list[_Thread] = []
        self.wanted = "stopped"
        self.marks: list[tuple[str, int]] = []
        self.latency: dict[int, int] = {}
        # Where objects came from: magazines, refills of these, and what was given back and asked for again.
        self.refills = self.reused = 0
        self.woken: dict[int, int] = {}
        # In `nominal` every other round finds what the one before gave back.
        self.reap_rounds = 2 if scenario == NOMINAL else 1
        # The lever.
        self.armed = False
        self.entries = self.since_ns = self.released_ns = 0
        # Ticks for which the worker has been held; 0: it is not.
        self.held_ticks = 0
        # The trap. `armed` then means that it catches the worker.
        self.trap = "off"
        self.tables = self.asked = self.let_go = self.waited = 0
        self.commits = self.carried = 0
        # Low memory.
        self.pressing = False
        self.refused = 0
        # The faults.
        self.is_faulty = scenario in (GROW, SPARE)
        self.place = "off"
        self.marked = self.injected = 0
        # Batches of frees that were timed, with each number of objects kept.
        self.batches = 0
        # What SPL remembers.
        self.switches = 2
        # How long each virtual CPU has waited for one of the host's.
        self.starved_ns = 0
        self.dlock = self.emergency_max = self.object_max = 0
        # Free blocks by order, and what they were when memory was fragmented.
        self.blocks = {"now": BLOCKS}
        # The agent and the host.
        self.seq = 0
        self.texts: dict[str, str] = {}
        self.records: list[Record] = [{"kind": "start", "schema_version": 1, "at_s": 0.0}]

    def run(self) -> list[Record]:
        self.frame("agent", f"hello version=1 rate_hz=20 slow_every=10 base_ns={BASE_NS} period_ns={PERIOD_NS} pid=117")
        self.frame(
            "ctl",
            f"ok set threads={self.count} objects={OBJECTS} size={SIZE} pause_us=5000 reap_rounds={self.reap_rounds}",
        )
        for phase in self.phases:
            self.begin(phase)
            for _ in range(phase.ticks):
                self.move_on()
                self.read()
        self.now_ns += 2_000_000
        if self.knobs.ended:
            self.frame("agent", f"end frames={self.seq} dropped={self.knobs.dropped}")
        return self.records

    def within(self, span: Span | None) -> bool:
        """Whether it is the time."""
        if span is None or span.phase not in self.begun:
            return False
        into_s = (self.now_ns - self.begun[span.phase]) / 1e9
        return span.after_s <= into_s < span.after_s + span.for_s

    # --- the harness -------------------------------------------------------------------------------------------------

    def begin(self, phase: Phase) -> None:
        if not phase.name:
            return
        # Between the readings of one tick and those of the next.
        self.now_ns = max(self.now_ns + 2_000_000, BASE_NS + self.tick * PERIOD_NS + 20_000_000)
        self.begun[phase.name] = self.now_ns
        self.record({"kind": "phase", "name": phase.name})
        if phase.name not in self.knobs.unmarked:
            self.marks.append((phase.name, self.now_ns))
            for thread in self.threads:
                thread.gap_max_ns = 0
            self.frame("ctl", f"ok mark {phase.name}")
        for command in phase.commands:
            self.obey(command)
            self.frame("ctl", f"ok {command}")

    def obey(self, command: str) -> None:
        match command:
            case "start":
                self.threads = [
                    _Thread(index, KEEP + TIMED if self.is_long else OBJECTS) for index in range(self.count)
                ]
                self.wanted = "running"
            case "stop":
                self.wanted = "stopped"
            case "park":
                self.wanted = "parked"
            case "storm start":
                self.storms = True
            case "storm stop":
                self.storms = False
                self.storm_let_go += self.stormed_ns > 0
                self.storm_left_ns = self.now_ns if self.stormed_ns else 0
                self.stormed_ns = 0
            case "resume":
                self.wanted = "running"
            case "memory running" | "memory loaded" | "memory emptied" | "memory gone":
                self.memory = command.removeprefix("memory ")
            case "cpus away" | "cpus moving" | "cpus all":
                self.cpus_wish = command.removeprefix("cpus ")
                self.went += (self.cpus - 1) * (self.cpus_wish == "away")
                self.came += (self.cpus - 1) * (self.cpus_wish == "all")
            case "fragment 0":
                self.blocks = {"now": BLOCKS}
            case "fragment 512" | "fragment pinned":
                after = BLOCKS if self.knobs.unbroken else (44_497, *([0] * 10))
                self.blocks = {"now": after, "before": BLOCKS, "after": after}
            case "hold" | "hold own":
                self.armed = True
            case "queues running" | "queues loaded" | "queues emptied" | "queues gone":
                self.queues = command.removeprefix("queues ")
            case "caches running" | "caches loaded" | "caches emptied" | "caches gone":
                self.kinds = command.removeprefix("caches ")
            case "release":
                self.armed = False
            case "fail grow" | "fail emergency" | "fail off":
                self.place = command.removeprefix("fail ")
            case "trap induced" | "trap organic":
                self.trap = command.split()[1]
                self.armed = not self.is_declined
            case "pressure on" | "pressure off":
                self.pressing = command.endswith("on")
            case "trap off":
                self.trap = "off"
                self.let_go += self.held_ticks > 0
                self.armed = False

    # --- the guest ---------------------------------------------------------------------------------------------------

    def move_on(self) -> None:
        self.tick += 1
        self.now_ns = BASE_NS + self.tick * PERIOD_NS
        self.starved_ns += int(PERIOD_NS * (self.knobs.host_wait if self.within(self.knobs.starving) else QUIET_HOST))
        if self.is_cycle:
            self.move_trap()
        if self.storms:
            self.move_storm()
        self.work_rounds += "running" in (self.queues, self.kinds, self.memory)
        self.fallen += 4 * (self.memory == "running" and "after" in self.blocks and not self.knobs.unbroken)
        self.went += self.tick % 2 * (self.cpus_wish == "moving")
        self.came += self.tick % 2 * (self.cpus_wish == "moving")
        if self.within(self.knobs.standing):
            self.stood_ns = self.stood_ns or self.now_ns
        self.refused += 3 * (self.pressing and not self.within(self.knobs.relieved))
        if self.place != "off":
            self.marked += 3
            self.injected += 2 * (self.injected < INJECTED and not self.knobs.faultless)
        self.move_worker()
        for thread in self.threads:
            self.move_thread(thread)

    def move_trap(self) -> None:
        """It is sprung once if it catches somebody, else again and again; some commits later that one is free."""
        if self.trap != "off" and self.wanted == "running" and (self.is_declined or not self.tables):
            self.tables += 1
            self.asked += not self.knobs.deaf
        enough = self.within(Span("resolve", 0.2)) and not self.knobs.forever and not self.knobs.own
        if self.armed and self.held_ticks and (enough or self.within(self.knobs.free_worker)):
            self.armed = False
            self.waited += 1

    def move_storm(self) -> None:
        if not self.stormed_ns:
            self.storm_asked += 0 if self.knobs.deaf else 25
            self.storm_commits += 2
        if self.storm_waited and not self.caught_ns:
            self.caught_ns, self.storm_left_ns = self.now_ns - 1_000_000, self.now_ns
        if self.within(self.knobs.stormed):
            self.stormed_ns = self.caught_ns = self.stormed_ns or self.now_ns

    def move_worker(self) -> None:
        held = self.armed and not self.within(self.knobs.free_worker)
        if held and not self.held_ticks:
            self.since_ns = self.now_ns
            self.entries += 1
        elif self.held_ticks and not held:
            self.released_ns = self.now_ns
        self.held_ticks = self.held_ticks + 1 if held else 0
        if not held and not self.within(self.knobs.unwoken):
            self.switches += 6

    @property
    def deadlocked(self) -> bool:
        """Whether a caller has timed out; the threads have emergency objects from then on."""
        return self.held_ticks > 1 and self.knobs.fallback and not self.knobs.ample_slabs and not self.knobs.own

    def must_wait(self, thread: _Thread) -> bool:
        if self.within(self.knobs.waiting.get(thread.index)):
            return True
        return self.held_ticks > 0 and not self.deadlocked and not self.knobs.ample_slabs

    def move_thread(self, thread: _Thread) -> None:
        if thread.reached == self.wanted != "running":
            return
        if self.must_wait(thread):
            thread.reached = "running"
            thread.waits_since_ns = thread.waits_since_ns or (thread.last_ns or self.now_ns - PERIOD_NS) + 30_000
            return
        if thread.waits_since_ns:
            self.end_wait(thread)
        if self.wanted == "stopped":
            if thread.slab + thread.emergency:
                self.count_quick(thread, thread.objects - thread.slab - thread.emergency)
                thread.finish_round(self.deadlocked)
            thread.idle("stopped")
        elif self.wanted == "parked":
            left = thread.objects - thread.slab - thread.emergency
            self.count_quick(thread, left)
            thread.take(left, self.deadlocked)
            thread.idle("parked")
        else:
            self.work(thread)
        if self.deadlocked:
            self.emergency_max = self.count * thread.objects
        else:
            self.object_max = self.count * thread.objects

    def end_wait(self, thread: _Thread) -> None:
        waited_ns = self.now_ns - thread.waits_since_ns
        thread.note_gap(waited_ns)
        thread.waits_since_ns = 0
        self.count_latency(waited_ns.bit_length() - 1, not thread.counted)
        thread.counted = True
        if self.deadlocked:
            self.dlock += 1

    def work(self, thread: _Thread) -> None:
        """A few rounds, and a part of the next."""
        before = thread.allocs
        for _ in range(ROUNDS):
            thread.finish_round(self.deadlocked)
            self.commits += not self.within(self.knobs.uncommitted)
            self.carried += self.deadlocked and not self.within(self.knobs.uncarried)
        self.batches += self.deadlocked
        thread.take(8 + (7 * self.tick + 11 * thread.index) % 17, self.deadlocked)
        thread.reached = "running"
        if thread.last_ns:
            thread.note_gap(6_100_000 + 1_000 * (self.tick % 7))
        thread.last_ns = self.now_ns - 20_000
        got = thread.allocs - before
        if not self.deadlocked:
            self.refills += ROUNDS
            self.reused += OBJECTS if self.reap_rounds > 1 and not self.knobs.unused else 0
        if self.held_ticks:
            self.count_quick(thread, got)
        else:
            late = self.within(self.knobs.timeouts)
            # One such wait takes two ticks.
            bucket, count = (26, self.tick % 2) if late else (14, ROUNDS)
            self.count_latency(26 if late else 20, count)
            self.woken[bucket] = self.woken.get(bucket, 0) + count
            self.count_quick(thread, got - count)

    def count_quick(self, thread: _Thread, count: int) -> None:
        if thread.counted and count:
            count -= 1
            thread.counted = False
        self.count_latency(16 if self.deadlocked else 8, count)

    def count_latency(self, bucket: int, count: int) -> None:
        self.latency[bucket] = self.latency.get(bucket, 0) + count

    # --- what is read ------------------------------------------------------------------------------------------------

    def read(self) -> None:
        self.now_ns += 1_000_000
        self.read_source("probe", self.probe_text)
        self.read_source("slab", self.slab_text)
        self.read_source("tasks", self.tasks_text)
        if self.is_storm and self.tick % 20 == 0 and not self.knobs.unwatched:
            self.read_source("sites", self.sites_text)
        if self.loads and "load" in self.begun:
            self.read_source("load", self.load_text)
        if on_pool(self.loads):
            self.read_source("txgs", self.txgs_text)
            if self.tick % 10 == 0:
                self.read_source("poolstate", lambda: "ONLINE\n")
        if self.tick % 10 == 0:
            self.read_source("meminfo", self.meminfo_text)
            self.read_source("pressure", lambda: "# memory\nsome avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
            self.read_source("vmstat", lambda: f"nr_free_pages {91_381 - self.tick}\npgfault 10\n")
        if self.tick % 5 == 0:
            spent_ns = self.tick * PERIOD_NS
            times = {"run_ns": spent_ns - self.starved_ns, "wait_ns": self.starved_ns}
            vcpus = [{"tid": 32_007 + cpu, **times} for cpu in range(self.cpus)]
            self.record({"kind": "host", "vcpus": vcpus, "load1": 1.5})

    def read_source(self, source: str, render: Any) -> None:
        if self.within(self.knobs.unread.get(source)):
            return
        self.now_ns += 100_000
        text = str(render())
        span, other = self.knobs.garbled.get(source, (None, ""))
        if self.within(span):
            text = other
        self.frame(source, text)
        self.now_ns += 100_000

    def frame(self, source: str, text: str) -> None:
        """The agent writes `same` for a text that has not changed."""
        same = source not in ("agent", "ctl") and self.texts.get(source) == text
        self.texts[source] = text
        seq, self.seq = self.seq, self.seq + 1
        if self.within(self.knobs.lost):
            return
        self.record(
            {
                "kind": "frame",
                "path": "ssh",
                "seq": seq,
                "tick": self.tick,
                "source": source,
                "what": "same" if same else "data",
                "start_ns": self.now_ns,
                "end_ns": self.now_ns + 80_000,
                "text": "" if same else text,
            }
        )

    def record(self, record: Record) -> None:
        if not self.within(self.knobs.cut):
            self.records.append({**record, "at_s": round((self.now_ns - BASE_NS) / 1e9 + 4.7, 6)})

    def skewed(self, source: str, cells: Mapping[str, int]) -> dict[str, int]:
        """What the text says. SPL's counters are unsigned."""
        told = dict(cells)
        for skew in self.knobs.skews:
            if skew.source == source and self.within(skew.span):
                told = {name: (value + skew.cells.get(name, 0)) % 2**64 for name, value in told.items()}
        return told

    def meminfo_text(self) -> str:
        return f"MemTotal:  406312 kB\nMemFree:  {365_524 - self.tick} kB\nVmallocUsed:  5120 kB\n"

    def workload(self) -> dict[str, int]:
        """What the threads were set to."""
        config = {"threads": self.count, "objects": OBJECTS, "size": SIZE, "pause_us": 5000}
        config["reap_rounds"] = self.reap_rounds
        commits = {"commits": COMMITS} if self.is_cycle else {}
        return {**config, **({"keep": KEEP} if self.is_long else {}), **commits}

    def probe_text(self) -> str:
        lines = ["slabprobe 1", f"now_ns {self.now_ns}"]
        lines.append(f"bits kvmem={KVMEM:#x} deadlocked={DEADLOCKED:#x} growing={GROWING:#x} reaping=0x10000")
        lines.append(
            self.probe_line(
                "hold",
                **(dict.fromkeys(HOLD, 0) if self.is_cycle else self.hold_cells()),
            )
        )
        if self.is_cycle:
            mode = f"trap mode={self.trap} "
            lines.append(self.probe_line("trap", **self.trap_cells()).replace("trap ", mode, 1))
            lines.append(self.probe_line("tx", commits=self.commits, carried=self.carried, ballast=0, ballast_kib=0))
        if self.is_organic:
            held, given = 92_000 * self.pressing, 16 * self.refused
            cells = {"on": int(self.pressing), "held": held, "taken": held + given, "given": given}
            lines.append(self.probe_line("pressure", **cells, refused=self.refused, free=94_000 - held))
        if self.is_faulty:
            faults = {"marked": self.marked, "injected": self.injected, "missed": 0}
            lines.append(self.probe_line("fail", **faults).replace("fail ", f"fail place={self.place} ", 1))
        lines.append(self.probe_line("config", **self.workload()))
        reached = {state: sum(t.reached == state for t in self.threads) for state in ("parked", "stopped")}
        lines.append(self.probe_line("run", **reached).replace("run ", f"run state={self.wanted} ", 1))
        lines.append(
            self.probe_line(
                "live",
                slab=sum(t.slab for t in self.threads),
                emergency=sum(t.emergency for t in self.threads),
                emergency_max=self.emergency_max,
                emergency_total=sum(t.emergency_total for t in self.threads),
            )
        )
        lines += [self.thread_line(thread) for thread in self.threads]
        lines += [f"latency {bucket} {count}" for bucket, count in sorted(self.latency.items())]
        lines += self.service_lines()
        for kept, cost_ns in ((10, 7_500), (KEEP, 9_000)) if self.is_long and self.batches else ():
            costs = {"min_ns": cost_ns - 500, "median_ns": cost_ns}
            lines.append(self.probe_line(f"kept {kept}", objects=TIMED, batches=self.batches, **costs))
        lines += [f"blocks {when} {' '.join(map(str, counts))}" for when, counts in self.blocks.items()]
        lines += self.storm_lines() if self.is_storm else []
        lines += self.queue_lines() if self.queues != "none" else []
        lines += self.kind_lines() if self.kinds != "none" else []
        lines += self.taker_lines() if self.memory != "none" else []
        lines += self.cpus_lines() if self.cpus_wish else []
        lines += [f"mark {index} {time_ns} {name}" for index, (name, time_ns) in enumerate(self.marks)]
        return "\n".join(lines) + "\n"

    @property
    def storm_waited(self) -> int:
        return min(self.knobs.storm_waits, self.storm_asked)

    def storm_lines(self) -> list[str]:
        caught = int(self.stormed_ns > 0)
        entered = caught + self.storm_let_go + self.storm_waited
        counts = {"reclaims": self.storm_asked, "shrinks": 0, "crowded": 0, "asked": self.storm_asked}
        counts |= {"declined": self.storm_asked - entered, "entered": entered}
        counts |= {
            "waited": self.storm_waited,
            "let_go": self.storm_let_go,
            "waiting": caught,
            "pid": STORM_PIDS[1] if entered else 0,
        }
        counts |= {"since_ns": self.caught_ns, "left_ns": self.storm_left_ns, "site": 0}
        counts |= {"gfp": self.storm_mask * bool(entered), "asked_gfp": self.storm_mask * bool(self.storm_asked)}
        counts |= {"kswapd": 0, "failed": 0}
        state = {"running": int(self.storms), "idle": int(not self.storms)}
        watch = {"hooks": 1, "blind": 0, "count": 1, "calls": 2 * self.storm_asked, "lost": 0, "atomic": 0}
        return [
            self.probe_line("sites", **watch, preempt_count=1).replace("sites ", "sites mode=count module=spl ", 1),
            self.probe_line("storm", **state, **STORM_SETTINGS, seed=7, only=0, **counts),
            *(
                [self.probe_line("stormwait 0", pid=STORM_PIDS[1], since_ns=self.stormed_ns, site=0, gfp=0xCC0)]
                * caught
            ),
            *(
                self.probe_line(f"stormtx {number}", pid=pid, open=int(self.storms), commits=self.storm_commits)
                for number, pid in enumerate(STORM_PIDS)
            ),
        ]

    def queue_lines(self) -> list[str]:
        steps = [("nested", self.stood_ns) if self.stood_ns else ("-", 0), ("-", 0)]
        return [
            *(
                self.probe_line(f"client {number}", pid=pid, rounds=self.work_rounds, since_ns=since_ns)
                + f" state={self.queues} step={step}"
                for number, (pid, (step, since_ns)) in enumerate(zip(CLIENT_PIDS, steps, strict=True))
            ),
            *(
                self.queue_line(f"{name}{number}", *how)
                for number in range(CLIENTS if self.queues != "gone" else 0)
                for name, how in QUEUES.items()
            ),
            *(self.promise_line(f"qpromise {name}", "taskq_wait") for name in OF_QUEUES),
        ]

    def queue_line(self, name: str, threads: int, dynamic: int, least: int) -> str:
        """Each has a task that runs and one that waits at rest."""
        held = int(self.queues == "loaded")
        listed = {"running": held, "pending": held, "front": 0, "delayed": 0}
        made = {"threads": threads, "dynamic": dynamic, "min": least}
        entries = max(least, 2 * held)
        shown = {"act": held, "nthr": threads, "spwn": 0, "maxt": threads, "cura": entries, "active": held}
        return self.probe_line(f"queue {name}", **listed, **made, **shown, pend=held, prio=0, delay=0)

    def promise_line(self, tag: str, at: str) -> str:
        return self.probe_line(tag, asked=9 * self.work_rounds, broken=0, saw=3, wanted=6) + f" at={at}"

    def taker_lines(self) -> list[str]:
        """The second one is marked, and is the one that stands, if one does."""
        steps = [("-", 0), ("vmem", self.stood_ns) if self.stood_ns else ("-", 0)]
        pieces = 8 * self.work_rounds
        return [
            *(
                self.probe_line(
                    f"taker {number}",
                    pid=pid,
                    rounds=self.work_rounds,
                    since_ns=since_ns,
                    marked=number,
                    kmem_falls_back=1,
                    kmem=pieces,
                    kmem_back=self.fallen,
                    vmem=pieces,
                    vmem_back=self.fallen,
                )
                + f" state={self.memory} step={step}"
                for number, (pid, (step, since_ns)) in enumerate(zip(TAKER_PIDS, steps, strict=True))
            ),
            *(self.promise_line(f"mpromise {name}", "kmem_alloc") for name in OF_MEMORY),
        ]

    def cpus_lines(self) -> list[str]:
        online = {"away": 1, "moving": 1 + self.tick % self.cpus, "all": self.cpus}[self.cpus_wish]
        counts = {"present": self.cpus, "online": online, "went": self.went, "came": self.came, "failed": 0}
        return [self.probe_line("cpus", **counts).replace("cpus ", f"cpus state={self.cpus_wish} ", 1)]

    def kind_lines(self) -> list[str]:
        held = IN_HAND if self.kinds in ("running", "loaded") else 0
        counts = {"allocs": 50 * self.work_rounds + IN_HAND, "frees": 50 * self.work_rounds + IN_HAND - held}
        return [
            self.probe_line("kinds", rounds=self.work_rounds, cpus=self.cpus, back=1) + f" state={self.kinds}",
            *(self.kind_line(name, *how, held=held, **counts) for name, how in WORK_KINDS.items()),
            *(self.promise_line(f"kpromise {name}", "slabprobe_k0") for name in OF_KINDS),
        ]

    def kind_line(self, name: str, size: int, align: int, wanted: int, builds: int, **counts: int) -> str:
        """The first one has emergency objects."""
        emergency = IN_EMERGENCY * bool(counts["held"]) * (name == "slabprobe_k0")
        made = {"size": size, "align": align, "wanted": wanted, "builds": builds}
        built = {"built": builds * counts["allocs"], "torn_down": builds * counts["frees"]}
        held = {"in_slab": PER_SLAB * wanted, "magazine": 16 * wanted}
        held |= {"most_emergency": IN_EMERGENCY * (name == "slabprobe_k0") * (self.kinds != "none")}
        return self.probe_line(f"kind {name}", **made, emergency=emergency, **counts, **built, **held)

    def kind_rows(self) -> list[str]:
        """Rows of the slab file: objects in the magazines count as well."""
        if self.kinds not in ("running", "loaded", "emptied"):
            return []
        used = 16 if self.kinds != "emptied" else 0
        rows = []
        for name, (size, align, wanted, _) in WORK_KINDS.items():
            slabs, most = -(-used // PER_SLAB), IN_EMERGENCY * (name == "slabprobe_k0")
            emergency = most * bool(used)
            bytes_of_slab = PER_SLAB * (size + align + 32) + 64
            sizes = {"flags": KVMEM, "size": slabs * bytes_of_slab, "alloc": used * size, "slabsize": bytes_of_slab}
            slab = {"slab.total": slabs, "slab.alloc": slabs, "slab.max": 2}
            objects = {"object.total": slabs * PER_SLAB + emergency, "object.alloc": used, "object.max": 16}
            rest = {"emergency.dlock": 0, "emergency.alloc": emergency, "emergency.max": most}
            own = slab_row(name, sizes | {"objsize": size} | slab | objects | rest)
            rows.append(own if wanted else kernel_row(name, IN_HAND if used else 0, size))
        return rows

    def sites_text(self) -> str:
        """One site of two functions."""
        masks = {"asked": 0xCC0, "effective": self.storm_mask, "noio": int(self.storm_mask != 0xCC0), "nofs": 0}
        masks |= {"calls": 2 * self.storm_asked}
        entered = self.storm_let_go + (self.stormed_ns > 0) + self.storm_waited
        counts = {"reclaims": self.storm_asked, "declined": self.storm_asked - entered, "entered": entered}
        rest = {"waiting": int(self.stormed_ns > 0), "atomic": 0, "preempt": 0, "least": 4096, "most": 65536}
        site = self.line("sites", "site 0", helper=0, **masks, **counts, **rest)
        chain = "chain=__alloc_pages<__get_free_pages<spl_emergency_alloc+0xd7/0x200 [spl]"
        lines = ["slabprobe_sites 1", f"now_ns {self.now_ns}", "masks fs=0x80 io=0x40 reclaim=0x400"]
        lines += ["hook __alloc_pages gfp_arg=0 err=0", f"{site} id=1c0f874f thread=slabprobe_tq {chain}", "end"]
        return "\n".join(lines) + "\n"

    def service_lines(self) -> list[str]:
        """Where objects came from; each refill waits for two growths, and is woken some 20 us after the second."""
        if self.knobs.uncounted:
            return []
        hits = sum(it.allocs - it.emergency_total for it in self.threads) - self.refills
        counters = {"hits": hits, "refills": self.refills, "grew": self.refills}
        reused = {"reusable": self.reused, "reused": self.reused}
        return [
            self.probe_line("magazine", size=64, refill=32, cpus=2, **counters, **reused),
            self.probe_line("growth", begun=2 * self.refills, done=2 * self.refills, slabs=2 * self.refills),
            f"waited 20 {sum(self.woken.values())}",
            *(f"woken {bucket} {count}" for bucket, count in sorted(self.woken.items())),
        ]

    def hold_cells(self) -> dict[str, int]:
        pid = WORKER_PID if self.entries else 0
        held = (int(self.armed), int(self.held_ticks > 0), pid, self.since_ns, self.entries, self.released_ns)
        return dict(zip(HOLD, held, strict=True))

    def trap_cells(self) -> dict[str, int]:
        caught = self.asked if not self.is_declined else 0
        return {
            "spent": int(caught > 0),
            "tables": self.tables,
            "induced": 0 if self.is_organic else self.tables,
            "sprung": self.asked,
            "declined": self.asked - caught,
            "entered": caught,
            "waited": self.waited,
            "let_go": self.let_go,
            "waiting": int(self.held_ticks > 0 and not self.knobs.deaf),
            "pid": (THREAD_PIDS[0] if self.knobs.own else WORKER_PID) if caught else 0,
            "since_ns": self.since_ns,
            "released_ns": self.released_ns,
            "gfp": 0xD00 if self.is_declined else 0xDC0,
            "reserves": 0,
        }

    def load_text(self) -> str:
        """Both loads are in their bands, and 300 KiB are written back in a tick."""
        self.written += 300 * (not self.within(self.knobs.unwritten))
        written = self.written
        memory = {"total": 406_312, "available": 33_000, "free": 9_000, "dirty": 12_000, "writeback": 900, "swap": 0}
        counts = {"written": written, "scanned": 0, "scanned_direct": 0, "some_us": 0, "full_us": 0, "oom_kills": 0}
        beat = {"status": 0, "bytes": 4096 * self.tick, "beat_ns": self.now_ns}
        torn = int(self.within(self.knobs.torn))
        lines = ["splvm-load 1", f"at seq={self.tick} now_ns={self.now_ns} cpu_us={300 * self.tick}"]
        lines.append(self.line("load", "memory", **memory, **counts))
        for name in self.loads:
            low, high, level = _BANDS[name]
            cells = {"low": low, "high": high, "level": level, "since_ns": self.begun["load"]}
            done = {"done_kib": written} if name != "lowmem" else {}
            unit = "KiB/s" if name.startswith("zfs") else "KiB"
            lines.append(self.line("load", f"load {name}", **cells, **done) + f" unit={unit}")
            worker = {"pid": 140 + len(name), "alive": 1, "signal": 0, **beat}
            lines.append(self.line("load", f"worker {name} 0", **worker) + " role=eater")
        return "\n".join([*lines, f"end seq={self.tick + torn}"]) + "\n"

    def txgs_text(self) -> str:
        """A txg is synced each second."""
        self.txg += self.tick % 20 == 0 and not self.within(self.knobs.unsynced)
        states = [(self.txg - 1, "C", 0, 8192), (self.txg, "S", 0, 0), (self.txg + 1, "O", 65536, 0)]
        lines = [
            f"{number} 5000000000 {state} {dirty} 0 {written} 0 9 1 1 1 1" for number, state, dirty, written in states
        ]
        return "\n".join([TXG_HEADING, *lines]) + "\n"

    def thread_line(self, thread: _Thread) -> str:
        since_ns = thread.last_ns or thread.waits_since_ns
        open_ns = self.now_ns - since_ns if since_ns else 0
        return self.probe_line(
            f"thread {thread.index}",
            pid=THREAD_PIDS[thread.index],
            rounds=thread.rounds,
            allocs=thread.allocs,
            frees=thread.frees,
            emergency=thread.emergency_total,
            failures=0,
            corrupt=0,
            gap_max_ns=max(thread.gap_max_ns, open_ns),
            gap_total_max_ns=max(thread.gap_total_max_ns, open_ns),
            alloc_since_ns=thread.waits_since_ns,
            last_ns=thread.last_ns,
        )

    def probe_line(self, tag: str, **values: int) -> str:
        return self.line("probe", tag, **values)

    def line(self, source: str, tag: str, **values: int) -> str:
        told = self.skewed(source, {f"{tag}.{key}": value for key, value in values.items()})
        return " ".join((tag, *(f"{name.removeprefix(f'{tag}.')}={value}" for name, value in told.items())))

    def slab_text(self) -> str:
        rows = [slab_row("spl_zlib_workspace_cache", dict.fromkeys(CELLS, 0) | ZLIB)]
        if self.threads and self.knobs.kernel_cache:
            rows.append(kernel_row("slabprobe", sum(t.slab for t in self.threads)))
        elif self.threads:
            rows.append(slab_row("slabprobe", self.skewed("slab", self.slab_cells())))
        rows += self.kind_rows()
        return SLAB_HEADER + "".join(rows)

    def slab_cells(self) -> dict[str, int]:
        slab, emergency = (sum(getattr(t, kind) for t in self.threads) for kind in ("slab", "emergency"))
        busy = self.wanted == "running" and not self.held_ticks
        used = -(-slab // PER_SLAB)
        total = used + busy
        growing = GROWING if self.held_ticks or (busy and self.tick % 2) else 0
        return {
            "flags": KVMEM | growing | (DEADLOCKED if self.deadlocked else 0),
            "size": total * SLAB_SIZE,
            "alloc": slab * SIZE,
            "slabsize": SLAB_SIZE,
            "objsize": SIZE,
            "slab.total": total,
            "slab.alloc": used,
            "slab.max": self.object_max // PER_SLAB,
            "object.total": total * PER_SLAB + emergency,
            "object.alloc": slab,
            "object.max": self.object_max,
            "emergency.dlock": self.dlock,
            "emergency.alloc": emergency,
            "emergency.max": self.emergency_max,
        }

    def tasks_text(self) -> str:
        text = worker_text("S", _LISTENS, (self.switches, 0))
        if self.held_ticks and not self.knobs.own:
            text = worker_text("D", _CAUGHT if self.is_cycle else _HELD, (self.switches, 0))
        if self.knobs.worker is not None and self.within(self.knobs.worker[0]):
            text = self.knobs.worker[1]
        for pid, name in zip(STORM_PIDS, ("slabprobe/tx", "slabprobe_tq"), strict=True) if self.is_storm else ():
            state, stack = ("D", _STORMED) if self.stormed_ns else ("S", _IDLES)
            text += f"task pid={pid} comm={name} state={state} voluntary=40 nonvoluntary=3\n{stack}"
        for number, pid in enumerate(CLIENT_PIDS) if self.has_clients else ():
            text += f"task pid={pid} comm=slabprobe/q{number} state=S voluntary=40 nonvoluntary=3\n{_IDLES}"
        return text + _MEMORY_TASK + "".join(self.thread_task(thread) for thread in self.threads)

    def thread_task(self, thread: _Thread) -> str:
        idle = thread.reached != "running"
        unwoken = self.within(self.knobs.unwoken)
        waiting = unwoken or (thread.waits_since_ns and not self.knobs.ready)
        state = "D" if waiting else "I" if idle else "R"
        waits = _CAUGHT_ITSELF if self.knobs.own and self.held_ticks else _WAITS
        stack = waits if waiting else _IDLES if idle else ""
        name = "tx" if self.is_cycle else thread.index
        header = f"task pid={THREAD_PIDS[thread.index]} comm=slabprobe/{name} state={state}"
        rounds = 0 if unwoken else thread.rounds
        return f"{header} voluntary={2 * rounds} nonvoluntary={rounds // 3}\n{stack}"


TXG_HEADING = "txg birth state ndirty nread nwritten reads writes otime qtime wtime stime"

# Band and level of each load.
_BANDS = {
    "writeback": (4096, 24_576, 12_900),
    "lowmem": (16_384, 49_152, 33_000),
    "zfs": (64, (1 << 63) - 1, 6000),
    "zfs-mmap": (64, (1 << 63) - 1, 6000),
    "zvol-swap": (32_768, (1 << 63) - 1, 60_000),
    "disk-swap": (32_768, (1 << 63) - 1, 60_000),
    "arc-mlock": (737_280, 819_200, 800_000),
}

# A report of a load that nobody asked for.
OTHER_LOAD = (
    "splvm-load 1\nat seq=9 now_ns=5000000000 cpu_us=10\n"
    "memory total=406312 available=300000 free=290000 dirty=0 writeback=0 written=0 swap=0 scanned=0 scanned_direct=0 "
    "some_us=0 full_us=0 oom_kills=0\n"
    "load memcg unit=KiB low=24576 high=32768 level=32000 since_ns=4500000000 done_kib=5\nend seq=9\n"
)


# --- the slab file as the kernel prints it ----------------------------------------------------------------------------

SLAB_HEADER = (
    "--------------------- cache -------------------------------------------------------  "
    "----- slab ------  ---- object -----  --- emergency ---\n"
    "name                                    flags      size     alloc slabsize  objsize  "
    "total alloc   max  total alloc   max  dlock alloc   max\n"
)
ZLIB = {"flags": KVMEM, "slabsize": 2_145_216, "objsize": 268_104}
_SIZES = ("flags", "size", "alloc", "slabsize", "objsize")
_SLAB = ("slab.total", "slab.alloc", "slab.max")
_OBJECT = ("object.total", "object.alloc", "object.max")
_EMERGENCY = ("emergency.dlock", "emergency.alloc", "emergency.max")
CELLS = (*_SIZES, *_SLAB, *_OBJECT, *_EMERGENCY)


def slab_row(name: str, cells: Mapping[str, int]) -> str:
    """One cache, as slab_seq_show() prints it."""
    flags, size, alloc, slabsize, objsize = (cells[cell] for cell in _SIZES)
    groups = "".join(f"  {cells[a]:5} {cells[b]:5} {cells[c]:5}" for a, b, c in (_SLAB, _OBJECT, _EMERGENCY))
    return f"{name:36}  {flags:#07x} {size:9} {alloc:9} {slabsize:8} {objsize:8}{groups}\n"


def kernel_row(name: str, objects: int, size: int = SIZE) -> str:
    """The same for a cache that the kernel's own allocator backs."""
    dashes = f"  {'-':>5} {'-':>5} {'-':>5}"
    sizes = f"{'-':>9} {objects * size:9} {'-':>8} {size:8}"
    return f"{name:36}  0x00100 {sizes}{dashes}  {'-':>5} {objects:5} {'-':>5}{dashes}\n"
