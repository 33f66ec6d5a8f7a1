"""Variants of SPL: builds in which one claim is false on purpose, so that a verdict can be seen to fail.

A variant is a row of `VARIANTS` and, unless it is the source as it comes, semantic patches in images/spl/variants. Two
variants may share one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from splvm.assets import find_images
from splvm.errors import UsageError


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
        Variant("stock", "the source as packaged", "the product itself"),
        Variant(
            "no-emergency",
            "callers wait for the worker, however long it takes",
            "emergency objects keep callers going",
            ("no-emergency.cocci",),
        ),
        Variant(
            "unscoped",
            "worker and emergency objects as they came in 2012: NOIO in the flags only, no thread is marked",
            "the worker itself can deadlock, where vmalloc does not honour its flags",
            ("noio-flags.cocci", "no-marks.cocci"),
        ),
        Variant(
            "sync-grow",
            "before 2012: the caller itself calls vmalloc, NOIO in the flags only, no worker, no emergency objects",
            "the deadlock is there that the worker was made for",
            ("noio-flags.cocci", "no-marks.cocci", "grow-in-caller.cocci"),
        ),
        Variant(
            "list-walk",
            "emergency objects are in a list, as in 2012, and each one given back is found by walking it",
            "a free does not cost more with thousands of emergency objects held",
            ("list-walk.cocci",),
        ),
    )
}


def find_variant(name: str) -> Variant:
    """:raises UsageError: when there is none of that name; the message lists them."""
    try:
        return VARIANTS[name]
    except KeyError:
        raise UsageError(f"there is no variant {name!r}; there are: {', '.join(VARIANTS)}") from None
