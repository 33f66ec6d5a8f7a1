"""Commands of the history: what runs showed over time. They boot nothing.

The database's libraries are only imported where a database is opened: they take as long as all other imports.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splvm.cli.options import JsonOption, make_console, print_json
from splvm.errors import EvidenceError, SetupError, UsageError
from splvm.host.store import Store
from splvm.log import note
from splvm.record.cellfacts import PACKAGED
from splvm.report.summary import plain
from splvm.report.tables import listing

if TYPE_CHECKING:
    from splvm.history.cell import Cell
    from splvm.history.schema import RunRow

SCHEMA_VERSION = 1

# More runs than a matrix has.
_MOST_EXPORTED = 1_000_000

app = typer.Typer(
    help="Keep runs in a database, and compare them over time.", no_args_is_help=True, rich_markup_mode=None
)

HistoryOption = Annotated[
    str | None,
    typer.Option(
        "--history",
        envvar="SPLVM_HISTORY",
        help="The database: a file of SQLite, or a URL of SQLAlchemy; by default history.sqlite in the store.",
        metavar="URL",
    ),
]
KnownOption = Annotated[
    Path | None,
    typer.Option(
        help="Known issues: a TOML file of [[issue]], each with fingerprint, link and the date on which it expires.",
        metavar="FILE",
    ),
]
LimitOption = Annotated[int, typer.Option(help="At most this number of runs, the newest.", min=1, max=100_000)]


def history_place(given: str | None) -> str | Path:
    """The given database, or else the file in the store."""
    return given or Store.default_root() / "history.sqlite"


@app.command("import")
def import_runs(
    directories: Annotated[
        list[Path],
        typer.Argument(help="Directories of runs, or directories that contain such directories.", metavar="DIR..."),
    ],
    history: HistoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add recorded runs to the history.

    Each run is judged again, from its evidence. A run that is already in the history stays as it is. The exit status is
    1 if a run could not be read, or is another copy of a run that is there, with another record; the other runs are
    added.
    """
    from splvm.campaign.keep import find_runs, keep_batches, read_runs
    from splvm.history.database import History

    added, known, damaged = 0, 0, []
    found, troubles = find_runs(directories)
    if not found and len(troubles) == 1:
        raise troubles[0]
    for trouble in troubles:
        damaged.append({"directory": "", "reason": trouble.message})
        note(plain(f"not added: {trouble.message}"))
    with History(history_place(history)) as opened:
        for directory, run in read_runs(found):
            if isinstance(run, EvidenceError):
                damaged.append({"directory": str(directory), "reason": run.message})
                named = "" if str(directory) in run.message else f"{directory}: "
                note(plain(f"not added: {named}{run.message}"))
            elif opened.add([run]):
                added += 1
            elif (twin := opened.twin(run)) is not None:
                reason = _copied(run, twin)
                damaged.append({"directory": str(directory), "reason": reason})
                note(plain(f"not added: {directory}: {reason}"))
            else:
                known += 1
        keep_batches(directories, opened)
    if as_json:
        print_json({"schema_version": SCHEMA_VERSION, "added": added, "known": known, "damaged": damaged})
    else:
        typer.echo(f"{added} added, {known} there already, {len(damaged)} not added")
    if damaged:
        raise typer.Exit(1)


def _copied(run: RunRow, twin: RunRow) -> str:
    """Why a run is not added: it is one that is there."""
    from splvm.history.database import differing

    other = ", ".join(differing(run, twin)) or "a part of the record that the history does not have"
    where = twin.directory or "a directory that it does not name"
    return f"the history has this run already, of {where}; this is another copy of it, and differs in {other}"


@app.command("list")
def list_cells(history: HistoryOption = None, as_json: JsonOption = False) -> None:
    """List the cells that have runs, each with its last run."""
    from splvm.history.database import History

    with History(history_place(history), create=False) as opened:
        cells = opened.overview()
    if as_json:
        rows = [{**each.cell.to_json(), **asdict(each), "cell": str(each.cell)} for each in cells]
        print_json({"schema_version": SCHEMA_VERSION, "cells": rows})
        return
    columns = ("cell", "runs", "last", "verdict", "expected")
    rows_shown = [
        (plain(str(each.cell)), each.runs, f"{each.started:%Y-%m-%d %H:%M}", each.verdict, _mark(each.as_expected))
        for each in cells
    ]
    make_console().print(listing(columns, rows_shown))


@app.command("show")
def show(
    cell: Annotated[str, typer.Argument(help="SCENARIO,KERNEL,VARIANT, or SCENARIO,KERNEL,VARIANT,LOADS.")],
    figure: Annotated[str | None, typer.Option(help="Also show this figure of each run.", metavar="NAME")] = None,
    line: Annotated[
        str, typer.Option(help="Runs of this line of builds; by default of the packaged builds.", metavar="NAME")
    ] = PACKAGED,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            help="Runs with this parameter in place of the scenario's own; may be given again.",
            metavar="NAME=VALUE",
        ),
    ] = None,
    history: HistoryOption = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """Show the runs of one cell, the oldest first: verdicts, fingerprints, figures."""
    from splvm.history.database import History
    from splvm.history.outputs import run_to_json

    wanted = _parse_cell(cell, line, parameter or ())
    with History(history_place(history), create=False) as opened:
        runs = opened.runs(wanted, limit=limit, figures=True)[::-1]
        near = [] if runs else _near(wanted, [each.cell for each in opened.overview()])
    if not runs:
        hint = " or ".join(f"`{_command(each)}`" for each in near) or "`splvm history list` has the cells"
        raise EvidenceError(f"{wanted}: the history has no run of it", hint=hint)
    if as_json:
        print_json(
            {"schema_version": SCHEMA_VERSION, "cell": wanted.to_json(), "runs": [run_to_json(run) for run in runs]}
        )
        return
    columns = ("started", "release", "SPL", "verdict", "expected", "fingerprint", *([figure] if figure else []))
    make_console().print(listing(columns, [_row(run, figure) for run in runs]))


@app.command("judge")
def judge_cells(
    history: HistoryOption = None,
    known: KnownOption = None,
    limit: LimitOption = 100,
    as_json: JsonOption = False,
) -> None:
    """Compare the last run of each cell with its earlier runs: regression, streak, flip, new trouble, slower.

    Figures are compared over all runs with the expected verdict. The exit status is 1 if there is a regression, or if
    the last matrix has not come to its end. A known issue causes no regression until it expires.
    """
    from splvm.history.database import History
    from splvm.history.judgement import Remark, RemarkKind, judge_figures, judge_nights
    from splvm.history.knownissues import read_known
    from splvm.history.outputs import find_gap

    issues, today, told = read_known(known) if known else [], datetime.now(UTC).date(), []
    with History(history_place(history), create=False) as opened:
        batch = opened.last_batch()
        gap = find_gap(opened.batch(batch), len(opened.runs(batch=batch, limit=_MOST_EXPORTED))) if batch else None
        if gap is not None:
            told.append((f"matrix {gap.batch}", Remark(RemarkKind.INTERRUPTED, gap.text)))
        for each in opened.overview():
            runs = opened.runs(each.cell, limit=limit, figures=True)[::-1]
            told += [(str(each.cell), remark) for remark in (*judge_nights(runs, issues, today), *judge_figures(runs))]
    if as_json:
        remarks = [{"cell": cell, **asdict(remark)} for cell, remark in told]
        print_json({"schema_version": SCHEMA_VERSION, "remarks": remarks})
    else:
        rows = [(plain(cell), remark.kind.value, plain(remark.text)) for cell, remark in told]
        make_console().print(listing(("cell", "what", "how"), rows) if rows else "nothing to report")
    if any(remark.kind in (RemarkKind.REGRESSION, RemarkKind.INTERRUPTED) for _, remark in told):
        raise typer.Exit(1)


class Format(StrEnum):
    """The format of exported runs."""

    JUNIT = "junit"
    KTAP = "ktap"
    JSON = "json"


@app.command("export")
def export(
    form: Annotated[Format, typer.Option("--format", help="JUnit's XML, the kernel's KTAP, or JSON.")] = Format.JUNIT,
    batch: Annotated[str | None, typer.Option(help="The matrix; by default the last matrix.", metavar="BATCH")] = None,
    known: KnownOption = None,
    history: HistoryOption = None,
    out: Annotated[Path | None, typer.Option(help="The file to write; by default stdout.", metavar="FILE")] = None,
) -> None:
    """Write the runs of a matrix for other programs.

    A known issue is `skipped` in JUnit and XFAIL in KTAP. A verdict that says nothing is an error. A matrix that has
    not come to its end is an error too.
    """
    from splvm.history.database import History
    from splvm.history.knownissues import read_known
    from splvm.history.outputs import find_gap, tell, to_json, to_junit, to_ktap

    issues = read_known(known) if known else []
    with History(history_place(history), create=False) as opened:
        wanted = batch or opened.last_batch()
        runs = opened.runs(batch=wanted, limit=_MOST_EXPORTED, figures=True) if wanted else []
        gap = find_gap(opened.batch(wanted), len(runs))
    if not runs and gap is None:
        raise EvidenceError(
            f"the history has no matrix {wanted}".rstrip(), hint="`splvm matrix` prints its batch at its end"
        )
    told = tell(runs, issues, datetime.now(UTC).date())
    text = {
        Format.JUNIT: lambda: to_junit(told, str(Path.cwd()), gap),
        Format.KTAP: lambda: to_ktap(told, gap),
        Format.JSON: lambda: json.dumps(to_json(told, gap), indent=2) + "\n",
    }[form]()
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SetupError(f"--out {out}: {error.strerror}") from error


def _parse_cell(text: str, line: str, parameters: Sequence[str]) -> Cell:
    from splvm.history.cell import Cell, read_parameters

    axes = text.split(",", 3)
    if len(axes) < 3 or not all(axes):
        raise UsageError(f"{text}: not a cell", hint="for example held-worker,debian-12,stock")
    try:
        given = tuple(pair for each in parameters for pair in read_parameters(each))
    except ValueError as error:
        raise UsageError(f"--parameter {error}", hint="for example --parameter memory=1024") from error
    scenario, kernel, variant, *loads = axes
    return Cell(scenario, kernel, variant, "".join(loads), line, given)


# Cells that a hint names.
_MOST_NEAR = 3


def _near(wanted: Cell, cells: Sequence[Cell]) -> list[Cell]:
    """Cells that differ from one in line and parameters alone, those of its line first; a few of them."""
    same = [each for each in cells if replace(each, line=wanted.line, parameters=wanted.parameters) == wanted]
    return sorted(same, key=lambda each: (each.line != wanted.line, each))[:_MOST_NEAR]


def _command(cell: Cell) -> str:
    """What shows the runs of a cell."""
    from splvm.history.cell import write_parameters

    axes = ",".join(filter(None, (cell.scenario, cell.kernel, cell.variant, cell.loads)))
    words = ["splvm", "history", "show", axes]
    if cell.line != PACKAGED:
        words += ["--line", cell.line]
    for pair in cell.parameters:
        words += ["--parameter", write_parameters([pair])]
    return plain(shlex.join(words))


def _row(run: RunRow, figure: str | None) -> tuple[object, ...]:
    version = f"{run.spl_version} [{run.tree}]" if run.tree else run.spl_version
    told = (f"{run.started:%Y-%m-%d %H:%M}", plain(run.release), plain(version), run.verdict)
    values = {each.name: each.value for each in run.figures}
    last = (f"{values[figure]:g}" if figure in values else "-",) if figure else ()
    return (*told, _mark(run.as_expected), run.fingerprint or "-", *last)


def _mark(as_expected: bool) -> str:
    return "yes" if as_expected else "NO"
