"""Signals that come when a command has its status: Python's own end is no place for an exception."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Python looks for it when it starts: the last thing that the process does is to send itself a signal.
LATE = """\
import atexit, os, signal
atexit.register(os.kill, os.getpid(), signal.{name})
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(("arguments", "status"), [(["--version"], 0), (["judge", "/nowhere"], 1), (["nothing"], 2)])
def test_a_late_signal_says_nothing(name: str, arguments: list[str], status: int, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(LATE.format(name=name))
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "splvm", *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == status
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr, done.stderr
