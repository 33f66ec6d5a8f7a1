"""A thread in the place of a guest in virtual time: it writes to the port as QEMU does, and obeys like the agent."""

from __future__ import annotations

import mmap
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from splvm.guest.bell import PAD, Bell, open_bell

LIMIT_S = 30.0


class Guest:
    """QEMU's end: rings with some bytes of frames, and gives the answer that is there when it may go on."""

    def __init__(self, sock: socket.socket, shared: int) -> None:
        self.sock = sock
        self.memory = mmap.mmap(os.dup(shared), 1 << 20)
        self.seq = 0

    def ring(self, data: bytes) -> str:
        self.memory[65536 : 65536 + len(data)] = data
        self.memory[8:12] = struct.pack("<I", len(data))
        for _ in range(PAD):
            self.sock.sendall(b"\0")
        (length,) = struct.unpack("<I", self.memory[12:16])
        return self.memory[4096 : 4096 + length].decode()

    def frame(self, source: str, what: str, text: str, ns: int) -> bytes:
        head = f"F {self.seq} {self.seq} {source} {what} {ns} {ns} {len(text)}\n"
        self.seq += 1
        return f"{head}{text}\n".encode()


@contextmanager
def ringing(act: Callable[[Guest], None]) -> Iterator[Bell]:
    """A bell that `act` rings, in a thread."""
    with open_bell() as (bell, there, shared):
        guest = Guest(there, shared)

        def run() -> None:
            # The host goes while the guest rings.
            with suppress(OSError):
                act(guest)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield bell
        finally:
            there.shutdown(socket.SHUT_RDWR)
            thread.join(LIMIT_S)
            guest.memory.close()


def obey(guest: Guest, refused: str = "", quick: int = 2) -> None:
    """The agent: answers a command some bells after it, and ends its stream when it is told to."""
    ns = 1_000_000_000
    data = guest.frame("agent", "data", "hello version=1", ns)
    pending: list[tuple[int, str]] = []
    while True:
        said = guest.ring(data)
        if said.startswith("open "):
            return
        ns += 50_000_000
        data = guest.frame("loadavg", "data", "0.0", ns)
        pending = [(left - 1, line) for left, line in pending] + [(quick, line) for line in said.splitlines()]
        for left, line in pending:
            number, _, command = line.partition(" ")
            kind, _, words = command.partition(" ")
            if left == 0 and line == "quit":
                data += guest.frame("agent", "data", f"end frames={guest.seq} dropped=0", ns)
            elif left == 0:
                bad = refused and words == refused
                head = "errno=22" if bad else "ok"
                data += guest.frame("ctl", "error" if bad else "data", f"{head} {number} {words}", ns)
                assert kind in ("probe", "sysrq", "run")
