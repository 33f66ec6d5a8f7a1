"""What the verdict of a build is measured against, and what it says beside that. Pure.

A build of the user's own is measured against the packaged build of the same variant on the same kernel: a patch that is
right changes no verdict, but one that was bad. So another verdict is not expected, also if it is good: `PROGRESS` where
stock is `IMMUNE` says that the worker is caught again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from splvm.evidence.verdict import Outcome

# What a module that is right may show.
GOOD = frozenset(outcome for outcome in Outcome if outcome.is_good)

STOCK = "stock"

# What it means that one good verdict took the place of another.
_MEANS: Mapping[tuple[Outcome, Outcome], str] = {
    (Outcome.IMMUNE, Outcome.PROGRESS): "the worker is caught",
    (Outcome.PROGRESS, Outcome.IMMUNE): "the worker is not caught any more",
}


@dataclass(frozen=True, slots=True)
class Yardstick:
    """The verdicts of packaged builds that a build is measured against."""

    # Of SPL.
    variant: str
    # Of the packaged build of this variant; None where nobody has said what is expected of it.
    packaged: Outcome | None
    # Of the packaged stock build; None likewise.
    stock: Outcome | None
    # Whether the user's source or patches are in the build.
    is_own: bool

    @property
    def outcomes(self) -> frozenset[Outcome]:
        """The verdicts that count as expected."""
        if self.packaged is None:
            return GOOD
        return frozenset({self.packaged}) | (GOOD if self._may_be_better else frozenset())

    @property
    def _may_be_better(self) -> bool:
        return self.is_own and self.packaged not in GOOD and self.stock is not None and self.stock not in GOOD

    def remark(self, outcome: Outcome) -> str:
        """What a verdict of a build of the user's own says beside the packaged one; empty if that is nothing."""
        if not self.is_own or self.packaged is None or outcome is self.packaged:
            return ""
        if outcome in self.outcomes:
            return f"better: {self.stock} in {STOCK}"
        beside = f"{self.packaged} in {self.variant}, {outcome} here"
        if self.packaged not in GOOD and outcome in GOOD:
            return f"{beside}: this control shows nothing"
        means = _MEANS.get((self.packaged, outcome))
        return f"{beside}: {means}" if means else beside

    def to_json(self) -> dict[str, Any]:
        """As run.json has it, of a build of the user's own."""
        return {"variant": self.variant, "verdict": self.packaged, "stock": self.stock}


def remark_on(facts: Mapping[str, Any], outcome: Outcome) -> str:
    """What a verdict says beside that of the packaged build, by what a run's record says of that.

    :param facts: run.json, which may be damaged.
    """
    told = facts.get("packaged")
    if not isinstance(told, Mapping):
        return ""
    try:
        packaged, stock = (Outcome(told[name]) if told[name] else None for name in ("verdict", "stock"))
    except (LookupError, ValueError):
        return ""
    return Yardstick(str(told.get("variant")), packaged, stock, True).remark(outcome)
