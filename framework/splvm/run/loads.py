"""Loads on their way into a guest: `--load` read, the disks and the pool that they need, and their start.

The table of loads is in evidence/loads.py, for what a load has to do is judged.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from splvm.deadline import Deadline
from splvm.errors import GuestCommandError, UsageError, did_you_mean
from splvm.evidence.loads import LOADS, SWAP, LoadKind
from splvm.guest.disks import Content, Disk, slowdisk_values
from splvm.guest.guest import Guest
from splvm.guest.lockstep import LockStep
from splvm.guest.machine import MachineSpec

# A kernel comes into this set after its scenarios and loads were run in virtual time (CONTRIBUTING.md).
TRIED_KERNELS = frozenset({"debian-11", "debian-12", "debian-13", "debian-sid"})

# Loads that were run in virtual time, with one digest whenever a seed was run again, and the kernels of those runs
# (docs/determinism.md).
CLOSED_LOADS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("writeback", "lowmem", "swap"), TRIED_KERNELS),
    **dict.fromkeys(("zfs", "zvol-swap"), frozenset({"debian-12"})),
}

# Seconds for setting up and starting all loads.
SETUP_S = 60.0

MOST_SEED = (1 << 32) - 1


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
        made = [command.format(device="DISK", **self.values) for command in self.kind.made]
        disk = {"disk": self.kind.disk} if self.kind.disk else {}
        return {"name": self.kind.name, "values": dict(self.values), "made": made, **disk}

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

    :raises UsageError: when a load, key or value is unknown, or a load is named twice. It names the valid ones.
    """
    loads: dict[str, Load] = {}
    for text in (word for option in options for word in option.split(",")):
        name, *pairs = text.strip().split(":")
        if name not in LOADS:
            raise UsageError(
                f"there is no load {name!r}; there are: {', '.join(LOADS)}", hint=did_you_mean(name, LOADS)
            )
        if name in loads:
            raise UsageError(f"--load: {name} is named twice")
        loads[name] = Load(LOADS[name], _values(LOADS[name], pairs))
    swapping = [name for name in loads if LOADS[name].level == SWAP]
    if len(swapping) > 1:
        raise UsageError(f"--load: {' and '.join(swapping)} have one level, the used swap; name one of them")
    return tuple(loads.values())


def with_own(own: str, given: Sequence[Load]) -> tuple[Load, ...]:
    """The loads of a run: the scenario's own loads first, then the given loads.

    :param own: the scenario's loads, in the form of `--load`. A given load of an equal name replaces its values.
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
_POOL_PARAMETERS = {"zfs_txg_timeout": 1, "zfs_txg_history": 8}
_POOL_DEVICE = "/dev/vda1"
_SET = " ".join(f"{name}={value}" for name, value in _POOL_PARAMETERS.items())
POOL_SETUP = f"splvm-zfs load {_SET} && splvm-zfs pool {_POOL_DEVICE}"
_POOL_MIB = 2048
# As images/zfs/zfs makes it.
_POOL_MADE = f"zpool create -f -o cachefile=none -O atime=off -O compression=lz4 -m /mnt/tank tank {_POOL_DEVICE}"


def pool_facts() -> dict[str, Any]:
    """What run.json says of how the pool is made."""
    return {"made": [_POOL_MADE], "disk_mib": _POOL_MIB, "parameters": dict(_POOL_PARAMETERS)}


def with_pool(machine: MachineSpec, archive: Path) -> MachineSpec:
    """The machine with ZFS in its root, and a disk for the pool."""
    disk = Disk(_POOL_MIB, Content.PARTITION)
    return replace(machine, initrds=(*machine.initrds, archive), disks=(*machine.disks, disk))


def need_pool(loads: Sequence[Load]) -> bool:
    """Whether a guest under these loads has a ZFS pool."""
    return any(load.kind.pool for load in loads)


def with_disks(machine: MachineSpec, loads: Sequence[Load]) -> MachineSpec:
    """The machine with the disks of the loads, behind its own disks."""
    disks = [
        Disk(load.values["disk_mib"], Content(load.kind.disk), load.values.get("speed_mib"))
        for load in loads
        if load.kind.disk is not None
    ]
    return replace(machine, disks=(*machine.disks, *disks))


def disks_mib(loads: Sequence[Load]) -> int:
    """MiB of all disks of a guest under these loads."""
    return sum(load.values.get("disk_mib", 0) for load in loads) + (_POOL_MIB if need_pool(loads) else 0)


def slowdisk_words(machine: MachineSpec) -> str:
    """The parameters of slowdisk.ko, as insmod takes them."""
    values = slowdisk_values(machine.disks, machine.ram_mib)
    return " ".join(f"{name}={','.join(map(str, numbers))}" for name, numbers in values.items())


def disk_facts(machine: MachineSpec) -> list[dict[str, int]]:
    """What run.json says of the disks of a guest in virtual time, in their order."""
    values = slowdisk_values(machine.disks, machine.ram_mib)
    names = [name for name in values if name != "at"]
    return [dict(zip(names, row, strict=True)) for row in zip(*(values[name] for name in names), strict=True)]


def load_commands(machine: MachineSpec, loads: Sequence[Load], seed: int) -> tuple[str, ...]:
    """The commands that set up and start all loads in a guest, one after the other.

    :param machine: `with_disks` for them.
    :param seed: seed of their random numbers.
    """
    # Those of the loads are the last disks.
    number = len(machine.disks) - sum(load.kind.disk is not None for load in loads)
    commands, words = [], []
    for load in loads:
        device = ""
        if load.kind.disk is not None:
            device = f"/dev/vd{chr(ord('a') + number)}"
            number += 1
        commands.append(load.setup(device))
        words.append(load.words(device))
    return (*commands, shlex.join(["/bin/splvm-load", "--seed", str(seed), *words]))


def start_loads(guest: Guest, loads: Sequence[Load], seed: int, deadline: Deadline) -> None:
    """Set up and start all loads in real time. They run until the guest ends.

    :param guest: a guest whose machine is `with_disks` for them.
    :param seed: seed of their random numbers.
    :raises GuestCommandError: when the guest cannot set up a load; it quotes the guest.
    """
    for number, disk in enumerate(guest.spec.disks):
        if disk.speed_mib is not None:
            guest.qemu.throttle(number, disk.speed_mib << 20, deadline)
    guest.ssh.run(" && ".join(load_commands(guest.spec, loads, seed)), deadline=deadline.sub(SETUP_S))


def start_closed_loads(
    agent: LockStep, machine: MachineSpec, loads: Sequence[Load], seed: int, console: Callable[[], str]
) -> None:
    """The same in virtual time, where the agent has a shell run the commands, and disks have their speed by themselves.

    :param console: what the guest has said.
    :raises GuestCommandError: when the guest cannot set up a load; it quotes the guest.
    """
    for command in load_commands(machine, loads, seed):
        before = len(console())
        try:
            agent.run(command, SETUP_S)
        except GuestCommandError as error:
            raise GuestCommandError(f"{error.message}\n{console()[before:].strip()}") from error
