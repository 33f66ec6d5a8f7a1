"""The user's own kernel: what its files have to be, and what is taken of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from splvm.builds import own
from splvm.builds.image import MODULES
from splvm.builds.own import find_own_kernel, is_bzimage, list_built_in, take_kernel
from splvm.builds.root import BuildRoot
from splvm.deadline import Deadline
from splvm.errors import BuildError, UsageError
from splvm.host.store import Artefact, Store

RELEASE = "7.3.0-rc1+"
ALL_BUILT_IN = "CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_NET=y\nCONFIG_VIRTIO_CONSOLE=y\nCONFIG_VIRTIO_BLK=y\n"


@pytest.fixture
def vmlinuz(tmp_path: Path) -> Path:
    path = tmp_path / "boot" / "bzImage"
    path.parent.mkdir()
    path.write_bytes(bytes(0x202) + b"HdrS" + bytes(100))
    return path


@pytest.fixture
def headers(tmp_path: Path) -> Path:
    top = tmp_path / "linux"
    files = {
        "Makefile": "",
        "Module.symvers": "",
        "include/config/kernel.release": f"{RELEASE}\n",
        "include/config/auto.conf": ALL_BUILT_IN,
        "scripts/mod/modpost": "",
    }
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return top


def make_modules(directory: Path) -> Path:
    """What `make modules_install` leaves."""
    modules = directory / "lib" / "modules" / RELEASE
    paths = [
        f"kernel/drivers/virtio/{name}.ko" for name in ("virtio_pci", "virtio_net", "virtio_console", "virtio_gpu")
    ]
    for path in paths:
        (modules / path).parent.mkdir(parents=True, exist_ok=True)
        (modules / path).write_text(path)
    (modules / "modules.dep").write_text("".join(f"{path}:\n" for path in paths))
    return modules


@pytest.mark.parametrize("name", ["debian-12", "", "path", "/boot/vmlinuz"])
def test_names_of_another_form(name: str) -> None:
    assert find_own_kernel(name) is None


@pytest.mark.parametrize("name", ["path:", "path:a", "path:a,", "path:,b", "path:a,b,c,d", "path:a,b,"])
def test_form(name: str) -> None:
    with pytest.raises(UsageError, match=r"path:VMLINUZ,HEADERS\[,SUITE\]"):
        find_own_kernel(name)


def test_found(vmlinuz: Path, headers: Path) -> None:
    found = find_own_kernel(f"path:{vmlinuz},{headers}")
    assert found is not None
    assert (found.release, found.vmlinuz, found.headers, found.modules) == (RELEASE, vmlinuz, headers, None)
    # It goes into names of directories and into the last line on stdout.
    assert found.spec.id == f"own-{RELEASE}"
    assert found.spec.suite == "trixie"
    other = find_own_kernel(f"path:{vmlinuz},{headers},sid")
    assert other is not None and other.spec.suite == "sid"
    with pytest.raises(UsageError, match="potato"):
        find_own_kernel(f"path:{vmlinuz},{headers},potato")


@pytest.mark.parametrize("content", [b"", b"\x7fELF" + bytes(0x300), bytes(0x201) + b"HdrS"])
def test_file_that_is_no_kernel(vmlinuz: Path, headers: Path, content: bytes) -> None:
    vmlinuz.write_bytes(content)
    assert not is_bzimage(vmlinuz)
    with pytest.raises(UsageError, match="no bzImage"):
        find_own_kernel(f"path:{vmlinuz},{headers}")
    assert not is_bzimage(vmlinuz.parent)


@pytest.mark.parametrize(
    "lacking", ["Makefile", "Module.symvers", "include/config/kernel.release", "include/config/auto.conf", "scripts"]
)
def test_headers_that_lack_something(vmlinuz: Path, headers: Path, lacking: str) -> None:
    (headers / lacking).rename(headers.parent / "elsewhere")
    with pytest.raises(UsageError) as caught:
        find_own_kernel(f"path:{vmlinuz},{headers}")
    assert lacking in caught.value.message
    assert "in place" in str(caught.value.hint)


def test_headers_that_are_split(vmlinuz: Path, headers: Path) -> None:
    """As Debian's are: their tools are in another package, and a link leads there."""
    (headers / "scripts").rename(headers.parent / "kbuild")
    (headers / "scripts").symlink_to("../kbuild")
    with pytest.raises(UsageError, match="scripts/mod/modpost in itself"):
        find_own_kernel(f"path:{vmlinuz},{headers}")


@pytest.mark.parametrize("release", ["", "../../etc", "6.1/x", "x" * 10, "6." + "1" * 100, "6.1 7", "6.1\n7"])
def test_release_that_is_none(vmlinuz: Path, headers: Path, release: str) -> None:
    (headers / "include" / "config" / "kernel.release").write_text(f"{release}\n")
    with pytest.raises(UsageError, match="is no release of a kernel"):
        find_own_kernel(f"path:{vmlinuz},{headers}")


@pytest.mark.parametrize("where", ["boot", "."])
def test_modules_beside(tmp_path: Path, vmlinuz: Path, headers: Path, where: str) -> None:
    modules = make_modules(tmp_path / where)
    found = find_own_kernel(f"path:{vmlinuz},{headers}")
    assert found is not None and found.modules is not None
    assert found.modules.samefile(modules)


def test_headers_as_installed_modules_name_them(tmp_path: Path, vmlinuz: Path, headers: Path) -> None:
    modules = make_modules(tmp_path / "away")
    (modules / "build").symlink_to(headers)
    found = find_own_kernel(f"path:{vmlinuz},{modules / 'build'}")
    assert found is not None and found.modules == modules


def test_list_built_in() -> None:
    text = "CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_NET=m\n# CONFIG_VIRTIO_CONSOLE is not set\nCONFIG_VIRTIO_PCI_LEGACY=y\n"
    assert list_built_in(text) == "kernel/virtio_pci.ko\n"


@pytest.fixture
def fake_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No mmdebstrap: the hash of the headers as it comes to each build root."""
    seen: list[str] = []
    status = tmp_path / "root" / "var" / "lib" / "dpkg" / "status"
    status.parent.mkdir(parents=True)
    status.write_text("Package: gcc\nVersion: 4:14.2.0-1\n")

    def build_root(
        store: Store, apt: Any, release: str, headers: Path, deadline: Deadline, inputs: str, *, more: Any
    ) -> BuildRoot:
        seen.append(inputs)
        return BuildRoot(Artefact(tmp_path / "root", "build-root", "0" * 32), release, f"{'0' * 32}{inputs}", headers)

    monkeypatch.setattr(own, "build_root", build_root)
    return seen


def take(tmp_path: Path, vmlinuz: Path, headers: Path) -> Any:
    found = find_own_kernel(f"path:{vmlinuz},{headers}")
    assert found is not None
    apt: Any = None
    return take_kernel(Store(tmp_path / "store"), apt, found, Deadline(60))


def test_only_what_a_guest_loads_is_taken(tmp_path: Path, vmlinuz: Path, headers: Path, fake_root: list[str]) -> None:
    (headers / "include" / "config" / "auto.conf").write_text("CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_BLK=y\n")
    make_modules(vmlinuz.parent)
    kernel = take(tmp_path, vmlinuz, headers)
    assert kernel.vmlinuz.read_bytes() == vmlinuz.read_bytes()
    assert sorted(path.name for path in kernel.modules.rglob("*.ko")) == ["virtio_console.ko", "virtio_net.ko"]
    assert kernel.facts()["package"].split()[-1], "what a memory dump is compared with"
    assert kernel.facts()["built_with"] == {"gcc": "4:14.2.0-1"}
    assert (kernel.version, kernel.facts()["packages"]) == ("", {})
    assert kernel.root.headers == kernel.root.source == "/usr/src"


def test_everything_built_in_needs_no_modules(
    tmp_path: Path, vmlinuz: Path, headers: Path, fake_root: list[str]
) -> None:
    assert not list(take(tmp_path, vmlinuz, headers).modules.rglob("*.ko"))


def test_driver_that_it_lacks(tmp_path: Path, vmlinuz: Path, headers: Path, fake_root: list[str]) -> None:
    (headers / "include" / "config" / "auto.conf").write_text("CONFIG_VIRTIO_PCI=y\nCONFIG_VIRTIO_NET=y\n")
    with pytest.raises(BuildError, match="virtio_console neither as a module nor built in"):
        take(tmp_path, vmlinuz, headers)


def test_a_new_build_is_another_kernel(tmp_path: Path, vmlinuz: Path, headers: Path, fake_root: list[str]) -> None:
    first = take(tmp_path, vmlinuz, headers)
    again = take(tmp_path, vmlinuz, headers)
    assert (again.image.key, again.root.key) == (first.image.key, first.root.key)
    vmlinuz.write_bytes(vmlinuz.read_bytes() + b"x")
    second = take(tmp_path, vmlinuz, headers)
    assert second.image.key != first.image.key
    assert second.root.key == first.root.key, "modules need not be built again"
    (headers / "Module.symvers").write_text("0x0 symbol")
    third = take(tmp_path, vmlinuz, headers)
    assert third.root.key != first.root.key
    assert len(set(fake_root)) == 2


def test_what_a_guest_needs_is_part_of_the_kernel(
    tmp_path: Path, vmlinuz: Path, headers: Path, fake_root: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was taken when a guest needed less does not say what it has built in of the rest."""
    with monkeypatch.context() as less:
        less.setattr(own, "MODULES", MODULES[:-1])
        before = take(tmp_path, vmlinuz, headers)
    after = take(tmp_path, vmlinuz, headers)
    assert MODULES[-1] not in (before.modules / "modules.builtin").read_text()
    assert MODULES[-1] in (after.modules / "modules.builtin").read_text()
