"""The command that runs a recorded run again, compares every frame, and stops at a moment."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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
from splvm.guest.lockstep import LockStep
from splvm.guest.memorydump import dump_memory
from splvm.guest.moment import Counter, MomentReached, Stop, open_counter
from splvm.host.store import Store
from splvm.log import note, step
from splvm.record.names import DUMP_FILE, REGISTERS_FILE, SAMPLES_FILE
from splvm.record.reader import iterate_records, read_digest, read_evidence, read_facts
from splvm.report.summary import plain, verdict_line
from splvm.run.closedrun import Witness, let_in_early
from splvm.run.experiment import Experiment, run_experiment
from splvm.run.pack import open_pack, write_pack
from splvm.run.prepare import PREPARE_BUDGET_S, prepare
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
from splvm.run.shell import run_ssh
from splvm.scenarios.table import find_scenario

_GDB_FILE = "gdb.commands"
_DRGN_FILE = "drgn_session.py"
_COMMAND_S = 10.0
_DUMP_S = 60.0
_MOST_SOCKET_BYTES = 107


def replay(
    place: Annotated[
        Path,
        typer.Argument(help="Directory of a run in virtual time, or what `bundle --replay` made of it.", metavar="DIR"),
    ],
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
    drgn: Annotated[
        bool,
        typer.Option("--drgn", help="At the moment of --until, dump the guest's memory for a session of drgn."),
    ] = False,
    shell: Annotated[
        bool, typer.Option("--shell", help="At the moment of --until, let the guest go on, and open a shell in it.")
    ] = False,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Run also if QEMU, kernel, modules, template or splvm are others, to the end."),
    ] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the QEMU that a packed run brings along, on this host, as you.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Directory for the evidence.", metavar="DIR")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a recorded run in virtual time again, and compare each frame with the recorded one.

    The exit status is 0 if the run is the same, up to the moment of --until, and 1 if a frame differs; that frame is
    named. A run whose QEMU, kernel, modules, template or splvm are not there any more is refused (exit status 2). A
    packed run brings all of it along but splvm.
    """
    asked = [name for name, it in (("--gdb", gdb), ("--drgn", drgn), ("--shell", shell)) if it]
    if asked and until is None:
        raise UsageError(f"{asked[0]}: it needs a guest that stands", hint=f"for example --until stall-5ms {asked[0]}")
    if gdb and shell:
        raise UsageError("--gdb and --shell: the guest goes on in one way")
    with ExitStack() as stack:
        packed = stack.enter_context(_packed(place, trust=trust)) if place.is_file() else None
        directory = place if packed is None else packed.record
        moment = _moment_of(directory, until)
        base = claim_directory(out, f"replay-{find_scenario(str(read_facts(directory).get('scenario'))).name}")
        means = packed or _kept(directory)
        if drgn and means.vmlinux is None:
            hint = "replay the run that was packed, where it is" if packed else "`splvm build --symbols` fetches them"
            raise SetupError("drgn needs the kernel's debug symbols", hint=hint)
        result = _replay(means, place, base, moment, gdb=gdb, drgn=drgn, with_shell=shell, anyway=anyway)
    _say(result, as_json=as_json)
    if result["difference"]:
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Means:
    """What a recorded run is run again with."""

    # The recorded run.
    record: Path
    experiment: Experiment
    # Makes the plugin that counts instructions.
    counter: Callable[[], Path]
    # The kernel with its symbols if they are there, SPL and the probe.
    vmlinux: Path | None
    modules: tuple[Path, ...]


def _kept(directory: Path) -> _Means:
    """What the store and the archives have."""
    facts = read_facts(directory)
    wish, scenario = wish_of(facts), find_scenario(str(facts.get("scenario")))
    with step(f"preparing {wish.kernel}, {wish.variant}"):
        prepared = prepare(wish)
        prepared = with_recorded_qemu(prepared, facts, prepared.store)
        experiment = experiment_of(facts, prepared, scenario)
    kernel, store = prepared.kernel, prepared.store
    return _Means(
        directory,
        experiment,
        lambda: build_plugin(store, kernel.root, "moment", Deadline(PREPARE_BUDGET_S)),
        kept_symbols(store, kernel.release, kernel.version),
        prepared.spl.modules,
    )


@contextmanager
def _packed(archive: Path, *, trust: bool) -> Iterator[_Means]:
    """What a packed run brings along."""
    if not trust:
        raise UsageError(
            f"{archive} brings a QEMU along, which would run on this host as you",
            hint="--trust runs it, if you trust whoever made the archive",
        )
    store = Store.default()
    with ExitStack() as stack:
        with step(f"unpacking {archive.name}"):
            pack, keys = stack.enter_context(open_pack(archive, store))
        facts = read_facts(pack.record)
        experiment = pack.experiment(facts, find_scenario(str(facts.get("scenario"))), keys)
        yield _Means(pack.record, experiment, lambda: pack.counter, None, pack.modules)


def _moment_of(directory: Path, until: str | None) -> Moment | None:
    """The moment of a record at which its replay is to stop.

    :raises EvidenceError: when the record is damaged.
    """
    recorded = read_evidence(directory)
    if recorded.damage:
        raise EvidenceError(f"{directory}: {plain(recorded.damage[0])}")
    if until is None:
        return None
    return find_moment(until, recorded.timeline, first_frame_ns(iterate_records(directory / SAMPLES_FILE)))


def _replay(
    means: _Means,
    place: Path,
    base: Path,
    moment: Moment | None,
    *,
    gdb: bool,
    drgn: bool,
    with_shell: bool,
    anyway: bool,
) -> dict[str, Any]:
    """Run it again, and tell what came of it.

    :raises UsageError: when it would not be the same run.
    """
    directory, experiment = means.record, means.experiment
    facts = read_facts(directory)
    differing = otherwise(experiment, facts, Deadline(PREPARE_BUDGET_S))
    if differing and not anyway:
        raise UsageError(
            "\n".join([f"{place} cannot be replayed as it was:", *map(plain, differing)]),
            hint="--anyway runs it, and names the first frame that differs",
        )
    for line in differing:
        note(plain(line))
    comparison = Comparison(iterate_records(directory / SAMPLES_FILE), go_on=anyway)
    told = _run(means, base, comparison, moment, gdb=gdb, drgn=drgn, with_shell=with_shell)
    digest = str(told.pop("digest", ""))
    difference = comparison.difference
    if moment is None and not difference:
        difference = comparison.end()
        then = read_digest(directory, facts)
        if not difference and digest != then:
            difference = "the frames are the same, and the consoles differ"
    return {
        "schema_version": 1,
        "replayed": str(place),
        "directory": str(base),
        "is_same": not difference,
        "frames": comparison.frames,
        "difference": difference,
        "digest": digest,
        "otherwise": differing,
        **told,
    }


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
    if dump := result.get("dump"):
        typer.echo(f"memory: {dump['size_bytes']} bytes; {shlex.join(dump['command'])}")
    if result["difference"]:
        typer.echo(plain(f"another run: {result['difference']}"))
    else:
        digest = f", digest {result['digest'][:16]}" if result["digest"] else ""
        typer.echo(f"the same run: {result['frames']} frames{digest}")
    typer.echo(f"evidence: {result['directory']}")


def _run(
    means: _Means, base: Path, comparison: Comparison, moment: Moment | None, *, gdb: bool, drgn: bool, with_shell: bool
) -> dict[str, Any]:
    """Run it, and tell what came of it."""
    told: dict[str, Any] = {}
    with ExitStack() as stack:
        counter: Counter | None = None
        if moment is not None:
            counter = stack.enter_context(open_counter(means.counter()))
            counter.hold_at(moment.at_ns)

        def hear(frame: Any) -> None:
            if "stopped" in told:
                # It is another run from here on.
                return
            comparison.hear(frame)
            if counter is not None:
                counter.hear(frame.end_ns)

        def stop(guest: ClosedGuest, agent: LockStep, deadline: Deadline) -> None:
            assert counter is not None and moment is not None
            stopped = counter.stop(guest.emulator, deadline)
            told["stopped"] = _look(guest, stopped, moment, base)
            if drgn:
                told["dump"] = _dump(guest, means, base)
            if with_shell:
                _open_shell(guest, agent, base, deadline)
            if gdb:
                _debug(guest, means, base, told["stopped"])

        try:
            verdict = run_experiment(means.experiment, base, witness=Witness(hear, counter, at_moment=stop))
        except MomentReached:
            return told
        except Differs:
            return told
    if moment is not None and not comparison.difference:
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


def _dump(guest: ClosedGuest, means: _Means, base: Path) -> dict[str, Any]:
    """Dump the memory of the guest, and write what opens it in a session of drgn."""
    dump = dump_memory(guest.emulator.qmp, base / DUMP_FILE, Deadline(_DUMP_S))
    debug = [str(path) for path in map(debug_file, means.modules) if path.is_file()]
    opened = f"open_dump({str(dump.path.absolute())!r}, {str(means.vmlinux)!r}, {debug!r})"
    session = base / _DRGN_FILE
    session.write_text(
        f"from drgn.helpers.linux import *\nfrom splvm.dump.dumpreader import open_dump\n\nprog = {opened}\n"
    )
    command = [sys.executable, "-i", str(session)]
    return {"path": str(dump.path), "size_bytes": dump.size_bytes, "command": command}


def _open_shell(guest: ClosedGuest, agent: LockStep, base: Path, deadline: Deadline) -> None:
    """Let the guest go on, and wait until somebody has left the shell."""
    with let_in_early(guest, agent, deadline) as port:
        note("the guest goes on, and ends with the shell. What its threads hold stays held. Where it idles, its clock")
        note("leaps; a loop of the lowest priority keeps it from idling")
        run_ssh(guest.keys, port, base)


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


def _debug(guest: ClosedGuest, means: _Means, base: Path, stopped: dict[str, Any]) -> None:
    """Open the gdb server, write what gdb is to read, and wait until a debugger has come and gone."""
    addresses = text_addresses(guest.console.read_text(errors="replace"))
    modules = [
        ModuleText(debug_file(path) if debug_file(path).is_file() else path, addresses[path.stem])
        for path in means.modules
        if path.stem in addresses
    ]
    with _socket(Store.default()) as socket:
        serve_gdb(guest.emulator, socket, Deadline(_COMMAND_S))
        (base / _GDB_FILE).write_text(gdb_commands(socket, means.vmlinux, modules))
        note(f"the guest stands after {stopped['count']} instructions; in another terminal: gdb -x {base / _GDB_FILE}")
        note("it ends when gdb does, or with Ctrl-C here")
        wait_for_session(guest.emulator)


def pack_for_replay(directory: Path, archive: Path) -> int:
    """Pack a recorded run with all that it takes to run it again.

    :returns: bytes of the archive.
    :raises UsageError: when what it was made of is not there any more.
    :raises EvidenceError: when the record is damaged.
    """
    _moment_of(directory, None)
    means = _kept(directory)
    if differing := otherwise(means.experiment, read_facts(directory), Deadline(PREPARE_BUDGET_S)):
        raise UsageError("\n".join([f"{directory} cannot be packed as it was:", *map(plain, differing)]))
    with step(f"packing {archive.name}"):
        return write_pack(archive, directory, means.experiment, means.counter(), means.modules)
