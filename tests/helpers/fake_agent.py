"""The guest's end of the agent's stream, played by a test: it says frames, hears commands, and closes when it likes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from splvm.deadline import Deadline
from splvm.evidence.formats.stream import Frame, What

LIMIT_S = 30.0
END = "end frames=3 dropped=0"


def frame(seq: int, source: str = "slab", what: What = What.DATA, text: str = "") -> Frame:
    return Frame(seq, seq, source, what, 1_000 * seq, 1_000 * seq + 7, text)


def wire(*frames: Frame) -> bytes:
    data = b""
    for it in frames:
        payload = it.text.encode()
        data += f"F {it.seq} {it.tick} {it.source} {it.what} {it.start_ns} {it.end_ns} {len(payload)}\n".encode()
        data += payload + b"\n"
    return data


class Channel:
    """What AgentStream uses of an SSH channel."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def sendall(self, data: bytes) -> None:
        self._sock.sendall(data)

    def recv(self, size: int) -> bytes:
        return self._sock.recv(size)

    def close(self) -> None:
        # Wakes the reader, as paramiko's channel does.
        self._sock.shutdown(socket.SHUT_RDWR)


class Connection:
    """What start_agent() uses of an SSH connection."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.commands: list[str] = []

    def open_stream(self, command: str, deadline: Deadline) -> Channel:
        self.commands.append(command)
        return self._channel


class Agent:
    """The guest's end: what is said to it, line by line, and what it answers."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lines = sock.makefile("r")
        self.heard: list[str] = []
        self.seq = 0

    def say(self, *frames: Frame) -> None:
        self._sock.sendall(wire(*frames))

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def hear(self) -> str:
        line = self._lines.readline().rstrip("\n")
        self.heard.append(line)
        return line

    def answer(self, what: What = What.DATA, before: str = "ok ") -> None:
        """Hear a command and answer it as the agent does."""
        self.seq += 1
        self.say(frame(self.seq, "ctl", what, before + self.hear().replace(" probe ", " ", 1)))

    def close(self) -> None:
        self._lines.close()
        self._sock.close()


def drop(_: Frame, path: str) -> None:
    """A sink for tests that look at no frame."""


@contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """Do `work` in a thread; it has ended when the block has."""
    thread = threading.Thread(target=work, name="guest")
    thread.start()
    try:
        yield
    finally:
        thread.join(LIMIT_S)
