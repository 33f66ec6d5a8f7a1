"""Runs' directories on their way into the history."""

from __future__ import annotations

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
from splvm.record.reader import last_record_s, read_console, read_facts
from splvm.record.seal import find_damage
from splvm.report.issue import reproducer
from splvm.report.summary import plain
from splvm.scenarios.judged import judge_run


def find_runs(tops: Iterable[Path]) -> list[Path]:
    """The directories of runs at and below `tops`, each once, sorted.

    :raises EvidenceError: when there is none at or below one of them.
    """
    found: set[Path] = set()
    for top in tops:
        here = {path.parent.absolute() for path in top.rglob(RUN_FILE)}
        if not here:
            raise EvidenceError(f"{top}: no run is there or below", hint="give directories that `splvm` named")
        found |= here
    return sorted(found)


def keep_batches(tops: Iterable[Path], history: History) -> None:
    """Say of the matrices at and below `tops` what they were to run, and whether they came to their end.

    What the history knows already of one that is not whole here is left as it is. A matrix.json that cannot be read
    tells nothing.
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
    """A run as the history has it. Its verdict is given anew, from its evidence.

    :raises EvidenceError: when what is there cannot be read.
    """
    evidence, verdict = judge_run(directory)
    return _row(directory, evidence.facts, verdict, evidence.console, evidence.damage)


def keep_result(directory: Path, verdict: Verdict) -> RunRow:
    """The same of a run that has just been judged.

    :raises EvidenceError: when its files cannot be read.
    """
    facts = read_facts(directory)
    try:
        damage = find_damage(directory, facts)
    except OSError as error:
        raise EvidenceError(f"{directory} cannot be read: {error}") from error
    return _row(directory, facts, verdict, read_console(directory), damage)


def _row(directory: Path, facts: Mapping[str, Any], verdict: Verdict, console: str, damage: Sequence[str]) -> RunRow:
    return make_run(
        facts,
        verdict,
        console,
        directory=str(directory.absolute()),
        command=reproducer(facts),
        duration_s=last_record_s(directory),
        damage=damage,
    )


def read_runs(directories: Iterable[Path]) -> Iterator[tuple[Path, RunRow | EvidenceError]]:
    """Each of them, or what keeps it from being read: one that is damaged does not keep the others out."""
    for directory in directories:
        try:
            yield directory, read_run(directory)
        except EvidenceError as error:
            yield directory, error
