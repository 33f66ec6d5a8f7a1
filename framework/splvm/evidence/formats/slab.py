"""/proc/spl/kmem/slab: its two layouts, and what its numbers must not say.

Sources: slab_seq_show() and slab_seq_show_headers() in module/os/linux/spl/spl-proc.c (module/spl/
before OpenZFS 2.0) for the format, spl-kmem-cache.c beside it for what the counters mean. The
meaning of single flag bits is not here: they moved between versions, and the probe reports them.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from splvm.errors import EvidenceError
from splvm.evidence.formats.stream import excerpt, payload_lines

# Written out here because a field below is called `object`.
Json = dict[str, object]


class Layout(enum.StrEnum):
    """Which columns the file has, named after the month in which they appeared."""

    # There are no emergency objects; no reader of records takes it.
    BEFORE = "before-2012-08"
    # Emergency objects stand in the object group (openzfs/spl pull request 155).
    AUGUST_2012 = "2012-08"
    # They have a group of their own, with the deadlock counter (openzfs/spl pull request 189).
    NOVEMBER_2012 = "2012-11"


@dataclass(frozen=True, slots=True)
class Usage:
    """The columns `total alloc max` of a group; None is a `-`."""

    # Slabs or objects there are now. For objects, emergency objects are counted in.
    total: int | None
    # In use now. For objects: taken from slabs, magazines included, emergency objects not.
    alloc: int | None
    # Highest `alloc` there ever was (not the highest `total`).
    max: int | None


@dataclass(frozen=True, slots=True)
class Emergency:
    """The columns of the emergency objects; None is a `-` or a column that the layout lacks."""

    # Callers that waited in vain for the cache to grow; absent in the layout of August 2012.
    dlock: int | None
    # Emergency objects in use now.
    alloc: int | None
    # Highest `alloc` there ever was.
    max: int | None


@dataclass(frozen=True, slots=True)
class CacheRow:
    """One cache; None is a `-`."""

    name: str
    # The raw bits; what they mean depends on the version.
    flags: int
    # Bytes of all slabs.
    size: int | None
    # Bytes of the objects in use.
    alloc: int | None
    # Bytes of one slab.
    slabsize: int | None
    # Bytes of one object.
    objsize: int | None
    slab: Usage
    object: Usage
    emergency: Emergency

    def to_json(self) -> Json:
        """The cache as `parse-slab --json` prints it."""
        return {
            "name": self.name,
            "flags": self.flags,
            "size": self.size,
            "alloc": self.alloc,
            "slabsize": self.slabsize,
            "objsize": self.objsize,
            "slab": {"total": self.slab.total, "alloc": self.slab.alloc, "max": self.slab.max},
            "object": {"total": self.object.total, "alloc": self.object.alloc, "max": self.object.max},
            "emergency": {
                "dlock": self.emergency.dlock,
                "alloc": self.emergency.alloc,
                "max": self.emergency.max,
            },
        }


@dataclass(frozen=True, slots=True)
class SlabFile:
    """One reading of the file.

    Each row is consistent in itself, it is printed under the cache's lock. The file is not a
    snapshot: a read returns about a page, and between two of them the list of caches is unlocked.
    """

    layout: Layout
    caches: tuple[CacheRow, ...]

    def cache(self, name: str) -> CacheRow | None:
        """The row of a cache, or None when there is no such cache.

        :raises EvidenceError: when several rows have the name, as in two readings pasted together.
        """
        rows = [row for row in self.caches if row.name == name]
        if len(rows) > 1:
            raise EvidenceError(f"{len(rows)} rows are named {excerpt(name)}: which one is meant?")
        return rows[0] if rows else None

    def to_json(self) -> Json:
        """The file as `parse-slab --json` prints it."""
        return {"layout": self.layout.value, "caches": [row.to_json() for row in self.caches]}


_COMMON = "name flags size alloc slabsize objsize total alloc max total alloc max "
_COLUMNS = {
    Layout.BEFORE: _COMMON.split(),
    Layout.AUGUST_2012: (_COMMON + "emerg max").split(),
    Layout.NOVEMBER_2012: (_COMMON + "dlock alloc max").split(),
}
_GROUPS = frozenset(("cache", "slab", "object", "emergency"))
_FLAGS = re.compile(r"0x[0-9a-f]{1,16}")
_NUMBER = re.compile(r"[0-9]{1,20}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# The shell's words for the next command, at the end of what was copied from a terminal.
_PROMPT = re.compile(r"(?:\S{1,80} ){0,3}\S{0,80}[$#%>]")
_FENCE = re.compile(r"`{3,10}[a-z]{0,20}")
_PATH = "/proc/spl/kmem/slab"


def parse_slab(text: str) -> SlabFile:
    """Read the file as the kernel prints it, or as people paste it.

    Pasted means: blank lines, CR LF, indentation, collapsed spaces, a command line that names the
    file, a last prompt, code fences, no last newline, and headers that repeat. Numbers wider than
    their column are read as well as any: cells are told apart by spaces, from the right, because
    the name comes first and may itself contain spaces.

    :raises EvidenceError: for anything else, and for a file that is cut off, with the line.
    """
    numbered = payload_lines(text.removeprefix("\ufeff"))
    lines = [(number, line) for number, line in numbered if line.strip() and not _FENCE.fullmatch(line.strip())]
    if not lines:
        raise EvidenceError("the slab file is empty")
    last = lines[-1][0]
    reader = _Reader(unfinished=last > text.count("\n"))
    for number, line in lines:
        reader.read(number, line, last=number == last)
    return reader.finish(last)


class _Reader:
    """Reads line after line; what may come next depends on the headers seen."""

    def __init__(self, *, unfinished: bool) -> None:
        self.unfinished = unfinished
        self.layout: Layout | None = None
        self.aligned = False
        self.group_line: int | None = None
        self.rows: list[CacheRow] = []

    def read(self, number: int, line: str, *, last: bool) -> None:
        if _CONTROL.search(line):
            raise EvidenceError(f"control characters: {excerpt(line)}", line=number)
        words = line.split()
        if words[:2] == ["name", "flags"]:
            self.read_columns(number, line, words)
        elif self.group_line is not None:
            raise EvidenceError("no column names after the line of group names", line=number)
        elif is_group_line(words):
            self.group_line = number
        elif not self.read_row(number, line, last=last) and not _is_pasted(line, last):
            raise EvidenceError(self.complaint(line, last), line=number)

    def read_columns(self, number: int, line: str, words: list[str]) -> None:
        layout = layout_of(words)
        if layout is None or layout is Layout.BEFORE:
            raise EvidenceError(
                f"{len(words)} columns that are not those of a slab file with emergency objects: "
                "cut short, or from before August 2012",
                line=number,
            )
        if self.layout not in (None, layout):
            raise EvidenceError(f"the columns of {layout.value} in a file of {self.layout}", line=number)
        self.layout = layout
        self.aligned = "alloc   max" in line
        self.group_line = None

    def read_row(self, number: int, line: str, *, last: bool) -> bool:
        """Take a line as a row; False when it is none."""
        if self.layout is None:
            return False
        if not is_row(line, self.layout):
            return False
        if last and self.unfinished and self.aligned and last_cell_width(line) < 5:
            raise EvidenceError(f"truncated: the last number is cut off: {excerpt(line.split()[-1])}", line=number)
        self.rows.append(row_of(line, self.layout, number))
        return True

    def complaint(self, line: str, last: bool) -> str:
        if self.layout is None:
            return f"not a slab file, its column names were expected: {excerpt(line)}"
        cells = f"{len(line.split())} of {len(_COLUMNS[self.layout])} cells: {excerpt(line)}"
        return f"truncated: the last row has {cells}" if last else f"not a row of a slab file, {cells}"

    def finish(self, last_line: int) -> SlabFile:
        if self.group_line is not None:
            raise EvidenceError("truncated: the file ends before the column names", line=self.group_line)
        if self.layout is None:
            raise EvidenceError("not a slab file: it has no column names", line=last_line)
        return SlabFile(self.layout, tuple(self.rows))


def layout_of(words: Sequence[str]) -> Layout | None:
    """The layout whose column names these are."""
    return next((layout for layout, columns in _COLUMNS.items() if list(words) == columns), None)


def is_row(line: str, layout: Layout) -> bool:
    """Whether a line has the cells of a row, from the right."""
    cells = line.rsplit(None, len(_COLUMNS[layout]) - 1)
    return len(cells) == len(_COLUMNS[layout]) and _FLAGS.fullmatch(cells[1]) is not None


def row_of(line: str, layout: Layout, number: int) -> CacheRow:
    """Read a line that :func:`is_row` takes for a row.

    :param number: of the line, for the error.
    :raises EvidenceError: when a cell is no number, or two rows stand on the line.
    """
    cells = line.rsplit(None, len(_COLUMNS[layout]) - 1)
    if any(_FLAGS.fullmatch(word) for word in cells[0].split()[1:]):
        raise EvidenceError(f"two rows on one line: {excerpt(line)}", line=number)
    numbers = [_number(cell, number) for cell in cells[2:]]
    if layout is Layout.BEFORE:
        numbers += [None, None]
    return _row(cells[0].strip(), int(cells[1], 16), numbers)


def is_group_line(words: Sequence[str]) -> bool:
    """Whether this is the line `--- cache --- --- slab --- ...`."""
    return "---" in words[0] and all(word in _GROUPS or not word.strip("-") for word in words)


def _is_pasted(line: str, last: bool) -> bool:
    """Whether this line came along when the file was copied: the command, or the next prompt."""
    return _PATH in line or (last and _PROMPT.fullmatch(line.strip()) is not None)


def last_cell_width(line: str) -> int:
    """Columns that the last cell takes, its padding counted, the separating space not.

    The kernel prints it with `%5lu`. A cell that takes fewer lost its end, with one exception: of
    a number wider than its column nobody can tell.
    """
    before = line.rstrip()[: -len(line.split()[-1])].rstrip()
    return len(line) - len(before) - 1


def _number(cell: str, line: int) -> int | None:
    if cell == "-":
        return None
    if not _NUMBER.fullmatch(cell) or int(cell) >= 1 << 64:
        raise EvidenceError(f"not a number of 64 bits: {excerpt(cell)}", line=line)
    return int(cell)


def _row(name: str, flags: int, cells: Sequence[int | None]) -> CacheRow:
    """:param cells: those after the flags: 12 in the layout of August 2012, 13 in the later one."""
    *common, emergency_alloc, emergency_max = cells
    dlock = common.pop() if len(common) > 10 else None
    size, alloc, slabsize, objsize = common[:4]
    return CacheRow(
        name,
        flags,
        size,
        alloc,
        slabsize,
        objsize,
        Usage(*common[4:7]),
        Usage(*common[7:10]),
        Emergency(dlock, emergency_alloc, emergency_max),
    )


def contradictions(row: CacheRow) -> tuple[str, ...]:
    """What a row says against itself, a sentence each; empty for a sound one.

    Every relation checked here holds at each moment under the cache's lock, under which the row
    is printed, in all versions from August 2012 to OpenZFS 2.4 (spl_cache_obj(), spl_cache_shrink(),
    spl_slab_free(), __spl_cache_grow(), spl_emergency_alloc(), spl_emergency_free()). That
    emergency objects exist with `dlock` 0 is none: allocations that must not sleep (KM_NOSLEEP)
    take one without waiting.
    """
    negative = tuple(_negative(row))
    # A counter that went below zero breaks most of the other relations too: name the cause only.
    found = negative or (*_sizes(row), *_groups(row), *_objects(row))
    return tuple(f"{row.name}: {sentence}" for sentence in found)


def _cells(row: CacheRow) -> Iterator[tuple[str, int | None]]:
    for group, usage in (("slab", row.slab), ("object", row.object)):
        yield from ((f"{group} total", usage.total), (f"{group} alloc", usage.alloc), (f"{group} max", usage.max))
    yield from (("dlock", row.emergency.dlock), ("emergency alloc", row.emergency.alloc))
    yield "emergency max", row.emergency.max


def _negative(row: CacheRow) -> Iterator[str]:
    # Caches that the kernel's own slab allocator backs count per CPU without a lock; that sum
    # may be off by the allocations under way (percpu_counter_sum() in slab_seq_show()).
    if row.slab.total is None:
        return
    for what, value in _cells(row):
        if value is not None and value >= 1 << 63:
            yield f"{what} is {value}, it went below zero by {(1 << 64) - value}"


def _sizes(row: CacheRow) -> Iterator[str]:
    """The two columns that are products of others; the kernel multiplies modulo 2^64."""
    for what, value, factor, unit, count in (
        ("size", row.size, row.slabsize, "slabs", row.slab.total),
        ("alloc", row.alloc, row.objsize, "objects", row.object.alloc),
    ):
        if value is None or factor is None or count is None:
            continue
        if value != factor * count % (1 << 64):
            yield f"{what} is {value}, but {count} {unit} of {factor} bytes take {factor * count}"


def _groups(row: CacheRow) -> Iterator[str]:
    pairs = (
        ("slab alloc", row.slab.alloc, "slab total", row.slab.total),
        ("slab alloc", row.slab.alloc, "slab max", row.slab.max),
        ("object alloc", row.object.alloc, "object total", row.object.total),
        ("object alloc", row.object.alloc, "object max", row.object.max),
        ("emergency alloc", row.emergency.alloc, "emergency max", row.emergency.max),
        # A slab in use has an object in use, now and when there were most of them.
        ("slab alloc", row.slab.alloc, "object alloc", row.object.alloc),
        ("slab max", row.slab.max, "object max", row.object.max),
    )
    for low_name, low, high_name, high in pairs:
        if low is not None and high is not None and low > high:
            yield f"{low_name} {low} exceeds {high_name} {high}"


def _objects(row: CacheRow) -> Iterator[str]:
    """All slabs of a cache hold equally many objects, and emergency objects are counted in `total`."""
    slab, objects, emergency = row.slab, row.object, row.emergency.alloc
    if slab.total is None or objects.total is None or objects.alloc is None or emergency is None:
        return
    if objects.alloc + emergency > objects.total:
        yield (
            f"object alloc {objects.alloc} and emergency alloc {emergency} make {objects.alloc + emergency}, "
            f"more than object total {objects.total}"
        )
        return
    in_slabs = objects.total - emergency
    if (in_slabs == 0) != (slab.total == 0) or (slab.total and in_slabs % slab.total):
        yield (
            f"object total {objects.total} less emergency alloc {emergency} is {in_slabs}, "
            f"which {slab.total} slabs of equally many objects cannot hold"
        )
    elif slab.total:
        yield from _overfull(row, in_slabs // slab.total)


def _overfull(row: CacheRow, per_slab: int) -> Iterator[str]:
    for what, slabs, objects in (
        ("alloc", row.slab.alloc, row.object.alloc),
        ("max", row.slab.max, row.object.max),
    ):
        if slabs is not None and objects is not None and objects > slabs * per_slab:
            yield f"object {what} {objects} exceeds {slabs * per_slab}, slab {what} {slabs} of {per_slab} objects each"


def regressions(before: CacheRow, after: CacheRow) -> tuple[str, ...]:
    """What went down, or changed, between two readings of one cache although it never does.

    A cache that was destroyed and made again between the readings shows up here as well.

    :param before: the earlier row.
    :param after: the later row, of the same name.
    :raises ValueError: when the names differ.
    """
    if before.name != after.name:
        raise ValueError(f"rows of two caches: {before.name!r} and {after.name!r}")
    found = []
    for what, old_size, new_size in (
        ("objsize", before.objsize, after.objsize),
        ("slabsize", before.slabsize, after.slabsize),
    ):
        if old_size is not None and new_size is not None and old_size != new_size:
            found.append(f"{what} changed from {old_size} to {new_size}: this is another cache")
    old_cells = dict(_cells(before))
    for what, new in _cells(after):
        old = old_cells[what]
        if (what == "dlock" or what.endswith("max")) and old is not None and new is not None and new < old:
            found.append(f"{what} went down from {old} to {new}")
    return tuple(f"{after.name}: {sentence}" for sentence in found)
