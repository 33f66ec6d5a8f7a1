"""Commits of an OpenZFS tree, and what is in each. The user's checkout is only read: no worktree, no lock, no index."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from splvm.builds.tree import ALL_PARTS, CONFIGURE_INPUTS, SPL_PARTS
from splvm.deadline import Deadline
from splvm.errors import SetupError, UsageError, did_you_mean
from splvm.host.process import Completed, run
from splvm.log import note

_GIT_S = 300.0
# A user may have every log say who signed what. A checkout may name programs of its own to run. One that is shared may
# belong to somebody else, and git refuses it then unless it is told.
_SETTINGS = ("log.showSignature=false", "core.fsmonitor=false", "core.hooksPath=/dev/null", "safe.directory=*")
_GIT = ("git", "--no-optional-locks", *(word for setting in _SETTINGS for word in ("-c", setting)))
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
    # Number of the commits before it, and it, that touch what configure reads: equal ones need one configure run.
    config: int = 0
    # The name of the good end, where this is only the commit at which that one and the bad end parted.
    parted: str = ""


def list_revisions(tree: Path, good: str, bad: str, paths: Sequence[str] = SPL_PATHS) -> list[Revision]:
    """The commits from `good` to `bad`, the oldest first, both included; of merges the first parent is followed.

    :param paths: what modules are made of.
    If `good` lies on another branch, as the tag of a release does, the first is where the two parted: git bisect asks
    that one first as well.

    :raises UsageError: when that is no git repository, a name stands for no commit, `bad` is an ancestor of `good`, or
        the two have nothing in common.
    """
    named, last = (_resolve(tree, name) for name in (good, bad))
    first = find_merge_base(tree, named, last)
    if first is None:
        raise UsageError(f"--good {good} --bad {bad}: they have no commit in common")
    if first == last:
        raise UsageError(
            f"--good {good} --bad {bad}: the good one does not come before the bad one",
            hint="to find what mended something, name it the other way round with --hit",
        )
    if first != named:
        note(f"{good} is no ancestor of {bad}: where they parted, {first[:12]}, is the good end")
    shown = ("log", "--first-parent", "--reverse", "--format=%H %s")
    rows = [line.split(" ", 1) for line in ask_git(tree, *shown, f"{first}..{last}").stdout.splitlines()]
    if not rows or ask_git(tree, "merge-base", "--is-ancestor", first, f"{rows[0][0]}^").exit_code:
        raise UsageError(f"--good {good}: following first parents from {bad} does not come by it")
    touching = ask_git(tree, "log", "--first-parent", "--format=%H", f"{first}..{last}", "--", *paths).stdout.split()
    title = ask_git(tree, "log", "-1", "--format=%s", first).stdout.strip()
    reading = ("log", "--first-parent", "--format=%H", f"{first}..{last}", "--", *CONFIGURE_INPUTS)
    configured = {*ask_git(tree, *reading).stdout.split()}
    found = [Revision(first, title[:_MOST_TITLE], True, parted=good if first != named else "")]
    for sha, title in rows:
        config = found[-1].config + (sha in configured)
        found.append(Revision(sha, title[:_MOST_TITLE], sha in touching, config))
    return found


def find_branch(tree: Path) -> str:
    """The branch that a tree is on; empty if it is on none, or no git checkout, or there is no git."""
    # A directory within another checkout is no checkout of its own.
    if not (tree / ".git").exists():
        return ""
    try:
        done = ask_git(tree, "symbolic-ref", "--quiet", "--short", "HEAD")
    except SetupError:
        return ""
    return done.stdout.strip() if done.exit_code == 0 else ""


def find_merge_base(tree: Path, one: str, other: str) -> str | None:
    """The best commit that two have in common, None if there is none."""
    words = ask_git(tree, "merge-base", one, other).stdout.split()
    return words[0] if words else None


def extract_revision(tree: Path, sha: str, to: Path, deadline: Deadline) -> None:
    """Put what is in a commit into a directory that is not there yet.

    :raises SetupError: when git or tar fails.
    """
    to.mkdir(parents=True)
    archive = to.with_name(f"{to.name}.tar")
    # Of the test suite, half of a tree, configure takes the makefiles. A clone that is partial may lack the rest.
    names = [name for name in _list(tree, sha) if name != "tests"]
    names += [name for name in _list(tree, "-r", sha, "tests/") if name.endswith((".am", ".in"))]
    try:
        # The file is ours, also where git runs as somebody else.
        argv = ["sh", "-c", 'exec "$@" >"$0"', archive.absolute(), *_git_args(tree)]
        argv += ["archive", "--format=tar", sha, "--", *names]
        run(argv, env=_git_env(tree), deadline=deadline, what=f"git archive {sha[:12]}")
        run(["tar", "-xf", archive, "-C", to], deadline=deadline, what=f"unpacking {sha[:12]}")
    finally:
        archive.unlink(missing_ok=True)


def _list(tree: Path, *which: str) -> list[str]:
    return [name for name in ask_git(tree, "ls-tree", "-z", "--name-only", *which).stdout.split("\0") if name]


def ask_git(tree: Path, *argv: str) -> Completed:
    """Run git in a tree: as its owner, with no program of the tree's own, and without writing to it."""
    words = [*_git_args(tree), *argv]
    return run(words, env=_git_env(tree), deadline=Deadline(_GIT_S), what=f"git {argv[0]}", check=False)


def find_revision(repository: Path, name: str) -> tuple[str, str]:
    """The commit that a revision stands for, and the branch if it names one, else an empty string.

    :raises UsageError: when that is no git repository, or the revision stands for no commit.
    """
    commit = _resolve(repository, name)
    asked = ("rev-parse", "--verify", "--quiet", "--symbolic-full-name", "--end-of-options", name)
    # It says the option again, too.
    full = ask_git(repository, *asked).stdout.split()[-1:]
    return commit, next((word.removeprefix("refs/heads/") for word in full if word.startswith("refs/heads/")), "")


def _resolve(tree: Path, name: str) -> str:
    # What begins with a hyphen would be an option.
    done = ask_git(tree, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    words = done.stdout.split()
    if done.exit_code or not words:
        raise UsageError(
            f"{name}: no commit of {tree}: {done.tail.strip() or 'git does not know it'}", hint=_nearly(tree, name)
        )
    return words[-1]


def _nearly(tree: Path, name: str) -> str | None:
    """A hint with the branches and tags that are spelled nearly like the one in a revision; None if there is none."""
    # What follows the name says how far from it the commit is.
    end = re.search(r"[~^]|@\{", name)
    base = name[: end.start()] if end else name
    where = ("refs/heads", "refs/tags", "refs/remotes")
    known = ask_git(tree, "for-each-ref", "--format=%(refname:short)", *where).stdout.split()
    return None if base in known else did_you_mean(base, known)


def _git_args(tree: Path) -> list[str | Path]:
    """git for a tree: as root, it runs as whoever the tree belongs to."""
    owner = _owner(tree)
    as_owner = [] if owner is None else ["setpriv", f"--reuid={owner[0]}", f"--regid={owner[1]}", "--clear-groups"]
    return [*as_owner, *_GIT, "-C", tree]


def _git_env(tree: Path) -> dict[str, str]:
    owner = _owner(tree)
    if owner is None:
        return {}
    # What cannot be read of root's own configuration is an error to git.
    try:
        return {"HOME": pwd.getpwuid(owner[0]).pw_dir}
    except KeyError:
        return {"HOME": "/"}


def _owner(tree: Path) -> tuple[int, int] | None:
    """User and group that git has to run as; None if it is the caller."""
    with suppress(OSError):
        info = tree.stat()
        if os.geteuid() == 0 and info.st_uid != 0:
            return info.st_uid, info.st_gid
    return None
