"""Guests in virtual time: how their template is frozen, and clones that run in lock-step until the host is let in.

Owns the life of such a guest. Nothing comes into it from outside: no packet, no character, no answer of a device, and
no command of QEMU's monitor, until `ClosedGuest.let_in`. What it does is then a function of its template and of what
`Beginning` says.
"""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from splvm.deadline import Deadline, poll
from splvm.errors import BootError, DeadlineExceeded, GuestLostError
from splvm.guest.bell import Beginning, Bell, open_bell
from splvm.guest.cover import Coverer
from splvm.guest.guestplan import GuestPlan
from splvm.guest.hold import open_hold
from splvm.guest.machine import Backing, closed_args, escaped
from splvm.guest.moment import Counter
from splvm.guest.qemu import Emulator, initrd_memfd, launch
from splvm.guest.ssh import Ssh, SshKeys, start_ssh
from splvm.host.schedstat import read_cpu_s, read_state
from splvm.record.names import CONSOLE_FILE, QEMU_FILE

# In the directory of a template: the state of its devices, and the memory that is shared with the host.
STATE_FILE = "state"
SHARED_FILE = "shared"

# Seconds of the host for a boot in virtual time: 5 on an idle host.
BOOT_S = 120.0
# And until the network is open.
_OPEN_S = 60.0


@dataclass(frozen=True, slots=True)
class ClosedGuest:
    """A guest in virtual time."""

    emulator: Emulator
    bell: Bell
    keys: SshKeys
    # The log of all that it says.
    console: Path

    @contextmanager
    def ssh(self, deadline: Deadline) -> Iterator[Ssh]:
        """A connection to it, once it was let in.

        :raises GuestLostError: when it does not answer.
        """

        def connect() -> ExitStack | None:
            with ExitStack() as stack:
                try:
                    connected.append(stack.enter_context(start_ssh(port, self.keys, deadline.sub(_OPEN_S))))
                except GuestLostError:
                    return None
                return stack.pop_all()

        connected: list[Ssh] = []
        port = self.emulator.ssh_port(deadline)
        # SLIRP takes a connection before anybody listens in the guest, and then closes it.
        with poll(connect, deadline.sub(_OPEN_S), "SSH to a guest that was let in", interval_s=0.2):
            yield connected[-1]

    def let_in_words(self) -> str:
        """What its script for that needs, see images/guest/open."""
        parts = (self.keys.identity.with_suffix(".pub"), self.keys.private_host_key)
        return " ".join("".join(f"\\{byte:03o}" for byte in path.read_bytes()) for path in parts)


def freeze_closed(plan: GuestPlan, backing: Backing, tree: Path, logs: Path, deadline: Deadline) -> None:
    """Boot a guest in virtual time, and freeze it at the instruction by which its agent says that it is ready.

    Nothing comes into it before that. So equal inputs give equal templates, byte for byte.

    :param backing: its memory, which becomes the template's.
    :param tree: where its state is put.
    :raises BootError: when it does not come up.
    :raises LateStopError: when it was not stopped there.
    """
    budget = deadline.sub(BOOT_S)
    with ExitStack() as stack:
        hold, hold_there = stack.enter_context(open_hold())
        guest = stack.enter_context(_started(plan, backing, logs, budget, hold=hold_there))
        try:
            guest.emulator.go_on(budget)
            hold.wait(budget)
        except (DeadlineExceeded, GuestLostError) as error:
            said = f"{error.message}: {guest.emulator.log_tail(5)}"
            raise BootError(said, guest.console.read_text(errors="replace")[-3000:]) from error
        hold.stop(guest.emulator, deadline)
        guest.emulator.save(tree / STATE_FILE, deadline)
        (tree / STATE_FILE).write_bytes(without_host_clock((tree / STATE_FILE).read_bytes()))
        (tree / SHARED_FILE).write_bytes(guest.bell.content())


# The head of the section `timer` of version 2 in a state of QEMU (system/cpu-timers.c, vmstate_timers): what it is, its
# number, its name, instance and version. It begins with the ticks of the host, 8 bytes that are not used, and the
# nanoseconds of the host for which the guest has run.
_TIMER = re.compile(rb"(\x04....\x05timer\0\0\0\0\0\0\0\x02).{8}(.{8}).{8}", re.DOTALL)


def without_host_clock(state: bytes) -> bytes:
    """A state of QEMU without the two readings of the host's clocks in it: where instructions are time, nobody asks for
    them. All else in it is the guest's.
    """
    return _TIMER.sub(rb"\1" + bytes(8) + rb"\2" + bytes(8), state, count=1)


@contextmanager
def start_closed(
    plan: GuestPlan,
    backing: Backing,
    template: Path,
    beginning: Beginning,
    logs: Path,
    deadline: Deadline,
    counter: Counter | None = None,
    coverer: Coverer | None = None,
) -> Iterator[ClosedGuest]:
    """A clone that runs to its first bell; nothing of it is left after the block.

    :param backing: a private view of the template's memory.
    :param template: its directory. Its console is put in front of the clone's.
    :param logs: directory for console.log and qemu.log.
    :param counter: of its instructions; None: nobody counts them.
    :param coverer: notes which of them are executed; None: nobody does.
    :raises QemuLaunchError: when QEMU does not run.
    :raises GuestLostError: when the template cannot be restored.
    """
    shutil.copyfile(template / CONSOLE_FILE, logs / CONSOLE_FILE)
    with _started(plan, backing, logs, deadline, counter=counter, coverer=coverer) as guest:
        guest.bell.prepare((template / SHARED_FILE).read_bytes(), beginning)
        guest.emulator.restore(template / STATE_FILE, deadline, announce=False)
        yield guest


@contextmanager
def _started(
    plan: GuestPlan,
    backing: Backing,
    logs: Path,
    deadline: Deadline,
    *,
    hold: socket.socket | None = None,
    counter: Counter | None = None,
    coverer: Coverer | None = None,
) -> Iterator[ClosedGuest]:
    """QEMU with a guest that has not begun.

    :param hold: the plugin's end of its socket, for a guest that is booted; without one its state is going to be read.
    """
    restored = hold is None
    with ExitStack() as stack:
        bell, bell_there, shared = stack.enter_context(open_bell())
        here, there = map(stack.enter_context, socket.socketpair())
        initrd = stack.enter_context(initrd_memfd(() if restored else plan.machine.initrds))
        argv = closed_args(
            plan.machine,
            initrd=f"/proc/self/fd/{initrd}",
            qmp_fd=there.fileno(),
            bell_fd=bell_there.fileno(),
            shared=f"/proc/self/fd/{shared}",
            console=escaped(logs / CONSOLE_FILE),
            backing=backing,
            hold_fd=hold.fileno() if hold else None,
            restored=restored,
        )
        plugins = [it for it in (counter, coverer) if it is not None]
        argv += [word for plugin in plugins for word in plugin.args()]
        theirs = [*([hold.fileno()] if hold else []), *(fd for plugin in plugins for fd in plugin.inherited)]
        inherited = (there.fileno(), bell_there.fileno(), shared, initrd, *theirs)
        emulator = stack.enter_context(launch(argv, (here, there), inherited, logs / QEMU_FILE, deadline))
        # The other ends are QEMU's alone, so that its end is seen here.
        bell_there.close()
        if hold:
            hold.close()
        if counter:
            counter.launched()
            bell.expect_moment(counter.socket)
        pid = emulator.process.pid
        bell.watch(lambda: read_cpu_s(pid), lambda: read_state(pid) in ("T", "t"))
        # While a guest is held, QEMU hears nothing.
        stack.callback(bell.hang_up)
        yield ClosedGuest(emulator, bell, plan.keys, logs / CONSOLE_FILE)
