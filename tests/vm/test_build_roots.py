"""Build roots, really made: all of one belongs to whoever made it, and is removed by rm alone."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from splvm.builds import root as root_module
from splvm.deadline import Deadline
from splvm.errors import SetupError
from splvm.host.confine import Place, confine_args, find_making_trouble
from splvm.host.content import walk
from splvm.host.debian import PrivateApt
from splvm.host.process import as_root_args, run
from splvm.host.store import Store

pytestmark = pytest.mark.splvm_vm


def can_be_root() -> bool:
    try:
        as_root_args()
    except SetupError:
        return False
    return True


@pytest.mark.splvm_slow
@pytest.mark.parametrize("trouble", ["", "not here"])
def test_a_build_root(trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_making_trouble() if not trouble else not can_be_root():
        pytest.skip("this host cannot make one so")
    monkeypatch.setattr(root_module, "find_making_trouble", lambda: trouble)
    store = Store.default()
    apt = PrivateApt(store.root, "bookworm")
    apt.update(Deadline(300))
    tree = tmp_path / "scratch" / "tree"
    tree.mkdir(parents=True)
    root_module._make(tree, apt, None, ["busybox-static"], Deadline(300))
    assert [path.name for path in tree.parent.iterdir()] == ["tree"], "no archive, and nothing of mmdebstrap's"
    found = {name: info for name, _, info in walk(tree)}
    assert "usr/bin/perl" in found and "build" in found and "var/lib/dpkg/status" in found
    assert {info.st_uid for info in found.values()} == {os.getuid()}
    assert not [name for name, info in found.items() if info.st_mode & (stat.S_ISUID | stat.S_ISGID)]
    assert not [
        name
        for name, info in found.items()
        if not (stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode) or stat.S_ISLNK(info.st_mode))
    ]
    (tmp_path / "work").mkdir()
    argv = confine_args(Place(tree, tmp_path / "work"), ["sh", "-c", "perl -e 'print 6*7' >made"])
    run(argv, deadline=Deadline(60), what="a command in it")
    assert (tmp_path / "work" / "made").read_text() == "42"
    done = subprocess.run(["rm", "-rf", tree], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
