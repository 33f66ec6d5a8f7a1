"""The host's end of the plugin that holds a guest where its template is frozen, see images/hold/hold.c.

A stop that QEMU's monitor is asked for comes at an instruction that the host's clock chose. So the plugin holds the one
thread of all virtual CPUs, QEMU is told to stop them, and the thread is let go: all stop at the end of that block.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from splvm.deadline import Deadline, poll
from splvm.errors import DeadlineExceeded, GuestLostError
from splvm.guest.qemu import Emulator
from splvm.host.schedstat import read_wait

# Seconds that QEMU has for marking its CPUs where the kernel does not tell for what QEMU waits. It takes a thousandth
# of one; if it has taken longer, that is seen.
MARK_S = 2.0
_LOOK_S = 0.02


class LateStopError(GuestLostError):
    """The guest was let go before QEMU had marked its CPUs: it was not stopped where it was held."""


class Hold:
    """This end of the plugin's socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def wait(self, deadline: Deadline) -> None:
        """Wait until the guest is held.

        :raises GuestLostError: when QEMU ends.
        :raises DeadlineExceeded: at the deadline.
        """
        if not select.select([self._sock], [], [], deadline.remaining_s)[0]:
            raise DeadlineExceeded("a guest in virtual time", deadline.seconds)
        if not self._sock.recv(1):
            raise GuestLostError("QEMU ended")

    def stop(self, emulator: Emulator, deadline: Deadline, mark_s: float = MARK_S) -> None:
        """Stop a guest that is held, where it is held.

        :raises LateStopError: when it has come round to the same instruction before it was stopped.
        """
        with ThreadPoolExecutor(1) as pool:
            # Its answer comes when all virtual CPUs have stopped.
            stopped = pool.submit(emulator.stop, deadline)
            with suppress(DeadlineExceeded):
                # While it waits for its CPUs, it waits for a futex, and else in a poll().
                poll(lambda: "futex" in read_wait(emulator.process.pid) or None, Deadline(mark_s), "QEMU's stop")
            self._sock.sendall(b"g")
            while not stopped.done():
                if select.select([self._sock], [], [], _LOOK_S)[0]:
                    # Nothing is held any more, so that the answer comes.
                    self._sock.shutdown(socket.SHUT_RDWR)
                    stopped.result()
                    raise LateStopError(f"QEMU did not stop its CPUs within {mark_s:g} s")
            stopped.result()


@contextmanager
def open_hold() -> Iterator[tuple[Hold, socket.socket]]:
    """This end, and that of the plugin."""
    here, there = socket.socketpair()
    with here, there:
        yield Hold(here), there
