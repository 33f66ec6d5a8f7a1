"""Known issues: trouble that somebody looks after already, until a date. Pure, but for the file.

A file of TOML::

    [[issue]]
    fingerprint = "0123456789ab"                        # as `splvm history show` has it
    link = "https://github.com/openzfs/zfs/issues/7734"
    expires = 2027-03-31                                # the last day on which it excuses anything

A run with that fingerprint keeps its verdict. It is only told apart from what nobody knows yet.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splvm.errors import UsageError
from splvm.tomlfile import read_toml

_KEYS = {"fingerprint": str, "link": str, "expires": datetime.date}
_FINGERPRINT = re.compile("[0-9a-f]{12}")
_LINK = re.compile(r"https?://\S+")


@dataclass(frozen=True, slots=True)
class KnownIssue:
    """One of them."""

    fingerprint: str
    link: str
    expires: datetime.date

    def is_expired(self, day: datetime.date) -> bool:
        """Whether it excuses nothing any more on that day."""
        return day > self.expires


def read_known(path: Path) -> list[KnownIssue]:
    """The issues in a file.

    :raises UsageError: when it cannot be read, or is not what this module's head says; with the place.
    """
    content = read_toml("--known", path)
    issues = content.get("issue", [])
    if set(content) - {"issue"} or not isinstance(issues, list):
        raise UsageError(f"--known {path}: it is a list of [[issue]], and nothing else")
    found = [_check(path, number, issue) for number, issue in enumerate(issues, 1)]
    twice = {each.fingerprint for each in found if [one.fingerprint for one in found].count(each.fingerprint) > 1}
    if twice:
        raise UsageError(f"--known {path}: there is more than one issue for {', '.join(sorted(twice))}")
    return found


def _check(path: Path, number: int, issue: object) -> KnownIssue:
    where = f"--known {path}: issue {number}"
    if not isinstance(issue, Mapping):
        raise UsageError(f"{where} is no table")
    values: dict[str, Any] = dict(issue)
    for name in {*_KEYS, *values}:
        if name not in _KEYS:
            raise UsageError(f"{where}: there is no {name!r}", hint=f"there are: {', '.join(_KEYS)}")
        # A date with a time is a date too, by Python's types.
        if name not in values or type(values[name]) is not _KEYS[name]:
            kind = "a date such as 2027-03-31" if name == "expires" else "a string"
            raise UsageError(f"{where}: {name} = {values.get(name)!r}: it is {kind}")
    if not _FINGERPRINT.fullmatch(values["fingerprint"]):
        raise UsageError(f"{where}: {values['fingerprint']!r} is no fingerprint", hint="`splvm history show` has them")
    if not _LINK.fullmatch(values["link"]):
        raise UsageError(f"{where}: {values['link']!r} is no link")
    return KnownIssue(**values)


def find_known(known: Iterable[KnownIssue], fingerprint: str) -> KnownIssue | None:
    """The issue that a run's fingerprint belongs to, expired or not."""
    return next((each for each in known if fingerprint and each.fingerprint == fingerprint), None)
