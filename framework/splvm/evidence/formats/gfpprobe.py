"""/proc/gfpprobe, version 1 (docs/formats.md): with which flags a kernel was seen to allocate page tables."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from splvm.errors import EvidenceError
from splvm.evidence.formats.statusfile import Line, Records, parse_records
from splvm.evidence.formats.stream import excerpt

VERSION = 1


class Level(enum.StrEnum):
    """Which table a page becomes; the last one that an address is looked up in comes first."""

    PTE = "pte"
    PMD = "pmd"
    PUD = "pud"
    # With five levels of paging only.
    P4D = "p4d"


class Way(enum.StrEnum):
    """How an allocation was told what it must not do; the name of its trial."""

    NOFS_FLAGS = "nofs-flags"
    NOIO_FLAGS = "noio-flags"
    NOFS_SCOPE = "nofs-scope"
    NOIO_SCOPE = "noio-scope"

    @property
    def words(self) -> str:
        """As a kernel developer would say it."""
        return _WORDS[self]


_WORDS = {
    Way.NOFS_FLAGS: "GFP_NOFS",
    Way.NOIO_FLAGS: "GFP_NOIO",
    Way.NOFS_SCOPE: "memalloc_nofs_save()",
    Way.NOIO_SCOPE: "memalloc_noio_save()",
}

# The trial that may do everything.
CONTROL = "control"


class FlagEntry(enum.StrEnum):
    """Where an allocation enters the kernel."""

    # The function behind __vmalloc(), with an area in which every table is missing that is not made at boot.
    RANGE = "range"
    # __vmalloc() itself, until a PTE table was needed.
    DIRECT = "direct"


@dataclass(frozen=True, slots=True)
class Alloc:
    """Pages of one kind that were asked for in a trial."""

    # None: for something else than a table.
    level: Level | None
    # GFP flags as the page allocator was given them, and what the scope of the task made of them.
    gfp: int
    effective: int
    # Whether the task was in a scope.
    noio: bool
    nofs: bool
    count: int


@dataclass(frozen=True, slots=True)
class LevelUse:
    """What happened at one level in a trial."""

    # Calls of the function that makes a table of it.
    calls: int
    # Whether the table was there before and after; None where that was not looked at.
    before: bool | None
    after: bool | None


@dataclass(frozen=True, slots=True)
class FlagTrial:
    """One allocation by vmalloc, or a few."""

    what: str
    entry: FlagEntry
    gfp: int
    # `none`, `nofs` or `noio`.
    scope: str
    # 0, or a negative errno.
    err: int
    # Allocations that there was no room to note.
    lost: int
    levels: Mapping[Level, LevelUse]
    allocs: tuple[Alloc, ...]


@dataclass(frozen=True, slots=True)
class Mask:
    """GFP flags that were given to __vmalloc() to see whether the kernel complains."""

    name: str
    gfp: int
    err: int


@dataclass(frozen=True, slots=True)
class GfpReport:
    """A whole report of gfpprobe."""

    release: str
    paging_levels: int
    # __GFP_IO and __GFP_FS of this kernel.
    io: int
    fs: int
    # Function that was probed for allocations, and levels whose function was.
    allocator: str
    probed: frozenset[Level]
    # An allocation was seen exactly as it was made.
    test_passed: bool
    trials: tuple[FlagTrial, ...]
    masks: tuple[Mask, ...]

    @property
    def levels(self) -> tuple[Level, ...]:
        """The levels that this kernel has as it runs."""
        return tuple(Level)[: self.paging_levels - 1]

    def find(self, what: str, entry: FlagEntry) -> FlagTrial | None:
        """The trial of that name."""
        return next((trial for trial in self.trials if (trial.what, trial.entry) == (what, entry)), None)


def parse_gfpprobe(text: str) -> GfpReport:
    """Read a report of version 1. Tags and keys that are not known are left alone.

    :raises EvidenceError: for another version, for something that is missing, doubled, or not what it should be, and
        for a report that is not whole.
    """
    records = parse_records(text, "gfpprobe", VERSION)
    kernel, probed, test = records.only("kernel"), records.only("probed"), records.only("test")
    paging_levels = kernel.numbers("paging_levels")["paging_levels"]
    if paging_levels not in (4, 5):
        raise EvidenceError(f"{paging_levels} levels of paging, there are 4 or 5", line=kernel.number)
    bits, tested = records.only("bits").numbers("io", "fs"), test.numbers("gfp", "seen", "times")
    if min(bits.values()) <= 0:
        raise EvidenceError("a flag without a bit", line=records.only("bits").number)
    report = GfpReport(
        release=kernel.texts("release")["release"],
        paging_levels=paging_levels,
        io=bits["io"],
        fs=bits["fs"],
        allocator=probed.texts("alloc")["alloc"],
        probed=frozenset(Level(name) for name, value in probed.numbers(*Level).items() if value == 1),
        test_passed=tested["gfp"] == tested["seen"] and tested["times"] == 1,
        trials=tuple(_trials(records)),
        masks=tuple(_mask(line) for line in records.all("mask")),
    )
    _check_whole(report, records)
    return report


def _trials(records: Records) -> Iterator[FlagTrial]:
    levels: dict[int, dict[Level, LevelUse]] = {}
    allocs: dict[int, list[Alloc]] = {}
    for line in records.all("level"):
        uses = levels.setdefault(line.integer(0), {})
        level = _level(line)
        if level is None or level in uses:
            raise EvidenceError("a level that is doubled or is none", line=line.number)
        uses[level] = _use(line)
    for line in records.all("alloc"):
        allocs.setdefault(line.integer(0), []).append(_alloc(line))
    seen: set[tuple[str, FlagEntry]] = set()
    for number, line in enumerate(records.all("trial")):
        if line.integer(0) != number:
            raise EvidenceError(f"trial {line.integer(0)} where {number} was due", line=line.number)
        trial = _trial(line, levels.pop(number, {}), tuple(allocs.pop(number, ())))
        if (trial.what, trial.entry) in seen:
            raise EvidenceError("a second trial of that name", line=line.number)
        seen.add((trial.what, trial.entry))
        yield trial
    if levels or allocs:
        raise EvidenceError("lines of a trial that there is not", line=records.last)


def _trial(line: Line, levels: Mapping[Level, LevelUse], allocs: tuple[Alloc, ...]) -> FlagTrial:
    texts, numbers = line.texts("what", "entry", "scope"), line.numbers("gfp", "err", "lost")
    if texts["entry"] not in tuple(FlagEntry):
        raise EvidenceError(f"not an entry: {excerpt(texts['entry'])}", line=line.number)
    entry = FlagEntry(texts["entry"])
    return FlagTrial(
        texts["what"], entry, numbers["gfp"], texts["scope"], numbers["err"], numbers["lost"], levels, allocs
    )


def _level(line: Line) -> Level | None:
    name = line.word(1)
    if name != "other" and name not in tuple(Level):
        raise EvidenceError(f"not a level: {excerpt(name)}", line=line.number)
    return None if name == "other" else Level(name)


def _use(line: Line) -> LevelUse:
    pairs = line.pairs()
    calls = line.numbers("calls")["calls"]
    if "before" not in pairs and "after" not in pairs:
        return LevelUse(calls, None, None)
    looked = line.numbers("before", "after")
    return LevelUse(calls, looked["before"] == 1, looked["after"] == 1)


def _alloc(line: Line) -> Alloc:
    values = line.numbers("gfp", "effective", "noio", "nofs", "count")
    if min(values.values()) < 0 or values["count"] == 0:
        raise EvidenceError("an allocation that cannot be", line=line.number)
    scopes = (values["noio"] == 1, values["nofs"] == 1)
    return Alloc(_level(line), values["gfp"], values["effective"], *scopes, values["count"])


def _mask(line: Line) -> Mask:
    values = line.numbers("gfp", "err")
    return Mask(line.texts("name")["name"], values["gfp"], values["err"])


def _check_whole(report: GfpReport, records: Records) -> None:
    """The last line counts the others."""
    end = records.only("end")
    found = {
        "trials": len(report.trials),
        "allocs": sum(len(trial.allocs) for trial in report.trials),
        "masks": len(report.masks),
    }
    said = end.numbers(*found)
    if said != found or end.number != records.last:
        raise EvidenceError(f"not whole: {found} where the end says {said}", line=end.number)
