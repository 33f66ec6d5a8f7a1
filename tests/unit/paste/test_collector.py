"""The script that collects evidence on a machine that hangs: run as it is, on this machine, and read by `explain`."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from splvm.paste.explanation import explain

SCRIPT = resources.files("splvm.paste").joinpath("collector.sh").read_text(encoding="utf-8")
SHELLS = {
    name: argv
    for name, argv in {"dash": ["dash"], "busybox": ["busybox", "sh"], "bash": ["bash", "--posix"]}.items()
    if shutil.which(argv[0])
}


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that nobody may write to too: whoever runs the tests may ask the kernel for everything."""
    with tempfile.TemporaryDirectory(
        prefix="splvm-test-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None
    ) as name:
        Path(name).chmod(0o777)
        yield Path(name)


def collect(shell: list[str], place: Path, path: str = "/usr/sbin:/usr/bin:/sbin:/bin", **more: str) -> Path:
    """Run the script, as nobody if need be, so that no list of tasks is asked for."""
    argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *shell] if os.getuid() == 0 else shell
    env = {"SPLVM_COLLECT_DIR": str(place), "PATH": path, **more}
    done = subprocess.run(argv, input=SCRIPT, capture_output=True, text=True, timeout=300, env=env, cwd="/")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return Path(done.stdout.strip())


@pytest.mark.parametrize("shell", SHELLS)
def test_it_runs_and_is_read(shell: str, place: Path) -> None:
    left = collect(SHELLS[shell], place)
    assert list(place.iterdir()) == [left]
    assert left.stat().st_mode & 0o077 == 0
    text = left.read_text(errors="replace")
    assert text.startswith("splvm: collector 2\n") and text.endswith("splvm: end collector\n")
    found = explain(text)
    assert {"collector", "meminfo"} <= {it.kind for it in found.inputs}
    # On a busy host a thread may be in state D just then; nobody may read its stack.
    assert not any(it.frames for it in found.tasks)


def test_what_does_not_answer_is_left_behind(place: Path) -> None:
    """A program that does not let itself be ended by a signal that can be caught."""
    tools = place / "tools"
    tools.mkdir()
    (tools / "dmesg").write_text("#!/bin/sh\ntrap '' TERM INT HUP\necho begun\nexec sleep 1000\n")
    (tools / "dmesg").chmod(0o755)
    left = collect(SHELLS.get("dash", ["sh"]), place, f"{tools}:/usr/bin:/bin", SPLVM_COLLECT_LIMIT="1")
    text = left.read_text(errors="replace")
    assert "splvm: section dmesg\nbegun\n\nsplvm: end dmesg status after 1 s\n" in text
    assert text.endswith("splvm: end collector\n")
    assert not list(place.glob("splvm-parts.*"))


def test_where_it_cannot_write_it_says_so(place: Path) -> None:
    env = {"SPLVM_COLLECT_DIR": str(place / "none"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(["sh"], input=SCRIPT, capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == 1 and "SPLVM_COLLECT_DIR" in done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shells_take_it(shell: str) -> None:
    subprocess.run([*SHELLS[shell], "-n"], input=SCRIPT, check=True, text=True, timeout=30)
