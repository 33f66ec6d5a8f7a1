"""Variants of SPL: builds in which one claim is false on purpose, so that a verdict can be seen to fail.

A variant is a row of `VARIANTS` and, unless it is the source as it comes, a semantic patch in images/spl/variants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from framework.assets import find_images
from framework.errors import UsageError


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to build SPL."""

    name: str
    # One line for people.
    summary: str
    # The claim it is the control for.
    control_for: str
    # Semantic patch below images/spl/variants; None for the source as it comes.
    cocci: str | None

    def patches(self) -> tuple[Path, ...]:
        """What is applied to the source."""
        return (find_images() / "spl" / "variants" / self.cocci,) if self.cocci else ()


VARIANTS: Mapping[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("stock", "the source as packaged", "the product itself", None),
        Variant(
            "no-emergency",
            "callers wait for the worker, however long it takes",
            "emergency objects keep callers going",
            "no-emergency.cocci",
        ),
    )
}


def find_variant(name: str) -> Variant:
    """:raises UsageError: when there is none of that name; the message lists them."""
    try:
        return VARIANTS[name]
    except KeyError:
        raise UsageError(f"there is no variant {name!r}; there are: {', '.join(VARIANTS)}") from None
