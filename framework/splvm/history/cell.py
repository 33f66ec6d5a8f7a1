"""What runs are compared within: one scenario on one build of SPL and one kernel, under the same loads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One cell of a matrix, and of the history."""

    scenario: str
    kernel: str
    variant: str
    # As `--load` takes them; empty without.
    loads: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.scenario, self.kernel, self.variant, self.loads)))
