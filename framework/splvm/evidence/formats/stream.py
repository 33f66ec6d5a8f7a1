"""The agent's stream (docs/formats.md): bytes in, frames out.

Owns the framing and the rules that hold for the text of every payload. What a payload says is
the business of slab.py, probestatus.py and stacks.py. Sequence numbers and times are not judged here: a
missing number is evidence too.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass

from splvm.errors import EvidenceError

# The agent's largest payload is a slab file of some 60 kB; a length beyond this is a header
# that is not one, and waiting for that many bytes would look like silence.
MAX_PAYLOAD_BYTES = 1 << 20

# Six numbers of at most 20 digits and two words; see _HEADER.
MAX_HEADER_BYTES = 192

# No line of any payload comes near this.
MAX_LINE_CHARS = 4096

_HEADER = re.compile(
    rb"F (\d{1,20}) (\d{1,20}) ([a-z][a-z0-9_]{0,31}) (data|same|blocked|error) (\d{1,20}) (\d{1,20}) (\d{1,10})"
)


class What(enum.StrEnum):
    """What a frame says about the reading it stands for."""

    DATA = "data"  # the payload is what was read
    SAME = "same"  # nothing changed since the last `data` of this source
    BLOCKED = "blocked"  # the read began at start_ns and is not back by end_ns
    ERROR = "error"  # the payload is `errno=NUMBER text`


@dataclass(frozen=True, slots=True)
class Frame:
    """One reading by the agent."""

    # Counts over all sources; a missing number is a lost frame.
    seq: int
    # When the reading was due, in periods since the agent's base_ns.
    tick: int
    # Which thread of the agent read it: agent, slab, probe, tasks, meminfo, ...
    source: str
    what: What
    # The guest's CLOCK_MONOTONIC just before and just after the read.
    start_ns: int
    end_ns: int
    # The payload; bytes that are not UTF-8 are replaced.
    text: str


class FrameReader:
    """Cuts the agent's bytes into frames, whatever the chunks they come in.

    Frames that were complete before the garbage are never lost: when one chunk holds both,
    :meth:`feed` returns the frames, and the next call raises.
    """

    __slots__ = ("_buffer", "_error", "_header", "_offset")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._error: str | None = None
        # The header of the frame whose payload is awaited, and the bytes the whole frame takes.
        self._header: tuple[re.Match[bytes], int] | None = None
        self._offset = 0

    @property
    def offset(self) -> int:
        """Bytes of the stream that were complete frames."""
        return self._offset

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes and give the frames that they complete.

        :raises EvidenceError: when the stream is not one of frames; it names the byte offset at
            which the bad frame begins. Once raised, every later call raises it again.
        """
        if self._error is not None:
            raise EvidenceError(self._error)
        self._buffer += data
        frames = []
        try:
            while (frame := self._next()) is not None:
                frames.append(frame)
        except EvidenceError as error:
            self._error = error.message
            self._buffer.clear()
            if not frames:
                raise
        return frames

    def close(self) -> None:
        """Say that no bytes are to come.

        :raises EvidenceError: when :meth:`feed` still owes an error, or the stream ends inside a frame.
        """
        if self._error is not None:
            raise EvidenceError(self._error)
        if self._buffer:
            raise EvidenceError(f"the stream ends inside the frame that begins at byte {self._offset}")

    def _next(self) -> Frame | None:
        """The next whole frame of the buffer, or None while there is none."""
        if self._header is None:
            self._header = self._read_header()
        if self._header is None or len(self._buffer) < self._header[1]:
            return None
        (header, size), self._header = self._header, None
        if self._buffer[size - 1 : size] != b"\n":
            raise self._garbage("no newline after the payload", self._buffer[max(0, size - 16) : size])
        payload = bytes(self._buffer[header.end() + 1 : size - 1])
        frame = Frame(
            seq=int(header[1]),
            tick=int(header[2]),
            source=header[3].decode("ascii"),
            what=What(header[4].decode("ascii")),
            start_ns=int(header[5]),
            end_ns=int(header[6]),
            text=payload.decode("utf-8", "replace"),
        )
        del self._buffer[:size]
        self._offset += size
        return frame

    def _read_header(self) -> tuple[re.Match[bytes], int] | None:
        """The header at the start of the buffer and the frame's size in bytes; None until it is complete."""
        end = self._buffer.find(b"\n", 0, MAX_HEADER_BYTES + 1)
        line = bytes(self._buffer[: MAX_HEADER_BYTES if end < 0 else end])
        if end < 0:
            # Whatever does not begin like a header can be refused without waiting for its end.
            if len(line) == MAX_HEADER_BYTES or not (line.startswith(b"F ") or b"F ".startswith(line)):
                raise self._garbage("not a frame header", line)
            return None
        header = _HEADER.fullmatch(line)
        if header is None:
            raise self._garbage("not a frame header", line)
        length = int(header[7])
        if length > MAX_PAYLOAD_BYTES:
            raise self._garbage(f"a payload of {length} bytes, the limit is {MAX_PAYLOAD_BYTES}", line)
        if length and header[4] in (b"same", b"blocked"):
            raise self._garbage(f"a payload of {length} bytes where none belongs", line)
        return header, end + 1 + length + 1

    def _garbage(self, what: str, seen: bytes | bytearray) -> EvidenceError:
        return EvidenceError(f"the stream is garbled at byte {self._offset}: {what}: {bytes(seen[:80])!r}")


def payload_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a payload, numbered from 1, without their line ends (LF or CR LF).

    Only a line feed ends a line: str.splitlines() would split names at U+2028 and its like.

    :raises EvidenceError: at a NUL, or at a line longer than any payload has.
    """
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    for number, line in enumerate(lines, 1):
        if "\0" in line:
            raise EvidenceError("a NUL byte: this is not text", line=number)
        if len(line) > MAX_LINE_CHARS:
            raise EvidenceError(f"a line of {len(line)} characters, the limit is {MAX_LINE_CHARS}", line=number)
        yield number, line.removesuffix("\r")


def excerpt(line: str, chars: int = 60) -> str:
    """A line as an error message quotes it: escaped, and no longer than `chars` characters of it."""
    return ascii(line if len(line) <= chars else line[:chars] + "...")
