"""A planted regression is found, by guests: one that is always there, and one that shows in three runs of ten."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from leftovers import qemus_of
from planted import plant
from splvm.run.prepare import Prepared

pytestmark = pytest.mark.splvm_vm

# Seconds; a flaky one among 64 takes about 60 runs, and seldom twice as many.
LIMIT_S = 3600


def bisect(
    project: Path, tree: Path, out: Path, commits: int, *argv: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    words = ["bisect", "held-worker", "--kernel", "debian-12", "--window", "2", "--spl", f"path:{tree}"]
    # In virtual time each commit would have a template of its own.
    words += ["--clock", "real"]
    words += ["--good", f"HEAD~{commits}", "--bad", "HEAD", "--out", str(out), *argv]
    done = subprocess.run(
        [sys.executable, "-m", "splvm", *words],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    return done, json.loads((out / "bisect.json").read_text())


@pytest.mark.parametrize(
    ("commits", "bad", "regression", "most"),
    [
        pytest.param(8, 5, "always", 10, marks=pytest.mark.splvm_slow),
        pytest.param(64, 41, "always", 16, marks=pytest.mark.splvm_slow),
        pytest.param(64, 41, "sometimes", 300, marks=pytest.mark.splvm_slow),
    ],
)
def test_a_planted_regression_is_found(
    spl: Prepared, project: Path, tmp_path: Path, commits: int, bad: int, regression: str, most: int
) -> None:
    tree = tmp_path / "zfs"
    tree.mkdir()
    made = plant(spl.spl.source.tree, tree, commits, bad, regression)
    # By what was asked for one answer in twenty may be wrong; this is to be one in a thousand.
    confidence = "0.999" if regression == "sometimes" else "0.95"
    done, told = bisect(project, tree, tmp_path / "out", commits, "--jobs", "2", "--confidence", confidence)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    match = re.fullmatch(rf"FIRST_BAD [01]\.\d+ runs=(\d+) {made[bad][:12]} spl: change {bad}", last)
    assert match, last
    assert int(match[1]) == len(told["runs"]) <= most
    assert told["answer"]["first"] == told["answer"]["last"] == bad
    for run in told["runs"]:
        assert run["verdict"] in ("PROGRESS", "STALLED", "INCONCLUSIVE", "NOT_TRIGGERED")
        assert (Path(run["directory"]) / "verdict.json").is_file()
    assert not qemus_of(tmp_path)
