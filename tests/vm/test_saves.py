"""`splvm watch`: what a developer does, from the first verdict over an edit that breaks it to Ctrl-C."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from leftovers import qemus_of
from splvm.builds.tree import SPL_DIR
from splvm.deadline import Deadline, poll
from splvm.evidence.verdict import Outcome
from splvm.record.reader import read_evidence
from splvm.run.prepare import Prepared
from splvm.scenarios.judged import judge_evidence as judge

pytestmark = pytest.mark.splvm_vm

WAITS = "waiting for the next save"


@pytest.fixture
def tree(spl: Prepared, tmp_path: Path) -> Path:
    """An OpenZFS tree of the user's."""
    return Path(shutil.copytree(spl.spl.source.tree, tmp_path / "zfs", symlinks=True))


def save(path: Path, text: str) -> None:
    """As editors do it: beside, and renamed."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text)
    beside.replace(path)


def test_from_edit_to_verdict(tree: Path, tmp_path: Path, project: Path, pytestconfig: pytest.Config) -> None:
    kernel, out = pytestconfig.getoption("--splvm-kernel"), tmp_path / "runs"
    options = ("--kernel", kernel, "--spl", f"path:{tree}", "--window", "2", "--out", str(out))
    argv = [sys.executable, "-m", "splvm", "watch", "held-worker", *options]
    source = tree / SPL_DIR / "spl-kmem-cache.c"
    good = source.read_text()
    flag = "set_bit(KMC_BIT_DEADLOCKED, &skc->skc_flags);"
    assert good.count(flag) == 1
    log = tmp_path / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(argv, cwd=project, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        try:
            told = [after_next(log, process, 1)]
            # Nobody learns that the worker hangs; something that does not compile; and back.
            for count, text in enumerate((good.replace(flag, ";"), good.replace(flag, "no_such_call();"), good), 2):
                save(source, text)
                told.append(after_next(log, process, count))
            # What is saved without a change is no save.
            save(source, good)
            process.send_signal(signal.SIGINT)
            process.wait(60)
        finally:
            process.kill()
    everything = log.read_text()
    assert process.returncode == 0, everything
    assert "Traceback" not in everything
    first, broken, failed, mended = told
    assert re.search(r"(?m)^PROGRESS held-worker .*\n.* s after the save: the first verdict$", first), first
    assert re.search(r"(?m)^[\d.]+ s after the save: STALLED, was PROGRESS$", broken), broken
    assert re.search(r"(?m)^  new: .*got no object for the last \d", broken), broken
    assert "no_such_call" in failed and "after the save" not in failed, failed
    assert re.search(r"(?m)^[\d.]+ s after the save: PROGRESS, was STALLED$", mended), mended
    assert not qemus_of(tmp_path)
    kept = sorted(path.name for path in out.iterdir() if re.fullmatch(r"\d{3}", path.name))
    assert kept == ["001", "002", "004"]
    assert judge(read_evidence(out / "004")).outcome in (Outcome.PROGRESS, Outcome.INCONCLUSIVE)


def after_next(log: Path, process: subprocess.Popen[bytes], count: int) -> str:
    """What `watch` said since it last waited, once it waits for the `count`th time."""

    def look() -> str | None:
        assert process.poll() is None, log.read_text()
        parts = log.read_text().split(WAITS)
        return parts[count - 1] if len(parts) > count else None

    return poll(look, Deadline(600), f"verdict {count} in {log}")
