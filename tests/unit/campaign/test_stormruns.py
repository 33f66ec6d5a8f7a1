"""Which place a run of a storm blames. No guest."""

from __future__ import annotations

from simulated import simulate
from simulated_guest import Knobs, Span
from simulated_kinds import STORM
from splvm.campaign.stormruns import caught_site


def test_who_waits_as_the_window_ends_is_blamed() -> None:
    site = caught_site(simulate(STORM, Knobs(stormed=Span("window", 1.0))).evidence().timeline)
    assert site is not None and site.words.startswith("spl_emergency_alloc -> ")
    # Nobody is.
    assert caught_site(simulate(STORM).evidence().timeline) is None


def test_who_waits_after_the_window_is_not() -> None:
    """When the storm ends those who wait are let go, and others may come to wait before they see its end."""
    assert caught_site(simulate(STORM, Knobs(stormed=Span("release", 0.0, 0.1))).evidence().timeline) is None
