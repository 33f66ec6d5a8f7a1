"""What shows that a record was changed after its run: size and hash of every file, and a hash of run.json itself.

A seal is no signature: whoever can write a record can seal it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splvm.record.names import CONSOLE_FILE, DUMP_FILE, EVIDENCE_FILES, TAKEN_FILES


def seal(facts: Mapping[str, Any], path: Path, outcome: Mapping[str, Any]) -> dict[str, Any]:
    """What run.json says at the end of a run: `facts` with the outcome, and size and hash of every file in `path`."""
    taken = tuple(name for name in TAKEN_FILES if (path / name).exists())
    evidence = {name: _digest(path / name) for name in (*EVIDENCE_FILES, *taken)}
    sealed = {**facts, "outcome": dict(outcome), "evidence": evidence}
    return {**sealed, "seal": _hash(sealed)}


def is_sealed_whole(facts: Mapping[str, Any]) -> bool:
    """Whether run.json is what it was when the run ended. One that was cut off has no seal, and nothing to break."""
    return "seal" not in facts or facts["seal"] == _hash(facts)


def find_damage(path: Path, facts: Mapping[str, Any]) -> list[str]:
    """What is not as it was when the run in `path` ended; nothing if all is whole."""
    recorded = facts.get("evidence")
    if not isinstance(recorded, dict) or not isinstance(facts.get("outcome"), dict):
        return ["run.json: the run was cut off, its end is not recorded"]
    damage = []
    if facts.get("seal") != _hash(facts):
        damage.append("run.json: not what it was when the run ended")
    else:
        said, logged = facts["outcome"].get("console_bytes", 0), recorded[CONSOLE_FILE]["bytes"]
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


def _digest(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {"bytes": 0, "sha256": None}
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _hash(facts: Mapping[str, Any]) -> str:
    """The hash of everything else in run.json: a verdict rests on that too."""
    text = json.dumps({key: value for key, value in facts.items() if key != "seal"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
