"""Who waits for whom in a guest that stands still: from stacks to the cycle, or the chain, in one sentence.

Kernel stacks do not say who holds what. Where the kernel printed it, the owner of a lock or its list of locks held,
edges rest on that; the others go by the role of a thread: they are what a reader of the stacks would suspect, and no
proof. A role that several threads have closes a cycle only if each of those threads leads back into it. What a verdict
makes of it is not decided here.

Work is linear in the number of threads; edges are bounded for each of them.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from splvm.evidence.formats.stacks import TaskStack
from splvm.evidence.waiting.blocked import MAX_FRAMES, has_role, wait_of
from splvm.evidence.waiting.waitedges import Basis, Closes, Edge, Owner, Wait
from splvm.evidence.waiting.waits import (
    IDLE,
    ROLES,
    ROWS,
    WAITERS,
    Role,
    RoleRow,
    WaitReason,
    WaitRow,
)

# Threads that one is taken to wait for: more than there are reasons, see blocked_holders().
MAX_EDGES = 24
# Threads that a sentence names, and characters of their names and of the places where they wait.
MAX_NAMED = 12
MAX_NAME_CHARS = 32
MAX_PLACE_CHARS = 80


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
    # None if nobody waits.
    closes: Closes | None

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
            "edges": [
                {"from": edge.waiter, "to": edge.holder, "why": edge.why, "by": edge.by.value} for edge in self.edges
            ],
            "closes": self.closes.value if self.closes is not None else None,
            "cycle": list(self.cycle),
            "chain": list(self.chain),
            "end": self.end,
            "sentence": self.sentence,
        }


def build_graph(
    threads: Sequence[TaskStack],
    *,
    rows: Sequence[WaitRow] = ROWS,
    roles: Sequence[RoleRow] = ROLES,
    owners: Mapping[int, Owner] | None = None,
    mixed: AbstractSet[int] = frozenset(),
    cut: bool = False,
    devices: str = "",
) -> WaitGraph:
    """Find out who waits for whom; nothing is raised, and the order of the threads makes no difference.

    A thread in state D is blocked; one in state R only where a row says so, because reclaim goes round without
    sleeping. It waits for the threads of the roles that its row names, as far as they are blocked themselves, or
    else for the only thread of such a role. Of several threads with one pid the first in order of its fields counts.

    :param owners: by the pid of the waiter, who holds what it waits for.
    :param mixed: pids of threads whose stacks may have frames of another thread: nothing rests on them.
    :param cut: the list lacks threads, so that one that is not in it may be blocked.
    :param devices: what is known to be wrong with a disk; then I/O that no thread holds up ends there.
    """
    by_pid: dict[int, TaskStack] = {}
    for thread in sorted(threads, key=lambda t: (t.pid, t.comm, t.state, t.frames)):
        by_pid.setdefault(thread.pid, thread)
    return _Builder(by_pid, rows, roles, _Notes(owners or {}, mixed, cut, devices)).graph()


@dataclass(frozen=True, slots=True)
class _Notes:
    """What is known beside the stacks; see build_graph()."""

    owners: Mapping[int, Owner]
    mixed: AbstractSet[int]
    cut: bool
    devices: str


class _Builder:
    def __init__(
        self, threads: dict[int, TaskStack], rows: Sequence[WaitRow], roles: Sequence[RoleRow], notes: _Notes
    ) -> None:
        self.threads = threads
        self.notes = notes
        table: dict[str, list[WaitRow]] = defaultdict(list)
        for row in rows:
            for function in row.functions:
                table[function].append(row)
        # How telling a thread is: the place of its first role in the table.
        self.ranks: dict[int, int] = {}
        self.titles: dict[int, str] = {}
        self.members: dict[Role, dict[int, None]] = defaultdict(dict)
        for pid, thread in threads.items():
            functions = frozenset(thread.frames[:MAX_FRAMES])
            for rank, role in enumerate(roles):
                if has_role(thread.comm, functions, role):
                    self.ranks.setdefault(pid, rank)
                    self.titles.setdefault(pid, role.title)
                    self.members[role.role][pid] = None
        self.waits: dict[int, Wait] = {}
        for pid, thread in threads.items():
            had = frozenset(role for role, members in self.members.items() if pid in members)
            if wait := wait_of(thread, table, had):
                self.waits[pid] = wait
        self.known: dict[WaitRow, list[int]] = {}
        self.holders = {pid: self.find_holders(pid, wait.row) for pid, wait in self.waits.items()}

    def graph(self) -> WaitGraph:
        sure = self.closed()
        order, cyclic = self.components({pid: self.within(pid, sure.keys()) for pid in sure})
        cycle = self.shortest_cycle(min(cyclic, key=self.telling), sure.keys()) if cyclic else ()
        chain: tuple[int, ...] = ()
        if cycle:
            end, closes, sentence = "", Closes.CYCLE, self.tell_cycle(cycle)
        elif not self.waits:
            end, closes, sentence = "", None, self.tell_nobody()
        else:
            order, cyclic = self.components(self.holders)
            chain = self.longest_chain(order)
            end, closes = self.end_of(chain[-1])
            if cyclic:
                start = min(cyclic, key=self.telling)
                chain = self.shortest_cycle(start, self.waits.keys())
                end, closes = self.doubt(chain), Closes.UNKNOWN
                sentence = f"{self.tell_steps(chain)}: may close, {end}"
            else:
                sentence, closes = self.tell_chain(chain, end, closes)
        return WaitGraph(
            waits=tuple(self.waits.values()),
            edges=tuple(
                Edge(pid, holder, self.waits[pid].row.noun, self.basis(pid))
                for pid, holders in self.holders.items()
                for holder in holders
            ),
            cycle=cycle,
            chain=chain,
            end=end,
            sentence=sentence,
            closes=closes,
        )

    def telling(self, pid: int) -> tuple[int, int]:
        return self.ranks.get(pid, len(self.threads) + len(Role)), pid

    # Edges

    def basis(self, pid: int) -> Basis:
        return self.notes.owners[pid].by if pid in self.notes.owners else Basis.ROLE

    def find_holders(self, pid: int, row: WaitRow) -> list[int]:
        if owner := self.notes.owners.get(pid):
            return [owner.pid] if owner.pid in self.threads else []
        if self.waits_for_itself(pid, row):
            return [pid]
        if blocked := [holder for holder in self.blocked_holders(row) if holder != pid][:MAX_EDGES]:
            return blocked
        for role in row.holders:
            others = (holder for holder in self.members[role] if holder != pid)
            if len(only := list(itertools.islice(others, 2))) == 1:
                return only
        return []

    def waits_for_itself(self, pid: int, row: WaitRow) -> bool:
        return row.own and any(pid in self.members[role] for role in row.holders)

    def blocked_holders(self, row: WaitRow) -> list[int]:
        """Those who could end such a wait and are blocked; first one of each reason, then a second, and so on."""
        if row not in self.known:
            groups: dict[WaitReason, list[int]] = defaultdict(list)
            for pid in self.candidates(row):
                if pid in self.waits:
                    groups[self.waits[pid].reason].append(pid)
            placed = [(place, reason, pid) for reason, pids in groups.items() for place, pid in enumerate(sorted(pids))]
            self.known[row] = [pid for _, _, pid in sorted(placed)]
        return self.known[row]

    def candidates(self, row: WaitRow) -> dict[int, None]:
        return dict.fromkeys(pid for role in row.holders for pid in self.members[role])

    # What is closed

    def closed(self) -> dict[int, None]:
        """The blocked threads that wait for each other and for nobody else, whichever of the candidates it is.

        The largest such set: whoever waits for a thread outside of it is taken out, until nobody is left who does.
        A row takes out all its waiters at once, so that the work is linear.
        """
        sure = dict.fromkeys(pid for pid in self.waits if pid not in self.notes.mixed)
        waiters: dict[WaitRow, list[int]] = defaultdict(list)
        single: dict[int, list[int]] = defaultdict(list)
        out: deque[int] = deque()
        for pid in sure:
            row = self.waits[pid].row
            if pid in self.notes.owners or self.waits_for_itself(pid, row):
                single[self.holders[pid][0] if self.holders[pid] else -1].append(pid)
            else:
                waiters[row].append(pid)
        belongs: dict[int, list[WaitRow]] = defaultdict(list)
        left: Counter[WaitRow] = Counter()
        for row in waiters:
            for pid in self.candidates(row):
                belongs[pid].append(row)
                left[row] += pid in sure
            if not row.each and any(pid not in sure and self.is_busy(pid) for pid in self.candidates(row)):
                left[row] = 0
            self.take_out(row, waiters, left, out)
        out.extend(pid for holder, pids in single.items() if holder not in sure for pid in pids)
        while out:
            pid = out.popleft()
            if pid not in sure:
                continue
            del sure[pid]
            out.extend(single.get(pid, ()))
            for row in belongs.get(pid, ()):
                left[row] = left[row] - 1 if row.each else 0
                self.take_out(row, waiters, left, out)
        return sure

    def take_out(
        self, row: WaitRow, waiters: dict[WaitRow, list[int]], left: Counter[WaitRow], out: deque[int]
    ) -> None:
        """Take out those for whose wait nobody is left but themselves."""
        if left[row] <= 1:
            candidates = self.candidates(row)
            out.extend(pid for pid in waiters[row] if left[row] <= 0 or pid in candidates)

    def is_busy(self, pid: int) -> bool:
        """Whether the thread does something, so that it may hold what others wait for."""
        thread = self.threads[pid]
        top = next((name for name in thread.frames[:MAX_FRAMES] if name not in WAITERS), "")
        return pid in self.waits or (thread.state == "R" and not top) or (bool(top) and top not in IDLE)

    def within(self, pid: int, sure: AbstractSet[int]) -> list[int]:
        """The holders of a thread that are in `sure`."""
        row = self.waits[pid].row
        if pid in self.notes.owners or self.waits_for_itself(pid, row):
            return self.holders[pid]
        return [holder for holder in self.blocked_holders(row) if holder != pid and holder in sure][:MAX_EDGES]

    # Cycles and chains

    def components(self, edges: Mapping[int, Sequence[int]]) -> tuple[list[int], list[int]]:
        """All threads of a graph, each after those it waits for, and those that are on a cycle (Tarjan)."""
        order: list[int] = []
        cyclic: list[int] = []
        numbers: dict[int, int] = {}
        low: dict[int, int] = {}
        stack: dict[int, None] = {}
        for root in edges:
            work: list[tuple[int, Iterator[int]]] = []
            if root not in numbers:
                _enter(root, numbers, low, stack)
                work.append((root, iter(edges[root])))
            while work:
                pid, rest = work[-1]
                for holder in rest:
                    if holder not in numbers:
                        _enter(holder, numbers, low, stack)
                        work.append((holder, iter(edges.get(holder, ()))))
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
                        if len(members) > 1 or pid in edges.get(pid, ()):
                            cyclic += members
        return order, cyclic

    def shortest_cycle(self, start: int, among: AbstractSet[int]) -> tuple[int, ...]:
        """The shortest way from `start`, which is on a cycle, back to it."""
        before: dict[int, int] = {}
        queue = deque([start])
        while queue:
            pid = queue.popleft()
            for holder in self.within(pid, among):
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
            if holders := [holder for holder in self.holders.get(pid, ()) if holder in lengths and holder != pid]:
                then[pid] = max(holders, key=merit)
                lengths[pid] += lengths[then[pid]]
        chain = [max(self.waits, key=merit)] if self.waits else []
        while chain and chain[-1] in then:
            chain.append(then[chain[-1]])
        return tuple(chain)

    # Words

    def name(self, pid: int) -> str:
        comm = self.threads[pid].comm and _shown(self.threads[pid].comm, MAX_NAME_CHARS)
        if pid < 0:
            # A stack of which nothing says whose it is.
            return " ".join(filter(None, (self.titles.get(pid, ""), comm, f"(stack {-pid})")))
        return " ".join(filter(None, (self.titles.get(pid, ""), comm or "the thread", f"(pid {pid})")))

    def wants(self, pid: int, holder: int) -> str:
        """What the thread waits for, with the holder's name."""
        noun, name = self.waits[pid].row.noun, self.name(holder)
        if pid == holder:
            return f"its own {noun.removeprefix('the ')}"
        return name if name.startswith(noun) else f"{noun} of {name}"

    def end_of(self, pid: int) -> tuple[str, Closes]:
        """Where a chain ends, and whether that may be the middle of a cycle."""
        wait = self.waits.get(pid)
        if wait is None:
            free = f"is not blocked (state {_shown(self.threads[pid].state, 1)})"
            # It has nothing to do, and another one, which the list lacks, may have.
            return free, Closes.UNKNOWN if self.notes.cut and not self.is_busy(pid) else Closes.CHAIN
        if wait.reason is WaitReason.HELD:
            return "is held by slabprobe until the host releases it", Closes.CHAIN
        waits = f"{_verb(wait)} for {wait.row.noun}"
        if owner := self.notes.owners.get(pid):
            return f"{waits} of the thread with pid {owner.pid}, which is not in the text", Closes.UNKNOWN
        if wait.row.named:
            return waits, Closes.CHAIN
        if self.notes.devices and Role.ZIO in wait.row.holders:
            return f"{waits}, which ends in a device: {self.notes.devices}", Closes.CHAIN
        if not wait.row.holders or wait.reason is WaitReason.LOCK:
            return waits, Closes.UNKNOWN
        count = sum(holder != pid for holder in self.candidates(wait.row))
        if count:
            text = f"{waits}, and none of the {count} threads that could end that is blocked"
            return text, Closes.UNKNOWN if self.notes.cut else Closes.CHAIN
        return f"{waits}, and its holder is not in the dump", Closes.UNKNOWN

    def what_is_missing(self, pid: int) -> str:
        """Why the chain that ends in this thread may go on."""
        wait = self.waits.get(pid)
        if wait is None:
            return "the list of threads is cut"
        if pid in self.notes.owners:
            return "the stack of the owner is not in the text"
        if wait.reason is WaitReason.LOCK:
            return "the owner of this lock is not in the text"
        if wait.reason in (WaitReason.UNKNOWN, WaitReason.SHRINKER):
            return "what ends this wait is not known"
        if not wait.row.holders:
            return f"who ends the wait for {wait.row.noun} is not in the text"
        return "the thread that ends this wait is not in the text"

    def doubt(self, steps: Sequence[int]) -> str:
        """Why what looks like a cycle is none for sure."""
        mixed = [pid for pid in steps if pid in self.notes.mixed]
        if mixed:
            return f"the stacks of {' and '.join(map(self.name, mixed[:MAX_NAMED]))} may be mixed with others"
        for pid, holder in zip(steps, [*steps[1:], *steps[:1]], strict=True):
            row = self.waits[pid].row
            others = [it for it in self.candidates(row) if it not in (pid, holder) and self.is_busy(it)]
            if pid not in self.notes.owners and others and not row.each:
                return (
                    f"but {self.name(pid)} may as well wait for {self.name(others[0])}"
                    + (f" or {len(others) - 1} more" if len(others) > 1 else "")
                    + ", and which of them it is is not in the text"
                )
        return "but not all of it is certain"

    def tell_steps(self, cycle: Sequence[int]) -> str:
        pairs = list(zip(cycle, [*cycle[1:], cycle[0]], strict=True))
        steps = [f"{self.name(a)} {_verb(self.waits[a])} for {self.wants(a, b)}" for a, b in pairs[:MAX_NAMED]]
        more = f"; and so on through {len(cycle) - MAX_NAMED} more" if len(cycle) > MAX_NAMED else ""
        return f"{'; '.join(steps)}{more}"

    def tell_cycle(self, cycle: Sequence[int]) -> str:
        guessed = dict.fromkeys(self.waits[pid].row.noun for pid in cycle if self.basis(pid) is Basis.ROLE)
        nouns = ", ".join(list(guessed)[:MAX_NAMED])
        by_role = f" (by role: no line of the kernel's says who holds {nouns})" if guessed else ""
        return f"cycle: {self.tell_steps(cycle)}{by_role}"

    def tell_nobody(self) -> str:
        return f"none of the {len(self.threads)} threads is blocked" if self.threads else "there are no threads"

    def tell_chain(self, chain: Sequence[int], end: str, closes: Closes) -> tuple[str, Closes]:
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
        if closes is Closes.UNKNOWN:
            return f"{sentence}: may close, {self.what_is_missing(chain[-1])}", closes
        lock = next((pid for pid in self.waits if self.ends_in_a_lock(pid)), None)
        if lock is None:
            return f"{sentence}: a chain, not a cycle", closes
        beside = f"{self.name(lock)} {self.end_of(lock)[0]}: may close, {self.what_is_missing(lock)}"
        return f"{sentence}: a chain, not a cycle; beside it {beside}", Closes.UNKNOWN

    def ends_in_a_lock(self, pid: int) -> bool:
        """Whether the owner of what this thread waits for is not known."""
        return self.waits[pid].reason in _OWNED and not self.holders[pid]

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


# Locks that have an owner.
_OWNED = frozenset((WaitReason.LOCK, WaitReason.RRW, WaitReason.CONFIG))


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
