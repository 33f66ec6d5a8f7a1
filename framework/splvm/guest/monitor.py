"""One monitor per guest: tells what has become of it, and takes the evidence that no agent can give any more.

Owns the order of escalation. Each step asks a channel that needs less of the guest than the one before: SSH, SysRq by
the serial console, SysRq by the keyboard, registers, memory, and at the very end an NMI, which ends the guest. All of
it happens on a budget of its own, which the run keeps in reserve, and before anything is killed.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splvm.deadline import Deadline, poll
from splvm.errors import DeadlineExceeded, GuestLostError, HarnessError
from splvm.evidence.diagnosis import CpuSign, Diagnosis, Signs, diagnose, is_starved, parse_registers
from splvm.evidence.formats.sysrq import DumpKind, parse_sysrq
from splvm.evidence.waiting.waitgraph import build_graph
from splvm.guest.guest import Guest
from splvm.guest.memorydump import dump_memory
from splvm.host.schedstat import read_state, read_threads
from splvm.record.names import CONSOLE_FILE, DUMP_FILE, REGISTERS_FILE, SYSRQ_FILE

_LOG = logging.getLogger("splvm.monitor")

# SysRq keys in the order they are sent, with what the kernel says first (drivers/tty/sysrq.c). Of `h` nothing is wanted
# but that it comes after all of `t`: it shows that the dumps before it are whole.
SYSRQ: tuple[tuple[str, str], ...] = (
    ("w", "Show Blocked State"),
    ("m", "Show Memory"),
    ("l", "Show backtrace of all active CPUs"),
    ("t", "Show State"),
    ("h", "HELP"),
)

# Seconds of the host for each step, at most.
_END_S = 1.0
_QMP_S = 2.0
_SSH_S = 1.5
_ANSWER_S = 1.5
_LIST_S = 6.0
_NMI_S = 15.0
# Between two looks at whether CPUs take interrupts: what they have to run, and seconds of the host for that.
_DEAF_RUN_NS = 300_000_000
_DEAF_S = 4.0
# For a memory dump, which is asked for by name. One of 512 MiB takes a few.
_DUMP_S = 120.0
# Seconds over which the scheduler's figures are looked at.
_RECENT_S = 4.0

# Bytes of a console's log that are taken for one answer to SysRq.
_SYSRQ_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Taken:
    """One step of taking evidence: what was asked for, and how it went."""

    what: str
    ok: bool
    detail: str

    def to_json(self) -> dict[str, Any]:
        return {"what": self.what, "ok": self.ok, "detail": self.detail}


@dataclass(slots=True)
class Monitor:
    """Watches one guest, and takes its last evidence. A step that fails is described in `Taken`, and raises nothing."""

    guest: Guest
    # Directory of the run.
    out: Path
    # Bytes that a memory dump may take; 0 for none.
    dump_bytes: int = 0
    # Readings of the scheduler: seconds of the host, and ns that the virtual CPUs ran and waited.
    _readings: deque[tuple[float, int, int]] = field(default_factory=lambda: deque(maxlen=64))
    _dumped: bool = False

    def take_reading(self, at_s: float) -> list[dict[str, int]]:
        """Read what the scheduler says of the virtual CPUs; to be called a few times a second."""
        threads = read_threads(self.guest.qemu.process.pid, self.guest.vcpus)
        ran, waited = (sum(thread[name] for thread in threads) for name in ("run_ns", "wait_ns"))
        self._readings.append((at_s, ran, waited))
        return threads

    def is_starving(self) -> bool:
        """Whether the host has given the guest too little CPU in the last seconds."""
        return is_starved(*self._recent())

    def _patience(self) -> float:
        """By how much longer to wait for an answer: a starved guest may be alive and slow."""
        return 3.0 if self.is_starving() else 1.0

    def _recent(self) -> tuple[float, float]:
        """Seconds that the virtual CPUs ran and waited of late."""
        readings = list(self._readings)
        if len(readings) < 2:
            return 0.0, 0.0
        last = readings[-1]
        first = next(reading for reading in readings if reading[0] >= last[0] - _RECENT_S)
        return (last[1] - first[1]) / 1e9, (last[2] - first[2]) / 1e9

    def look_into(self, deadline: Deadline) -> tuple[Diagnosis, tuple[Taken, ...]]:
        """Find out why the guest is silent, and take all the evidence it still gives. It is of no use afterwards."""
        taken: list[Taken] = []
        signs = self._signs(deadline, taken)
        diagnosis = diagnose(signs)
        _LOG.debug("diagnosis: %s: %s", diagnosis.condition, diagnosis.text)
        return diagnosis, tuple(taken)

    def take_stall(self, deadline: Deadline) -> tuple[Taken, ...]:
        """Take the evidence of a stall from a guest that otherwise works, and leave it as it is."""
        taken: list[Taken] = []
        self._sysrq(deadline, taken)
        self._registers(deadline, taken)
        self._dump(taken)
        return tuple(taken)

    def _signs(self, deadline: Deadline, taken: list[Taken]) -> Signs:
        guest = self.guest
        # A panic ends QEMU a moment after the connection is lost, and is then in the console's log.
        guest.qemu.wait_until_ended(deadline.sub(_END_S))
        ended = guest.qemu.exit_code()
        if ended is not None:
            self._hear_out(deadline)
            return Signs(panic=guest.console.panic_title() or "", exit_code=ended)
        state = read_state(guest.qemu.process.pid)
        if state in ("T", "t"):
            return Signs(process_state=state)
        status = self._qmp_status(deadline)
        ran_s, waited_s = self._recent()
        if status != "running":
            return Signs(process_state=state, qmp_status=status, ran_s=ran_s, waited_s=waited_s)
        ssh = self._asks_ssh(deadline)
        sysrq_by = self._sysrq(deadline, taken)
        cpus = self._registers(deadline, taken)
        answers = bool(sysrq_by) or ssh
        deaf = not answers and self._is_deaf(cpus, deadline)
        self._dump(taken)
        if not answers:
            self._nmi(deadline, taken)
        return Signs(
            panic="" if taken and taken[-1].what == "nmi" else guest.console.panic_title() or "",
            process_state=state,
            qmp_status=status,
            ran_s=ran_s,
            waited_s=waited_s,
            ssh_answers=ssh,
            sysrq_by=sysrq_by,
            blocked_tasks=self._blocked_tasks(),
            cpus=cpus,
            deaf=deaf,
        )

    def _hear_out(self, deadline: Deadline) -> None:
        """Wait until all that the guest ever said has been read."""
        try:
            self.guest.console.wait_until_ended(deadline.sub(_END_S))
        except DeadlineExceeded as error:
            _LOG.debug("%s", error)

    def _qmp_status(self, deadline: Deadline) -> str:
        try:
            return self.guest.qemu.status(deadline.sub(_QMP_S))
        except HarnessError as error:
            _LOG.debug("%s", error)
            return ""

    def _asks_ssh(self, deadline: Deadline) -> bool:
        try:
            return self.guest.ssh.run("echo here", deadline=deadline.sub(_SSH_S * self._patience())).stdout == "here\n"
        except HarnessError as error:
            _LOG.debug("%s", error)
            return False

    def _sysrq(self, deadline: Deadline, taken: list[Taken]) -> str:
        """Ask for all the lists, by the serial console or else by the keyboard.

        :returns: by what the kernel answered; empty when it does not.
        """
        log = self.out / CONSOLE_FILE
        start = log.stat().st_size
        by = ""
        for name, press in (("BREAK on the serial console", self._break), ("the keyboard by QMP", self._press)):
            key, head = SYSRQ[0]
            if self._answers(press, key, head, deadline.sub(_ANSWER_S * self._patience())):
                by = name
                break
            taken.append(Taken("sysrq", False, f"no answer by {name}"))
        if not by:
            return ""
        whole = all(
            self._answers(press, key, head, deadline.sub(_LIST_S * self._patience())) for key, head in SYSRQ[1:]
        )
        with log.open("rb") as file:
            file.seek(start)
            text = file.read(_SYSRQ_BYTES)
        with (self.out / SYSRQ_FILE).open("ab") as file:
            file.write(text)
        taken.append(Taken("sysrq", whole, f"by {by}" if whole else f"by {by}, not to its end"))
        return by

    def _answers(self, press: Callable[[str, Deadline], bool], key: str, head: str, deadline: Deadline) -> bool:
        since = self.guest.console.position
        return press(key, deadline) and self.guest.console.says(f"(sysrq: |SysRq : ){head}", deadline, since=since)

    def _break(self, key: str, deadline: Deadline) -> bool:
        return self.guest.console.send_break(key)

    def _press(self, key: str, deadline: Deadline) -> bool:
        try:
            self.guest.qemu.press(("alt", "sysrq", key), deadline.sub(_QMP_S))
        except HarnessError as error:
            _LOG.debug("%s", error)
            return False
        return True

    def _registers(self, deadline: Deadline, taken: list[Taken]) -> tuple[CpuSign, ...]:
        try:
            text = self.guest.qemu.registers(deadline.sub(_QMP_S))
        except HarnessError as error:
            taken.append(Taken("registers", False, error.message))
            return ()
        (self.out / REGISTERS_FILE).write_text(text, encoding="utf-8", errors="backslashreplace")
        taken.append(Taken("registers", True, "by QMP"))
        return parse_registers(text)

    def _is_deaf(self, first: tuple[CpuSign, ...], deadline: Deadline) -> bool:
        """Whether no CPU takes interrupts, now and after they have run for a while."""
        if not first or any(cpu.interrupts for cpu in first):
            return False
        before = self._ran_ns()
        try:
            poll(lambda: self._ran_ns() - before > _DEAF_RUN_NS or None, deadline.sub(_DEAF_S), "the virtual CPUs run")
            second = parse_registers(self.guest.qemu.registers(deadline.sub(_QMP_S)))
        except HarnessError as error:
            _LOG.debug("%s", error)
            return False
        return bool(second) and not any(cpu.interrupts for cpu in second)

    def _ran_ns(self) -> int:
        return sum(thread["run_ns"] for thread in read_threads(self.guest.qemu.process.pid, self.guest.vcpus))

    def _dump(self, taken: list[Taken]) -> None:
        """The memory, if it was asked for and there is none yet."""
        if not self.dump_bytes or self._dumped:
            return
        try:
            path = self.out / DUMP_FILE
            dump = dump_memory(self.guest.qemu.qmp, path, Deadline(_DUMP_S), limit_bytes=self.dump_bytes)
        except HarnessError as error:
            taken.append(Taken("memory", False, error.message))
            return
        self._dumped = True
        taken.append(Taken("memory", True, f"{dump.size_bytes >> 20} MiB in {dump.seconds:.1f} s"))

    def _nmi(self, deadline: Deadline, taken: list[Taken]) -> None:
        """Make the kernel panic, as images/guest/init has it: it prints what a CPU with interrupts off was in."""
        log = self.out / CONSOLE_FILE
        start = log.stat().st_size
        try:
            self.guest.qemu.qmp.execute("inject-nmi", deadline=deadline.sub(_QMP_S))
            poll(self.guest.console.panic_title, deadline.sub(_NMI_S), "the panic")
            self.guest.qemu.wait_until_ended(deadline.sub(_END_S))
        except (GuestLostError, DeadlineExceeded) as error:
            _LOG.debug("%s", error)
        panic = self.guest.console.panic_title()
        # Whatever the console says from here on is the harness's doing.
        taken.append(Taken("nmi", panic is not None, f"from byte {start} of console.log on"))

    def _blocked_tasks(self) -> int:
        """Tasks of the last list that wait for something; a thread that merely sleeps may be in state D as well."""
        path = self.out / SYSRQ_FILE
        if not path.is_file():
            return 0
        dumps = parse_sysrq(path.read_bytes().decode(errors="replace")).tasks
        threads = next((dump.threads for dump in reversed(dumps) if dump.kind is DumpKind.BLOCKED), ())
        return len(build_graph(threads).waits)
