"""Where in a line of a console a message of the kernel begins.

Owns stamps, levels, escape sequences and control characters. What a message means is for kernlog.py and sysrq.py.

There are two readings. The strict one is for consoles as the kernel writes them: a message begins the line, or follows
its stamp. The wide one is for all else that a console can hold: a message that follows another one or text of
userland on the same line, however long, or stamps that another program wrote, or a sequence that nothing ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

# What the strict reading looks at of a line, and the wide one of a message.
MAX_LINE_CHARS = 2048

STAMP = re.compile(r"\[ {0,12}(\d{1,10}\.\d{6})\](?:\[ {0,12}([TC]\d{1,10})\])? ?", re.ASCII)
_LEVEL = re.compile(r"<\d{1,3}>", re.ASCII)
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]{0,32}[ -/]{0,4}[@-~]?|\][^\x07\x1b]{0,256}(?:\x07|\x1b\\)?|[ -~])?")
# The same, but what nothing ends is no title of a terminal: all that follows it is text.
_ENDED_ESCAPE = re.compile(r"\x1b(?:\[[0-?]{0,32}[ -/]{0,4}[@-~]?|\][^\x07\x1b]{0,256}(?:\x07|\x1b\\)|[ -~])?")
_CONTROL = dict.fromkeys((*range(9), *range(10, 32), 127))
# The kernel's own stamp; those of `dmesg -T`, `-d`, `-e` and `--time-format iso` (util-linux); a journal's.
_ANY_STAMP = re.compile(
    rf"{STAMP.pattern}"
    r"|\[[^\W\d]{2,12}\.? [^\W\d]{2,12}\.? {1,2}\d{1,2} \d\d:\d\d:\d\d \d{4}\] ?"
    r"|\[ {0,12}\d{1,10}\.\d{6} <[ +]{0,12}\d{1,10}\.\d{6}>\] ?"
    r"|\[[A-Z][a-z]{2} ?\d{1,2} \d\d:\d\d\] ?|\[ {0,6}\+\d{1,10}\.\d{6}\] ?"
    r"|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[,.]\d{1,9}(?:Z|[+-]\d\d:?\d\d) "
    r"|(?<= )kernel: "
)
# Complaints that are looked for within one message.
_MOST_BEGINS = 200

# Each takes a line and the part of it that is looked at.
Begun = Callable[[str, int, int], int]
Begins = Callable[[str, int, int], Iterator[int]]


class Message(NamedTuple):
    """A message, and what stood before it."""

    # Seconds since the guest's boot; None where that is not said.
    time_s: float | None
    # Which thread or CPU printed it, if the log says so.
    caller: str | None
    text: str


def split_stamp(line: str) -> Message:
    """A line's time stamp, caller id and message, by the strict reading."""
    if "\x1b" in line:
        line = _ESCAPE.sub("", line)
    if not line.isprintable():
        line = line.translate(_CONTROL)
    # What userland wrote without a line end stands before the stamp.
    stamp = STAMP.search(line)
    if stamp is not None:
        return Message(float(stamp[1]), stamp[2], line[stamp.end() :])
    level = _LEVEL.match(line)
    return Message(None, None, line[level.end() :] if level else line)


def split_wide(line: str, begun: Begun, begins: Begins) -> Iterator[Message]:
    """All messages of a line, by the wide reading; one that begins within another is given after it.

    :param begun: where that ends with which a complaint begins at a place; nothing else begins within it.
    :param begins: places where complaints begin that may stand anywhere.
    """
    if "\x1b" in line:
        line = _ENDED_ESCAPE.sub("", line)
    if not line.isprintable():
        line = line.translate(_CONTROL)
    start, time_s, caller = 0, None, None
    for stamp in (*_ANY_STAMP.finditer(line), None):
        end = stamp.start() if stamp else len(line)
        if level := _LEVEL.match(line, start, end):
            start = level.end()
        past = begun(line, start, end)
        # Text before the first stamp goes on with no report.
        if start < end and (start or stamp is None or past):
            yield Message(time_s, caller, line[start : min(end, start + MAX_LINE_CHARS)])
            past = max(past, start + 1)
        for at in islice(begins(line, past, end), _MOST_BEGINS):
            yield Message(time_s, caller, line[at : min(end, at + MAX_LINE_CHARS)])
        if stamp:
            start, time_s, caller = stamp.end(), float(stamp[1]) if stamp[1] else None, stamp[2]
