"""What all tests of the project share. The fixtures of the product itself come from framework/plugin.py."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture(scope="session")
def project() -> Path:
    """The top of the checkout."""
    return Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def data(project: Path) -> Path:
    """Recorded slab files, logs and runs."""
    return project / "tests" / "data"
