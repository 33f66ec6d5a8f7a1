"""Transaction groups of a pool, and whether they go on: what /proc/spl/kstat/zfs/POOL/txgs says.

Everything that is written to a pool is written in a txg; one is open, one may quiesce, one is synced. A pool whose txgs
do not go on writes nothing, whatever the processes on it do (OpenZFS, module/zfs/txg.c).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from splvm.errors import EvidenceError
from splvm.evidence.formats.statusfile import to_integer
from splvm.evidence.formats.stream import excerpt, payload_lines

# Columns of the file: spa_txg_history_show() in module/zfs/spa_stats.c.
_HEADING = [
    *("txg", "birth", "state", "ndirty", "nread", "nwritten", "reads", "writes"),
    *("otime", "qtime", "wtime", "stime"),
]

# The states, by their letter there.
STATES = {"B": "born", "O": "open", "Q": "quiescing", "W": "waiting for its sync", "S": "syncing", "C": "committed"}


@dataclass(frozen=True, slots=True)
class Txg:
    """A line of the file."""

    number: int
    state: str
    # Bytes that are dirty in it, and that it wrote.
    dirty: int
    written: int


@dataclass(frozen=True, slots=True)
class Txgs:
    """The latest txgs of a pool, the oldest first."""

    txgs: tuple[Txg, ...]

    @property
    def committed(self) -> int:
        """Number of the last one that was synced; 0 if none is among them."""
        return max((txg.number for txg in self.txgs if txg.state == "C"), default=0)

    @property
    def under_way(self) -> Iterator[Txg]:
        """Those after it."""
        return (txg for txg in self.txgs if txg.number > self.committed)


def parse_txgs(text: str) -> Txgs:
    """Read the file. Lines before its heading are left out: a kstat of raw lines may have one.

    :raises EvidenceError: when it is none, or cut off.
    """
    found: list[Txg] | None = None
    for number, line in payload_lines(text):
        words = line.split()
        if found is None:
            found = [] if words == _HEADING else None
            continue
        if len(words) != len(_HEADING) or words[2] not in STATES:
            raise EvidenceError(f"not a line of a txg: {excerpt(line)}", line=number)
        txg, dirty, written = (to_integer(words[at], number) for at in (0, 3, 5))
        found.append(Txg(txg, words[2], dirty, written))
    if found is None:
        raise EvidenceError("there is no heading of a list of txgs")
    if not text.endswith("\n"):
        raise EvidenceError("truncated: the last line has no end")
    return Txgs(tuple(found))
