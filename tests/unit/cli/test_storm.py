"""What `storm` and `sites` refuse before anything is fetched or built, and how a finding is repeated."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from commandline import CommandLine
from simulated import STORM, simulate
from splvm.builds.calls import Call
from splvm.campaign.stormruns import StormReport
from splvm.cli import app
from splvm.cli.storm import _find_ops, _repeat
from splvm.errors import UsageError
from splvm.evidence.verdict import Outcome, Reason, Verdict
from splvm.run.scenarios import OPS, Storm


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
    prepared = SimpleNamespace(spl=SimpleNamespace(modules=("spl.ko",)), experiment=lambda *_, **__: None)
    monkeypatch.setattr("splvm.cli.storm._prepare", lambda _: prepared)
    monkeypatch.setattr("splvm.cli.storm.find_calls", lambda _: (Call("nobody", 1, "kmalloc", 1),))
    monkeypatch.setattr("splvm.cli.storm.claim_directory", lambda *_: directory)
    monkeypatch.setattr("splvm.cli.storm.run_until_fed", lambda *_, **__: [(verdict, directory)])
    done = CliRunner().invoke(app, ["sites"])
    assert done.exit_code == status, done.output
    assert said in done.output and f"{outcome} storm" in done.output
    content = json.loads((directory / "sites.json").read_text())
    assert (content["verdict"], content["whole"]) == (outcome, said.startswith("never"))


def test_operations_are_bits() -> None:
    assert _find_ops(None) == (1 << len(OPS)) - 1
    assert _find_ops("kmem,large-sleep") == 1 | 1 << OPS.index("kmem")
    with pytest.raises(UsageError, match="no such operation"):
        _find_ops("")


def test_the_command_that_repeats_a_finding() -> None:
    config = Storm(mark=0, trap=1, ops=_find_ops("kmem"))
    words = _repeat("debian-12", "stock", "debian", [Path("/x.patch")], config, "f:g#1", 7)
    assert " ".join(words) == (
        "splvm storm --kernel debian-12 --variant stock --spl-patch /x.patch --site f:g#1 --unmarked --trap fs "
        "--ops kmem --seed 7"
    )
    assert "--site" not in _repeat("debian-12", "stock", "debian", None, Storm(helpers=1), "helpers:kthreadd", 7)


def test_a_report_of_nothing() -> None:
    assert StormReport(()).to_json()["places"] == []
