"""What people read of a verdict."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from simulated import simulate
from simulated_kinds import HELD, POOL
from splvm.report.summary import summarize
from splvm.scenarios.judged import judge_evidence as judge


@pytest.mark.parametrize(("boots", "told"), [(1, False), (2, True), (None, False), ("2", False)])
def test_a_second_boot_is_told(boots: object, told: bool) -> None:
    evidence = simulate(HELD).evidence()
    shown = io.StringIO()
    Console(file=shown, width=120).print(summarize(judge(evidence), {**evidence.facts, "boots": boots}, "runs/x"))
    assert ("and was booted 2 times" in shown.getvalue()) is told


def test_a_directory_with_an_odd_name() -> None:
    """A terminal obeys nothing in it."""
    evidence = simulate(HELD).evidence()
    shown = io.StringIO()
    where = "runs/\x1b[2J\x07\x7f\x85\x9b\u2066x\u202e"
    Console(file=shown, width=120).print(summarize(judge(evidence), evidence.facts, where))
    assert shown.getvalue().replace("\n", "").isprintable()


def shown(scenario: str) -> str:
    evidence = simulate(scenario).evidence()
    text = io.StringIO()
    Console(file=text, width=140).print(summarize(judge(evidence), evidence.facts, "runs/x"))
    return text.getvalue()


def test_a_pool_is_shown_by_its_txgs() -> None:
    assert re.search(r"pool +3 txgs were synced in the window, the last one is 2\d ", shown(POOL))
    assert "txgs" not in shown(HELD)


def test_flags_of_the_slab_file_have_their_names() -> None:
    before, during, after = (
        next(line for line in shown(HELD).splitlines() if re.search(rf"\b{when} +\w", line))
        for when in ("before", "during", "after")
    )
    assert "deadlocked growing 0x" in during
    assert "deadlocked" not in before + after
