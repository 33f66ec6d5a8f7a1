"""The gate for subprocesses, with real processes."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from places import PROJECT
from splvm.deadline import Deadline
from splvm.errors import BuildError, DeadlineExceeded, SetupError
from splvm.host import process
from splvm.host.process import TAIL_LINES, as_root_args, find_program, run, start_process, wait_until_exited
from splvm.host.store import keep_room

ROOT = PROJECT


def wait_until_gone(pid: int) -> None:
    """Wait for the end of a process that is not a child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], 20)[0], f"process {pid} is still there"
    finally:
        os.close(descriptor)


@pytest.fixture
def fresh_root_args() -> Iterator[None]:
    as_root_args.cache_clear()
    yield
    as_root_args.cache_clear()


def test_outputs_are_kept_apart_and_together() -> None:
    done = run(["sh", "-c", "echo out; echo err >&2; exit 3"], deadline=Deadline(20), what="x", check=False)
    assert (done.stdout, done.exit_code) == ("out\n", 3)
    assert sorted(done.tail.splitlines()) == ["err", "out"]


def test_input_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("FROM_CALLER", "1")
    script = "cat; echo $LC_ALL $FROM_CALLER $OWN"
    done = run(["sh", "-c", script], deadline=Deadline(20), what="x", input="in\n", env={"OWN": "2"})
    assert done.stdout == "in\nC.UTF-8 1 2\n"


def test_nothing_to_read_by_default() -> None:
    assert run(["cat"], deadline=Deadline(20), what="x").stdout == ""


def test_much_output_on_both_pipes() -> None:
    script = "import sys; sys.stdout.write('o' * 300000); sys.stderr.write('e' * 300000)"
    done = run([sys.executable, "-c", script], deadline=Deadline(20), what="x")
    assert done.stdout == "o" * 300000


def test_undecodable_output_is_replaced() -> None:
    assert run(["printf", r"a\377b"], deadline=Deadline(20), what="x").stdout == "a�b"


def test_failure_shows_the_last_lines_and_the_log(tmp_path: Path) -> None:
    log = tmp_path / "new" / "make.log"
    with pytest.raises(SetupError) as caught:
        run(["sh", "-c", "seq 100; exit 2"], deadline=Deadline(20), what="counting", log=log, hint="count less")
    lines = str(caught.value).splitlines()
    assert lines[0] == "counting: sh ended with status 2:"
    assert lines[1 : 1 + TAIL_LINES] == [str(n) for n in range(100 - TAIL_LINES + 1, 101)]
    assert lines[-2:] == [f"log: {log}", "hint: count less"]
    assert log.read_text().split() == [str(n) for n in range(1, 101)]


def test_failure_of_a_build(tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        run(["sh", "-c", "echo no; exit 1"], deadline=Deadline(20), what="spl", error=BuildError, log=tmp_path / "l")
    assert (caught.value.step, caught.value.tail, caught.value.log) == ("spl", "no", tmp_path / "l")


def test_full_disk_gets_its_hint() -> None:
    with pytest.raises(SetupError) as caught:
        run(["sh", "-c", "echo cp: No space left on device; exit 1"], deadline=Deadline(20), what="x")
    assert caught.value.hint == "make room on the disk"


def test_signal_is_named() -> None:
    with pytest.raises(SetupError, match="was ended by SIGSEGV"):
        run(["sh", "-c", "kill -SEGV $$"], deadline=Deadline(20), what="x")


def test_log_is_appended_to(tmp_path: Path) -> None:
    for word in ("one", "two"):
        run(["sh", "-c", f"echo {word}; echo {word} >&2"], deadline=Deadline(20), what="x", log=tmp_path / "log")
    assert (tmp_path / "log").read_text().split() == ["one", "one", "two", "two"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("mmdebstrap", "apt install mmdebstrap"), ("frobnicate", "apt-file search bin/frobnicate")],
)
def test_missing_program(name: str, hint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError) as caught:
        find_program(name)
    assert hint in str(caught.value)


def test_the_end_of_a_process_is_waited_for() -> None:
    with start_process(["sh", "-c", "exit 3"]) as process:
        assert wait_until_exited(process, 20) == 3
        assert wait_until_exited(process, 0) == 3
    with start_process(["cat"], stdin=subprocess.PIPE) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            wait_until_exited(process, 0)
        assert process.stdin is not None
        process.stdin.close()
        assert wait_until_exited(process, 20) == 0


def test_missing_program_is_not_started() -> None:
    with pytest.raises(SetupError, match="no program no-such-program"):
        run(["no-such-program"], deadline=Deadline(20), what="x")


def test_missing_directory() -> None:
    with pytest.raises(SetupError, match="cannot start true"):
        run(["true"], deadline=Deadline(20), what="x", cwd=Path("/no/such/directory"))


def test_program_relative_to_its_directory(tmp_path: Path) -> None:
    script = tmp_path / "configure"
    script.write_text("#!/bin/sh\npwd\n")
    script.chmod(0o755)
    assert run(["./configure"], deadline=Deadline(20), what="x", cwd=tmp_path).stdout == f"{tmp_path}\n"


def test_deadline_kills_the_whole_group(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 1000 & echo $$ $! > {pids}.new; mv {pids}.new {pids}; echo going; wait"
    with pytest.raises(DeadlineExceeded) as caught:
        run(["sh", "-c", script], deadline=Deadline(1.5), what="waiting")
    assert (caught.value.what, caught.value.last_seen) == ("waiting", "going")
    for pid in pids.read_text().split():
        wait_until_gone(int(pid))


def test_deadline_holds_for_a_process_that_never_falls_silent() -> None:
    with pytest.raises(DeadlineExceeded):
        run(["sh", "-c", "exec timeout 20 yes >&2"], deadline=Deadline(0.3), what="x")


@pytest.mark.parametrize("script", ["exec sleep 1000", "exec timeout 100 yes >&2"])
def test_a_guard_ends_a_command(script: str) -> None:
    calls: list[int] = []

    def guard() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise SetupError("the disk is full")

    with pytest.raises(SetupError, match="the disk is full"):
        run(["sh", "-c", script], deadline=Deadline(60), what="x", guard=guard)


def test_a_disk_without_room_is_no_place_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_room(tmp_path, "x")()
    monkeypatch.setattr("splvm.host.store._LEAST_ROOM_BYTES", 1 << 80)
    with pytest.raises(SetupError, match=r"x: the disk is full .* MiB free"):
        keep_room(tmp_path, "x")()


def test_leftovers_do_not_delay_and_are_killed() -> None:
    done = run(["sh", "-c", "sleep 1000 & echo $!"], deadline=Deadline(20), what="x")
    wait_until_gone(int(done.stdout))


def test_escaped_writer_does_not_delay(tmp_path: Path) -> None:
    # It has left the group and writes without end into a pipe that is closed under its hands.
    pid = tmp_path / "pid"
    run(["sh", "-c", 'setsid yes & echo $! > "$0"', pid], deadline=Deadline(20), what="x")
    wait_until_gone(int(pid.read_text()))


def test_block_ends_its_process() -> None:
    with pytest.raises(RuntimeError, match="on purpose"), start_process(["sleep", "1000"]) as started:
        raise RuntimeError("on purpose")
    assert started.returncode == -signal.SIGKILL


HARNESS = """
import sys
from splvm.deadline import Deadline
from splvm.host.process import run, start_process
if sys.argv[1] == "run":
    run(["sh", "-c", "echo $$ > /proc/$PPID/fd/1; exec sleep 1000"], deadline=Deadline(100), what="x")
with start_process(["sleep", "1000"]) as process:
    print(process.pid, flush=True)
    sys.stdin.read()
"""


def start_harness(how: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HARNESS, how],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("how", "number"), [("start", signal.SIGKILL), ("start", signal.SIGINT), ("run", signal.SIGINT)]
)
def test_nothing_outlives_the_harness(how: str, number: signal.Signals) -> None:
    with start_harness(how) as harness:
        assert harness.stdout
        pid = int(harness.stdout.readline())
        harness.send_signal(number)
        harness.communicate(timeout=20)
    assert harness.returncode == -number
    wait_until_gone(pid)


def test_command_whose_parent_is_gone_already_does_not_run() -> None:
    def output(parent: int) -> bytes:
        argv = [*process.death_signal_args(parent), "echo", "a  b", "'"]
        return subprocess.run(argv, check=False, capture_output=True).stdout

    assert output(os.getpid()) == b"a  b '\n"
    assert output(1) == b""


@pytest.mark.usefixtures("fresh_root_args")
@pytest.mark.parametrize(("uid", "status", "expected"), [(0, 1, []), (1000, 0, ["sudo", "-n"]), (1000, 1, None)])
def test_as_root_args(
    uid: int, status: int, expected: list[str] | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sudo = tmp_path / "sudo"
    sudo.write_text(f"#!/bin/sh\nexit {status}\n")
    sudo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    if expected is None:
        with pytest.raises(SetupError, match="asks for a password"):
            as_root_args()
    else:
        assert as_root_args() == expected
