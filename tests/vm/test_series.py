"""How often something happens, with real guests: what `repro` says of a build that stands still and of one that not."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from leftovers import qemus_of
from splvm.record.reader import read_evidence
from splvm.run.prepare import Prepared
from splvm.scenarios.judged import judge_evidence as judge

pytestmark = pytest.mark.splvm_vm

SPLVM = (sys.executable, "-m", "splvm")


def splvm(project: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run((*SPLVM, *args), cwd=project, capture_output=True, text=True, timeout=600, check=False)


def test_two_builds_side_by_side(spl: Prepared, tmp_path: Path, project: Path) -> None:
    """The command that it names does such a run again, and that comes to the same."""
    names = ("--variant", "no-emergency,stock,stock", "--until", "runs=1", "--window", "2", "--jobs", "2")
    for attempt in range(3):
        out = tmp_path / f"series{attempt}"
        done = splvm(project, "repro", "held-worker", *names, "--out", str(out))
        told = json.loads((out / "repro.json").read_text())
        # Of a guest that the host starved a series says nothing; no run of it is done again.
        starved = ["starved" in trial["reason"] for series in told["series"] for trial in series["trials"]]
        if not any(starved):
            break
    assert done.returncode == 0, done.stderr
    bad, good = told["series"]
    assert (bad["variant"], bad["hits"], bad["runs"]) == ("no-emergency", 1, 1)
    assert (good["variant"], good["hits"], good["runs"]) == ("stock", 0, 1)
    for series, verdict in ((bad, "STALLED"), (good, "PROGRESS")):
        (trial,) = series["trials"]
        assert trial["verdict"] == judge(read_evidence(Path(trial["directory"]))).outcome == verdict
    # SPL's timeout is a tenth of a second, and the lever is pulled just before the window.
    assert 0 <= bad["onset_s"][1] < 2
    (comparison,) = told["comparisons"]
    assert comparison["difference"] == 1
    again = next(line for line in done.stdout.splitlines() if "again: splvm run" in line)
    words = shlex.split(again)[2:]
    once_more = splvm(project, *words, "--out", str(tmp_path / "again"))
    assert once_more.returncode == 0, once_more.stderr
    assert once_more.stdout.splitlines()[-1].startswith("STALLED held-worker debian-12 no-emergency")
    assert not qemus_of(tmp_path)
