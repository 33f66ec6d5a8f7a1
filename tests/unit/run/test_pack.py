"""A packed run: each file is what its list says, or none of it is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from splvm.errors import EvidenceError
from splvm.host.content import file_hash
from splvm.run.pack import read_pack

MACHINE = {"ram_mib": 512, "cpus": 2, "append": [], "disks": [], "qemu": "qemu-system-x86_64", "initrds": 2}
FILES = ("kernel", "hold.so", "moment.so", "qemu/qemu-system-x86_64", "initrd-0", "initrd-1", "modules/spl.ko")


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    write_list(tmp_path)
    return tmp_path


def write_list(packed: Path, **other: Any) -> None:
    files = {name: file_hash(packed / name) for name in FILES if (packed / name).exists()}
    (packed / "pack.json").write_text(json.dumps({"schema_version": 1, "machine": MACHINE, "files": files, **other}))


def test_one_that_is_whole(packed: Path) -> None:
    pack = read_pack(packed)
    assert pack.machine.cpus == 2 and [path.name for path in pack.modules] == ["spl.ko"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_another_or_missing(name: str, packed: Path) -> None:
    (packed / name).write_text("another")
    with pytest.raises(EvidenceError, match=f"{name} of the packed run is not what its list says"):
        read_pack(packed)
    (packed / name).unlink()
    with pytest.raises(EvidenceError, match=f"{name} of the packed run is not"):
        read_pack(packed)
    write_list(packed)
    if not name.startswith("modules"):
        with pytest.raises(EvidenceError, match=f"lacks {name}"):
            read_pack(packed)


def test_a_file_that_is_not_listed(packed: Path) -> None:
    (packed / "qemu" / "lib.so").write_text("more")
    with pytest.raises(EvidenceError, match=r"qemu/lib\.so of the packed run is not"):
        read_pack(packed)


@pytest.mark.parametrize("other", [{"schema_version": 2}, {"machine": {}}, {"files": []}])
def test_a_list_that_is_none(other: dict[str, Any], packed: Path) -> None:
    write_list(packed, **other)
    with pytest.raises(EvidenceError):
        read_pack(packed)
    (packed / "pack.json").unlink()
    with pytest.raises(EvidenceError, match="no packed run"):
        read_pack(packed)
