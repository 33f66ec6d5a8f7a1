"""A run in virtual time: a clone in lock-step to the end of its stream, and then what is asked of it from outside.

What the guest leaves until the end of the stream is what its digest is made of. Whatever is taken after that depends on
the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splvm.deadline import Deadline
from splvm.errors import DeadlineExceeded, EvidenceError, GuestCommandError, GuestLostError, HarnessError
from splvm.evidence.diagnosis import CpuSign, Signs, diagnose, parse_registers
from splvm.evidence.formats.kerncomplaints import FindingKind
from splvm.evidence.formats.kernlog import scan_kernel_log
from splvm.evidence.formats.stream import Frame
from splvm.guest.bell import Beginning
from splvm.guest.closed import BOOT_S, ClosedGuest, start_closed
from splvm.guest.cover import Coverer
from splvm.guest.guestplan import GuestPlan
from splvm.guest.lockstep import LockStep
from splvm.guest.moment import Counter, MomentReached
from splvm.guest.template import Templates
from splvm.log import LOGGER
from splvm.record.names import REGISTERS_FILE, SYSRQ_FILE
from splvm.record.writer import RunDirectory
from splvm.run.live import LiveReadings

# Keys of SysRq for the end of a window in which something stands still: blocked tasks, memory, CPUs, all tasks. The
# answer to the last comes after the lists, and shows that they are whole.
_LISTS = "wmlth"
_REGISTERS_S = 5.0

# Seconds of the host for what is read over SSH in the end, and the same of a guest in which something stands still.
_OUTSIDE_S = 100.0
_STANDING_S = 30.0

# The lowest priority of the guest's takes nothing from anybody; busybox has nice.
_BUSY = "nice -n 19 sh -c 'while :; do :; done' < /dev/null > /dev/null 2>&1 &"

# One command, for each costs a tenth of a second: the run's word, the slab file, and SPL's parameters.
_BETWEEN = "splvm: parameters\n"
_FROM_OUTSIDE = (
    "set -e; echo splvm: run {token} > /dev/kmsg; cat /proc/spl/kmem/slab; "
    f"echo {_BETWEEN.strip()}; cd /sys/module/spl/parameters; grep . * || :"
)


@dataclass(frozen=True, slots=True)
class Witness:
    """Who looks on at a run in virtual time. Nothing that a witness does is seen by the guest."""

    # Called with each frame, while the guest is held at the bell that brought it.
    hear: Callable[[Frame], None] = lambda _: None
    # Counts the guest's instructions; None: nobody does.
    counter: Counter | None = None
    # Notes what is executed; None: nobody does.
    coverer: Coverer | None = None
    # Called when the counter holds the guest at a moment; the run ends there.
    at_moment: Callable[[ClosedGuest, LockStep, Deadline], None] | None = None


@contextmanager
def let_in_early(guest: ClosedGuest, agent: LockStep, deadline: Deadline) -> Iterator[int]:
    """Let a guest that was stopped at a moment go on, and the host in; it does not idle meanwhile.

    Its threads are left as they are: what is held stays held.

    :returns: the port of the host's that leads to its sshd.
    :raises GuestLostError: when it does not answer.
    """
    guest.emulator.go_on(deadline)
    if not agent.quit(deadline):
        raise GuestLostError("the agent did not finish its stream: no end came")
    agent.let_in(guest.let_in_words())
    with guest.ssh(deadline) as ssh:
        # Its clock would leap to the next timer, and again, faster than anybody can type.
        ssh.run(_BUSY, deadline=deadline)
        yield guest.emulator.ssh_port(deadline)


@contextmanager
def start_closed_clone(
    plan: GuestPlan,
    beginning: Beginning,
    record: RunDirectory,
    deadline: Deadline,
    witness: Witness | None = None,
) -> Iterator[ClosedGuest]:
    """A clone of the plan's template, which is made first if it is missing.

    :raises HarnessError: when there can be none. It is not booted instead: a boot is no function of a seed.
    """
    templates = Templates.default()
    template = None
    with ExitStack() as stack:
        try:
            with templates.using(plan, deadline.sub(BOOT_S)) as template:
                backing, directory = template.backing(plan.machine, shared=False), template.directory
                watched = (witness.counter, witness.coverer) if witness else (None, None)
                guest = stack.enter_context(
                    start_closed(plan, backing, directory, beginning, record.path, deadline, *watched)
                )
        except HarnessError:
            # Perhaps it is of no use. It is made anew for the next run, unless another run starts from it now.
            if template is not None:
                templates.forget(template, deadline)
            raise
        record.add_facts({"boots": 0, "template": template.name, "no_clone": ""})
        yield guest


def drive(
    guest: ClosedGuest,
    record: RunDirectory,
    live: LiveReadings,
    take_steps: Callable[[LockStep, Callable[[], None]], None],
    deadline: Deadline,
    witness: Witness | None = None,
) -> dict[str, Any]:
    """Go through a run's steps, and then let the host in.

    :param take_steps: given the agent, and what lists the guest's tasks.
    :returns: how it ended.
    :raises MomentReached: when the witness's counter holds the guest at a moment; the witness was called then.
    """

    def take(frame: Frame, path: str) -> None:
        live.take(frame, path)
        if witness is not None:
            witness.hear(frame)

    agent = LockStep(guest.bell, take, deadline)
    outcome: dict[str, Any] = {"kind": "ended", "detail": "all steps were taken"}
    try:
        take_steps(agent, lambda: _list_tasks(agent, guest.console, record))
        if not agent.quit(deadline):
            raise GuestLostError("the agent did not finish its stream: no end came")
        said = guest.console.stat().st_size
        agent.let_in(guest.let_in_words())
    except MomentReached:
        if witness is not None and witness.at_moment is not None:
            witness.at_moment(guest, agent, deadline)
        raise
    except (GuestLostError, DeadlineExceeded, EvidenceError) as error:
        LOGGER.debug("lost: %s", error)
        outcome = _look_into(guest, record, error)
        said = guest.console.stat().st_size
    else:
        try:
            _look_from_outside(guest, record, deadline.sub(_STANDING_S if live.stands_still else _OUTSIDE_S))
        except (GuestLostError, GuestCommandError, DeadlineExceeded) as error:
            # A guest that stands still may let nobody in. That the record lacks what is read there takes a good verdict
            # away, and no bad one.
            LOGGER.debug("it lets nobody in: %s", error)
            record.record_look("afterwards", {"text": f"it lets nobody in: {error.message}"[:1000], "taken": []})
    return {**outcome, "closed_bytes": said}


def _list_tasks(agent: LockStep, console: Path, record: RunDirectory) -> None:
    """Have the kernel list what stands still, and keep that apart from the console as well."""
    start = console.stat().st_size
    agent.list_tasks(_LISTS)
    with console.open("rb") as said, (record.path / SYSRQ_FILE).open("ab") as kept:
        said.seek(start)
        kept.write(said.read())
    taken = {"what": "sysrq", "ok": True, "detail": "by the agent"}
    record.record_look("the end of the window", {"taken": [taken]})


def _look_from_outside(guest: ClosedGuest, record: RunDirectory, deadline: Deadline) -> None:
    """The slab file and SPL's parameters over SSH, and the run's own word on the console, as in real time.

    The word is another one in each run, so the guest must not have it before its digest is made.
    """
    with guest.ssh(deadline) as ssh:
        script = _FROM_OUTSIDE.format(token=record.facts["token"])
        slab, _, listing = ssh.run(script, deadline=deadline).stdout.partition(_BETWEEN)
    pairs = (line.partition(":")[::2] for line in listing.splitlines()[:200])
    record.add_facts({"spl_parameters": {name: value[:200] for name, value in pairs}})
    record.record_afterwards("slab", slab)


def _look_into(guest: ClosedGuest, record: RunDirectory, error: HarnessError) -> dict[str, Any]:
    """What became of a guest that rings no more: a panic has ended QEMU, or the registers say where it is."""
    ended = guest.emulator.wait_until_ended(Deadline(1))
    said = guest.console.read_text(errors="replace")
    panics = [it.title for it in scan_kernel_log(said) if it.kind is FindingKind.PANIC]
    cpus: tuple[CpuSign, ...] = ()
    if ended is None:
        try:
            registers = guest.emulator.registers(Deadline(_REGISTERS_S))
            (record.path / REGISTERS_FILE).write_text(registers, encoding="utf-8", errors="backslashreplace")
            cpus = parse_registers(registers)
        except HarnessError as trouble:
            LOGGER.debug("registers: %s", trouble)
    found = diagnose(Signs(panic=panics[0] if panics else "", exit_code=ended, qmp_status="running", cpus=cpus))
    return {"kind": "lost", "condition": found.condition, "detail": f"{error.message}; {found.text}"}
