"""Templates and clones: what a clone is, that it is alone, and what happens when there can be none."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from leftovers import qemus_of
from splvm.deadline import Deadline, poll
from splvm.errors import DeadlineExceeded, GuestLostError
from splvm.guest import template as template_module
from splvm.guest.agent import start_agent
from splvm.guest.disks import Disk
from splvm.guest.guest import Guest
from splvm.guest.guestplan import Start
from splvm.guest.template import Template, Templates, start_clone
from splvm.host.process import as_root_args
from splvm.record.reader import read_evidence
from splvm.run.prepare import Prepared
from splvm.run.starting import start_any_guest

pytestmark = pytest.mark.splvm_vm

LIMIT_S = 120.0


@pytest.fixture(scope="session")
def template(spl: Prepared) -> Template:
    return Templates.default().get(spl.plan, Deadline(LIMIT_S))


@contextmanager
def cloned(template: Template, spl: Prepared, logs: Path) -> Iterator[Guest]:
    logs.mkdir(exist_ok=True)
    with start_clone(template, spl.plan, logs, Deadline(LIMIT_S)) as guest:
        yield guest


def said(guest: Guest, command: str) -> str:
    return guest.ssh.run(command, deadline=Deadline(30)).stdout.strip()


def content(template: Template) -> tuple[int, str, str]:
    # Not the room that it takes: who reads a hole of a file in memory fills it with zeros (mm/shmem.c).
    memory, state = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (template.memory, template.state))
    return template.memory.stat().st_mtime_ns, memory, state


def test_the_guest_of_a_test_is_a_clone(guest: Guest, tmp_path: Path) -> None:
    assert guest.template
    assert not guest.no_clone
    assert {"spl", "slabprobe"} <= {line.split()[0] for line in said(guest, "cat /proc/modules").splitlines()}
    before, settled, after = (tmp_path / "console.log").read_text(errors="replace").rpartition("guest has settled")
    assert "Linux version" in before, "what the template said is in front"
    assert settled
    assert "splvm: clone is awake" in after


def test_a_command_that_begins_as_another_ends(guest: Guest) -> None:
    """Dropbear closes its channel then, one time in ten where both CPUs have other work; it is opened again."""
    said(guest, "echo 'set pause_us=0 reap_rounds=1000000' >/proc/slabprobe; echo start >/proc/slabprobe")
    for _ in range(40):
        with start_agent(guest.ssh, guest.qemu.port, rate_hz=100, sink=lambda *_: None, deadline=Deadline(LIMIT_S)):
            pass
        assert said(guest, "echo here") == "here"


def test_a_clone_has_the_time_of_its_start(
    template: Template, spl: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A template may be days old; this one is of a time that no template is of."""
    day_s = 2_000_000_000
    monkeypatch.setattr(template_module, "time", SimpleNamespace(time=lambda: float(day_s)))
    with cloned(template, spl, tmp_path / "one") as guest:
        assert 0 <= int(said(guest, "date +%s")) - day_s < LIMIT_S


def test_clones_have_nothing_of_each_other(template: Template, spl: Prepared, tmp_path: Path) -> None:
    before = content(template)
    with cloned(template, spl, tmp_path / "one") as one, cloned(template, spl, tmp_path / "two") as two:
        said(one, "echo secret > /tmp/secret; rmmod slabprobe; hostname one")
        assert said(two, "ls /tmp; hostname") == "splvm"
        assert "slabprobe" in said(two, "cat /proc/modules")
        assert said(one, "cat /proc/sys/kernel/random/uuid") != said(two, "cat /proc/sys/kernel/random/uuid")
        assert one.ssh.port != two.ssh.port
    with cloned(template, spl, tmp_path / "three") as three:
        assert said(three, "ls /tmp; hostname") == "splvm"
    assert content(template) == before


@pytest.mark.splvm_slow
def test_disks_are_copies_too(spl: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk of a clone is its own, and so is that of a guest that was booted."""
    monkeypatch.setenv("SPLVM_TEMPLATES", str(tmp_path / "templates"))
    spec = replace(spl.machine, disks=(Disk(64), Disk(32)))
    plan = replace(spl.plan.bare, machine=spec)
    template = Templates.default().get(plan, Deadline(LIMIT_S))
    disk = template.backing(spec, shared=False).disks[0]
    write = "echo written > /dev/vda && sync && head -c 7 /dev/vda && wc -c < /dev/vdb"
    for start in (Start.BASE, Start.BASE, Start.BOOT):
        with start_any_guest(replace(plan, start=start), tmp_path, Deadline(LIMIT_S)) as guest:
            assert said(guest, "head -c 7 /dev/vda | tr -d '\\0' | wc -c") == "0", "nobody has written to it before"
            assert said(guest, write) == f"written{32 << 20}"
    assert not disk.read_bytes().strip(b"\0")


def test_a_wrecked_clone_is_thrown_away(template: Template, spl: Prepared, tmp_path: Path) -> None:
    with cloned(template, spl, tmp_path / "one") as one:
        with suppress(GuestLostError, DeadlineExceeded):
            one.ssh.run("echo c > /proc/sysrq-trigger", deadline=Deadline(5), check=False)
        assert one.console.says("Kernel panic", Deadline(30))
    assert not qemus_of(tmp_path)
    with cloned(template, spl, tmp_path / "two") as two:
        assert said(two, "echo here") == "here"


def test_a_template_that_is_damaged_is_made_again(
    spl: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLVM_TEMPLATES", str(tmp_path / "templates"))
    deadline = Deadline(LIMIT_S)
    template = Templates.default().get(spl.plan.bare, deadline)
    with template.memory.open("r+b") as memory:
        memory.truncate(spl.machine.ram_mib << 19)
    with start_any_guest(replace(spl.plan.bare, start=Start.BASE), tmp_path, deadline) as guest:
        assert guest.template == template.key
        assert said(guest, "echo here") == "here"
    assert template.memory.stat().st_size == spl.machine.ram_mib << 20


def test_a_clone_that_does_not_answer(
    template: Template, spl: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Templates, "get", lambda *args: template)
    monkeypatch.setattr(Templates, "forget", lambda *args: None)
    monkeypatch.setattr(template_module, "_AWAKE", "what no clone says")
    monkeypatch.setattr(template_module, "CLONE_BUDGET_S", 3.0)
    with start_any_guest(replace(spl.plan.bare, start=Start.BASE), tmp_path, Deadline(LIMIT_S)) as guest:
        assert "did not say" in guest.no_clone
        assert guest.boots == 1
        assert not guest.template
        assert said(guest, "echo here") == "here"
    assert "Linux version" in (tmp_path / "clone-console.log").read_text(errors="replace")
    assert not qemus_of(tmp_path)


def splvm(*options: str) -> list[str]:
    return [sys.executable, "-m", "splvm", *options]


@pytest.mark.splvm_slow
def test_no_room_for_a_template(tmp_path: Path, project: Path) -> None:
    """On a file system that is too small, and gone with the process that sees it."""
    script = 'mount -t tmpfs -o size=60m none "$0" && exec env SPLVM_TEMPLATES="$0" "$@"'
    (tmp_path / "small").mkdir()
    run = splvm("run", "held-worker", "--window", "1", "--out", str(tmp_path / "run"))
    argv = [*as_root_args(), "unshare", "--mount", "sh", "-c", script, str(tmp_path / "small"), *run]
    done = subprocess.run(argv, cwd=project, capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout.splitlines()[-1].startswith("PROGRESS"), done
    assert "no clone: " in done.stderr
    facts = read_evidence(tmp_path / "run").facts
    assert (facts["template"], facts["boots"]) == ("", 1)
    assert facts["no_clone"]
    assert not qemus_of(tmp_path)


@pytest.mark.splvm_slow
def test_a_builder_that_is_killed_half_way(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "templates"
    monkeypatch.setenv("SPLVM_TEMPLATES", str(root))
    build = splvm("build", "--template")
    with subprocess.Popen(build, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        try:
            poll(lambda: next(root.glob("tmp/*/tree/memory"), None), Deadline(LIMIT_S), "memory of a template")
        finally:
            first.send_signal(signal.SIGKILL)
    poll(lambda: None if qemus_of(root) else True, Deadline(30), "end of QEMU")
    assert not list(root.glob("template/*"))
    # Two at once make one, and nothing is left of the one that was killed.
    both = [subprocess.Popen(build, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    outputs = [process.communicate(timeout=600) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    # One without the modules, one with them.
    assert len(list(root.glob("template/*/manifest.json"))) == 2
    assert not list(root.glob("tmp/*"))
