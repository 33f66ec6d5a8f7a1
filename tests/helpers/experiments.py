"""An experiment that comes to nothing, for there is no such QEMU; and what a run of it would have left."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from splvm import __version__
from splvm.campaign import believed, campaignrun, records
from splvm.campaign.processes import Job
from splvm.evidence.verdict import Outcome, Reason, Verdict
from splvm.guest.guestplan import GuestPlan
from splvm.guest.machine import MachineSpec
from splvm.guest.ssh import SshKeys
from splvm.record.cellfacts import PACKAGED
from splvm.record.names import VERDICT_FILE
from splvm.record.writer import RunDirectory
from splvm.run.experiment import Experiment, _facts
from splvm.run.prepare import Wish
from splvm.scenarios.judged import judge_run
from splvm.scenarios.table import SCENARIOS


def experiment(qemu: str = "no-such-program", **facts: Any) -> Experiment:
    machine = MachineSpec(qemu, Path("/no/vmlinuz"), (), "tcg")
    keys = SshKeys(Path("/no/key"), Path("/no/host-key"))
    scenario = SCENARIOS["held-worker"]
    guest, expected = GuestPlan(machine, keys), frozenset({Outcome.PROGRESS})
    return Experiment(scenario, guest, facts, expected, 3.0, workload=scenario.workload(3.0))


def facts_of(wish: Wish, **more: Any) -> dict[str, Any]:
    """What run.json says of a wish's build.

    :param more: likewise; of kernel and SPL besides.
    """
    kernel = {"id": wish.kernel, **more.pop("kernel", {})}
    spl = {"source": "debian", "variant": wish.variant, "patches": [], **more.pop("spl", {})}
    return {"splvm": __version__, "line": wish.label or PACKAGED, **more, "kernel": kernel, "spl": spl}


def leave_record(job: Job, verdict: Verdict | None = None) -> None:
    """As a run of the job would have left it.

    :param verdict: None: it came to nothing before there was one.
    """
    told = {"token": secrets.token_hex(8), **_facts(job.experiment)}
    record = RunDirectory(job.out, {name: value for name, value in told.items() if value is not None})
    for name in ("console.log", "qemu.log", "harness.log"):
        (job.out / name).touch()
    record.finish({"kind": "ended", "detail": "all steps were taken"})
    if verdict is not None:
        record.write_verdict(verdict)


def believe_verdicts(monkeypatch: Any) -> None:
    """Have records with an empty console judged by the verdict that was left with them."""

    def told(directory: Path) -> Any:
        evidence, verdict = judge_run(directory)
        kept = directory / VERDICT_FILE
        if evidence.console or not kept.exists() or evidence.damage:
            return evidence, verdict
        said = json.loads(kept.read_text())
        return evidence, Verdict(Outcome(said["verdict"]), (Reason("so it is"),), starved=said.get("starved") or "")

    for module in (believed, campaignrun, records):
        monkeypatch.setattr(module, "judge_run", told)
