"""Commands that boot guests."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from splvm.campaign.processes import Job, JobResult, fitting_jobs, run_jobs
from splvm.cli.coverage import said_of_coverage
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
    make_console,
    make_wish,
    pick_seed,
    show_error,
    show_verdict,
)
from splvm.clock import Clock, ClockChoice
from splvm.errors import HarnessError, UsageError
from splvm.evidence.verdict import Outcome, Verdict
from splvm.host.capabilities import check_programs
from splvm.host.store import Store
from splvm.log import note, step
from splvm.record.reader import read_facts
from splvm.report.summary import verdict_line
from splvm.report.tables import tally_table
from splvm.run.coverage import gather_coverage
from splvm.run.delays import parse_delay
from splvm.run.experiment import Dump, Experiment, attempt_directory, run_until_fed
from splvm.run.loads import parse_loads
from splvm.run.prepare import Prepared, Wish, lacks_for_virtual_time, prepare
from splvm.run.scenarios import Scenario, Workload
from splvm.run.shell import run_shell
from splvm.scenarios.table import SCENARIOS, find_scenario

_ROOT = Path(__file__).resolve().parents[3]


def demo(
    kernel: KernelOption = "debian-12",
    accel: AccelOption = "auto",
    template: TemplateOption = True,
    out: Annotated[Path | None, typer.Option(help="Directory for the evidence.", metavar="DIR")] = None,
) -> None:
    """Hold the worker of the stock SPL, then the worker of a build without emergency objects.

    The second run is the control. If the control does not fail, the first run proves nothing.
    """
    # Before there is a directory of it.
    check_programs()
    scenario = find_scenario("held-worker")
    base = claim_directory(out, f"demo-{directory_id(kernel)}")
    builds = {}
    for variant in ("stock", "no-emergency"):
        with step(f"preparing {kernel}, {variant}"):
            builds[variant] = prepare(Wish(kernel=kernel, variant=variant, accelerator=accel, clones=template))
    console = make_console(record=True)
    ok = True
    lines = []
    for variant, prepared in builds.items():
        experiment = prepared.experiment(scenario)
        verdict, directory = run_until_fed(experiment, base / variant)[-1]
        show_verdict(verdict, directory, console)
        lines.append(verdict_line(verdict, read_facts(directory)))
        ok = ok and verdict.outcome in experiment.expected
    meaning = (
        "SPL went on while its worker was stuck. The control, a build that cannot go on, failed as it has to."
        if ok
        else "At least one verdict is not the expected verdict: the two runs prove nothing."
    )
    console.print(Text(meaning, style="bold green" if ok else "bold red"))
    report = base / "report.html"
    console.save_html(str(report))
    typer.echo(f"report: {report}")
    for line in lines:
        typer.echo(line)
    if not ok:
        raise typer.Exit(1)


def run(
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
    """Run a scenario in a fresh guest and judge it.

    The exit status is 0 for the expected verdict, and 1 for another verdict. `splvm variants` lists the expected
    verdicts. A build with your own source or patches is compared with the packaged build of its variant on its kernel.
    If packaged stock ends badly too, a good verdict also counts as expected. --expect overrides all of this.

    If the host starved the guest of CPU, a single run is made again: in virtual time, unless --clock says otherwise or
    the scenario needs real time.
    """
    chosen = find_scenario(scenario)
    expected = frozenset({find_outcome(expect)}) if expect is not None else None
    loads, delays = parse_loads(load or ()), tuple(map(parse_delay, delay or ()))
    workload = make_workload(chosen, window, threads=threads, objects=objects, size=size, noio=noio)
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
    base = claim_directory(out, f"{scenario}-{directory_id(kernel)}-{variant}")
    with step(f"preparing {kernel}, {variant}"):
        prepared = prepare(wish)
    first_seed = pick_seed(seed, repeat)

    def experiment_on(build: Prepared) -> Experiment:
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

    experiment = experiment_on(prepared)

    def in_virtual_time() -> Experiment:
        return experiment_on(prepare(replace(wish, clock=Clock.VIRTUAL)))

    twin = in_virtual_time if clock is ClockChoice.AUTO and may_be_virtual(experiment, clones=template) else None
    verdict, directory = run_series(experiment, base, repeat, count_jobs(jobs, memory), twin)
    typer.echo(verdict_line(verdict, read_facts(directory)))
    if verdict.outcome not in experiment.expected:
        raise typer.Exit(1)


# Makes the experiment anew for a guest in virtual time.
Twin = Callable[[], Experiment]


def may_be_virtual(experiment: Experiment, *, clones: bool) -> bool:
    """Whether a run that the host starved can be made again in virtual time.

    :param clones: whether guests may be clones.
    """
    machine = experiment.guest.machine
    lacking = lacks_for_virtual_time(experiment.scenario, experiment.loads, machine.ram_mib, experiment.dump)
    return clones and machine.accelerator == "tcg" and machine.clock is Clock.REAL and not lacking


def run_series(
    experiment: Experiment, base: Path, repeat: int, at_once: int, twin: Twin | None = None
) -> tuple[Verdict, Path]:
    """Run an experiment once or more often, and show each verdict.

    :param twin: a single run whose guest the host starved is made again of this, and not in real time.
    :returns: the run that the status is of: the worst one that is not as expected, or else the last.
    """
    results: list[tuple[Verdict, Path]] = []

    def take(result: JobResult) -> None:
        results.append(result.last)
        show_verdict(*result.last)

    # Each of a series counts, also one that says nothing; a single run is done again if the guest was starved.
    todo = [Job(f"run {n} of {repeat}", experiment.nth(n), base / f"{n:03}") for n in range(1, repeat + 1)]
    if repeat > 1:
        run_jobs(todo, at_once, take)
    else:
        run_jobs([Job(experiment.scenario.name, experiment, base, 1 if twin else 3)], 1, take)
        if twin and results[-1][0].is_starved:
            run_jobs([_again(experiment, base, results.pop()[0], twin)], 1, take)
    if repeat > 1:
        make_console().print(tally_table([verdict for verdict, _ in results], experiment.expected))
    if experiment.cover is not None:
        typer.echo(said_of_coverage(gather_coverage(base), base))
    odd = [result for result in results if result[0].outcome not in experiment.expected]
    return worst(odd) if odd else results[-1]


def _again(experiment: Experiment, base: Path, verdict: Verdict, twin: Twin) -> Job:
    """The second run of a guest that the host starved."""
    place = attempt_directory(base, 2)
    try:
        again = twin()
    except HarnessError as error:
        show_error(error)
        note(f"{base}: {verdict.starved}; running again in real time, as virtual time cannot be had")
        return Job(experiment.scenario.name, experiment, place, 2)
    note(f"{base}: {verdict.starved}; running again in virtual time, where the host has no say")
    return Job(experiment.scenario.name, again, place)


def worst(results: Sequence[tuple[Verdict, Path]]) -> tuple[Verdict, Path]:
    """The run with the worst verdict, of several the first."""
    order = list(Outcome)
    return min(results, key=lambda result: order.index(result[0].outcome))


def make_workload(scenario: Scenario, window_s: float | None, **given: int | None) -> Workload:
    """The scenario's workload, with the given values in place of its own.

    :param window_s: length of the window, seconds of guest time; None: the scenario's.
    :raises UsageError: when the scenario needs one critical thread and more are given.
    """
    workload = scenario.workload(scenario.window_s if window_s is None else window_s)
    workload = replace(workload, **{name: value for name, value in given.items() if value is not None})
    if workload.commits and workload.threads != 1:
        raise UsageError(
            f"{scenario.name} needs one critical thread: a second thread would commit what the first waits for"
        )
    if workload.keep and workload.threads != 1:
        raise UsageError(f"{scenario.name} needs one critical thread: others would add to the objects that it keeps")
    return workload


def shell(
    kernel: KernelOption = "debian-12",
    variant: VariantOption = "stock",
    spl: SplOption = "debian",
    spl_patch: PatchOption = None,
    debug: DebugOption = False,
    memory: MemoryOption = 512,
    accel: AccelOption = "auto",
    template: TemplateOption = True,
    command: Annotated[
        str | None, typer.Option("--command", "-c", help="Run this command and end.", metavar="CMD")
    ] = None,
) -> None:
    """Start a guest with SPL and the probe loaded, and open a shell in it.

    The guest ends with the shell. The exit status is that of the shell.
    """
    prepared = prepare(make_wish(kernel, variant, spl, spl_patch, accel, ram_mib=memory, clones=template, debug=debug))
    with Store.default().temporary() as logs:
        status = run_shell(prepared, logs, command)
    raise typer.Exit(status)


def test(ctx: typer.Context) -> None:
    """Run the project's own test suite, with real guests. Further arguments go to pytest.

    The number of tests at once depends on the host's cores and memory. With `-n0` the tests run one after the other.
    """
    if not (_ROOT / "tests" / "vm").is_dir():
        raise UsageError("the test suite is not part of an installed package", hint="run it in a checkout of splvm")
    at_once = fitting_jobs(Wish().ram_mib)
    processes = f"-n{at_once if at_once > 1 else 0}"
    # What takes the time is said each time, or a suite gets slow unseen.
    options = ["--splvm-require-vm", "--dist=worksteal", "--durations=20", processes]
    argv = [sys.executable, "-m", "pytest", *options, *ctx.args]
    note(shlex.join(argv))
    os.chdir(_ROOT)
    os.execv(sys.executable, argv)
