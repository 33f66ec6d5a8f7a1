"""What people see of a run, on a terminal and elsewhere."""

from __future__ import annotations

import contextlib
import logging
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from places import PROJECT
from splvm import log
from splvm.log import LOGGER, end_logging, note, setup_logging, step
from splvm.run.experiment import _harness_log

ROOT = PROJECT


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    level, enabled, before = LOGGER.level, log._BOARD.enabled, list(LOGGER.handlers)
    for handler in before:
        LOGGER.removeHandler(handler)
    yield
    for handler in list(LOGGER.handlers):
        LOGGER.removeHandler(handler)
        handler.close()
    for handler in before:
        LOGGER.addHandler(handler)
    LOGGER.setLevel(level)
    log._BOARD.enabled = enabled


def test_silent_as_a_library(capsys: pytest.CaptureFixture[str]) -> None:
    with step("quiet"):
        note("nobody listens")
    assert capsys.readouterr() == ("", "")


def test_short_step_is_one_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging()
    with step("building spl"):
        note("a [bold]note[/bold]")
    assert capsys.readouterr() == ("", "building spl ...\na [bold]note[/bold]\n")


def test_progress_is_for_terminals(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging()
    with log.progress(0, "runs") as tell:
        tell(0, "nothing to do")
    assert capsys.readouterr() == ("", "")


def test_long_step_tells_its_time(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "QUIET_STEP_S", 0.0)
    setup_logging()
    with step("building spl"):
        pass
    assert capsys.readouterr().err == "building spl ...\nbuilding spl: done in 0.0 s\n"


def test_failed_step_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging()
    with pytest.raises(KeyError), step("building spl"):
        raise KeyError
    assert capsys.readouterr().err == "building spl ...\nbuilding spl: failed in 0.0 s\n"


def test_long_lines_are_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging()
    note("word " * 100)
    assert capsys.readouterr().err == "word " * 100 + "\n"


@pytest.mark.parametrize(
    ("verbose", "shown"), [(-1, ["warned"]), (0, ["noted", "warned"]), (1, ["ran", "noted", "warned"])]
)
def test_verbosity(verbose: int, shown: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    logfile = tmp_path / "new" / "harness.log"
    setup_logging(verbose, logfile)
    logging.getLogger("splvm.process").debug("ran")
    note("noted")
    LOGGER.warning("warned")
    assert capsys.readouterr().err.split() == shown
    assert [line.split()[-1] for line in logfile.read_text().splitlines()] == ["ran", "noted", "warned"]


def test_log_file_has_every_step(tmp_path: Path) -> None:
    setup_logging(-1, tmp_path / "log")
    with step("outer"), step("inner"):
        pass
    lines = [line.split(" INFO ")[1] for line in (tmp_path / "log").read_text().splitlines()]
    assert lines == ["outer ...", "inner ...", "inner: done in 0.0 s", "outer: done in 0.0 s"]


def test_setup_again_replaces_the_handlers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    setup_logging(0, tmp_path / "one")
    setup_logging(0, tmp_path / "two")
    note("once")
    assert capsys.readouterr().err == "once\n"
    assert (tmp_path / "one").read_text() == ""


def test_control_characters_do_not_reach_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is no text cannot go into a report that another process sends (pytest-xdist).
    monkeypatch.setattr(LOGGER, "propagate", False)
    setup_logging()
    note("guest says \x1b[2J\x9b31m\r and \udce4")
    assert capsys.readouterr().err == "guest says \\x1b[2J\\x9b31m\\r and \\udce4\n"


def test_steps_of_many_threads(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    setup_logging(0, tmp_path / "log")
    together = threading.Barrier(8)

    def work(number: int) -> None:
        with step(f"job {number}"):
            together.wait(20)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(capsys.readouterr().err.splitlines()) == [f"job {number} ..." for number in range(8)]
    assert log._BOARD._entries == []


ON_TERMINAL = """
import sys, threading
from splvm import log
log.QUIET_STEP_S = 0.0
log.setup_logging(int(sys.argv[1]))

def work(go):
    with log.step("in a thread"):
        go.wait()

go = threading.Event()
with log.step("outer"):
    print("result", flush=True)
    thread = threading.Thread(target=work, args=(go,))
    with log.step("inner \\x1b[2J"):
        log.note("above the display")
        thread.start()
        log._BOARD._live.refresh()
        go.set()
        thread.join()
    log._BOARD._live.refresh()
assert log._BOARD._live is None
with log.step("second"):
    log._BOARD._live.refresh()
with log.progress(4, "runs") as tell:
    tell(1, "3 min \\x1b[2J left")
    log._BOARD._live.refresh()
"""


def on_terminal(verbose: int, term: str) -> tuple[str, str]:
    """Standard output (a pipe) and what a terminal got on standard error."""
    master, slave = pty.openpty()
    env = {**os.environ, "TERM": term, "COLUMNS": "100"}
    argv = [sys.executable, "-c", ON_TERMINAL, str(verbose)]
    with subprocess.Popen(argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=slave, text=True) as process:
        os.close(slave)
        shown = b""
        try:
            while chunk := os.read(master, 65536):
                shown += chunk
        except OSError:
            # EIO: the last process at the other end has closed it.
            pass
        os.close(master)
        assert process.stdout
        result = process.stdout.read()
    assert process.returncode == 0, shown.decode()
    return result, shown.decode()


def test_live_display_on_a_terminal() -> None:
    result, shown = on_terminal(0, "xterm")
    assert result == "result\n"
    bar = f"{'█' * 5}{'░' * 15} 1 of 4 runs, 3 min \\x1b[2J left"
    for text in ("outer", "in a thread", "above the display", "second: done in 0.0 s", "inner \\x1b[2J", bar):
        assert text in shown
    assert "outer ..." not in shown
    assert "\x1b[2J" not in shown
    # The last picture is taken away.
    assert "\x1b[2K" in shown[shown.rfind("second") - 200 : shown.rfind("second: done")].rpartition(" 0 s")[2]
    # The cursor is hidden while the display is there, and shown again at the end.
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") > 0


@pytest.mark.parametrize(("verbose", "term"), [(-1, "xterm"), (0, "dumb")])
def test_no_live_display(verbose: int, term: str) -> None:
    master, slave = pty.openpty()
    script = f"""
from splvm import log
log.setup_logging({verbose})
with log.step("x"):
    assert log._BOARD._live is None
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env={**os.environ, "TERM": term}, stderr=slave)
    os.close(slave)
    os.close(master)
    assert done.returncode == 0


@pytest.mark.parametrize("of_a_run", [False, True])
def test_a_log_file_on_a_full_disk_shows_no_traceback(
    of_a_run: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log").symlink_to("/dev/full")
    setup_logging(logfile=None if of_a_run else tmp_path / "log")
    with contextlib.suppress(OSError), _harness_log(tmp_path / "log") if of_a_run else contextlib.nullcontext():
        note("something")
    with contextlib.suppress(OSError):
        end_logging()
    said = capsys.readouterr().err
    assert "something" in said and "Traceback" not in said and "Logging error" not in said
