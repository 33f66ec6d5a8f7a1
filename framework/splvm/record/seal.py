"""What shows that a record was changed after its run: size and hash of every file, and a hash of run.json itself. Pure.

A seal is no signature: whoever can write a record can seal it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from splvm.record.names import CONSOLE_FILE, DUMP_FILE, EVIDENCE_FILES, TAKEN_FILES

# What run.json says of a file: `bytes` and `sha256`. What is found may also have `trouble`, why it cannot be read.
Digest = Mapping[str, Any]


def seal(facts: Mapping[str, Any], found: Mapping[str, Digest], outcome: Mapping[str, Any]) -> dict[str, Any]:
    """What run.json says at the end of a run: `facts` with the outcome, and what every file holds.

    :param found: of the files of evidence that are there, by name.
    """
    nothing = {"bytes": 0, "sha256": None}
    taken = tuple(name for name in TAKEN_FILES if name in found)
    evidence = {name: dict(found.get(name, nothing)) for name in (*EVIDENCE_FILES, *taken)}
    sealed = {**facts, "outcome": dict(outcome), "evidence": evidence}
    return {**sealed, "seal": _hash(sealed)}


def is_sealed_whole(facts: Mapping[str, Any]) -> bool:
    """Whether run.json is what it was when the run ended. One that was cut off has no seal, and nothing to break."""
    return "seal" not in facts or facts["seal"] == _hash(facts)


def is_over(facts: Mapping[str, Any]) -> bool:
    """Whether the end of the run is recorded."""
    return isinstance(facts.get("evidence"), dict) and isinstance(facts.get("outcome"), dict)


def find_damage(facts: Mapping[str, Any], found: Mapping[str, Digest]) -> list[str]:
    """What is not as it was when the run ended; nothing if all is whole.

    :param found: of the files of evidence that are there, by name.
    """
    troubles = {
        name: f"{name}: {each['trouble']}, so it was not read" for name, each in found.items() if "trouble" in each
    }
    if not is_over(facts):
        return ["run.json: the run was cut off, its end is not recorded", *troubles.values()]
    recorded: Mapping[str, Digest] = facts["evidence"]
    damage = []
    if facts.get("seal") != _hash(facts):
        damage.append("run.json: not what it was when the run ended")
    else:
        logged = recorded.get(CONSOLE_FILE, {}).get("bytes", 0)
        # Whoever judges the run asks for it.
        said = facts["outcome"].get("console_bytes", logged)
        if logged != said:
            damage.append(f"console.log: {logged} bytes, and the guest said {said}")
    for name in (*EVIDENCE_FILES, *TAKEN_FILES):
        if name in troubles:
            damage.append(troubles[name])
        elif name in TAKEN_FILES and name not in recorded:
            damage += [f"{name}: it was not there when the run ended"] if name in found else []
        elif name not in found:
            # Nothing rests on the dump, and it is large: it may go.
            damage += [f"{name}: missing"] if name != DUMP_FILE else []
        elif found[name] != recorded.get(name):
            damage.append(f"{name}: not what it was when the run ended")
    return damage


def _hash(facts: Mapping[str, Any]) -> str:
    """The hash of everything else in run.json: a verdict rests on that too."""
    text = json.dumps({key: value for key, value in facts.items() if key != "seal"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
