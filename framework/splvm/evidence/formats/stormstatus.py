"""What /proc/slabprobe says of allocation sites and of the storm over them (docs/formats.md)."""

from __future__ import annotations

from dataclasses import dataclass, fields

from splvm.evidence.formats.statusfile import Line, Records

# Bits of `ops`, by the table of images/slabprobe/ops.c: what a transaction may do.
OPS = (
    "large-sleep",
    "large-pushpage",
    "large-nosleep",
    "small",
    "slab-backed",
    "kmem",
    "strings",
    "vmem",
    "taskq",
    "taskq-create",
    "thread",
    "atomic",
    # In no storm by itself: what the threads of taskqs and their timers may be late for.
    "taskq-dynamic",
    "taskq-expiry",
)
# What a storm does by itself.
USUAL_OPS = (1 << OPS.index("taskq-dynamic")) - 1


def ops_without_marks(*, honours: bool) -> int:
    """What a storm does by itself over a build whose threads are not marked: what flags and emergency objects protect.

    Who makes threads for dynamic taskqs allocates with GFP_KERNEL, and a transaction that waits for a task waits for
    that thread. And no emergency object stands in for kmem_alloc() and vmem_alloc().

    :param honours: whether the kernel's vmalloc allocates page tables with the caller's flags.
    """
    left_out = ("taskq",) if honours else ("taskq", "vmem")
    return USUAL_OPS & ~sum(1 << OPS.index(name) for name in left_out)


@dataclass(frozen=True, slots=True)
class Watch:
    """What is watched of a module's allocations."""

    # Whether somebody watches now, and the module.
    on: bool
    module: str
    # Functions of the allocator that are watched, and those that the kernel has and that cannot be.
    hooks: int
    blind: int
    # Sites so far, and allocations of the module at them; those for which there was no room.
    count: int
    calls: int
    lost: int
    # Allocations that may sleep where that is forbidden; without `preempt_count` the kernel does not count locks.
    atomic: int
    preempt_count: int


@dataclass(frozen=True, slots=True)
class StormTx:
    """A thread that makes transactions of the storm."""

    index: int
    pid: int
    # Whether it is in a transaction.
    open: int
    commits: int


@dataclass(frozen=True, slots=True)
class StormWait:
    """A thread that waits in the trap, at an allocation site."""

    pid: int
    since_ns: int
    # The site's number, and the mask.
    site: int
    gfp: int


@dataclass(frozen=True, slots=True)
class StormStatus:
    """The storm: reclaim at allocation sites while transactions are open. Counters since loading."""

    # Whether transactions are made, and whether all threads that make them have come to their end.
    running: int
    idle: int
    # What it was set to (run/scenarios.py, Storm), and how many places it is confined to, 0: none.
    ops: int
    rate: int
    trap: int
    mark: int
    helpers: int
    threads: int
    how: int
    seed: int
    only: int
    # Reclaims by try_to_free_pages(), by all shrinkers at priority 0, and those that found too many tasks inside.
    reclaims: int
    shrinks: int
    crowded: int
    # Times that the shrinker was asked; then it declined, by the mask, or entered its wait.
    asked: int
    declined: int
    entered: int
    # Waits that commits ended, waits that the end of the storm ended, and waits now.
    waited: int
    let_go: int
    waiting: int
    # Who was caught last, since when, at which site and with which mask; and when somebody was let go last.
    pid: int
    since_ns: int
    left_ns: int
    site: int
    gfp: int
    # The last mask with which the shrinker was asked.
    asked_gfp: int
    # kswapd's own calls of the shrinker, and allocations that failed and must not.
    kswapd: int
    failed: int
    txs: tuple[StormTx, ...] = ()
    # Who waits now.
    waits: tuple[StormWait, ...] = ()

    @property
    def told(self) -> StormWait | None:
        """Of those that wait now the one that tells most: who waits for its own transaction, or else the first."""
        own = {tx.pid for tx in self.txs if tx.open}
        return min(self.waits, key=lambda wait: (wait.pid not in own, wait.since_ns), default=None)


def watch_of(line: Line) -> Watch:
    """:raises EvidenceError: when the line lacks something."""
    texts = line.texts("mode", "module")
    values = line.numbers("hooks", "blind", "count", "calls", "lost", "atomic", "preempt_count")
    return Watch(on=texts["mode"] == "count", module=texts["module"], **values)


_STORM = tuple(it.name for it in fields(StormStatus) if it.name not in ("txs", "waits"))


def storm_of(records: Records) -> StormStatus:
    """:raises EvidenceError: when a line lacks something."""
    made = (StormTx(index=tx.integer(0), **tx.numbers("pid", "open", "commits")) for tx in records.all("stormtx"))
    waits = (StormWait(**wait.numbers("pid", "since_ns", "site", "gfp")) for wait in records.all("stormwait"))
    return StormStatus(**records.only("storm").numbers(*_STORM), txs=tuple(made), waits=tuple(waits))
