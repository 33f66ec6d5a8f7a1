"""SSH to a guest, against a real server in this process: one that works, and ones that lie, fall silent or go away."""

from __future__ import annotations

import base64
import gc
import os
import shlex
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from paramiko.common import (
    AUTH_FAILED,
    AUTH_SUCCESSFUL,
    OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED,
    OPEN_SUCCEEDED,
)

from splvm.deadline import Deadline
from splvm.errors import DeadlineExceeded, GuestCommandError, GuestLostError
from splvm.guest.ssh import Ssh, SshKeys, start_ssh

LIMIT_S = 30.0

Handler = Callable[["Server", paramiko.Channel], None]


def make_identity(path: Path) -> None:
    """A client's key pair, as ssh-keygen leaves it: PATH and PATH.pub."""
    key = paramiko.RSAKey.generate(2048)
    key.write_private_key_file(str(path))
    path.with_suffix(".pub").write_text(f"ssh-rsa {key.get_base64()}\n")


def make_host_key(path: Path) -> paramiko.Ed25519Key:
    """A server's key pair: PATH and PATH.pub."""
    path.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    key = paramiko.Ed25519Key.from_private_key_file(str(path))
    path.with_suffix(".pub").write_text(f"ssh-ed25519 {base64.b64encode(key.asbytes()).decode()}\n")
    return key


class Server(paramiko.ServerInterface):
    """One connection. Commands are run by a shell, unless a handler has their name."""

    def __init__(self, sock: socket.socket, host_key: paramiko.PKey, client: bytes, handlers: Mapping[str, Handler]):
        self.transport = paramiko.Transport(sock)
        self.transport.add_server_key(host_key)
        self._client = client
        self._handlers = handlers
        self._threads: list[threading.Thread] = []
        self._refusals = 0
        # What a handler or an answer that is withheld waits for.
        self.released = threading.Event()
        self.transport.start_server(event=threading.Event(), server=self)

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        known = username == "root" and key.asbytes() == self._client
        return AUTH_SUCCESSFUL if known else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED if kind == "session" else OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        text = command.decode()
        if text == "deaf":
            # The whole connection stands still, as when the guest does.
            self.released.wait(LIMIT_S)
        if text == "refused" or (text == "refused at first" and self._refusals < 2):
            self._refusals += 1
            return False
        handler = self._handlers.get(text, run_in_shell(text))
        thread = threading.Thread(target=self._handle, args=(handler, channel), name="command")
        self._threads.append(thread)
        thread.start()
        return True

    def _handle(self, handler: Handler, channel: paramiko.Channel) -> None:
        with suppress(OSError, EOFError, paramiko.SSHException):
            handler(self, channel)

    def close(self) -> None:
        self.released.set()
        self.transport.close()
        # It may still be starting a command.
        self.transport.join(LIMIT_S)
        for thread in self._threads:
            thread.join(LIMIT_S)


def run_in_shell(command: str) -> Handler:
    def run(server: Server, channel: paramiko.Channel) -> None:
        data = b"".join(iter(lambda: channel.recv(65536), b""))
        done = subprocess.run(["sh", "-c", command], input=data, capture_output=True, timeout=LIMIT_S, check=False)
        finish(channel, done.stdout, done.stderr, done.returncode)

    return run


def finish(channel: paramiko.Channel, stdout: bytes = b"", stderr: bytes = b"", status: int | None = 0) -> None:
    channel.sendall_stderr(stderr)
    channel.sendall(stdout)
    if status is not None:
        channel.send_exit_status(status)
    channel.close()


def wait_for_client(channel: paramiko.Channel) -> None:
    """Wait until the client has written all it has to write: by then it knows that its command was taken."""
    while channel.recv(65536):
        pass


def never_ends(server: Server, channel: paramiko.Channel) -> None:
    channel.sendall(b"[1.0] starting\n[1.1] still at it\n")
    server.released.wait(LIMIT_S)


def never_falls_silent(server: Server, channel: paramiko.Channel) -> None:
    while not server.released.wait(0.002):
        channel.sendall(b"still at it\n")


def floods(server: Server, channel: paramiko.Channel) -> None:
    while not server.released.is_set():
        channel.sendall(b"y\n" * 16384)


def is_cut(server: Server, channel: paramiko.Channel) -> None:
    wait_for_client(channel)
    channel.sendall(b"half of it")
    server.transport.close()


def is_cut_after_its_output(server: Server, channel: paramiko.Channel) -> None:
    wait_for_client(channel)
    channel.sendall(b"all of it")
    channel.shutdown_write()
    server.transport.close()


def is_killed(server: Server, channel: paramiko.Channel) -> None:
    """As when a signal ends it: the server says so in a message that is no status."""
    wait_for_client(channel)
    finish(channel, b"", b"", None)


def reads_a_byte(server: Server, channel: paramiko.Channel) -> None:
    """As `cat > file` does when the disk is full: complain and go, whatever is still to come."""
    channel.recv(1)
    finish(channel, b"", b"cat: write error: No space left on device\n", 1)


HANDLERS: Mapping[str, Handler] = {
    "never-ends": never_ends,
    "never-falls-silent": never_falls_silent,
    "floods": floods,
    "is-cut": is_cut,
    "is-cut-after-its-output": is_cut_after_its_output,
    "is-killed": is_killed,
    "reads-a-byte": reads_a_byte,
}


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


@contextmanager
def started(keys: SshKeys, handlers: Mapping[str, Handler] = HANDLERS) -> Iterator[int]:
    """A server on a port of its own, for any number of connections."""
    host_key = paramiko.Ed25519Key.from_private_key_file(str(keys.host_key.with_suffix("")))
    client = paramiko.RSAKey.from_private_key_file(str(keys.identity)).asbytes()
    servers: list[Server] = []

    def accept() -> None:
        with suppress(OSError):
            while True:
                sock, _ = listener.accept()
                servers.append(Server(sock, host_key, client, handlers))

    with ExitStack() as stack:
        listener = stack.enter_context(listening())
        thread = threading.Thread(target=accept, name="server")
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            # Closing alone would leave the thread in accept().
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(LIMIT_S)
            for server in servers:
                server.close()


@pytest.fixture(autouse=True)
def nothing_left(still_heap: None) -> Iterator[None]:
    """A test leaves no thread, no descriptor and no socket for the collector."""
    gc.collect()
    threads, descriptors = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    yield
    for thread in set(threading.enumerate()) - threads:
        thread.join(LIMIT_S)
    gc.collect()
    assert set(threading.enumerate()) <= threads
    assert len(os.listdir("/proc/self/fd")) <= descriptors


@pytest.fixture
def keys(tmp_path: Path) -> SshKeys:
    make_identity(tmp_path / "identity")
    make_host_key(tmp_path / "host_key")
    return SshKeys(tmp_path / "identity", tmp_path / "host_key.pub")


@pytest.fixture
def port(keys: SshKeys) -> Iterator[int]:
    with started(keys) as port:
        yield port


@pytest.fixture
def ssh(port: int, keys: SshKeys) -> Iterator[Ssh]:
    with start_ssh(port, keys, Deadline(LIMIT_S)) as ssh:
        yield ssh


# Commands that end.


def test_outputs_and_status_are_kept_apart(ssh: Ssh, port: int) -> None:
    done = ssh.run("echo out; echo err >&2", deadline=Deadline(LIMIT_S))
    assert (done.stdout, done.stderr, done.status) == ("out\n", "err\n", 0)
    assert done.command == "echo out; echo err >&2"
    assert ssh.port == port


def test_one_connection_runs_many_commands(ssh: Ssh) -> None:
    answers = [ssh.run(f"echo {number}", deadline=Deadline(LIMIT_S)).stdout for number in range(3)]
    assert answers == ["0\n", "1\n", "2\n"]


def test_nothing_on_standard_input_by_default(ssh: Ssh) -> None:
    assert ssh.run("cat", deadline=Deadline(LIMIT_S)).stdout == ""


def test_data_on_standard_input(ssh: Ssh) -> None:
    data = b"0123456789abcde\n" * 40_000
    assert ssh.run("cksum", data=data, deadline=Deadline(LIMIT_S)).stdout.split()[1] == str(len(data))


def test_output_that_is_no_text_is_replaced(ssh: Ssh) -> None:
    done = ssh.run(r"printf 'a\377b'; printf '\303' >&2", deadline=Deadline(LIMIT_S))
    assert (done.stdout, done.stderr) == ("a\ufffdb", "\ufffd")


def test_a_failure_has_the_commands_own_words(ssh: Ssh) -> None:
    with pytest.raises(
        GuestCommandError, match=r"'echo out; .*' ended with status 3: insmod: Operation not permitted$"
    ):
        ssh.run("echo out; echo insmod: Operation not permitted >&2; exit 3", deadline=Deadline(LIMIT_S))


def test_a_failure_without_errors_has_its_output(ssh: Ssh) -> None:
    with pytest.raises(GuestCommandError, match=r"status 1: said on stdout$"):
        ssh.run("echo said on stdout; false", deadline=Deadline(LIMIT_S))


def test_a_failure_that_is_not_checked(ssh: Ssh) -> None:
    done = ssh.run("echo why >&2; exit 200", check=False, deadline=Deadline(LIMIT_S))
    assert (done.status, done.stderr) == (200, "why\n")


@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_a_file_is_put_byte_by_byte(ssh: Ssh, tmp_path: Path, size: int) -> None:
    content = bytes(number * 31 % 256 for number in range(size))
    target = tmp_path / "it's $(a) file"
    ssh.put(content, str(target), deadline=Deadline(LIMIT_S))
    assert target.read_bytes() == content


def test_a_file_that_cannot_be_put(ssh: Ssh, tmp_path: Path) -> None:
    target = tmp_path / "none" / "file"
    with pytest.raises(GuestCommandError, match=shlex.quote(str(target))):
        ssh.put(b"x", str(target), deadline=Deadline(LIMIT_S))


def test_a_command_that_goes_before_it_has_read_everything(ssh: Ssh) -> None:
    with pytest.raises(GuestCommandError, match="No space left on device"):
        ssh.run("reads-a-byte", data=bytes(8 * 1024 * 1024), deadline=Deadline(LIMIT_S))
    assert ssh.run("echo on", deadline=Deadline(LIMIT_S)).stdout == "on\n"


def test_a_command_that_is_killed_has_not_succeeded(ssh: Ssh) -> None:
    with pytest.raises((GuestCommandError, GuestLostError), match="is-killed"):
        ssh.run("is-killed", deadline=Deadline(LIMIT_S))


def test_a_flood_is_an_error(ssh: Ssh) -> None:
    with pytest.raises(GuestCommandError, match=r"'floods' printed over \d+ bytes"):
        ssh.run("floods", deadline=Deadline(LIMIT_S))
    assert ssh.run("echo on", deadline=Deadline(LIMIT_S)).stdout == "on\n"


def test_a_refused_command_is_lost(ssh: Ssh) -> None:
    with pytest.raises(GuestLostError, match="cannot start 'refused'"):
        ssh.run("refused", deadline=Deadline(LIMIT_S))


# Commands that do not end.


def test_a_channel_that_is_closed_before_its_command_began(keys: SshKeys) -> None:
    """Dropbear does that to a new one when a command of another one ends; it is asked for again, and runs once."""
    ran: list[str] = []

    def counts(server: Server, channel: paramiko.Channel) -> None:
        # The end of its input comes after the consent.
        channel.recv(1)
        ran.append("once")
        finish(channel, b"ran\n")

    with started(keys, {"refused at first": counts}) as port, start_ssh(port, keys, Deadline(LIMIT_S)) as ssh:
        assert ssh.run("refused at first", deadline=Deadline(LIMIT_S)).stdout == "ran\n"
    assert ran == ["once"]


def test_a_connection_that_ends_before_a_command_began(keys: SshKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropbear ends it if the channel was closed just before; another one is made, and the command runs once."""
    cuts: list[str] = []
    ran: list[str] = []
    consent = Server.check_channel_exec_request

    def cut_once(server: Server, channel: paramiko.Channel, command: bytes) -> bool:
        if not cuts:
            cuts.append(command.decode())
            server.transport.close()
            return False
        return consent(server, channel, command)

    def counts(server: Server, channel: paramiko.Channel) -> None:
        channel.recv(1)
        ran.append("once")
        finish(channel, b"ran\n")

    monkeypatch.setattr(Server, "check_channel_exec_request", cut_once)
    with started(keys, {"counts": counts}) as port, start_ssh(port, keys, Deadline(LIMIT_S)) as ssh:
        assert ssh.run("counts", deadline=Deadline(LIMIT_S)).stdout == "ran\n"
    assert (cuts, ran) == (["counts"], ["once"])


def test_a_guest_that_takes_no_connection_any_more_is_lost(keys: SshKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    with started(keys) as port, start_ssh(port, keys, Deadline(LIMIT_S)) as ssh:
        monkeypatch.setattr(Server, "check_channel_exec_request", lambda server, *_: server.transport.close())
        monkeypatch.setattr(Server, "check_auth_publickey", lambda *_: AUTH_FAILED)
        with pytest.raises(GuestLostError, match="cannot start 'echo on': SSH on port"):
            ssh.run("echo on", deadline=Deadline(LIMIT_S))


def test_a_command_that_never_ends(ssh: Ssh) -> None:
    with pytest.raises(DeadlineExceeded, match="'never-ends'") as caught:
        ssh.run("never-ends", deadline=Deadline(0.5))
    assert caught.value.last_seen.endswith("still at it\n")
    assert ssh.run("echo on", deadline=Deadline(LIMIT_S)).stdout == "on\n"


def test_a_guest_that_does_not_even_start_a_command(ssh: Ssh) -> None:
    with pytest.raises(DeadlineExceeded, match="start of 'deaf'"):
        ssh.run("deaf", deadline=Deadline(0.5))
    # It still stands still.
    with pytest.raises(DeadlineExceeded, match="start of 'echo on'"):
        ssh.run("echo on", deadline=Deadline(0.5))


def test_a_command_that_reads_its_input_in_sips(keys: SshKeys) -> None:
    """It always takes a little, so no single write has to wait long."""
    taken: list[int] = []

    def reads_in_sips(server: Server, channel: paramiko.Channel) -> None:
        while not server.released.wait(0.005) and (data := channel.recv(32768)):
            taken.append(len(data))

    with started(keys, {"reads-in-sips": reads_in_sips}) as port, start_ssh(port, keys, Deadline(LIMIT_S)) as ssh:
        data = bytes(16 * 1024 * 1024)
        with pytest.raises(DeadlineExceeded, match="'reads-in-sips'"):
            ssh.run("reads-in-sips", data=data, deadline=Deadline(0.5))
    assert 0 < sum(taken) < len(data) / 2


def test_a_command_that_never_falls_silent(ssh: Ssh) -> None:
    with pytest.raises(DeadlineExceeded, match="'never-falls-silent'"):
        ssh.run("never-falls-silent", deadline=Deadline(0.5))


def test_no_time_left(ssh: Ssh) -> None:
    with pytest.raises((DeadlineExceeded, GuestLostError)):
        ssh.run("never-ends", deadline=Deadline(0))


# Connections that are cut.


@pytest.mark.parametrize("check", [True, False])
def test_a_cut_during_a_command(ssh: Ssh, check: bool) -> None:
    with pytest.raises(GuestLostError, match="'is-cut' was cut off"):
        ssh.run("is-cut", check=check, deadline=Deadline(LIMIT_S))
    with pytest.raises(GuestLostError, match="'echo on'"):
        ssh.run("echo on", deadline=Deadline(LIMIT_S))


@pytest.mark.parametrize("check", [True, False])
def test_a_cut_between_output_and_status(ssh: Ssh, check: bool) -> None:
    with pytest.raises(GuestLostError, match="'is-cut-after-its-output' was cut off"):
        ssh.run("is-cut-after-its-output", check=check, deadline=Deadline(LIMIT_S))


def test_a_stream_ends_when_the_connection_does(port: int, keys: SshKeys) -> None:
    with start_ssh(port, keys, Deadline(LIMIT_S)) as ssh:
        channel = ssh.open_stream("never-ends", Deadline(LIMIT_S))
        assert channel.recv(5) == b"[1.0]"
    channel.settimeout(LIMIT_S)
    assert b"".join(iter(lambda: channel.recv(65536), b"")).endswith(b"still at it\n")


# Connections that do not come about.


def connect(port: int, keys: SshKeys, seconds: float = LIMIT_S) -> None:
    with start_ssh(port, keys, Deadline(seconds)):
        raise AssertionError("it was let in")


def test_another_guests_host_key(port: int, keys: SshKeys, tmp_path: Path) -> None:
    make_host_key(tmp_path / "other")
    with pytest.raises(GuestLostError, match=f"the host key on port {port} is not the guest's"):
        connect(port, replace(keys, host_key=tmp_path / "other.pub"))


def test_a_client_that_is_not_known(port: int, keys: SshKeys, tmp_path: Path) -> None:
    make_identity(tmp_path / "other")
    with pytest.raises(GuestLostError, match=f"SSH on port {port}: .*[Aa]uthentication"):
        connect(port, replace(keys, identity=tmp_path / "other"))


def test_a_port_that_refuses(keys: SshKeys) -> None:
    with listening() as listener:
        port = listener.getsockname()[1]
    with pytest.raises(GuestLostError, match=f"port {port}: .*refused"):
        connect(port, keys)


def test_a_port_where_nobody_answers(keys: SshKeys) -> None:
    with listening() as listener, pytest.raises((GuestLostError, DeadlineExceeded)):
        connect(listener.getsockname()[1], keys, 0.5)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n" + bytes(4096)])
def test_a_port_where_somebody_else_answers(keys: SshKeys, said: bytes) -> None:
    def answer() -> None:
        sock, _ = listener.accept()
        with sock:
            sock.sendall(said)

    with listening() as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(GuestLostError):
            # A timer that went on for all of this budget would be found by nothing_left().
            connect(listener.getsockname()[1], keys, 2 * LIMIT_S)
        thread.join(LIMIT_S)


def test_a_guest_that_falls_silent_after_its_banner(keys: SshKeys) -> None:
    with listening() as listener:
        held: list[socket.socket] = []

        def answer() -> None:
            sock, _ = listener.accept()
            held.append(sock)
            sock.sendall(b"SSH-2.0-dropbear\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises((GuestLostError, DeadlineExceeded)):
            connect(listener.getsockname()[1], keys, 0.5)
        thread.join(LIMIT_S)
        held[0].close()
