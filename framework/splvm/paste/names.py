"""Names of people, machines and pools that a text has, so that a report of a bug can leave them out.

Owns where names stand; they are taken out by redact.py, wherever else they are.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping

# Names kept of a text.
MAX_NAMES = 500
_USER, _MACHINE, _POOL = r"[a-z_][\w-]{1,31}", r"[A-Za-z][\w.-]{1,63}", r"[A-Za-z][\w.:-]{1,80}"
# Each with one group.
_PATTERNS: tuple[tuple[str, str], ...] = (
    ("pool or dataset", r"\b[Pp]ool '([^'/]{1,256})"),
    ("pool or dataset", r"\b(?:pool|zpool|spa|poolname)=([^\s,;'/]{1,256})"),
    ("pool or dataset", rf"^\s{{0,8}}pool: ({_POOL})"),
    ("pool or dataset", r"\broot=(?:ZFS=|zfs:)([^\s/]{1,100})"),
    ("pool or dataset", r"\broot=(?:ZFS=|zfs:)[^\s/]{1,100}/(?:ROOT/)?([^\s/@]{3,100})"),
    ("user", r"/(?:home|Users)/([\w.-]{2,32})"),
    ("user", rf"\b(?:USER|LOGNAME|user|ruser|logname)[=:] ?({_USER})"),
    ("user", rf"\bfor (?:user )?({_USER}) from\b"),
    ("user", rf"^\[?({_USER})@{_MACHINE}[:\]~ ]"),
    ("host", rf"^\[?{_USER}@({_MACHINE}?)[: ][^\n]{{0,80}}[#$]"),
    ("host", rf"\bip=[\d.:]{{0,60}}:({_MACHINE}?):"),
    ("host", rf"^Linux ({_MACHINE}) \d\.\d"),
)
_COMPILED = tuple((what, re.compile(pattern)) for what, pattern in _PATTERNS)
# A line that has none of these has no name.
_WORDS = (
    "ool",
    "spa=",
    "/home/",
    "/Users/",
    "USER",
    "ser=",
    "ser: ",
    "root=",
    " for ",
    "@",
    "LOGNAME",
    "ip=",
    "Linux ",
)
# Words that name nobody.
COMMON = frozenset(
    ("root", "zfs", "spl", "kernel", "pool", "user", "none", "null", "localhost", "nobody", "daemon", "task", "the")
)


def note_names(message: str, names: MutableMapping[str, str]) -> None:
    """Add the names that a message has, each with what it names."""
    for word in _WORDS:
        if word in message:
            break
    else:
        return
    for what, pattern in _COMPILED:
        for match in pattern.finditer(message[:2000]):
            if match[1].lower() not in COMMON and len(names) < MAX_NAMES:
                names.setdefault(match[1], what)
