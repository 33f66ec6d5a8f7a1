"""The command that runs a recorded run again, compares every frame, and stops at a moment."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from splvm.builds.module import debug_file
from splvm.builds.plugin import build_plugin
from splvm.builds.symbols import kept_symbols
from splvm.cli.options import JsonOption, claim_directory, print_json
from splvm.deadline import Deadline
from splvm.errors import EvidenceError, SetupError, UsageError
from splvm.evidence.diagnosis import parse_registers
from splvm.guest.closed import ClosedGuest
from splvm.guest.debugger import ModuleText, gdb_commands, serve_gdb, text_addresses, wait_for_session
from splvm.guest.moment import Counter, MomentReached, Stop, open_counter
from splvm.host.store import Store
from splvm.log import note, step
from splvm.record.names import REGISTERS_FILE, SAMPLES_FILE
from splvm.record.reader import iterate_records, read_digest, read_evidence, read_facts
from splvm.report.summary import plain, verdict_line
from splvm.run.closedrun import Witness
from splvm.run.experiment import Experiment, run_experiment
from splvm.run.prepare import PREPARE_BUDGET_S, Prepared, prepare
from splvm.run.replay import (
    Comparison,
    Differs,
    Moment,
    experiment_of,
    find_moment,
    first_frame_ns,
    otherwise,
    wish_of,
    with_recorded_qemu,
)
from splvm.scenarios.table import find_scenario

_GDB_FILE = "gdb.commands"
_COMMAND_S = 10.0
_MOST_SOCKET_BYTES = 107


def replay(
    directory: Annotated[Path, typer.Argument(help="Directory of a run in virtual time.", metavar="DIR")],
    until: Annotated[
        str | None,
        typer.Option(
            help="Stop there: `stall`, a time of the guest's clock as `12.3456s`, or `sample:N`; each may have an "
            "offset, as `stall-5ms` has.",
            metavar="MOMENT",
        ),
    ] = None,
    gdb: Annotated[
        bool, typer.Option("--gdb", help="At the moment of --until, open QEMU's gdb server and wait for gdb.")
    ] = False,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Run also if QEMU, kernel, modules, template or splvm are others, to the end."),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Directory for the evidence.", metavar="DIR")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a recorded run in virtual time again, and compare each frame with the recorded one.

    The exit status is 0 if the run is the same, up to the moment of --until, and 1 if a frame differs; that frame is
    named. A run whose QEMU, kernel, modules, template or splvm are not there any more is refused (exit status 2).
    """
    if gdb and until is None:
        raise UsageError("--gdb: a debugger needs a guest that stands", hint="for example --until stall-5ms --gdb")
    facts = read_facts(directory)
    recorded = read_evidence(directory)
    if recorded.damage:
        raise EvidenceError(f"{directory}: {plain(recorded.damage[0])}")
    wish = wish_of(facts)
    scenario = find_scenario(str(facts.get("scenario")))
    moment = (
        find_moment(until, recorded.timeline, first_frame_ns(iterate_records(directory / SAMPLES_FILE)))
        if until
        else None
    )
    base = claim_directory(out, f"replay-{scenario.name}")
    with step(f"preparing {wish.kernel}, {wish.variant}"):
        prepared = prepare(wish)
        prepared = with_recorded_qemu(prepared, facts, prepared.store)
        experiment = experiment_of(facts, prepared, scenario)
    deadline = Deadline(PREPARE_BUDGET_S)
    differing = otherwise(experiment, facts, deadline)
    if differing and not anyway:
        raise UsageError(
            "\n".join([f"{directory} cannot be replayed as it was:", *map(plain, differing)]),
            hint="--anyway runs it, and names the first frame that differs",
        )
    for line in differing:
        note(plain(line))
    comparison = Comparison(iterate_records(directory / SAMPLES_FILE), go_on=anyway)
    told = _run(experiment, prepared, base, comparison, moment, gdb=gdb)
    digest = str(told.pop("digest", ""))
    difference = comparison.difference
    if moment is None and not difference:
        difference = comparison.end()
        then = read_digest(directory, facts)
        if not difference and digest != then:
            difference = "the frames are the same, and the consoles differ"
    result = {
        "schema_version": 1,
        "replayed": str(directory),
        "directory": str(base),
        "is_same": not difference,
        "frames": comparison.frames,
        "difference": difference,
        "digest": digest,
        "otherwise": differing,
        **told,
    }
    _say(result, as_json=as_json)
    if difference:
        raise typer.Exit(1)


def _say(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    if result.get("verdict"):
        typer.echo(result["line"])
    if stopped := result.get("stopped"):
        where = f"at {stopped['now_ns'] / 1e9:.9f} s of the guest, after {stopped['count']} instructions"
        typer.echo(f"stopped {where}: {stopped['moment']}")
        for number, address in enumerate(stopped["addresses"]):
            typer.echo(f"CPU {number} is at {address:#x}")
    if result["difference"]:
        typer.echo(plain(f"another run: {result['difference']}"))
    else:
        digest = f", digest {result['digest'][:16]}" if result["digest"] else ""
        typer.echo(f"the same run: {result['frames']} frames{digest}")
    typer.echo(f"evidence: {result['directory']}")


def _run(
    experiment: Experiment, prepared: Prepared, base: Path, comparison: Comparison, moment: Moment | None, *, gdb: bool
) -> dict[str, Any]:
    """Run it, and tell what came of it."""
    told: dict[str, Any] = {}
    with ExitStack() as stack:
        counter: Counter | None = None
        if moment is not None:
            plugin = build_plugin(prepared.store, prepared.kernel.root, Deadline(PREPARE_BUDGET_S))
            counter = stack.enter_context(open_counter(plugin))
            counter.hold_at(moment.at_ns)

        def hear(frame: Any) -> None:
            comparison.hear(frame)
            if counter is not None:
                counter.hear(frame.end_ns)

        def stop(guest: ClosedGuest, deadline: Deadline) -> None:
            assert counter is not None and moment is not None
            stopped = counter.stop(guest.emulator, deadline)
            told["stopped"] = _look(guest, stopped, moment, base)
            if gdb:
                _debug(guest, prepared, base, told["stopped"])

        try:
            verdict = run_experiment(experiment, base, witness=Witness(hear, counter, stop))
        except MomentReached:
            return told
        except Differs:
            return told
    if moment is not None:
        raise SetupError(f"the run has ended, and {moment.what} did not come at {moment.at_ns / 1e9:.6f} s")
    facts = read_facts(base)
    return {"verdict": verdict.outcome, "line": verdict_line(verdict, facts), "digest": verdict.digest}


def _look(guest: ClosedGuest, stopped: Stop, moment: Moment, base: Path) -> dict[str, Any]:
    registers = guest.emulator.registers(Deadline(_COMMAND_S))
    (base / REGISTERS_FILE).write_text(registers, encoding="utf-8", errors="backslashreplace")
    addresses = [cpu.rip for cpu in parse_registers(registers)]
    return {
        "moment": moment.what,
        "asked_ns": moment.at_ns,
        "now_ns": stopped.now_ns,
        "count": stopped.count,
        "addresses": addresses,
    }


@contextmanager
def _socket(store: Store) -> Iterator[Path]:
    """The path of a socket, in the store, where the next splvm removes it if this one is killed.

    The path of a unix socket may have 107 bytes, and that of the run may be longer, and seldom the store's.
    """
    with ExitStack() as stack:
        path = stack.enter_context(store.temporary()) / "gdb"
        if len(os.fsencode(path)) > _MOST_SOCKET_BYTES:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="splvm-"))) / "gdb"
        yield path


def _debug(guest: ClosedGuest, prepared: Prepared, base: Path, stopped: dict[str, Any]) -> None:
    """Open the gdb server, write what gdb is to read, and wait until a debugger has come and gone."""
    kernel = prepared.kernel
    vmlinux = kept_symbols(prepared.store, kernel.release, kernel.version)
    addresses = text_addresses(guest.console.read_text(errors="replace"))
    modules = [
        ModuleText(debug_file(path) if debug_file(path).is_file() else path, addresses[path.stem])
        for path in prepared.spl.modules
        if path.stem in addresses
    ]
    with _socket(prepared.store) as socket:
        serve_gdb(guest.emulator, socket, Deadline(_COMMAND_S))
        (base / _GDB_FILE).write_text(gdb_commands(socket, vmlinux, modules))
        note(f"the guest stands after {stopped['count']} instructions; in another terminal: gdb -x {base / _GDB_FILE}")
        note("it ends when gdb does, or with Ctrl-C here")
        wait_for_session(guest.emulator)
