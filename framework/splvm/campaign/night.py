"""A matrix and its history: every run becomes a row as it ends, and what is to come is estimated from what was.

A database that cannot be reached keeps no run from being run: what could not be added is tried again at the end, and
stays in the matrix's directory whatever happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from statistics import median

from splvm.campaign.campaignrun import CampaignRun
from splvm.campaign.keep import keep_result
from splvm.campaign.processes import JobResult
from splvm.errors import HarnessError
from splvm.history.cell import Cell
from splvm.history.database import History
from splvm.history.rows import make_trouble
from splvm.history.schema import TROUBLE, RunRow
from splvm.log import note
from splvm.report.summary import plain
from splvm.run.prepare import find_any_kernel, spec_of

# Seconds of a run of which nothing is known.
_GUESS_S = 12.0
# Runs of a cell that are asked for.
_LAST = 20


def as_kept(cell: Cell) -> Cell:
    """A cell as the history has it: a kernel's id may be shorter than what the user calls it."""
    return replace(cell, kernel=spec_of(find_any_kernel(cell.kernel)).id)


class Keeper:
    """Adds runs to a history.

    :param history: open. It says from now on that the matrix is under way.
    :param planned: runs that the matrix has in all.
    """

    def __init__(self, history: History, batch: str, planned: int) -> None:
        self._history = history
        self._batch = batch
        self._planned = planned
        self._waiting: list[RunRow] = []
        try:
            history.keep_batch(batch, planned, ended=False)
        except HarnessError as error:
            note(plain(f"not in the history yet: {error.message}"))

    def take(self, run: CampaignRun, result: JobResult | None) -> None:
        """Add one that has ended, with those before it that said nothing because the host starved their guests."""
        try:
            self._waiting += self._rows(run, result)
            self.flush()
        except HarnessError as error:
            note(plain(f"not in the history yet: {error.message}"))

    def _rows(self, run: CampaignRun, result: JobResult | None) -> list[RunRow]:
        """:raises EvidenceError: when a run's files cannot be read."""
        cell, now = as_kept(run.cell), datetime.now(UTC)
        # Each start counts as a run, also one that was lost with its machine.
        lost = [
            make_trouble(cell, self._batch, run.number, f"{machine} was lost while it ran this", at=at, duration_s=0.0)
            for count, machine in enumerate(run.lost)
            for at in [now - timedelta(milliseconds=len(run.lost) - count)]
        ]
        if result is not None and result.runs:
            return lost + [keep_result(directory, verdict) for verdict, directory in result.runs]
        return [*lost, make_trouble(cell, self._batch, run.number, run.reason, at=now, duration_s=run.seconds)]

    def end(self) -> None:
        """All runs have ended: add what is still to be added, and say so.

        :raises SetupError: when the database says no.
        """
        self.flush()
        self._history.keep_batch(self._batch, self._planned, ended=True)

    def flush(self) -> None:
        """Add what is still to be added.

        :raises SetupError: when the database says no.
        """
        self._history.add(self._waiting)
        self._waiting.clear()


def estimate_s(todo: Sequence[Cell], history: History, at_once: int) -> tuple[float, int]:
    """How long runs will take, and of how many of their cells that is known.

    :param todo: the cell of each run.
    :returns: seconds of the host, by the median of each cell's last runs; what is not known counts as others do.
    """
    known: dict[Cell, float] = {}
    for cell in dict.fromkeys(todo):
        told = [
            run.duration_s
            for run in history.runs(as_kept(cell), limit=_LAST)
            if run.duration_s and run.verdict != TROUBLE
        ]
        if told:
            known[cell] = median(told)
    guess = median(known.values()) if known else _GUESS_S
    return sum(known.get(cell, guess) for cell in todo) / at_once, len(known)
