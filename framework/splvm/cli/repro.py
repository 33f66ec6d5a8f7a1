"""The command that measures how often something happens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from splvm.builds.variants import VARIANTS, find_variant
from splvm.campaign.campaignrun import CampaignRun
from splvm.campaign.repro import HITS, TROUBLES, Series, Until, compare, measure, same_builds, to_json
from splvm.cli.options import (
    AccelOption,
    CampaignClockOption,
    DebugOption,
    JobsOption,
    JsonOption,
    LabelOption,
    LoadOption,
    MemoryOption,
    PatchOption,
    SeedOption,
    SplsOption,
    TemplateOption,
    WindowOption,
    claim_directory,
    count_jobs,
    find_outcome,
    kernel_names,
    make_console,
    make_wish,
    pick_seed,
    print_json,
    with_usual_clock,
)
from splvm.clock import ClockChoice
from splvm.errors import EvidenceError, HarnessError, UsageError
from splvm.log import note, step
from splvm.record.reader import read_facts
from splvm.report.again import reproducer
from splvm.report.rates import Rate
from splvm.report.summary import plain
from splvm.report.tables import listing
from splvm.run.loads import parse_loads
from splvm.run.prepare import prepare
from splvm.scenarios.table import SCENARIOS, find_scenario
from splvm.treename import parse_tree_name

_RUNS = "runs=20"
# For as many a seed of its own is left.
_MOST_RUNS = 1_000_000


def repro(
    scenario: Annotated[str, typer.Argument(help=f"One of: {', '.join(SCENARIOS)}.", metavar="SCENARIO")],
    kernel: Annotated[
        list[str] | None, typer.Option(help="Kernels, as `run` takes them; by default debian-12.", metavar="IDS")
    ] = None,
    variant: Annotated[
        str, typer.Option(help=f"Variants of SPL, separated by commas: {', '.join(VARIANTS)}.", metavar="NAMES")
    ] = "stock",
    spl: SplsOption = None,
    spl_patch: PatchOption = None,
    debug: DebugOption = False,
    label: LabelOption = None,
    until: Annotated[
        list[str] | None,
        typer.Option(
            help=f"When to end: hits=N or runs=N of each series, or minutes=N; may be given again. By default {_RUNS}.",
            metavar="WHEN",
        ),
    ] = None,
    hit: Annotated[
        str,
        typer.Option(
            help="Verdicts that count as a hit, separated by commas; by default each bad one.", metavar="VERDICTS"
        ),
    ] = ",".join(sorted(HITS)),
    load: LoadOption = None,
    seed: SeedOption = None,
    jobs: JobsOption = "1",
    memory: MemoryOption = 512,
    accel: AccelOption = "auto",
    clock: CampaignClockOption = ClockChoice.AUTO,
    template: TemplateOption = True,
    window: WindowOption = None,
    out: Annotated[Path | None, typer.Option(help="Directory for the evidence.", metavar="DIR")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how often a scenario ends badly: run it again and again, on one build or on several builds in turn.

    With several --spl, each build of a source takes turns with the build of the first source, and is compared with it.

    Every run counts as it is. The rate comes with its interval, and the time until a hit with its quartiles. An exact
    test compares the first series with each other series. The exit status is 0, also for a rate of zero. It is 1 if no
    run of a series gave a result, and 3 if trouble of the host or the harness was the cause.
    """
    chosen, ends = find_scenario(scenario), Until.parse(until or [_RUNS])
    hits = frozenset(find_outcome(name, "--hit") for name in hit.split(","))
    builds = [find_variant(name).name for name in variant.split(",")]
    sources = list(dict.fromkeys(spl or ["debian"]))
    if label and len(sources) > 1:
        raise UsageError("--label names one line of builds, and each --spl is another", hint="leave it out")
    # One that is named twice would be compared with itself.
    kernels = kernel_names(kernel or ["debian-12"])
    names = dict.fromkeys((name, build, source) for name in kernels for build in builds for source in sources)
    loads, first_seed = parse_loads(load or ()), pick_seed(seed, _MOST_RUNS)
    at_once = count_jobs(jobs, memory)
    wishes = [
        make_wish(
            *(name, build, source, spl_patch, accel),
            ram_mib=memory,
            clones=template,
            debug=debug,
            label=label,
            clock=clock.clock,
        )
        for name, build, source in names
    ]
    base = claim_directory(out, f"repro-{scenario}")
    wishes = with_usual_clock(wishes, clock, chosen, loads)
    series = []
    for wish in wishes:
        source = wish.spl if len(sources) > 1 else ""
        with step(f"preparing {wish.kernel}, {wish.variant}" + (f", {source}" if source else "")):
            experiment = prepare(wish).experiment(chosen, window_s=window, loads=loads, seed=first_seed)
        series.append(Series(wish.kernel, wish.variant, experiment, hits, source))
    for one, other in same_builds(series):
        note(plain(f"{one} and {other} have the same modules"))
    about = {
        "scenario": scenario,
        "load": ",".join(map(str, loads)),
        "seed": first_seed,
        "hit": sorted(hits),
        "until": str(ends),
        "directory": str(base),
    }
    note(f"{scenario}: until {ends}; {at_once} at once, evidence in {base}")
    measure(series, base, until=ends, at_once=at_once, on_trial=_tell, about=about)
    if as_json:
        print_json(to_json(about, series))
    else:
        _show(series, base)
    if not all(each.rate.runs for each in series):
        raise typer.Exit(HarnessError.exit_status if any(each.is_trouble for each in series) else 1)


def _tell(series: Series, trial: CampaignRun) -> None:
    """A line for each run as it ends."""
    note(plain(f"{trial.outcome or 'TROUBLE'} {series} run {trial.number} {trial.said}"))


def _show(series: list[Series], base: Path) -> None:
    console = make_console()
    columns = (
        "kernel",
        "variant",
        "source",
        "hits",
        "runs",
        "rate (95 %)",
        "until a hit: median (quartiles)",
        "said nothing",
    )
    console.print(listing(columns, [_row(each) for each in series], prose=0))
    for told in compare(series):
        if told["p"] is not None:
            both = f"{told['one']} and {told['other']}"
            console.print(Text(plain(f"{both}: {told['difference']:+.0%}, p = {told['p']:.2g} (Boschloo's test)")))
    for each in series:
        if each.is_given_up:
            console.print(Text(plain(f"{each} was given up after {TROUBLES} runs in a row without a result")))
        for outcome, times in each.unasked.items():
            console.print(Text(plain(f"{times} runs of {each} ended {outcome}, which is bad and no hit by --hit")))
        for trial in each.hit[:1]:
            console.print(Text(plain(f"first hit of {each}: {trial.said}")))
            console.print(Text(f"  again: {_again(trial)}"), soft_wrap=True)
    typer.echo(f"evidence: {base}")


def _row(series: Series) -> tuple[object, ...]:
    rate: Rate = series.rate
    onsets, name = series.onsets, parse_tree_name(series.source)
    time = f"{onsets[1]:.1f} s ({onsets[0]:.1f} to {onsets[2]:.1f})" if onsets else "-"
    return (
        series.kernel,
        series.variant,
        plain(str(name.brief)) if name else "-",
        rate.hits,
        rate.runs,
        rate,
        time,
        len(series.silent),
    )


def _again(trial: CampaignRun) -> str:
    """The command that repeats the run."""
    if trial.directory is None:
        return "-"
    try:
        return reproducer(read_facts(trial.directory), paths=True)
    except EvidenceError as error:
        return error.message
