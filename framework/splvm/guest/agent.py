"""The host's end of the in-guest agent: its frames, and the commands that go through it.

Owns both paths to the agent: the SSH channel, and the virtio-serial port, which carries a copy and is there when sshd
no longer is. What the frames mean is for the evidence; here they are only taken off the wire and handed on, in order.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import paramiko

from splvm.deadline import Deadline
from splvm.errors import DeadlineExceeded, EvidenceError, GuestCommandError, GuestLostError
from splvm.evidence.formats.merge import Merger
from splvm.evidence.formats.stream import Frame, FrameReader
from splvm.guest.machine import PORT_NAME
from splvm.guest.ssh import Ssh, close_channel

AGENT_PATH = "/bin/splvm-agent"
# The port, in the guest.
PORT_FILE = f"/dev/virtio-ports/{PORT_NAME}"

# Names of the paths, as the record has them.
SSH = "ssh"
PORT = "virtio-serial"

# Seconds of the host without a frame over SSH after which the port's are used; the agent writes four times a second.
SILENT_S = 2.0
# Seconds of the host after the end of SSH within which the port has to bring something.
PORT_PATIENCE_S = 3.0
# Between two looks at how long a path has been silent.
_LOOK_S = 0.25

# Seconds of the host without a frame by any path after which the agent counts as gone, and for how long a host that
# starves the guest excuses it.
QUIET_S = 4.0
STARVED_QUIET_S = 20.0
# A wait of a fraction of a second that lasted longer than this says that this program itself did not run.
_OWN_PAUSE_S = 1.5

# Bytes of a command that the agent repeats in its answer (COMMAND_LEN in images/guest/agent.c).
_ECHO_BYTES = 200

# Called with each frame and the path it came by.
Sink = Callable[[Frame, str], None]


class Agent(Protocol):
    """Who has steps taken in a guest, whichever way it is reached."""

    def command(self, command: str, deadline: Deadline) -> int:
        """Write `command` to the probe; when it was done, guest time in ns."""

    def gone(self) -> str | None:
        """Why nothing will come any more, or None."""

    def wait_for_news(self, changed: threading.Condition) -> None:
        """Wait until more has come, or for a moment. The caller holds `changed`, which the sink notifies."""


class AgentStream:
    """A running agent. Its frames go to `sink`, one at a time, in threads of this object's own."""

    def __init__(
        self,
        channel: paramiko.Channel,
        port: socket.socket | None,
        sink: Sink,
        is_starving: Callable[[], bool] = lambda: False,
    ) -> None:
        self._channel = channel
        self._is_starving = is_starving
        self._port = port
        self._sink = sink
        self._changed = threading.Condition()
        self._merger = Merger(SSH, PORT)
        self._replies: list[Frame] = []
        self._commands = 0
        self._ended: str | None = None
        self._complete = False
        # Why SSH is over, once it is; and until when each path is not silent.
        self._ssh_ended: str | None = None
        self._ssh_patience = Deadline(SILENT_S)
        self._port_patience = Deadline(PORT_PATIENCE_S)
        # Until when silence on all paths is no news, and until when it has an excuse.
        self._quiet = Deadline(QUIET_S)
        self._excused = Deadline(STARVED_QUIET_S)
        self._looked = Deadline(_OWN_PAUSE_S)
        self._stopping = threading.Event()
        # Readable once that is set, for a thread that waits for a socket.
        self._stop_here, self._stop_there = socket.socketpair()
        self._threads = [threading.Thread(target=self._read_ssh, name="agent", daemon=True)]
        if port is not None:
            self._threads.append(threading.Thread(target=self._read_port, args=(port,), name="agent", daemon=True))

    @property
    def ended(self) -> str | None:
        """Why the stream has ended, or None while it runs."""
        return self._ended

    @property
    def ssh_ended(self) -> str | None:
        """Why nothing comes over SSH any more, or None while it may."""
        return self._ssh_ended

    def gone(self) -> str | None:
        """Why nothing will come any more, or None. To be asked a few times a second by whoever waits for the agent."""
        if self._ended is not None:
            return self._ended
        paused, self._looked = self._looked.expired, Deadline(_OWN_PAUSE_S)
        if paused:
            # What has come meanwhile is still to be read.
            self._hear()
        elif self._quiet.expired and not self._is_excused():
            return f"the agent was silent for {QUIET_S:.0f} s or more"
        return None

    def _is_excused(self) -> bool:
        """Whether silence is the host's doing: it starves the guest, and has not done so for ever."""
        return not self._excused.expired and self._is_starving()

    def _hear(self) -> None:
        self._quiet, self._excused = Deadline(QUIET_S), Deadline(STARVED_QUIET_S)

    def command(self, command: str, deadline: Deadline) -> int:
        """Write `command` to the probe, through a file the agent holds open: nothing is started in the guest.

        The command goes by both paths with a number, and the agent obeys the first copy.

        :returns: when it was done, guest time in ns.
        :raises GuestCommandError: when the probe refuses.
        :raises GuestLostError: when the stream has ended.
        :raises DeadlineExceeded: when no answer comes.
        """
        with self._changed:
            self._replies.clear()
            self._commands += 1
            said = f"#{self._commands} {command}"
            self._send(f"#{self._commands} probe {command}\n")
            while (reply := find_reply(self._replies, said)) is None:
                if (gone := self.gone()) is not None:
                    raise GuestLostError(f"probe {command}: {gone}")
                if deadline.expired:
                    raise DeadlineExceeded(f"probe {command}", deadline.seconds)
                self._changed.wait(min(deadline.remaining_s, 0.25))
        if reply.what != "data":
            raise GuestCommandError(f"the probe refused {command!r}: {reply.text.strip()}")
        return reply.end_ns

    def wait_for_news(self, changed: threading.Condition) -> None:
        """Wait until something has changed, or for a moment.

        :param changed: held by the caller; the sink notifies it.
        """
        changed.wait(0.2)

    def quit(self, deadline: Deadline) -> bool:
        """Ask for the end of the stream. True when it came whole, last frame and all."""
        with self._changed:
            if self._ended is None:
                try:
                    self._send("quit\n")
                except GuestLostError:
                    return False
            while self.gone() is None and not deadline.expired:
                self._changed.wait(min(deadline.remaining_s, 0.25))
            return self._complete

    def _send(self, line: str) -> None:
        """Send a line by every path there is.

        :raises GuestLostError: when none takes it.
        """
        errors = []
        sent = False
        try:
            self._channel.sendall(line.encode())
            sent = True
        except (OSError, EOFError, paramiko.SSHException) as error:
            errors.append(str(error))
        if self._port is not None:
            try:
                # It takes a line at once or is not read at all.
                sent = self._port.send(line.encode(), socket.MSG_DONTWAIT) == len(line) or sent
            except OSError as error:
                errors.append(str(error))
        if not sent:
            raise GuestLostError(f"agent: {'; '.join(errors)}")

    def _read_ssh(self) -> None:
        reader = FrameReader()
        reason = "the agent's stream was not read to its end"
        try:
            while data := self._channel.recv(65536):
                self._take(SSH, reader.feed(data))
            reader.close()
            reason = "the agent's stream ended"
        except (EvidenceError, OSError, EOFError, paramiko.SSHException) as error:
            reason = f"the agent's stream broke off: {error}"
        finally:
            with self._changed:
                self._ssh_ended = reason
                self._port_patience = Deadline(PORT_PATIENCE_S)
                if self._port is None or self._complete:
                    self._end(reason)
                self._changed.notify_all()

    def _read_port(self, port: socket.socket) -> None:
        """Read the second path, and see to it that it is used when the first one is silent."""
        reader = FrameReader()
        readable = True
        while not self._stopping.is_set():
            try:
                if not readable:
                    self._stopping.wait(_LOOK_S)
                elif port in select.select([port, self._stop_here], [], [], _LOOK_S)[0]:
                    data = port.recv(65536)
                    readable = bool(data)
                    self._take(PORT, reader.feed(data))
            except (EvidenceError, OSError, ValueError):
                # What was garbled is no help any more; the first path's end is then the end.
                readable = False
            self._look_at_silence()

    def _stop(self) -> None:
        """End the threads; the channel is closed by now."""
        self._stopping.set()
        self._stop_there.close()
        for thread in self._threads:
            thread.join(2)
        self._stop_here.close()

    def _look_at_silence(self) -> None:
        with self._changed:
            silent = self._ssh_ended is not None or self._ssh_patience.expired
            if silent and self._merger.waiting and not self._merger.is_silent:
                self._pass_on(self._merger.silence())
            silent = self._port_patience.expired and not self._is_excused()
            if self._ssh_ended is not None and (self._complete or silent):
                self._end(self._ssh_ended)

    def _take(self, path: str, frames: Iterable[Frame]) -> None:
        with self._changed:
            for frame in frames:
                self._hear()
                if path == SSH:
                    self._ssh_patience = Deadline(SILENT_S)
                else:
                    self._port_patience = Deadline(PORT_PATIENCE_S)
                self._pass_on(self._merger.take(path, frame))

    def _pass_on(self, frames: Iterator[tuple[str, Frame]]) -> None:
        """Hand frames to the sink. One that fails is the end: what is not kept is no evidence."""
        for path, frame in frames:
            try:
                self._sink(frame, path)
            except BaseException as error:
                self._end(f"the agent's stream was not read to its end: {error}")
                raise
            if frame.source == "ctl":
                self._replies.append(frame)
            elif frame.source == "agent" and frame.text.startswith("end "):
                self._complete = True
                if path == PORT:
                    # A port does not say that the guest has closed it.
                    self._end("the agent's stream ended")
            self._changed.notify_all()

    def _end(self, reason: str) -> None:
        self._ended = self._ended or reason
        self._changed.notify_all()


def find_reply(replies: Iterable[Frame], said: str) -> Frame | None:
    """The answer to a command. One that comes late, to a command that nobody waits for any more, is not it.

    :param said: the command, behind its number: `#N COMMAND`.
    """
    number, _, command = said.partition(" ")
    echo = f"{number} {command.encode()[:_ECHO_BYTES].decode(errors='replace')}"
    return next((reply for reply in replies if reply.text.partition(" ")[2].strip() == echo), None)


@contextmanager
def start_agent(
    ssh: Ssh,
    port: socket.socket | None,
    *,
    rate_hz: int,
    sink: Sink,
    deadline: Deadline,
    is_starving: Callable[[], bool] = lambda: False,
) -> Iterator[AgentStream]:
    """Start the agent, or have the one that waits in a clone begin.

    Frames go to `sink` until the stream ends or the block does.

    :param port: the host's end of the virtio-serial port; without one there is only SSH.
    :param rate_hz: ticks a second, 1 to 100.
    :param sink: called with each frame in order, and the path it came by, from another thread.
    :param is_starving: whether the host gives the guest too little CPU just now, which excuses silence for a while.
    """
    second = ""
    if port is not None:
        second = f" --port {PORT_FILE}"
        _drain(port)
    channel = ssh.open_stream(f"{AGENT_PATH} --attach --rate {rate_hz}{second}", deadline)
    stream = AgentStream(channel, port, sink, is_starving)
    for thread in stream._threads:
        thread.start()
    try:
        yield stream
    finally:
        if port is not None and stream.ended is None:
            # Otherwise it would go on for as long as there is a port.
            with suppress(OSError):
                port.send(b"quit\n", socket.MSG_DONTWAIT)
        close_channel(channel)
        stream._stop()


def _drain(port: socket.socket) -> None:
    """Throw away what an agent before this one has left in the port."""
    with suppress(OSError):
        while port.recv(65536, socket.MSG_DONTWAIT):
            pass
