"""From the archive's lists to a kernel: which packages, which of them can be had, what is in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from splvm.builds.kernels import (
    KERNELS,
    Kernel,
    fetch_kernel,
    find_image_packages,
    find_kernel,
    find_parts,
    list_releases,
    unpack_kernel,
)
from splvm.builds.owntree import OwnTree, read_tree_name
from splvm.builds.resolved import known_kernels, remember_kernel, remember_traits
from splvm.builds.root import parse_tools
from splvm.builds.source import BUILT
from splvm.builds.spl import SplSource
from splvm.deadline import Deadline
from splvm.errors import SetupError, UsageError
from splvm.host.archive import Dependency, PackageGoneError, PackageVersion, parse_depends
from splvm.host.mirror import SUITES
from splvm.host.process import run
from splvm.host.store import Artefact, Store

OLD, NEW = "5.10.0-45-cloud-amd64", "5.10.0-46-cloud-amd64"
SPLIT = "7.2.13+deb14-cloud-amd64"


def candidate(package: str, version: str, depends: str = "") -> PackageVersion:
    digest = hashlib.sha256(f"{package} {version}".encode()).hexdigest()
    names = {"package": package, "version": version, "architecture": "amd64", "sha256": digest, "source": "linux"}
    return PackageVersion(**names, size=1, source_version=version, depends=depends, filename=f"{package}.deb")  # type: ignore[arg-type]


class FakeApt:
    """An archive whose lists name more than it has."""

    suite = SUITES["bullseye"]

    def __init__(self, *listed: PackageVersion, gone: Sequence[str] = ()) -> None:
        self.listed = listed
        self.gone = gone
        self.fetched: list[str] = []

    def candidates(self, package: str) -> list[PackageVersion]:
        return [listed for listed in self.listed if listed.package == package]

    def names(self, prefix: str) -> list[str]:
        return sorted({listed.package for listed in self.listed if listed.package.startswith(prefix)})

    def candidate(self, package: str, version: str | None = None) -> PackageVersion:
        for found in self.candidates(package):
            if version in (None, found.version):
                return found
        raise PackageGoneError(f"bullseye has no {package}")

    def depends(self, package: str, version: str | None = None) -> list[Dependency]:
        return parse_depends(self.candidate(package, version).depends)

    def download(self, package: str, version: str, deadline: Deadline) -> Path:
        self.fetched.append(package)
        if package in self.gone:
            raise PackageGoneError(f"download of {package} {version}: the mirror does not have the file\nE: 404")
        return Path(package)


def bullseye(**options: Any) -> Any:
    """Two uploads, both still in the lists, as a security archive has them."""
    return FakeApt(
        candidate("linux-image-cloud-amd64", "5.10.262-1", f"linux-image-{NEW} (= 5.10.262-1)"),
        candidate("linux-image-cloud-amd64", "5.10.260-1", f"linux-image-{OLD} (= 5.10.260-1)"),
        candidate(f"linux-image-{NEW}", "5.10.262-1", "kmod, linux-base (>= 4.3~), initramfs-tools (>= 0.120)"),
        candidate(f"linux-image-{OLD}", "5.10.260-1", "kmod, linux-base (>= 4.3~), initramfs-tools (>= 0.120)"),
        candidate(f"linux-headers-{NEW}", "5.10.262-1", "linux-headers-5.10.0-46-common (= 5.10.262-1), gcc-10"),
        candidate("linux-headers-5.10.0-46-common", "5.10.262-1"),
        **options,
    )


def sid(*, without: str = "") -> Any:
    """A kernel in four packages."""
    parts = [f"linux-{part}-{SPLIT}" for part in ("base", "binary", "modules")]
    depends = f"dracut | initramfs-tools, {', '.join(f'{part} (= 7.2.13-1)' for part in parts)}"
    image = candidate(f"linux-image-{SPLIT}", "7.2.13-1", depends)
    # Another version is of no use beside this image.
    return FakeApt(image, *(candidate(part, "7.2.13-1" if part != without else "7.2.14-1") for part in parts))


def test_images_come_newest_first_and_once() -> None:
    apt = bullseye()
    found = list(find_image_packages(apt, KERNELS["debian-11"]))
    assert [image.package for image in found] == [f"linux-image-{NEW}", f"linux-image-{OLD}"]


def test_one_release_and_no_other() -> None:
    apt = bullseye()
    spec = find_kernel(f"debian-11@{OLD}")
    assert (spec.id, spec.suite) == (f"debian-11@{OLD}", "bullseye")
    assert [image.package for image in find_image_packages(apt, spec)] == [f"linux-image-{OLD}"]
    assert list(find_image_packages(apt, find_kernel("debian-11@5.10.0-1-cloud-amd64"))) == []
    for name in ("debian-11@", "debian-11@-x", "none@5.10.0-1", "debian-11@5.10; true", "debian-11@5@6"):
        with pytest.raises(UsageError, match="there is no kernel"):
            find_kernel(name)


def test_releases_are_those_with_headers() -> None:
    assert list_releases(bullseye(), KERNELS["debian-11"]) == [(NEW, "5.10.262-1")]


def test_parts_of_an_image() -> None:
    apt = sid()
    image = apt.candidate(f"linux-image-{SPLIT}")
    assert [part.package.removesuffix(f"-{SPLIT}") for part in find_parts(apt, image, SPLIT)] == [
        "linux-image",
        "linux-base",
        "linux-binary",
        "linux-modules",
    ]
    whole = bullseye()
    image = whole.candidate(f"linux-image-{NEW}")
    assert list(find_parts(whole, image, NEW)) == [image]


def test_part_in_another_version() -> None:
    apt = sid(without=f"linux-modules-{SPLIT}")
    with pytest.raises(PackageGoneError):
        list(find_parts(apt, apt.candidate(f"linux-image-{SPLIT}"), SPLIT))


@pytest.mark.parametrize(
    ("gone", "reason"),
    [
        (f"linux-image-{NEW}", f"download of linux-image-{NEW} 5.10.262-1: the mirror does not have the file"),
        (f"linux-headers-{NEW}", f"download of linux-headers-{NEW} 5.10.262-1: the mirror does not have the file"),
        ("linux-headers-5.10.0-46-common", "download of linux-headers-5.10.0-46-common 5.10.262-1"),
    ],
)
def test_nothing_can_be_had(tmp_path: Path, gone: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is missing of the newest one, the next is tried; when that is no good either, all reasons are given."""
    caplog.set_level("INFO", "splvm")
    apt = bullseye(gone=[gone])
    with pytest.raises(SetupError) as caught:
        fetch_kernel(Store(tmp_path), apt, KERNELS["debian-11"], Deadline(10))
    message = caught.value.message
    assert message.startswith("debian-11: no kernel of bullseye can be had from the mirror\n")
    assert reason in message
    assert f"linux-image-{OLD} 5.10.260-1: its headers are gone from the archive" in message
    assert "404" not in message
    assert gone in apt.fetched
    assert "trying an older kernel" in caplog.text
    assert "SPLVM_MIRROR" in str(caught.value.hint)


# Packages made here.


class FakeRoot:
    """A build root without a depmod."""

    artefact = Artefact(Path("/nowhere"), "build-root", "0" * 32)
    key = artefact.key

    def __init__(self, release: str) -> None:
        self.release = release

    def run(self, argv: Sequence[str], *, work: Path, **options: Any) -> None:
        assert argv == ["depmod", "-b", "/build", self.release]
        (work / "lib" / "modules" / self.release / "modules.dep").write_text("")


def make_deb(directory: Path, name: str, *members: str) -> Path:
    tree = directory / name
    (tree / "DEBIAN").mkdir(parents=True)
    control = f"Package: {name}\nVersion: 1\nArchitecture: amd64\nMaintainer: nobody\nDescription: x\n"
    (tree / "DEBIAN" / "control").write_text(control)
    for member in members:
        (tree / member).parent.mkdir(parents=True, exist_ok=True)
        (tree / member).write_text(member)
    deb = directory / f"{name}.deb"
    run(["dpkg-deb", "-Znone", "--build", tree, deb], deadline=Deadline(60), what="a package")
    return deb


def whole(directory: Path, release: str) -> list[Path]:
    ko = f"lib/modules/{release}/kernel/virtio.ko"
    return [make_deb(directory, "image", f"boot/vmlinuz-{release}", f"boot/config-{release}", ko)]


def split(directory: Path, release: str) -> list[Path]:
    modules = f"usr/lib/modules/{release}"
    return [
        make_deb(directory, "image", "usr/share/doc/image"),
        make_deb(directory, "base", f"{modules}/config", f"{modules}/modules.builtin"),
        make_deb(directory, "binary", f"{modules}/vmlinuz"),
        make_deb(directory, "modules", f"{modules}/kernel/virtio.ko"),
    ]


@pytest.mark.parametrize("make", [whole, split])
def test_a_kernel_looks_the_same_however_it_was_packed(tmp_path: Path, make: Callable[[Path, str], list[Path]]) -> None:
    root: Any = FakeRoot(SPLIT)
    tree = unpack_kernel(Store(tmp_path / "store"), root, make(tmp_path, SPLIT), Deadline(60)).path
    assert "vmlinuz" in (tree / "vmlinuz").read_text()
    assert "config" in (tree / "config").read_text()
    assert (tree / "lib" / "modules" / SPLIT / "kernel" / "virtio.ko").is_file()
    assert (tree / "lib" / "modules" / SPLIT / "modules.dep").is_file()


@pytest.mark.parametrize("lacking", [0, 1, 2, 3])
def test_packages_without_what_is_looked_for(tmp_path: Path, lacking: int) -> None:
    root: Any = FakeRoot(SPLIT)
    debs = split(tmp_path, SPLIT)
    del debs[lacking]
    store = Store(tmp_path / "store")
    if lacking == 0:
        assert unpack_kernel(store, root, debs, Deadline(60)).path.is_dir(), "nothing of it is needed"
    elif lacking == 3:
        tree = unpack_kernel(store, root, debs, Deadline(60)).path
        assert not list(tree.rglob("*.ko")), "a kernel with everything built in is one too"
    else:
        with pytest.raises(SetupError, match=r"image\.deb.*: there is no (vmlinuz|config)"):
            unpack_kernel(store, root, debs, Deadline(60))


def test_every_kernel_is_of_a_suite() -> None:
    for spec in KERNELS.values():
        assert spec.suite in SUITES
        assert spec.note


# What is known without a network.


def stored_kernel(store: Store, tmp_path: Path) -> Kernel:
    """A kernel whose artefacts are in the store."""
    root: Any = FakeRoot(NEW)
    image = unpack_kernel(store, root, whole(tmp_path, NEW), Deadline(60))
    key = "1" * 32
    root.artefact = store.get(
        "build-root", key, lambda tree: (tree / "bin").mkdir(), deadline=Deadline(60), what="a root"
    )
    return Kernel(KERNELS["debian-11"], NEW, (candidate(f"linux-image-{NEW}", "5"),), (), image, root)


def test_what_is_known(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert all(known.resolved is None and not known.stored for known in known_kernels(store))
    kernel = stored_kernel(store, tmp_path)
    remember_kernel(
        store, kernel, SplSource("path:/x", tmp_path, "9.9", own=OwnTree(read_tree_name("path:/x"), tmp_path))
    )
    known = {known.spec.id: known for known in known_kernels(store)}
    assert list(known) == [*KERNELS, *(f"built:{name}" for name in BUILT)]
    last = known["debian-11"].resolved
    assert last is not None and known["debian-11"].stored
    assert (last.release, last.version, last.spl) == (NEW, "5", None)
    remember_kernel(store, kernel, SplSource("debian", tmp_path, "2.0.3-9"))
    # A tree of the user's does not make that forgotten.
    remember_kernel(
        store, kernel, SplSource("path:/x", tmp_path, "9.9", own=OwnTree(read_tree_name("path:/x"), tmp_path))
    )
    said = known_kernels(store)[0].to_json()
    assert said["stored"] is True
    resolved: Any = said["resolved"]
    assert set(resolved) == {"time", "release", "version", "spl"}
    assert resolved["spl"] == "2.0.3-9"
    assert said["honours_noio"] is None
    remember_traits(store, kernel, False)
    assert known_kernels(store)[0].honours is False
    (store.root / "host" / f"traits-{kernel.image.key}.json").write_text("[]")
    assert known_kernels(store)[0].honours is None
    store.remove(kernel.image.path.parent)
    assert not known_kernels(store)[0].stored
    assert known_kernels(store)[0].resolved is not None


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '{"time": 1}', '{"time":1,"release":2,"version":3,"spl":4,"image":5,"root":6}']
)
def test_note_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path)
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "kernel-debian-11.json").write_text(text)
    assert known_kernels(store)[0].resolved is None


def test_note_with_a_key_that_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "host").mkdir()
    note = {"time": "t", "release": "r", "version": "v", "spl": None, "image": "../..", "root": "0"}
    (tmp_path / "host" / "kernel-debian-11.json").write_text(json.dumps(note))
    assert not known_kernels(store)[0].stored


STATUS = """\
Package: gcc
Status: install ok installed
Version: 4:14.2.0-1

Package: gcc-14
Version: 14.2.0-19
Description: a compiler
 Version: none

Package: gcc-14-base
Version: 14.2.0-19

Package: linux-headers-6.12.118+deb13-cloud-amd64
Version: 6.12.118-1

Package: linux-kbuild-6.12.118+deb13
Version: 6.12.118-1

Package: linux-libc-dev
Version: 6.12.118-1

Package: make
"""


def test_parse_tools() -> None:
    assert parse_tools(STATUS) == {
        "gcc": "4:14.2.0-1",
        "gcc-14": "14.2.0-19",
        "linux-headers-6.12.118+deb13-cloud-amd64": "6.12.118-1",
        "linux-kbuild-6.12.118+deb13": "6.12.118-1",
    }
    assert parse_tools("") == {}
