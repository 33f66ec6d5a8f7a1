"""Where one stack of a text ends and the next one begins, though no line says whose it is.

Owns the signs of it that stand between two frames: the edge of a block of a page, a blank line, prose, a number alone,
another form of frames, a pause of the clock; and those that lines are missing, so that nobody knows whether one does.
What a line says of a thread is for frames.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from splvm.paste.frames import loose_head
from splvm.paste.prefixes import Line

# Seconds that may lie between two frames of one stack: slow consoles take some, and clocks may be set.
MAX_PAUSE_S = 10.0
_HOUR_S = 3600.0
# Words of a sentence, and remarks about what was left out of a stack.
_WORD = re.compile(r"(?<![\w+/.])[A-Za-z]{2,}(?![\w+/])")
_LEFT_OUT = re.compile(r"omit|snip|skip|left out|truncat|cut\b|same as|repeat", re.IGNORECASE)
_SENTENCE = 4
# A line that stands for others: dots or scissors alone, or a few words that say so. The last is a frame with a hole.
_DOTS = re.compile(r"\W{0,12}(?:\.{3}|\N{HORIZONTAL ELLIPSIS}|8<|>8|\[\.\.\])\W{0,12}")
# Words of a person's, and no part of a function's or a file's name.
_GONE = re.compile(
    r"(?i)(?<![\w/])(?:(?:omit|snip|skip|left out|truncat|delet|remov)[a-z]{0,6}|cut(?! here))(?![\w/(+])"
)
_HOLE = re.compile(r"\s{0,8}(?:\? )?[\w.]{1,80}/0x[0-9a-f]{1,8}(?: \[\w{1,40}\])?\s{0,4}", re.ASCII)
_FEW = 5
_CRASH_FORM = re.compile(r"#?\d{1,3}\s{1,2}\[")
_NUMBER = re.compile(r"#?(\d{1,3})\s{1,2}\[?")


@dataclass(slots=True)
class Seam:
    """The last frame of one who prints, and what stood behind it."""

    last: Line | None = None
    # Whether the edge of a block came, and whether a blank line did.
    fenced: bool = False
    blank: bool = False
    # Whether blank lines stand between the frames of a stack of this text, so that they end none.
    airy: bool = False

    def take(self, line: Line) -> None:
        """Take the next frame of the stack."""
        self.airy = self.airy or (self.last is not None and self.blank)
        self.last, self.fenced, self.blank = line, False, False

    def begin(self) -> None:
        """Some line says whose stack comes."""
        self.last, self.fenced, self.blank = None, False, False

    def parts(self, line: Line, before: Line | None, *, ended: bool, by_hand: bool) -> bool:
        """Whether this frame, or the line that says that frames come, is of another stack than the last frame.

        :param before: the line before, if it was none of the stack's.
        :param ended: whether the last frame is where a stack ends.
        :param by_hand: whether a person read the stack, so that no other lines of the kernel's stand in it.
        """
        last = self.last
        if last is None:
            return False
        if self.fenced or is_pause(last, line):
            return True
        if (one := _NUMBER.match(last.message)) and (two := _NUMBER.match(line.message)):
            return int(two[1]) <= int(one[1])
        if last.message.startswith("[<0>]") != line.message.startswith("[<0>]"):
            return True
        if last.stamped != line.stamped and (ended or before is not None):
            return True
        if ended and self.blank and not self.airy:
            return True
        if before is None or (before.stamped and last.stamped):
            return False
        return loose_head(before.message) is not None or ((ended or by_hand) and is_prose(before.message))


def is_pause(last: Line, line: Line) -> bool:
    """Whether the clock of the text went on, or back, for longer than a stack takes."""
    if last.time == line.time or (last.time_s is None) != (line.time_s is None):
        return False
    then, now = last.clock_s, line.clock_s
    return then is not None and now is not None and abs(now - then) > MAX_PAUSE_S


def is_torn(last: Line, line: Line) -> bool:
    """Whether two frames of one stack cannot have been printed one after the other.

    A CPU's clock goes on from frame to frame, and what prints a stack prints all of its frames in one form.
    """
    then, now = last.clock_s, line.clock_s
    # Hours back are midnight, or the end of a month, by a stamp that has no more of the date.
    if then is not None and now is not None and 0 < then - now < _HOUR_S:
        return True
    return is_of_crash(last) != is_of_crash(line)


def is_of_crash(line: Line) -> bool:
    """Whether a frame is numbered, as crash(8) prints it."""
    return _CRASH_FORM.match(line.message) is not None


def is_prose(message: str) -> bool:
    """Whether a line is a sentence, and says not that frames were left out."""
    return len(_WORD.findall(message[:400])) >= _SENTENCE and not _LEFT_OUT.search(message)


def lacks_lines(message: str) -> bool:
    """Whether a line stands where others were: whoever copied a text left them out, or a frame has lost its middle."""
    if _DOTS.fullmatch(message[:40]) or _HOLE.fullmatch(message[:200]):
        return True
    return (
        len(message) < 80 and ":" not in message and len(_WORD.findall(message)) <= _FEW and bool(_GONE.search(message))
    )
