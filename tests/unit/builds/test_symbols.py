"""The kernel's debug symbols, from packages made here."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from splvm.builds import symbols
from splvm.builds.kernels import KERNELS, Kernel
from splvm.builds.symbols import fetch_symbols, kept_symbols
from splvm.deadline import Deadline
from splvm.errors import BuildError, SetupError
from splvm.host.archive import PackageGoneError, PackageVersion
from splvm.host.mirror import SUITES
from splvm.host.process import run
from splvm.host.store import Artefact, Store

RELEASE = "6.1.0-99-cloud-amd64"
VERSION = "6.1.200-1"
PACKAGE = f"linux-image-{RELEASE}-dbg"
CONTENT = b"\x7fELF with debug symbols" * 1000


class FakeRoot:
    """A build root whose objcopy only leaves a mark."""

    def run(self, argv: Sequence[str], *, work: Path, **options: Any) -> None:
        assert argv[0] == "objcopy"
        with (work / argv[-1]).open("ab") as file:
            file.write(b"shrunk")


class FakeApt:
    """An archive with one version of the package."""

    suite = SUITES["bookworm"]

    def __init__(self, deb: Path, version: str = VERSION) -> None:
        self.deb = deb
        self.downloads = 0
        size = deb.stat().st_size
        names: dict[str, Any] = {
            "package": PACKAGE,
            "version": version,
            "architecture": "amd64",
            "sha256": "",
            "source": "linux",
        }
        self.candidate = PackageVersion(**names, size=size, source_version=version, depends="", filename=deb.name)

    def candidates(self, package: str) -> list[PackageVersion]:
        return [self.candidate] if package == PACKAGE else []

    def download(self, package: str, version: str, deadline: Deadline) -> Path:
        self.downloads += 1
        return Path(shutil.copy2(self.deb, self.deb.with_name(f"fetched-{self.deb.name}")))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    root: Any = FakeRoot()
    image = Artefact(tmp_path, "kernel", "0" * 32)
    names: dict[str, Any] = {
        "package": f"linux-image-{RELEASE}",
        "version": VERSION,
        "architecture": "amd64",
        "sha256": "",
    }
    package = PackageVersion(**names, size=0, source="linux", source_version=VERSION, depends="", filename="")
    return Kernel(KERNELS["debian-12"], RELEASE, (package,), (), image, root)


def make_deb(directory: Path, member: str = f"usr/lib/debug/boot/vmlinux-{RELEASE}") -> Path:
    tree = directory / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        f"Package: {PACKAGE}\nVersion: {VERSION}\nArchitecture: amd64\nMaintainer: nobody\nDescription: symbols\n"
    )
    (tree / member).parent.mkdir(parents=True)
    (tree / member).write_bytes(CONTENT)
    # tar stops after the one file, and dpkg-deb must not mind.
    (tree / "usr" / "rest").write_bytes(bytes(5 << 20))
    deb = directory / "symbols.deb"
    run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-b", tree, deb], deadline=Deadline(60), what="a package")
    return deb


def test_fetched_once(store: Store, kernel: Kernel, tmp_path: Path) -> None:
    apt: Any = FakeApt(make_deb(tmp_path))
    assert kept_symbols(store, kernel.release, kernel.version) is None
    vmlinux = fetch_symbols(store, apt, kernel, Deadline(60))
    assert vmlinux.read_bytes() == CONTENT + b"shrunk"
    assert [path.name for path in vmlinux.parent.iterdir()] == ["vmlinux"]
    assert fetch_symbols(store, apt, kernel, Deadline(60)) == vmlinux
    assert kept_symbols(store, kernel.release, kernel.version) == vmlinux
    assert apt.downloads == 1
    # The package is not wanted any more.
    assert not list(tmp_path.glob("fetched-*"))


def test_symbols_of_another_version(store: Store, kernel: Kernel, tmp_path: Path) -> None:
    apt: Any = FakeApt(make_deb(tmp_path), version="6.1.201-1")
    with pytest.raises(PackageGoneError, match=r"no linux-image-.*-dbg 6\.1\.200-1; its lists have 6\.1\.201-1"):
        fetch_symbols(store, apt, kernel, Deadline(60))


def test_no_room(store: Store, kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is said before anything is fetched."""
    apt: Any = FakeApt(make_deb(tmp_path))
    monkeypatch.setattr(symbols, "_ROOM", 1e12)
    with pytest.raises(SetupError, match=r"unpacking it takes \d+ MiB"):
        fetch_symbols(store, apt, kernel, Deadline(60))
    assert apt.downloads == 0


def test_package_without_vmlinux(store: Store, kernel: Kernel, tmp_path: Path) -> None:
    apt: Any = FakeApt(make_deb(tmp_path, "usr/lib/debug/boot/System.map"))
    with pytest.raises(BuildError, match="vmlinux"):
        fetch_symbols(store, apt, kernel, Deadline(60))
    assert kept_symbols(store, kernel.release, kernel.version) is None
    assert not list(tmp_path.glob("fetched-*"))
