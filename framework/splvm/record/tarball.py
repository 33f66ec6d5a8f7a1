"""Archives that are the same for the same content, on any machine, and archives of others, unpacked with care."""

from __future__ import annotations

import gzip
import io
import os
import re
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from splvm.errors import EvidenceError
from splvm.plainfile import describe_size, open_plain

# A part of the path of a member.
_PART = re.compile(r"[\w.+:~@,-]{1,200}", re.ASCII)
_MOST_MEMBERS = 5000


def write_tarball(file: BinaryIO, name: str, members: Mapping[str, bytes | Path], mtime: int) -> None:
    """A gzipped tar archive with everything below `name`, sorted, owned by 0.

    :param members: content, or the plain file that has it, by path.
    :param mtime: of all members, seconds since 1970.
    :raises EvidenceError: when a file cannot be read.
    :raises OSError: when the archive cannot be written.
    """
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for member in sorted(members):
            content = members[member]
            if isinstance(content, bytes):
                _add(tar, f"{name}/{member}", io.BytesIO(content), len(content), mtime)
                continue
            try:
                source = open_plain(content)
            except OSError as error:
                raise EvidenceError(f"{content} cannot be read: {error}") from error
            with source:
                _add(tar, f"{name}/{member}", source, os.fstat(source.fileno()).st_size, mtime)


def _add(tar: tarfile.TarFile, name: str, content: BinaryIO, size: int, mtime: int) -> None:
    """A member as it would be on any machine: an owner, a mode and a time that are not those of this one."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, mtime, 0o644
    tar.addfile(info, content)


def unpack_tarball(archive: Path, into: Path, most_bytes: int) -> None:
    """What is below the one directory of an archive. All of it are plain files with plain names, or nothing is taken.

    :param into: a directory that is there.
    :param most_bytes: of all members.
    :raises EvidenceError: when it is no such archive.
    """
    room, count = most_bytes, 0
    try:
        with tarfile.open(archive, mode="r:gz") as tar:
            for member in tar:
                parts = member.name.split("/")
                is_plain = all(_PART.fullmatch(part) and part not in (".", "..") for part in parts)
                content = tar.extractfile(member) if member.isreg() else None
                if content is None or len(parts) < 2 or not is_plain:
                    raise EvidenceError(f"{archive}: {member.name[:100]!r} is no plain file below one directory")
                room, count = room - member.size, count + 1
                if room < 0 or count > _MOST_MEMBERS:
                    raise EvidenceError(f"{archive} has more than {describe_size(most_bytes)} in it, or too many files")
                path = into.joinpath(*parts[1:])
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as file:
                    while block := content.read(1 << 20):
                        file.write(block)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise EvidenceError(f"{archive} cannot be unpacked: {error}") from error
