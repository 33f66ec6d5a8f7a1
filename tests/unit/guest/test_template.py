"""Templates: their key, where they are kept, and freezing and going on with a guest of sixty bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from splvm.clock import Clock
from splvm.deadline import Deadline
from splvm.errors import BootError, DeadlineExceeded, GuestLostError, HarnessError, QemuLaunchError
from splvm.guest import template as template_module
from splvm.guest.bell import Beginning
from splvm.guest.guest import Guest
from splvm.guest.guestplan import GuestPlan, Start
from splvm.guest.machine import Backing, MachineSpec, qemu_args
from splvm.guest.qemu import Qemu, start_qemu
from splvm.guest.ssh import SshKeys
from splvm.guest.template import Template, Templates, template_key
from splvm.host.store import Store
from splvm.record.writer import RunDirectory
from splvm.run import closedrun, starting
from splvm.run.closedrun import start_closed_clone
from splvm.run.starting import start_any_guest
from tiny_guest import COUNT, make_spec, needs_qemu

LIMIT_S = 30.0


# Freezing, and going on.


@contextmanager
def started(spec: MachineSpec, logs: Path, backing: Backing, *, restored: bool = False) -> Iterator[Qemu]:
    deadline = Deadline(LIMIT_S)
    with start_qemu(spec, qemu_log=logs / "qemu.log", deadline=deadline, backing=backing, restored=restored) as qemu:
        qemu.console.settimeout(LIMIT_S)
        yield qemu


def ask(qemu: Qemu) -> int:
    """What the guest has counted up to."""
    qemu.console.sendall(b"x")
    return qemu.console.recv(1)[0]


def freeze(spec: MachineSpec, directory: Path) -> Template:
    """A template of a guest that has been asked three times."""
    with started(spec, directory, Template(directory, "").backing(spec, shared=True)) as qemu:
        assert [ask(qemu) for _ in range(3)] == [0, 1, 2]
        qemu.stop(Deadline(LIMIT_S))
        qemu.save(directory / "state", Deadline(LIMIT_S))
        assert qemu.status(Deadline(LIMIT_S)) == "postmigrate"
    return Template(directory, "0" * 32)


@pytest.fixture
def counting(tmp_path: Path) -> MachineSpec:
    return make_spec(tmp_path, COUNT)


@needs_qemu
def test_clones_go_on_where_the_template_was_frozen(counting: MachineSpec, tmp_path: Path) -> None:
    template = freeze(counting, tmp_path)
    before = template.memory.read_bytes()
    private = template.backing(counting, shared=False)
    with (
        started(counting, tmp_path, private, restored=True) as one,
        started(counting, tmp_path, private, restored=True) as two,
    ):
        for qemu in (one, two):
            qemu.restore(template.state, Deadline(LIMIT_S))
        assert [ask(one) for _ in range(4)] == [3, 4, 5, 6]
        assert ask(two) == 3, "what the other one has written is its own"
    assert template.memory.read_bytes() == before


@needs_qemu
def test_a_shared_clone_writes_to_the_file(counting: MachineSpec, tmp_path: Path) -> None:
    template = freeze(counting, tmp_path)
    before = template.memory.read_bytes()
    with started(counting, tmp_path, template.backing(counting, shared=True), restored=True) as qemu:
        qemu.restore(template.state, Deadline(LIMIT_S))
        ask(qemu)
    assert template.memory.read_bytes() != before


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def garble(path: Path) -> None:
    path.write_bytes(b"no state at all" * 100)


def remove(path: Path) -> None:
    path.unlink()


@needs_qemu
@pytest.mark.parametrize("damage", [cut, garble, remove])
def test_a_state_that_is_damaged(counting: MachineSpec, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    template = freeze(counting, tmp_path)
    damage(template.state)
    with (
        started(counting, tmp_path, template.backing(counting, shared=False), restored=True) as qemu,
        pytest.raises(GuestLostError, match="migrate-incoming"),
    ):
        qemu.restore(template.state, Deadline(LIMIT_S))


@needs_qemu
def test_a_state_of_another_machine(counting: MachineSpec, tmp_path: Path) -> None:
    """QEMU itself does not refuse every other machine, one with more CPUs for instance: that is left to the key."""
    template = freeze(counting, tmp_path)
    other = replace(counting, ram_mib=64)
    with (
        pytest.raises(HarnessError),
        started(other, tmp_path, template.backing(counting, shared=False), restored=True) as qemu,
    ):
        qemu.restore(template.state, Deadline(LIMIT_S))


def test_the_file_may_have_any_name() -> None:
    spec = MachineSpec("qemu", Path("kernel"), (), "tcg")
    backing = Template(Path("/tmp/a,b"), "").backing(spec, shared=False)
    argv = qemu_args(spec, initrd="", qmp_fd=3, console_fd=4, port_fd=5, backing=backing, restored=True)
    assert argv[argv.index("-object") + 1].endswith(",share=off,mem-path=/tmp/a,,b/memory")
    assert not {"-kernel", "-initrd", "-append"} & set(argv)


# The key.


@pytest.fixture
def machine(tmp_path: Path) -> MachineSpec:
    for name in ("qemu", "kernel", "initrd"):
        (tmp_path / name).write_text(name)
    (tmp_path / "qemu").chmod(0o755)
    return MachineSpec(str(tmp_path / "qemu"), tmp_path / "kernel", (tmp_path / "initrd",), "tcg")


@pytest.fixture
def keys(tmp_path: Path) -> SshKeys:
    (tmp_path / "host_key.pub").write_text("key")
    return SshKeys(tmp_path / "identity", tmp_path / "host_key.pub")


def test_the_key_is_everything_that_goes_in(machine: MachineSpec, keys: SshKeys, tmp_path: Path) -> None:
    module = tmp_path / "spl.ko"
    module.write_text("module")
    seen = {
        template_key(GuestPlan(machine, keys)),
        template_key(GuestPlan(machine, keys, (module,))),
        template_key(GuestPlan(replace(machine, ram_mib=640), keys)),
        template_key(GuestPlan(replace(machine, cpus=3), keys)),
        template_key(GuestPlan(replace(machine, accelerator="kvm"), keys)),
        template_key(GuestPlan(replace(machine, append=("panic=5",)), keys)),
    }
    for name in ("qemu", "kernel", "initrd", "host_key.pub", "spl.ko"):
        (tmp_path / name).write_text("another")
        seen.add(template_key(GuestPlan(machine, keys, (module,))))
    assert len(seen) == 11


def test_the_key_does_not_tell_where_things_are(machine: MachineSpec, keys: SshKeys, tmp_path: Path) -> None:
    before = template_key(GuestPlan(machine, keys))
    (tmp_path / "elsewhere").mkdir()
    kernel = (tmp_path / "kernel").rename(tmp_path / "elsewhere" / "vmlinuz")
    assert template_key(GuestPlan(replace(machine, kernel=kernel), keys)) == before


# Where they are kept.


@pytest.fixture
def memory_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "shm"
    path.mkdir()
    monkeypatch.setattr(template_module, "_MEMORY_FILE_SYSTEM", path)
    monkeypatch.delenv("SPLVM_TEMPLATES", raising=False)
    monkeypatch.setenv("SPLVM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return path


def test_they_are_in_memory_where_there_is_room(memory_file_system: Path) -> None:
    Templates.default()
    (directory,) = memory_file_system.iterdir()
    assert (directory / "store").read_text() == str(memory_file_system.parent / "cache")


def test_they_are_on_the_disk_where_there_is_none(memory_file_system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_module, "_ROOM_BYTES", 1 << 60)
    Templates.default()
    assert not list(memory_file_system.iterdir())
    assert (memory_file_system.parent / "cache" / "templates").is_dir()


def open_up(path: Path) -> None:
    path.chmod(0o755)


def replace_by_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("make", [open_up, replace_by_link])
def test_a_directory_that_others_may_have_made_is_not_used(
    memory_file_system: Path, make: Callable[[Path], object]
) -> None:
    Templates.default()
    (mine,) = memory_file_system.iterdir()
    assert mine.stat().st_mode & 0o777 == 0o700, "a guest's private host key is in its memory"
    make(mine)
    Templates.default()
    assert (memory_file_system.parent / "cache" / "templates" / "tmp").is_dir()


@pytest.mark.usefixtures("memory_file_system")
def test_a_clone_that_fails_in_any_way_leaves_its_logs_beside(
    machine: MachineSpec, keys: SshKeys, tmp_path: Path, no_boot: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def late(template: Template, plan: GuestPlan, logs: Path, deadline: Deadline) -> Iterator[Guest]:
        (logs / "console.log").write_text("Kernel panic - not syncing: the clone's")
        if logs:
            raise DeadlineExceeded("QMP query-cpus-fast", 1)
        yield cast(Guest, None)

    monkeypatch.setattr(Templates, "get", lambda *args: Template(tmp_path, "0" * 32))
    monkeypatch.setattr(starting, "start_clone", late)
    with start_any_guest(GuestPlan(machine, keys, start=Start.BASE), tmp_path, Deadline(LIMIT_S)) as guest:
        assert "query-cpus-fast" in guest.no_clone
    assert no_boot == ["boot"]
    assert not (tmp_path / "console.log").exists(), "what a clone said is not what the guest says"
    assert (tmp_path / "clone-console.log").exists()


def test_they_are_where_the_user_wants_them(memory_file_system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLVM_TEMPLATES", str(memory_file_system.parent / "mine"))
    Templates.default()
    assert not list(memory_file_system.iterdir())
    assert (memory_file_system.parent / "mine" / "tmp").is_dir()


def test_those_of_a_store_that_is_gone_go(memory_file_system: Path) -> None:
    Templates.default()
    (mine,) = memory_file_system.iterdir()
    lost = memory_file_system / f"splvm-{os.getuid()}-lost"
    strange = memory_file_system / f"splvm-{os.getuid()}-strange"
    for path in (lost, strange):
        path.mkdir(mode=0o700)
    (lost / "store").write_text(str(memory_file_system / "there-is-none"))
    Templates.default()
    assert set(memory_file_system.iterdir()) == {mine, strange}, "what does not say whose it is stays"


# When there is none.


@pytest.fixture
def no_boot(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Boots nothing; tells how often it was to."""
    boots: list[str] = []

    @contextmanager
    def start(plan: GuestPlan, logs: Path, deadline: Deadline) -> Iterator[Guest]:
        boots.append("boot")
        yield Guest(plan.machine, None, None, None, ())  # type: ignore[arg-type]

    monkeypatch.setattr(starting, "start_guest", start)
    return boots


@pytest.mark.usefixtures("memory_file_system")
def test_a_guest_is_booted_and_says_why(
    machine: MachineSpec, keys: SshKeys, tmp_path: Path, no_boot: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> Template:
        raise BootError("no memory", "")

    monkeypatch.setattr(Templates, "get", fail)
    with start_any_guest(GuestPlan(machine, keys, start=Start.LOADED), tmp_path, Deadline(LIMIT_S)) as guest:
        assert "no memory" in guest.no_clone
        assert guest.boots == 1
    with start_any_guest(GuestPlan(machine, keys, start=Start.BOOT), tmp_path, Deadline(LIMIT_S)) as guest:
        assert not guest.no_clone
    assert len(no_boot) == 2


@needs_qemu
@pytest.mark.usefixtures("memory_file_system")
def test_a_template_of_no_use_is_forgotten(
    keys: SshKeys, tmp_path: Path, no_boot: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(tmp_path)
    store = Store(tmp_path / "cache")

    def build(tree: Path) -> None:
        for name in ("memory", "state", "console.log"):
            (tree / name).write_bytes(b"nothing")

    kept = store.get("template", "0" * 32, build, deadline=Deadline(LIMIT_S), what="a template")
    monkeypatch.setattr(Templates, "default", lambda: Templates(store, 1 << 30))
    monkeypatch.setattr(Templates, "get", lambda *args: Template(kept.path, kept.key))
    with start_any_guest(GuestPlan(spec, keys, start=Start.BASE), tmp_path, Deadline(LIMIT_S)) as guest:
        assert guest.no_clone
    assert no_boot == ["boot"]
    assert not kept.path.exists()
    assert (tmp_path / "clone-qemu.log").exists()
    assert not (tmp_path / "qemu.log").exists()


@pytest.mark.parametrize("clock", Clock)
def test_a_clone_that_does_not_start_leaves_the_template_to_others(
    clock: Clock,
    keys: SshKeys,
    counting: MachineSpec,
    tmp_path: Path,
    no_boot: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its QEMU was killed, say. A sibling that is just starting goes on; after that nobody has the template."""
    plan = GuestPlan(replace(counting, clock=clock), SshKeys(tmp_path / "key", counting.kernel), start=Start.BASE)
    templates, tried = Templates(Store(tmp_path / "store"), 1 << 20), list[bool]()

    def freeze(plan: GuestPlan, *rest: Any) -> None:
        tree, logs = (rest[1], rest[2]) if clock is Clock.VIRTUAL else (rest[1], rest[0])
        (logs / "console.log").touch()
        (tree / "state").touch()

    @contextmanager
    def start(*asked: Any) -> Iterator[Any]:
        tried.append(True)
        if len(tried) > 1:
            raise QemuLaunchError(("qemu",), -9, "it was killed")
        with suppress(QemuLaunchError):
            begin("other")
        kept.append((template_directory() / "state").exists())
        yield object()

    def template_directory() -> Path:
        (home,) = (templates._store.root / "template").iterdir()
        return home / "tree"

    def begin(name: str) -> None:
        (tmp_path / name).mkdir()
        deadline = Deadline(LIMIT_S)
        if clock is Clock.REAL:
            with start_any_guest(plan, tmp_path / name, deadline):
                return
        record = RunDirectory(tmp_path / name / "run", {})
        try:
            with start_closed_clone(plan, Beginning(20, 1), record, deadline):
                pass
        finally:
            record.finish({})

    kept = list[bool]()
    monkeypatch.setattr(Templates, "default", lambda: templates)
    monkeypatch.setattr(template_module, "freeze_closed", freeze)
    monkeypatch.setattr(template_module, "_freeze_boot", freeze)
    monkeypatch.setattr(template_module, "_fresh_backing", lambda *_: None)
    monkeypatch.setattr(starting, "start_clone", start)
    monkeypatch.setattr(closedrun, "start_closed", start)
    begin("first")
    assert kept == [True]
    with suppress(QemuLaunchError):
        begin("last")
    assert not list((templates._store.root / "template").iterdir())


def test_a_name_stands_for_what_is_in_a_template(
    counting: MachineSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it is made again: a digest of virtual time holds within one frozen state."""
    states = [b"one", b"one", b"other"]

    def freeze_boot(plan: GuestPlan, logs: Path, tree: Path, deadline: Deadline) -> None:
        (logs / "console.log").touch()
        (tree / "state").write_bytes(states.pop(0))

    monkeypatch.setattr(template_module, "_freeze_boot", freeze_boot)
    plan = GuestPlan(counting, SshKeys(tmp_path / "key", counting.kernel))
    templates, deadline = Templates(Store(tmp_path / "store"), 1 << 20), Deadline(LIMIT_S)
    first = templates.get(plan, deadline)
    name = first.name
    assert templates.get(plan, deadline).name == name
    templates.forget(first, deadline)
    assert templates.get(plan, deadline).name == name
    templates.forget(first, deadline)
    again = templates.get(plan, deadline)
    assert again.key == first.key and again.name != name
