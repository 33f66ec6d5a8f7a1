"""When it began: how long a run went well until what its verdict is about. Nothing is judged by it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from splvm.evidence.checks.case import Case
from splvm.evidence.timeline import Sample
from splvm.evidence.verdict import Outcome, Reason

# What has a beginning that the samples of its reason show: of a standstill they are those in which nothing moved, of
# a guest that is lost the last one.
_DATED = (Outcome.LOST, Outcome.STALLED, Outcome.NO_RECOVERY)


def onset_s(case: Case, outcome: Outcome, reason: Reason) -> float | None:
    """Seconds of guest time from the pull of the lever to the beginning of a standstill.

    Without a lever they are from the beginning of the load, or else of the window.

    :param reason: the first of the verdict.
    :returns: None where the evidence does not tell.
    """
    if outcome not in _DATED or not reason.samples or "window" not in case.marks:
        return None
    timeline = case.timeline
    read: Iterable[Sample[Any]] = chain(
        *(timeline.probe, timeline.slab, timeline.tasks, timeline.load, timeline.txgs, timeline.blocked),
        *timeline.other.values(),
    )
    began_ns = next((sample.start_ns for sample in read if sample.seq == reason.samples[0]), None)
    # Where there is no lever, what leads to it is the load.
    pulled_ns = case.pulled_ns if case.pulled_ns != case.marks["window"] else case.marks.get("load", case.pulled_ns)
    return None if began_ns is None else round(max(0, began_ns - pulled_ns) / 1e9, 3)
