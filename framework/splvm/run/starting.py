"""How an experiment comes by its guest: a clone if there can be one, else by a boot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

from splvm.deadline import Deadline
from splvm.errors import HarnessError
from splvm.guest.guest import BOOT_BUDGET_S, Guest, start_guest
from splvm.guest.machine import MachineSpec
from splvm.guest.ssh import SshKeys
from splvm.guest.template import Template, Templates, start_clone
from splvm.log import note, step
from splvm.record.names import CONSOLE_FILE, QEMU_FILE

# Seconds for a template beyond the boot.
_TEMPLATE_S = 60.0


class Start(StrEnum):
    """How a guest comes about."""

    # Booted.
    BOOT = "boot"
    # A clone of a template without SPL: the modules are loaded in the clone. For a build that is used once.
    BASE = "base"
    # A clone of a template that has them.
    LOADED = "loaded"


@contextmanager
def start_any_guest(
    spec: MachineSpec,
    keys: SshKeys,
    modules: Sequence[Path],
    logs: Path,
    deadline: Deadline,
    start: Start,
    setup: str = "",
) -> Iterator[Guest]:
    """A guest; nothing of it is left after the block. `load_modules` does what it was not cloned with.

    A template that cannot be made or used is no reason to fail: the guest is booted then, and says why.

    :param modules: that a template may have.
    :param setup: a command that may have been run in it.
    :param logs: directory for console.log and qemu.log; those of a clone in vain are clone-console.log, clone-qemu.log.
    :raises QemuLaunchError: when QEMU does not run.
    :raises BootError: when the guest does not come up; with the console's last lines.
    """
    with ExitStack() as stack:
        reason = ""
        guest = None
        if start is not Start.BOOT:
            try:
                inside = (modules, setup) if start is Start.LOADED else ((), "")
                guest = _clone(stack, spec, keys, *inside, logs, deadline)
            except HarnessError as error:
                reason = error.message
        if guest is None:
            if reason:
                note(f"no clone: {reason.splitlines()[0]}; booting instead")
            with step(f"booting a guest ({spec.accelerator})"):
                guest = stack.enter_context(start_guest(spec, keys, logs, deadline))
            guest = replace(guest, no_clone=reason)
        yield guest


def load_modules(guest: Guest, modules: Sequence[Path], deadline: Deadline, setup: str = "") -> None:
    """Load what the guest was not cloned with, and run a command if it was not cloned with that.

    :raises GuestCommandError: when the kernel refuses one, or the command fails; the message has its own words.
    :raises GuestLostError: when the guest goes.
    """
    for module in modules:
        if module not in guest.modules:
            guest.insert_module(module, deadline=deadline.sub(60))
    if setup and guest.setup != setup:
        guest.ssh.run(setup, deadline=deadline.sub(60))


def _clone(
    stack: ExitStack,
    spec: MachineSpec,
    keys: SshKeys,
    modules: Sequence[Path],
    setup: str,
    logs: Path,
    deadline: Deadline,
) -> Guest:
    templates = Templates.default()
    template = templates.get(spec, keys, modules, deadline.sub(BOOT_BUDGET_S[spec.accelerator] + _TEMPLATE_S), setup)
    try:
        return stack.enter_context(start_clone(template, spec, keys, logs, deadline))
    except HarnessError:
        _put_aside(template, templates, logs, deadline)
        raise


def _put_aside(template: Template, templates: Templates, logs: Path, deadline: Deadline) -> None:
    """A template whose clone did not come up is of no use; and its logs are not those of the guest that is booted."""
    for name in (CONSOLE_FILE, QEMU_FILE):
        if (logs / name).exists():
            (logs / name).rename(logs / f"clone-{name}")
    templates.forget(template, deadline)
