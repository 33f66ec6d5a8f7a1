"""Runs' directories on their way into the history."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from splvm.campaign.matrix import MATRIX_FILE, read_matrix
from splvm.errors import EvidenceError
from splvm.evidence.verdict import Verdict
from splvm.history.database import History
from splvm.history.rows import make_run
from splvm.history.schema import RunRow
from splvm.log import note
from splvm.record.names import RUN_FILE
from splvm.record.reader import is_being_written, last_record_s, read_console, read_damage, read_facts
from splvm.report.again import reproducer
from splvm.report.summary import plain
from splvm.scenarios.judged import judge_run


def find_runs(tops: Iterable[Path]) -> tuple[list[Path], list[EvidenceError]]:
    """The directories of runs at and below `tops`, each once, sorted; and the errors of the search."""
    found: set[Path] = set()
    troubles: list[EvidenceError] = []
    for top in tops:
        # A link could lead to what was looked at already, or out of it.
        failed: list[OSError] = []
        here = {
            Path(at).absolute()
            for at, below, files in os.walk(top, onerror=failed.append)
            if RUN_FILE in (*below, *files)
        }
        troubles += [EvidenceError(f"{error.filename or top}: {error.strerror}") for error in failed]
        if not here and not failed:
            troubles.append(
                EvidenceError(
                    f"{top}: it contains no run", hint="give the directories that `splvm` printed after `evidence:`"
                )
            )
        found |= here
    return sorted(found), troubles


def keep_batches(tops: Iterable[Path], history: History) -> None:
    """Keep, for each matrix at and below `tops`, the number of its planned runs and whether it came to its end.

    If a matrix is not whole here and the history knows it, the history stays as it is. A matrix.json that cannot be
    read is skipped with a note.
    """
    for path in sorted({path for top in tops for path in top.rglob(MATRIX_FILE)}):
        try:
            plan, done = read_matrix(path.parent)
        except EvidenceError as error:
            note(plain(error.message))
            continue
        ended = {(run.cell, run.number) for run in done} >= set(plan.todo)
        if ended or history.batch(plan.batch) is None:
            history.keep_batch(plan.batch, len(plan.todo), ended=ended)


def read_run(directory: Path) -> RunRow:
    """The row of a run for the history. Its verdict is given again, from its evidence.

    :raises EvidenceError: when the run cannot be read, or is not over.
    """
    if is_being_written(directory):
        # What it says now is not what it will have shown, and the history would have both.
        raise EvidenceError(f"{directory}: the run is not over", hint="import it when it is over")
    evidence, verdict = judge_run(directory)
    return _row(directory, evidence.facts, verdict, evidence.console, evidence.damage)


def keep_result(directory: Path, verdict: Verdict) -> RunRow:
    """The row of a run that has just been judged, for the history.

    :raises EvidenceError: when its files cannot be read.
    """
    facts = read_facts(directory)
    try:
        damage = read_damage(directory, facts)
    except OSError as error:
        raise EvidenceError(f"{directory} cannot be read: {error}") from error
    return _row(directory, facts, verdict, read_console(directory), damage)


def _row(directory: Path, facts: Mapping[str, Any], verdict: Verdict, console: str, damage: Sequence[str]) -> RunRow:
    return make_run(
        facts,
        verdict,
        console,
        directory=str(directory.absolute()),
        command=reproducer(facts, paths=True),
        duration_s=last_record_s(directory),
        damage=damage,
    )


def read_runs(directories: Iterable[Path]) -> Iterator[tuple[Path, RunRow | EvidenceError]]:
    """Each directory with its row, or with its error: a damaged run does not stop the others."""
    for directory in directories:
        try:
            yield directory, read_run(directory)
        except EvidenceError as error:
            yield directory, error
