"""What is on the disk, as hashes: the entries of a directory tree, and the key of what is made from some inputs."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from splvm.errors import SetupError

Input: TypeAlias = "str | bytes | int | float | bool | Path | Sequence[Input] | Mapping[str, Input] | None"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a tree."""

    # "f" file, "d" directory, "l" symbolic link, "o" anything else, "?" a directory that may not be read.
    type: str
    # Permission bits.
    mode: int
    # Bytes of a file, 0 for anything else.
    size: int
    # SHA-256 of a file (empty when it may not be read: root's, seen by another user), target of a link.
    content: str


def input_hash(inputs: Mapping[str, Input]) -> str:
    """The key of what is made from `inputs`: 32 hexadecimal digits.

    The order of the names does not matter, types and values do. A `Path` stands for what is there, not for its name:
    the content of a file; the names, contents, executable bits and link targets of a directory.

    :raises SetupError: when a path is not there or cannot be read.
    """
    digest = hashlib.sha256()
    _feed(digest, inputs)
    return digest.hexdigest()[:32]


def walk(top: Path) -> Iterator[tuple[str, str, os.stat_result]]:
    """Every entry below `top`, directories before what is in them: name from `top`, path, lstat."""
    pending = [("", str(top))]
    while pending:
        prefix, directory = pending.pop()
        try:
            children = sorted(os.scandir(directory), key=lambda child: child.name)
        except PermissionError:
            # Root's own, seen by another user: `read_entry` has said so.
            continue
        for child in children:
            # A name that is not UTF-8 must survive JSON.
            name = prefix + os.fsencode(child.name).decode("utf-8", "backslashreplace")
            info = child.stat(follow_symlinks=False)
            yield name, child.path, info
            if stat.S_ISDIR(info.st_mode):
                pending.append((f"{name}/", child.path))


def read_entry(path: str, info: os.stat_result, known: str | None = None) -> Entry:
    """An entry as it goes into a manifest.

    :param known: the content, if it is known not to have changed.
    """
    mode = stat.S_IMODE(info.st_mode)
    if stat.S_ISREG(info.st_mode):
        return Entry("f", mode, info.st_size, file_hash(path) if known is None else known)
    if stat.S_ISLNK(info.st_mode):
        return Entry("l", mode, 0, os.fsencode(os.readlink(path)).decode("utf-8", "backslashreplace"))
    if stat.S_ISDIR(info.st_mode):
        return Entry("d" if os.access(path, os.R_OK | os.X_OK) else "?", mode, 0, "")
    return Entry("o", mode, 0, "")


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file; empty when it may not be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except PermissionError:
        return ""


def _feed(digest: hashlib._Hash, value: Input) -> None:
    """Add a value such that no two different ones add the same bytes: type, length, content."""
    # The many small ones first: whether something is a Mapping or a Sequence takes long to find out.
    if value is None or isinstance(value, str | bytes | int | float):
        data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
        digest.update(b"%s %d\n" % (type(value).__name__.encode(), len(data)))
        digest.update(data)
    elif isinstance(value, Path):
        _feed_path(digest, value)
    elif isinstance(value, Mapping):
        digest.update(b"map %d\n" % len(value))
        for name in sorted(value):
            _feed(digest, name)
            _feed(digest, value[name])
    elif isinstance(value, Sequence):
        digest.update(b"list %d\n" % len(value))
        for item in value:
            _feed(digest, item)
    else:
        raise TypeError(f"cannot be hashed as an input: {value!r}")


def _feed_path(digest: hashlib._Hash, path: Path) -> None:
    try:
        if not path.is_dir():
            # A link is followed, as it will be when the file is used.
            with open(path, "rb") as file:
                _feed(digest, ["file", hashlib.file_digest(file, "sha256").digest()])
            return
        found: list[Input] = []
        for name, child, info in sorted(walk(path)):
            entry = read_entry(child, info)
            if entry.type == "?" or (entry.type == "f" and not entry.content):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), child)
            # Other permission bits depend on the umask of whoever checked the tree out.
            found.append([name, entry.type, bool(entry.mode & 0o111), entry.content])
        _feed(digest, ["directory", found])
    except OSError as reason:
        raise SetupError(f"cannot read an input: {reason}") from reason
