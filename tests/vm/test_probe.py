"""The test module and the fixtures, in a healthy guest."""

from __future__ import annotations

from pathlib import Path

import pytest
from testinfra.host import Host

from splvm.deadline import Deadline
from splvm.errors import GuestCommandError
from splvm.evidence.formats.kernlog import scan_kernel_log
from splvm.evidence.formats.probestatus import RunState, parse_probe
from splvm.evidence.formats.slab import parse_slab
from splvm.guest.guest import Guest
from splvm.pytest_fixtures import Recording

pytestmark = pytest.mark.splvm_vm

TRANSACTIONS = "set threads=1 objects=64 size=32768 pause_us=1000 reap_rounds=1 commits=100000"

# What to do to the probe before it is unloaded, in shell words for /proc/slabprobe.
STATES = {
    "idle": [],
    "running": ["start"],
    "parked": ["start", "park"],
    "stopped": ["start", "stop"],
    "held": ["start", "hold"],
    "held and parked": ["start", "hold", "park"],
    "held and stopping": ["start", "hold", "stop"],
    "in the trap": ["start", "stop", TRANSACTIONS, "start", "trap induced"],
    "in the trap and parked": [TRANSACTIONS, "start", "trap induced", "park"],
    "in the trap and stopping": [TRANSACTIONS, "start", "trap organic", "stop"],
    "reconfigured": ["start", "stop", "set threads=5 objects=9 size=20000 pause_us=0 reap_rounds=3", "start"],
}

# What the status has to say before the next command.
UNTIL = {"hold": "^hold .* held=1 ", "trap induced": "^trap .* (declined=[1-9]|waiting=1)"}


def test_unload_at_any_time(guest: Guest) -> None:
    """Also with the worker in its hands; the kernel is sound afterwards, and the module loads again."""
    deadline = Deadline(150)
    for state, commands in STATES.items():
        for command in commands:
            # A stop takes a moment, and until then nothing can be set.
            guest.ssh.run(f"until echo '{command}' > /proc/slabprobe; do usleep 20000; done 2>&1", deadline=deadline)
            if command in UNTIL:
                until = f"grep -qE '{UNTIL[command]}' /proc/slabprobe"
                guest.ssh.run(f"until {until}; do usleep 20000; done", deadline=deadline)
        guest.ssh.run("rmmod slabprobe", deadline=deadline)
        slab = parse_slab(guest.ssh.run("cat /proc/spl/kmem/slab", deadline=deadline).stdout)
        assert slab.cache("slabprobe") is None, state
        guest.ssh.run("insmod /lib/modules/slabprobe.ko", deadline=deadline)
    guest.ssh.run("rmmod slabprobe; rmmod spl", deadline=deadline)
    log = guest.ssh.run("dmesg", deadline=deadline).stdout
    assert not [finding for finding in scan_kernel_log(log) if not finding.benign]


@pytest.mark.parametrize(
    "command",
    [
        *("", "jump", "set speed=1", "set threads=0", "set threads=x", "set size=1", "mark", "x" * 300),
        *("trap", "trap on", "trap induced", "set threads=2 commits=1", "set threads=1 commits=100001"),
    ],
)
def test_bad_command_is_refused(shared_guest: Guest, command: str) -> None:
    with pytest.raises(GuestCommandError):
        # An empty line would not be written at all.
        shared_guest.ssh.run(f"printf '%s\\n' '{command}' > /proc/slabprobe", deadline=Deadline(30))


@pytest.fixture(scope="module")
def shared_guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Guest:
    """One guest for tests that leave it as it was."""
    from splvm.guest.guest import start_guest

    spl = request.getfixturevalue("spl")
    manager = start_guest(spl.plan, tmp_path_factory.mktemp("guest"), Deadline(180))
    guest = manager.__enter__()
    request.addfinalizer(lambda: manager.__exit__(None, None, None))
    for module in spl.spl.modules:
        guest.insert_module(module, deadline=Deadline(60))
    return guest


def test_guest_host_is_the_guest(guest_host: Host, guest: Guest) -> None:
    assert guest_host.file("/proc/spl/kmem/slab").exists
    assert guest_host.run("echo %s", "a b").stdout == "a b\n"
    assert guest_host.run("exit 3").rc == 3
    assert guest_host.check_output("uname -r") == guest.ssh.run("uname -r", deadline=Deadline(30)).stdout.strip()


def test_guest_has_no_way_out(guest: Guest) -> None:
    for address in ("10.0.2.2", "10.0.2.3"):
        result = guest.ssh.run(
            f"ping -c 1 -W 2 {address}; nc -w 2 {address} 53 </dev/null", deadline=Deadline(30), check=False
        )
        assert result.status != 0
    assert "default" not in guest.ssh.run("ip route", deadline=Deadline(30)).stdout


def test_timeline_fixture(timeline: Recording) -> None:
    """A user's own experiment: by hand what held-worker does."""
    timeline.command("start")
    assert timeline.wait_until(lambda reading: all(t.rounds > 1 for t in reading.probe.threads or ()), 20)
    assert timeline.read().probe[-1].value.run.stopped == 0, "a thread that works has not stopped"
    timeline.command("mark pulled")
    timeline.command("hold")
    assert timeline.wait_until(lambda reading: reading.probe.hold.held == 1)
    assert timeline.wait_until(lambda reading: reading.deadlocked and reading.probe.live.emergency > 0)
    timeline.command("release")
    assert timeline.wait_until(lambda reading: not reading.deadlocked and reading.probe.live.emergency == 0)
    timeline.command("stop")
    assert timeline.wait_until(lambda reading: reading.probe.run.stopped == 2)
    recorded = timeline.read()
    assert "pulled" in recorded.marks
    assert recorded.probe[-1].value.run.state is RunState.STOPPED
    assert all(not loss.startswith("frames") for loss in recorded.losses)


def test_status_is_what_the_format_says(shared_guest: Guest) -> None:
    text = shared_guest.ssh.run("cat /proc/slabprobe", deadline=Deadline(30)).stdout
    status = parse_probe(text)
    assert status.config.threads == 2
    assert set(status.bits) == {"kvmem", "deadlocked", "growing", "reaping"}


def test_modules_are_the_variants_own(guest: Guest, tmp_path: Path) -> None:
    """The guest of a test is booted with its console in the test's directory."""
    assert "splvm: guest is up" in (tmp_path / "console.log").read_text(errors="replace")
