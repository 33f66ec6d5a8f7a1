"""The command that finds the change which made a scenario end badly."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from splvm.builds.owntree import find_repository, read_tree_name
from splvm.builds.variants import VARIANTS, find_variant
from splvm.campaign.repro import HITS, bad_beside
from splvm.cli.options import (
    MOST_RUNS,
    AccelOption,
    CampaignClockOption,
    DebugOption,
    JobsOption,
    JsonOption,
    LoadOption,
    MemoryOption,
    PatchOption,
    SeedOption,
    SplOption,
    TemplateOption,
    WindowOption,
    claim_again,
    claim_directory,
    count_jobs,
    find_outcome,
    finite,
    kernel_names,
    make_console,
    make_wish,
    pick_seed,
    print_json,
    with_usual_clock,
)
from splvm.clock import ClockChoice
from splvm.errors import UsageError
from splvm.log import note
from splvm.ownpath import name_path
from splvm.report.rates import Rate
from splvm.report.summary import plain
from splvm.report.tables import listing
from splvm.run.loads import need_pool, parse_loads, with_own
from splvm.scenarios.table import SCENARIOS, find_scenario
from splvm.treename import TreeKind

if TYPE_CHECKING:
    from splvm.campaign.bisect import Bisection
    from splvm.campaign.campaignrun import CampaignRun
    from splvm.campaign.candidates import Candidate, ChangeKind
    from splvm.campaign.search import Answer

_MOST_RUNS = 500


def bisect(
    scenario: Annotated[str | None, typer.Argument(help=f"One of: {', '.join(SCENARIOS)}.", metavar="SCENARIO")] = None,
    good: Annotated[str | None, typer.Option(help="A good commit of --spl.", metavar="REV")] = None,
    bad: Annotated[
        str | None,
        typer.Option(help="A bad commit of --spl; by default REV of git:DIR@REV, or the head of pr:N.", metavar="REV"),
    ] = None,
    kernel: Annotated[
        list[str] | None,
        typer.Option(
            help="Kernels, as `run` takes them: one kernel, or the kernels to search, the good one first.",
            metavar="IDS",
        ),
    ] = None,
    paths: Annotated[
        list[str] | None,
        typer.Option(
            help="Search only commits that touch this path; may be given again. By default: all that the guest's "
            "modules are made of.",
            metavar="PATH",
        ),
    ] = None,
    series: Annotated[
        Path | None,
        typer.Option(help="The patches to search: a file that lists them, or their directory.", metavar="PATH"),
    ] = None,
    variant: Annotated[str, typer.Option(help=f"Variant of SPL: {', '.join(VARIANTS)}.", metavar="NAME")] = "stock",
    spl: SplOption = "debian",
    spl_patch: PatchOption = None,
    debug: DebugOption = False,
    hit: Annotated[
        str,
        typer.Option(
            help="Verdicts that count as bad, separated by commas; by default each bad one.", metavar="VERDICTS"
        ),
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
    clock: CampaignClockOption = ClockChoice.AUTO,
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
    from splvm.campaign.bisect import Bisection, read_bisection
    from splvm.campaign.candidates import BisectPlan, ChangeKind

    at_once = count_jobs(jobs, memory)
    if resume is not None:
        if scenario or good or bad or kernel or series or out:
            raise UsageError("--resume goes on with the interrupted search; it takes no scenario and no range")
        claim_again(resume)
        search = read_bisection(resume)
    else:
        if scenario is None:
            raise UsageError("there is no SCENARIO", hint="for example splvm bisect held-worker --series DIR")
        loads = parse_loads(load or ())
        pool = need_pool(with_own(find_scenario(scenario).load, loads))
        names = kernel_names(kernel or ["debian-12"])
        kind, candidates = _find_candidates(names, series, spl, good, bad, pool=pool, paths=paths or ())
        source = name_path(find_repository(read_tree_name(spl))) if kind is ChangeKind.COMMITS else spl
        wish = make_wish(
            *(names[0], find_variant(variant).name, source, spl_patch, accel),
            ram_mib=memory,
            clones=template,
            debug=debug,
            clock=clock.clock,
        )
        on = [each.id for each in candidates] if kind is ChangeKind.KERNELS else [wish.kernel]
        asked = [replace(wish, kernel=each) for each in on]
        hits = frozenset(find_outcome(name, "--hit") for name in hit.split(","))
        base = claim_directory(out, f"bisect-{scenario}")
        wish = replace(wish, clock=with_usual_clock(asked, clock, find_scenario(scenario), loads)[0].clock)
        given, first = ",".join(map(str, loads)), pick_seed(seed, most_runs)
        plan = BisectPlan(scenario, kind, candidates, wish, hits, confidence, most_runs, first, given, window)
        search = Bisection(plan, base)
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
    kernels: list[str],
    series: Path | None,
    spl: str,
    good: str | None,
    bad: str | None,
    *,
    pool: bool,
    paths: Sequence[str],
) -> tuple[ChangeKind, tuple[Candidate, ...]]:
    """The candidates of the search, the good end first.

    :param pool: whether guests have a ZFS pool.
    :param paths: of commits.
    :raises UsageError: when the options name no candidates, or more than one kind.
    """
    from splvm.campaign.candidates import Candidate, ChangeKind, find_commits, find_patches

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
    name = read_tree_name(spl)
    # What names one commit names the bad end.
    bad = bad or (f"refs/pull/{name.revision}/head" if name.kind is TreeKind.PULL else name.revision)
    if not good or not bad:
        raise UsageError("both --good and --bad are needed", hint="--spl git:DIR@REV and pr:N name the bad one")
    return ChangeKind.COMMITS, find_commits(find_repository(name), good, bad, pool=pool, paths=paths)


def _tell(search: Bisection, each: CampaignRun) -> None:
    """A line for each run as it ends."""
    likeliest = search.search.likeliest()
    name = search.name(likeliest.first)
    left = f", about {search.left_s / 60:.0f} min left" if not search.is_over else ""
    note(
        plain(
            f"{each.outcome or 'TROUBLE'} {search.name(each.candidate)} {each.said} "
            f"[run {len(search.tries)}, likeliest: {name}, {likeliest.probability:.0%}{left}]"
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
    for outcome, times in bad_beside(search.tries, search.plan.hits).items():
        typer.echo(plain(f"{times} runs ended {outcome}, which is bad and no hit by --hit"))
    typer.echo(plain(f"evidence: {search.out}"))
    for line in paste(search):
        typer.echo(plain(line))
    typer.echo(_last_line(search, answer))


def paste(search: Bisection) -> list[str]:
    """The answer for a report; empty if no single commit was found."""
    plan, answer = search.plan, search.answer
    if answer is None or not _is_found(search) or answer.first != answer.last or plan.kind != "commits":
        return []
    good, bad = plan.candidates[answer.first - 1], plan.candidates[answer.first]
    words = ["splvm", "repro", plan.scenario, "--kernel", plan.wish.kernel, "--variant", plan.wish.variant]
    words += ["--load", plan.load] if plan.load else []
    words += ["--clock", plan.wish.clock]
    words += ["--hit", ",".join(sorted(plan.hits))] if plan.hits != HITS else []
    words += ["--spl", f"git:zfs@{good.id}", "--spl", f"git:zfs@{bad.id}"]
    told = search.tallies()
    counts = (told[each] for each in (answer.first, answer.first - 1) if each in told)
    said = " and ".join(f"{each.bad} of {each.bad + each.good}" for each in counts)
    return [
        f"{bad.id} is the first bad commit: {bad.title}",
        f"{plan.scenario}, {plan.wish.kernel}, {plan.wish.variant}: bad runs with it, and before it: {said}",
        f"again, with zfs a clone of OpenZFS: {shlex.join(words)}",
    ]


def _last_line(search: Bisection, answer: Answer | None) -> str:
    runs = f"runs={len(search.tries)}"
    if answer is None:
        if search.undecided:
            note(plain(f"{search.undecided}; `splvm bisect --resume {search.out}` goes on"))
        likeliest = search.search.likeliest()
        return plain(f"UNDECIDED {runs} likeliest {search.name(likeliest.first)} {likeliest.probability:.3f}")
    told = f"{answer.probability:.3f} {runs}"
    if answer.first == 0:
        if parted := search.plan.candidates[0].parted:
            note(
                plain(
                    f"{search.name(0)} is where {parted} and the bad end parted, and it is bad: what mended it is on "
                    f"the branch of {parted} alone; name a good end that is older"
                )
            )
        return f"GOOD_END_IS_BAD {told}"
    if answer.first >= len(search.plan.candidates):
        return f"BAD_END_IS_GOOD {told}"
    several = f" to {search.name(answer.last)}" if answer.last != answer.first else ""
    return plain(f"FIRST_BAD {told} {search.name(answer.first)}{several}")
