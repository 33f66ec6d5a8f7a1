"""Several runs at once: results, trouble, processes that die, and how many the host has room for."""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from experiments import experiment
from places import PROJECT
from splvm.campaign import processes
from splvm.campaign.campaignrun import CampaignRun
from splvm.campaign.matrix import grid
from splvm.campaign.processes import Job, JobResult, fitting_jobs, run_jobs
from splvm.cli import app, matrix
from splvm.errors import HarnessError
from splvm.evidence.verdict import Outcome, Reason, Verdict
from splvm.history.cell import Cell
from splvm.host.memory import available_mib
from splvm.run.experiment import EVIDENCE_S, RUN_BUDGET_S, TURN_S
from splvm.scenarios.table import SCENARIOS


def run_all(jobs: list[Job], at_once: int) -> dict[str, JobResult]:
    results: list[JobResult] = []
    run_jobs(jobs, at_once, results.append)
    return {result.job.title: result for result in results}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_experiment_can_be_sent_to_another_process(scenario: str) -> None:
    whole = replace(experiment(), scenario=SCENARIOS[scenario])
    assert pickle.loads(pickle.dumps(whole)) == whole


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_trouble_of_one_is_told_and_keeps_nobody(tmp_path: Path, at_once: int) -> None:
    results = run_all([Job(f"job {n}", experiment(), tmp_path / str(n)) for n in range(3)], at_once)
    assert set(results) == {"job 0", "job 1", "job 2"}
    for number, result in enumerate(results.values()):
        assert "no-such-program" in result.trouble
        assert not result.runs
        with pytest.raises(HarnessError, match="no-such-program"):
            _ = result.last
        assert (tmp_path / str(number) / "run.json").is_file()


class Deadly:
    """Ends the process in which it is unpacked."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os._exit, (7,)


def test_a_process_that_dies_is_trouble_of_its_own_run(tmp_path: Path) -> None:
    jobs = [Job("dies", experiment(what=Deadly()), tmp_path / "a"), Job("lives", experiment(), tmp_path / "b")]
    results = run_all(jobs, 2)
    assert "did not tell of a verdict" in results["dies"].trouble
    assert "exit code 7" in results["dies"].trouble
    assert "no-such-program" in results["lives"].trouble


def test_what_the_caller_raises_ends_the_others(tmp_path: Path) -> None:
    """A job that runs is waited for; those that wait are not begun."""

    def fail(result: JobResult) -> None:
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        run_jobs([Job(str(n), experiment(), tmp_path / str(n)) for n in range(9)], 2, fail)
    assert not (tmp_path / "8").exists()


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from splvm.campaign.processes import Job, run_jobs
from experiments import experiment

def main():
    run_jobs([Job(name, experiment({qemu!r}), Path({out!r} + name)) for name in "ab"], 2, print)
    print("all have ended", flush=True)
    sys.stdin.read()

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_no_process_outlives_the_one_that_started_it(tmp_path: Path, number: int) -> None:
    """QEMU here is a program that says who started it, and then waits for its end. A terminal hangs up on all."""
    fifo, qemu, out = tmp_path / "fifo", tmp_path / "qemu", tmp_path / "out"
    os.mkfifo(fifo)
    qemu.write_text(f"#!/bin/sh\necho $$ $PPID >{fifo}\nexec sleep 600\n")
    qemu.chmod(0o755)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(tests=str(PROJECT / "tests" / "helpers"), qemu=str(qemu), out=str(out)))
    # Names of sockets are short.
    with tempfile.TemporaryDirectory(prefix="t") as temporary:
        env, silent = {**os.environ, "TMPDIR": temporary}, subprocess.DEVNULL
        argv = [sys.executable, str(program)]
        with subprocess.Popen(argv, stdout=silent, stderr=silent, env=env, start_new_session=True) as process:
            pids: list[int] = []
            while len(pids) < 4:
                pids += map(int, fifo.read_text().split())
            pids += children_of(process.pid)
            if number == signal.SIGHUP:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
        wait_for_end(pids)
        assert not list(Path(temporary).glob("pymp-*"))
    for name in "ab":
        assert json.loads(Path(f"{out}{name}/run.json").read_text())["outcome"]["kind"] == "interrupted"


def children_of(parent: int) -> list[int]:
    """The fork server, and Python's tracker of resources."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        # Others come and go.
        with suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
    return found


def wait_for_end(pids: list[int]) -> None:
    for watch in [os.pidfd_open(pid) for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert select.select([watch], [], [], 60)[0], "a process is still there a minute later"
        os.close(watch)


def test_nothing_is_left_of_one_that_was_killed_after_its_jobs(tmp_path: Path) -> None:
    """Nor is the fork server's socket: a worker of a cluster waits like this for its next run."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(tests=str(PROJECT / "tests" / "helpers"), qemu="/bin/false", out=f"{tmp_path}/"))
    with tempfile.TemporaryDirectory(prefix="t") as temporary:
        env = {**os.environ, "TMPDIR": temporary}
        argv = [sys.executable, str(program)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True) as process:
            assert process.stdout is not None
            assert any("all have ended" in line for line in process.stdout)
            assert list(Path(temporary).glob("pymp-*/listener-*"))
            children = children_of(process.pid)
            process.kill()
        wait_for_end(children)
        assert not list(Path(temporary).glob("pymp-*"))


MEMORY = "MemTotal: 1 kB\nMemAvailable: {} kB\n"


def test_as_many_as_the_host_has_room_for() -> None:
    cores = len(os.sched_getaffinity(0))
    assert fitting_jobs(512, 1 << 20) == cores
    assert fitting_jobs(512, 512 + 768) == 1
    assert fitting_jobs(512, 512 + 2 * 768) == min(2, cores)
    assert fitting_jobs(512, 0) == 1
    assert fitting_jobs(512) >= 1


@pytest.mark.parametrize(
    ("meminfo", "mib"), [(MEMORY.format(2048), 2), ("nothing", 0), ("XMemAvailable: 2048 kB\n", 0)]
)
def test_memory_that_can_be_had(meminfo: str, mib: int) -> None:
    assert available_mib(meminfo) == mib


# The matrix


def cell_run(cell: Cell, outcome: Outcome | None, expected: Outcome = Outcome.PROGRESS) -> CampaignRun:
    return CampaignRun(cell, 1, outcome, "because", Path("/runs/x"), 1.26, frozenset({expected}))


def test_the_grid_says_what_was_expected_only_where_it_did_not_come() -> None:
    first, second = Cell("a", "k", "v"), Cell("a", "k", "w")
    runs = [
        *[cell_run(first, Outcome.PROGRESS)] * 2,
        cell_run(first, Outcome.STALLED),
        cell_run(second, None),
    ]
    columns, rows = grid(runs)
    assert columns == ("kernel", "variant", "a")
    assert rows == [
        ("k", "v", "PROGRESS 2/3; STALLED 1/3, not PROGRESS"),
        ("k", "w", "TROUBLE, not PROGRESS"),
    ]
    assert runs[0].to_json()["as_expected"] is True
    assert [CampaignRun.from_json(run.to_json()) for run in runs] == [replace(run, seconds=1.3) for run in runs]
    assert runs[2].to_json() == {
        "scenario": "a",
        "kernel": "k",
        "variant": "v",
        "loads": "",
        "line": "packaged",
        "parameters": {},
        "number": 1,
        "verdict": "STALLED",
        "expected": ["PROGRESS"],
        "as_expected": False,
        "reason": "because",
        "onset_s": None,
        "directory": "/runs/x",
        "seconds": 1.3,
        "candidate": 0,
        "machine": "",
        "lost": [],
    }


def test_a_result_is_its_last_run() -> None:
    runs = tuple((Verdict(outcome, (Reason("r"),)), Path("x")) for outcome in (Outcome.INCONCLUSIVE, Outcome.PROGRESS))
    assert JobResult(Job("j", experiment(), Path("x")), runs, 1.0).last == runs[1]


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [((Outcome.PROGRESS, Outcome.PROGRESS), 0), ((Outcome.PROGRESS, Outcome.STALLED), 1), ((None, Outcome.STALLED), 3)],
)
def test_the_status_of_a_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcomes: tuple[Outcome | None, ...], status: int
) -> None:
    cells = [Cell("held-worker", "debian-12", variant) for variant in ("stock", "unscoped")]
    runs = [cell_run(cell, outcome) for cell, outcome in zip(cells, outcomes, strict=True)]
    monkeypatch.setattr(matrix, "run_matrix", lambda *args, **kwargs: runs)
    done = CliRunner().invoke(app, ["matrix", "--out", str(tmp_path / "out"), "--history", str(tmp_path / "h.sqlite")])
    assert done.exit_code == status
    good = sum(outcome is Outcome.PROGRESS for outcome in outcomes)
    assert f"{good} of 2 runs as expected" in done.stdout


def test_a_run_that_only_waits_for_its_turn_is_not_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it may wait, and run, in each of its attempts."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    running = processes._Running(Job("j", experiment(), Path("x"), attempts=3), cast(Any, None))
    now[0] = 3 * (TURN_S + RUN_BUDGET_S + EVIDENCE_S)
    assert not running.is_late
    now[0] += 3600
    assert running.is_late


def test_a_result_that_nobody_waits_for(tmp_path: Path) -> None:
    """The process that started a run may end just before the run does."""
    reader, writer = Pipe(duplex=False)
    reader.close()
    with writer:
        processes._tell(writer, JobResult(Job("j", experiment(), tmp_path), (), 1.0))
