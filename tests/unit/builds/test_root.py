"""A build root is looked through before it is used, and only then; a tree of a few files stands for mmdebstrap's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from splvm.builds import root as root_module
from splvm.builds.root import BuildRoot, build_root
from splvm.deadline import Deadline
from splvm.errors import SetupError
from splvm.host import store as store_module
from splvm.host.manifest import Verify, damage_of
from splvm.host.store import Store

STATUS = Path("var/lib/dpkg/status")


class Made:
    """What stands for mmdebstrap: counts how often it ran."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, tree: Path, *args: object) -> None:
        self.runs += 1
        (tree / STATUS).parent.mkdir(parents=True)
        (tree / STATUS).write_text(f"Package: gcc\nVersion: {self.runs}\n")
        (tree / "bin").mkdir()
        (tree / "bin" / "busybox").write_text("busybox")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    made = Made()
    monkeypatch.setattr(root_module, "_make", made)
    return made


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How artefacts are checked."""
    seen: list[str] = []
    damage = damage_of

    def count(home: Path, verify: Verify) -> str | None:
        seen.append(verify)
        return damage(home, verify)

    monkeypatch.setattr(store_module, "damage_of", count)
    return seen


def find(tmp_path: Path) -> BuildRoot:
    apt: Any = SimpleNamespace(suite=SimpleNamespace(name="sid"))
    return build_root(Store(tmp_path / "store"), apt, "6.1", "linux-headers-6.1", Deadline(60))


def damage(root: BuildRoot) -> Path:
    file = root.artefact.path / "bin" / "busybox"
    file.write_text("damaged")
    return file


def test_a_root_that_is_only_named_is_not_looked_through(tmp_path: Path, made: Made, looks: list[str]) -> None:
    first = find(tmp_path)
    assert first.versions() == {"gcc": "1"}
    looks.clear()
    again = find(tmp_path)
    assert (again.key, again.versions()) == (first.key, {"gcc": "1"})
    assert looks == ["named"]


def test_a_root_is_looked_through_once_before_its_files_are_used(tmp_path: Path, made: Made, looks: list[str]) -> None:
    find(tmp_path)
    root = find(tmp_path)
    looks.clear()
    assert (root.files(Deadline(60)) / "bin" / "busybox").read_text() == "busybox"
    root.files(Deadline(60))
    assert looks == ["quick"]


def _use_files(root: BuildRoot, tmp_path: Path) -> None:
    root.files(Deadline(60))


def _run_a_command(root: BuildRoot, tmp_path: Path) -> None:
    # It cannot be entered, for there is no shell in it; by then it has been looked through.
    with pytest.raises(SetupError):
        root.run(["true"], work=tmp_path, deadline=Deadline(60), what="a command", log=tmp_path / "log")


@pytest.mark.parametrize("use", [_use_files, _run_a_command])
def test_a_damaged_root_is_made_anew_before_it_is_used(
    tmp_path: Path, made: Made, use: Callable[[BuildRoot, Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    file = damage(find(tmp_path))
    root = find(tmp_path)
    assert made.runs == 1
    use(root, tmp_path)
    assert made.runs == 2 and file.read_text() == "busybox"
    assert "is damaged" in caplog.text
    assert root.versions() == {"gcc": "2"}


def test_builds_of_other_owners_have_another_ccache(
    tmp_path: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of Debian's source and of the user's, and each in a user namespace and outside one."""
    root = find(tmp_path)
    places = set()
    for trouble in ("", "not here"):
        monkeypatch.setattr(root_module, "find_trouble", lambda trouble=trouble: trouble)
        places |= {root._open_ccache(), root.apart()._open_ccache()}
    assert len(places) == 4 and all(place is not None and place.is_dir() for place in places)


def test_a_root_that_is_lost_is_made_anew(tmp_path: Path, made: Made) -> None:
    root = find(tmp_path)
    Store(tmp_path / "store").remove(root.artefact.path)
    assert find(tmp_path).versions() == {"gcc": "2"}


def test_versions_are_not_read_from_a_damaged_file(tmp_path: Path, made: Made) -> None:
    assert find(tmp_path).versions() == {"gcc": "1"}
    (find(tmp_path).artefact.path / STATUS).write_text("Package: gcc\nVersion: 9\n")
    assert find(tmp_path).versions() == {"gcc": "2"}
    assert made.runs == 2


def test_versions_are_not_believed_after_a_boot(
    tmp_path: Path, made: Made, looks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find(tmp_path).versions()
    monkeypatch.setattr(root_module, "boot_id", lambda: "another")
    looks.clear()
    assert find(tmp_path).versions() == {"gcc": "1"}
    assert looks == ["named", "quick"]
