"""The guest's serial console, read by one thread for as long as the guest lives.

Owns the host's end of the console: the log on disk, which has everything as it comes, and the tail that is waited on.
"""

from __future__ import annotations

import logging
import math
import re
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pexpect
from pexpect.socket_pexpect import SocketSpawn

from splvm.deadline import Deadline
from splvm.errors import BootError, DeadlineExceeded, SilentBootError

_LOG = logging.getLogger("splvm.console")

# Bytes of the tail that is kept in memory: what is waited for is never longer than a line.
_TAIL_BYTES = 256 * 1024

# How often the console is read, when the reading is to end, for what has come already: each time takes 64 KiB, and a
# socket holds 208 (unix(7), /proc/sys/net/core/wmem_default). A guest may go on talking.
_LAST_READS = 4

# No line that is waited for is longer.
_LINE_BYTES = 4096

# A guest that has said this will not go on (kernel/panic.c, init/main.c).
_DEAD = re.compile(rb"Kernel panic - not syncing[^\r\n]{0,400}|---\[ end Kernel panic")
# The same, once its line is whole.
_DEAD_LINE = re.compile(rb"(?:" + _DEAD.pattern + rb")(?=[\r\n\]])")


class Console:
    """What the guest says on its serial console, and what is said to it."""

    def __init__(self, sock: socket.socket, log: IO[bytes], before: bytes = b"") -> None:
        self._sock = sock
        self._log = log
        self._spawn = SocketSpawn(sock, timeout=0.2)
        self._tail = before[-_TAIL_BYTES:]
        # Bytes that were ever read, and those before.
        self._position = len(before)
        self._panic: str | None = None
        self._ended = False
        self._changed = threading.Condition()
        # Readable once the reading is to end.
        self._stop_here, self._stop_there = socket.socketpair()
        self._thread = threading.Thread(target=self._read, name="console", daemon=True)

    @property
    def position(self) -> int:
        """Bytes the guest has said so far."""
        return self._position

    def wait_until_says(self, pattern: str, deadline: Deadline, silence_s: float = math.inf) -> None:
        """Wait for a line that has `pattern` in it.

        :param silence_s: seconds without a word that are too many.
        :raises SilentBootError: when `silence_s` seconds pass without a word, and the kernel has not panicked.
        :raises BootError: when the kernel panics, or the console ends, before; also when it just does not come.
        """
        said = -1
        while not self.says(pattern, deadline.sub(silence_s)):
            if self._ended:
                raise BootError(self._panic or "QEMU closed the console", self.tail())
            if deadline.expired:
                title = self._panic or f"it did not say {pattern!r}"
                raise BootError(f"{title} within {deadline.seconds:.0f} s", self.tail())
            if self.position == said and self._panic is None:
                raise SilentBootError(f"it said nothing for {silence_s:.0f} s", self.tail())
            said = self.position

    def says(self, pattern: str, deadline: Deadline, *, since: int = 0) -> bool:
        """Whether a line with `pattern` in it comes before the deadline and the console's end.

        :param since: position from which on it counts.
        """
        wanted = re.compile(pattern.encode())
        looked_to = since
        with self._changed:
            while True:
                # What was looked at before need not be again, but for a line that was not whole.
                start = max(0, len(self._tail) - (self._position - max(since, looked_to - _LINE_BYTES)))
                if wanted.search(self._tail, start):
                    return True
                looked_to = self._position
                if self._ended or deadline.expired:
                    return False
                self._changed.wait(min(deadline.remaining_s, 0.5))

    def send_break(self, key: str) -> bool:
        """A BREAK on the line and then a key: how SysRq is asked for on a serial console.

        :returns: whether QEMU took it; a QEMU that does not read its console does not.
        """
        # QEMU's multiplexer takes C-a b for a BREAK (QEMU manual, "Keys in the character backend multiplexer").
        keys = b"\x01b" + key.encode()
        try:
            return self._sock.send(keys, socket.MSG_DONTWAIT) == len(keys)
        except OSError:
            return False

    def panic_title(self) -> str | None:
        """The kernel's panic line, if it has been said."""
        return self._panic

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
        reads_left = _LAST_READS
        while reads_left > 0:
            try:
                ready = select.select([self._sock, self._stop_here], [], [])[0]
                if self._sock not in ready:
                    break
                if self._stop_here in ready:
                    reads_left -= 1
                data: bytes = self._spawn.read_nonblocking(65536)  # type: ignore[assignment]
            except pexpect.TIMEOUT:
                continue
            except (pexpect.EOF, OSError, ValueError):
                break
            self._keep(data)
            with self._changed:
                self._look_for_panic(_DEAD_LINE, self._tail[-_LINE_BYTES:] + data)
                self._tail = (self._tail + data)[-_TAIL_BYTES:]
                self._position += len(data)
                self._changed.notify_all()
        with self._changed:
            self._look_for_panic(_DEAD, self._tail[-_LINE_BYTES:])
            self._ended = True
            self._changed.notify_all()

    def _stop(self) -> None:
        self._stop_there.close()
        self._thread.join(2)
        self._stop_here.close()

    def _keep(self, data: bytes) -> None:
        """A full disk must not end the reading, or the guest would wait for room. What is lost shows in `position`."""
        try:
            self._log.write(data)
        except OSError as error:
            _LOG.debug("console log: %s", error)

    def _look_for_panic(self, pattern: re.Pattern[bytes], text: bytes) -> None:
        """Kept once seen: what is said after it may be more than the tail holds."""
        dead = pattern.search(text) if self._panic is None else None
        if dead is not None:
            self._panic = dead[0].decode(errors="replace")


@contextmanager
def start_console(sock: socket.socket, log: Path, before: bytes = b"") -> Iterator[Console]:
    """Read `sock` in a thread until the block ends; closing the socket stays the caller's business.

    :param log: file that everything is appended to as it comes.
    :param before: what the guest said before; it is put in front.
    """
    with log.open("ab", buffering=0) as file:
        console = Console(sock, file, before)
        if before:
            console._keep(before)
        console._thread.start()
        try:
            yield console
        finally:
            console._stop()
