"""Which commit a module was built of, and whether its sources were edited since. A git checkout is only read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from splvm.builds.foreign import find_escape
from splvm.builds.owntree import OwnTree
from splvm.builds.revisions import ALL_PATHS, SPL_PATHS, ask_git
from splvm.errors import SetupError
from splvm.log import note


@dataclass(frozen=True, slots=True)
class Identity:
    """A commit, and the edits on top of it that go into one module."""

    # 40 hexadecimal digits, or 64.
    commit: str
    # Empty where HEAD is detached.
    branch: str
    # As `git describe --tags --always` has it, without its mark for edits: that one obeys the tree's configuration.
    describe: str
    # SHA-256 of the difference from the commit in what the module is made of, with new files; empty if there is none.
    dirty: str

    def to_json(self) -> dict[str, str]:
        """As run.json has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TreeIdentity:
    """Of one checkout."""

    spl: Identity
    zfs: Identity


def identify(tree: OwnTree) -> TreeIdentity | None:
    """Of which commit something is that is built of a tree now."""
    if not tree.commit:
        return read_identity(tree.directory)
    describe = ask_git(tree.directory, "describe", "--tags", "--always", tree.commit).stdout.strip()
    found = Identity(tree.commit, tree.branch, describe, "")
    return TreeIdentity(found, found)


def read_identity(tree: Path) -> TreeIdentity | None:
    """What a tree is a checkout of; None for one that is no checkout, or where git cannot say, which is told."""
    # Without it git would answer for a repository that the tree happens to lie in.
    if not (tree / ".git").exists():
        return None
    try:
        commit = _ask(tree, "rev-parse", "--verify", "HEAD^{commit}").strip()
        branch = ask_git(tree, "symbolic-ref", "--quiet", "--short", "HEAD").stdout.strip()
        describe = _ask(tree, "describe", "--tags", "--always", "HEAD").strip()
        spl, zfs = (Identity(commit, branch, describe, _dirty(tree, paths)) for paths in (SPL_PATHS, ALL_PATHS))
    except (SetupError, OSError) as error:
        note(f"the commit of {tree} is not known: {str(error).splitlines()[0]}")
        return None
    return TreeIdentity(spl, zfs)


# Not by anybody's configuration: what shows a difference may be a program, and may leave things out.
_SHOWN = (
    *("--no-ext-diff", "--no-textconv", "--no-color", "--binary", "--no-renames", "--full-index"),
    *("--ignore-submodules=none", "--src-prefix=a/", "--dst-prefix=b/", "--unified=3", "--inter-hunk-context=0"),
    *("--diff-algorithm=myers", "--indent-heuristic", "-O/dev/null", "--no-relative"),
)


def _dirty(tree: Path, paths: Sequence[str]) -> str:
    changed = _ask(tree, "diff", *_SHOWN, "HEAD", "--", *paths)
    added = _ask(tree, "ls-files", "-z", "--others", "--exclude-standard", "--", *paths)
    if not changed and not added:
        return ""
    digest = hashlib.sha256(changed.encode("utf-8", "surrogateescape"))
    for name in filter(None, added.split("\0")):
        digest.update(f"\0{name}\0".encode("utf-8", "surrogateescape"))
        if reason := find_escape(tree, tree / name):
            raise SetupError(f"{tree / name} {reason}")
        digest.update((tree / name).read_bytes())
    return digest.hexdigest()


def _ask(tree: Path, *argv: str) -> str:
    done = ask_git(tree, *argv)
    if done.exit_code:
        raise SetupError(done.tail.strip() or f"git {argv[0]} failed")
    return done.stdout
