"""The command that has the kernel reclaim where SPL allocates."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from splvm.builds.calls import Call, find_calls
from splvm.campaign.places import HELPERS, masks_of
from splvm.campaign.stormreport import Finding, Pass, StormReport, found_in, joined
from splvm.campaign.stormruns import Run, Weather, find_only, search_places, single_runs
from splvm.cli.coverage import said_of_coverage
from splvm.cli.options import (
    MOST_RUNS,
    AccelOption,
    ClockOption,
    CoverageOption,
    DebugOption,
    ExpectOption,
    JobsOption,
    JsonOption,
    KernelOption,
    LabelOption,
    LoadOption,
    MemoryOption,
    PatchOption,
    QemuOption,
    SeedOption,
    SplOption,
    TemplateOption,
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
    print_json,
    show_verdict,
)
from splvm.cli.sites import STORM, OutOption, Scope, prepare_told
from splvm.clock import Clock, ClockChoice
from splvm.errors import UsageError, did_you_mean
from splvm.evidence.formats.stormstatus import OPS
from splvm.evidence.verdict import Outcome
from splvm.log import note
from splvm.record.reader import read_facts
from splvm.report.again import storm_options
from splvm.report.summary import plain, verdict_line
from splvm.report.tables import listing, tally_table
from splvm.run.coverage import gather_coverage
from splvm.run.experiment import Experiment
from splvm.run.loads import parse_loads
from splvm.run.prepare import Wish
from splvm.run.scenarios import Storm
from splvm.scenarios.table import find_scenario

REPORT_FILE = "storm.json"

# Seconds of the host after which `storm` begins no run that is not needed for a finding.
_BUDGET_S = 50.0
# The load of the run with swap. The storm itself has pages written, so it is a large one.
SWAPPING = "zram:used_mib=96"


class Trap(StrEnum):
    """Values of `--trap`."""

    FS = "fs"
    IO = "io"
    BOTH = "both"

    @property
    def bits(self) -> int:
        return {Trap.FS: 1, Trap.IO: 2, Trap.BOTH: 3}[self]


class By(StrEnum):
    """Values of `--by`."""

    RECLAIM = "reclaim"
    SHRINKERS = "shrinkers"
    BOTH = "both"

    @property
    def bits(self) -> int:
        return {By.RECLAIM: 1, By.SHRINKERS: 2, By.BOTH: 3}[self]


def storm(
    scope: Annotated[Scope, typer.Option(help="Module at whose allocations the kernel reclaims.")] = Scope.SPL,
    kernel: KernelOption = "debian-12",
    variant: VariantOption = "stock",
    spl: SplOption = "debian",
    spl_patch: PatchOption = None,
    debug: DebugOption = False,
    label: LabelOption = None,
    site: Annotated[
        list[str] | None,
        typer.Option(
            help="Reclaim at this place alone, in one run: FUNCTION, FUNCTION:CALLEE or FUNCTION:CALLEE#N; may be "
            "given again.",
            metavar="PLACE",
        ),
    ] = None,
    trap: Annotated[
        Trap, typer.Option(help="Where a shrinker waits for the transaction: may enter a filesystem, may do I/O.")
    ] = Trap.BOTH,
    by: Annotated[
        By, typer.Option(help="How: try_to_free_pages(), or all shrinkers at priority 0, or both in turns.")
    ] = By.BOTH,
    one_in: Annotated[
        int, typer.Option(help="Reclaim before one allocation of N.", min=1, max=1 << 20, metavar="N")
    ] = 1,
    unmarked: Annotated[
        bool, typer.Option("--unmarked", help="The transaction thread does not mark itself: the control.")
    ] = False,
    helpers: Annotated[
        bool,
        typer.Option(
            "--helpers", help="Threads are made within transactions, and reclaim comes in the thread that makes them."
        ),
    ] = False,
    ops: Annotated[
        str | None,
        typer.Option(help=f"What transactions do: {', '.join(OPS)}; by default all but the last two.", metavar="NAMES"),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="One run over all places, as `run storm` makes it, and no run of fewer places."),
    ] = False,
    load: LoadOption = None,
    seed: SeedOption = None,
    repeat: Annotated[
        int, typer.Option(help="Do it all N times, each time with the next seed.", min=1, max=MOST_RUNS, metavar="N")
    ] = 1,
    jobs: JobsOption = "1",
    memory: MemoryOption = 512,
    accel: AccelOption = "auto",
    qemu: QemuOption = "auto",
    clock: ClockOption = ClockChoice.AUTO,
    coverage: CoverageOption = False,
    template: TemplateOption = True,
    window: WindowOption = None,
    expect: ExpectOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have the kernel reclaim at every allocation site of SPL, while transactions are open.

    All places are asked at a low rate, then at every allocation; then each part of SPL, and each single place whose
    mask allows a filesystem or I/O, in a guest of its own; then all places while the guest swaps. What deadlocks is run
    again with reclaim at that place alone.

    The exit status is 0 for the expected verdict, and 1 for another verdict, as that of `run`. With --repeat each time
    counts. A run that the host starved is made again in the same time: --clock auto is real time here.
    """
    check_coverage(clock, coverage=coverage)
    if scope is not Scope.SPL:
        raise UsageError("--scope zfs: storms over zfs.ko are not there yet", hint="`splvm sites --module zfs` is")
    chosen = find_scenario(STORM)
    expected = frozenset({find_outcome(expect)}) if expect is not None else None
    loads = parse_loads(load or ())
    wish = make_wish(
        *(kernel, variant, spl, spl_patch, accel),
        ram_mib=memory,
        debug=debug,
        clones=template,
        label=label,
        qemu=qemu,
        clock=clock.clock,
        cover=coverage,
    )
    config = Storm(
        find_ops(ops), rate=one_in, trap=trap.bits, mark=int(not unmarked), helpers=int(helpers), how=by.bits
    )
    at_once = count_jobs(jobs, memory)
    base = claim_directory(out, f"storm-{directory_id(kernel)}-{variant}")
    prepared = prepare_told(wish)
    calls = find_calls(prepared.spl.modules[0])
    config = replace(config, only=_find_places(site or (), calls))
    first_seed = pick_seed(seed, repeat)

    def make(run: Run) -> Experiment:
        return prepared.experiment(
            chosen,
            expected=expected,
            window_s=window or run.window_s,
            loads=parse_loads([run.load] if run.load else []),
            seed=first_seed,
            storm=run.storm,
        ).nth(run.number)

    weather = Weather(make, calls, at_once)
    words = ",".join(map(str, loads))
    if quick or site:
        reports = single_runs(weather, config, base, repeat=repeat, seed=first_seed, load=words)
    else:
        # Not tried in virtual time.
        swap = "" if words or wish.clock is Clock.VIRTUAL else SWAPPING
        reports = [
            search_places(
                weather,
                config,
                base / f"{number:03}" if repeat > 1 else base,
                budget_s=_BUDGET_S,
                seed=first_seed + number - 1,
                load=words,
                swap=swap,
                number=number,
            )
            for number in range(1, repeat + 1)
        ]
    if coverage:
        note(said_of_coverage(gather_coverage(base), base))
    command = _Command(kernel, variant, spl, wish.patches, config, _other_options(wish, words, window))
    if not _answer(reports, base, None if as_json else command):
        raise typer.Exit(1)


def _answer(reports: Sequence[StormReport], base: Path, command: _Command | None) -> bool:
    """Write the report and show it, as JSON without a command; whether each time ended as expected."""
    report = joined(reports)
    wanted = frozenset(map(Outcome, read_facts(report.worst.directory)["expected"]))
    odd = [it for it in reports if it.worst.verdict.outcome not in wanted]
    content = {**report.to_json(), "repeats": [_repeat_json(it) for it in reports]}
    (base / REPORT_FILE).write_text(json.dumps(content, indent=1, default=str) + "\n")
    if command is None:
        print_json(content)
        return not odd
    _show_report(report)
    _show_findings(report, reports, command)
    if len(reports) > 1:
        make_console().print(tally_table([it.worst.verdict for it in reports], wanted))
    _show_worst((joined(odd) if odd else reports[-1]).worst, base)
    return not odd


def _other_options(wish: Wish, loads: str, window: float | None) -> tuple[str, ...]:
    """What the command that repeats a finding says besides, where it is not what a storm has by itself."""
    more = ["--load", loads] if loads else []
    more += ["--clock", "virtual"] if wish.clock is Clock.VIRTUAL else []
    more += ["--memory", str(wish.ram_mib)] if wish.ram_mib != Wish().ram_mib else []
    more += ["--window", str(window)] if window is not None else []
    return tuple(more)


def _show_worst(worst: Pass, base: Path) -> None:
    show_verdict(worst.verdict, worst.directory)
    typer.echo(f"evidence: {base}")
    typer.echo(verdict_line(worst.verdict, read_facts(worst.directory)))


def find_ops(names: str | None) -> int:
    if names is None:
        return Storm().ops
    bits = 0
    for name in names.split(","):
        if name not in OPS:
            raise UsageError(
                f"--ops {name}: there is no such operation", hint=did_you_mean(name, OPS) or ", ".join(OPS)
            )
        bits |= 1 << OPS.index(name)
    return bits


def _find_places(names: Sequence[str], calls: Sequence[Call]) -> tuple[str, ...]:
    only, wrong = find_only(names, calls)
    if wrong:
        known = [call.place for call in calls if call.is_direct]
        hint = did_you_mean(wrong[0], known) or "`splvm sites` lists the places"
        raise UsageError(f"--site {wrong[0]}: this build has no such place", hint=hint)
    return only


@dataclass(frozen=True, slots=True)
class _Command:
    """The command that was given, in so far as a finding depends on it."""

    kernel: str
    variant: str
    spl: str
    patches: Sequence[Path] | None
    storm: Storm
    # Further options.
    more: tuple[str, ...] = ()

    def repeats(self, finding: Finding, seed: int) -> list[str]:
        """The command that repeats a finding."""
        words = ["splvm", "storm", "--kernel", self.kernel, "--variant", self.variant]
        words += ["--spl", self.spl] if self.spl != "debian" else []
        for patch in self.patches or ():
            words += ["--spl-patch", str(patch)]
        places = [it for it in finding.confined or (finding.place,) if not it.startswith(HELPERS)]
        if finding.again is None or not places:
            words += ["--quick"]
        else:
            words += [word for place in places for word in ("--site", place)]
        words += storm_options({**asdict(self.storm), "only": ()})
        return [*words, *self.more, "--seed", str(seed)]


def _repeat_json(report: StormReport) -> dict[str, object]:
    """One time of several."""
    return {
        "seed": report.seed,
        "verdict": report.worst.verdict.outcome,
        "reclaims": report.reclaims,
        "places": sorted({it.place for it in report.findings}),
        "directory": str(report.worst.directory),
    }


def _show_findings(report: StormReport, reports: Sequence[StormReport], command: _Command) -> None:
    times = found_in(reports)
    for finding in report.findings:
        typer.echo(plain(f"{finding.place}: {finding.last.verdict.reasons[0].text}"))
        if sentence := finding.last.verdict.wait_for.get("sentence"):
            typer.echo(plain(f"  {sentence}"))
        every = "every allocation" if finding.last.rate == 1 else f"one allocation of {finding.last.rate}"
        typer.echo(plain(f"  reclaim came before {every}; {finding.reach}"))
        if len(reports) > 1:
            typer.echo(f"  found in {times[finding.place]} of {len(reports)} times")
        typer.echo(plain(f"  repeat it: {shlex.join(command.repeats(finding, report.seed))}"))
    for name in report.left:
        typer.echo(plain(f"nothing is known of: {name}"))


def _show_report(report: StormReport) -> None:
    files = report.files
    rows = [
        (
            place.name,
            place.reclaims,
            masks_of(place, files),
            report.state(place),
            ",".join(sorted({site.thread for site in place.sites})) or "-",
        )
        for place in report.places
    ]
    make_console().print(listing(("place", "reclaims", "may enter", "state", "threads"), rows, prose=2))
    total = sum(place.reclaims for place in report.places)
    asked = [place for place in report.places if place.reclaims]
    seconds = sum(it.seconds for it in report.passes)
    told = f"{total} reclaims at {len(asked)} of {len(report.places)} places"
    typer.echo(f"{told}, in {len(report.passes)} runs of {seconds:.0f} s together")
