"""Loads: what a guest has to bear beside a scenario. `LOADS` is the table; `--load` names its rows.

A load has parameters, a disk of its own if it needs one, and a setup (images/load/setup). What it does in the guest is
in images/load/kinds.c, under the same name: it is held at its target there, on the guest's own clock, and reports the
level that it has reached. Whether that was enough is judged in evidence/loads.py.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from splvm.deadline import Deadline
from splvm.errors import UsageError
from splvm.guest.disks import Content, Disk
from splvm.guest.guest import Guest
from splvm.guest.machine import MachineSpec

# Seconds for setting up and starting all loads.
SETUP_S = 60.0

MOST_SEED = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Parameter:
    """A whole number that a load can be given."""

    name: str
    default: int
    help: str
    least: int = 1
    most: int = 1 << 20
    # Whether the guest's program is told; others are for the host or the setup.
    inside: bool = True


@dataclass(frozen=True, slots=True)
class LoadKind:
    """A row of the table."""

    name: str
    summary: str
    # What its level is.
    level: str
    parameters: tuple[Parameter, ...]
    # What is on the disk of its own, if it has one.
    disk: Content | None = None
    # Other values that its program is told; {device} is the disk.
    fixed: Mapping[str, str] | None = None
    # Whether it needs the pool of a ZFS guest.
    pool: bool = False


# The level of several loads.
_SWAP = "used swap"

_SPEED = Parameter("speed_mib", 8, "MiB that its disk does in a second", inside=False)
_DISK = Parameter("disk_mib", 256, "MiB of its disk", least=64, most=1 << 16, inside=False)

_ON_POOL = (
    Parameter("rate_kib", 64, "KiB/s that the writer has to come to at least"),
    Parameter("file_mib", 64, "MiB of its file"),
)
_CROWD = (
    Parameter("procs", 8, "processes", most=16),
    Parameter("each_mib", 90, "MiB that each of them has and comes back to"),
    Parameter("used_mib", 32, "MiB that are to be in swap at least"),
    Parameter("swap_mib", 600, "MiB of swap", inside=False),
)

LOADS: Mapping[str, LoadKind] = {
    kind.name: kind
    for kind in (
        LoadKind(
            "writeback",
            "dirty pages by buffered and by mapped writes to ext4, on a slow disk",
            "pages that are dirty or on their way to the disk",
            (
                Parameter("target_mib", 8, "MiB that are to be dirty or under writeback"),
                Parameter("file_mib", 48, "MiB of each of the two files"),
                _SPEED,
                _DISK,
            ),
            Content.EXT4,
            {"dir": "/mnt/writeback"},
        ),
        LoadKind(
            "lowmem",
            "processes that take memory and lock it, until little is available",
            "MemAvailable",
            (
                Parameter("available_mib", 32, "MiB that are to be available"),
                Parameter("eaters", 2, "processes", most=4),
            ),
        ),
        LoadKind(
            "fragment",
            "free memory lies in pieces: locked pages with a hole of one page between each two",
            "free blocks of that order and above",
            (
                Parameter("order", 4, "smallest order of a block that is not to be free", most=10),
                Parameter(
                    "blocks", 96, "so many may be, all the same: emergency objects that are given back are such blocks"
                ),
            ),
        ),
        LoadKind(
            "pagecache",
            "a disk is read from end to end, again and again, so that the page cache takes all memory",
            "MemFree",
            (
                Parameter("free_mib", 32, "MiB that may be free"),
                replace(_SPEED, default=64),
                replace(_DISK, default=1024),
            ),
            Content.NOTHING,
            {"device": "{device}"},
        ),
        LoadKind(
            "swap",
            "a process that is larger than memory, and comes back to all of it; swap is on a slow disk",
            _SWAP,
            (
                Parameter("used_mib", 64, "MiB that are to be in swap"),
                replace(_SPEED, default=32),
                _DISK,
            ),
            Content.NOTHING,
        ),
        LoadKind(
            "zram",
            "the same, and swap is compressed in memory",
            _SWAP,
            (Parameter("used_mib", 64, "MiB that are to be in swap"),),
        ),
        LoadKind(
            "zfs",
            "random writes to a file on a ZFS pool, with compression",
            "KiB that are written in a second",
            _ON_POOL,
            fixed={"dir": "/mnt/tank"},
            pool=True,
        ),
        LoadKind(
            "zfs-mmap",
            "the same by a mapping of the file, whose pages the kernel has written back",
            "KiB that are dirtied in a second",
            _ON_POOL,
            fixed={"dir": "/mnt/tank"},
            pool=True,
        ),
        LoadKind(
            "zvol-swap",
            "processes that together are larger than memory, and swap is on a zvol (openzfs #7734)",
            _SWAP,
            _CROWD,
            pool=True,
        ),
        LoadKind(
            "disk-swap",
            "the same, and swap is on a disk: the control",
            _SWAP,
            (*_CROWD, replace(_DISK, default=640)),
            Content.NOTHING,
        ),
        LoadKind(
            "arc-mlock",
            "a process locks memory and gives it back, while ZFS's cache is full and its pool scrubbed (openzfs #4319)",
            "memory that the process had at most",
            (
                Parameter("grab_mib", 680, "MiB that it takes at a time"),
                Parameter("cached_mib", 300, "MiB of a file that is read again and again", inside=False),
                Parameter("file_mib", 64, "MiB of a file that is written all the time"),
            ),
            fixed={"dir": "/mnt/tank", "device": "/mnt/tank/cached"},
            pool=True,
        ),
        LoadKind(
            "memcg",
            "a control group reads a disk at its limit of memory, whatever the rest of the guest has",
            "memory.current of the group",
            (
                Parameter("limit_mib", 32, "MiB that it may have"),
                replace(_SPEED, default=64),
                replace(_DISK, default=1024),
            ),
            Content.NOTHING,
            {"device": "{device}", "group": "/sys/fs/cgroup/load"},
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Load:
    """A load with its values."""

    kind: LoadKind
    # Of all its parameters.
    values: Mapping[str, int]

    def __str__(self) -> str:
        """As `--load` takes it."""
        given = {p.name: self.values[p.name] for p in self.kind.parameters if self.values[p.name] != p.default}
        return ":".join((self.kind.name, *(f"{name}={value}" for name, value in given.items())))

    def to_json(self) -> dict[str, Any]:
        """As run.json has it."""
        return {"name": self.kind.name, "values": dict(self.values)}

    def words(self, device: str) -> str:
        """The argument of the guest's program."""
        fixed = {key: value.format(device=device) for key, value in (self.kind.fixed or {}).items()}
        inside = {p.name: self.values[p.name] for p in self.kind.parameters if p.inside}
        return f"{self.kind.name}:" + ",".join(f"{key}={value}" for key, value in {**fixed, **inside}.items())

    def setup(self, device: str) -> str:
        """The command that makes the guest ready for it."""
        pairs = (f"{name}={value}" for name, value in self.values.items())
        return shlex.join(["/bin/splvm-load-setup", self.kind.name, device or "-", *pairs])


def parse_loads(options: Sequence[str]) -> tuple[Load, ...]:
    """Loads as `--load` names them: NAME[:KEY=VALUE]..., separated by commas.

    :raises UsageError: when there is no such load, key or value, or one is named twice; with what there is.
    """
    loads: dict[str, Load] = {}
    for text in (word for option in options for word in option.split(",")):
        name, *pairs = text.strip().split(":")
        if name not in LOADS:
            raise UsageError(f"there is no load {name!r}; there are: {', '.join(LOADS)}")
        if name in loads:
            raise UsageError(f"--load: {name} is named twice")
        loads[name] = Load(LOADS[name], _values(LOADS[name], pairs))
    swapping = [name for name in loads if LOADS[name].level == _SWAP]
    if len(swapping) > 1:
        raise UsageError(f"--load: {' and '.join(swapping)} have one level, the swap that is used; one at a time")
    return tuple(loads.values())


def with_own(own: str, given: Sequence[Load]) -> tuple[Load, ...]:
    """The loads of a run: the scenario's own first, and what was given beside it.

    :param own: of the scenario, as `--load` takes it; whoever names that load gives it other values.
    """
    loads = {load.kind.name: load for load in (*parse_loads([own] if own else []), *given)}
    return tuple(loads.values())


def _values(kind: LoadKind, pairs: Sequence[str]) -> dict[str, int]:
    values = {parameter.name: parameter.default for parameter in kind.parameters}
    for pair in pairs:
        key, _, value = pair.partition("=")
        parameter = next((it for it in kind.parameters if it.name == key), None)
        if parameter is None:
            known = ", ".join(f"{it.name} ({it.help}; {it.default})" for it in kind.parameters)
            raise UsageError(f"--load {kind.name}: it has no {key!r}; it has: {known}")
        digits = value.isascii() and value.isdigit() and len(value) < 10
        if not digits or not parameter.least <= int(value) <= parameter.most:
            raise UsageError(f"--load {kind.name}:{pair}: {key} is a number from {parameter.least} to {parameter.most}")
        values[key] = int(value)
    return values


# What a template of a guest with a pool is made by: a txg a second at least, and a history that is short enough to be
# read twenty times a second.
POOL_SETUP = "splvm-zfs load zfs_txg_timeout=1 zfs_txg_history=8 && splvm-zfs pool /dev/vda1"
_POOL_MIB = 2048


def with_pool(machine: MachineSpec, archive: Path) -> MachineSpec:
    """The machine with ZFS in its root, and a disk for the pool."""
    disk = Disk(_POOL_MIB, Content.PARTITION)
    return replace(machine, initrds=(*machine.initrds, archive), disks=(*machine.disks, disk))


def need_pool(loads: Sequence[Load]) -> bool:
    """Whether a guest under these loads has a ZFS pool."""
    return any(load.kind.pool for load in loads)


def with_disks(machine: MachineSpec, loads: Sequence[Load]) -> MachineSpec:
    """The machine with the disks that loads need, behind those it has."""
    disks = [Disk(load.values["disk_mib"], load.kind.disk) for load in loads if load.kind.disk is not None]
    return replace(machine, disks=(*machine.disks, *disks))


def start_loads(guest: Guest, loads: Sequence[Load], seed: int, deadline: Deadline) -> None:
    """Set up and start all of them. They go on until the guest ends.

    :param guest: a machine `with_disks` for them.
    :param seed: what their random numbers are drawn from.
    :raises GuestCommandError: when the guest cannot have one, with its own words.
    """
    # Those of the loads are the last disks.
    number = len(guest.spec.disks) - sum(load.kind.disk is not None for load in loads)
    commands, words = [], []
    for load in loads:
        device = ""
        if load.kind.disk is not None:
            device = f"/dev/vd{chr(ord('a') + number)}"
            if "speed_mib" in load.values:
                guest.qemu.throttle(number, load.values["speed_mib"] << 20, deadline)
            number += 1
        commands.append(load.setup(device))
        words.append(load.words(device))
    commands.append(shlex.join(["/bin/splvm-load", "--seed", str(seed), *words]))
    guest.ssh.run(" && ".join(commands), deadline=deadline.sub(SETUP_S))
