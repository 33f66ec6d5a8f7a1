"""Durations counted by powers of two."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splvm.evidence.formats.histogram import QUANTILES, difference, distribution, quantile_ns

HISTOGRAMS = st.dictionaries(st.integers(0, 63), st.integers(1, 10**6), max_size=20)


@pytest.mark.parametrize(
    ("first", "last", "grown"),
    [
        ({}, {}, {}),
        ({}, {3: 4}, {3: 4}),
        ({3: 4}, {3: 4}, {}),
        ({3: 1, 5: 2}, {3: 4, 5: 2, 7: 1}, {3: 3, 7: 1}),
        # A counter that went down, or is gone.
        ({3: 9, 5: 1}, {3: 4}, {}),
    ],
)
def test_difference(first: dict[int, int], last: dict[int, int], grown: dict[int, int]) -> None:
    assert difference(first, last) == grown


@pytest.mark.parametrize(
    ("counts", "share", "under"),
    [
        ({}, 0.5, None),
        ({0: 1}, 0.5, 2),
        ({9: 1}, 0.01, 1024),
        ({9: 50, 20: 50}, 0.5, 1024),
        ({9: 49, 20: 51}, 0.5, 2**21),
        ({9: 99, 20: 1}, 0.99, 1024),
        ({9: 98, 20: 2}, 0.99, 2**21),
        ({9: 10**9, 63: 1}, 1.0, 2**64),
    ],
)
def test_quantile(counts: dict[int, int], share: float, under: int | None) -> None:
    assert quantile_ns(counts, share) == under


def test_distribution() -> None:
    assert distribution({}) == {}
    assert distribution({20: 3, 9: 97}) == {
        "count": 100,
        "under_ns": {"p50": 1024, "p90": 1024, "p99": 2**21, "max": 2**21},
        "buckets": {"9": 97, "20": 3},
    }


@settings(deadline=None, derandomize=True)
@given(HISTOGRAMS, st.sampled_from([share for _, share in QUANTILES]))
def test_a_quantile_is_the_least_bound_that_the_share_is_under(counts: dict[int, int], share: float) -> None:
    under = quantile_ns(counts, share)
    if under is None:
        assert not counts
        return
    total = sum(counts.values())
    below = sum(count for bucket, count in counts.items() if 2 ** (bucket + 1) <= under)
    before = sum(count for bucket, count in counts.items() if 2 ** (bucket + 1) < under)
    assert below >= share * total > before or (before == 0 and below > 0)
