"""Scratch disks of guests: what is on them at first, and files that are disks."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from splvm.deadline import Deadline
from splvm.host.process import run


class Content(StrEnum):
    """The first content of a disk."""

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
    # MiB/s; None: as fast as it comes.
    speed_mib: int | None = None


# In virtual time nothing comes by itself: MiB/s of a disk whose speed nobody asks for, and us that a request to any
# disk takes besides if it does not begin where the last one ended.
USUAL_SPEED_MIB = 256
REQUEST_US = 100


def slowdisk_values(disks: Sequence[Disk], at_mib: int) -> dict[str, list[int]]:
    """The parameters of images/slowdisk/slowdisk.c, which makes disks of memory.

    :param at_mib: where that memory begins, MiB.
    """
    return {
        "at": [at_mib << 20],
        "mib": [disk.mib for disk in disks],
        "speed_mib": [disk.speed_mib or USUAL_SPEED_MIB for disk in disks],
        "request_us": [REQUEST_US] * len(disks),
    }


# A file system has them for good. Equal disks make equal templates in virtual time, whose guests begin on that day.
_UUID = "5b1e0000-0000-4000-8000-000000000001"
_BORN_S = "1767225600"


@contextmanager
def scratch_file(disk: Disk, deadline: Deadline) -> Iterator[int]:
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
            options = f"lazy_itable_init=0,lazy_journal_init=0,nodiscard,hash_seed={_UUID}"
            # It goes by one of the two, whichever its version knows.
            born = [f"{name}={_BORN_S}" for name in ("E2FSPROGS_FAKE_TIME", "SOURCE_DATE_EPOCH")]
            argv = ["env", *born, "mke2fs", "-q", "-F", "-t", "ext4", "-U", _UUID, "-E", options, "-m", "0", str(path)]
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
