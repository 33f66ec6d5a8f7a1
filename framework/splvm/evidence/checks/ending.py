"""Checks of how a run ended, and whether its record is whole: loss, frames that are missing, phases."""

from __future__ import annotations

import re
from collections.abc import Iterator

from splvm.evidence.checks.case import Case, Check, Complaint, seconds
from splvm.evidence.checks.kernelsaid import NMI_PANIC, injected_nmi
from splvm.evidence.diagnosis import Condition
from splvm.evidence.formats.kerncomplaints import FindingKind
from splvm.evidence.formats.kernlog import scan_kernel_log
from splvm.evidence.formats.stacks import FUNCTION
from splvm.evidence.verdict import Outcome, Reason


def check_lost(case: Case) -> Iterator[Complaint]:
    outcome = case.evidence.facts.get("outcome", {})
    match outcome.get("kind"):
        case "ended":
            return
        case "lost":
            last = case.timeline.probe[-1] if case.timeline.probe else None
            seen = f"; last reading at {seconds(last.end_ns)} of guest time" if last else "; nothing was ever read"
            # A guest of which only the view is lost is not lost itself.
            lost = not any(outcome.get("condition") == it and not it.is_lost for it in Condition)
            text = f"{outcome.get('detail')}{seen}{_found_by_nmi(case)}{_killed_agent(case)}"
            yield Complaint(Outcome.LOST if lost else Outcome.INCONCLUSIVE, Reason(text, (last.seq,) if last else ()))
        case kind:
            yield Complaint(Outcome.INCONCLUSIVE, Reason(f"the run was {kind}: {outcome.get('detail')}"))


def _found_by_nmi(case: Case) -> str:
    """Where a CPU was that took no interrupt: the function that an NMI met."""
    after = case.evidence.console.partition(NMI_PANIC)[2] if injected_nmi(case) else ""
    met = re.search(rf"RIP: \d{{4}}:{FUNCTION}", after[:20000])
    return f"; an NMI met a CPU in {met['function']}" if met else ""


def _killed_agent(case: Case) -> str:
    """The kernel's own word that it killed the agent for memory."""
    findings = scan_kernel_log(case.evidence.console)
    oom = any(it.kind is FindingKind.OOM_KILL for it in findings)
    killed = re.search(r"Killed process \d{1,10} \(splvm-agent\)", case.evidence.console) if oom else None
    return "; the kernel killed the agent for memory" if killed else ""


def check_losses(case: Case) -> Iterator[Complaint]:
    for loss in case.timeline.losses[:5]:
        yield Complaint(Outcome.INCONCLUSIVE, Reason(loss))


def check_phases(*names: str) -> Check:
    def check(case: Case) -> Iterator[Complaint]:
        missing = [name for name in names if name not in case.marks]
        if missing:
            yield Complaint(Outcome.INCONCLUSIVE, Reason(f"the run never came to: {', '.join(missing)}"))
        times = [case.marks[name] for name in names if name in case.marks]
        if times != sorted(times):
            yield Complaint(Outcome.INCONCLUSIVE, Reason(f"the phases are out of order: {', '.join(names)} is right"))

    return check
