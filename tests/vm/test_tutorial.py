"""The tutorial, word by word: what its commands come to is what it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from splvm.run.prepare import Prepared

# A minute of guests.
pytestmark = [pytest.mark.splvm_vm, pytest.mark.splvm_slow]

BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_tutorial(spl: Prepared, project: Path, tmp_path: Path) -> None:
    (tmp_path / "splvm").symlink_to(project / "splvm")
    env = {**os.environ, "SPLVM_HISTORY": str(tmp_path / "history.sqlite"), "SPLVM_CACHE": str(spl.store.root)}
    told = []
    for block in BLOCK.findall((project / "docs" / "tutorial.md").read_text()):
        runs = sorted((tmp_path / "runs").glob("*")) or [Path("none")]
        text = block.replace("runs/LAST", str(runs[-1]))
        done = subprocess.run(
            ["sh", "-eu", "-c", text], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        told.append(done.stdout.splitlines()[-1])
    held, control, judged, report, own = told
    assert held.startswith("PROGRESS held-worker debian-12 stock worker spl_kmem_cache ")
    assert control.startswith("STALLED held-worker debian-12 no-emergency ")
    assert judged.split()[0] == "STALLED"
    assert report.startswith("report: ") and (tmp_path / "site" / "index.html").is_file()
    assert own.startswith("PROGRESS held-worker ")
    facts = [json.loads((run / "run.json").read_text()) for run in sorted((tmp_path / "runs").glob("*"))]
    assert [patch["name"] for patch in facts[-1]["spl"]["patches"]] == ["longer.cocci"]
