"""What all tests of the project share. The fixtures of the product itself come from framework/splvm/plugin.py."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

# A shell starts what it puts in the background with SIGINT ignored, and children inherit that. Tests that end a child
# by SIGINT need it to be as a user's is.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def project() -> Path:
    """The top of the checkout."""
    return Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def data(project: Path) -> Path:
    """Recorded slab files, logs and runs."""
    return project / "tests" / "data"
