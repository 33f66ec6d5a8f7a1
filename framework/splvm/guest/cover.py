"""The host's end of the plugin that notes which instructions of a guest in virtual time were executed.

Owns the memory that both share. The guest sees nothing of it: a run with the plugin is the run without it.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from splvm.guest.machine import escaped

# struct shared of images/plugin/cover.c: first address and length of the range, and then a byte for each address.
_HEAD = struct.Struct("<QQ")
# Bytes of a range, at most; what nobody marks takes no memory.
MOST_COVERED = 256 << 20


class Coverer:
    """Notes what is executed of one range of a guest's addresses."""

    def __init__(self, plugin: Path, memory: mmap.mmap, shared: int, start: int, length: int) -> None:
        self._plugin = plugin
        self._memory = memory
        self._shared = shared
        self._start = start
        self._length = length

    def args(self) -> list[str]:
        """For QEMU's command line."""
        return ["-plugin", f"{escaped(self._plugin)},shared=/proc/self/fd/{self._shared}"]

    @property
    def inherited(self) -> tuple[int, ...]:
        """Descriptors that the command line names."""
        return (self._shared,)

    def marks(self, start: int, length: int) -> bytes:
        """For each address of a part of the range, 1 if an instruction that begins there was executed."""
        at = start - self._start
        if not 0 <= at <= at + length <= self._length:
            raise ValueError(f"{length} bytes at {start:#x} are not in the range")
        return self._memory[_HEAD.size + at : _HEAD.size + at + length]


@contextmanager
def open_coverer(plugin: Path, start: int, length: int) -> Iterator[Coverer]:
    """One for a guest that has not begun.

    :param plugin: the shared object.
    :raises ValueError: when the range is larger than `MOST_COVERED`.
    """
    if not 0 < length <= MOST_COVERED:
        raise ValueError(f"a range of {length} bytes")
    with ExitStack() as stack:
        shared = os.memfd_create("cover", os.MFD_CLOEXEC)
        stack.callback(os.close, shared)
        os.truncate(shared, _HEAD.size + length)
        memory = stack.enter_context(mmap.mmap(shared, _HEAD.size + length))
        memory[: _HEAD.size] = _HEAD.pack(start, length)
        yield Coverer(plugin, memory, shared, start, length)
