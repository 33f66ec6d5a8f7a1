"""The monitor, on a guest whose kernel is played over a real console: what it asks, when, and what it keeps."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fake_agent import LIMIT_S
from splvm.deadline import Deadline
from splvm.errors import DeadlineExceeded, GuestLostError, SetupError
from splvm.evidence.diagnosis import Condition
from splvm.guest import monitor as monitor_module
from splvm.guest.console import start_console
from splvm.guest.guest import Guest
from splvm.guest.memorydump import MemoryDump
from splvm.guest.monitor import SYSRQ, Monitor, Taken

HEADS = dict(SYSRQ)
WORKER = """\
[    5.000000] task:spl_kmem_cache  state:D stack:0     pid:77    ppid:2      flags:0x00004000
[    5.000000] Call Trace:
[    5.000000]  <TASK>
[    5.000000]  __schedule+0x100/0x200
[    5.000000]  schedule+0x40/0x80
[    5.000000]  slabprobe_grow_work+0x30/0x60 [slabprobe]
[    5.000000]  taskq_thread+0x200/0x400 [spl]
[    5.000000]  </TASK>
"""


@dataclass
class Kernel:
    """The guest's side: what answers, and what was asked of it."""

    sock: socket.socket
    # Keys of SysRq that it answers, by each way.
    by_break: str = "wmlth"
    by_keyboard: str = "wmlth"
    panics_on_nmi: bool = True
    blocked: str = WORKER
    asked: list[str] = field(default_factory=list)

    def listen(self) -> None:
        """Answer BREAKs until the console is closed."""
        while data := self.sock.recv(3):
            self.press(data[-1:].decode(), "break", self.by_break)

    def press(self, key: str, way: str, answered: str) -> None:
        self.asked.append(f"{way} {key}")
        if key in answered:
            text = f"[    5.000000] sysrq: {HEADS[key]}\n" + (self.blocked if key in "wt" else "")
            self.sock.sendall(text.replace("\n", "\r\n").encode())


@dataclass
class Qemu:
    """All that the monitor asks of QEMU."""

    kernel: Kernel
    process: Any = field(default_factory=lambda: SimpleNamespace(pid=os.getpid()))
    exit: int | None = None
    state: str | None = "running"
    nmis: int = 0

    @property
    def qmp(self) -> Any:
        return SimpleNamespace(execute=self.execute)

    def execute(self, command: str, arguments: object = None, *, deadline: Deadline) -> object:
        assert command == "inject-nmi"
        self.nmis += 1
        if self.kernel.panics_on_nmi:
            self.kernel.sock.sendall(b"[    9.000000] Kernel panic - not syncing: NMI: Not continuing\r\n")
        return {}

    def exit_code(self) -> int | None:
        return self.exit

    def wait_until_ended(self, deadline: Deadline) -> int | None:
        return self.exit

    def status(self, deadline: Deadline) -> str:
        if self.state is None:
            raise DeadlineExceeded("QMP query-status", 2)
        return self.state

    def registers(self, deadline: Deadline) -> str:
        return "CPU#0\nRIP=ffffffff81a17a0b RFL=00000046 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0\n"

    def press(self, keys: tuple[str, ...], deadline: Deadline) -> None:
        assert keys[:2] == ("alt", "sysrq")
        self.kernel.press(keys[2], "keyboard", self.kernel.by_keyboard)


@dataclass
class Played:
    monitor: Monitor
    kernel: Kernel
    qemu: Qemu
    out: Path

    def look(self) -> tuple[Condition, str, dict[str, Taken]]:
        diagnosis, taken = self.monitor.look_into(Deadline(LIMIT_S))
        return diagnosis.condition, diagnosis.text, {it.what: it for it in taken}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_END_S", "_ANSWER_S", "_LIST_S", "_NMI_S"):
        monkeypatch.setattr(monitor_module, name, 0.4)


@contextmanager
def played(out: Path, *, ssh_answers: bool = False, dump_bytes: int = 0, **kernel: Any) -> Iterator[Played]:
    (out / "console.log").write_bytes(b"[    1.000000] sysrq: Show Blocked State\r\nof the boot\r\n")
    here, there = socket.socketpair()
    with here, there, start_console(here, out / "console.log") as console:
        guest_kernel = Kernel(there, **kernel)
        qemu = Qemu(guest_kernel)
        listener = threading.Thread(target=guest_kernel.listen, name="kernel", daemon=True)
        listener.start()

        def run(command: str, *, deadline: Deadline) -> Any:
            if not ssh_answers:
                raise GuestLostError("SSH: gone")
            return SimpleNamespace(stdout="here\n")

        guest = SimpleNamespace(qemu=qemu, console=console, ssh=SimpleNamespace(run=run), vcpus=())
        yield Played(Monitor(cast(Guest, guest), out, dump_bytes), guest_kernel, qemu, out)
        here.shutdown(socket.SHUT_RDWR)
        listener.join(LIMIT_S)


def test_a_hung_guest_is_asked_by_break(tmp_path: Path) -> None:
    with played(tmp_path) as it:
        condition, text, taken = it.look()
    assert condition is Condition.HUNG
    assert "1 task is blocked" in text
    assert it.kernel.asked == [f"break {key}" for key in "wmlth"]
    assert taken["sysrq"] == Taken("sysrq", True, "by BREAK on the serial console")
    assert taken["registers"].ok
    listed = (tmp_path / "sysrq.txt").read_text()
    assert "of the boot" not in listed
    assert [head for head in HEADS.values() if head in listed] == list(HEADS.values())
    assert "RIP=" in (tmp_path / "registers.txt").read_text()
    assert it.qemu.nmis == 0


def test_the_keyboard_is_the_second_way(tmp_path: Path) -> None:
    with played(tmp_path, by_break="") as it:
        condition, text, taken = it.look()
    assert condition is Condition.HUNG
    assert "the keyboard by QMP" in text
    assert it.kernel.asked[0] == "break w"
    assert it.kernel.asked[1:] == [f"keyboard {key}" for key in "wmlth"]
    assert taken["sysrq"].ok


def test_a_frozen_guest_gets_an_nmi_at_the_very_end(tmp_path: Path) -> None:
    with played(tmp_path, by_break="", by_keyboard="") as it:
        condition, text, taken = it.look()
    assert condition is Condition.FROZEN
    assert "interrupts are off on all CPUs" in text
    assert list(taken) == ["sysrq", "registers", "nmi"]
    assert not taken["sysrq"].ok
    assert taken["nmi"].ok
    assert not (tmp_path / "sysrq.txt").exists()


@pytest.mark.parametrize(("runs", "condition"), [(True, Condition.FROZEN), (False, Condition.STARVED)])
def test_a_starved_guest_is_only_frozen_if_its_cpus_ran_with_interrupts_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: bool, condition: Condition
) -> None:
    spent = {"run_ns": 0, "wait_ns": 0}

    def read(pid: int, threads: tuple[int, ...]) -> list[dict[str, int]]:
        spent["run_ns"] += 200_000_000 if runs else 0
        return [dict(spent)]

    monkeypatch.setattr(monitor_module, "read_threads", read)
    monkeypatch.setattr(monitor_module, "_DEAF_S", 0.4)
    with played(tmp_path, by_break="", by_keyboard="") as it:
        for second in range(5):
            spent["wait_ns"] += 10**9
            it.monitor.take_reading(float(second))
        assert it.look()[0] is condition


def test_a_frozen_guest_that_takes_no_nmi_either(tmp_path: Path) -> None:
    with played(tmp_path, by_break="", by_keyboard="", panics_on_nmi=False) as it:
        condition, _, taken = it.look()
    assert condition is Condition.FROZEN
    assert not taken["nmi"].ok


def test_lists_that_break_off_are_told(tmp_path: Path) -> None:
    with played(tmp_path, by_break="wml", by_keyboard="") as it:
        _, _, taken = it.look()
    assert taken["sysrq"] == Taken("sysrq", False, "by BREAK on the serial console, not to its end")
    assert "Show Memory" in (tmp_path / "sysrq.txt").read_text()


def test_an_agent_that_is_gone_in_a_guest_that_is_not(tmp_path: Path) -> None:
    with played(tmp_path, ssh_answers=True, by_break="", by_keyboard="") as it:
        condition, _, taken = it.look()
    assert condition is Condition.AGENT_GONE
    # A guest that answers is not made to panic.
    assert "nmi" not in taken


def test_a_guest_in_which_only_sleepers_are_in_state_d(tmp_path: Path) -> None:
    sleeper = WORKER.replace("slabprobe_grow_work", "arc_reap_cb").replace("spl_kmem_cache", "arc_reap      ")
    with played(tmp_path, blocked=sleeper) as it:
        assert it.look()[0] is Condition.USERLAND_GONE


def test_a_crash_that_comes_after_the_connection_was_lost(tmp_path: Path) -> None:
    with played(tmp_path) as it:
        it.kernel.sock.sendall(b"[    7.000000] Kernel panic - not syncing: Fatal exception\r\n")
        it.kernel.sock.shutdown(socket.SHUT_WR)
        it.qemu.exit = 0
        condition, text, taken = it.look()
    assert condition is Condition.CRASHED
    assert "Fatal exception" in text
    assert taken == {}


def test_a_qemu_that_is_gone(tmp_path: Path) -> None:
    with played(tmp_path) as it:
        it.qemu.exit = -9
        assert it.look()[:2] == (Condition.QEMU_GONE, "QEMU ended with status -9")


@pytest.mark.parametrize(("state", "condition"), [(None, Condition.QEMU_STOPPED), ("paused", Condition.CPUS_STOPPED)])
def test_nothing_is_asked_of_a_machine_that_stands(tmp_path: Path, state: str | None, condition: Condition) -> None:
    with played(tmp_path) as it:
        it.qemu.state = state
        assert it.look()[0] is condition
    assert it.kernel.asked == []


def test_the_evidence_of_a_stall_leaves_the_guest_as_it_is(tmp_path: Path) -> None:
    with played(tmp_path) as it:
        taken = it.monitor.take_stall(Deadline(LIMIT_S))
    assert [(step.what, step.ok) for step in taken] == [("sysrq", True), ("registers", True)]
    assert it.qemu.nmis == 0


def test_two_answers_are_kept_one_after_the_other(tmp_path: Path) -> None:
    with played(tmp_path) as it:
        it.monitor.take_stall(Deadline(LIMIT_S))
        it.look()
    assert (tmp_path / "sysrq.txt").read_text().count("sysrq: HELP") == 2


def test_the_memory_is_dumped_once_and_only_if_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dumps: list[tuple[Path, int]] = []

    def dump_memory(qmp: object, path: Path, deadline: Deadline, *, limit_bytes: int) -> MemoryDump:
        dumps.append((path, limit_bytes))
        if len(dumps) == 1:
            raise SetupError("memory dump: no room")
        return MemoryDump(path, 35 << 20, 1.1)

    monkeypatch.setattr(monitor_module, "dump_memory", dump_memory)
    with played(tmp_path, dump_bytes=1 << 30) as it:
        first, second, third = (it.monitor.take_stall(Deadline(LIMIT_S)) for _ in range(3))
    assert (first[-1], second[-1]) == (
        Taken("memory", False, "memory dump: no room"),
        Taken("memory", True, "35 MiB in 1.1 s"),
    )
    assert [step.what for step in third] == ["sysrq", "registers"]
    assert dumps == [(tmp_path / "memory.kdump", 1 << 30)] * 2


def test_starvation_is_told_by_the_last_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spent = {"run_ns": 0, "wait_ns": 0}
    monkeypatch.setattr(monitor_module, "read_threads", lambda pid, threads: [dict(spent)])
    with played(tmp_path) as it:
        for second in range(20):
            # Starved for the first ten seconds, and fed after that.
            spent["wait_ns" if second < 10 else "run_ns"] += 10**9
            it.monitor.take_reading(float(second))
            if second == 9:
                assert it.monitor.is_starving()
        assert not it.monitor.is_starving()
