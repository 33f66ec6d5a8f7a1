"""Kernel stacks: the `tasks` payload of the agent's stream, and names of functions in general.

Owns what a frame of a stack is called. What a stack proves is for the verdict.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from splvm.errors import EvidenceError
from splvm.evidence.formats.stream import excerpt, payload_lines

# The name of a function whose address the kernel could not resolve.
UNKNOWN_FUNCTION = "?"

# Functions that put a thread to sleep for whoever called them: their own place in a stack says
# only that it sleeps. /proc/PID/stack leaves out the section .sched.text by itself
# (stack_trace_consume_entry_nosched() in kernel/stacktrace.c), traces on the console do not.
# Locks (mutex_lock, rwsem_down_read_slowpath, ...) are not here: they say on what.
_SCHEDULER_NAMES = """
    __schedule __schedule_loop schedule schedule_idle schedule_rtlock schedule_preempt_disabled
    preempt_schedule preempt_schedule_common preempt_schedule_notrace preempt_schedule_irq __cond_resched
    __switch_to __switch_to_asm context_switch
    schedule_timeout schedule_timeout_interruptible schedule_timeout_killable schedule_timeout_uninterruptible
    schedule_timeout_idle schedule_hrtimeout schedule_hrtimeout_range schedule_hrtimeout_range_clock
    io_schedule io_schedule_timeout io_schedule_prepare
    wait_woken do_wait_intr do_wait_intr_irq bit_wait bit_wait_io bit_wait_timeout bit_wait_io_timeout
    __wait_on_bit __wait_on_bit_lock out_of_line_wait_on_bit out_of_line_wait_on_bit_lock
    out_of_line_wait_on_bit_timeout do_wait_for_common __wait_for_common wait_for_common wait_for_common_io
    wait_for_completion wait_for_completion_io wait_for_completion_timeout wait_for_completion_io_timeout
    wait_for_completion_interruptible wait_for_completion_killable wait_for_completion_state
"""
SCHEDULER = frozenset(_SCHEDULER_NAMES.split())

# Compilers make copies of a function and mark them so: f.isra.0, f.constprop.0, f.part.0, f.cold.
# The mark depends on the build, so names are compared without it.
FUNCTION = r"(?P<function>[A-Za-z_$][\w$]{0,255})(?:\.[\w.$]{1,255})?\+0x[0-9a-f]{1,16}/0x[0-9a-f]{1,16}"

_ADDRESS = r"\[<[0-9a-f]{1,16}>\]"
_FRAME = re.compile(rf"{_ADDRESS} (?:\? )?(?:{FUNCTION}|0x[0-9a-f]{{1,16}})(?: \[[^\]]{{1,80}}\])?\s*", re.ASCII)
# Kernels before 5.2 end every stack with this (seen as ULONG_MAX in save_stack_trace()).
_END = re.compile(rf"{_ADDRESS} 0xf{{8,16}}\s*")
_STACK_ERROR = re.compile(r"stack (errno=-?[0-9]{1,5})\s*")


@dataclass(frozen=True, slots=True)
class Task:
    """One thread as the agent saw it."""

    pid: int
    # Its name, spaces turned into `_`.
    comm: str
    # The letter of /proc/PID/stat: R, S, D, ...
    state: str
    # Context switches since the thread began.
    voluntary: int
    nonvoluntary: int
    # Whether the thread ran while it was being read, so that stack and counters may not belong together.
    moved: bool
    # Functions from the innermost out, without offsets, addresses and modules.
    frames: tuple[str, ...]
    # The lines of the stack as they came.
    raw: tuple[str, ...]
    # `errno=NUMBER` when the stack could not be read, else None.
    stack_error: str | None
    # The kernel's marks of it (PF_...), and the CPU time that it has had since it began, ns. None: the agent did not
    # tell, as none of version 1 does.
    flags: int | None = None
    run_ns: int | None = None

    @property
    def blocked_on(self) -> tuple[str, ...]:
        """The frames from the function that waits outwards: without the scheduler's own at the top."""
        return without_top(self.frames, SCHEDULER)


@dataclass(frozen=True, slots=True)
class TaskStack:
    """One thread of the guest and where it is."""

    pid: int
    # Its name, at most 15 characters on Linux.
    comm: str
    # The kernel's letter: R, S, D, I, ...
    state: str
    # Functions from the innermost out, without offsets, modules and the compiler's marks. Those that the kernel
    # marks with `?` are only here when there are no others.
    frames: tuple[str, ...]


def without_top(frames: Sequence[str], functions: frozenset[str]) -> tuple[str, ...]:
    """`frames` without those at the top that are among `functions`."""
    first = next((index for index, name in enumerate(frames) if name not in functions), len(frames))
    return tuple(frames[first:])


def parse_tasks(text: str) -> tuple[Task, ...]:
    """Read a `tasks` payload; an empty one has no tasks.

    Keys of a task line that are not known are left alone; lines that belong to no stack are not.

    :raises EvidenceError: for anything that is no such payload, with the line.
    """
    tasks: list[Task] = []
    header: tuple[int, str] | None = None
    stack: list[tuple[int, str]] = []
    for number, line in payload_lines(text):
        if line.startswith("task "):
            if header is not None:
                tasks.append(_task(header, stack))
            header, stack = (number, line), []
        elif header is None:
            raise EvidenceError(f"a task was expected: {excerpt(line)}", line=number)
        elif line.strip():
            stack.append((number, line))
    if header is not None:
        tasks.append(_task(header, stack))
    return tuple(tasks)


def _task(header: tuple[int, str], stack: Sequence[tuple[int, str]]) -> Task:
    number, line = header
    pairs = dict(word.partition("=")[::2] for word in line.split()[1:])
    frames: list[str] = []
    error: str | None = None
    for at, text in stack:
        if failed := _STACK_ERROR.fullmatch(text):
            error = failed[1]
        elif not _END.fullmatch(text):
            frames.append(_function(text, at))
    return Task(
        pid=_count(pairs, "pid", number),
        comm=_value(pairs, "comm", number),
        state=_state(pairs, number),
        voluntary=_count(pairs, "voluntary", number),
        nonvoluntary=_count(pairs, "nonvoluntary", number),
        moved=pairs.get("moved", "0") != "0",
        frames=tuple(frames),
        raw=tuple(text for _, text in stack),
        stack_error=error,
        flags=_count(pairs, "flags", number) if "flags" in pairs else None,
        run_ns=_count(pairs, "run_ns", number) if "run_ns" in pairs else None,
    )


def _function(line: str, number: int) -> str:
    frame = _FRAME.fullmatch(line)
    if frame is None:
        raise EvidenceError(f"not a line of a stack: {excerpt(line)}", line=number)
    return frame["function"] or UNKNOWN_FUNCTION


def _value(pairs: dict[str, str], key: str, line: int) -> str:
    value = pairs.get(key, "")
    if not value:
        raise EvidenceError(f"a task without {key}=", line=line)
    return value


def _count(pairs: dict[str, str], key: str, line: int) -> int:
    value = _value(pairs, key, line)
    if not re.fullmatch(r"[0-9]{1,20}", value):
        raise EvidenceError(f"{key} is not a number: {excerpt(value)}", line=line)
    return int(value)


def _state(pairs: dict[str, str], line: int) -> str:
    value = _value(pairs, "state", line)
    if not re.fullmatch(r"[A-Za-z]", value):
        raise EvidenceError(f"a task's state is one letter, not {excerpt(value)}", line=line)
    return value
