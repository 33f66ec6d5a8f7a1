"""Fixtures of campaigns."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from bisectlab import make_world
from gittree import CACHE, git
from matrixlab import Lab
from splvm.builds.tree import SPL_DIR


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(monkeypatch)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Commits that touch SPL, nothing of it, and a merge."""
    top = tmp_path / "zfs"
    (top / SPL_DIR).mkdir(parents=True)
    git(top, "init", "-q", "-b", "main")
    for number in range(6):
        path = top / (CACHE if number in (0, 3) else "README.md")
        path.write_text(str(number))
        git(top, "add", "-A")
        git(top, "commit", "-q", "-m", f"change {number}")
    git(top, "checkout", "-q", "-b", "side", "HEAD~2")
    (top / CACHE).write_text("side")
    git(top, "commit", "-q", "-a", "-m", "aside")
    git(top, "checkout", "-q", "main")
    git(top, "merge", "-q", "--no-ff", "-m", "merged", "side")
    git(top, "branch", "alone", git(top, "commit-tree", "-m", "alone", "main^{tree}"))
    return top


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    return make_world(monkeypatch)
