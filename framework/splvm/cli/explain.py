"""`splvm explain`: the explanation of a pasted log, stack, slab file or dump."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from splvm.cli.inputs import open_input
from splvm.cli.options import JsonOption, print_json
from splvm.deadline import Deadline
from splvm.dump.postmortem import DumpReport, examine_dump
from splvm.errors import EvidenceError, UsageError
from splvm.log import note
from splvm.paste.answer import answer_lines
from splvm.paste.explanation import conclude
from splvm.paste.moments import Moment, Thread
from splvm.paste.reader import Reader
from splvm.paste.reading import MAX_UNREAD, Input, Reading, Unread
from splvm.plainfile import NotPlainError
from splvm.record.names import CONSOLE_FILE, RUN_FILE, SYSRQ_FILE
from splvm.record.reader import read_file
from splvm.report.pasteissue import paste_issue
from splvm.report.summary import plain

# Reading a dump of a few GiB.
DUMP_BUDGET_S = 600.0
# Dumps begin so: ELF, and the compressed forms of makedumpfile and diskdump.
_DUMPS = (b"\x7fELF", b"KDUMP   ", b"DISKDUMP", b"makedumpfile")


def explain(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            help="Logs, stacks, slab files, a run's directory, a dump; or - for stdin.", metavar="[FILE...|-]"
        ),
    ] = None,
    as_json: JsonOption = False,
    issue: Annotated[
        bool, typer.Option("--issue", help="Print a bug report without names of hosts, paths, addresses and datasets.")
    ] = False,
    collector: Annotated[
        bool, typer.Option("--collector", help="Print a shell script that collects evidence on a machine that hangs.")
    ] = False,
    vmlinux: Annotated[
        Path | None, typer.Option(help="The kernel with debug symbols, for a dump.", metavar="FILE")
    ] = None,
    debug: Annotated[
        list[Path] | None,
        typer.Option(help="A module with debug symbols, for a dump; may be given again.", metavar="FILE"),
    ] = None,
) -> None:
    """Explain a pasted log, stack, dump or slab file: what happened, who waits for whom, and whether it is a deadlock.

    It reads dmesg and journals in every form, hung tasks, lists by SysRq, oopses, stacks of /proc, crash and drgn, and
    files of /proc/spl, also compressed by gzip or xz. It executes and fetches nothing. The exit status is 0 if it could
    read something, also a deadlock, and 1 if nothing was of use or a slab file contradicts itself.
    """
    if collector:
        typer.echo(resources.files("splvm.paste").joinpath("collector.sh").read_text(encoding="utf-8"), nl=False)
        return
    if as_json and issue:
        raise UsageError("--json and --issue exclude each other")
    reading = Reading()
    for name in files or ["-"]:
        read_any(name, reading, vmlinux, tuple(debug or ()))
    explanation = conclude(reading)
    if as_json:
        print_json(explanation.to_json())
    elif issue:
        typer.echo(paste_issue(explanation), nl=False)
    else:
        for line in answer_lines(explanation):
            typer.echo(line)
    if explanation.is_empty or explanation.contradictions:
        raise typer.Exit(1)


def read_any(name: str, reading: Reading, vmlinux: Path | None, debug: tuple[Path, ...]) -> None:
    """Read one argument into `reading`.

    :raises UsageError: when the file cannot be read, or a directory is not that of a run.
    """
    path = Path(name)
    try:
        if path.is_dir():
            for file, text in run_files(path):
                Reader(str(file), reading).read(io.BytesIO(text))
        else:
            with ExitStack() as stack:
                stream = stack.enter_context(open_input(name))
                if is_dump(stream):
                    read_dump(path, reading, vmlinux, debug)
                else:
                    Reader(name, reading).read(stream)
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from error


def run_files(directory: Path) -> Iterator[tuple[Path, bytes]]:
    """The texts of a run's directory, and where they are. It may be anybody's: what is no plain file is left out.

    :raises UsageError: when it is not the directory of a run.
    """
    if not (directory / RUN_FILE).is_file():
        raise UsageError(f"{directory} is not the directory of a run: it has no {RUN_FILE}")
    # The list by SysRq is in the console too; it is whole in its own file.
    for name in (SYSRQ_FILE, CONSOLE_FILE):
        try:
            yield directory / name, read_file(directory, name)
        except FileNotFoundError:
            continue
        except NotPlainError as error:
            note(f"{plain(str(directory / name))} is {error.strerror}, so it was not read")


def is_dump(stream: BinaryIO) -> bool:
    """Whether the stream is a memory dump. It consumes nothing of the stream."""
    if not isinstance(stream, io.BufferedReader):
        return False
    return stream.peek(16).startswith(_DUMPS)


def read_dump(path: Path, reading: Reading, vmlinux: Path | None, debug: tuple[Path, ...]) -> None:
    """Read a dump of the kernel's memory with drgn.

    :raises UsageError: when the kernel's symbols are not given.
    """
    if vmlinux is None:
        raise UsageError(f"{path} is a memory dump: give the kernel with its debug symbols, --vmlinux FILE")
    try:
        report = examine_dump(path, vmlinux, {it.name.split(".")[0]: it for it in debug}, Deadline(DUMP_BUDGET_S))
    except EvidenceError as error:
        raise EvidenceError(f"{path}: {error.message}") from error
    take_report(report, str(path), reading)


def take_report(report: DumpReport, name: str, reading: Reading) -> None:
    """Add the threads of a dump, and its unread parts: symbols of another build leave frames without a name."""
    reading.inputs.append(Input(name, "vmcore", len(report.threads)))
    reading.moments.append(moment_of(report, reading))
    reading.unread.extend(Unread(0, f"{name}: {problem}") for problem in report.problems[:MAX_UNREAD])


def moment_of(report: DumpReport, reading: Reading) -> Moment:
    """The blocked threads of a dump as a moment."""
    moment = Moment("vmcore")
    for it in report.for_graph():
        thread = Thread(it.pid, it.comm, it.state, 1, "task", frames=list(it.frames))
        moment.threads[it.pid] = thread
        reading.threads.append((thread, moment))
    return moment
