"""The command that puts historic bugs back, to see whether they would be noticed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from splvm.campaign.historybugs import Answer, Bug, BugRun, choose, history_table, run_bugs, tell
from splvm.campaign.processes import run_jobs
from splvm.cli.options import (
    MOST_RUNS,
    AccelOption,
    JobsOption,
    JsonOption,
    PatchOption,
    SeedOption,
    SplOption,
    TemplateOption,
    claim_directory,
    count_jobs,
    kernel_names,
    make_console,
    make_wish,
    pick_seed,
    print_json,
)
from splvm.errors import HarnessError
from splvm.record.jsonfile import write_json
from splvm.report.summary import plain
from splvm.report.tables import listing

SCHEMA_VERSION = 1
REPORT_FILE = "history-bugs.json"


def history_bugs(
    bug: Annotated[
        list[str] | None,
        typer.Argument(
            help="Rows of the table, by name or by the beginning of the fix; by default all.", metavar="[BUG]..."
        ),
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only rows of this kind; may be given again.", metavar="KIND")
    ] = None,
    kernel: Annotated[
        str | None,
        typer.Option(
            help="Kernel, as `run` takes it; by default that of each row. Bugs that take another kernel are left out.",
            metavar="ID",
        ),
    ] = None,
    spl: SplOption = "debian",
    spl_patch: PatchOption = None,
    repeat: Annotated[int, typer.Option(help="Runs of each bug.", min=1, max=MOST_RUNS, metavar="N")] = 1,
    listed: Annotated[bool, typer.Option("--list", help="List the table, and run nothing.")] = False,
    jobs: JobsOption = "1",
    seed: SeedOption = None,
    accel: AccelOption = "auto",
    template: TemplateOption = True,
    out: Annotated[Path | None, typer.Option(help="Directory for the evidence.", metavar="DIR")] = None,
    as_json: JsonOption = False,
) -> None:
    """Put bugs that SPL once had back into a source of today, and say which of them a scenario notices.

    A bug is noticed if the verdict is the one that was written down, for the reason that was written down. The same
    scenario is run without the bug first. The exit status is 0 if every bug was noticed and every run without one is as
    expected. It is 1 otherwise, and 3 if trouble of the host or the harness was the cause, or a bug cannot be put back.
    """
    table = history_table()
    where = kernel_names([kernel])[0] if kernel else ""
    chosen = table if listed and not (bug or kind or kernel) else choose(table, bug or (), kind or (), where)
    if listed:
        _list(chosen, as_json=as_json)
        return
    wish = make_wish("", "", spl, spl_patch, accel, clones=template)
    at_once = count_jobs(jobs, wish.ram_mib)
    base = claim_directory(out, "history-bugs")
    first_seed = pick_seed(seed, repeat)
    told: list[BugRun] = []

    def keep(run: BugRun) -> None:
        """Whoever interrupts the command has what has ended by then."""
        tell(run)
        told.append(run)
        write_json(base / REPORT_FILE, report_json(told, base, spl=spl, kernel=where, seed=first_seed))

    runs = run_bugs(
        chosen,
        base,
        wish=wish,
        kernel=where,
        repeat=repeat,
        seed=first_seed,
        runner=lambda todo, on_done: run_jobs(todo, at_once, on_done),
        on_run=keep,
    )
    if as_json:
        print_json(report_json(runs, base, spl=spl, kernel=where, seed=first_seed))
    else:
        _show(runs, base)
    if any(run.answer is Answer.TROUBLE for run in runs):
        raise typer.Exit(HarnessError.exit_status)
    if any(run.answer is not (Answer.MISSED if run.is_control else Answer.NOTICED) for run in runs):
        raise typer.Exit(1)


def report_json(runs: Sequence[BugRun], base: Path, *, spl: str, kernel: str, seed: int) -> dict[str, object]:
    """As history-bugs.json has it."""
    return {
        "schema_version": SCHEMA_VERSION,
        "directory": str(base),
        "spl": spl,
        "kernel": kernel or None,
        "seed": seed,
        "counts": Counter(run.answer.value for run in runs if not run.is_control),
        "bugs": [run.to_json() for run in runs if not run.is_control],
        "controls": [
            {
                "scenario": run.bug.scenario,
                "variant": run.bug.variant,
                "kernel": run.kernel,
                "clock": run.bug.clock,
                "as_expected": run.answer is Answer.MISSED,
                "verdict": run.outcome,
                "reason": run.reason,
                "directory": str(run.directory) if run.directory else None,
            }
            for run in runs
            if run.is_control
        ],
    }


def _list(bugs: Sequence[Bug], *, as_json: bool) -> None:
    if as_json:
        rows = [
            {
                "name": it.name,
                "fix": it.fix,
                "repository": it.repository,
                "year": it.year,
                "kind": it.kind,
                "users_saw": it.users_saw,
                "scenario": it.scenario or None,
                "kernel": it.kernel or None,
                "why_not": it.why_not or None,
            }
            for it in bugs
        ]
        print_json({"schema_version": SCHEMA_VERSION, "bugs": rows})
        return
    rows_shown = [
        (it.year, it.name, it.kind, f"{it.scenario}, {it.kernel}".rstrip(", ") or f"no: {it.why_not}") for it in bugs
    ]
    make_console().print(listing(("year", "bug", "kind", "noticed by"), rows_shown, prose=3))


def _show(runs: Sequence[BugRun], base: Path) -> None:
    bugs = [run for run in runs if not run.is_control]
    rows = [
        (run.bug.year, run.bug.name, run.kernel, run.bug.scenario, run.answer, run.outcome or "-", plain(run.reason))
        for run in sorted(bugs, key=lambda run: (run.bug.year, run.bug.name, run.number))
    ]
    columns = ("year", "bug", "kernel", "scenario", "answer", "verdict", "reason")
    make_console().print(listing(columns, rows, prose=6))
    for run in runs:
        if run.is_control and run.answer is not Answer.MISSED:
            typer.echo(
                plain(f"without a bug: {run.bug.scenario} on {run.kernel}: {run.outcome or 'trouble'} {run.reason}")
            )
    counts = Counter(run.answer for run in bugs)
    others = [f"{counts[answer]} {answer}" for answer in Answer if answer is not Answer.NOTICED and counts[answer]]
    told = f"{counts[Answer.NOTICED]} of {len(bugs)} noticed for the reason that was written down"
    typer.echo("; ".join([told, *others]))
    typer.echo(f"evidence: {base}")
