"""The store of artefacts, on a real file system and with real processes."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from places import PROJECT
from splvm.deadline import Deadline
from splvm.errors import DeadlineExceeded, SetupError
from splvm.host import manifest, owner
from splvm.host.content import Input, input_hash
from splvm.host.manifest import Verify
from splvm.host.store import Store, hold_lock

ROOT = PROJECT
KEY = input_hash({"version": 1})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


class Builder:
    """A build of a few files that counts how often it ran."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, tree: Path) -> None:
        self.runs += 1
        (tree / "bin").mkdir()
        (tree / "bin" / "agent").write_bytes(b"agent" * 1000)
        (tree / "bin" / "agent").chmod(0o755)
        (tree / "link").symlink_to("bin/agent")
        (tree / "empty").touch()
        (tree / "später").write_text("not ASCII")


@pytest.fixture
def builder() -> Builder:
    return Builder()


def get(store: Store, build: Callable[[Path], None], verify: Verify = "quick") -> Path:
    return store.get("guest", KEY, build, deadline=Deadline(20), what="guest image", verify=verify).path


def scratch(store: Store) -> list[Path]:
    return list((store.root / "tmp").iterdir())


def test_what_is_forgotten_is_made_again(store: Store, builder: Builder) -> None:
    store.forget("guest", KEY, deadline=Deadline(20), what="guest image")
    path = get(store, builder)
    store.forget("guest", KEY, deadline=Deadline(20), what="guest image")
    assert not path.exists()
    assert get(store, builder) == path
    assert builder.runs == 2
    assert scratch(store) == []


# Room


def fill(store: Store, number: int, used_at: int) -> Path:
    def build(tree: Path) -> None:
        (tree / "memory").write_bytes(bytes(range(256)) * 256)
        with (tree / "memory").open("ab") as file:
            file.truncate(64 << 20)

    path = store.get("template", f"{number:08}", build, deadline=Deadline(20), what="a template").path
    os.utime(path.parent, (used_at, used_at))
    return path


def test_those_used_least_recently_go_first(store: Store) -> None:
    paths = [fill(store, number, used_at) for number, used_at in enumerate((300, 100, 200, 400))]
    store.trim("template", 200 << 10, used="00000001")
    assert [path.exists() for path in paths] == [True, True, False, True], "the one in use is not the oldest any more"
    store.trim("template", 0, used="00000000")
    assert [path.exists() for path in paths] == [True, False, False, False]


def test_holes_take_no_room(store: Store) -> None:
    path = fill(store, 1, 100)
    store.trim("template", 1 << 20, used="00000002")
    assert path.exists()


def test_one_that_is_being_looked_at_stays(store: Store) -> None:
    path = fill(store, 1, 100)
    with FileLock(store.root / "locks" / "template-00000001.lock"):
        store.trim("template", 0, used="00000002")
        assert path.exists()
    store.trim("template", 0, used="00000002")
    assert not path.exists()


USER = """
import sys
from pathlib import Path
from splvm.deadline import Deadline
from splvm.host.store import Store
with Store(Path(sys.argv[1])).using("template", "00000001", deadline=Deadline(20), what="a template"):
    print("using", flush=True)
    sys.stdin.read()
"""


def test_one_that_is_used_is_not_removed(store: Store) -> None:
    """By this process and by another one; who uses it may be killed."""
    path = fill(store, 1, 100)
    with subprocess.Popen(
        [sys.executable, "-c", USER, str(store.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "using\n"
        with store.using("template", "00000001", deadline=Deadline(20), what="a template"):
            assert not store.forget("template", "00000001", deadline=Deadline(20), what="a template")
        assert not store.forget("template", "00000001", deadline=Deadline(20), what="a template")
        store.trim("template", 0, used="00000002")
        assert path.exists()
        other.kill()
    assert store.forget("template", "00000001", deadline=Deadline(20), what="a template")
    assert not path.exists()


# Keys


def test_key_is_short_and_stable() -> None:
    assert input_hash({"a": 1, "b": "x"}) == input_hash({"b": "x", "a": 1}) == "3a724d7fe997a0c831c44dc986323582"


DIFFERENT: list[dict[str, Input]] = [
    {},
    {"a": 1},
    {"a": "1"},
    {"a": b"1"},
    {"a": True},
    {"a": 1.0},
    {"a": None},
    {"a": "None"},
    {"a": ["1"]},
    {"a": {"1": 1}},
    {"a": ["1", "2"]},
    {"a": [["1"], "2"]},
    {"a": "12"},
    {"a": "1", "b": "2"},
    {"a": "1b2"},
    {"b": 1},
]


def test_keys_of_different_inputs_differ() -> None:
    assert len({input_hash(inputs) for inputs in DIFFERENT}) == len(DIFFERENT)


def test_key_of_a_file_is_its_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("text")
    (tmp_path / "b").write_text("text")
    (tmp_path / "c").write_text("other")
    a, b, c = (input_hash({"file": tmp_path / name}) for name in "abc")
    assert a == b != c


def test_key_of_a_directory(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "file").write_text("text")
    keys = [input_hash({"tree": tree})]
    (tree / "sub" / "file").touch()
    assert input_hash({"tree": tree}) == keys[0]
    changes: list[Callable[[], object]] = [
        lambda: (tree / "sub" / "file").write_text("next"),
        lambda: (tree / "sub" / "file").chmod(0o755),
        lambda: (tree / "sub" / "file").rename(tree / "file"),
        lambda: (tree / "link").symlink_to("file"),
        lambda: (tree / "new").mkdir(),
    ]
    for change in changes:
        change()
        keys.append(input_hash({"tree": tree}))
    assert len(set(keys)) == len(keys)


def test_key_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot read an input"):
        input_hash({"file": tmp_path / "missing"})


def test_key_of_something_else() -> None:
    with pytest.raises(TypeError):
        input_hash({"a": object()})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("kind", "key"), [("../x", KEY), ("tmp", KEY), ("apt", KEY), ("guest", "../../x"), ("guest", "")]
)
def test_names_cannot_leave_the_store(store: Store, kind: str, key: str) -> None:
    with pytest.raises(ValueError, match="not the name of an artefact"):
        store.kept(kind, key)


# Building


def test_default_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPLVM_CACHE", str(tmp_path / "elsewhere"))
    assert Store.default().root == tmp_path / "elsewhere"
    monkeypatch.delenv("SPLVM_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store.default_root() == tmp_path / ".cache" / "splvm"


def test_built_once(store: Store, builder: Builder) -> None:
    assert store.kept("guest", KEY) is None
    path = get(store, builder)
    for verify in ("quick", "full", "named"):
        assert get(store, builder, verify) == path
    assert builder.runs == 1
    assert (path / "bin" / "agent").read_bytes() == b"agent" * 1000
    kept = store.kept("guest", KEY)
    assert kept and (kept.path, kept.kind, kept.key) == (path, "guest", KEY)
    assert scratch(store) == []


def test_artefact_appears_by_one_rename(store: Store, builder: Builder) -> None:
    inodes: list[int] = []

    def build(tree: Path) -> None:
        builder(tree)
        inodes.extend(path.stat().st_ino for path in (tree.parent, tree))

    path = get(store, build)
    assert [path.parent.stat().st_ino, path.stat().st_ino] == inodes


@pytest.mark.parametrize("failure", [SetupError("no compiler"), KeyboardInterrupt(), OSError(errno.EIO, "broken")])
def test_failed_build_leaves_nothing(store: Store, builder: Builder, failure: BaseException) -> None:
    def fail(tree: Path) -> None:
        builder(tree)
        raise failure

    with pytest.raises(type(failure)) as caught:
        get(store, fail)
    assert caught.value is failure
    assert scratch(store) == []
    assert not (store.root / "guest").exists()
    get(store, builder)


def test_empty_build_is_an_error(store: Store) -> None:
    with pytest.raises(SetupError, match="made nothing"):
        get(store, lambda tree: None)
    assert store.kept("guest", KEY) is None


def test_full_disk_is_explained(store: Store) -> None:
    def fill(tree: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(SetupError, match="the disk is full") as caught:
        get(store, fill)
    assert "SPLVM_CACHE" in str(caught.value.hint)
    assert scratch(store) == []


@contextmanager
def mounted(*argv: str, at: Path) -> Iterator[None]:
    if os.geteuid() != 0 or subprocess.run(["mount", *argv, str(at)], capture_output=True, check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        yield
    finally:
        # Not `os.path.ismount`: it does not know a bind mount within one file system.
        subprocess.run(["umount", str(at)], check=False, capture_output=True)


def test_really_full_disk(tmp_path: Path, builder: Builder) -> None:
    with mounted("-t", "tmpfs", "-o", "size=256k", "tmpfs", at=tmp_path):
        store = Store(tmp_path / "cache")

        def fill(tree: Path) -> None:
            (tree / "file").write_bytes(bytes(1 << 20))

        with pytest.raises(SetupError, match="the disk is full"):
            get(store, fill)
        assert scratch(store) == []
        get(store, builder)


def test_store_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="cannot be used") as caught:
        Store(tmp_path / "file" / "cache")
    assert "SPLVM_CACHE" in str(caught.value.hint)


# Damage


def flip(tree: Path) -> None:
    file = tree / "bin" / "agent"
    before = file.stat()
    file.write_bytes(b"AGENT" * 1000)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut_manifest(tree: Path) -> None:
    manifest = tree.parent / "manifest.json"
    manifest.write_text(manifest.read_text()[:100])


def forge_manifest(tree: Path) -> None:
    manifest = tree.parent / "manifest.json"
    head = json.loads(manifest.read_text())
    del head["entries"]["empty"]
    manifest.write_text(json.dumps(head))
    (tree / "empty").unlink()


def retarget(tree: Path) -> None:
    (tree / "link").unlink()
    (tree / "link").symlink_to("/etc/passwd")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flip": flip,
    "truncate": lambda tree: os.truncate(tree / "bin" / "agent", 10),
    "missing": lambda tree: (tree / "empty").unlink(),
    "extra": lambda tree: (tree / "bin" / "extra").touch(),
    "mode": lambda tree: (tree / "bin" / "agent").chmod(0o644),
    "directory mode": lambda tree: (tree / "bin").chmod(0o700),
    "link": retarget,
    "no manifest": lambda tree: (tree.parent / "manifest.json").unlink(),
    "cut manifest": cut_manifest,
    "forged manifest": forge_manifest,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("verify", ["quick", "full"])
def test_damaged_artefact_is_built_again(
    store: Store, builder: Builder, damage: str, verify: Verify, caplog: pytest.LogCaptureFixture
) -> None:
    path = get(store, builder)
    DAMAGES[damage](path)
    assert store.kept("guest", KEY, verify=verify) is None
    assert get(store, builder, verify) == path
    assert builder.runs == 2
    aside = store.root / "damaged" / f"guest-{KEY}"
    assert aside.is_dir()
    assert "is damaged" in caplog.text and str(aside) in caplog.text
    assert get(store, builder, verify) == path
    assert builder.runs == 2


def test_only_the_last_damaged_one_is_kept(store: Store, builder: Builder) -> None:
    for _ in range(3):
        DAMAGES["missing"](get(store, builder))
    get(store, builder)
    assert (builder.runs, len(list((store.root / "damaged").iterdir()))) == (4, 1)
    aside = store.root / "damaged" / f"guest-{KEY}"
    Store(store.root)
    assert aside.exists()
    os.utime(aside, (0, 0))
    Store(store.root)
    assert not aside.exists()


def test_touched_file_is_hashed_and_accepted(store: Store, builder: Builder) -> None:
    path = get(store, builder)
    os.utime(path / "bin" / "agent")
    noted = (path.parent / "seen.json").read_text()
    get(store, builder)
    assert builder.runs == 1
    assert (path.parent / "seen.json").read_text() != noted


def rot(path: Path) -> None:
    """Change a file as a failing disk does: no time stamp tells."""
    flip(path)
    seen = path.parent / "seen.json"
    head = json.loads(seen.read_text())
    info = (path / "bin" / "agent").stat()
    head["entries"]["bin/agent"] = [info.st_ino, info.st_mtime_ns, info.st_ctime_ns]
    seen.write_text(json.dumps(head))


def test_rot_is_found_by_full_and_after_a_boot(store: Store, builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    rot(get(store, builder))
    assert store.kept("guest", KEY, verify="quick")
    assert store.kept("guest", KEY, verify="full") is None
    monkeypatch.setattr(manifest, "boot_id", lambda: "another")
    assert store.kept("guest", KEY, verify="quick") is None


def test_notes_of_what_was_seen_are_not_needed(store: Store, builder: Builder) -> None:
    path = get(store, builder)
    for text in ("", "[]", '{"boot": 1}'):
        (path.parent / "seen.json").write_text(text)
        get(store, builder)
    (path.parent / "seen.json").unlink()
    get(store, builder)
    assert builder.runs == 1


def test_named_is_only_looked_for(store: Store, builder: Builder) -> None:
    path = get(store, builder, "named")
    DAMAGES["missing"](path)
    assert get(store, builder, "named") == path
    assert builder.runs == 1, "what is in it is found out with another level"
    (path.parent / "manifest.json").unlink()
    get(store, builder, "named")
    assert builder.runs == 2


# Scratch and removal


def test_temporary_is_removed(store: Store) -> None:
    with store.temporary() as path:
        (path / "sub").mkdir(mode=0o500)
        assert scratch(store) == [path]
    assert scratch(store) == []
    with pytest.raises(RuntimeError), store.temporary():
        raise RuntimeError
    assert scratch(store) == []


def test_scratch_of_the_dead_is_removed(store: Store) -> None:
    tmp = store.root / "tmp"
    space, pid, start, _ = owner.scratch_name().split("-")
    with subprocess.Popen(["true"]) as process:
        process.wait()
    gone = [f"{space}-{process.pid}-{start}-00000000", f"{space}-{pid}-{int(start) + 1}-00000000"]
    mine = f"{space}-{pid}-{start}-00000000"
    foreign = f"{'0' * 8}-{pid}-{start}-00000000"
    for name in (*gone, mine, foreign, "strange"):
        (tmp / name / "tree").mkdir(parents=True)
    Store(store.root)
    assert sorted(path.name for path in scratch(store)) == sorted([mine, foreign, "strange"])
    for name in (mine, foreign, "strange"):
        os.utime(tmp / name, (0, 0))
    Store(store.root)
    assert [path.name for path in scratch(store)] == [mine]


def test_zombie_owns_nothing() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert owner._start_ticks(process.pid) is None
    process.wait()


def test_only_what_is_inside_is_removed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    for path in (tmp_path / "precious", store.root, store.root / ".." / "precious", store.root / "tmp" / ".."):
        with pytest.raises(ValueError, match="is not inside"):
            store.remove(path)
    assert (tmp_path / "precious").exists()


def test_mount_is_taken_off_before_a_tree_is_removed(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    with store.temporary() as path:
        (path / "with space").mkdir()
        # The same file system, so that `rm --one-file-system` would go through it.
        with mounted("--bind", str(outside), at=path / "with space"):
            store.remove(path)
    assert (outside / "precious").exists()
    assert scratch(store) == []


def test_busy_mount_is_not_gone_through(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    with store.temporary() as path:
        (path / "busy").mkdir()
        with mounted("--bind", str(outside), at=path / "busy"):
            with open(path / "busy" / "precious"), pytest.raises(SetupError, match="still mounted"):
                store.remove(path)
            assert (outside / "precious").exists()


# Several processes

PROCESS = """
import sys
from pathlib import Path
from splvm.deadline import Deadline
from splvm.host.store import Store
from splvm.log import setup_logging

def build(tree):
    print("building", flush=True)
    sys.stdin.readline()
    (tree / "file").write_text("x")

setup_logging()
artefact = Store(Path(sys.argv[1])).get("guest", sys.argv[2], build, deadline=Deadline(60), what="guest image")
print(artefact.path, flush=True)
"""


@contextmanager
def process_that_gets(store: Store) -> Iterator[subprocess.Popen[str]]:
    argv = [sys.executable, "-c", PROCESS, str(store.root), KEY]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().rstrip()


def test_what_is_in_an_artefact_has_one_hash(store: Store, builder: Builder, tmp_path: Path) -> None:
    """In whichever store it is; what may be done with its files is not a part of it."""

    def content(where: Store, build: Callable[[Path], None]) -> str:
        return where.content(where.get("guest", KEY, build, deadline=Deadline(20), what="guest image"))

    def closed(tree: Path) -> None:
        builder(tree)
        (tree / "empty").chmod(0o600)

    def other(tree: Path) -> None:
        builder(tree)
        (tree / "empty").write_text("not empty")

    one = content(store, builder)
    assert content(Store(tmp_path / "two"), closed) == one
    assert content(Store(tmp_path / "three"), other) != one


def test_two_processes_build_once(store: Store, builder: Builder) -> None:
    with process_that_gets(store) as first, process_that_gets(store) as second:
        # Whoever comes first builds; only the other one says that it waits.
        assert first.stdout and second.stdout and first.stderr and second.stderr
        ready, _, _ = select.select([first.stdout, second.stdout], [], [], 30)
        owner, waiter = (first, second) if ready[0] is first.stdout else (second, first)
        assert read_line(owner) == "building"
        assert waiter.stderr and waiter.stderr.readline() == "guest image: another process is at it; waiting\n"
        # The scratch of a living builder is left alone by whoever opens the store.
        Store(store.root)
        assert len(scratch(store)) == 1
        with pytest.raises(DeadlineExceeded, match="another process holds"):
            store.get("guest", KEY, builder, deadline=Deadline(0.2), what="guest image")
        out, _ = owner.communicate("\n", timeout=30)
        waited, _ = waiter.communicate(timeout=30)
    assert out == waited == f"{store.root}/guest/{KEY}/tree\n"
    assert get(store, builder).is_dir()
    assert builder.runs == 0


def test_killed_builder_leaves_nothing(store: Store, builder: Builder) -> None:
    with process_that_gets(store) as process:
        assert read_line(process) == "building"
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
    assert len(scratch(store)) == 1
    assert store.kept("guest", KEY) is None
    get(Store(store.root), builder)
    assert (builder.runs, scratch(store)) == (1, [])


def test_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError), hold_lock(tmp_path / "lock", Deadline(0), "x"):
            raise RuntimeError
