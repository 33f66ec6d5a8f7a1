"""What people read of a verdict."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from simulated import HELD, simulate
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
