"""Names of OpenZFS sources: what `--spl` takes. Pure, and the one place that reads them.

builds/owntree.py finds the tree that a name stands for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import PurePosixPath

from splvm.ownpath import name_path, own_path

FORMS = "`debian`, `path:DIR`, `git:DIR@REV` or `pr:N`"

# The last `@` that is neither the revision `@` itself nor part of one such as HEAD@{1} divides the two.
_COMMIT = re.compile(r"git:(.+)@(@|[^@]*@\{[^@]*\}|[^@{][^@]*)", re.DOTALL)
_PULL = re.compile(r"pr:([1-9][0-9]{0,8})")


class TreeKind(StrEnum):
    """What a name stands for."""

    # The source package of the kernel's suite.
    PACKAGED = "debian"
    # A directory as it is now.
    PATH = "path"
    # A commit of a repository, bare or not.
    COMMIT = "git"
    # The head of a pull request, in the clone that SPLVM_OPENZFS names.
    PULL = "pr"


@dataclass(frozen=True, slots=True)
class TreeName:
    """A name, in parts."""

    kind: TreeKind
    # Of the tree or the repository, as it was typed; empty of the others.
    directory: str = ""
    # As it was typed; of a pull request its number.
    revision: str = ""

    @property
    def is_own(self) -> bool:
        """Whether the source is the user's."""
        return self.kind is not TreeKind.PACKAGED

    @property
    def is_commit(self) -> bool:
        """Whether it stands for one commit, in which nobody edits."""
        return self.kind in (TreeKind.COMMIT, TreeKind.PULL)

    @property
    def brief(self) -> TreeName:
        """The name with the last part of its directory alone, for strangers and for tables."""
        return replace(self, directory=PurePosixPath(self.directory).name or "DIR") if self.directory else self

    @property
    def line(self) -> str:
        """What builds of it are called where nobody calls them something else."""
        match self.kind:
            case TreeKind.PATH:
                return PurePosixPath(self.directory).name
            case TreeKind.COMMIT:
                return self.revision
            case TreeKind.PACKAGED | TreeKind.PULL:
                return str(self)

    def __str__(self) -> str:
        match self.kind:
            case TreeKind.PACKAGED:
                return "debian"
            case TreeKind.PATH:
                return name_path(PurePosixPath(self.directory))
            case TreeKind.COMMIT:
                return f"git:{self.directory}@{self.revision}"
            case TreeKind.PULL:
                return f"pr:{self.revision}"


def parse_tree_name(text: str) -> TreeName | None:
    """The parts of a name; None for what has none of the forms. Nothing is looked up."""
    directory = own_path(text)
    if directory is not None:
        return TreeName(TreeKind.PATH, directory) if directory else None
    if found := _COMMIT.fullmatch(text):
        return TreeName(TreeKind.COMMIT, found[1], found[2])
    if found := _PULL.fullmatch(text):
        return TreeName(TreeKind.PULL, revision=found[1])
    return TreeName(TreeKind.PACKAGED) if text == "debian" else None
