"""Historic bugs: the table is whole, rows are chosen by name and kernel, and an answer is what the row asks for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from splvm.builds.variants import VARIANTS
from splvm.campaign import historybugs
from splvm.campaign.historybugs import Answer, Bug, BugRun, answer_of, choose, history_table, read_table, run_bugs
from splvm.campaign.processes import Job, JobResult, OnDone
from splvm.errors import SetupError, UsageError
from splvm.evidence.verdict import Outcome, Reason, Verdict
from splvm.run.prepare import Wish
from splvm.scenarios.table import SCENARIOS

TABLE = history_table()
BUG = Bug(
    fix="0123456",
    repository="spl",
    year=2012,
    kind="a kind",
    users_saw="ZFS stood still",
    patch="0123456-a-bug",
    scenario="nominal",
    outcome=Outcome.SUSPECT,
    reason=r"mask 0x\d+",
)


def test_each_patch_has_a_row_and_each_row_its_patch() -> None:
    patches = {path for bug in TABLE for path in bug.patches()}
    directory = next(iter(patches)).parent
    assert patches == set(directory.glob("*.cocci"))


@pytest.mark.parametrize("bug", TABLE, ids=lambda bug: bug.name)
def test_row(bug: Bug) -> None:
    assert re.fullmatch(r"[0-9a-f]{7,10}", bug.fix)
    assert bug.repository in ("spl", "zfs")
    assert 2008 <= bug.year <= 2030
    assert bug.name.startswith(bug.fix)
    assert len(bug.users_saw) > 20
    if bug.why_not:
        assert not bug.patch
        return
    assert bug.scenario in SCENARIOS
    assert bug.variant in VARIANTS
    # Something has to be put back.
    assert bug.patch or bug.variant != "stock"
    assert not bug.outcome.is_good
    assert not bug.outcome.says_nothing


def test_no_row_is_there_twice() -> None:
    assert len({bug.name for bug in TABLE}) == len(TABLE)


@pytest.mark.parametrize(
    ("outcome", "texts", "answer"),
    [
        (Outcome.SUSPECT, ["another reason", "the mask 0x40"], Answer.NOTICED),
        (Outcome.SUSPECT, ["another reason"], Answer.OTHERWISE),
        (Outcome.CRASHED, ["the mask 0x40"], Answer.OTHERWISE),
        (Outcome.HEALTHY, ["the mask 0x40"], Answer.MISSED),
        (Outcome.INCONCLUSIVE, ["the mask 0x40"], Answer.SILENT),
    ],
)
def test_answer(outcome: Outcome, texts: list[str], answer: Answer) -> None:
    verdict = Verdict(outcome, tuple(map(Reason, texts)))
    assert answer_of(BUG, verdict)[0] is answer


def test_reason_that_is_told_is_the_one_that_was_written_down() -> None:
    assert answer_of(BUG, Verdict(Outcome.SUSPECT, (Reason("first"), Reason("mask 0x1"))))[1] == "mask 0x1"


def test_choose_by_name_kind_and_kernel() -> None:
    on_sid = replace(BUG, patch="0123456-on-sid", kernel="debian-sid")
    other = replace(BUG, fix="abcdef0", patch="abcdef0-other", kind="another kind")
    table = (BUG, on_sid, other)
    assert choose(table, [], [], "") == table
    assert choose(table, ["0123"], [], "") == (BUG, on_sid)
    assert choose(table, ["abcdef0-other"], [], "") == (other,)
    assert choose(table, [], ["another kind"], "") == (other,)
    assert choose(table, [], [], "debian-12") == (BUG, other)
    with pytest.raises(UsageError, match="no bug 'fedcba'"):
        choose(table, ["fedcba"], [], "")
    with pytest.raises(UsageError, match="no kind 'none'"):
        choose(table, [], ["none"], "")
    with pytest.raises(UsageError, match="none of these bugs"):
        choose(table, ["0123456-on-sid"], [], "debian-12")


def test_bug_that_cannot_be_noticed_says_why() -> None:
    never = Bug(fix="fedcba9", repository="spl", year=2012, kind="a kind", users_saw="", why_not="it is gone")
    with pytest.raises(UsageError) as error:
        choose((BUG, never), ["fedcba9"], [], "")
    assert "it is gone" in str(error.value.hint)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('why = "no reason"', "there is no why"),
        ('outcome = "ODD"', "ODD"),
        ('scenario = "nominal"', "it has a scenario with a reason"),
        ('scenario = "nominal"\nreason = "("', "unterminated"),
    ],
)
def test_bad_row(tmp_path: Path, line: str, says: str) -> None:
    row = '[[bug]]\nfix = "0123456"\nrepository = "spl"\nyear = 2012\nkind = "a"\nusers_saw = "b"\n'
    path = tmp_path / "bugs.toml"
    path.write_text(row + line)
    with pytest.raises(UsageError, match="0123456") as error:
        read_table(path)
    assert says in str(error.value)


def test_control_comes_first_and_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A bug whose build fails is trouble, and keeps no other from being run."""
    other = replace(BUG, patch="0123456-other")
    prepared: list[str] = []

    def fail(bug: Bug, *_: object) -> None:
        prepared.append(bug.name)
        raise SetupError("the patch does not apply")

    monkeypatch.setattr(historybugs, "_experiment", fail)
    told: list[BugRun] = []

    def run(jobs: Iterable[Job], on_done: OnDone) -> None:
        for job in jobs:
            on_done(JobResult(job, (), 0.0, "not reached"))

    runs = run_bugs((BUG, other), tmp_path, wish=Wish(), kernel="", repeat=2, seed=1, runner=run, on_run=told.append)
    assert prepared == ["0123456-stock", *["0123456-a-bug"] * 2, *["0123456-other"] * 2]
    assert [run.is_control for run in runs] == [True, False, False, False, False]
    assert {run.answer for run in runs} == {Answer.TROUBLE}
    assert told == runs
