"""Trees as OpenZFS has them: the last minor release of each series and the tip, on every kernel that each is for.

They are taken from a clone that SPLVM_OPENZFS names, bare or not: no build there, no configure, no generated header.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from splvm.builds.kernels import KERNELS
from splvm.builds.revisions import ask_git
from splvm.builds.zfs import _build_modules
from splvm.clock import Clock
from splvm.deadline import Deadline
from splvm.errors import BuildError
from splvm.evidence.verdict import Outcome
from splvm.host.process import run
from splvm.run.experiment import run_experiment
from splvm.run.prepare import Prepared, Wish, prepare_kernel
from splvm.scenarios.table import find_scenario

pytestmark = [
    pytest.mark.splvm_vm,
    # Each pair is a configure and all modules, some minutes.
    pytest.mark.splvm_slow,
    pytest.mark.skipif(not os.environ.get("SPLVM_OPENZFS"), reason="SPLVM_OPENZFS names no clone of OpenZFS"),
]

SERIES = ("2.0", "2.1", "2.2", "2.3", "2.4", "tip")


@pytest.fixture
def clone() -> Path:
    return Path(os.environ["SPLVM_OPENZFS"])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("series", SERIES)
def test_a_release_runs(
    clone: Path, series: str, kernel: str, prepare_spl: Callable[..., Prepared], tmp_path: Path
) -> None:
    revision = find_release(clone, series)
    supported = skip_unless_supported(clone, revision, kernel, skip=False)
    try:
        made = prepare_spl(kernel=kernel, spl=f"git:{clone}@{revision}", clock=Clock.VIRTUAL, accelerator="tcg")
    except BuildError as error:
        # A pair that is not supported may build all the same.
        assert not supported
        assert f"its META says Linux {' to '.join(supported_range(clone, revision))}" in str(error)
        pytest.skip(f"{revision} on {kernel}: {error.hint}")
    assert b"unknown" in (made.spl.exports / "include" / "zfs_gitrev.h").read_bytes()
    verdict = run_experiment(made.experiment(find_scenario("held-worker"), window_s=1.0, seed=1), tmp_path / "run")
    assert verdict.outcome is Outcome.PROGRESS


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("series", SERIES)
def test_a_release_builds(clone: Path, series: str, kernel: str, prepare_spl: Callable[..., Prepared]) -> None:
    revision = find_release(clone, series)
    skip_unless_supported(clone, revision, kernel)
    made = prepare_spl(kernel=kernel, spl=f"git:{clone}@{revision}")
    modules = _build_modules(made.store, made.kernel.root.apart(), made.spl, Deadline(1800))
    assert (modules.path / "zfs.ko").is_file()


def find_release(clone: Path, series: str) -> str:
    """The tag of the last minor release, or the tip."""
    if series == "tip":
        return "HEAD"
    argv: list[str | Path] = ["git", "-C", clone, "tag", "--list", "--sort=-version:refname", f"zfs-{series}.*"]
    tags = run(argv, deadline=Deadline(60), what="git tag").stdout.split()
    # 2.N.99 is where the next series begins.
    return next(tag for tag in tags if re.fullmatch(r"zfs-2\.\d\.\d+", tag) and not tag.endswith(".99"))


def supported_range(clone: Path, revision: str) -> tuple[str, str]:
    """The least and the most version of Linux that a tree says it is for."""
    meta = ask_git(clone, "show", f"{revision}:META").stdout
    found = dict(re.findall(r"(?m)^Linux-(M\w+):\s*(\S+)", meta))
    return found["Minimum"], found["Maximum"]


def skip_unless_supported(clone: Path, revision: str, kernel: str, *, skip: bool = True) -> bool:
    """Whether a tree says that it is for a kernel."""
    least, most = supported_range(clone, revision)
    release = prepare_kernel(Wish(kernel=kernel)).kernel.release
    supported = version(least) <= version(release) <= version(most)
    if skip and not supported:
        pytest.skip(f"META of {revision} says Linux {least} to {most}, {kernel} is {release}")
    return supported


def version(text: str) -> tuple[int, int]:
    """The first two numbers: META has no more."""
    major, minor = re.findall(r"\d+", text)[:2]
    return int(major), int(minor)
