"""What verdict is expected, and why: one cell of the table of scenarios and variants of SPL."""

from __future__ import annotations

from dataclasses import dataclass

from splvm.evidence.verdict import Outcome


@dataclass(frozen=True, slots=True)
class Expectation:
    """One cell.

    A verdict may depend on the kernel, but only through what the kernel does, and that is measured
    (evidence/kerneltraits.py).
    """

    outcome: Outcome
    # One sentence.
    why: str
    # What is expected instead where vmalloc ignores GFP_NOIO for page tables; None: the same.
    ignoring: Outcome | None = None

    def on(self, *, honours: bool) -> Outcome:
        """The verdict that is expected on a kernel.

        :param honours: whether its vmalloc allocates page tables with the caller's flags.
        """
        return self.outcome if self.ignoring is None or honours else self.ignoring

    def to_json(self) -> dict[str, object]:
        """As `splvm variants --json` has it."""
        return {"outcome": self.outcome, "where_noio_is_ignored": self.ignoring or self.outcome, "why": self.why}
