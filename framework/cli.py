"""The command line. Results go to stdout, everything else to stderr.

Exit status: 0 as expected, 1 another verdict or evidence that cannot be read, 2 usage, 3 trouble of the harness or the
host, 130 and 143 when ended by Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from framework import __version__
from framework.build.kernels import KERNELS, find_kernel
from framework.build.known import known_kernels
from framework.build.own import FORM as OWN_KERNEL
from framework.build.own import find_own_kernel
from framework.build.symbols import fetch_symbols
from framework.build.variants import VARIANTS
from framework.deadline import Deadline
from framework.errors import EvidenceError, HarnessError, SetupError, UsageError
from framework.evidence.judge import judge as judge_evidence
from framework.evidence.slab import parse_slab as parse_slab_text
from framework.evidence.verdict import Outcome, Verdict
from framework.evidence.waitgraph import build_graph
from framework.host.debian import PrivateApt
from framework.host.probe import inspect_host
from framework.host.store import Store
from framework.lab.experiment import Dump, run_until_fed
from framework.lab.postmortem import describe_dump, examine_run
from framework.lab.prepare import PREPARE_BUDGET_S, Wish, prepare, prepare_kernel
from framework.lab.rundir import read_evidence
from framework.lab.scenarios import SCENARIOS, Scenario, Workload, find_scenario
from framework.lab.shell import run_shell
from framework.lab.traits import kernel_traits
from framework.log import note, setup_logging, step
from framework.report.bundle import write_bundle
from framework.report.summary import plain, summarize, verdict_line
from framework.report.tables import slab_table, tally_table
from framework.report.traits import describe_masks, traits_table

app = typer.Typer(
    name="splvm",
    help="Prove or refute that SPL makes forward progress while its slab worker is stuck.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_ROOT = Path(__file__).resolve().parent.parent

KernelOption = Annotated[
    str, typer.Option(help=f"Kernel: {', '.join(KERNELS)}, or your own as {OWN_KERNEL}.", metavar="ID")
]
VariantOption = Annotated[str, typer.Option(help=f"Variant of SPL: {', '.join(VARIANTS)}.", metavar="NAME")]
SplOption = Annotated[
    str, typer.Option(help="Source of SPL: `debian`, or `path:DIR` with an OpenZFS tree.", metavar="SOURCE")
]
PatchOption = Annotated[
    list[Path] | None,
    typer.Option(help="A .patch or .cocci file to apply on top; may be given again.", metavar="FILE"),
]
AccelOption = Annotated[str, typer.Option(help="auto, kvm or tcg.", metavar="NAME")]
MemoryOption = Annotated[int, typer.Option(help="Memory of the guest in MiB.", min=256, metavar="MIB")]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
RefreshOption = Annotated[bool, typer.Option("--refresh", help="Fetch package lists anew first.")]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"splvm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Also show every command.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings only.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show version.")] = False,
) -> None:
    setup_logging(-1 if quiet else verbose)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Check what this host can do."""
    report = inspect_host()
    if as_json:
        _print_json({"schema_version": 1, "ok": report.ok, "checks": [asdict(check) for check in report.checks]})
    else:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for check in report.checks:
            mark = Text("ok", "green") if check.ok else Text("no", "red" if check.required else "yellow")
            table.add_row(mark, check.name, Text(check.detail if check.ok else f"{check.detail}; {check.hint}"))
        _console().print(table)
    if not report.ok:
        raise SetupError("this host lacks something that every run needs", hint="see the lines marked `no`")


@app.command()
def build(
    kernel: KernelOption = "debian-12",
    variant: VariantOption = "stock",
    spl: SplOption = "debian",
    spl_patch: PatchOption = None,
    accel: AccelOption = "auto",
    refresh: RefreshOption = False,
    symbols: Annotated[
        bool, typer.Option("--symbols", help="Also the kernel's debug symbols for memory dumps, some 280 MiB to fetch.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch and build everything a run needs, and say where it is."""
    prepared = prepare(_wish(kernel, variant, spl, spl_patch, accel, refresh=refresh))
    if symbols:
        store = Store.default()
        apt = PrivateApt(store.root, prepared.kernel.spec.suite)
        fetch_symbols(store, apt, prepared.kernel, Deadline(PREPARE_BUDGET_S))
    if as_json:
        _print_json({"schema_version": 1, **prepared.facts(), "store": str(Store.default().root)})
        return
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    package = next((f"{p.package} {p.version}" for p in prepared.kernel.packages), prepared.kernel.spec.note)
    table.add_row("kernel", f"{prepared.kernel.release} ({package})")
    table.add_row(
        "SPL", f"{prepared.spl.source.version} {prepared.spl.variant.name}, source {prepared.spl.source.name}"
    )
    for module in prepared.spl.modules:
        table.add_row("module", str(module))
    table.add_row("initramfs", str(prepared.machine.initrds[0]))
    table.add_row("accelerator", f"{prepared.accelerator.name}: {prepared.accelerator.reason}")
    _console().print(table)


@app.command("probe-kernel")
def probe_kernel(
    kernel: KernelOption = "debian-12",
    accel: AccelOption = "auto",
    refresh: Annotated[bool, typer.Option("--refresh", help="Fetch package lists and measure anew.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure in a guest whether __vmalloc() of a kernel honours GFP_NOFS and GFP_NOIO for its page tables."""
    with step(f"preparing {kernel}"):
        prepared = prepare_kernel(Wish(kernel=kernel, accelerator=accel, refresh=refresh))
    deadline = Deadline(PREPARE_BUDGET_S)
    traits = kernel_traits(prepared.store, prepared.kernel, prepared.machine, prepared.keys, deadline, anew=refresh)
    if as_json:
        _print_json({"schema_version": 1, "kernel": prepared.kernel.facts(), **traits.to_json()})
        return
    _console().print(traits_table(traits))
    typer.echo(plain(describe_masks(traits)))
    typer.echo(plain(traits.sentence))


@app.command()
def kernels(as_json: JsonOption = False) -> None:
    """List the kernels: what they are, which version each came to last, and whether that is in the store.

    It asks no network: a version is resolved when a kernel is used, anew once a day.
    """
    known = known_kernels(Store.default())
    if as_json:
        _print_json({"schema_version": 1, "kernels": [kernel.to_json() for kernel in known]})
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("id", "suite", "release", "SPL", "resolved", "stored"):
        table.add_column(name, no_wrap=True)
    table.add_column("what sets it apart")
    for kernel in known:
        last = kernel.resolved
        cells = (last.release, last.spl or "-", last.time[:10]) if last else ("when first used", "-", "-")
        stored = Text("yes", "green") if kernel.stored else Text("no")
        table.add_row(kernel.spec.id, kernel.spec.suite, *map(plain, cells), stored, kernel.spec.note)
    _console().print(table)


@app.command()
def run(
    scenario: Annotated[str, typer.Argument(help=f"What to do: {', '.join(SCENARIOS)}.", metavar="SCENARIO")],
    kernel: KernelOption = "debian-12",
    variant: VariantOption = "stock",
    spl: SplOption = "debian",
    spl_patch: PatchOption = None,
    repeat: Annotated[int, typer.Option(help="Runs, one after the other.", min=1, metavar="N")] = 1,
    memory: MemoryOption = 512,
    accel: AccelOption = "auto",
    window: Annotated[float | None, typer.Option(help="Length of the window in seconds of guest time.", min=1)] = None,
    rate: Annotated[int, typer.Option(help="Samples a second.", min=1, max=100)] = 20,
    threads: Annotated[
        int | None, typer.Option(help="Critical threads; by default the scenario's.", min=1, max=64)
    ] = None,
    objects: Annotated[
        int | None, typer.Option(help="Objects per thread and round; by default the scenario's.", min=1, max=16384)
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Bytes of an object; by default the scenario's.", min=64, max=8 * 1024 * 1024)
    ] = None,
    noio: Annotated[
        int | None, typer.Option(help="1: threads allocate with GFP_NOIO, 0: with GFP_KERNEL.", min=0, max=1)
    ] = None,
    dump: Annotated[
        Dump, typer.Option(help="Keep a dump of the guest's memory: never, in trouble (STALLED or lost), or always.")
    ] = Dump.NEVER,
    expect: Annotated[str | None, typer.Option(help="Verdict to expect instead.", metavar="VERDICT")] = None,
    out: Annotated[Path | None, typer.Option(help="Directory for the evidence.", metavar="DIR")] = None,
) -> None:
    """Run a scenario in a fresh guest and judge it."""
    chosen = find_scenario(scenario)
    expected = frozenset({_outcome(expect)}) if expect else None
    workload = _workload(chosen, window, threads=threads, objects=objects, size=size, noio=noio)
    wish = _wish(kernel, variant, spl, spl_patch, accel, ram_mib=memory)
    base = _claim_directory(out, f"{scenario}-{_kernel_id(kernel)}-{variant}")
    with step(f"preparing {kernel}, {variant}"):
        prepared = prepare(wish)
    experiment = prepared.experiment(
        chosen,
        expected=expected,
        window_s=window,
        rate_hz=rate,
        workload=workload,
        dump=dump,
    )
    results: list[tuple[Verdict, Path]] = []
    for number in range(1, repeat + 1):
        # Each of a series counts, also one that says nothing; a single run is done again if the guest was starved.
        done = run_until_fed(experiment, base if repeat == 1 else base / f"{number:03}", 3 if repeat == 1 else 1)
        results.append(done[-1])
        _show(*results[-1])
    if repeat > 1:
        _console().print(tally_table([verdict for verdict, _ in results], experiment.expected))
    odd = [result for result in results if result[0].outcome not in experiment.expected]
    verdict, directory = (odd or results)[-1]
    typer.echo(verdict_line(verdict, read_evidence(directory).facts))
    if odd:
        raise typer.Exit(1)


def _workload(scenario: Scenario, window_s: float | None, **given: int | None) -> Workload:
    """The scenario's own, but for what was given.

    :raises UsageError: when that is not possible.
    """
    workload = scenario.workload(scenario.window_s if window_s is None else window_s)
    workload = replace(workload, **{name: value for name, value in given.items() if value is not None})
    if workload.commits and workload.threads != 1:
        raise UsageError(
            f"{scenario.name} has one critical thread: of several, one would commit what another waits for"
        )
    if workload.keep and workload.threads != 1:
        raise UsageError(f"{scenario.name} has one critical thread: others would add to what it keeps")
    return workload


@app.command()
def judge(
    directory: Annotated[Path, typer.Argument(help="Directory of a run.", metavar="DIR")],
    as_json: JsonOption = False,
) -> None:
    """Judge a recorded run again, from its files alone."""
    evidence = read_evidence(directory)
    verdict = judge_evidence(evidence)
    facts = evidence.facts
    expected = verdict.outcome in facts.get("expected", ())
    if as_json:
        _print_json(verdict.to_json())
    else:
        _console().print(summarize(verdict, facts, str(directory), expected=expected))
        typer.echo(verdict_line(verdict, facts))
    if not expected:
        raise typer.Exit(1)


@app.command()
def bundle(
    directory: Annotated[Path, typer.Argument(help="Directory of a run.", metavar="DIR")],
    out: Annotated[
        Path | None, typer.Option(help="The archive; by default DIR.tar.gz, beside DIR.", metavar="FILE.tar.gz")
    ] = None,
    with_dump: Annotated[bool, typer.Option("--with-dump", help="Pack the dump of the guest's memory too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
) -> None:
    """Pack a run for a bug report: one archive, and the text of an issue in the form that OpenZFS asks for."""
    evidence = read_evidence(directory)
    scenario, variant = SCENARIOS.get(str(evidence.facts.get("scenario"))), None
    if isinstance(spl := evidence.facts.get("spl"), dict):
        variant = VARIANTS.get(str(spl.get("variant")))
    made = write_bundle(
        directory,
        evidence,
        out,
        with_dump=with_dump,
        force=force,
        scenario_summary=scenario.summary if scenario else "",
        variant_summary=variant.summary if variant else "",
    )
    note(
        "run.json, qemu.log and harness.log name paths and programs of this host: look through them before you publish"
    )
    typer.echo(f"archive: {made.archive} ({made.size_bytes} bytes)")
    typer.echo(f"issue: {made.issue}")


@app.command()
def examine(
    directory: Annotated[Path, typer.Argument(help="Directory of a run.", metavar="DIR")],
    as_json: JsonOption = False,
) -> None:
    """Read the memory dump of a run: SPL's caches, who waits on them, the stacks of blocked tasks, and the cycle.

    It needs nothing of the guest, but the kernel's debug symbols: `splvm build --symbols`.
    """
    report = examine_run(directory, Store.default(), Deadline(PREPARE_BUDGET_S))
    graph = build_graph(report.for_graph())
    if as_json:
        _print_json({**report.to_json(), "wait_for": graph.to_json()})
        return
    for line in (*describe_dump(report), graph.sentence):
        typer.echo(plain(line))


@app.command()
def demo(
    kernel: KernelOption = "debian-12",
    accel: AccelOption = "auto",
    out: Annotated[Path | None, typer.Option(help="Directory for the evidence.", metavar="DIR")] = None,
) -> None:
    """The main job: hold the worker of the stock SPL, then of a build without emergency objects.

    The second is the control. If it does not fail, the first proves nothing.
    """
    scenario = find_scenario("held-worker")
    base = _claim_directory(out, f"demo-{_kernel_id(kernel)}")
    builds = {}
    for variant in ("stock", "no-emergency"):
        with step(f"preparing {kernel}, {variant}"):
            builds[variant] = prepare(Wish(kernel=kernel, variant=variant, accelerator=accel))
    console = _console(record=True)
    ok = True
    lines = []
    for variant, prepared in builds.items():
        experiment = prepared.experiment(scenario)
        verdict, directory = run_until_fed(experiment, base / variant)[-1]
        _show(verdict, directory, console)
        lines.append(verdict_line(verdict, read_evidence(directory).facts))
        ok = ok and verdict.outcome in experiment.expected
    meaning = (
        "SPL went on while its worker was stuck, and the same harness failed the build that cannot."
        if ok
        else "At least one verdict is not the expected one: the two together prove nothing."
    )
    console.print(Text(meaning, style="bold green" if ok else "bold red"))
    report = base / "report.html"
    console.save_html(str(report))
    typer.echo(f"report: {report}")
    for line in lines:
        typer.echo(line)
    if not ok:
        raise typer.Exit(1)


@app.command()
def shell(
    kernel: KernelOption = "debian-12",
    variant: VariantOption = "stock",
    spl: SplOption = "debian",
    spl_patch: PatchOption = None,
    memory: MemoryOption = 512,
    accel: AccelOption = "auto",
    command: Annotated[str | None, typer.Option("--command", "-c", help="Run this and leave.", metavar="CMD")] = None,
) -> None:
    """Boot a guest with SPL and the probe loaded, and give a shell in it. The guest ends with the shell."""
    prepared = prepare(_wish(kernel, variant, spl, spl_patch, accel, ram_mib=memory))
    with Store.default().temporary() as logs:
        status = run_shell(prepared, logs, command)
    raise typer.Exit(status)


@app.command("parse-slab")
def parse_slab(
    file: Annotated[str, typer.Argument(help="A copy of /proc/spl/kmem/slab, or - for stdin.", metavar="FILE")],
    as_json: JsonOption = False,
) -> None:
    """Read a slab file, also one pasted into a report."""
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error
    try:
        slab = parse_slab_text(data.decode(errors="replace"))
    except EvidenceError as error:
        raise EvidenceError(f"{file}: {error.message}") from error
    if as_json:
        _print_json(slab.to_json())
    else:
        _console().print(slab_table(slab))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def test(ctx: typer.Context) -> None:
    """Run the project's own test suite, with real guests. Further arguments go to pytest."""
    if not (_ROOT / "tests" / "vm").is_dir():
        raise UsageError("the test suite is not part of an installation", hint="run it in a checkout of splvm")
    argv = [sys.executable, "-m", "pytest", "--require-vm", *ctx.args]
    note(shlex.join(argv))
    os.chdir(_ROOT)
    os.execv(sys.executable, argv)


def _wish(
    kernel: str,
    variant: str,
    spl: str,
    patches: Sequence[Path] | None,
    accel: str,
    *,
    ram_mib: int = 512,
    refresh: bool = False,
) -> Wish:
    absolute = tuple(patch.absolute() for patch in patches or ())
    return Wish(kernel, variant, spl, absolute, accel, ram_mib, refresh)


def _kernel_id(name: str) -> str:
    own = find_own_kernel(name)
    return own.spec.id if own else find_kernel(name).id


def _outcome(name: str) -> Outcome:
    try:
        return Outcome(name.upper())
    except ValueError:
        raise UsageError(f"--expect {name}: no such verdict; there are: {', '.join(Outcome)}") from None


def _claim_directory(out: Path | None, name: str) -> Path:
    """A directory of this run's own: `out`, or one below ./runs with the time in its name.

    :raises UsageError: when `out` has something in it already.
    """
    if out is not None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"--out {out}: there is something already", hint="name a directory that is new or empty")
        out.mkdir(parents=True, exist_ok=True)
        return out
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in range(1000):
        path = Path("runs") / (f"{stamp}-{name}" + (f"-{number}" if number else ""))
        with suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise SetupError("cannot make a directory below ./runs")


def _show(verdict: Verdict, directory: Path, console: Console | None = None) -> None:
    facts = read_evidence(directory).facts
    panel = summarize(verdict, facts, str(directory), expected=verdict.outcome in facts["expected"])
    (console or _console()).print(panel)


def _console(*, record: bool = False) -> Console:
    # Off a terminal lines are as long as they are, so that they can be searched.
    return Console(record=record, highlight=False, width=None if sys.stdout.isatty() else 120)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))


def _end_on_sigterm(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM ends the program as Ctrl-C does: by an exception, so that everything is taken down on the way."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main() -> NoReturn:
    """Entry point: turns every error into a message and an exit status."""
    signal.signal(signal.SIGTERM, _end_on_sigterm)
    try:
        # Its own errors (usage, Ctrl-C, a reader that has gone) it turns into messages and statuses itself.
        app()
    except HarnessError as error:
        # What a guest or a tool said may be in it.
        for line in f"error: {error}".splitlines():
            typer.echo(plain(line), err=True)
        sys.exit(error.exit_status)
    raise AssertionError("a typer application exits")
