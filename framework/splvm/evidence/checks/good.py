"""Good verdicts: what a run has shown of which no check complains, with its reasons.

Each rests on what the checks of its rule have found to be there; `GOODS` in evidence/judge.py says which these are.
"""

from __future__ import annotations

from dataclasses import replace

from splvm.evidence.checks.case import Case, caught_thread, held_worker, millis, seconds, seqs
from splvm.evidence.checks.injected import because_faults
from splvm.evidence.checks.large import because_fragmented
from splvm.evidence.checks.longlived import because_kept
from splvm.evidence.checks.magazines import because_magazines
from splvm.evidence.checks.pressure import because_low
from splvm.evidence.checks.storm import because_weathered, worker_was_caught
from splvm.evidence.checks.timeouts import because_in_time
from splvm.evidence.checks.trap import because_carried, because_immune
from splvm.evidence.timeline import between
from splvm.evidence.verdict import Outcome, Reason, Verdict
from splvm.evidence.waiting.tasklists import cycle_between


def good_progress(case: Case) -> Verdict:
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
            f"its context-switch count stayed at {worker.voluntary + worker.nonvoluntary}",
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


def good_kept(case: Case) -> Verdict:
    return _also(good_progress(case), because_kept(case))


def good_large(case: Case) -> Verdict:
    return _also(good_progress(case), because_fragmented(case))


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


def good_health(case: Case) -> Verdict:
    probes = case.probes("window", "window-end")
    first, last = probes[0].value, probes[-1].value
    got = sum(t.allocs for t in last.threads) - sum(t.allocs for t in first.threads)
    emergency = last.live.emergency_total
    which = f"{emergency} emergency objects among all" if emergency else "none of them an emergency object"
    reasons = (
        Reason(f"{len(last.threads)} critical threads got {got} objects, {which}", seqs(probes)),
        because_in_time(case),
        *because_magazines(case),
    )
    return Verdict(Outcome.HEALTHY, reasons)


def good_survival(case: Case) -> Verdict:
    """Of the trap: nobody was caught in it, or the worker was and did no harm."""
    if caught_thread(case) is None:
        return Verdict(Outcome.IMMUNE, because_immune(case))
    waiting = cycle_between(case.timeline, case.marks["trap"], case.window[1])
    told = (Reason(waiting.sentence),) if waiting is not None else ()
    wait_for = waiting.to_json() if waiting is not None else {}
    return Verdict(Outcome.PROGRESS, (*because_carried(case), *told), wait_for=wait_for)


def good_survival_low(case: Case) -> Verdict:
    verdict = good_survival(case)
    return replace(verdict, reasons=(*verdict.reasons, because_low(case)))


def good_storm(case: Case) -> Verdict:
    """Of reclaim at allocation sites: nobody waits for ever; the worker may have waited, and transactions went on."""
    outcome = Outcome.PROGRESS if worker_was_caught(case) else Outcome.IMMUNE
    return Verdict(outcome, because_weathered(case))


def good_retries(case: Case) -> Verdict:
    """Of growths that fail: nothing was stuck, so what is shown is health in spite of them."""
    return Verdict(
        Outcome.HEALTHY, (because_faults(case), Reason("afterwards no emergency object is left, flags clear"))
    )


def good_endurance(case: Case) -> Verdict:
    """The load: how it stood is told by judge()."""
    start, end = case.window
    return Verdict(Outcome.HEALTHY, (Reason(f"nothing stood still under the load for {seconds(end - start)}"),))


def good_spare(case: Case) -> Verdict:
    """Of emergency objects that cannot be had at first."""
    verdict = good_progress(case)
    return replace(verdict, reasons=(*verdict.reasons, because_faults(case)))
