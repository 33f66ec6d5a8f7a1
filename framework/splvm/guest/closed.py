"""Guests in virtual time: how their template is frozen, and clones that run in lock-step until the host is let in.

Owns the life of such a guest. Nothing comes into it from outside: no packet, no character, no answer of a device, and
no command of QEMU's monitor, until `ClosedGuest.let_in`. What it does is then a function of its template and of what
`Beginning` says.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from splvm.deadline import Deadline, poll
from splvm.errors import BootError, DeadlineExceeded, GuestLostError
from splvm.guest.bell import Beginning, Bell, open_bell
from splvm.guest.guestplan import GuestPlan
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
    """Boot a guest in virtual time, and freeze it while its agent polls: an idle guest would leap through time.

    :param backing: its memory, which becomes the template's.
    :param tree: where its state is put.
    :raises BootError: when it does not come up.
    """
    budget = deadline.sub(BOOT_S)
    with _started(plan, backing, logs, budget, restored=False) as guest:

        def ready() -> bool | None:
            if guest.emulator.exit_code() is not None:
                raise GuestLostError(f"QEMU ended: {guest.emulator.log_tail(5)}")
            return guest.bell.is_ready() or None

        try:
            poll(ready, budget, "a guest in virtual time")
        except (DeadlineExceeded, GuestLostError) as error:
            raise BootError(error.message, guest.console.read_text(errors="replace")[-3000:]) from error
        guest.emulator.freeze(tree / STATE_FILE, deadline)
        (tree / SHARED_FILE).write_bytes(guest.bell.content())


@contextmanager
def start_closed(
    plan: GuestPlan,
    backing: Backing,
    template: Path,
    beginning: Beginning,
    logs: Path,
    deadline: Deadline,
    counter: Counter | None = None,
) -> Iterator[ClosedGuest]:
    """A clone that runs to its first bell; nothing of it is left after the block.

    :param backing: a private view of the template's memory.
    :param template: its directory. Its console is put in front of the clone's.
    :param logs: directory for console.log and qemu.log.
    :param counter: of its instructions; None: nobody counts them.
    :raises QemuLaunchError: when QEMU does not run.
    :raises GuestLostError: when the template cannot be restored.
    """
    shutil.copyfile(template / CONSOLE_FILE, logs / CONSOLE_FILE)
    with _started(plan, backing, logs, deadline, restored=True, counter=counter) as guest:
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
    restored: bool,
    counter: Counter | None = None,
) -> Iterator[ClosedGuest]:
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
            restored=restored,
        )
        argv += counter.args() if counter else []
        inherited = (there.fileno(), bell_there.fileno(), shared, initrd, *(counter.inherited if counter else ()))
        emulator = stack.enter_context(launch(argv, (here, there), inherited, logs / QEMU_FILE, deadline))
        # The other end is QEMU's alone, so that its end is seen here.
        bell_there.close()
        if counter:
            counter.launched()
            bell.expect_moment(counter.socket)
        pid = emulator.process.pid
        bell.watch(lambda: read_cpu_s(pid), lambda: read_state(pid) in ("T", "t"))
        # While a guest is held, QEMU hears nothing.
        stack.callback(bell.hang_up)
        yield ClosedGuest(emulator, bell, plan.keys, logs / CONSOLE_FILE)
