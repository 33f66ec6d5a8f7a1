"""What a wait-for graph is made of: waits, edges, and what each edge rests on."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from splvm.evidence.formats.stacks import TaskStack
from splvm.evidence.waiting.waits import WAITERS, WaitReason, WaitRow


class Basis(enum.StrEnum):
    """What an edge rests on."""

    OWNER = "owner"  # the kernel printed who owns the lock
    LOCK_LIST = "lock-list"  # lockdep printed who holds it
    ROLE = "role"  # a guess, from the name of a thread and from the functions in its stack


class Closes(enum.StrEnum):
    """Whether the waits lead back to where they begin, the strongest first."""

    CYCLE = "cycle"  # they do
    UNKNOWN = "unknown"  # they may: what the last one waits for is not in the text
    CHAIN = "chain"  # they end in something that has a name and waits for nothing unknown


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds what a thread waits for, by the kernel's own word."""

    pid: int
    by: Basis


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
    by: Basis = Basis.ROLE
