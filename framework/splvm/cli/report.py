"""The command that writes the report site. It boots nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splvm.cli.history import HistoryOption, KnownOption, history_place
from splvm.cli.options import JsonOption, print_json
from splvm.report.summary import plain

SCHEMA_VERSION = 1


def report(
    history: HistoryOption = None,
    out: Annotated[
        Path, typer.Option(help="Directory of the site; an older site in it is replaced.", metavar="DIR")
    ] = Path("site"),
    batch: Annotated[str, typer.Option(help="Only cells and runs of this matrix, as of its end.", metavar="ID")] = "",
    since: Annotated[
        int | None, typer.Option(help="Only runs of the last DAYS days.", min=1, max=36_500, metavar="DAYS")
    ] = None,
    runs: Annotated[int, typer.Option(help="Pages for the newest N runs.", min=0, max=10_000, metavar="N")] = 100,
    known: KnownOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a report as a static site: overview, cells over time, runs with their plots, builds side by side.

    The report uses the history, and the directories of runs that still exist. A browser opens it without a network.
    """
    from splvm.history.database import History
    from splvm.history.knownissues import read_known
    from splvm.record.reader import read_evidence
    from splvm.scenarios.table import EXPECTED, WHATEVER_SPL
    from splvm.site.write import write_site

    def explain(scenario: str, variant: str) -> str:
        cell = EXPECTED.get((scenario, variant)) or WHATEVER_SPL.get(scenario)
        return f"{cell.on(honours=True)}, as {cell.why}" if cell is not None else ""

    issues = read_known(known) if known else []
    with History(history_place(history), create=False) as opened:
        built = write_site(
            opened, out, read_evidence, explain=explain, batch=batch, since_days=since, most_runs=runs, known=issues
        )
    if as_json:
        told = {"directory": str(built.directory), "pages": built.pages, "bytes": built.bytes}
        print_json({"schema_version": SCHEMA_VERSION, **told})
    else:
        text = f"report: {built.directory / 'index.html'} ({built.pages} pages, {built.bytes / 1e6:.1f} MB)"
        typer.echo(plain(text))
