"""The pictures of the documents: they are what they claim, and need no network."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from places import PROJECT
from unpacking import unpack

DOCS = PROJECT / "docs"


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.svg")), ids=lambda path: path.name)
def test_a_picture_asks_nothing_of_a_network_and_runs_nothing(path: Path) -> None:
    text = path.read_text()
    assert ElementTree.fromstring(text).find("{http://www.w3.org/2000/svg}title") is not None
    assert set(re.findall(r"\w+://[^\"\s]*", text)) == {"http://www.w3.org/2000/svg"}
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert not re.search(r"<script|<image|<foreignObject|@import|@font-face|\son\w+=", text)
    assert "prefers-color-scheme: dark" in text


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[str]], str]:
    """What docs/result.py writes, by its arguments."""
    monkeypatch.syspath_prepend(str(DOCS))
    from result import main

    return main


def test_the_result_is_what_a_run_prints_today(main: Callable[[Sequence[str]], str]) -> None:
    assert (DOCS / "result.svg").read_text() == main([]), "make it anew: docs/result.py"


def test_any_run_can_be_a_picture(main: Callable[[Sequence[str]], str], data: Path, tmp_path: Path) -> None:
    with tarfile.open(data / "runs" / "healthy.tar.xz") as archive:
        unpack(archive, tmp_path)
    words = re.sub(r"<[^>]*>", "", main([str(tmp_path / "healthy")])).replace("&#160;", " ")
    assert "HEALTHY" in words and "nominal on debian-12" in words and "PROGRESS" not in words
