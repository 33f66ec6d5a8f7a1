"""The table of loads and the option that names them; the disks that they ask for."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from splvm.deadline import Deadline
from splvm.errors import GuestCommandError, UsageError
from splvm.guest.disks import Content, Disk, make_disk
from splvm.guest.lockstep import LockStep
from splvm.guest.machine import MachineSpec
from splvm.run.loads import (
    disk_facts,
    disks_mib,
    load_commands,
    parse_loads,
    slowdisk_words,
    start_closed_loads,
    with_disks,
    with_pool,
)
from splvm.scenarios.table import SCENARIOS

MACHINE = MachineSpec("qemu", Path("vmlinuz"), (Path("initrd"),), "tcg")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], ""),
        (["writeback,lowmem"], "writeback,lowmem"),
        (["writeback", "lowmem"], "writeback,lowmem"),
        (["writeback:speed_mib=4:target_mib=16,lowmem"], "writeback:target_mib=16:speed_mib=4,lowmem"),
        # What is a default anyhow need not be said.
        (["lowmem:available_mib=32"], "lowmem"),
    ],
)
def test_loads_by_name(options: list[str], text: str) -> None:
    loads = parse_loads(options)
    assert ",".join(map(str, loads)) == text
    assert parse_loads([text] if text else []) == loads


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("gravity", r"there is no load 'gravity'; there are: writeback, lowmem, "),
        ("", r"there is no load ''"),
        ("lowmem,lowmem", r"lowmem is named twice"),
        ("lowmem:speed=3", r"lowmem: it has no 'speed'; it has: available_mib \(.*; 32\), eaters"),
        ("lowmem:available_mib", r"lowmem:available_mib: available_mib is a number from 1 to"),
        ("lowmem:available_mib=0", r"a number from 1 to"),
        ("lowmem:available_mib=-1", r"a number from 1 to"),
        ("lowmem:available_mib=1e3", r"a number from 1 to"),
        ("lowmem:eaters=5", r"eaters is a number from 1 to 4"),
        ("writeback:disk_mib=9999999999", r"a number from 64 to"),
        ("swap,zram", r"swap and zram have one level"),
        ("zvol-swap,disk-swap", r"zvol-swap and disk-swap have one level"),
    ],
)
def test_what_is_no_load(option: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_loads([option])


def test_loads_of_scenarios_are_loads() -> None:
    assert all(parse_loads([scenario.load]) for scenario in SCENARIOS.values() if scenario.load)


def test_disks_come_behind_those_that_are_there() -> None:
    loads = parse_loads(["lowmem,writeback:disk_mib=100,pagecache"])
    machine = with_disks(with_pool(MACHINE, Path("zfs")), loads)
    assert machine.initrds == (Path("initrd"), Path("zfs"))
    assert machine.disks == (Disk(2048, Content.PARTITION), Disk(100, Content.EXT4, 8), Disk(1024, speed_mib=64))
    assert with_disks(MACHINE, parse_loads(["lowmem"])) == replace(MACHINE)


def test_the_words_of_a_load_name_its_disk() -> None:
    (load,) = parse_loads(["memcg"])
    assert load.words("/dev/vdb") == "memcg:device=/dev/vdb,group=/sys/fs/cgroup/load,limit_mib=32"
    setup = "/bin/splvm-load-setup memcg /dev/vdb limit_mib=32 speed_mib=64 disk_mib=1024"
    assert load.setup("/dev/vdb") == setup


def test_commands_of_all_loads() -> None:
    """Disks of loads come behind those that the machine has."""
    loads = parse_loads(["lowmem,writeback,pagecache"])
    *setups, start = load_commands(with_disks(with_pool(MACHINE, Path("zfs")), loads), loads, 7)
    assert [setup.split()[1:3] for setup in setups] == [
        ["lowmem", "-"],
        ["writeback", "/dev/vdb"],
        ["pagecache", "/dev/vdc"],
    ]
    assert start.startswith("/bin/splvm-load --seed 7 lowmem:")
    assert "pagecache:device=/dev/vdc," in start


# Disks in virtual time


def test_what_the_module_of_disks_is_given() -> None:
    """The memory of the disks is behind the guest's own; what has no speed of its own has the usual one."""
    loads = parse_loads(["writeback:disk_mib=100,disk-swap"])
    machine = with_disks(replace(MACHINE, ram_mib=640), loads)
    assert slowdisk_words(machine) == f"at={640 << 20} mib=100,640 speed_mib=8,256 request_us=100,100"
    assert disk_facts(machine) == [
        {"mib": 100, "speed_mib": 8, "request_us": 100},
        {"mib": 640, "speed_mib": 256, "request_us": 100},
    ]
    assert disks_mib(loads) == 740
    assert disks_mib(parse_loads(["zvol-swap,lowmem"])) == 2048


class Shell:
    """An agent whose shell fails at a command, and says why."""

    def __init__(self, fails: str) -> None:
        self.fails, self.said, self.ran = fails, "[    1.0] booted\n", list[str]()

    def run(self, command: str, within_s: float) -> None:
        self.ran.append(command)
        self.said += "mount: no such device\n" if self.fails in command else "all is well\n"
        if self.fails in command:
            raise GuestCommandError(f"the guest cannot run {command!r}: errno=1")


def test_a_load_that_cannot_be_set_up_is_told_with_the_words_of_the_guest() -> None:
    loads = parse_loads(["lowmem,writeback"])
    shell = Shell("setup writeback")
    with pytest.raises(GuestCommandError, match=r"errno=1\nmount: no such device$"):
        start_closed_loads(cast(LockStep, shell), with_disks(MACHINE, loads), loads, 1, lambda: shell.said)
    assert [command.split()[1] for command in shell.ran] == ["lowmem", "writeback"]


# Disks


def test_a_partition_is_all_of_the_disk_but_its_first_mib(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    make_disk(Disk(64, Content.PARTITION), path, Deadline(30))
    table = path.read_bytes()[:512]
    assert path.stat().st_size == 64 << 20
    assert table[510:] == b"\x55\xaa"
    assert table[:446] == bytes(446)
    assert table[450] == 0x83
    assert struct.unpack_from("<II", table, 454) == (2048, 63 * 2048)
    assert table[462:510] == bytes(48), "there is no other one"


def test_a_disk_has_a_file_system(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    make_disk(Disk(64, Content.EXT4), path, Deadline(30))
    with path.open("rb") as disk:
        disk.seek(1024 + 56)
        # The magic number of ext4 (fs/ext4/ext4.h, EXT4_SUPER_MAGIC).
        assert disk.read(2) == b"\x53\xef"


def test_a_disk_has_nothing(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    make_disk(Disk(1), path, Deadline(30))
    assert path.read_bytes() == bytes(1 << 20)
