"""Guests and harnesses that die at a bad moment: each has its verdict or its error, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from leftovers import qemus_of
from splvm.deadline import Deadline, poll
from splvm.errors import BootError, DeadlineExceeded, GuestLostError, QemuLaunchError
from splvm.evidence.verdict import Outcome
from splvm.guest.guest import Guest, start_guest
from splvm.host.process import as_root_args
from splvm.host.store import Store
from splvm.record.reader import read_evidence
from splvm.run.experiment import run_until_fed
from splvm.run.prepare import Prepared
from splvm.scenarios.judged import judge_evidence as judge
from splvm.scenarios.table import find_scenario
from wrecks import build_wreck, load_wreck

pytestmark = pytest.mark.splvm_vm


# Wrecks a guest, once it is in the phase.
Disturb = Callable[[Guest, Path], None]

# What the guest is told at its console's cost: a line of 10 MB, NULs, escape sequences.
FLOODS = {
    "line": "head -c 10485760 /dev/zero | tr '\\0' x > /dev/ttyS0 &",
    "nul": "cat /dev/zero > /dev/ttyS0 &",
    "escape": "while :; do printf '\\033[2J\\033]0;t\\007\\001b\\r\\n'; done > /dev/ttyS0 &",
}

# The kernel's OOM killer is told to take the agent, and called.
# Of the two of that name, the larger one is killed: the other only waits for its end.
OOM_KILL = "for p in $(pidof splvm-agent); do echo 1000 > /proc/$p/oom_score_adj; done; echo f > /proc/sysrq-trigger"


def in_guest(command: str) -> Disturb:
    """Run something that may take the connection along."""

    def disturb(guest: Guest, module: Path) -> None:
        with suppress(GuestLostError, DeadlineExceeded):
            guest.ssh.run(command, deadline=Deadline(5), check=False)

    return disturb


def wreck(action: str) -> Disturb:
    """Let the module do it (tests/vm/wreck)."""

    return lambda guest, module: load_wreck(guest, module, action)


def signal_qemu(number: signal.Signals) -> Disturb:
    return lambda guest, module: os.kill(guest.qemu.process.pid, number)


def pause(guest: Guest, module: Path) -> None:
    guest.qemu.qmp.execute("stop", deadline=Deadline(20))


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong, when, and what has to come of it."""

    name: str
    disturb: Disturb
    # The step of the scenario at whose beginning it happens.
    when: str
    # Verdicts that are right, and words that the reasons must have.
    outcomes: tuple[Outcome, ...]
    words: tuple[str, ...] = ()
    slow: bool = False

    def __str__(self) -> str:
        return f"{self.name}-{self.when}"


# The undisturbed verdict, by the second path of evidence.
SAME = (Outcome.PROGRESS,)
# A flooded console costs the guest its CPUs. What it can still show decides, and none of it may be cut.
BUSY = (Outcome.PROGRESS, Outcome.SLOW, Outcome.NO_RECOVERY)

FAULTS = [
    *(
        Fault(
            "panic",
            in_guest("echo c > /proc/sysrq-trigger"),
            when,
            (Outcome.CRASHED,),
            ("sysrq triggered crash",),
            slow,
        )
        for when, slow in (("settle", True), ("window", False), ("release", True))
    ),
    Fault("oops", wreck("oops"), "window", (Outcome.CRASHED,), ("NULL pointer dereference",), slow=True),
    Fault("frozen", wreck("freeze"), "window", (Outcome.LOST,), ("interrupts are off on all CPUs", "in wreck_spin")),
    *(
        Fault("sshd-killed", in_guest("killall -9 dropbear"), when, SAME, slow=slow)
        for when, slow in (("settle", True), ("hold", False), ("window", True), ("release", True))
    ),
    Fault("sshd-stopped", in_guest("killall -STOP dropbear"), "window", SAME, slow=True),
    Fault("agent-oom-killed", in_guest(OOM_KILL), "window", (Outcome.INCONCLUSIVE,), ("killed the agent for memory",)),
    Fault(
        "agent-killed", in_guest("killall -9 splvm-agent"), "window", (Outcome.INCONCLUSIVE,), ("on SSH",), slow=True
    ),
    Fault(
        "agent-stopped",
        in_guest("killall -STOP splvm-agent"),
        "window",
        (Outcome.INCONCLUSIVE,),
        ("on SSH",),
        slow=True,
    ),
    Fault(
        "userland-stopped",
        in_guest("kill -STOP $(pidof splvm-agent) $(pidof dropbear)"),
        "window",
        (Outcome.LOST,),
        ("its kernel does (BREAK on the serial console)", "the slab worker spl_kmem_cache"),
        slow=True,
    ),
    *(
        Fault("qemu-killed", signal_qemu(signal.SIGKILL), when, (Outcome.LOST,), ("QEMU ended with status -9",), slow)
        for when, slow in (("window", False), ("release", True))
    ),
    Fault(
        "qemu-stopped",
        signal_qemu(signal.SIGSTOP),
        "window",
        (Outcome.LOST,),
        ("QEMU is stopped (state T)",),
        slow=True,
    ),
    Fault("paused", pause, "window", (Outcome.LOST,), ("the virtual CPUs do not run: paused",), slow=True),
    Fault("clock-jumps", in_guest("date -s 2031-01-01; date -s 2001-01-01"), "window", SAME, slow=True),
    Fault("slab-file-blocked", wreck("sem"), "window", (Outcome.INCONCLUSIVE,), ("did not come back",), slow=True),
    *(Fault(f"flood-{name}", in_guest(FLOODS[name]), "window", BUSY, slow=True) for name in FLOODS),
]


@pytest.fixture(scope="session")
def wreck_module(prepare_spl: Callable[..., Prepared]) -> Path:
    """The module that wrecks a guest."""
    return build_wreck(prepare_spl().kernel.root)


@pytest.mark.parametrize(
    "fault", [pytest.param(it, id=str(it), marks=[pytest.mark.splvm_slow] * it.slow) for it in FAULTS]
)
def test_fault(spl: Prepared, wreck_module: Path, tmp_path: Path, fault: Fault) -> None:
    def on_phase(guest: Guest, phase: str) -> None:
        if phase == fault.when:
            fault.disturb(guest, wreck_module)

    experiment = spl.experiment(find_scenario("held-worker"), window_s=2)
    # A host that is busy with other work than runs starves several in a row.
    verdict, out = run_until_fed(experiment, tmp_path / "run", attempts=6, on_phase=on_phase)[-1]
    said = " ".join(reason.text for reason in verdict.reasons)
    assert verdict.outcome in fault.outcomes, said
    assert all(word in said for word in fault.words), said
    assert not qemus_of(tmp_path)
    assert judge(read_evidence(out)) == verdict
    if fault.outcomes == SAME and "sshd" in fault.name:
        assert "virtio-serial" in {sample.path for sample in read_evidence(out).timeline.slab}


def test_panic_at_boot(spl: Prepared, tmp_path: Path) -> None:
    machine = replace(spl.machine, append=("rdinit=/there-is-none",))
    with pytest.raises(BootError) as caught, start_guest(replace(spl.plan, machine=machine), tmp_path, Deadline(120)):
        pytest.fail("it came up")
    assert "Kernel panic - not syncing" in caught.value.title
    assert "Kernel panic" in caught.value.console_tail
    assert not qemus_of(tmp_path)


def test_qemu_that_does_not_start(spl: Prepared, tmp_path: Path) -> None:
    machine = replace(spl.machine, kernel=tmp_path / "there-is-none")
    plan = replace(spl.plan, machine=machine)
    with pytest.raises(QemuLaunchError, match="there-is-none"), start_guest(plan, tmp_path, Deadline(60)):
        pytest.fail("it started")
    assert not qemus_of(tmp_path)


def run_argv(out: Path, *options: str) -> list[str]:
    """`splvm run` as a user starts it."""
    return [sys.executable, "-m", "splvm", "run", "held-worker", "--out", str(out), *options]


@contextmanager
def started_run(out: Path, project: Path, phase: str) -> Iterator[subprocess.Popen[bytes]]:
    """`splvm run`, in a phase of its scenario, or booting its guest."""
    # Long enough to be met in the window, and short where something later is to be met.
    window = "60" if phase in ("window", *BEFORE_WINDOW) else "1"
    process = subprocess.Popen(
        run_argv(out, "--window", window), cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        poll(lambda: True if has_reached(out, phase) else None, Deadline(600), phase)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def running(tmp_path: Path, project: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`splvm run`, in the window of its scenario."""
    with started_run(tmp_path / "run", project, "window") as process:
        yield process, tmp_path / "run"


def has_reached(out: Path, phase: str) -> bool:
    if phase == "booting":
        return bool(qemus_of(out))
    path = out / "samples.jsonl"
    return path.exists() and f'"kind":"phase","name":"{phase}"' in path.read_text()


BEFORE_WINDOW = ("booting", "settle", "hold")
PHASES = (*BEFORE_WINDOW, "window", "window-end", "park", "audit", "release")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"])
@pytest.mark.parametrize(
    "phase", [pytest.param(it, marks=[pytest.mark.splvm_slow] * (it != "window")) for it in PHASES]
)
def test_ended_by_the_user(tmp_path: Path, project: Path, phase: str, number: signal.Signals, status: int) -> None:
    out = tmp_path / "run"
    with started_run(out, project, phase) as process:
        assert qemus_of(tmp_path)
        process.send_signal(number)
        output = process.communicate(timeout=60)[0].decode()
    assert process.returncode == status, output
    assert "Traceback" not in output
    assert not qemus_of(tmp_path)
    facts = json.loads((out / "run.json").read_text())
    assert facts["outcome"]["kind"] == "interrupted"
    assert judge(read_evidence(out)).outcome is Outcome.INCONCLUSIVE
    assert not list((Store.default_root() / "tmp").glob(f"*-{process.pid}-*"))


def test_killed_harness_takes_its_guest_along(running: tuple[subprocess.Popen[bytes], Path], tmp_path: Path) -> None:
    process, out = running
    assert qemus_of(tmp_path)
    process.kill()
    process.wait(10)
    poll(lambda: None if qemus_of(tmp_path) else True, Deadline(30), "end of QEMU")
    judged = subprocess.run(
        [sys.executable, "-m", "splvm", "judge", str(out)], capture_output=True, text=True, check=False
    )
    assert judged.returncode == 1
    assert judged.stdout.splitlines()[-1].startswith("INCONCLUSIVE held-worker"), judged


def judged_line(out: Path, project: Path) -> str:
    """The last line of `splvm judge`."""
    argv = [sys.executable, "-m", "splvm", "judge", str(out)]
    done = subprocess.run(argv, cwd=project, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.splitlines()[-1]


@pytest.mark.splvm_slow
def test_two_runs_at_once(tmp_path: Path, project: Path) -> None:
    outs = [tmp_path / "one", tmp_path / "two"]
    processes = [subprocess.Popen(run_argv(out), cwd=project, stdout=subprocess.PIPE, text=True) for out in outs]
    lines = [process.communicate(timeout=600)[0].splitlines()[-1] for process in processes]
    # A host with two cores may starve both. Then that is said, and nothing else.
    for line in lines:
        assert line.startswith("PROGRESS") or (line.startswith("INCONCLUSIVE") and "starved" in line), lines
    for out in outs:
        assert judged_line(out, project).split()[0] in ("PROGRESS", "INCONCLUSIVE")
        # Each has its own guest, and nothing of the other.
        assert len({s.value.threads[0].pid for s in read_evidence(out).timeline.probe if s.value.threads}) == 1
    assert not qemus_of(tmp_path)


@pytest.mark.splvm_slow
def test_a_store_that_is_damaged_between_two_runs(spl: Prepared, tmp_path: Path, project: Path) -> None:
    module = spl.spl.modules[0]
    good = module.read_bytes()
    module.write_bytes(good[: len(good) // 2] + b"\0" + good[len(good) // 2 + 1 :])
    done = subprocess.run(
        run_argv(tmp_path / "run", "--window", "2"), cwd=project, capture_output=True, text=True, timeout=600
    )
    assert done.stdout.splitlines()[-1].startswith("PROGRESS"), done.stdout
    assert "damaged" in done.stderr
    assert module.read_bytes() == good


@pytest.mark.splvm_slow
def test_a_disk_that_fills_up(tmp_path: Path, project: Path) -> None:
    """The directory of the run is on a file system of its own, which is gone with the process that sees it."""
    script = 'mount -t tmpfs -o size=300k none "$0" && exec "$@"'
    argv = ["unshare", "--mount", "sh", "-c", script, str(tmp_path), *run_argv(tmp_path / "run")]
    done = subprocess.run([*as_root_args(), *argv], cwd=project, capture_output=True, text=True, timeout=600)
    assert done.returncode == 3, done
    assert "No space left on device" in done.stderr
    assert "hint: free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert not qemus_of(tmp_path)
