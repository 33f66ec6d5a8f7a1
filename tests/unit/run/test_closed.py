"""What can be run in virtual time, and what is said of the rest before anything is fetched or booted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from splvm.clock import Clock
from splvm.errors import UsageError
from splvm.evidence.expectation import Expectation
from splvm.evidence.rule import Rule
from splvm.evidence.verdict import Outcome
from splvm.guest.closed import without_host_clock
from splvm.guest.disks import Content, Disk
from splvm.guest.machine import MOST_CLOSED_MIB, Backing, MachineSpec, closed_args
from splvm.run.experiment import Dump
from splvm.run.loads import parse_loads
from splvm.run.prepare import Wish, check_closed, prepare_kernel
from splvm.run.scenarios import Faults, Scenario

SCENARIO = Scenario(
    name="some",
    summary="",
    steps=lambda window_s: (),
    window_s=1.0,
    rule=Rule(required=(), checks=(), good="health"),
    expects=Expectation(Outcome.HEALTHY, ""),
)
NAMES: Any = {"initrd": "initrd", "qmp_fd": 5, "bell_fd": 6, "shared": "shared", "console": "console.log"}
SPEC = MachineSpec("qemu", Path("vmlinuz"), (Path("initrd.cpio"),), "tcg", clock=Clock.VIRTUAL)


@pytest.mark.parametrize(("load", "ram_mib"), [("", MOST_CLOSED_MIB), ("writeback:disk_mib=2302,lowmem", 512)])
def test_a_scenario_that_needs_nothing_of_the_host(load: str, ram_mib: int) -> None:
    """Its loads count once, also when they are told again."""
    check_closed(replace(SCENARIO, load=load), parse_loads([load] if load else []), ram_mib, Dump.NEVER)


@pytest.mark.parametrize(
    ("scenario", "loads", "ram_mib", "dump", "what"),
    [
        (SCENARIO, ("lowmem,memcg",), 512, Dump.NEVER, r"load memcg\n"),
        (replace(SCENARIO, load="arc-mlock"), (), 512, Dump.NEVER, r"load arc-mlock\n"),
        (replace(SCENARIO, faults=Faults(3)), (), 512, Dump.NEVER, "fault injection"),
        (SCENARIO, (), 512, Dump.TROUBLE, "a memory dump"),
        (SCENARIO, (), 2815, Dump.NEVER, r"2815 MiB of memory and disks \(at most 2814\)"),
        (SCENARIO, ("writeback:disk_mib=2303",), 512, Dump.NEVER, r"2815 MiB of memory and disks \(at most 2814\)"),
    ],
)
def test_what_is_refused(scenario: Scenario, loads: tuple[str, ...], ram_mib: int, dump: Dump, what: str) -> None:
    with pytest.raises(UsageError, match=f"some cannot be run in virtual time yet: it needs {what}") as caught:
        check_closed(scenario, parse_loads(loads), ram_mib, dump)
    assert caught.value.hint == "--clock real"


@pytest.mark.parametrize(
    ("wish", "what"),
    [
        (Wish(clock=Clock.VIRTUAL, accelerator="kvm"), "a guest under KVM has real time"),
        (Wish(clock=Clock.VIRTUAL, clones=False), "guests in virtual time are clones"),
        (Wish(qemu="mine"), "no QEMU 'mine'"),
        (Wish(qemu="suite:potato"), "bullseye, bookworm, trixie, sid"),
    ],
)
def test_options_that_do_not_go_together(wish: Wish, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        prepare_kernel(wish)


def arguments(spec: MachineSpec = SPEC, *, restored: bool = False) -> list[str]:
    backing = Backing(Path("memory"), (), shared=False)
    return closed_args(spec, **NAMES, backing=backing, restored=restored)


def test_nothing_comes_in_from_outside() -> None:
    argv = arguments()
    line = " ".join(argv)
    assert {"-nodefaults", "-no-user-config"} <= set(argv)
    assert "-accel tcg,thread=single,tb-size=" in line
    assert "-icount shift=3,sleep=off" in line
    assert "virtio-serial" not in line
    assert "virtio-blk" not in line
    assert "-chardev file,id=console,append=on" in line, "it only speaks"
    assert "restrict=on,ipv6=off" in line
    assert "clock=vm" in line
    assert "-cpu max,erms=off,fsrm=off" in line, "else each byte that is cleared is an instruction"


def test_the_shared_memory_is_the_top_of_ram() -> None:
    argv = arguments(replace(SPEC, ram_mib=300))
    (kernel,) = (argv[at + 1] for at, word in enumerate(argv) if word == "-append")
    assert {"numa=off", "memmap=1M$300M", f"splvm_bell={300 << 20}"} <= set(kernel.split())
    assert argv[argv.index("-m") + 1] == "301M"
    nodes = [argv[at + 1] for at, word in enumerate(argv) if word == "-numa"]
    assert nodes == ["node,memdev=ram0", "node,memdev=shared"]


@pytest.mark.parametrize("shared", [True, False])
def test_disks_are_memory_that_the_kernel_leaves_alone(shared: bool) -> None:
    """They lie between its own and the shared memory; only those of a template are written to their files."""
    spec = replace(SPEC, ram_mib=300, disks=(Disk(64), Disk(100, Content.EXT4)))
    argv = closed_args(spec, **NAMES, backing=Backing(Path("memory"), (Path("a,b"), Path("c")), shared))
    (kernel,) = (argv[at + 1] for at, word in enumerate(argv) if word == "-append")
    assert {"memmap=165M$300M", f"splvm_bell={464 << 20}"} <= set(kernel.split())
    assert argv[argv.index("-m") + 1] == "465M"
    objects = [argv[at + 1] for at, word in enumerate(argv) if word == "-object"]
    share = "on" if shared else "off"
    assert objects[1:3] == [
        f"memory-backend-file,id=disk0,size=64M,share={share},mem-path=a,,b",
        f"memory-backend-file,id=disk1,size=100M,share={share},mem-path=c",
    ]
    nodes = [argv[at + 1].removeprefix("node,memdev=") for at, word in enumerate(argv) if word == "-numa"]
    assert nodes == ["ram0", "disk0", "disk1", "shared"]
    assert "-drive" not in argv


def test_a_template_is_frozen_where_a_plugin_holds_it() -> None:
    backing = Backing(Path("memory"), (), shared=True)
    spec = replace(SPEC, holder=Path("/a,b/hold.so"))
    argv = closed_args(spec, **NAMES, hold_fd=7, backing=backing)
    assert argv[argv.index("-plugin") + 1] == "/a,,b/hold.so,host=7"
    assert "-S" in argv, "nothing runs before its monitor was greeted"
    assert not {"-plugin", "-S"} & set(arguments(spec, restored=True)), "a clone does without"


def test_the_clocks_of_the_host_are_not_in_a_state() -> None:
    head = b"\x04\0\0\0\x01\x05timer\0\0\0\0\0\0\0\x02"
    state = b"QEVM" + head + b"ticks of" + b"not used" + b"clock of" + b"\x05\x0ctimer/icount"
    assert without_host_clock(state) == b"QEVM" + head + bytes(8) + b"not used" + bytes(8) + b"\x05\x0ctimer/icount"
    other = state.replace(b"\0\x02ticks", b"\0\x03ticks")
    assert without_host_clock(other) == other, "of another version nothing is known"


def test_a_clone_is_given_no_kernel() -> None:
    assert "-kernel" not in arguments(restored=True)
    assert "-incoming" in arguments(restored=True)
