"""One QEMU process: its command line, its life, and its monitor (QMP).

Owns the process and both ends of the sockets to it. Sockets are made here and handed over as descriptors, so there is
no path to clean up and no port to guess; the one TCP port, for SSH, is chosen by the kernel and read back.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import socket
import struct
import subprocess
import tempfile
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from qemu.qmp import ExecuteError, QMPClient
from qemu.qmp.error import QMPError

from splvm.deadline import Deadline, poll
from splvm.errors import DeadlineExceeded, GuestLostError, QemuLaunchError
from splvm.host.process import run, start_process, wait_until_exited
from splvm.host.schedstat import read_state

_LOG = logging.getLogger("splvm.qemu")
T = TypeVar("T")

# Of the virtio-serial port; images/guest/init makes /dev/virtio-ports/NAME of it, as udev would.
PORT_NAME = "splvm.agent"

# Seconds that an answer about a migration may take, and a migration, which takes some hundredths of one.
_ANSWER_S = 5.0
_MIGRATION_S = 15.0

# Virtual CPU models. `max` offers what the accelerator can do; under TCG smaller models were measured to be slower
# to the first SSH answer, because the guest's crypto then runs without vector instructions.
_CPU_MODEL = {"tcg": "max", "kvm": "host"}


class Content(StrEnum):
    """What is on a disk at first."""

    NOTHING = "nothing"
    # An empty file system on all of it.
    EXT4 = "ext4"
    # One partition.
    PARTITION = "partition"


@dataclass(frozen=True, slots=True)
class Disk:
    """A scratch disk."""

    mib: int
    content: Content = Content.NOTHING


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """What a guest's machine is made of."""

    # Name or path of the QEMU binary.
    qemu: str
    # bzImage, and one or more cpio archives that the kernel unpacks one over the other.
    kernel: Path
    initrds: tuple[Path, ...]
    # `tcg` or `kvm`.
    accelerator: str
    # MiB of memory, and number of virtual CPUs.
    ram_mib: int = 512
    cpus: int = 2
    # Words added to the kernel's command line.
    append: tuple[str, ...] = ()
    # Scratch disks: /dev/vda, /dev/vdb and so on.
    disks: tuple[Disk, ...] = ()


@dataclass(frozen=True, slots=True)
class Backing:
    """Files of the host's that are a guest's memory and its disks."""

    # None: memory that has no name.
    memory: Path | None
    # One for each of `MachineSpec.disks`, raw.
    disks: tuple[Path, ...]
    # Whether what the guest writes goes into the files. If not, it stays the guest's own: pages copied on write, and a
    # qcow2 overlay for each disk, without a name and gone with QEMU.
    shared: bool

    def memory_args(self, ram_mib: int) -> list[str]:
        if self.memory is None:
            return []
        share = "on" if self.shared else "off"
        return ["-object", f"memory-backend-file,id=ram0,size={ram_mib}M,share={share},mem-path={_value(self.memory)}"]

    def disk_args(self) -> Iterator[str]:
        overlay = "off" if self.shared else "on"
        for number, path in enumerate(self.disks):
            # No disk outlives its guest, so nothing has to reach the host's.
            how = f"if=none,id=disk{number},format=raw,cache=unsafe,discard=unmap,snapshot={overlay}"
            yield from ("-drive", f"{how},file={_value(path)}")
            yield from ("-device", f"virtio-blk-pci,drive=disk{number},serial=disk{number}")


def _value(path: Path) -> str:
    """A path as the value of a key: a comma in it is doubled (QEMU manual, "QemuOpts")."""
    return str(path).replace(",", ",,")


def kernel_command_line(spec: MachineSpec) -> str:
    """The kernel's command line."""
    return " ".join(
        [
            "console=ttyS0",
            # A panic ends QEMU at once (with -no-reboot), so it is an exit and not a silence.
            "panic=-1",
            "oops=panic",
            # Stacks printed at low levels are evidence, and sysrq-t of a busy guest is long (openzfs #4106).
            "ignore_loglevel",
            "log_buf_len=16M",
            "nokaslr",
            "mitigations=off",
            # The lever enters a function behind its first instruction, which indirect branch tracking forbids.
            "ibt=off",
            *spec.append,
        ]
    )


def qemu_args(
    spec: MachineSpec,
    *,
    initrd: str,
    qmp_fd: int,
    console_fd: int,
    port_fd: int,
    backing: Backing,
    restored: bool = False,
) -> list[str]:
    """The command line of QEMU, one option and its value after the other.

    :param restored: the guest is not booted, its state is going to be read.
    """
    start = ["-kernel", str(spec.kernel), "-initrd", initrd, "-append", kernel_command_line(spec)]
    return [
        spec.qemu,
        *("-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none"),
        *("-machine", "q35,memory-backend=ram0" if backing.memory else "q35"),
        *backing.memory_args(spec.ram_mib),
        *("-accel", "tcg,thread=multi" if spec.accelerator == "tcg" else spec.accelerator),
        *("-cpu", _CPU_MODEL[spec.accelerator]),
        *("-smp", str(spec.cpus)),
        *("-m", f"{spec.ram_mib}M"),
        *(["-incoming", "defer"] if restored else start),
        *("-chardev", f"socket,id=qmp,fd={qmp_fd}"),
        *("-mon", "chardev=qmp,mode=control"),
        # mux=on is what gives an escape for a BREAK on the line, which is how SysRq is asked for there. The log is kept
        # by whoever reads: QEMU's own logfile= has bytes twice that the reader had no room for at first
        # (qemu_chr_write_buffer() in chardev/char.c logs what it then sends again).
        *("-chardev", f"socket,id=console,fd={console_fd},mux=on"),
        *("-serial", "chardev:console"),
        # A second way for the evidence, which needs neither sshd nor the guest's network.
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=port,fd={port_fd}"),
        *("-device", f"virtserialport,chardev=port,name={PORT_NAME}"),
        # restrict=on: the guest reaches nothing; only the forwarded port leads in, from loopback.
        *("-netdev", "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"),
        *("-device", "virtio-net-pci,netdev=net,romfile="),
        *backing.disk_args(),
    ]


class Qmp:
    """The monitor of one QEMU, with a deadline on every command.

    qemu.qmp speaks asyncio; its loop runs in a thread of this object's own.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qmp", daemon=True)
        self._client = QMPClient("splvm")

    def connect(self, sock: socket.socket, deadline: Deadline) -> None:
        """Take over `sock` and negotiate."""
        self._thread.start()
        self._wait(self._client.connect(sock), deadline, "QMP greeting")

    def execute(self, command: str, arguments: dict[str, object] | None = None, *, deadline: Deadline) -> object:
        """Run one command and return its answer.

        :raises GuestLostError: when QEMU is gone or refuses.
        :raises DeadlineExceeded: when it does not answer.
        """
        try:
            return self._wait(self._client.execute(command, arguments), deadline, f"QMP {command}")
        except (ExecuteError, QMPError, OSError, EOFError) as error:
            raise GuestLostError(f"QMP {command}: {error}") from error

    def close(self) -> None:
        """Disconnect and end the thread; safe to call in any state."""
        if not self._thread.is_alive():
            self._loop.close()
            return
        with suppress(Exception):
            self._wait(self._client.disconnect(), Deadline(2), "QMP disconnect")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(2)
        if not self._thread.is_alive():
            self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T], deadline: Deadline, what: str) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(deadline.remaining_s)
        except TimeoutError:
            future.cancel()
            raise DeadlineExceeded(what, deadline.seconds) from None


@dataclass(slots=True)
class Qemu:
    """A running QEMU."""

    argv: tuple[str, ...]
    process: subprocess.Popen[bytes]
    qmp: Qmp
    # The guest's serial console; read it all the time, or the guest waits for room.
    console: socket.socket
    # The virtio-serial port.
    port: socket.socket
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

    def freeze(self, state: Path, deadline: Deadline) -> None:
        """Stop the guest for good, and write everything but its memory, which has to be a file and shared.

        :raises GuestLostError: when QEMU cannot.
        """
        self.qmp.execute("stop", deadline=deadline)
        self._migrate("migrate", f"exec:cat > {shlex.quote(str(state))}", deadline)

    def restore(self, state: Path, deadline: Deadline) -> None:
        """Read what `freeze` wrote, and go on from there; for a QEMU that was started to be restored.

        :raises GuestLostError: when QEMU cannot: the state is damaged, or another machine's.
        """
        if not state.is_file() or not state.stat().st_size:
            # QEMU would wait for it.
            raise GuestLostError(f"QMP migrate-incoming: there is nothing in {state}")
        self._migrate("migrate-incoming", f"exec:cat {shlex.quote(str(state))}", deadline)
        self.qmp.execute("cont", deadline=deadline)

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


def _tail(path: Path, lines: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 65536))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


@contextmanager
def _initrd_memfd(initrds: Sequence[Path]) -> Iterator[int]:
    """All archives, one after the other, in memory that goes away with its last user."""
    with os.fdopen(os.memfd_create("initrd", os.MFD_CLOEXEC), "wb") as out:
        for path in initrds:
            data = path.read_bytes()
            # The kernel looks for the next archive at a multiple of four (init/initramfs.c).
            out.write(data + bytes(-len(data) % 4))
        out.flush()
        yield out.fileno()


@contextmanager
def _scratch_file(disk: Disk, deadline: Deadline) -> Iterator[int]:
    """A sparse file without a name; it is on a disk, for it may be larger than memory."""
    with tempfile.TemporaryFile() as file:
        make_disk(disk, Path(f"/proc/{os.getpid()}/fd/{file.fileno()}"), deadline)
        yield file.fileno()


def make_disk(disk: Disk, path: Path, deadline: Deadline) -> None:
    """Make a file that is there what a scratch disk is at first.

    :raises HarnessError: when it cannot be formatted.
    """
    os.truncate(path, disk.mib << 20)
    match disk.content:
        case Content.EXT4:
            # Tables are made now and not by a thread in the guest that writes them bit by bit.
            options = ["-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", "-m", "0"]
            argv = ["mke2fs", "-q", "-F", "-t", "ext4", *options, str(path)]
            run(argv, deadline=deadline, what="a file system for a guest")
        case Content.PARTITION:
            with path.open("r+b") as file:
                file.write(_partition_table(disk.mib))


# Where a partition begins, and bytes of a sector.
_PARTITION_MIB = 1
_SECTOR = 512


def _partition_table(mib: int) -> bytes:
    """A master boot record with one partition, all of the disk but its first MiB."""
    first, count = ((part << 20) // _SECTOR for part in (_PARTITION_MIB, mib - _PARTITION_MIB))
    # Status, three bytes of the old address, type (0x83: Linux), the same of its end, first sector and number of them.
    entry = struct.pack("<B3xB3xII", 0, 0x83, first, count)
    return (bytes(446) + entry).ljust(510, b"\0") + b"\x55\xaa"


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
        initrd = stack.enter_context(_initrd_memfd(() if restored else spec.initrds))
        disks = [] if backing else [stack.enter_context(_scratch_file(disk, deadline)) for disk in spec.disks]
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
        log = stack.enter_context(qemu_log.open("ab", buffering=0))
        log.write(f"$ {shlex.join(argv)}\n".encode())
        # Kills what is left, whatever happens in between.
        process = stack.enter_context(start_process(argv, stdout=log, stderr=log, pass_fds=inherited))
        # The other ends are QEMU's alone, so that its end is seen here.
        qmp_there.close()
        console_there.close()
        port_there.close()
        qemu = Qemu(tuple(argv), process, Qmp(), console_here, port_here, qemu_log)
        stack.callback(_stop, qemu)
        _connect(qemu, qmp_here, deadline)
        yield qemu


def _connect(qemu: Qemu, sock: socket.socket, deadline: Deadline) -> None:
    try:
        qemu.qmp.connect(sock, deadline.sub(10))
    except (QMPError, OSError, EOFError, DeadlineExceeded) as error:
        # It has closed its end, so it is about to go, if it has not gone.
        with suppress(subprocess.TimeoutExpired):
            qemu.process.wait(2)
        raise QemuLaunchError(qemu.argv, qemu.exit_code(), qemu.log_tail()) from error


def _stop(qemu: Qemu) -> None:
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
