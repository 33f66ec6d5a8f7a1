"""Guests and harnesses that die at a bad moment: each has its verdict or its error, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from framework.deadline import Deadline, poll
from framework.errors import BootError, DeadlineExceeded, GuestLostError, QemuLaunchError
from framework.evidence.verdict import Outcome
from framework.guest.guest import Guest, start_guest
from framework.host.store import Store
from framework.lab.experiment import run_experiment
from framework.lab.prepare import Prepared
from framework.lab.scenarios import find_scenario

pytestmark = pytest.mark.vm


def in_guest(command: str) -> Callable[[Guest], None]:
    """Run something that may take the connection along."""

    def disturb(guest: Guest) -> None:
        with suppress(GuestLostError, DeadlineExceeded):
            guest.ssh.run(command, deadline=Deadline(5), check=False)

    return disturb


def kill_qemu(guest: Guest) -> None:
    os.kill(guest.qemu.process.pid, signal.SIGKILL)


DISTURBANCES: dict[str, tuple[Callable[[Guest], None], Outcome, str]] = {
    "panic": (in_guest("echo c > /proc/sysrq-trigger"), Outcome.CRASHED, "sysrq triggered crash|NULL pointer|PANIC"),
    "qemu-killed": (kill_qemu, Outcome.LOST, "QEMU ended with status -9"),
    "sshd-killed": (in_guest("killall -9 dropbear"), Outcome.LOST, "QEMU is still running"),
    "agent-killed": (in_guest("killall -9 splvm-agent"), Outcome.LOST, "QEMU is still running"),
}


MOMENTS = [
    *(("panic", when) for when in ("settle", "window", "release")),
    *(("qemu-killed", when) for when in ("window", "release")),
    *(("sshd-killed", when) for when in ("window", "release")),
    ("agent-killed", "window"),
]


@pytest.mark.parametrize(("name", "when"), MOMENTS)
def test_disturbed_run(spl: Prepared, tmp_path: Path, name: str, when: str) -> None:
    disturb, outcome, reason = DISTURBANCES[name]

    def on_phase(guest: Guest, phase: str) -> None:
        if phase == when:
            disturb(guest)

    verdict = run_experiment(spl.experiment(find_scenario("held-worker")), tmp_path / "run", on_phase)
    assert verdict.outcome is outcome, verdict.reasons
    assert any(word in r.text for r in verdict.reasons for word in reason.split("|")), verdict.reasons
    assert not qemus_of(tmp_path)


def test_panic_at_boot(spl: Prepared, tmp_path: Path) -> None:
    machine = replace(spl.machine, append=("rdinit=/there-is-none",))
    with pytest.raises(BootError) as caught, start_guest(machine, spl.keys, tmp_path, Deadline(120)):
        pytest.fail("it came up")
    assert "Kernel panic - not syncing" in caught.value.title
    assert "Kernel panic" in caught.value.console_tail
    assert not qemus_of(tmp_path)


def test_qemu_that_does_not_start(spl: Prepared, tmp_path: Path) -> None:
    machine = replace(spl.machine, kernel=tmp_path / "there-is-none")
    with pytest.raises(QemuLaunchError, match="there-is-none"), start_guest(machine, spl.keys, tmp_path, Deadline(60)):
        pytest.fail("it started")
    assert not qemus_of(tmp_path)


@pytest.fixture
def running(tmp_path: Path, project: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`splvm run` as a user starts it, in the window of its scenario."""
    out = tmp_path / "run"
    argv = [sys.executable, "-m", "framework", "run", "held-worker", "--window", "60", "--out", str(out)]
    process = subprocess.Popen(argv, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        poll(lambda: True if has_reached(out, "window") else None, Deadline(240), "window")
        yield process, out
    finally:
        process.kill()
        process.communicate()


def has_reached(out: Path, phase: str) -> bool:
    path = out / "samples.jsonl"
    return path.exists() and f'"kind":"phase","name":"{phase}"' in path.read_text()


def qemus_of(directory: Path) -> list[int]:
    """Processes whose command line names a console log below `directory`."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and str(directory).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ended_by_the_user(
    running: tuple[subprocess.Popen[bytes], Path], tmp_path: Path, number: signal.Signals, status: int
) -> None:
    process, out = running
    process.send_signal(number)
    output = process.communicate(timeout=60)[0].decode()
    assert process.returncode == status, output
    assert "Traceback" not in output
    assert not qemus_of(tmp_path)
    facts = json.loads((out / "run.json").read_text())
    assert facts["outcome"]["kind"] == "interrupted"
    assert not list((Store.default_root() / "tmp").glob(f"*-{process.pid}-*"))


def test_killed_harness_takes_its_guest_along(running: tuple[subprocess.Popen[bytes], Path], tmp_path: Path) -> None:
    process, out = running
    assert qemus_of(tmp_path)
    process.kill()
    process.wait(10)
    poll(lambda: None if qemus_of(tmp_path) else True, Deadline(30), "end of QEMU")
    judged = subprocess.run(
        [sys.executable, "-m", "framework", "judge", str(out)], capture_output=True, text=True, check=False
    )
    assert judged.returncode == 1
    assert judged.stdout.splitlines()[-1].startswith("INCONCLUSIVE held-worker"), judged
