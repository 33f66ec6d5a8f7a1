"""Runs on other machines: what is sent, by content; who gets nothing to do; what comes back, and what does not."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import signal
import socket
import stat
import tarfile
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster_processes import another_qemu, cluster
from experiments import experiment
from splvm.campaign import cluster as module
from splvm.campaign import parcel as parcel_module
from splvm.campaign.cluster import Cluster, _pack_job, check_runs, parse_address
from splvm.campaign.clusterkeys import find_security, make_keys
from splvm.campaign.parcel import (
    _pack,
    describe_machine,
    find_lacking,
    make_parcel,
    map_paths,
    put_file,
    run_parcel,
    unpack_runs,
)
from splvm.campaign.processes import Job, JobResult
from splvm.deadline import Deadline
from splvm.errors import EvidenceError, SetupError, UsageError
from splvm.guest.guestplan import GuestPlan
from splvm.guest.ssh import SshKeys
from splvm.host import emulator
from splvm.host.capabilities import QemuProgram
from splvm.host.content import file_hash
from splvm.host.store import Store
from splvm.record.writer import RunDirectory
from splvm.run.experiment import Experiment, _facts
from splvm.run.loads import parse_loads
from splvm.scenarios.table import SCENARIOS


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPLVM_CACHE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def whole(tmp_path: Path) -> Experiment:
    """An experiment whose files are there, and are no kernel."""
    for name in ("vmlinuz", "initrd.cpio", "spl.ko", "key", "key.pub"):
        (tmp_path / name).write_text(name)
    base = experiment()
    machine = replace(base.guest.machine, kernel=tmp_path / "vmlinuz", initrds=(tmp_path / "initrd.cpio",))
    keys = SshKeys(tmp_path / "key", tmp_path / "key.pub")
    return replace(base, guest=GuestPlan(machine, keys, (tmp_path / "spl.ko",)))


@pytest.mark.parametrize(
    ("text", "address"),
    [("dask://localhost:1", "tcp://localhost:1"), ("tls://h:2", "tls://h:2"), ("dask://[::1]:3", "tcp://[::1]:3")],
)
def test_addresses(text: str, address: str) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "h:1", "tcp://h:1", "dask://h", "dask://:1", "dask://h:x", "dask:h:1"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="not a cluster; a cluster is dask://HOST:PORT"):
        parse_address(text)


# What is sent.


def test_a_parcel_names_no_path_of_the_sender(whole: Experiment, store: Path, tmp_path: Path) -> None:
    parcel, files = make_parcel(Job("title", whole, tmp_path / "out", 3))
    assert {path.name for path in files.values()} == {"vmlinuz", "initrd.cpio", "spl.ko", "key", "key.pub"}
    assert all(file_hash(path) == digest for digest, path in files.items())
    assert parcel.files == {digest: path.name for digest, path in files.items()}
    named: list[Path] = []

    def note(path: Path) -> Path:
        named.append(path)
        return path

    map_paths(parcel.experiment, note)
    assert len(named) == 5 and not any(path.is_absolute() for path in named)
    # Everything else is as it was.
    back = {Path("splvm-parcel", digest, path.name): path for digest, path in files.items()}
    assert map_paths(parcel.experiment, lambda path: back[path]) == whole


def test_files_are_asked_for_until_they_are_there_and_whole(store: Path) -> None:
    content = b"content"
    digest = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    assert find_lacking({digest: "x"}) == (digest,)
    put_file(digest, "../../x", content)
    assert find_lacking({digest: "x"}) == ()
    (kept,) = (path for path in store.rglob("*") if path.is_file() and path.name == "x")
    assert kept == store / "cluster" / digest / "x" and kept.stat().st_mode & 0o077 == 0
    kept.write_bytes(b"damaged")
    assert find_lacking({digest: "x"}) == (digest,)
    put_file(digest, "x", content)
    assert find_lacking({digest: "x"}) == ()


def test_nothing_is_run_while_something_is_lacking(whole: Experiment, store: Path, tmp_path: Path) -> None:
    parcel, files = make_parcel(Job("title", whole, tmp_path / "out"))
    began: list[int] = []
    delivery = run_parcel(parcel, "w", lambda: began.append(1))
    assert set(delivery.lacking) == set(files) and not began


def run_with(told: dict[str, str], whole: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a worker runs, or why it does not, of a run that is planned with this QEMU."""
    ran: list[str] = []

    def run_jobs(jobs: list[Job], at_once: int, on_done: Any) -> None:
        ran.append(jobs[0].experiment.guest.machine.qemu)
        on_done(JobResult(jobs[0], (), 1.0, "no such guest"))

    monkeypatch.setattr(parcel_module, "run_jobs", run_jobs)
    parcel, files = make_parcel(Job("title", replace(whole, facts={"qemu": told}), tmp_path / "out"))
    for digest, path in files.items():
        put_file(digest, path.name, path.read_bytes())
    delivery = run_parcel(parcel, "w")
    return ran[0] if ran else delivery.trouble


def test_a_worker_starts_the_qemu_that_the_run_is_planned_with(
    whole: Experiment, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin for virtual time is made for one QEMU, which is seldom the host's own."""

    def build(tree: Path) -> None:
        (tree / "qemu-system-x86_64").write_text("# the packages of trixie")

    other = Store(store).get("qemu", "0" * 32, build, deadline=Deadline(20), what="QEMU").path / "qemu-system-x86_64"
    told = {"version": "10.0.2", "sha256": file_hash(other), "origin": "suite:trixie 1:10.0.2", "reason": "x"}
    assert run_with(told, whole, tmp_path, monkeypatch) == str(other)
    another_qemu(tmp_path / "programs")
    host = tmp_path / "programs" / "qemu-system-x86_64"
    own = QemuProgram(host, (7, 2, 22), file_hash(host))
    monkeypatch.setattr(emulator, "find_qemu", lambda *_: own)
    assert run_with(own.facts(), whole, tmp_path, monkeypatch) == str(host)
    said = run_with({**own.facts(), "sha256": "0" * 64}, whole, tmp_path, monkeypatch)
    assert said.startswith("title: the run is planned with QEMU 7.2.22 (host), and this machine has another build")


# What comes back.


def a_run(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "run.json").write_text("{}")
    (directory / "memory.kdump").write_text("large")
    return directory


def test_runs_come_back_to_where_they_would_have_been(tmp_path: Path) -> None:
    archive = _pack([a_run(tmp_path / "there" / "x"), a_run(tmp_path / "there" / "x-2")])
    unpack_runs(archive, [tmp_path / "here" / "x", tmp_path / "here" / "x-2"])
    assert sorted(path.name for path in (tmp_path / "here").rglob("*")) == ["run.json", "run.json", "x", "x-2"]


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("../evil", tarfile.REGTYPE, "no run has"),
        ("/etc/evil", tarfile.REGTYPE, "no run has"),
        ("other/run.json", tarfile.REGTYPE, "is of other runs"),
        ("x-stock/run.json", tarfile.REGTYPE, "is of other runs"),
        ("x/../../evil", tarfile.REGTYPE, "no run has"),
        ("x/../matrix.json", tarfile.REGTYPE, "no run has"),
        ("x/" + "a/" * 500 + "evil", tarfile.REGTYPE, "no run has"),
        ("x/" + "a" * 300, tarfile.REGTYPE, "cannot be unpacked"),
        ("x", tarfile.REGTYPE, "than plain files"),
        ("x/link", tarfile.SYMTYPE, "than plain files"),
        ("x/link", tarfile.LNKTYPE, "than plain files"),
        ("x/fifo", tarfile.FIFOTYPE, "than plain files"),
        ("x/device", tarfile.CHRTYPE, "than plain files"),
        ("x/holes", tarfile.GNUTYPE_SPARSE, "than plain files|cannot be unpacked"),
    ],
)
def test_what_comes_back_stays_in_its_place(tmp_path: Path, name: str, kind: bytes, said: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(EvidenceError, match=said):
        unpack_runs(buffer.getvalue(), [tmp_path / "here" / "x"])
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]


def test_what_comes_back_damaged_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for archive in (b"", b"nothing", _pack([a_run(tmp_path / "x")])[:60]):
        with pytest.raises(EvidenceError, match="cannot be unpacked"):
            unpack_runs(archive, [tmp_path / "here" / "x"])
    monkeypatch.setattr("splvm.campaign.parcel._MOST_BYTES", 1)
    with pytest.raises(EvidenceError, match="larger than 1 bytes"):
        unpack_runs(_pack([a_run(tmp_path / "y" / "x")]), [tmp_path / "here" / "x"])


def a_record(asked: Experiment, directory: Path, **changes: Any) -> Path:
    """As a run of an experiment leaves it."""
    record = RunDirectory(directory, {**_facts(asked), **changes})
    record.add_facts({"boots": 1})
    record.finish({"kind": "ended", "detail": "all steps were taken"})
    return directory


ASKED = _pack_job(
    Job(
        "title",
        replace(
            experiment(kernel={"id": "debian-12"}, spl={"variant": "stock", "modules": {"spl.ko": "a"}}, batch="night"),
            loads=tuple(parse_loads(["writeback"])),
        ),
        Path("out"),
    )
).asked


def test_runs_that_were_asked_for_are_taken(tmp_path: Path) -> None:
    directories = [a_record(ASKED, tmp_path / name, started=name) for name in ("x", "x-2")]
    check_runs(ASKED, directories)
    assert all(directory.is_dir() for directory in directories)


OTHERS = {
    "scenario": replace(ASKED, scenario=SCENARIOS["nominal"]),
    "kernel": replace(ASKED, facts={**ASKED.facts, "kernel": {"id": "debian-11"}}),
    "spl": replace(ASKED, facts={**ASKED.facts, "spl": {"variant": "stock", "modules": {"spl.ko": "b"}}}),
    "loads": replace(ASKED, loads=()),
    "parameters": ASKED.nth(2),
    "batch": replace(ASKED, facts={**ASKED.facts, "batch": "day"}),
    "job": _pack_job(Job("title", ASKED, Path("out"))).asked,
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_run_than_was_asked_for_is_refused(tmp_path: Path, name: str) -> None:
    """Also one of the same cell: each job has an id of its own."""
    directories = [a_record(ASKED, tmp_path / "x"), a_record(OTHERS[name], tmp_path / "x-2")]
    with pytest.raises(EvidenceError, match=rf"what came back is another run: .*\b{name}\b.* in run\.json"):
        check_runs(ASKED, directories)
    assert not any(directory.exists() for directory in directories)


def test_one_run_twice_is_refused(tmp_path: Path) -> None:
    first = a_record(ASKED, tmp_path / "x")
    shutil.copytree(first, tmp_path / "x-2")
    with pytest.raises(EvidenceError, match="what came back is one run twice"):
        check_runs(ASKED, [first, tmp_path / "x-2"])


def test_an_edited_copy_is_one_run_twice(tmp_path: Path) -> None:
    told = [a_record(ASKED, tmp_path / name, token="0" * 16, started=name) for name in ("x", "x-2")]
    with pytest.raises(EvidenceError, match="what came back is one run twice"):
        check_runs(ASKED, told)


_NAMES = st.sampled_from(
    [
        *(
            "x",
            "x-2",
            "x/run.json",
            "x/link",
            "x/link/run.json",
            "x/../matrix.json",
            "../matrix.json",
            "x/../x-2/run.json",
        ),
        *("matrix.json", "/x", "x/./run.json", "x//run.json", "x/" + "d/" * 40, "x/" + "n" * 300, "y/run.json", ""),
    ]
)
_TYPES = st.sampled_from([*map(bytes, tarfile.SUPPORTED_TYPES), b"7", b"Z"])
_MEMBERS = st.lists(
    st.tuples(_NAMES, _TYPES, st.sampled_from(["", "x", "..", "/etc/passwd", "../matrix.json"])), max_size=5
)
_EDITS = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=2)


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(members=_MEMBERS, edits=_EDITS, cut=st.none() | st.integers(0, 400), within=st.booleans())
def test_no_archive_gets_out_of_its_place(
    members: list[tuple[str, bytes, str]], edits: list[tuple[int, int]], cut: int | None, within: bool
) -> None:
    """Whatever a worker sends: it becomes the run's directory of plain files, or one error; all else is as it was."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind, link in [("x", tarfile.DIRTYPE, ""), *members]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            member.size = 4 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"evil"))
    packed = gzip.compress(_edited(plain.getvalue(), edits if within else []), 1)
    packed = _edited(packed, [] if within else edits)[:cut]
    with tempfile.TemporaryDirectory() as scratch:
        top = Path(scratch)
        (top / "there" / "x-2").mkdir(parents=True)
        for path in (top / "there" / "matrix.json", top / "there" / "x-2" / "run.json", top / "matrix.json"):
            path.write_text("mine")
        with suppress(EvidenceError):
            unpack_runs(packed, [top / "there" / "x"])
        found = {path.relative_to(top).as_posix(): path for path in top.rglob("*")}
        ours = {"there", "there/matrix.json", "there/x-2", "there/x-2/run.json", "matrix.json"}
        assert all(name in ours or name == "there/x" or name.startswith("there/x/") for name in found)
        assert all(found[name].is_dir() or found[name].read_text() == "mine" for name in ours)
        assert all(stat.S_ISREG(mode) or stat.S_ISDIR(mode) for mode in (p.lstat().st_mode for p in found.values()))


def _edited(data: bytes, edits: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for at, value in edits:
        if changed:
            changed[at % len(changed)] = value
    return bytes(changed)


def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    zeros = gzip.compress(bytes(1 << 20), 9)
    with pytest.raises(EvidenceError, match="larger than"):
        unpack_runs(zeros * 300, [tmp_path / "x"])
    assert not list(tmp_path.iterdir())


# Who can reach whom.


@pytest.mark.parametrize("host", ["10.0.0.1", "example.org", "0.0.0.0", "[::]", "127.0.0.1.example.org", "128.0.0.1"])
def test_beyond_this_machine_a_network_is_trusted_by_name_only(host: str) -> None:
    with pytest.raises(UsageError, match="can run programs there"):
        parse_address(f"dask://{host}:8786")
    assert parse_address(f"dask://{host}:8786", trust_network=True) == f"tcp://{host}:8786"
    assert parse_address(f"tls://{host}:8786") == f"tls://{host}:8786"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "[::1]"])
def test_this_machine_is_trusted(host: str) -> None:
    assert parse_address(f"dask://{host}:8786") == f"tcp://{host}:8786"


def test_a_worker_listens_where_its_scheduler_is_and_nowhere_else(tmp_path: Path, store: Path) -> None:
    with cluster(tmp_path, {"one": {}}) as (_, members):
        (member,) = members.values()
        assert listening(member.process.pid) == [("127.0.0.1", int(member.wait().rpartition(":")[2]))]


def listening(pid: int) -> list[tuple[str, int]]:
    """Address and port of each socket that a process listens on (proc_pid_net(5): hexadecimal)."""
    own = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    found = []
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                place, _, port = fields[1].partition(":")
                words = b"".join(bytes.fromhex(place[at : at + 8])[::-1] for at in range(0, len(place), 8))
                found.append((socket.inet_ntop(family, words), int(port, 16)))
    return found


def test_keys_are_their_owners_alone_and_nothing_gets_in_without(tmp_path: Path, store: Path) -> None:
    keys = tmp_path / "keys"
    make_keys(keys)
    assert {path.stat().st_mode & 0o077 for path in (keys, *keys.iterdir())} == {0}
    with pytest.raises(UsageError, match="not an empty directory"):
        make_keys(keys)
    with pytest.raises(UsageError, match=r"there is no ca\.pem"):
        find_security(tmp_path, "worker")
    make_keys(tmp_path / "others")
    with cluster(tmp_path, {"one": {}}, keys=keys) as (address, _):
        with Cluster(parse_address(address), keys) as opened:
            assert opened.guests == 1
        for stranger in (tmp_path / "others", None):
            with pytest.raises((SetupError, UsageError)):
                Cluster(parse_address(address), stranger)


# Machines.


def test_a_machine_that_differs_has_another_name_and_a_reason(store: Path) -> None:
    here = describe_machine()
    assert here.difference(here) == ""
    for name, said in (("python", "Python 1, here"), ("qemu", "QEMU 1, here"), ("program", "splvm 1, here")):
        other = replace(here, **{name: "1"})  # type: ignore[arg-type]
        assert here.difference(other).startswith(said)
        assert other.resource != here.resource
    # What it has room for is no difference.
    assert replace(here, memory_mib=1, kvm=not here.kvm).resource == here.resource


def test_no_scheduler(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CONNECT_S", 0.5)
    with pytest.raises(SetupError, match=r"tcp://127\.0\.0\.1:9: no scheduler answers"):
        Cluster("tcp://127.0.0.1:9")


# With real schedulers and workers. What they run comes to nothing: these files are no kernel.


def test_a_cluster_of_others_only_is_refused_with_the_reason(tmp_path: Path, store: Path) -> None:
    with (
        cluster(tmp_path, {"odd": another_qemu(tmp_path / "bin")}) as (address, _),
        pytest.raises(SetupError, match=r"gets nothing to do: QEMU 99\.1\.2, here \d"),
    ):
        Cluster(parse_address(address))


def test_trouble_comes_back_and_files_are_sent_once(
    tmp_path: Path, store: Path, whole: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_EMPTY_S", 1.0)
    workers: dict[str, dict[str, str]] = {"one": {}, "odd": another_qemu(tmp_path / "bin")}
    with cluster(tmp_path, workers) as (address, members), Cluster(parse_address(address)) as opened:
        assert opened.guests == 1
        own = members["one"].wait()
        sent, run = list[str](), opened._client.run

        def send(*words: Any, **named: Any) -> Any:
            sent.append(words[0].__name__)
            return run(*words, **named)

        monkeypatch.setattr(opened._client, "run", send)
        results: list[JobResult] = []
        jobs = [Job(f"job {number}", whole, tmp_path / "out" / str(number)) for number in range(3)]
        opened.run(jobs, results.append)
        assert {result.job.title for result in results} == {"job 0", "job 1", "job 2"}
        for result in results:
            assert not result.runs and result.machine == own and result.lost == ()
            assert "the guest did not come up" in result.trouble or "QEMU" in result.trouble
        assert sent.count("put_file") == 5
        # A guest that no worker has room for is told, and does not keep the others.
        huge = replace(whole, guest=replace(whole.guest, machine=replace(whole.guest.machine, ram_mib=1 << 30)))
        results.clear()
        opened.run([Job("huge", huge, tmp_path / "huge"), jobs[0]], results.append)
        told = {result.job.title: result.trouble for result in results}
        assert "there is no worker that has room for it" in told["huge"]
        assert "no worker" not in told["job 0"]
        # Nor is one waited for that cannot keep what it is given.
        shutil.rmtree(members["one"].store / "cluster")
        (members["one"].store / "cluster").write_text("in the way")
        results.clear()
        opened.run(jobs[:1], results.append)
        (result,) = results
        assert result.trouble == f"{own} does not keep the files that it is given" and result.machine == own
        # Without a worker nothing hangs.
        os.kill(members["one"].process.pid, signal.SIGKILL)
        results.clear()
        opened.run(jobs[:1], results.append)
        (result,) = results
        assert "there is no worker that has room for it" in result.trouble
