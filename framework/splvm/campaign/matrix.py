"""Many cells in one go: scenarios by kernels by variants by loads, as many guests at once as the host has room for.

Owns the directory of a matrix::

    matrix.json                    its plan, and every run so far; replaced as they come
    SCENARIO-KERNEL-VARIANT[-LOAD] directory of a cell's run; with repeats a directory that has them, 001 and so on

One that was interrupted goes on from there: what has a verdict is not run again.
"""

from __future__ import annotations

import itertools
import json
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

from splvm.campaign.campaignrun import CampaignRun, trouble_of
from splvm.campaign.planned import built_of, hashes_of, source_of
from splvm.campaign.processes import Job, JobResult, OnDone
from splvm.campaign.records import ended_verdict, records_below
from splvm.clock import Clock
from splvm.errors import EvidenceError, HarnessError, SetupError
from splvm.evidence.verdict import BAD
from splvm.history.cell import Cell
from splvm.log import note, step
from splvm.plainfile import MIB, read_plain
from splvm.record.cellfacts import PACKAGED
from splvm.record.jsonfile import write_json
from splvm.record.names import RUN_FILE
from splvm.record.reader import read_facts, read_file
from splvm.record.typedjson import from_json
from splvm.run.experiment import Experiment, attempt_directory
from splvm.run.loads import MOST_SEED, parse_loads
from splvm.run.prepare import Prepared, Wish, prepare
from splvm.scenarios.table import find_scenario

SCHEMA_VERSION = 3

MATRIX_FILE = "matrix.json"
# A hundred thousand runs.
_MOST_RUNS = 100_000
# Runs of a guest that the host starves.
_ATTEMPTS = 3
_MOST_BYTES = 128 * MIB


class _PlanRow(TypedDict):
    batch: str
    cells: list[dict[str, Any]]
    repeat: int
    seed: int
    spl: str
    patches: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class MatrixPlan:
    """What is to be run."""

    # The same for all its runs in the history, and no other's.
    batch: str
    cells: tuple[Cell, ...]
    # Of each cell.
    repeat: int
    # Of the loads' random numbers in the first run of each cell; every further one has the next.
    seed: int
    # Source of SPL and patches of all cells, as `run` takes them.
    spl: str = "debian"
    patches: tuple[Path, ...] = ()

    @classmethod
    def new(
        cls, cells: Sequence[Cell], repeat: int, *, spl: str = "debian", patches: Sequence[Path] = ()
    ) -> MatrixPlan:
        batch = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        return cls(batch, tuple(cells), repeat, secrets.randbelow(MOST_SEED - repeat), spl, tuple(patches))

    def to_json(self) -> dict[str, Any]:
        """As matrix.json has it."""
        cells, patches = [cell.to_json() for cell in self.cells], [str(patch) for patch in self.patches]
        return {
            "batch": self.batch,
            "cells": cells,
            "repeat": self.repeat,
            "seed": self.seed,
            "spl": self.spl,
            "patches": patches,
        }

    @classmethod
    def from_json(cls, told: object) -> MatrixPlan:
        """:raises ValueError: when it is no such plan."""
        row = from_json(told, _PlanRow)
        if not 1 <= row["repeat"] <= _MOST_RUNS or not 0 <= row["seed"] <= MOST_SEED - row["repeat"]:
            raise ValueError(f"repeat and seed are {row['repeat']} and {row['seed']}")
        cells = tuple(Cell.from_json(cell) for cell in row["cells"])
        if any(cell.parameters not in ((), (("clock", Clock.VIRTUAL),)) for cell in cells):
            raise ValueError("parameters that no matrix has")
        return cls(row["batch"], cells, row["repeat"], row["seed"], row["spl"], row["patches"])

    @property
    def todo(self) -> list[tuple[Cell, int]]:
        """All runs, each cell with its numbers from 1 on."""
        return [(cell, number) for cell in self.cells for number in range(1, self.repeat + 1)]

    def places(self) -> dict[tuple[Cell, int], Path]:
        """Where the directory of each run is, within that of the matrix."""
        bases: dict[str, Cell] = {}
        for cell in self.cells:
            name = base = re.sub(r"[^\w.-]+", "-", "-".join(cell.words))
            # Kernels of the user's own may differ in what a name of a directory cannot have.
            for count in itertools.count(2):
                if name not in bases:
                    break
                name = f"{base}.{count}"
            bases[name] = cell
        by_cell = {cell: Path(name) for name, cell in bases.items()}
        return {(cell, n): by_cell[cell] if self.repeat == 1 else by_cell[cell] / f"{n:03}" for cell, n in self.todo}


# Runs jobs and calls with each result: on this machine, or on others.
Runner = Callable[[Iterable[Job], OnDone], None]
# Called with each run as it ends, and with what came of its job if there was one.
OnRun = Callable[[CampaignRun, JobResult | None], None]


def read_matrix(out: Path) -> tuple[MatrixPlan, list[CampaignRun]]:
    """Plan and runs of a matrix that was begun; a run whose evidence is gone, or not what it was, is none of them.

    :raises EvidenceError: when there is none, its file is damaged, or its plan is another than that of its runs.
    """
    path = out / MATRIX_FILE
    try:
        told = json.loads(read_plain(path, _MOST_BYTES, follow=True))
        if told["schema_version"] != SCHEMA_VERSION:
            raise EvidenceError(
                f"{path} is of schema {told['schema_version']!r}, this program reads {SCHEMA_VERSION}; "
                "nothing was started",
                hint=f"begin a new matrix; `splvm history import {out}` keeps the ended runs",
            )
        plan, runs = MatrixPlan.from_json(told["plan"]), [CampaignRun.from_json(row) for row in told["runs"]]
    except FileNotFoundError:
        raise EvidenceError(
            f"{out} has no {MATRIX_FILE}", hint="give the directory that `splvm matrix` named"
        ) from None
    except OSError as error:
        raise EvidenceError(f"{path}: {error.strerror}") from error
    except (LookupError, ValueError, TypeError, ArithmeticError, AttributeError, RecursionError) as error:
        raise EvidenceError(f"{path} is damaged: {error}", hint="begin a new matrix") from error
    places, kept, listed, words = plan.places(), [], set[tuple[Cell, int]](), set[str]()
    _refuse(path, _outside_of_plan(plan, runs, out, places))
    for run in runs:
        is_twice = (run.cell, run.number) in listed
        listed.add((run.cell, run.number))
        trouble = "it is listed twice" if is_twice else _find_trouble(run, out, places, plan, words)
        if trouble:
            note(f"{run.cell}, run {run.number}: it will run again, because {trouble}")
        else:
            kept.append(run)
    taken = {(run.cell, run.number): run for run in _unlisted(kept, out, places, plan, words)}
    kept = [*(run for run in kept if (run.cell, run.number) not in taken), *taken.values()]
    _refuse(path, _bad_and_unlisted(kept, out, places, plan))
    _refuse(path, _built_otherwise(plan, kept, out, places))
    return plan, kept


def _refuse(path: Path, doubts: Iterator[str]) -> None:
    """:raises EvidenceError: with the first doubt, if there is one."""
    if doubt := next(doubts, ""):
        raise EvidenceError(f"{path}: {doubt}; nothing was started", hint="begin a new matrix")


def _outside_of_plan(
    plan: MatrixPlan, runs: Sequence[CampaignRun], out: Path, places: Mapping[tuple[Cell, int], Path]
) -> Iterator[str]:
    """Runs of this matrix, in its list and in its directory, that its plan does not have: it had them once."""
    yield from (
        f"run {run.number} of {run.cell} is not in the plan" for run in runs if (run.cell, run.number) not in places
    )
    own = {attempt for place in places.values() for attempt in _attempts(out / place, plan)}
    for directory in records_below(out):
        if directory not in own and _is_of(directory, plan.batch):
            yield f"{directory} is a run of this matrix, and not in the plan"


def _built_otherwise(
    plan: MatrixPlan, kept: Sequence[CampaignRun], out: Path, places: Mapping[tuple[Cell, int], Path]
) -> Iterator[str]:
    """What records have otherwise than the plan asks of all cells."""
    source, patches = source_of(plan.spl), hashes_of(plan.patches)
    for run in kept:
        if run.outcome is None or run.directory is None:
            continue
        directory = (out / places[run.cell, run.number]).with_name(run.directory.name)
        for name, told, asked in built_of(read_facts(directory), source, patches):
            if told != asked:
                yield f"{name} of {directory} is not that of the plan"


def _is_of(directory: Path, batch: str) -> bool:
    """Whether a run is of a matrix. One that cannot be read, or is of another version, is if it names it."""
    try:
        return bool(read_facts(directory).get("batch") == batch)
    except EvidenceError:
        pass
    try:
        return batch.encode(errors="replace") in read_file(directory, RUN_FILE)
    except OSError:
        return False


def _attempts(place: Path, plan: MatrixPlan) -> list[Path]:
    """Directories of a run and of what is done again of it, if the host starves its guest.

    Each of a series counts, also one that says nothing.
    """
    return [attempt_directory(place, number) for number in range(1, (_ATTEMPTS if plan.repeat == 1 else 1) + 1)]


def _find_trouble(
    run: CampaignRun, out: Path, places: Mapping[tuple[Cell, int], Path], plan: MatrixPlan, words: set[str]
) -> str:
    """What keeps a run from being believed; empty if nothing does. One that came to no verdict has nothing to show."""
    if run.outcome is None:
        return ""
    place = places[run.cell, run.number]
    if run.directory is None:
        return "it has no directory"
    # Its directory was named from wherever that was; an attempt has another name than the first.
    directory = (out / place).with_name(run.directory.name)
    attempts = _attempts(out / place, plan)
    if directory not in attempts:
        return f"{directory} is no directory of this run"
    at = attempts.index(directory)
    if later := [each for each in attempts[at + 1 :] if each.exists()]:
        return f"{later[-1]} is a later one"
    if fed := [each for each in attempts[:at] if each.exists() and not _is_starved(each)]:
        return f"{fed[0]} is an earlier one that the host did not starve"
    return trouble_of(run, directory, plan.batch, seed=plan.seed + run.number - 1, words=words)


def _is_starved(directory: Path) -> bool:
    verdict = ended_verdict(directory)
    return verdict is not None and verdict.is_starved


def _unlisted(
    kept: Sequence[CampaignRun],
    out: Path,
    places: Mapping[tuple[Cell, int], Path],
    plan: MatrixPlan,
    words: set[str],
) -> Iterator[CampaignRun]:
    """Runs of the plan that ended, and that the list does not have, or not as they are: each by its last attempt."""
    for cell, number in missing(plan, kept):
        attempts = _attempts(out / places[cell, number], plan)
        there = [each for each in attempts if each.exists()]
        verdict = ended_verdict(there[-1]) if there else None
        if verdict is None or (verdict.is_starved and there[-1] != attempts[-1]):
            continue
        run = replace(CampaignRun.of_record(there[-1], verdict, number), cell=cell)
        if not _find_trouble(run, out, places, plan, words):
            note(f"{cell}, run {number}: it has ended, and is taken from {there[-1]}")
            yield run


def _bad_and_unlisted(
    kept: Sequence[CampaignRun], out: Path, places: Mapping[tuple[Cell, int], Path], plan: MatrixPlan
) -> Iterator[str]:
    """Bad records of this matrix that do not count: to run them again would remove what they say."""
    for cell, number in missing(plan, kept):
        for directory in _attempts(out / places[cell, number], plan):
            verdict = ended_verdict(directory)
            if verdict is not None and verdict.outcome in BAD and _is_of(directory, plan.batch):
                yield f"{directory} is {verdict.outcome}, and not as the list or the plan has that run"


def missing(plan: MatrixPlan, done: Iterable[CampaignRun]) -> list[tuple[Cell, int]]:
    """What has no verdict yet."""
    ended = {(run.cell, run.number) for run in done if run.outcome is not None}
    return [each for each in plan.todo if each not in ended]


def run_matrix(
    plan: MatrixPlan, out: Path, *, runner: Runner, wish: Wish, on_run: OnRun, done: Sequence[CampaignRun] = ()
) -> list[CampaignRun]:
    """Run every cell. One that cannot be prepared, or whose guest does not boot, does not keep the others from it.

    :param out: directory of the matrix.
    :param runner: what runs them once they are prepared.
    :param wish: what all cells have in common.
    :param on_run: called with each run as it ends.
    :param done: what there is of it already. What was trouble is tried again.
    :raises SetupError: when a build is another one than that of the runs that are done.
    """
    runs = [run for run in done if run.outcome is not None]
    about = plan.to_json()

    def keep() -> None:
        rows = [run.to_json() for run in runs]
        write_json(out / MATRIX_FILE, {"schema_version": SCHEMA_VERSION, "plan": about, "runs": rows})

    def take(run: CampaignRun, result: JobResult | None = None) -> None:
        runs.append(run)
        keep()
        on_run(run, result)

    keep()
    todo = missing(plan, runs)
    places = plan.places()
    ready: dict[Path, tuple[Cell, int, Experiment]] = {}
    experiments = dict(_prepare_all(dict.fromkeys(cell for cell, _ in todo), wish, plan))
    _check_builds(runs, experiments, out, places)
    for cell, number in todo:
        experiment = experiments[cell]
        if isinstance(experiment, HarnessError):
            take(CampaignRun(cell, number, None, experiment.message, None, 0.0))
            continue
        path = out / places[cell, number]
        # What an interrupted run has left.
        for attempt in _attempts(path, plan):
            shutil.rmtree(attempt, ignore_errors=True)
        ready[path] = (cell, number, experiment)
    jobs = [
        Job(str(cell), experiment.nth(n), path, len(_attempts(path, plan)))
        for path, (cell, n, experiment) in ready.items()
    ]
    runner(jobs, lambda result: take(CampaignRun.of(*ready[result.job.out], result), result))
    return runs


def _prepare_all(
    cells: Mapping[Cell, object], wish: Wish, plan: MatrixPlan
) -> Iterator[tuple[Cell, Experiment | HarnessError]]:
    """What each cell is to run, or why that cannot be; what several need is prepared once."""
    prepared: dict[tuple[str, str, str], Prepared | HarnessError] = {}
    wish = replace(wish, spl=plan.spl, patches=plan.patches)
    for cell in cells:
        clock = clock_of_cell(cell)
        key = (cell.kernel, cell.variant, clock)
        # What it was when the plan was made: a checkout may be on another branch by now.
        label = "" if cell.line == PACKAGED else cell.line
        try:
            if key not in prepared:
                with step(f"preparing {cell.kernel}, {cell.variant}"):
                    asked = replace(wish, kernel=cell.kernel, variant=cell.variant, label=label, clock=clock)
                    prepared[key] = prepare(asked)
            build = prepared[key]
            if isinstance(build, HarnessError):
                raise build
            loads = parse_loads([cell.loads] if cell.loads else [])
            experiment = build.experiment(find_scenario(cell.scenario), loads=loads, seed=plan.seed)
            yield cell, replace(experiment, facts={**experiment.facts, "batch": plan.batch})
        except HarnessError as error:
            prepared.setdefault(key, error)
            yield cell, error


def clock_of_cell(cell: Cell) -> Clock:
    """Its clock; a name without one means real time."""
    return Clock(dict(cell.parameters).get("clock", Clock.REAL))


def _check_builds(
    done: Iterable[CampaignRun],
    experiments: Mapping[Cell, Experiment | HarnessError],
    out: Path,
    places: Mapping[tuple[Cell, int], Path],
) -> None:
    """See that what is run next is what was run so far: a tree may have been edited, or a package be a newer one.

    :raises SetupError: when it is not.
    """
    now: dict[tuple[str, str, str], object] = {}
    for cell, experiment in experiments.items():
        if not isinstance(experiment, HarnessError):
            now |= {(cell.kernel, cell.variant, part): value for part, value in _parts(experiment.facts)}
    for run in done if now else ():
        place = places.get((run.cell, run.number))
        if place is None or run.directory is None:
            continue
        for part, value in _parts(read_facts((out / place).with_name(run.directory.name))):
            if now.get((run.cell.kernel, run.cell.variant, part), value) != value:
                raise SetupError(
                    f"{part} of {run.cell.kernel}, {run.cell.variant} is not what it was when {run.cell} was run; "
                    "nothing was started",
                    hint=f"put it back as it was, or begin anew: `splvm history import {out}` keeps what has run",
                )


def _parts(facts: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """What a guest is made of, by what was compiled and not by what came of it."""
    kernel, spl, zfs = (facts.get(name) or {} for name in ("kernel", "spl", "zfs"))
    told = (("the kernel", kernel.get("release")), ("the source of SPL", spl.get("content")))
    git = zfs.get("git") or {}
    of_zfs = [zfs.get("version"), git.get("commit"), git.get("dirty")] if zfs else None
    yield from ((name, value) for name, value in (*told, ("the source of ZFS", of_zfs)) if value)


def grid(runs: Sequence[CampaignRun]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heading and rows of a table: a row for each kernel, variant, load and clock, a column for each scenario."""
    scenarios = tuple(dict.fromkeys(run.cell.scenario for run in runs))
    builds = dict.fromkeys(replace(run.cell, scenario="") for run in runs)
    loaded = any(build.loads for build in builds)
    timed = len({clock_of_cell(build) for build in builds}) > 1
    rows = [
        (
            *(build.kernel, build.variant),
            *([build.loads] if loaded else []),
            *([clock_of_cell(build)] if timed else []),
            *(_tally([run for run in runs if run.cell == replace(build, scenario=name)]) for name in scenarios),
        )
        for build in builds
    ]
    head = ("kernel", "variant", *(["load"] if loaded else []), *(["clock"] if timed else []))
    return (*head, *scenarios), rows


def _tally(runs: Sequence[CampaignRun]) -> str:
    """The verdicts of one cell, how often each came, and what was expected where that is something else."""
    words = []
    for outcome in dict.fromkeys(run.outcome for run in runs):
        same = [run for run in runs if run.outcome is outcome]
        often = f" {len(same)}/{len(runs)}" if len(runs) > 1 else ""
        odd = "" if same[0].as_expected else f", not {' or '.join(sorted(same[0].expected)) or 'run'}"
        words.append(f"{outcome or 'TROUBLE'}{often}{odd}")
    return "; ".join(words)
