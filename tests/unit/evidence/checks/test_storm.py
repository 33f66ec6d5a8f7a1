"""What a storm's checks read beside the probe's own words."""

from __future__ import annotations

import pytest

from splvm.evidence.checks.storm import swapped_out
from splvm.evidence.timeline import Sample


def readings(*texts: str) -> list[Sample[str]]:
    return [Sample(number, number, number, "ssh", text) for number, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("texts", "pages"),
    [
        ((), 0),
        (("pswpin 4\npswpout 10\n", "pswpin 4\npswpout 10\n"), 0),
        (("pgpgout 3\npswpout 10\n", "pswpout 15\n", "pswpout 42\n"), 32),
        # One that was cut off.
        (("pswpout 10\n", "pswpout 12\n", "pswp"), 2),
        # A guest without swap in its kernel.
        (("pgpgout 3\n", "pgpgout 5\n"), 0),
    ],
)
def test_pages_written_to_swap(texts: tuple[str, ...], pages: int) -> None:
    assert swapped_out(readings(*texts)) == pages
