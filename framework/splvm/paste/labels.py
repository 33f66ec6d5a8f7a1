"""Lines above stacks of functions alone: whose stack they say that it is, and that one follows."""

from __future__ import annotations

import re

# Characters of a line.
MAX_CHARS = 240
# Characters of a line that says that a stack follows.
_MAX_LABEL = 60

_LABEL = re.compile(
    r"(?:[\s*#=~-]{0,40}(?:COMMAND: \"(?P<command>[^\"]{1,40})\"?"
    r"|(?P<label>[A-Za-z_][\w/.:-]{0,30}(?: [A-Z0-9]{1,4}| (?:thread|process|task) ?\d{1,3})?))"
    r"|[*=#-]{2,40} ?(?P<title>\w[\w /.-]{1,40}?))"
    r"(?:[\s*#=:~-]|\((?:[^()]|\([^()]{0,40}\)){1,60}\)){0,60}$"
)
# A label that says that a stack follows, so that any function may sleep in it.
NUMBERED = re.compile(r"(?:process|thread|task|stack|trace|cpu|pid)(?:\b|[ #]?\d{1,3}\b)", re.IGNORECASE)
# One that says so whatever the functions are.
COUNTED = re.compile(r"(?:\w{1,15} )?(?:process|thread|task) ?#?(?:\d{1,3}|[A-Z])", re.IGNORECASE)
_TRACED = re.compile(r"\s{0,16}(?P<comm>\S.{0,15}?)-(?P<pid>\d{1,10})\s{1,12}\[\d{1,6}\].{0,80}<stack trace>$")


def label_of(line: str) -> tuple[str, int | None]:
    """What a line above a stack calls its thread, and its pid; empty if it says nothing."""
    line = line[:MAX_CHARS]
    if traced := _TRACED.match(line):
        return traced["comm"], int(traced["pid"])
    match = _LABEL.match(line)
    if match is None:
        return "", None
    label = match["command"] or match["label"] or match["title"]
    comm, _, pid = label.rpartition(":")
    return (comm, int(pid)) if comm and pid.isdigit() else (label.rstrip(":."), None)


def announces(message: str) -> bool:
    """Whether a line says that a thread's stack follows, of whatever functions."""
    if len(message) > _MAX_LABEL or (message[-1:] != ":" and not message.startswith("COMMAND: ")):
        return False
    match = _LABEL.match(message)
    return match is not None and bool(match["command"] or COUNTED.fullmatch(label_of(message)[0]))
