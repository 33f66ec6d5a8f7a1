"""Runs' directories on their way into the history."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from splvm.errors import EvidenceError
from splvm.evidence.verdict import Verdict
from splvm.history.rows import make_run
from splvm.history.schema import RunRow
from splvm.record.names import RUN_FILE
from splvm.record.reader import is_being_written, last_record_s, read_console, read_facts
from splvm.report.issue import reproducer
from splvm.scenarios.judged import judge_run


def find_runs(tops: Iterable[Path]) -> tuple[list[Path], list[EvidenceError]]:
    """The directories of runs at and below `tops`, each once, sorted; and what keeps others from being looked for."""
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
                EvidenceError(f"{top}: no run is there or below", hint="give directories that `splvm` named")
            )
        found |= here
    return sorted(found), troubles


def read_run(directory: Path) -> RunRow:
    """A run as the history has it. Its verdict is given anew, from its evidence.

    :raises EvidenceError: when what is there cannot be read, or is not over.
    """
    if is_being_written(directory):
        # What it says now is not what it will have shown, and the history would have both.
        raise EvidenceError(f"{directory}: the run is not over", hint="import it when it is")
    evidence, verdict = judge_run(directory)
    return _row(directory, evidence.facts, verdict, evidence.console)


def keep_result(directory: Path, verdict: Verdict) -> RunRow:
    """The same of a run that has just been judged.

    :raises EvidenceError: when its files cannot be read.
    """
    return _row(directory, read_facts(directory), verdict, read_console(directory))


def _row(directory: Path, facts: Mapping[str, Any], verdict: Verdict, console: str) -> RunRow:
    return make_run(
        facts,
        verdict,
        console,
        directory=str(directory.absolute()),
        command=reproducer(facts),
        duration_s=last_record_s(directory),
    )


def read_runs(directories: Iterable[Path]) -> Iterator[tuple[Path, RunRow | EvidenceError]]:
    """Each of them, or what keeps it from being read: one that is damaged does not keep the others out."""
    for directory in directories:
        try:
            yield directory, read_run(directory)
        except EvidenceError as error:
            yield directory, error
