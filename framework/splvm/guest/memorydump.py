"""A dump of a guest's memory, taken through QEMU's monitor.

QEMU writes it into a pipe, and the harness from there to the disk: QEMU has no command that ends a dump under way, but
it gives up when nobody reads any more. So a dump that gets too large or takes too long ends there and then, and the
guest, which stands still meanwhile, goes on. Nothing is asked of the guest. What is in a dump is for others to say.
"""

from __future__ import annotations

import fcntl
import os
import selectors
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from splvm.deadline import Deadline, poll
from splvm.errors import DeadlineExceeded, GuestLostError, SetupError
from splvm.guest.qmp import Qmp

# What a dump may take on the disk. One of a guest of 512 MiB takes about 40 MiB: most of its memory is zero.
DUMP_LIMIT_BYTES = 1 << 30

# Beside the pages: headers, bitmaps, per page a descriptor of 24 bytes, and 16 more for each piece that is written.
_OVERHEAD_BYTES = 16 << 20
_OVERHEAD_PER_PAGE = 64
_PAGE_BYTES = 4096
# One read takes all that the pipe holds (pipe(7), /proc/sys/fs/pipe-max-size).
_PIPE_BYTES = 1 << 20
# The longest that Ctrl-C can go unnoticed.
_SIGNAL_DELAY_S = 0.5
# For QEMU to say how it ended, after the last byte has come.
_END_S = 10.0


@dataclass(frozen=True, slots=True)
class MemoryDump:
    """A dump on the disk."""

    # A file in the flattened kdump format, compressed with zlib.
    path: Path
    size_bytes: int
    # Host's seconds it took; the guest stood still for them.
    seconds: float


def dump_memory(qmp: Qmp, path: Path, deadline: Deadline, *, limit_bytes: int = DUMP_LIMIT_BYTES) -> MemoryDump:
    """Write the guest's memory to `path`, which only appears when the dump is whole.

    A running guest is stopped for the dump and goes on afterwards. A stopped guest stays stopped.

    :param limit_bytes: bytes that the dump may take on the disk.
    :raises SetupError: when there is not that much room, when it gets larger, or when the disk or QEMU says no.
    :raises GuestLostError: when QEMU is gone.
    :raises DeadlineExceeded: when it is not done in time; nothing of it is left.
    """
    start = time.monotonic()
    partial = path.with_name(f"{path.name}.partial")
    try:
        _check_room(qmp, path, deadline, limit_bytes)
        _wait_for_the_last_one(qmp, deadline)
        with _start_dump(qmp, deadline) as pipe:
            size = _copy(pipe, partial, deadline, limit_bytes, f"memory dump {path}")
        _check_end(qmp, deadline)
        partial.replace(path)
    except OSError as error:
        raise SetupError(
            f"memory dump {path}: {error.strerror}", hint="make room on the disk, or do without the dump"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return MemoryDump(path, size, time.monotonic() - start)


def _wait_for_the_last_one(qmp: Qmp, deadline: Deadline) -> None:
    """A dump that was given up is not over at once: QEMU says how it ended, and then tidies up (dump/dump.c)."""

    def is_over() -> bool | None:
        answer = qmp.execute("query-status", deadline=deadline)
        # The machine is in this state from the beginning of a dump to the end of tidying up.
        return None if isinstance(answer, dict) and answer.get("status") == "save-vm" else True

    poll(is_over, deadline.sub(_END_S), "end of the memory dump before this one")


def _check_room(qmp: Qmp, path: Path, deadline: Deadline, limit_bytes: int) -> None:
    answer = qmp.execute("query-memory-size-summary", deadline=deadline)
    ram = answer.get("base-memory") if isinstance(answer, dict) else None
    if not isinstance(ram, int):
        raise GuestLostError(f"QMP query-memory-size-summary: {answer!r}")
    # Pages that do not shrink are stored as they are, so it is not larger than this.
    wanted = min(limit_bytes, ram + ram // _PAGE_BYTES * _OVERHEAD_PER_PAGE + _OVERHEAD_BYTES)
    free = shutil.disk_usage(path.parent).free
    if free < wanted:
        raise SetupError(
            f"memory dump {path}: it may take {wanted >> 20} MiB, and {free >> 20} MiB are free",
            hint="make room on the disk, or do without the dump",
        )


@contextmanager
def _start_dump(qmp: Qmp, deadline: Deadline) -> Iterator[int]:
    """Have QEMU write a dump into a pipe for the length of the block; yields the end to read from."""
    reading, writing = os.pipe()
    try:
        try:
            # Less to and fro; a system may have run out of what it allows for pipes.
            with suppress(OSError):
                fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            arguments: dict[str, object] = {
                "paging": False,
                # QEMU opens it before it answers, so our own end can be closed then.
                "protocol": f"file:/proc/{os.getpid()}/fd/{writing}",
                "format": "kdump-zlib",
                "detach": True,
            }
            qmp.execute("dump-guest-memory", arguments, deadline=deadline)
        finally:
            os.close(writing)
        yield reading
    finally:
        os.close(reading)


def _copy(pipe: int, target: Path, deadline: Deadline, limit_bytes: int, what: str) -> int:
    """Everything from the pipe to a file; returns its size in bytes."""
    size = 0
    # The guest's private keys are in its memory.
    target.touch(mode=0o600)
    with target.open("wb") as file, selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            ready = selector.select(min(deadline.remaining_s, _SIGNAL_DELAY_S))
            if deadline.expired:
                raise DeadlineExceeded(what, deadline.seconds, f"{size >> 20} MiB written")
            if not ready:
                continue
            chunk = os.read(pipe, _PIPE_BYTES)
            if not chunk:
                return size
            size += len(chunk)
            if size > limit_bytes:
                raise SetupError(
                    f"{what}: it is larger than {limit_bytes >> 20} MiB",
                    hint="allow more, or give the guest less memory",
                )
            file.write(chunk)


def _check_end(qmp: Qmp, deadline: Deadline) -> None:
    """:raises SetupError: unless QEMU says that the dump is whole."""

    def ended() -> str | None:
        answer = qmp.execute("query-dump", deadline=deadline)
        status = str(answer.get("status")) if isinstance(answer, dict) else str(answer)
        return None if status == "active" else status

    status = poll(ended, deadline.sub(_END_S), "end of the memory dump")
    if status != "completed":
        raise SetupError(f"memory dump: QEMU ended it as {status!r}", hint="its log may say why")
