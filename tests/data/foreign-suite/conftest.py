"""A suite of somebody else's, which has names of its own that splvm's plugin has, or had."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true")
    parser.addoption("--kernel", default="theirs")
    for name in ("variant", "spl", "spl-patch", "cells", "accel"):
        parser.addoption(f"--{name}")
    for name in ("no-template", "require-vm"):
        parser.addoption(f"--{name}", action="store_true")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--run-slow"):
            item.add_marker(pytest.mark.skip(reason="theirs"))


@pytest.fixture(params=["a", "b"])
def cell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def run_cell(cell: str) -> str:
    return f"ran {cell}"


@pytest.fixture
def run_scenario() -> str:
    return "ours"


@pytest.fixture(scope="session")
def guest() -> str:
    return "Lear"
