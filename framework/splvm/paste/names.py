"""Names of people, machines and pools that a text has, so that a report of a bug can leave them out.

Owns where names stand; they are taken out by redact.py, wherever else they are.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping

# Names kept of a text.
MAX_NAMES = 500
_USER, _MACHINE, _POOL = r"[a-z_][\w-]{1,31}", r"[A-Za-z][\w.-]{1,63}", r"[A-Za-z][\w.:-]{1,80}"
# What a name is of, words of which a line has one where the pattern fits, and the pattern, with one group.
_PATTERNS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("pool or dataset", ("ool '",), r"\b[Pp]ool '([^'/]{1,256})"),
    ("pool or dataset", ("pool=", "spa=", "poolname="), r"\b(?:pool|zpool|spa|poolname)=([^\s,;'/]{1,256})"),
    ("pool or dataset", ("pool: ",), rf"^\s{{0,8}}pool: ({_POOL})"),
    ("pool or dataset", ("root=",), r"\broot=(?:ZFS=|zfs:)([^\s/]{1,100})"),
    ("pool or dataset", ("root=",), r"\broot=(?:ZFS=|zfs:)[^\s/]{1,100}/(?:ROOT/)?([^\s/@]{3,100})"),
    ("user", ("/home/", "/Users/"), r"/(?:home|Users)/([\w.-]{2,32})"),
    ("user", ("USER", "LOGNAME", "user", "logname"), rf"\b(?:USER|LOGNAME|user|ruser|logname)[=:] ?({_USER})"),
    ("user", (" from",), rf"\bfor (?:user )?({_USER}) from\b"),
    ("user", ("@",), rf"^\[?({_USER})@{_MACHINE}[:\]~ ]"),
    ("host", ("@",), rf"^\[?{_USER}@({_MACHINE}?)[: ][^\n]{{0,80}}[#$]"),
    ("host", ("ip=",), rf"\bip=[\d.:]{{0,60}}:({_MACHINE}?):"),
    ("host", ("Linux ",), rf"^Linux ({_MACHINE}) \d\.\d"),
)
_COMPILED = tuple((what, words, re.compile(pattern)) for what, words, pattern in _PATTERNS)
# Most lines have no name, and none of these, of which each of those words has one.
_WORDS = ("=", "@", "ool", "/home/", "/Users/", " from", "Linux ", "ser:", "USER:", "NAME:", "name:")
# Words that name nobody.
COMMON = frozenset(
    ("root", "zfs", "spl", "kernel", "pool", "user", "none", "null", "localhost", "nobody", "daemon", "task", "the")
)


def has_word(message: str, words: tuple[str, ...]) -> bool:
    """Whether a message has one of the words."""
    for word in words:  # noqa: SIM110 - any() takes three times as long
        if word in message:
            return True
    return False


def note_names(message: str, names: MutableMapping[str, str]) -> None:
    """Add the names that a message has, each with what it names."""
    if not has_word(message, _WORDS):
        return
    for what, words, pattern in _COMPILED:
        if not has_word(message, words):
            continue
        for match in pattern.finditer(message[:2000]):
            if match[1].lower() not in COMMON and len(names) < MAX_NAMES:
                names.setdefault(match[1], what)
