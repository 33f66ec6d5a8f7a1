"""Kernels built from source: names, the choice of a source, and what of a built tree is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from splvm.builds import source
from splvm.builds.source import BUILT, Progress, build_kernel, find_built_kernel, find_source_packages
from splvm.deadline import Deadline
from splvm.errors import BuildError, SetupError, UsageError
from splvm.host.archive import Dependency, PackageGoneError, PackageVersion
from splvm.host.store import Store


@pytest.mark.parametrize("name", ["debian-12", "", "built", "path:a,b"])
def test_names_of_another_form(name: str) -> None:
    assert find_built_kernel(name) is None


@pytest.mark.parametrize("name", ["built:", "built:plain,", "built:,sid", "built:plain,sid,x"])
def test_form(name: str) -> None:
    with pytest.raises(UsageError, match=r"built:NAME\[,SUITE\]"):
        find_built_kernel(name)


def test_names_that_do_not_exist() -> None:
    with pytest.raises(UsageError, match=f"potato.*{', '.join(BUILT)}"):
        find_built_kernel("built:potato")
    with pytest.raises(UsageError, match="no suite 'potato'"):
        find_built_kernel("built:plain,potato")


def test_found() -> None:
    found = find_built_kernel("built:lockdep")
    assert found is not None
    assert (found.spec.id, found.spec.suite, found.row.name) == ("built:lockdep", "bookworm", "lockdep")
    assert found == find_built_kernel("built:lockdep,bookworm")
    old = find_built_kernel("built:lockdep,bullseye")
    assert old is not None and (old.spec.id, old.spec.suite) == ("built:lockdep,bullseye", "bullseye")


def candidate(package: str, version: str) -> PackageVersion:
    return PackageVersion(package, version, "all", 1, "0" * 64, "linux", version, "", "x")


class FakeApt:
    """Two versions of the metapackage; what is gone cannot be downloaded."""

    def __init__(self, gone: set[str]) -> None:
        self.gone = gone
        self.suite = type("Suite", (), {"name": "bookworm"})()

    def candidates(self, package: str) -> list[PackageVersion]:
        return [candidate(package, version) for version in ("2", "1")]

    def depends(self, package: str, version: str) -> list[Dependency]:
        return [Dependency("linux-source-6.1", "=", version), Dependency("xz-utils", "", "")]

    def download(self, package: str, version: str, deadline: Deadline) -> Path:
        if version in self.gone:
            raise PackageGoneError(f"download of {package} {version}: gone")
        return Path(f"/{package}_{version}.deb")


def test_newest_source_first() -> None:
    apt: Any = FakeApt(set())
    found = [(it.package, it.version) for it in find_source_packages(apt)]
    assert found == [("linux-source-6.1", "2"), ("linux-source-6.1", "1")]


def test_source_that_is_gone_is_passed_over_and_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    notes: list[str] = []
    tried: list[str] = []
    built = find_built_kernel("built:plain")
    assert built is not None
    monkeypatch.setattr(source, "note", notes.append)

    def stop(store: Store, apt: Any, built: Any, chosen: PackageVersion, *rest: Any) -> None:
        tried.append(chosen.version)
        raise BuildError("make", "no", None)

    monkeypatch.setattr(source, "_build", stop)
    apt: Any = FakeApt({"2"})
    with pytest.raises(BuildError):
        build_kernel(Store(tmp_path), apt, built, Deadline(10))
    assert tried == ["1"] and "6.1 2: gone" in notes[0]
    with pytest.raises(SetupError, match=r"no linux-source of bookworm can be had[^!]*6.1 2: gone[^!]*6.1 1: gone"):
        build_kernel(Store(tmp_path), FakeApt({"1", "2"}), built, Deadline(10))  # type: ignore[arg-type]


def test_what_is_kept_of_a_built_tree(tmp_path: Path) -> None:
    src, tree = tmp_path / "src", tmp_path / "tree"
    tree.mkdir()
    files = (
        *("arch/x86/boot/bzImage", ".config", "System.map", "Makefile", "Module.symvers", "arch/x86/Makefile"),
        *("include/config/auto.conf", "include/linux/mm.h", "arch/x86/include/asm/page.h", "scripts/mod/modpost"),
        *("scripts/mod/modpost.o", "vmlinux", "mm/mmap.o", "mm/mmap.c"),
    )
    for name in files:
        (src / name).parent.mkdir(parents=True, exist_ok=True)
        (src / name).write_text(name)
    source._keep(src, tree)
    kept = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
    assert (tree / "vmlinuz").read_text() == "arch/x86/boot/bzImage"
    wanted = {f"headers/{name}" for name in files[3:10]} | {"headers/.config"}
    assert kept == {"vmlinuz", "config", "System.map"} | wanted


def test_progress_is_said_at_each_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr(source, "note", notes.append)
    progress = Progress(100)
    for _ in range(150):
        progress.watch(b"  CC      mm/mm")
        progress.watch(b"ap.o\n")
    assert len(notes) == 9
    assert notes[0] == "compiling: 10 %, 10 of about 100 steps" and "90 %" in notes[-1]
