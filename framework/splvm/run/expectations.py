"""Which verdicts count as expected of a scenario on a variant of SPL."""

from __future__ import annotations

from collections.abc import Callable

from splvm.builds.variants import Variant
from splvm.evidence.expectation import Expectation
from splvm.evidence.verdict import Outcome
from splvm.run.scenarios import Scenario

# What a user's own source or patch has to show.
GOOD = frozenset(outcome for outcome in Outcome if outcome.is_good)


def find_expectation(scenario: Scenario, variant: Variant) -> Expectation | None:
    """What is expected of a scenario on a variant, and why: whoever came later says it. None: nobody has said."""
    if isinstance(scenario.expects, Expectation):
        return scenario.expects
    return scenario.expects.get(variant.name) or variant.expects.get(scenario.name)


def expected_outcomes(
    scenario: Scenario, variant: Variant, honours: Callable[[], bool], *, own: bool
) -> frozenset[Outcome]:
    """Which verdicts count as expected.

    :param honours: tells whether the kernel's vmalloc allocates page tables with the caller's flags. To measure that
        takes a guest, so it is only asked where the verdict depends on it.
    :param own: whether the user's source or patches are in the build: then every good verdict does.
    """
    cell = find_expectation(scenario, variant)
    if own or cell is None:
        return GOOD
    return frozenset({cell.on(honours=cell.ignoring is None or honours())})
