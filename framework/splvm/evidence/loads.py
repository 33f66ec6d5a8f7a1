"""Loads: what a guest has to bear beside a scenario. `LOADS` is the table; `--load` names its rows.

A load has parameters, a disk of its own if it needs one, and a setup (images/load/setup). What it does in the guest is
in images/load/kinds.c, under the same name: it is held at its target there, on the guest's own clock, and reports the
level that it has reached. Whether that was enough is judged in evidence/checks/loadlevel.py, and how a load comes into
a guest is in run/loads.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from splvm.evidence.standstill import CROWD_NS, WORK_NS


@dataclass(frozen=True, slots=True)
class Progress:
    """Work of a load that is progress: where nothing of it is done, something stands still."""

    # What becomes of what it works on, after "nothing".
    did: str
    # For how long nothing of it may be done, ns of guest time.
    stands_ns: int = WORK_NS


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
    # What is on the disk of its own, if it has one: a value of Content in guest/qemu.py.
    disk: Literal["nothing", "ext4"] | None = None
    # Other values that its program is told; {device} is the disk.
    fixed: Mapping[str, str] | None = None
    # Whether it needs the pool of a ZFS guest; that the pool goes on is judged then.
    pool: bool = False
    # Its work, if that is progress. Others only have to be there.
    progress: Progress | None = None
    # Commands of images/load/setup that make what it works on, with its parameters; {device} is the disk.
    made: tuple[str, ...] = ()


# The level of several loads.
SWAP = "used swap"

_SPEED = Parameter("speed_mib", 8, "speed of its disk, MiB/s", inside=False)
_DISK = Parameter("disk_mib", 256, "size of its disk, MiB", least=64, most=1 << 16, inside=False)

_ON_POOL = (
    Parameter("rate_kib", 64, "least rate of the writer, KiB/s"),
    Parameter("file_mib", 64, "size of its file, MiB"),
)
_CROWD = (
    Parameter("procs", 8, "number of processes", most=16),
    Parameter("each_mib", 90, "memory that each process has and touches again and again, MiB"),
    Parameter("used_mib", 32, "least amount in swap, MiB"),
    Parameter("swap_mib", 600, "size of swap, MiB", inside=False),
)

LOADS: Mapping[str, LoadKind] = {
    kind.name: kind
    for kind in (
        LoadKind(
            "writeback",
            "dirty pages by buffered and by mapped writes to ext4, on a slow disk",
            "pages that are dirty or on their way to the disk",
            (
                Parameter("target_mib", 8, "target of dirty pages and pages under writeback, MiB"),
                Parameter("file_mib", 48, "size of each of the two files, MiB"),
                _SPEED,
                _DISK,
            ),
            disk="ext4",
            fixed={"dir": "/mnt/writeback"},
            made=("mount -t ext4 -o noatime {device} /mnt/writeback",),
            progress=Progress("was written back to the disk"),
        ),
        LoadKind(
            "lowmem",
            "processes that take memory and lock it, until little is available",
            "MemAvailable",
            (
                Parameter("available_mib", 32, "target of available memory, MiB"),
                Parameter("eaters", 2, "number of processes", most=4),
            ),
        ),
        LoadKind(
            "fragment",
            "free memory lies in pieces: locked pages, with a free page between each two",
            "free blocks of this order and above",
            (
                Parameter("order", 4, "smallest order of a block that counts", most=10),
                Parameter(
                    "blocks", 96, "free blocks that are allowed: emergency objects that are given back are such blocks"
                ),
            ),
        ),
        LoadKind(
            "pagecache",
            "a disk is read from end to end, again and again, so that the page cache takes all memory",
            "MemFree",
            (
                Parameter("free_mib", 32, "memory that may be free, MiB"),
                replace(_SPEED, default=64),
                replace(_DISK, default=1024),
            ),
            disk="nothing",
            fixed={"device": "{device}"},
        ),
        LoadKind(
            "swap",
            "a process that is larger than memory and touches all of its memory; swap is on a slow disk",
            SWAP,
            (
                Parameter("used_mib", 64, "target of used swap, MiB"),
                replace(_SPEED, default=32),
                _DISK,
            ),
            disk="nothing",
            made=("mkswap {device}", "swapon {device}"),
        ),
        LoadKind(
            "zram",
            "a process that is larger than memory and touches all of its memory; swap is compressed in memory",
            SWAP,
            (Parameter("used_mib", 64, "target of used swap, MiB"),),
            made=("mkswap /dev/zram0", "swapon /dev/zram0"),
        ),
        LoadKind(
            "zfs",
            "random writes to a file on a ZFS pool, with compression",
            "KiB written per second",
            _ON_POOL,
            fixed={"dir": "/mnt/tank"},
            pool=True,
        ),
        LoadKind(
            "zfs-mmap",
            "random writes to a mapped file on a ZFS pool, whose pages the kernel writes back",
            "KiB dirtied per second",
            _ON_POOL,
            fixed={"dir": "/mnt/tank"},
            pool=True,
        ),
        LoadKind(
            "zvol-swap",
            "processes that together are larger than memory; swap is on a zvol (openzfs #7734)",
            SWAP,
            _CROWD,
            made=(
                "zfs create -V {swap_mib}M -b 4096 -o logbias=throughput -o sync=always -o primarycache=metadata "
                "tank/swap",
                "mkswap /dev/zd0",
                "swapon /dev/zd0",
            ),
            pool=True,
            progress=Progress("was touched by its processes", CROWD_NS),
        ),
        LoadKind(
            "disk-swap",
            "the control for zvol-swap: swap is on a disk",
            SWAP,
            (*_CROWD, replace(_DISK, default=640)),
            disk="nothing",
            made=("mkswap {device}", "swapon {device}"),
            progress=Progress("was touched by its processes", CROWD_NS),
        ),
        LoadKind(
            "arc-mlock",
            "a process locks memory and gives it back, while ZFS's cache is full and its pool scrubbed (openzfs #4319)",
            "most memory that the process had",
            (
                Parameter("grab_mib", 680, "memory that it takes at a time, MiB"),
                Parameter("cached_mib", 300, "size of a file that is read again and again, MiB", inside=False),
                Parameter("file_mib", 64, "size of a file that is written all the time, MiB"),
            ),
            fixed={"dir": "/mnt/tank", "device": "/mnt/tank/cached"},
            made=("zfs set compression=off tank", "dd if=/dev/zero of=/mnt/tank/cached bs=1M count={cached_mib}"),
            pool=True,
            progress=Progress("was locked by its process", CROWD_NS),
        ),
        LoadKind(
            "memcg",
            "a control group reads a disk at its own memory limit, whatever memory the rest of the guest has",
            "memory.current of the group",
            (
                Parameter("limit_mib", 32, "memory limit of the group, MiB"),
                replace(_SPEED, default=64),
                replace(_DISK, default=1024),
            ),
            disk="nothing",
            fixed={"device": "{device}", "group": "/sys/fs/cgroup/load"},
        ),
    )
}
