"""The command that finds the change which made a scenario end badly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from splvm.builds.variants import VARIANTS, find_variant
from splvm.campaign.repro import HITS
from splvm.cli.options import (
    MOST_RUNS,
    AccelOption,
    JobsOption,
    JsonOption,
    LoadOption,
    MemoryOption,
    PatchOption,
    SeedOption,
    SplOption,
    TemplateOption,
    WindowOption,
    claim_directory,
    count_jobs,
    find_outcome,
    finite,
    kernel_names,
    make_console,
    make_wish,
    pick_seed,
    print_json,
)
from splvm.errors import UsageError
from splvm.log import note
from splvm.ownpath import absolute, name_path, own_path
from splvm.report.rates import Rate
from splvm.report.summary import plain
from splvm.report.tables import listing
from splvm.run.loads import need_pool, parse_loads, with_own
from splvm.scenarios.table import SCENARIOS, find_scenario

if TYPE_CHECKING:
    from splvm.campaign.bisect import Bisection, Candidate, ChangeKind
    from splvm.campaign.campaignrun import CampaignRun
    from splvm.campaign.search import Answer

_MOST_RUNS = 500


def bisect(
    scenario: Annotated[str | None, typer.Argument(help=f"One of: {', '.join(SCENARIOS)}.", metavar="SCENARIO")] = None,
    good: Annotated[str | None, typer.Option(help="A good commit of --spl path:DIR.", metavar="REV")] = None,
    bad: Annotated[str | None, typer.Option(help="A bad commit of --spl path:DIR.", metavar="REV")] = None,
    kernel: Annotated[
        list[str] | None,
        typer.Option(
            help="Kernels, as `run` takes them: one kernel, or the kernels to search, the good one first.",
            metavar="IDS",
        ),
    ] = None,
    series: Annotated[
        Path | None,
        typer.Option(help="The patches to search: a file that lists them, or their directory.", metavar="PATH"),
    ] = None,
    variant: Annotated[str, typer.Option(help=f"Variant of SPL: {', '.join(VARIANTS)}.", metavar="NAME")] = "stock",
    spl: SplOption = "debian",
    spl_patch: PatchOption = None,
    hit: Annotated[
        str, typer.Option(help="Verdicts that count as bad, separated by commas.", metavar="VERDICTS")
    ] = ",".join(sorted(HITS)),
    confidence: Annotated[
        float,
        typer.Option(help="How probable the answer has to be.", min=0.5, max=0.9999, callback=finite, metavar="P"),
    ] = 0.95,
    most_runs: Annotated[
        int, typer.Option(help="End after N runs, with or without an answer.", min=2, max=MOST_RUNS, metavar="N")
    ] = _MOST_RUNS,
    resume: Annotated[Path | None, typer.Option(help="Go on with an interrupted search.", metavar="DIR")] = None,
    load: LoadOption = None,
    seed: SeedOption = None,
    jobs: JobsOption = "1",
    memory: MemoryOption = 512,
    accel: AccelOption = "auto",
    template: TemplateOption = True,
    window: WindowOption = None,
    out: Annotated[Path | None, typer.Option(help="Directory for the evidence.", metavar="DIR")] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the change that made a scenario end badly: among commits of OpenZFS, kernels, or patches of a series.

    The scenario need not end badly each time: the search learns how often it does. It runs next the candidate that
    tells most. It leaves out candidates that cannot be built, and runs candidates with equal modules once. It also
    checks that the good end is good and the bad end is bad. The exit status is 0 if the change was found, and 1 if not.
    """
    # They come with SciPy, which takes as long as all the rest.
    from splvm.campaign.bisect import Bisection, BisectPlan, ChangeKind, read_bisection

    at_once = count_jobs(jobs, memory)
    if resume is not None:
        if scenario or good or bad or kernel or series or out:
            raise UsageError("--resume goes on with the interrupted search; it takes no scenario and no range")
        search = read_bisection(resume)
    else:
        if scenario is None:
            raise UsageError("there is no SCENARIO", hint="for example splvm bisect held-worker --series DIR")
        loads = parse_loads(load or ())
        pool = need_pool(with_own(find_scenario(scenario).load, loads))
        names = kernel_names(kernel or ["debian-12"])
        kind, candidates = _find_candidates(names, series, spl, good, bad, pool=pool)
        source = name_path(absolute(own_path(spl) or "")) if kind is ChangeKind.COMMITS else spl
        wish = make_wish(
            names[0], find_variant(variant).name, source, spl_patch, accel, ram_mib=memory, clones=template
        )
        hits = frozenset(find_outcome(name, "--hit") for name in hit.split(","))
        given, first = ",".join(map(str, loads)), pick_seed(seed, most_runs)
        plan = BisectPlan(scenario, kind, candidates, wish, hits, confidence, most_runs, first, given, window)
        search = Bisection(plan, claim_directory(out, f"bisect-{scenario}"))
    count = len(search.plan.candidates)
    note(
        f"{search.plan.scenario}: {count} {search.plan.kind}, {len(search.tries)} runs so far, evidence in {search.out}"
    )
    search.run(at_once, _tell)
    if as_json:
        print_json(search.to_json())
    else:
        _show(search)
    if not _is_found(search):
        raise typer.Exit(1)


def _find_candidates(
    kernels: list[str], series: Path | None, spl: str, good: str | None, bad: str | None, *, pool: bool
) -> tuple[ChangeKind, tuple[Candidate, ...]]:
    """The candidates of the search, the good end first.

    :param pool: whether guests have a ZFS pool.
    :raises UsageError: when the options name no candidates, or more than one kind.
    """
    from splvm.campaign.bisect import Candidate, ChangeKind, find_commits, find_patches

    asked = [
        name
        for name, is_there in (("--good", good or bad), ("--series", series), ("--kernel", len(kernels) > 1))
        if is_there
    ]
    if len(asked) != 1:
        raise UsageError(
            f"{' and '.join(asked) or 'nothing'} to be searched; give one of commits, kernels and patches",
            hint="--spl path:DIR --good REV --bad REV, or --kernel A,B,C, or --series PATH",
        )
    if series is not None:
        return ChangeKind.PATCHES, find_patches(series)
    if len(kernels) > 1:
        return ChangeKind.KERNELS, tuple(Candidate(name, name) for name in kernels)
    if not good or not bad:
        raise UsageError("both --good and --bad are needed", hint="they name commits of --spl path:DIR")
    return ChangeKind.COMMITS, find_commits(spl, good, bad, pool=pool)


def _tell(search: Bisection, each: CampaignRun) -> None:
    """A line for each run as it ends."""
    likeliest = search.search.likeliest()
    name = search.name(likeliest.first)
    note(
        plain(
            f"{each.outcome or 'TROUBLE'} {search.name(each.candidate)} {each.said} "
            f"[run {len(search.tries)}, likeliest: {name}, {likeliest.probability:.0%}]"
        )
    )


def _is_found(search: Bisection) -> bool:
    """Whether the search has found a change."""
    answer = search.answer
    return answer is not None and answer.first > 0 and answer.last < len(search.plan.candidates)


def _show(search: Bisection) -> None:
    console = make_console()
    told = search.tallies()
    rows = [
        (number, plain(search.name(number)), Rate(each.bad, each.bad + each.good), each.silent, plain(each.why) or "-")
        for number, each in told.items()
    ]
    console.print(listing(("", "candidate", "bad (95 %)", "said nothing", "left out because"), rows, prose=4))
    answer = search.answer
    for label, each in search.evidence():
        console.print(Text(plain(f"{label}: {search.name(each.candidate)}")))
        console.print(Text(plain(f"  {each.outcome} {each.said}")))
        console.print(Text(f"  {each.directory}"), soft_wrap=True)
    typer.echo(plain(f"evidence: {search.out}"))
    typer.echo(_last_line(search, answer))


def _last_line(search: Bisection, answer: Answer | None) -> str:
    runs = f"runs={len(search.tries)}"
    if answer is None:
        likeliest = search.search.likeliest()
        return plain(f"UNDECIDED {runs} likeliest {search.name(likeliest.first)} {likeliest.probability:.3f}")
    told = f"{answer.probability:.3f} {runs}"
    if answer.first == 0:
        return f"GOOD_END_IS_BAD {told}"
    if answer.first >= len(search.plan.candidates):
        return f"BAD_END_IS_GOOD {told}"
    several = f" to {search.name(answer.last)}" if answer.last != answer.first else ""
    return plain(f"FIRST_BAD {told} {search.name(answer.first)}{several}")
