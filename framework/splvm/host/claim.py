"""Who works in a directory: a lock of the kernel (flock(2)) on the directory itself, so that no file of it is needed.

The lock ends with the process that holds it, however that ends. It keeps nobody from reading.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from splvm.deadline import Deadline, poll
from splvm.errors import DeadlineExceeded

# Programs that clean up hold a directory for a moment (systemd-tmpfiles does), and so does a process that is ending.
_MOMENT_S = 1.0
# What flock(2) says where it has no locks for a directory that is open for reading, as on NFS.
_NO_LOCKS = frozenset({errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


def hold_directory(path: Path) -> int | None:
    """Hold a directory until the descriptor is closed, or the process ends.

    On a file system without such locks nobody is kept out.

    :returns: the descriptor; None when another process holds the directory, or has just removed it.
    :raises OSError: when it cannot be opened.
    """
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if poll(lambda: _lock(directory), Deadline(_MOMENT_S), f"holding {path}") and _is_at(path, directory):
            return directory
    except DeadlineExceeded:
        pass
    except BaseException:
        os.close(directory)
        raise
    os.close(directory)
    return None


def holder_of(path: Path) -> str:
    """The process that holds a directory, as `process 12 (splvm run ...)`; `another process` if the kernel hides it."""
    try:
        info = path.stat()
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            # 1: FLOCK ADVISORY WRITE 12 fe:00:34567 0 EOF (proc(5))
            kind, _, _, pid, file = line.partition(": ")[2].split()[:5]
            device, _, inode = file.rpartition(":")
            if kind == "FLOCK" and int(inode) == info.st_ino and device == _device(info):
                words = os.fsdecode(Path(f"/proc/{int(pid)}/cmdline").read_bytes()).replace("\0", " ").split()
                return f"process {pid} ({' '.join(words)[:200]})"
    except (OSError, ValueError):
        pass
    return "another process"


def _lock(directory: int) -> bool | None:
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _is_at(path: Path, directory: int) -> bool:
    """Whether the directory that is open is still the one at the path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(directory))
    except FileNotFoundError:
        return False


def _device(info: os.stat_result) -> str:
    return f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}"
