"""A fixture of theirs in place of testinfra's."""

from __future__ import annotations

import pytest


@pytest.fixture
def host() -> str:
    return "inn"


def test_own_host(host: str) -> None:
    assert host == "inn"
