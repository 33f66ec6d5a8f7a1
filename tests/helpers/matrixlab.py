"""A matrix without guests: what is asked of it, and a lab in the place of guests that says what each cell comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from experiments import believe_verdicts, experiment, facts_of, leave_record
from splvm.campaign import matrix as matrix_module
from splvm.campaign.campaignrun import CampaignRun
from splvm.campaign.matrix import MatrixPlan
from splvm.campaign.plan import Axes, plan_cells
from splvm.campaign.processes import Job, JobResult
from splvm.errors import SetupError
from splvm.evidence.verdict import Outcome, Reason, Verdict
from splvm.run.experiment import Experiment
from splvm.run.loads import with_own
from splvm.run.prepare import Wish
from splvm.run.scenarios import Scenario

SMALL = Axes(
    scenarios=("nominal", "held-worker"), kernels=("debian-11", "debian-12"), variants=("stock", "no-emergency")
)


class Lab:
    """In the place of guests: says what each cell comes to, and can be interrupted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[str] = []
        self.stop_after = 1000
        self.outcomes: dict[str, Outcome | str] = {}
        # What guests are made of.
        self.facts: dict[str, Any] = {}
        self.wishes: list[Wish] = []
        monkeypatch.setattr(matrix_module, "prepare", self.prepare)
        believe_verdicts(monkeypatch)

    def prepare(self, wish: Wish) -> Any:
        self.wishes.append(wish)
        if wish.kernel in self.outcomes:
            raise SetupError(str(self.outcomes[wish.kernel]))
        return SimpleNamespace(experiment=partial(self.experiment, wish))

    def experiment(self, wish: Wish, scenario: Scenario, **wishes: Any) -> Experiment:
        made = experiment(**facts_of(wish, **self.facts))
        machine = replace(
            made.guest.machine,
            clock=wish.clock,
            ram_mib=max(wish.ram_mib, scenario.least_mib),
            cpus=max(wish.cpus, scenario.least_cpus),
        )
        return replace(
            made,
            scenario=scenario,
            guest=replace(made.guest, machine=machine),
            window_s=scenario.window_s,
            workload=scenario.workload(scenario.window_s),
            storm=scenario.storm,
            loads=with_own(scenario.load, wishes["loads"]),
            seed=wishes["seed"],
        )

    def run_jobs(self, jobs: Iterable[Job], on_done: Callable[[JobResult], None]) -> None:
        for job in jobs:
            if len(self.ran) == self.stop_after:
                raise KeyboardInterrupt
            self.ran.append(job.title)
            outcome = self.outcomes.get(job.title, Outcome.PROGRESS)
            if not isinstance(outcome, Outcome):
                leave_record(job)
                on_done(JobResult(job, (), 2.0, outcome))
            else:
                verdict = Verdict(outcome, (Reason("so it is"),))
                leave_record(job, verdict)
                on_done(JobResult(job, ((verdict, job.out),), 2.0))


Told = dict[str, Any]

AT = datetime(2026, 1, 1, tzinfo=UTC)
PLAN = MatrixPlan("night", tuple(plan_cells(SMALL)), 2, 1)


def ignore(run: CampaignRun, result: JobResult | None) -> None:
    pass
