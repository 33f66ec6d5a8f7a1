"""The wheel in a fresh environment: what it brings there, and what it leaves alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from foreign_suite import ASKED, outcomes, run_suite
from splvm.extras import EXTRAS
from unpacking import unpack

# Names that can be imported; -I leaves out the directory that it is run in.
NAMES = "import json, pkgutil; print(json.dumps([module.name for module in pkgutil.iter_modules()]))"


def make_environment(path: Path, *packages: str | Path, dependencies: bool = True) -> Path:
    """A virtual environment with these packages, and its interpreter."""
    venv.create(path)
    python = path / "bin" / "python"
    if packages:
        options = () if dependencies else ("--no-deps",)
        argv = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *options, *packages]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=900)
        assert done.returncode == 0, done.stderr
    return python


def importable(python: Path) -> set[str]:
    done = subprocess.run([python, "-I", "-c", NAMES], capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(done.stdout))


def test_splvm_is_the_only_new_name(wheel: Path, tmp_path: Path) -> None:
    before = importable(make_environment(tmp_path / "bare"))
    after = importable(make_environment(tmp_path / "with", wheel, dependencies=False))
    assert after - before == {"splvm"}
    assert before <= after


def test_the_wheel_has_what_is_no_python(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "splvm/host/programs.txt",
        "splvm/_images/guest/init",
        "splvm/_kernel_config/guest.config",
    } <= names
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"splvm"}


@pytest.mark.splvm_slow
def test_a_foreign_suite_beside_the_wheel(wheel: Path, data: Path, tmp_path: Path) -> None:
    """Two fresh environments with pytest-testinfra, one of them also with splvm; it takes a few minutes."""
    suite = Path(shutil.copytree(data / "foreign-suite", tmp_path / "suite"))
    without = make_environment(tmp_path / "without", "pytest", "pytest-testinfra")
    beside = make_environment(tmp_path / "with", "pytest", "pytest-testinfra", wheel)
    for argv in ASKED:
        run_suite(without, suite, *argv)
        expected = outcomes(suite)
        told = run_suite(beside, suite, *argv)
        assert "splvm-" in told.partition("\ncollected")[0], "pytest did not load the plugin"
        assert outcomes(suite) == expected


@pytest.mark.splvm_slow
def test_a_bare_wheel_says_what_the_host_lacks(wheel: Path, tmp_path: Path) -> None:
    """No pytest, no launcher, and no program of the host."""
    python = make_environment(tmp_path / "with", wheel)
    assert not importable(python) & {"pytest", "testinfra"}
    (tmp_path / "bin").mkdir()
    environment = {**os.environ, "PATH": str(tmp_path / "bin"), "SPLVM_CACHE": str(tmp_path / "store")}
    argv = [str(python.with_name("splvm")), "demo"]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 3
    assert [line for line in done.stderr.splitlines() if "apt-get install" in line] == [done.stderr.splitlines()[-1]]


@pytest.mark.splvm_slow
def test_a_bare_wheel_is_small_and_reads_what_is_recorded(wheel: Path, data: Path, tmp_path: Path) -> None:
    """Without extras it has no numpy, no drgn and no plotly; 65 MB of files, .pyc and pip's own not counted."""
    before = size_of_packages(make_environment(tmp_path / "before"))
    python = make_environment(tmp_path / "bare", wheel)
    assert not importable(python) & set(EXTRAS)
    assert size_of_packages(python) - before < 65_000_000
    with tarfile.open(data / "runs" / "progress.tar.xz") as archive:
        unpack(archive, tmp_path)
    for argv in (("--help",), ("parse-slab", str(data / "slab-pasted.txt")), ("judge", "progress")):
        command = [python.with_name("splvm"), *argv]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr


def size_of_packages(python: Path) -> int:
    """Bytes of the files that packages brought."""
    top = next((python.parent.parent / "lib").glob("python3*/site-packages"))
    return sum(path.stat().st_size for path in top.rglob("*") if path.is_file() and path.suffix != ".pyc")
