"""What an artefact held when it was made, and whether it still does: manifest.json and seen.json beside its tree."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeAlias

from splvm.host.content import Entry, read_entry, walk
from splvm.host.owner import boot_id

# How an artefact is checked before it is used:
#   quick  every entry is there with its type, mode and size, and nothing else is; a file is hashed again only if its
#          inode or a time stamp is not the one noted when it was last hashed, and all files are once per boot, since a
#          power cut may lose what was written but not the names. 0.3 s for a build root with 24,000 entries.
#   full   every file is hashed. Finds also what a failing disk has done to a file that nobody wrote.
#   named  it is there. For trees whose name is wanted, and which are looked through before anything in them is.
Verify: TypeAlias = Literal["quick", "full", "named"]

SCHEMA_VERSION = 1

# Inode, modification and change time in ns. The change time cannot be set, so a file that was written and had its
# modification time put back is seen as well.
_Seen: TypeAlias = tuple[int, int, int]


def write_manifest(home: Path, kind: str, key: str) -> None:
    entries: dict[str, Entry] = {}
    seen: dict[str, _Seen] = {}
    for name, path, info in walk(home / "tree"):
        entries[name] = read_entry(path, info)
        seen[name] = _times(info)
    lines = {name: [e.type, e.mode, e.size, e.content] for name, e in entries.items()}
    # The manifest of the manifest, so that one cut short is not taken for a small artefact.
    checksum = hashlib.sha256(json.dumps(lines).encode()).hexdigest()
    head = {"schema_version": SCHEMA_VERSION, "kind": kind, "key": key, "sha256": checksum, "entries": lines}
    (home / "manifest.json").write_text(json.dumps(head), encoding="utf-8")
    _write_seen(home, seen)


def read_manifest(home: Path) -> dict[str, Entry]:
    """:raises ValueError: when it is not there or not whole."""
    try:
        head = json.loads((home / "manifest.json").read_text(encoding="utf-8"))
        lines = head["entries"]
        named = (head["schema_version"], head["kind"], head["key"])
        if named != (SCHEMA_VERSION, home.parent.name, home.name):
            raise ValueError("its manifest is another artefact's")
        if hashlib.sha256(json.dumps(lines).encode()).hexdigest() != head["sha256"]:
            raise ValueError("its manifest was changed")
        return {name: Entry(*line) for name, line in lines.items()}
    except (OSError, KeyError, TypeError, UnicodeError, json.JSONDecodeError) as reason:
        raise ValueError(f"its manifest cannot be read: {reason}") from reason


def _write_seen(home: Path, seen: Mapping[str, _Seen]) -> None:
    fresh = home / f"seen.{uuid.uuid4().hex}"
    try:
        fresh.write_text(json.dumps({"boot": boot_id(), "entries": seen}), encoding="utf-8")
        fresh.replace(home / "seen.json")
    except OSError:
        # A full disk, or a cache that may only be read: files are simply hashed each time.
        with suppress(OSError):
            fresh.unlink()


def _read_seen(home: Path) -> dict[str, _Seen]:
    """What was noted in this boot; nothing is as good as anything else, it only costs time."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        head = json.loads((home / "seen.json").read_text(encoding="utf-8"))
        if head["boot"] == boot_id():
            return {name: tuple(times) for name, times in head["entries"].items()}
    return {}


def damage_of(home: Path, verify: Verify) -> str | None:
    """What is wrong with an artefact, None if nothing is."""
    try:
        if verify == "named":
            return None if (home / "tree").is_dir() and (home / "manifest.json").is_file() else "it is not whole"
        wanted = read_manifest(home)
        noted = {} if verify == "full" else _read_seen(home)
        seen: dict[str, _Seen] = {}
        for name, path, info in walk(home / "tree"):
            entry = wanted.pop(name, None)
            if entry is None:
                return f"{name} is not part of it"
            seen[name] = _times(info)
            known = entry.content if seen[name] == noted.get(name) else None
            if (found := read_entry(path, info, known)) != entry:
                return f"{name} is {found}, was {entry}"
        if wanted:
            return f"{next(iter(wanted))} is missing"
        if seen != noted:
            _write_seen(home, seen)
    except (OSError, ValueError) as reason:
        return str(reason)
    return None


def _times(info: os.stat_result) -> _Seen:
    if stat.S_ISDIR(info.st_mode):
        # Only what is in it counts, and that is looked at anyway.
        return (0, 0, 0)
    return (info.st_ino, info.st_mtime_ns, info.st_ctime_ns)
