"""What a build of the user's own has to show: what the packaged one does, or better where that is bad."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulated import simulate
from simulated_kinds import CYCLE
from splvm.builds.variants import VARIANTS
from splvm.evidence.verdict import Outcome
from splvm.run.expectations import expected_outcomes, yardstick_of
from splvm.run.expected import GOOD, Yardstick, remark_on
from splvm.scenarios.judged import judge_evidence as judge
from splvm.scenarios.table import EXPECTED, SCENARIOS, WHATEVER_SPL

STALLED, IMMUNE, PROGRESS, HEALTHY = Outcome.STALLED, Outcome.IMMUNE, Outcome.PROGRESS, Outcome.HEALTHY


# After what it stands beside.
FREE = ": the worker is not caught any more"


def honours() -> bool:
    return True


def ignores() -> bool:
    return False


@pytest.mark.parametrize(
    ("variant", "packaged", "stock", "verdict", "as_expected", "remark"),
    [
        ("stock", PROGRESS, PROGRESS, PROGRESS, True, ""),
        ("stock", STALLED, STALLED, STALLED, True, ""),
        ("stock", STALLED, STALLED, HEALTHY, True, "better: STALLED in stock"),
        ("no-emergency", STALLED, STALLED, PROGRESS, True, "better: STALLED in stock"),
        ("stock", IMMUNE, IMMUNE, PROGRESS, False, "IMMUNE in stock, PROGRESS here: the worker is caught"),
        ("stock", PROGRESS, PROGRESS, IMMUNE, False, "PROGRESS in stock, IMMUNE here" + FREE),
        ("stock", PROGRESS, PROGRESS, HEALTHY, False, "PROGRESS in stock, HEALTHY here"),
        ("stock", PROGRESS, PROGRESS, STALLED, False, "PROGRESS in stock, STALLED here"),
        ("stock", STALLED, STALLED, Outcome.CRASHED, False, "STALLED in stock, CRASHED here"),
        (
            *("no-emergency", STALLED, PROGRESS, PROGRESS, False),
            "STALLED in no-emergency, PROGRESS here: this control shows nothing",
        ),
        ("no-emergency", STALLED, PROGRESS, STALLED, True, ""),
        ("list-walk", Outcome.SLOW, PROGRESS, STALLED, False, "SLOW in list-walk, STALLED here"),
        # Stock is bad, but the variant is not: there is nothing to become better.
        ("unscoped", PROGRESS, STALLED, IMMUNE, False, "PROGRESS in unscoped, IMMUNE here" + FREE),
    ],
)  # fmt: skip
def test_a_verdict_beside_that_of_the_packaged_build(
    variant: str, packaged: Outcome, stock: Outcome, verdict: Outcome, as_expected: bool, remark: str
) -> None:
    yardstick = Yardstick(variant, packaged, stock, True)
    assert (verdict in yardstick.outcomes) is as_expected
    assert yardstick.remark(verdict) == remark
    # What the record of the run says of it comes to the same.
    assert remark_on({"packaged": yardstick.to_json()}, verdict) == remark


@given(st.sampled_from(Outcome), st.none() | st.sampled_from(Outcome), st.sampled_from(Outcome), st.booleans())
def test_a_verdict_that_is_not_expected_is_explained(
    packaged: Outcome, stock: Outcome | None, verdict: Outcome, own: bool
) -> None:
    yardstick = Yardstick("v", packaged, stock, own)
    assert packaged in yardstick.outcomes
    assert yardstick.outcomes <= GOOD | {packaged}
    if not own:
        assert yardstick.outcomes == {packaged} and yardstick.remark(verdict) == ""
    elif verdict is not packaged:
        assert yardstick.remark(verdict).startswith("better: ") is (verdict in yardstick.outcomes)


def test_an_own_build_that_changes_nothing_is_as_expected_wherever_the_packaged_one_is() -> None:
    for scenario, variant in EXPECTED:
        for kernel in (honours, ignores):
            (packaged,) = expected_outcomes(SCENARIOS[scenario], VARIANTS[variant], kernel, own=False)
            own = expected_outcomes(SCENARIOS[scenario], VARIANTS[variant], kernel, own=True)
            assert packaged in own
            # Stock is bad in none of these, so nothing can be better than it.
            assert own == {packaged}


def test_what_is_bad_in_stock_too_may_become_better() -> None:
    bad = {scenario for scenario, cell in WHATEVER_SPL.items() if not cell.outcome.is_good}
    assert bad == {"zvol-swap"}
    assert expected_outcomes(SCENARIOS["zvol-swap"], VARIANTS["stock"], honours, own=True) == {STALLED, *GOOD}
    assert expected_outcomes(SCENARIOS["zvol-swap"], VARIANTS["stock"], honours, own=False) == {STALLED}


def test_a_patch_by_which_the_worker_is_caught_again_is_not_as_expected() -> None:
    """On stock the trap is declined. Where the worker is caught, and carried, the verdict is good, and yet a loss."""
    verdict = judge(simulate(CYCLE).evidence())
    assert verdict.outcome is PROGRESS
    yardstick = yardstick_of(SCENARIOS[CYCLE], VARIANTS["stock"], honours, own=True)
    assert verdict.outcome not in yardstick.outcomes
    assert yardstick.remark(verdict.outcome) == "IMMUNE in stock, PROGRESS here: the worker is caught"


@pytest.mark.parametrize(
    "told",
    [
        None,
        1,
        {},
        {"verdict": "X", "stock": None},
        {"verdict": "IMMUNE"},
        {"verdict": [], "stock": {}},
        {"verdict": {}},
    ],
)
def test_a_record_that_says_nothing_of_it(told: object) -> None:
    assert remark_on({"packaged": told}, PROGRESS) == ""
    assert remark_on({}, PROGRESS) == ""
