"""The verdicts that a build is compared with, and the remark on a difference. Pure.

A build of the user's own is compared with the packaged build of its variant on its kernel. A right patch changes no
good verdict. So any other verdict is unexpected, also a good verdict: `PROGRESS` where stock is `IMMUNE` says that the
worker is caught again. Only where packaged stock ends badly too, every good verdict is expected.
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
    """The verdicts of packaged builds that a build is compared with."""

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
        """How a verdict of the user's build differs from the packaged build, in words; empty if it does not."""
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
    """How a verdict differs from that of the packaged build, in words; the record of the run names the latter.

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
