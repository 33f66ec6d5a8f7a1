"""A run's directory, read back: the evidence to be judged, or one part of it."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from splvm.errors import EvidenceError
from splvm.evidence.timeline import Evidence, Timeline
from splvm.record.names import CONSOLE_FILE, RUN_FILE, SAMPLES_FILE, SCHEMA_VERSION, SYSRQ_FILE
from splvm.record.seal import find_damage


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
    damage = list(find_damage(path, facts))
    try:
        records = read_records(path / SAMPLES_FILE)
    except EvidenceError as error:
        damage.append(f"{SAMPLES_FILE}: {error}")
        records = []
    timeline = Timeline.from_records(records)
    return Evidence(facts, timeline, _text(path / CONSOLE_FILE), tuple(damage), _text(path / SYSRQ_FILE))


def read_console(path: Path) -> str:
    """What the guest of a run said; empty if there is nothing.

    :param path: the run's directory.
    :raises EvidenceError: when it cannot be read.
    """
    try:
        return _text(path / CONSOLE_FILE)
    except OSError as error:
        raise EvidenceError(f"{path} cannot be read: {error}") from error


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="replace") if path.is_file() else ""


def read_facts(path: Path) -> dict[str, Any]:
    """What a run's directory says of the run: its run.json.

    :raises EvidenceError: when there is no run in `path`, or that file is damaged.
    """
    if not path.is_dir():
        raise EvidenceError(f"{path} is not a directory", hint="give the directory that `splvm run` named")
    try:
        facts = json.loads((path / RUN_FILE).read_bytes())
    except FileNotFoundError:
        raise EvidenceError(f"{path} has no {RUN_FILE}: it is not the directory of a run") from None
    except OSError as error:
        raise EvidenceError(f"{path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise EvidenceError(f"{path / 'run.json'} is damaged: {error}") from error
    if not isinstance(facts, dict) or "schema_version" not in facts:
        raise EvidenceError(f"{path / 'run.json'} is not the record of a run")
    if facts["schema_version"] != SCHEMA_VERSION:
        raise EvidenceError(
            f"{path / 'run.json'} has schema version {facts['schema_version']!r}, this program reads {SCHEMA_VERSION}",
            hint="judge it with the version of splvm that recorded it",
        )
    return facts


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a samples.jsonl; none if there is no such file.

    :raises EvidenceError: when a line is no record.
    """
    records: list[dict[str, Any]] = []
    if not path.is_file():
        return records
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise EvidenceError("not a record", line=number)
                records.append(record)
    except (ValueError, RecursionError) as error:
        raise EvidenceError(f"not a record: {error}") from error
    return records


def last_record_s(path: Path) -> float | None:
    """When the last record of a run came, in seconds since the run began; None where that cannot be read.

    :param path: the run's directory.
    """
    try:
        with (path / SAMPLES_FILE).open("rb") as file:
            # A record is a frame of the agent at most, which is shorter.
            file.seek(max(0, file.seek(0, os.SEEK_END) - (1 << 20)))
            at_s = json.loads(file.read().splitlines()[-1])["at_s"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return at_s if isinstance(at_s, float) and math.isfinite(at_s) else None
