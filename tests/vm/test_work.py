"""SPL as its users have it: the packaged builds keep what they promise, and count right."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from splvm.assets import find_images
from splvm.builds.kernels import KERNELS
from splvm.clock import Clock
from splvm.evidence.verdict import Outcome
from splvm.pytest_fixtures import RunResult

pytestmark = pytest.mark.splvm_vm

# The default suite has one kernel, and of scenarios those whose guests have templates already.
SHORT = "debian-12"
SCENARIOS = ("taskqs", "caches", "hotplug", "memory")
CELLS = [
    pytest.param(scenario, kernel, marks=[pytest.mark.splvm_slow] * (kernel != SHORT or scenario in SCENARIOS[2:]))
    for scenario in SCENARIOS
    for kernel in KERNELS
    if (scenario, kernel) != ("memory", "debian-sid")
]


@pytest.mark.parametrize(("scenario", "kernel"), CELLS)
def test_packaged_build(run_scenario: Callable[..., RunResult], scenario: str, kernel: str) -> None:
    run_scenario(scenario, kernel=kernel, clock=Clock.VIRTUAL).must_be(Outcome.HEALTHY)


@pytest.mark.splvm_slow
def test_a_compound_page_that_is_split(run_scenario: Callable[..., RunResult]) -> None:
    """SPL gives kvmalloc() __GFP_COMP, and Linux 7 splits a compound page (docs/history.md); without it all is well."""
    how = {"kernel": "debian-sid", "clock": Clock.VIRTUAL}
    broken = run_scenario("memory", **how)
    broken.must_be(Outcome.CRASHED)
    assert "Bad page state" in broken.verdict.reasons[0].text
    mended = run_scenario("memory", patches=(find_images() / "history" / "kvmalloc-without-comp.cocci",), **how)
    mended.must_be(Outcome.HEALTHY)


@pytest.mark.splvm_slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_packaged_build_in_real_time(run_scenario: Callable[..., RunResult], scenario: str) -> None:
    run_scenario(scenario, clock=Clock.REAL).must_be(Outcome.HEALTHY)
