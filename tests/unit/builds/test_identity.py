"""What is said of the commit that modules are built of."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from splvm.builds import identity
from splvm.builds.identity import read_identity
from splvm.builds.tree import SPL_DIR

CACHE = f"{SPL_DIR}/spl-kmem-cache.c"
ARC = "module/zfs/arc.c"
# More than what a difference shows around an edit.
LINES = "".join(f"line {number}\n" for number in range(20))


def git(tree: Path, *argv: str) -> str:
    author = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    done = subprocess.run(["git", "-C", tree, *author, *argv], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "zfs"
    for name in (CACHE, ARC, "include/sys/arc.h", "man/zfs.8"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(LINES + "one\n" + LINES)
    (top / ".gitignore").write_text("*.o\n")
    git(top, "init", "-q", "-b", "main")
    git(top, "add", "-A")
    git(top, "commit", "-q", "-m", "one")
    git(top, "tag", "v1")
    return top


def dirty(tree: Path) -> tuple[bool, bool]:
    """Of spl.ko, and of all modules."""
    found = read_identity(tree)
    assert found
    for each in (found.spl.dirty, found.zfs.dirty):
        assert not each or len(each) == len(hashlib.sha256().hexdigest())
    return bool(found.spl.dirty), bool(found.zfs.dirty)


def test_a_clean_checkout(tree: Path) -> None:
    found = read_identity(tree)
    assert found and found.spl == found.zfs
    expected = {"commit": git(tree, "rev-parse", "HEAD"), "branch": "main", "describe": "v1", "dirty": ""}
    assert found.spl.to_json() == expected
    git(tree, "checkout", "-q", "--detach")
    git(tree, "commit", "-q", "--allow-empty", "-m", "two")
    found = read_identity(tree)
    assert found and found.spl.branch == ""
    assert found.spl.describe == f"v1-1-g{found.spl.commit[:7]}"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (CACHE, (True, True)),
        ("include/sys/arc.h", (True, True)),
        (ARC, (False, True)),
        ("man/zfs.8", (False, False)),
        (f"{SPL_DIR}/new.c", (True, True)),
        ("module/zfs/new.c", (False, True)),
        ("module/zfs/arc.o", (False, False)),
    ],
)
@pytest.mark.parametrize("staged", [False, True])
def test_edits_count_for_the_modules_they_go_into(
    tree: Path, name: str, expected: tuple[bool, bool], staged: bool
) -> None:
    (tree / name).write_text("two\n")
    if staged and not name.endswith(".o"):
        git(tree, "add", "-A")
    assert dirty(tree) == expected


def test_the_hash_is_of_the_edits(tree: Path) -> None:
    seen = set()
    for text in ("two\n", "three\n", "two\n"):
        (tree / CACHE).write_text(text)
        (tree / SPL_DIR / "new.c").write_text(text)
        found = read_identity(tree)
        assert found
        seen.add(found.spl.dirty)
    assert len(seen) == 2


def test_the_trees_own_configuration_changes_nothing(tree: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (tree / CACHE).write_text(LINES + "two\n" + LINES)
    plain = read_identity(tree)
    (tree / ".gitattributes").write_text("*.c diff=own\n")
    for name, value in (
        ("diff.external", f"touch {mark}; true"),
        ("diff.own.textconv", f"touch {mark}; true"),
        ("diff.ignoreSubmodules", "all"),
        ("diff.noprefix", "true"),
        ("diff.context", "9"),
        ("diff.algorithm", "patience"),
        ("color.ui", "always"),
        ("core.fsmonitor", f"touch {mark}; false"),
    ):
        git(tree, "config", name, value)
    mark.unlink(missing_ok=True)
    before = (tree / ".git" / "index").read_bytes()
    assert read_identity(tree) == plain
    assert not mark.exists()
    assert (tree / ".git" / "index").read_bytes() == before


def test_a_tree_inside_another_repository_is_no_checkout(tree: Path) -> None:
    (tree / "inside").mkdir()
    assert read_identity(tree / "inside") is None


@pytest.mark.parametrize("trouble", ["no git", "no commit"])
def test_what_git_cannot_say_is_told(tree: Path, monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    told: list[str] = []
    monkeypatch.setattr(identity, "note", told.append)
    if trouble == "no git":
        # What looks for programs looks in sbin as well; git is not there.
        monkeypatch.setenv("PATH", os.devnull)
    else:
        git(tree, "update-ref", "-d", "HEAD")
    assert read_identity(tree) is None
    (line,) = told
    assert line.startswith(f"the commit of {tree} is not known: ") and "\n" not in line


def test_a_link_out_of_the_tree_is_not_read(tree: Path, tmp_path: Path) -> None:
    """It may lead to any file of the host's, and to a device that never ends."""
    (tmp_path / "outside").write_text("secret")
    (tree / "module/zfs/inside.c").symlink_to("arc.c")
    assert dirty(tree) == (False, True)
    (tree / "module/zfs/link.c").symlink_to(tmp_path / "outside")
    assert read_identity(tree) is None
