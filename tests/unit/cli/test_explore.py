"""What `explore` and `replay` refuse before a guest runs, and how a finding is described."""

from __future__ import annotations

from pathlib import Path

import pytest

from commandline import CommandLine
from simulated import simulate
from simulated_kinds import HELD
from splvm.builds.points import Kind, Point
from splvm.campaign.explore import Finding, Seed
from splvm.cli.explore import _described, parse_seeds
from splvm.errors import UsageError
from splvm.evidence.formats.explorestatus import Delayed
from splvm.evidence.verdict import Outcome
from splvm.run.delays import Delay


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["explore", "nominl"], "there is no scenario 'nominl'"),
        (["explore", "nominal", "--seeds", "5..1"], "it takes a first and a last one"),
        (["explore", "nominal", "--ops", "kmem"], "nominal has no transactions of a storm"),
        (["explore", "storm", "--ops", "kmen"], "there is no such operation"),
        (["explore", "nominal", "--delays", "9"], "--delays"),
        (["run", "nominal", "--delay", "here"], "it is no delay"),
    ],
)
def test_what_is_refused(commandline: CommandLine, argv: list[str], message: str, tmp_path: Path) -> None:
    done = commandline(*argv, "--out", str(tmp_path / "run"), cwd=tmp_path, store=tmp_path / "store")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "this run was in real time, and nothing makes it again"),
        (("--gdb",), "--gdb: it needs a guest that stands"),
    ],
)
def test_what_is_not_replayed(commandline: CommandLine, argv: tuple[str, ...], message: str, tmp_path: Path) -> None:
    simulate(HELD).start_record(tmp_path / "run").finish({"kind": "ended", "detail": "all steps were taken"})
    done = commandline("replay", str(tmp_path / "run"), *argv, cwd=tmp_path, store=tmp_path / "store")
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_seeds() -> None:
    assert parse_seeds("7") == range(7, 8)
    assert parse_seeds("1..500") == range(1, 501)
    for text in ("", "1..", "..3", "a..b", "3..2", "1...3", "1..99999999999"):
        with pytest.raises(UsageError, match="it takes a first and a last one"):
            parse_seeds(text)


def test_a_finding_names_function_instruction_line_and_thread(tmp_path: Path) -> None:
    delay = Delay("taskq_thread+0x1a9", 3, 1000)
    point = Point("taskq_thread", 0x1A9, Kind.WAIT, "add_wait_queue_exclusive", "spl-taskq.c:906")
    told = Delayed(delay.place, "spl_kmem_cache", 77, 1, 5, 3, 1000, 0)
    finding = Finding(
        Seed(9, Outcome.STALLED, "nothing moves\nmore", (delay,), 4.0), True, (delay,), (told,), str(tmp_path)
    )
    said = "\n".join(_described(finding, {point.place: point}))
    assert "seed 9 is STALLED (the same again): nothing moves\n" in said
    place = "1000 us at taskq_thread+0x1a9, wait add_wait_queue_exclusive (spl-taskq.c:906), hit 3"
    assert f"{place}, by spl_kmem_cache (pid 77) on CPU 1, spinning" in said
