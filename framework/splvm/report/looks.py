"""How verdicts are told to people: one row for each, with its colour, its symbol and what it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from splvm.evidence.verdict import Outcome


@dataclass(frozen=True, slots=True)
class Look:
    """How one verdict is told."""

    # A colour of a terminal.
    colour: str
    # One character, another one for each verdict, so that they are told apart without their colour.
    symbol: str
    # What it says of SPL, in one sentence or two, in the text of an issue.
    meaning: str


LOOKS: Mapping[Outcome, Look] = {
    Outcome.CRASHED: Look("red", "✖", "The guest's kernel reported a fault after which it cannot be trusted."),
    Outcome.LOST: Look(
        "red", "∅", "The guest, or QEMU itself, was gone or silent on every channel, and no crash is in its log."
    ),
    Outcome.STALLED: Look("red", "■", "At least one thread that asked an SPL cache for an object got none any more."),
    Outcome.NO_RECOVERY: Look(
        "red", "↯", "When nothing stood in its way any more, SPL did not return to its normal state."
    ),
    Outcome.MISCOUNTED: Look(
        "red",
        "≠",
        "SPL's counts contradict each other or those of its callers, or an object was not as promised.",
    ),
    Outcome.SLOW: Look(
        "red", "◔", "There was progress, but objects came later than they may, or not from where they have to."
    ),
    Outcome.NOT_TRIGGERED: Look(
        "yellow", "○", "The run did not bring about what it is about, so it says nothing of SPL."
    ),
    Outcome.INCONCLUSIVE: Look("yellow", "?", "The evidence has gaps, so it says nothing of SPL."),
    Outcome.PROGRESS: Look(
        "green",
        "▲",
        "SPL did what it promises with its worker stuck, and afterwards. There is nothing to report.",
    ),
    Outcome.HEALTHY: Look("green", "✔", "SPL did what it promises. There is nothing to report."),
    Outcome.IMMUNE: Look(
        "green",
        "◆",
        "What would make the worker deadlock was there and could not touch it. There is nothing to report.",
    ),
}
