"""Answers that are kept, and what makes that they are asked for again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from splvm.host.content import input_hash
from splvm.host.memo import Memo, stamps


class Program:
    """Says how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        return f"answer {self.asked}"


@pytest.fixture
def ask() -> Program:
    return Program()


def test_an_answer_is_kept(tmp_path: Path, ask: Program) -> None:
    path = tmp_path / "memo.json"
    assert [Memo(path, "basis").answer("one", ask) for _ in range(3)] == ["answer 1"] * 3
    assert Memo(path, "basis").answer("two", ask) == "answer 2"
    assert Memo(path, "basis").answer("one", ask) == "answer 1"
    assert path.stat().st_mode & 0o777 == 0o600, "the URI of a mirror may contain a password"
    assert list(tmp_path.iterdir()) == [path]


def test_what_rests_on_something_else_is_asked_for_again(tmp_path: Path, ask: Program) -> None:
    path = tmp_path / "memo.json"
    assert Memo(path, "basis").answer("one", ask) == "answer 1"
    assert Memo(path, "another").answer("one", ask) == "answer 2"
    assert Memo(path, "another").answer("one", ask) == "answer 2"


DAMAGES: dict[str, Callable[[str], str]] = {
    "empty": lambda text: "",
    "cut": lambda text: text[:-1],
    "changed": lambda text: text.replace("answer 1", "answer 7"),
    "no checksum": lambda text: json.dumps({**json.loads(text), "sha256": None}),
    "a list": lambda text: f"[{text}]",
    "no answers": lambda text: json.dumps({"basis": "basis"}),
    "not UTF-8": lambda text: text.replace("answer 1", "\udcff"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_memo_is_as_good_as_none(tmp_path: Path, ask: Program, damage: str) -> None:
    path = tmp_path / "memo.json"
    memo = Memo(path, "basis")
    memo.answer("one", ask)
    path.write_text(DAMAGES[damage](path.read_text()), errors="surrogateescape")
    assert memo.answer("one", ask) == "answer 2"
    assert memo.answer("one", ask) == "answer 2"


def test_trouble_is_not_kept(tmp_path: Path, ask: Program) -> None:
    memo = Memo(tmp_path / "memo.json", "basis")

    def fail() -> str:
        raise ValueError

    with pytest.raises(ValueError):
        memo.answer("one", fail)
    assert memo.answer("one", ask) == "answer 1"


def test_where_nothing_can_be_written_it_is_asked_each_time(tmp_path: Path, ask: Program) -> None:
    memo = Memo(tmp_path / "nowhere" / "memo.json", "basis")
    assert [memo.answer("one", ask) for _ in range(2)] == ["answer 1", "answer 2"]


def write_back_the_time(file: Path) -> None:
    times = file.stat()
    file.write_text("changed")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda top: (top / "file").write_text("another"),
    "content, with the time put back": lambda top: write_back_the_time(top / "file"),
    "a file is replaced": lambda top: (top / "new").replace(top / "file"),
    "a file goes": lambda top: (top / "file").unlink(),
    "a file comes": lambda top: (top / "absent").touch(),
    "in a directory": lambda top: (top / "parts" / "one").write_text("another"),
    "a file comes into a directory": lambda top: (top / "parts" / "two").touch(),
    "what a link leads to": lambda top: (top / "target").write_text("another"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(tmp_path: Path, change: str) -> None:
    for name in ("file", "new", "target"):
        (tmp_path / name).write_text("content")
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "one").touch()
    paths = [tmp_path / name for name in ("file", "absent", "parts", "link")]
    before = input_hash({"files": stamps(paths)})
    assert input_hash({"files": stamps(paths)}) == before
    CHANGES[change](tmp_path)
    assert input_hash({"files": stamps(paths)}) != before
