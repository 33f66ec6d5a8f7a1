"""What foreign code has left is looked at before it is read or written: links, and what is no file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from splvm.builds import foreign
from splvm.builds.foreign import plain_file, put_file, take_directory, take_file
from splvm.builds.tree import ALL_PARTS, copy_tree, find_files
from splvm.errors import SetupError


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("secret")
    (tmp_path / "top" / "a").mkdir(parents=True)
    (tmp_path / "top" / "a" / "file").write_text("content")
    return tmp_path / "top"


def to_file(top: Path) -> None:
    (top / "a" / "file").unlink()
    (top / "a" / "file").symlink_to(top.parent / "secret")


def to_directory(top: Path) -> None:
    (top / "a").rename(top / "b")
    (top / "a").symlink_to(top.parent / "outside")


def to_itself(top: Path) -> None:
    (top / "a" / "file").unlink()
    (top / "a" / "file").symlink_to("file")


def fifo(top: Path) -> None:
    (top / "a" / "file").unlink()
    os.mkfifo(top / "a" / "file")


def device(top: Path) -> None:
    (top / "a" / "file").unlink()
    (top / "a" / "file").symlink_to("/dev/zero")


def gone(top: Path) -> None:
    (top / "a" / "file").unlink()


ATTACKS = (to_file, to_directory, to_itself, fifo, device, gone)
Attack = Callable[[Path], None]


@pytest.mark.parametrize("attack", ATTACKS)
def test_only_plain_files_are_taken(top: Path, tmp_path: Path, attack: Attack) -> None:
    take_file(top, "a/file", tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "content"
    attack(top)
    with pytest.raises(SetupError, match="a/file"):
        take_file(top, "a/file", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_file_with_holes_is_not_taken(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "_MOST_BYTES", 1000)
    os.truncate(top / "a" / "file", 1000)
    plain_file(top, "a/file")
    os.truncate(top / "a" / "file", 1001)
    with pytest.raises(SetupError, match="1001 bytes"):
        plain_file(top, "a/file")


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_put_goes_nowhere_else(top: Path, tmp_path: Path, attack: Attack) -> None:
    (tmp_path / "mine").write_text("mine")
    attack(top)
    if attack is to_directory:
        with pytest.raises(SetupError, match="behind a link"):
            put_file(tmp_path / "mine", top, "a/file")
    else:
        put_file(tmp_path / "mine", top, "a/file")
        assert plain_file(top, "a/file").read_text() == "mine"
    for name in ("secret", "outside/file"):
        assert (tmp_path / name).read_text() == "secret"


def test_a_directory_in_the_way_of_what_is_put(top: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot be written"):
        put_file(tmp_path / "secret", top, "a")


@pytest.mark.parametrize("attack", [to_directory, fifo])
def test_a_directory_is_taken_with_its_links(top: Path, tmp_path: Path, attack: Attack) -> None:
    (top / "a" / "link").symlink_to(tmp_path / "secret")
    take_directory(top, "a", tmp_path / "taken")
    assert (tmp_path / "taken" / "link").is_symlink()
    attack(top)
    with pytest.raises(SetupError):
        take_directory(top, "a", tmp_path / "again")


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a is not gone])
def test_a_tree_with_a_link_out_of_itself_is_not_read(top: Path, attack: Attack) -> None:
    """What it leads to would be copied to where the tree's own make can read it."""
    (top / "a").rename(top / "module")
    (top / "module" / "good").symlink_to("file")
    assert set(find_files(top, ALL_PARTS)) == {"module/file", "module/good"}
    (top / "module").rename(top / "a")
    attack(top)
    (top / "a").rename(top / "module")
    with pytest.raises(SetupError, match=r"module(/file)? (leads out|cannot be read|is no plain)"):
        find_files(top, ALL_PARTS)


def test_a_tree_with_a_fifo_is_not_copied(top: Path, tmp_path: Path) -> None:
    fifo(top)
    with pytest.raises(SetupError, match="cannot read"):
        copy_tree(top, tmp_path / "copy")
