"""Build trees that are kept: what is taken over from the last build, and what makes a build start from nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from places import PROJECT
from splvm.builds import worktree
from splvm.builds.worktree import Kept, keep_tree
from splvm.errors import BuildError
from splvm.host.store import Store

ROOT = PROJECT
KEY = "0123456789abcdef"
FILES = {"src/a.c": "a", "src/b.c": "b", "include/h.h": "h"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def make(top: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return top


def build(store: Store, files: dict[str, str], key: str = KEY, error: BaseException | None = None) -> list[str]:
    """Build as make does: what is older than its source, or not there. The names of what was built."""
    with store.temporary() as scratch, keep_tree(store, key, make(scratch / "fresh", files)) as tree:
        found = {str(path.relative_to(tree)): path for path in tree.rglob("*") if path.is_file()}
        assert {name: path.read_text() for name, path in found.items() if not name.endswith(".o")} == files
        built = []
        for name, path in found.items():
            if name.endswith(".c"):
                made = path.with_suffix(".o")
                if not made.exists() or made.stat().st_mtime_ns <= path.stat().st_mtime_ns:
                    made.write_text(f"compiled {path.read_text()}")
                    # Files that are made one right after the other may have the same time, real ones never have.
                    os.utime(made, ns=(time.time_ns(), path.stat().st_mtime_ns + 1))
                    built.append(name)
        if error:
            raise error
        assert all(
            (tree / name).with_suffix(".o").read_text() == f"compiled {files[name]}"
            for name in found
            if name.endswith(".c")
        )
    return sorted(built)


def kept(store: Store) -> Path:
    (tree,) = (store.root / "spl-work").glob("*/tree/build")
    return tree


ALL = ["src/a.c", "src/b.c"]


def test_only_what_changed_is_built(store: Store) -> None:
    assert build(store, FILES) == ALL
    assert build(store, FILES) == []
    assert build(store, {**FILES, "src/a.c": "other"}) == ["src/a.c"]
    assert build(store, FILES) == ["src/a.c"]


def test_a_directory_that_make_has_replaced_by_a_link(store: Store, tmp_path: Path) -> None:
    """Nothing is written, or removed, where it leads."""
    outside = make(tmp_path / "outside", {"a.c": "mine", "b.c": "mine"})
    with store.temporary() as scratch, keep_tree(store, KEY, make(scratch / "fresh", FILES)) as tree:
        (tree / "src").rename(tree / "old")
        (tree / "src").symlink_to(outside)
    with store.temporary() as scratch:
        changed = {**FILES, "src/a.c": "other"}
        with keep_tree(store, KEY, make(scratch / "fresh", changed)) as tree:
            assert not (tree / "src").is_symlink() and (tree / "src/a.c").read_text() == "other"
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"a.c": "mine", "b.c": "mine"}


@pytest.mark.parametrize(
    "files",
    [{**FILES, "src/c.c": "c"}, {**FILES, "include/new.h": ""}, {"src/a.c": "a", "src/b.c": "b"}],
    ids=["source added", "header added", "header removed"],
)
def test_files_that_come_and_go(store: Store, files: dict[str, str]) -> None:
    everything = sorted(name for name in files if name.endswith(".c"))
    build(store, FILES)
    assert build(store, files) == everything
    assert build(store, FILES) == ALL


def cut(tree: Path) -> None:
    (tree / "src/a.o").write_text("comp")


def lose(tree: Path) -> None:
    (tree / "src/a.o").unlink()


def add(tree: Path) -> None:
    (tree / "src/c.o").touch()


def forge(tree: Path) -> None:
    """Another content of the same size and with the same times, as far as they can be set."""
    made, info = tree / "src/a.o", (tree / "src/a.o").stat()
    made.write_text("x" * info.st_size)
    os.utime(made, ns=(info.st_atime_ns, info.st_mtime_ns))


def edit(tree: Path) -> None:
    (tree / "include/h.h").write_text("edited")


def break_seal(tree: Path) -> None:
    seal = tree.parent / "seal.json"
    seal.write_text(seal.read_text()[:-20])


def empty_seal(tree: Path) -> None:
    (tree.parent / "seal.json").write_text("[]")


def lose_seal(tree: Path) -> None:
    (tree.parent / "seal.json").unlink()


@pytest.mark.parametrize("damage", [cut, lose, add, forge, edit, break_seal, empty_seal, lose_seal])
def test_damaged_tree_is_not_used(store: Store, damage: Callable[[Path], None]) -> None:
    build(store, FILES)
    damage(kept(store))
    assert build(store, FILES) == ALL
    assert build(store, FILES) == []


def test_tree_of_another_boot_is_not_used(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    build(store, FILES)
    monkeypatch.setattr(worktree, "boot_id", lambda: "another")
    assert build(store, FILES) == ALL


def test_clock_that_was_set_back(store: Store) -> None:
    build(store, FILES)
    seal = kept(store).parent / "seal.json"
    later = time.time_ns() + 10**12
    made = kept(store) / "src/a.o"
    before = made.stat()
    os.utime(made, ns=(later, later))
    after = made.stat()
    text = seal.read_text()
    for old, new in ((before.st_mtime_ns, after.st_mtime_ns), (before.st_ctime_ns, after.st_ctime_ns)):
        text = text.replace(str(old), str(new))
    seal.write_text(text)
    assert build(store, FILES) == [], "the tree is as its seal says"
    # make would find the object newer than the edit.
    assert build(store, {**FILES, "src/a.c": "other"}) == ALL


@pytest.mark.parametrize(
    ("error", "goes_on"),
    [
        (BuildError("spl.ko", "x.c:1: error\nmake: *** [Makefile:9: x] Error 2\nmake: Leaving directory", None), True),
        (BuildError("spl.ko", "make[1]: *** [Makefile:9: x] Error 2", None), False),
        (BuildError("spl.ko", "(no output; was ended by SIGKILL)", None), False),
        (KeyboardInterrupt(), False),
        (OSError("disk"), False),
    ],
)
def test_build_that_fails(store: Store, error: BaseException, goes_on: bool) -> None:
    build(store, FILES)
    with pytest.raises(type(error)):
        build(store, {**FILES, "src/a.c": "wrong"}, error=error)
    assert build(store, FILES) == (["src/a.c"] if goes_on else ALL)


PROCESS = """
import os, sys
from pathlib import Path
from splvm.builds.worktree import keep_tree
from splvm.host.store import Store

store, fresh = Store(Path(sys.argv[1])), Path(sys.argv[2])
with keep_tree(store, sys.argv[3], fresh) as tree:
    (tree / "src" / "a.o").write_text("half")
    os.kill(os.getpid(), 9)
"""


def test_killed_build_leaves_nothing_that_is_used(store: Store, tmp_path: Path) -> None:
    build(store, FILES)
    fresh = make(tmp_path / "fresh", {**FILES, "src/a.c": "other"})
    argv = [sys.executable, "-c", PROCESS, str(store.root), str(fresh), KEY]
    assert subprocess.run(argv, cwd=ROOT, check=False, timeout=60).returncode == -9
    assert (kept(store) / "src/a.o").read_text() == "half"
    assert build(store, FILES) == ALL


def test_second_one_builds_beside_the_first(store: Store, tmp_path: Path) -> None:
    build(store, FILES)
    with store.workspace("spl-work", KEY) as held:
        assert held is not None
        before = (held / "seal.json").read_text()
        assert build(store, {**FILES, "src/a.c": "other"}) == ALL
        assert (held / "seal.json").read_text() == before
    assert build(store, FILES) == []


def test_trees_that_were_not_used_for_long_go(store: Store) -> None:
    keys = [f"{number:016x}" for number in range(3)]
    for key in keys[:2]:
        build(store, FILES, key)
    os.utime(store.root / "spl-work" / keys[0], (1, 1))
    size = sum(path.stat().st_blocks * 512 for path in (store.root / "spl-work" / keys[1]).rglob("*"))
    with store.temporary() as scratch:
        fresh = make(scratch / "fresh", FILES)
        with keep_tree(store, keys[2], fresh, Kept("spl-work", 2 * size)) as tree:
            make(tree, FILES)
    assert {path.name for path in (store.root / "spl-work").iterdir()} == set(keys[1:])
