"""Checks of CPUs that go and come while taskqs and caches are used."""

from __future__ import annotations

from collections.abc import Iterator

from splvm.evidence.checks.case import Case, Complaint
from splvm.evidence.checks.kinds import good_kinds
from splvm.evidence.checks.queues import good_queues
from splvm.evidence.checks.starvation import starved
from splvm.evidence.formats.probestatus import ProbeStatus
from splvm.evidence.formats.workstatus import Cpus
from splvm.evidence.timeline import Sample
from splvm.evidence.verdict import Outcome, Reason, Verdict

# How often one has to have gone, and come, in the window.
OFTEN = 2


def _samples(case: Case, start: str, end: str) -> list[tuple[Sample[ProbeStatus], Cpus]]:
    if start not in case.marks or end not in case.marks:
        return []
    return [(it, it.value.cpus) for it in case.probes(start, end) if it.value.cpus is not None]


def check_comers(case: Case) -> Iterator[Complaint]:
    """One CPU alone was there when all was made, others went and came in the window, and all were there at the end."""
    inside, made, last = (_samples(case, *phases) for phases in (_WINDOW, _MADE, _REST))
    if not inside or not made or not last:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("the probe tells nothing of CPUs that go and come"))
        return
    if made[0][1].online != 1:
        text = f"{made[0][1].online} CPUs were there when taskqs and caches were made, and one was to be"
        yield Complaint(Outcome.INCONCLUSIVE, Reason(text, (made[0][0].seq,)))
    (first, before), (sample, after) = inside[0], inside[-1]
    went, came = after.went - before.went, after.came - before.came
    if min(went, came) < OFTEN:
        text = f"in the window a CPU went {went} times and came {came} times"
        excuse = starved(case, *_WINDOW)
        yield Complaint(Outcome.INCONCLUSIVE, Reason(f"{text}{excuse}", (first.seq, sample.seq)), excuse)
    sample, end = last[-1]
    if end.failed or end.online != end.present:
        text = f"{end.online} of {end.present} CPUs are there at the end; {end.failed} times the kernel refused one"
        excuse = starved(case, *_WINDOW)
        yield Complaint(Outcome.INCONCLUSIVE, Reason(f"{text}{excuse}", (sample.seq,)), excuse)


_WINDOW = ("window", "window-end")
_MADE = ("make", "window")
_REST = ("gone", "end")


def good_hotplug(case: Case) -> Verdict:
    (first, before), (last, after) = (_samples(case, *_WINDOW)[at] for at in (0, -1))
    text = (
        f"CPUs went {after.went - before.went} times and came {after.came - before.came} times in the window, and "
        f"those that came used what was made with one CPU alone"
    )
    reasons = (Reason(text, (first.seq, last.seq)), *good_queues(case).reasons, *good_kinds(case).reasons)
    return Verdict(Outcome.HEALTHY, reasons)
