"""What `storm` and `sites` refuse before anything is fetched or built, and how a finding is repeated."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from commandline import CommandLine
from simulated import simulate
from simulated_kinds import STORM
from splvm.builds.calls import Call
from splvm.campaign.stormreport import Finding, Pass, StormReport
from splvm.cli import app
from splvm.cli.storm import _Command, find_ops
from splvm.errors import UsageError
from splvm.evidence.formats.stormstatus import OPS
from splvm.evidence.verdict import Outcome, Reason, Verdict
from splvm.run.scenarios import Storm


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["storm", "--scope", "zfs"], "storms over zfs.ko are not there yet"),
        (["storm", "--ops", "kmem,kmen"], "there is no such operation"),
        (["storm", "--trap", "swap"], "swap"),
        (["sites", "--module", "zfs"], "a guest without a pool has no zfs.ko"),
        (["sites", "nominl"], "there is no scenario 'nominl'"),
    ],
)
def test_what_is_refused(commandline: CommandLine, argv: list[str], message: str, tmp_path: Path) -> None:
    done = commandline(*argv, "--out", str(tmp_path / "run"), cwd=tmp_path, store=tmp_path / "store")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("outcome", "change", "status", "said"),
    [
        (Outcome.NOT_TRIGGERED, "", 0, "never reached: nobody:kmalloc"),
        (Outcome.HEALTHY, "", 0, "never reached: nobody:kmalloc"),
        (Outcome.STALLED, "", 1, "never reached: nobody:kmalloc"),
        (Outcome.CRASHED, "", 1, "not seen: nobody:kmalloc"),
        (Outcome.LOST, "", 1, "not seen: nobody:kmalloc"),
        (Outcome.INCONCLUSIVE, "", 1, "not seen: nobody:kmalloc"),
        (Outcome.HEALTHY, " lost=1 ", 1, "not seen: nobody:kmalloc"),
        (Outcome.HEALTHY, " blind=1 ", 1, "not seen: nobody:kmalloc"),
    ],
)
def test_sites_says_how_the_run_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outcome: Outcome, change: str, status: int, said: str
) -> None:
    run, directory = copy.deepcopy(simulate(STORM)), tmp_path / "run"
    name = change.strip().partition("=")[0]
    for record in run.records if name else ():
        if record.get("source") == "probe":
            record["text"] = record["text"].replace(f" {name}=0 ", change)
    run.start_record(directory, {}).finish(run.facts["outcome"])
    verdict = Verdict(outcome, (Reason("the run ended so"),))
    wanted: dict[str, Any] = {}
    prepared = SimpleNamespace(
        spl=SimpleNamespace(modules=("spl.ko",)), experiment=lambda *_, **told: wanted.update(told)
    )
    monkeypatch.setattr("splvm.cli.sites.prepare_told", lambda _: prepared)
    monkeypatch.setattr("splvm.cli.sites.find_calls", lambda _: (Call("nobody", 1, "kmalloc", 1),))
    monkeypatch.setattr("splvm.cli.sites.claim_directory", lambda *_: directory)
    monkeypatch.setattr("splvm.cli.sites.run_until_fed", lambda *_, **__: [(verdict, directory)])
    done = CliRunner().invoke(app, ["sites"])
    assert done.exit_code == status, done.output
    assert said in done.output and f"{outcome} storm" in done.output
    assert (outcome in wanted["expected"]) == (status == 0 or name != ""), "`judge` of the record ends so too"
    content = json.loads((directory / "sites.json").read_text())
    assert (content["verdict"], content["whole"]) == (outcome, said.startswith("never"))


def test_operations_are_bits() -> None:
    assert find_ops(None) == (1 << OPS.index("taskq-dynamic")) - 1
    assert find_ops("kmem,large-sleep") == 1 | 1 << OPS.index("kmem")
    with pytest.raises(UsageError, match="no such operation"):
        find_ops("")


STALLED = Pass("all places", Verdict(Outcome.STALLED, (Reason("deadlock"),)), Path("/r"), None)
PATCH = [Path("/x.patch")]


def test_the_command_that_repeats_a_finding() -> None:
    config = Storm(mark=0, trap=1, ops=find_ops("kmem"))
    command = _Command("debian-12", "stock", "debian", PATCH, config, ("--load", "zram", "--clock", "virtual"))
    alone = Finding("f:g#1", STALLED, STALLED, ("f:g#1",))
    assert " ".join(command.repeats(alone, 7)) == (
        "splvm storm --kernel debian-12 --variant stock --spl-patch /x.patch --site f:g#1 --unmarked --trap fs "
        "--ops kmem --load zram --clock virtual --seed 7"
    )


def test_the_command_that_repeats_what_needs_more_than_one_place() -> None:
    command = _Command("debian-12", "stock", "debian", None, Storm())
    group = Finding("f:g#1", STALLED, STALLED, ("f:g#1", "f:h#1"))
    assert command.repeats(group, 7)[6:] == ["--site", "f:g#1", "--site", "f:h#1", "--seed", "7"]
    assert command.repeats(Finding("f:g#1", STALLED), 7)[6:] == ["--quick", "--seed", "7"]
    # kthreadd is at no place of SPL's.
    helpers = _Command("debian-12", "stock", "debian", None, Storm(helpers=1))
    found = Finding("helpers:kthreadd", STALLED, STALLED, ("helpers:kthreadd",))
    assert helpers.repeats(found, 7)[6:] == ["--quick", "--helpers", "--seed", "7"]


def test_a_report_of_nothing() -> None:
    assert StormReport(()).to_json()["places"] == []
