"""Files in a directory in which code of somebody else ran, or which somebody else has packed.

A link in there may lead to any file that the caller can read or write, and what is no plain file may never end. Code of
others is over by the time that these functions look (`BuildRoot.run` leaves no process), so nothing changes meanwhile.
"""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

from splvm.errors import SetupError

# Of one file; a kernel with its debug information has a third of it.
_MOST_BYTES = 1 << 30


def plain_file(top: Path, name: str | Path) -> Path:
    """The path of a plain file, which no link leads to.

    :param name: from `top` on.
    :raises SetupError: when it is something else, not there, or larger than 1 GiB.
    """
    path = top / name
    try:
        info = path.lstat()
    except OSError as reason:
        raise SetupError(f"{path} cannot be read: {reason.strerror}") from reason
    if not stat.S_ISREG(info.st_mode) or not _is_itself(top, path):
        raise SetupError(f"{path} is no plain file, or is behind a link")
    if info.st_size > _MOST_BYTES:
        raise SetupError(f"{path} has {info.st_size} bytes, more than {_MOST_BYTES}")
    return path


def take_file(top: Path, name: str | Path, to: Path) -> None:
    """Copy a plain file to a directory or a name.

    :raises SetupError: as `plain_file` does.
    """
    shutil.copy2(plain_file(top, name), to)


def take_directory(top: Path, name: str | Path, to: Path) -> None:
    """Copy a directory; links in it stay links.

    :raises SetupError: when it is none, is behind a link, or has in it what is neither file, directory nor link.
    """
    path = top / name
    if not path.is_dir() or not _is_itself(top, path):
        raise SetupError(f"{path} is no directory, or is behind a link")
    try:
        shutil.copytree(path, to, symlinks=True)
    except shutil.Error as reason:
        raise SetupError(f"{path} cannot be copied: {reason.args[0][0][2]}") from reason


def put_file(source: Path, top: Path, name: str | Path) -> None:
    """Copy a file of the caller's into the directory, in place of what is there.

    :raises SetupError: when a link or a directory is in its way.
    """
    path = top / name
    if not _is_itself(top, path.parent):
        raise SetupError(f"{path} is behind a link")
    try:
        path.unlink(missing_ok=True)
        shutil.copy2(source, path)
    except OSError as reason:
        raise SetupError(f"{path} cannot be written: {reason.strerror}") from reason


def find_escape(top: Path, path: Path) -> str:
    """Why a file of a tree is not to be read, in a few words; empty for a plain file, or a link to one in the tree."""
    try:
        if stat.S_ISREG(path.lstat().st_mode):
            return ""
        target = path.resolve(strict=True)
        if not target.is_relative_to(top.resolve()):
            return "leads out of the tree"
        return "" if target.is_file() else "is no plain file"
    except (OSError, RuntimeError) as reason:
        return f"cannot be read: {reason}"


def _is_itself(top: Path, path: Path) -> bool:
    return path.resolve() == top.resolve() / path.relative_to(top)
