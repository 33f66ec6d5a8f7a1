"""The line that runs of a build belong to: what the user calls it, or else what it is found to be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from splvm.builds.owntree import read_tree_name
from splvm.builds.revisions import find_branch
from splvm.errors import UsageError
from splvm.host.content import file_hash
from splvm.ownpath import absolute, name_path
from splvm.record.cellfacts import MOST_LINE, PACKAGED, UNKNOWN, fit_line, line_of
from splvm.treename import TreeKind


def check_label(label: str | None, source: str, patches: Sequence[Path]) -> str:
    """The user's name of a line; empty if `label` is None.

    :raises UsageError: when `label` cannot be the name of a line, or the build is the distribution's.
    """
    if label is None:
        return ""
    if not label or label != fit_line(label) or label in (PACKAGED, UNKNOWN):
        raise UsageError(
            f"--label {label}: a label has letters, digits and any of . / + : @ ~ _ -, {MOST_LINE} at most, and is "
            f"neither {PACKAGED!r} nor {UNKNOWN!r}"
        )
    if not read_tree_name(source).is_own and not patches:
        raise UsageError(
            f"--label {label}: the build is the distribution's, whose line is {PACKAGED!r}",
            hint="--spl path:DIR, git:DIR@REV or pr:N, or --spl-patch FILE, makes a build of your own",
        )
    return label


def find_line(source: str, patches: Sequence[Path], label: str = "") -> str:
    """The line of a build.

    :param source: in one of the forms of `--spl`.
    :param patches: the user's; that they are there was checked.
    :param label: what the user calls it.
    """
    name = read_tree_name(source)
    tree = absolute(name.directory)
    branch = find_branch(tree) if name.kind is TreeKind.PATH and not label else ""
    named = name_path(tree) if name.kind is TreeKind.PATH else source
    return line_of(named, [file_hash(patch) for patch in patches], branch=branch, label=label)
