"""Which blocked threads wait for each other and for nobody else, whichever of the candidates it is that each waits for.

Owns the rule for what closes. Where the kernel printed the owner of a lock, that is the one candidate. Otherwise the
candidates of a wait are groups of threads: it closes if, for one of the groups, every thread that may be the one leads
back. A thread that itself waits for a thing of the same kind has none to give, so it is not what others wait for: two
that queue for locks of one kind are no cycle. It still has to lead back, for it may have got on meanwhile.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from splvm.evidence.waiting.waits import WaitRow


@dataclass(frozen=True, slots=True)
class Candidate:
    """A thread that may be the one that others wait for."""

    pid: int
    # Whether it can be, and does not wait for a thing of the kind itself.
    gives: bool


# Threads of which any may be the one: all have to lead back.
Group = tuple[Candidate, ...]


@dataclass(slots=True)
class _Count:
    """What is left of a group."""

    members: Group
    # Of those that give, in the set; and of all, outside of it.
    giving: int = 0
    outside: int = 0

    @property
    def holds(self) -> bool:
        return self.giving > 0 and self.outside == 0


class Closing:
    """The largest set of threads that wait for members of the set alone.

    Whoever waits for a thread outside of it is taken out, until nobody is left who does. A row takes out all its
    waiters at once, so that the work is linear.
    """

    def __init__(
        self, fixed: Mapping[int, int], asked: Mapping[int, WaitRow], groups: Mapping[WaitRow, Sequence[Group]]
    ) -> None:
        """
        :param fixed: by the pid of a waiter, the one that it waits for.
        :param asked: by the pid of each other waiter, its row.
        :param groups: by row, who may end such a wait.
        """
        self.fixed = fixed
        self.asked = asked
        self.sure: dict[int, None] = dict.fromkeys([*fixed, *asked])
        self.waiters: dict[WaitRow, list[int]] = defaultdict(list)
        for pid, row in asked.items():
            self.waiters[row].append(pid)
        self.followers: dict[int, list[int]] = defaultdict(list)
        for pid, holder in fixed.items():
            self.followers[holder].append(pid)
        self.counts = {row: [_Count(group) for group in groups.get(row, ())] for row in self.waiters}
        self.belongs: dict[int, list[tuple[WaitRow, _Count, bool]]] = defaultdict(list)
        self.out: deque[int] = deque(pid for pid, holder in fixed.items() if holder not in self.sure)
        for row, counts in self.counts.items():
            for count in counts:
                for member in count.members:
                    self.belongs[member.pid].append((row, count, member.gives))
                    count.giving += member.gives and member.pid in self.sure
                    count.outside += member.pid not in self.sure
        self.alive = {row: sum(count.holds for count in counts) for row, counts in self.counts.items()}
        for row in self.counts:
            self.look_at(row)
        while self.out:
            self.take_out(self.out.popleft())

    def take_out(self, pid: int) -> None:
        if pid not in self.sure:
            return
        del self.sure[pid]
        self.out.extend(self.followers.get(pid, ()))
        for row, count, gives in self.belongs.get(pid, ()):
            held = count.holds
            count.giving -= gives
            count.outside += 1
            self.alive[row] -= held
            self.look_at(row)

    def look_at(self, row: WaitRow) -> None:
        """Take out those for whose wait nobody is left but themselves."""
        if self.alive[row] == 0:
            self.out.extend(self.waiters[row])
            self.waiters[row] = []
        elif self.alive[row] == 1 and not row.own:
            last = next(count for count in self.counts[row] if count.holds)
            if last.giving == 1:
                only = next(it.pid for it in last.members if it.gives and it.pid in self.sure)
                if self.asked.get(only) is row:
                    self.out.append(only)

    def holders(self, row: WaitRow) -> AbstractSet[int]:
        """Who may end such a wait, of the groups that hold."""
        found: Iterable[int] = (
            it.pid for count in self.counts.get(row, ()) if count.holds for it in count.members if it.gives
        )
        return frozenset(found)
