"""Virtual time with real guests: the same seed is the same run, whatever the host does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from leftovers import qemus_of
from splvm.builds.kernels import KERNELS
from splvm.clock import Clock
from splvm.deadline import Deadline
from splvm.errors import GuestCommandError, UsageError
from splvm.evidence.verdict import Outcome, Verdict
from splvm.guest.template import Templates
from splvm.host.content import file_hash
from splvm.host.store import Store
from splvm.record.digest import first_difference
from splvm.record.reader import iterate_records, read_evidence, read_facts
from splvm.run.experiment import Dump, Experiment, run_experiment
from splvm.run.loads import parse_loads
from splvm.run.prepare import Prepared, check_closed
from splvm.scenarios.judged import judge_evidence
from splvm.scenarios.table import find_scenario

pytestmark = pytest.mark.splvm_vm

LIMIT_S = 200.0


@pytest.fixture(scope="module")
def closed(prepare_spl: Callable[..., Prepared]) -> Prepared:
    return prepare_spl(clock=Clock.VIRTUAL, accelerator="tcg")


@pytest.fixture(scope="module")
def short(closed: Prepared) -> Experiment:
    """A window that is long enough for the verdict."""
    return closed.experiment(find_scenario("held-worker"), window_s=1.0, seed=7)


@dataclass(frozen=True, slots=True)
class Left:
    """What a run left."""

    verdict: Verdict
    directory: Path

    @property
    def records(self) -> list[dict[str, object]]:
        return list(iterate_records(self.directory / "samples.jsonl"))

    @property
    def console(self) -> bytes:
        """Until the host was let in."""
        said = read_facts(self.directory)["outcome"]["closed_bytes"]
        return (self.directory / "console.log").read_bytes()[:said]

    def must_be_the_same_as(self, other: Left) -> None:
        assert first_difference(self.records, other.records) == ""
        assert self.console == other.console
        assert self.verdict.digest == other.verdict.digest
        assert len(self.verdict.digest) == 64


def run(experiment: Experiment, directory: Path) -> Left:
    return Left(run_experiment(experiment, directory), directory)


@pytest.fixture(scope="module")
def alone(short: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Left:
    """A run with nothing beside it but what the host does anyway."""
    return run(short, tmp_path_factory.mktemp("virtual") / "alone")


@contextmanager
def busy_loop() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


@contextmanager
def stopped_at_random(directory: Path) -> Iterator[list[int]]:
    """QEMU is stopped half of the time; the list has an entry for each stop."""
    stops: list[int] = []
    over = threading.Event()
    random = Random(1)

    def disturb() -> None:
        while not over.wait(random.uniform(0.01, 0.2)):
            for pid in qemus_of(directory):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    over.wait(random.uniform(0.01, 0.2))
                    os.kill(pid, signal.SIGCONT)
                    stops.append(pid)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield stops
    finally:
        over.set()
        thread.join()


def test_the_same_seed_is_the_same_run(short: Experiment, alone: Left, tmp_path: Path) -> None:
    """Every byte that the guest left is the same beside a busy loop."""
    with busy_loop():
        beside = run(short, tmp_path / "beside")
    beside.must_be_the_same_as(alone)
    assert alone.verdict.outcome is beside.verdict.outcome is Outcome.PROGRESS
    # What was written says it too, and so does whoever judges the record alone.
    assert json.loads((alone.directory / "verdict.json").read_text())["digest"] == alone.verdict.digest
    assert judge_evidence(read_evidence(beside.directory)).digest == alone.verdict.digest
    assert not qemus_of(tmp_path)


def test_two_stores_have_the_same_template(short: Experiment, tmp_path: Path) -> None:
    """Every byte of memory and of the state of the devices, beside a busy loop."""
    kept = Templates.default().get(short.guest, Deadline(LIMIT_S))
    with busy_loop():
        made = Templates(Store(tmp_path / "store"), 1 << 32).get(short.guest, Deadline(LIMIT_S))
    assert made.directory != kept.directory
    for name in ("console.log", "shared", "state", "memory"):
        assert file_hash(made.directory / name) == file_hash(kept.directory / name), name
    assert made.name == kept.name


def test_a_microsecond_of_the_plan_is_another_run(short: Experiment, alone: Left, tmp_path: Path) -> None:
    workload = replace(short.workload, pause_us=short.workload.pause_us + 1)
    later = run(replace(short, workload=workload), tmp_path / "later")
    assert later.verdict.outcome is Outcome.PROGRESS
    assert later.verdict.digest != alone.verdict.digest
    assert first_difference(later.records, alone.records)


@pytest.mark.splvm_slow
def test_another_seed_is_another_run(short: Experiment, alone: Left, tmp_path: Path) -> None:
    other = run(short.nth(2), tmp_path / "seed")
    assert other.verdict.outcome is Outcome.PROGRESS
    assert other.verdict.digest != alone.verdict.digest


@pytest.mark.splvm_slow
def test_a_qemu_that_is_stopped_half_of_the_time(short: Experiment, alone: Left, tmp_path: Path) -> None:
    with stopped_at_random(tmp_path) as stops:
        stopped = run(short, tmp_path / "stopped")
    assert len(stops) > 5
    stopped.must_be_the_same_as(alone)
    assert stopped.verdict.outcome is Outcome.PROGRESS


SOUND = ("held-worker", "nominal", "reclaim-cycle", "long-lived", "fragmented")


@pytest.mark.splvm_slow
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scenario", SOUND)
def test_cells(scenario: str, kernel: str, prepare_spl: Callable[..., Prepared], tmp_path: Path) -> None:
    """Every byte is the same when QEMU is stopped half of the time."""
    closed = prepare_spl(clock=Clock.VIRTUAL, accelerator="tcg", kernel=kernel)
    experiment = closed.experiment(find_scenario(scenario), seed=5)
    one = run(experiment, tmp_path / "one")
    with stopped_at_random(tmp_path) as stops:
        other = run(experiment, tmp_path / "other")
    assert len(stops) > 5
    one.must_be_the_same_as(other)
    assert one.verdict.outcome in experiment.expected


@pytest.mark.splvm_slow
def test_a_build_that_stands_still_is_seen_to(prepare_spl: Callable[..., Prepared], tmp_path: Path) -> None:
    """Its tasks are listed by the agent, which needs nothing from outside."""
    closed = prepare_spl(clock=Clock.VIRTUAL, accelerator="tcg", variant="no-emergency")
    experiment = closed.experiment(find_scenario("held-worker"), window_s=2.0, seed=1)
    verdict = run_experiment(experiment, tmp_path / "run")
    assert verdict.outcome is Outcome.STALLED
    assert "spl_kmem_cache" in (tmp_path / "run" / "sysrq.txt").read_text(errors="replace")
    assert verdict.wait_for


def test_what_needs_the_host_is_refused(closed: Prepared) -> None:
    with pytest.raises(UsageError, match="grow-fails cannot be run in virtual time yet: it needs fault injection"):
        check_closed(find_scenario("grow-fails"), (), 512, Dump.NEVER)
    with pytest.raises(UsageError, match="held-worker cannot be run in virtual time yet: it needs load memcg"):
        closed.experiment(find_scenario("held-worker"), loads=parse_loads(["memcg"]))


# Disks and loads


def test_a_load_on_a_disk_of_memory(closed: Prepared, tmp_path: Path) -> None:
    """The disk is as fast as it is to be, and the guest has all of its own memory."""
    loads = parse_loads(["writeback"])
    experiment = closed.experiment(find_scenario("held-worker"), window_s=1.0, seed=7, loads=loads)
    left = run(experiment, tmp_path / "run")
    assert left.verdict.outcome is Outcome.PROGRESS
    assert "load writeback was at" in " ".join(reason.text for reason in left.verdict.reasons)
    assert b"slowdisk: vda: 256 MiB at 0x20000000, 8 MiB/s, 100 us a request" in left.console
    timeline = read_evidence(left.directory).timeline
    first, last = timeline.load[0], timeline.load[-1]
    written_mib = (last.value.memory["written"] - first.value.memory["written"]) / 1024
    passed_s = (last.start_ns - first.start_ns) / 1e9
    # Pages of the mapped file are written one by one, and each takes 0.1 ms besides.
    assert 4 < written_mib / passed_s < 8.5


CELLS = (
    ("held-worker", "writeback", "debian-12"),
    *(("held-worker", load, kernel) for load in ("writeback,lowmem", "swap") for kernel in KERNELS),
    ("zfs-held-worker", "", "debian-12"),
    ("zvol-swap", "", "debian-12"),
)


@pytest.mark.splvm_slow
@pytest.mark.parametrize(("scenario", "load", "kernel"), CELLS)
def test_the_same_seed_under_load(
    scenario: str, load: str, kernel: str, prepare_spl: Callable[..., Prepared], tmp_path: Path
) -> None:
    """Every byte is the same when QEMU is stopped half of the time."""
    closed = prepare_spl(clock=Clock.VIRTUAL, accelerator="tcg", kernel=kernel)
    loads = parse_loads([load] if load else [])
    experiment = closed.experiment(find_scenario(scenario), seed=5, loads=loads)
    one = run(experiment, tmp_path / "one")
    with stopped_at_random(tmp_path) as stops:
        other = run(experiment, tmp_path / "other")
    assert len(stops) > 5
    one.must_be_the_same_as(other)
    assert one.verdict.outcome in experiment.expected


@pytest.mark.splvm_slow
def test_two_stores_have_the_same_template_with_a_pool(closed: Prepared, tmp_path: Path) -> None:
    """The pool is made by init, and all that it is made of is the guest's own."""
    plan = closed.experiment(find_scenario("zfs-held-worker")).guest
    kept = Templates.default().get(plan, Deadline(LIMIT_S))
    made = Templates(Store(tmp_path / "store"), 1 << 32).get(plan, Deadline(LIMIT_S))
    assert made.name == kept.name
    assert file_hash(made.directory / "disk0") == file_hash(kept.directory / "disk0")


@pytest.mark.splvm_slow
def test_a_load_that_the_guest_cannot_set_up(closed: Prepared, tmp_path: Path) -> None:
    """It is trouble of the harness, in the guest's own words."""
    (load,) = parse_loads(["writeback"])
    unmade = replace(load, kind=replace(load.kind, disk="nothing"))
    experiment = closed.experiment(find_scenario("held-worker"), window_s=1.0, seed=7, loads=(unmade,))
    with pytest.raises(GuestCommandError, match=r"the guest cannot run .*splvm-load-setup writeback[\s\S]*mount:"):
        run_experiment(experiment, tmp_path / "run")
