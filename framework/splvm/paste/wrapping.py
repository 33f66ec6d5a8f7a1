"""Lines that a mailer, a terminal or a page broke, and lines that it put together.

Owns how a line is told that goes on in the next one, and where several lines were made one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from splvm.paste.findings import HOW_LONG
from splvm.paste.frames import frames_of, head_of
from splvm.paste.prefixes import Line, Stripper

# Widths at which mailers break lines, lines that one is made of, and lines of a paragraph that was filled.
_WIDTHS = range(64, 133)
_MAX_JOINED = 4
_MAX_FILLED = 2000
# Characters of a line of a paragraph.
_FILLED = 200
# What mailers put before a line that they quote.
_QUOTED = re.compile(r"(?:> ?){1,8}")
# Pairs of lines that are looked at to find a terminal's width.
_ENOUGH = 20
_HALF_TASK = re.compile(r"task:\S.{0,64}?\s{1,20}state:[A-Za-z?]", re.ASCII)
_HALF_HUNG = re.compile(
    r"INFO: task (?:(?! blocked).){1,60}?:\d{1,10}(?: blocked| blocked for| blocked for more)?\s*$", re.ASCII
)
# The line that says whose lock it is, up to the number of the owner.
_HALF_OWNER = re.compile(
    r"INFO: task (?:(?! blocked| is ).){1,60}?:\d{1,10}(?: <\w{1,10}>)?(?: is)?(?: blocked on(?: an?(?: [\w-]{1,20}"
    r"(?:,? likely(?: owned| last(?: held)?)?(?: by)?(?: task)?)?)?)?)?\s*$",
    re.ASCII,
)
# What lines of a kernel's log begin with: where several were pasted into one, each stands in its middle.
_STAMP = re.compile(r"\[ {0,12}\d{1,10}\.\d{6}\]")
_BEGINS = re.compile(
    r'(?<=[\s>\]])(?=INFO: task |BUG: |Future hung task|task:\S{1,32} {1,20}state:|"echo 0 >|Call Trace:'
    r"|</?TASK>|RIP: 0010:|CPU: \d|Modules linked in:|---\[ end)"
    r"|(?<=[\s>])(?=(?:\? )?[A-Za-z_][\w.]{0,80}\+0x[0-9a-f]{1,8}/0x)(?<!\? )"
)


def is_half(message: str) -> bool:
    """Whether a mailer broke this line before the number of the thread."""
    if message[:5] == "task:" and _HALF_TASK.match(message):
        return "pid:" not in message or message.rstrip().endswith("pid:")
    if message[:10] != "INFO: task":
        return False
    return _HALF_HUNG.match(message) is not None or _HALF_OWNER.match(message) is not None


def begins_task(message: str) -> bool:
    """Whether this line is the first one that the kernel prints of a thread, at its end or not."""
    return message[:5] == "task:" and _HALF_TASK.match(message) is not None


# What the first line of a report of a hung task goes on with, as two ages of the kernel write it.
_HUNG_RESTS = (" blocked for more than ", " is blocked for more than ", " blocked in I/O wait for more than ")
_CUT_HUNG = re.compile(r"INFO: task (?P<comm>.{1,60}?):(?P<pid>\d{1,10})(?P<rest> [a-z/O I]{0,40})$", re.ASCII)


def complete(message: str) -> str:
    """The first line of a report of a hung task whose end is not in the text, so far as to read it; else nothing."""
    cut = _CUT_HUNG.match(message)
    if cut is None or not any(rest.startswith(cut["rest"]) for rest in _HUNG_RESTS):
        return ""
    return f"INFO: task {cut['comm']}:{cut['pid']} {HOW_LONG}"


@dataclass(slots=True)
class Joiner:
    """Puts lines of a text together that were broken."""

    # Characters of a line of the terminal from which it was copied; None until it is asked for, 0 if there is none.
    columns: int | None = None

    def join(self, lines: Sequence[str], at: int, line: Line) -> int:
        """Put what belongs to the line at `at` behind its message; how many lines it is made of."""
        if not line.stamped or at + 1 >= len(lines) or lines[at + 1][:3] == lines[at][:3]:
            return 1
        joined, width = 1, len(lines[at].rstrip("\r"))
        while joined < _MAX_JOINED and at + joined < len(lines):
            raw = lines[at + joined].strip("\r")
            after = unquoted(raw, lines[at])
            if not after.strip(" \t>") or width > _WIDTHS.stop or after[:3] == lines[at][:3] or after[:1] in "[<{-":
                break
            if width == self.width_of(lines):
                line.message += after
            elif width + 1 + len(after.split(None, 1)[0]) < _WIDTHS.start or not goes_on(line, after.strip()):
                break
            else:
                line.message = f"{line.message.rstrip()} {after.strip()}".strip()
            joined, width = joined + 1, len(raw)
        return joined

    def width_of(self, lines: Sequence[str]) -> int:
        """The width of a terminal that broke lines in the middle of words; 0 if none did."""
        if self.columns is None:
            self.columns = terminal_width(lines)
        return self.columns


def unquoted(line: str, like: str) -> str:
    """A line of a mail without the marks of a quotation, if the one before it has as many."""
    marks = _QUOTED.match(like)
    return line[marks.end() :] if marks and line.startswith(marks[0].rstrip()) and line[marks.end() :] else line


def terminal_width(lines: Sequence[str]) -> int:
    """The length that all lines have which go on in the next one, if there are several and no line is longer."""
    widths = set()
    longest = max(map(len, lines[:2000]), default=0)
    count = 0
    for one, two in itertools.pairwise(lines[:2000]):
        if len(one) >= 40 and two and two[:3] != one[:3] and Stripper().strip(one).stamped:
            if Stripper().strip(two).stamped:
                continue
            widths.add(len(one.rstrip("\r")))
            count += 1
            if len(widths) > 1 or count > _ENOUGH:
                break
    return widths.pop() if len(widths) == 1 and count > 1 and longest in range(40, 400) and longest in widths else 0


def goes_on(line: Line, after: str) -> bool:
    """Whether a line is the rest of the one before, and not one of its own."""
    if frames_of(after) is not None or head_of(after) is not None or after.startswith(("Call ", "<", "#")):
        return line.message.strip() in ("", "?")
    # Fields of an event, as zpool(8) prints them, are lines of their own.
    return " = " not in after[:24] and not Stripper().strip(after).stamped


def fill_of(lines: Sequence[str], at: int) -> int:
    """How many lines from `at` on are a paragraph into which somebody filled the lines of a log; 1 if it is none."""
    line = lines[at]
    if len(line) > _FILLED or at + 1 >= len(lines) or not (_in_middle(line) or _in_middle(lines[at + 1])):
        return 1
    if not Stripper().strip(line).stamped:
        return 1
    end = at + 1
    while end < len(lines) and lines[end].strip() and end - at < _MAX_FILLED:
        end += 1
    return end - at


def _in_middle(line: str) -> bool:
    """Whether a time of the kernel's stands in the middle of a line, behind what is no prefix."""
    if line.find("[", 8, _FILLED) < 0:
        return False
    found = _STAMP.search(line, 8, _FILLED)
    return found is not None and Stripper().strip(line[: found.start()]).message.strip() != ""


def split_lines(line: str) -> list[str]:
    """The lines of a log that somebody pasted into one; the line itself if it is none of that kind."""
    if line.count("] ") > 2 and len(stamps := list(_STAMP.finditer(line))) > 2:
        # The same stands before each stamp as before the first: host and program.
        return _cut(line, _repeated(line, stamps[0]) or [it.start() for it in stamps])
    if line.count("+0x") > 2 or line.count("INFO: task ") > 1 or "Future hung" in line[1:]:
        return _cut(line, [it.start() for it in _BEGINS.finditer(line)])
    return [line]


def _cut(line: str, places: Sequence[int]) -> list[str]:
    """The line cut at each place."""
    return [line[one:two] for one, two in itertools.pairwise((0, *places, len(line))) if two > one]


def _repeated(line: str, stamp: re.Match[str]) -> list[int]:
    """Where what stands before the first stamp of a line stands again."""
    before = re.split(r"(\d{1,20}| {1,12})", line[: stamp.start()])
    if len(line) < 2 * stamp.end() or stamp.start() > 160:
        return []
    parts = (r"\d{1,20}" if it.isdigit() else " {1,12}" if it.isspace() else re.escape(it) for it in before)
    places = [it.start() for it in re.finditer("".join(parts) + _STAMP.pattern, line)]
    return places if len(places) > 2 else []


def split_escaped(line: str) -> list[str]:
    """Lines within a string of JSON, of a shell, or of an address."""
    if line.count("%0A") > 2:
        return [piece for piece in unquote(line).split("\n") if piece]
    if line.count("\\n") < 3:
        return [line]
    return [piece for piece in line.replace('\\"', '"').replace("\\t", " ").split("\\n") if piece]
