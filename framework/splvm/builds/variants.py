"""Variants of SPL: builds in which one claim is false on purpose, so that a verdict can be seen to fail.

A variant is a row of `VARIANTS` and, unless it is the source as it comes, semantic patches in images/spl/variants. Two
variants may share one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from splvm.assets import find_images
from splvm.errors import UsageError, did_you_mean
from splvm.evidence.expectation import Expectation


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to build SPL."""

    name: str
    # One line for people.
    summary: str
    # The claim it is the control for.
    control_for: str
    # Semantic patches in images/spl/variants, in the order in which they are applied.
    cocci: tuple[str, ...] = ()
    # Whether the worker and SPL's other threads are marked as such in which memory must not be reclaimed by I/O.
    marked: bool = True
    # Which verdict is expected in a scenario, by its name, where the scenario's own row does not say it.
    expects: Mapping[str, Expectation] = field(default_factory=dict)

    def patches(self) -> tuple[Path, ...]:
        """What is applied to the source."""
        return tuple(find_images() / "spl" / "variants" / name for name in self.cocci)

    def to_json(self) -> dict[str, object]:
        """As `splvm variants --json` has it."""
        patches = [str(path) for path in self.patches()]
        return {"name": self.name, "summary": self.summary, "control_for": self.control_for, "patches": patches}


VARIANTS: Mapping[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant(
            name="stock",
            summary="the source as packaged",
            control_for="the product itself",
        ),
        Variant(
            name="no-emergency",
            summary="callers wait for the worker, however long it takes",
            control_for="emergency objects keep callers going",
            cocci=("no-emergency.cocci",),
        ),
        Variant(
            name="unscoped",
            summary="worker and emergency objects as they came in 2012: NOIO in the flags only, no thread is marked",
            control_for="the worker itself can deadlock, where vmalloc does not honour its flags",
            cocci=("noio-flags.cocci", "no-marks.cocci"),
            marked=False,
        ),
        Variant(
            name="sync-grow",
            summary="before 2012: the caller itself calls vmalloc, NOIO in the flags only, no worker, no emergency "
            "objects",
            control_for="the deadlock is there that the worker was made for",
            cocci=("noio-flags.cocci", "no-marks.cocci", "grow-in-caller.cocci"),
            marked=False,
        ),
        Variant(
            name="list-walk",
            summary="emergency objects are in a list, as in 2012, and each one given back is found by walking it",
            control_for="a free does not cost more with thousands of emergency objects held",
            cocci=("list-walk.cocci",),
        ),
    )
}


def find_variant(name: str) -> Variant:
    """:raises UsageError: when there is none of that name; the message lists them."""
    try:
        return VARIANTS[name]
    except KeyError:
        raise UsageError(
            f"there is no variant {name!r}; there are: {', '.join(VARIANTS)}", hint=did_you_mean(name, VARIANTS)
        ) from None
