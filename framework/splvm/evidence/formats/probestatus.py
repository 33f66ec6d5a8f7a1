"""/proc/slabprobe, version 1 (docs/formats.md): the status of the test module in the guest."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from splvm.errors import EvidenceError
from splvm.evidence.formats.explorestatus import Delayed, delayed_of
from splvm.evidence.formats.statusfile import Line, parse_records, to_integer
from splvm.evidence.formats.stormstatus import StormStatus, Watch, storm_of, watch_of
from splvm.evidence.formats.stream import excerpt
from splvm.evidence.formats.workstatus import Cpus, Kinds, Memory, Queues, cpus_of, kinds_of, memory_of, queues_of

VERSION = 1

# Orders of blocks that a kernel may have at most; x86-64 has 11 (0 to 10, up to 4 MiB).
MAX_ORDERS = 64


class RunState(enum.StrEnum):
    """What the critical threads were asked to do."""

    STOPPED = "stopped"
    RUNNING = "running"
    PARKED = "parked"


@dataclass(frozen=True, slots=True)
class Config:
    """What each critical thread does."""

    threads: int
    # Objects that a thread takes in a round.
    objects: int
    # Bytes of an object.
    size: int
    # Sleep between two rounds.
    pause_us: int
    # Rounds after which empty slabs are given back; 0 is never.
    reap_rounds: int
    # Commits that a shrinker caught in the trap waits for; 0: rounds are no transactions.
    commits: int = 0
    # Whether the threads are marked as SPL's own that write back (PF_MEMALLOC_NOIO).
    noio: int = 0
    # Objects kept besides while the worker is held, at most; 0: none.
    keep: int = 0


@dataclass(frozen=True, slots=True)
class ThreadsStatus:
    """What was asked of the threads, and how many have got there."""

    state: RunState
    parked: int
    stopped: int


@dataclass(frozen=True, slots=True)
class Hold:
    """The lever on the slab worker."""

    # The next growth of the cache will be held.
    armed: bool
    # Workers held now.
    held: int
    # The worker held last and since when; 0 if there was none.
    pid: int
    since_ns: int
    # Growths held so far.
    entries: int
    # When the last one was let go; 0 if none was.
    released_ns: int
    # Whether this SPL has a worker to hold.
    worker: bool = True


class TrapMode(enum.StrEnum):
    """What the trap was set to."""

    OFF = "off"
    # Each page table of the growth is preceded by a reclaim.
    INDUCED = "induced"
    # Only if memory is low by itself.
    ORGANIC = "organic"


@dataclass(frozen=True, slots=True)
class Trap:
    """The trap: a shrinker, asked while the cache grows, that waits for commits. Counters since loading."""

    mode: TrapMode = TrapMode.OFF
    # Somebody has been caught since it was set; an induced one then rests.
    spent: bool = False
    # Page tables that the growth of the cache needed, and those preceded by an induced reclaim.
    tables: int = 0
    induced: int = 0
    # Of these, those for which reclaim asked the shrinker; then it declined, by the flags, or entered its wait.
    sprung: int = 0
    declined: int = 0
    entered: int = 0
    # Waits that commits ended, waits that the end of the trap ended, and waits now.
    waited: int = 0
    let_go: int = 0
    waiting: int = 0
    # Who was caught last, since when, and when that ended; 0 if nobody was.
    pid: int = 0
    since_ns: int = 0
    released_ns: int = 0
    # The GFP mask with which the shrinker was asked last.
    gfp: int = 0
    # Page tables of a growth that were asked for by a thread that may use the reserves of memory (PF_MEMALLOC).
    reserves: int = 0


@dataclass(frozen=True, slots=True)
class Transactions:
    """What the transaction thread has done since loading."""

    commits: int = 0
    # Commits of a round with an emergency object in it.
    carried: int = 0
    # Mappings that keep the growth away from page tables that are there, and what they span.
    ballast: int = 0
    ballast_kib: int = 0


class FailPlace(enum.StrEnum):
    """Where page allocations are let fail."""

    OFF = "off"
    # In the worker, while it grows the cache.
    GROW = "grow"
    # In a critical thread, while it takes an object.
    EMERGENCY = "emergency"


@dataclass(frozen=True, slots=True)
class Fail:
    """Faults that the kernel injects into marked tasks. Counters since loading."""

    place: FailPlace = FailPlace.OFF
    # Growths, or allocations of an object, for whose length a task was marked.
    marked: int = 0
    # Page allocations that the kernel let fail in them.
    injected: int = 0
    # Page allocations of which it is not known.
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Pressure:
    """Low memory: pages that a thread of the probe holds and goes on taking. Counters since loading."""

    on: bool = False
    # Pages it holds, and free pages of the guest.
    held: int = 0
    free: int = 0
    # Pages taken so far, given back (to reclaim, or at the end), and times that there was none above the watermark.
    taken: int = 0
    given: int = 0
    refused: int = 0
    # Free pages below which memory is a reserve: the min watermarks of all zones. None: nobody told.
    min: int | None = None


@dataclass(frozen=True, slots=True)
class KernelBits:
    """Bits of the kernel, from the headers that the module was built with."""

    # The mark of a thread in which memory must not be reclaimed by I/O (PF_MEMALLOC_NOIO).
    noio: int
    # The flags of an allocation that may begin I/O, and that may enter a filesystem (__GFP_IO, __GFP_FS).
    io: int
    fs: int


@dataclass(frozen=True, slots=True)
class Growth:
    """How often the cache grew; counters since loading."""

    # By the worker: it came to do it, and was done.
    begun: int
    done: int
    # Slabs that vmalloc was asked for, by whomever; None if they were not counted.
    slabs: int | None = None


@dataclass(frozen=True, slots=True)
class Magazine:
    """Where the threads' objects came from; counters since loading."""

    # Objects in a magazine at most, and in a batch that refills it.
    size: int
    refill: int
    # CPUs, each with a magazine of its own.
    cpus: int
    # Objects from the magazine of the CPU, and refills of it: one object each, the others of the batch are hits.
    hits: int
    refills: int
    # Refills for which the cache grew.
    grew: int
    # Objects that had to be in the magazine because the thread itself had given them back; those that were.
    reusable: int
    reused: int


@dataclass(frozen=True, slots=True)
class LiveObjects:
    """Objects that the threads hold, told apart by address and not by SPL's own counters."""

    slab: int
    emergency: int
    # Most emergency objects there were at once.
    emergency_max: int
    # Emergency objects handed out so far.
    emergency_total: int


@dataclass(frozen=True, slots=True)
class CriticalThread:
    """One critical thread; counters since the module was loaded."""

    index: int
    pid: int
    rounds: int
    allocs: int
    frees: int
    # Allocations that gave an emergency object.
    emergency: int
    failures: int
    # Objects whose pattern was damaged.
    corrupt: int
    # Longest time between two allocations since the last mark, and since `start`; open gaps count.
    gap_max_ns: int
    gap_total_max_ns: int
    # When the allocation now under way began; 0 if none is.
    alloc_since_ns: int
    # When the last allocation ended.
    last_ns: int


@dataclass(frozen=True, slots=True)
class Fragment:
    """What was done to leave free memory in single pages; pages of 4 KiB."""

    # What was asked for; 0: nothing.
    mib: int = 0
    # Pages that were taken one by one, every second frame of them given back, and pages in blocks that were left.
    filled: int = 0
    punched: int = 0
    rest: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """What frees cost while emergency objects are kept."""

    # Emergency objects that were kept besides, and those that a batch gave back.
    count: int
    objects: int
    # Batches that were timed.
    batches: int
    # What a batch cost.
    min_ns: int
    median_ns: int


@dataclass(frozen=True, slots=True)
class Mark:
    """A named moment."""

    index: int
    time_ns: int
    name: str


@dataclass(frozen=True, slots=True)
class ProbeStatus:
    """One reading of /proc/slabprobe; all times are the guest's CLOCK_MONOTONIC."""

    now_ns: int
    # The flag bits of the SPL that the module was built for: kvmem, deadlocked, growing, reaping.
    bits: dict[str, int]
    config: Config
    run: ThreadsStatus
    hold: Hold
    live: LiveObjects
    threads: tuple[CriticalThread, ...]
    # Allocations of all threads that took from 2^K to 2^(K+1) - 1 ns, by K; empty buckets are absent.
    latency: dict[int, int]
    # The last 32.
    marks: tuple[Mark, ...]
    # Modules of before the trap, or before the faults, do not have these.
    trap: Trap = Trap()
    tx: Transactions = Transactions()
    # Nor those of before low memory this.
    pressure: Pressure = Pressure()
    fail: Fail = Fail()
    # Nor do modules of before the magazines have these. Refills that slept until the worker had grown the cache, by how
    # long they took (`waited`), and by how long that was after the growth had ended (`woken`).
    growth: Growth | None = None
    magazine: Magazine | None = None
    waited: dict[int, int] = field(default_factory=dict)
    woken: dict[int, int] = field(default_factory=dict)
    # By their count; those of before long-lived objects have none.
    kept: tuple[Kept, ...] = ()
    # Modules of before fragmentation do not have these: free blocks by order, of all zones, `now`, and when memory was
    # fragmented, `before` and `after`.
    fragment: Fragment = Fragment()
    blocks: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    # Nor do modules of before marks and masks were judged have this.
    kernel: KernelBits | None = None
    # Nor do modules of before the storm have these.
    watch: Watch | None = None
    storm: StormStatus | None = None
    # Nor do modules of before exploration have these.
    delayed: tuple[Delayed, ...] = ()
    # Nor do those of before the work with taskqs and caches, and it is told of only where there is some.
    queues: Queues | None = None
    kinds: Kinds | None = None
    memory: Memory | None = None
    cpus: Cpus | None = None


def parse_probe(text: str) -> ProbeStatus:
    """Read a status of version 1. Tags and keys that are not known are left alone.

    :raises EvidenceError: for another version, for something required that is missing, doubled or
        not a number, and for a status that is cut off, with the line.
    """
    records = parse_records(text, "slabprobe", VERSION)
    return ProbeStatus(
        now_ns=records.only("now_ns").integer(0),
        bits=_bits(records.only("bits")),
        config=_config(records.only("config")),
        run=_run(records.only("run")),
        hold=_hold(records.only("hold")),
        live=LiveObjects(**records.only("live").numbers("slab", "emergency", "emergency_max", "emergency_total")),
        threads=tuple(_thread(line) for line in records.all("thread")),
        latency=_histogram(records.all("latency")),
        marks=tuple(_mark(line) for line in records.all("mark")),
        trap=_trap(records.only("trap")) if records.has("trap") else Trap(),
        tx=_transactions(records.only("tx")) if records.has("tx") else Transactions(),
        pressure=_pressure(records.only("pressure")) if records.has("pressure") else Pressure(),
        fail=_fail(records.only("fail")) if records.has("fail") else Fail(),
        growth=_growth(records.only("growth")) if records.has("growth") else None,
        magazine=_magazine(records.only("magazine")) if records.has("magazine") else None,
        waited=_histogram(records.all("waited")),
        woken=_histogram(records.all("woken")),
        kept=_kept(records.all("kept")),
        fragment=_fragment(records.only("fragment")) if records.has("fragment") else Fragment(),
        blocks=_blocks(records.all("blocks")),
        kernel=KernelBits(**records.only("kernel").numbers("noio", "io", "fs")) if records.has("kernel") else None,
        watch=watch_of(records.only("sites")) if records.has("sites") else None,
        storm=storm_of(records) if records.has("storm") else None,
        delayed=tuple(delayed_of(records.all("delayed"))),
        queues=queues_of(records) if records.has("client") else None,
        kinds=kinds_of(records) if records.has("kinds") else None,
        memory=memory_of(records) if records.has("taker") else None,
        cpus=cpus_of(records.only("cpus")) if records.has("cpus") else None,
    )


def _bits(line: Line) -> dict[str, int]:
    line.numbers("kvmem", "deadlocked", "growing", "reaping")
    return {name: to_integer(value, line.number) for name, value in line.pairs().items()}


def _config(line: Line) -> Config:
    return Config(
        **line.numbers("threads", "objects", "size", "pause_us", "reap_rounds"), **line.later(commits=0, noio=0, keep=0)
    )


def _run(line: Line) -> ThreadsStatus:
    state = line.pairs().get("state", "")
    if state not in tuple(RunState):
        raise EvidenceError(f"not a state: {excerpt(state)}, valid are {', '.join(RunState)}", line=line.number)
    return ThreadsStatus(state=RunState(state), **line.numbers("parked", "stopped"))


def _hold(line: Line) -> Hold:
    values = line.numbers("armed", "held", "pid", "since_ns", "entries", "released_ns")
    armed = values.pop("armed")
    return Hold(armed=armed != 0, **values, worker=line.later(worker=1)["worker"] != 0)


def _trap(line: Line) -> Trap:
    mode = line.pairs().get("mode", "")
    if mode not in tuple(TrapMode):
        raise EvidenceError(f"not a mode: {excerpt(mode)}, valid are {', '.join(TrapMode)}", line=line.number)
    counters = ("tables", "induced", "sprung", "declined", "entered", "waited", "let_go", "waiting")
    values = line.numbers("spent", *counters, "pid", "since_ns", "released_ns", "gfp")
    spent = values.pop("spent")
    return Trap(mode=TrapMode(mode), spent=spent != 0, **values, **line.later(reserves=0))


def _fail(line: Line) -> Fail:
    place = line.pairs().get("place", "")
    if place not in tuple(FailPlace):
        raise EvidenceError(f"not a place: {excerpt(place)}, valid are {', '.join(FailPlace)}", line=line.number)
    return Fail(FailPlace(place), **line.numbers("marked", "injected", "missed"))


def _transactions(line: Line) -> Transactions:
    return Transactions(**line.numbers("commits", "carried", "ballast", "ballast_kib"))


def _pressure(line: Line) -> Pressure:
    values = line.numbers("on", "held", "free", "taken", "given", "refused")
    on = values.pop("on")
    least = line.numbers("min") if "min" in line.pairs() else {}
    return Pressure(on=on != 0, **values, **least)


def _growth(line: Line) -> Growth:
    slabs = line.numbers("slabs") if "slabs" in line.pairs() else {}
    return Growth(**line.numbers("begun", "done"), **slabs)


def _magazine(line: Line) -> Magazine:
    return Magazine(**line.numbers("size", "refill", "cpus", "hits", "refills", "grew", "reusable", "reused"))


def _thread(line: Line) -> CriticalThread:
    counters = ("pid", "rounds", "allocs", "frees", "emergency", "failures", "corrupt")
    times = ("gap_max_ns", "gap_total_max_ns", "alloc_since_ns", "last_ns")
    return CriticalThread(index=line.integer(0), **line.numbers(*counters, *times))


def _histogram(lines: Iterable[Line]) -> dict[int, int]:
    buckets: dict[int, int] = {}
    for line in lines:
        bucket = line.integer(0)
        if bucket in buckets or not 0 <= bucket < 64:
            raise EvidenceError(f"bucket {bucket} is doubled or impossible", line=line.number)
        buckets[bucket] = line.integer(1)
    return buckets


def _kept(lines: Iterable[Line]) -> tuple[Kept, ...]:
    kept: dict[int, Kept] = {}
    for line in lines:
        count = line.integer(0)
        if count in kept:
            raise EvidenceError(f"frees with {count} objects kept are doubled", line=line.number)
        kept[count] = Kept(count, **line.numbers("objects", "batches", "min_ns", "median_ns"))
    return tuple(kept[count] for count in sorted(kept))


def _fragment(line: Line) -> Fragment:
    return Fragment(**line.numbers("mib", "filled", "punched", "rest"))


def _blocks(lines: Iterable[Line]) -> dict[str, tuple[int, ...]]:
    blocks: dict[str, tuple[int, ...]] = {}
    for line in lines:
        when = line.words[0] if line.words else ""
        if when in blocks or when not in ("now", "before", "after"):
            raise EvidenceError(f"free blocks {excerpt(when)} are doubled or of no time", line=line.number)
        blocks[when] = tuple(line.integer(at) for at in range(1, len(line.words)))
        if not 1 <= len(blocks[when]) <= MAX_ORDERS:
            raise EvidenceError(f"free blocks of {len(blocks[when])} orders", line=line.number)
    return blocks


def _mark(line: Line) -> Mark:
    if len(line.words) < 3:
        raise EvidenceError("a mark without a name", line=line.number)
    return Mark(line.integer(0), line.integer(1), " ".join(line.words[2:]))
