"""A dump of a guest's memory, and what drgn finds in it without the guest."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from splvm.builds.symbols import fetch_symbols, kept_symbols
from splvm.deadline import Deadline, poll
from splvm.dump.postmortem import DumpReport, DumpThread, describe_dump, examine_dump
from splvm.errors import DeadlineExceeded, EvidenceError, SetupError
from splvm.evidence.formats.probestatus import ProbeStatus, parse_probe
from splvm.evidence.verdict import Outcome
from splvm.evidence.waiting.waitgraph import build_graph
from splvm.guest.guest import Guest, start_guest
from splvm.guest.memorydump import dump_memory
from splvm.host.debian import PrivateApt
from splvm.host.store import Store
from splvm.pytest_fixtures import RunResult
from splvm.record.reader import read_evidence
from splvm.run.experiment import Dump
from splvm.run.prepare import Prepared
from splvm.scenarios.judged import judge_evidence as judge

pytestmark = pytest.mark.splvm_vm

CONFIG = "set threads=2 objects=32 size=65536 pause_us=5000 reap_rounds=1"
# Nanoseconds of the guest after which an allocation counts as hung; SPL's own limit is a tenth of that.
HUNG_NS = 1_000_000_000


@pytest.fixture(scope="module")
def no_emergency(prepare_spl: Callable[..., Prepared]) -> Prepared:
    """SPL without the fallback: who asks for an object while the worker is held waits for it."""
    return prepare_spl(variant="no-emergency")


@pytest.fixture(scope="module")
def vmlinux(no_emergency: Prepared, pytestconfig: pytest.Config) -> Path:
    """The kernel's debug symbols. They are large, so they are only fetched with --splvm-run-slow."""
    store, kernel = Store.default(), no_emergency.kernel
    kept = kept_symbols(store, kernel.release, kernel.version)
    if kept is None and not pytestconfig.getoption("--splvm-run-slow"):
        pytest.skip("the kernel's debug symbols are not here; --splvm-run-slow fetches them")
    return kept or fetch_symbols(store, PrivateApt(store.root, kernel.spec.suite), kernel, Deadline(1800))


@contextmanager
def busy_guest(prepared: Prepared, logs: Path) -> Iterator[Guest]:
    """A guest whose critical threads take and give back objects."""
    deadline = Deadline(180)
    with start_guest(prepared.plan, logs, deadline) as guest:
        for module in prepared.spl.modules:
            guest.insert_module(module, deadline=deadline)
        tell(guest, CONFIG)
        tell(guest, "start")
        poll(lambda: all(t.rounds > 1 for t in probe(guest).threads or ()) or None, deadline, "a few rounds", 0.2)
        yield guest


def tell(guest: Guest, command: str) -> None:
    guest.ssh.run(f"echo '{command}' > /proc/slabprobe", deadline=Deadline(30))


def probe(guest: Guest) -> ProbeStatus:
    return parse_probe(guest.ssh.run("cat /proc/slabprobe", deadline=Deadline(30)).stdout)


def all_hang(guest: Guest) -> bool | None:
    status = probe(guest)
    hung = [t.alloc_since_ns and status.now_ns - t.alloc_since_ns > HUNG_NS for t in status.threads or ()]
    return all(hung) or None


def named(report: DumpReport, comm: str, pid: int | None = None) -> DumpThread:
    """The thread of a name. SPL makes another worker when a task waits for long, so a worker has its number too."""
    (thread,) = (it for it in report.threads if it.comm == comm and pid in (None, it.pid))
    return thread


def test_stuck_worker_and_its_waiters(no_emergency: Prepared, vmlinux: Path, tmp_path: Path) -> None:
    with busy_guest(no_emergency, tmp_path) as guest:
        tell(guest, "hold")
        poll(lambda: all_hang(guest), Deadline(60), "both threads hang", 0.2)
        held = probe(guest).hold.pid
        dump = dump_memory(guest.qemu.qmp, tmp_path / "memory.kdump", Deadline(60))
    report = examine_dump(dump.path, vmlinux, no_emergency.spl.debug, Deadline(120))

    assert report.problems == ()
    assert report.release == no_emergency.kernel.release
    cache = report.cache("slabprobe")
    assert cache is not None
    assert {waiter.comm for waiter in cache.waiters} == {"slabprobe/0", "slabprobe/1"}
    assert "growing" in cache.flag_names
    assert cache.object_bytes == 65536
    # All there are in slabs are in use, or nobody would have to wait.
    assert cache.object_alloc == cache.object_total
    assert (cache.emergency_alloc, cache.emergency_max) == (0, 0)

    worker = named(report, "spl_kmem_cache", held)
    assert worker.state == "D"
    assert {"slabprobe_grow_work", "taskq_thread", "ret_from_fork"} <= set(worker.called)
    for comm in ("slabprobe/0", "slabprobe/1"):
        thread = named(report, comm)
        assert thread.state == "D"
        # Inlined, so that the kernel's own stacks do not name it.
        assert "spl_cache_grow" in thread.functions
        assert {"spl_kmem_cache_alloc", "critical_thread"} <= set(thread.called)
    assert {thread.comm for thread in report.blocked} == {"spl_kmem_cache", "slabprobe/0", "slabprobe/1"}
    assert len(report.threads) > 30

    graph = build_graph(report.for_graph())
    assert graph.chain[-1] == held
    assert "waiters: 2: slabprobe/" in "\n".join(describe_dump(report))


def test_the_dump_and_sysrq_tell_the_same(run_scenario: Callable[..., RunResult], vmlinux: Path, project: Path) -> None:
    """Two ways to the stacks of a stalled guest that have nothing in common name the same threads."""
    run = run_scenario("held-worker", variant="no-emergency", window_s=2, dump=Dump.TROUBLE)
    run.must_be(Outcome.STALLED)
    by_sysrq = run.verdict.wait_for
    assert (by_sysrq["source"], by_sysrq["complete"]) == ("sysrq-t", True)

    argv = [sys.executable, "-m", "splvm", "examine", str(run.directory), "--json"]
    examined = subprocess.run(argv, cwd=project, capture_output=True, text=True, timeout=300, check=True)
    by_dump = json.loads(examined.stdout)["wait_for"]
    assert by_dump["sentence"] == by_sysrq["sentence"]
    assert (by_dump["chain"], by_dump["edges"]) == (by_sysrq["chain"], by_sysrq["edges"])
    assert by_dump["sentence"].endswith("which is held by slabprobe until the host releases it: a chain, not a cycle")
    # The dump is large, and the verdict does not rest on it.
    (run.directory / "memory.kdump").unlink()
    assert judge(read_evidence(run.directory)) == run.verdict


@pytest.mark.splvm_slow
def test_nobody_waits_for_a_worker_that_works(no_emergency: Prepared, vmlinux: Path, tmp_path: Path) -> None:
    with busy_guest(no_emergency, tmp_path) as guest:
        # At any moment a thread may be waiting for an object that is on its way; with the objects in hand none is.
        tell(guest, "park")
        poll(lambda: probe(guest).run.parked == 2 or None, Deadline(60), "both threads are parked", 0.2)
        dump = dump_memory(guest.qemu.qmp, tmp_path / "memory.kdump", Deadline(60))
    report = examine_dump(dump.path, vmlinux, no_emergency.spl.debug, Deadline(120))
    cache = report.cache("slabprobe")
    assert cache is not None
    assert cache.waiters == ()
    assert not {"growing", "deadlocked"} & set(cache.flag_names)
    assert cache.object_alloc is not None and cache.object_alloc >= 64
    assert report.blocked == ()
    assert "taskq_thread" in named(report, "spl_kmem_cache").called


@pytest.mark.splvm_slow
def test_symbols_of_another_build(no_emergency: Prepared, vmlinux: Path, tmp_path: Path) -> None:
    """They would give wrong answers, not none: they are refused."""
    with busy_guest(no_emergency, tmp_path) as guest:
        dump = dump_memory(guest.qemu.qmp, tmp_path / "memory.kdump", Deadline(60))
    debug = no_emergency.spl.debug
    with pytest.raises(EvidenceError, match="the kernel in it has build id") as caught:
        examine_dump(dump.path, debug["spl"], debug, Deadline(120))
    assert "the same build" in str(caught.value.hint)

    other = tmp_path / "spl.ko.debug"
    other.write_bytes(debug["slabprobe"].read_bytes())
    report = examine_dump(dump.path, vmlinux, {"spl": other}, Deadline(120))
    assert report.caches == ()
    assert "module spl in the guest is another build" in report.problems[0]
    assert report.threads

    with pytest.raises(SetupError, match="debug symbols"):
        examine_dump(dump.path, None, debug, Deadline(120))

    half = tmp_path / "half.kdump"
    half.write_bytes(dump.path.read_bytes()[: dump.size_bytes // 2])
    with pytest.raises(EvidenceError, match=r"half\.kdump: it is no memory dump"):
        examine_dump(half, vmlinux, debug, Deadline(120))


def test_guest_goes_on_after_a_dump(guest: Guest, tmp_path: Path) -> None:
    """Also after one that was given up half-way, and then another one can be taken."""
    qmp, path = guest.qemu.qmp, tmp_path / "memory.kdump"
    with pytest.raises(SetupError, match="larger than 1 MiB"):
        dump_memory(qmp, path, Deadline(60), limit_bytes=1 << 20)
    with pytest.raises(DeadlineExceeded):
        dump_memory(qmp, path, Deadline(0.05))
    assert not list(tmp_path.glob("memory*"))
    assert guest.ssh.run("echo alive", deadline=Deadline(30)).stdout == "alive\n"
    dump = dump_memory(qmp, path, Deadline(60))
    assert dump.path.stat().st_size == dump.size_bytes < guest.spec.ram_mib << 20
    assert guest.ssh.run("echo alive", deadline=Deadline(30)).stdout == "alive\n"
