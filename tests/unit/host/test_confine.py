"""Foreign code is confined, really: harm that is done without is not done within, and nothing outlives its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostile import Host, find_sleepers, start_victims, wait_for_sleepers
from splvm.builds.tree import SPL_DIR, apply_patch
from splvm.deadline import Deadline
from splvm.errors import SetupError
from splvm.host import confine
from splvm.host.confine import FIRST_ID, Place, confine_args, find_making_trouble, find_trouble
from splvm.host.process import run

confined = pytest.mark.skipif(bool(find_trouble()), reason=f"no user namespaces here: {find_trouble()}")
many_ids = pytest.mark.skipif(bool(find_making_trouble()), reason=f"no namespace with ids: {find_making_trouble()}")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with start_victims(tmp_path / "host") as host:
        yield host


def work(tmp_path: Path, **files: str) -> Path:
    top = tmp_path / "work"
    top.mkdir()
    for name, text in files.items():
        (top / name).write_text(text)
    return top


def inside(place: Place, script: str) -> str:
    return run(confine_args(place, ["sh", "-c", script]), deadline=Deadline(60), what="a script").stdout


def test_harm_is_done_without(host: Host, tmp_path: Path) -> None:
    """Or the tests below could not fail."""
    done = run(["sh", "-c", host.script], cwd=tmp_path, deadline=Deadline(60), what="a script")
    assert len(host.harm(done.tail)) >= 8


@confined
def test_no_harm_is_done_within(host: Host, tmp_path: Path) -> None:
    said = inside(Place(None, work(tmp_path)), f"{host.script}echo here >made; echo the end")
    assert said.endswith("the end\n")
    assert host.harm(said) == set()
    made = tmp_path / "work" / "made"
    assert (made.read_text(), made.stat().st_uid) == ("here\n", os.getuid())


SPL = "int spl(void)\n{\n\treturn (1);\n}\n"
# It has run whatever it says, and it does what it is there for.
COCCI = "@initialize:python@\n@@\nimport os\nos.system({script!r})\n\n@@\n@@\n-return (1);\n+return (2);\n"


@confined
def test_a_semantic_patch_with_a_program(host: Host, tmp_path: Path) -> None:
    source, log = tmp_path / "src" / SPL_DIR / "spl-x.c", tmp_path / "log"
    source.parent.mkdir(parents=True)
    source.write_text(SPL)
    patch = tmp_path / "patches" / "x.cocci"
    patch.parent.mkdir()
    (tmp_path / "src" / "harm.sh").write_text(f"{host.script}echo it has run")
    patch.write_text(COCCI.format(script="sh harm.sh"))
    assert apply_patch(patch, tmp_path / "src", log, Deadline(60)) == [f"{SPL_DIR}/spl-x.c"]
    assert "it has run" in log.read_text()
    assert host.harm(log.read_text()) == set()
    assert "return (2)" in source.read_text()


def test_a_patch_that_puts_a_link_in_place_of_a_source(host: Host, tmp_path: Path) -> None:
    """It is the harness that would follow it, with all rights of the caller."""
    top = tmp_path / "src" / SPL_DIR
    top.mkdir(parents=True)
    for name in ("spl-x.c", "spl-y.c"):
        (top / name).write_text(SPL)
    patch = tmp_path / "x.cocci"
    link = f"rm {SPL_DIR}/spl-y.c; ln -s {host.secret} {SPL_DIR}/spl-y.c"
    patch.write_text(COCCI.replace("initialize", "finalize").format(script=link))
    with pytest.raises(SetupError, match=r"spl-y\.c is no plain file"):
        apply_patch(patch, tmp_path / "src", tmp_path / "log", Deadline(60))


@confined
def test_what_a_command_sees(tmp_path: Path) -> None:
    place = Place(None, work(tmp_path, mine="1"))
    said = inside(place, "ls /; id -u; sed -n 's/^Cap.*:\t//p;s/^NoNewPrivs:\t//p' /proc/self/status; ls /build")
    names = {"build", "dev", "etc", "proc", "tmp", "usr"}
    lines = said.splitlines()
    assert names <= {*lines} and not {"home", "root", "run", "sys", "var"} & {*lines}
    assert lines[-8:] == ["0", *["0" * 16] * 5, "1", "mine"]


@confined
def test_headers_are_read_and_not_written(tmp_path: Path) -> None:
    headers = tmp_path / "headers"
    headers.mkdir()
    (headers / "name").write_text("of the kernel")
    said = inside(Place(None, work(tmp_path), headers), "cat /usr/src/name; echo x >/usr/src/name || echo refused")
    assert said.startswith("of the kernel") and said.endswith("refused\n")


@confined
def test_the_status_and_the_output_are_those_of_the_command(tmp_path: Path) -> None:
    argv = confine_args(Place(None, work(tmp_path)), ["sh", "-c", "pwd; echo no >&2; exit 7"])
    done = run(argv, deadline=Deadline(60), what="x", check=False)
    assert (done.exit_code, done.stdout) == (7, "/build\n") and "no" in done.tail.splitlines()


@confined
def test_a_cache_is_kept(tmp_path: Path) -> None:
    cache = tmp_path / "ccache"
    cache.mkdir()
    place = Place(None, work(tmp_path), ccache=cache)
    for _ in range(2):
        inside(place, "echo more >>$CCACHE_DIR/file")
    assert (cache / "file").read_text() == "more\n" * 2


@confined
@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of others")
def test_a_cache_with_files_of_another_owner_can_be_written_to(tmp_path: Path) -> None:
    """As builds left one that could not be confined; all of it is the builder's again."""
    cache = tmp_path / "ccache"
    (cache / "0").mkdir(parents=True)
    place = Place(None, work(tmp_path), ccache=cache)
    inside(place, "echo more >$CCACHE_DIR/file")
    os.chown(cache / "0", 0, 0)
    inside(place, "echo more >$CCACHE_DIR/0/file")
    assert (cache / "0" / "file").read_text() == "more\n"


# Ends

HARNESS = """
import sys
from pathlib import Path
from splvm.deadline import Deadline
from splvm.host.confine import Place, confine_args, make_args, start_many_ids
from splvm.host.process import run
how, work, seconds = sys.argv[1:]
sleep = ["sh", "-c", "echo x >$0/file; setsid sleep $1 & sleep $1"]
if how == "enter":
    run(confine_args(Place(None, Path(work)), [*sleep, "/build", seconds]), deadline=Deadline(100), what="x")
with start_many_ids() as ids:
    run(make_args(ids, [*sleep, "/dev/shm", seconds]), deadline=Deadline(100), what="x")
"""


@many_ids
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("how", ["enter", "make"])
def test_nothing_outlives_the_harness(how: str, number: signal.Signals, tmp_path: Path) -> None:
    seconds = f"87654.{os.getpid()}{number}"
    argv = [sys.executable, "-c", HARNESS, how, str(work(tmp_path)), seconds]
    with subprocess.Popen(argv, stderr=subprocess.PIPE) as harness:
        wait_for_sleepers(seconds, there=True, deadline=Deadline(60))
        harness.send_signal(number)
        harness.communicate(timeout=30)
    wait_for_sleepers(seconds, there=False, deadline=Deadline(30))
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert not (how == "make" and any(tmp_path.glob("work/*")))


@confined
def test_a_process_that_is_left_ends_with_its_command(tmp_path: Path) -> None:
    seconds = f"76543.{os.getpid()}"
    assert inside(Place(None, work(tmp_path)), f"setsid sleep {seconds} & echo started") == "started\n"
    assert not find_sleepers(seconds)


# Where it cannot be


def trouble(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confine, "find_trouble", lambda: text)
    monkeypatch.setattr(confine, "as_root_args", lambda: ["sudo", "-n"])
    confine.warn_once.cache_clear()


def test_without_namespaces_it_goes_on_as_root_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trouble("not permitted", monkeypatch)
    place = Place(tmp_path / "root", tmp_path / "work")
    for _ in range(2):
        argv = confine_args(place, ["make"])
    assert argv[:3] == ["sudo", "-n", "unshare"] and "--user" not in argv and argv[-1] == "make"
    assert f"--reuid={os.getuid()}" in argv
    assert [record.message for record in caplog.records] == [
        "builds run as root, or by sudo, and not in a user namespace: not permitted"
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="as root")
def test_as_root_without_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confine, "find_trouble", lambda: "not permitted")
    script = "touch made; sed -n 's/^CapEff:.//p' /proc/self/status; ls /root /home 2>&1 || echo nothing"
    said = inside(Place(None, work(tmp_path)), script).splitlines()
    assert (said[0], said[-1], (tmp_path / "work" / "made").stat().st_uid) == ("0" * 16, "nothing", 0)


@pytest.mark.parametrize(("uid", "user"), [(0, FIRST_ID), (1000, None)])
def test_no_code_runs_as_root_where_there_are_namespaces(
    uid: int, user: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble("", monkeypatch)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    argv = confine_args(Place(tmp_path / "root", tmp_path / "work"), ["make"])
    assert "sudo" not in argv and "--user" in argv
    ids = [word for word in argv if word.startswith(("--reuid", "--regid"))]
    assert ids == ([] if user is None else [f"--reuid={user}", f"--regid={user}"])


@pytest.mark.parametrize(
    ("entering", "making", "hint"),
    [("", "", ""), ("", "no ids", "--add-subuids"), ("closed", "closed", "user namespaces")],
)
def test_what_to_do_about_it(entering: str, making: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confine, "find_trouble", lambda: entering)
    monkeypatch.setattr(confine, "find_making_trouble", lambda: making)
    found = confine.find_hint()
    assert (hint in found) and bool(found) == bool(hint)
