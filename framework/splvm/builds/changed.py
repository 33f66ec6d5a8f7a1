"""Which functions of a module a change of its source is in: by the lines of a diff, and by the debug information."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set

from splvm.builds.lines import Instruction
from splvm.builds.owntree import OwnTree
from splvm.builds.revisions import ask_git, find_revision
from splvm.builds.tree import SPL_PARTS
from splvm.errors import UsageError

_FILE = re.compile(r"^\+\+\+ b/(.+?)\t?$")
_HUNK = re.compile(r"^@@ -\d+(?:,\d+)? \+(\d+)(?:,(\d+))? @@")


def changed_lines(tree: OwnTree, revision: str) -> dict[str, set[int]]:
    """Lines of SPL's source that are others than in a commit, by file from the top of the tree on.

    :param tree: as it is, or one commit of a repository.
    :raises UsageError: when there is no such commit.
    """
    base, _ = find_revision(tree.directory, revision)
    to = [tree.commit] if tree.commit else []
    plain = ("--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--src-prefix=a/", "--dst-prefix=b/")
    done = ask_git(tree.directory, "diff", "--unified=0", *plain, base, *to, "--", *SPL_PARTS)
    if done.exit_code:
        raise UsageError(f"{revision}: git cannot tell what has changed since: {done.tail.strip()}")
    return parse_diff(done.stdout)


def parse_diff(text: str) -> dict[str, set[int]]:
    """Lines that a diff without context has changed, by file; of what was taken away, the lines around it."""
    lines: dict[str, set[int]] = {}
    file = ""
    for line in text.splitlines():
        if named := _FILE.match(line):
            file = named[1]
        elif line.startswith("+++ /dev/null"):
            # It was removed: no line of it is left.
            file = ""
        elif file and (hunk := _HUNK.match(line)):
            first, count = int(hunk[1]), int(hunk[2] or 1)
            lines.setdefault(file, set()).update(range(first, first + count) if count else (first, first + 1))
    return lines


def changed_functions(instructions: Iterable[Instruction], changed: Mapping[str, Set[int]]) -> set[str]:
    """Functions that have an instruction of one of these lines, and those that it is inlined into."""
    return {
        frame.function
        for it in instructions
        if any(each.line in changed.get(each.file, ()) for each in it.frames)
        for frame in it.frames
    }
