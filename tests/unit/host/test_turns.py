"""Turns on the host: shares go together, alone means alone, and nobody waits for ever."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import cast

import pytest

from splvm.builds import root
from splvm.deadline import Deadline, poll
from splvm.evidence.verdict import Outcome, Reason, Verdict
from splvm.host.store import Artefact
from splvm.host.turns import take_turn
from splvm.run import experiment
from splvm.run.experiment import Experiment

HOLDER = """
import sys
from pathlib import Path
from splvm.deadline import Deadline
from splvm.host.turns import take_turn
with take_turn(Path(sys.argv[1]), alone=True, deadline=Deadline(60)) as had:
    print(had, flush=True)
    sys.stdin.read()
"""


def test_shares_go_together(tmp_path: Path) -> None:
    with (
        take_turn(tmp_path / "new", alone=False, deadline=Deadline(60)) as one,
        take_turn(tmp_path / "new", alone=False, deadline=Deadline(60)) as two,
    ):
        assert one and two


def test_alone_is_alone(tmp_path: Path) -> None:
    with take_turn(tmp_path, alone=True, deadline=Deadline(60)) as had:
        assert had
        for alone in (True, False):
            with take_turn(tmp_path, alone=alone, deadline=Deadline(0.1)) as other:
                assert not other
    with take_turn(tmp_path, alone=True, deadline=Deadline(60)) as again:
        assert again


def test_a_share_keeps_others_from_being_alone(tmp_path: Path) -> None:
    with (
        take_turn(tmp_path, alone=False, deadline=Deadline(60)),
        take_turn(tmp_path, alone=True, deadline=Deadline(0.1)) as other,
    ):
        assert not other


def test_who_waits_to_be_alone_is_not_passed_by(tmp_path: Path) -> None:
    alone, go = threading.Event(), threading.Event()

    def wait() -> None:
        with take_turn(tmp_path, alone=True, deadline=Deadline(60)) as had:
            assert had
            alone.set()
            go.wait(60)

    waiter = threading.Thread(target=wait)
    with take_turn(tmp_path, alone=False, deadline=Deadline(60)):
        waiter.start()
        # It stands at the gate as soon as nobody else gets through.
        poll(lambda: None if shares(tmp_path) else True, Deadline(60), "somebody at the gate")
        assert not alone.is_set()
    assert alone.wait(60)
    assert not shares(tmp_path)
    go.set()
    waiter.join(60)
    assert shares(tmp_path)


def shares(directory: Path) -> bool:
    with take_turn(directory, alone=False, deadline=Deadline(0.1)) as had:
        return had


def test_a_process_that_is_killed_has_its_turn_no_more(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "True\n"
        assert not shares(tmp_path)
        holder.kill()
    assert shares(tmp_path)


def test_a_place_that_cannot_be_written_to_keeps_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with take_turn(tmp_path / "file" / "below", alone=True, deadline=Deadline(60)) as had:
        assert not had


def test_what_is_run_again_is_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most three times, each kept, and never again once there is a verdict."""
    monkeypatch.setenv("SPLVM_CACHE", str(tmp_path / "store"))
    starved = Verdict(Outcome.INCONCLUSIVE, (Reason("r"),), starved="it waited")
    verdicts = [starved, starved, Verdict(Outcome.PROGRESS, (Reason("r"),))]
    free = []

    def run(what: Experiment, out: Path, on_phase: object) -> Verdict:
        free.append(shares(tmp_path / "store" / "locks"))
        return verdicts[len(free) - 1]

    monkeypatch.setattr(experiment, "run_experiment", run)
    what = cast(Experiment, None)
    done = experiment.run_until_fed(what, tmp_path / "run")
    assert [verdict for verdict, _ in done] == verdicts
    assert [path.name for _, path in done] == ["run", "run-2", "run-3"]
    assert free == [True, False, False]
    verdicts[2] = starved
    free.clear()
    assert [verdict for verdict, _ in experiment.run_until_fed(what, tmp_path / "run")] == verdicts
    verdicts[0] = Verdict(Outcome.STALLED, (Reason("r"),))
    free.clear()
    assert len(experiment.run_until_fed(what, tmp_path / "run")) == 1


def test_a_build_has_a_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLVM_CACHE", str(tmp_path / "store"))

    def is_alone() -> bool:
        with take_turn(tmp_path / "store" / "locks", alone=True, deadline=Deadline(0.1)) as had:
            return had

    def run(argv: list[str], **_: object) -> tuple[list[str], bool]:
        return argv[-1:], is_alone()

    monkeypatch.setattr(root, "run", run)
    where = root.BuildRoot(Artefact(tmp_path, "build-root", "0"), "6.1.0", "0")
    done = where.run(["make"], work=tmp_path, deadline=Deadline(60), what="a build", log=tmp_path / "log")
    assert cast(object, done) == (["make"], False)
    assert is_alone()
