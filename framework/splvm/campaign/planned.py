"""What a plan asks of all its runs, beside what the records of these runs say.

A list of runs can be edited. Its plan tells what the runs were of, so it has to be what they were of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from splvm.builds.owntree import find_tree
from splvm.errors import UsageError
from splvm.host.content import file_hash


def source_of(name: str) -> str:
    """A source of SPL as run.json has it.

    :param name: in one of the forms of `--spl`. One that is not there any more stays as it is.
    """
    try:
        tree = find_tree(name)
    except UsageError:
        return name
    return str(tree.name) if tree else name


def hashes_of(patches: Sequence[Path]) -> list[str | None]:
    """SHA-256 of each patch; None of one that cannot be read."""
    return [_hash_of(path) for path in patches]


def _hash_of(path: Path) -> str | None:
    try:
        return file_hash(path) if path.is_file() else None
    except OSError:
        return None


def built_of(
    facts: Mapping[str, Any], source: str | None, patches: Sequence[str | None]
) -> Iterator[tuple[str, object, object]]:
    """Source and patches by name: what a record says of them, and what was asked for; without what the record lacks.

    :param facts: run.json.
    :param source: None: it is not asked for.
    :param patches: SHA-256 of each, the variant's own are not among them; None: not known.
    """
    spl = facts.get("spl") or {}
    if source is not None and "source" in spl:
        yield "the source of SPL", spl["source"], source
    if isinstance(told := spl.get("patches"), list):
        hashes = [it.get("sha256") if isinstance(it, Mapping) else None for it in told]
        known = [(found, asked) for found, asked in zip(hashes, patches, strict=False) if asked is not None]
        yield "the number of patches", len(hashes), len(patches)
        yield "the patch", [found for found, _ in known], [asked for _, asked in known]
