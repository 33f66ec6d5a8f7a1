"""The command that looks for a seed under which a scenario ends otherwise than it should."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from splvm.builds.changed import changed_functions, changed_lines
from splvm.builds.lines import find_lines, read_lines
from splvm.builds.owntree import OwnTree
from splvm.builds.points import Point, find_points
from splvm.builds.spl import check_inputs
from splvm.campaign.explore import (
    EXPLORE_FILE,
    Exploration,
    Finding,
    Seed,
    count_points,
    made_of,
    read_exploration,
    run_seeds,
    shrink,
)
from splvm.cli.coverage import said_of_coverage
from splvm.cli.guests import make_workload
from splvm.cli.options import (
    CoverageOption,
    CpusOption,
    DebugOption,
    ExpectOption,
    JobsOption,
    JsonOption,
    KernelOption,
    LabelOption,
    MemoryOption,
    ObjectsOption,
    PatchOption,
    PreemptOption,
    QemuOption,
    SplOption,
    ThreadsOption,
    VariantOption,
    WindowOption,
    claim_again,
    claim_directory,
    count_jobs,
    directory_id,
    find_outcome,
    make_console,
    make_wish,
    print_json,
)
from splvm.cli.sites import Scope
from splvm.cli.storm import find_ops
from splvm.clock import Clock
from splvm.deadline import Deadline
from splvm.errors import EvidenceError, HarnessError, UsageError, did_you_mean
from splvm.log import note, step
from splvm.record.reader import read_facts
from splvm.report.again import reproducer
from splvm.report.rates import Rate
from splvm.report.summary import plain
from splvm.report.tables import listing
from splvm.run.coverage import COVERAGE_FILE, read_coverage
from splvm.run.delays import MOST_DEPTH
from splvm.run.experiment import Experiment
from splvm.run.loads import MOST_SEED, need_pool
from splvm.run.prepare import PREPARE_BUDGET_S, Prepared, prepare
from splvm.run.scenarios import Scenario, Storm
from splvm.scenarios.table import SCENARIOS, find_scenario

# Shorter than a scenario's own: a seed is one of many.
_WINDOW_S = 1.0


def explore(
    scenario: Annotated[str, typer.Argument(help=f"One of: {', '.join(SCENARIOS)}.", metavar="SCENARIO")],
    seeds: Annotated[str, typer.Option(help="Seeds to run, first and last.", metavar="A..B")] = "1..100",
    delays: Annotated[
        int, typer.Option(help="Instructions at which each seed delays, some times in a row.", min=1, max=MOST_DEPTH)
    ] = 3,
    function: Annotated[
        list[str] | None,
        typer.Option(help="Delay in this function alone; may be given again.", metavar="NAME"),
    ] = None,
    diff: Annotated[
        str | None,
        typer.Option(
            help="Delay in those functions of SPL alone that are others than in this commit, with --spl path:DIR or "
            "git:DIR@REV.",
            metavar="REV",
        ),
    ] = None,
    module: Annotated[
        Scope, typer.Option(help="Module at whose instructions there are delays; `zfs` in a scenario with a pool.")
    ] = Scope.SPL,
    ops: Annotated[
        str | None,
        typer.Option(help="What the transactions of a storm do, as `storm` takes it.", metavar="NAMES"),
    ] = None,
    first: Annotated[bool, typer.Option("--first", help="End with the first finding.")] = False,
    kernel: KernelOption = "debian-12",
    variant: VariantOption = "stock",
    spl: SplOption = "debian",
    spl_patch: PatchOption = None,
    debug: DebugOption = False,
    label: LabelOption = None,
    jobs: JobsOption = "auto",
    memory: MemoryOption = 512,
    cpus: CpusOption = 2,
    preempt: PreemptOption = None,
    qemu: QemuOption = "auto",
    coverage: CoverageOption = False,
    window: WindowOption = None,
    threads: ThreadsOption = None,
    objects: ObjectsOption = None,
    expect: ExpectOption = None,
    resume: Annotated[
        Path | None, typer.Option(help="Directory of an exploration that was interrupted: go on there.", metavar="DIR")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory for the evidence.", metavar="DIR")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a scenario in virtual time with seed after seed, each with delays at other instructions of SPL.

    Delays come before locks, waits, wake-ups and atomic operations, and after a lock was let go. A first run without
    delays counts how often each of these points is met. A finding is a seed whose verdict is not an expected one: it is
    run again, and then with as few delays as still show it.

    The exit status is 0 without a finding, and 1 with one. It is 3 if no seed gave a result.
    """
    if resume is not None and out is not None:
        raise UsageError("--resume goes on in its own directory; --out names another one")
    chosen, numbers = find_scenario(scenario), parse_seeds(seeds)
    tree = _tree_of(spl, spl_patch or (), diff, module)
    window_s = _WINDOW_S if window is None else window
    storm = _storm(chosen, ops)
    workload = make_workload(chosen, window_s, threads=threads, objects=objects)
    wish = make_wish(
        *(kernel, variant, spl, spl_patch, "auto"),
        ram_mib=memory,
        cpus=cpus,
        preempt=preempt,
        debug=debug,
        label=label,
        qemu=qemu,
        clock=Clock.VIRTUAL,
        cover=coverage,
    )
    at_once = count_jobs(jobs, memory)
    if resume is not None:
        claim_again(resume)
    base = resume or claim_directory(out, f"explore-{scenario}-{directory_id(kernel)}-{variant}")
    with step(f"preparing {kernel}, {variant}"):
        prepared = prepare(wish)
        expected = frozenset({find_outcome(expect)}) if expect is not None else None
        experiment = prepared.experiment(
            chosen, expected=expected, window_s=window_s, workload=workload, seed=numbers[0], storm=storm
        )
        points = _points_of(prepared, experiment, module)
        names = [*(function or ()), *(_changed(prepared, tree, diff) if tree and diff else ())]
    points = _of_functions(points, names)
    about = {
        "scenario": scenario,
        "kernel": kernel,
        "variant": variant,
        "spl": spl,
        **made_of(experiment),
        "window_s": window_s,
        "workload": workload.command(),
        "cpus": experiment.guest.machine.cpus,
        "preempt": experiment.guest.machine.preempt,
        "module": module,
        "functions": sorted(names),
        **({"storm": storm.commands(0)} if storm else {}),
        "delays": delays,
        "expected": sorted(experiment.expected),
    }
    by_place = {(it.place if module is Scope.SPL else f"{module}:{it.place}"): it for it in points}
    exploration = Exploration(experiment, base, tuple(by_place), delays, about)
    if resume is not None:
        read_exploration(exploration)
    if not exploration.counts.hits:
        with step(f"counting how often {len(points)} points are met"):
            count_points(exploration)
    note(_said_of_points(exploration))
    began = time.monotonic()
    try:
        run_seeds(exploration, numbers, at_once, _tell, first_only=first)
        shrink(exploration, lambda line: note(plain(line)))
    except KeyboardInterrupt:
        note(f"`splvm explore {scenario} --resume {base}` with the same options goes on")
        _show(exploration, by_place, time.monotonic() - began)
        raise
    if as_json:
        print_json(exploration.to_json())
    else:
        _show(exploration, by_place, time.monotonic() - began)
    if coverage and (base / COVERAGE_FILE).exists():
        note(said_of_coverage(read_coverage([base / COVERAGE_FILE]), base))
    if exploration.findings:
        raise typer.Exit(1)
    if not exploration.judged:
        raise typer.Exit(HarnessError.exit_status)


def _tree_of(spl: str, patches: Sequence[Path], diff: str | None, module: Scope) -> OwnTree | None:
    """The tree that --diff is asked of; None without it.

    :raises UsageError: when its lines cannot be those of the module.
    """
    if diff is None:
        return None
    tree = check_inputs(spl, patches)
    if tree is None or patches or module is not Scope.SPL:
        raise UsageError(
            f"--diff {diff}: it tells what of SPL has changed in a tree, without patches besides",
            hint="--spl path:DIR, or --spl git:DIR@REV",
        )
    return tree


def _changed(prepared: Prepared, tree: OwnTree, revision: str) -> list[str]:
    """Functions of SPL that are others than in a commit.

    :raises UsageError: when there is none.
    """
    deadline = Deadline(PREPARE_BUDGET_S)
    lines = read_lines(find_lines(prepared.store, prepared.kernel.root, prepared.spl.modules[0], deadline))
    names = changed_functions(lines, changed_lines(tree, revision))
    of_points = {it.function.partition(".")[0] for it in _points_of_spl(prepared)}
    if not names & of_points:
        told = ", ".join(sorted(names)) or "no function"
        raise UsageError(f"--diff {revision}: {told} of spl.ko has changed, and there is no point to delay at")
    note(f"changed since {revision}: {', '.join(sorted(names & of_points))}")
    return sorted(names & of_points)


def _points_of(prepared: Prepared, experiment: Experiment, module: Scope) -> tuple[Point, ...]:
    """:raises UsageError: when the guest does not have the module."""
    if module is Scope.SPL:
        return _points_of_spl(prepared)
    if not need_pool(experiment.loads):
        raise UsageError(
            f"--module zfs: {experiment.scenario.name} has no pool", hint="`explore zfs-held-worker` has one"
        )
    deadline = Deadline(PREPARE_BUDGET_S)
    path = prepared.zfs(deadline).directory / "zfs.ko"
    return find_points(prepared.store, prepared.kernel.root, path, deadline)


def _points_of_spl(prepared: Prepared) -> tuple[Point, ...]:
    return find_points(prepared.store, prepared.kernel.root, prepared.spl.modules[0], Deadline(PREPARE_BUDGET_S))


def parse_seeds(text: str) -> range:
    """From `A..B`, or one number.

    :raises UsageError: when it is neither, or B is below A.
    """
    match = re.fullmatch(r"(\d{1,9})(?:\.\.(\d{1,9}))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if last < first or last > MOST_SEED:
        raise UsageError(f"--seeds {text}: it takes a first and a last one", hint="for example --seeds 1..100")
    return range(first, last + 1)


def _storm(scenario: Scenario, ops: str | None) -> Storm | None:
    """:raises UsageError: when there is no such operation, or the scenario is no storm."""
    if ops is None:
        return None
    if scenario.storm is None:
        raise UsageError(f"--ops: {scenario.name} has no transactions of a storm", hint="`explore storm` has")
    return replace(scenario.storm, ops=find_ops(ops))


def _of_functions(points: Sequence[Point], names: Sequence[str]) -> tuple[Point, ...]:
    """Those in functions that the user names, with what a compiler adds to a name and without."""
    known = {point.function.partition(".")[0] for point in points}
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) or f"there are: {', '.join(sorted(known))}"
            raise UsageError(f"--function {name}: there is no point in such a function", hint=hint)
    return tuple(it for it in points if not names or it.function.partition(".")[0] in names)


def _said_of_points(exploration: Exploration) -> str:
    counts, told = exploration.counts, exploration.to_json()
    chance = told["chance_of_pair"]
    text = f"n = {counts.total} hits at {len(counts.hits)} of {len(exploration.places)} points, d = {exploration.depth}"
    text += f"; a seed delays a given pair of hits with a chance of {chance['busiest']:.2g} to {chance['rare']:.2g}"
    return text + (f"; no kprobe at {', '.join(sorted(counts.blind))}" if counts.blind else "")


def _tell(seed: Seed) -> None:
    """A line for each seed as it ends."""
    note(plain(f"{seed.outcome or 'TROUBLE'} seed {seed.number} {next(iter(seed.reason.splitlines()), '')}"))


def _show(exploration: Exploration, by_place: dict[str, Point], seconds: float) -> None:
    judged, console = exploration.judged, make_console()
    for finding in exploration.findings:
        for line in _described(finding, by_place):
            typer.echo(line)
    outcomes = [str(it.outcome) for it in judged]
    rows = [(name, outcomes.count(name), Rate(outcomes.count(name), len(judged))) for name in sorted({*outcomes})]
    console.print(listing(("verdict", "seeds", "rate (95 %)"), rows))
    courses = len({it.digest for it in judged})
    typer.echo(f"{len(judged)} seeds judged, {courses} different digests, in {seconds:.0f} s")
    typer.echo(plain(_said_of_points(exploration)))
    typer.echo(f"evidence: {exploration.out}, {EXPLORE_FILE} has every seed")


def _described(finding: Finding, points: dict[str, Point]) -> list[str]:
    """A finding, in lines for people."""
    seed = finding.seed
    again = {None: "not run again", True: "the same again", False: "not the same again"}[finding.is_repeated]
    lines = [
        plain(f"finding: seed {seed.number} is {seed.outcome} ({again}): {next(iter(seed.reason.splitlines()), '')}")
    ]
    who = {(it.place, it.hit): it for it in finding.told}
    for delay in finding.delays:
        point, told = points.get(delay.place), who.get((delay.place, delay.hit))
        where = f"{point.kind} {point.what} ({point.source or 'no source line'})" if point else "?"
        text = f"  {delay.us} us at {delay.place}, {where}, hit {delay.hit}"
        if told is not None:
            text += f", by {told.thread} (pid {told.pid}) on CPU {told.cpu}, {'asleep' if told.slept else 'spinning'}"
        lines.append(plain(text))
    if finding.fewest == ():
        lines.append("  no delay: the seed alone shows it")
    try:
        lines.append(f"  again: {reproducer(read_facts(Path(finding.directory)), paths=True)}")
    except EvidenceError as error:
        lines.append(plain(f"  {error.message}"))
    lines.append(f"  evidence: {finding.directory}; `splvm replay` runs it again")
    return lines
