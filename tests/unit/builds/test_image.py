"""Archives of which a guest's root is made: equal content is an equal archive, whenever and wherever it is packed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from splvm.builds.image import build_additions, build_login, pack
from splvm.deadline import Deadline
from splvm.guest.ssh import SshKeys
from splvm.host.store import Store

pytestmark = pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is missing")

LIMIT_S = 60.0


def listing(archive: Path) -> dict[str, str]:
    """Mode of each entry by name."""
    argv = ["cpio", "--list", "--verbose", "--quiet", f"--file={archive}"]
    lines = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
    return {line.split()[-1]: line.split()[0] for line in lines}


def content(archive: Path, name: str) -> bytes:
    argv = ["cpio", "--extract", "--to-stdout", "--quiet", f"--file={archive}", name]
    return subprocess.run(argv, check=True, capture_output=True).stdout


def staged(directory: Path, time_s: int) -> Path:
    stage = directory / "stage"
    (stage / "bin").mkdir(parents=True)
    (stage / "bin" / "sh").write_bytes(b"program")
    (stage / "bin" / "ash").symlink_to("sh")
    for path in (stage / "bin" / "sh", stage / "bin", stage):
        os.utime(path, (time_s, time_s))
    return stage


def test_the_same_content_is_the_same_archive(tmp_path: Path) -> None:
    """Whatever its time is, and in whatever directory it was put together."""
    archives = []
    for number in range(2):
        directory = tmp_path / str(number)
        stage = staged(directory, 1_000_000_000 + number)
        pack(stage, directory / "initrd.cpio", Deadline(LIMIT_S))
        archives.append((directory / "initrd.cpio").read_bytes())
    assert archives[0] == archives[1]


def test_modules_in_the_order_of_loading(tmp_path: Path) -> None:
    modules = tmp_path / "spl.ko", tmp_path / "slabprobe.ko"
    for module in modules:
        module.write_bytes(module.name.encode())
    archives = [
        build_additions(Store(tmp_path / store), modules, Deadline(LIMIT_S)).path / "additions.cpio"
        for store in ("one", "two")
    ]
    assert content(archives[0], "etc/splvm-modules") == b"spl.ko\nslabprobe.ko\n"
    assert content(archives[0], "lib/modules/spl.ko") == b"spl.ko"
    assert archives[0].read_bytes() == archives[1].read_bytes()


def test_parameters_of_modules_and_what_is_set_up(tmp_path: Path) -> None:
    """They are a part of what the archive is known by."""
    module = tmp_path / "slowdisk.ko"
    module.write_bytes(b"code")
    store, values = Store(tmp_path / "store"), {"slowdisk.ko": "at=1 mib=2,3"}
    plain, with_values, with_setup = (
        build_additions(store, (module,), Deadline(LIMIT_S), values=given, setup=setup)
        for given, setup in (({}, ""), (values, ""), (values, "splvm-zfs pool /dev/vda1"))
    )
    assert content(with_values.path / "additions.cpio", "etc/splvm-modules") == b"slowdisk.ko at=1 mib=2,3\n"
    assert content(with_setup.path / "additions.cpio", "etc/splvm-setup") == b"splvm-zfs pool /dev/vda1\n"
    assert len({it.key for it in (plain, with_values, with_setup)}) == 3


def test_keys_are_in_an_archive_of_their_own(tmp_path: Path) -> None:
    """dropbear takes no keys that others may write."""
    keys = SshKeys(tmp_path / "identity", tmp_path / "host_key.pub")
    (tmp_path / "identity.pub").write_text("ssh-rsa AAAA\n")
    (tmp_path / "host_key.pub").write_text("ssh-ed25519 BBBB\n")
    (tmp_path / "host_key").write_bytes(b"\0private")
    login = build_login(Store(tmp_path / "store"), keys, Deadline(LIMIT_S)).path
    found = listing(login / "login.cpio")
    assert found["root/.ssh/authorized_keys"] == found["etc/dropbear/host_key"] == "-rw-------"
    assert {found[name] for name in ("root", "root/.ssh", "etc/dropbear")} == {"drwx------"}
    assert content(login / "login.cpio", "etc/dropbear/host_key") == b"\0private"
    assert login.parent.parent.stat().st_mode & 0o077 == 0
