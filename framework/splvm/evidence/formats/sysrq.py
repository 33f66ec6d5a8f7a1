"""What the kernel prints on the console for SysRq: tasks (`t`), blocked tasks (`w`), memory (`m`), active CPUs (`l`).

Owns the formats of these dumps, from Linux 3.10 to 7.x, and what shows that one of them was cut. What the stacks mean
is for waitgraph.py.

Work is linear: each line is looked at once, patterns are anchored or without overlapping repeats, and repeats bounded.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from splvm.evidence.formats.kernlines import MAX_LINE_CHARS, STAMP, split_stamp
from splvm.evidence.formats.kernlog import CALL_TRACE, FRAME, MAX_FRAMES, RIP, STACK_MARK
from splvm.evidence.formats.stacks import TaskStack

# Dumps kept of a text, the latest ones.
MAX_DUMPS = 64
# Threads, CPUs and lines of memory kept of a dump, the first ones; PID_MAX_DEFAULT is 32,768.
MAX_THREADS = 32_768
MAX_CPUS = 1024
MAX_MEMORY_LINES = 2000
# Losses named of a dump.
MAX_LOSSES = 20
# Tasks without the header of a dump before them: fewer are no dump whose header was lost, since reports of hung tasks
# and of RCU stalls show tasks too.
MIN_HEADLESS = 3
# Lines between "INFO: task ... blocked for more than" and the task that is meant (kernel/hung_task.c).
_HUNG_TASK_LINES = 6

# What the kernel calls the operations of drivers/tty/sysrq.c. Kernels before 5.x said "SysRq", some both words.
_SYSRQ = re.compile(r"(?:sysrq: (?:SysRq : )?|SysRq : )(?!CPU\d)(?P<what>.{0,200})", re.ASCII)
_BOOT = "Linux version "
# What follows the last task: show_all_workqueues() of sysrq_handle_showstate(), and before it, as the config has it,
# the scheduler's own tables and the locks of show_state_filter().
_AFTER_TASKS = re.compile(r"Showing busy workqueues |Sched Debug Version: |Showing all locks held in the system")

# sched_show_task() of kernel/sched/core.c: tgid since 6.6 and task_flags since 6.14 come after the pid. The
# name is padded to 15 characters, and may itself hold blanks, colons and brackets.
_TASK = re.compile(
    r"task:(?P<comm>.{1,64}?) {1,20}state:(?P<state>[A-Za-z?])(?: {1,8}running task)? {1,8}stack: {0,12}\d{1,20}"
    r" {1,8}pid: {0,12}(?P<pid>\d{1,10})\b",
    re.ASCII,
)
# The rest of such a line, printed by itself when another line came in between (pr_cont()).
_TASK_REST = re.compile(r" {0,8}(?:running task {1,8})?stack: {0,12}\d")
# Before 5.10 (cc172ff301d8, "sched/debug: Fix the alignment of the show-state debug output"): name, state, saved
# program counter (until 4.9), free stack, pid, parent, flags; a column more on RHEL 6.
_OLD_TASK = re.compile(
    r"(?P<comm>\S.{0,30}?) {1,16}(?P<state>[A-Za-z?])(?: {1,8}running task| {1,8}[0-9a-f]{8,16})? {0,12}\d{1,6}"
    r" {1,12}(?P<pid>\d{1,10}) {1,12}\d{1,10}(?: {1,12}\d{1,10})? {1,4}0x[0-9a-f]{8}\s{0,4}",
    re.ASCII,
)
_HUNG_TASK = "INFO: task "
# A frame that ends too early.
_CUT_FRAME = re.compile(r"\s{1,8}(?:\? )?[A-Za-z_$][\w$.]{0,255}\+(?:0(?:x[0-9a-f]{0,16}(?:/(?:0x?)?)?)?)?", re.ASCII)
_DROPPED = re.compile(r"\*\* {0,2}(\d{1,10}) printk messages dropped", re.ASCII)

# lib/nmi_backtrace.c; where there is no NMI, showacpu() of drivers/tty/sysrq.c.
_CPU = re.compile(r"(?:NMI backtrace for cpu |(?:sysrq: )?CPU(?=\d{1,6}:))(?P<cpu>\d{1,6})(?P<idle> skipped: idling)?")
# dump_stack_print_info() of lib/dump_stack.c; UID since 6.11.
_CPU_TASK = re.compile(
    r"CPU: \d{1,6} (?:UID: \d{1,10} )?PID: (?P<pid>\d{1,10}) Comm: (?P<comm>.{1,64}?)"
    r" (?:Kdump: |Not tainted|Tainted: )",
    re.ASCII,
)
# Whatever can begin a dump contains one of these, or belongs to a dump; most lines of a log do neither.
_HINT = re.compile(
    r"sysrq: |SysRq : |task:|INFO: task |messages dropped|Linux version | 0x[0-9a-f]{8}\s{0,4}$", re.ASCII
)
_JOURNAL = re.compile(r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S{1,64} kernel: ?", re.ASCII)


class DumpKind(enum.StrEnum):
    """Which key asked for a dump of tasks."""

    ALL = "t"
    BLOCKED = "w"


@dataclass(frozen=True, slots=True)
class TaskDump:
    """What SysRq `t` or `w` printed."""

    kind: DumpKind
    # Line of its header, counted from 1; of its first task if the header is lost.
    line: int
    threads: tuple[TaskStack, ...]
    # Everything that shows that it is cut, one text each; empty if it is whole.
    losses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MemoryListing:
    """What SysRq `m` printed."""

    # Line of its header, counted from 1.
    line: int
    # What came after the header, without time stamps.
    lines: tuple[str, ...]
    losses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CpuTrace:
    """What one CPU was doing."""

    cpu: int
    # The thread on it, None if the kernel did not say.
    pid: int | None
    comm: str
    # As those of a thread. The CPU that was asked begins with the functions that print.
    frames: tuple[str, ...]
    # Left out by the kernel because it was idle.
    idle: bool


@dataclass(frozen=True, slots=True)
class CpuDump:
    """What SysRq `l` printed."""

    # Line of its header, counted from 1.
    line: int
    cpus: tuple[CpuTrace, ...]
    losses: tuple[str, ...]


AnyDump = TypeVar("AnyDump", TaskDump, MemoryListing, CpuDump)


@dataclass(frozen=True, slots=True)
class SysrqReport:
    """All dumps of a text, in its order."""

    tasks: tuple[TaskDump, ...]
    memory: tuple[MemoryListing, ...]
    cpus: tuple[CpuDump, ...]
    # Messages that the kernel says it dropped, anywhere in the text.
    dropped: int

    def last_tasks(self, kind: DumpKind) -> TaskDump | None:
        """The last whole dump of this kind."""
        return _last_whole([dump for dump in self.tasks if dump.kind is kind])

    @property
    def last_memory(self) -> MemoryListing | None:
        """The last whole dump of the memory."""
        return _last_whole(self.memory)

    @property
    def last_cpus(self) -> CpuDump | None:
        """The last whole dump of the CPUs."""
        return _last_whole(self.cpus)


def _last_whole(dumps: Sequence[AnyDump]) -> AnyDump | None:
    return next((dump for dump in reversed(dumps) if not dump.losses), None)


def parse_sysrq(text: str) -> SysrqReport:
    """Read every dump of a console log; nothing is raised, whatever the text is.

    A dump ends with the next header of SysRq (the harness sends `h` last) or, if it is of all tasks, with what the
    kernel prints after the last of them; one that does neither is cut. Lines may look as those for
    :func:`splvm.evidence.formats.kernlog.scan_kernel_log`, or as journalctl shows them. Where the log has
    caller ids (CONFIG_PRINTK_CALLER), lines of other callers belong to no dump.
    """
    reader = _Reader()
    number = 0
    for number, line in enumerate(text.replace("\0", "").split("\n"), 1):
        hinted = _HINT.search(line) is not None
        if hinted or reader.section is not None:
            for part in filter(None, line.split("\r")):
                reader.read(number, part[:MAX_LINE_CHARS], hinted)
    reader.end_of_text(number, cut=not text.endswith("\n"))
    return SysrqReport(
        tasks=tuple(reader.tasks[-MAX_DUMPS:]),
        memory=tuple(reader.memory[-MAX_DUMPS:]),
        cpus=tuple(reader.cpus[-MAX_DUMPS:]),
        dropped=reader.dropped,
    )


def missing_tasks(dump: TaskDump, expected: int) -> str:
    """What a dump of all tasks lacks of the tasks that the guest had, or an empty text.

    :param expected: the number of threads, from a count that is not the dump's, such as the total of /proc/loadavg
        (nr_threads of kernel/fork.c: idle threads are in neither).

    The two are not taken at the same moment, and workers of the kernel come and go; a thread that has given up its
    stack is counted and not shown. So 2 % may lack, or 4 threads of a small guest: what the ring buffer or
    the console loses comes in tens of lines.
    """
    lacking = expected - len(dump.threads)
    if dump.kind is not DumpKind.ALL or lacking <= max(4, expected // 50):
        return ""
    return f"{len(dump.threads)} tasks are in it, and the guest had {expected}"


class _Trace:
    """The stack of a thread or of a CPU, as far as it is read."""

    __slots__ = ("caller", "comm", "cpu", "done", "frames", "guesses", "idle", "line", "pid", "state", "traced")

    def __init__(self, line: int, caller: str | None, comm: str = "", pid: int | None = None, state: str = "?") -> None:
        self.line = line
        self.caller = caller
        self.comm = comm.strip()
        self.pid = pid
        self.state = state
        self.cpu = 0
        self.idle = False
        self.traced = False
        self.done = False
        self.frames: list[str] = []
        # Frames that the kernel marks with `?`: found on the stack, but perhaps left over.
        self.guesses: list[str] = []

    def read(self, message: str) -> bool:
        """Take a line; whether it could belong to a stack. Other lines may come between two frames."""
        if self.done:
            return True
        if frame := self.traced and FRAME.match(message):
            self._add(frame)
        elif mark := STACK_MARK.match(message):
            self.done = "</TASK>" in mark[0]
            if self.traced and (frame := FRAME.match(message, mark.end())):
                self._add(frame)
        elif CALL_TRACE.match(message):
            # A second one is somebody else's, printed in between.
            self.done = self.traced
            self.traced = True
        elif not self.traced and (rip := RIP.match(message)):
            self.frames = [rip["function"]]
        else:
            return False
        return True

    def _add(self, frame: re.Match[str]) -> None:
        names = self.guesses if frame["guess"] else self.frames
        if len(names) < MAX_FRAMES:
            names.append(frame["function"])

    @property
    def result(self) -> tuple[str, ...]:
        return tuple(self.frames or self.guesses)


@dataclass(slots=True)
class _Section:
    """A dump that is being read."""

    line: int
    caller: str | None
    losses: list[str] = field(default_factory=list)

    def lose(self, loss: str) -> None:
        if len(self.losses) < MAX_LOSSES:
            self.losses.append(loss)

    def is_foreign(self, caller: str | None) -> bool:
        return caller is not None and self.caller is not None and caller != self.caller

    def read(self, number: int, caller: str | None, message: str) -> bool:
        """Take a line; whether the dump ends before it."""
        raise NotImplementedError

    def finish(self, reader: _Reader) -> None:
        """Hand the dump over."""
        raise NotImplementedError


@dataclass(slots=True)
class _Tasks(_Section):
    kind: DumpKind = DumpKind.ALL
    headless: bool = False
    threads: dict[int, _Trace] = field(default_factory=dict)
    open: _Trace | None = None
    # The beginning of a task's line whose end is still to come, and where it stands.
    begun: tuple[int, str] | None = None

    def read(self, number: int, caller: str | None, message: str) -> bool:
        if self.is_foreign(caller):
            return False
        if _AFTER_TASKS.match(message):
            return True
        if self.begun is not None and _TASK_REST.match(message):
            message = f"{self.begun[1]} {message}"
            self.begun = None
        if task := _match_task(message):
            self.begin(number, task)
        elif message.startswith("task:"):
            self.give_up()
            self.begun = (number, message)
        elif not (self.open is not None and self.open.read(message)):
            self.look_for_cuts(number, message)
        return False

    def begin(self, number: int, task: re.Match[str]) -> None:
        self.give_up()
        self.open = _Trace(number, self.caller, task["comm"], int(task["pid"]), task["state"])
        # A thread that is seen again comes from a report of hung tasks in between.
        if len(self.threads) < MAX_THREADS:
            self.threads.setdefault(int(task["pid"]), self.open)
        elif int(task["pid"]) not in self.threads:
            self.lose(f"the tasks from line {number} on are left out, more than {MAX_THREADS}")

    def give_up(self) -> None:
        if self.begun is not None:
            self.lose(f"the line of a task ends in the middle (line {self.begun[0]})")
            self.begun = None

    def look_for_cuts(self, number: int, message: str) -> None:
        in_trace = self.open is not None and self.open.traced
        if in_trace and (_CUT_FRAME.fullmatch(message) or STAMP.search(message)):
            self.lose(f"a stack ends in the middle of a line (line {number})")

    def finish(self, reader: _Reader) -> None:
        self.give_up()
        traces = list(self.threads.values())
        if self.headless:
            if len(traces) < MIN_HEADLESS:
                return
            self.losses.insert(0, f"its header is missing; the first task is in line {self.line}")
            if all(trace.state == "D" for trace in traces):
                self.kind = DumpKind.BLOCKED
        elif not traces and self.kind is DumpKind.ALL:
            self.lose("no task is in it")
        for trace in traces:
            # show_trace_log_lvl() says "Call Trace:" of every task; a task that is running just then has no frames.
            if not trace.traced or (trace.state == "D" and not trace.result):
                self.lose(f"{trace.comm} (pid {trace.pid}) has no stack (line {trace.line})")
        threads = tuple(TaskStack(pid, trace.comm, trace.state, trace.result) for pid, trace in self.threads.items())
        reader.tasks.append(TaskDump(self.kind, self.line, threads, tuple(self.losses[:MAX_LOSSES])))


@dataclass(slots=True)
class _Memory(_Section):
    lines: list[str] = field(default_factory=list)

    def read(self, number: int, caller: str | None, message: str) -> bool:
        if self.is_foreign(caller):
            return False
        if len(self.lines) < MAX_MEMORY_LINES:
            self.lines.append(message)
        return False

    def finish(self, reader: _Reader) -> None:
        if not self.lines:
            self.lose("nothing is in it")
        reader.memory.append(MemoryListing(self.line, tuple(self.lines), tuple(self.losses)))


@dataclass(slots=True)
class _Cpus(_Section):
    traces: list[_Trace] = field(default_factory=list)

    def read(self, number: int, caller: str | None, message: str) -> bool:
        if cpu := _CPU.match(message):
            # Each CPU prints its own.
            trace = _Trace(number, caller)
            trace.cpu = int(cpu["cpu"])
            trace.idle = trace.done = cpu["idle"] is not None
            if len(self.traces) < MAX_CPUS:
                self.traces.append(trace)
            return False
        open_ = self.traces[-1] if self.traces else None
        if open_ is None or (caller is not None and open_.caller is not None and caller != open_.caller):
            return False
        if (task := _CPU_TASK.match(message)) and open_.pid is None:
            open_.comm, open_.pid = task["comm"].strip(), int(task["pid"])
        elif not open_.read(message) and _CUT_FRAME.fullmatch(message):
            self.lose(f"a stack ends in the middle of a line (line {number})")
        return False

    def finish(self, reader: _Reader) -> None:
        if not self.traces:
            self.lose("no CPU is in it")
        cpus = tuple(CpuTrace(trace.cpu, trace.pid, trace.comm, trace.result, trace.idle) for trace in self.traces)
        reader.cpus.append(CpuDump(self.line, cpus, tuple(self.losses)))


class _Reader:
    """Reads the log line after line and decides which dump each line belongs to."""

    def __init__(self) -> None:
        self.tasks: list[TaskDump] = []
        self.memory: list[MemoryListing] = []
        self.cpus: list[CpuDump] = []
        self.dropped = 0
        self.section: _Section | None = None
        # Up to this line, a task without a header is one of a report of hung tasks.
        self.hung_until = 0

    def read(self, number: int, line: str, hinted: bool) -> None:
        if hinted and (dropped := _DROPPED.search(line)):
            self.dropped += int(dropped[1])
            if self.section is not None:
                self.section.lose(f"the kernel dropped {dropped[1]} messages (line {number})")
        time_s, caller, message = split_stamp(line)
        if time_s is None and (journal := _JOURNAL.match(message)):
            _, caller, message = split_stamp(message[journal.end() :])
        if hinted and (sysrq := _SYSRQ.match(message)):
            self.close()
            self.section = _open(sysrq["what"].strip(), number, caller)
            return
        if hinted and message.startswith(_BOOT):
            self.close("the guest was booted again before its end")
        elif hinted and message.startswith(_HUNG_TASK):
            self.hung_until = number + _HUNG_TASK_LINES
        if self.section is None and hinted and number > self.hung_until and _match_task(message):
            self.section = _Tasks(number, caller, headless=True)
        if self.section is not None and self.section.read(number, caller, message):
            self.close()

    def close(self, loss: str | None = None) -> None:
        if self.section is not None:
            if loss is not None:
                self.section.losses.insert(0, loss)
            self.section.finish(self)
            self.section = None

    def end_of_text(self, number: int, *, cut: bool) -> None:
        self.close(f"the text ends in the middle of line {number}" if cut else "what follows its end is missing")


def _match_task(message: str) -> re.Match[str] | None:
    return _TASK.match(message) if message.startswith("task:") else _OLD_TASK.fullmatch(message)


def _open(what: str, number: int, caller: str | None) -> _Section | None:
    """The dump that this header of SysRq begins, if it does."""
    match what:
        case "Show State":
            return _Tasks(number, caller)
        case "Show Blocked State":
            return _Tasks(number, caller, kind=DumpKind.BLOCKED)
        case "Show Memory":
            return _Memory(number, caller)
        case "Show backtrace of all active CPUs":
            return _Cpus(number, caller)
        case _:
            return None
