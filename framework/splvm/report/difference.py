"""What is different between two verdicts, for people who have just changed something."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from splvm.evidence.verdict import Reason, Verdict
from splvm.report.summary import plain

# Figures that are compared: what they are called, and their unit.
_FIGURES = {
    "longest_gap_ms": ("longest gap", " ms"),
    "objects_per_s": ("objects", "/s"),
    "emergency_max": ("emergency max", ""),
    "recovery_ms": ("recovery", " ms"),
}


def compare_verdicts(before: Verdict, after: Verdict) -> list[str]:
    """The differences, one a line: the outcome, reasons that came and went, the main figures.

    Reasons that differ only in their numbers count as equal. A figure is listed with both values if either run has it.
    """
    same = before.outcome is after.outcome
    lines = [f"{after.outcome}, as before" if same else f"{after.outcome}, was {before.outcome}"]
    old, new = _reasons(before), _reasons(after)
    lines += [f"gone: {plain(old[name])}" for name in old if name not in new]
    lines += [f"new: {plain(new[name])}" for name in new if name not in old]
    lines += _figure_lines(_figures(before), _figures(after))
    return lines


def _reasons(verdict: Verdict) -> dict[str, str]:
    """Reasons by their text without its numbers; of several equal reasons, the first."""
    reasons: Sequence[Reason] = [*verdict.reasons, *(reason for _, reason in verdict.also)]
    found: dict[str, str] = {}
    for reason in reasons:
        found.setdefault(re.sub(r"(0x[0-9a-f]+|\d+(\.\d+)?)", "#", reason.text), reason.text)
    return found


def _figures(verdict: Verdict) -> dict[str, Any]:
    rows: Mapping[str, Any] = verdict.figures.get("slab", {})
    maxima = [row["emergency"]["max"] for row in rows.values() if row["emergency"]["max"] is not None]
    found = {**verdict.figures, "emergency_max": max(maxima, default=None)}
    return {name: found[name] for name in _FIGURES if found.get(name) is not None}


def _figure_lines(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name, (what, unit) in _FIGURES.items():
        if name in before or name in after:
            now, was = (f"{it[name]}{unit}" if name in it else "none" for it in (after, before))
            yield f"{what}: {now}" + (", as before" if now == was else f", was {was}")
