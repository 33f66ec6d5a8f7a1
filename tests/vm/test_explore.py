"""Replaying and exploring with real guests: a run again, a stop at an instruction, and delays that a seed has drawn."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from leftovers import qemus_of
from places import PROJECT
from splvm.clock import Clock
from splvm.evidence.verdict import Outcome, Verdict
from splvm.record.reader import find_digests, read_evidence
from splvm.record.seal import seal
from splvm.run.experiment import run_experiment
from splvm.run.prepare import Prepared
from splvm.scenarios.table import find_scenario

pytestmark = pytest.mark.splvm_vm

PATCHES = Path(__file__).parent.parent / "explored"
HISTORY = PROJECT / "images" / "history"


def splvm(*argv: str, status: int = 0, given: str | None = None) -> str:
    """What a command prints on stdout."""
    command = [sys.executable, "-m", "splvm", *argv]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def record(prepared: Prepared, directory: Path, window_s: float) -> Verdict:
    return run_experiment(prepared.experiment(find_scenario("held-worker"), window_s=window_s, seed=3), directory)


@pytest.fixture(scope="module")
def stalled(prepare_spl: Callable[..., Prepared], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of a build whose threads stand still while the worker is held."""
    prepared = prepare_spl(clock=Clock.VIRTUAL, accelerator="tcg", variant="no-emergency")
    directory = tmp_path_factory.mktemp("explore") / "stalled"
    assert record(prepared, directory, 2.0).outcome is Outcome.STALLED
    return directory


def replay(directory: Path, out: Path, *more: str) -> dict[str, Any]:
    """What a replay tells."""
    told: dict[str, Any] = json.loads(splvm("replay", str(directory), "--json", "--out", str(out), *more))
    assert told["is_same"] and not told["otherwise"] and not told["difference"]
    return told


def test_a_replay_up_to_a_moment(prepare_spl: Callable[..., Prepared], tmp_path: Path) -> None:
    """Frames are compared as they come, and both CPUs are held there."""
    record(prepare_spl(clock=Clock.VIRTUAL, accelerator="tcg"), tmp_path / "recorded", 1.0)
    told = replay(tmp_path / "recorded", tmp_path / "again", "--until", "sample:30")
    stopped = told["stopped"]
    assert told["frames"] > 60 and stopped["count"] > 1_000_000 and len(stopped["addresses"]) == 2
    # As near as the way of a reading to the host is, and a leap of a guest that idles then.
    assert abs(stopped["now_ns"] - stopped["asked_ns"]) < 10_000_000
    assert "RIP=" in (tmp_path / "again" / "registers.txt").read_text()
    assert not qemus_of(tmp_path)


@pytest.mark.splvm_slow
def test_a_stop_is_at_the_same_instruction_each_time(stalled: Path, tmp_path: Path) -> None:
    stops = []
    for name in ("one", "other", "third"):
        told = replay(stalled, tmp_path / name, "--until", "stall-5ms")
        stops.append((told["stopped"]["count"], (tmp_path / name / "registers.txt").read_text()))
    assert stops[0] == stops[1] == stops[2]


@pytest.mark.splvm_slow
def test_a_whole_replay(stalled: Path, tmp_path: Path) -> None:
    told = replay(stalled, tmp_path / "again")
    assert told["verdict"] == "STALLED" and told["frames"] > 300
    assert told["digest"] == json.loads((stalled / "verdict.json").read_text())["digest"]


@pytest.mark.splvm_slow
def test_another_seed_is_seen_at_its_first_frame(stalled: Path, tmp_path: Path) -> None:
    """A record that is sealed anew with another seed is another run; what differs is named, and the status is 1."""
    other = tmp_path / "other"
    shutil.copytree(stalled, other)
    facts = json.loads((other / "run.json").read_text())
    facts["parameters"]["seed"] += 1
    (other / "run.json").write_text(json.dumps(seal(facts, find_digests(other, None), facts["outcome"])))
    told = json.loads(splvm("replay", str(other), "--json", "--out", str(tmp_path / "again"), status=1))
    assert not told["is_same"] and told["difference"].startswith("frame ")


@pytest.mark.splvm_slow
def test_another_build_is_refused(stalled: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(stalled, other)
    facts = json.loads((other / "run.json").read_text())
    facts["spl"]["modules"]["spl.ko"] = "0" * 64
    facts["template"] = "of-another"
    (other / "run.json").write_text(json.dumps(seal(facts, find_digests(other, None), facts["outcome"])))
    refused = subprocess.run(
        [sys.executable, "-m", "splvm", "replay", str(other)], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "spl.ko: SHA-256 0000000000000000 then" in refused.stderr and "template: of-another then" in refused.stderr
    told = json.loads(splvm("replay", str(other), "--anyway", "--json", "--out", str(tmp_path / "again")))
    assert told["is_same"] and len(told["otherwise"]) == 2


@pytest.mark.splvm_slow
def test_a_packed_run_on_a_machine_with_nothing_else(
    stalled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty store takes nothing from elsewhere: the template is made of what the archive has, and is the same."""
    archive = tmp_path / "stalled.replay.tar.gz"
    splvm("bundle", "--replay", str(stalled), "--out", str(archive))
    monkeypatch.setenv("SPLVM_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("SPLVM_TEMPLATES", str(tmp_path / "templates"))
    splvm("replay", str(archive), status=2)
    told = json.loads(splvm("replay", "--trust", str(archive), "--json", "--out", str(tmp_path / "again")))
    assert told["is_same"] and not told["otherwise"]
    assert told["digest"] == json.loads((stalled / "verdict.json").read_text())["digest"]
    there = {path.name for path in (tmp_path / "empty").iterdir()}
    assert not there & {"kernel", "qemu", "spl", "build-root", "apt"}
    again = replay(archive, tmp_path / "moment", "--trust", "--until", "stall-5ms")
    assert again["stopped"]["count"] > 1_000_000


@pytest.mark.splvm_slow
def test_gdb_at_the_stall(stalled: Path, tmp_path: Path) -> None:
    """A debugger that comes to the socket sees both CPUs, and the run ends when it goes."""
    out = tmp_path / "gdb"
    argv = [sys.executable, "-m", "splvm", "replay", str(stalled), "--until", "stall", "--gdb", "--out", str(out)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as replaying:
        assert replaying.stderr is not None
        for line in replaying.stderr:
            if "gdb -x" in line:
                break
        words = ["gdb", "-batch", "-x", str(out / "gdb.commands"), "-ex", "info threads", "-ex", "info symbol $pc"]
        said = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False).stdout
        replaying.stderr.read()
    assert replaying.returncode == 0
    assert len(re.findall(r"Thread 1\.\d", said)) >= 2, said
    assert "spl" in (out / "gdb.commands").read_text()


@pytest.mark.splvm_slow
def test_lines_that_were_executed(tmp_path: Path) -> None:
    """The run with the plugin is the run without it, and tells what it did."""
    argv = ("run", "held-worker", "--clock", "virtual", "--seed", "7", "--window", "1")
    splvm(*argv, "--out", str(tmp_path / "plain"))
    said = splvm(*argv, "--coverage", "--out", str(tmp_path / "covered"))
    digests = [json.loads((tmp_path / name / "verdict.json").read_text())["digest"] for name in ("plain", "covered")]
    assert digests[0] == digests[1]
    assert re.search(r"executed: \d+ of \d+ functions and \d+ of \d+ lines", said)
    told = json.loads(splvm("coverage", str(tmp_path / "covered"), "--json"))
    reached = {it["function"]: it["scenarios"] for it in told["functions"]}
    assert reached["spl_kmem_cache_alloc"] == reached["spl_emergency_alloc"] == ["held-worker"]
    assert reached["taskq_cancel_id"] == []
    assert 0 < told["lines_executed"] < told["lines_of"]


@pytest.mark.splvm_slow
def test_a_dump_and_a_shell_at_a_moment(stalled: Path, tmp_path: Path) -> None:
    """What stood still stands still for whoever looks, and the loop keeps the guest's clock from leaping."""
    told = replay(stalled, tmp_path / "dump", "--until", "stall+500ms", "--drgn")
    assert (tmp_path / "dump" / "memory.kdump").stat().st_size == told["dump"]["size_bytes"] > 1 << 20
    look = (
        "from drgn.helpers.linux.pid import for_each_task\n"
        "for task in for_each_task(prog):\n"
        "    if b'slabprobe' in task.comm.string_(): print(prog.stack_trace(task))\n"
    )
    session = (*told["dump"]["command"][:-1], "-q", told["dump"]["command"][-1])
    seen = subprocess.run(session, input=look + "\n", capture_output=True, text=True, timeout=300, check=False).stdout
    assert "spl_kmem_cache_alloc" in seen and "spl-kmem-cache.c" in seen
    argv = ("replay", str(stalled), "--until", "stall+500ms", "--shell", "--out", str(tmp_path / "shell"))
    said = splvm(*argv, given="cat /proc/slabprobe; echo again; sleep 1; cat /proc/slabprobe\n")
    first, again = (re.findall(r"alloc_since_ns=([1-9]\d*)", part) for part in said.split("again\n"))
    assert first and first == again
    assert not qemus_of(tmp_path)


@pytest.mark.splvm_slow
def test_points_of_zfs(tmp_path: Path) -> None:
    """They are counted in a guest with a pool, and delayed at."""
    out = tmp_path / "explored"
    aim = ("--module", "zfs", "--function", "txg_sync_thread", "--function", "txg_wait_synced_impl")
    told = json.loads(splvm("explore", "zfs-held-worker", *aim, "--seeds", "1", "--json", "--out", str(out)))
    assert told["n"] > 0 and all(place.startswith("zfs:txg_") for place in told["points"]["hits"])
    (seed,) = told["seeds"]
    assert seed["verdict"] == "PROGRESS" and all(it.startswith("zfs:") for it in seed["delays"])


@pytest.mark.splvm_slow
def test_one_cpu_and_full_preemption(tmp_path: Path) -> None:
    out = tmp_path / "explored"
    argv = ("explore", "nominal", "--cpus", "1", "--preempt", "full", "--seeds", "1..2", "--coverage", "--json")
    told = json.loads(splvm(*argv, "--out", str(out)))
    assert [it["verdict"] for it in told["seeds"]] == ["HEALTHY", "HEALTHY"]
    assert told["about"]["cpus"] == 1 and told["about"]["preempt"] == "full"
    parameters = json.loads((out / "dry" / "run.json").read_text())["parameters"]
    assert (parameters["cpus"], parameters["preempt"]) == (1, "full")
    # The records of good seeds are gone, what they have executed is not.
    covered = json.loads(splvm("coverage", str(out), "--json"))
    assert covered["functions_executed"] > 20


def test_a_short_exploration(tmp_path: Path) -> None:
    """Points are counted, delays that a seed has drawn come about, and stock bears them."""
    out = tmp_path / "explored"
    argv = ("explore", "nominal", "--seeds", "1..2", "--jobs", "2", "--json", "--out", str(out))
    told: dict[str, Any] = json.loads(splvm(*argv))
    assert told["findings"] == [] and told["n"] > 1000 and told["places"] > 30 and told["d"] == 3
    assert [it["verdict"] for it in told["seeds"]] == ["HEALTHY", "HEALTHY"]
    assert len({it["digest"] for it in told["seeds"]}) == 2
    assert 0 < told["chance_of_pair"]["busiest"] < told["chance_of_pair"]["rare"] < 0.1
    # What was seen is not seen again, and what was explored is what it says.
    again = json.loads(splvm(*argv[:-2], "--resume", str(out)))
    assert again["seeds"] == told["seeds"]
    assert not qemus_of(tmp_path)


@pytest.mark.splvm_slow
def test_delays_come_about_and_are_told(prepare_spl: Callable[..., Prepared], tmp_path: Path) -> None:
    """One thread sleeps and another spins, and a run with the same delays is the same run."""
    from splvm.builds.points import Kind, find_points
    from splvm.deadline import Deadline
    from splvm.run.delays import Delay

    prepared = prepare_spl(clock=Clock.VIRTUAL, accelerator="tcg")
    points = find_points(prepared.store, prepared.kernel.root, prepared.spl.modules[0], Deadline(600))
    lock = next(it for it in points if it.function == "spl_kmem_cache_alloc" and it.kind is Kind.ATOMIC)
    work = next(it for it in points if it.function == "taskq_thread" and it.what.startswith("add_wait_queue"))
    delays = (Delay(lock.place, 5, 1000), Delay(work.place, 3, 100))
    experiment = prepared.experiment(find_scenario("nominal"), window_s=1.0, seed=2)
    verdicts = []
    for name in ("one", "other"):
        verdicts.append(run_experiment(replace(experiment, delays=delays), tmp_path / name))
        told = read_evidence(tmp_path / name).timeline.probe[-1].value.delayed
        assert {(it.place, it.hit, it.us) for it in told} == {(it.place, it.hit, it.us) for it in delays}
        assert any(it.thread.startswith("spl_kmem_cache") for it in told)
        assert {it.slept for it in told} == {0, 1}
    assert verdicts[0].digest == verdicts[1].digest
    assert "delays" in json.loads((tmp_path / "one" / "run.json").read_text())["differs"]


@pytest.mark.splvm_slow
@pytest.mark.parametrize(
    ("scenario", "patch", "more"),
    [
        ("nominal", HISTORY / "2adc6b35ae-late-bit.cocci", ("--threads", "1", "--function", "spl_cache_grow_work")),
        ("nominal", PATCHES / "0bb43ca-late-waiter.cocci", ("--function", "taskq_thread")),
    ],
    ids=lambda value: value.stem if isinstance(value, Path) else None,
)
def test_a_bug_that_was_put_back_is_found(scenario: str, patch: Path, more: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "explored"
    argv = ["explore", scenario, "--seeds", "1..500", "--first", "--spl-patch", str(patch), "--out", str(out), *more]
    told = json.loads(splvm(*argv, "--json", status=1))
    finding = told["findings"][0]
    assert finding["is_repeated"] and finding["told"]
