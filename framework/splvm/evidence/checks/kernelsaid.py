"""What complaints of the guest's kernel do to a verdict: one table, each kind with the reason.

What a complaint is, is for formats/kernlog.py. Here is what follows from one: a crash, the kernel's word against SPL,
or something that is only told. A kernel prints a stack with most complaints, with the module of each function. A
complaint is of SPL if a function of OpenZFS or of the probe is in the stack: all that runs for SPL's sake.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass

from splvm.evidence.checks.case import Case, Complaint, caught_thread, held_worker
from splvm.evidence.checks.starvation import starved
from splvm.evidence.formats.kerncomplaints import FindingKind
from splvm.evidence.formats.kernlog import Finding, scan_kernel_log
from splvm.evidence.verdict import Outcome, Reason

# Modules of OpenZFS in any version, and the probe.
OWN = frozenset(["spl", "zfs", "zavl", "znvpair", "zcommon", "zunicode", "zlua", "zzstd", "icp", "splat", "slabprobe"])

# What the kernel says when the harness has sent it an NMI (unknown_nmi_error(), arch/x86/kernel/nmi.c).
NMI_PANIC = "Kernel panic - not syncing: NMI: Not continuing"

# What SPL prints for a kmem_alloc() that it takes for too large (spl_kmem_alloc_impl(), spl-kmem.c), and bytes up to
# which none is: sixteen pages, at most 64 KiB (spl_kmem_alloc_warn).
_LARGE = re.compile(r"Large kmem_alloc\((\d{1,10}), 0x")
_NOT_LARGE = 64 * 1024

# Complaints that are told beside a verdict, at most.
_TOLD = 3

_HUNG = re.compile(r"INFO: task .{1,60}:(\d{1,10}) blocked ")


class Effect(enum.StrEnum):
    """What a complaint does to a verdict."""

    # CRASHED.
    CRASH = "crash"
    # SUSPECT if it is of SPL; else it is told.
    SUSPECT = "suspect"
    # The same, but a host that gives the guest too little CPU can be the cause, and then it is only told.
    LATE = "late"
    # It is told.
    TOLD = "told"


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of complaint."""

    kind: FindingKind
    effect: Effect
    why: str
    # Only of titles that begin with this pattern.
    title: str = ""


# The first row that fits counts.
ROWS: tuple[Row, ...] = (
    Row(FindingKind.PANIC, Effect.CRASH, "the kernel, or the thread of SPL that said it, does not go on"),
    Row(FindingKind.OOPS, Effect.CRASH, "a thread died where it was, with whatever locks it had"),
    Row(FindingKind.BUG, Effect.CRASH, "what the kernel takes for granted does not hold"),
    Row(FindingKind.LOCKDEP, Effect.CRASH, "locks can be taken in an order in which nobody goes on"),
    Row(FindingKind.KASAN, Effect.CRASH, "memory was used that nobody had, also by KFENCE and KMSAN"),
    Row(FindingKind.UNEXPECTED_GFP, Effect.SUSPECT, "an allocation had a flag that the kernel takes away"),
    Row(FindingKind.WARNING, Effect.SUSPECT, "arithmetic or an index is undefined", "UBSAN: "),
    Row(FindingKind.WARNING, Effect.SUSPECT, "two threads touch one thing without a lock", "BUG: KCSAN: "),
    Row(
        FindingKind.WARNING,
        Effect.SUSPECT,
        "a count of users is wrong",
        r"refcount_t: |WARNING: .{0,60}/refcount\.c:",
    ),
    Row(FindingKind.WARNING, Effect.SUSPECT, "WARN() says that something is not as its author meant it"),
    Row(FindingKind.SOFT_LOCKUP, Effect.LATE, "a CPU did not come to its scheduler"),
    Row(FindingKind.HARD_LOCKUP, Effect.LATE, "a CPU did not take its interrupts"),
    Row(FindingKind.RCU_STALL, Effect.LATE, "a CPU did not come to a point at which it holds nothing"),
    Row(FindingKind.WORKQUEUE_LOCKUP, Effect.LATE, "work of the kernel's own does not get a CPU"),
    Row(
        FindingKind.HUNG_TASK,
        Effect.LATE,
        "a thread waits for minutes; a thread that the experiment holds, or lets wait, belongs to the experiment",
    ),
    Row(
        FindingKind.PAGE_ALLOC_FAILURE,
        Effect.TOLD,
        "memory was short, which loads see to; whoever asked has to do without, and its counts show whether it does",
    ),
    Row(FindingKind.OOM_KILL, Effect.TOLD, "memory was short, which loads see to"),
)


def row_of(finding: Finding) -> Row:
    """The row of a complaint."""
    return next(row for row in ROWS if row.kind is finding.kind and re.match(row.title, finding.title))


def is_own(finding: Finding) -> bool:
    """Whether a function of OpenZFS or of the probe is in its stack."""
    return bool(finding.modules & OWN)


def check_crash(case: Case) -> Iterator[Complaint]:
    """Nothing happened after which the kernel cannot be trusted."""
    for finding in _findings(case):
        if row_of(finding).effect is Effect.CRASH:
            yield Complaint(Outcome.CRASHED, Reason(f"{finding.kind.name}: {_quote(finding)}"))


def check_warned(case: Case) -> Iterator[Complaint]:
    """The kernel did not warn of SPL."""
    for finding in _findings(case):
        if _is_suspect(case, finding):
            module = ", ".join(sorted(finding.modules & OWN))
            text = f"the kernel warned, with {module} in the stack: {_quote(finding)}; {row_of(finding).why}"
            yield Complaint(Outcome.SUSPECT, Reason(text))
        elif _may_be_own(finding):
            text = f"the kernel warned, and whether SPL is in the stack is not known, which is torn: {_quote(finding)}"
            yield Complaint(Outcome.INCONCLUSIVE, Reason(text))
    early = [int(size) for size in _LARGE.findall(case.evidence.console) if int(size) <= _NOT_LARGE]
    if early:
        times = "once" if len(early) == 1 else f"{len(early)} times"
        text = f"SPL warned {times} of a large kmem_alloc(), of {early[0]} bytes, and {_NOT_LARGE} are right"
        yield Complaint(Outcome.SUSPECT, Reason(text))


def _may_be_own(finding: Finding) -> bool:
    """Whether it is of a kind that comes with a stack, and the stack was lost: nobody knows whose it is."""
    return row_of(finding).effect is Effect.SUSPECT and finding.torn and not finding.benign


def because_warned(case: Case) -> tuple[Reason, ...]:
    """What the kernel said besides: the first complaints of each kind that say nothing of SPL."""
    told: dict[str, Finding] = {}
    for finding in _findings(case):
        counts = _is_suspect(case, finding) or _may_be_own(finding)
        if row_of(finding).effect is not Effect.CRASH and not finding.benign and not counts:
            told.setdefault(finding.fingerprint, finding)
    return tuple(
        Reason(f"the kernel said, which does not count here: {_quote(it)}") for it in list(told.values())[:_TOLD]
    )


def injected_nmi(case: Case) -> bool:
    """Whether the harness has sent an NMI."""
    return any("nmi" in look.taken for look in case.timeline.looks)


def _findings(case: Case) -> Iterator[Finding]:
    """The complaints, but for the panic that the harness itself has caused."""
    nmi = injected_nmi(case)
    for finding in scan_kernel_log(case.evidence.console):
        if not (nmi and NMI_PANIC in finding.title):
            yield finding


def _is_suspect(case: Case, finding: Finding) -> bool:
    if finding.benign or not is_own(finding):
        return False
    match row_of(finding).effect:
        case Effect.SUSPECT:
            return True
        case Effect.LATE:
            return not _belongs(case, finding) and not _may_be_starved(case)
        case Effect.CRASH | Effect.TOLD:
            return False


def _belongs(case: Case, finding: Finding) -> bool:
    """Whether it is of a thread that the experiment holds, or that waits for this one."""
    told = _HUNG.match(finding.title)
    if told is None or not {"window", "window-end"} <= case.marks.keys():
        return False
    threads = {thread.pid for sample in case.timeline.probe for thread in sample.value.threads}
    return int(told[1]) in {held_worker(case), caught_thread(case), *threads}


def _may_be_starved(case: Case) -> bool:
    """Whether a host was too busy, in the window or all the time; of a run without one nobody knows."""
    return not case.evidence.is_virtual and (not {"window", "window-end"} <= case.marks.keys() or bool(starved(case)))


def _quote(finding: Finding) -> str:
    return f"{finding.title} (console.log line {finding.line})"
