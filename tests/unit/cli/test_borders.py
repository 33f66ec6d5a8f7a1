"""What is foreign stays outside: directories of others, files that are none, odd arguments, odd streams."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
import typer
from typer.models import ArgumentInfo, OptionInfo

from oddfiles import FILES, KINDS, SECRET, a_run, holes, link
from places import PROJECT
from simulated import simulate
from simulated_guest import GOOD
from simulated_kinds import HELD, NOMINAL
from splvm.campaign.keep import find_runs, read_run
from splvm.cli import app
from splvm.cli.guests import worst
from splvm.errors import EvidenceError, HarnessError, UsageError
from splvm.evidence.verdict import Outcome, Reason, Verdict
from splvm.history.database import Patience
from splvm.host.capabilities import inspect_host
from splvm.host.store import Store
from splvm.record.names import EVIDENCE_FILES, RUN_FILE
from splvm.record.reader import is_being_written
from splvm.record.writer import RunDirectory

# KiB that commands which read others' files may take.
_MOST_KIB = 500 << 10


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good run; not to be changed."""
    return a_run(tmp_path_factory.mktemp("whole") / "run", HELD)


def walk(top: Path, commands: list[list[str]]) -> tuple[list[tuple[str, str]], int]:
    """How each ended and what it said, and the peak of their memory in KiB."""
    script = PROJECT / "tests" / "helpers" / "borders_walk.py"
    env = {**os.environ, "SPLVM_CACHE": str(top / "store"), "COLUMNS": "200"}
    argv = [sys.executable, str(script)]
    done = subprocess.run(argv, input=json.dumps(commands), capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    return [(how, said) for how, said in told["ends"]], told["peak_kib"]


@pytest.mark.parametrize("share", [7, pytest.param(1, marks=pytest.mark.splvm_slow)])
def test_every_command_on_every_kind_of_directory(tmp_path: Path, share: int) -> None:
    """No command waits, raises, takes much memory or shows what is behind a link."""
    places, history = [], str(tmp_path / "history.sqlite")
    pairs = [(kind, name) for a, kind in enumerate(KINDS) for b, name in enumerate(FILES) if (a + b) % share == 0]
    assert {kind for kind, _ in pairs} == set(KINDS) and {name for _, name in pairs} == set(FILES)
    for number, (kind, name) in enumerate(pairs):
        record = RunDirectory(
            tmp_path / f"{number:03}-{kind}-{name}",
            {"scenario": NOMINAL, "started": "2026-11-01T00:00:00+00:00", "batch": str(number)},
        )
        for other in ("console.log", "qemu.log", "harness.log"):
            (record.path / other).write_text(other)
        record.finish({"kind": "ended", "detail": ""})
        places.append((record.path, kind, name))
    ((how, said),), _ = walk(tmp_path, [["history", "import", "--history", history, str(tmp_path)]])
    assert how == "ended" and f"{len(places)} added" in said, said
    for path, kind, name in places:
        (path / name).unlink(missing_ok=True)
        KINDS[kind](path / name)
    commands = [
        command
        for path, _, name in places
        for command in (
            ["judge", str(path)],
            ["judge", "--json", str(path)],
            ["bundle", str(path), "--out", str(tmp_path / f"{path.name}.tar.gz")],
            ["examine", str(path)],
            *([["parse-slab", str(path / name)]] if "link" not in path.name else []),
            *([["matrix", "--resume", str(path)], ["bisect", "--resume", str(path)]] if name == RUN_FILE else []),
        )
    ]
    commands.append(["history", "import", "--history", str(tmp_path / "other.sqlite"), str(tmp_path)])
    commands.append(["report", "--history", history, "--out", str(tmp_path / "site"), "--runs", "1000"])
    ends, peak_kib = walk(tmp_path, commands)
    odd = [
        (command, how, said[-2000:])
        for command, (how, said) in zip(commands, ends, strict=True)
        if how in ("traceback", "too long")
    ]
    assert not odd, odd[:3]
    assert peak_kib < _MOST_KIB, f"{peak_kib >> 10} MiB"
    assert not [command for command, (_, said) in zip(commands, ends, strict=True) if SECRET in said]
    written = [path for path in (*tmp_path.glob("*.tar.gz"), *tmp_path.glob("*.md"), *(tmp_path / "site").rglob("*"))]
    assert len(written) > 100 // share
    for path in written:
        # Packed text would not be found, so archives are looked into by another test; the rest is as it is.
        if path.is_file() and path.suffix != ".gz":
            assert SECRET.encode() not in path.read_bytes(), path
    assert "good" not in {how for how, _ in ends}


def test_a_bundle_holds_nothing_of_other_files(whole: Path, tmp_path: Path) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    for name in (*EVIDENCE_FILES, "more.txt"):
        (run / name).unlink(missing_ok=True)
        link(run / name)
    app(["bundle", str(run), "--out", str(tmp_path / "x.tar.gz")], standalone_mode=False)
    packed = subprocess.run(["tar", "-xzOf", tmp_path / "x.tar.gz"], capture_output=True, check=True).stdout
    assert packed and SECRET.encode() not in packed


# Importing.


def test_importing_goes_on_past_what_is_no_run(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    for name in ("a", "c"):
        a_run(runs / name, NOMINAL if name == "a" else HELD)
    for number, content in enumerate(
        ('{"schema_version": 1, "host": null}', "[", '{"schema_version": 1, "scenario": "no-such"}')
    ):
        (runs / f"b{number}").mkdir()
        (runs / f"b{number}" / RUN_FILE).write_text(content)
    (runs / "d" / RUN_FILE).mkdir(parents=True)
    (tmp_path / "file").touch()
    tops = [str(runs), str(tmp_path / "nowhere"), str(tmp_path / "file")]
    with contextlib.suppress(typer.Exit):
        app(["history", "import", "--json", "--history", str(tmp_path / "h.sqlite"), *tops], standalone_mode=False)
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert (told["added"], len(told["damaged"])) == (2, 6)
    lines = [line for line in said.err.splitlines() if "not added: " in line]
    assert len(lines) == 6
    assert all(str(tmp_path) in line for line in lines), "each names what was not added"
    assert {Path(each["directory"]).name for each in told["damaged"] if each["directory"]} == {"b0", "b1", "b2", "d"}


def test_a_run_that_is_not_over_is_left_out(tmp_path: Path) -> None:
    run = simulate(NOMINAL, GOOD)
    record = run.start_record(tmp_path / "run")
    record.add_facts({"started": "2026-11-01T00:00:00+00:00"})
    assert is_being_written(tmp_path / "run")
    with pytest.raises(EvidenceError, match="is not over"):
        read_run(tmp_path / "run")
    record.finish(run.facts["outcome"])
    assert not is_being_written(tmp_path / "run")
    assert read_run(tmp_path / "run").verdict == "HEALTHY"


def test_links_are_not_followed_to_runs(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(whole)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert find_runs([tmp_path])[0] == []


# Arguments.


@dataclass(frozen=True, slots=True)
class Param:
    """An option or an argument of a command."""

    name: str
    is_option: bool
    is_flag: bool
    # None where it is no number.
    bounds: tuple[Any, Any] | None


def commands() -> Iterator[tuple[str, list[Param]]]:
    """Name of each command, and its options and arguments, by the functions behind them."""
    waiting: list[tuple[str, typer.Typer]] = [("", app)]
    while waiting:
        name, each = waiting.pop()
        waiting += [(str(group.name), group.typer_instance) for group in each.registered_groups if group.typer_instance]
        for command in each.registered_commands:
            assert command.callback is not None
            hints = get_type_hints(command.callback, include_extras=True)
            yield f"{name} {command.name}".strip(), list(params(hints))


def params(hints: Mapping[str, Any]) -> Iterator[Param]:
    for name, hint in hints.items():
        kind, *about = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        kinds = {kind, *get_args(kind)}
        for info in (each for each in about if isinstance(each, OptionInfo | ArgumentInfo)):
            declared = [str(each).split("/")[0] for each in info.param_decls or () if str(each).startswith("--")]
            number = bool(kinds & {int, float}) and bool not in kinds
            yield Param(
                declared[0] if declared else f"--{name.replace('_', '-')}",
                isinstance(info, OptionInfo),
                bool in kinds,
                (info.min, info.max) if number else None,
            )


COMMANDS = dict(commands())


def end_of(argv: list[str]) -> int:
    try:
        app(argv, standalone_mode=False)
    except HarnessError as error:
        return error.exit_status
    except typer.Exit as error:
        return error.exit_code
    except SystemExit as error:
        return int(error.code or 0)
    except OSError:
        # As `main` ends then.
        return 3
    except Exception as error:
        # What the library of the command line has for usage.
        return int(getattr(error, "exit_code", -1))
    return 0


NUMBERS = [(name, param) for name, each in COMMANDS.items() for param in each if param.bounds is not None]


def test_there_are_numbers_and_commands() -> None:
    assert len(COMMANDS) > 20 and len(NUMBERS) > 15


@pytest.mark.parametrize(("name", "param"), NUMBERS, ids=lambda it: it if isinstance(it, str) else it.name)
def test_every_number_has_bounds(name: str, param: Param) -> None:
    assert param.bounds is not None and None not in param.bounds
    assert param.bounds[1] <= (1 << 32)
    arguments = ["x" for each in COMMANDS[name] if not each.is_option]
    for value in ("nan", "inf", "-inf", "1e400", "9" * 30, "-1", "9" * 5000):
        assert end_of([*name.split(), *arguments, f"{param.name}={value}"]) == 2, value


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "test"])
def test_nothing_may_be_empty(name: str) -> None:
    for param in COMMANDS[name]:
        if not param.is_option:
            assert end_of([*name.split(), ""]) == 2
        elif not param.is_flag:
            assert end_of([*name.split(), param.name, ""]) == 2, param
            assert end_of([*name.split(), f"{param.name}= "]) == 2, param


@pytest.mark.parametrize("kind", ["full", "fifo", "directory", "large", "not UTF-8", "digits"])
def test_files_that_a_user_names(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLVM_CACHE", str(tmp_path / "store"))
    path = tmp_path / "x.patch"
    if kind == "full":
        path.symlink_to("/dev/full")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "large":
        holes(path)
    else:
        path.write_bytes(b"\xff\xfe" if kind == "not UTF-8" else b"x = " + b"9" * 5000)
    signal.alarm(60)
    try:
        for command in (["history", "judge", "--known"], ["report", "--known"], ["matrix", "--plan", "--file"]):
            assert end_of([*command, str(path)]) == 2
        if kind not in ("not UTF-8", "digits"):
            assert end_of(["run", "held-worker", "--spl-patch", str(path)]) == 2
            # A pipe is read; that nobody writes to it is no matter of usage.
            assert end_of(["parse-slab", str(path)]) == (3 if kind == "fifo" else 2)
    finally:
        signal.alarm(0)


@pytest.mark.parametrize("content", ["", "\n \n"])
@pytest.mark.parametrize("suffix", ["patch", "cocci"])
def test_an_empty_patch_is_none(tmp_path: Path, content: str, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_text(content)
    with pytest.raises(UsageError, match="there is nothing in it"):
        app(["run", "held-worker", "--spl-patch", str(path)], standalone_mode=False)


_PLACED = [name for name, each in COMMANDS.items() if any(param.name == "--out" for param in each)]


@pytest.mark.parametrize("command", _PLACED)
@pytest.mark.parametrize("kind", ["loop", "loop/sub", "file/sub", "n" * 300, "not-\udcff-utf8/n" + "n" * 300])
def test_places_that_cannot_be(
    command: str, kind: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLVM_CACHE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "loop.tar.gz").symlink_to("loop.tar.gz")
    arguments = {
        "run": ["held-worker"],
        "watch": ["held-worker", "--spl-patch", str(PROJECT / "images/spl/variants/no-emergency.cocci")],
        "repro": ["held-worker"],
        "bisect": ["held-worker", "--kernel", "debian-11,debian-12"],
        "bundle": [str(whole)],
    }
    suffix = ".tar.gz" if command == "bundle" else ""
    argv = [*command.split(), *arguments.get(command, []), "--out", str(tmp_path / (kind + suffix))]
    assert end_of(argv) in ((1, 2, 3) if command in ("bundle", "history export", "report") else (2,))


# Streams, and Ctrl-C.


@pytest.mark.parametrize("redirection", [">&-", "<&-", "2>&-", "<&- >&- 2>&-", ">/dev/full"])
def test_streams_that_are_closed_or_full(tmp_path: Path, redirection: str) -> None:
    env = {**os.environ, "SPLVM_CACHE": str(tmp_path), "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    line = f'"{sys.executable}" -m splvm variants {redirection}'
    done = subprocess.run(["sh", "-c", line], capture_output=True, env=env, timeout=60)
    assert b"Traceback" not in done.stdout + done.stderr
    assert done.returncode == (0 if redirection in ("<&-", "2>&-") else 3), done.stderr
    done.stdout.decode("ascii")


# Each way to lose what a command writes, as a list of (stream, what it is), and the status of a command that ends well.
_LOST = {
    "read": ([], 0),
    "closed": ([(1, "closed")], 3),
    "full": ([(1, "full")], 3),
    "the reader has gone": ([(1, "gone")], 141),
    "both are full": ([(1, "full"), (2, "full")], 3),
    "both are closed": ([(1, "closed"), (2, "closed")], 3),
    "both readers have gone": ([(1, "gone"), (2, "gone")], 141),
    "messages: closed": ([(2, "closed")], 0),
    "messages: full": ([(2, "full")], 0),
    "messages: the reader has gone": ([(2, "gone")], 0),
}
# Runs each command with streams like that, in a process of its own. A status goes to a pipe, with what was written.
_TRY = """
import json, os, sys
from splvm import __main__ as entry, cli
told = []
for argv, all_ways in json.loads(sys.argv[1]):
    for ways in all_ways:
        pid = os.fork()
        if not pid:
            sys.argv = ["splvm", *argv]
            os.dup2(os.open("out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
            os.dup2(os.open("err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            for number, way in ways:
                if way == "full":
                    os.dup2(os.open("/dev/full", os.O_WRONLY), number)
                if way == "gone":
                    read, write = os.pipe()
                    os.dup2(write, number)
                    os.close(read)
            for number, way in ways:
                if way == "closed":
                    os.close(number)
            entry.main()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        told.append([status, open("out").read(), open("err").read()])
print(json.dumps(told))
"""


def test_an_answer_that_nobody_can_read_has_another_status(whole: Path, tmp_path: Path) -> None:
    """Whatever prints it, and whatever that does about the error; messages that nobody can read change nothing."""
    commands = [
        # An option that ends at once, help, a panel of rich, what is written beside the answer.
        *(["--version"], ["variants", "--help"], ["judge", str(whole)], ["bundle", str(whole), "--force"]),
    ]
    env = {**os.environ, "SPLVM_CACHE": str(tmp_path / "store"), "SPLVM_HISTORY": str(tmp_path / "h.sqlite")}
    few = ("closed", "the reader has gone", "messages: the reader has gone")
    todo = [(command, name) for command in commands for name in (_LOST if "judge" in command else few)]
    argv = [sys.executable, "-c", _TRY, json.dumps([(command, [_LOST[name][0]]) for command, name in todo])]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, check=True, timeout=300)
    for (command, name), (status, out, err) in zip(todo, json.loads(done.stdout), strict=True):
        ways, wanted = _LOST[name]
        assert status == wanted, (command, name, err)
        assert "Traceback" not in err and "Logging error" not in err, (command, name, err)
        assert bool(out) == (wanted == 0), (command, name)
        if ways == [(1, "closed")]:
            assert "stdout: it is closed" in err


def test_a_bad_end_keeps_its_status_where_nothing_was_to_be_written(tmp_path: Path) -> None:
    commands, ways = [["judge", "nowhere"], ["nosuch"]], [[(1, "closed"), (2, "full")], [(1, "gone"), (2, "gone")]]
    argv = [sys.executable, "-c", _TRY, json.dumps([(command, ways) for command in commands])]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, check=True, timeout=300)
    assert [status for status, *_ in json.loads(done.stdout)] == [1, 1, 2, 2]


def test_ctrl_c_while_it_begins() -> None:
    """The signal comes while the command line is imported."""
    script = (
        "import os, signal, sys, splvm.__main__ as entry\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'splvm.cli': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "entry.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


def test_ctrl_c_while_the_commands_are_made() -> None:
    """Before typer looks after it."""
    code = (
        "import os, signal, typer.main\n"
        "typer.main.get_command = lambda *_: os.kill(os.getpid(), signal.SIGINT)\n"
        "from splvm.__main__ import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (130, b"")


# What others on this host can read, and what the host can be used for.


def test_keys_and_what_holds_them_are_the_owners_alone(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir(mode=0o755)
    Store(tmp_path)
    for kind in ("image", "ssh-keys", "template"):
        assert stat.S_IMODE((tmp_path / kind).stat().st_mode) == 0o700


def test_a_store_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "tmp").symlink_to("nowhere")
    for place in (tmp_path / "store", tmp_path / "file"):
        (tmp_path / "file").touch()
        (check,) = [check for check in inspect_host(place).checks if check.name == "store"]
        assert not check.ok


def test_a_server_that_stands_still_is_not_waited_for() -> None:
    ours, theirs = socket.socketpair()
    patience = Patience()
    patience.follow(ours)
    ours.settimeout(20)
    with ours, theirs, patience.within(0.0):
        assert ours.recv(1) == b""


def test_a_series_ends_with_the_worst_of_its_runs() -> None:
    results = [
        (Verdict(outcome, (Reason(""),), (), {}, "", {}), Path(str(number)))
        for number, outcome in enumerate(
            (Outcome.SLOW, Outcome.CRASHED, Outcome.STALLED, Outcome.CRASHED, Outcome.SLOW)
        )
    ]
    assert worst(results)[1] == Path("1")


# matrix.json
@pytest.mark.parametrize("kind", ["fifo", "directory", "holes", "socket"])
@pytest.mark.parametrize(("command", "name"), [("matrix", "matrix.json"), ("bisect", "bisect.json")])
def test_a_state_that_is_no_plain_file(tmp_path: Path, command: str, name: str, kind: str) -> None:
    KINDS[kind](tmp_path / name)
    signal.alarm(60)
    try:
        assert end_of([command, "--resume", str(tmp_path)]) == 1
    finally:
        signal.alarm(0)


@pytest.mark.parametrize("name", ["console.log", "sysrq.txt"])
@pytest.mark.parametrize("kind", ["link", "fifo", "large"])
def test_a_run_explained_shows_its_own_files_alone(
    tmp_path: Path, name: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    path = tmp_path / "run" / name
    if kind == "link":
        (tmp_path / "other").write_text("[  100.0] BUG: kernel NULL pointer dereference, address: OTHERS\n")
        path.symlink_to(tmp_path / "other")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        holes(path)
    signal.alarm(60)
    try:
        end_of(["explain", str(tmp_path / "run")])
    finally:
        signal.alarm(0)
    said = capsys.readouterr()
    assert "OTHERS" not in said.out + said.err
    assert f"{name} is " in said.err
