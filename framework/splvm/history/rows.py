"""A run as the history has it, made of what its directory says. Pure."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from splvm.errors import EvidenceError
from splvm.evidence.formats.kernlog import scan_kernel_log
from splvm.evidence.verdict import Verdict
from splvm.history.cell import Cell, write_parameters
from splvm.history.olderruns import NOTHING_KNOWN, by_record
from splvm.history.schema import DAMAGED, TROUBLE, ZFS, Figure, RunRow
from splvm.record.cellfacts import UNKNOWN, fit_line
from splvm.record.seal import is_sealed_whole
from splvm.record.treefacts import commit_of, describe_tree

_TEXT_CHARS = 2000
_NAME_CHARS = 200
_FIGURE_CHARS = 80
_PARAMETERS_CHARS = 1000
_MOST_FIGURES = 200
_MOST_NAMES = 50
_SEAL = re.compile("[0-9a-f]{64}")
_TOKEN = re.compile("[0-9a-f]{16}")


def make_run(
    facts: Mapping[str, Any],
    verdict: Verdict,
    console: str,
    *,
    directory: str,
    command: str,
    duration_s: float | None,
    damage: Sequence[str] = (),
) -> RunRow:
    """The row of a run, with its figures.

    :param facts: its run.json.
    :param console: what its guest said.
    :param command: what makes such a run again.
    :param damage: what its files lack, or what was changed in them.
    :raises EvidenceError: when `facts` do not say when it began.
    """
    expected = sorted(_names(facts.get("expected")))
    run_id = identity(facts, damage)
    modules = _at(facts, "spl", "modules")
    zfs = {ZFS: _text(facts, "zfs", "sha256")} if _at(facts, "zfs", "sha256") else {}
    line, parameters = _place(facts)
    return RunRow(
        id=run_id,
        batch=_text(facts, "batch"),
        started=_started(facts),
        scenario=_text(facts, "scenario"),
        kernel=_text(facts, "kernel", "id"),
        variant=_text(facts, "spl", "variant"),
        loads=_text(facts, "parameters", "load"),
        line=line,
        parameters=parameters,
        release=_text(facts, "kernel", "release"),
        spl_version=_text(facts, "spl", "version"),
        spl_source=_text(facts, "spl", "source"),
        content=_text(facts, "spl", "content"),
        revision=_clean(commit_of(facts)),
        tree=_clean(describe_tree(facts)),
        digest=_clean(verdict.digest),
        token=_word(facts, damage),
        patches=_names(_at(facts, "spl", "patches")),
        modules={_clean(k): _clean(v) for k, v in modules.items()} | zfs if isinstance(modules, dict) else zfs,
        accelerator=_text(facts, "accelerator", "name"),
        qemu=_text(facts, "qemu", "version"),
        host=_text(facts, "host", "system"),
        verdict=verdict.outcome.value,
        expected=expected,
        as_expected=verdict.outcome.value in expected,
        starved=_clean(verdict.starved, _TEXT_CHARS),
        reason=_clean(verdict.reasons[0].text, _TEXT_CHARS),
        fingerprint=fingerprint_of(verdict, console),
        directory=_clean(directory, _TEXT_CHARS),
        command=_clean(command, _TEXT_CHARS),
        duration_s=duration_s,
        figures=[Figure(run_id=run_id, name=name, value=value) for name, value in flatten(verdict.figures).items()],
    )


def make_trouble(cell: Cell, batch: str, number: int, reason: str, *, at: datetime, duration_s: float) -> RunRow:
    """The row of a run that came to no verdict.

    :param number: of the run within its cell.
    :param at: when that was, UTC.
    """
    basis = json.dumps([batch, str(cell), number, at.isoformat()])
    names = (
        "release",
        "spl_version",
        "spl_source",
        "content",
        "revision",
        "tree",
        "digest",
        "accelerator",
        "qemu",
        "host",
        "starved",
    )
    return RunRow(
        id=hashlib.sha256(basis.encode()).hexdigest(),
        batch=_clean(batch),
        started=at.replace(tzinfo=None),
        **{axis: _clean(value, _PARAMETERS_CHARS) for axis, value in cell.columns().items()},
        **dict.fromkeys((*names, "directory", "command"), ""),
        patches=[],
        modules={},
        verdict=TROUBLE,
        expected=[],
        as_expected=False,
        reason=_clean(reason, _TEXT_CHARS),
        fingerprint="",
        duration_s=duration_s,
        figures=[],
    )


def _place(facts: Mapping[str, Any]) -> tuple[str, str]:
    """Line and parameters of a run, as a row has them."""
    line, parameters = NOTHING_KNOWN
    if is_sealed_whole(facts):
        line, parameters = _named(facts) if "line" in facts else by_record(facts)
    clean = write_parameters((_clean(name), _clean(value)) for name, value in parameters.items())
    # What is too long is not cut: it would be another cell's.
    return (line, clean) if len(clean) <= _PARAMETERS_CHARS else (UNKNOWN, "")


def _named(facts: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    line, differs = facts["line"], facts.get("differs")
    if not isinstance(line, str) or not line or line != fit_line(line) or not isinstance(differs, Mapping):
        return NOTHING_KNOWN
    return line, {str(name): str(value) for name, value in differs.items() if name}


def fingerprint_of(verdict: Verdict, console: str) -> str:
    """12 hexadecimal digits that are the same for the same trouble on another day; empty for a good verdict.

    Of the verdict, the kernel's complaints, and who waited for whom by function: no number, address or name of a task
    is in it. How often a complaint came does not matter, nor the order of several.
    """
    if verdict.outcome.is_good:
        return ""
    findings = {finding.fingerprint for finding in scan_kernel_log(console) if not finding.benign}
    waits = verdict.wait_for.get("waits", ())
    functions = {
        (_clean(wait.get("reason")), *_names(wait.get("functions"))[:1])
        for wait in (waits if isinstance(waits, (list, tuple)) else ())
        if isinstance(wait, dict)
    }
    basis = json.dumps([verdict.outcome.value, sorted(findings), sorted(functions)])
    return hashlib.sha256(basis.encode()).hexdigest()[:12]


def flatten(figures: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among a verdict's figures by name, of a mapping as `outer.inner`; lists are left to plots."""
    found: dict[str, float] = {}
    # A worklist, not a recursion: how deep it goes is up to whoever wrote the file.
    waiting = [(str(name), value) for name, value in figures.items()]
    for name, value in waiting:
        if len(found) >= _MOST_FIGURES or len(waiting) > 100 * _MOST_FIGURES:
            break
        if isinstance(value, Mapping):
            waiting += [(f"{name}.{inner}", each) for inner, each in value.items()]
        elif len(name) <= _FIGURE_CHARS and (number := finite(value)) is not None:
            found[_clean(name, _FIGURE_CHARS)] = number
    return found


def finite(value: object) -> float | None:
    """A number as a database takes it; None for everything else."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def identity(facts: Mapping[str, Any], damage: Sequence[str] = ()) -> str:
    """The seal of a run that is whole: the same wherever its directory is. A damaged copy has another one.

    :param facts: its run.json.
    :param damage: what `find_damage` found.
    """
    seal = facts.get("seal")
    if isinstance(seal, str) and _SEAL.fullmatch(seal) and is_sealed_whole(facts) and not damage:
        return seal
    # What was cut off has no seal. What it says is all there is, and will not change any more.
    basis = [facts, *damage] if "seal" in facts else facts
    return hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()


def _word(facts: Mapping[str, Any], damage: Sequence[str]) -> str | None:
    """The run's own word, as a row has it; None in records of before there was one."""
    token = facts.get("token")
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        return None
    return token if is_sealed_whole(facts) and not damage else f"{DAMAGED}{token}"


def _started(facts: Mapping[str, Any]) -> datetime:
    try:
        return datetime.fromisoformat(str(facts.get("started"))).astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        raise EvidenceError(f"run.json does not say when the run began: {facts.get('started')!r}"[:200]) from None


def _at(facts: object, *keys: str) -> object:
    for key in keys:
        facts = facts.get(key) if isinstance(facts, Mapping) else None
    return facts


def _text(facts: Mapping[str, Any], *keys: str) -> str:
    value = _at(facts, *keys)
    return "" if value is None else _clean(value)


def _names(values: object) -> list[str]:
    """Strings, and names of mappings that have one."""
    if not isinstance(values, (list, tuple)):
        return []
    return [_clean(value.get("name") if isinstance(value, Mapping) else value) for value in values[:_MOST_NAMES]]


def _clean(value: object, most: int = _NAME_CHARS) -> str:
    """Bounded, and what every database takes: no NUL, no half of a surrogate pair."""
    text = str(value)[:most].replace("\0", "\ufffd")
    return text.encode("utf-8", "backslashreplace").decode()[:most]
