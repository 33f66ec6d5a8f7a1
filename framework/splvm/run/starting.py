"""How an experiment comes by its guest: a clone if there can be one, else by a boot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from splvm.deadline import Deadline
from splvm.errors import HarnessError
from splvm.guest.guest import BOOT_BUDGET_S, Guest, start_guest
from splvm.guest.guestplan import GuestPlan, Start
from splvm.guest.template import Template, Templates, start_clone
from splvm.log import note, step
from splvm.record.names import CONSOLE_FILE, QEMU_FILE

# Seconds for a template beyond the boot.
_TEMPLATE_S = 60.0


@contextmanager
def start_any_guest(plan: GuestPlan, logs: Path, deadline: Deadline) -> Iterator[Guest]:
    """A guest; nothing of it is left after the block. `load_modules` does what it was not cloned with.

    If a template cannot be made or used, the guest is booted, and `no_clone` has the reason.

    :param logs: directory for console.log and qemu.log; those of a clone in vain are clone-console.log, clone-qemu.log.
    :raises QemuLaunchError: when QEMU does not run.
    :raises BootError: when the guest does not come up; with the console's last lines.
    """
    with ExitStack() as stack:
        reason = ""
        guest = None
        if plan.start is not Start.BOOT:
            try:
                guest = _clone(stack, plan if plan.start is Start.LOADED else plan.bare, logs, deadline)
            except HarnessError as error:
                reason = error.message
        if guest is None:
            if reason:
                note(f"no clone: {reason.splitlines()[0]}; booting instead")
            with step(f"booting a guest ({plan.machine.accelerator})"):
                guest = stack.enter_context(start_guest(plan, logs, deadline))
            guest = replace(guest, no_clone=reason)
        yield guest


def load_modules(guest: Guest, plan: GuestPlan, deadline: Deadline) -> None:
    """Load what the guest was not cloned with, and run the plan's command if it was not cloned with that.

    :raises GuestCommandError: when the kernel refuses one, or the command fails; the message has its own words.
    :raises GuestLostError: when the guest goes.
    """
    for module in plan.modules:
        if module not in guest.modules:
            guest.insert_module(module, deadline=deadline.sub(60))
    if plan.setup and guest.setup != plan.setup:
        guest.ssh.run(plan.setup, deadline=deadline.sub(60))


def _clone(stack: ExitStack, plan: GuestPlan, logs: Path, deadline: Deadline) -> Guest:
    templates = Templates.default()
    budget = deadline.sub(BOOT_BUDGET_S[plan.machine.accelerator] + _TEMPLATE_S)
    template = None
    try:
        with templates.using(plan, budget) as template:
            return stack.enter_context(start_clone(template, plan, logs, deadline))
    except HarnessError:
        if template is not None:
            _put_aside(template, templates, logs, deadline)
        raise


def _put_aside(template: Template, templates: Templates, logs: Path, deadline: Deadline) -> None:
    """A template whose clone did not come up is of no use; and its logs are not those of the guest that is booted."""
    for name in (CONSOLE_FILE, QEMU_FILE):
        if (logs / name).exists():
            (logs / name).rename(logs / f"clone-{name}")
    templates.forget(template, deadline)
