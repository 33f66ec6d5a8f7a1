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
from splvm.builds.revisions import extract_revision
from splvm.builds.zfs import _build_modules
from splvm.deadline import Deadline
from splvm.host.process import run
from splvm.run.prepare import Prepared, Wish, prepare_kernel

pytestmark = [
    pytest.mark.splvm_vm,
    # Each pair is a configure and all modules, some minutes.
    pytest.mark.splvm_slow,
    pytest.mark.skipif(not os.environ.get("SPLVM_OPENZFS"), reason="SPLVM_OPENZFS names no clone of OpenZFS"),
]

SERIES = ("2.0", "2.1", "2.2", "2.3", "2.4", "tip")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("series", SERIES)
def test_a_release_builds(series: str, kernel: str, prepare_spl: Callable[..., Prepared], tmp_path: Path) -> None:
    tree = tmp_path / "zfs"
    revision = find_revision(Path(os.environ["SPLVM_OPENZFS"]), series)
    extract_revision(Path(os.environ["SPLVM_OPENZFS"]), revision, tree, Deadline(300))
    least, most = (
        version(words) for words in re.findall(r"(?m)^Linux-M(?:in|ax)imum:\s*(\S+)", (tree / "META").read_text())[::-1]
    )
    release = prepare_kernel(Wish(kernel=kernel)).kernel.release
    if not least <= version(release) <= most:
        pytest.skip(f"META of {revision} says Linux {least} to {most}, {kernel} is {release}")
    made = prepare_spl(kernel=kernel, spl=f"path:{tree}")
    modules = _build_modules(made.store, made.kernel.root, made.spl, Deadline(1800))
    assert (modules.path / "zfs.ko").is_file()
    assert b"unknown" in (made.spl.exports / "include" / "zfs_gitrev.h").read_bytes()


def find_revision(clone: Path, series: str) -> str:
    """The tag of the last minor release, or the tip."""
    if series == "tip":
        return "HEAD"
    argv: list[str | Path] = ["git", "-C", clone, "tag", "--list", "--sort=-version:refname", f"zfs-{series}.*"]
    tags = run(argv, deadline=Deadline(60), what="git tag").stdout.split()
    # 2.N.99 is where the next series begins.
    return next(tag for tag in tags if re.fullmatch(r"zfs-2\.\d\.\d+", tag) and not tag.endswith(".99"))


def version(text: str) -> tuple[int, int]:
    """The first two numbers: META has no more."""
    major, minor = re.findall(r"\d+", text)[:2]
    return int(major), int(minor)
