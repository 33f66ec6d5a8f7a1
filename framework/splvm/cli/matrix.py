"""The command that runs many cells."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from splvm.builds.kernels import KERNELS
from splvm.builds.spl import check_inputs
from splvm.builds.variants import VARIANTS
from splvm.campaign.campaignrun import CampaignRun
from splvm.campaign.matrix import (
    SCHEMA_VERSION,
    MatrixPlan,
    Runner,
    clock_of_cell,
    grid,
    missing,
    read_matrix,
    run_matrix,
)
from splvm.campaign.plan import Axes, plan_cells, read_axes, tell_clocks
from splvm.campaign.processes import JobResult, run_jobs
from splvm.cli.coverage import said_of_coverage
from splvm.cli.history import HistoryOption, history_place
from splvm.cli.options import (
    MOST_RUNS,
    AccelOption,
    CoverageOption,
    DebugOption,
    JobsOption,
    JsonOption,
    KeysOption,
    LabelOption,
    PatchOption,
    TemplateOption,
    TrustOption,
    claim_again,
    claim_directory,
    count_jobs,
    kernel_names,
    make_console,
    make_wish,
    print_json,
)
from splvm.clock import Clock, ClockChoice
from splvm.errors import HarnessError, SetupError, UsageError
from splvm.history.cell import Cell
from splvm.host.capabilities import check_accelerator
from splvm.log import note, progress
from splvm.report.summary import plain
from splvm.report.tables import listing
from splvm.run.buildline import find_line
from splvm.run.clocks import Host
from splvm.run.coverage import gather_coverage
from splvm.run.prepare import Wish
from splvm.scenarios.table import ANYWHERE, SCENARIOS

_DEFAULT = Axes(scenarios=ANYWHERE, kernels=tuple(KERNELS), variants=tuple(VARIANTS), loads=("",), repeat=1)


def matrix(
    scenario: Annotated[
        str | None,
        typer.Option(
            help=f"Scenarios: {', '.join(SCENARIOS)}; by default all that need no special kernel.", metavar="NAMES"
        ),
    ] = None,
    kernel: Annotated[
        list[str] | None,
        typer.Option(help="Kernels, as `run` takes them; by default the kernels of the Debian suites.", metavar="IDS"),
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help=f"Variants: {', '.join(VARIANTS)}; by default all.", metavar="NAMES")
    ] = None,
    load: Annotated[
        list[str] | None,
        typer.Option(
            help="Loads beside the scenario, as `run` takes them, or `none`. Each further --load adds a row of cells.",
            metavar="NAMES",
        ),
    ] = None,
    spl: Annotated[
        str | None, typer.Option(help="Source of SPL, as `run` takes it; by default `debian`.", metavar="SOURCE")
    ] = None,
    spl_patch: PatchOption = None,
    debug: DebugOption = False,
    label: LabelOption = None,
    include: Annotated[
        list[str] | None,
        typer.Option(
            help="Only cells for which the expression holds, such as 'kernel =~ \"debian-1[12]\"'.", metavar="EXPR"
        ),
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No cells for which it holds.", metavar="EXPR")] = None,
    file: Annotated[
        Path | None, typer.Option(help="A TOML file with these settings; options override it.", metavar="FILE")
    ] = None,
    repeat: Annotated[
        int | None, typer.Option(help="Runs of each cell; every run counts.", min=1, max=MOST_RUNS, metavar="N")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show the cells and how long they will take, and end.")] = False,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with an interrupted matrix: cells with a verdict stay.", metavar="DIR"),
    ] = None,
    jobs: JobsOption = "auto",
    on: Annotated[
        str | None,
        typer.Option(
            help="A cluster to run on, as dask://HOST:PORT or tls://HOST:PORT; by default this machine.",
            metavar="CLUSTER",
        ),
    ] = None,
    keys: KeysOption = None,
    trust_network: TrustOption = False,
    accel: AccelOption = "auto",
    clock: Annotated[
        ClockChoice | None,
        typer.Option(
            help="Time of the guests: `virtual` is the number of the guest's instructions, in each cell whose scenario "
            "can be run so; other cells stay in real time. `auto`, the default, is virtual time under TCG on this "
            "machine, in cells whose scenario, loads and kernel were tried so."
        ),
    ] = None,
    also_real: Annotated[
        list[str] | None,
        typer.Option(help="Cells for which it holds are run in real time besides.", metavar="EXPR"),
    ] = None,
    coverage: CoverageOption = False,
    template: TemplateOption = True,
    history: HistoryOption = None,
    out: Annotated[Path | None, typer.Option(help="Directory for the evidence.", metavar="DIR")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run many cells: scenarios by kernels by variants by loads. Compare each verdict with the expected verdict.

    Each run has a fresh guest. Separate names by commas. --kernel may be given again; a kernel with a colon in its name
    needs its own --kernel. --spl, --spl-patch, --debug and --label apply to all cells. Expressions are those of
    rule-engine, with the names scenario, kernel, variant and load. splvm first fetches and builds everything. If the
    guest of one cell does not boot, the other cells still run. Every run becomes a row of the history.
    """
    given = Axes(
        scenarios=_words(scenario),
        kernels=tuple(kernel_names(kernel)) if kernel else None,
        variants=_words(variant),
        loads=tuple("" if each == "none" else each for each in load) if load else None,
        include=tuple(include) if include else None,
        exclude=tuple(exclude) if exclude else None,
        repeat=repeat,
        spl=spl,
        spl_patch=tuple(map(str, spl_patch)) if spl_patch else None,
        debug=debug or None,
        clock=clock,
        also_real=tuple(also_real) if also_real else None,
        label=label,
    )
    if resume is not None and (given != Axes() or file is not None or out is not None):
        raise UsageError("--resume goes on with the cells of the interrupted matrix; other cells cannot be named")
    wish = Wish(accelerator=accel, clones=template, cover=coverage)
    base = resume or out
    if not plan and resume:
        claim_again(resume)
    elif not plan and out:
        claim_directory(out, "matrix")
    chosen, done = read_matrix(resume) if resume else (_make_plan(given, file, wish, on), [])
    check_inputs(chosen.spl, chosen.patches)
    if coverage and on is not None:
        raise UsageError("--coverage: what is executed can be told of runs on this machine alone")
    virtual = sum(clock_of_cell(cell) is Clock.VIRTUAL for cell in chosen.cells)
    if coverage and not virtual:
        raise UsageError("--coverage: no cell is in virtual time", hint="--clock virtual")
    check_accelerator(accel)
    todo = missing(chosen, done)
    # Only imported here: its libraries take as long as all the rest.
    from splvm.campaign.night import Keeper, estimate_s
    from splvm.history.database import History

    with _place(on, jobs, wish, keys, trust_network) as (at_once, runner), History(history_place(history)) as opened:
        seconds, known = estimate_s([cell for cell, _ in todo], opened, at_once)
        of = f"by the last runs of {known} of the cells" if known else "a guess, for no cell was ever run"
        note(f"{len(chosen.cells)} cells, {len(todo)} runs to come, {at_once} at once: about {_span(seconds)}, {of}")
        if plan:
            _show_plan(chosen, todo, seconds, as_json=as_json)
            return
        base = base or claim_directory(None, "matrix")
        keeper, start = Keeper(opened, chosen.batch, len(chosen.todo)), time.monotonic()
        with progress(len(todo), "runs") as show:
            tell = _teller(len(todo), seconds, show)

            def on_run(run: CampaignRun, result: JobResult | None) -> None:
                keeper.take(run, result)
                tell(run)

            try:
                runs = run_matrix(chosen, base, runner=runner, wish=wish, on_run=on_run, done=done)
            except SetupError as error:
                hint = f"{error.hint or 'mend it'}; then `splvm matrix --resume {base}` goes on"
                raise SetupError(error.message, hint=hint) from error
        _show_runs(chosen, base, runs, time.monotonic() - start, as_json=as_json)
        if coverage:
            note(f"{said_of_coverage(gather_coverage(base), base)}, of the {virtual} cells in virtual time")
        try:
            keeper.end()
        except HarnessError as error:
            raise SetupError(error.message, hint=f"`splvm history import {base}` adds the missing runs") from error
    if not all(run.as_expected for run in runs):
        raise typer.Exit(1 if all(run.outcome for run in runs) else HarnessError.exit_status)


@contextmanager
def _place(
    on: str | None, jobs: str, wish: Wish, keys: Path | None, trust_network: bool
) -> Iterator[tuple[int, Runner]]:
    """The number of runs at once, and the function that runs them: here, or on a cluster."""
    if on is None:
        at_once = count_jobs(jobs, wish.ram_mib)
        yield at_once, lambda todo, on_done: run_jobs(todo, at_once, on_done)
        return
    if jobs != "auto":
        raise UsageError("--jobs is for this machine; on a cluster each worker has its own --jobs")
    from splvm.campaign.cluster import Cluster, parse_address

    with Cluster(parse_address(on, trust_network=trust_network), keys) as cluster:
        yield cluster.guests, cluster.run


def _make_plan(given: Axes, file: Path | None, common: Wish, on: str | None) -> MatrixPlan:
    """The plan of a new matrix.

    :param common: what the guests of all cells have in common.
    :param on: the cluster. Its workers may have another QEMU than this machine, or none for virtual time.
    :raises UsageError: when a name in `given` or `file` is unknown.
    """
    axes = given.over(read_axes(file) if file else Axes()).over(_DEFAULT)
    if on and axes.clock == ClockChoice.VIRTUAL:
        raise UsageError("virtual time is for guests of this machine, not for those of a cluster", hint="--clock real")
    patches = [Path(name) for name in axes.spl_patch or ()]
    wish = make_wish("", "", axes.spl or "debian", patches, "auto", debug=bool(axes.debug), label=axes.label)
    tree = check_inputs(wish.spl, wish.patches)
    # From here on the source has a whole path, for whoever resumes elsewhere.
    source = str(tree.name) if tree else wish.spl
    line = find_line(source, wish.patches, wish.label)
    host = Host.of(common) if on is None and axes.clock in (None, ClockChoice.AUTO) else None
    cells = [replace(cell, line=line) for cell in plan_cells(axes, host)]
    note(tell_clocks(cells, axes.clock, host))
    return MatrixPlan.new(cells, axes.repeat or 1, spl=source, patches=wish.patches)


def _words(text: str | None) -> tuple[str, ...] | None:
    return tuple(text.split(",")) if text else None


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _show_plan(plan: MatrixPlan, todo: Sequence[tuple[Cell, int]], seconds: float, *, as_json: bool) -> None:
    cells = list(dict.fromkeys(cell for cell, _ in todo))
    if as_json:
        rows = [cell.to_json() for cell in cells]
        print_json(
            {"schema_version": SCHEMA_VERSION, "cells": rows, "repeat": plan.repeat, "estimate_s": round(seconds)}
        )
        return
    rows_shown = [(c.scenario, c.kernel, c.variant, c.loads or "-", clock_of_cell(c)) for c in cells]
    make_console().print(listing(("scenario", "kernel", "variant", "load", "clock"), rows_shown))


def _show_runs(plan: MatrixPlan, base: Path, runs: Sequence[CampaignRun], seconds: float, *, as_json: bool) -> None:
    if as_json:
        rows = [run.to_json() for run in runs]
        print_json({"schema_version": SCHEMA_VERSION, "directory": str(base), "batch": plan.batch, "runs": rows})
        return
    make_console().print(listing(*grid(runs)))
    typer.echo(f"evidence: {base}")
    typer.echo(f"batch: {plan.batch}")
    good = sum(run.as_expected for run in runs)
    typer.echo(f"{good} of {len(runs)} runs as expected, in {seconds:.0f} s")


def _teller(total: int, estimate_s: float, show: Callable[[int, str], None]) -> Callable[[CampaignRun], None]:
    """A function that prints a line for each ended run, with the number of runs left and the seconds that they take.

    :param show: takes the number of ended runs, and the rest of the line in short.
    """
    start, count, odd = time.monotonic(), 0, 0

    def tell(run: CampaignRun) -> None:
        nonlocal count, odd
        count, odd = count + 1, odd + (not run.as_expected)
        spent = time.monotonic() - start
        # What the history said counts as one run, and less with each that has ended.
        left = (total - count) * (spent + estimate_s / total) / (count + 1)
        show(count, f"{odd} not as expected, {_span(left)} left")
        mark = "as expected" if run.as_expected else "NOT EXPECTED"
        note(plain(f"{run.outcome or 'TROUBLE'} ({mark}) {run.cell} {run.said} [{count}/{total}, {_span(left)} left]"))

    return tell
