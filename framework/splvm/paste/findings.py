"""Typed complaints of a pasted log: the kernel's, ZFS's and the disks', each once however often it is repeated.

Owns what a paste may complain of beyond what a guest of ours does, and which complaints are one and the same. Reports
are put together by the scanner of kernlog.py, whose fingerprints these are.
"""

from __future__ import annotations

import enum
import functools
import re
from collections import Counter
from dataclasses import dataclass, field, replace

from splvm.evidence.formats.kerncomplaints import FindingKind
from splvm.evidence.formats.kernlog import LogScanner, Report, Stage, fingerprint_of
from splvm.paste.names import has_word

# Different complaints kept of a text, and of one kind, so that each kind has room.
MAX_FINDINGS = 2000
MAX_OF_KIND = 1000
MAX_TITLE = 300
# Messages of which it is remembered what they are: logs repeat themselves.
MAX_REMEMBERED = 2048


class PasteKind(enum.StrEnum):
    """Kinds of complaints that no run of ours has; the others are FindingKind."""

    POOL_SUSPENDED = "pool_suspended"
    DEVICE_ERROR = "device_error"
    DEADMAN = "deadman"  # ZFS's own watch over I/O that does not come back
    HUNG_TASKS_SILENCED = "hung_tasks_silenced"  # the kernel reports no more of them
    VMALLOC_SPACE = "vmalloc_space"  # addresses for vmalloc are used up


@dataclass(frozen=True, slots=True)
class PasteFinding:
    """A complaint, and how often it is in the text."""

    kind: str
    title: str
    comm: str
    pid: int | None
    # As written where it stands first; empty if there is none.
    time: str
    # Seconds since boot.
    time_s: float | None
    count: int
    frames: tuple[str, ...]
    fingerprint: str
    # Where it stands first, counted from 1.
    line: int

    def to_json(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "title": self.title,
            "comm": self.comm or None,
            "pid": self.pid,
            "time": self.time or None,
            "time_s": self.time_s,
            "count": self.count,
            "frames": list(self.frames),
            "fingerprint": self.fingerprint,
            "line": self.line,
        }


# One message each, without a stack. Sources: vdev and zio messages of module/zfs/{zio,spa_misc,vdev}.c and
# module/os/linux/zfs/vdev_disk.c; block/blk-core.c; drivers/{scsi,ata,nvme,usb}; kernel/hung_task.c; mm/vmalloc.c.
_SINGLE: tuple[tuple[str, str], ...] = (
    (
        PasteKind.POOL_SUSPENDED,
        r".{0,120}?[Pp]ool '[^']{1,256}' has encountered an uncorrectable I/O failure and has been suspended"
        r"|.{0,160}?pool I/O is currently suspended|\s{0,8}state: SUSPENDED|.{0,160}?class=io_failure\b",
    ),
    (
        PasteKind.DEADMAN,
        r".{0,120}?(?:SLOW IO: zio |slow vdev: |zio_deadman|vdev_deadman|ereport\.fs\.zfs\.deadman|class=deadman)",
    ),
    (PasteKind.HUNG_TASKS_SILENCED, r".{0,60}?[Ff]uture hung task reports are suppressed"),
    (PasteKind.VMALLOC_SPACE, r".{0,60}?vmap allocation for size \d{1,20} failed"),
    (
        PasteKind.DEVICE_ERROR,
        r"(?:blk_update_request|print_req_error|end_request|Buffer I/O error|critical \w{1,12} error).{0,200}"
        r"|I/O error, dev \S{1,40}, sector "
        r"|.{0,60}?(?:(?:I/O|timeout|I/O tag) \d{1,6} .{0,40}?(?:timeout|QID)|controller is down; will reset)"
        r"|ata\d{1,3}(?:\.\d{1,3})?: (?:exception Emask|failed command|hard resetting|COMRESET|SError|link is slow"
        r"|error: )"
        r"|(?:sd|scsi|sr|ses|st) [\d:]{3,24}: (?:\[\w{1,12}\] )?.{0,60}?(?:FAILED Result"
        r"|Sense Key : (?:Medium|Hardware|Aborted)|timing out command|rejecting I/O|task abort|Device offlined|reset)"
        r"|(?:mpt[23]sas|megaraid_sas|aacraid|hpsa|virtio_blk).{0,120}?(?:log_info|abort|\breset|\bfault|offline|\btimeout)"
        r"|usb [\d.-]{1,20}: (?:USB disconnect|reset \w{1,16}-speed|device not accepting)"
        r"|.{0,40}?zio pool=\S{1,256} vdev=\S{1,256} error=\d{1,4} "
        r"|nvme\d{0,4}(?:n\d{1,4})?: .{0,80}?(?:timeout|aborting|I/O Error|controller is down)",
    ),
)
_SINGLES = re.compile("|".join(f"(?P<s{at}>{pattern})" for at, (_, pattern) in enumerate(_SINGLE)), re.ASCII)
# A message that is one of these has one of the words; to look for words costs a tenth of the patterns.
_SINGLE_WORDS = (
    *("uspended", "SUSPENDED", "uncorrectable", "io_failure", "deadman", "SLOW IO", "slow vdev", "hung task reports"),
    *("vmap allocation", "error", "I/O Error", "imeout", "reset", "rejecting", "offline", "abort", "QID", "timed out"),
    *("timing out", "disconnect", "zio pool", "FAILED", "Sense Key", "Emask", "failed command", "COMRESET", "SError"),
    *("log_info", "fault", "link is slow", "not accepting"),
)
_REPORT_WORDS = (
    *("BUG", "WARNING", "INFO: ", "anic", "PANIC", "[#", "VERIFY", "ASSERT", "LOCKUP", "Unexpected gfp", "oom-killer"),
    *("ut of memory", "allocation failure", "vmalloc error", "Unable to", "UBSAN", "---[ end", "Linux version "),
    *(
        "arge kmem_",
        "allocation deadlock",
        "SPLError",
        "Oops",
        "Internal error",
        "protection fault",
        "bad area",
        "illegal operation",
    ),
    *("ivide error", "hogged CPU", "ysrq: ", "SysRq : ", "zfs: "),
)


@functools.lru_cache(maxsize=MAX_REMEMBERED)
def begins_report(message: str) -> bool:
    """Whether it is worth while to ask what kind of a report the message begins or ends."""
    return has_word(message, _REPORT_WORDS)


# Complaints that begin a report as the kernel's own do.
_MORE = (
    # spl_kmem_alloc_impl(), module/os/linux/spl/spl-kmem.c, and SPL's debugging before 0.6.4.
    (FindingKind.WARNING, r"(?:SPL: |SPLError: [\w:().-]{1,80} )?[Ll]arge kmem_\w{1,12}\(\d{1,20}, 0x[0-9a-f]{1,8}\)"),
    # warn_slowpath_common() until 3.11: no CPU and no PID.
    (FindingKind.WARNING, r"WARNING: at \S{1,200}:\d{1,6} \S"),
    (FindingKind.WARNING, r"(?:SPL: )?Possible memory allocation deadlock: size=\d"),
    # spl_debug_bug() and vcmn_err() of SPL before 0.6.4.
    (FindingKind.PANIC, r"SPLError: \d{1,10}:\d{1,6}:\(\S{1,120}\) (?:SPL PANIC|VERIFY|ASSERT|PANIC)"),
    (FindingKind.PANIC, r"zfs: (?:allocating allocated|freeing free|adding existent|removing nonexistent) segment"),
    # arch/{arm64,powerpc,s390,x86}: what dies says so in other words.
    (FindingKind.OOPS, r"Internal error: .{1,120}? \[#\d{1,6}\]|Oops: .{1,120}? \[#\d{1,6}\]|Unable to handle kernel "),
    (
        FindingKind.OOPS,
        r"BUG: (?:[Kk]ernel NULL pointer|Unable to handle)|general protection fault|Kernel access of bad area"
        r"|illegal operation: |.{0,20}?[Dd]ivide error: ",
    ),
    (FindingKind.WORKQUEUE_LOCKUP, r"workqueue: .{1,80} hogged CPU for "),
    (FindingKind.PAGE_ALLOC_FAILURE, r".{1,40}?: page allocation failure[.:]"),
)
_MORES = re.compile("|".join(f"(?P<m{at}>{pattern})" for at, (_, pattern) in enumerate(_MORE)), re.ASCII)
# What no crash report contains: a line of another program.
_PANIC_STEP = re.compile(r"PANIC at |Showing stack for process|SPL: Showing stack|SPLError: .{0,120}SPL PANIC")
_COMM = re.compile(r"(?P<comm>.{1,40}?)(?:: (?:page|vmalloc)| invoked oom-killer| cpuset=)")
_STUCK = re.compile(r"\[(?P<comm>[^\[\]]{1,40}):(?P<pid>\d{1,10})\]")
_TASK_TITLE = re.compile(r"INFO: task (?P<comm>.{1,60}?):(?P<pid>\d{1,10}) blocked")


@functools.lru_cache(maxsize=MAX_REMEMBERED)
def single_finding(message: str) -> str | None:
    """The kind of a complaint that is one message; None if it is none."""
    if not has_word(message, _SINGLE_WORDS):
        return None
    match = _SINGLES.match(message)
    if match and "message unit reset" in message:
        # The driver of the adapter says so of each start.
        return None
    return _SINGLE[int((match.lastgroup or "s0")[1:])][0] if match else None


_OF_START = re.compile(r"usb [\d.-]{1,20}: reset \w{1,16}-speed")
_EVENT = re.compile(r".{0,60}?(?<!\")\bereport\.fs\.zfs\.\w+\s*$")
_EVENT_FIELD = re.compile(r"\s{0,16}class = \"?ereport\.fs\.zfs\.\w+")


def is_of_start(message: str) -> bool:
    """Whether a complaint is none where the machine has just started: a hub resets what it finds."""
    return message[:4] == "usb " and _OF_START.match(message) is not None


def is_event(message: str) -> bool:
    """Whether it is the first line of an event of a pool."""
    return "ereport." in message and _EVENT.match(message) is not None


def is_event_field(message: str) -> bool:
    """Whether it is the field of an event that has its class."""
    return "class = " in message and _EVENT_FIELD.match(message) is not None


# What splvm itself prints of a finding; see answer.py and splvm.report.pasteissue.
_OWN = re.compile(
    r"(?:- )?(?:"
    + "|".join((*FindingKind, *PasteKind))
    + r"): .{1,4000}(?:\[[0-9a-f]{12}\]|fingerprint `?[0-9a-f]{12}`?)$"
    r"|by (?:hung-task|sysrq-[tw]|tasks|stacks|crash|drgn|vmcore), .{1,4000}|It (?:may close|closes|does not close): "
    r"|(?:What (?:happened|is known of this|is missing to be sure|has this shape here)|Who waits for whom|Not read):$"
    r"|(?:" + "|".join((*FindingKind, *PasteKind)) + r"): (?:INFO|BUG|WARNING|Kernel panic)"
)
_OWN_BEGINS = frozenset(it[:3] for it in (*FindingKind, *PasteKind, "by ", "It ", "What", "Who", "Not", "- "))
# Kinds that a machine which dies does not print: it went on, and the end of that report is not in the text.
_NOT_DYING = frozenset(FindingKind) - {FindingKind.OOPS, FindingKind.BUG, FindingKind.PANIC, FindingKind.WARNING}
_FIRST_OF_CRASH = re.compile(r"BUG: |kernel BUG at|Unable to handle|general protection|Kernel panic - ")
# Seconds that may lie between two lines of one complaint, and of one crash.
MAX_STEP_S, MAX_CRASH_S = 1.0, 10.0


@functools.lru_cache(maxsize=MAX_REMEMBERED)
def is_own_answer(message: str) -> bool:
    """Whether splvm printed this, so that it is second-hand."""
    return message.removeprefix("- ")[:3] in _OWN_BEGINS and _OWN.match(message) is not None


class PasteScanner(LogScanner):
    """The scanner of the kernel's log, with what only pastes complain of."""

    def __init__(self) -> None:
        super().__init__()
        # The last message of which the kind was asked, for that is asked twice of most.
        self.asked = ""
        self.answer: FindingKind | None = None

    def kind_of(self, message: str) -> FindingKind | None:
        if message != self.asked:
            match = _MORES.match(message)
            kind = _MORE[int((match.lastgroup or "m0")[1:])][0] if match else super().kind_of(message)
            self.asked, self.answer = message, kind
        return self.answer

    def is_over(self, old: Report, new: Report, message: str) -> bool:
        """Whether a complaint begins where the end of the one before it is not in the text."""
        if old.time_s is not None and new.time_s is not None:
            step_s = new.time_s - old.time_s
            if not -MAX_STEP_S < step_s < (MAX_CRASH_S if old.dying else MAX_STEP_S):
                return True
        if not old.dying:
            return False
        return new.kind in _NOT_DYING or bool(
            old.frames and old.stage is not Stage.PREAMBLE and _FIRST_OF_CRASH.match(message)
        )

    def is_headline(self, old: Report, new: Report, message: str) -> bool:
        """Whether a person quoted the first line of a crash above the log, whose lines have times."""
        unstamped = old.time_s is None and new.time_s is not None
        first = _FIRST_OF_CRASH.match(old.title) and _FIRST_OF_CRASH.match(message)
        return unstamped and bool(first) and old.stage is Stage.PREAMBLE and not old.frames and old in self.reports

    def absorbs(self, new: Report, message: str) -> bool:
        old = self.open
        if old is not None and self.is_over(old, new, message):
            self.open = None
            return super().absorbs(new, message)
        if old is not None and self.is_headline(old, new, message):
            # What the kernel said of it comes now.
            self.reports.remove(old)
            self.counts[old.kind] -= 1
            self.open = None
            return False
        if old is not None and new.line - old.line <= 4 and old.kind is new.kind:
            # One failure in two lines; one panic of SPL's in three.
            if new.kind is FindingKind.PAGE_ALLOC_FAILURE and not old.frames:
                return True
            if new.kind is FindingKind.OOPS and old.stage is Stage.PREAMBLE:
                old.dying = True
                return True
            if new.kind is FindingKind.PANIC and _PANIC_STEP.match(message):
                return True
        return super().absorbs(new, message)

    def drain(self) -> list[Report]:
        """The reports that are whole, which are then forgotten."""
        whole = [report for report in self.reports if report is not self.open]
        self.reports = [report for report in self.reports if report is self.open]
        for report in whole:
            self.counts[report.kind] = 0
        return whole


@dataclass(slots=True)
class Origin:
    """Where a report stands and who it is about."""

    time: str = ""
    comm: str = ""
    pid: int | None = None
    line: int = 1
    # Whether its first line has a time or a name before it.
    stamped: bool = False
    # Who was killed for it.
    victim: str = ""
    # Of lockdep's report: the lock that its thread `takes`, and the one that it `holds` meanwhile.
    locks: dict[str, str] = field(default_factory=dict)


# The first line of a report of lockdep's that begins in the text with who takes the lock.
LOCKS = "WARNING: possible circular locking: the text lacks the line that says which kind it is"
# What a title says where the kernel's line is not in the text, or its end is not.
HOW_LONG = "blocked for more than ? seconds: the text does not say how many"
# Complaints of a thread, which is stuck for as long as they come.
_BY_THREAD = frozenset((FindingKind.HUNG_TASK, FindingKind.SOFT_LOCKUP))


class Findings:
    """Complaints in the order of the text, each with its count."""

    def __init__(self, dropped: Counter[str]) -> None:
        self.found: dict[tuple[str, ...], PasteFinding] = {}
        # How often each was found, where that is more than its own count.
        self.counts: Counter[tuple[str, ...]] = Counter()
        # By kind and thread: the complaints of it that have a stack.
        self.of_thread: dict[tuple[str, str], list[tuple[str, ...]]] = {}
        self.kinds: Counter[str] = Counter()
        # Complaints that there was no room to keep, by what they are called.
        self.dropped = dropped

    def has_room(self, kind: str) -> bool:
        return self.kinds[kind] < MAX_OF_KIND and len(self.found) < MAX_FINDINGS

    def all(self) -> list[PasteFinding]:
        """Each complaint with its count, in the order of the text."""
        return [replace(it, count=it.count + self.counts[key]) for key, it in self.found.items()]

    def add(self, finding: PasteFinding) -> None:
        """Count a complaint that is known, or keep it."""
        who = finding.comm if finding.pid is None else f"{finding.comm}:{finding.pid}"
        key: tuple[str, ...] = (finding.kind, finding.fingerprint, "")
        if finding.kind in _BY_THREAD:
            key = self.key_of_thread(finding, who)
        known = self.found.get(key)
        if known is not None:
            if finding.frames and not known.frames:
                # What was reported without a stack has one now.
                self.found[key] = replace(known, frames=finding.frames, fingerprint=finding.fingerprint)
            self.counts[key] += finding.count
        elif self.has_room(finding.kind):
            self.found[key] = finding
            self.kinds[finding.kind] += 1
        else:
            self.dropped["complaints"] += 1

    def key_of_thread(self, finding: PasteFinding, who: str) -> tuple[str, ...]:
        """A thread that is stuck is one complaint as long as its stack is the same, or is not shown again."""
        stacks = self.of_thread.get((finding.kind, who), [])
        if finding.kind == FindingKind.SOFT_LOCKUP:
            # It runs, so that each of its stacks is another one.
            return (finding.kind, "", who)
        without = (finding.kind, "", who)
        if not finding.frames:
            return stacks[0] if stacks else without
        if without in self.found and not self.found[without].frames:
            self.of_thread[finding.kind, who] = [without, *stacks]
            return without
        key = (finding.kind, finding.fingerprint, who)
        for one in stacks:
            if self.found[one].fingerprint == finding.fingerprint:
                return one
        if self.has_room(finding.kind):
            self.of_thread[finding.kind, who] = [*stacks, key]
        return key

    def add_report(self, report: Report, origin: Origin) -> None:
        comm, pid = origin.comm, origin.pid
        if match := _TASK_TITLE.match(report.title) or _STUCK.search(report.title):
            comm, pid = match["comm"], int(match["pid"])
            who = f"{comm}:{pid}"
            known = (report.kind, who) in self.of_thread or (report.kind, "", who) in self.found
            if not known and not self.has_room(report.kind):
                # There is no room for it, so that nobody asks for its fingerprint.
                self.dropped["complaints"] += 1
                return
        elif not comm and (match := _COMM.match(report.title)):
            comm = match["comm"]
        frames, title = tuple(report.frames or report.guesses), report.title
        fingerprint = fingerprint_of(report.kind, title, frames)
        if origin.victim and "process " not in title:
            title = f"{title[:MAX_TITLE]}; killed {origin.victim}"
        elif origin.victim:
            comm = origin.victim.split(" (pid ")[0]
        if origin.locks:
            title = f"{title[:MAX_TITLE]}; {', '.join(f'{verb} {lock}' for verb, lock in origin.locks.items())}"
        self.add(
            PasteFinding(report.kind, title, comm, pid, origin.time, report.time_s, 1, frames, fingerprint, origin.line)
        )

    def add_single(self, kind: str, message: str, time: str, time_s: float | None, line: int) -> None:
        title = message.strip()[:MAX_TITLE]
        self.add(PasteFinding(kind, title, "", None, time, time_s, 1, (), fingerprint_of(kind, title, ()), line))


# What comes first in an answer: what is no deadlock, then what makes all that follows doubtful, then the hangs.
_ORDER = (
    *(PasteKind.POOL_SUSPENDED, PasteKind.DEVICE_ERROR, PasteKind.DEADMAN, FindingKind.OOM_KILL),
    *(FindingKind.PANIC, FindingKind.OOPS, FindingKind.BUG, FindingKind.KASAN, FindingKind.LOCKDEP),
    *(FindingKind.HARD_LOCKUP, FindingKind.SOFT_LOCKUP, FindingKind.RCU_STALL, FindingKind.WORKQUEUE_LOCKUP),
    FindingKind.HUNG_TASK,
)
OUTAGES = frozenset((PasteKind.POOL_SUSPENDED, PasteKind.DEVICE_ERROR))


def in_order(findings: list[PasteFinding]) -> list[PasteFinding]:
    """The findings as an answer tells them; an OOM after the first hang is no cause of it."""
    first_hang = min((it.line for it in findings if it.kind == FindingKind.HUNG_TASK), default=0)

    def rank(finding: PasteFinding) -> tuple[int, int]:
        place = _ORDER.index(finding.kind) if finding.kind in _ORDER else len(_ORDER)
        if finding.kind == FindingKind.OOM_KILL and first_hang and finding.line > first_hang:
            place = len(_ORDER)
        return place, finding.line

    return sorted(findings, key=rank)
