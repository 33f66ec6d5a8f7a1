"""Candidates of a bisection: commits of a repository, and patches of a series."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gittree import CACHE, git
from splvm.builds.revisions import extract_revision, find_branch, list_revisions
from splvm.builds.tree import SPL_DIR
from splvm.campaign.candidates import find_commits, find_patches
from splvm.deadline import Deadline
from splvm.errors import UsageError
from splvm.run.buildline import find_line


@pytest.mark.parametrize(
    ("text", "said"), [(None, "No such file"), ("# nothing\n", "there is no patch"), ("gone.patch\n", "No such file")]
)
def test_a_series_that_is_none(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "series"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=said):
        find_patches(path)


def test_commits_of_a_range(tree: Path) -> None:
    git(tree, "config", "log.showSignature", "true")
    found = list_revisions(tree, "HEAD~5", "main")
    assert [(each.title, each.touches) for each in found] == [
        ("change 1", True),
        ("change 2", False),
        ("change 3", True),
        ("change 4", False),
        ("change 5", False),
        ("merged", True),
    ]
    assert found[-1].sha == git(tree, "rev-parse", "main")


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("nowhere", "main", "nowhere: no commit of"),
        ("--help", "main", "--help: no commit of"),
        ("main", "HEAD~3", "does not come before the bad one"),
        ("main", "main", "does not come before the bad one"),
        ("side", "main", "following first parents from main does not come by it"),
        ("alone", "main", "no commit in common"),
    ],
)
def test_a_range_that_is_none(tree: Path, good: str, bad: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        list_revisions(tree, good, bad)


def test_no_checkout(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no commit of"):
        list_revisions(tmp_path, "a", "b")


def test_a_good_end_on_a_branch_of_a_release(tree: Path) -> None:
    """Tags of releases lie on branches; the search begins where the branch left."""
    git(tree, "checkout", "-q", "-b", "release", "main~3")
    git(tree, "commit", "-q", "--allow-empty", "-m", "release")
    git(tree, "tag", "v1")
    git(tree, "checkout", "-q", "main")
    found = list_revisions(tree, "v1", "main")
    assert found[0].sha == git(tree, "rev-parse", "main~3")
    assert [each.title for each in found] == ["change 3", "change 4", "change 5", "merged"]
    assert [each.parted for each in found] == ["v1", "", "", ""]


def test_a_commit_is_taken_out_to_a_relative_path(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    extract_revision(tree, git(tree, "rev-parse", "HEAD"), Path("runs/x"), Deadline(60))
    assert (tmp_path / "runs" / "x" / CACHE).read_text() == "side"
    # A bare repository is as good as a checkout.
    git(tmp_path, "clone", "-q", "--bare", str(tree), "bare")
    extract_revision(tmp_path / "bare", "main", Path("runs/y"), Deadline(60))
    assert (tmp_path / "runs" / "y" / CACHE).read_text() == "side"


def test_of_the_test_suite_a_commit_has_its_makefiles(tree: Path, tmp_path: Path) -> None:
    (tree / "tests" / "deep").mkdir(parents=True)
    for name in ("Makefile.am", "deep/Makefile.am", "deep/data.gz"):
        (tree / "tests" / name).write_text("x")
    git(tree, "add", "-A")
    git(tree, "commit", "-q", "-m", "tests")
    extract_revision(tree, "main", tmp_path / "x", Deadline(60))
    there = {str(path.relative_to(tmp_path / "x" / "tests")) for path in (tmp_path / "x" / "tests").rglob("*.*")}
    assert there == {"Makefile.am", "deep/Makefile.am"}


def test_a_checkout_of_somebody_else_runs_nothing_of_its_own(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, traces = tmp_path / "mark", tmp_path / "traces"
    traces.mkdir()
    traces.chmod(0o777)
    git(tree, "config", "core.fsmonitor", f"touch {mark}; false")
    # git makes this file, so it belongs to whom git ran as.
    monkeypatch.setenv("GIT_TRACE", str(traces / "trace"))
    with reachable(tmp_path):
        if os.geteuid() == 0:
            subprocess.run(["chown", "-R", "nobody:", tree], check=True)
            # Whom git refuses, unless it is told.
            subprocess.run(["chown", "daemon:", tree / ".git"], check=True)
        assert len(list_revisions(tree, "HEAD~5", "main")) == 6
        extract_revision(tree, "main", tmp_path / "x", Deadline(60))
    assert (tmp_path / "x" / CACHE).is_file() and not mark.exists()
    assert (traces / "trace").owner() == tree.owner()


@contextmanager
def reachable(path: Path) -> Iterator[None]:
    """Let others into pytest's directory, which is its user's alone."""
    closed = (each for each in (path, *path.parents) if each.stat().st_mode & 0o055 != 0o055)
    modes = {each: each.stat().st_mode for each in closed}
    try:
        for each, mode in modes.items():
            each.chmod(mode | 0o055)
        yield
    finally:
        for each, mode in modes.items():
            each.chmod(mode)


def test_a_commit_is_taken_out_and_the_checkout_left_alone(tree: Path, tmp_path: Path) -> None:
    (tree / CACHE).write_text("not committed")
    before = (git(tree, "status", "--porcelain"), sorted(path.name for path in (tree / ".git").iterdir()))
    extract_revision(tree, git(tree, "rev-parse", "HEAD~4"), tmp_path / "to" / "x", Deadline(60))
    assert (tmp_path / "to" / "x" / CACHE).read_text() == "0"
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["x"]
    assert before == (git(tree, "status", "--porcelain"), sorted(path.name for path in (tree / ".git").iterdir()))


def test_commits_of_a_pool_may_touch_any_module(tree: Path) -> None:
    """Of SPL alone nothing is changed by what is somewhere else in OpenZFS."""
    for name in ("module/zfs/arc.c", "module/zfs/dbuf.c"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("x")
        git(tree, "add", "-A")
        git(tree, "commit", "-q", "-m", name)
    where = (tree, "HEAD~2", "HEAD")
    assert [each.changes for each in find_commits(*where, pool=True)] == [True, True, True]
    with pytest.raises(UsageError, match="no commit of the range touches"):
        find_commits(*where, pool=False)


def test_commits_of_other_files(tree: Path) -> None:
    found = find_commits(tree, "HEAD~5", "main", pool=False, paths=["README.md"])
    assert [each.changes for each in found] == [True, True, False, True, True, False]
    with pytest.raises(UsageError, match=r"touches nothing\.c(.|\n)*--paths names other files"):
        find_commits(tree, "HEAD~5", "main", pool=False, paths=["nothing.c"])


def test_commits_that_configure_sees_alike(tree: Path) -> None:
    (tree / "config").mkdir()
    (tree / "config" / "kernel.m4").write_text("x")
    git(tree, "add", "-A")
    git(tree, "commit", "-q", "-m", "a check")
    (tree / CACHE).write_text("after")
    git(tree, "commit", "-q", "-a", "-m", "after")
    assert [each.config for each in list_revisions(tree, "main~3", "main")] == [0, 0, 1, 1]


def test_the_branch_of_a_tree(tree: Path, tmp_path: Path) -> None:
    git(tree, "checkout", "-q", "-b", "fix/idle")
    assert find_branch(tree) == find_line(f"path:{tree}", ()) == "fix/idle"
    # What is only within a checkout is on no branch of its own.
    assert find_branch(tree / SPL_DIR) == find_branch(tmp_path) == ""
    git(tree, "checkout", "-q", "--detach")
    assert find_branch(tree) == "" and find_line(f"path:{tree}", ()) == "zfs"
    (tree / ".git" / "HEAD").write_text("junk")
    assert find_branch(tree) == ""
