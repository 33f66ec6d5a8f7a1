"""The log of one machine: which question is asked of a line first, and what each answer begins or ends.

Owns the order of the questions, and that whatever is read as a block ends when another one begins. Who complains is
for complaints.py, whose frames are whose for threads.py.
"""

from __future__ import annotations

import re

from splvm.evidence.formats.kerncomplaints import FindingKind
from splvm.evidence.formats.kernlog import Stage
from splvm.paste.cleaning import Cleaner
from splvm.paste.complaints import ANOTHER, MAX_CALLERS, MAX_GAP, Complaints
from splvm.paste.findings import (
    HOW_LONG,
    PasteKind,
    begins_report,
    is_event,
    is_event_field,
    is_of_start,
    is_own_answer,
    single_finding,
)
from splvm.paste.frames import BOTTOM, DUMPERS, MARK, TRACE, Frame, Head, frames_of, head_of, program_counter
from splvm.paste.moments import HeldLock
from splvm.paste.prefixes import Line, Stripper
from splvm.paste.reading import Reading
from splvm.paste.seams import Seam, is_of_crash, is_torn, lacks_lines
from splvm.paste.threads import BARE, Threads

# Reports of hung tasks after which the kernel prints no more of them (kernel.hung_task_warnings).
USUAL_WARNINGS = 10
# What a log says of the machine it is from.
_SYSTEM = re.compile(r"Linux version (?P<kernel>[\w.+~-]{3,80})|ZFS: Loaded module v(?P<zfs>[\w.+~-]{3,60})", re.ASCII)

_SYSRQ = re.compile(r"(?:sysrq: (?:SysRq : )?|SysRq : )(?P<what>Show [\w ]{3,60})", re.ASCII)
_SOURCES = {"Show State": "sysrq-t", "Show Blocked State": "sysrq-w"}
_LIST_HEAD = re.compile(r"\s{0,8}task {4,40}PC stack {1,8}pid father")
_LIST_END = re.compile(r"Showing busy workqueues |Sched Debug Version: ")
_DROPPED = re.compile(
    r"\*\* {0,2}\d{1,10} printk messages dropped|\d{1,10} printk messages dropped|Missed \d{1,10} kernel"
    r"|Suppressed \d{1,10} messages from "
)
_BOOT = "Linux version "
# Seconds after a start, and lines of one event of a pool.
START_S = 120.0
_EVENT_LINES = 4
_CPU_HEAD = re.compile(r"NMI backtrace for cpu \d|(?:sysrq: )?CPU\d{1,6}:$|Sending NMI from CPU", re.ASCII)
_BLOCKED_ON = re.compile(
    r"INFO: task (?P<comm>.{1,60}?):(?P<pid>\d{1,10})(?: <\w{1,10}>)? (?:is )?blocked on an? (?P<lock>[\w-]{1,20}),?"
    r"(?: likely (?P<how>owned|last held) by task (?P<ocomm>.{1,60}?):(?P<opid>\d{1,10})(?![\w:])(?: <\w{1,10}>)?"
    r"| but the .{1,20} is not found)",
    re.ASCII,
)
_SHORT_HEAD = re.compile(r"(?P<comm>[A-Za-z_][\w/.:+-]{1,15})\s{1,8}(?P<state>[DRS])$", re.ASCII)
# A debugger's account of a lock, sdb/commands/linux/mutex.py: whose it is, and who waits for it.
_ACCOUNT = re.compile(r"(?P<what>owner of|waiters on) mutex (?P<address>0x[0-9a-f]{4,16}):?\s*$", re.ASCII)
_FORMAT = re.compile(r"%[-0-9.*]{0,6}(?:l{0,2}[duxi]|s|p[A-Z]?)(?![\w%])")
_HOLDS = re.compile(r"\d{1,3} locks? held by (?P<comm>.{1,60}?)/(?P<pid>\d{1,10})[:.,]?(?!\S)", re.ASCII)
_HELD = re.compile(r"#\d{1,3}:\s{1,4}(?P<address>[0-9a-f]{8,16})\s{1,4}\((?P<name>[^)]{1,120})\)", re.ASCII)
# Stacks that a person asked for, by the kind of what says whose each is.
_BY_HAND = frozenset(("stack", "crash", "sdb"))


class Log:
    """What one machine's kernel said, line by line; the kind of text that a line is comes back, empty if it is none."""

    def __init__(self, into: Reading) -> None:
        self.into = into
        self.complaints = Complaints(into)
        self.threads = Threads(into)
        # By caller.
        self.seams: dict[str | None, Seam] = {}
        # The line before, as it is written, where nothing was made of it.
        self.before = ""
        # How often it was asked for what that line says.
        self.asked = 0
        # Whose list of locks comes.
        self.holder: int | None = None
        # Where the last report of a hung task began, and whether the first line of one is missing.
        self.hung_ordinal = -10
        self.headless = False
        # Whether the kernel said that it reports no more hung tasks.
        self.silenced = False
        self.last_line = 1
        # When the machine started, on the clock of its lines, and where the last event of a pool was.
        self.started_s: float | None = None
        self.event = -100
        # Whether the last line was taken for a report's only because it came where more of it was expected.
        self.weak = False
        # Whether the last frame is where a stack ends.
        self.bottom = False

    def take(self, line: Line) -> str:
        """Take a message of the kernel's."""
        self.last_line, self.weak = line.number, False
        if "%" in line.message and _FORMAT.search(line.message):
            # The source of a kernel, and no kernel.
            return ""
        if self.into.facts.hear(line.message):
            return "log"
        if self.threads.open and lacks_lines(line.message):
            self.threads.tear(line)
        kind = self.take_stack(line) or self.take_heading(line) or self.take_event(line) or self.take_report(line)
        return kind

    # Frames and marks

    def take_stack(self, line: Line) -> str:
        message = line.message
        if (frames := frames_of(message)) is not None:
            self.take_frames(line, frames)
            return "stack"
        first = message[:1]
        if (first == "<" and MARK.match(message)) or ("race" in message and TRACE.match(message)):
            begins = first != "<"
            if begins:
                self.part(line)
                self.seam(line).begin()
                self.take_short_head(line)
            ends = message.startswith("</TASK>")
            self.threads.take_mark(line, begins=begins, ends=ends)
            self.complaints.scan(line, "Call Trace:" if begins else "")
            if ends:
                self.complaints.end_stack(line)
            return "stack"
        return ""

    def take_short_head(self, line: Line) -> None:
        """Take the line before a stack as its head, if it is what is left of the kernel's: a name and a state."""
        thread = self.threads.open.get(line.caller)
        above = self.above() if self.before and (thread is None or thread.kind in BARE) else None
        if above is not None and (short := _SHORT_HEAD.match(above.message)):
            self.threads.open.pop(line.caller, None)
            self.threads.take_head(above, Head("stack", None, short["comm"], short["state"]), within_report=False)
            self.before = ""

    def seam(self, line: Line) -> Seam:
        """What stands behind the last frame of whoever prints a line."""
        if len(self.seams) > MAX_CALLERS:
            self.seams.clear()
        return self.seams.setdefault(line.caller, Seam())

    def note_edge(self) -> None:
        """A block of a page begins or ends."""
        for seam in self.seams.values():
            seam.fenced = True

    def note_blank(self) -> None:
        """A blank line comes."""
        for seam in self.seams.values():
            seam.blank = True

    def part(self, line: Line) -> None:
        """End the stack that is open, if what stands between it and the line says so."""
        seam, thread = self.seam(line), self.threads.open.get(line.caller)
        report = self.complaints.choose(line).open
        # Chains of locks, which lockdep prints before its stack, stand one below the other.
        chained = report is not None and report.stage is Stage.PREAMBLE
        ended = (thread.ended if thread is not None else self.bottom) and not chained
        by_hand = thread is not None and thread.kind in BARE and report is None
        if seam.parts(line, self.line_before(line), ended=ended, by_hand=by_hand):
            self.threads.open.pop(line.caller, None)
            self.complaints.close(line)
            seam.begin()

    def take_frames(self, line: Line, frames: tuple[Frame, ...]) -> None:
        if frames:
            self.part(line)
            last, thread = self.seam(line).last, self.threads.open.get(line.caller)
            torn = thread is not None and thread.stack and last is not None and is_torn(last, line)
            # No kernel numbers its frames.
            foreign = thread is not None and thread.kind not in BARE and is_of_crash(line)
            if thread is not None and (torn or foreign):
                self.threads.mix(thread)
            self.seam(line).take(line)
            self.bottom = frames[-1].function in BOTTOM
            if self.complaints.is_quoted(line):
                self.complaints.close(line)
        report = self.complaints.choose(line).open
        if report is not None and report.stage is Stage.PREAMBLE and report.kind is not FindingKind.LOCKDEP:
            # Not everybody copies that line. What lockdep shows before it is the chain of locks.
            self.complaints.scan(line, "Call Trace:")
        elif report is not None and report.stage is Stage.PREAMBLE and frames and frames[0].function in DUMPERS:
            # The chain was left out, and the line with it.
            self.complaints.scan(line, "Call Trace:")
        self.threads.take_frames(line, frames, self.line_before(line), in_report=report is not None)
        self.complaints.scan_frames(line, frames)
        self.before = ""

    def line_before(self, line: Line) -> Line | None:
        """What stood before a frame, where it may say whose stack comes."""
        if not self.before or (line.caller in self.threads.open and self.complaints.gap == 0):
            return None
        return self.above()

    def above(self) -> Line | None:
        """The line before, without what stands before its message."""
        self.asked += 1
        last = Cleaner().clean(self.before)[-1:]
        return Stripper().strip(last[0]) if last else None

    # What says whose stack comes

    def take_heading(self, line: Line) -> str:
        message = line.message
        if message[:10] == "INFO: task" and (blocked := _BLOCKED_ON.match(message)):
            self.threads.take_owner(blocked)
            return "log"
        if "hung_task_timeout_secs" in message:
            # The second line of a report: if the first one was not copied, the thread comes next.
            self.headless = self.complaints.ordinal - self.hung_ordinal > 3
            thread = self.threads.open.get(line.caller)
            if thread is not None and thread.stack:
                # Another thread's report: its first line may have been left out, and its name as well.
                self.threads.open.pop(line.caller)
                self.complaints.close(line)
            return "log"
        if " mutex 0x" in message and (account := _ACCOUNT.match(message)):
            self.threads.take_account(account["address"], owner=account["what"] == "owner of")
            return "stack"
        if head := head_of(message):
            self.take_head(line, head)
            return "stack" if head.kind in _BY_HAND else "log"
        if function := program_counter(message):
            self.complaints.scan(line, f"RIP: 0010:{function}+0x0/0x0")
            thread = self.threads.open.get(line.caller)
            if thread is not None and not thread.traced and not thread.frames:
                thread.add(function, guess=False)
            return "log"
        return ""

    def take_head(self, line: Line, head: Head) -> None:
        if self.headless and head.kind == "task" and head.pid is not None:
            self.complaints.scan(line, f"INFO: task {head.comm}:{head.pid} {HOW_LONG}")
            self.hung_ordinal = self.complaints.ordinal
        self.headless, self.holder, self.before = False, None, ""
        report = self.complaints.choose(line).open
        if head.kind != "cpu" and report is not None and report.dying:
            # A machine that dies lists no tasks: it went on, and the end of that report was not copied.
            self.complaints.close(line)
        elif head.kind in _BY_HAND and report is not None and self.complaints.pid_of(report) not in (None, head.pid):
            # Somebody asked for the stack of another thread.
            self.complaints.close(line)
        if head.kind == "hung":
            self.complaints.scan(line)
            self.hung_ordinal = self.complaints.ordinal
        self.seam(line).begin()
        self.complaints.name(line, head.comm, head.pid)
        self.threads.take_head(line, head, within_report=self.complaints.choose(line).open is not None)
        if head.kind != "hung":
            self.complaints.scan(line)

    # What begins or ends a list of tasks

    def take_event(self, line: Line) -> str:
        message = line.message
        if "Show " in message and (sysrq := _SYSRQ.match(message)):
            self.complaints.close(line)
            self.threads.begin_list(_SOURCES.get(sysrq["what"].strip(), ""), line)
            return "log"
        if "PC stack" in message and _LIST_HEAD.match(message):
            if not self.threads.sysrq:
                self.threads.begin_list("tasks", line, "its header is not in the text")
            return "log"
        if message[:1] == "S" and _LIST_END.match(message):
            self.threads.end_list(whole=True)
            return "log"
        if message[:1] in ("N", "C", "s", "S") and _CPU_HEAD.match(message):
            self.threads.close()
            self.complaints.scan(line)
            return "log"
        if ("dropped" in message or "Missed" in message or "Suppressed" in message) and _DROPPED.search(message):
            # The head of the stack that comes may be among what is missing.
            self.threads.close()
            if self.threads.moment is not None:
                self.threads.moment.cut = "the kernel dropped messages"
            return "log"
        if " version " in message or "ZFS: " in message:
            return self.take_version(line)
        return ""

    def take_version(self, line: Line) -> str:
        if match := _SYSTEM.search(line.message):
            for key, value in match.groupdict().items():
                if value:
                    self.into.system.setdefault(key, value)
        if not line.message.startswith(_BOOT):
            return ""
        self.started_s = line.clock_s
        self.threads.close()
        self.threads.end_list(whole=False)
        self.complaints.scan(line)
        return "log"

    # Complaints

    def take_report(self, line: Line) -> str:
        message = line.message
        if " held by" in message and (holds := _HOLDS.match(message)):
            self.holder = int(holds["pid"])
            return "log"
        if self.holder is not None and (held := _HELD.match(message)):
            self.threads.take_lock(self.holder, HeldLock(held["address"], held["name"]))
            return "log"
        self.complaints.take_lock(line)
        if self.take_single(line) or self.complaints.take_about(line):
            return "log"
        if is_own_answer(message):
            return "splvm"
        was = self.complaints.choose(line).open
        if was is not None and ANOTHER.match(message):
            self.complaints.end_stack(line)
            return "log"
        begins = begins_report(message)
        if was is None and not begins and not self.threads.open:
            return ""
        return self.take_message(line, begins=begins)

    def take_single(self, line: Line) -> bool:
        """Whether a line is a complaint by itself."""
        kind = single_finding(line.message)
        if kind is None:
            return False
        if is_of_start(line.message) and self.at_start(line):
            return False
        if is_event(line.message):
            # `zpool events -v` names the class of an event once more.
            self.event = line.number
        elif is_event_field(line.message) and line.number - self.event < _EVENT_LINES:
            return True
        self.into.findings.add_single(kind, line.message, line.time, line.time_s, line.number)
        self.silenced |= kind == PasteKind.HUNG_TASKS_SILENCED
        return True

    def at_start(self, line: Line) -> bool:
        """Whether the machine started shortly before: then drivers look for their devices."""
        if line.time_s is not None:
            return line.time_s < START_S
        then, now = self.started_s, line.clock_s
        return then is not None and now is not None and 0 <= now - then < START_S

    def take_message(self, line: Line, *, begins: bool) -> str:
        """A line that begins a report, goes on with one, or stands within a stack."""
        complaints, message = self.complaints, line.message
        scanner = complaints.choose(line)
        was = scanner.open
        in_trace = was.stage is Stage.TRACE and bool(was.frames or was.guesses) if was else self.threads.in_trace
        if begins and (not in_trace or scanner.kind_of(message) or message.startswith("---[")):
            complaints.scan(line)
        elif not in_trace:
            if was is not None:
                complaints.scan(line)
        else:
            complaints.gap += 1
            if complaints.gap > MAX_GAP:
                # What comes from here on is another stack.
                self.threads.close()
                if was is None or not was.dying:
                    complaints.close(line)
        now = complaints.choose(line).open
        if now is not was and now is not None:
            self.threads.close()
            self.seam(line).begin()
            return "log"
        self.weak = was is not None and now is was and was.stage is Stage.PREAMBLE
        return "log" if self.weak else ""

    def finish(self) -> None:
        """The log is at its end."""
        self.complaints.finish()
        if self.threads.reports >= USUAL_WARNINGS and not self.silenced:
            self.into.findings.add_single(
                PasteKind.HUNG_TASKS_SILENCED,
                f"{self.threads.reports} reports of hung tasks: after {USUAL_WARNINGS} the kernel prints no more"
                " unless kernel.hung_task_warnings says so",
                "",
                None,
                self.last_line,
            )
