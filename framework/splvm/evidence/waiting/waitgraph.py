"""Who waits for whom in a guest that stands still: from stacks to the cycle, or the chain, in one sentence.

Kernel stacks do not say who holds what. Where the kernel printed it, the owner of a lock or its list of locks held,
edges rest on that; the others go by the role of a thread: they are what a reader of the stacks would suspect, and no
proof. A role that several threads have closes a cycle only if each of those threads leads back into it. What a verdict
makes of it is not decided here.

Work is linear in the number of threads; edges are bounded for each of them.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from splvm.evidence.formats.stacks import TaskStack
from splvm.evidence.waiting.blocked import MAX_FRAMES, RoleFinder, by_function, gives_besides, wait_of
from splvm.evidence.waiting.closing import Candidate, Closing, Group
from splvm.evidence.waiting.cycles import components, shortest_cycle
from splvm.evidence.waiting.roles import ROLES, Role, RoleRow
from splvm.evidence.waiting.waitedges import Basis, Closes, Edge, Owner, Wait
from splvm.evidence.waiting.waitrows import IDLE, ROWS
from splvm.evidence.waiting.waits import OWNED_LOCKS, TOLD_LOCKS, WAITERS, WaitReason, WaitRow
from splvm.evidence.waiting.waitwords import plural_of, shown, verb_of

# The pid of an owner that is not in the text.
NOBODY = -(2**62)
# Threads that one is taken to wait for: more than there are reasons, see blocked_holders().
MAX_EDGES = 24
# Threads that a sentence names, and characters of their names.
MAX_NAMED = 12
MAX_NAME_CHARS = 32


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
    # None if nobody waits, as far as stacks tell that are not mixed with others.
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
    suspended: bool = False,
) -> WaitGraph:
    """Find out who waits for whom; nothing is raised, and the order of the threads makes no difference.

    A thread in state D is blocked; one in state R only where a row says so, because reclaim goes round without
    sleeping. It waits for the threads of the roles that its row names, as far as they are blocked themselves, or
    else for the only thread of such a role. Of several threads with one pid the first in order of its fields counts.

    :param owners: by the pid of the waiter, who holds what it waits for.
    :param mixed: pids of threads whose stacks may have frames of another thread: nothing rests on them.
    :param cut: the list lacks threads, so that one that is not in it may be blocked.
    :param devices: what is known to be wrong with a disk or a pool; then I/O that no thread holds up ends there.
    :param suspended: a pool is suspended, so that whatever waits for it waits for nobody.
    """
    by_pid: dict[int, TaskStack] = {}
    for thread in sorted(threads, key=lambda t: (t.pid, t.comm, t.state, t.frames)):
        by_pid.setdefault(thread.pid, thread)
    return _Builder(by_pid, rows, roles, _Notes(owners or {}, mixed, cut, devices, suspended)).graph()


@dataclass(frozen=True, slots=True)
class _Notes:
    """What is known beside the stacks; see build_graph()."""

    owners: Mapping[int, Owner]
    mixed: AbstractSet[int]
    cut: bool
    devices: str
    suspended: bool


_TABLE = by_function(ROWS)
_FINDER = RoleFinder(ROLES)


def wait_alone(thread: TaskStack) -> Wait | None:
    """What a thread is blocked by, if no other thread is known."""
    had = frozenset(ROLES[place].role for place in _FINDER.places_of(thread))
    return wait_of(thread, _TABLE, had)


class _Builder:
    def __init__(
        self, threads: dict[int, TaskStack], rows: Sequence[WaitRow], roles: Sequence[RoleRow], notes: _Notes
    ) -> None:
        self.threads = threads
        self.notes = notes
        table = _TABLE if rows is ROWS else by_function(rows)
        # How telling a thread is: the place of its first role in the table.
        self.ranks: dict[int, int] = {}
        self.titles: dict[int, str] = {}
        self.members: dict[Role, dict[int, None]] = defaultdict(dict)
        finder = _FINDER if roles is ROLES else RoleFinder(roles)
        for pid, thread in threads.items():
            for rank in finder.places_of(thread):
                role = roles[rank]
                self.ranks.setdefault(pid, rank)
                if role.title or (role.comm and not thread.comm):
                    self.titles.setdefault(pid, role.title or f"the {role.role} thread")
                self.members[role.role][pid] = None
        self.roles = roles
        # What a thread of one pool waits for may be another pool's, if there are several.
        self.pools = max(len(self.members[role]) for role in (Role.TXG_SYNC, Role.TXG_QUIESCE))
        self.waits: dict[int, Wait] = {}
        for pid, thread in threads.items():
            had = frozenset(role for role, members in self.members.items() if pid in members and self.pools < 2)
            if wait := wait_of(thread, table, had):
                self.waits[pid] = wait
        self.known: dict[WaitRow, list[int]] = {}
        self.free: dict[Role, list[int]] = {}
        self.busy: dict[WaitRow, frozenset[int]] = {}
        # By row, who ends such a wait of a thread that is closed.
        self.closed: dict[WaitRow, list[int]] = {}
        self.holders = {pid: self.find_holders(pid, wait.row) for pid, wait in self.waits.items()}

    def graph(self) -> WaitGraph:
        closing = self.close()
        led = {pid: self.led_to(pid, closing) for pid in closing.sure}
        order, cyclic = components(led)
        cycle = shortest_cycle(min(cyclic, key=self.telling), led) if cyclic else ()
        chain: tuple[int, ...] = ()
        closes: Closes | None
        if cycle:
            end, closes, sentence = "", Closes.CYCLE, self.tell_cycle(cycle)
        elif not self.waits:
            end, closes, sentence = "", Closes.UNKNOWN if self.mixed() else None, self.tell_nobody()
        else:
            order, cyclic = components(self.holders)
            chain = self.longest_chain(order)
            end, closes = self.end_of(chain[-1], *chain[-2:-1])
            if cyclic:
                start = min(cyclic, key=self.telling)
                chain = shortest_cycle(start, self.holders)
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
            if len(only := [holder for holder in self.free_members(role) if holder != pid]) == 1:
                # Who runs does not stand still for one that has nothing to do.
                return only if self.threads[pid].state != "R" or self.is_busy(only[0]) else []
        return []

    def free_members(self, role: Role) -> list[int]:
        """The threads of a role that are not blocked, three at most: whether it is the only one is the question."""
        if role not in self.free:
            free = (pid for pid in self.members[role] if pid not in self.waits)
            self.free[role] = list(itertools.islice(free, 3))
        return self.free[role]

    def may_have(self, row: WaitRow, pid: int) -> bool:
        """Whether a reader of the stacks would take the thread for the one: not if both queue for a lock of a kind."""
        return row.reason not in TOLD_LOCKS or self.gives(row, pid)

    def waits_for_itself(self, pid: int, row: WaitRow) -> bool:
        several = self.pools > 1 and row.reason is WaitReason.TXG
        if not row.own or several or not any(pid in self.members[role] for role in row.holders):
            return False
        return not row.sole or not (self.notes.cut or self.is_doubted(row) or self.others(row) - {pid})

    def others(self, row: WaitRow) -> AbstractSet[int]:
        """Who may end such a wait and does something, two threads at most: whether there is another is the question."""
        if row not in self.busy:
            self.busy[row] = frozenset(itertools.islice(filter(self.is_busy, self.candidates(row)), 2))
        return self.busy[row]

    def blocked_holders(self, row: WaitRow) -> list[int]:
        """Those who could end such a wait and are blocked; first one of each reason, then a second, and so on."""
        if row not in self.known:
            groups: dict[WaitReason, list[int]] = defaultdict(list)
            for pid in self.candidates(row):
                if pid in self.waits and self.may_have(row, pid):
                    groups[self.waits[pid].reason].append(pid)
            placed = [(place, reason, pid) for reason, pids in groups.items() for place, pid in enumerate(sorted(pids))]
            self.known[row] = [pid for _, _, pid in sorted(placed)]
        return self.known[row]

    def candidates(self, row: WaitRow) -> dict[int, None]:
        return dict.fromkeys(pid for role in row.holders for pid in self.members[role])

    # What is closed

    def close(self) -> Closing:
        """The blocked threads that wait for each other and for nobody else, whichever of the candidates it is."""
        fixed: dict[int, int] = {}
        asked: dict[int, WaitRow] = {}
        for pid, wait in self.waits.items():
            if pid in self.notes.mixed:
                continue
            if self.is_fixed(pid):
                fixed[pid] = self.holders[pid][0] if self.holders[pid] else NOBODY
            elif not wait.row.vague and not self.is_doubted(wait.row):
                asked[pid] = wait.row
        return Closing(fixed, asked, {row: self.groups(row) for row in dict.fromkeys(asked.values())})

    def is_fixed(self, pid: int) -> bool:
        """Whether one thread alone can end the wait."""
        return pid in self.notes.owners or self.waits_for_itself(pid, self.waits[pid].row)

    def is_doubted(self, row: WaitRow) -> bool:
        """Whether what is wrong with a disk or a pool explains such a wait without a thread."""
        return self.notes.suspended or (bool(self.notes.devices) and row.kind == "I/O")

    def groups(self, row: WaitRow) -> list[Group]:
        """Who may end such a wait: of each group, any; with one pool, each thread of a row that says so."""
        if not row.each:
            return [self.group(row, self.candidates(row))]
        groups = [self.group(row, self.members[role]) for role in row.holders]
        return groups if self.pools > 1 else [(one,) for group in groups for one in group]

    def group(self, row: WaitRow, pids: Iterable[int]) -> Group:
        return tuple(Candidate(pid, self.gives(row, pid)) for pid in pids if self.is_busy(pid))

    def gives(self, row: WaitRow, pid: int) -> bool:
        """Whether it can be this thread that ends such a wait, or it only waits for a thing of the kind itself."""
        wait = self.waits.get(pid)
        if wait is None or not row.kind or wait.row.kind != row.kind or pid in self.notes.owners:
            return True
        return gives_besides(wait, self.roles)

    def is_busy(self, pid: int) -> bool:
        """Whether the thread does something, so that it may hold what others wait for."""
        thread = self.threads[pid]
        top = next((name for name in thread.frames[:MAX_FRAMES] if name not in WAITERS), "")
        return pid in self.waits or thread.state == "R" or (bool(top) and top not in IDLE)

    def led_to(self, pid: int, closing: Closing) -> list[int]:
        """Who ends the wait of a thread that is closed."""
        if self.is_fixed(pid):
            return self.holders[pid]
        row = self.waits[pid].row
        if row not in self.closed:
            found = closing.holders(row) & closing.sure.keys()
            self.closed[row] = [holder for holder in self.blocked_holders(row) if holder in found]
        others = (holder for holder in self.closed[row] if holder != pid or row.own)
        return list(itertools.islice(others, MAX_EDGES))

    # Cycles and chains

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
        comm = self.threads[pid].comm and shown(self.threads[pid].comm, MAX_NAME_CHARS)
        if pid < 0:
            # A stack of which nothing says whose it is.
            return " ".join(filter(None, (self.titles.get(pid, ""), comm, f"(stack {-pid})")))
        return " ".join(filter(None, (self.titles.get(pid, "" if comm else "the thread"), comm, f"(pid {pid})")))

    def wants(self, pid: int, holder: int) -> str:
        """What the thread waits for, with the holder's name."""
        noun, name = self.waits[pid].row.noun, self.name(holder)
        if pid == holder:
            return f"its own {noun.removeprefix('the ').removeprefix('a ')}"
        return name if name.startswith(noun) else f"{noun} of {name}"

    def end_of(self, pid: int, waiter: int | None = None) -> tuple[str, Closes]:
        """Where a chain ends, and whether that may be the middle of a cycle.

        :param waiter: who waits for it.
        """
        wait = self.waits.get(pid)
        if wait is None:
            if self.is_busy(pid):
                state = shown(self.threads[pid].state, 1)
                if state == "?":
                    return "may be blocked: nothing says its state", Closes.UNKNOWN
                return "runs (state R)" if state == "R" else f"is not blocked (state {state})", Closes.CHAIN
            idle = Closes.UNKNOWN if waiter is None else self.if_idle(self.waits[waiter].row)
            return f"is idle (state {shown(self.threads[pid].state, 1)})", idle
        if wait.reason is WaitReason.HELD:
            return "is held by slabprobe until the host releases it", Closes.CHAIN
        if not wait.thread.frames:
            return "waits, without a stack in the text", Closes.UNKNOWN
        if wait.tells_nothing:
            return "waits, and its stack is cut before it says for what", Closes.UNKNOWN
        waits = f"{verb_of(wait)} for {wait.row.noun}"
        if owner := self.notes.owners.get(pid):
            name = f"{shown(owner.comm, MAX_NAME_CHARS)} (pid {owner.pid})" if owner.comm else f"pid {owner.pid}"
            return f"{waits} of {name}, whose stack is not in the text", Closes.UNKNOWN
        if wait.row.named:
            return waits, Closes.CHAIN
        if self.notes.devices and wait.row.kind == "I/O":
            return f"{waits}, which ends in a device: {self.notes.devices}", Closes.CHAIN
        if not wait.row.holders or wait.reason in TOLD_LOCKS:
            return waits, Closes.UNKNOWN
        others = [holder for holder in self.candidates(wait.row) if holder != pid]
        if wait.thread.state == "R":
            return verb_of(wait).rstrip(","), Closes.UNKNOWN if self.notes.cut else Closes.CHAIN
        if not others:
            return f"{waits}, and its holder is not in the text", Closes.UNKNOWN
        if not any(map(self.is_busy, others)):
            return f"{waits}, and the {len(others)} threads that could end that are idle", self.if_idle(wait.row)
        text = f"{waits}, and none of the {len(others)} threads that could end that is blocked"
        return text, Closes.UNKNOWN if self.notes.cut else Closes.CHAIN

    def if_idle(self, row: WaitRow) -> Closes:
        """What it means that nobody who could end such a wait has anything to do: only I/O may be elsewhere."""
        return Closes.CHAIN if row.kind == "I/O" and not self.notes.cut else Closes.UNKNOWN

    def what_is_missing(self, pid: int) -> str:
        """Why the chain that ends in this thread may go on."""
        wait = self.waits.get(pid)
        if wait is None:
            return "another thread may be the one, and is not in the text"
        if pid in self.notes.owners:
            return "the stack of the owner is not in the text"
        if not wait.thread.frames or wait.tells_nothing:
            return "nothing says what it waits for"
        if wait.reason in OWNED_LOCKS:
            return "the owner of this lock is not in the text"
        if wait.reason in (WaitReason.UNKNOWN, WaitReason.SHRINKER):
            return "what ends this wait is not known"
        if not wait.row.holders:
            return f"who ends the wait for {wait.row.noun} is not in the text"
        if self.notes.cut and wait.thread.state == "R":
            return "the list of threads is cut"
        return "the thread that ends this wait is not in the text"

    def doubt(self, steps: Sequence[int]) -> str:
        """Why what looks like a cycle is none for sure."""
        mixed = [pid for pid in steps if pid in self.notes.mixed]
        if mixed:
            return self.tell_mixed(mixed)
        if any(self.is_doubted(self.waits[pid].row) for pid in steps if pid not in self.notes.owners):
            return f"but it need not be a lock: {self.notes.devices}"
        if vague := next((pid for pid in steps if self.waits[pid].row.vague and pid not in self.notes.owners), None):
            return f"but nothing says that {self.name(vague)} waits for just that thread"
        kinds = {self.waits[pid].row.kind for pid in steps if pid not in self.notes.owners}
        if len(kinds) == 1 and "" not in kinds:
            return "but each of them only waits for what another one has, and none of these has it for sure"
        for pid, holder in zip(steps, [*steps[1:], *steps[:1]], strict=True):
            row = self.waits[pid].row
            others = [it for it in self.candidates(row) if it not in (pid, holder) and self.is_busy(it)]
            if pid not in self.notes.owners and others and (not row.each or self.pools > 1):
                return (
                    f"but {self.name(pid)} may as well wait for {self.name(others[0])}"
                    + (f" or {len(others) - 1} more" if len(others) > 1 else "")
                    + ", and which of them it is is not in the text"
                )
        return "but not all of it is certain"

    def tell_steps(self, cycle: Sequence[int]) -> str:
        pairs = list(zip(cycle, [*cycle[1:], cycle[0]], strict=True))
        steps = [f"{self.name(a)} {verb_of(self.waits[a])} for {self.wants(a, b)}" for a, b in pairs[:MAX_NAMED]]
        more = f"; and so on through {len(cycle) - MAX_NAMED} more" if len(cycle) > MAX_NAMED else ""
        return f"{'; '.join(steps)}{more}"

    def tell_cycle(self, cycle: Sequence[int]) -> str:
        guessed = dict.fromkeys(self.waits[pid].row.noun for pid in cycle if self.basis(pid) is Basis.ROLE)
        nouns = ", ".join(list(guessed)[:MAX_NAMED])
        by_role = f" (by role, a guess: no line of the kernel's says who holds {nouns})" if guessed else ""
        return f"cycle: {self.tell_steps(cycle)}{by_role}"

    def tell_nobody(self) -> str:
        if not self.threads:
            return "there are no threads"
        nobody = f"none of the {len(self.threads)} threads is blocked"
        return f"{nobody}, but {self.tell_mixed(mixed)}: may close" if (mixed := self.mixed()) else nobody

    def tell_mixed(self, mixed: Sequence[int]) -> str:
        return f"the stacks of {' and '.join(map(self.name, mixed[:MAX_NAMED]))} may be mixed with others"

    def mixed(self) -> list[int]:
        """The threads whose stacks may have frames of others."""
        return sorted(self.notes.mixed & self.threads.keys())

    def tell_chain(self, chain: Sequence[int], end: str, closes: Closes) -> tuple[str, Closes]:
        more = self.count_alike(chain)
        sentence = self.name(chain[0]) + (f" and {more} more" if more else "")
        pairs = list(itertools.pairwise(chain))
        for at, (pid, holder) in enumerate(pairs[:MAX_NAMED]):
            verb = verb_of(self.waits[pid], plural=at == 0 and more > 0)
            sentence += f"{', which' if at else ''} {verb} for {self.wants(pid, holder)}"
        if len(pairs) > MAX_NAMED:
            sentence += f", and so on through {len(pairs) - MAX_NAMED} more, the last of which {end}"
        elif pairs:
            sentence += f", which {end}"
        else:
            sentence += f" {plural_of(end) if more else end}"
        if closes is Closes.UNKNOWN:
            return f"{sentence}: may close, {self.what_is_missing(chain[-1])}", closes
        if mixed := self.mixed():
            return f"{sentence}: may close, {self.tell_mixed(mixed)}", Closes.UNKNOWN
        lock = next((pid for pid in self.waits if self.ends_in_a_lock(pid) and pid not in chain), None)
        if lock is None:
            return f"{sentence}: a chain, not a cycle", closes
        beside = f"{self.name(lock)} {self.end_of(lock)[0]}: may close, {self.what_is_missing(lock)}"
        return f"{sentence}: a chain, not a cycle; beside it {beside}", Closes.UNKNOWN

    def ends_in_a_lock(self, pid: int) -> bool:
        """Whether the owner of what this thread waits for is not known."""
        return self.waits[pid].reason in OWNED_LOCKS and not self.holders[pid]

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
