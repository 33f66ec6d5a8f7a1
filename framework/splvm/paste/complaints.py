"""Complaints of one machine's kernel, as its log goes on: which lines belong to one, and who it is about.

Owns where a report ends in a text that may be cut anywhere. What a complaint looks like is for findings.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from splvm.evidence.formats.kerncomplaints import FindingKind
from splvm.evidence.formats.kernlog import Report, Stage
from splvm.paste.findings import LOCKS, Origin, PasteScanner
from splvm.paste.frames import Frame
from splvm.paste.prefixes import Line
from splvm.paste.reading import Reading

# Lines that say nothing between two frames of one stack.
MAX_GAP = 8
# Callers of one machine whose reports are kept apart.
MAX_CALLERS = 64

# Stacks of a report that are not of who complains: mm/kasan/report.c.
ANOTHER = re.compile(
    r"(?:Allocated|Freed) by task |Last potentially related|The buggy address|Uninit was |Second to last"
)
# Who a report is about, where a line of it says so: mm/kasan/report.c, kernel/sched/core.c.
_ABOUT = re.compile(
    r"(?:Read|Write|Access|Free) .{0,80} by task (?P<comm>.{1,60}?)/(?P<pid>\d{1,10})$"
    r"|in_atomic\(\): .{0,80} pid: (?P<pid2>\d{1,10}), name: (?P<comm2>.{1,60}?)$"
    r"|BUG: scheduling while atomic: (?P<comm3>.{1,60}?)/(?P<pid3>\d{1,10})/0x"
)
_ABOUT_WORDS = ("by task ", " name: ", "while atomic")
# Of whom lockdep speaks, and which lock is named next: kernel/locking/lockdep.c. A lock list has its own reader.
_LOCKER = re.compile(
    r"(?P<comm>.{1,60}?)/(?P<pid>\d{1,10})(?: \[HC\S{1,40}\])? (?:is trying to release lock|is freeing memory"
    r"|is leaving the kernel with locks|(?P<takes>is trying to (?:acquire|lock)\b|just changed the state|takes:))"
)
_HAS_ONE = re.compile(r"(?:but|and this) task is already holding:?|but task is already holding lock:")
_LOCK = re.compile(
    r"(?:\(ptrval\)|\(____ptrval____\)|[0-9a-f]{8,16})?\s{0,4}\((?P<name>[^\s{}]{1,120})\)\s?\{", re.ASCII
)
_VICTIM = re.compile(r".{0,120}?Kill(?:ed)? process (?P<pid>\d{1,10}),? \((?P<comm>.{1,60}?)\)")


class Complaints:
    """Gives the scanner of the kernel's log its lines, and the findings what it makes of them."""

    def __init__(self, into: Reading) -> None:
        self.into = into
        self.scanner = PasteScanner()
        # Reports that a thread or CPU prints while another one prints one, by its name.
        self.others: dict[str, PasteScanner] = {}
        self.origins: dict[int, Origin] = {}
        # Messages that a scanner got, and lines since the last frame.
        self.ordinal = 0
        self.gap = 0
        # What the thread of a lock report does with the lock that the next line names: `takes`, `holds` or nothing.
        self.lock_verb = ""

    def choose(self, line: Line) -> PasteScanner:
        """The scanner that a line is for: one for each that prints, where the log says who does."""
        main = self.scanner
        caller = line.caller
        if caller is None or main.open is None or main.open.caller in (None, caller):
            return main
        other = self.others.get(caller)
        if other is not None and other.open is not None:
            return other
        if main.kind_of(line.message) is None:
            return main
        if other is None and len(self.others) < MAX_CALLERS:
            other = self.others[caller] = PasteScanner()
        return other or main

    def scan(self, line: Line, message: str = "") -> None:
        """Give the scanner of complaints a line in the form that it knows."""
        # Distances count in messages: what stands between two of them depends on who pasted it.
        self.ordinal += 1
        scanner = self.choose(line)
        scanner.read_message(self.ordinal, line.time_s, line.caller, message or line.message, True)
        report = scanner.open
        if report is not None and report.line == self.ordinal:
            self.origins[self.ordinal] = Origin(line.time, line=line.number, stamped=line.stamped)
        if len(scanner.reports) > 1:
            self.drain(scanner)

    def scan_frames(self, line: Line, frames: Sequence[Frame]) -> None:
        """Give it the frames of a line."""
        for frame in frames:
            if not frame.function.isidentifier():
                self.scan(line, f" {'? ' if frame.guess else ''}{frame.function}+0x0/0x0")
                continue
            self.ordinal += 1
            self.choose(line).read_frame(self.ordinal, line.caller, frame.function, guess=frame.guess)
        self.gap = 0

    def drain(self, scanner: PasteScanner) -> None:
        for report in scanner.drain():
            self.into.findings.add_report(report, self.origins.pop(report.line, Origin()))
        if len(self.origins) > 200:
            self.origins = {at: origin for at, origin in self.origins.items() if at + 1000 > self.ordinal}

    def take_about(self, line: Line) -> bool:
        """Whether a line says who the open report is about, or whom it cost."""
        message = line.message
        if "process " in message and (victim := _VICTIM.match(message)):
            self.scan(line)
            reports = self.scanner.reports
            if reports and reports[-1].kind is FindingKind.OOM_KILL:
                origin = self.origins.setdefault(reports[-1].line, Origin(line.time, line=line.number))
                origin.victim = f"{victim['comm']} (pid {victim['pid']})"
            return True
        if not any(word in message for word in _ABOUT_WORDS) or not (match := _ABOUT.match(message)):
            return False
        self.scan(line)
        if self.choose(line).open is not None:
            comm, pid = (
                match["comm"] or match["comm2"] or match["comm3"],
                match["pid"] or match["pid2"] or match["pid3"],
            )
            self.name(line, comm, int(pid))
        return True

    def take_lock(self, line: Line) -> None:
        """Keep whom a report of lockdep's is about, and which lock it takes while it has which."""
        report, message = self.choose(line).open, line.message.lstrip()
        if report is None or report.kind is not FindingKind.LOCKDEP:
            if "is trying to acquire lock" not in message or not _LOCKER.match(message):
                return
            # The lines above it were not copied.
            self.close(line)
            self.scan(line, LOCKS)
            report = self.choose(line).open
        if report is None or report.stage is not Stage.PREAMBLE:
            return
        origin = self.origins.get(report.line)
        if origin is None:
            return
        if "/" in message and (match := _LOCKER.match(message)):
            origin.comm, origin.pid = origin.comm or match["comm"], int(match["pid"])
            self.lock_verb = "takes" if match["takes"] else ""
        elif "already holding" in message and _HAS_ONE.match(message):
            self.lock_verb = "holds"
        elif self.lock_verb and (match := _LOCK.match(message)):
            origin.locks.setdefault(self.lock_verb, match["name"])
            self.lock_verb = ""

    def name(self, line: Line, comm: str, pid: int | None) -> None:
        """Say who the open report is about, if nothing said it before."""
        report = self.choose(line).open
        if report is not None and report.stage is Stage.PREAMBLE and (origin := self.origins.get(report.line)):
            origin.comm, origin.pid = origin.comm or comm, pid if origin.pid is None else origin.pid

    def pid_of(self, report: Report) -> int | None:
        """Who a report is about, if something said it."""
        origin = self.origins.get(report.line)
        return origin.pid if origin is not None else None

    def is_quoted(self, line: Line) -> bool:
        """Whether all of the open report is a line that a person quoted above the log which begins with this one."""
        report = self.choose(line).open
        origin = self.origins.get(report.line) if report is not None else None
        return (
            origin is not None and report is not None and report.line == self.ordinal and line.stamped > origin.stamped
        )

    @property
    def open_is_preamble(self) -> bool:
        return self.scanner.open is not None and self.scanner.open.stage is Stage.PREAMBLE

    def end_stack(self, line: Line) -> None:
        """What comes from here on is no part of the report's stack."""
        report = self.choose(line).open
        if report is not None and report.stage is Stage.TRACE:
            self.scan(line, "-")

    def close(self, line: Line | None = None) -> None:
        """What comes from here on is no part of any report."""
        self.gap = 0
        scanner = self.scanner if line is None else self.choose(line)
        scanner.open = None

    def finish(self) -> None:
        """The log is at its end."""
        for scanner in (self.scanner, *self.others.values()):
            scanner.open = None
            self.drain(scanner)
