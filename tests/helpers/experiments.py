"""An experiment that comes to nothing: there is no such QEMU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from splvm.campaign.processes import Job
from splvm.evidence.verdict import Outcome
from splvm.guest.guestplan import GuestPlan
from splvm.guest.machine import MachineSpec
from splvm.guest.ssh import SshKeys
from splvm.record.writer import RunDirectory
from splvm.run.experiment import Experiment
from splvm.scenarios.table import SCENARIOS


def experiment(qemu: str = "no-such-program", **facts: Any) -> Experiment:
    machine = MachineSpec(qemu, Path("/no/vmlinuz"), (), "tcg")
    keys = SshKeys(Path("/no/key"), Path("/no/host-key"))
    return Experiment(SCENARIOS["held-worker"], GuestPlan(machine, keys), facts, frozenset({Outcome.PROGRESS}), 3.0)


def leave_record(job: Job) -> None:
    """As a run of the job would have left it."""
    facts = {name: value for name, value in job.experiment.facts.items() if value is not None}
    record = RunDirectory(job.out, facts)
    for name in ("console.log", "qemu.log", "harness.log"):
        (job.out / name).touch()
    record.finish({"kind": "ended", "detail": "all steps were taken"})
