"""The harness has to fail when SPL is wrong: builds of SPL with one fault each, and the verdict each must get.

A mutant is a semantic patch in mutants/. That it is a fault, and that the verdict names it, is what is tested here;
that SPL itself is right is what test_scenarios.py tests.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from splvm.clock import Clock
from splvm.evidence.verdict import Outcome
from splvm.pytest_fixtures import RunResult

pytestmark = pytest.mark.splvm_vm

HERE = Path(__file__).parent / "mutants"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault, one scenario that shows it."""

    # Name of the semantic patch.
    name: str
    scenario: str
    outcome: Outcome
    # What the reasons of the verdict must say.
    reason: str
    # None: that of the command line. Another one is built first.
    kernel: str | None = None


MUTANTS = (
    Mutant("flag-never-set", "held-worker", Outcome.STALLED, r"got no object for the last \d"),
    Mutant("fallback-leaks", "held-worker", Outcome.NO_RECOVERY, r"emergency objects (are left|did not drain)"),
    Mutant("counts-double", "held-worker", Outcome.MISCOUNTED, r"emergency objects|object total"),
    Mutant("maximum-forgotten", "held-worker", Outcome.MISCOUNTED, r"max"),
    Mutant("dlock-forgotten", "held-worker", Outcome.MISCOUNTED, r"yet dlock is 0"),
    Mutant("deadlocked-sticks", "held-worker", Outcome.NO_RECOVERY, r"flagged deadlocked|did not drain"),
    Mutant("wake-up-lost", "held-worker", Outcome.NO_RECOVERY, r"callers are not woken"),
    Mutant("timeout-too-long", "held-worker", Outcome.SLOW, r"waited \d+\.\d ms|got no object between"),
    Mutant("growing-sticks", "nominal", Outcome.NO_RECOVERY, r"still flagged growing"),
    # Who is not woken at all times out.
    Mutant("wake-up-lost", "nominal", Outcome.SLOW, r"callers are not woken|callers timed out although nothing held"),
    Mutant("fallback-gives-up", "emergency-fails", Outcome.STALLED, r"got no object for the last \d", "built:faults"),
    Mutant("failed-growth-sticks", "grow-fails", Outcome.NO_RECOVERY, r"flagged|did not drain", "built:faults"),
    Mutant("magazine-bypassed", "nominal", Outcome.SLOW, r"had given back on the same CPU, \d+ were not there"),
    Mutant("magazine-of-one", "nominal", Outcome.SLOW, r"only \d+ of \d+ allocations found one there"),
    # What it carries is carried well: that the worker is caught at all is the fault.
    Mutant("marks-forgotten", "reclaim-cycle", Outcome.SUSPECT, r"is not marked .*which has __GFP_IO and __GFP_FS"),
    Mutant("timeout-too-short", "nominal", Outcome.SLOW, r"although nothing held the worker"),
)


# The default suite has one for each bad verdict, of the held worker, of free service and of the trap; the rest is slow.
SHORT = {
    ("flag-never-set", "held-worker"),
    ("maximum-forgotten", "held-worker"),
    ("timeout-too-long", "held-worker"),
    ("growing-sticks", "nominal"),
    ("wake-up-lost", "nominal"),
    ("magazine-of-one", "nominal"),
    ("marks-forgotten", "reclaim-cycle"),
}


def test_every_patch_has_a_row() -> None:
    assert {path.stem for path in HERE.glob("*.cocci")} == {mutant.name for mutant in MUTANTS}


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(
            it, id=f"{it.name}-{it.scenario}", marks=[pytest.mark.splvm_slow] * ((it.name, it.scenario) not in SHORT)
        )
        for it in MUTANTS
    ],
)
def test_mutant_is_found(run_scenario: Callable[..., RunResult], mutant: Mutant) -> None:
    # A worker that is held shows its fault at once; what is only a matter of counts takes its time.
    window_s = 2.0 if mutant.scenario == "held-worker" else None
    other = {"kernel": mutant.kernel} if mutant.kernel else {}
    # In virtual time each mutant would have a template of its own, for one run; and two CPUs are never at it at once.
    patches = (HERE / f"{mutant.name}.cocci",)
    result = run_scenario(mutant.scenario, patches=patches, window_s=window_s, clock=Clock.REAL, **other)
    result.must_be(mutant.outcome)
    reasons = " | ".join(reason.text for reason in result.verdict.reasons)
    assert re.search(mutant.reason, reasons), reasons
