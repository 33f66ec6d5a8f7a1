"""What the command does that runs an experiment once or more often."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import experiment
from splvm.campaign.processes import Job, JobResult
from splvm.cli import guests
from splvm.cli.guests import may_be_virtual, run_series
from splvm.clock import Clock
from splvm.errors import SetupError
from splvm.evidence.verdict import Outcome, Reason, Verdict
from splvm.run.experiment import Dump, Experiment
from splvm.run.loads import parse_loads
from splvm.scenarios.table import SCENARIOS

STARVED = Verdict(Outcome.INCONCLUSIVE, (Reason("starved"),), starved="by 80 %")
GOOD = Verdict(Outcome.PROGRESS, (Reason("so it is"),))
# Of the same machine, in virtual time.
TWIN = replace(experiment(), seed=7)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """What was run; the first guest is starved, others are not."""
    ran: list[Job] = []

    def run_jobs(todo: Iterable[Job], at_once: int, on_done: Callable[[JobResult], None]) -> None:
        for job in todo:
            ran.append(job)
            on_done(JobResult(job, ((STARVED if len(ran) == 1 else GOOD, job.out),), 1.0))

    monkeypatch.setattr(guests, "run_jobs", run_jobs)
    monkeypatch.setattr(guests, "show_verdict", lambda *_: None)
    return ran


def test_a_starved_guest_runs_again_in_virtual_time(jobs: list[Job], tmp_path: Path) -> None:
    assert run_series(experiment(), tmp_path / "run", 1, 1, lambda: TWIN) == (GOOD, tmp_path / "run-2")
    assert [(job.experiment.seed, job.out.name, job.attempts) for job in jobs] == [(1, "run", 1), (7, "run-2", 1)]


def test_without_virtual_time_it_runs_again_as_it_was(
    jobs: list[Job], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def none() -> Experiment:
        raise SetupError("no QEMU that counts", hint="network?")

    run_series(experiment(), tmp_path / "run", 1, 1, none)
    assert [(job.experiment.seed, job.attempts) for job in jobs] == [(1, 1), (1, 2)]
    assert "no QEMU that counts" in capsys.readouterr().err


def test_a_clock_that_was_asked_for_stays(jobs: list[Job], tmp_path: Path) -> None:
    run_series(experiment(), tmp_path / "run", 1, 1)
    assert [job.attempts for job in jobs] == [3]


def test_each_of_a_series_counts(jobs: list[Job], tmp_path: Path) -> None:
    run_series(experiment(), tmp_path / "run", 2, 1, lambda: TWIN)
    assert [(job.experiment.seed, job.attempts) for job in jobs] == [(1, 1), (2, 1)]


def test_what_may_be_run_in_virtual_time() -> None:
    base = experiment()
    kvm = replace(base.guest.machine, accelerator="kvm")
    large = replace(base.guest.machine, ram_mib=1 << 16)
    closed = replace(base.guest.machine, clock=Clock.VIRTUAL)
    assert may_be_virtual(base, clones=True)
    assert not may_be_virtual(base, clones=False)
    for machine in (kvm, large, closed):
        assert not may_be_virtual(replace(base, guest=replace(base.guest, machine=machine)), clones=True)
    assert not may_be_virtual(replace(base, dump=Dump.ALWAYS), clones=True)
    assert not may_be_virtual(replace(base, loads=parse_loads(["memcg"])), clones=True)
    assert not may_be_virtual(replace(base, scenario=SCENARIOS["grow-fails"]), clones=True)
