"""The guest's load generator, built here: what it is asked in vain, how it steers, and what it reports."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from places import PROJECT
from splvm.deadline import Deadline, poll
from splvm.errors import EvidenceError
from splvm.evidence.formats.loadstatus import LoadLevel, LoadStatus, LoadWorker, parse_load
from splvm.evidence.loads import LOADS
from splvm.run.loads import parse_loads

T = TypeVar("T")

SOURCES = PROJECT / "images" / "load"
LIMIT_S = 30.0

MEMINFO = "MemTotal:  1000000 kB\nMemFree:  {free} kB\nMemAvailable:  {available} kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"
VMSTAT = "nr_dirty {dirty}\nnr_writeback 1\nnr_written {written}\npgscan_kswapd 5\npgscan_direct 6\noom_kill 0\n"
PRESSURE = "some avg10=0.00 avg60=0.00 avg300=0.00 total=70\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n"
BUDDYINFO = "Node 0, zone      DMA  1 1 1 1 3 0 0 0 0 0 1\nNode 0, zone    DMA32  9 9 9 9 5 0 0 0 0 0 2\n"


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("load") / "splvm-load"
    # Not that for addresses: it has mlock() do nothing.
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-g", "-fsanitize=undefined"]
    subprocess.run(["gcc", *flags, "-o", path, *sorted(SOURCES.glob("*.c"))], check=True, timeout=LIMIT_S * 4)
    return path


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A root whose /proc says what a test writes there."""
    (tmp_path / "proc" / "pressure").mkdir(parents=True)
    (tmp_path / "proc" / "pressure" / "memory").write_text(PRESSURE)
    (tmp_path / "proc" / "buddyinfo").write_text(BUDDYINFO)
    set_memory(tmp_path)
    return tmp_path


def set_memory(
    root: Path, *, available: int = 500_000, free: int = 400_000, dirty: int = 0, written: int = 0, fill: int = 200
) -> None:
    """In place, for the files are held open; in one write, so that no reader sees a part."""
    texts = {
        "meminfo": MEMINFO.format(free=free, available=available),
        "vmstat": VMSTAT.format(dirty=dirty, written=written),
    }
    for name, text in texts.items():
        path = root / "proc" / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(descriptor, text.ljust(fill, "\n").encode())
        os.close(descriptor)


@contextmanager
def running(program: Path, root: Path, *loads: str, seed: int = 1) -> Iterator[Callable[[], LoadStatus]]:
    """The generator in the foreground; gives what reads its report."""
    status = root / "status"
    argv: list[str | Path] = [
        program,
        "--foreground",
        "--no-realtime",
        "--seed",
        str(seed),
        "--root",
        root,
        "--status",
        status,
        *loads,
    ]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)

    def read() -> LoadStatus:
        return wait_for(lambda: whole(status), process)

    try:
        wait_for(lambda: status.exists() or None, process)
        yield read
    finally:
        process.terminate()
        process.wait(LIMIT_S)
        assert process.stderr is not None
        errors = process.stderr.read()
        process.stderr.close()
    assert (process.returncode, errors) == (0, "")


def whole(status: Path) -> LoadStatus | None:
    report = parse_load(status.read_text())
    return None if report.torn else report


def wait_for(ask: Callable[[], T | None], process: subprocess.Popen[str]) -> T:
    def look() -> T | None:
        assert process.poll() is None, process.stderr and process.stderr.read()
        return ask()

    return poll(look, Deadline(LIMIT_S), "the load generator", interval_s=0.01)


def level_of(report: LoadStatus, name: str) -> LoadLevel:
    level = report.load(name)
    assert level is not None
    return level


def until(read: Callable[[], LoadStatus], name: str, holds: Callable[[LoadLevel], bool]) -> LoadLevel:
    def look() -> LoadLevel | None:
        level = level_of(read(), name)
        return level if holds(level) else None

    return poll(look, Deadline(LIMIT_S), f"load {name}", interval_s=0.01)


# The command line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no load is named"),
        (["--seed", "x", "lowmem"], "--seed x: a number is needed"),
        (["--what"], "valid options are below"),
        (["gravity:g=9"], "gravity: there is no such load"),
        (["lowmem:available_mib=5"], "lowmem: eaters is missing"),
        (["lowmem:available_mib=5,speed=1"], "lowmem: speed: not one of its keys"),
        (["lowmem:available_mib=5,eaters"], "lowmem: eaters: not one of its keys, or without a value"),
        (["--foreground", "--no-realtime", "lowmem:available_mib=5x,eaters=1"], "lowmem: available_mib=5x: a number"),
        (["--foreground", "--no-realtime", "lowmem:available_mib=0,eaters=1"], "lowmem: available_mib=0: a number"),
        (["lowmem:available_mib=5,eaters=1"] * 9, "more than 8 loads"),
    ],
)
def test_what_it_is_asked_in_vain(program: Path, proc: Path, words: list[str], message: str) -> None:
    argv: list[str | Path] = [program, "--root", proc, "--status", proc / "status", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 2
    assert f"splvm-load: {message}" in done.stderr
    assert "Loads, with their keys:" in done.stderr


def test_table_and_program_agree(program: Path) -> None:
    """Each load of the table is one of the program's, and what it is told are all of its keys."""
    told = subprocess.run([program, "--help"], capture_output=True, text=True, check=True, timeout=LIMIT_S).stdout
    lines = told.partition("keys:\n")[2].split()
    # The two that use swap are not there together.
    words = [parse_loads([name])[0].words("/dev/vda") for name in LOADS]
    assert {line.partition(":")[0]: _keys(line) for line in lines} == {it.partition(":")[0]: _keys(it) for it in words}


def _keys(text: str) -> set[str]:
    return {pair.partition("=")[0] for pair in text.partition(":")[2].split(",")}


# Levels


def test_levels_are_the_guests(program: Path, proc: Path) -> None:
    set_memory(proc, available=40_000, free=30_000, dirty=999, written=7)
    with running(program, proc, "writeback:dir=/nowhere,target_mib=4,file_mib=1", "fragment:order=4,blocks=96") as read:
        report = read()
    writeback, fragment = report.loads
    assert (writeback.low, writeback.high, writeback.level, writeback.done_kib) == (2048, 12_288, 4000, 28)
    # Blocks of orders 4 and 10 in both zones.
    assert (fragment.low, fragment.high, fragment.level, fragment.done_kib) == (0, 96, 11, None)
    memory = {"total": 1_000_000, "available": 40_000, "free": 30_000, "dirty": 3996, "writeback": 4, "written": 28}
    counts = {"swap": 0, "scanned": 5, "scanned_direct": 6, "some_us": 70, "full_us": 9, "oom_kills": 0}
    assert report.memory == memory | counts


def test_the_time_in_the_band_begins_anew(program: Path, proc: Path) -> None:
    set_memory(proc, available=33_000)
    with running(program, proc, "lowmem:available_mib=32,eaters=1") as read:
        first = until(read, "lowmem", lambda it: it.since_ns > 0)
        # Below the band, where there is nothing to take.
        set_memory(proc, available=9_000)
        assert until(read, "lowmem", lambda it: it.level == 9_000).since_ns == 0
        set_memory(proc, available=32_768)
        again = until(read, "lowmem", lambda it: it.since_ns > 0)
    assert again.since_ns > first.since_ns


# Workers


def test_an_eater_takes_what_is_available_and_gives_it_back(program: Path, proc: Path) -> None:
    target = 32 * 1024
    set_memory(proc, available=target)
    with running(program, proc, "lowmem:available_mib=32,eaters=2") as read:
        workers = read().loads[0].workers
        assert [worker.bytes for worker in workers] == [0, 0]
        assert locked_kib(workers[0].pid) == 0
        set_memory(proc, available=target + 2048)
        until(read, "lowmem", lambda it: sum(worker.bytes for worker in it.workers) >= 1024 * 1024)
        set_memory(proc, available=target)
        assert poll(
            lambda: sum(locked_kib(it.pid) for it in workers) or None, Deadline(LIMIT_S), "memory that is locked"
        )
        set_memory(proc, available=1024)
        poll(
            lambda: sum(locked_kib(it.pid) for it in workers) == 0 or None,
            Deadline(LIMIT_S),
            "memory that is given back",
        )


def locked(workers: Iterable[LoadWorker]) -> int:
    return sum(locked_kib(worker.pid) for worker in workers)


def locked_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmLck:")))


def test_writers_write_both_ways(program: Path, proc: Path) -> None:
    with running(program, proc, f"writeback:dir={proc},target_mib=1,file_mib=1") as read:
        level = until(read, "writeback", lambda it: all(worker.bytes > 2 << 20 for worker in it.workers))
    assert [worker.role for worker in level.workers] == ["writer", "mapped-writer"]
    assert all(worker.alive for worker in level.workers)
    for role in ("writer", "mapped-writer"):
        content = (proc / role).read_bytes()
        assert len(content) <= 1 << 20
        assert content.count(0) < len(content)


def test_a_reader_reads_from_end_to_end(program: Path, proc: Path) -> None:
    (proc / "disk").write_bytes(bytes(300_000))
    with running(program, proc, f"pagecache:device={proc / 'disk'},free_mib=500") as read:
        level = until(read, "pagecache", lambda it: (it.done_kib or 0) > 3000)
    assert level.is_held


@pytest.mark.parametrize(
    ("load", "death"),
    [
        ("writeback:dir=/nowhere,target_mib=4,file_mib=1", "ended with ENOENT"),
        ("pagecache:device=/dev/null,free_mib=500", "ended with ENODATA"),
    ],
)
def test_a_worker_that_cannot_work_is_told_of(program: Path, proc: Path, load: str, death: str) -> None:
    with running(program, proc, load) as read:
        level = until(read, load.partition(":")[0], lambda it: not any(worker.alive for worker in it.workers))
    assert {worker.death for worker in level.workers} == {death}


def test_a_worker_whose_disk_is_full_is_told_of(program: Path, proc: Path) -> None:
    """The limit on a file's size stands for the disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (128 * 1024, hard))
    try:
        with running(program, proc, f"writeback:dir={proc},target_mib=4,file_mib=64") as read:
            level = until(read, "writeback", lambda it: not any(worker.alive for worker in it.workers))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {worker.death for worker in level.workers} == {f"was killed by signal {int(signal.SIGXFSZ)}"}


def test_a_worker_that_is_killed_is_told_of(program: Path, proc: Path) -> None:
    set_memory(proc, available=33_000)
    with running(program, proc, "lowmem:available_mib=32,eaters=2") as read:
        os.kill(read().loads[0].workers[1].pid, signal.SIGKILL)
        level = until(read, "lowmem", lambda it: not it.workers[1].alive)
    assert level.workers[1].death == "was killed by signal 9"
    assert level.workers[0].alive


def test_no_worker_outlives_it(program: Path, proc: Path) -> None:
    set_memory(proc, available=33_000)
    with running(program, proc, "lowmem:available_mib=32,eaters=2") as read:
        pids = [worker.pid for worker in read().loads[0].workers]
    poll(lambda: not any(is_there(pid) for pid in pids) or None, Deadline(LIMIT_S), "the end of the workers")


def is_there(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


# In the background


def test_it_goes_to_the_background_when_all_is_under_way(program: Path, proc: Path) -> None:
    set_memory(proc, available=33_000)
    status = proc / "status"
    where: list[str | Path] = ["--root", proc, "--status", status]
    argv = [program, "--no-realtime", *where, "lowmem:available_mib=32,eaters=1"]
    subprocess.run(argv, check=True, timeout=LIMIT_S)
    pid = parse_load(status.read_text()).loads[0].workers[0].pid
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert Path(f"/proc/{parent}/comm").read_text() == "splvm-load\n"
    os.kill(parent, signal.SIGTERM)
    poll(lambda: not is_there(pid) or None, Deadline(LIMIT_S), "the end of the worker")


def test_what_goes_wrong_at_the_start_is_its_status(program: Path, proc: Path) -> None:
    where: list[str | Path] = ["--root", proc, "--status", "/nowhere/status"]
    argv = [program, "--no-realtime", *where, "lowmem:available_mib=32,eaters=1"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT_S)
    assert (done.returncode, done.stderr) == (1, "splvm-load: /nowhere/status.new: No such file or directory\n")


# The report


def test_a_report_of_which_the_end_is_another_is_torn(proc: Path) -> None:
    text = (
        "splvm-load 1\nat seq=5 now_ns=1 cpu_us=2\nmemory total=1 available=1 free=1 dirty=0 writeback=0 written=0 "
        "swap=0 scanned=0 scanned_direct=0 some_us=0 full_us=0 oom_kills=0\nend seq={}   \n"
    )
    assert not parse_load(text.format(5)).torn
    assert parse_load(text.format(4)).torn
    with pytest.raises(EvidenceError, match="`end`"):
        parse_load(text.partition("end")[0])
