"""What /proc/slabprobe says of its work with taskqs and caches (docs/formats.md)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from splvm.errors import EvidenceError
from splvm.evidence.formats.statusfile import Line, Records
from splvm.evidence.formats.stream import excerpt


class WorkState(enum.StrEnum):
    """States of the work, in their order."""

    NONE = "none"
    RUNNING = "running"
    # At rest, with a known number of everything in hand.
    LOADED = "loaded"
    # At rest, with everything given back.
    EMPTIED = "emptied"
    # Queues and caches are destroyed.
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Promise:
    """Something that SPL promises its users."""

    name: str
    # How often it was asked for, and how often it was broken.
    asked: int
    broken: int
    # The first time: what was seen, what was to be, and at which call or cache.
    saw: int = 0
    wanted: int = 0
    at: str = ""


@dataclass(frozen=True, slots=True)
class Client:
    """A thread that works with taskqs of its own."""

    index: int
    pid: int
    state: WorkState
    rounds: int
    # The step in which it is, and since when; empty and 0 between two.
    step: str
    since_ns: int


@dataclass(frozen=True, slots=True)
class Queue:
    """A taskq of the probe's: what is to be in it, and what SPL counts."""

    name: str
    # At rest: tasks that run, wait, wait at the front, and are delayed.
    running: int
    pending: int
    front: int
    delayed: int
    # As it was created: threads at most, whether they are made when needed, and entries that are kept.
    threads: int
    dynamic: int
    min: int
    # Of SPL, by the names of /proc/spl/taskq: active threads, threads, those that are being made, the most there may
    # be, and entries; and the lengths of its lists.
    act: int
    nthr: int
    spwn: int
    maxt: int
    cura: int
    active: int
    pend: int
    prio: int
    delay: int


@dataclass(frozen=True, slots=True)
class Queues:
    """The work with taskqs."""

    clients: tuple[Client, ...]
    queues: tuple[Queue, ...]
    promises: tuple[Promise, ...]

    @property
    def state(self) -> WorkState:
        """That to which all clients have come."""
        return min((client.state for client in self.clients), key=list(WorkState).index)


@dataclass(frozen=True, slots=True)
class Kind:
    """A cache of the probe's."""

    name: str
    # As it was created: bytes of an object, alignment (0: SPL's own), whether SPL is to back it with vmalloc, and
    # whether it has constructor and destructor.
    size: int
    align: int
    wanted: int
    builds: int
    # Objects in hand, and those of them that are emergency objects.
    held: int
    emergency: int
    # Objects taken and given back, and calls of constructor and destructor.
    allocs: int
    frees: int
    built: int
    torn_down: int
    # Objects in a slab and in a magazine at most; 0 where the kernel's own allocator backs the cache.
    in_slab: int
    magazine: int
    # The most emergency objects that were in hand at once; -1 where an older probe did not count.
    most_emergency: int = -1


@dataclass(frozen=True, slots=True)
class Kinds:
    """The work with caches of several kinds."""

    state: WorkState
    # Of all threads.
    rounds: int
    # CPUs that are online, and those of them that were away while the caches were made.
    cpus: int
    back: int
    kinds: tuple[Kind, ...]
    promises: tuple[Promise, ...]


@dataclass(frozen=True, slots=True)
class Taker:
    """A thread that works with memory that is no object of a cache."""

    index: int
    pid: int
    state: WorkState
    rounds: int
    # The step in which it is, and since when; empty and 0 between two.
    step: str
    since_ns: int
    # Whether it is marked as threads that write back, and whether kmem_alloc() of this SPL falls back to vmalloc.
    marked: int
    kmem_falls_back: int
    # Large pieces that kmem_alloc() and vmem_alloc() were asked for, and those of them that came from vmalloc.
    kmem: int
    kmem_back: int
    vmem: int
    vmem_back: int


@dataclass(frozen=True, slots=True)
class Memory:
    """The work with memory that is no object of a cache."""

    takers: tuple[Taker, ...]
    promises: tuple[Promise, ...]

    @property
    def state(self) -> WorkState:
        """That to which all threads have come."""
        return min((taker.state for taker in self.takers), key=list(WorkState).index)


@dataclass(frozen=True, slots=True)
class Cpus:
    """CPUs that go and come."""

    # `all`, `away` (but the first) or `moving`.
    state: str
    # CPUs of the machine, and those that are online.
    present: int
    online: int
    # How often one went, came, or did neither although it was to.
    went: int
    came: int
    failed: int


def queues_of(records: Records) -> Queues:
    """:raises EvidenceError: when a line lacks something."""
    clients = tuple(_client(line) for line in records.all("client"))
    counts = ("running", "pending", "front", "delayed", "threads", "dynamic", "min")
    shown = ("act", "nthr", "spwn", "maxt", "cura", "active", "pend", "prio", "delay")
    queues = tuple(Queue(line.word(0), **line.numbers(*counts, *shown)) for line in records.all("queue"))
    return Queues(clients, queues, tuple(_promise(line) for line in records.all("qpromise")))


def kinds_of(records: Records) -> Kinds:
    """:raises EvidenceError: when a line lacks something."""
    line = records.only("kinds")
    made = ("size", "align", "wanted", "builds", "held", "emergency", "allocs", "frees", "built", "torn_down")
    kinds = tuple(
        Kind(it.word(0), **it.numbers(*made, "in_slab", "magazine"), **it.later(most_emergency=-1))
        for it in records.all("kind")
    )
    promises = tuple(_promise(it) for it in records.all("kpromise"))
    return Kinds(_state(line), **line.numbers("rounds", "cpus", "back"), kinds=kinds, promises=promises)


def memory_of(records: Records) -> Memory:
    """:raises EvidenceError: when a line lacks something."""
    counts = ("marked", "kmem_falls_back", "kmem", "kmem_back", "vmem", "vmem_back")
    takers = tuple(
        Taker(it.integer(0), state=_state(it), step=_step(it), **it.numbers("pid", "rounds", "since_ns", *counts))
        for it in records.all("taker")
    )
    return Memory(takers, tuple(_promise(it) for it in records.all("mpromise")))


def cpus_of(line: Line) -> Cpus:
    """:raises EvidenceError: when the line lacks something."""
    return Cpus(line.texts("state")["state"], **line.numbers("present", "online", "went", "came", "failed"))


def _client(line: Line) -> Client:
    numbers = line.numbers("pid", "rounds", "since_ns")
    return Client(line.integer(0), state=_state(line), step=_step(line), **numbers)


def _step(line: Line) -> str:
    step = line.texts("step")["step"]
    return "" if step == "-" else step


def _state(line: Line) -> WorkState:
    state = line.texts("state")["state"]
    if state not in tuple(WorkState):
        raise EvidenceError(f"not a state: {excerpt(state)}, valid are {', '.join(WorkState)}", line=line.number)
    return WorkState(state)


def _promise(line: Line) -> Promise:
    counts = line.numbers("asked", "broken")
    if not counts["broken"]:
        return Promise(line.word(0), counts["asked"], 0)
    first = line.numbers("saw", "wanted")
    return Promise(line.word(0), **counts, saw=first["saw"], wanted=first["wanted"], at=line.texts("at")["at"])
