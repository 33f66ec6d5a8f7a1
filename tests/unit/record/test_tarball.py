"""Archives: equal content gives equal bytes, and nothing of a hostile one is taken."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from splvm.errors import EvidenceError
from splvm.record.tarball import unpack_tarball, write_tarball


def test_what_was_packed_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"1" * 3_000_000)
    made = []
    for _ in range(2):
        file = io.BytesIO()
        write_tarball(file, "run", {"a/one": tmp_path / "one", "two": b"2"}, 0)
        made.append(file.getvalue())
    assert made[0] == made[1]
    (tmp_path / "it.tar.gz").write_bytes(made[0])
    (tmp_path / "into").mkdir()
    unpack_tarball(tmp_path / "it.tar.gz", tmp_path / "into", 3_000_001)
    assert (tmp_path / "into" / "a" / "one").read_bytes() == b"1" * 3_000_000
    assert (tmp_path / "into" / "two").read_bytes() == b"2"


def link(name: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc"
    return info


def file(name: str, size: int = 1) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    return info


@pytest.mark.parametrize(
    "members",
    [
        (file("run/../../out"),),
        (file("/run/out"),),
        (file("out"),),
        (file("run/a\nb"),),
        (link("run/a"),),
        (link("run/a"), file("run/a/b")),
        (link("run/a", tarfile.LNKTYPE),),
        (link("run/a", tarfile.FIFOTYPE),),
        (file("run/a"), file("run/a")),
        (file("run/a"), file("run/a/b")),
        (file("run/a", 101),),
        tuple(file(f"run/{number}", 0) for number in range(5001)),
    ],
    ids=lambda members: members[-1].name.replace("\n", " ").replace("/", "_"),
)
def test_a_hostile_archive(members: tuple[tarfile.TarInfo, ...], tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "it.tar.gz", "w:gz") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    (tmp_path / "place" / "into").mkdir(parents=True)
    with pytest.raises(EvidenceError):
        unpack_tarball(tmp_path / "it.tar.gz", tmp_path / "place" / "into", 100)
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["into"]


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08\0\0\0\0\0\0\0\xff"])
def test_no_archive(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "it.tar.gz").write_bytes(content)
    (tmp_path / "into").mkdir()
    with pytest.raises(EvidenceError, match="cannot be unpacked"):
        unpack_tarball(tmp_path / "it.tar.gz", tmp_path / "into", 100)
