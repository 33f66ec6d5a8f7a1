"""Tests of theirs: each outcome once, marked by names that splvm's plugin had, and with logs."""

from __future__ import annotations

import logging
import sys
import warnings

import pytest

LOGGER = logging.getLogger("theirs")
# Below the logger of splvm, so that a level of that would be this one's.
SPLVM = logging.getLogger("splvm.theirs")


def say(text: str) -> None:
    for logger in (LOGGER, SPLVM):
        logger.debug("%s debug", text)
        logger.info("%s info", text)
        logger.warning("%s warning", text)


@pytest.fixture
def broken() -> None:
    say("setup")
    raise OSError("theirs")


@pytest.mark.slow
def test_slow() -> None:
    say("slow")


@pytest.mark.vm
@pytest.mark.kernels("none")
@pytest.mark.memory(1 << 60)
@pytest.mark.cell("x")
def test_markers(pytestconfig: pytest.Config) -> None:
    say(pytestconfig.getoption("--kernel"))
    sys.stdout.write("written\n")


def test_cell(cell: str, run_cell: str) -> None:
    assert run_cell == f"ran {cell}"


def test_guest(guest: str, run_scenario: str) -> None:
    assert (guest, run_scenario) == ("Lear", "ours")


def test_caplog(caplog: pytest.LogCaptureFixture) -> None:
    say("first")
    with caplog.at_level(logging.DEBUG):
        say("second")
    with caplog.at_level(logging.ERROR, logger="splvm.theirs"):
        say("third")
    LOGGER.info("%s", caplog.record_tuples)


def test_handlers() -> None:
    for logger in (logging.getLogger(), logging.getLogger("splvm"), LOGGER):
        LOGGER.info("%s %s %s", logger.name, logger.level, [type(each).__name__ for each in logger.handlers])


def test_fails() -> None:
    say("failing")
    raise AssertionError("theirs")


def test_error(broken: None) -> None:
    pass


@pytest.mark.xfail(reason="theirs")
def test_xfail() -> None:
    raise AssertionError("expected")


@pytest.mark.xfail(reason="theirs")
def test_xpass() -> None:
    pass


def test_warns() -> None:
    warnings.warn("an error here", stacklevel=1)
