"""What has become of a guest that fell silent: from what each channel to it showed, to one condition.

Pure: the signs are collected elsewhere. What a condition means for a verdict is said here too, in `Condition.is_lost`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

# A guest is starved when its virtual CPUs waited for the host's for more than this part of the time they wanted to run.
STARVED_SHARE = 0.4
# Seconds of waiting below which there is nothing to divide.
STARVED_AT_LEAST_S = 0.2


class Condition(StrEnum):
    """How a guest is, or what has become of it."""

    # The kernel has said that it will not go on.
    CRASHED = "crashed"
    # QEMU has ended without a word of the guest's kernel.
    QEMU_GONE = "qemu gone"
    # QEMU is there, and does not answer: stopped by a signal, or stuck.
    QEMU_STOPPED = "qemu stopped"
    # QEMU answers, and says that the virtual CPUs do not run.
    CPUS_STOPPED = "cpus stopped"
    # The host gives the virtual CPUs too little: the harness is too slow to say anything.
    STARVED = "starved"
    # The guest answers on SSH; only the agent does not.
    AGENT_GONE = "agent gone"
    # The kernel answers SysRq, no program does, and tasks are blocked.
    HUNG = "hung"
    # The kernel answers SysRq, no program does, and no task is blocked.
    USERLAND_GONE = "userland gone"
    # The virtual CPUs run, and no channel answers.
    FROZEN = "frozen"

    @property
    def is_lost(self) -> bool:
        """Whether the guest itself is lost, and not merely the view of it."""
        return self not in (Condition.STARVED, Condition.AGENT_GONE)


@dataclass(frozen=True, slots=True)
class CpuSign:
    """One virtual CPU, by its registers."""

    index: int
    # Instruction pointer.
    rip: int
    # Whether it takes interrupts, and whether it waits for one.
    interrupts: bool
    halted: bool

    def __str__(self) -> str:
        state = "halted" if self.halted else "running"
        return f"CPU {self.index} {state} at {self.rip:#x}, interrupts {'on' if self.interrupts else 'off'}"


@dataclass(frozen=True, slots=True)
class Signs:
    """What each channel showed. None: it was not asked."""

    # The kernel's panic line on the console, empty if there is none.
    panic: str = ""
    # QEMU's status once it has ended, and the letter of its state in /proc.
    exit_code: int | None = None
    process_state: str = ""
    # `running`, `paused`, ... by QMP; empty when it does not answer.
    qmp_status: str | None = None
    # Seconds that all virtual CPUs ran, and waited for one of the host's, of late.
    ran_s: float = 0.0
    waited_s: float = 0.0
    # Whether a command over SSH gave its result.
    ssh_answers: bool | None = None
    # By what way the kernel answered SysRq, empty if by none.
    sysrq_by: str | None = None
    # Blocked tasks that it then listed.
    blocked_tasks: int = 0
    cpus: tuple[CpuSign, ...] = ()
    # Whether no CPU took interrupts, at two looks between which they ran.
    deaf: bool = False


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A condition, and a sentence that says what it rests on."""

    condition: Condition
    text: str


def is_starved(ran_s: float, waited_s: float) -> bool:
    """Whether virtual CPUs waited for the host's for too much of the time they wanted to run."""
    return waited_s > STARVED_AT_LEAST_S and waited_s > STARVED_SHARE * (ran_s + waited_s)


def diagnose(signs: Signs) -> Diagnosis:
    """The first condition whose signs are there; the more a channel proves, the earlier it is asked."""
    for condition, holds, text in _RULES:
        if holds(signs):
            return Diagnosis(condition, text(signs))
    raise AssertionError("the last rule always holds")


_RULES: tuple[tuple[Condition, Callable[[Signs], bool], Callable[[Signs], str]], ...] = (
    (Condition.CRASHED, lambda s: bool(s.panic), lambda s: f"the kernel said: {s.panic}{_exit(s)}"),
    (Condition.QEMU_GONE, lambda s: s.exit_code is not None, lambda s: f"QEMU ended with status {s.exit_code}"),
    (
        Condition.QEMU_STOPPED,
        lambda s: s.process_state in ("T", "t") or s.qmp_status == "",
        lambda s: (
            f"QEMU is stopped (state {s.process_state})"
            if s.process_state in ("T", "t")
            else f"QEMU (state {s.process_state}) does not answer on its monitor"
        ),
    ),
    (
        Condition.CPUS_STOPPED,
        lambda s: s.qmp_status not in (None, "running"),
        lambda s: f"the virtual CPUs do not run: {s.qmp_status}",
    ),
    # A CPU that never lets an interrupt in does so whatever the host gives it.
    (Condition.FROZEN, lambda s: s.deaf, lambda s: _frozen(s)),
    (
        Condition.STARVED,
        lambda s: is_starved(s.ran_s, s.waited_s),
        lambda s: f"the guest is starved: its CPUs ran {s.ran_s:.1f} s and waited {s.waited_s:.1f} s for the host's",
    ),
    (
        Condition.AGENT_GONE,
        lambda s: s.ssh_answers is True,
        lambda _: "the guest answers on SSH; the agent is gone, or does not run",
    ),
    (
        Condition.HUNG,
        lambda s: bool(s.sysrq_by) and s.blocked_tasks > 0,
        lambda s: f"no program in the guest answers; its kernel does ({s.sysrq_by}), and {_tasks(s)} blocked",
    ),
    (
        Condition.USERLAND_GONE,
        lambda s: bool(s.sysrq_by),
        lambda s: f"no program in the guest answers; its kernel does ({s.sysrq_by}), and no task is blocked",
    ),
    (Condition.FROZEN, lambda _: True, lambda s: _frozen(s)),
)


def _frozen(signs: Signs) -> str:
    return f"QEMU is still running, and nothing in the guest answers{_cpus(signs)}"


def _exit(signs: Signs) -> str:
    return f"; QEMU ended with status {signs.exit_code}" if signs.exit_code is not None else ""


def _tasks(signs: Signs) -> str:
    return "1 task is" if signs.blocked_tasks == 1 else f"{signs.blocked_tasks} tasks are"


def _cpus(signs: Signs) -> str:
    if not signs.cpus:
        return ""
    off = "; interrupts are off on all CPUs" if not any(cpu.interrupts for cpu in signs.cpus) else ""
    return f"{off} ({'; '.join(map(str, signs.cpus))})"


def parse_registers(text: str) -> tuple[CpuSign, ...]:
    """The CPUs in QEMU's `info registers -a`; what is not in that form is left out.

    The forms are x86_cpu_dump_state()'s (QEMU, target/i386/cpu-dump.c).
    """
    cpus = []
    index = -1
    for line in text.splitlines():
        words = dict(word.partition("=")[::2] for word in line.split()[:8])
        if line.startswith("CPU#"):
            index = _number(line[4:], 10)
        elif "RIP" in words and "RFL" in words and index >= 0:
            rip, flags = _number(words["RIP"], 16), _number(words["RFL"], 16)
            if rip >= 0 and flags >= 0:
                # Bit 9 of the flags lets interrupts in (Intel SDM, volume 1, 3.4.3).
                cpus.append(CpuSign(index, rip, bool(flags & 0x200), "HLT=1" in line))
    return tuple(cpus)


def _number(word: str, base: int) -> int:
    """A number in the form QEMU prints; -1 for anything else."""
    digits = "0123456789abcdef"[:base]
    return int(word, base) if 0 < len(word) <= 16 and all(char in digits for char in word) else -1
