"""What `storm` and `sites` refuse before anything is fetched or built, and how a finding is repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from commandline import CommandLine
from splvm.campaign.stormreport import Finding, Pass, StormReport
from splvm.cli.storm import _Command, _find_ops
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


def test_operations_are_bits() -> None:
    assert _find_ops(None) == (1 << len(OPS)) - 1
    assert _find_ops("kmem,large-sleep") == 1 | 1 << OPS.index("kmem")
    with pytest.raises(UsageError, match="no such operation"):
        _find_ops("")


STALLED = Pass("all places", Verdict(Outcome.STALLED, (Reason("deadlock"),)), Path("/r"), None)
PATCH = [Path("/x.patch")]


def test_the_command_that_repeats_a_finding() -> None:
    config = Storm(mark=0, trap=1, ops=_find_ops("kmem"))
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
