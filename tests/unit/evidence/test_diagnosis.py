"""What a guest that fell silent is taken to be, by its signs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splvm.evidence.diagnosis import Condition, CpuSign, Signs, diagnose, is_starved, parse_registers

OFF = CpuSign(0, 0xFFFFFFFF81A17A0B, interrupts=False, halted=False)
ON = CpuSign(1, 0xFFFFFFFF81A17A0B, interrupts=True, halted=True)

ROWS = [
    (Signs(panic="Kernel panic - not syncing: x", exit_code=0), Condition.CRASHED, "QEMU ended with status 0"),
    (Signs(panic="Kernel panic - not syncing: x", qmp_status="running"), Condition.CRASHED, "panic"),
    (Signs(exit_code=-9), Condition.QEMU_GONE, "status -9"),
    (Signs(process_state="T"), Condition.QEMU_STOPPED, "state T"),
    (Signs(process_state="S", qmp_status=""), Condition.QEMU_STOPPED, "does not answer on its monitor"),
    (Signs(process_state="S", qmp_status="paused"), Condition.CPUS_STOPPED, "paused"),
    (Signs(qmp_status="running", ran_s=1, waited_s=3, ssh_answers=False), Condition.STARVED, "waited 3.0 s"),
    (Signs(qmp_status="running", ssh_answers=True, sysrq_by="BREAK"), Condition.AGENT_GONE, "answers on SSH"),
    (Signs(qmp_status="running", sysrq_by="BREAK", blocked_tasks=1), Condition.HUNG, "1 task is blocked"),
    (Signs(qmp_status="running", sysrq_by="BREAK", blocked_tasks=7), Condition.HUNG, "7 tasks are blocked"),
    (Signs(qmp_status="running", sysrq_by="BREAK"), Condition.USERLAND_GONE, "no task is blocked"),
    (Signs(qmp_status="running", sysrq_by=""), Condition.FROZEN, "nothing in the guest answers"),
    (Signs(qmp_status="running", cpus=(OFF,)), Condition.FROZEN, "interrupts are off on all CPUs"),
    # CPUs that never let an interrupt in are no matter of what the host gives them.
    (Signs(qmp_status="running", ran_s=1, waited_s=3, cpus=(OFF,), deaf=True), Condition.FROZEN, "off on all CPUs"),
    (Signs(qmp_status="running", ran_s=1, waited_s=3, cpus=(OFF,)), Condition.STARVED, "waited 3.0 s"),
]


@pytest.mark.parametrize(("signs", "condition", "text"), ROWS)
def test_conditions(signs: Signs, condition: Condition, text: str) -> None:
    found = diagnose(signs)
    assert found.condition is condition
    assert text in found.text


def test_every_condition_is_reached() -> None:
    assert {condition for _, condition, _ in ROWS} == set(Condition)


def test_a_cpu_that_takes_interrupts_is_no_freeze_of_all() -> None:
    assert "off on all" not in diagnose(Signs(qmp_status="running", cpus=(OFF, ON))).text


def test_what_is_lost() -> None:
    assert {c for c in Condition if not c.is_lost} == {Condition.STARVED, Condition.AGENT_GONE}


@pytest.mark.parametrize(
    ("ran_s", "waited_s", "starved"), [(0, 0, False), (0, 0.1, False), (0, 1, True), (3, 1, False), (1, 1, True)]
)
def test_starvation(ran_s: float, waited_s: float, starved: bool) -> None:
    assert is_starved(ran_s, waited_s) is starved


REGISTERS = """
CPU#0
RAX=000000000001ad40 RBX=0000000000000000 RCX=0000000000000001 RDX=4000000000000000
RIP=ffffffff81a17a0b RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1

CPU#1
RIP=ffffffffc023200d RFL=00000046 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0
"""


def test_registers() -> None:
    assert parse_registers(REGISTERS) == (
        CpuSign(0, 0xFFFFFFFF81A17A0B, interrupts=True, halted=True),
        CpuSign(1, 0xFFFFFFFFC023200D, interrupts=False, halted=False),
    )
    assert str(parse_registers(REGISTERS)[1]) == "CPU 1 running at 0xffffffffc023200d, interrupts off"


WORDS = st.sampled_from(["CPU#0", "CPU#x", "RIP=", "RIP=zz RFL=1", "RIP=1 RFL=", "\n"])


@given(st.text() | st.lists(WORDS).map("".join))
def test_registers_that_are_none(text: str) -> None:
    parse_registers(text)
