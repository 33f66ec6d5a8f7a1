"""Lines of an input that may be large, packed or binary: pieces of bounded size, one pass.

Owns decompression, character sets, mail and HTML encodings, and which lines are worth a look. What stands before a
message is for prefixes.py.
"""

from __future__ import annotations

import bz2
import gzip
import html
import io
import lzma
import re
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from splvm.errors import EvidenceError

# Bytes that are read at once, and characters that are looked at of one line.
BLOCK = 1 << 20
MAX_LINE = 1 << 14
# Bytes that a packed input may unpack to.
MAX_UNPACKED = 4 << 30

_BOMS = ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))

# A line that has none of these begins nothing that is known. They are looked for by str.find(), a block at a time:
# one regular expression with all of them takes thirty times longer.
HINTS = (
    *("+0x", "INFO: ", "BUG", "WARNING", "task:", "PC stack", "SysRq", "sysrq", "PANIC", "panic", "Oops", "Unable to"),
    *("[#", "VERIFY", "ASSERT", "LOCKUP", "UBSAN", "Unexpected gfp", "oom-killer", "ut of memory", "---[ end"),
    *("allocation failure", "vmalloc error", "vmap allocation", "Large kmem_", "large kmem_", "Linux version "),
    *("COMMAND:", "/stack", "uncorrectable I/O", "I/O error", "I/O Error", "I/O failure", "rejecting I/O", "timeout, "),
    *("timing out command", "will reset", "resetting link", "speed USB device", "USB disconnect", "offlined", "SError"),
    *(
        "edium error",
        "hung task reports",
        "hung_task_timeout_secs",
        "messages dropped",
        "held by",
        "held in the system",
        "task abort",
        "Emask",
    ),
    *(
        "Pid: ",
        "Comm: ",
        "backtrace for cpu",
        "INTERRUPTIBLE",
        "[inline]",
        "slabsize",
        "- cache -",
        " 0x0",
        "SUSPENDED",
    ),
    *("slabinfo - version", "MemTotal:", "type data", "birth ", ".c:", "/proc/spl", "arcstats", "nthr", "splvm:"),
    *("quoted-printable", "=3D", "#0", "#1", "COMRESET", "deadman", "log_info", "SLOW IO", "zio pool=", "ZFS: Loaded"),
    *("io_failure", "currently suspended", "sas_cm", "megaraid_sas", "FAILED Result", "Sense Key", "failed command"),
    *("protection fault", "bad area", "ivide error", "Internal error", "hogged CPU", "SPLError", "aborting", "QID"),
)
_TAGS = re.compile(
    r"</?(?:a|b|i|u|p|tt|br|li|ol|ul|td|th|tr|em|hr|h[1-6]|div|pre|code|span|font|html|body|head|table|tbody|thead"
    r"|strong|samp|kbd|meta|title|style|script|blockquote)(?:\s[^<>]{0,400})?/?>",
    re.IGNORECASE | re.ASCII,
)
_BREAKING = re.compile(r"</?(?:br|p|li|tr|div|pre|hr|blockquote)\b[^<>]{0,400}>", re.IGNORECASE | re.ASCII)
_ENTITY = re.compile(r"&(?:lt|gt|amp|quot|nbsp|#\d{1,5}|#x[0-9a-fA-F]{1,5});")
_ESCAPED = re.compile(r"=([0-9A-F]{2})")
_TERMINAL = re.compile(r"\x1b(?:\[[0-?]{0,32}[ -/]{0,4}[@-~]?|\][^\x07\x1b]{0,256}(?:\x07|\x1b\\)?|[ -~])?")


def open_packed(stream: BinaryIO) -> BinaryIO:
    """The same input unpacked, if it is packed by gzip, xz or bzip2."""
    reader = io.BufferedReader(cast(io.RawIOBase, stream), BLOCK)
    head = reader.peek(8)
    if head.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=reader))
    if head.startswith(b"\xfd7zXZ\0"):
        return cast(BinaryIO, lzma.LZMAFile(reader))
    if head.startswith(b"BZh"):
        return cast(BinaryIO, bz2.BZ2File(reader))
    return reader


@dataclass(slots=True)
class Block:
    """Some whole lines."""

    # Of the first one, counted from 1.
    number: int
    lines: list[str]
    # Places of those that may begin something.
    hinted: list[int] = field(default_factory=list)
    # Bytes of the input up to the end of this one.
    bytes_read: int = 0

    def next_hint(self, at: int) -> int:
        """The first place from `at` on that is worth a look; the number of lines if there is none."""
        found = bisect_left(self.hinted, at)
        return self.hinted[found] if found < len(self.hinted) else len(self.lines)


def read_blocks(stream: BinaryIO) -> Iterator[Block]:
    """The input in pieces of whole lines; a line that is longer than a piece is cut.

    :raises EvidenceError: when it cannot be unpacked, after what could.
    """
    stream = open_packed(stream)
    charset, number, rest, total = "", 1, b"", 0
    while True:
        try:
            # What could be unpacked is given before the error.
            data = cast(io.BufferedReader, stream).read1(BLOCK)
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            yield _block(number, rest, charset or "utf-8")
            raise EvidenceError(f"it cannot be unpacked any further: {error}") from error
        if not charset:
            charset = next((name for bom, name in _BOMS if data.startswith(bom)), "utf-8")
        total += len(data)
        if total > MAX_UNPACKED:
            raise EvidenceError(f"it is longer than {MAX_UNPACKED >> 30} GiB")
        if charset != "utf-8":
            data, rest = rest + data, b""
            odd = len(data) % 2
            data, rest = data[: len(data) - odd], data[len(data) - odd :]
            data = data.decode(charset, "replace").encode("utf-8", "replace")
            if not data:
                return
            block = _block(number, data, "utf-8")
            number += len(block.lines)
            block.bytes_read = total
            yield block
            continue
        if not data:
            if rest:
                yield _block(number, rest, charset)
            return
        data = rest + data
        cut = data.rfind(b"\n") + 1 or len(data) * (len(data) >= BLOCK)
        rest = data[cut:]
        if cut:
            newlines = data.count(b"\n", 0, cut)
            if _is_dull(data, cut):
                number += newlines
                continue
            block = _block(number, data[:cut], charset)
            block.bytes_read = total
            number += newlines
            yield block


def _is_dull(data: bytes, end: int) -> bool:
    return not any(data.find(hint, 0, end) >= 0 for hint in _HINTS)


_HINTS = tuple(hint.encode() for hint in HINTS)


def _block(number: int, data: bytes, charset: str) -> Block:
    text = data.decode(charset, "replace")
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return Block(number, lines, _hinted(text, lines))


def _hinted(text: str, lines: list[str]) -> list[int]:
    """The places of the lines that have a hint in them."""
    places: list[int] = []
    for hint in HINTS:
        at = text.find(hint)
        while at >= 0:
            places.append(at)
            end = text.find("\n", at)
            at = text.find(hint, end) if end >= 0 else -1
    if not places:
        return []
    places.sort()
    found: list[int] = []
    line, end = 0, len(lines[0])
    for place in places:
        while place > end:
            line += 1
            end += 1 + len(lines[line])
        if not found or found[-1] != line:
            found.append(line)
    return found


class Cleaner:
    """Takes away what a mail, a page or a terminal did to a line; one line may become several."""

    def __init__(self) -> None:
        # Whether the text is quoted-printable, and the beginning of a line that goes on in the next one.
        self.quoted = False
        self.begun = ""

    @property
    def waits(self) -> bool:
        """Whether the next line belongs to the last one."""
        return bool(self.begun)

    def clean(self, line: str) -> list[str]:
        line = line[:MAX_LINE]
        if "=" in line or self.begun:
            joined = self.unquote(line)
            if joined is None:
                return []
            line = joined
        if "\x1b" in line:
            line = _TERMINAL.sub("", line)
        parts = [line]
        if "<" in line and ("</" in line or "<br" in line or "<pre" in line or "<p>" in line or "<div" in line):
            parts = [_TAGS.sub("", part) for part in _BREAKING.sub("\n", line).split("\n")]
        if "&" in line:
            # Some pages escape what is escaped.
            parts = [html.unescape(html.unescape(part)) if _ENTITY.search(part) else part for part in parts]
        if line.count("\\n") >= 3:
            # Lines within a string of JSON or of a shell.
            parts = [piece for part in parts for piece in part.replace('\\"', '"').replace("\\t", " ").split("\\n")]
        if "\r" in line:
            parts = [piece for part in parts for piece in part.split("\r")]
        return [part for part in parts if part]

    def unquote(self, line: str) -> str | None:
        """A line of quoted-printable (RFC 2045) as it was; None if it goes on."""
        bare = line.rstrip("\r")
        if not self.quoted and ("quoted-printable" in bare or "=3D" in bare or _soft(bare)):
            self.quoted = True
        if not self.quoted:
            return line
        if bare.endswith("=") and not bare.endswith("=="):
            self.begun = (self.begun + bare[:-1])[:MAX_LINE]
            return None
        line, self.begun = (self.begun + bare)[:MAX_LINE], ""
        return _ESCAPED.sub(lambda code: chr(int(code[1], 16)) if int(code[1], 16) < 128 else "?", line)


def _soft(line: str) -> bool:
    """Whether the line ends in the middle, as quoted-printable lets lines of 76 characters do."""
    return 72 <= len(line) <= 76 and line.endswith("=") and not line.endswith("==")
