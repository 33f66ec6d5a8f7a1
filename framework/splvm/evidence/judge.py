"""From evidence to a verdict: `judge()`, and the table of what is checked in which scenario.

Pure: it reads what was recorded and nothing else. A check looks for one kind of trouble and yields complaints; the
complaint that comes first in `Outcome` is the verdict. Only where no check complains does a run count as good, so
evidence that is missing can only make a verdict worse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from splvm.errors import EvidenceError
from splvm.evidence.checks.accounting import (
    check_audit,
    check_drained,
    check_maximum,
    check_read,
    check_recovered,
    check_rows,
)
from splvm.evidence.checks.case import (
    CACHE,
    Case,
    Check,
    Complaint,
    caught_thread,
    held_worker,
    millis,
    seconds,
    seqs,
)
from splvm.evidence.checks.injected import because_faults, check_injected
from splvm.evidence.checks.large import because_fragmented, check_fragmented, check_made, check_order
from splvm.evidence.checks.loadlevel import POOLED, because_loads, check_loads, wanted
from splvm.evidence.checks.longlived import because_kept, check_costs, check_kept
from splvm.evidence.checks.magazines import because_magazines, check_magazines
from splvm.evidence.checks.onset import onset_s
from splvm.evidence.checks.pressure import because_low, check_low
from splvm.evidence.checks.progress import (
    check_latency,
    check_needed,
    check_progress,
    check_stuck,
    check_threads,
)
from splvm.evidence.checks.starvation import starved
from splvm.evidence.checks.timeouts import check_quiet, check_woken
from splvm.evidence.checks.trap import (
    because_carried,
    because_immune,
    check_carried,
    check_caught,
    check_commits,
    check_resolved,
    check_trap,
)
from splvm.evidence.diagnosis import Condition
from splvm.evidence.figures import describe
from splvm.evidence.formats.kernlog import FindingKind, scan_kernel_log
from splvm.evidence.formats.stacks import FUNCTION
from splvm.evidence.timeline import Evidence, between
from splvm.evidence.verdict import Outcome, Reason, Verdict
from splvm.evidence.waiting.tasklists import cycle_between, find_waiting


@dataclass(frozen=True, slots=True)
class Rule:
    """How a scenario is judged."""

    # What has to have happened at all; without it the other checks have nothing to look at.
    required: tuple[Check, ...]
    checks: tuple[Check, ...]
    # The verdict when nobody complains.
    good: Callable[[Case], Verdict]


# Times that verdicts rest on, by the marks around them.
_LOOKED_AT = (("window", "window-end"), ("recovered", "final"))

# Verdicts of which the cycle, or the chain, is a reason.
_STANDS_STILL = (Outcome.LOST, Outcome.STALLED, Outcome.NO_RECOVERY)


def judge(evidence: Evidence) -> Verdict:
    """The verdict on a run.

    :raises EvidenceError: when the run is of a scenario that has no rule.
    """
    scenario = evidence.facts.get("scenario")
    rule = RULES.get(str(scenario))
    if rule is None:
        raise EvidenceError(f"run.json: scenario {scenario!r} is not known; known are {', '.join(RULES)}")
    if evidence.damage:
        # Nothing that was changed afterwards is worth a verdict, not even a bad one.
        reasons = tuple(Reason(f"the record is damaged: {what}") for what in evidence.damage)
        return Verdict(Outcome.INCONCLUSIVE, reasons)
    timeline = evidence.timeline
    parameters = evidence.facts.get("parameters", {})
    bound_ms = parameters.get("latency_bound_ms", 1000) if isinstance(parameters, Mapping) else None
    if not isinstance(bound_ms, int | float) or not 0 < bound_ms < 1e9:
        raise EvidenceError(f"run.json: latency_bound_ms is {bound_ms!r}, and not a number of milliseconds")
    case = Case(evidence, timeline, timeline.marks, int(bound_ms) * 1_000_000)
    required = (*rule.required, check_phases("load")) if wanted(evidence.facts) else rule.required
    complaints = [c for check in required for c in check(case)]
    if "window" in case.marks and "window-end" in case.marks:
        complaints += [c for check in (*rule.checks, check_loads) for c in check(case)]
    figures = describe(evidence, CACHE)
    hunger = _hunger(case, complaints)
    if not complaints:
        verdict = rule.good(case)
        reasons = (*verdict.reasons, *because_loads(case))
        return replace(verdict, reasons=reasons, figures=figures, starved=hunger)
    order = list(Outcome)
    complaints.sort(key=lambda complaint: order.index(complaint.outcome))
    worst = complaints[0].outcome
    onset = onset_s(case, worst, complaints[0].reason)
    if onset is not None:
        figures["onset_s"] = onset
    waiting = find_waiting(evidence)
    return Verdict(
        worst,
        (
            *(c.reason for c in complaints if c.outcome is worst),
            *([Reason(waiting.sentence)] if waiting is not None and worst in _STANDS_STILL else []),
        ),
        tuple((c.outcome, c.reason) for c in complaints if c.outcome is not worst),
        figures,
        hunger,
        waiting.to_json() if waiting is not None else {},
    )


def _hunger(case: Case, complaints: Sequence[Complaint]) -> str:
    """How the host gave the guest too little CPU; empty when it did not."""
    told = [starved(case, *marks) for marks in _LOOKED_AT if case.marks.keys() >= set(marks)]
    told += [complaint.excuse for complaint in complaints]
    outcome = case.evidence.facts.get("outcome", {})
    if outcome.get("condition") == Condition.STARVED:
        told.append(str(outcome.get("detail")))
    return next((text.strip(" ()") for text in told if text), "")


# What the kernel says when the harness has sent it an NMI (unknown_nmi_error(), arch/x86/kernel/nmi.c).
_NMI_PANIC = "Kernel panic - not syncing: NMI: Not continuing"


def check_crash(case: Case) -> Iterator[Complaint]:
    nmi = _injected_nmi(case)
    for finding in scan_kernel_log(case.evidence.console):
        if finding.fatal and not (nmi and _NMI_PANIC in finding.title):
            where = f"console.log line {finding.line}"
            yield Complaint(Outcome.CRASHED, Reason(f"{finding.kind.name}: {finding.title} ({where})"))


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
    after = case.evidence.console.partition(_NMI_PANIC)[2] if _injected_nmi(case) else ""
    met = re.search(rf"RIP: \d{{4}}:{FUNCTION}", after[:20000])
    return f"; an NMI met a CPU in {met['function']}" if met else ""


def _killed_agent(case: Case) -> str:
    """The kernel's own word that it killed the agent for memory."""
    findings = scan_kernel_log(case.evidence.console)
    oom = any(it.kind is FindingKind.OOM_KILL for it in findings)
    killed = re.search(r"Killed process \d{1,10} \(splvm-agent\)", case.evidence.console) if oom else None
    return "; the kernel killed the agent for memory" if killed else ""


def _injected_nmi(case: Case) -> bool:
    return any("nmi" in look.taken for look in case.timeline.looks)


def check_losses(case: Case) -> Iterator[Complaint]:
    for loss in case.timeline.losses[:5]:
        yield Complaint(Outcome.INCONCLUSIVE, Reason(loss))


def check_pool(case: Case) -> Iterator[Complaint]:
    """A run of this kind without the load on a pool shows nothing of a pool."""
    if not POOLED & set(wanted(case.evidence.facts)):
        yield Complaint(Outcome.INCONCLUSIVE, Reason("run.json names no load on a pool"))


def check_phases(*names: str) -> Check:
    def check(case: Case) -> Iterator[Complaint]:
        missing = [name for name in names if name not in case.marks]
        if missing:
            yield Complaint(Outcome.INCONCLUSIVE, Reason(f"the run never came to: {', '.join(missing)}"))
        times = [case.marks[name] for name in names if name in case.marks]
        if times != sorted(times):
            yield Complaint(Outcome.INCONCLUSIVE, Reason(f"the phases are out of order: {', '.join(names)} is right"))

    return check


def _progress(case: Case) -> Verdict:
    start, end = case.window
    tasks = between(case.timeline.tasks, start, end)
    probes = between(case.timeline.probe, start, end)
    pid = held_worker(case)
    worker = next(t for t in tasks[0].value if t.pid == pid)
    first, last = probes[0].value, probes[-1].value
    gap = max(t.gap_max_ns for s in between(case.timeline.probe, case.marks["hold"], end) for t in s.value.threads)
    got = sum(t.allocs for t in last.threads) - sum(t.allocs for t in first.threads)
    emergency = last.live.emergency_total - first.live.emergency_total
    reasons = (
        Reason(
            f"worker {worker.comm} (pid {pid}) was stuck for {seconds(end - start)} in "
            f"{' <- '.join(worker.blocked_on[:2])}: {len(tasks)} readings, "
            f"{worker.voluntary + worker.nonvoluntary} context switches in each",
            seqs(tasks),
        ),
        Reason(
            f"{len(last.threads)} critical threads got {got} objects meanwhile, {emergency} of them emergency objects; "
            f"longest gap {millis(gap)}",
            seqs(probes),
        ),
        Reason(f"recovered {millis(_recovery_ns(case))} after the release: no emergency object left, flags clear"),
    )
    return Verdict(Outcome.PROGRESS, reasons)


def _kept(case: Case) -> Verdict:
    return _also(_progress(case), because_kept(case))


def _large(case: Case) -> Verdict:
    return _also(_progress(case), because_fragmented(case))


def _also(verdict: Verdict, reason: Reason) -> Verdict:
    """A reason more, behind the first."""
    return replace(verdict, reasons=(verdict.reasons[0], reason, *verdict.reasons[1:]))


def _recovery_ns(case: Case) -> int:
    """From the release to the first reading without emergency objects and without the flag."""
    release = case.marks["release"]
    return next(
        s.end_ns - release
        for s in case.rows()
        if s.start_ns >= release and not s.value.emergency.alloc and not case.flags(s.value).get("deadlocked")
    )


def _healthy(case: Case) -> Verdict:
    probes = case.probes("window", "window-end")
    first, last = probes[0].value, probes[-1].value
    got = sum(t.allocs for t in last.threads) - sum(t.allocs for t in first.threads)
    row = case.rows()[-1]
    reasons = (
        Reason(
            f"{len(last.threads)} critical threads got {got} objects, none of them an emergency object", seqs(probes)
        ),
        Reason(
            f"nobody timed out (dlock {row.value.emergency.dlock}), and the slab file agrees with the probe", (row.seq,)
        ),
        *because_magazines(case),
    )
    return Verdict(Outcome.HEALTHY, reasons)


def _survived(case: Case) -> Verdict:
    """Of the trap: nobody was caught in it, or the worker was and did no harm."""
    if caught_thread(case) is None:
        return Verdict(Outcome.IMMUNE, because_immune(case))
    waiting = cycle_between(case.timeline, case.marks["trap"], case.window[1])
    told = (Reason(waiting.sentence),) if waiting is not None else ()
    wait_for = waiting.to_json() if waiting is not None else {}
    return Verdict(Outcome.PROGRESS, (*because_carried(case), *told), wait_for=wait_for)


def _survived_low(case: Case) -> Verdict:
    verdict = _survived(case)
    return replace(verdict, reasons=(*verdict.reasons, because_low(case)))


def _retried(case: Case) -> Verdict:
    """Of growths that fail: nothing was stuck, so what is shown is health in spite of them."""
    return Verdict(
        Outcome.HEALTHY, (because_faults(case), Reason("afterwards no emergency object is left, flags clear"))
    )


def _bore(case: Case) -> Verdict:
    """The load: how it stood is told by judge()."""
    start, end = case.window
    return Verdict(Outcome.HEALTHY, (Reason(f"nothing stood still under the load for {seconds(end - start)}"),))


def _went_on(case: Case) -> Verdict:
    """Of emergency objects that cannot be had at first."""
    verdict = _progress(case)
    return replace(verdict, reasons=(*verdict.reasons, because_faults(case)))


_ALWAYS = (check_crash, check_lost, check_losses)

# What several scenarios ask for, in the order in which complaints are told.
_GOES_ON: tuple[Check, ...] = (check_threads, check_progress, check_latency)
_COUNTS_RIGHT: tuple[Check, ...] = (check_read, check_rows, check_maximum, check_audit)
_RECOVERS: tuple[Check, ...] = (
    check_recovered,
    check_woken("recovered", "final", Outcome.NO_RECOVERY),
    check_drained,
)
_HELD: tuple[Check, ...] = (check_stuck, check_needed, check_order, *_GOES_ON, *_COUNTS_RIGHT, *_RECOVERS)

_WINDOW = ("window", "window-end", "audit", "audit-end")
_AFTERWARDS = ("release", "recovered", "final", "end")
_HELD_PHASES = ("hold", *_WINDOW, *_AFTERWARDS)

_CYCLE = Rule(
    required=(*_ALWAYS, check_phases("trap", *_WINDOW, "resolve", *_AFTERWARDS)),
    checks=(
        *(check_trap, check_commits, check_caught, check_carried),
        *_GOES_ON,
        *_COUNTS_RIGHT,
        check_resolved,
        *_RECOVERS,
    ),
    good=_survived,
)

# Of what has no lever only the load is judged (loads.py), and the pool if it has one.
_ENDURED = Rule(
    required=(*_ALWAYS, check_phases("window", "window-end", "end")),
    checks=(),
    good=_bore,
)

_ON_POOL = replace(_ENDURED, required=(*_ENDURED.required, check_pool))

RULES: Mapping[str, Rule] = {
    "nominal": Rule(
        required=(*_ALWAYS, check_phases(*_WINDOW, "final", "end")),
        checks=(
            *_GOES_ON,
            *(check_quiet, check_magazines, check_woken("window", "window-end", Outcome.SLOW)),
            *_COUNTS_RIGHT,
            check_drained,
        ),
        good=_healthy,
    ),
    "held-worker": Rule(
        required=(*_ALWAYS, check_phases(*_HELD_PHASES)),
        checks=_HELD,
        good=_progress,
    ),
    # The same, with a pool that has to go on (loads.py).
    "zfs-held-worker": Rule(
        required=(*_ALWAYS, check_phases(*_HELD_PHASES), check_pool),
        checks=_HELD,
        good=_progress,
    ),
    "zvol-swap": _ON_POOL,
    "disk-swap": _ENDURED,
    "zfs-arc-mlock": _ON_POOL,
    "zfs-arc-room": _ON_POOL,
    "zfs-mmap": _ON_POOL,
    "ext4-mmap": _ENDURED,
    "reclaim-cycle": _CYCLE,
    # The same, and what springs the trap is low memory.
    "reclaim-organic": replace(_CYCLE, checks=(*_CYCLE.checks, check_low), good=_survived_low),
    "grow-fails": Rule(
        required=(*_ALWAYS, check_phases("fail", *_WINDOW, *_AFTERWARDS)),
        checks=(check_injected, *_GOES_ON, *_COUNTS_RIGHT, *_RECOVERS),
        good=_retried,
    ),
    "emergency-fails": Rule(
        required=(*_ALWAYS, check_phases(*_HELD_PHASES)),
        checks=(check_injected, *_HELD),
        good=_went_on,
    ),
    "fragmented": Rule(
        required=(*_ALWAYS, check_phases("fragment", *_HELD_PHASES)),
        checks=(check_made, *_HELD, check_fragmented),
        good=_large,
    ),
    "long-lived": Rule(
        required=(*_ALWAYS, check_phases(*_HELD_PHASES)),
        checks=(*_HELD, check_costs, check_kept),
        good=_kept,
    ),
}
