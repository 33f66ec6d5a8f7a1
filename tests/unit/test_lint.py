"""Linters, run on the tree as tests, as pyproject.toml configures them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from places import PROJECT

ROOT = PROJECT

# Scripts that must be there; any other is found by its first line.
SCRIPTS = ("images/guest/init", "images/build/enter.sh")


def complaints(*argv: str) -> str:
    """What a linter has to say; nothing if it is content."""
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=300, check=False)
    return f"{done.stdout}{done.stderr}" or f"status {done.returncode}" if done.returncode else ""


def shell_scripts() -> Iterator[Path]:
    places = (ROOT.glob("*"), (ROOT / "images").rglob("*"), (ROOT / ".ci").rglob("*"))
    for path in sorted(path for place in places for path in place if path.is_file()):
        with path.open("rb") as file:
            if file.readline(80).rstrip() in (b"#!/bin/sh", b"#!/bin/sh -e", b"#!/bin/sh -eu"):
                yield path


def test_ruff_check() -> None:
    assert complaints(sys.executable, "-m", "ruff", "check", ".") == ""


def test_ruff_format() -> None:
    assert complaints(sys.executable, "-m", "ruff", "format", "--check", ".") == ""


def test_mypy() -> None:
    assert complaints(sys.executable, "-m", "mypy") == ""


@pytest.mark.parametrize("path", [*shell_scripts()], ids=lambda path: str(path.relative_to(ROOT)))
def test_shell_scripts_are_shell(path: Path) -> None:
    assert complaints("sh", "-n", str(path)) == ""


def test_shell_scripts_are_found() -> None:
    assert set(SCRIPTS) <= {str(path.relative_to(ROOT)) for path in shell_scripts()}


def test_linters_can_complain(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import os\ndef f(x): return x+1\n")
    settings = f"--config={ROOT / 'pyproject.toml'}"
    assert "F401" in complaints(sys.executable, "-m", "ruff", "check", "--no-cache", settings, str(bad))
    assert "bad.py" in complaints(sys.executable, "-m", "ruff", "format", "--no-cache", "--check", settings, str(bad))
    script = tmp_path / "bad.sh"
    script.write_text("if true; then\n")
    assert "bad.sh" in complaints("sh", "-n", str(script))
