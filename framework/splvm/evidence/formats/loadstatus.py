"""What the load generator in a guest reports of itself (docs/formats.md, "The load's status")."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass

from splvm.evidence.formats.statusfile import Line, parse_records

# A band may have no upper end; the guest's LONG_MAX stands for it.
_NO_LIMIT = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class LoadWorker:
    """A process of a load."""

    index: int
    role: str
    pid: int
    alive: bool
    # What ended it: a signal, or else its status, which is an errno.
    signal: int
    status: int
    # What it has taken, written or read so far.
    bytes: int
    # Guest time when it last came round, ns.
    beat_ns: int

    @property
    def death(self) -> str:
        """How it ended, in words."""
        if self.signal:
            return f"was killed by signal {self.signal}"
        return f"ended with {errno.errorcode.get(self.status, f'status {self.status}')}"


@dataclass(frozen=True, slots=True)
class LoadLevel:
    """A load: its level, and the band that it is to be in."""

    name: str
    # `KiB`, `KiB/s`, or `blocks` of free memory.
    unit: str
    low: int
    high: int
    level: int
    # Guest time since when it is in the band, ns; 0: it is not.
    since_ns: int
    # KiB that were written or read so far; None for a load that only has to be there.
    done_kib: int | None
    workers: tuple[LoadWorker, ...]

    @property
    def is_held(self) -> bool:
        return self.low <= self.level <= self.high

    def told(self, value: int) -> str:
        """A value of its level, in words."""
        if not self.unit.startswith("KiB"):
            return f"{value} {self.unit}"
        return f"{value / 1024:.1f} {self.unit.replace('KiB', 'MiB')}"

    @property
    def is_bounded(self) -> bool:
        """Whether the band has an upper end."""
        return self.high < _NO_LIMIT

    @property
    def asked(self) -> str:
        """The band, in words."""
        if not self.is_bounded:
            return f"{self.told(self.low)} and more"
        return f"{self.told(self.low)} to {self.told(self.high)}"


@dataclass(frozen=True, slots=True)
class LoadStatus:
    """One report of the generator."""

    # Guest time of the report, ns.
    now_ns: int
    # CPU time that the generator itself has used, without its workers, microseconds.
    cpu_us: int
    # Whether it is the beginning of one report and the end of another.
    torn: bool
    # How the guest stands: KiB, pages that reclaim scanned, microseconds, and kills by the OOM killer.
    memory: Mapping[str, int]
    loads: tuple[LoadLevel, ...]

    def load(self, name: str) -> LoadLevel | None:
        return next((load for load in self.loads if load.name == name), None)


_MEMORY = (
    *("total", "available", "free", "dirty", "writeback", "written", "swap"),
    *("scanned", "scanned_direct", "some_us", "full_us", "oom_kills"),
)


def parse_load(text: str) -> LoadStatus:
    """Read a report (docs/formats.md, "The load's status").

    :raises EvidenceError: when it is none, or cut off.
    """
    records = parse_records(text, "splvm-load", 1)
    at, end = records.only("at").numbers("seq", "now_ns", "cpu_us"), records.only("end").numbers("seq")
    workers: dict[str, list[LoadWorker]] = {}
    for line in records.all("worker"):
        workers.setdefault(line.word(0), []).append(_worker(line))
    return LoadStatus(
        at["now_ns"],
        at["cpu_us"],
        at["seq"] != end["seq"],
        records.only("memory").numbers(*_MEMORY),
        tuple(_level(line, workers) for line in records.all("load")),
    )


def _level(line: Line, workers: Mapping[str, list[LoadWorker]]) -> LoadLevel:
    numbers = line.numbers("low", "high", "level", "since_ns")
    done = line.later(done_kib=-1)["done_kib"]
    name, unit = line.word(0), line.texts("unit")["unit"]
    return LoadLevel(name, unit, **numbers, done_kib=None if done < 0 else done, workers=tuple(workers.get(name, ())))


def _worker(line: Line) -> LoadWorker:
    numbers = line.numbers("pid", "alive", "signal", "status", "bytes", "beat_ns")
    alive = bool(numbers.pop("alive"))
    return LoadWorker(line.integer(1), line.texts("role")["role"], alive=alive, **numbers)
