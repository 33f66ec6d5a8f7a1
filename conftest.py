"""What all tests of the project share. The fixtures of the product itself come from framework/splvm/plugin.py."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from commandline import CommandLine

pytest_plugins = ["pytester"]

# A suite of somebody else's is there, which tests run elsewhere.
collect_ignore = ["tests/data"]

# A shell starts what it puts in the background with SIGINT ignored, and children inherit that. Tests that end a child
# by SIGINT need it to be as a user's is.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def project() -> Path:
    """The top of the checkout."""
    return Path(__file__).resolve().parent


@pytest.fixture
def commandline(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    """`splvm` within this process."""
    return CommandLine(monkeypatch, capfd)


@pytest.fixture(scope="session")
def data(project: Path) -> Path:
    """Recorded slab files, logs and runs."""
    return project / "tests" / "data"


@pytest.fixture(scope="session")
def wheel(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip makes of this checkout, and installs elsewhere. No index is asked."""
    # From a copy: setuptools builds inside the tree, and would leave it there.
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("framework", "images", "kernel-config"):
        shutil.copytree(project / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy2(project / name, source)
    argv = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*argv, "--wheel-dir", target, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = target.iterdir()
    return built
