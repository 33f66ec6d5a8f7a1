"""What was done to a guest, in words, for people who read an issue."""

from __future__ import annotations

import pytest

from simulated import simulate
from simulated_kinds import STORM
from splvm.report.done import describe_window


@pytest.mark.parametrize(
    ("storm", "words"),
    [
        ({"helpers": 1}, "transactions made threads, and the kernel reclaimed in kthreadd too"),
        ({"mark": 0}, "the transaction thread did not mark itself"),
    ],
)
def test_what_a_storm_was_set_to(storm: dict[str, int], words: str) -> None:
    run = simulate(STORM)
    assert not any(words in line for line in describe_window(run.evidence()))
    run.facts["parameters"]["storm"] |= storm
    assert any(words in line for line in describe_window(run.evidence()))
