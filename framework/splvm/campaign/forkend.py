"""Loaded into the fork server of `processes.py` alone: it removes its socket and the directory of that when it ends.

The process that has made the directory does so too, unless it is killed. The fork server ends after that process and
all that it has forked for it, so none of them needs the socket any more.
"""

from __future__ import annotations

import atexit
import os
from contextlib import suppress
from pathlib import Path

# Names the directory, in the environment of the fork server.
DIRECTORY = "SPLVM_FORK_SERVER"


def _remove(directory: Path, owner: int) -> None:
    """Remove it with the sockets in it, and nothing else; not from a process that was forked."""
    if os.getpid() != owner:
        return
    with suppress(OSError):
        for path in directory.iterdir():
            if path.is_socket():
                path.unlink()
        directory.rmdir()


if _told := os.environ.pop(DIRECTORY, ""):
    atexit.register(_remove, Path(_told), os.getpid())
