"""How often something happened in a series of runs, how sure that is, and whether two series differ.

Pure. The statistics are SciPy's, which is only imported where there is something to compute: it takes a second.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# Of every interval.
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Rate:
    """The number of hits among the runs that said something."""

    hits: int
    runs: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """Lowest and highest rate that fit, at `CONFIDENCE`; None without a run.

        E. B. Wilson's score interval (1927): also right for few runs, and for none or all of them.
        """
        if not self.runs:
            return None
        from scipy.stats import binomtest

        found = binomtest(self.hits, self.runs).proportion_ci(CONFIDENCE, method="wilson")
        return float(found.low), float(found.high)

    def __str__(self) -> str:
        interval = self.interval
        if interval is None:
            return "-"
        return f"{self.hits / self.runs:.0%} ({interval[0]:.0%} to {interval[1]:.0%})"

    def to_json(self) -> dict[str, Any]:
        return {"hits": self.hits, "runs": self.runs, "interval": self.interval, "confidence": CONFIDENCE}


def chance_of_difference(one: Rate, other: Rate) -> float | None:
    """The probability that two series with equal rates differ at least as much as these; None if one has no run.

    Boschloo's exact test (1970), two-sided: right for few runs too, and finds more than Fisher's.
    """
    if not one.runs or not other.runs:
        return None
    if one.hits * other.runs == other.hits * one.runs:
        return 1.0
    from scipy.stats import boschloo_exact

    table = [[one.hits, other.hits], [one.runs - one.hits, other.runs - other.hits]]
    with _root_left_alone():
        return min(1.0, float(boschloo_exact(table).pvalue))


@contextmanager
def _root_left_alone() -> Iterator[None]:
    """Keep SciPy's optimizer from giving the root logger a handler for good, which prints everything a second time.

    It calls logging.info() (scipy/optimize/_shgo.py), which does so where there is none yet.
    """
    stand_in = logging.NullHandler()
    logging.getLogger().addHandler(stand_in)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(stand_in)


def quartiles(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Lower quartile, median and upper quartile; None without a value."""
    if not values:
        return None
    if len(values) == 1:
        return (values[0],) * 3
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high
