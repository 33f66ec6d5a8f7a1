"""SSH to a guest: one transport, a deadline on everything.

Owns the connection. The host key is known beforehand and checked, so an answer comes from the guest that was started.
"""

from __future__ import annotations

import base64
import logging
import shlex
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import paramiko
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from splvm.deadline import Deadline
from splvm.errors import DeadlineExceeded, GuestCommandError, GuestLostError

# Its threads log tracebacks for what is raised to the caller anyway.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)

# Seconds between two keep-alives: a connection that is cut is noticed, also by a reader that only waits.
_KEEPALIVE_S = 2

# Bytes of a command's output that are kept; what a guest prints is not trusted to end.
_OUTPUT_BYTES = 4 * 1024 * 1024


# How often a command is tried to be started. A channel that has none yet is closed by dropbear if a command of another
# channel ends just then (sesscheckclose() takes one without a process for one whose process has ended; channelio() asks
# after each SIGCHLD). If the command is asked for on a channel that dropbear has just closed, dropbear ends the whole
# connection (getchannel(): "Unknown channel"), and a new one is made. The guest has not agreed to run the command in
# either case, so it is not run twice.
_STARTS = 4


class _Unstarted(Exception):
    """A command was not started, and may be asked for again."""


@dataclass(frozen=True, slots=True)
class SshKeys:
    """The key pair of the client and the public host key of every guest of this cache."""

    # OpenSSH private key file of the client.
    identity: Path
    # `ssh-ed25519 AAAA...` of the guests.
    host_key: Path

    @property
    def private_host_key(self) -> Path:
        """As dropbear has it."""
        return self.host_key.with_suffix("")


@dataclass(frozen=True, slots=True)
class CommandResult:
    """Exit status and output of a command in the guest."""

    command: str
    status: int
    stdout: str
    stderr: str


class Ssh:
    """An authenticated connection to one guest."""

    def __init__(self, port: int, keys: SshKeys, deadline: Deadline) -> None:
        """:raises GuestLostError: when the guest refuses, or is not the one that was started."""
        self.port = port
        self._keys = keys
        self._transport = _connect(port, keys, deadline)

    def close(self) -> None:
        """Close the connection, before the block that made it does."""
        self._transport.close()

    def open_stream(self, command: str, deadline: Deadline) -> paramiko.Channel:
        """Start `command` and return its channel. Keep the reference: paramiko closes what nobody holds.

        :raises GuestLostError: when the connection goes, or the guest refuses.
        :raises DeadlineExceeded: when it does not answer.
        """
        for _ in range(_STARTS - 1):
            with suppress(_Unstarted):
                return self._start(command, deadline)
        try:
            return self._start(command, deadline)
        except _Unstarted as error:
            raise GuestLostError(f"SSH: cannot start {command!r}: {error}") from error

    def _start(self, command: str, deadline: Deadline) -> paramiko.Channel:
        """:raises _Unstarted: when channel or connection were closed before the guest has agreed to run the command."""
        was_active = self._transport.is_active()
        try:
            channel = self._transport.open_session(timeout=deadline.remaining_s)
            # exec_command() waits for the guest's consent for ever; closing the channel ends that.
            watchdog = threading.Timer(deadline.remaining_s, close_channel, [channel])
            watchdog.daemon = True
            watchdog.start()
            try:
                channel.exec_command(command)
            finally:
                watchdog.cancel()
        except (paramiko.SSHException, OSError, EOFError) as error:
            if deadline.expired:
                raise DeadlineExceeded(f"SSH: start of {command!r}", deadline.seconds) from error
            if not self._transport.is_active():
                if not was_active:
                    raise GuestLostError(f"SSH: cannot start {command!r}: {error}") from error
                self._connect_again(command, deadline)
            raise _Unstarted(str(error)) from error
        return channel

    def _connect_again(self, command: str, deadline: Deadline) -> None:
        self._transport.close()
        try:
            self._transport = _connect(self.port, self._keys, deadline)
        except GuestLostError as error:
            raise GuestLostError(f"SSH: cannot start {command!r}: {error.message}") from error

    def run(self, command: str, *, deadline: Deadline, data: bytes = b"", check: bool = True) -> CommandResult:
        """Run a shell command in the guest.

        :param data: its standard input.
        :raises GuestLostError: when the connection goes.
        :raises GuestCommandError: with `check`, when the command fails.
        :raises DeadlineExceeded: when it does not end.
        """
        channel = self.open_stream(command, deadline)
        try:
            stdout, stderr, status = self._exchange(channel, data, deadline, command)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise GuestLostError(f"SSH: {command!r} was cut off: {error}") from error
        finally:
            close_channel(channel)
        result = CommandResult(command, status, stdout, stderr)
        if check and status != 0:
            raise GuestCommandError(
                f"in the guest, {command!r} ended with status {status}: {(stderr or stdout).strip()}"
            )
        return result

    def put(self, content: bytes, path: str, *, deadline: Deadline) -> None:
        """Write a file in the guest."""
        self.run(f"cat > {shlex.quote(path)}", data=content, deadline=deadline)

    def _exchange(
        self, channel: paramiko.Channel, data: bytes, deadline: Deadline, command: str
    ) -> tuple[str, str, int]:
        """Feed and drain a command. Its errors wait in paramiko's window (2 MiB) until its output has ended."""
        output, errors = bytearray(), bytearray()
        try:
            _feed(channel, data, deadline)
            for receive, kept in ((channel.recv, output), (channel.recv_stderr, errors)):
                channel.settimeout(deadline.remaining_s)
                while chunk := receive(65536):
                    kept += chunk
                    if len(kept) > _OUTPUT_BYTES:
                        raise GuestCommandError(f"in the guest, {command!r} printed over {_OUTPUT_BYTES} bytes")
                    channel.settimeout(deadline.remaining_s)
        except TimeoutError:
            seen = bytes(output[-200:]).decode(errors="replace")
            raise DeadlineExceeded(f"in the guest, {command!r}", deadline.seconds, seen) from None
        if not channel.status_event.wait(max(deadline.remaining_s, 0.01)):
            raise DeadlineExceeded(f"in the guest, {command!r}: its exit status", deadline.seconds)
        if channel.exit_status == -1 and self._is_cut():
            raise GuestLostError(f"SSH: {command!r} was cut off")
        return output.decode(errors="replace"), errors.decode(errors="replace"), channel.exit_status

    def _is_cut(self) -> bool:
        """Whether the connection is gone. Paramiko closes the channels of one that is going before it says so."""
        self._transport.join(0.5)
        return not self._transport.is_active()


def close_channel(channel: paramiko.Channel) -> None:
    """Close a channel, also when its connection goes at this very moment."""
    with suppress(paramiko.SSHException, OSError, EOFError):
        channel.close()


def _feed(channel: paramiko.Channel, data: bytes, deadline: Deadline) -> None:
    """Write a command's standard input. It may go before it has read all: its output and status then say why."""
    try:
        while data:
            channel.settimeout(deadline.remaining_s)
            data = data[channel.send(data) :]
        channel.shutdown_write()
    except TimeoutError:
        raise
    except OSError:
        return


def _read_host_key(path: Path) -> paramiko.PKey:
    kind, blob = path.read_text().split()[:2]
    return paramiko.PKey.from_type_string(kind, base64.b64decode(blob))


def _read_identity(path: Path) -> paramiko.PKey:
    """The client's key. We have made it: to check that it is one would take as long as to log in."""
    key = load_pem_private_key(path.read_bytes(), None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(key, RSAPrivateKey):
        raise ValueError(f"{path} is no RSA key")
    return paramiko.RSAKey(key=key)


@contextmanager
def start_ssh(port: int, keys: SshKeys, deadline: Deadline) -> Iterator[Ssh]:
    """Connect to a guest that is up; closes the connection on leaving.

    :raises GuestLostError: when it refuses, or is not the guest that was started.
    """
    ssh = Ssh(port, keys, deadline)
    try:
        yield ssh
    finally:
        ssh.close()


def _connect(port: int, keys: SshKeys, deadline: Deadline) -> paramiko.Transport:
    try:
        sock = socket.create_connection(("127.0.0.1", port), timeout=max(deadline.remaining_s, 0.01))
    except OSError as error:
        raise GuestLostError(f"SSH: port {port}: {error}") from error
    # Of two small messages in a row the second would wait until the host's kernel has acknowledged the first, 40 ms.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    transport = paramiko.Transport(sock)
    try:
        transport.banner_timeout = transport.handshake_timeout = deadline.remaining_s
        options = transport.get_security_options()
        # The cheapest that both sides have: in an emulated guest the exchange is most of the time to the first answer.
        options.kex = ("curve25519-sha256@libssh.org",)
        options.key_types = ("ssh-ed25519",)
        transport.start_client(timeout=deadline.remaining_s)
        if transport.get_remote_server_key() != _read_host_key(keys.host_key):
            raise GuestLostError(f"SSH: the host key on port {port} is not the guest's")
        transport.auth_timeout = deadline.remaining_s
        transport.auth_publickey("root", _read_identity(keys.identity))
        transport.set_keepalive(_KEEPALIVE_S)
    except (paramiko.SSHException, OSError, EOFError, ValueError) as error:
        _abandon(transport)
        raise GuestLostError(f"SSH on port {port}: {error}") from error
    except BaseException:
        _abandon(transport)
        raise
    return transport


def _abandon(transport: paramiko.Transport) -> None:
    """Close a connection that did not come about. The timer of its handshake would keep the program from ending."""
    transport.close()
    if transport.is_alive():
        transport.join(1)
    transport.packetizer.complete_handshake()
    transport.sock.close()
