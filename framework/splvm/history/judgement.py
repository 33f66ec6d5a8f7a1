"""What the runs of one cell say over the nights. Pure.

Every run counts as it is: one that was done again is another run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from splvm.evidence.verdict import Outcome
from splvm.history.knownissues import KnownIssue, find_known
from splvm.history.schema import TROUBLE, RunRow
from splvm.record.cellfacts import UNKNOWN

# Runs on either side of a change that are asked for, and how unlikely it has to be where there is none.
_LEAST = 5
_LEVEL = 0.01
# A smaller difference, standardized, is not that unlikely even where only one split is possible.
_LEAST_SCORE = 2.4
_SHUFFLES = 1999
_SEED = 1
# Numbers that are worked on at once.
_AT_ONCE = 1 << 16


class RemarkKind(StrEnum):
    """What was noticed."""

    # The last run is not as expected, and the last one before its streak was.
    REGRESSION = "regression"
    # The last run's verdict is another one than that of the run before, on the same modules.
    FLIP = "flip"
    # So many runs in a row, the last among them, are not as expected.
    STREAK = "streak"
    # The last run's trouble was never seen before in this cell.
    NEW_FINGERPRINT = "new fingerprint"
    # The last run's trouble is that of a known issue; it is no regression then, and nothing new.
    KNOWN = "known issue"
    # It was, until a day that is over.
    EXPIRED = "expired issue"
    # The last matrix has not come to its end, so what is said rests on a part of it.
    INTERRUPTED = "interrupted"
    # A figure of runs that were as expected became larger or smaller for good.
    CHANGE = "change"


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing that was noticed, and the run that it was noticed against."""

    kind: RemarkKind
    text: str
    against: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """Where a figure changed for good."""

    # Index of the first value that is of the later ones.
    at: int
    before: float
    after: float
    # How likely values in random order have so clear a change somewhere.
    p: float


def judge_nights(runs: Sequence[RunRow], known: Sequence[KnownIssue] = (), today: date = date.min) -> list[Remark]:
    """What the last run of a cell says beside those before it.

    What came to no verdict says nothing, and runs of an unknown line are compared with nothing.

    :param runs: of one cell, the oldest first.
    :param known: issues whose trouble is looked after already.
    :param today: an issue that has expired by then excuses nothing.
    """
    runs = [run for run in runs if run.verdict != TROUBLE and run.line != UNKNOWN]
    if not runs:
        return []
    last, before = runs[-1], runs[:-1]
    remarks = []
    issue = None if last.as_expected else find_known(known, last.fingerprint)
    excused = issue is not None and not issue.is_expired(today)
    if issue is not None:
        kind, until = (RemarkKind.KNOWN, "until") if excused else (RemarkKind.EXPIRED, "looked after until")
        remarks.append(Remark(kind, f"{last.verdict}: {issue.link}, {until} {issue.expires}"))
    streak = next((number for number, run in enumerate(reversed(runs)) if run.as_expected), len(runs))
    if streak and streak < len(runs) and not excused:
        good = runs[-streak - 1]
        text = f"{last.verdict}, not {' or '.join(last.expected)}; the last that was as expected: {good.started:%F}"
        remarks.append(Remark(RemarkKind.REGRESSION, text, good.id))
    if streak > 1:
        remarks.append(Remark(RemarkKind.STREAK, f"{streak} runs in a row are not as expected"))
    # What the host has starved says nothing, and is followed by another run.
    told = [run for run in before if not (run.verdict == Outcome.INCONCLUSIVE and run.starved)]
    if told and last.verdict != told[-1].verdict and last.modules == told[-1].modules:
        text = f"{told[-1].verdict}, then {last.verdict}, with the same modules"
        remarks.append(Remark(RemarkKind.FLIP, text, told[-1].id))
    seen = {run.fingerprint for run in before if run.fingerprint}
    # That a control ends as badly as it has to is only news if it ended in another way before.
    is_news = seen or not last.as_expected
    if last.fingerprint and issue is None and last.fingerprint not in seen and is_news:
        remarks.append(
            Remark(RemarkKind.NEW_FINGERPRINT, f"{last.fingerprint} was not seen here before: {last.reason}")
        )
    return remarks


# Figures that are worth a remark: what a run costs those who wait, and how fast they get on.
_FIGURES = ("longest_gap_ms", "objects_per_s", "recovery_ms")


def judge_figures(runs: Sequence[RunRow]) -> list[Remark]:
    """Where figures of a cell changed for good. Only runs that were as expected are compared.

    :param runs: of one cell, the oldest first, with their figures.
    """
    remarks = []
    good = [
        (run, {figure.name: figure.value for figure in run.figures})
        for run in runs
        if run.as_expected and run.line != UNKNOWN
    ]
    for name in _FIGURES:
        told = [(run, figures[name]) for run, figures in good if name in figures]
        change = find_change([value for _, value in told])
        if change is not None:
            first = told[change.at][0]
            text = f"{name}: {change.before:g}, and {change.after:g} since {first.started:%F} (p = {change.p:.2g})"
            remarks.append(Remark(RemarkKind.CHANGE, text, first.id))
    return remarks


def find_change(values: Sequence[float]) -> Change | None:
    """Where values that come one after the other become larger or smaller for good; None if they do not.

    The split whose two sides differ most by H. B. Mann's and D. R. Whitney's statistic (1947), standardized. How likely
    so large a difference is by chance is asked of the same values in random orders, each with its own best split: that
    many splits were tried is so accounted for. Ranks, so one wild value does not matter.
    """
    if len(values) < 2 * _LEAST:
        return None
    import numpy
    from scipy.stats import rankdata

    count = len(values)
    left = numpy.arange(_LEAST, count - _LEAST + 1)
    scale = numpy.sqrt(left * (count - left) * (count + 1) / 12)
    ranks = rankdata(values)

    def scores(order: numpy.ndarray) -> numpy.ndarray:
        sums = order.cumsum(axis=-1)[..., _LEAST - 1 : count - _LEAST]
        return abs(sums - left * (count + 1) / 2) / scale

    found = scores(ranks)
    if found.max() < _LEAST_SCORE:
        return None
    random = numpy.random.default_rng(_SEED)
    # Many orders at a time: the time goes into calls, and not into numbers.
    rows = max(1, _AT_ONCE // count)
    orders = (numpy.tile(ranks, (min(rows, _SHUFFLES - done), 1)) for done in range(0, _SHUFFLES, rows))
    best = (scores(random.permuted(order, axis=1)).max(axis=1) for order in orders)
    p = (1 + sum(int((each >= found.max() - 1e-9).sum()) for each in best)) / (_SHUFFLES + 1)
    if p > _LEVEL:
        return None
    at = int(left[found.argmax()])
    return Change(at, float(numpy.median(values[:at])), float(numpy.median(values[at:])), float(p))
