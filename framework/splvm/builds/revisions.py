"""Commits of an OpenZFS tree, and what is in each. The user's checkout is only read: no worktree, no lock, no index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from splvm.builds.tree import ALL_PARTS, CONFIGURE_INPUTS, SPL_PARTS
from splvm.deadline import Deadline
from splvm.errors import UsageError
from splvm.host.process import Completed, run

_GIT_S = 300.0
# Of these spl.ko is made, and all modules; a commit that touches nothing of them changes nothing.
SPL_PATHS = (*CONFIGURE_INPUTS, *SPL_PARTS)
ALL_PATHS = (*CONFIGURE_INPUTS, *ALL_PARTS)
_MOST_TITLE = 200


@dataclass(frozen=True, slots=True)
class Revision:
    """A commit."""

    sha: str
    # The first line of its message.
    title: str
    # Whether it touches anything that modules are made of.
    touches: bool


def list_revisions(tree: Path, good: str, bad: str, paths: Sequence[str] = SPL_PATHS) -> list[Revision]:
    """The commits from `good` to `bad`, the oldest first, both included; of merges the first parent is followed.

    :param paths: what modules are made of.
    :raises UsageError: when that is no git checkout, a name stands for no commit, or `good` is no ancestor of `bad`.
    """
    first, last = (_resolve(tree, name) for name in (good, bad))
    if first == last or _git(tree, "merge-base", "--is-ancestor", first, last).exit_code:
        raise UsageError(
            f"--good {good} --bad {bad}: the good one is no ancestor of the bad one",
            hint="to find what mended something, name it the other way round with --hit",
        )
    shown = ("log", "--first-parent", "--reverse", "--format=%H %s")
    rows = [line.split(" ", 1) for line in _git(tree, *shown, f"{first}..{last}").stdout.splitlines()]
    if not rows or _git(tree, "merge-base", "--is-ancestor", first, f"{rows[0][0]}^").exit_code:
        raise UsageError(f"--good {good}: following first parents from {bad} does not come by it")
    touching = _git(tree, "log", "--first-parent", "--format=%H", f"{first}..{last}", "--", *paths).stdout.split()
    title = _git(tree, "log", "-1", "--format=%s", first).stdout.strip()
    found = [Revision(first, title[:_MOST_TITLE], True)]
    return found + [Revision(sha, title[:_MOST_TITLE], sha in touching) for sha, title in rows]


def extract_revision(tree: Path, sha: str, to: Path, deadline: Deadline) -> None:
    """Put what is in a commit into a directory that is not there yet.

    :raises SetupError: when git or tar fails.
    """
    to.mkdir(parents=True)
    archive = to.with_name(f"{to.name}.tar")
    try:
        run(
            ["git", "-C", tree, "archive", "--format=tar", "-o", archive, sha],
            deadline=deadline,
            what=f"git archive {sha[:12]}",
        )
        run(["tar", "-xf", archive, "-C", to], deadline=deadline, what=f"unpacking {sha[:12]}")
    finally:
        archive.unlink(missing_ok=True)


def _resolve(tree: Path, name: str) -> str:
    # What begins with a hyphen would be an option.
    done = _git(tree, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    words = done.stdout.split()
    if done.exit_code or not words:
        raise UsageError(f"{name}: no commit of {tree}: {done.tail.strip() or 'git does not know it'}")
    return words[-1]


def _git(tree: Path, *argv: str) -> Completed:
    # A user may have every log say who signed what.
    words: Sequence[str | Path] = ("git", "-c", "log.showSignature=false", "-C", tree, *argv)
    return run(words, deadline=Deadline(_GIT_S), what=f"git {argv[0]}", check=False)
