"""What one thread is blocked by, by its stack: the row of the table of waits that fits."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from splvm.evidence.formats.stacks import TaskStack
from splvm.evidence.waiting.roles import USER_ENTRIES, Role, RoleRow
from splvm.evidence.waiting.waitedges import Wait
from splvm.evidence.waiting.waitrows import UNKNOWN_ROW
from splvm.evidence.waiting.waits import DIRECT_RECLAIM, SHRINKERS, WAITERS, WaitReason, WaitRow

# Frames looked at of a stack.
MAX_FRAMES = 64
# What people number stacks by, which is no thread's name.
_NUMBERED = re.compile(r"(?:thread|stack|process|task|trace|cpu) \S{1,6}", re.IGNORECASE)


def by_function(rows: Sequence[WaitRow]) -> dict[str, list[WaitRow]]:
    """The rows of each function, in their order."""
    table: dict[str, list[WaitRow]] = defaultdict(list)
    for row in rows:
        for function in row.functions:
            table[function].append(row)
    return table


def wait_of(thread: TaskStack, table: dict[str, list[WaitRow]], roles: AbstractSet[Role]) -> Wait | None:
    """What the thread is blocked by, if it is: the row that fits the innermost function that has one."""
    if thread.state not in ("D", "R"):
        return None
    frames = thread.frames[:MAX_FRAMES]
    top = next((at for at, name in enumerate(frames) if name not in WAITERS), 0)
    row, index = _match(frames, top, table, roles, running=thread.state == "R")
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
    frames: Sequence[str],
    top: int,
    table: dict[str, list[WaitRow]],
    roles: AbstractSet[Role],
    *,
    running: bool,
) -> tuple[WaitRow | None, int]:
    for at in range(top, len(frames)):
        for row in table.get(frames[at], ()):
            # What ends a wait that has a name is that only for who waits there, and not further in.
            if row.fallback or ((row.top or row.named) and at != top) or (running and not row.running):
                continue
            if row.of is not None and row.of not in roles:
                continue
            if row.asked_by and _asked_by(row, frames, at) not in row.asked_by:
                continue
            if not row.within or not row.within.isdisjoint(frames[at + 1 :]):
                return row, at
    for at, name in enumerate(frames):
        for row in table.get(name, ()):
            if row.fallback and not running:
                return row, at
    return None, 0


def _asked_by(row: WaitRow, frames: Sequence[str], at: int) -> str:
    return next((name for name in frames[at:] if name not in row.functions), "")


class RoleFinder:
    """Finds the roles of threads. Lists are long and most threads of them have none, so few rows are asked of each."""

    def __init__(self, roles: Sequence[RoleRow]) -> None:
        self.roles = roles
        self.named = [place for place, role in enumerate(roles) if role.comm]
        self.any_name = re.compile("|".join(roles[place].comm for place in self.named) or r"(?!)")
        self.places: dict[str, list[int]] = defaultdict(list)
        for place, role in enumerate(roles):
            for function in role.functions:
                self.places[function].append(place)

    def places_of(self, thread: TaskStack) -> list[int]:
        """The places in the table of the roles that a thread has, in order."""
        asked = set(self.named) if self.any_name.fullmatch(thread.comm) else set()
        for function in thread.frames[:MAX_FRAMES]:
            asked.update(self.places.get(function, ()))
        return [place for place in sorted(asked) if has_role(thread, self.roles[place])]


def has_role(thread: TaskStack, role: RoleRow) -> bool:
    """Whether a thread has a role, by its name or by the functions in its stack."""
    frames = thread.frames[:MAX_FRAMES]
    if role.comm and re.fullmatch(role.comm, thread.comm) and USER_ENTRIES.isdisjoint(frames):
        return True
    if role.functions.isdisjoint(frames) or not role.without.isdisjoint(frames):
        return False
    if role.beneath and thread.comm and not _NUMBERED.fullmatch(thread.comm):
        return False
    return any(_gives(role, frames, at) for at, name in enumerate(frames) if name in role.functions)


def _gives(role: RoleRow, frames: Sequence[str], at: int) -> bool:
    """Whether the function at this place gives the role."""
    if at and frames[at - 1] in role.before:
        return False
    return not role.beneath or not role.beneath.isdisjoint(frames[at + 1 :])


def gives_besides(wait: Wait, roles: Sequence[RoleRow]) -> bool:
    """Whether a thread that waits for a thing of a kind has another one of it, by a function further out."""
    frames = wait.thread.frames[:MAX_FRAMES]
    at = wait.index
    while at < len(frames) and frames[at] in wait.row.functions | wait.row.asked_by:
        at += 1
    return bool(wait.row.asked_by) and any(
        name in role.functions for role in roles if role.role in wait.row.holders for name in frames[at:]
    )
