"""Options that several commands share, the parsing of their values, and the printing of results."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.panel import Panel

from splvm.assets import find_debug_header
from splvm.builds.kernels import KERNELS
from splvm.builds.own import FORM as OWN_KERNEL
from splvm.builds.source import FORM as BUILT_KERNEL
from splvm.builds.variants import VARIANTS
from splvm.campaign.processes import fitting_jobs
from splvm.clock import Clock, ClockChoice
from splvm.errors import HarnessError, SetupError, UsageError
from splvm.evidence.loads import LOADS
from splvm.evidence.verdict import Outcome, Verdict
from splvm.host.claim import hold_directory, holder_of
from splvm.log import note
from splvm.record.reader import read_facts
from splvm.report.summary import plain, summarize
from splvm.run.buildline import check_label
from splvm.run.clocks import Host, common_clock, usual_clock
from splvm.run.expected import remark_on
from splvm.run.experiment import Dump
from splvm.run.loads import MOST_SEED, Load
from splvm.run.prepare import Wish, find_any_kernel, spec_of
from splvm.run.scenarios import Scenario


class Preempt(StrEnum):
    """Values of `--preempt`, and of the kernel's own word."""

    NONE = "none"
    VOLUNTARY = "voluntary"
    FULL = "full"


# Runs that one command makes at most.
MOST_RUNS = 100_000

# CPUs that a guest has at most.
MOST_CPUS = 8


def finite(value: float | None) -> float | None:
    """Refuse `nan`: every comparison with it is false, so no bound would stop it."""
    if value is not None and math.isnan(value):
        raise typer.BadParameter("it is not a number")
    return value


_SOURCES = (
    "`debian`, `path:DIR` with an OpenZFS tree, `git:DIR@REV` with a commit of a repository, or `pr:N`, a pull request "
    "that was fetched into the clone SPLVM_OPENZFS"
)

KernelOption = Annotated[
    str,
    typer.Option(help=f"Kernel: {', '.join(KERNELS)}, {BUILT_KERNEL}, or your own as {OWN_KERNEL}.", metavar="ID"),
]
VariantOption = Annotated[str, typer.Option(help=f"Variant of SPL: {', '.join(VARIANTS)}.", metavar="NAME")]
SplOption = Annotated[
    str,
    typer.Option(help=f"Source of SPL: {_SOURCES}.", metavar="SOURCE"),
]
SplsOption = Annotated[
    list[str] | None,
    typer.Option(help=f"Source of SPL: {_SOURCES}; may be given again, the base first.", metavar="SOURCE"),
]
PatchOption = Annotated[
    list[Path] | None,
    typer.Option(
        help="A .patch or .cocci file to apply to the source, or a .h file with macros for all modules; may be given "
        "again.",
        metavar="FILE",
    ),
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Build all modules with OpenZFS's debug option: its assertions are checked.")
]
LabelOption = Annotated[
    str | None,
    typer.Option(
        help="A name for the line of your builds; the history compares runs of one line. By default the name is the "
        "tree's branch, its directory, REV or pr:N, and a hash of the patches.",
        metavar="NAME",
    ),
]
AccelOption = Annotated[str, typer.Option(help="Accelerator: auto, kvm or tcg.", metavar="NAME")]
QemuOption = Annotated[
    str,
    typer.Option(
        help="QEMU: `host`, `suite:NAME` for that of a suite of Debian, or `auto`: the host's own if it will do.",
        metavar="NAME",
    ),
]
ClockOption = Annotated[
    ClockChoice,
    typer.Option(
        help="Time of the guest: `real` is the host's; `virtual` is the number of the guest's instructions, and the "
        "same seed is the same run. `auto` is real time, and virtual time for a second run after the host starved the "
        "guest."
    ),
]
DelayOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Delay whoever comes by an instruction of SPL, as `explore` tells: FUNCTION+OFFSET#HIT:US; may be given "
        "again.",
        metavar="DELAY",
    ),
]
CampaignClockOption = Annotated[
    ClockChoice,
    typer.Option(
        help="Time of the guests: `real`, or `virtual`, the number of the guest's instructions; each further run has "
        "the next seed. `auto` is virtual time under TCG, where it was tried for scenario, loads and kernel, and real "
        "time elsewhere."
    ),
]
MemoryOption = Annotated[int, typer.Option(help="Memory of the guest in MiB.", min=256, max=1 << 20, metavar="MIB")]
CpusOption = Annotated[
    int, typer.Option(help="CPUs of the guest; a scenario may need more.", min=1, max=MOST_CPUS, metavar="N")
]
PreemptOption = Annotated[
    Preempt | None,
    typer.Option(help="When the guest's kernel preempts itself; by default as it was built.", metavar="WHEN"),
]
CoverageOption = Annotated[
    bool,
    typer.Option(
        "--coverage", help="Say which lines of SPL are executed, in coverage.info (lcov); for runs in virtual time."
    ),
]
TemplateOption = Annotated[
    bool,
    typer.Option("--template/--no-template", help="Clone guests from a template, or boot each guest."),
]
RepeatOption = Annotated[int, typer.Option(help="Number of runs; every run counts.", min=1, max=MOST_RUNS, metavar="N")]
JobsOption = Annotated[
    str, typer.Option(help="Runs at once: a number, or `auto` for all that cores and memory allow.", metavar="N")
]
LoadOption = Annotated[
    list[str] | None,
    typer.Option(
        help=f"Loads beside the scenario: {', '.join(LOADS)}; separated by commas, with values as NAME:KEY=VALUE.",
        metavar="NAME",
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        help="Seed of the loads' random numbers, and of a run in virtual time; by default a new seed.",
        min=0,
        max=MOST_SEED,
    ),
]
KeysOption = Annotated[
    Path | None,
    typer.Option(help="Directory of the keys for tls://; `splvm cluster keys DIR` makes them.", metavar="DIR"),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-network", help="Allow dask:// to other machines. Use it only if nobody else can reach the network."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
WindowOption = Annotated[
    float | None,
    typer.Option(help="Length of the window in seconds of guest time.", min=1, max=3600, callback=finite),
]
RateOption = Annotated[int, typer.Option(help="Samples per second.", min=1, max=100)]
ThreadsOption = Annotated[int | None, typer.Option(help="Critical threads; by default the scenario's.", min=1, max=64)]
ObjectsOption = Annotated[
    int | None,
    typer.Option(help="Objects that a thread takes in a round; by default the scenario's.", min=1, max=16384),
]
SizeOption = Annotated[
    int | None,
    typer.Option(help="Size of an object in bytes; by default the scenario's.", min=64, max=8 * 1024 * 1024),
]
NoioOption = Annotated[
    int | None, typer.Option(help="1: threads allocate with GFP_NOIO. 0: with GFP_KERNEL.", min=0, max=1)
]
DumpOption = Annotated[
    Dump, typer.Option(help="When to keep a dump of the guest's memory; `trouble` means STALLED or a lost guest.")
]
ExpectOption = Annotated[str | None, typer.Option(help="The expected verdict.", metavar="VERDICT")]
RefreshOption = Annotated[bool, typer.Option("--refresh", help="Fetch new package lists first.")]


def make_wish(
    kernel: str,
    variant: str,
    spl: str,
    patches: Sequence[Path] | None,
    accel: str,
    *,
    ram_mib: int = 512,
    refresh: bool = False,
    clones: bool = True,
    debug: bool = False,
    label: str | None = None,
    qemu: str = "auto",
    clock: Clock = Clock.REAL,
    cpus: int = 2,
    cover: bool = False,
    preempt: Preempt | None = None,
) -> Wish:
    absolute = tuple(patch.absolute() for patch in (*(patches or ()), *([find_debug_header()] if debug else ())))
    line = check_label(label, spl, absolute)
    return Wish(
        kernel, variant, spl, absolute, accel, ram_mib, refresh, clones, line, qemu, clock, cpus, cover, preempt or ""
    )


def check_coverage(clock: ClockChoice, *, coverage: bool) -> None:
    """:raises UsageError: when lines that are executed are asked for in real time."""
    if coverage and clock is not ClockChoice.VIRTUAL:
        raise UsageError("--coverage: what is executed can be told in virtual time alone", hint="--clock virtual")


def with_usual_clock(
    wishes: Sequence[Wish], choice: ClockChoice, scenario: Scenario, loads: Sequence[Load]
) -> list[Wish]:
    """The wishes of runs that are compared with each other, all with one clock: that of `--clock`.

    One line says which it is if none was named, and why.
    """
    if choice is not ClockChoice.AUTO:
        return [replace(wish, clock=choice.clock) for wish in wishes]
    chosen = common_clock([usual_clock(Host.of(wish), scenario, loads, wish.kernel) for wish in wishes])
    note(f"{scenario.name}: {chosen}")
    return [replace(wish, clock=chosen.clock) for wish in wishes]


def pick_seed(seed: int | None, runs: int) -> int:
    """The given seed, or a random seed below `MOST_SEED - runs`, so that each run can add its number."""
    return secrets.randbelow(MOST_SEED - runs) if seed is None else seed


def directory_id(name: str) -> str:
    """The id of a kernel, without characters that a directory's name should not have."""
    return re.sub("[:,]", "-", spec_of(find_any_kernel(name)).id)


def count_jobs(jobs: str, ram_mib: int) -> int:
    """The number of runs at once that `--jobs` asks for.

    :param ram_mib: memory of one guest, MiB.
    :raises UsageError: when `jobs` is neither `auto` nor a number from 1 to 256.
    """
    if jobs == "auto":
        return fitting_jobs(ram_mib)
    if not jobs.isascii() or not jobs.isdigit() or not 1 <= int(jobs) <= 256:
        raise UsageError(f"--jobs {jobs}: it is `auto`, or a number from 1 to 256")
    return int(jobs)


def find_outcome(name: str, option: str = "--expect") -> Outcome:
    """The verdict of this name, in capitals or not.

    :raises UsageError: when there is no such verdict; it names `option`.
    """
    try:
        return Outcome(name.upper())
    except ValueError:
        raise UsageError(f"{option} {name}: no such verdict; there are: {', '.join(Outcome)}") from None


def kernel_names(values: Iterable[str]) -> list[str]:
    """Names of kernels. A value without a colon is split at its commas; a value with a colon is one name.

    :raises UsageError: when a name is no kernel.
    """
    names = [name for value in values for name in ([value] if ":" in value else value.split(","))]
    for name in names:
        find_any_kernel(name)
    return names


def claim_directory(out: Path | None, name: str) -> Path:
    """A directory of this run's own: `out`, or a new directory below ./runs with the time in its name.

    No other command gets it until this one ends. A directory that was made here and is still empty then is removed.

    :raises UsageError: when `out` is there and not empty, or another command has it.
    """
    if out is not None:
        try:
            _claim_named(out)
        except OSError as error:
            raise UsageError(f"--out {out}: {error.strerror}") from error
        return out
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in range(1000):
        path = Path("runs") / (f"{stamp}-{name}" + (f"-{number}" if number else ""))
        with suppress(FileExistsError):
            path.mkdir(parents=True)
            _hold(path, "--out")
            _CLAIMED.append(path)
            return path
    raise SetupError("cannot make a directory below ./runs")


def claim_again(directory: Path) -> None:
    """Have the directory of a campaign that was interrupted to oneself. Without one, whoever reads it says so.

    :raises UsageError: when another command has it.
    """
    with suppress(OSError):
        _hold(directory, "--resume")


def _claim_named(out: Path) -> None:
    is_taken = UsageError(
        f"--out {out}: it is there and not an empty directory", hint="name a directory that is new or empty"
    )
    if os.path.lexists(out) and not out.is_dir():
        raise is_taken
    is_new = False
    with suppress(FileExistsError):
        out.mkdir(parents=True)
        is_new = True
    # Only then is what lies in it of a command that has ended.
    _hold(out, "--out")
    if is_new:
        _CLAIMED.append(out)
    if any(out.iterdir()):
        raise is_taken


def _hold(directory: Path, option: str) -> None:
    held = hold_directory(directory)
    if held is None:
        raise UsageError(
            f"{option} {directory}: {plain(holder_of(directory))} works in it",
            hint="wait until that has ended, or name another directory",
        )
    _HELD.append(held)


# Directories that the command under way has made for its runs, and descriptors of those that it holds.
_CLAIMED: list[Path] = []
_HELD: list[int] = []


def with_own_directories(command: Callable[..., None]) -> Callable[..., None]:
    """The command, which at its end lets go of its directories, and removes those that it made and left empty."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        finally:
            while _CLAIMED:
                # rmdir(2) takes nothing that is not empty.
                with suppress(OSError):
                    _CLAIMED.pop().rmdir()
            while _HELD:
                os.close(_HELD.pop())

    return run


def show_verdict(verdict: Verdict, directory: Path, console: Console | None = None) -> None:
    facts = read_facts(directory)
    (console or make_console()).print(summary_of(verdict, facts, directory))


def summary_of(verdict: Verdict, facts: Mapping[str, Any], directory: Path) -> Panel:
    """The summary of a run, with the expected verdict."""
    expected, remark = verdict.outcome in facts.get("expected", ()), remark_on(facts, verdict.outcome)
    return summarize(verdict, facts, str(directory), expected=expected, remark=remark)


def show_error(error: HarnessError) -> None:
    """Print an error line by line, without control characters: it may quote a guest or a tool."""
    for line in f"error: {error}".splitlines():
        typer.echo(plain(line), err=True)


def make_console(*, record: bool = False) -> Console:
    # Off a terminal lines are as long as they are, so that they can be searched.
    return Console(record=record, highlight=False, width=None if sys.stdout.isatty() else 120)


def print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))
