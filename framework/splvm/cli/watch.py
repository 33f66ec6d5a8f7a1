"""The command that runs a scenario again on every save."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from splvm.builds.saves import Watch
from splvm.builds.spl import check_inputs, find_source
from splvm.builds.tree import ALL_PARTS, CONFIGURE_INPUTS, SPL_PARTS
from splvm.builds.variants import find_variant
from splvm.cli.guests import make_workload, may_be_virtual, run_series
from splvm.cli.options import (
    AccelOption,
    ClockOption,
    CoverageOption,
    CpusOption,
    DebugOption,
    DelayOption,
    DumpOption,
    ExpectOption,
    JobsOption,
    KernelOption,
    LabelOption,
    LoadOption,
    MemoryOption,
    NoioOption,
    ObjectsOption,
    PatchOption,
    PreemptOption,
    QemuOption,
    RateOption,
    RepeatOption,
    SeedOption,
    SizeOption,
    SplOption,
    TemplateOption,
    ThreadsOption,
    VariantOption,
    WindowOption,
    check_coverage,
    claim_directory,
    count_jobs,
    directory_id,
    find_outcome,
    make_wish,
    pick_seed,
    show_error,
)
from splvm.clock import Clock, ClockChoice
from splvm.deadline import Deadline
from splvm.errors import HarnessError, UsageError
from splvm.evidence.verdict import Verdict
from splvm.log import note, step
from splvm.record.reader import read_facts
from splvm.report.difference import compare_verdicts
from splvm.report.summary import verdict_line
from splvm.run.delays import parse_delay
from splvm.run.experiment import Dump, Experiment
from splvm.run.loads import need_pool, parse_loads, with_own
from splvm.run.prepare import PREPARE_BUDGET_S, PreparedKernel, add_spl, prepare_kernel
from splvm.scenarios.table import SCENARIOS, find_scenario


def watch(
    scenario: Annotated[str, typer.Argument(help=f"One of: {', '.join(SCENARIOS)}.", metavar="SCENARIO")],
    kernel: KernelOption = "debian-12",
    variant: VariantOption = "stock",
    spl: SplOption = "debian",
    spl_patch: PatchOption = None,
    debug: DebugOption = False,
    label: LabelOption = None,
    load: LoadOption = None,
    seed: SeedOption = None,
    repeat: RepeatOption = 1,
    jobs: JobsOption = "1",
    memory: MemoryOption = 512,
    cpus: CpusOption = 2,
    preempt: PreemptOption = None,
    accel: AccelOption = "auto",
    qemu: QemuOption = "auto",
    clock: ClockOption = ClockChoice.AUTO,
    delay: DelayOption = None,
    coverage: CoverageOption = False,
    template: TemplateOption = True,
    window: WindowOption = None,
    rate: RateOption = 20,
    threads: ThreadsOption = None,
    objects: ObjectsOption = None,
    size: SizeOption = None,
    noio: NoioOption = None,
    dump: DumpOption = Dump.NEVER,
    expect: ExpectOption = None,
    out: Annotated[Path | None, typer.Option(help="Directory for the evidence.", metavar="DIR")] = None,
) -> None:
    """Run a scenario now, and on every save of the modules' sources, headers or patches, until Ctrl-C.

    In a scenario with a pool these are the sources of all modules of OpenZFS, else those of SPL. Each verdict comes
    with its difference from the previous verdict. A failed build shows the compiler's messages. The exit status is that
    of the last save: 0 for the expected verdict, 1 for another verdict, 3 for no verdict. The expected verdict is that
    of the packaged build. If packaged stock ends badly too, a good verdict also counts as expected. --expect overrides
    this.
    """
    chosen = find_scenario(scenario)
    loads, delays = parse_loads(load or ()), tuple(map(parse_delay, delay or ()))
    expected = frozenset({find_outcome(expect)}) if expect is not None else None
    workload = make_workload(chosen, window, threads=threads, objects=objects, size=size, noio=noio)
    first_seed = pick_seed(seed, repeat)
    check_coverage(clock, coverage=coverage)
    wish = make_wish(
        *(kernel, variant, spl, spl_patch, accel),
        ram_mib=memory,
        cpus=cpus,
        preempt=preempt,
        clones=template,
        debug=debug,
        label=label,
        qemu=qemu,
        clock=clock.clock,
        cover=coverage,
    )
    find_variant(variant)
    own_tree = check_inputs(spl, wish.patches)
    if (own_tree is None or own_tree.commit) and not spl_patch:
        what = f"--spl {spl}: nobody edits a commit" if own_tree else "there is nothing to watch"
        raise UsageError(what, hint="--spl path:DIR, or --spl-patch FILE")
    at_once = count_jobs(jobs, memory)
    base = claim_directory(out, f"watch-{scenario}-{directory_id(kernel)}-{variant}")
    with step(f"preparing {kernel}"):
        prepared = prepare_kernel(wish)
        source = find_source(own_tree, prepared.store, prepared.apt, Deadline(PREPARE_BUDGET_S))
    parts = (*CONFIGURE_INPUTS, *(ALL_PARTS if need_pool(with_own(chosen.load, loads)) else SPL_PARTS))

    def run(number: int) -> tuple[Verdict, Path, int]:
        def experiment_on(kernel: PreparedKernel) -> Experiment:
            build = add_spl(kernel, source, wish, Deadline(PREPARE_BUDGET_S))
            made = build.experiment(
                chosen,
                expected=expected,
                window_s=window,
                rate_hz=rate,
                workload=workload,
                dump=dump,
                loads=loads,
                seed=first_seed,
            )
            return replace(made, delays=delays)

        with step(f"building the modules, {variant}"):
            experiment = experiment_on(prepared)

        def in_virtual_time() -> Experiment:
            return experiment_on(prepare_kernel(replace(wish, clock=Clock.VIRTUAL)))

        twin = in_virtual_time if clock is ClockChoice.AUTO and may_be_virtual(experiment, clones=template) else None
        verdict, directory = run_series(experiment, base / f"{number:03}", repeat, at_once, twin)
        return verdict, directory, 0 if verdict.outcome in experiment.expected else 1

    raise typer.Exit(_follow(Watch(source.tree, wish.patches, parts), run))


def _follow(watched: Watch, run: Callable[[int], tuple[Verdict, Path, int]]) -> int:
    """Run at each save until Ctrl-C.

    :param run: takes the number of the save; gives the verdict, its directory and its exit status.
    :returns: the exit status of the last save.
    :raises KeyboardInterrupt: when there was none yet.
    """
    last: Verdict | None = None
    status: int | None = None
    try:
        for number, save in enumerate(watched.saves(), 1):
            try:
                verdict, directory, status = run(number)
            except UsageError:
                # No save can mend it.
                raise
            except HarnessError as error:
                show_error(error)
                status = error.exit_status
            else:
                _tell(verdict, last, directory, time.time() - save.at_s)
                last = verdict
            note("waiting for the next save; Ctrl-C ends it")
    except KeyboardInterrupt:
        if status is None:
            raise
    return status or 0


def _tell(verdict: Verdict, last: Verdict | None, directory: Path, seconds: float) -> None:
    typer.echo(verdict_line(verdict, read_facts(directory)))
    differences = compare_verdicts(last, verdict) if last else ["the first verdict"]
    typer.echo(f"{seconds:.1f} s after the save: {differences[0]}")
    for line in differences[1:]:
        typer.echo(f"  {line}")
