"""A matrix on a cluster whose workers differ, and are lost: each cell has its verdict once, what was lost is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster_processes import another_qemu, cluster
from leftovers import qemus_of
from splvm.deadline import Deadline, poll
from splvm.history.database import History
from splvm.history.schema import TROUBLE
from splvm.record.reader import read_evidence
from splvm.run.prepare import Prepared
from splvm.scenarios.judged import judge_evidence as judge

pytestmark = [pytest.mark.splvm_vm, pytest.mark.splvm_slow]

CELLS = 8


def test_a_worker_that_is_killed_loses_no_cell(spl: Prepared, project: Path, tmp_path: Path) -> None:
    workers: dict[str, dict[str, str]] = {"one": {}, "two": {}, "odd": another_qemu(tmp_path / "bin")}
    out, history = tmp_path / "matrix", tmp_path / "history.sqlite"
    with cluster(tmp_path, workers) as (address, members):
        argv = [sys.executable, "-m", "splvm", "matrix", "--on", address, "--kernel", "debian-12"]
        argv += ["--scenario", "nominal,held-worker", "--variant", "stock,no-emergency", "--repeat", "2"]
        argv += ["--out", str(out), "--history", str(history)]
        with subprocess.Popen(argv, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as matrix:
            one = members["one"]

            def under_way() -> bool | None:
                return any(path.stat().st_size for path in (one.store / "tmp").glob("*/*/samples.jsonl")) or None

            poll(under_way, Deadline(300), "a run in the middle")
            os.kill(one.process.pid, signal.SIGKILL)
            stdout, stderr = matrix.communicate(timeout=900)
        lost = one.wait()
        # Its guest does not outlive it.
        poll(lambda: True if not qemus_of(one.store) else None, Deadline(60), "no guest that is left")
    assert matrix.returncode == 0, stdout + stderr
    assert f"{CELLS} of {CELLS} runs as expected" in stdout.splitlines()[-1]
    assert f"{members['odd'].wait()} gets nothing to do: QEMU 99.1.2, here " in stderr
    runs = json.loads((out / "matrix.json").read_text())["runs"]
    assert len({(run["scenario"], run["variant"], run["number"]) for run in runs}) == len(runs) == CELLS
    (again,) = [run for run in runs if run["lost"]]
    assert again["lost"] == [lost] and again["machine"] == members["two"].wait()
    for run in runs:
        assert judge(read_evidence(Path(run["directory"]))).outcome == run["verdict"]
    with History(history) as opened:
        rows = opened.runs()
    assert len(rows) == CELLS + 1
    (trouble,) = [row for row in rows if row.verdict == TROUBLE]
    assert trouble.reason == f"{lost} was lost while it ran this" and trouble.scenario == again["scenario"]
    assert not qemus_of(tmp_path)
