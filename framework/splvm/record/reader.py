"""A run's directory, read back: the evidence to be judged, or one part of it.

The one place that opens a run's files. They may be anybody's: nothing is read that is no plain file of that directory,
and of none more than its bound.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any

from splvm.errors import EvidenceError
from splvm.evidence.timeline import Evidence, Timeline
from splvm.plainfile import MIB, NotPlainError, describe_size, open_plain, read_plain
from splvm.record.digest import closed_console, digest_of, is_virtual
from splvm.record.facts import check_facts
from splvm.record.names import (
    CONSOLE_FILE,
    DUMP_FILE,
    EVIDENCE_FILES,
    RUN_FILE,
    SAMPLES_FILE,
    SCHEMA_VERSION,
    SYSRQ_FILE,
    TAKEN_FILES,
)
from splvm.record.seal import Digest, find_damage

# Bytes of a file that are read at most: some hundred times what a run of ten minutes leaves.
MOST_BYTES: Mapping[str, int] = {RUN_FILE: 4 * MIB, CONSOLE_FILE: 32 * MIB, SYSRQ_FILE: 16 * MIB}
MOST_OTHER_BYTES = 64 * MIB
# Of the dump nothing rests on its hash: one that is larger is not read through to judge a run.
_MOST_DUMP_BYTES = 2048 * MIB

# A frame of the agent is the longest record; its text has at most 1 MiB, each byte of it up to 6 characters of JSON.
_MOST_LINE_BYTES = 8 * MIB
_MOST_RECORDS = 500_000


def most_bytes(name: str) -> int:
    """Bytes of a run's file that are read at most."""
    return MOST_BYTES.get(name, MOST_OTHER_BYTES)


def read_file(path: Path, name: str) -> bytes:
    """All of one of a run's files.

    :param path: the run's directory.
    :raises NotPlainError: when it is no plain file, or larger than any run's.
    :raises OSError: when it is not there, or cannot be read.
    """
    return read_plain(path / name, most_bytes(name))


def read_evidence(path: Path) -> Evidence:
    """Read a run's directory.

    Damage that a verdict can be given on is in `Evidence.damage`; only what leaves nothing to judge is an error.

    :raises EvidenceError: when there is no run in `path`, or its files cannot be read.
    """
    try:
        return _read_evidence(path)
    except OSError as error:
        raise EvidenceError(f"{path} cannot be read: {error}") from error


def _read_evidence(path: Path) -> Evidence:
    facts = read_facts(path)
    damage = read_damage(path, facts)
    try:
        timeline = Timeline.from_records(iterate_records(path / SAMPLES_FILE))
    except EvidenceError as error:
        damage.append(f"{SAMPLES_FILE}: {error}")
        timeline = Timeline.from_records(())
    texts = []
    for name in (CONSOLE_FILE, SYSRQ_FILE):
        try:
            texts.append(_text(path, name))
        except NotPlainError:
            # Nothing rests on a text that is not there, once the damage says why.
            if not damage:
                raise
            texts.append("")
    if damage or not is_virtual(facts):
        return Evidence(facts, timeline, texts[0], tuple(damage), texts[1])
    closed = closed_console(facts, read_file(path, CONSOLE_FILE))
    text = None if closed is None else closed.decode(errors="replace")
    return Evidence(facts, timeline, texts[0], (), texts[1], read_digest(path, facts), text)


def read_digest(path: Path, facts: Mapping[str, Any]) -> str:
    """The digest of a run in virtual time.

    :param path: the run's directory.
    :param facts: its run.json.
    :raises EvidenceError: when its samples cannot be read.
    """
    console = closed_console(facts, read_file(path, CONSOLE_FILE))
    return digest_of(iterate_records(path / SAMPLES_FILE), console or b"")


def read_console(path: Path) -> str:
    """What the guest of a run said; empty if there is nothing that can be read.

    :param path: the run's directory.
    :raises EvidenceError: when it cannot be read.
    """
    try:
        return _text(path, CONSOLE_FILE)
    except NotPlainError:
        return ""
    except OSError as error:
        raise EvidenceError(f"{path} cannot be read: {error}") from error


def _text(path: Path, name: str) -> str:
    try:
        return read_file(path, name).decode(errors="replace")
    except FileNotFoundError:
        return ""


def read_facts(path: Path) -> dict[str, Any]:
    """What a run's directory says of the run: its run.json.

    :raises EvidenceError: when there is no run in `path`, or that file is damaged.
    """
    try:
        if not path.is_dir():
            raise EvidenceError(f"{path} is not a directory", hint="give the directory that `splvm run` named")
        text = read_file(path, RUN_FILE)
    except FileNotFoundError:
        raise EvidenceError(f"{path} has no {RUN_FILE}: it is not the directory of a run") from None
    except NotPlainError as error:
        raise EvidenceError(f"{path / RUN_FILE} is {error.strerror}, so it was not read") from None
    except OSError as error:
        raise EvidenceError(f"{path} cannot be read: {error}") from error
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EvidenceError(f"{path / RUN_FILE} is damaged: {error}") from error
    if not isinstance(facts, dict) or "schema_version" not in facts:
        raise EvidenceError(f"{path / RUN_FILE} is not the record of a run")
    if type(facts["schema_version"]) is not int or facts["schema_version"] != SCHEMA_VERSION:
        raise EvidenceError(
            f"{path / RUN_FILE} has schema version {facts['schema_version']!r}, this program reads {SCHEMA_VERSION}"[
                :1000
            ],
            hint="judge it with the version of splvm that recorded it",
        )
    try:
        return check_facts(facts)
    except EvidenceError as error:
        raise EvidenceError(f"{path / RUN_FILE} is damaged: {error.message}") from error


def read_damage(path: Path, facts: Mapping[str, Any]) -> list[str]:
    """What of a run's directory is not as it was when the run ended; nothing if all is whole.

    :param facts: what `read_facts` gives of it.
    :raises OSError: when a file cannot be read.
    """
    return find_damage(facts, find_digests(path, facts.get("evidence", {})))


def find_digests(path: Path, recorded: Mapping[str, Digest] | None) -> dict[str, Digest]:
    """Size and hash of each file of evidence in a run's directory that is there; or `trouble`, why it is not read.

    :param recorded: what run.json says of them; what is of another size, or is not in there, is not hashed. None: hash
        all, whatever they take.
    """
    found: dict[str, Digest] = {}
    for name in (*EVIDENCE_FILES, *TAKEN_FILES):
        try:
            with open_plain(path / name) as file:
                found[name] = _digest(file, name, recorded)
        except FileNotFoundError:
            continue
        except NotPlainError as error:
            found[name] = {"trouble": error.strerror}
    return found


def _digest(file: BufferedReader, name: str, recorded: Mapping[str, Digest] | None) -> Digest:
    size = os.fstat(file.fileno()).st_size
    if recorded is not None:
        wanted = recorded.get(name, {})
        if name != DUMP_FILE and size > most_bytes(name):
            return {"trouble": f"larger than {describe_size(most_bytes(name))}"}
        if size != wanted.get("bytes"):
            return {"bytes": size, "sha256": None}
        if size > _MOST_DUMP_BYTES:
            return wanted
    return {"bytes": size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a samples.jsonl; none if there is no such file.

    :raises EvidenceError: when a line is no record.
    """
    return list(iterate_records(path))


def iterate_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a samples.jsonl one after the other; none if there is no such file.

    :raises EvidenceError: when a line is no record, or there is more of it than of any run's.
    """
    try:
        with open_plain(path) as file:
            for number, line in enumerate(_lines(file), 1):
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise EvidenceError("not a record", line=number)
                yield record
    except FileNotFoundError:
        return
    except NotPlainError as error:
        raise EvidenceError(f"{error.strerror}, so it was not read") from None
    except (ValueError, RecursionError) as error:
        raise EvidenceError(f"not a record: {error}") from error


def _lines(file: BufferedReader) -> Iterator[bytes]:
    """:raises EvidenceError: when a line, or all of them, are longer than any run's."""
    left = most_bytes(SAMPLES_FILE)
    for number in range(_MOST_RECORDS + 1):
        line = file.readline(_MOST_LINE_BYTES + 1)
        if not line:
            return
        left -= len(line)
        if len(line) > _MOST_LINE_BYTES or left < 0 or number == _MOST_RECORDS:
            raise EvidenceError("larger than any record of a run", line=number + 1)
        yield line


def last_record_s(path: Path) -> float | None:
    """When the last record of a run came, in seconds since the run began; None where that cannot be read.

    :param path: the run's directory.
    """
    try:
        with open_plain(path / SAMPLES_FILE) as file:
            # A record is a frame of the agent at most, which is shorter.
            file.seek(max(0, file.seek(0, os.SEEK_END) - (1 << 20)))
            at_s = json.loads(file.read(1 << 20).splitlines()[-1])["at_s"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return at_s if isinstance(at_s, float) and math.isfinite(at_s) else None


def is_being_written(path: Path) -> bool:
    """Whether a process still writes the run in a directory: it holds a lock, which the kernel drops when it ends.

    :param path: the run's directory.
    """
    try:
        with open_plain(path / SAMPLES_FILE) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
