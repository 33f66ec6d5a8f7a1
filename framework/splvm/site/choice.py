"""What a site is about: which cells and runs of a history get a page, and what is remarked of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from splvm.errors import EvidenceError
from splvm.history.database import History, Recent
from splvm.history.judgement import Remark, RemarkKind, judge_figures, judge_nights
from splvm.history.knownissues import KnownIssue
from splvm.history.schema import RunRow
from splvm.site.trends import NAMES

# Runs of a cell that are looked at, those of its line in the overview, and those of a matrix at most.
CELL_RUNS = 60
LAST = 20
_BATCH_RUNS = 20_000

# Remarks that are told first, come first.
_URGENCY = (
    RemarkKind.REGRESSION,
    RemarkKind.EXPIRED,
    RemarkKind.NEW_FINGERPRINT,
    RemarkKind.STREAK,
    RemarkKind.FLIP,
    RemarkKind.CHANGE,
    RemarkKind.KNOWN,
)


@dataclass(frozen=True, slots=True)
class CellNews:
    """A cell with its last runs and what they say."""

    recent: Recent
    remarks: tuple[Remark, ...]

    @property
    def last(self) -> RunRow:
        return self.recent.runs[-1]

    @property
    def line(self) -> tuple[RunRow, ...]:
        """The runs of its line in the overview, the oldest first."""
        return self.recent.runs[-LAST:]


@dataclass(frozen=True, slots=True)
class Choice:
    """What a site shows."""

    cells: tuple[CellNews, ...]
    # Those that get a page, the newest first.
    runs: tuple[RunRow, ...]
    # In words: all, one matrix, or some days.
    what: str

    def remarks(self) -> list[tuple[CellNews, Remark]]:
        """All of them, regressions first."""
        told = [(cell, remark) for cell in self.cells for remark in cell.remarks]
        return sorted(told, key=lambda it: (_URGENCY.index(it[1].kind), str(it[0].recent.cell)))


def choose(
    history: History,
    *,
    batch: str = "",
    since_days: int | None = None,
    most: int = 100,
    known: Sequence[KnownIssue] = (),
) -> Choice:
    """Ask the history.

    :param batch: only cells and runs of this matrix, as they were at its end; empty: all.
    :param since_days: only runs of the last `since_days` days.
    :param most: runs that get a page.
    :param known: issues that are no regression.
    :raises EvidenceError: when there is no such run.
    """
    now = datetime.now(UTC)
    since = now.replace(tzinfo=None) - timedelta(days=since_days) if since_days is not None else None
    runs = history.runs(since=since, batch=batch or None, limit=_BATCH_RUNS if batch else most)
    what = f"matrix {batch}" if batch else "all runs"
    what += f" of the last {since_days} days" if since_days is not None else ""
    if not runs:
        raise EvidenceError(f"the history has no run: {what}", hint="`splvm history list` shows its cells")
    recent = history.recent(CELL_RUNS, NAMES, until=runs[0].started if batch else None)
    if batch:
        ours = {run.cell for run in runs}
        recent = [each for each in recent if each.cell in ours]
    elif since is not None:
        recent = [each for each in recent if each.runs[-1].started >= since]
    cells = (
        CellNews(each, (*judge_nights(each.runs, known, now.date()), *judge_figures(each.runs))) for each in recent
    )
    return Choice(tuple(cells), tuple(runs[:most]), what)
