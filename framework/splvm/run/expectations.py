"""Which verdict is expected of a scenario on a build.

The module of a scenario has the expected verdict on each variant. A variant that is younger has it in its own row.

A verdict may depend on the kernel, but only on the kernel's measured behaviour (measurement.py).
"""

from __future__ import annotations

from collections.abc import Callable

from splvm.builds.variants import VARIANTS, Variant
from splvm.evidence.expectation import Expectation
from splvm.evidence.verdict import Outcome
from splvm.run.expected import STOCK, Yardstick
from splvm.run.scenarios import Scenario


def find_expectation(scenario: Scenario, variant: Variant) -> Expectation | None:
    """The expected verdict of a scenario on a variant, with the reason; None if neither of the two has it."""
    if isinstance(scenario.expects, Expectation):
        return scenario.expects
    return scenario.expects.get(variant.name) or variant.expects.get(scenario.name)


def yardstick_of(scenario: Scenario, variant: Variant, honours: Callable[[], bool], *, own: bool) -> Yardstick:
    """The verdicts of packaged builds that a verdict is compared with.

    :param honours: whether the kernel's vmalloc allocates page tables with the caller's flags; it is asked only where
        a verdict depends on that.
    :param own: whether the user's source or patches are in the build.
    """

    def on_this_kernel(asked: Variant) -> Outcome | None:
        cell = find_expectation(scenario, asked)
        return cell.on(honours=cell.ignoring is None or honours()) if cell else None

    packaged = on_this_kernel(variant)
    # Only a verdict that is bad may become better.
    stock = on_this_kernel(VARIANTS[STOCK]) if own and packaged is not None and not packaged.is_good else None
    return Yardstick(variant.name, packaged, packaged if variant.name == STOCK else stock, own)


def expected_outcomes(
    scenario: Scenario, variant: Variant, honours: Callable[[], bool], *, own: bool
) -> frozenset[Outcome]:
    """Which verdicts count as expected; parameters as `yardstick_of` takes them."""
    return yardstick_of(scenario, variant, honours, own=own).outcomes


def growth_of(scenario: Scenario, variant: Variant, honours: Callable[[], bool]) -> dict[str, bool | None]:
    """How a growth of this variant allocates, as run.json has it: evidence/checks/marks.py compares what was seen.

    `marked` says whether SPL marks its threads, and `noio` whether page tables are asked for without I/O and
    filesystems: by the mark, on any kernel, or else by the flags. A kernel is asked about flags only where a trap sees
    what became of them, and `noio` is None elsewhere.

    :param honours: as `yardstick_of` takes it.
    """
    cell = find_expectation(scenario, variant)
    asked = cell is not None and cell.ignoring is not None
    return {"marked": variant.marked, "noio": True if variant.marked else honours() if asked else None}
