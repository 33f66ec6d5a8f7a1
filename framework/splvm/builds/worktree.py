"""The directory that a module is built in, kept from one build to the next, so that an edit costs what it touches.

Owns what is in it. make decides by the times of files what it compiles again, and knows nothing of builds that were
killed. So a tree is only taken as it is if nothing in it was touched since the last complete build, in this boot; if
files were only changed, and not added or removed; and if the times of what is changed now come after those of what was
built. In doubt it is thrown away, and the build starts from nothing.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from splvm.builds.foreign import put_file
from splvm.errors import BuildError, SetupError
from splvm.host.content import read_entry, walk
from splvm.host.owner import boot_id
from splvm.host.store import Store
from splvm.log import LOGGER


@dataclass(frozen=True, slots=True)
class Kept:
    """Trees of one kind."""

    # In the store.
    kind: str
    # Bytes of all that are kept.
    bytes: int


# A tree takes some 25 MiB.
SPL_TREES = Kept("spl-work", 256 << 20)
# A tree takes some 300 MiB.
ZFS_TREES = Kept("zfs-work", 1 << 30)


@dataclass(frozen=True, slots=True)
class _Seal:
    """What a tree was like when a build in it had ended well."""

    # Of the host: after a power cut files may have lost what was written, and kept their times.
    boot: str
    # The files it was made from, by their name in the tree: type, and SHA-256 or target.
    sources: Mapping[str, list[str]]
    # Every file in it: inode, size, modification and change time in ns. The change time cannot be set.
    files: Mapping[str, list[int]]

    @property
    def built_ns(self) -> int:
        """When the last file was built."""
        return max((it[2] for name, it in self.files.items() if name not in self.sources), default=0)


@contextmanager
def keep_tree(store: Store, key: str, fresh: Path, kept: Kept = SPL_TREES) -> Iterator[Path]:
    """A directory with the files of `fresh`, and what was made of the like in it before.

    Another process that has the same one keeps nobody waiting: `fresh` itself is the directory then. A block that is
    left by an exception leaves nothing that is used again, unless make itself says that it came to an end.

    :param key: of all that the tree is made with, besides the files.
    :param fresh: in the store's scratch; it may be moved away.
    """
    with store.workspace(kept.kind, key) as home:
        if home is None:
            LOGGER.debug("the build tree %s is in use: building beside it", key)
            yield fresh
            return
        tree, seal = home / "build", home / "seal.json"
        sources = _sources(fresh)
        reason = _update(tree, seal, fresh, sources)
        if reason:
            LOGGER.debug("build from nothing: %s", reason)
            if tree.exists():
                store.remove(tree)
            fresh.rename(tree)
        try:
            yield tree
        except BuildError as error:
            if _was_ended_by_make(error):
                _write_seal(seal, _Seal(boot_id(), sources, _files(tree)))
            raise
        _write_seal(seal, _Seal(boot_id(), sources, _files(tree)))
    store.trim(kept.kind, kept.bytes, used=key)


def _update(tree: Path, seal: Path, fresh: Path, sources: Mapping[str, list[str]]) -> str:
    """Put into the tree what differs; why it cannot be used, empty if it can. No seal is left, whatever happens."""
    try:
        built = _Seal(**json.loads(seal.read_text(encoding="utf-8")))
        untouched = built.boot == boot_id() and built.files == _files(tree)
    except (OSError, ValueError, TypeError, AttributeError):
        return "there is no complete build"
    finally:
        seal.unlink(missing_ok=True)
    if not untouched:
        return "it was touched after the last build"
    if {name: it[0] for name, it in built.sources.items()} != {name: it[0] for name, it in sources.items()}:
        return "files were added or removed"
    for name in sources:
        if built.sources[name] == sources[name]:
            continue
        if sources[name][0] != "f":
            return f"{name} is another link"
        # A new file: whoever has the old one, by a hard link, keeps it.
        try:
            put_file(fresh / name, tree, name)
            os.utime(tree / name)
        except SetupError as reason:
            return reason.message
        if (tree / name).stat().st_mtime_ns <= built.built_ns:
            return "the clock was set back"
        LOGGER.debug("changed: %s", name)
    return ""


def _was_ended_by_make(error: BuildError) -> bool:
    """Whether the outermost make has taken note of a failure, and so removed what was made by halves.

    Kbuild asks for that with .DELETE_ON_ERROR (scripts/Kbuild.include). A make that was killed says nothing.
    """
    return re.search(r"(?m)^make: \*\*\* .* Error 2$", error.tail) is not None


def _sources(top: Path) -> dict[str, list[str]]:
    entries = ((name, read_entry(path, info)) for name, path, info in walk(top))
    return {name: [entry.type, entry.content] for name, entry in entries}


def _files(top: Path) -> dict[str, list[int]]:
    # Of a directory only what is in it counts, and that is looked at anyway.
    return {
        name: [info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]
        for name, _, info in walk(top)
        if not stat.S_ISDIR(info.st_mode)
    }


def _write_seal(seal: Path, content: _Seal) -> None:
    # Without one the next build starts from nothing, and that is all.
    with suppress(OSError):
        seal.write_text(json.dumps(asdict(content)), encoding="utf-8")
