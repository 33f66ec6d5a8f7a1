"""Saves of files that go into modules, as one sees them who wants to build it.

Files are looked at again and again, and read when something has touched them. Editors write in bursts, write beside and
rename, and git replaces whole directories; what counts is that the content is another one than the last, and rests. A
look is a few hundred calls of stat(2), some milliseconds, and works on any file system.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from splvm.builds.tree import SPL_PARTS, find_files, inputs_key
from splvm.deadline import Deadline, poll
from splvm.errors import SetupError

# Seconds between two looks. What nobody has touched from one to the next rests.
LOOK_S = 0.2

# Inode, size, modification and change time in ns, by path.
_Seen: TypeAlias = dict[Path, tuple[int, int, int, int]]


@dataclass(frozen=True, slots=True)
class Save:
    """A content that is another one than the last, and rests."""

    # `inputs_key` of it.
    key: str
    # When it was saved, by the host's wall clock, s; as near as the times of the files tell.
    at_s: float


class Watch:
    """What goes into the modules of a guest.

    :param tree: of OpenZFS.
    :param patches: that are put on top of it.
    :param parts: of the tree, from its top: what the modules are made of.
    """

    def __init__(self, tree: Path, patches: Sequence[Path], parts: Sequence[str] = SPL_PARTS) -> None:
        self._parts = tuple(parts)
        self._tree = tree
        self._patches = tuple(patches)
        self._seen: _Seen = {}
        # Wall clock: of the last look at which all was as it had been; 0 before the first.
        self._rested_s = 0.0
        # The content that was read last, None if it could not be read, and the one that was a save last.
        self._read: str | None = None
        self._saved = ""

    def saves(self) -> Iterator[Save]:
        """What is there now, and then each save, without an end. What was saved while a caller was busy is one save."""
        while True:
            # There is no telling how long a person thinks.
            yield poll(self.look, Deadline(float("inf")), "a save", LOOK_S)

    def look(self) -> Save | None:
        """The save, if there is one that rests since the last look."""
        now = time.time()
        seen = self._stat()
        if seen != self._seen:
            self._seen, self._read = seen, self._key()
            return None
        if self._read is None:
            # In the middle of a save a file may be missing.
            self._read = self._key()
            return None
        last, self._rested_s = self._rested_s, now
        if self._read == self._saved:
            return None
        self._saved = self._read
        newest = max((times[2] / 1e9 for times in seen.values()), default=now)
        return Save(self._read, min(max(newest, last), now) if last else now)

    def _key(self) -> str | None:
        with suppress(SetupError):
            return inputs_key(self._tree, self._patches, self._parts)
        return None

    def _stat(self) -> _Seen:
        found: _Seen = {}
        for path in (*find_files(self._tree, self._parts).values(), *self._patches):
            with suppress(OSError):
                info = path.stat()
                found[path] = (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        return found
