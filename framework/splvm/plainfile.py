"""Opens files that somebody else may have made: plain files alone, and never more of one than a bound.

A link would show any file of this host, a FIFO or a device would never end, and a file with holes takes no room on the
disk and all of the memory.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

MIB = 1 << 20

_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotPlainError(OSError):
    """It is no plain file, or more than may be read of one; `strerror` says what it is."""

    def __init__(self, what: str, path: Path) -> None:
        super().__init__(errno.EINVAL, what, str(path))


class TooLargeError(NotPlainError):
    """It is a plain file, and more than may be read of one."""


def describe_kind(mode: int) -> str:
    """What a file is that is not plain, by its mode; empty for a plain one."""
    if stat.S_ISREG(mode):
        return ""
    return next((name for test, name in _KINDS if test(mode)), "no plain file")


def open_plain(path: Path, *, follow: bool = False) -> BufferedReader:
    """Open a plain file for reading. It never waits, and opens no device.

    :param follow: also through a link, of a file that the user names.
    :raises NotPlainError: when it is something else.
    :raises OSError: when it is not there, or cannot be opened.
    """
    # A device may act on being opened, so it is looked at before; what it is by then is looked at after.
    kind = describe_kind((path.stat() if follow else path.lstat()).st_mode)
    if kind:
        raise NotPlainError(kind, path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    file = os.fdopen(descriptor, "rb")
    if kind := describe_kind(os.fstat(descriptor).st_mode):
        file.close()
        raise NotPlainError(kind, path)
    return file


def read_plain(path: Path, most_bytes: int, *, follow: bool = False) -> bytes:
    """All of a plain file.

    :raises NotPlainError: when it is something else; the TooLargeError among them when it is larger.
    :raises OSError: when it is not there, or cannot be read.
    """
    with open_plain(path, follow=follow) as file:
        # Files of /proc say that they are empty.
        if os.fstat(file.fileno()).st_size <= most_bytes and len(data := file.read(most_bytes + 1)) <= most_bytes:
            return data
    raise TooLargeError(f"larger than {describe_size(most_bytes)}", path)


def describe_size(size: int) -> str:
    """Whole MiB, or bytes."""
    return f"{size // MIB} MiB" if size >= MIB and not size % MIB else f"{size} bytes"
