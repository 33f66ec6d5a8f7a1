"""The host's end of the in-guest agent: its frames, and the commands that go through it.

Owns the SSH channel to the agent. What the frames mean is for the evidence; here they are only taken off the wire and
handed on, in order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import paramiko

from framework.deadline import Deadline
from framework.errors import DeadlineExceeded, EvidenceError, GuestCommandError, GuestLostError
from framework.evidence.stream import Frame, FrameReader
from framework.guest.ssh import Ssh, close_channel

AGENT_PATH = "/bin/splvm-agent"

# Bytes of a command that the agent repeats in its answer (COMMAND_LEN in images/guest/agent.c).
_ECHO_BYTES = 200


class AgentStream:
    """A running agent. Its frames go to `sink`, in a thread of this object's own."""

    def __init__(self, channel: paramiko.Channel, sink: Callable[[Frame], None]) -> None:
        self._channel = channel
        self._sink = sink
        self._changed = threading.Condition()
        self._replies: list[Frame] = []
        self._ended: str | None = None
        self._complete = False
        self._thread = threading.Thread(target=self._read, name="agent", daemon=True)

    @property
    def ended(self) -> str | None:
        """Why the stream has ended, or None while it runs."""
        return self._ended

    def command(self, command: str, deadline: Deadline) -> int:
        """Write `command` to the probe, through a file the agent holds open: nothing is started in the guest.

        :returns: when it was done, guest time in ns.
        :raises GuestCommandError: when the probe refuses.
        :raises GuestLostError: when the stream has ended.
        :raises DeadlineExceeded: when no answer comes.
        """
        with self._changed:
            self._replies.clear()
            self._send(f"probe {command}\n")
            while (reply := self._reply_to(command)) is None:
                if self._ended is not None:
                    raise GuestLostError(f"probe {command}: {self._ended}")
                if deadline.expired:
                    raise DeadlineExceeded(f"probe {command}", deadline.seconds)
                self._changed.wait(min(deadline.remaining_s, 0.5))
        if reply.what != "data":
            raise GuestCommandError(f"the probe refused {command!r}: {reply.text.strip()}")
        return reply.end_ns

    def _reply_to(self, command: str) -> Frame | None:
        """The answer to `command`. One that comes late, to a command that nobody waits for any more, is not it."""
        said = command.encode()[:_ECHO_BYTES].decode(errors="replace")
        return next((reply for reply in self._replies if reply.text.partition(" ")[2].strip() == said), None)

    def quit(self, deadline: Deadline) -> bool:
        """Ask for the end of the stream. True when it came whole, last frame and all."""
        with self._changed:
            if self._ended is None:
                try:
                    self._send("quit\n")
                except GuestLostError:
                    return False
            while self._ended is None and not deadline.expired:
                self._changed.wait(min(deadline.remaining_s, 0.5))
            return self._complete

    def _send(self, line: str) -> None:
        try:
            self._channel.sendall(line.encode())
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise GuestLostError(f"agent: {error}") from error

    def _read(self) -> None:
        reader = FrameReader()
        reason = "the agent's stream was not read to its end"
        try:
            while data := self._channel.recv(65536):
                for frame in reader.feed(data):
                    self._take(frame)
            reader.close()
            reason = "the agent's stream ended"
        except (EvidenceError, OSError, EOFError, paramiko.SSHException) as error:
            reason = f"the agent's stream broke off: {error}"
        finally:
            with self._changed:
                self._ended = reason
                self._changed.notify_all()

    def _take(self, frame: Frame) -> None:
        self._sink(frame)
        with self._changed:
            if frame.source == "ctl":
                self._replies.append(frame)
            elif frame.source == "agent" and frame.text.startswith("end "):
                self._complete = True
            self._changed.notify_all()


@contextmanager
def start_agent(ssh: Ssh, *, rate_hz: int, sink: Callable[[Frame], None], deadline: Deadline) -> Iterator[AgentStream]:
    """Start the agent; frames go to `sink` until the stream ends or the block does.

    :param rate_hz: ticks a second, 1 to 100.
    :param sink: called with each frame in order, from another thread.
    """
    channel = ssh.open_stream(f"{AGENT_PATH} --rate {rate_hz}", deadline)
    stream = AgentStream(channel, sink)
    stream._thread.start()
    try:
        yield stream
    finally:
        close_channel(channel)
        stream._thread.join(2)
