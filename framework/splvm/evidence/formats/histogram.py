"""Durations counted by powers of two, as the probe counts them: K to the number of those from 2^K to 2^(K+1) - 1 ns."""

from __future__ import annotations

from collections.abc import Mapping

# Shares of the durations whose bounds are told, and the names of these.
QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))


def difference(first: Mapping[int, int], last: Mapping[int, int]) -> dict[int, int]:
    """What came in between two readings. Counters only grow; one that does not is worth nothing."""
    grown = {bucket: count - first.get(bucket, 0) for bucket, count in last.items()}
    return {bucket: count for bucket, count in grown.items() if count > 0}


def quantile_ns(counts: Mapping[int, int], share: float) -> int | None:
    """What a share of the durations is under, ns: the end of the bucket in which it is reached. None if there are none.

    :param share: over 0, up to 1.
    """
    total = sum(counts.values())
    seen = 0
    for bucket, count in sorted(counts.items()):
        seen += count
        # One at least, or the smallest share of a few durations would be none of them.
        if seen and seen >= share * total:
            return int(2 ** (bucket + 1))
    return None


def distribution(counts: Mapping[int, int]) -> dict[str, int | dict[str, int]]:
    """How many there are, `under_ns` by share, and the buckets themselves; empty if there are none."""
    bounds = {name: bound for name, share in QUANTILES if (bound := quantile_ns(counts, share)) is not None}
    if not bounds:
        return {}
    buckets = {str(bucket): count for bucket, count in sorted(counts.items())}
    return {"count": sum(counts.values()), "under_ns": bounds, "buckets": buckets}
