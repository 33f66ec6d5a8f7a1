"""What went wrong in a guest, according to its kernel's console.

Owns which of the kernel's complaints (kerncomplaints.py) belong together: one crash is one finding, however many lines
it takes. What a finding means for a verdict is not decided here.

A console is read twice at once (kernlines.py). What the strict reading finds stands. The wide reading adds what the
strict one has nothing of, and takes nothing away.

Work is linear: each line is looked at once in each reading, and the repeats of patterns are bounded.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from splvm.evidence.formats.kerncomplaints import (
    BENIGN_TITLE,
    HINT,
    PLACES,
    TRIGGER,
    TRIGGERS,
    WARNED,
    WIDE,
    WIDER,
    FindingKind,
)
from splvm.evidence.formats.kernlines import MAX_LINE_CHARS, split_stamp, split_wide
from splvm.evidence.formats.stacks import FUNCTION, SCHEDULER, without_top

# Findings kept of each kind. The first of a kind is never lost, and a guest that complains in a
# loop cannot fill the host's memory.
MAX_PER_KIND = 200
MAX_TITLE_CHARS = 300
MAX_FRAMES = 64

# Lines that a report may take before its call trace begins. The longest reports are those of
# lockdep, which prints the whole chain of locks first.
_MAX_PREAMBLE = 60
_MAX_LOCKDEP_PREAMBLE = 500
# Lines from the die message to its end trace, backtraces of all CPUs included.
_MAX_CRASH = 500
# Lines between the first message of a crash and the next one, such as from "BUG:" to "Oops:".
_MAX_STEP = 10


@dataclass(frozen=True, slots=True)
class Finding:
    """One complaint of the kernel."""

    kind: FindingKind
    # The first message of the complaint, without time stamp.
    title: str
    # Line of that message, counted from 1.
    line: int
    # Its time stamp, seconds since the guest's boot; None when it has none.
    time_s: float | None
    # Known to say nothing about the kernel's health; see BENIGN.
    benign: bool
    # Functions of its first call trace, from the innermost out.
    frames: tuple[str, ...]
    # The same for the same complaint on another day: from the kind and the first five functions
    # that are not part of the reporting; from the title without its numbers if there is no trace.
    fingerprint: str
    # Modules that these functions belong to; what is built into the kernel has none.
    modules: frozenset[str] = frozenset()
    # Whether no call trace came, or messages were dropped before its end: `modules` may then lack some.
    torn: bool = False

    @property
    def fatal(self) -> bool:
        """Whether the kernel cannot be trusted after this."""
        return self.kind.fatal


# After these nothing works any more: the die message ("Oops: 0000 [#1]") and panic() itself.
_DYING = re.compile(r".{0,200}?(?:: [0-9a-f]{4,16} \[#\d{1,6}\]|Kernel panic - not syncing)")
# Panics that only carry out what a crash before them decided (oops_end(), do_exit(), check_panic_on_warn()).
_CONSEQUENCE = re.compile(r"Kernel panic - not syncing: (?:Fatal exception|Attempted to kill |Aiee, killing )")
_ON_WARN = re.compile(
    r"Kernel panic - not syncing: .{0,80}panic_on_warn set|Kernel panic - not syncing: .{0,80}fault=panic set"
)
_KILLED = re.compile(r".{0,120}?ut of memory.{0,80}?: Kill(?:ed)? process ")
_END = "---[ end "
# A line that no report contains: what was open before it is over.
_BREAK = re.compile(r"sysrq: |SysRq : ")
# The first line of another boot: nothing after it follows from anything before it.
_BOOT = "Linux version "

# The kernel names a function's module behind it, and since Linux 5.14 its build id, if it was asked to.
_MODULE = r"(?: \[(?P<module>\w{1,64})[\] ])?"
# A race is told with both functions in its first message; each access has its stack (kernel/kcsan/report.c).
_NAMED = re.compile(rf"{FUNCTION} \[(?P<module>\w{{1,64}})\]", re.ASCII)
_ACCESS = re.compile(r"[a-z ()-]{1,40} to 0x[0-9a-f]{1,16} of \d{1,9} bytes by .{1,60} on cpu \d{1,5}:$")
CALL_TRACE = re.compile(r"\s{0,8}Call [Tt]race:")
FRAME = re.compile(rf"\s{{0,8}}(?:\[<[0-9a-f]{{1,16}}>\] {{1,2}})?(?P<guess>\? )?{FUNCTION}{_MODULE}", re.ASCII)
# Marks of another stack inside a trace: <TASK>, </TASK>, <IRQ>, <#DF>, and on old kernels <EOI> before a frame.
STACK_MARK = re.compile(r"\s{0,8}<[/#A-Za-z0-9]{1,12}>\s{0,8}")
RIP = re.compile(rf"(?:RIP: 0010:(?:\[<[0-9a-f]{{1,16}}>\] {{1,2}}){{0,2}}|pc : ){FUNCTION}{_MODULE}", re.ASCII)

# What the kernel prints in place of messages that its buffer lost (kernel/printk/printk.c).
_DROPPED = re.compile(r"\*\* {0,2}\d{1,10} printk messages dropped", re.ASCII)

# Functions that only print the report.
_REPORTING = frozenset(
    (
        *("dump_stack", "dump_stack_lvl", "__dump_stack", "show_stack", "panic", "vpanic", "nmi_panic"),
        *("__warn", "__warn_printk", "warn_slowpath_fmt", "warn_slowpath_null", "report_bug", "handle_bug"),
        *("exc_invalid_op", "asm_exc_invalid_op", "invalid_op", "do_invalid_op", "do_error_trap", "die", "oops_end"),
        *("warn_alloc", "warn_alloc_failed", "dump_header", "oom_kill_process", "kmalloc_fix_flags"),
        *("vmalloc_fix_flags", "kasan_report", "print_report", "print_address_description", "spl_dumpstack"),
        *("spl_panic", "__might_resched", "___might_sleep", "__might_sleep", "__schedule_bug"),
    )
)


def scan_kernel_log(text: str) -> tuple[Finding, ...]:
    """Find what the kernel complained of, in the order of the log.

    Lines may have time stamps, caller ids (CONFIG_PRINTK_CALLER), levels, console escape
    sequences, carriage returns and NULs, or none of them, and text of userland before them. Of
    each kind at most `MAX_PER_KIND` findings are given in each reading, the first ones. Nothing is
    raised, whatever the text is.
    """
    strict, wide = LogScanner(), WideScanner()
    for number, line in enumerate(text.replace("\0", "").split("\n"), 1):
        # Nearly all lines end here, and a log may have millions of them.
        hinted = HINT.search(line) is not None
        if hinted or strict.open is not None or wide.open is not None:
            for part in filter(None, line.split("\r")):
                strict.read(number, part[:MAX_LINE_CHARS], hinted)
                wide.read(number, part if hinted else part[:MAX_LINE_CHARS], hinted)
    found = [report.finding() for report in strict.reports]
    added = [report.finding() for report in wide.beyond(found)]
    return tuple(sorted(found + added, key=lambda finding: finding.line))


class Stage(enum.Enum):
    """How far a report is read."""

    PREAMBLE = enum.auto()
    TRACE = enum.auto()
    DONE = enum.auto()


@dataclass(slots=True)
class Report:
    """A complaint of which more lines may come."""

    kind: FindingKind
    title: str
    line: int
    time_s: float | None
    # Which thread or CPU printed it, if the log says so.
    caller: str | None
    # Whether the kernel is going down: everything up to the end trace belongs to it.
    dying: bool
    stage: Stage = Stage.PREAMBLE
    frames: list[str] = field(default_factory=list)
    # Frames that the kernel marks with `?`: found on the stack, but perhaps left over.
    guesses: list[str] = field(default_factory=list)
    # Modules of `frames`.
    modules: set[str] = field(default_factory=set)
    # Whether a frame of a call trace came, and whether messages were dropped before the report's end.
    traced: bool = False
    dropped: bool = False

    def overdue(self, number: int) -> bool:
        """Whether line `number` is too far away to belong to this report."""
        lines = number - self.line
        if self.dying:
            return lines > _MAX_CRASH
        limit = _MAX_LOCKDEP_PREAMBLE if self.kind is FindingKind.LOCKDEP else _MAX_PREAMBLE
        return self.stage is Stage.PREAMBLE and lines > limit

    def printed_by(self, caller: str | None) -> bool:
        """Whether a line of this caller may belong to this report."""
        # Lockups are reported by one CPU and traced by another.
        foreign = caller is not None and self.caller is not None and caller != self.caller
        return not foreign or self.kind in _TRACED_ELSEWHERE

    def read(self, message: str) -> None:
        """Take a line that begins no report of its own."""
        self.dropped |= self.stage is not Stage.DONE and _DROPPED.match(message) is not None
        if self.stage is Stage.PREAMBLE:
            if CALL_TRACE.match(message) or _ACCESS.match(message):
                self.stage = Stage.TRACE
            elif not self.frames and (rip := RIP.match(message)):
                self.frames.append(rip["function"])
                self.modules.update(filter(None, [rip["module"]]))
        elif self.stage is Stage.TRACE:
            mark = STACK_MARK.match(message)
            rest = message[mark.end() :] if mark else message
            if frame := FRAME.match(rest):
                self.traced = True
                names = self.guesses if frame["guess"] else self.frames
                if len(names) < MAX_FRAMES:
                    names.append(frame["function"])
                    self.modules.update(filter(None, [None if frame["guess"] else frame["module"]]))
            elif not mark:
                self.stage = Stage.DONE

    def finding(self) -> Finding:
        frames = tuple(self.frames or self.guesses)
        return Finding(
            kind=self.kind,
            title=self.title,
            line=self.line,
            time_s=self.time_s,
            benign=self.kind is FindingKind.WARNING and BENIGN_TITLE.match(self.title) is not None,
            frames=frames,
            fingerprint=fingerprint_of(self.kind, self.title, frames),
            modules=frozenset((*self.modules, *(name["module"] for name in _NAMED.finditer(self.title)))),
            torn=self.dropped or not self.traced,
        )


_TRACED_ELSEWHERE = frozenset((FindingKind.SOFT_LOCKUP, FindingKind.HARD_LOCKUP, FindingKind.RCU_STALL))


class LogScanner:
    """Reads a log line after line and decides which report each line belongs to.

    scan_kernel_log() gives it the lines of a guest's console; what people paste is put into that form first.
    """

    def __init__(self) -> None:
        self.reports: list[Report] = []
        # The report that may go on.
        self.open: Report | None = None
        # The latest report, and the latest fatal one, for panics that follow from them.
        self.latest: Report | None = None
        self.crash: Report | None = None
        # Whether "invoked oom-killer" still waits for its "Killed process".
        self.oom = False
        self.counts = dict.fromkeys(FindingKind, 0)

    def read(self, number: int, line: str, hinted: bool) -> None:
        self.read_message(number, *split_stamp(line), hinted)

    def read_message(self, number: int, time_s: float | None, caller: str | None, message: str, hinted: bool) -> None:
        """Take a message without what stood before it.

        :param hinted: whether it may begin a report; others only go on with one.
        """
        if self.open is not None and (self.open.overdue(number) or _BREAK.match(message)):
            self.open = None
        if hinted and message.startswith(_BOOT):
            self.open = self.latest = self.crash = None
            self.oom = False
        elif hinted and message.startswith(_END):
            self.open = None
        elif hinted and (kind := self.kind_of(message)):
            dying = ("[#" in message or "Kernel panic" in message) and _DYING.match(message) is not None
            report = Report(kind, _title(message), number, time_s, caller, dying)
            if not self.absorbs(report, message):
                self.begin(report, message)
        elif self.open is not None and self.open.printed_by(caller):
            self.open.read(message)
            if self.open.stage is Stage.DONE and not self.open.dying:
                self.open = None

    def read_frame(self, number: int, caller: str | None, function: str, *, guess: bool) -> None:
        """Take a line of which it is known that it is a frame."""
        if self.open is not None and self.open.overdue(number):
            self.open = None
        if self.open is not None and self.open.printed_by(caller) and self.open.stage is Stage.TRACE:
            self.open.traced = True
            names = self.open.guesses if guess else self.open.frames
            if len(names) < MAX_FRAMES:
                names.append(function)

    def kind_of(self, message: str) -> FindingKind | None:
        """The kind of the complaint that this message begins."""
        trigger = TRIGGER.match(message)
        return TRIGGERS[int((trigger.lastgroup or "t0")[1:])][0] if trigger else None

    def begin(self, report: Report, message: str) -> None:
        self.open = self.latest = report
        if report.kind.fatal:
            self.crash = report
        if report.kind is FindingKind.OOM_KILL:
            self.oom = not _KILLED.match(message)
        self.reports.append(report)
        self.count(report)

    def count(self, report: Report) -> None:
        """Count the report, which is the last one, and drop it again if there are enough of its kind."""
        self.counts[report.kind] += 1
        if self.counts[report.kind] > MAX_PER_KIND and self.reports and self.reports[-1] is report:
            self.reports.pop()

    def absorbs(self, new: Report, message: str) -> bool:
        """Whether `new` is only more of what is already reported."""
        if new.kind is FindingKind.OOM_KILL and self.oom and _KILLED.match(message):
            self.oom = False
            return True
        if self.is_consequence(message):
            return True
        old = self.open
        if old is None:
            return False
        if old.dying:
            return True
        if old.stage is not Stage.PREAMBLE or new.line - old.line > _MAX_STEP:
            return False
        if old.kind.fatal and (new.dying or new.kind is FindingKind.PANIC):
            old.dying = new.dying
            return True
        if {old.kind, new.kind} != {FindingKind.WARNING, FindingKind.UNEXPECTED_GFP}:
            return False
        if old.kind is FindingKind.WARNING:
            self.rename(old, new)
        return True

    def rename(self, warning: Report, gfp: Report) -> None:
        """Say "Unexpected gfp" of a warning that is one: WARN() prints its own line before or after the message.

        Since Linux 6.19 __vmalloc() warns so of flags that it does not know (vmalloc_fix_flags(), mm/vmalloc.c),
        each time, and kv_alloc() of spl-kmem-cache.c passes __GFP_HIGHMEM.
        """
        self.counts[warning.kind] -= 1
        warning.kind, warning.title = gfp.kind, gfp.title
        self.count(warning)

    def is_consequence(self, message: str) -> bool:
        """Whether a panic only carries out what was reported before it."""
        if "Kernel panic" not in message:
            return False
        if _ON_WARN.search(message):
            return self.latest is not None and self.latest.kind.fatal
        return self.crash is not None and _CONSEQUENCE.search(message) is not None


def _begun(line: str, start: int, end: int) -> int:
    """Where that ends with which a complaint begins at `start`; `start` if none does."""
    trigger = TRIGGER.match(line, start, min(end, start + MAX_LINE_CHARS))
    return trigger.end() if trigger else start


def _begins(line: str, start: int, end: int) -> Iterator[int]:
    """Where complaints begin that may stand anywhere."""
    for place in PLACES.finditer(line, start, end):
        if WIDE.match(line, place.start(), end):
            yield place.start()


class WideScanner(LogScanner):
    """Reads the same log by the wide reading."""

    def __init__(self) -> None:
        super().__init__()
        # Reports by the lines that are a part of them and would else have begun one of their own.
        self.more: dict[int, list[Report]] = {}

    def read(self, number: int, line: str, hinted: bool) -> None:
        for time_s, caller, message in split_wide(line, _begun, _begins):
            self.read_message(number, time_s, caller, message, hinted)

    def kind_of(self, message: str) -> FindingKind | None:
        trigger = WIDE.match(message) if (kind := super().kind_of(message)) is None else None
        return WIDER[int((trigger.lastgroup or "t0")[1:])][0] if trigger else kind

    def absorbs(self, new: Report, message: str) -> bool:
        old = self.open
        whole = super().absorbs(new, message) or (old is not None and self.is_one_warning(old, new))
        if whole and (owner := old or self.crash or self.latest) is not None:
            self.more.setdefault(new.line, []).append(owner)
        return whole

    @staticmethod
    def is_one_warning(old: Report, new: Report) -> bool:
        """Whether one of them is what WARN() says and the other one WARN()'s own line."""
        near = old.stage is Stage.PREAMBLE and new.line - old.line <= _MAX_STEP
        told = {WARNED.match(report.title) is not None for report in (old, new)}
        return near and {old.kind, new.kind} == {FindingKind.WARNING} and told == {True, False}

    def beyond(self, found: Sequence[Finding]) -> Iterator[Report]:
        """The reports of which no finding is a part that weighs as much."""
        weights: dict[int, bool] = {}
        for finding in found:
            for report in self.more.get(finding.line, ()):
                weights[id(report)] = weights.get(id(report), False) or finding.fatal
        there = {(finding.line, finding.kind) for finding in found}
        for report in self.reports:
            known = (report.line, report.kind) in there or weights.get(id(report)) in (True, report.kind.fatal)
            there.add((report.line, report.kind))
            if not known:
                yield report


def _title(message: str) -> str:
    """The message without what userland wrote before it on the same line, and no longer than a title may be."""
    panic = message.find("Kernel panic - ")
    return message[max(0, panic) :].strip()[:MAX_TITLE_CHARS]


_NUMBER = re.compile(r"0x[0-9a-f]+|\d+")


@functools.lru_cache(maxsize=256)
def fingerprint_of(kind: str, title: str, frames: tuple[str, ...]) -> str:
    """What a complaint has in common with itself on another day."""
    names = without_top(frames, _REPORTING | SCHEDULER)[:5]
    basis = names or (_NUMBER.sub("N", title),)
    return hashlib.sha256("\n".join((kind, *basis)).encode("utf-8", "backslashreplace")).hexdigest()[:12]
