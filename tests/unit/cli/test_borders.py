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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints, is_typeddict

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.models import ArgumentInfo, OptionInfo

from places import PROJECT
from simulated import GOOD, HELD, NOMINAL, simulate
from splvm.campaign.bisect import BisectPlan, Candidate, ChangeKind, read_bisection
from splvm.campaign.keep import find_runs, keep_result, read_run
from splvm.campaign.matrix import MatrixPlan, read_matrix
from splvm.campaign.repro import HITS
from splvm.cli import app
from splvm.cli.bisect import _is_found, _show, _tell
from splvm.cli.guests import worst
from splvm.cli.options import summary_of
from splvm.errors import EvidenceError, HarnessError, UsageError
from splvm.evidence.verdict import Outcome, Reason, Verdict
from splvm.history.cell import Cell
from splvm.history.database import Patience
from splvm.host.capabilities import inspect_host
from splvm.host.store import Store
from splvm.record.facts import Facts
from splvm.record.names import EVIDENCE_FILES, RUN_FILE, TAKEN_FILES, VERDICT_FILE
from splvm.record.reader import is_being_written, read_facts
from splvm.record.seal import _hash
from splvm.record.writer import RunDirectory
from splvm.report.summary import verdict_line
from splvm.run.prepare import Wish
from splvm.scenarios.judged import judge_run

SECRET = "this is of another file of this host"
FILES = (RUN_FILE, *EVIDENCE_FILES, *TAKEN_FILES, VERDICT_FILE)
_GIB = 1 << 30
_MOST_KIB = 500 << 10


def link(path: Path) -> None:
    secret = path.parents[1] / "secret"
    secret.write_text(f"{SECRET}\n{{}}\n")
    path.symlink_to(secret)


def device(path: Path) -> None:
    if os.geteuid() == 0:
        with contextlib.suppress(PermissionError):
            os.mknod(path, 0o644 | stat.S_IFCHR, os.makedev(1, 5))
    if not path.exists():
        path.symlink_to("/dev/zero")


def listening(path: Path) -> None:
    # Paths of sockets are short.
    here = os.open(path.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


def holes(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(4 * _GIB)


def long_line(path: Path) -> None:
    """A line of a gigabyte, begun as a record is."""
    with path.open("wb") as file:
        file.write(b'{"schema_version": 1, "kind": "')
        file.truncate(_GIB)


KINDS: Mapping[str, Callable[[Path], None]] = {
    "link": link,
    "fifo": os.mkfifo,
    "device": device,
    "socket": listening,
    "directory": Path.mkdir,
    "holes": holes,
    "line": long_line,
}


def a_run(path: Path, scenario: str = NOMINAL) -> Path:
    run = simulate(scenario, GOOD)
    record = run.start_record(path)
    record.add_facts({"started": "2026-11-01T00:00:00+00:00"})
    record.finish(run.facts["outcome"])
    return path


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


# run.json


_ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0.5,
    1e300,
    "",
    "2",
    [],
    [None],
    [{}],
    {},
    {"": None},
    {"x": [1]},
    "\ud800",
    [[[]]],
)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_count, value.values()))


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_named(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(it, dict) and isinstance(it.get("name"), str) for it in value)


def _is_digests(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(it, dict) and _is_count(it.get("bytes")) and isinstance(it.get("sha256", ""), str | None)
        for it in value.values()
    )


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


# What run.json may have at each place that is used, said another way than in record/facts.py.
_KINDS: Mapping[str, tuple[Callable[[Any], bool], tuple[str, ...]]] = {
    "a text": (
        lambda value: isinstance(value, str),
        (
            *("scenario", "started", "batch", "splvm", "seal", "line", "kernel.id", "kernel.release", "kernel.package"),
            *("spl.source", "spl.version", "spl.variant", "qemu.version", "accelerator.name", "host.system"),
            *("outcome.kind", "parameters.clock", "zfs.source", "zfs.version", "zfs.tools"),
            *(f"{part}.git.{name}" for part in ("spl", "zfs") for name in ("commit", "branch", "describe", "dirty")),
        ),
    ),
    "a text or nothing": (lambda value: value is None or isinstance(value, str), ("spl.content", "parameters.load")),
    "a number": (_is_number, ("parameters.window_s", "parameters.latency_bound_ms", "parameters.rate_hz")),
    "a count": (
        _is_count,
        (
            *("boots", "parameters.ram_mib", "parameters.cpus", "parameters.seed", "outcome.console_bytes"),
            *("outcome.closed_bytes", "zfs.pool.disk_mib"),
        ),
    ),
    "a count or nothing": (lambda value: value is None or _is_count(value), ("host.cores",)),
    "a mapping": (
        lambda value: isinstance(value, dict),
        (
            *("differs", "parameters", "kernel", "spl", "qemu", "accelerator", "host"),
            *("outcome", "zfs", "zfs.pool", "zfs.pool.parameters"),
        ),
    ),
    "a mapping or nothing": (lambda value: value is None or isinstance(value, dict), ("rule", "spl.git", "zfs.git")),
    "texts": (_is_texts, ("expected", "argv", "zfs.pool.made")),
    "counts": (_is_counts, ("parameters.workload", "faults")),
    "named": (_is_named, ("spl.patches",)),
    "loads": (lambda value: _is_named(value) and all(_is_counts(it.get("values", {})) for it in value), ("loads",)),
    "a table": (_is_table, ("spl.modules",)),
    "digests": (_is_digests, ("evidence",)),
}
SHAPES = {place: test for test, places in _KINDS.values() for place in places}


def test_every_place_that_has_a_type_is_tried() -> None:
    def places(kind: Any, above: str = "") -> Iterator[str]:
        for name, inner in get_type_hints(kind).items():
            yield f"{above}{name}"
            for each in (inner, *get_args(inner)):
                if is_typeddict(each) and get_origin(inner) not in (list, dict):
                    yield from places(each, f"{above}{name}.")

    assert set(places(Facts)) == set(SHAPES)


@pytest.mark.parametrize("place", SHAPES)
def test_every_place_of_run_json_with_another_type(whole: Path, tmp_path: Path, place: str) -> None:
    """One error, or the record is used to its end: verdict, summary, row of the history."""
    run = shutil.copytree(whole, tmp_path / "run")
    facts = json.loads((run / RUN_FILE).read_text())
    *above, last = place.split(".")
    errors = 0
    for value in _ODD:
        changed = json.loads(json.dumps(facts))
        part = changed
        for key in above:
            part = part.setdefault(key, {})
        part[last] = value
        if place != "seal":
            changed["seal"] = _hash(changed)
        (run / RUN_FILE).write_text(json.dumps(changed))
        wrong = not SHAPES[place](value)
        try:
            use(run)
            assert not wrong, value
        except EvidenceError as error:
            errors += 1
            assert not wrong or any(it in error.message for it in (place, "a number in it", "a text in it"))
    assert errors


def use(run: Path) -> None:
    evidence, verdict = judge_run(run)
    summary_of(verdict, evidence.facts, run)
    verdict_line(verdict, evidence.facts)
    keep_result(run, verdict)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.sampled_from(sorted(SHAPES)), value=_JSON)
def test_anything_in_run_json(whole: Path, tmp_path_factory: pytest.TempPathFactory, place: str, value: Any) -> None:
    facts = json.loads((whole / RUN_FILE).read_text())
    part = facts
    *above, last = place.split(".")
    for key in above:
        part = part.setdefault(key, {})
    part[last] = value
    facts["seal"] = _hash(facts)
    run = tmp_path_factory.mktemp("any")
    for name in EVIDENCE_FILES:
        os.link(whole / name, run / name)
    (run / RUN_FILE).write_text(json.dumps(facts))
    with contextlib.suppress(EvidenceError):
        use(run)
    shutil.rmtree(run)


@pytest.mark.parametrize(
    "text", ['{"schema_version":1,"a":' + "[" * 500 + "]" * 500 + "}", '{"schema_version":1,"a":1e999}']
)
def test_a_run_json_that_no_run_has(tmp_path: Path, text: str) -> None:
    (tmp_path / RUN_FILE).write_text(text)
    with pytest.raises(EvidenceError, match="damaged"):
        read_facts(tmp_path)


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
    assert done.returncode == (3 if "full" in redirection else 0), done.stderr
    done.stdout.decode("ascii")


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


def a_matrix() -> dict[str, Any]:
    cell = Cell("held-worker", "debian-12", "stock")
    plan = MatrixPlan.new([cell], 1).to_json()
    run = {**cell.to_json(), "number": 1, "verdict": "PROGRESS", "expected": ["PROGRESS"], "reason": "", "onset_s": 1.0}
    run |= {"directory": "x", "seconds": 1.0, "candidate": 0, "machine": "", "lost": []}
    return {"schema_version": 3, "plan": plan, "runs": [run]}


def parts(told: dict[str, Any]) -> list[dict[str, Any]]:
    return [told, told["plan"], told["plan"]["cells"][0], told["runs"][0]]


def read_changed(out: Path, told: dict[str, Any]) -> None:
    out.mkdir(exist_ok=True)
    (out / "matrix.json").write_text(json.dumps(told))
    with contextlib.suppress(EvidenceError):
        read_matrix(out)


@pytest.mark.parametrize("value", [*_ODD, float("inf"), float("nan"), 1e30, ["PROGRESS", 1], {"plan": {}}])
def test_each_place_of_a_matrix_with_another_value(tmp_path: Path, value: Any) -> None:
    for number, part in enumerate(parts(a_matrix())):
        for key in part:
            told = a_matrix()
            parts(told)[number][key] = value
            read_changed(tmp_path / "matrix", told)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_matrix_is_one_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    told = a_matrix()
    part = data.draw(st.sampled_from(parts(told)))
    part[data.draw(st.sampled_from(sorted(part)))] = data.draw(_JSON)
    out = tmp_path_factory.mktemp("matrix")
    read_changed(out, told)
    shutil.rmtree(out)


# bisect.json


def a_bisection() -> dict[str, Any]:
    """Of three kernels, after a run of each end."""
    candidates = tuple(Candidate(name, name) for name in ("debian-11", "debian-12", "debian-13"))
    plan = BisectPlan("held-worker", ChangeKind.KERNELS, candidates, Wish(), HITS, 0.95, 2, 1).to_json()
    runs = []
    for candidate, verdict in ((0, "PROGRESS"), (2, "STALLED")):
        cell = Cell("held-worker", candidates[candidate].id, "stock").to_json()
        run = {**cell, "number": 1, "verdict": verdict, "expected": ["PROGRESS"], "reason": "why", "onset_s": 1.0}
        runs.append(run | {"directory": "x", "seconds": 1.0, "candidate": candidate, "machine": "", "lost": []})
    told = {"schema_version": 2, "plan": plan, "runs": runs}
    return {**told, "skipped": {"1": "why"}, "builds": {"0": "a", "2": "b"}, "answer": None, "likeliest": {}}


def parts_of_bisection(told: dict[str, Any]) -> list[dict[str, Any]]:
    plan = told["plan"]
    return [told, plan, plan["wish"], *plan["candidates"], *told["runs"], told["skipped"], told["builds"]]


def go_on_with(out: Path, told: dict[str, Any]) -> bool:
    """What the command does with it, but for runs; whether it was taken."""
    out.mkdir(exist_ok=True)
    (out / "bisect.json").write_text(json.dumps(told))
    try:
        search = read_bisection(out)
    except HarnessError as error:
        assert error.message
        return False
    json.dumps(search.to_json())
    for run in search.tries:
        _tell(search, run)
    _show(search)
    _is_found(search)
    return True


def test_a_bisection_that_is_whole_is_taken(tmp_path: Path) -> None:
    assert go_on_with(tmp_path / "bisection", a_bisection())


@pytest.mark.parametrize("value", [*_ODD, float("inf"), float("nan"), 1e30, 10**400, "0", ["PROGRESS", 1], {"7": ""}])
def test_each_place_of_a_bisection_with_another_value(tmp_path: Path, value: Any) -> None:
    for number, part in enumerate(parts_of_bisection(a_bisection())):
        for key in part:
            told = a_bisection()
            parts_of_bisection(told)[number][key] = value
            go_on_with(tmp_path / "bisection", told)
            told = a_bisection()
            del parts_of_bisection(told)[number][key]
            go_on_with(tmp_path / "bisection", told)


_TYPED = {"plan": ("scenario", "load", "confidence", "most_runs", "seed", "window_s"), "wish": tuple(Wish.__slots__)}
_TYPED["candidates"] = tuple(Candidate.__slots__)


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, names in _TYPED.items() for name in names])
def test_a_plan_of_other_types_is_damaged(tmp_path: Path, part: str, name: str) -> None:
    """What nothing looked at here would end in the middle of a search."""
    odd: tuple[Any, ...] = ({}, [0], -1, 1e300, True)
    for value in odd:
        told = a_bisection()
        place = told["plan"] if part == "plan" else told["plan"][part]
        (place[1] if part == "candidates" else place)[name] = value
        if not (value is True and name in ("changes", "refresh", "clones")):
            assert not go_on_with(tmp_path / "bisection", told), value


@pytest.mark.parametrize("change", ["no hits", "no changes", "ends skipped", "ends alike", "no tree", "one candidate"])
def test_a_bisection_that_no_command_begins_is_damaged(tmp_path: Path, change: str) -> None:
    told = a_bisection()
    plan = told["plan"]
    match change:
        case "no hits":
            plan["hits"] = []
        case "no changes":
            plan["candidates"] = [{**each, "changes": False} for each in plan["candidates"]]
        case "ends skipped":
            told["skipped"] = {"2": "why"}
        case "ends alike":
            told["builds"] = {"0": "a", "2": "a"}
        case "no tree":
            plan["kind"] = "commits"
        case "one candidate":
            plan["candidates"], told["runs"] = plan["candidates"][:1], told["runs"][:1]
    assert not go_on_with(tmp_path / "bisection", told)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_bisection_is_one_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    told = a_bisection()
    part = data.draw(st.sampled_from(parts_of_bisection(told)))
    part[data.draw(st.sampled_from(sorted(part)))] = data.draw(_JSON)
    out = tmp_path_factory.mktemp("bisection")
    go_on_with(out, told)
    shutil.rmtree(out)


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
