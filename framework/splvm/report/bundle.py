"""One run packed for a bug report: an archive that a maintainer can read without any tool, and the text of an issue.

Owns what goes into the archive. One directory always gives equal bytes. Nothing outside of the run's directory gets in,
whatever its entries point at, and no name of a member is a guest's.
"""

from __future__ import annotations

import json
import os
import stat
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from splvm.errors import EvidenceError, SetupError, UsageError
from splvm.evidence.figures import reading_times
from splvm.evidence.sources import SourceReader, read_frame
from splvm.evidence.timeline import OTHERS, Evidence, Sample, Timeline
from splvm.evidence.verdict import Verdict
from splvm.evidence.waiting.tasklists import find_waiting
from splvm.host.content import file_hash
from splvm.plainfile import MIB, describe_kind, describe_size
from splvm.record.names import DUMP_FILE, EVIDENCE_FILES, SAMPLES_FILE, VERDICT_FILE
from splvm.record.reader import most_bytes, read_file
from splvm.record.tarball import write_tarball
from splvm.report.blocked import last_in_window
from splvm.report.comment import run_comment
from splvm.report.issue import Contents, issue_text
from splvm.report.markdown import clean, code
from splvm.scenarios.judged import judge_evidence

SUFFIX = ".tar.gz"
ISSUE_SUFFIX = ".issue.md"

# Of the run's directory, the dump apart, which has to be asked for.
_MOST_PACKED_BYTES = 128 * MIB
_MOST_FILES = 1000

# Times in the header of a member have 33 bits.
_MAX_MTIME = (1 << 33) - 1

Records = Iterable[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Bundle:
    """What was written."""

    archive: Path
    issue: Path
    # Bytes of the archive.
    size_bytes: int
    # A short text on the run, which names the archive.
    comment: str


def write_bundle(
    directory: Path,
    evidence: Evidence,
    out: Path | None = None,
    *,
    with_dump: bool = False,
    force: bool = False,
    scenario_summary: str = "",
    variant_summary: str = "",
    link: str = "",
) -> Bundle:
    """Pack a run. Neither file is ever there in part.

    :param directory: of the run.
    :param evidence: what was read from it.
    :param out: the archive, by default beside the directory and named after it; the issue's text goes beside that.
    :param with_dump: also the dump of the guest's memory.
    :param force: overwrite what is there.
    :param link: where the archive will be; the comment has it in place of the archive's name and hash.
    :raises UsageError: when `out` cannot be the name of an archive, or something is there already.
    :raises EvidenceError: when a file of the run cannot be read.
    :raises SetupError: when the bundle cannot be written.
    """
    name, archive, issue = _bundle_paths(directory, out)
    _check_target(archive, issue, force=force)
    with _reading(directory):
        files, left_out = _list_files(directory, {archive, issue}, with_dump=with_dump)
        samples = read_file(directory, SAMPLES_FILE) if SAMPLES_FILE in files else b""
    records = whole_records(samples)
    if evidence.damage:
        # No verdict rests on it, so what is whole may be shown also where the file as a whole cannot be read.
        evidence = replace(evidence, timeline=Timeline.from_records(records))
    verdict, no_verdict = _judge(evidence)
    waiting = _waiting(evidence, verdict)
    made = extract_files(evidence, records, verdict, waiting)
    if VERDICT_FILE in files and VERDICT_FILE not in made:
        left_out[VERDICT_FILE] = "no verdict could be given anew"
    members: dict[str, bytes | Path] = {key: path for key, path in files.items() if key not in left_out} | made
    sizes = {key: len(it) if isinstance(it, bytes) else it.lstat().st_size for key, it in members.items()}
    sizes.pop("issue.md", None)
    text = issue_text(
        evidence,
        verdict,
        waiting,
        made,
        Contents(name, sizes, left_out),
        no_verdict=no_verdict,
        scenario_summary=scenario_summary,
        variant_summary=variant_summary,
    ).encode()
    members["issue.md"] = text
    size = _write_both(archive, issue, text, name, members, _end_time(evidence.facts, records))
    where = link or f"{code(archive.name)}, SHA-256 {code(file_hash(archive))}"
    comment = run_comment(evidence, verdict, waiting, where, no_verdict=no_verdict)
    return Bundle(archive, issue, size, comment)


def _check_target(archive: Path, issue: Path, *, force: bool) -> None:
    if not archive.parent.is_dir():
        raise UsageError(f"{archive}: there is no directory {archive.parent}")
    for path in (archive, issue):
        if path.is_dir():
            raise UsageError(f"{path} is a directory", hint="--out FILE.tar.gz names another file")
        if not force and os.path.lexists(path):
            raise UsageError(
                f"{path} is there already", hint="--force overwrites it, --out FILE.tar.gz names another file"
            )


def whole_records(data: bytes) -> list[dict[str, Any]]:
    """The records of a samples.jsonl, those left out that cannot be read: what is whole still tells something."""
    records = []
    for line in data.split(b"\n"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def extract_files(
    evidence: Evidence, records: Records, verdict: Verdict | None, waiting: Mapping[str, Any]
) -> dict[str, bytes]:
    """Plain files made from the record, by name. What the record does not have is absent.

    :param records: those of samples.jsonl.
    :param waiting: who waited for whom, as in `Verdict.wait_for`.
    """
    marks = evidence.timeline.marks
    readings = _read_texts(records)
    texts: dict[str, str] = {}
    for source in ("slab", "probe"):
        for when, until_ns in reading_times(marks).items():
            before = [reading for reading in readings.get(source, ()) if reading.end_ns <= until_ns]
            if before:
                texts[f"{source}-{when}.txt"] = before[-1].value
    for source, name in (("tasks", "stacks.txt"), *((source, f"{source}.txt") for source in OTHERS)):
        reading = last_in_window(readings.get(source, ()), marks)
        if reading is not None:
            texts[name] = reading.value
    if evidence.console:
        texts["dmesg.txt"] = evidence.console
    made = {name: clean(text).encode() for name, text in texts.items()}
    if waiting:
        made["wait-for.json"] = _json(waiting)
    if verdict is not None:
        made[VERDICT_FILE] = _json(verdict.to_json())
    return made


def _read_texts(records: Records) -> dict[str, list[Sample[str]]]:
    """What was read, by source, as it came; also text that no parser can read."""
    readings: dict[str, list[Sample[str]]] = {}
    reader = SourceReader()
    for record in records:
        if record.get("kind") != "frame":
            continue
        try:
            frame = read_frame(record)
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
            continue
        said, _ = reader.take(frame)
        if said is not None:
            sample = Sample(frame.seq, frame.start_ns, frame.end_ns, str(record.get("path")), said.text)
            readings.setdefault(frame.source, []).append(sample)
    return readings


def _judge(evidence: Evidence) -> tuple[Verdict | None, str]:
    """The verdict, or why there is none."""
    try:
        return judge_evidence(evidence), ""
    except EvidenceError as error:
        return None, error.message


def _waiting(evidence: Evidence, verdict: Verdict | None) -> Mapping[str, Any]:
    """Who waited for whom: as the verdict has it, or, for a damaged run, as its record has it."""
    if verdict is not None and not evidence.damage:
        return verdict.wait_for
    waiting = find_waiting(evidence)
    return waiting.to_json() if waiting is not None else {}


def _json(value: Mapping[str, Any]) -> bytes:
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return text.encode(errors="backslashreplace")


# The run's directory


def _bundle_paths(directory: Path, out: Path | None) -> tuple[str, Path, Path]:
    """Name of the run, the archive, and the issue's text."""
    if directory.name in ("", ".."):
        directory = Path(os.path.realpath(directory))
    name = directory.name or "run"
    archive = out if out is not None else directory.with_name(name + SUFFIX)
    stem = archive.name.removesuffix(SUFFIX)
    if stem in ("", archive.name):
        raise UsageError(f"--out {out}: the name of the archive has to end in {SUFFIX}")
    return name, archive, archive.with_name(stem + ISSUE_SUFFIX)


def _list_files(directory: Path, outputs: set[Path], *, with_dump: bool) -> tuple[dict[str, Path], dict[str, str]]:
    """What is to be packed, by its name in the archive, and why the rest is not."""
    files: dict[str, Path] = {}
    left_out: dict[str, str] = {}
    room = _MOST_PACKED_BYTES
    own = {Path(os.path.realpath(path.parent), path.name) for path in outputs}
    for top, directories, names in os.walk(directory, onerror=_raise):
        # What a verdict rests on has its room first.
        for entry in sorted((*directories, *names), key=lambda entry: entry not in EVIDENCE_FILES):
            path = Path(top, entry)
            name = path.relative_to(directory).as_posix()
            info = path.lstat()
            if stat.S_ISDIR(info.st_mode) or Path(os.path.realpath(path.parent), entry) in own:
                continue
            trouble = describe_kind(info.st_mode)
            if not trouble and name != DUMP_FILE:
                most = min(room, most_bytes(name))
                trouble = f"larger than {describe_size(most)}" if info.st_size > most else ""
                trouble = trouble if len(files) < _MOST_FILES else f"there are more than {_MOST_FILES} files"
            if trouble:
                left_out[name] = trouble
                if len(left_out) > _MOST_FILES:
                    raise EvidenceError(f"{directory} has more files than any run's")
                continue
            files[name] = path
            room -= info.st_size if name != DUMP_FILE else 0
    if DUMP_FILE in files and not with_dump:
        del files[DUMP_FILE]
        left_out[DUMP_FILE] = "the guest's memory; `splvm bundle --with-dump` packs it too"
    return files, left_out


def _raise(error: OSError) -> None:
    raise error


@contextmanager
def _reading(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EvidenceError(f"{directory} cannot be read: {error}") from error


# Writing


def _end_time(facts: Mapping[str, Any], records: Records) -> int:
    """When the run ended, as far as its record says so, seconds since 1970; else 0."""
    try:
        last_s = max((float(record["at_s"]) for record in records if "at_s" in record), default=0.0)
        end = int(datetime.fromisoformat(facts["started"]).timestamp() + last_s)
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return 0
    return end if 0 <= end <= _MAX_MTIME else 0


def _write_both(
    archive: Path, issue: Path, text: bytes, name: str, members: Mapping[str, bytes | Path], mtime: int
) -> int:
    """Write both beside where they belong, and only then give them their names. Returns the archive's size."""
    scratch = {path: path.with_name(f".{uuid.uuid4().hex}.new") for path in (archive, issue)}
    try:
        with scratch[archive].open("xb") as file:
            write_tarball(file, name, members, mtime)
            size = file.tell()
        with scratch[issue].open("xb") as file:
            file.write(text)
        for path, written in scratch.items():
            written.replace(path)
    except OSError as error:
        raise SetupError(f"cannot write {archive}: {error.strerror or error}") from error
    finally:
        for written in scratch.values():
            written.unlink(missing_ok=True)
    return size
