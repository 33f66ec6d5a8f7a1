"""The guest's serial console, read by one thread for as long as the guest lives.

Owns the host's end of the console. The log on disk is QEMU's; here is only the tail that is waited on.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pexpect
from pexpect.socket_pexpect import SocketSpawn

from framework.deadline import Deadline
from framework.errors import BootError, DeadlineExceeded

# Bytes of the tail that is kept in memory: what is waited for is never longer than a line.
_TAIL_BYTES = 256 * 1024

# A guest that has said this will not go on (kernel/panic.c, init/main.c).
_DEAD = re.compile(rb"Kernel panic - not syncing[^\r\n]*|---\[ end Kernel panic")


class Console:
    """What the guest says on its serial console, and what is said to it."""

    def __init__(self, sock: socket.socket) -> None:
        self._spawn = SocketSpawn(sock, timeout=0.2)
        self._tail = b""
        self._ended = False
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._read, name="console", daemon=True)

    def wait_until_says(self, pattern: str, deadline: Deadline) -> None:
        """Wait for a line that has `pattern` in it.

        :raises BootError: when the kernel panics, or the console ends, before; also when it just does not come.
        """
        wanted = re.compile(pattern.encode())
        with self._changed:
            while not wanted.search(self._tail):
                dead = _DEAD.search(self._tail)
                if dead and self._ended:
                    raise BootError(dead[0].decode(errors="replace"), self.tail())
                if self._ended:
                    raise BootError("QEMU closed the console", self.tail())
                if deadline.expired:
                    title = dead[0].decode(errors="replace") if dead else f"it did not say {pattern!r}"
                    raise BootError(f"{title} within {deadline.seconds:.0f} s", self.tail())
                self._changed.wait(min(deadline.remaining_s, 0.5))

    def panic_title(self) -> str | None:
        """The kernel's panic line, if it has been said."""
        dead = _DEAD.search(self._tail)
        return dead[0].decode(errors="replace") if dead else None

    def wait_until_ended(self, deadline: Deadline) -> None:
        """Wait until QEMU has closed its end: all that the guest ever said has then been read."""
        with self._changed:
            while not self._ended:
                if deadline.expired:
                    raise DeadlineExceeded("end of the console", deadline.seconds)
                self._changed.wait(min(deadline.remaining_s, 0.5))

    def tail(self, lines: int = 30) -> str:
        """The last lines the guest said."""
        return "\n".join(self._tail.decode(errors="replace").replace("\r", "").splitlines()[-lines:])

    def _read(self) -> None:
        while not self._stopping.is_set():
            try:
                data: bytes = self._spawn.read_nonblocking(65536)  # type: ignore[assignment]
            except pexpect.TIMEOUT:
                continue
            except (pexpect.EOF, OSError):
                break
            with self._changed:
                self._tail = (self._tail + data)[-_TAIL_BYTES:]
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


@contextmanager
def start_console(sock: socket.socket) -> Iterator[Console]:
    """Read `sock` in a thread until the block ends; closing the socket stays the caller's business."""
    console = Console(sock)
    console._thread.start()
    try:
        yield console
    finally:
        console._stopping.set()
        console._thread.join(2)
