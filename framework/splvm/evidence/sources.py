"""What a source in the guest said, frame by frame: the one reader of frames that everybody uses.

Owns which parser belongs to which source, and what `same` stands for. Text that cannot be parsed is kept as text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from splvm.errors import EvidenceError
from splvm.evidence.formats.loadstatus import parse_load
from splvm.evidence.formats.probestatus import parse_probe
from splvm.evidence.formats.sites import parse_sites
from splvm.evidence.formats.slab import parse_slab
from splvm.evidence.formats.stacks import parse_tasks
from splvm.evidence.formats.stream import Frame, What
from splvm.evidence.formats.txgs import parse_txgs

# The parser of each source; the text of any other source is its value.
PARSERS: Mapping[str, Callable[[str], object]] = {
    "slab": parse_slab,
    "probe": parse_probe,
    "tasks": parse_tasks,
    "load": parse_load,
    "txgs": parse_txgs,
    "sites": parse_sites,
}

# What the agent says of itself and of commands: no reading of anything.
_OWN = ("agent", "ctl")


@dataclass(frozen=True, slots=True)
class Said:
    """What a source said."""

    text: str
    # The parsed text; None where `error` says why there is none.
    value: Any
    error: str = ""


class SourceReader:
    """Reads the frames of one stream in their order. A frame that stands for `same` gives the value before it again."""

    def __init__(self) -> None:
        self._last: dict[str, Said] = {}
        self._next_seq = 0

    def take(self, frame: Frame) -> tuple[Said | None, tuple[str, ...]]:
        """What a frame says, and what is lost, in words.

        The first is None for frames that say nothing of a source: the agent's own, `blocked`, `error`, and a `same`
        before which the value is missing.
        """
        losses: list[str] = []
        if frame.seq != self._next_seq:
            losses.append(f"frames {self._next_seq} to {frame.seq - 1} are missing")
            # What `same` is the same as may be among the missing frames.
            self._last.clear()
        self._next_seq = frame.seq + 1
        if frame.source in _OWN:
            return None, tuple(losses)
        if frame.what is What.DATA:
            said = _parse(frame)
            if said.error:
                losses.append(said.error)
            self._last[frame.source] = said
            return said, tuple(losses)
        if frame.what is not What.SAME:
            return None, tuple(losses)
        if frame.source not in self._last or self._last[frame.source].error:
            losses.append(f"frame {frame.seq}: {frame.source} is the same as nothing")
        return self._last.get(frame.source), tuple(losses)


def _parse(frame: Frame) -> Said:
    try:
        return Said(frame.text, PARSERS.get(frame.source, str)(frame.text))
    except EvidenceError as error:
        return Said(frame.text, None, f"frame {frame.seq}: {frame.source} cannot be read: {error}")


def read_frame(record: Mapping[str, Any]) -> Frame:
    """The frame that a record of samples.jsonl holds.

    :raises KeyError, TypeError, ValueError, OverflowError, RecursionError: when it holds none.
    """
    return Frame(
        seq=count_of(record["seq"]),
        tick=count_of(record.get("tick", 0)),
        source=text_of(record["source"]),
        what=What(record["what"]),
        start_ns=count_of(record["start_ns"]),
        end_ns=count_of(record["end_ns"]),
        text=text_of(record["text"]),
    )


def text_of(value: Any) -> str:
    """A text as the agent writes it: the files that it reads have no NUL."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"not a text: {str(value)[:40]!r}")
    return value


def count_of(value: Any) -> int:
    """A number of a record: whole, of 64 bits. Neither a text nor true is one."""
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise ValueError(f"not a number of 64 bits: {str(value)[:40]}")
    return value
