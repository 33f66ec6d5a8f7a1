"""A guest from boot to end: QEMU, console and SSH together."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from splvm.deadline import Deadline
from splvm.errors import BootError, DeadlineExceeded, GuestCommandError, GuestLostError, SilentBootError
from splvm.guest.console import Console, start_console
from splvm.guest.guestplan import GuestPlan
from splvm.guest.machine import Backing, MachineSpec
from splvm.guest.qemu import Qemu, start_qemu
from splvm.guest.ssh import Ssh, start_ssh
from splvm.log import note
from splvm.record.names import CONSOLE_FILE, FIRST_CONSOLE_FILE, QEMU_FILE

_LOG = logging.getLogger("splvm.guest")

# What images/guest/init says when SSH listens.
_UP = "splvm: guest is up"

# Seconds a guest may take from start to SSH. Under TCG a Debian cloud kernel takes 3 on an idle host; the factor is
# for a host that is not.
BOOT_BUDGET_S = {"tcg": 90.0, "kvm": 30.0}

# Seconds without a word of a guest that boots, after which it is given up. The longest pause of a boot here is under
# one second on an idle host.
SILENT_S = 20.0


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest that has answered on SSH."""

    spec: MachineSpec
    qemu: Qemu
    console: Console
    ssh: Ssh
    # The host's thread ids of the virtual CPUs.
    vcpus: tuple[int, ...]
    # How often it was booted until it came up; 0 for a clone.
    boots: int = 1
    # Key of the template that it is a clone of.
    template: str = ""
    # Kernel modules that the template had, and the command that was run in it.
    modules: tuple[Path, ...] = ()
    setup: str = ""
    # Why it is no clone, if it was to be one.
    no_clone: str = ""

    def insert_module(self, path: Path, *, deadline: Deadline) -> None:
        """Copy a kernel module into the guest and load it.

        :raises GuestCommandError: when the kernel refuses it; the message has the kernel's own words.
        """
        inside = f"/lib/modules/{path.name}"
        self.ssh.put(path.read_bytes(), inside, deadline=deadline)
        try:
            self.ssh.run(f"insmod {inside}", deadline=deadline)
        except GuestCommandError as error:
            raise GuestCommandError(f"{error.message}\n{self.console.tail(5)}") from error


@contextmanager
def start_guest(plan: GuestPlan, logs: Path, deadline: Deadline, backing: Backing | None = None) -> Iterator[Guest]:
    """Boot a guest and wait until it answers on SSH; nothing of it is left after the block.

    A guest that falls silent during its boot is booted once more, with a note. Where two guests share two cores, about
    one emulated boot in a hundred stops in the middle of the kernel's start, at no certain place.

    :param logs: directory for console.log and qemu.log; the console of a first boot in vain is console-1.log.
    :param backing: memory and disks; by default they have no names, and are gone with the guest.
    :raises QemuLaunchError: when QEMU does not run.
    :raises BootError: when the guest does not come up; with the console's last lines.
    """
    with ExitStack() as stack:
        try:
            guest = stack.enter_context(_boot(plan, logs, deadline, backing, SILENT_S))
        except SilentBootError as error:
            note(f"{error.message.splitlines()[0]}; booting it once more")
            (logs / CONSOLE_FILE).rename(logs / FIRST_CONSOLE_FILE)
            guest = replace(stack.enter_context(_boot(plan, logs, deadline, backing, math.inf)), boots=2)
        yield guest


@contextmanager
def _boot(
    plan: GuestPlan, logs: Path, deadline: Deadline, backing: Backing | None, silence_s: float
) -> Iterator[Guest]:
    budget = deadline.sub(BOOT_BUDGET_S[plan.machine.accelerator])
    with ExitStack() as stack:
        qemu = stack.enter_context(
            start_qemu(plan.machine, qemu_log=logs / QEMU_FILE, deadline=budget, backing=backing)
        )
        console = stack.enter_context(start_console(qemu.console, logs / CONSOLE_FILE))
        console.wait_until_says(_UP, budget, silence_s)
        try:
            ssh = stack.enter_context(start_ssh(qemu.ssh_port(budget), plan.keys, budget))
        except (GuestLostError, DeadlineExceeded) as error:
            title = console.panic_title() or error.message
            raise BootError(title, console.tail()) from error
        _LOG.debug("guest answers on port %d", ssh.port)
        yield Guest(plan.machine, qemu, console, ssh, qemu.vcpu_threads(budget))
