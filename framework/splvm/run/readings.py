"""What the agent has reported last, and the conditions on it that a step of a scenario waits for. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from splvm.evidence.formats.loadstatus import LoadStatus
from splvm.evidence.formats.probestatus import ProbeStatus
from splvm.evidence.formats.slab import CacheRow
from splvm.evidence.standstill import GIVE_UP_NS

# For how long a load has to be at its target, ns of guest time.
HELD_NS = 500_000_000

# Declines of the trap after which nobody is going to be caught.
DECLINES = 10

# Seconds of the load before anything is done to it.
SETTLE_S = 0.4

# Transactions that are waited for while the worker is caught: some more than evidence/checks/trap.py asks for, because
# readings lie within the window.
CARRIED = 115

# Batches of frees to wait for at each number of objects kept, more than evidence/checks/longlived.py asks for.
BATCHES = 15


@dataclass(frozen=True, slots=True)
class Reading:
    """What the agent has reported last."""

    probe: ProbeStatus
    # The probe's row of the slab file, None before the cache is there.
    row: CacheRow | None
    # Readings of the slab file since the step began.
    slab_readings: int
    # Guest time since the step began, ns.
    elapsed_ns: int
    # Rounds of each thread when the step began.
    rounds_before: tuple[int, ...]
    # Transactions with emergency objects when it began.
    carried_before: int = 0
    # What the load's generator reports, None before it is there.
    load: LoadStatus | None = None
    # For how long no txg of the pool was synced, ns of guest time; 0 without a pool.
    pool_stands_ns: int = 0
    # Threads of which the agent reads state and stack. It finds new ones within half a second.
    seen: frozenset[int] = frozenset()

    @property
    def deadlocked(self) -> bool:
        """Whether SPL has flagged the cache."""
        return self.row is not None and bool(self.row.flags & self.probe.bits.get("deadlocked", 0))

    @property
    def worker_is_caught(self) -> bool:
        """Whether a thread waits in the trap that is not a critical thread."""
        trap = self.probe.trap
        return trap.waiting > 0 and trap.pid not in {thread.pid for thread in self.probe.threads}


def lasts(seconds: float) -> Callable[[Reading], bool]:
    return lambda reading: reading.elapsed_ns >= seconds * 1e9


def settled(reading: Reading) -> bool:
    """Some time has passed, and every thread has been round more than once."""
    enough = reading.probe.threads and all(t.rounds > 2 for t in reading.probe.threads)
    return reading.elapsed_ns >= SETTLE_S * 1e9 and bool(enough)


def held(reading: Reading) -> bool:
    """The worker is held, and looked at: under load SPL makes new ones, and the agent has to find them first."""
    return reading.probe.hold.held > 0 and reading.probe.hold.pid in reading.seen


def sprung(reading: Reading) -> bool:
    """Somebody is caught in the trap, and looked at, or it was declined so often that nobody will be."""
    trap = reading.probe.trap
    return (trap.waiting > 0 and trap.pid in reading.seen) or trap.declined >= DECLINES


def sprung_at_all(reading: Reading) -> bool:
    trap = reading.probe.trap
    return trap.sprung > 0 and (not trap.waiting or trap.pid in reading.seen)


def low(reading: Reading) -> bool:
    """Memory has been at its watermark, and reclaim has come for what is held."""
    return reading.probe.pressure.refused > 0 and reading.probe.pressure.given > 0


def injected(reading: Reading) -> bool:
    return reading.probe.fail.injected > 0


def carried(seconds: float) -> Callable[[Reading], bool]:
    """Time has passed, and if the worker is caught enough transactions have gone on without it."""

    def until(reading: Reading) -> bool:
        enough = reading.probe.tx.carried - reading.carried_before >= CARRIED
        return lasts(seconds)(reading) and (enough or not reading.worker_is_caught)

    return until


def resolved(reading: Reading) -> bool:
    """Commits have let go whom the trap caught. A transaction that waits for itself is not waited for long."""
    if not reading.probe.trap.waiting:
        return reading.elapsed_ns >= 0.3e9
    return reading.elapsed_ns >= 2e9 and not reading.worker_is_caught


def timed(seconds: float) -> Callable[[Reading], bool]:
    """Time has passed, and frees were timed often enough with as many objects kept as there will be."""

    def until(reading: Reading) -> bool:
        kept = reading.probe.kept
        enough = kept and kept[-1].count * 10 > reading.probe.config.keep and kept[-1].batches >= BATCHES
        return lasts(seconds)(reading) and bool(enough)

    return until


def in_single_pages(reading: Reading) -> bool:
    return "after" in reading.probe.blocks


# For how long somebody has to be caught at an allocation site before the window ends for it: some more than
# evidence/checks/storm.py asks for.
_CAUGHT_NS = 1_400_000_000
# And for so long a phase lasts for it at least, seconds: a few readings.
_LOOK_S = 0.3


def _caught_for_ns(reading: Reading) -> int:
    """For how long the one that tells most has been caught; 0: nobody is."""
    told = reading.probe.storm.told if reading.probe.storm is not None else None
    return reading.probe.now_ns - told.since_ns if told is not None else 0


def storming(reading: Reading) -> bool:
    """Every thread has committed a transaction, or somebody is caught already."""
    storm = reading.probe.storm
    if storm is None:
        return False
    return _caught_for_ns(reading) > _CAUGHT_NS or bool(storm.txs and all(tx.commits for tx in storm.txs))


def weathered(seconds: float) -> Callable[[Reading], bool]:
    """Time has passed and nobody is caught, or somebody has been for so long that it is for ever."""

    def until(reading: Reading) -> bool:
        caught_ns = _caught_for_ns(reading)
        if caught_ns > _CAUGHT_NS and lasts(_LOOK_S)(reading):
            return True
        return lasts(seconds)(reading) and not caught_ns

    return until


def storm_over(reading: Reading) -> bool:
    """No thread is in a transaction any more."""
    storm = reading.probe.storm
    return storm is not None and bool(storm.idle)


# What makes a condition of a state of work (evidence/formats/workstatus.py).
At = Callable[[str], Callable[[Reading], bool]]


def queues_at(state: str) -> Callable[[Reading], bool]:
    """All clients of taskqs have come to a state."""
    return lambda reading: reading.probe.queues is not None and reading.probe.queues.state == state


def kinds_at(state: str) -> Callable[[Reading], bool]:
    """All threads that work with caches of several kinds have come to a state."""
    return lambda reading: reading.probe.kinds is not None and reading.probe.kinds.state == state


def memory_at(state: str) -> Callable[[Reading], bool]:
    """All threads that work with memory have come to a state."""
    return lambda reading: reading.probe.memory is not None and reading.probe.memory.state == state


def everything(*conditions: Callable[[Reading], bool]) -> Callable[[Reading], bool]:
    return lambda reading: all(condition(reading) for condition in conditions)


def work_at(state: str) -> Callable[[Reading], bool]:
    """All clients of taskqs and all threads that work with caches have come to a state."""
    return everything(queues_at(state), kinds_at(state))


def one_cpu(reading: Reading) -> bool:
    """All CPUs but the first are away."""
    return reading.probe.cpus is not None and reading.probe.cpus.online == 1


def all_cpus(reading: Reading) -> bool:
    return reading.probe.cpus is not None and reading.probe.cpus.online == reading.probe.cpus.present


def at_rest(reading: Reading) -> bool:
    return reading.probe.run.parked == reading.probe.config.threads


def stopped(reading: Reading) -> bool:
    return reading.probe.run.stopped == reading.probe.config.threads


def read_often(reading: Reading) -> bool:
    return reading.slab_readings >= 4


def recovered(reading: Reading) -> bool:
    """Nothing held, nothing flagged, no emergency object in use, and every thread has been round again."""
    moved = all(t.rounds > before + 1 for t, before in zip(reading.probe.threads, reading.rounds_before, strict=False))
    drained = reading.row is not None and not reading.row.emergency.alloc
    return moved and drained and not reading.deadlocked and not reading.probe.hold.held


def pool_stands(reading: Reading) -> bool:
    return reading.pool_stands_ns >= GIVE_UP_NS


def reached(reading: Reading) -> bool:
    """Every load has been in its band for some time; or it has already come to what it may lead to."""
    if pool_stands(reading):
        return True
    load = reading.load
    if load is None or load.torn or not load.loads:
        return False
    return all(it.since_ns and load.now_ns - it.since_ns >= HELD_NS for it in load.loads)


def lasts_unless_the_pool_stands(seconds: float) -> Callable[[Reading], bool]:
    """True after `seconds`, or earlier if the pool stands still: it will not come back.

    The pool has to stand still for a while first, because the judge needs readings of that time.
    """
    short = lasts(GIVE_UP_NS / 1e9)
    return lambda reading: lasts(seconds)(reading) or (pool_stands(reading) and short(reading))
