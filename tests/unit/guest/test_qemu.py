"""QEMU: its command line as text, its monitor against one that misbehaves, and its life with a guest of 60 bytes."""

from __future__ import annotations

import gc
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from places import PROJECT
from splvm.deadline import Deadline
from splvm.errors import (
    BootError,
    DeadlineExceeded,
    GuestLostError,
    HarnessError,
    QemuLaunchError,
    SetupError,
    SilentBootError,
)
from splvm.guest import guest as guest_module
from splvm.guest.console import start_console
from splvm.guest.guest import start_guest
from splvm.guest.guestplan import GuestPlan
from splvm.guest.machine import Backing, MachineSpec, kernel_command_line, qemu_args
from splvm.guest.qemu import Qemu, start_qemu
from splvm.guest.qmp import Qmp
from splvm.guest.ssh import SshKeys
from tiny_guest import QEMU, RESET, make_spec, needs_qemu

ROOT = PROJECT
LIMIT_S = 30.0

SPEC = MachineSpec(QEMU, Path("vmlinuz"), (Path("initrd.cpio"),), "tcg")


def descriptors() -> set[str]:
    """What this process has open. Objects that only wait for the collector are not counted."""
    gc.collect()
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return {entry for entry in found if f"/proc/{os.getpid()}/fd" not in entry}


@pytest.fixture
def nothing_left(still_heap: None) -> Iterator[None]:
    """The test leaves no thread and no descriptor."""
    threads, before = set(threading.enumerate()), descriptors()
    yield
    assert set(threading.enumerate()) <= threads
    assert descriptors() <= before


# The command line.


def arguments(spec: MachineSpec = SPEC) -> list[str]:
    return qemu_args(
        spec, initrd="/proc/self/fd/9", qmp_fd=5, console_fd=7, port_fd=8, backing=Backing(None, (), shared=True)
    )


def values(argv: Sequence[str], option: str) -> list[str]:
    return [argv[at + 1] for at, word in enumerate(argv) if word == option]


def test_the_kernel_turns_a_panic_into_an_exit() -> None:
    words = kernel_command_line(SPEC).split()
    assert {"panic=-1", "oops=panic"} <= set(words)
    assert "-no-reboot" in arguments()


def test_the_kernel_says_everything_on_the_console() -> None:
    words = kernel_command_line(SPEC).split()
    assert {"console=ttyS0", "ignore_loglevel"} <= set(words)
    assert "quiet" not in words
    assert int(re.search(r"log_buf_len=(\d+)M", " ".join(words))[1]) >= 16  # type: ignore[index]


def test_words_of_the_spec_come_last_so_that_they_win() -> None:
    line = kernel_command_line(replace(SPEC, append=("panic=5", "mem=1G")))
    assert line.endswith(" panic=5 mem=1G")
    assert values(arguments(replace(SPEC, append=("mem=1G",))), "-append")[0].endswith(" mem=1G")


def test_the_guest_is_shut_in() -> None:
    argv = arguments()
    assert {"-nodefaults", "-no-user-config"} <= set(argv)
    (network,) = values(argv, "-netdev")
    assert network.startswith("user,")
    assert "restrict=on" in network.split(",")
    assert re.findall(r"hostfwd=([^,]*)", network) == ["tcp:127.0.0.1:0-:22"]
    assert [device for device in values(argv, "-device") if "net" in device] == ["virtio-net-pci,netdev=net,romfile="]


def test_nothing_listens_but_the_forwarded_port() -> None:
    argv = arguments()
    assert [value.split(",")[0:3] for value in values(argv, "-chardev")] == [
        ["socket", "id=qmp", "fd=5"],
        ["socket", "id=console", "fd=7"],
        ["socket", "id=port", "fd=8"],
    ]
    assert values(argv, "-mon") == ["chardev=qmp,mode=control"]
    assert values(argv, "-serial") == ["chardev:console"]
    assert values(argv, "-display") == ["none"]
    assert not {"-monitor", "-qmp", "-qmp-pretty", "-gdb", "-s", "-vnc", "-spice", "-nic", "-net"} & set(argv)
    listening = [word for word in argv if re.search(r"\b(tcp|udp|telnet|unix|vnc|server|wait)\b", word)]
    assert listening == values(argv, "-netdev")


def test_accelerators() -> None:
    tcg, kvm = arguments(), arguments(replace(SPEC, accelerator="kvm"))
    assert (values(tcg, "-accel"), values(tcg, "-cpu")) == (["tcg,thread=multi"], ["max"])
    assert (values(kvm, "-accel"), values(kvm, "-cpu")) == (["kvm"], ["host"])
    with pytest.raises(KeyError):
        arguments(replace(SPEC, accelerator="xen"))


def test_machine() -> None:
    argv = arguments(replace(SPEC, ram_mib=640, cpus=3))
    assert (values(argv, "-m"), values(argv, "-smp")) == (["640M"], ["3"])
    assert (values(argv, "-kernel"), values(argv, "-initrd")) == (["vmlinuz"], ["/proc/self/fd/9"])


# The monitor.

Answer = Callable[[dict[str, Any]], dict[str, Any] | None]

GREETING = {"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}


def read_requests(sock: socket.socket) -> Iterator[dict[str, Any]]:
    """The client's requests; it ends none of them with a newline."""
    text = ""
    while data := sock.recv(65536):
        text += data.decode()
        while text:
            request, end = json.JSONDecoder().raw_decode(text)
            text = text[end:].lstrip()
            yield request


class Silent(Exception):
    """Raised by an answer: say nothing to this request."""


class Monitor:
    """A QMP server in a thread; what it says to `qmp_capabilities` and to the rest is the test's."""

    def __init__(self, answer: Answer, *, greeting: bytes = json.dumps(GREETING).encode() + b"\n") -> None:
        self.sock, self._sock = socket.socketpair()
        self._greeting, self._answer = greeting, answer
        self.requests: list[dict[str, Any]] = []
        self.thread = threading.Thread(target=self._serve, name="monitor", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        with self._sock, suppress(OSError):
            self._sock.sendall(self._greeting)
            for request in read_requests(self._sock):
                self.requests.append(request)
                try:
                    reply = self._reply(request)
                except Silent:
                    continue
                if reply is None:
                    return
                self.send(reply)

    def _reply(self, request: dict[str, Any]) -> dict[str, Any] | None:
        # The client numbers its requests only once it has been let in.
        if request["execute"] == "qmp_capabilities":
            return {"return": {}}
        reply = self._answer(request)
        return reply and {**reply, "id": request["id"]}

    def send(self, message: dict[str, Any]) -> None:
        self._sock.sendall(json.dumps(message).encode() + b"\n")


@contextmanager
def monitored(answer: Answer) -> Iterator[tuple[Monitor, Qmp]]:
    monitor, qmp = Monitor(answer), Qmp()
    with monitor.sock:
        try:
            qmp.connect(monitor.sock, Deadline(LIMIT_S))
            yield monitor, qmp
        finally:
            qmp.close()
    monitor.thread.join(LIMIT_S)


def silence(request: dict[str, Any]) -> dict[str, Any]:
    raise Silent


@pytest.mark.usefixtures("nothing_left")
def test_qmp_answers() -> None:
    with monitored(lambda request: {"return": {"was": request["arguments"]}}) as (monitor, qmp):
        assert qmp.execute("add", {"x": 1}, deadline=Deadline(LIMIT_S)) == {"was": {"x": 1}}
        assert qmp.execute("add", {"x": 2}, deadline=Deadline(LIMIT_S)) == {"was": {"x": 2}}
    assert [request["execute"] for request in monitor.requests] == ["qmp_capabilities", "add", "add"]


@pytest.mark.usefixtures("nothing_left")
def test_qmp_events_are_not_answers() -> None:
    def chatty(request: dict[str, Any]) -> dict[str, Any]:
        monitor.send({"event": "STOP", "data": {}, "timestamp": {"seconds": 1, "microseconds": 2}})
        return {"return": [7]}

    with monitored(chatty) as (monitor, qmp):
        assert qmp.execute("cont", deadline=Deadline(LIMIT_S)) == [7]


@pytest.mark.usefixtures("nothing_left")
def test_qmp_refusal_is_said_in_qemus_words() -> None:
    def refuse(request: dict[str, Any]) -> dict[str, Any]:
        return {"error": {"class": "GenericError", "desc": "no such medium"}}

    with monitored(refuse) as (_, qmp):
        with pytest.raises(GuestLostError, match=r"QMP eject: .*no such medium"):
            qmp.execute("eject", deadline=Deadline(LIMIT_S))
        with pytest.raises(GuestLostError, match="no such medium"):
            qmp.execute("eject", deadline=Deadline(LIMIT_S))


@pytest.mark.usefixtures("nothing_left")
def test_qmp_silence_ends_at_the_deadline() -> None:
    with monitored(silence) as (_, qmp), pytest.raises(DeadlineExceeded, match="QMP query-status"):
        qmp.execute("query-status", deadline=Deadline(0.2))


@pytest.mark.usefixtures("nothing_left")
def test_qmp_an_answer_that_comes_late_is_not_the_next_ones() -> None:
    late: list[object] = []

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if not late:
            late.append(request["id"])
            raise Silent
        monitor.send({"return": "late", "id": late[0]})
        return {"return": "own"}

    with monitored(answer) as (monitor, qmp):
        with pytest.raises(DeadlineExceeded):
            qmp.execute("first", deadline=Deadline(0.2))
        assert qmp.execute("second", deadline=Deadline(LIMIT_S)) == "own"


@pytest.mark.usefixtures("nothing_left")
def test_qmp_that_closes_in_the_middle_is_lost() -> None:
    with monitored(lambda request: None) as (_, qmp):
        with pytest.raises(GuestLostError, match="QMP query-status"):
            qmp.execute("query-status", deadline=Deadline(LIMIT_S))
        with pytest.raises(GuestLostError):
            qmp.execute("query-status", deadline=Deadline(LIMIT_S))


@pytest.mark.usefixtures("nothing_left")
def test_qmp_garbage_is_lost() -> None:
    with monitored(silence) as (monitor, qmp):
        monitor._sock.sendall(b"\x00\xff not json\n")
        with pytest.raises(GuestLostError):
            qmp.execute("query-status", deadline=Deadline(LIMIT_S))


@pytest.mark.usefixtures("nothing_left")
def test_qmp_without_a_greeting() -> None:
    monitor, qmp = Monitor(silence, greeting=b""), Qmp()
    with monitor.sock:
        with pytest.raises(DeadlineExceeded, match="QMP greeting"):
            qmp.connect(monitor.sock, Deadline(0.2))
        qmp.close()
    monitor.thread.join(LIMIT_S)


@pytest.mark.usefixtures("nothing_left")
def test_qmp_closes_in_any_state() -> None:
    Qmp().close()
    monitor, qmp = Monitor(silence), Qmp()
    with monitor.sock:
        qmp.connect(monitor.sock, Deadline(LIMIT_S))
        qmp.close()
        qmp.close()
    monitor.thread.join(LIMIT_S)


# A life, of a guest of 60 bytes (tiny_guest.py).


@pytest.fixture
def idle(tmp_path: Path) -> MachineSpec:
    return make_spec(tmp_path)


@contextmanager
def running(spec: MachineSpec, logs: Path) -> Iterator[Qemu]:
    with start_qemu(spec, qemu_log=logs / "qemu.log", deadline=Deadline(LIMIT_S)) as qemu:
        yield qemu


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@needs_qemu
@pytest.mark.usefixtures("nothing_left")
def test_qemu_is_gone_after_the_block(idle: MachineSpec, tmp_path: Path) -> None:
    with running(idle, tmp_path) as qemu:
        assert qemu.exit_code() is None
        assert is_there(qemu.process.pid)
        assert qemu.process.pid != os.getpid()
    assert qemu.exit_code() == 0
    assert not is_there(qemu.process.pid)
    assert (tmp_path / "qemu.log").read_text().startswith(f"$ {QEMU} -nodefaults ")


@needs_qemu
@pytest.mark.usefixtures("nothing_left")
def test_qemu_is_gone_when_the_block_raises(idle: MachineSpec, tmp_path: Path) -> None:
    class Trouble(Exception):
        pass

    with pytest.raises(Trouble), running(idle, tmp_path) as qemu:
        raise Trouble
    assert not is_there(qemu.process.pid)


@needs_qemu
@pytest.mark.usefixtures("nothing_left")
def test_a_stopped_qemu_is_gone_all_the_same(idle: MachineSpec, tmp_path: Path) -> None:
    with running(idle, tmp_path) as qemu:
        os.kill(qemu.process.pid, signal.SIGSTOP)
        with pytest.raises(DeadlineExceeded):
            qemu.vcpu_threads(Deadline(0.2))
    assert qemu.exit_code() == -signal.SIGKILL
    assert not is_there(qemu.process.pid)


@needs_qemu
@pytest.mark.usefixtures("nothing_left")
def test_a_killed_qemu_is_lost(idle: MachineSpec, tmp_path: Path) -> None:
    with running(idle, tmp_path) as qemu:
        os.kill(qemu.process.pid, signal.SIGKILL)
        with pytest.raises(GuestLostError):
            qemu.vcpu_threads(Deadline(LIMIT_S))
        with start_console(qemu.console, tmp_path / "console.log") as console:
            console.wait_until_ended(Deadline(LIMIT_S))
    assert qemu.exit_code() == -signal.SIGKILL


@needs_qemu
@pytest.mark.usefixtures("nothing_left")
def test_the_guest_is_heard_and_its_words_are_kept(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, text=b"one\r\nsplvm: up\r\n")
    logs = tmp_path / "logs, of a run"
    logs.mkdir()
    with running(spec, logs) as qemu, start_console(qemu.console, logs / "console.log") as console:
        console.wait_until_says(r"splvm: up\r\n", Deadline(LIMIT_S))
        assert console.tail().splitlines()[-2:] == ["one", "splvm: up"]
    assert (logs / "console.log").read_bytes().endswith(b"one\r\nsplvm: up\r\n")


@needs_qemu
@pytest.mark.usefixtures("nothing_left")
def test_a_guest_that_resets_ends_qemu(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, RESET, b"Kernel panic - not syncing: VFS\r\n")
    with running(spec, tmp_path) as qemu, start_console(qemu.console, tmp_path / "console.log") as console:
        with pytest.raises(BootError) as caught:
            console.wait_until_says("never", Deadline(LIMIT_S))
        assert caught.value.title == "Kernel panic - not syncing: VFS"
        assert qemu.process.wait(LIMIT_S) == 0
    assert qemu.exit_code() == 0


@needs_qemu
@pytest.mark.usefixtures("nothing_left")
def test_the_forwarded_port_is_on_loopback_only(idle: MachineSpec, tmp_path: Path) -> None:
    with running(idle, tmp_path) as qemu:
        port = qemu.ssh_port(Deadline(LIMIT_S))
        tables = "".join(Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6") if has_table(name))
        # The address in the kernel's order, the port, any peer, and 0A for a socket that listens.
        listening = re.findall(rf"^\s*\d+: (\w+):{port:04X} \w+:0000 0A ", tables, re.MULTILINE)
        assert listening == ["0100007F"]


def has_table(name: str) -> bool:
    return Path(f"/proc/net/{name}").exists()


@needs_qemu
def test_virtual_cpus_are_threads_of_qemu(idle: MachineSpec, tmp_path: Path) -> None:
    with running(replace(idle, cpus=2), tmp_path) as qemu:
        threads = qemu.vcpu_threads(Deadline(LIMIT_S))
        assert len(set(threads)) == 2
        assert {str(thread) for thread in threads} <= set(os.listdir(f"/proc/{qemu.process.pid}/task"))


@needs_qemu
@pytest.mark.usefixtures("nothing_left")
def test_a_guest_without_ssh_does_not_come_up(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, text=b"splvm: guest is up\r\n")
    keys = SshKeys(tmp_path / "none", tmp_path / "none.pub")
    with (
        pytest.raises(BootError, match="SSH") as caught,
        start_guest(GuestPlan(spec, keys), tmp_path, Deadline(3)),
    ):
        raise AssertionError("it came up")
    assert "splvm: guest is up" in caught.value.console_tail


@needs_qemu
@pytest.mark.usefixtures("nothing_left")
def test_a_guest_that_falls_silent_is_booted_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_module, "SILENT_S", 0.5)
    spec = make_spec(tmp_path, text=b"Linux version\r\n")
    keys = SshKeys(tmp_path / "none", tmp_path / "none.pub")
    with (
        pytest.raises(BootError, match="did not say") as caught,
        start_guest(GuestPlan(spec, keys), tmp_path, Deadline(6)),
    ):
        raise AssertionError("it came up")
    assert not isinstance(caught.value, SilentBootError), "the second time all of the budget is its own"
    assert (tmp_path / "qemu.log").read_text().count("$ ") == 2
    for name in ("console-1.log", "console.log"):
        assert "Linux version" in (tmp_path / name).read_text()


# Launches that fail. QEMU's own words are in the error.


def launch_failure(spec: MachineSpec, logs: Path) -> QemuLaunchError:
    with pytest.raises(QemuLaunchError) as caught, running(spec, logs):
        raise AssertionError("it ran")
    assert caught.value.argv[0] == spec.qemu
    return caught.value


@needs_qemu
@pytest.mark.usefixtures("nothing_left")
def test_a_file_that_is_no_kernel(idle: MachineSpec, tmp_path: Path) -> None:
    (tmp_path / "kernel").write_text("nonsense " * 1000)
    error = launch_failure(idle, tmp_path)
    assert error.exit_code == 1
    assert "qemu: " in error.message


@needs_qemu
@pytest.mark.usefixtures("nothing_left")
def test_more_cpus_than_a_machine_has(idle: MachineSpec, tmp_path: Path) -> None:
    error = launch_failure(replace(idle, cpus=100_000), tmp_path)
    assert error.exit_code == 1
    assert "Invalid SMP CPUs 100000" in error.message


@pytest.mark.usefixtures("nothing_left")
def test_a_qemu_that_is_not_there(idle: MachineSpec, tmp_path: Path) -> None:
    missing = str(tmp_path / "qemu")
    with pytest.raises(SetupError, match=f"no program {missing}"), running(replace(idle, qemu=missing), tmp_path):
        raise AssertionError("it ran")


@pytest.mark.usefixtures("nothing_left")
def test_an_initrd_that_is_not_there(idle: MachineSpec, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), running(replace(idle, initrds=(tmp_path / "none",)), tmp_path):
        raise AssertionError("it ran")


FAKE_QEMU = """\
#!{python}
import json, re, signal, socket, sys
qmp = socket.socket(fileno=int(re.search(r"id=qmp,fd=(\\d+)", " ".join(sys.argv))[1]))
if {talks}:
    qmp.sendall(b'{greeting}\\n')
    while data := qmp.recv(65536):
        request = json.loads(data)
        reply = {{"return": {{}}, "id": request.get("id")}}
        qmp.sendall(json.dumps({{key: value for key, value in reply.items() if value is not None}}).encode() + b"\\n")
        if request["execute"] == "quit":
            break
signal.pause()
"""


def fake_qemu(path: Path, *, talks: bool) -> str:
    path.write_text(FAKE_QEMU.format(python=sys.executable, talks=talks, greeting=json.dumps(GREETING)))
    path.chmod(0o755)
    return str(path)


@pytest.mark.usefixtures("nothing_left")
def test_archives_are_handed_over_as_one(idle: MachineSpec, tmp_path: Path) -> None:
    """The kernel looks for the next archive at a multiple of four bytes (init/initramfs.c)."""
    (tmp_path / "base").write_bytes(b"12345")
    (tmp_path / "more").write_bytes(b"abcdefgh")
    (tmp_path / "last").write_bytes(b"xy")
    show = tmp_path / "show"
    show.write_text('#!/bin/sh\nwhile [ "$1" != -initrd ]; do shift; done\ncat "$2"\n')
    show.chmod(0o755)
    initrds = tuple(tmp_path / name for name in ("base", "more", "last"))
    launch_failure(replace(idle, qemu=str(show), initrds=initrds), tmp_path)
    assert (tmp_path / "qemu.log").read_bytes().endswith(b"\n12345\0\0\0abcdefghxy\0\0")


@pytest.mark.usefixtures("nothing_left")
def test_a_qemu_that_promises_to_quit_and_stays_is_ended(idle: MachineSpec, tmp_path: Path) -> None:
    with running(replace(idle, qemu=fake_qemu(tmp_path / "qemu", talks=True)), tmp_path) as qemu:
        assert qemu.qmp.execute("query-status", deadline=Deadline(LIMIT_S)) == {}
    assert qemu.exit_code() == -signal.SIGTERM
    assert not is_there(qemu.process.pid)


@pytest.mark.usefixtures("nothing_left")
def test_a_qemu_without_a_word_is_ended(idle: MachineSpec, tmp_path: Path) -> None:
    spec = replace(idle, qemu=fake_qemu(tmp_path / "qemu", talks=False))
    with pytest.raises(QemuLaunchError), start_qemu(spec, qemu_log=tmp_path / "qemu.log", deadline=Deadline(0.5)):
        raise AssertionError("it ran")


# The harness goes, and QEMU with it.

ORPHAN_MAKER = """\
import sys, threading
from pathlib import Path
from splvm.deadline import Deadline
from splvm.guest.machine import Backing, MachineSpec
from splvm.guest.qemu import start_qemu
logs = Path(sys.argv[1])
spec = MachineSpec({qemu!r}, logs / "kernel", (logs / "initrd",), "tcg", ram_mib=32, cpus=1)
with start_qemu(spec, qemu_log=logs / "qemu.log", deadline=Deadline({limit})) as qemu:
    print(qemu.process.pid, flush=True)
    # One wait without end could miss a signal that comes just before it.
    while not threading.Event().wait(0.1):
        pass
"""


def wait_until_gone(descriptor: int) -> None:
    assert select.select([descriptor], [], [], LIMIT_S)[0], "QEMU is still there"


@needs_qemu
@pytest.mark.usefixtures("nothing_left")
def test_a_harness_that_is_killed_takes_qemu_along(idle: MachineSpec, tmp_path: Path) -> None:
    script = ORPHAN_MAKER.format(qemu=QEMU, limit=LIMIT_S)
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT) as harness:
        try:
            assert harness.stdout is not None
            descriptor = os.pidfd_open(int(harness.stdout.readline()))
        finally:
            harness.kill()
    try:
        wait_until_gone(descriptor)
    finally:
        os.close(descriptor)


@needs_qemu
@pytest.mark.usefixtures("nothing_left")
def test_ctrl_c_takes_qemu_along(idle: MachineSpec, tmp_path: Path) -> None:
    script = ORPHAN_MAKER.format(qemu=QEMU, limit=LIMIT_S)
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as harness:
        try:
            assert harness.stdout is not None
            descriptor = os.pidfd_open(int(harness.stdout.readline()))
            harness.send_signal(signal.SIGINT)
            _, errors = harness.communicate(timeout=LIMIT_S)
        finally:
            harness.kill()
    try:
        wait_until_gone(descriptor)
    finally:
        os.close(descriptor)
    assert b"KeyboardInterrupt" in errors


def test_errors_of_a_launch_are_the_harnesss() -> None:
    error = QemuLaunchError(["qemu", "-m", "1 M"], 1, "")
    assert isinstance(error, HarnessError)
    assert error.exit_status == 3
    assert "(no output)" in error.message
    assert "qemu -m '1 M'" in error.message
