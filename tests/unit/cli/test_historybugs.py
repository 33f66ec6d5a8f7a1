"""`history-bugs`: what it prints, what it leaves, and its exit status."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from splvm.campaign.historybugs import Answer, Bug, BugRun
from splvm.cli import app, historybugs
from splvm.evidence.verdict import Outcome


def _run(bug: Bug, answer: Answer, *, is_control: bool = False) -> BugRun:
    return BugRun(bug, "debian-12", 1, answer, Outcome.SLOW, "a reason", None, 1.0, is_control)


@pytest.mark.parametrize(
    ("answer", "control", "status"),
    [
        (Answer.NOTICED, Answer.MISSED, 0),
        (Answer.MISSED, Answer.MISSED, 1),
        (Answer.OTHERWISE, Answer.MISSED, 1),
        (Answer.SILENT, Answer.MISSED, 1),
        # The run without the bug is bad too.
        (Answer.NOTICED, Answer.OTHERWISE, 1),
        (Answer.TROUBLE, Answer.MISSED, 3),
    ],
)
def test_exit_status_and_report(
    answer: Answer, control: Answer, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(bugs: tuple[Bug, ...], base: Path, *, on_run: Callable[[BugRun], None], **_: Any) -> list[BugRun]:
        (bug,) = bugs
        runs = [_run(bug.without(), control, is_control=True), _run(bug, answer)]
        for each in runs:
            on_run(each)
        return runs

    monkeypatch.setattr(historybugs, "run_bugs", run)
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["history-bugs", "436ad60", "--out", str(out), "--json"])
    # Errors of the harness are statuses of their own; main() gives them.
    assert result.exit_code == status
    kept = json.loads((out / "history-bugs.json").read_text())
    assert kept["counts"] == {answer: 1}
    assert [row["answer"] for row in kept["bugs"]] == [answer]
    assert [row["as_expected"] for row in kept["controls"]] == [control is Answer.MISSED]
    assert json.loads(result.stdout[result.stdout.index("{") :]) == kept


def test_list_as_json() -> None:
    result = CliRunner().invoke(app, ["history-bugs", "--list", "--json"])
    rows = json.loads(result.stdout)["bugs"]
    assert result.exit_code == 0
    assert {row["scenario"] is None for row in rows} == {True, False}
    assert all(bool(row["scenario"]) != bool(row["why_not"]) for row in rows)


def test_list_of_one_kernel() -> None:
    result = CliRunner().invoke(app, ["history-bugs", "--list", "--kernel", "debian-11"])
    assert result.exit_code == 0
    assert "d348f23" in result.stdout
    assert "f95e306266" not in result.stdout
