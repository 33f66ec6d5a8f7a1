"""Fixtures of the tests of what is judged: thousands of runs, most of whose readings are alike."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import pytest

from splvm.evidence import sources


@pytest.fixture(scope="package", autouse=True)
def each_text_is_parsed_once() -> Iterator[None]:
    """A parser is a function of its text alone, and what it makes is frozen."""
    with pytest.MonkeyPatch.context() as patch:
        once = {name: lru_cache(4096)(parser) for name, parser in sources.PARSERS.items()}
        patch.setattr(sources, "PARSERS", once)
        yield
