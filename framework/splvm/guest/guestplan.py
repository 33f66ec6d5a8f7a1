"""The plan of a guest, before the guest exists."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from splvm.guest.machine import MachineSpec
from splvm.guest.ssh import SshKeys


class Start(StrEnum):
    """How a guest comes about."""

    # Booted.
    BOOT = "boot"
    # A clone of a template without SPL: the modules are loaded in the clone. For a build that is used once.
    BASE = "base"
    # A clone of a template that has them.
    LOADED = "loaded"


@dataclass(frozen=True, slots=True)
class GuestPlan:
    """A machine, the keys to get into it, and the modules and command that come first."""

    machine: MachineSpec
    keys: SshKeys
    # Kernel modules in the order of loading: spl.ko, slabprobe.ko.
    modules: tuple[Path, ...] = ()
    # A command for the guest once its modules are loaded; empty: none.
    setup: str = ""
    start: Start = Start.BOOT

    @property
    def bare(self) -> GuestPlan:
        """The plan of a guest on this machine in which nothing was done yet."""
        return replace(self, modules=(), setup="")
