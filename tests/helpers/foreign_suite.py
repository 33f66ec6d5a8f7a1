"""A suite of somebody else's (tests/data/foreign-suite), run in a process of its own, and what came of each test."""

from __future__ import annotations

import re
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

# Ways to run it: by its own options, and without any.
ASKED = ((), ("--run-slow", "--kernel", "6.1", "--require-vm", "--log-level=DEBUG"))


@dataclass(frozen=True, slots=True)
class Case:
    """What JUnit's XML says of a test, without times."""

    outcome: str
    # Message, traceback, and what was captured of logs, stdout and stderr.
    texts: tuple[str, ...]


def run_suite(python: str | Path, directory: Path, *argv: str) -> str:
    """Run it by an interpreter, and give its output.

    :raises AssertionError: when pytest itself does not run.
    """
    command = [python, "-m", "pytest", "--junit-xml=junit.xml", *argv]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=300)
    # Some of its tests fail.
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def outcomes(directory: Path) -> dict[str, Case]:
    """The tests of the last run by their id."""
    found: dict[str, Case] = {}
    for case in ET.parse(directory / "junit.xml").iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        ends = [each for each in case if not each.tag.startswith("system-")]
        texts = [text for each in case for text in (each.get("message") or "", each.text or "")]
        assert name not in found
        # Addresses of objects are others each time.
        found[name] = Case(
            " ".join(each.tag for each in ends) or "passed", tuple(re.sub(r"0x[0-9a-f]+", "0x", text) for text in texts)
        )
    return found
