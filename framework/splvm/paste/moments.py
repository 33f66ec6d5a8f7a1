"""The threads of one moment: a list of tasks, or reports of hung tasks that belong together, and their graph.

Owns which facts of the text go into the graph of a moment: owners, lists of locks, stacks that may be mixed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from splvm.evidence.formats.stacks import TaskStack
from splvm.evidence.waiting.waitedges import Basis, Owner, Wait
from splvm.evidence.waiting.waitgraph import WaitGraph, build_graph, wait_alone
from splvm.evidence.waiting.waits import OWNED_LOCKS, WAITERS, WaitReason
from splvm.paste.frames import DUMPERS
from splvm.paste.plain import PlainStack

# Threads kept of all moments of a text, the first ones, and frames of a stack.
MAX_TASKS = 100_000
MAX_FRAMES = 64
# Moments kept, the first and the last ones.
MAX_MOMENTS = 256
# Seconds between reports of one moment where none of them says how long its task was blocked.
USUAL_TIMEOUT_S = 120
# Seconds that khungtaskd takes at most for its reports of one round, which people paste in any order.
SWEEP_S = 5.0
# Stacks of which somebody shows a few only because they hang.
FEW = 8
# Locks kept of a list.
MAX_LOCKS = 64


@dataclass(slots=True)
class Thread:
    """A stack, and whose it is."""

    # Negative if nothing says it.
    pid: int
    comm: str
    # The kernel's letter, `?` if nothing says it.
    state: str
    line: int
    # How the text came by it: `hung`, `task`, `cpu`, `crash`, `stack`, `drgn`, `sdb`.
    kind: str
    frames: list[str] = field(default_factory=list)
    guesses: list[str] = field(default_factory=list)
    # Whether "Call Trace:" came, and whether the stack is at its end.
    traced: bool = False
    ended: bool = False
    # Whether there are signs of another stack in it.
    mixed: bool = False
    # Whether lines are missing behind what was read of it so far.
    torn: bool = False

    def add(self, function: str, *, guess: bool) -> None:
        names = self.guesses if guess else self.frames
        if len(names) < MAX_FRAMES:
            names.append(function)

    @property
    def stack(self) -> tuple[str, ...]:
        return tuple(self.frames or self.guesses)


@dataclass(frozen=True, slots=True)
class HeldLock:
    """An entry of lockdep's list of the locks that a thread holds, or waits for: then it is the last one."""

    address: str
    name: str


@dataclass(frozen=True, slots=True)
class Outage:
    """What is wrong with a disk or a pool, so that waits need no thread that holds them up."""

    # Empty if nothing is.
    title: str
    suspended: bool


NO_OUTAGE = Outage("", suspended=False)


@dataclass(slots=True)
class Moment:
    """What the text shows of one moment."""

    # `hung-task`, `sysrq-t`, `sysrq-w`, `tasks`, `stacks`, `crash`, `drgn` or `vmcore`.
    source: str
    host: str = ""
    clock_s: float | None = None
    timeout_s: int = USUAL_TIMEOUT_S
    threads: dict[int, Thread] = field(default_factory=dict)
    # Pids that a report of a hung task is about.
    reported: set[int] = field(default_factory=set)
    # By the pid of the waiter.
    owners: dict[int, Owner] = field(default_factory=dict)
    # By pid: "mutex", "rw-semaphore", "semaphore".
    locks: dict[int, str] = field(default_factory=dict)
    held: dict[int, list[HeldLock]] = field(default_factory=dict)
    # By pid: what the text says of a stack of functions alone.
    said: dict[int, PlainStack] = field(default_factory=dict)
    # Why threads may lack; empty if the list is whole.
    cut: str = ""

    def fits(self, pid: int, host: str, clock_s: float | None, *, again: bool) -> bool:
        """Whether a report of a hung task belongs to this moment.

        :param again: the kernel says that the thread is blocked for longer than it did before.
        """
        if host and self.host and host != self.host:
            return False
        if clock_s is not None and self.clock_s is not None:
            return -SWEEP_S < clock_s - self.clock_s < self.timeout_s and not again
        return not again

    def graph(self, outage: Outage = NO_OUTAGE) -> WaitGraph:
        """Who waits for whom at this moment."""
        threads = [_stack_of(thread, self.said.get(pid)) for pid, thread in self.threads.items()]
        graph = self.build(threads, self.owners, outage)
        if graph.closes is None and len(threads) <= FEW:
            threads = [_asleep(it) for it in threads]
            graph = self.build(threads, self.owners, outage)
        found = {**self.by_remarks(), **self.by_lock_lists(graph)}
        return self.build(threads, {**found, **self.owners}, outage) if found else graph

    def build(self, threads: Sequence[TaskStack], owners: Mapping[int, Owner], outage: Outage) -> WaitGraph:
        mixed = frozenset(pid for pid, thread in self.threads.items() if thread.mixed)
        return build_graph(
            threads,
            owners=owners,
            mixed=mixed,
            cut=bool(self.cut),
            devices=outage.title,
            suspended=outage.suspended,
        )

    def by_lock_lists(self, graph: WaitGraph) -> dict[int, Owner]:
        """Who holds the lock that a thread waits for, where lockdep's lists name one thread only."""
        waiting = {wait.thread.pid for wait in graph.waits if _waits_for_a_lock(wait)}
        holders: dict[str, list[int]] = defaultdict(list)
        for pid, locks in self.held.items():
            for lock in locks[:-1] if pid in waiting else locks:
                holders[lock.address].append(pid)
        found = {}
        for pid in waiting:
            if mine := self.held.get(pid):
                others = [holder for holder in holders[mine[-1].address] if holder != pid]
                if len(set(others)) == 1:
                    found[pid] = Owner(others[0], Basis.LOCK_LIST)
        return found

    def by_remarks(self) -> dict[int, Owner]:
        """Who holds what a thread waits for, where who wrote its stack down says so of one thread: a guess."""
        found = {}
        having: dict[str, list[int]] = defaultdict(list)
        called: dict[str, list[int]] = defaultdict(list)
        for pid, stack in self.said.items():
            for lock in stack.holds:
                having[lock].append(pid)
        for pid, thread in self.threads.items():
            called[name_in_words(thread.comm)].append(pid)
        for pid, stack in self.said.items():
            holders = having.get(stack.lock, []) if stack.lock else []
            named = {it for word in words_of(stack.wants) for it in called.get(word, ())[:3]} - {pid}
            if len(holders) == 1 or len(named) == 1:
                found[pid] = Owner(holders[0] if len(holders) == 1 else named.pop(), Basis.ROLE)
        return found

    def lock_of(self, pid: int, wait: Wait) -> str | None:
        """What is known of the lock that a thread waits for."""
        if pid in self.locks:
            return self.locks[pid]
        if pid in self.said:
            return self.said[pid].lock or None
        if _waits_for_a_lock(wait) and (locks := self.held.get(pid)):
            return locks[-1].name
        return None


def name_in_words(comm: str) -> str:
    """What words call a thread: `THREAD A` by its last one."""
    return comm.rpartition(" ")[2].partition("/")[0]


def words_of(words: str) -> set[str]:
    """The words that may be names of threads: fields and functions of what is before them are none."""
    return {*_NAME.findall(words), *_LONG_NAME.findall(words)}


_NAME = re.compile(r"(?<![\w>.])\w{1,60}(?!\w)")
_LONG_NAME = re.compile(r"(?<![\w>.])\w[\w.:+#-]{1,60}\w(?!\w)")


# Lists of who hangs, to which stacks that were read by hand belong.
_LISTS = frozenset(("hung-task", "sysrq-w", "tasks"))


def join_stacks(moments: Sequence[Moment]) -> list[Moment]:
    """The moments, with stacks read by hand in the list of the same hang.

    That is so if the text has stacks of one moment alone, and who is both in them and in the list has not moved.
    """
    stacks = [moment for moment in moments if moment.source == "stacks"]
    lists = [moment for moment in moments if moment.source in _LISTS]
    if len(stacks) != 1 or not lists:
        return list(moments)
    (one,), last = stacks, lists[-1]
    same_host = not one.host or not last.host or one.host == last.host
    if not same_host or any(_moved(last.threads[pid], it) for pid, it in one.threads.items() if pid in last.threads):
        return list(moments)
    for pid, thread in last.threads.items():
        # A report of a hung task of which only the first line was copied, and its stack by hand.
        if not thread.stack and pid in one.threads:
            thread.frames, thread.guesses = list(one.threads[pid].frames), list(one.threads[pid].guesses)
    last.threads = {**one.threads, **last.threads}
    return [moment for moment in moments if moment is not one]


def _moved(before: Thread, after: Thread) -> bool:
    """Whether a thread is in another function than it was, those that put it to sleep aside."""
    places = [next((name for name in it.stack if name not in WAITERS), "") for it in (before, after)]
    return bool(before.stack) and places[0] != places[1]


def _waits_for_a_lock(wait: Wait) -> bool:
    return wait.reason is WaitReason.LOCK


def _asleep(stack: TaskStack) -> TaskStack:
    """A thread of which no state is known as one that waits, if it sleeps."""
    asleep = stack.state == "?" and not WAITERS.isdisjoint(stack.frames[:1])
    return TaskStack(stack.pid, stack.comm, "D", stack.frames) if asleep else stack


def _stack_of(thread: Thread, said: PlainStack | None) -> TaskStack:
    """The thread as the graph takes it: one of which no state is known counts as blocked if its stack says so.

    :param said: what a person says of it; who shows where it wants a lock need not show what it calls to get it.
    """
    if thread.kind == "stack" and said is not None and said.wants:
        stack = TaskStack(thread.pid, thread.comm, "D", thread.stack)
        wait = wait_alone(stack)
        if said.lock and (wait is None or wait.reason not in OWNED_LOCKS):
            return TaskStack(thread.pid, thread.comm, "D", ("mutex_lock", *thread.stack))
        return stack
    if thread.state == "?" and DUMPERS.isdisjoint(thread.stack[:1]):
        blocked = TaskStack(thread.pid, thread.comm, "D", thread.stack)
        if not thread.frames and thread.guesses and thread.guesses[0] not in WAITERS:
            # The rest of a stack, of which no line is certain.
            return TaskStack(thread.pid, thread.comm, "?", thread.stack)
        if thread.stack and WAITERS.issuperset(thread.stack):
            # It sleeps, and what it waits for is cut off.
            return blocked
        wait = wait_alone(blocked)
        if wait is not None and wait.reason is not WaitReason.UNKNOWN:
            return blocked
    return TaskStack(thread.pid, thread.comm, thread.state, thread.stack)
