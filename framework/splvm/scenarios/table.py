"""The table of scenarios, gathered from their modules, and what is expected of each on each variant of SPL."""

from __future__ import annotations

from collections.abc import Mapping

from splvm.builds.variants import VARIANTS
from splvm.errors import UsageError, did_you_mean
from splvm.evidence.expectation import Expectation
from splvm.run.expectations import find_expectation
from splvm.run.scenarios import Scenario
from splvm.scenarios import endured, faults, fragmented, held, longlived, nominal, storm, trap, work

SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for module in (nominal, held, endured, trap, faults, fragmented, longlived, storm, work)
    for scenario in module.SCENARIOS
}

# Those that need nothing that not every kernel has, and no pool, which takes minutes to build.
ANYWHERE = tuple(name for name, scenario in SCENARIOS.items() if scenario.faults is None and not scenario.load)

# What is expected of each scenario on each variant.
EXPECTED: Mapping[tuple[str, str], Expectation] = {
    (scenario.name, variant.name): cell
    for scenario in SCENARIOS.values()
    if not isinstance(scenario.expects, Expectation)
    for variant in VARIANTS.values()
    if (cell := find_expectation(scenario, variant)) is not None
}

# And of those that do not ask how SPL grows its caches, so that its variant has no say.
WHATEVER_SPL: Mapping[str, Expectation] = {
    name: scenario.expects for name, scenario in SCENARIOS.items() if isinstance(scenario.expects, Expectation)
}


def find_scenario(name: str) -> Scenario:
    """:raises UsageError: when there is none of that name; the message lists them."""
    try:
        return SCENARIOS[name]
    except KeyError:
        raise UsageError(
            f"there is no scenario {name!r}; there are: {', '.join(SCENARIOS)}", hint=did_you_mean(name, SCENARIOS)
        ) from None
