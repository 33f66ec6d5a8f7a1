"""A directory that one process holds: another one does not get it, and learns who has it."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from splvm.host import claim
from splvm.host.claim import hold_directory, holder_of

HOLD = """
import sys
from pathlib import Path
from splvm.host.claim import hold_directory
assert hold_directory(Path(sys.argv[1])) is not None
print("held", flush=True)
sys.stdin.read()
"""


def test_a_process_holds_it_for_its_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "_MOMENT_S", 0.0)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        assert hold_directory(tmp_path) is None
        told = holder_of(tmp_path)
        assert told.startswith(f"process {process.pid} (") and "splvm.host.claim" in told and "\n" not in told
        process.kill()
        process.wait()
    held = hold_directory(tmp_path)
    assert held is not None and not os.listdir(tmp_path)
    os.close(held)


def test_a_child_does_not_hold_on_to_it(tmp_path: Path) -> None:
    held = hold_directory(tmp_path)
    assert held is not None and not os.get_inheritable(held)
    os.close(held)


def test_one_that_was_removed_meanwhile_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "it").mkdir()

    def lock(directory: int) -> bool:
        (tmp_path / "it").rmdir()
        return True

    monkeypatch.setattr(claim, "_lock", lock)
    assert hold_directory(tmp_path / "it") is None


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(directory: int, how: int) -> None:
        raise OSError(errno.EBADF, "it is NFS")

    monkeypatch.setattr(fcntl, "flock", flock)
    held = hold_directory(tmp_path)
    assert held is not None
    os.close(held)


def test_a_holder_whom_the_kernel_hides(tmp_path: Path) -> None:
    assert holder_of(tmp_path) == holder_of(tmp_path / "gone") == "another process"
