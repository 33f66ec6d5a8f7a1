"""Which functions a change is in."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from splvm.builds.changed import changed_functions, changed_lines, parse_diff
from splvm.builds.lines import Frame, Instruction
from splvm.builds.owntree import find_tree
from splvm.errors import UsageError

DIFF = """diff --git a/module/a.c b/module/a.c
--- a/module/a.c
+++ b/module/a.c
@@ -3 +3,2 @@ one(void)
-old
+new
+++ b/no/name
@@ -10,2 +11,0 @@ two(void)
-gone
-gone
"""


def test_lines_of_a_diff() -> None:
    assert parse_diff(DIFF.replace("+++ b/no/name\n", "+new\n")) == {"module/a.c": {3, 4, 11, 12}}
    assert parse_diff("") == {}


def test_a_file_that_was_removed() -> None:
    removed = "--- a/module/b.c\n+++ /dev/null\n@@ -1,2 +0,0 @@\n-gone\n-gone\n"
    assert parse_diff(DIFF.partition("+++ b/no")[0] + removed) == {"module/a.c": {3, 4}}


def test_functions_of_lines() -> None:
    inlined = (Frame("small", "a.h", 7), Frame("large", "a.c", 30))
    instructions = (
        Instruction(0, (Frame("one", "a.c", 3),)),
        Instruction(4, (Frame("two", "a.c", 20),)),
        Instruction(8, inlined),
    )
    assert changed_functions(instructions, {"a.c": {3}}) == {"one"}
    assert changed_functions(instructions, {"a.h": {7}}) == {"small", "large"}
    assert changed_functions(instructions, {"a.c": {4}}) == set()


def git(tree: Path, *argv: str) -> None:
    subprocess.run(
        ["git", "-C", tree, "-c", "user.name=a", "-c", "user.email=a@b", *argv], check=True, capture_output=True
    )


def test_a_tree_and_a_commit_of_it(tmp_path: Path) -> None:
    source = tmp_path / "module" / "os" / "linux" / "spl" / "spl-kmem-cache.c"
    source.parent.mkdir(parents=True)
    (tmp_path / "configure.ac").write_text("")
    (tmp_path / "META").write_text("Name: zfs\nVersion: 2.3.0\nRelease: 1\n")
    source.write_text("1\n2\n3\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "one")
    source.write_text("1\nother\n3\n")
    git(tmp_path, "commit", "-qam", "two")
    source.write_text("1\nother\nanother\n")
    name = "module/os/linux/spl/spl-kmem-cache.c"
    as_it_is, committed = find_tree(f"path:{tmp_path}"), find_tree(f"git:{tmp_path}@HEAD")
    assert as_it_is is not None and committed is not None
    assert changed_lines(as_it_is, "HEAD~1") == {name: {2, 3}}
    assert changed_lines(as_it_is, "HEAD") == {name: {3}}
    assert changed_lines(committed, "HEAD~1") == {name: {2}}
    with pytest.raises(UsageError, match="no commit"):
        changed_lines(committed, "nothing")
