"""How people see verdicts: one row for each verdict, with its colour, its symbol and its meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from splvm.evidence.verdict import Outcome


@dataclass(frozen=True, slots=True)
class Look:
    """How people see one verdict."""

    # A colour of a terminal.
    colour: str
    # One character, different for each verdict, so that verdicts are distinguished without their colour.
    symbol: str
    # What it says of SPL, in one sentence or two, in the text of an issue.
    meaning: str


LOOKS: Mapping[Outcome, Look] = {
    Outcome.CRASHED: Look("red", "✖", "The guest's kernel reported a fault after which it cannot be trusted."),
    Outcome.LOST: Look(
        "red", "∅", "The guest, or QEMU itself, was gone or silent on every channel, and no crash is in its log."
    ),
    Outcome.STALLED: Look("red", "■", "At least one thread that asked an SPL cache for an object got none any more."),
    Outcome.NO_RECOVERY: Look("red", "↯", "After the obstacle was gone, SPL did not return to its normal state."),
    Outcome.MISCOUNTED: Look(
        "red",
        "≠",
        "SPL's counts contradict each other or its callers' counts, or an object was damaged or refused.",
    ),
    Outcome.SLOW: Look(
        "red",
        "◔",
        "There was progress, but objects came later than the bound allows, or from the wrong place.",
    ),
    Outcome.SUSPECT: Look(
        "red",
        "✱",
        "Nothing stood still, but the kernel warned of SPL, or SPL did what it promises not to do.",
    ),
    Outcome.NOT_TRIGGERED: Look(
        "yellow", "○", "The run did not bring about its condition, so it says nothing about SPL."
    ),
    Outcome.INCONCLUSIVE: Look("yellow", "?", "The evidence has gaps, so the run says nothing about SPL."),
    Outcome.PROGRESS: Look(
        "green",
        "▲",
        "SPL kept its promises while its worker was stuck, and afterwards. There is nothing to report.",
    ),
    Outcome.HEALTHY: Look("green", "✔", "SPL kept its promises. There is nothing to report."),
    Outcome.IMMUNE: Look(
        "green",
        "◆",
        "The condition for a deadlock was there, and it did not catch the worker. There is nothing to report.",
    ),
}
