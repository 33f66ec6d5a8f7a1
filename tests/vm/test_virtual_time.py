"""Virtual time with real guests: the same seed is the same run, whatever the host does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from leftovers import qemus_of
from splvm.errors import UsageError
from splvm.evidence.verdict import Outcome, Verdict
from splvm.guest.machine import Clock
from splvm.record.digest import first_difference
from splvm.record.reader import iterate_records, read_evidence, read_facts
from splvm.run.experiment import Experiment, run_experiment
from splvm.run.prepare import Prepared
from splvm.scenarios.judged import judge_evidence
from splvm.scenarios.table import find_scenario

pytestmark = pytest.mark.splvm_vm


@pytest.fixture(scope="module")
def closed(prepare_spl: Callable[..., Prepared]) -> Prepared:
    return prepare_spl(clock=Clock.VIRTUAL, accelerator="tcg")


@pytest.fixture(scope="module")
def short(closed: Prepared) -> Experiment:
    """A window that is long enough for the verdict."""
    return closed.experiment(find_scenario("held-worker"), window_s=1.0, seed=7)


@contextmanager
def busy_loop() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def left(directory: Path) -> list[dict[str, object]]:
    return list(iterate_records(directory / "samples.jsonl"))


def console(directory: Path) -> bytes:
    said = read_facts(directory)["outcome"]["closed_bytes"]
    return (directory / "console.log").read_bytes()[:said]


def test_the_same_seed_is_the_same_run(short: Experiment, tmp_path: Path) -> None:
    """Every byte that the guest left is the same beside a busy loop."""
    alone: Verdict = run_experiment(short, tmp_path / "alone")
    with busy_loop():
        beside = run_experiment(short, tmp_path / "beside")
    one, other = (tmp_path / name for name in ("alone", "beside"))
    assert first_difference(left(one), left(other)) == ""
    assert console(one) == console(other)
    assert alone.digest == beside.digest
    assert len(alone.digest) == 64
    assert alone.outcome is beside.outcome is Outcome.PROGRESS
    # What was written says it too, and so does whoever judges the record alone.
    assert json.loads((one / "verdict.json").read_text())["digest"] == alone.digest
    assert judge_evidence(read_evidence(other)).digest == alone.digest
    assert not qemus_of(tmp_path)


def test_a_microsecond_of_the_plan_is_another_run(short: Experiment, tmp_path: Path) -> None:
    workload = replace(short.workload, pause_us=short.workload.pause_us + 1)
    verdicts = [
        run_experiment(short, tmp_path / "plan"),
        run_experiment(replace(short, workload=workload), tmp_path / "later"),
        run_experiment(short.nth(2), tmp_path / "seed"),
    ]
    assert [verdict.outcome for verdict in verdicts] == [Outcome.PROGRESS] * 3
    assert len({verdict.digest for verdict in verdicts}) == 3
    for name in ("later", "seed"):
        assert first_difference(left(tmp_path / "plan"), left(tmp_path / name))


def test_a_build_that_stands_still_is_seen_to(prepare_spl: Callable[..., Prepared], tmp_path: Path) -> None:
    """Its tasks are listed by the agent, which needs nothing from outside."""
    closed = prepare_spl(clock=Clock.VIRTUAL, accelerator="tcg", variant="no-emergency")
    experiment = closed.experiment(find_scenario("held-worker"), window_s=2.0, seed=1)
    verdict = run_experiment(experiment, tmp_path / "run")
    assert verdict.outcome is Outcome.STALLED
    assert "spl_kmem_cache" in (tmp_path / "run" / "sysrq.txt").read_text(errors="replace")
    assert verdict.wait_for


def test_what_needs_the_host_is_refused(closed: Prepared) -> None:
    with pytest.raises(UsageError, match="zfs-held-worker cannot be run in virtual time yet: it needs load zfs"):
        closed.experiment(find_scenario("zfs-held-worker"))
