"""Which commit the modules of a run are of, as its run.json says it, in words. Pure.

The text has names of the user's in it, such as that of a branch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_DIGITS = 7
_HASH_DIGITS = 8


def describe_tree(facts: Mapping[str, Any]) -> str:
    """The tree of a run in short, such as `1a2b3c4 main, dirty`; empty for the distribution's, or if nobody knows.

    With a pool it is what all modules are of, else what spl.ko is of.
    """
    git = _git(facts, "zfs") or _git(facts, "spl")
    return _name(git) + (", dirty" if git.get("dirty") else "") if git else ""


def describe_modules(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each module with commit, branch, what `git describe` says, and the hash of the edits on top; zfs.ko by name."""
    for part in ("spl", "zfs"):
        git = _git(facts, part)
        if git:
            dirty = str(git.get("dirty", ""))[:_HASH_DIGITS]
            described = str(git.get("describe", ""))
            name = _name(git)
            words = [name, f"({described})" if described and described not in name else ""]
            yield f"{part}.ko", " ".join(filter(None, words)) + (f", with edits {dirty}" if dirty else "")


def commit_of(facts: Mapping[str, Any]) -> str:
    """The whole hash of the commit; empty if there is none, or nobody knows."""
    return str((_git(facts, "zfs") or _git(facts, "spl")).get("commit", ""))


def _name(git: Mapping[str, Any]) -> str:
    commit = str(git.get("commit", ""))[:_DIGITS]
    named = str(git.get("branch") or git.get("describe") or "")
    # Without a tag `git describe` says the commit once more.
    return " ".join(filter(None, (commit, "" if named.startswith(commit) else named)))


def _git(facts: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    told = facts.get(part)
    git = told.get("git") if isinstance(told, Mapping) else None
    return git if isinstance(git, Mapping) else {}
