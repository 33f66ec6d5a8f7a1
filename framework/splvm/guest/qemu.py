"""One QEMU process: its life, and what is asked of it.

Owns the process and both ends of the sockets to it. Sockets are made here and handed over as descriptors, so there is
no path to clean up and no port to guess; the one TCP port, for SSH, is chosen by the kernel and read back.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from qemu.qmp.error import QMPError

from splvm.deadline import Deadline, poll
from splvm.errors import DeadlineExceeded, GuestLostError, QemuLaunchError
from splvm.guest.disks import scratch_file
from splvm.guest.machine import Backing, MachineSpec, qemu_args
from splvm.guest.qmp import Qmp
from splvm.host.process import start_process, wait_until_exited
from splvm.host.schedstat import read_state

_LOG = logging.getLogger("splvm.qemu")

# Seconds that an answer about a migration may take, and a migration, which takes some hundredths of one.
_ANSWER_S = 5.0
_MIGRATION_S = 15.0


@dataclass(slots=True)
class Emulator:
    """A running QEMU, whatever its guest is connected to."""

    argv: tuple[str, ...]
    process: subprocess.Popen[bytes]
    qmp: Qmp
    log: Path

    def exit_code(self) -> int | None:
        """The status QEMU ended with, or None while it runs."""
        return self.process.poll()

    def wait_until_ended(self, deadline: Deadline) -> int | None:
        """The status QEMU ended with, or None when it still runs at the deadline."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(deadline.remaining_s)
        return self.exit_code()

    def ssh_port(self, deadline: Deadline) -> int:
        """The port on 127.0.0.1 that leads to the guest's SSH."""
        answer = self.qmp.execute("human-monitor-command", {"command-line": "info usernet"}, deadline=deadline)
        match = re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", str(answer))
        if match is None:
            raise GuestLostError(f"QEMU forwards no port: {answer!r}")
        return int(match[1])

    def vcpu_threads(self, deadline: Deadline) -> tuple[int, ...]:
        """The host's thread ids of the virtual CPUs."""
        answer = self.qmp.execute("query-cpus-fast", deadline=deadline)
        assert isinstance(answer, list)
        return tuple(int(cpu["thread-id"]) for cpu in answer)

    def status(self, deadline: Deadline) -> str:
        """What QEMU says of its virtual CPUs: `running`, `paused`, `internal-error`, ... (RunState of QMP)."""
        answer = self.qmp.execute("query-status", deadline=deadline)
        return str(answer.get("status")) if isinstance(answer, dict) else str(answer)

    def registers(self, deadline: Deadline) -> str:
        """The registers of all virtual CPUs, as QEMU prints them."""
        return str(self.qmp.execute("human-monitor-command", {"command-line": "info registers -a"}, deadline=deadline))

    def press(self, keys: Sequence[str], deadline: Deadline) -> None:
        """Press keys together on the guest's keyboard, by QEMU's names (QKeyCode), and let them go."""
        pressed = [{"type": "qcode", "data": key} for key in keys]
        self.qmp.execute("send-key", {"keys": pressed, "hold-time": 20}, deadline=deadline)

    def stop(self, deadline: Deadline) -> None:
        """Stop the virtual CPUs."""
        self.qmp.execute("stop", deadline=deadline)

    def go_on(self, deadline: Deadline) -> None:
        """Let them run."""
        self.qmp.execute("cont", deadline=deadline)

    def save(self, state: Path, deadline: Deadline) -> None:
        """Write everything of a stopped guest but its memory, which has to be a file and shared.

        :raises GuestLostError: when QEMU cannot.
        """
        self._migrate("migrate", f"exec:cat > {shlex.quote(str(state))}", deadline)

    def restore(self, state: Path, deadline: Deadline, *, announce: bool = True) -> None:
        """Read what `save` wrote, and go on from there; for a QEMU that was started to be restored.

        :param announce: tell the guest's network about it, some times over, by a timer on the host's clock.
        :raises GuestLostError: when QEMU cannot: the state is damaged, or another machine's.
        """
        if not state.is_file() or not state.stat().st_size:
            # QEMU would wait for it.
            raise GuestLostError(f"QMP migrate-incoming: there is nothing in {state}")
        if not announce:
            self.qmp.execute("migrate-set-parameters", {"announce-rounds": 0}, deadline=deadline)
        self._migrate("migrate-incoming", f"exec:cat {shlex.quote(str(state))}", deadline)
        self.go_on(deadline)

    def _migrate(self, command: str, uri: str, deadline: Deadline) -> None:
        # Memory that is a file need not go through the stream (migration/ram.c, ramblock_is_ignored()).
        ignore = [{"capability": "x-ignore-shared", "state": True}]
        self.qmp.execute("migrate-set-capabilities", {"capabilities": ignore}, deadline=deadline)

        def ended() -> str | None:
            answer = self.qmp.execute("query-migrate", deadline=deadline.sub(_ANSWER_S))
            status = str(answer.get("status", "")) if isinstance(answer, dict) else ""
            return status if status in ("completed", "failed", "cancelled") else None

        try:
            # A QEMU that cannot read its state ends, and may take an answer along.
            self.qmp.execute(command, {"uri": uri}, deadline=deadline.sub(_ANSWER_S))
            status = poll(ended, deadline.sub(_MIGRATION_S), f"QMP {command}", interval_s=0.003)
        except (GuestLostError, DeadlineExceeded) as error:
            raise GuestLostError(f"QMP {command}: {error.message}: {self.log_tail(5)}") from error
        if status != "completed":
            raise GuestLostError(f"QMP {command}: {status}: {self.log_tail(5)}")

    def throttle(self, disk: int, bytes_per_s: int, deadline: Deadline) -> None:
        """Let a disk do so much from now on, reads and writes together.

        :param disk: its number in `MachineSpec.disks`.
        :raises GuestLostError: when there is no such disk.
        """
        kinds = ("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr")
        limits = dict.fromkeys(kinds, 0) | {"bps": bytes_per_s}
        self.qmp.execute("block_set_io_throttle", {"device": f"disk{disk}", **limits}, deadline=deadline)

    def log_tail(self, lines: int = 20) -> str:
        """The last lines QEMU itself wrote; the first line of its log is our own."""
        return "\n".join(line for line in _tail(self.log, lines).splitlines() if not line.startswith("$ "))


@dataclass(slots=True)
class Qemu(Emulator):
    """A running QEMU whose guest is in real time."""

    # The guest's serial console; read it all the time, or the guest waits for room.
    console: socket.socket
    # The virtio-serial port.
    port: socket.socket


def _tail(path: Path, lines: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 65536))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


@contextmanager
def initrd_memfd(initrds: Sequence[Path]) -> Iterator[int]:
    """All archives, one after the other, in memory that goes away with its last user."""
    with os.fdopen(os.memfd_create("initrd", os.MFD_CLOEXEC), "wb") as out:
        for path in initrds:
            data = path.read_bytes()
            # The kernel looks for the next archive at a multiple of four (init/initramfs.c).
            out.write(data + bytes(-len(data) % 4))
        out.flush()
        yield out.fileno()


@contextmanager
def start_qemu(
    spec: MachineSpec, *, qemu_log: Path, deadline: Deadline, backing: Backing | None = None, restored: bool = False
) -> Iterator[Qemu]:
    """Start QEMU and connect its monitor; on leaving, end it: quit, terminate, kill.

    :param qemu_log: where QEMU's own output goes.
    :param backing: memory and disks; by default they have no names, and are gone with QEMU.
    :param restored: boot nothing; the guest waits for `Qemu.restore`.
    :raises QemuLaunchError: when it ends at once.
    """
    with ExitStack() as stack:
        qmp_here, qmp_there = map(stack.enter_context, socket.socketpair())
        console_here, console_there = map(stack.enter_context, socket.socketpair())
        port_here, port_there = map(stack.enter_context, socket.socketpair())
        initrd = stack.enter_context(initrd_memfd(() if restored else spec.initrds))
        disks = [] if backing else [stack.enter_context(scratch_file(disk, deadline)) for disk in spec.disks]
        inherited = (qmp_there.fileno(), console_there.fileno(), port_there.fileno(), initrd, *disks)
        argv = qemu_args(
            spec,
            initrd=f"/proc/self/fd/{initrd}",
            qmp_fd=qmp_there.fileno(),
            console_fd=console_there.fileno(),
            port_fd=port_there.fileno(),
            backing=backing or Backing(None, tuple(Path(f"/proc/self/fd/{disk}") for disk in disks), shared=True),
            restored=restored,
        )
        emulator = stack.enter_context(launch(argv, (qmp_here, qmp_there), inherited, qemu_log, deadline))
        # The other ends are QEMU's alone, so that its end is seen here.
        console_there.close()
        port_there.close()
        yield Qemu(emulator.argv, emulator.process, emulator.qmp, qemu_log, console_here, port_here)


@contextmanager
def launch(
    argv: Sequence[str],
    qmp: tuple[socket.socket, socket.socket],
    inherited: Sequence[int],
    log: Path,
    deadline: Deadline,
) -> Iterator[Emulator]:
    """Start QEMU and connect its monitor; on leaving, end it: quit, terminate, kill.

    :param qmp: this end of its monitor's socket, and that of QEMU, which is closed here.
    :param inherited: the descriptors that the command line names.
    :param log: where QEMU's own output goes.
    :raises QemuLaunchError: when it ends at once.
    """
    here, there = qmp
    with ExitStack() as stack:
        file = stack.enter_context(log.open("ab", buffering=0))
        file.write(f"$ {shlex.join(argv)}\n".encode())
        # Kills what is left, whatever happens in between.
        process = stack.enter_context(start_process(argv, stdout=file, stderr=file, pass_fds=inherited))
        # It is QEMU's alone, so that its end is seen here.
        there.close()
        emulator = Emulator(tuple(argv), process, Qmp(), log)
        stack.callback(_stop, emulator)
        _connect(emulator, here, deadline)
        yield emulator


def _connect(qemu: Emulator, sock: socket.socket, deadline: Deadline) -> None:
    try:
        qemu.qmp.connect(sock, deadline.sub(10))
    except (QMPError, OSError, EOFError, DeadlineExceeded) as error:
        # It has closed its end, so it is about to go, if it has not gone.
        with suppress(subprocess.TimeoutExpired):
            qemu.process.wait(2)
        raise QemuLaunchError(qemu.argv, qemu.exit_code(), qemu.log_tail()) from error


def _stop(qemu: Emulator) -> None:
    """Ask it to go, then tell it to; what is still there after that is killed by whoever started the process."""
    if read_state(qemu.process.pid) in ("T", "t"):
        # Stopped, it hears nothing but the kill that whoever started it has in store.
        qemu.qmp.close()
        return
    if qemu.exit_code() is None:
        with suppress(GuestLostError, DeadlineExceeded, subprocess.TimeoutExpired):
            qemu.qmp.execute("quit", deadline=Deadline(2))
            wait_until_exited(qemu.process, 3)
            _LOG.debug("QEMU has quit")
    if qemu.exit_code() is None:
        qemu.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            wait_until_exited(qemu.process, 2)
    qemu.qmp.close()
