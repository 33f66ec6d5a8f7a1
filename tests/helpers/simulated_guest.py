"""A guest that is none: two critical threads, the worker that grows their cache, and what a test wants to be wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from simulated_kinds import (
    CYCLE,
    DECLINED,
    GROW,
    HOTPLUG,
    KINDS,
    LONG,
    NOMINAL,
    ORGANIC,
    SPARE,
    STORM,
    TASKQS,
    scenario_of,
)
from simulated_texts import (
    BASE_NS,
    BLOCKS,
    INJECTED,
    KEEP,
    OBJECTS,
    PERIOD_NS,
    QUIET_HOST,
    ROUNDS,
    THREADS,
    TIMED,
)

Record = dict[str, Any]


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


@dataclass(slots=True)
class Thread:
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


class Guest:
    """The guest and what SPL counts in it, moved on from tick to tick."""

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
        self.threads: list[Thread] = []
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

    def within(self, span: Span | None) -> bool:
        """Whether it is the time."""
        if span is None or span.phase not in self.begun:
            return False
        into_s = (self.now_ns - self.begun[span.phase]) / 1e9
        return span.after_s <= into_s < span.after_s + span.for_s

    def obey(self, command: str) -> None:
        match command:
            case "start":
                self.threads = [Thread(index, KEEP + TIMED if self.is_long else OBJECTS) for index in range(self.count)]
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

    @property
    def storm_waited(self) -> int:
        return min(self.knobs.storm_waits, self.storm_asked)

    def must_wait(self, thread: Thread) -> bool:
        if self.within(self.knobs.waiting.get(thread.index)):
            return True
        return self.held_ticks > 0 and not self.deadlocked and not self.knobs.ample_slabs

    def move_thread(self, thread: Thread) -> None:
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

    def end_wait(self, thread: Thread) -> None:
        waited_ns = self.now_ns - thread.waits_since_ns
        thread.note_gap(waited_ns)
        thread.waits_since_ns = 0
        self.count_latency(waited_ns.bit_length() - 1, not thread.counted)
        thread.counted = True
        if self.deadlocked:
            self.dlock += 1

    def work(self, thread: Thread) -> None:
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

    def count_quick(self, thread: Thread, count: int) -> None:
        if thread.counted and count:
            count -= 1
            thread.counted = False
        self.count_latency(16 if self.deadlocked else 8, count)

    def count_latency(self, bucket: int, count: int) -> None:
        self.latency[bucket] = self.latency.get(bucket, 0) + count
