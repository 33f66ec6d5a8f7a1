"""What /proc/slabprobe says of delays at instructions of SPL (docs/formats.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from splvm.evidence.formats.statusfile import Line


@dataclass(frozen=True, slots=True)
class Delayed:
    """A delay that came about."""

    # FUNCTION+OFFSET, with a module before it unless that is SPL.
    place: str
    # Who was delayed, on which CPU and when; which hit of the point it was, and for how long he was asked to wait.
    thread: str
    pid: int
    cpu: int
    at_ns: int
    hit: int
    us: int
    # 1: he slept, so that others on his CPU ran. 0: he span.
    slept: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def delayed_of(lines: Iterable[Line]) -> Iterator[Delayed]:
    """:raises EvidenceError: when a line lacks something."""
    for line in lines:
        texts = line.texts("point", "comm")
        numbers = line.numbers("pid", "cpu", "at_ns", "hit", "us", "slept")
        yield Delayed(texts["point"].removeprefix("spl:"), texts["comm"], **numbers)
