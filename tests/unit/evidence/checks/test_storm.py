"""What a storm's checks read beside the probe's own words."""

from __future__ import annotations

import pytest

from simulated import simulate
from simulated_guest import Knobs, Span
from simulated_kinds import STORM
from splvm.evidence.checks.storm import swapped_out
from splvm.evidence.timeline import Sample
from splvm.evidence.verdict import Outcome, Verdict
from splvm.scenarios.judged import judge_evidence


def readings(*texts: str) -> list[Sample[str]]:
    return [Sample(number, number, number, "ssh", text) for number, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("texts", "pages"),
    [
        ((), 0),
        (("pswpin 4\npswpout 10\n", "pswpin 4\npswpout 10\n"), 0),
        (("pgpgout 3\npswpout 10\n", "pswpout 15\n", "pswpout 42\n"), 32),
        # One that was cut off.
        (("pswpout 10\n", "pswpout 12\n", "pswp"), 2),
        # A guest without swap in its kernel.
        (("pgpgout 3\n", "pgpgout 5\n"), 0),
    ],
)
def test_pages_written_to_swap(texts: tuple[str, ...], pages: int) -> None:
    assert swapped_out(readings(*texts)) == pages


def judged(knobs: Knobs, window_s: float) -> Verdict:
    run = simulate(STORM, knobs)
    run.facts["parameters"]["window_s"] = window_s
    return judge_evidence(run.evidence())


def test_a_deadlock_ends_the_window() -> None:
    """A run does not wait for the rest of its window when somebody has been caught for good."""
    stalled = judged(Knobs(stormed=Span("window", 1.0)), 30.0)
    assert stalled.outcome is Outcome.STALLED
    assert not any("are asked for" in reason.text for _, reason in stalled.also)
    # Nobody was caught, or for a moment only.
    for knobs in (Knobs(), Knobs(stormed=Span("hold", 0.5))):
        short = judged(knobs, 30.0)
        assert short.outcome is Outcome.INCONCLUSIVE
        reasons = [*(reason.text for reason in short.reasons), *(reason.text for _, reason in short.also)]
        assert any("30 s are asked for" in text for text in reasons)


@pytest.mark.parametrize(
    ("began", "waits", "outcome"),
    [
        (0.95, 20, Outcome.IMMUNE),
        (0.95, 4, Outcome.IMMUNE),
        # The end of the storm let it go, and no commit did.
        (0.95, 3, Outcome.INCONCLUSIVE),
        # Nobody came free there before, or it has waited for longer.
        (0.95, 0, Outcome.INCONCLUSIVE),
        (0.5, 20, Outcome.INCONCLUSIVE),
    ],
)
def test_a_wait_that_begins_as_the_window_ends(began: float, waits: int, outcome: Outcome) -> None:
    """Waits that commits end begin at any time, also just before the window's end."""
    verdict = judged(Knobs(stormed=Span("hold", began), storm_waits=waits), 3.0)
    assert verdict.outcome is outcome, verdict
