"""What a bisection looks for, and among which candidates: commits of an OpenZFS tree, kernels, patches of a series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from splvm.builds.revisions import ALL_PATHS, SPL_PATHS, list_revisions
from splvm.errors import UsageError
from splvm.evidence.verdict import Outcome
from splvm.host.content import file_hash
from splvm.ownpath import own_path
from splvm.record.facts import Count
from splvm.record.typedjson import from_json, to_json
from splvm.run.loads import MOST_SEED
from splvm.run.prepare import Wish

_MOST_RUNS = 100_000


class ChangeKind(StrEnum):
    """What candidates are."""

    COMMITS = "commits"
    KERNELS = "kernels"
    PATCHES = "patches"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One step of the way from good to bad."""

    # A commit, a kernel's name, or a patch, by its path.
    id: str
    # For people.
    title: str
    # Whether anything that a guest's modules are made of differs from the one before.
    changes: bool = True
    # Of a patch, its content: one that was edited meanwhile is another one.
    sha256: str = ""
    # Equal for commits that need one configure run.
    config: Count = 0
    # What the user named as the good end, where this commit is where it and the bad end parted.
    parted: str = ""


@dataclass(frozen=True, slots=True)
class BisectPlan:
    """What is looked for, among what."""

    scenario: str
    kind: ChangeKind
    candidates: tuple[Candidate, ...]
    # What all candidates have in common; of `commits` spl is the tree.
    wish: Wish
    # Verdicts that count as bad.
    hits: frozenset[Outcome]
    confidence: float
    most_runs: int
    # Of the loads' random numbers in the first run; each further one has the next.
    seed: int
    load: str = ""
    window_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As bisect.json has it."""
        return {**to_json(self), "hits": sorted(self.hits)}

    @classmethod
    def from_json(cls, told: object) -> BisectPlan:
        """:raises ValueError: when it is no such plan."""
        plan = from_json(told, cls)
        plan._check()
        return plan

    def _check(self) -> None:
        """:raises ValueError: when no command asks for such a thing."""
        bounds = (
            ("confidence", self.confidence, 0.5, 1),
            ("most_runs", self.most_runs, 2, _MOST_RUNS),
            ("seed", self.seed, 0, MOST_SEED),
            ("window_s", 1 if self.window_s is None else self.window_s, 1, 3600),
            ("ram_mib", self.wish.ram_mib, 1, 1 << 20),
            ("cpus", self.wish.cpus, 1, 1 << 10),
        )
        for name, value, least, most in bounds:
            if not least <= value <= most:
                raise ValueError(f"{name} is {value}")
        if not any(each.changes for each in self.candidates[1:]) or not self.hits:
            raise ValueError("nothing is to be found")
        if self.kind is ChangeKind.COMMITS and not own_path(self.wish.spl):
            raise ValueError(f"{self.wish.spl!r} has no commits")


def find_commits(
    repository: Path, good: str, bad: str, *, pool: bool, paths: Sequence[str] = ()
) -> tuple[Candidate, ...]:
    """The commits of a repository, the good end first.

    :param repository: bare or not.
    :param pool: whether guests have a ZFS pool: then all modules are built from the tree, and not spl.ko alone.
    :param paths: only commits that touch one of these; by default what the modules are made of.
    :raises UsageError: when there is no repository, or no commit touches the modules.
    """
    paths = paths or (ALL_PATHS if pool else SPL_PATHS)
    revisions = list_revisions(repository, good, bad, paths)
    if not any(each.touches for each in revisions[1:]):
        raise UsageError(f"no commit of the range touches {', '.join(paths)}", hint="--paths names other files")
    return tuple(
        Candidate(each.sha, each.title, each.touches, config=each.config, parted=each.parted) for each in revisions
    )


def find_patches(series: Path) -> tuple[Candidate, ...]:
    """The candidates of a series: the source without a patch, then each patch on top of the patches before it.

    :param series: a file that lists the patches, in the form of quilt, or a directory of patches, in order of name.
    :raises UsageError: when there is no patch, or a patch cannot be read.
    """
    try:
        if series.is_dir():
            paths = sorted(each for each in series.iterdir() if each.suffix in (".patch", ".diff", ".cocci"))
        else:
            lines = (line.partition("#")[0].split() for line in series.read_text(encoding="utf-8").splitlines())
            paths = [series.parent / words[0] for words in lines if words]
        found = [Candidate(str(path.absolute()), path.name, sha256=file_hash(path)) for path in paths]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--series {series}: {error}") from error
    if not found:
        raise UsageError(f"--series {series}: there is no patch in it")
    return (Candidate("", "without a patch"), *found)
