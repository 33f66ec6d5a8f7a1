"""What one thread is blocked by, by its stack: the row of the table of waits that fits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from splvm.evidence.formats.stacks import TaskStack
from splvm.evidence.waiting.waitedges import Wait
from splvm.evidence.waiting.waits import (
    DIRECT_RECLAIM,
    SHRINKERS,
    UNKNOWN_ROW,
    WAITERS,
    Role,
    RoleRow,
    WaitReason,
    WaitRow,
)

# Frames looked at of a stack.
MAX_FRAMES = 64


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
            if row.fallback or (row.top and at != top) or (running and not row.running):
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


def has_role(comm: str, functions: frozenset[str], role: RoleRow) -> bool:
    """Whether a thread of this name, with these functions in its stack, has a role."""
    if role.comm and re.fullmatch(role.comm, comm):
        return True
    return not role.functions.isdisjoint(functions) and role.without.isdisjoint(functions)
