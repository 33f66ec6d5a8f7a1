"""The user's OpenZFS trees: what a name of `--spl` stands for, and where its files are.

A directory is taken as it is. A commit is put into the store, without a worktree and without touching the repository.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from splvm.builds.revisions import ask_git, extract_revision, find_revision
from splvm.builds.tree import SPL_DIR
from splvm.deadline import Deadline
from splvm.errors import UsageError, did_you_mean
from splvm.host.content import input_hash
from splvm.host.store import Store
from splvm.ownpath import absolute, name_path
from splvm.treename import FORMS, TreeKind, TreeName, parse_tree_name

# Names the clone that has the pull requests.
CLONE_VARIABLE = "SPLVM_OPENZFS"

RECIPE = 1

# Where pull requests are fetched from.
_UPSTREAM = "https://github.com/openzfs/zfs"

_CACHE = SPL_DIR / "spl-kmem-cache.c"

# Bytes of all commits that are kept. One takes some 25 MiB.
_KEEP_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class OwnTree:
    """A directory as it is, or one commit of a repository."""

    # With a whole path.
    name: TreeName
    # The tree, or the repository.
    directory: Path
    # Its hash; empty of a directory as it is.
    commit: str = ""
    # That the revision names, if it is one; of a pull request its name.
    branch: str = ""


def read_tree_name(text: str) -> TreeName:
    """The parts of a name of `--spl`.

    :raises UsageError: when it has none of the forms.
    """
    name = parse_tree_name(text)
    if name is None:
        raise UsageError(f"--spl {text}: not a source; it is {FORMS}", hint=_nearly(text))
    return name


def _nearly(text: str) -> str | None:
    """A hint for what has none of the forms; None if it is like none."""
    kind, colon, rest = text.partition(":")
    if not colon and absolute(text).is_dir():
        return f"did you mean path:{text}?"
    if kind == TreeKind.COMMIT and "@" not in rest:
        return f"a revision is missing: git:{rest or 'DIR'}@HEAD, for example"
    known = [TreeKind.PATH, TreeKind.COMMIT, TreeKind.PULL] if colon else [TreeKind.PACKAGED]
    return did_you_mean(kind, [it.value for it in known if it != kind])


def find_tree(text: str) -> OwnTree | None:
    """What a name stands for now; None for `debian`. Nothing is fetched, and nothing written.

    :raises UsageError: when it has none of the forms, or there is no OpenZFS tree of that name.
    """
    name = read_tree_name(text)
    match name.kind:
        case TreeKind.PACKAGED:
            return None
        case TreeKind.PATH:
            return _find_directory(name)
        case TreeKind.COMMIT:
            return _find_commit(name)
        case TreeKind.PULL:
            return _find_pull(name)


def find_repository(name: TreeName) -> Path:
    """The repository that a name's commits are in.

    :raises UsageError: when it has none.
    """
    match name.kind:
        case TreeKind.PACKAGED:
            raise UsageError(
                f"--spl {name}: commits are those of a git checkout",
                hint="--spl path:DIR, git:DIR@REV or pr:N",
            )
        case TreeKind.PULL:
            return _clone(name)
        case TreeKind.PATH | TreeKind.COMMIT:
            return absolute(name.directory)


def take_tree(store: Store, tree: OwnTree, deadline: Deadline) -> Path:
    """A directory with its files: its own, or that of the commit in the store."""
    if not tree.commit:
        return tree.directory
    key = input_hash({"recipe": RECIPE, "commit": tree.commit})

    def build(made: Path) -> None:
        extract_revision(tree.directory, tree.commit, made / "src", deadline)

    found = store.get("commit", key, build, deadline=deadline, what=f"source of commit {tree.commit[:12]}")
    store.trim("commit", _KEEP_BYTES, used=key)
    return found.path / "src"


def _find_directory(name: TreeName) -> OwnTree:
    tree = absolute(name.directory)
    if not (tree / _CACHE).is_file():
        bare = (tree / "objects").is_dir() and (tree / "HEAD").is_file()
        raise UsageError(
            f"--spl {name}: not the top of an OpenZFS tree, 2.0 or later: {tree / _CACHE} is not there",
            hint=f"it is a bare repository: git:{name.directory}@REV takes a commit of it" if bare else None,
        )
    return OwnTree(parse_tree_name(name_path(tree)) or name, tree)


def _find_commit(name: TreeName) -> OwnTree:
    repository = absolute(name.directory)
    commit, branch = find_revision(repository, name.revision)
    if inside := ask_git(repository, "rev-parse", "--show-prefix").stdout.strip():
        raise UsageError(f"--spl {name}: {repository} is {inside} of a repository, and not its top")
    _check_commit(name, repository, commit)
    return OwnTree(TreeName(name.kind, str(repository), name.revision), repository, commit, branch)


def _find_pull(name: TreeName) -> OwnTree:
    clone, ref = _clone(name), f"refs/pull/{name.revision}/head"
    if ask_git(clone, "rev-parse", "--git-dir").exit_code:
        raise UsageError(f"--spl {name}: {CLONE_VARIABLE} names {clone}, which is no git repository")
    try:
        commit, _ = find_revision(clone, ref)
    except UsageError as error:
        raise UsageError(
            f"--spl {name}: {clone} has no {ref}", hint=f"git -C {clone} fetch {_UPSTREAM} {ref}:{ref}"
        ) from error
    _check_commit(name, clone, commit)
    return OwnTree(name, clone, commit, str(name))


def _clone(name: TreeName) -> Path:
    given = os.environ.get(CLONE_VARIABLE, "")
    if not given:
        raise UsageError(
            f"--spl {name}: {CLONE_VARIABLE} names no clone of OpenZFS", hint=f"export {CLONE_VARIABLE}=DIR"
        )
    return absolute(given)


def _check_commit(name: TreeName, repository: Path, commit: str) -> None:
    if ask_git(repository, "cat-file", "-e", f"{commit}:{_CACHE}").exit_code:
        raise UsageError(f"--spl {name}: commit {commit[:12]} has no {_CACHE}: it is not OpenZFS 2.0 or later")
