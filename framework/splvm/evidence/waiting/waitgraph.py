"""Who waits for whom in a guest that stands still: from stacks to the cycle, or the chain, in one sentence.

Kernel stacks do not say who holds what, so edges go by the role of a thread: they are what a reader of the stacks would
suspect, and no proof. What a verdict makes of it is not decided here.

Work is linear in the number of threads; edges are bounded for each of them.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from splvm.evidence.formats.stacks import TaskStack
from splvm.evidence.waiting.waits import (
    DIRECT_RECLAIM,
    ROLES,
    ROWS,
    SHRINKERS,
    UNKNOWN_ROW,
    WAITERS,
    Role,
    RoleRow,
    WaitReason,
    WaitRow,
)

# Frames looked at of a stack, and threads that one is taken to wait for: more than there are reasons, see
# blocked_holders().
MAX_FRAMES = 64
MAX_EDGES = 24
# Threads that a sentence names, and characters of their names and of the places where they wait.
MAX_NAMED = 12
MAX_NAME_CHARS = 32
MAX_PLACE_CHARS = 80


@dataclass(frozen=True, slots=True)
class Wait:
    """A thread that is blocked."""

    thread: TaskStack
    # The row of the table that fits.
    row: WaitRow
    # What this rests on: the function that waits, then the shrinker and the entry into reclaim around it.
    functions: tuple[str, ...]
    # Of that function among the frames of the thread; 0 if it has none.
    index: int
    # What the wait happens in, from the inside out: "shrinker F", "direct reclaim".
    inside: tuple[str, ...]

    @property
    def reason(self) -> WaitReason:
        return self.row.reason

    @property
    def tells_nothing(self) -> bool:
        """Whether the stack has only the scheduler, as one has that is read while its thread wakes up."""
        return all(function in WAITERS for function in self.functions)


@dataclass(frozen=True, slots=True)
class Edge:
    """A thread is taken to wait for another, or for itself."""

    waiter: int
    holder: int
    # What for.
    why: str


@dataclass(frozen=True, slots=True)
class WaitGraph:
    """Blocked threads, and who each of them waits for."""

    # By pid.
    waits: tuple[Wait, ...]
    edges: tuple[Edge, ...]
    # Pids, each waiting for the next and the last for the first; empty if there is no cycle.
    cycle: tuple[int, ...]
    # If there is no cycle: the longest chain of pids, each waiting for the next.
    chain: tuple[int, ...]
    # Where the chain ends; empty if there is none.
    end: str
    sentence: str

    def to_json(self) -> dict[str, object]:
        """The graph as it stands in a report."""
        return {
            "waits": [
                {
                    "pid": wait.thread.pid,
                    "comm": wait.thread.comm,
                    "state": wait.thread.state,
                    "reason": wait.reason.value,
                    "functions": list(wait.functions),
                    "frame": wait.index,
                }
                for wait in self.waits
            ],
            "edges": [{"from": edge.waiter, "to": edge.holder, "why": edge.why} for edge in self.edges],
            "cycle": list(self.cycle),
            "chain": list(self.chain),
            "end": self.end,
            "sentence": self.sentence,
        }


def build_graph(
    threads: Sequence[TaskStack], *, rows: Sequence[WaitRow] = ROWS, roles: Sequence[RoleRow] = ROLES
) -> WaitGraph:
    """Find out who waits for whom; nothing is raised, and the order of the threads makes no difference.

    A thread in state D is blocked; one in state R only where a row says so, because reclaim goes round without
    sleeping. It waits for the threads of the roles that its row names, as far as they are blocked themselves, or
    else for the only thread of such a role. Of several threads with one pid the first in order of its fields counts.
    """
    by_pid: dict[int, TaskStack] = {}
    for thread in sorted(threads, key=lambda t: (t.pid, t.comm, t.state, t.frames)):
        by_pid.setdefault(thread.pid, thread)
    return _Builder(by_pid, rows, roles).graph()


class _Builder:
    def __init__(self, threads: dict[int, TaskStack], rows: Sequence[WaitRow], roles: Sequence[RoleRow]) -> None:
        self.threads = threads
        table: dict[str, list[WaitRow]] = defaultdict(list)
        for row in rows:
            for function in row.functions:
                table[function].append(row)
        self.waits = {pid: wait for pid, thread in threads.items() if (wait := _find_wait(thread, table))}
        # How telling a thread is: the place of its first role in the table.
        self.ranks: dict[int, int] = {}
        self.titles: dict[int, str] = {}
        self.members: dict[Role, dict[int, None]] = defaultdict(dict)
        for pid, thread in threads.items():
            functions = frozenset(thread.frames[:MAX_FRAMES])
            for rank, role in enumerate(roles):
                if _has_role(thread.comm, functions, role):
                    self.ranks.setdefault(pid, rank)
                    self.titles.setdefault(pid, role.title)
                    self.members[role.role][pid] = None
        self.known: dict[WaitRow, list[int]] = {}
        self.holders = {pid: self.find_holders(pid, wait.row) for pid, wait in self.waits.items()}

    def graph(self) -> WaitGraph:
        order, cyclic = self.components()
        cycle = self.shortest_cycle(min(cyclic, key=self.telling)) if cyclic else ()
        chain = () if cycle else self.longest_chain(order)
        end = self.end_of(chain[-1]) if chain else ""
        return WaitGraph(
            waits=tuple(self.waits.values()),
            edges=tuple(
                Edge(pid, holder, self.waits[pid].row.noun)
                for pid, holders in self.holders.items()
                for holder in holders
            ),
            cycle=cycle,
            chain=chain,
            end=end,
            sentence=self.tell_cycle(cycle) if cycle else self.tell_chain(chain, end),
        )

    def telling(self, pid: int) -> tuple[int, int]:
        return self.ranks.get(pid, len(self.threads) + len(Role)), pid

    # Edges

    def find_holders(self, pid: int, row: WaitRow) -> list[int]:
        if row.own and any(pid in self.members[role] for role in row.holders):
            return [pid]
        if row not in self.known:
            self.known[row] = self.blocked_holders(row)
        if blocked := [holder for holder in self.known[row] if holder != pid][:MAX_EDGES]:
            return blocked
        for role in row.holders:
            others = (holder for holder in self.members[role] if holder != pid)
            if len(only := list(itertools.islice(others, 2))) == 1:
                return only
        return []

    def blocked_holders(self, row: WaitRow) -> list[int]:
        """Those who could end such a wait and are blocked; first one of each reason, then a second, and so on."""
        members = dict.fromkeys(pid for role in row.holders for pid in self.members[role])
        groups: dict[WaitReason, list[int]] = defaultdict(list)
        for pid in members:
            if pid in self.waits:
                groups[self.waits[pid].reason].append(pid)
        placed = [(place, reason, pid) for reason, pids in groups.items() for place, pid in enumerate(sorted(pids))]
        return [pid for _, _, pid in sorted(placed)[: MAX_EDGES + 1]]

    # Cycles and chains

    def components(self) -> tuple[list[int], list[int]]:
        """All threads of the graph, each after those it waits for, and those that are on a cycle (Tarjan)."""
        order: list[int] = []
        cyclic: list[int] = []
        numbers: dict[int, int] = {}
        low: dict[int, int] = {}
        stack: dict[int, None] = {}
        for root in self.waits:
            work: list[tuple[int, Iterator[int]]] = []
            if root not in numbers:
                _enter(root, numbers, low, stack)
                work.append((root, iter(self.holders[root])))
            while work:
                pid, rest = work[-1]
                for holder in rest:
                    if holder not in numbers:
                        _enter(holder, numbers, low, stack)
                        work.append((holder, iter(self.holders.get(holder, ()))))
                        break
                    if holder in stack:
                        low[pid] = min(low[pid], numbers[holder])
                else:
                    work.pop()
                    if work:
                        low[work[-1][0]] = min(low[work[-1][0]], low[pid])
                    if low[pid] == numbers[pid]:
                        members = _take_until(pid, stack)
                        order += members
                        if len(members) > 1 or pid in self.holders.get(pid, ()):
                            cyclic += members
        return order, cyclic

    def shortest_cycle(self, start: int) -> tuple[int, ...]:
        """The shortest way from `start`, which is on a cycle, back to it."""
        before: dict[int, int] = {}
        queue = deque([start])
        while queue:
            pid = queue.popleft()
            for holder in self.holders.get(pid, ()):
                if holder == start:
                    path = [pid]
                    while path[-1] != start:
                        path.append(before[path[-1]])
                    return tuple(reversed(path))
                if holder not in before:
                    before[holder] = pid
                    queue.append(holder)
        return ()

    def longest_chain(self, order: Sequence[int]) -> tuple[int, ...]:
        lengths: dict[int, int] = {}
        then: dict[int, int] = {}

        def merit(pid: int) -> tuple[int, bool, int, int]:
            rank, _ = self.telling(pid)
            wait = self.waits.get(pid)
            return lengths[pid], wait is None or not wait.tells_nothing, -rank, -pid

        for pid in order:
            lengths[pid] = 1
            if holders := self.holders.get(pid):
                then[pid] = max(holders, key=merit)
                lengths[pid] += lengths[then[pid]]
        chain = [max(self.waits, key=merit)] if self.waits else []
        while chain and chain[-1] in then:
            chain.append(then[chain[-1]])
        return tuple(chain)

    # Words

    def name(self, pid: int) -> str:
        comm = _shown(self.threads[pid].comm, MAX_NAME_CHARS)
        return " ".join(filter(None, (self.titles.get(pid, ""), comm, f"(pid {pid})")))

    def wants(self, pid: int, holder: int) -> str:
        """What the thread waits for, with the holder's name."""
        noun, name = self.waits[pid].row.noun, self.name(holder)
        if pid == holder:
            return f"its own {noun.removeprefix('the ')}"
        return name if name.startswith(noun) else f"{noun} of {name}"

    def end_of(self, pid: int) -> str:
        wait = self.waits.get(pid)
        if wait is None:
            return f"is not blocked (state {_shown(self.threads[pid].state, 1)})"
        if wait.reason is WaitReason.HELD:
            return "is held by slabprobe until the host releases it"
        waits = f"{_verb(wait)} for {wait.row.noun}"
        if not wait.row.holders:
            return (
                waits
                if wait.reason in (WaitReason.UNKNOWN, WaitReason.SHRINKER)
                else f"{waits}, and no stack says whose"
            )
        count = len({holder for role in wait.row.holders for holder in self.members[role] if holder != pid})
        if count:
            return f"{waits}, and none of the {count} threads that could end that is blocked"
        return f"{waits}, and its holder is not in the dump"

    def tell_cycle(self, cycle: Sequence[int]) -> str:
        pairs = list(zip(cycle, [*cycle[1:], cycle[0]], strict=True))
        steps = [f"{self.name(a)} {_verb(self.waits[a])} for {self.wants(a, b)}" for a, b in pairs[:MAX_NAMED]]
        more = f"; and so on through {len(cycle) - MAX_NAMED} more" if len(cycle) > MAX_NAMED else ""
        return f"cycle: {'; '.join(steps)}{more}"

    def tell_chain(self, chain: Sequence[int], end: str) -> str:
        if not chain:
            return f"none of the {len(self.threads)} threads is blocked" if self.threads else "there are no threads"
        more = self.count_alike(chain)
        sentence = self.name(chain[0]) + (f" and {more} more" if more else "")
        pairs = list(itertools.pairwise(chain))
        for at, (pid, holder) in enumerate(pairs[:MAX_NAMED]):
            verb = _verb(self.waits[pid], plural=at == 0 and more > 0)
            sentence += f"{', which' if at else ''} {verb} for {self.wants(pid, holder)}"
        if len(pairs) > MAX_NAMED:
            sentence += f", and so on through {len(pairs) - MAX_NAMED} more, the last of which {end}"
        elif pairs:
            sentence += f", which {end}"
        else:
            sentence += f" {_plural(end) if more else end}"
        return f"{sentence}: a chain, not a cycle"

    def count_alike(self, chain: Sequence[int]) -> int:
        """How many threads wait just as the first one of the chain does."""
        first, after = self.waits[chain[0]], chain[1:2]
        return sum(
            wait.reason is first.reason and wait.functions == first.functions and self.reaches(pid, after)
            for pid, wait in self.waits.items()
            if pid != chain[0]
        )

    def reaches(self, pid: int, after: Sequence[int]) -> bool:
        return after[0] in self.holders[pid] if after else not self.holders[pid]


def _find_wait(thread: TaskStack, table: dict[str, list[WaitRow]]) -> Wait | None:
    """What the thread is blocked by, if it is: the row that fits the innermost function that has one."""
    if thread.state not in ("D", "R"):
        return None
    frames = thread.frames[:MAX_FRAMES]
    top = next((at for at, name in enumerate(frames) if name not in WAITERS), 0)
    row, index = _match(frames, top, table, running=thread.state == "R")
    if row is None and thread.state == "D":
        row, index = UNKNOWN_ROW, top
    if row is None or row.reason is WaitReason.IDLE:
        return None
    functions, inside = list(frames[index : index + 1]), []
    around = next((at for at in range(max(index, 1), len(frames)) if frames[at] in SHRINKERS), None)
    if around is not None:
        functions.append(frames[around - 1])
        inside.append(f"shrinker {frames[around - 1]}")
    if entry := next((name for name in frames[index:] if name in DIRECT_RECLAIM), None):
        functions.append(entry)
        inside.append("background reclaim" if entry == "balance_pgdat" else "direct reclaim")
    return Wait(thread, row, tuple(dict.fromkeys(functions)), index, tuple(inside))


def _match(
    frames: Sequence[str], top: int, table: dict[str, list[WaitRow]], *, running: bool
) -> tuple[WaitRow | None, int]:
    for at in range(top, len(frames)):
        for row in table.get(frames[at], ()):
            if row.fallback or (row.top and at != top) or (running and not row.running):
                continue
            if not row.within or not row.within.isdisjoint(frames[at + 1 :]):
                return row, at
    for at, name in enumerate(frames):
        for row in table.get(name, ()):
            if row.fallback and not running:
                return row, at
    return None, 0


def _has_role(comm: str, functions: frozenset[str], role: RoleRow) -> bool:
    if role.comm and re.fullmatch(role.comm, comm):
        return True
    return not role.functions.isdisjoint(functions) and role.without.isdisjoint(functions)


def _enter(pid: int, numbers: dict[int, int], low: dict[int, int], stack: dict[int, None]) -> None:
    numbers[pid] = low[pid] = len(numbers)
    stack[pid] = None


def _take_until(pid: int, stack: dict[int, None]) -> list[int]:
    members: list[int] = []
    while not members or members[-1] != pid:
        members.append(stack.popitem()[0])
    return members


def _verb(wait: Wait, *, plural: bool = False) -> str:
    """What the thread does and where, as in "waits in F, in shrinker G, in direct reclaim,"."""
    verb = "keeps running" if wait.thread.state == "R" else "waits"
    places = [_shown(place) for place in (*wait.functions[:1], *wait.inside)]
    if wait.reason is WaitReason.SHRINKER and wait.inside:
        # What waits is the shrinker, and not the function that called it.
        del places[0]
    text = verb + "".join(f"{',' if at else ''} in {place}" for at, place in enumerate(places))
    text += "," if len(places) > 1 else ""
    return _plural(text) if plural else text


def _shown(text: str, chars: int = MAX_PLACE_CHARS) -> str:
    """A word of the guest's as a sentence shows it."""
    return "".join(char if char.isprintable() else "?" for char in text[:chars]) or "?"


def _plural(verb: str) -> str:
    """The same, said of several threads."""
    return re.sub(r"\A(wait|keep)s\b", r"\1", re.sub(r"\Ais\b", "are", verb))
