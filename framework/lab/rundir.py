"""The directory of one run: what is recorded, as it comes, and read back to be judged.

::

    run.json       what was run on what, how it ended, and size and hash of every file of evidence, itself included
    samples.jsonl  one record a line: frames of the agent, the host's own readings, phases
    console.log    what the guest said on its serial console (written by QEMU)
    qemu.log       QEMU's command line and output
    harness.log    what the harness did
    sysrq.txt      what the kernel listed when the harness asked for it by SysRq; these three only if they were taken
    registers.txt  registers of the virtual CPUs
    memory.kdump   the guest's memory
    console-1.log  of a first boot that fell silent, so that there was a second; not evidence
    verdict.json   the verdict; not evidence

Everything is flushed as it comes. `run.json` is written at the start and again at the end; a run whose end is missing
was cut off.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from framework.errors import EvidenceError, SetupError
from framework.evidence.stream import Frame
from framework.evidence.timeline import Evidence, Timeline
from framework.evidence.verdict import Verdict
from framework.guest.monitor import DUMP_FILE, REGISTERS_FILE, SYSRQ_FILE

SCHEMA_VERSION = 1

# The files a verdict rests on, besides run.json, which has their hashes.
EVIDENCE_FILES = ("samples.jsonl", "console.log", "qemu.log", "harness.log")

# What is taken of a guest in trouble; some runs have it.
TAKEN_FILES = (SYSRQ_FILE, REGISTERS_FILE, DUMP_FILE)

# How half a surrogate pair, such as an argument that is not UTF-8, is written: as JSON's own escape.
_ERRORS = "backslashreplace"


class RunDirectory:
    """Writes the evidence of one run. Its methods may be called from any thread.

    :param path: made if it is not there.
    :param facts: what run.json says from the beginning.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.facts: dict[str, Any] = {"schema_version": SCHEMA_VERSION, **facts}
        self._start = time.monotonic()
        self._lock = threading.Lock()
        self._failure: OSError | None = None
        self._samples = (path / "samples.jsonl").open("w", encoding="utf-8", errors=_ERRORS)
        self._write_facts()
        self._record({"kind": "start", "schema_version": SCHEMA_VERSION})

    def add_facts(self, facts: Mapping[str, Any]) -> None:
        """Add to run.json what is only known now; it is written with the outcome."""
        self.facts.update(facts)

    def record_frame(self, frame: Frame, path: str) -> None:
        """Keep a frame of the agent.

        :param path: how it got here, `ssh` for one.
        """
        self._record({"kind": "frame", "path": path, **asdict(frame)})

    def record_phase(self, name: str) -> None:
        """Keep the host's view of when a phase began. The guest's own is in the probe's marks."""
        self._record({"kind": "phase", "name": name})

    def record_host(self, reading: Mapping[str, Any]) -> None:
        """Keep a reading of the host."""
        self._record({"kind": "host", **reading})

    def record_look(self, why: str, look: Mapping[str, Any]) -> None:
        """Keep what the monitor found and took.

        :param why: what made it look.
        """
        self._record({"kind": "monitor", "why": why, **look})

    def check(self) -> None:
        """:raises SetupError: when a record could not be written; the run is then worth nothing."""
        if self._failure is not None:
            raise SetupError(
                f"cannot write to {self.path}: {self._failure.strerror}",
                hint="free some space, or name another directory with --out",
            ) from self._failure

    def read_so_far(self) -> list[dict[str, Any]]:
        """The records that have been written up to now, whole ones only."""
        with self._lock:
            return read_records(self.path / "samples.jsonl")

    def finish(self, outcome: Mapping[str, Any]) -> None:
        """Close the evidence: how the run ended, and what every file holds.

        :raises SetupError: when it could not be written whole.
        """
        with self._lock:
            self._keep_failure(self._samples.close)
        self.check()
        self.facts["outcome"] = dict(outcome)
        taken = tuple(name for name in TAKEN_FILES if (self.path / name).exists())
        self.facts["evidence"] = {name: _digest(self.path / name) for name in (*EVIDENCE_FILES, *taken)}
        self.facts["seal"] = _seal(self.facts)
        self._write_facts()

    def write_verdict(self, verdict: Verdict) -> None:
        """Keep the verdict beside the evidence."""
        write_json(self.path / "verdict.json", verdict.to_json())

    def _record(self, record: dict[str, Any]) -> None:
        record["at_s"] = round(time.monotonic() - self._start, 6)
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
        with self._lock:
            if not self._samples.closed and self._failure is None:
                self._keep_failure(lambda: self._write_line(line))

    def _write_line(self, line: str) -> None:
        self._samples.write(line + "\n")
        self._samples.flush()

    def _keep_failure(self, write: Callable[[], None]) -> None:
        """A full disk must not end the thread that reads the guest, or it would look as if the guest were gone."""
        try:
            write()
        except OSError as error:
            self._failure = self._failure or error

    def _write_facts(self) -> None:
        write_json(self.path / "run.json", self.facts)


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
    damage = list(_find_damage(path, facts))
    try:
        records = read_records(path / "samples.jsonl")
    except EvidenceError as error:
        damage.append(f"samples.jsonl: {error}")
        records = []
    timeline = Timeline.from_records(records)
    return Evidence(facts, timeline, _text(path / "console.log"), tuple(damage), _text(path / SYSRQ_FILE))


def read_console(path: Path) -> str:
    """What the guest of a run said; empty if there is nothing.

    :param path: the run's directory.
    :raises EvidenceError: when it cannot be read.
    """
    try:
        return _text(path / "console.log")
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
        facts = json.loads((path / "run.json").read_bytes())
    except FileNotFoundError:
        raise EvidenceError(f"{path} has no run.json: it is not the directory of a run") from None
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


def _find_damage(path: Path, facts: Mapping[str, Any]) -> list[str]:
    recorded = facts.get("evidence")
    if not isinstance(recorded, dict) or not isinstance(facts.get("outcome"), dict):
        return ["run.json: the run was cut off, its end is not recorded"]
    damage = []
    if facts.get("seal") != _seal(facts):
        damage.append("run.json: not what it was when the run ended")
    else:
        said, logged = facts["outcome"].get("console_bytes", 0), recorded["console.log"]["bytes"]
        if logged < said:
            damage.append(f"console.log: {logged} bytes of the {said} that the guest said")
    for name in (*EVIDENCE_FILES, *TAKEN_FILES):
        there = (path / name).is_file()
        if name in TAKEN_FILES and name not in recorded:
            damage += [f"{name}: it was not there when the run ended"] if there else []
        elif not there:
            # Nothing rests on the dump, and it is large: it may go.
            damage += [f"{name}: missing"] if name != DUMP_FILE else []
        elif _digest(path / name) != recorded.get(name):
            damage.append(f"{name}: not what it was when the run ended")
    return damage


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
        with (path / "samples.jsonl").open("rb") as file:
            # A record is a frame of the agent at most, which is shorter.
            file.seek(max(0, file.seek(0, os.SEEK_END) - (1 << 20)))
            at_s = json.loads(file.read().splitlines()[-1])["at_s"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return at_s if isinstance(at_s, float) and math.isfinite(at_s) else None


def _digest(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"bytes": 0, "sha256": None}
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _seal(facts: Mapping[str, Any]) -> str:
    """The hash of everything else in run.json: a verdict rests on that too."""
    text = json.dumps({key: value for key, value in facts.items() if key != "seal"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, value: object) -> None:
    """Whole or not at all: a reader never sees half of it.

    :raises SetupError: when it cannot be written; what was there before is as it was.
    """
    scratch = path.with_name(path.name + ".new")
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    try:
        scratch.write_text(text, encoding="utf-8", errors=_ERRORS)
        scratch.replace(path)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise SetupError(f"{path}: {error.strerror}", hint="is there room?") from error
