"""The figures of runs that pages show over time and side by side."""

from __future__ import annotations

from collections.abc import Sequence

# As the history names them, in words, and their unit. Others are asked for with `splvm history show --figure`.
FIGURES: Sequence[tuple[str, str, str]] = (
    ("longest_gap_ms", "longest gap", "ms"),
    ("objects_per_s", "objects", "per s"),
    ("recovery_ms", "recovery after the release", "ms"),
    ("emergency_objects", "emergency objects handed out", "objects"),
    ("latency.all.under_ns.p99", "99 % of the allocations took under", "ns"),
    ("onset_s", "onset of the trouble", "s"),
    ("trap.commits", "commits in the window", "commits"),
    ("free_ns.10000", "a free with 10,000 objects kept", "ns"),
    ("loads.memory.available_kib", "memory available under the load", "KiB"),
    ("loads.memory.some", "share of time tasks waited for memory", ""),
)
NAMES = tuple(name for name, _, _ in FIGURES)
