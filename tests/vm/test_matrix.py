"""Several guests at once: the same verdicts as one at a time, and nothing left behind when they are ended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from leftovers import qemus_of
from splvm.deadline import Deadline, poll
from splvm.evidence.verdict import Outcome
from splvm.history.database import History
from splvm.record.reader import read_evidence
from splvm.run.prepare import Prepared
from splvm.scenarios.judged import judge_evidence as judge

pytestmark = pytest.mark.splvm_vm

MATRIX = (sys.executable, "-m", "splvm", "matrix", "--kernel", "debian-12", "--jobs", "2")
# Guests that a signal ends, or a host starves.
REAL = (*MATRIX, "--clock", "real")


def test_cells_are_judged_by_what_is_expected_of_each(spl: Prepared, tmp_path: Path, project: Path) -> None:
    out = tmp_path / "matrix"
    argv = (
        *MATRIX,
        "--scenario",
        "held-worker",
        "--variant",
        "stock,no-emergency",
        "--out",
        str(out),
        "--history",
        str(tmp_path / "h.sqlite"),
    )
    done = subprocess.run(argv, cwd=project, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 runs as expected" in done.stdout.splitlines()[-1]
    runs = json.loads((out / "matrix.json").read_text())["runs"]
    assert {(run["variant"], run["verdict"]) for run in runs} == {("stock", "PROGRESS"), ("no-emergency", "STALLED")}
    for run in runs:
        directory = Path(run["directory"])
        # A host with KVM has real time, where a starved guest is given another run, in a directory of its own.
        assert directory.name.startswith(f"held-worker-debian-12-{run['variant']}")
        assert judge(read_evidence(directory)).outcome == run["verdict"]
    assert not qemus_of(tmp_path)


@pytest.mark.splvm_slow
def test_a_cell_that_cannot_be_prepared_does_not_keep_others(spl: Prepared, tmp_path: Path, project: Path) -> None:
    """It is trouble, and told apart from a verdict that was not expected."""
    argv = (
        *MATRIX,
        "--scenario",
        "grow-fails,nominal",
        "--variant",
        "stock",
        "--out",
        str(tmp_path / "matrix"),
        "--history",
        str(tmp_path / "h.sqlite"),
        "--json",
    )
    done = subprocess.run(argv, cwd=project, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 3, done.stderr
    refused, fine = json.loads(done.stdout)["runs"]
    assert (refused["verdict"], refused["as_expected"], refused["directory"]) == (None, False, None)
    assert "lacks CONFIG_FAIL_PAGE_ALLOC" in refused["reason"]
    assert (fine["verdict"], fine["as_expected"]) == ("HEALTHY", True)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"])
def test_ended_by_the_user(spl: Prepared, tmp_path: Path, project: Path, number: signal.Signals, status: int) -> None:
    out = tmp_path / "matrix"
    argv = (
        *REAL,
        "--scenario",
        "held-worker",
        "--variant",
        "stock",
        "--repeat",
        "3",
        "--out",
        str(out),
        "--history",
        str(tmp_path / "h.sqlite"),
    )
    with subprocess.Popen(argv, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        # Not in the same moment as the start of the last one: its process may not have a handler yet.
        runs = [out / "held-worker-debian-12-stock" / f"{run:03}" for run in (1, 2)]
        poll(lambda: all(map(has_begun, runs)) or None, Deadline(300), "two guests at work")
        process.send_signal(number)
        output = process.communicate(timeout=120)[0].decode()
    assert process.returncode == status, output
    assert "Traceback" not in output
    assert not qemus_of(tmp_path)
    for run in runs:
        assert json.loads((run / "run.json").read_text())["outcome"]["kind"] == "interrupted"
        assert judge(read_evidence(run)).outcome is Outcome.INCONCLUSIVE
    assert not (out / "held-worker-debian-12-stock" / "003").exists()


def has_begun(run: Path) -> bool:
    samples = run / "samples.jsonl"
    return samples.exists() and '"kind":"phase"' in samples.read_text()


def test_one_that_was_interrupted_goes_on(spl: Prepared, tmp_path: Path, project: Path) -> None:
    """What had a verdict stays as it is, the rest is run, and the history has each run once, all of one batch.

    A run whose guest was starved is in the history too, beside the one that came after it.
    """
    out, history = tmp_path / "matrix", tmp_path / "h.sqlite"
    one_by_one = ("--jobs", "1", "--history", str(history))
    wanted = ("--scenario", "nominal,held-worker", "--variant", "stock", "--out", str(out))
    with subprocess.Popen(
        [*REAL, *wanted, *one_by_one], cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        second = out / "held-worker-debian-12-stock"
        poll(lambda: has_begun(second) or None, Deadline(300), "the second cell at work")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    (first,) = json.loads((out / "matrix.json").read_text())["runs"]
    seal = json.loads((Path(first["directory"]) / "run.json").read_text())["seal"]
    argv = (sys.executable, "-m", "splvm", "matrix", "--resume", str(out), *one_by_one)
    done = subprocess.run(argv, cwd=project, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 runs as expected" in done.stdout.splitlines()[-1]
    told = json.loads((out / "matrix.json").read_text())
    assert told["runs"][0] == first
    with History(history) as opened:
        runs = opened.runs()
    assert {run.batch for run in runs} == {told["plan"]["batch"]}
    assert [run.id for run in runs if run.scenario == "nominal" and run.verdict == first["verdict"]] == [seal]
    assert {run.scenario for run in runs if run.verdict == "PROGRESS"} == {"held-worker"}
    assert not qemus_of(tmp_path)
