"""Slab files as people paste them: labels, prompts, snips, no headers, several readings; and what changed between two.

The lenient reader. Rows are read by the parser of `splvm.evidence.formats.slab`, whose own reader is strict.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from splvm.errors import EvidenceError
from splvm.evidence.formats.slab import (
    CacheRow,
    Layout,
    SlabFile,
    contradictions,
    is_group_line,
    is_row,
    last_cell_width,
    layout_of,
    regressions,
    row_of,
)
from splvm.evidence.formats.stream import excerpt
from splvm.paste.cleaning import Cleaner
from splvm.paste.prefixes import Line, Stripper, clock_of

# Readings kept of a text, and caches of one.
MAX_READINGS = 1000
MAX_CACHES = 2000

_DATE = re.compile(
    r"(?:[A-Z][a-z]{2} {1,2}){2}\d{1,2} \d\d:\d\d:\d\d|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{1,9})?"
    r"|^\d\d:\d\d:\d\d$",
    re.ASCII,
)
# The beginning of a row.
_CUT = re.compile(
    r"[\w().-]{1,60}(?: [\w().-]{1,30}){0,2}(?:\s{1,60}0x?[0-9a-f]{0,16})?(?:\s{1,30}(?:\d{1,20}|-)){0,16}"
)
_MAYBE = re.compile(r"\S{1,60}\s{1,60}0x[0-9a-f]{3,16}(?:\s{1,30}(?:\d{1,20}|-)){2,16}\s*$")


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of the file."""

    slab: SlabFile
    # As it is written before it; empty if there is none.
    time: str
    # Of its first line.
    line: int
    # What the text calls the machine or the file that it is of; empty if it says nothing.
    label: str = ""

    @property
    def contradictions(self) -> tuple[str, ...]:
        """What its rows say against themselves."""
        return tuple(sentence for row in self.slab.caches for sentence in contradictions(row))

    def to_json(self) -> dict[str, object]:
        return {
            **self.slab.to_json(),
            "time": self.time or None,
            "label": self.label or None,
            "contradictions": list(self.contradictions),
        }


# What the columns are called, and a line of nothing but cells: the rest of one that a mailer broke.
_NAMES = frozenset(["name", "flags", "size", "alloc", "slabsize", "objsize", "total", "max", "emerg", "dlock"])
_BEGUN = re.compile(r"\s{0,20}[A-Za-z][\w().-]{1,60}\s{1,60}0x[0-9a-f]{3,8}(?:\s{1,30}(?:\d{1,20}|-)){0,1}\s*$")
_CELLS = re.compile(r"\s{0,20}(?:(?:\d{1,20}|-)(?:\s{1,30}|$)){1,14}\s*$")


@dataclass(slots=True)
class SlabReader:
    """Takes lines, of which some are of slab files."""

    readings: list[Reading] = field(default_factory=list)
    # Rows that are cut: line and what it says.
    broken: list[tuple[int, str]] = field(default_factory=list)
    layout: Layout | None = None
    rows: dict[str, CacheRow] = field(default_factory=dict)
    time: str = ""
    label: str = ""
    # Of the reading whose head was read and whose rows come.
    next_time: str = ""
    next_label: str = ""
    begun: int = 0
    # A line that may go on in the next one, and its number; names of columns, or cells.
    half: str = ""
    half_at: int = 0

    def take(self, number: int, line: str, time: str = "", label: str = "") -> bool:
        """Whether the line belongs to a slab file."""
        words = line.split()
        if not words or len(line) > 1000:
            return False
        if self.half and self.join(line, words, time):
            return True
        if words[:2] == ["name", "flags"] and _NAMES.issuperset(words):
            self.begin(words, time, label)
            self.half, self.half_at = line, number
            return True
        if "---" in words[0] and is_group_line(words):
            self.begin((), time, label)
            return True
        if self.layout is not None and len(words) < 4 and _BEGUN.match(line):
            self.half, self.half_at = line, number
            return True
        if len(words) < 4 or not _may_be_row(words):
            return False
        for layout in (self.layout,) if self.layout else (Layout.NOVEMBER_2012, Layout.AUGUST_2012, Layout.BEFORE):
            if layout is not None and is_row(line, layout):
                return self.add(number, line, layout, time, label)
        if self.layout is None and not self.rows:
            return False
        if _MAYBE.match(line):
            self.half, self.half_at = line, number
            return True
        return False

    def join(self, line: str, words: Sequence[str], time: str) -> bool:
        """Put a line behind the one that it goes on from; a row whose rest does not come is cut."""
        half, at = self.half, self.half_at
        names = half.split()
        if names[:2] == ["name", "flags"]:
            self.half = ""
            if not _NAMES.issuperset(words) or words[0] == "name":
                return False
            self.begin([*names, *words], time, "")
            self.half = f"{half} {line}"
            return True
        if not _CELLS.match(line) or self.layout is None:
            self.cut()
            return False
        self.half = f"{half.rstrip()} {line.strip()}"
        if is_row(self.half, self.layout):
            row, self.half = self.half, ""
            return self.add(at, row, self.layout, time, "")
        return True

    def cut(self) -> None:
        """What was begun does not go on."""
        if self.half and self.half.split()[:2] != ["name", "flags"]:
            self.broken.append((self.half_at, f"a row that is cut: {excerpt(self.half)}"))
        self.half = ""

    def begin(self, names: Sequence[str], time: str, label: str) -> None:
        """Column names stand before each reading, and now and then in the middle of one."""
        layout = layout_of(names) if names else None
        if layout is not None:
            if self.layout not in (None, layout) and self.rows:
                self.finish()
            self.layout = layout
        if label and label != self.label:
            self.finish()
        self.next_time, self.next_label = time or self.next_time, label or self.next_label

    def add(self, number: int, line: str, layout: Layout, time: str, label: str) -> bool:
        try:
            row = row_of(line, layout, number)
        except EvidenceError as error:
            self.broken.append((number, error.message))
            return True
        if row.name in self.rows:
            self.finish()
        if not self.rows:
            self.begun, self.time = number, time or self.next_time
            self.label = label or self.next_label
        self.layout = layout
        if len(self.rows) < MAX_CACHES:
            self.rows[row.name] = row
        return True

    def finish(self) -> None:
        """What comes next is another reading."""
        self.cut()
        if self.rows and self.layout is not None and len(self.readings) < MAX_READINGS:
            slab = SlabFile(self.layout, tuple(self.rows.values()))
            self.readings.append(Reading(slab, self.time, self.begun, self.label))
        self.rows, self.time = {}, ""


# Labels that tell readings of one machine apart, and those that tell machines apart.
_SERIES = re.compile(
    r"before|after|now|then|later|again|start|end|first|last|second|third|slab|kmem|reading|sample|run|idle|load|txg|proc"
    r"|spl|cat|date|time|here|output|today|yesterday|mon|tue|wed|thu|fri|sat|sun|\d{4}",
    re.IGNORECASE,
)
_LABELS = (
    re.compile(r"\[?[a-z_][\w-]{0,31}@(?P<label>[A-Za-z][\w.-]{1,63})[: ][^\n]{0,160}[#$%]"),
    re.compile(r"==> ?(?:\S{0,100}/)?(?P<label>[A-Za-z][\w-]{1,62})[\w.]{0,20} ?<=="),
    re.compile(
        r"\W{0,8}(?:(?:[Hh]ost|[Nn]ode|[Mm]achine|[Ss]erver)(?:name)?[ :=]{1,3})?(?P<label>[A-Za-z][\w.-]{1,62})"
        r"\W{0,8}$"
    ),
)


def label_of(text: str) -> str:
    """The machine that a line above a slab file names: a prompt, a heading, a file's name; empty if it names none."""
    for pattern in _LABELS:
        if len(text) < 300 and (match := pattern.match(text.strip())):
            return "" if _SERIES.match(match["label"]) else match["label"]
    return ""


def series(readings: Sequence[Reading]) -> Iterator[tuple[Reading, Reading]]:
    """Each reading with the one before it of the same machine, as far as labels say."""
    last: dict[str, Reading] = {}
    for reading in readings:
        before = last.get(reading.label) or (last.get("") if reading.label else next(iter(last.values()), None))
        if before is not None:
            yield before, reading
        last[reading.label] = reading


def _may_be_row(words: Sequence[str]) -> bool:
    """Whether a name comes first, then flags, and then nothing but numbers."""
    at = next((at for at, word in enumerate(words[:6]) if at and word.startswith("0x")), 0)
    return bool(at) and len(words) > at + 1 and all(word == "-" or word.isdecimal() for word in words[at + 1 :])


def parse_slabs(text: str) -> tuple[Reading, ...]:
    """Read every slab file in a text, as people paste it.

    :raises EvidenceError: when there is not one whole row, or a row is cut, with its line.
    """
    reader = SlabReader()
    lines = text.removeprefix("\ufeff").split("\n")
    last, stripper, cleaner, time, label = 0, Stripper(), Cleaner(), "", ""
    for number, line in enumerate(lines, 1):
        for part in cleaner.clean(line):
            it = stripper.strip(part[:4000])
            time = time_of(it) or time
            if reader.take(number, it.message, time, it.host or label):
                last, label = number, ""
            else:
                label = label_of(part) or label
    if lines[-1].strip() and last == len(lines) and reader.rows and "  " in lines[-1].strip():
        aligned = any("alloc   max" in line for line in lines)
        if aligned and last_cell_width(lines[-1]) < 5:
            reader.broken.append((last, f"truncated: the last number is cut off: {excerpt(lines[-1].split()[-1])}"))
    elif lines[-1].strip() and last == len(lines) - 1 and _CUT.fullmatch(lines[-1].strip()):
        reader.broken.append((len(lines), f"truncated: the last row is cut: {excerpt(lines[-1])}"))
    reader.finish()
    if reader.broken:
        number, why = reader.broken[0]
        raise EvidenceError(why, line=number)
    if not reader.readings:
        raise EvidenceError("not a slab file: it has no whole row", line=max(1, len(lines) - (not lines[-1])))
    return tuple(reader.readings)


def time_of(line: Line) -> str:
    """A time that stands before a reading or in the line, as date(1) prints it."""
    if line.time:
        return line.time
    match = _DATE.search(line.message)
    return match[0] if match and len(line.message) < 200 else ""


def elapsed_s(before: str, after: str) -> float | None:
    """Seconds between two times as they are written; None if one is missing or they make no sense."""
    one, two = clock_of(before), clock_of(after)
    return two - one if one is not None and two is not None and two > one else None


# What a table can be sorted by, and how.
SORTS: Mapping[str, Callable[[CacheRow], int | str]] = {
    "name": lambda row: row.name,
    "flags": lambda row: row.flags,
    "bytes": lambda row: row.size or 0,
    "used": lambda row: row.alloc or 0,
    "utilisation": lambda row: round(1000 * (utilisation(row) or 0)),
    "objsize": lambda row: row.objsize or 0,
    "slabs": lambda row: row.slab.total or 0,
    "objects": lambda row: row.object.total or 0,
    "in-use": lambda row: row.object.alloc or 0,
    "dlock": lambda row: row.emergency.dlock or 0,
    "emergency": lambda row: row.emergency.alloc or 0,
    "max": lambda row: row.emergency.max or 0,
}


def utilisation(row: CacheRow) -> float | None:
    """Which part of the slabs' bytes is in use; None if there are none."""
    return row.alloc / row.size if row.size and row.alloc is not None else None


def sort_rows(rows: Sequence[CacheRow], by: str) -> list[CacheRow]:
    """The rows in the order of a column: names upwards, numbers downwards."""
    return sorted(rows, key=SORTS[by], reverse=by != "name")


@dataclass(frozen=True, slots=True)
class Change:
    """One column of one cache in two readings."""

    cache: str
    column: str
    before: int | None
    after: int | None


def changes(before: SlabFile, after: SlabFile) -> tuple[Change, ...]:
    """What differs between two readings; a cache that is in one of them only has `size` None in the other."""
    old, new = ({row.name: row for row in slab.caches} for slab in (before, after))
    found = []
    for name in dict.fromkeys((*old, *new)):
        was, now = (_columns(rows[name]) if name in rows else {"size": None} for rows in (old, new))
        if name not in old or name not in new:
            found.append(Change(name, "size", was.get("size"), now.get("size")))
            continue
        found += [Change(name, column, was[column], value) for column, value in now.items() if value != was[column]]
    return tuple(found)


def never(before: SlabFile, after: SlabFile) -> tuple[str, ...]:
    """What went down between two readings although it never does."""
    old = {row.name: row for row in before.caches}
    return tuple(it for row in after.caches if row.name in old for it in regressions(old[row.name], row))


def _columns(row: CacheRow) -> dict[str, int | None]:
    return {
        "flags": row.flags,
        "size": row.size,
        "alloc": row.alloc,
        "slabs": row.slab.total,
        "objects": row.object.total,
        "in use": row.object.alloc,
        "dlock": row.emergency.dlock,
        "emergency": row.emergency.alloc,
        "max": row.emergency.max,
    }
