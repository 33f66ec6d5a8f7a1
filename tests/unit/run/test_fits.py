"""Workloads that do not fit into a guest are refused before the run, with the arithmetic."""

from __future__ import annotations

import pytest

from splvm.errors import UsageError
from splvm.run.fits import OWN_MIB, check_fits
from splvm.run.scenarios import Workload
from splvm.scenarios.table import SCENARIOS


def test_two_threads_with_objects_of_eight_mib() -> None:
    with pytest.raises(UsageError) as caught:
        check_fits(Workload(size=8 << 20), 512)
    assert caught.value.message == (
        "the workload does not fit into the guest: 2 threads times 32 objects and a slab of 8, of 8388608 bytes, are "
        "640 MiB; of 512 MiB the guest has 352 for that"
    )
    assert "--memory 800 or more" in (caught.value.hint or "")
    check_fits(Workload(size=8 << 20), 640 + OWN_MIB)


@pytest.mark.parametrize("mib", [0, 100, 639 + OWN_MIB])
def test_a_guest_that_is_too_small(mib: int) -> None:
    with pytest.raises(UsageError):
        check_fits(Workload(size=8 << 20), mib)


def test_scenarios_fit_into_their_own_guests() -> None:
    for scenario in SCENARIOS.values():
        check_fits(scenario.workload(scenario.window_s), max(512, scenario.least_mib))
        check_fits(scenario.workload(60.0), 512)


def test_objects_that_are_kept_count() -> None:
    check_fits(Workload(threads=1, objects=10, size=4096, keep=10_000), 512)
    with pytest.raises(UsageError):
        check_fits(Workload(threads=1, objects=10, size=65_536, keep=10_000), 512)
