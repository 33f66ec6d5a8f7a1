"""Many cells in one go: scenarios by kernels by variants, as many guests at once as the host has room for.

Owns the directory of a matrix::

    matrix.json                    every cell that was run so far, replaced as they come
    SCENARIO-KERNEL-VARIANT        directory of a cell's run; with repeats a directory that has them, 001 and so on
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from framework.errors import HarnessError
from framework.evidence.verdict import Outcome
from framework.lab.experiment import Experiment
from framework.lab.pool import Job, JobResult, run_jobs
from framework.lab.prepare import Prepared, Wish, prepare
from framework.lab.rundir import write_json
from framework.lab.scenarios import find_scenario
from framework.log import step

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Cell:
    """One pair of experiment and build."""

    scenario: str
    kernel: str
    variant: str

    def __str__(self) -> str:
        return f"{self.scenario} {self.kernel} {self.variant}"


@dataclass(frozen=True, slots=True)
class CellRun:
    """One run of a cell."""

    cell: Cell
    # Verdicts that count as expected; empty if the cell came to nothing before its run.
    expected: frozenset[Outcome]
    # None if there was trouble.
    outcome: Outcome | None
    # The first reason of the verdict, or the trouble.
    reason: str
    # Of the run that counts; None if there is none.
    directory: Path | None
    # Of the host, for all of its runs.
    seconds: float

    @property
    def as_expected(self) -> bool:
        """Whether the verdict is one of those that were expected."""
        return self.outcome in self.expected

    def to_json(self) -> dict[str, Any]:
        """As matrix.json has it."""
        return {
            "scenario": self.cell.scenario,
            "kernel": self.cell.kernel,
            "variant": self.cell.variant,
            "verdict": self.outcome,
            "expected": sorted(self.expected),
            "as_expected": self.as_expected,
            "reason": self.reason,
            "directory": str(self.directory) if self.directory else None,
            "seconds": round(self.seconds, 1),
        }


OnRun = Callable[[CellRun], None]


def plan(scenarios: Sequence[str], kernels: Sequence[str], variants: Sequence[str]) -> list[Cell]:
    """The cells, in the order in which they are run: one kernel after the other."""
    return [Cell(scenario, kernel, variant) for kernel in kernels for variant in variants for scenario in scenarios]


def run_matrix(
    cells: Sequence[Cell], out: Path, *, repeat: int, at_once: int, wish: Wish, on_run: OnRun
) -> list[CellRun]:
    """Run every cell. One that cannot be prepared, or whose guest does not boot, does not keep the others from it.

    :param out: directory of the matrix.
    :param wish: what all cells have in common.
    :param on_run: called with each run as it ends.
    """
    done: list[CellRun] = []

    def take(run: CellRun) -> None:
        done.append(run)
        write_json(out / "matrix.json", {"schema_version": SCHEMA_VERSION, "runs": [run.to_json() for run in done]})
        on_run(run)

    experiments: dict[Path, tuple[Cell, Experiment]] = {}
    for cell, experiment in _prepare_all(cells, wish):
        if isinstance(experiment, HarnessError):
            take(CellRun(cell, frozenset(), None, experiment.message, None, 0.0))
            continue
        base = out / re.sub(r"[^\w.-]+", "-", f"{cell.scenario}-{cell.kernel}-{cell.variant}")
        for number in range(1, repeat + 1):
            experiments[base if repeat == 1 else base / f"{number:03}"] = (cell, experiment)
    # Each of a series counts, also one that says nothing; a single run is done again if the guest was starved.
    attempts = 3 if repeat == 1 else 1
    jobs = [Job(str(cell), experiment, path, attempts) for path, (cell, experiment) in experiments.items()]
    run_jobs(jobs, at_once, lambda result: take(_cell_run(*experiments[result.job.out], result)))
    return done


def _prepare_all(cells: Sequence[Cell], wish: Wish) -> Iterator[tuple[Cell, Experiment | HarnessError]]:
    """What each cell is to run, or why that cannot be; what several need is prepared once."""
    prepared: dict[tuple[str, str], Prepared | HarnessError] = {}
    for cell in cells:
        key = (cell.kernel, cell.variant)
        try:
            if key not in prepared:
                with step(f"preparing {cell.kernel}, {cell.variant}"):
                    prepared[key] = prepare(replace(wish, kernel=cell.kernel, variant=cell.variant))
            ready = prepared[key]
            if isinstance(ready, HarnessError):
                raise ready
            yield cell, ready.experiment(find_scenario(cell.scenario))
        except HarnessError as error:
            prepared.setdefault(key, error)
            yield cell, error


def _cell_run(cell: Cell, experiment: Experiment, result: JobResult) -> CellRun:
    if not result.runs:
        return CellRun(cell, experiment.expected, None, result.trouble, None, result.seconds)
    verdict, directory = result.last
    return CellRun(cell, experiment.expected, verdict.outcome, verdict.reasons[0].text, directory, result.seconds)


def grid(runs: Sequence[CellRun]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heading and rows of a table: a row for each kernel and variant, a column for each scenario."""
    scenarios = tuple(dict.fromkeys(run.cell.scenario for run in runs))
    builds = dict.fromkeys((run.cell.kernel, run.cell.variant) for run in runs)
    rows = [
        (*build, *(_tally([run for run in runs if run.cell == Cell(scenario, *build)]) for scenario in scenarios))
        for build in builds
    ]
    return ("kernel", "variant", *scenarios), rows


def _tally(runs: Sequence[CellRun]) -> str:
    """The verdicts of one cell, how often each came, and what was expected where that is something else."""
    words = []
    for outcome in dict.fromkeys(run.outcome for run in runs):
        same = [run for run in runs if run.outcome is outcome]
        often = f" {len(same)}/{len(runs)}" if len(runs) > 1 else ""
        odd = "" if same[0].as_expected else f", not {' or '.join(sorted(same[0].expected)) or 'run'}"
        words.append(f"{outcome or 'TROUBLE'}{often}{odd}")
    return "; ".join(words)
