"""What a guest's machine is made of, and the command line of QEMU that makes it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from splvm.clock import Clock
from splvm.guest.disks import Disk
from splvm.host.emulator import ICOUNT_ARGS

# Of the virtio-serial port; images/guest/init makes /dev/virtio-ports/NAME of it, as udev would.
PORT_NAME = "splvm.agent"

# Virtual CPU models. `max` offers what the accelerator can do; under TCG smaller models were measured to be slower
# to the first SSH answer, because the guest's crypto then runs without vector instructions.
_CPU_MODEL = {"tcg": "max", "kvm": "host"}

# Where instructions are counted, each turn of a string instruction is one, and QEMU goes back to its main loop for it.
# Without these flags Linux clears and copies eight bytes a turn, and not one: a page takes 4 us of the guest's time
# instead of 33 (clear_page_erms() in arch/x86/lib/clear_page_64.S).
_COUNTED_CPU = "max,erms=off,fsrm=off,fsrs=off,fzrm=off,fsrc=off"


# The bell of a machine in virtual time: the port that the guest writes to (0x402 is SeaBIOS's own), and MiB of memory
# that it shares with the host, which are the top of RAM. images/guest/agent_bell.c has the same.
BELL_PORT = 0x4F0
SHARED_MIB = 1

# MiB of memory and disks up to which a q35 has all of it in one piece, so that its top is where its size says: with
# 0xb0000000 bytes and more it puts a part above 4 GiB (hw/i386/pc_q35.c).
MOST_CLOSED_MIB = 2815 - SHARED_MIB


# Of the kernel's command line: when it preempts itself (CONFIG_PREEMPT_DYNAMIC).
PREEMPT_WORD = "preempt="


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
    # Scratch disks: /dev/vda, /dev/vdb and so on. In virtual time they are memory of the machine's behind `ram_mib`.
    disks: tuple[Disk, ...] = ()
    # Of a machine in virtual time there are only clones.
    clock: Clock = Clock.REAL
    # The plugin of QEMU by which the template of such a machine is frozen, images/hold/hold.c.
    holder: Path | None = None

    @property
    def preempt(self) -> str:
        """When its kernel preempts itself; empty: as it was built."""
        words = (word.removeprefix(PREEMPT_WORD) for word in self.append if word.startswith(PREEMPT_WORD))
        return next(words, "")


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
        return ["-object", self._file("ram0", ram_mib, self.memory)]

    def closed_disk_args(self, disks: Sequence[Disk]) -> Iterator[str]:
        """The disks as memory of the machine's."""
        for number, (disk, path) in enumerate(zip(disks, self.disks, strict=True)):
            yield from ("-object", self._file(f"disk{number}", disk.mib, path))

    def _file(self, name: str, mib: int, path: Path) -> str:
        share = "on" if self.shared else "off"
        return f"memory-backend-file,id={name},size={mib}M,share={share},mem-path={escaped(path)}"

    def disk_args(self) -> Iterator[str]:
        overlay = "off" if self.shared else "on"
        for number, path in enumerate(self.disks):
            # No disk outlives its guest, so nothing has to reach the host's.
            how = f"if=none,id=disk{number},format=raw,cache=unsafe,discard=unmap,snapshot={overlay}"
            yield from ("-drive", f"{how},file={escaped(path)}")
            yield from ("-device", f"virtio-blk-pci,drive=disk{number},serial=disk{number}")


def escaped(path: Path) -> str:
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


def closed_args(
    spec: MachineSpec,
    *,
    initrd: str,
    qmp_fd: int,
    bell_fd: int,
    shared: str,
    console: str,
    backing: Backing,
    hold_fd: int | None = None,
    restored: bool = False,
) -> list[str]:
    """The command line of QEMU for a guest in virtual time, into which nothing comes from outside.

    Its network card is not looked for before the host is let in, and its console only speaks. SLIRP keeps no timer
    without IPv6: one would cut the shares of instructions of the virtual CPUs. Its disks are memory that its kernel
    leaves alone, between its own and that which is shared with the host.

    :param shared: the file of the memory that is shared with the host.
    :param console: the file that what the guest says is appended to.
    :param hold_fd: of the socket of the plugin that holds it where it is frozen.
    :param restored: the guest is not booted, its state is going to be read.
    """
    aside_mib = sum(disk.mib for disk in spec.disks)
    bell = (spec.ram_mib + aside_mib) << 20
    aside_mib += SHARED_MIB
    line = f"{kernel_command_line(spec)} numa=off memmap={aside_mib}M${spec.ram_mib}M splvm_bell={bell}"
    nodes = ("ram0", *(f"disk{number}" for number in range(len(spec.disks))), "shared")
    assert backing.memory is not None, "there are only clones"
    shared_args = f"memory-backend-file,id=shared,size={SHARED_MIB}M,share=on,mem-path={shared}"
    return [
        spec.qemu,
        *("-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none"),
        *("-machine", "q35"),
        *ICOUNT_ARGS,
        *("-cpu", _COUNTED_CPU),
        *("-smp", str(spec.cpus)),
        *("-m", f"{spec.ram_mib + aside_mib}M"),
        *backing.memory_args(spec.ram_mib),
        *backing.closed_disk_args(spec.disks),
        *("-object", shared_args),
        *(word for node in nodes for word in ("-numa", f"node,memdev={node}")),
        # What its random instructions give, and the day on which it starts.
        *("-seed", "1", "-rtc", "base=2026-01-01T00:00:00,clock=vm"),
        *(["-incoming", "defer"] if restored else ["-kernel", str(spec.kernel), "-initrd", initrd, "-append", line]),
        # It begins when its monitor has been greeted.
        *([] if restored else ["-S"]),
        *([] if hold_fd is None else ["-plugin", f"{escaped(spec.holder or Path())},host={hold_fd}"]),
        *("-chardev", f"socket,id=qmp,fd={qmp_fd}"),
        *("-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"file,id=console,append=on,path={console}"),
        *("-serial", "chardev:console"),
        *("-chardev", f"socket,id=bell,fd={bell_fd}"),
        *("-device", f"isa-debugcon,iobase={BELL_PORT:#x},chardev=bell"),
        *("-netdev", "user,id=net,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:0-:22"),
        *("-device", "virtio-net-pci,netdev=net,romfile="),
    ]
