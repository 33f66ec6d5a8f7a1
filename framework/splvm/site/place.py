"""Where the site is put: written beside the old one, and put in its place when it is whole.

Nothing is ever replaced that is not a site itself, by the mark that each has in it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from splvm.errors import SetupError, UsageError

# The file that says that a directory is a site.
MARK = "splvm-site.json"
SCHEMA_VERSION = 1
# The file that says that a directory is one in which a site is being made.
_SCRATCH = "splvm-site-scratch"

# renameat2() of Linux: both names change what they stand for in one step (rename(2)).
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


@contextmanager
def start_site(out: Path) -> Iterator[Path]:
    """Give a new directory beside `out`, which takes its place when the block ends without an error.

    :raises UsageError: when there is something at `out` that is no site.
    :raises SetupError: when it cannot be written.
    """
    out = real_path(out)
    check_place(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(out)
        # What is in here when it ends is removed: the unfinished site, or the one before.
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch, _locked(Path(scratch)):
            (Path(scratch) / _SCRATCH).touch()
            site = Path(scratch) / "site"
            site.mkdir()
            yield site
            mark = {"schema_version": SCHEMA_VERSION, "what": "a report of splvm, replaced as a whole by the next one"}
            (site / MARK).write_text(json.dumps(mark) + "\n")
            check_place(out)
            _put(site, out)
    except OSError as error:
        raise SetupError(f"--out {out}: {error}", hint="free some space, or name another directory") from error


@contextmanager
def _locked(directory: Path) -> Iterator[bool]:
    """Hold the lock of a directory; the kernel drops it when the process ends.

    False: another process has it, or the file system has none.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = True
        except OSError:
            ours = False
        yield ours
    finally:
        os.close(descriptor)


def _remove_left(out: Path) -> None:
    """Remove what reports to the same place left beside it when they were killed."""
    with suppress(OSError):
        for left in out.parent.glob(f".{glob.escape(out.name)}-*"):
            if left.is_symlink() or not (left / _SCRATCH).is_file():
                continue
            with _locked(left) as ours:
                if ours:
                    shutil.rmtree(left, ignore_errors=True)


def real_path(out: Path) -> Path:
    """The whole path without links; where links go in a circle, as far as it goes."""
    return Path(os.path.realpath(out))


def check_place(out: Path) -> None:
    """:raises UsageError: when `out` is neither free nor a site."""
    if not os.path.lexists(out) or (out / MARK).is_file():
        return
    if not out.is_dir() or any(out.iterdir()):
        raise UsageError(
            f"--out {out}: the directory has files and is not a site of splvm",
            hint=f"name a directory that is new, empty or has {MARK} in it",
        )


def _put(site: Path, out: Path) -> None:
    if not out.exists():
        site.rename(out)
    elif not _exchange(site, out):
        old = site.with_name("old")
        out.rename(old)
        try:
            site.rename(out)
        except OSError:
            old.rename(out)
            raise


def _exchange(one: Path, other: Path) -> bool:
    """Whether both have taken each other's place; not every file system can do that."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    status = libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if status == 0:
        return True
    if (number := ctypes.get_errno()) in (errno.EINVAL, errno.ENOSYS):
        return False
    raise OSError(number, os.strerror(number), str(other))
