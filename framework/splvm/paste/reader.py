"""One pass over a text: which lines are a complaint, whose stack a frame belongs to, and which moment that is.

Owns the order of the questions that are asked of a line. Forms of lines are in prefixes.py and frames.py; what a line
that is none of them says (slab files, arcstats, ...) is for files.py.

Nothing grows with the text: threads, findings and moments are bounded, and what is left out is said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import BinaryIO

from splvm.errors import EvidenceError
from splvm.evidence.formats.kernlog import FindingKind, Stage
from splvm.paste.files import FileReader
from splvm.paste.findings import Findings, Origin, PasteKind, PasteScanner, begins_report, single_finding
from splvm.paste.frames import BOTTOM, MARK, TRACE, Frame, Head, frames_of, head_of, loose_head, program_counter
from splvm.paste.lines import Block, Cleaner, read_blocks
from splvm.paste.moments import MAX_LOCKS, MAX_MOMENTS, MAX_TASKS, USUAL_TIMEOUT_S, HeldLock, Moment, Thread
from splvm.paste.prefixes import Learned, Line, Stripper

# Lines that say nothing and may still stand within a report, and within one of a crash.
PATIENCE = 60
# Lines that say nothing between two frames of one stack.
MAX_GAP = 8
# What says nothing in a log, and nobody misses.
_IDLE = re.compile(r"-\[ cut here \]-|hung_task_timeout_secs|Tainted: |Modules linked in|^\W{0,8}[0-9a-f ]{30,}$")
# Lines that are looked at however short they are, and for how many bytes of the input there is one more: what is made
# of nothing but the beginnings of complaints takes no longer than a log does.
LEAST_LINES = 100_000
# What a line of a kind costs besides.
_COSTS = {"log": 4, "slab": 2}
BYTES_PER_LINE = 30
# Gaps named of a text.
MAX_UNREAD = 100
# Reports of hung tasks after which the kernel prints no more of them (kernel.hung_task_warnings).
USUAL_WARNINGS = 10
# Names of machines kept of a text.
MAX_HOSTS = 100
# What a log says of the machine it is from.
_SYSTEM = re.compile(r"Linux version (?P<kernel>[\w.+~-]{3,80})|ZFS: Loaded module v(?P<zfs>[\w.+~-]{3,60})", re.ASCII)

_SYSRQ = re.compile(r"(?:sysrq: (?:SysRq : )?|SysRq : )(?P<what>Show [\w ]{3,60})", re.ASCII)
_SOURCES = {"Show State": "sysrq-t", "Show Blocked State": "sysrq-w"}
_LIST_HEAD = re.compile(r"\s{0,8}task {4,40}PC stack {1,8}pid father")
_LIST_END = re.compile(r"Showing busy workqueues |Sched Debug Version: ")
_DROPPED = re.compile(
    r"\*\* {0,2}\d{1,10} printk messages dropped|\d{1,10} printk messages dropped|Missed \d{1,10} kernel"
)
_NO_END = "its end is not in the text"
_BOOT = "Linux version "
_BLOCKED_ON = re.compile(
    r"INFO: task (?P<comm>.{1,60}?):(?P<pid>\d{1,10})(?: <\w{1,10}>)? (?:is )?blocked on an? (?P<lock>[\w-]{1,20}),?"
    r"(?: likely (?P<how>owned|last held) by task (?P<ocomm>.{1,60}?):(?P<opid>\d{1,10})(?: <\w{1,10}>)?"
    r"| but the .{1,20} is not found)",
    re.ASCII,
)
_HOLDS = re.compile(r"\d{1,3} locks? held by (?P<comm>.{1,60}?)/(?P<pid>\d{1,10})[:.,]?", re.ASCII)
_HELD = re.compile(r"#\d{1,3}:\s{1,4}(?P<address>[0-9a-f]{8,16})\s{1,4}\((?P<name>[^)]{1,120})\)", re.ASCII)
_HALF_TASK = re.compile(r"task:\S.{0,64}?\s{1,20}state:[A-Za-z?]", re.ASCII)
_HALF_HUNG = re.compile(
    r"INFO: task (?:(?! blocked).){1,60}?:\d{1,10}(?: blocked| blocked for| blocked for more)?\s*$", re.ASCII
)


# Stacks of a report that are not of who complains: mm/kasan/report.c.
_ANOTHER = re.compile(
    r"(?:Allocated|Freed) by task |Last potentially related|The buggy address|Uninit was |Second to last"
)
_CPU_HEAD = re.compile(r"NMI backtrace for cpu \d|(?:sysrq: )?CPU\d{1,6}:$|Sending NMI from CPU", re.ASCII)
# Stacks that no line of the kernel's is said of, and how kernels before 5.2 end them.
_BARE = frozenset(("stack", "drgn", "crash", "sdb"))
_ALL_ONES = re.compile(r"0xf{8,16}\s*$")


@dataclass(frozen=True, slots=True)
class Unread:
    """Lines that nothing could be made of."""

    # The first of them, 0 in what has no lines.
    line: int
    why: str


@dataclass(slots=True)
class Input:
    """One kind of text in one input."""

    name: str
    kind: str
    lines: int


@dataclass(slots=True)
class Reading:
    """All that was read."""

    inputs: list[Input] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    # Threads in the order of the text, each with its moment.
    threads: list[tuple[Thread, Moment | None]] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    files: FileReader = field(default_factory=FileReader)
    unread: list[Unread] = field(default_factory=list)
    # The semaphore's last holder, which proves nothing, in words.
    hints: list[str] = field(default_factory=list)
    # What the text says of the machine, and names of machines.
    system: dict[str, str] = field(default_factory=dict)
    hosts: set[str] = field(default_factory=set)


class Reader:
    """Reads one input into a reading; make another one for the next."""

    def __init__(self, name: str, reading: Reading) -> None:
        self.name = name
        self.into = reading
        self.cleaner = Cleaner()
        self.stripper = Stripper()
        self.learned = Learned()
        self.scanner = PasteScanner()
        self.origins: dict[int, Origin] = {}
        # The open stack of each caller.
        self.open: dict[str | None, Thread] = {}
        self.moment: Moment | None = None
        self.sysrq = ""
        # The beginning of a line whose end is in the next one.
        self.half = ""
        self.patience = 0
        self.used: dict[str, int] = {}
        self.last_used = 0
        self.nameless = 0
        self.holder: int | None = None
        self.before = ""
        self.hung: dict[str, int] = {}
        self.spoken = False
        self.last_hung: dict[int, int] = {}
        # A line of which nothing could be made: the next one that says the same is not looked at.
        self.dull = ""
        # Where the last report of a hung task began, and whether the first line of one is missing.
        self.hung_ordinal = -10
        self.headless = False
        # Lines that were looked at, and whether they were too many.
        self.looked = 0
        self.tired = False
        # Lines since the last frame, and messages that the scanner got.
        self.gap = 0
        self.ordinal = 0

    # Lines

    def read(self, stream: BinaryIO) -> None:
        """Read all of it.

        Whatever the input is, nothing is raised; what cannot be read is in `unread`.
        """
        end = 0
        try:
            for block in read_blocks(stream):
                self.read_block(block)
                end = block.number + len(block.lines)
        except EvidenceError as error:
            self.complain(end, error.message)
        self.finish(end)

    def read_block(self, block: Block) -> None:
        at = 0 if self.busy else block.next_hint(0)
        while at < len(block.lines):
            if not self.busy:
                raw = next((it for it in reversed(block.lines[max(0, at - 3) : at]) if it.strip()), "")
                self.before = "".join(Cleaner().clean(raw)[-1:])
            text = block.lines[at]
            self.looked += 1
            if self.looked > LEAST_LINES + block.bytes_read // BYTES_PER_LINE:
                self.tire(block.number + at)
                return
            if text != self.dull or self.busy:
                self.read_line(block.number + at, text, block)
                self.dull = "" if self.busy else text
            at = at + 1 if self.busy else block.next_hint(at + 1)

    def tire(self, number: int) -> None:
        """Leave out the rest of a block that has too many lines for its size."""
        if not self.tired:
            self.complain(number, "too many short lines that look like complaints: the rest of them is left out")
        self.tired = True
        self.patience = 0

    @property
    def busy(self) -> bool:
        """Whether the next line may belong to what was read."""
        return self.patience > 0 or self.cleaner.waits or self.cleaner.quoted

    def read_line(self, number: int, text: str, block: Block) -> None:
        self.patience -= 1
        for part in self.cleaner.clean(text):
            rest = self.learned.strip(part)
            line = self.stripper.strip(part if rest is None else rest)
            if self.half:
                line.message, self.half = f"{self.half} {line.message}", ""
            if not line.message or line.message[:1] in "{}":
                continue
            if self.is_half(line.message):
                self.half = line.message[:400]
                self.patience = max(self.patience, 2)
                continue
            kind = self.take(number, line)
            if not kind and rest is None and self.learned.learn(part):
                kind = self.take(number, self.stripper.strip(self.learned.strip(part) or ""))
            if kind:
                self.use(number, kind, block)
            else:
                self.before = part

    def is_half(self, message: str) -> bool:
        """Whether a mailer broke this line before the number of the thread."""
        if message[:5] == "task:" and _HALF_TASK.match(message):
            return "pid:" not in message or message.rstrip().endswith("pid:")
        return message[:10] == "INFO: task" and _HALF_HUNG.match(message) is not None

    def use(self, number: int, kind: str, block: Block) -> None:
        self.used[kind] = self.used.get(kind, 0) + 1
        self.looked += _COSTS.get(kind, 0)
        self.patience = PATIENCE if kind != "" else self.patience
        if number > self.last_used + 1:
            first = max(self.last_used + 1, block.number)
            skipped = block.lines[first - block.number : number - block.number]
            count = sum(1 for line in skipped if line.strip(" \t\r>`-=*") and not _IDLE.search(line))
            if count:
                self.complain(first, f"{count} {'line' if count == 1 else 'lines'} of no kind that is known here")
        self.last_used = max(number, self.last_used)

    def complain(self, line: int, why: str) -> None:
        if len(self.into.unread) < MAX_UNREAD:
            self.into.unread.append(Unread(max(1, line), why))

    # Messages: the kind of text that a line is, empty if it is none

    def take(self, number: int, line: Line) -> str:
        message = line.message
        if line.host and len(self.into.hosts) < MAX_HOSTS:
            self.into.hosts.add(line.host)
        if (" version " in message or "ZFS: " in message) and (match := _SYSTEM.search(message)):
            for key, value in match.groupdict().items():
                if value:
                    self.into.system.setdefault(key, value)
        if (frames := frames_of(message)) is not None:
            self.take_frames(number, line, frames)
            return "stack"
        if (message[:1] == "<" and MARK.match(message)) or ("race" in message and TRACE.match(message)):
            return self.take_mark(number, line)
        if message[:10] == "INFO: task" and (blocked := _BLOCKED_ON.match(message)):
            self.take_owner(number, blocked)
            return "log"
        if "hung_task_timeout_secs" in message:
            # The second line of a report: if the first one was not copied, the thread comes next.
            self.headless = self.ordinal - self.hung_ordinal > 3
            return "log"
        if head := head_of(message):
            if self.headless and head.kind == "task" and head.pid is not None:
                self.scan(number, line, f"INFO: task {head.comm}:{head.pid} blocked for more than the first line says")
                self.hung_ordinal = self.ordinal
            self.headless = False
            self.take_head(number, line, head)
            if head.kind != "hung":
                self.scan(number, line)
            return "stack" if head.kind in ("stack", "crash", "sdb") else "log"
        if function := program_counter(message):
            self.scan(number, line, f"RIP: 0010:{function}+0x0/0x0")
            if (thread := self.open.get(line.caller)) and not thread.traced and not thread.frames:
                thread.add(function, guess=False)
            return "log"
        return self.take_event(number, line) or self.take_file(number, line)

    def take_event(self, number: int, line: Line) -> str:
        message = line.message
        if "Show " in message and (sysrq := _SYSRQ.match(message)):
            self.close_threads()
            self.sysrq = _SOURCES.get(sysrq["what"].strip(), "")
            self.moment = self.begin_moment(self.sysrq, line) if self.sysrq else None
            return "log"
        if "PC stack" in message and _LIST_HEAD.match(message):
            if self.sysrq:
                return "log"
            self.sysrq, self.moment = "tasks", self.begin_moment("tasks", line)
            self.moment.cut = "its header is not in the text"
            return "log"
        if message[:1] == "S" and _LIST_END.match(message):
            if self.moment is not None and self.moment.cut == _NO_END:
                self.moment.cut = ""
            self.sysrq, self.moment = "", None
            return "log"
        if message[:1] in ("N", "C", "s", "S") and _CPU_HEAD.match(message):
            self.close_threads()
            self.scan(number, line)
            return "log"
        if ("dropped" in message or "Missed" in message) and _DROPPED.search(message):
            if self.moment is not None:
                self.moment.cut = "the kernel dropped messages"
            return "log"
        if message.startswith(_BOOT):
            self.close_threads()
            self.sysrq, self.moment = "", None
            self.scan(number, line)
            return "log"
        if " held by" in message and (holds := _HOLDS.match(message)):
            self.holder = int(holds["pid"])
            return "log"
        if self.holder is not None and (held := _HELD.match(message)):
            self.take_lock(self.holder, HeldLock(held["address"], held["name"]))
            return "log"
        if kind := single_finding(message):
            self.into.findings.add_single(kind, message, line.time, line.time_s, number)
            self.spoken |= kind == PasteKind.HUNG_TASKS_SILENCED
            return "log"
        was = self.scanner.open
        if was is not None and _ANOTHER.match(message):
            self.finish_trace(number, line)
            return "log"
        begins = begins_report(message)
        if was is None and not begins and not self.open:
            return ""
        if begins and (not self.in_trace or self.scanner.kind_of(message) or message.startswith("---[")):
            self.scan(number, line)
        elif not self.in_trace:
            if was is not None:
                self.scan(number, line)
        elif self.count_gap() > MAX_GAP:
            self.end_trace()
        if self.scanner.open is not was and self.scanner.open is not None:
            self.close_threads()
            return "log"
        return "log" if was is not None and self.scanner.open is was and was.stage is Stage.PREAMBLE else ""

    def take_file(self, number: int, line: Line) -> str:
        kind = self.into.files.take(number, line)
        if kind:
            self.close_threads()
        return kind

    def scan(self, number: int, line: Line, message: str = "") -> None:
        """Give the scanner of complaints a line in the form that it knows."""
        # Distances count in messages: what stands between two of them depends on who pasted it.
        self.ordinal += 1
        self.scanner.read_message(self.ordinal, line.time_s, line.caller, message or line.message, True)
        report = self.scanner.open
        if report is not None and report.line == self.ordinal:
            self.origins[self.ordinal] = Origin(line.time, line=number)
        if len(self.scanner.reports) > 1:
            self.drain()

    def drain(self) -> None:
        for report in self.scanner.drain():
            self.into.findings.add_report(report, self.origins.pop(report.line, Origin()))
        self.origins = {at: origin for at, origin in self.origins.items() if at + 1000 > self.ordinal}

    @property
    def in_trace(self) -> bool:
        """Whether the next line may be another frame of what is open."""
        report = self.scanner.open
        if report is not None:
            return report.stage is Stage.TRACE and bool(report.frames or report.guesses)
        return any(thread.frames or thread.guesses for thread in self.open.values())

    def count_gap(self) -> int:
        self.gap += 1
        return self.gap

    def end_trace(self) -> None:
        """What comes from here on is another stack."""
        self.gap = 0
        self.close_threads()
        if self.scanner.open is not None and not self.scanner.open.dying:
            self.scanner.open = None

    # Stacks

    def take_head(self, number: int, line: Line, head: Head) -> None:
        self.holder = None
        if head.kind == "hung":
            self.scan(number, line)
            self.hung_ordinal = self.ordinal
            self.hung[line.host] = self.hung.get(line.host, 0) + 1
        report = self.scanner.open
        if report is not None and report.stage is Stage.PREAMBLE and (origin := self.origins.get(report.line)):
            origin.comm, origin.pid = origin.comm or head.comm, head.pid if origin.pid is None else origin.pid
        thread = self.open.get(line.caller)
        if thread is not None and thread.pid == head.pid and not thread.traced and not thread.frames:
            # The same one, said in another way: "INFO: task ..." and then "task:...".
            thread.comm, thread.state = thread.comm or head.comm, head.state if head.kind == "task" else thread.state
            return
        if (
            thread is not None
            and not thread.traced
            and not thread.frames
            and thread.kind == "hung"
            and head.kind == "hung"
        ):
            thread.ended = True
        pid = head.pid if head.pid is not None else self.next_nameless()
        self.begin_thread(line, Thread(pid, head.comm, head.state, number, head.kind), head)

    def next_nameless(self) -> int:
        self.nameless += 1
        return -self.nameless

    def begin_thread(self, line: Line, thread: Thread, head: Head) -> None:
        self.open[line.caller] = thread
        moment = self.moment_for(line, thread, head)
        if len(self.into.threads) >= MAX_TASKS:
            self.complain(thread.line, f"threads from here on are left out, more than {MAX_TASKS}")
            return
        if moment is not None:
            known = moment.threads.get(thread.pid)
            if known is not None and known.stack:
                # It is in the list already, and reported besides.
                moment = None
            else:
                moment.threads[thread.pid] = thread
        if moment is not None or thread.kind == "cpu":
            self.into.threads.append((thread, moment))

    def moment_for(self, line: Line, thread: Thread, head: Head) -> Moment | None:
        """The moment that a stack belongs to; None for what a CPU ran when something went wrong."""
        if thread.kind == "cpu":
            return None
        if thread.kind == "task" and self.sysrq:
            return self.moment
        if thread.kind in ("hung", "task"):
            source = "hung-task" if thread.kind == "hung" or self.scanner.open is not None or self.hung else "tasks"
            moment = self.moment
            if moment is None or moment.source != source:
                moment = self.begin_moment(source, line)
            blocked = head.blocked_s or 0
            again = thread.kind == "hung" and thread.pid in moment.reported and self.is_again(thread.pid, blocked, line)
            if thread.kind == "hung" and not moment.fits(thread.pid, line.host, line.clock_s, again=again):
                moment = self.begin_moment(source, line)
            if thread.kind == "hung":
                moment.reported.add(thread.pid)
            if blocked:
                self.last_hung[thread.pid] = blocked
                moment.timeout_s = min(max(blocked, 10), USUAL_TIMEOUT_S)
            self.sysrq = "" if thread.kind == "hung" else self.sysrq
            self.moment = moment
            return moment
        source = {"crash": "crash", "drgn": "drgn", "sdb": "drgn"}.get(thread.kind, "stacks")
        if self.moment is None or self.moment.source != source or thread.pid in self.moment.threads:
            self.moment = self.begin_moment(source, line)
        return self.moment

    def is_again(self, pid: int, blocked_s: int, line: Line) -> bool:
        """Whether the kernel complains of a thread anew, and the text does not only repeat itself."""
        return line.clock_s is not None or blocked_s != self.last_hung.get(pid, blocked_s)

    def begin_moment(self, source: str, line: Line) -> Moment:
        moment = Moment(source, line.host, line.clock_s)
        if source == "sysrq-t":
            moment.cut = _NO_END
        if len(self.into.moments) >= MAX_MOMENTS:
            del self.into.moments[MAX_MOMENTS // 2]
        self.into.moments.append(moment)
        return moment

    def take_mark(self, number: int, line: Line) -> str:
        """`Call Trace:`, `<TASK>` and what else stands around frames."""
        thread = self.open.get(line.caller)
        if TRACE.match(line.message):
            if thread is not None:
                if thread.traced and thread.frames and not thread.ended:
                    # Somebody else's, printed in between.
                    self.mix(thread)
                thread.traced = True
            self.scan(number, line, "Call Trace:")
        else:
            self.scan(number, line)
            if line.message.startswith("</TASK>"):
                self.finish_trace(number, line)
                if thread is not None:
                    thread.ended = True
        return "stack"

    def finish_trace(self, number: int, line: Line) -> None:
        """What comes from here on is no part of the report's stack."""
        if self.scanner.open is not None and self.scanner.open.stage is Stage.TRACE:
            self.scan(number, line, "-")

    def mix(self, thread: Thread) -> None:
        """Two CPUs print into each other, and nothing says which line is whose."""
        thread.mixed = True
        before = [it for it, _ in self.into.threads[-3:] if it is not thread and thread.line - it.line < PATIENCE]
        for other in before[-1:]:
            other.mixed = True

    def take_frames(self, number: int, line: Line, frames: tuple[Frame, ...]) -> None:
        thread = self.open.get(line.caller)
        report = self.scanner.open
        if report is not None and report.stage is Stage.PREAMBLE and report.kind is not FindingKind.LOCKDEP:
            # Not everybody copies that line. What lockdep shows before it is the chain of locks.
            self.scan(number, line, "Call Trace:")
        kind = "drgn" if line.message[:1] == "#" and " at " not in line.message else "stack"
        for frame in frames:
            guess = frame.guess
            first = thread is None or self.is_another(thread, frame) or self.is_headed(thread)
            if first and thread is not None and thread.kind not in _BARE:
                if thread.ended and report is None:
                    self.mix(thread)
                elif thread.ended:
                    first = False
                    self.mix(thread)
            if first and (report is None or thread is not None):
                thread = self.begin_bare(number, line, kind)
            if thread is not None:
                if frame.function == "__schedule" and thread.frames and not guess:
                    self.split(thread)
                thread.add(frame.function, guess=guess)
                thread.ended = thread.ended or (frame.function in BOTTOM and not guess)
            self.gap = 0
            mark = "? " if guess else ""
            self.scan(number, line, f" {mark}{frame.function}+0x0/0x0")
        if not frames and thread is not None and _ALL_ONES.search(line.message):
            thread.ended = True

    @staticmethod
    def is_another(thread: Thread, frame: Frame) -> bool:
        """Whether a frame comes after the end of a stack; several functions may be at its end."""
        if not thread.ended or frame.guess:
            return False
        return not (frame.function in BOTTOM and thread.frames and thread.frames[-1] in BOTTOM)

    def is_headed(self, thread: Thread) -> bool:
        """Whether the line before this frame says that it is another thread's."""
        if self.gap == 0 or thread.kind not in _BARE:
            return False
        head = loose_head(self.stripper.strip(self.before).message)
        return head is not None and head.pid != thread.pid

    def split(self, thread: Thread) -> None:
        """A thread goes to sleep once only: what follows is another stack, or mixed with it."""
        if "__schedule" in thread.frames:
            self.mix(thread)

    def begin_bare(self, number: int, line: Line, kind: str) -> Thread:
        """A stack that no line of the kernel's is said of; perhaps the line before it says whose it is."""
        head = loose_head(self.stripper.strip(self.before).message) if self.before else None
        if head is None:
            head = Head("stack", None, "", "?")
        pid = head.pid if head.pid is not None else self.next_nameless()
        thread = Thread(pid, head.comm, head.state, number, kind)
        self.begin_thread(line, thread, head)
        return thread

    def close_threads(self) -> None:
        self.open.clear()

    # Locks

    def take_owner(self, number: int, blocked: re.Match[str]) -> None:
        moment = self.moment
        pid, lock = int(blocked["pid"]), blocked["lock"]
        if moment is None or pid not in moment.threads:
            moment = next((it for it in reversed(self.into.moments[-8:]) if pid in it.threads), moment)
        if moment is None:
            return
        self.moment = moment
        moment.locks[pid] = lock
        if blocked["how"] == "owned":
            moment.owners[pid] = int(blocked["opid"])
        elif blocked["how"]:
            self.into.hints.append(
                f"{blocked['comm']} (pid {pid}) waits for a semaphore that {blocked['ocomm']} (pid {blocked['opid']})"
                " took last, which proves nothing: a semaphore has no owner"
            )
        self.close_threads()

    def take_lock(self, pid: int, lock: HeldLock) -> None:
        moment = next((it for it in reversed(self.into.moments[-4:]) if it.source != "stacks"), None)
        if moment is not None:
            locks = moment.held.setdefault(pid, [])
            if len(locks) < MAX_LOCKS:
                locks.append(lock)

    # The end

    def finish(self, end: int) -> None:
        self.scanner.open = None
        self.drain()
        self.into.files.finish()
        silent = [host for host, count in self.hung.items() if count >= USUAL_WARNINGS]
        if silent and not self.spoken:
            self.into.findings.add_single(
                PasteKind.HUNG_TASKS_SILENCED,
                f"{max(self.hung.values())} reports of hung tasks: after {USUAL_WARNINGS} the kernel prints no more"
                " unless kernel.hung_task_warnings says so",
                "",
                None,
                max(1, self.last_used),
            )
        if not self.used and end > 0:
            self.complain(1, "nothing of a kind that is known here")
        for kind, lines in self.used.items():
            self.into.inputs.append(Input(self.name, kind, lines))
        if not self.used:
            self.into.inputs.append(Input(self.name, "unknown", 0))


def is_hang(kind: str) -> bool:
    """Whether a finding of this kind says that something does not go on."""
    return kind in (FindingKind.HUNG_TASK, FindingKind.SOFT_LOCKUP, FindingKind.RCU_STALL, FindingKind.HARD_LOCKUP)
