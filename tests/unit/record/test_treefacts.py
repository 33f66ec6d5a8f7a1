"""The commit of a run's modules, in words."""

from __future__ import annotations

from typing import Any

import pytest

from simulated import simulate
from splvm.errors import EvidenceError
from splvm.evidence.verdict import Outcome, Reason, Verdict
from splvm.history.rows import make_run
from splvm.record.facts import check_facts
from splvm.record.treefacts import commit_of, describe_modules, describe_tree
from splvm.report.summary import verdict_line
from splvm.scenarios.judged import judge_evidence

COMMIT = "1a2b3c4" + "d" * 33
DIRTY = "ab" * 32


def git(**changes: str) -> dict[str, str]:
    return {"commit": COMMIT, "branch": "main", "describe": "zfs-2.3.0-5-g1a2b3c4", "dirty": "", **changes}


def facts(spl: Any = None, zfs: Any = None) -> dict[str, Any]:
    told: dict[str, Any] = {"scenario": "held-worker", "kernel": {"id": "debian-12"}, "spl": {"variant": "stock"}}
    told["spl"]["git"] = spl
    return told | ({"zfs": {"git": zfs, "sha256": "f" * 64}} if zfs else {})


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (facts(), ""),
        (facts(git()), "1a2b3c4 main"),
        (facts(git(dirty=DIRTY)), "1a2b3c4 main, dirty"),
        (facts(git(branch="", describe="zfs-2.3.0")), "1a2b3c4 zfs-2.3.0"),
        (facts(git(branch="", describe="1a2b3c4ddd")), "1a2b3c4"),
        # An edit of the ARC is in zfs.ko alone, which a guest with a pool has loaded.
        (facts(git(), git(dirty=DIRTY)), "1a2b3c4 main, dirty"),
        ({"spl": 1, "zfs": {"git": "x"}}, ""),
    ],
)
def test_in_short(told: dict[str, Any], expected: str) -> None:
    assert describe_tree(told) == expected
    assert commit_of(told) == (COMMIT if expected else "")


def test_each_module() -> None:
    assert dict(describe_modules(facts(git(), git(dirty=DIRTY)))) == {
        "spl.ko": "1a2b3c4 main (zfs-2.3.0-5-g1a2b3c4)",
        "zfs.ko": "1a2b3c4 main (zfs-2.3.0-5-g1a2b3c4), with edits abababab",
    }


def test_it_ends_the_last_line_however_long_that_is() -> None:
    verdict = Verdict(Outcome.PROGRESS, (Reason("why " * 500),))
    line = verdict_line(verdict, facts(git(branch="fix\x1b[31m", dirty=DIRTY)))
    assert line.split()[:4] == ["PROGRESS", "held-worker", "debian-12", "stock"]
    assert line.endswith("… [1a2b3c4 fix [31m, dirty]")
    assert "[" not in verdict_line(verdict, facts())


@pytest.mark.parametrize("part", ["spl", "zfs"])
def test_a_commit_that_is_none(part: str) -> None:
    with pytest.raises(EvidenceError, match="git"):
        check_facts({part: {"git": {"commit": 1}}})


def test_the_history_has_it() -> None:
    evidence = simulate("held-worker").evidence()
    verdict = judge_evidence(evidence)
    told = {**evidence.facts, "started": "2026-01-01T00:00:00+00:00", **facts(git(), git(dirty=DIRTY))}
    row = make_run(told, verdict, "", directory="", command="", duration_s=None)
    assert (row.revision, row.tree) == (COMMIT, "1a2b3c4 main, dirty")
    assert row.modules == {"zfs.cpio": "f" * 64}
