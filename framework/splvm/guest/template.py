"""Templates: guests that were booted once and frozen; and their clones, which go on from there.

A template is an artefact of a store of its own, on a memory file system where there is room: the guest's memory as a
file, and the state of its devices. A clone maps the file copy on write, so that what clones do not write they share.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from splvm.clock import Clock
from splvm.deadline import Deadline
from splvm.errors import BootError, DeadlineExceeded, GuestLostError
from splvm.guest.agent import AGENT_PATH, PORT_FILE
from splvm.guest.closed import STATE_FILE, freeze_closed
from splvm.guest.console import start_console
from splvm.guest.disks import make_disk
from splvm.guest.guest import Guest, start_guest
from splvm.guest.guestplan import GuestPlan
from splvm.guest.machine import Backing, MachineSpec, closed_args, qemu_args
from splvm.guest.qemu import start_qemu
from splvm.guest.ssh import start_ssh
from splvm.host.content import Input, input_hash
from splvm.host.memory import available_mib
from splvm.host.process import find_program, run
from splvm.host.store import Store
from splvm.record.names import CONSOLE_FILE, QEMU_FILE

RECIPE = 4

# Digits of that in the name of a template.
_WORD = 16

# What images/guest/agent_clone.c says.
_SETTLED = "splvm: guest has settled"
_AWAKE = "splvm: clone is awake"

# Bytes of seed for a clone's random state: what the kernel's has (SEED_LEN in images/guest/agent_clone.c).
_SEED_BYTES = 64

# Seconds that a clone may take until it answers: on an idle host here it is a third of one.
CLONE_BUDGET_S = 30.0

# MiB of all templates that are kept, and the part of the memory available that they may take at most. One of a guest
# with 512 MiB takes 100 to 200 of them at first; it grows as clones read what it has holes for (mm/shmem.c).
_KEEP_MIB = 4096
_KEEP_SHARE = 0.25

# Bytes that have to be free on the memory file system.
_ROOM_BYTES = 2 << 30

_MEMORY_FILE_SYSTEM = Path("/dev/shm")
# In a directory of templates: the store that it belongs to.
_OWNER = "store"


@dataclass(frozen=True, slots=True)
class Template:
    """A frozen guest, in a directory that nobody writes to."""

    directory: Path
    key: str
    # Kernel modules that are loaded in it, and the command that was run after that.
    modules: tuple[Path, ...] = ()
    setup: str = ""
    # Hash of all that is in it.
    content: str = ""

    def backing(self, spec: MachineSpec, *, shared: bool) -> Backing:
        """Its memory, and its disks."""
        disks = tuple(self.directory / f"disk{number}" for number in range(len(spec.disks)))
        return Backing(self.memory, disks, shared)

    @property
    def memory(self) -> Path:
        return self.directory / "memory"

    @property
    def state(self) -> Path:
        return self.directory / STATE_FILE

    @property
    def name(self) -> str:
        """Of this frozen state: its key, and a word that stands for its memory and the state of its devices.

        In virtual time equal inputs give an equal state, in whichever store it is made.
        """
        return f"{self.key}-{self.content[:_WORD]}"

    @property
    def console(self) -> Path:
        """All that it said until it was frozen."""
        return self.directory / CONSOLE_FILE


class Templates:
    """The templates of one store. Those that were not used for longest go when there is no room.

    :param store: the store that has them.
    :param keep_bytes: bytes that all templates may take; the template in use stays.
    """

    def __init__(self, store: Store, keep_bytes: int) -> None:
        self._store = store
        self._keep_bytes = keep_bytes

    @classmethod
    def default(cls) -> Templates:
        """In $SPLVM_TEMPLATES; else on the memory file system, a directory for each store; else in the store.

        :raises SetupError: when the directory cannot be made.
        """
        owner = Store.default_root().absolute()
        root = _find_root(owner)
        store = Store(root)
        with suppress(OSError):
            (root / _OWNER).write_text(str(owner))
        return cls(store, min(_KEEP_MIB, int(available_mib() * _KEEP_SHARE)) << 20)

    def get(self, plan: GuestPlan, deadline: Deadline, key: str = "") -> Template:
        """The template of a guest with the modules of the plan loaded and its command run; it is made if it is missing.

        :param key: `template_key` of the plan, where it is known.
        :raises HarnessError: when it cannot be made.
        """
        key = key or template_key(plan)

        def build(tree: Path) -> None:
            with self._store.temporary() as logs:
                if plan.machine.clock is Clock.VIRTUAL:
                    freeze_closed(plan, _fresh_backing(plan, tree, deadline), tree, logs, deadline)
                elif plan.modules:
                    with self.using(plan.bare, deadline) as base:
                        _freeze_clone(base, plan, logs, tree, deadline)
                else:
                    _freeze_boot(plan, logs, tree, deadline)
                shutil.copyfile(logs / CONSOLE_FILE, tree / CONSOLE_FILE)

        what = f"template of a guest{' with ' if plan.modules else ''}{', '.join(path.name for path in plan.modules)}"
        what += f", {plan.setup}" if plan.setup else ""
        kept = self._store.get("template", key, build, deadline=deadline, what=what)
        self._store.trim("template", self._keep_bytes, used=key)
        return Template(kept.path, key, plan.modules, plan.setup, self._store.content(kept))

    @contextmanager
    def using(self, plan: GuestPlan, deadline: Deadline) -> Iterator[Template]:
        """The same, and nobody removes it before the end of the block. A clone that has started needs it no longer."""
        key = template_key(plan)
        with self._store.using("template", key, deadline=deadline, what="template of a guest"):
            yield self.get(plan, deadline, key)

    def forget(self, template: Template, deadline: Deadline) -> None:
        """Remove a template that is of no use; the next `get` makes it anew. One that somebody else uses stays."""
        self._store.forget("template", template.key, deadline=deadline, what="template of a guest")


def template_key(plan: GuestPlan) -> str:
    """Hash of everything that goes into a template, QEMU itself among it."""
    named = replace(plan.machine, qemu="qemu", kernel=Path("kernel"))
    backing = Template(Path(), "").backing(plan.machine, shared=False)
    if plan.machine.clock is Clock.VIRTUAL:
        argv = closed_args(named, initrd="initrd", qmp_fd=0, bell_fd=0, shared="", console="", backing=backing)
    else:
        argv = qemu_args(named, initrd="initrd", qmp_fd=0, console_fd=0, port_fd=0, backing=backing)
    inputs: dict[str, Input] = {
        "recipe": RECIPE,
        "qemu": Path(find_program(plan.machine.qemu)),
        "argv": argv,
        "disks": [[disk.mib, disk.content] for disk in plan.machine.disks],
        "kernel": plan.machine.kernel,
        "initrds": plan.machine.initrds,
        # In virtual time it comes later.
        **({"host_key": plan.keys.host_key} if plan.machine.clock is Clock.REAL else {}),
        **({"holder": plan.machine.holder} if plan.machine.holder else {}),
        "modules": [{"name": path.name, "content": path} for path in plan.modules],
        **({"setup": plan.setup} if plan.setup else {}),
    }
    return input_hash(inputs)


def _find_root(owner: Path) -> Path:
    named = os.environ.get("SPLVM_TEMPLATES")
    if named:
        return Path(named).expanduser()
    prefix = f"splvm-{os.getuid()}-"
    _sweep(prefix)
    with suppress(OSError):
        room = shutil.disk_usage(_MEMORY_FILE_SYSTEM).free
        if room >= _ROOM_BYTES:
            root = _MEMORY_FILE_SYSTEM / f"{prefix}{sha256(str(owner).encode()).hexdigest()[:12]}"
            # A guest's memory has its private host key in it.
            root.mkdir(mode=0o700, exist_ok=True)
            if _is_own(root):
                return root
    return owner / "templates"


def _is_own(root: Path) -> bool:
    """Everybody may make a directory there, also one of our name: it has to be ours, and open to nobody else."""
    info = root.lstat()
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and not stat.S_IMODE(info.st_mode) & 0o077


def _sweep(prefix: str) -> None:
    """Remove templates of stores that are gone: they take memory, and nobody would find them."""
    for path in _MEMORY_FILE_SYSTEM.glob(f"{prefix}*"):
        with suppress(OSError):
            if _is_own(path) and not Path((path / _OWNER).read_text()).is_dir():
                shutil.rmtree(path, ignore_errors=True)


def _fresh_backing(plan: GuestPlan, tree: Path, deadline: Deadline) -> Backing:
    """Memory and disks of a guest that is going to be booted and frozen."""
    backing = Template(tree, "").backing(plan.machine, shared=True)
    for disk, path in zip(plan.machine.disks, backing.disks, strict=True):
        path.touch()
        make_disk(disk, path, deadline)
    return backing


def _freeze_boot(plan: GuestPlan, logs: Path, tree: Path, deadline: Deadline) -> None:
    backing = _fresh_backing(plan, tree, deadline)
    with start_guest(plan, logs, deadline, backing) as guest:
        _freeze(guest, tree, deadline)


def _freeze_clone(base: Template, plan: GuestPlan, logs: Path, tree: Path, deadline: Deadline) -> None:
    """A template from a clone of another one, which spares a boot."""
    there = base.backing(plan.machine, shared=False)
    copy = ["cp", "--sparse=always", "--reflink=auto", "--", *map(str, (base.memory, *there.disks)), str(tree)]
    run(copy, deadline=deadline, what="copying the memory of a template")
    backing = Template(tree, "").backing(plan.machine, shared=True)
    with start_clone(base, plan, logs, deadline, backing) as guest:
        for module in plan.modules:
            guest.insert_module(module, deadline=deadline)
        if plan.setup:
            guest.ssh.run(plan.setup, deadline=deadline)
        _freeze(guest, tree, deadline)


def _freeze(guest: Guest, tree: Path, deadline: Deadline) -> None:
    """With nothing on its way: no connection is open, and the console has said all it had to say."""
    since = guest.console.position
    guest.ssh.run(f"{AGENT_PATH} --settle --port {PORT_FILE}", deadline=deadline)
    guest.ssh.close()
    if not guest.console.says(_SETTLED, deadline.sub(CLONE_BUDGET_S), since=since):
        raise BootError(f"it did not say {_SETTLED!r}", guest.console.tail())
    guest.qemu.stop(deadline)
    guest.qemu.save(tree / STATE_FILE, deadline)


@contextmanager
def start_clone(
    template: Template,
    plan: GuestPlan,
    logs: Path,
    deadline: Deadline,
    backing: Backing | None = None,
) -> Iterator[Guest]:
    """A clone that has answered on SSH and on its console; nothing of it is left after the block.

    Its clock is the host's, and its random state its own. Host key and machine are those of all clones.

    :param plan: the plan of the template.
    :param logs: directory for console.log, which begins with what the template said, and qemu.log.
    :param backing: instead of a private view of the template's.
    :raises QemuLaunchError: when QEMU does not run.
    :raises GuestLostError: when the template cannot be restored, or the clone does not answer.
    """
    budget = deadline.sub(CLONE_BUDGET_S)
    backing = backing or template.backing(plan.machine, shared=False)
    with ExitStack() as stack:
        qemu = stack.enter_context(
            start_qemu(plan.machine, qemu_log=logs / QEMU_FILE, deadline=budget, backing=backing, restored=True)
        )
        said = template.console.read_bytes()
        console = stack.enter_context(start_console(qemu.console, logs / CONSOLE_FILE, said))
        try:
            port = qemu.ssh_port(budget)
            qemu.restore(template.state, budget)
            # It wakes while SSH connects. The port takes a line at once.
            qemu.port.sendall(f"wake {time.time():.0f} {secrets.token_hex(_SEED_BYTES)}\n".encode())
            ssh = stack.enter_context(start_ssh(port, plan.keys, budget))
        except (GuestLostError, DeadlineExceeded) as error:
            title = console.panic_title() or error.message
            raise GuestLostError(f"a clone did not come up: {title}") from error
        if not console.says(_AWAKE, budget, since=len(said)):
            raise GuestLostError(f"a clone did not say {_AWAKE!r} on its console:\n{console.tail(5)}")
        yield Guest(
            plan.machine,
            qemu,
            console,
            ssh,
            qemu.vcpu_threads(budget),
            boots=0,
            template=template.key,
            modules=template.modules,
            setup=template.setup,
        )
