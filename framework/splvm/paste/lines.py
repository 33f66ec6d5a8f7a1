"""Lines of an input that may be large, packed or binary: pieces of bounded size, one pass.

Owns decompression, character sets, the direction in which a log is written, and which lines are worth a look. What a
mail or a page did to a line is for cleaning.py, what stands before a message for prefixes.py.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from splvm.errors import EvidenceError

# Bytes that are read at once.
BLOCK = 1 << 20
# Bytes that a packed input may unpack to.
MAX_UNPACKED = 4 << 30
# Of these, bytes in pieces that are zeros for the most part: a file with holes takes no room, and may be of any size.
MAX_ZEROS = 256 << 20

# A shorter piece waits for the next one, so that few reports are cut in two.
LEAST = BLOCK >> 2
# Bytes of a text that is written backwards and read as a whole.
MAX_TURNED = 8 << 20

_BOMS = ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))

# A line that has none of these begins nothing that is known. They are looked for by str.find(), a block at a time:
# one regular expression with all of them takes thirty times longer.
HINTS = (
    *(
        "+0x",
        "+0\u00d7",
        "INFO:",
        "BUG",
        "WARNING",
        "task:",
        "PC stack",
        "SysRq",
        "sysrq",
        "PANIC",
        "panic",
        "Oops",
        "Unable to",
    ),
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
    *(
        "quoted-printable",
        "ncoding: base64",
        '"MESSAGE":[',
        '"MESSAGE" : [',
        '"MESSAGE": [',
        "=3D",
        "#0",
        "#1",
        "COMRESET",
        "deadman",
        "log_info",
        "SLOW IO",
        "slow vdev",
        "allocation deadlock",
        "zio pool=",
        "ZFS: Loaded",
    ),
    *("io_failure", "currently suspended", "sas_cm", "megaraid_sas", "FAILED Result", "Sense Key", "failed command"),
    "{\\rtf",
    # Functions that wait, in stacks of functions alone.
    *("mutex_lock", "mutex_enter", "rw_enter", "down_read", "down_write", "cv_wait", "txg_wait_", "dmu_tx_wait"),
    *("zio_wait", "taskq_wait", "spa_config_enter", "wait_on_", "wait_for_", "range_lock", "spl_kmem_cache_alloc"),
    *("<--", "<==", "<- ", "-> Takes", "-> takes", "-> Holds", "-> holds", "-> Wait", "-> wait", "() => ", "() -> "),
    *("RW_READER", "RW_WRITER", "wait for ", "waits for ", "is trying to acquire lock", "() -&gt; ", "() =&gt; "),
    *("&lt;-", "&lt;=", "&gt; Takes", "&gt; takes", "&gt; Holds", "&gt; holds", "&gt; Wait", "&gt; wait"),
    *("rangelock_enter", "zil_commit", "schedule_timeout", "io_schedule", "usermodehelper", "<stack trace>"),
    # Threads that are counted above such stacks, and what they call when they sleep.
    *("hread 1", "hread A", "hread1", "rocess 1", "rocess A", "rocess1", "__schedule"),
    *(" of mutex 0x", " on mutex 0x"),
    *("protection fault", "bad area", "ivide error", "Internal error", "hogged CPU", "SPLError", "aborting", "QID"),
)
# The lines around the head of a stack: in a text that is written backwards they have changed their places.
_TRACE_HEAD = re.compile(r"Call [Tt]race:|<TASK>")
_TRACE_HEAD_BYTES = re.compile(rb"Call [Tt]race:|<TASK>")
_ABOVE = re.compile(
    r"task:|Call [Tt]race:|Tainted|Comm: |INFO: |BUG: |hung_task_timeout|R[IS]P: |WARNING: "
    r"| [DRS] .{0,60} 0x[0-9a-f]{8}\s*$|(?:[0-9a-f]{16}\s{1,3}){2}"
)
_BELOW = re.compile(
    r"\+0x[0-9a-f]{1,8}/0x[0-9a-f]{1,8}(?: \[[\w ()]{1,40}\]| \(unreliable\)){0,2}\W{0,4}$|\(unreliable\)\s*$|<TASK>"
)
_REPORT = re.compile(rb"INFO: task |BUG: |Kernel panic - |WARNING: CPU|[sS]ys[rR]q ?: ")
# Lines at the end of a block that may belong to the next one, where a text is written backwards.
_MAX_CARRIED = 400


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
    """Some whole lines, in the order in which they were written."""

    # Of the first one of the input, counted from 1.
    number: int
    lines: list[str]
    # Whether the input has the latest line first, as `journalctl -r` does.
    backwards: bool = False
    # Places of those that may begin something.
    hinted: list[int] = field(default_factory=list)
    # Bytes of the input up to the end of this one.
    bytes_read: int = 0

    def next_hint(self, at: int) -> int:
        """The first place from `at` on that is worth a look; the number of lines if there is none."""
        found = bisect_left(self.hinted, at)
        return self.hinted[found] if found < len(self.hinted) else len(self.lines)

    def number_of(self, at: int) -> int:
        """The number that a line has in the input."""
        return self.number + (len(self.lines) - 1 - at if self.backwards else at)


def read_blocks(stream: BinaryIO) -> Iterator[Block]:
    """The input in pieces of whole lines; a line that is longer than a piece is cut.

    :raises EvidenceError: when it cannot be unpacked, after what could.
    """
    number, rest, backwards = 1, b"", None
    for data, total in _pieces(stream):
        data = rest + _plain(data)
        cut = data.rfind(b"\n") + 1 or len(data) * (len(data) >= BLOCK)
        if len(data) < LEAST and total > 0:
            cut = 0
        if backwards is None and _TRACE_HEAD_BYTES.search(data):
            backwards = is_backwards(data.decode("utf-8", "replace").split("\n"))
        if backwards:
            # A short text is read from its end, a long one in pieces, each from its end.
            cut = 0 if len(data) < MAX_TURNED else _carried(data, cut)
        # With a negative count comes the end.
        cut = len(data) if total < 0 else cut
        rest = data[cut:]
        newlines = data.count(b"\n", 0, cut)
        if cut and not (total > 0 and _is_dull(data, cut)):
            yield _block(number, data[:cut], bool(backwards), abs(total))
        number += newlines


def _block(number: int, data: bytes, backwards: bool, bytes_read: int) -> Block:
    text = data.decode("utf-8", "replace")
    lines = text.removesuffix("\n").split("\n")
    if backwards:
        lines.reverse()
        text = "\n".join(lines)
    return Block(number, lines, backwards, _hinted(text, lines), bytes_read)


def _pieces(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Bytes of UTF-8, and how many of the input were read; negative with what is empty, at the end.

    :raises EvidenceError: when it cannot be unpacked.
    """
    decoder, total, zeros = None, 0, 0
    packed: BinaryIO | None = None
    trouble: EvidenceError | None = None
    while True:
        try:
            # What could be unpacked is given before the error.
            packed = packed or open_packed(stream)
            data = cast(io.BufferedReader, packed).read1(BLOCK)
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            what = error.strerror if isinstance(error, TimeoutError) else f"it cannot be read any further: {error}"
            trouble, data = EvidenceError(what or "it cannot be read any further"), b""
        if not total and (charset := _charset(data)):
            decoder = codecs.getincrementaldecoder(charset)("replace")
        total += len(data)
        if total > MAX_UNPACKED:
            raise EvidenceError(f"it is longer than {MAX_UNPACKED >> 30} GiB")
        if not data:
            yield b"", -max(total, 1)
            if trouble is not None:
                raise trouble
            return
        text = decoder.decode(data).encode("utf-8", "replace") if decoder else data
        if 2 * text.count(0) > len(text):
            zeros += len(data)
        if zeros > MAX_ZEROS:
            yield b"", -total
            raise EvidenceError(f"more than {MAX_ZEROS >> 20} MiB of it are zeros: it is not read any further")
        yield text, total


def _charset(data: bytes) -> str:
    """What an input is written in; empty for UTF-8, and for what is not text."""
    for bom, name in _BOMS:
        if data.startswith(bom):
            return name
    head = data[:400]
    if len(head) > 20 and head[1::2].count(0) > len(head) // 3 and head[::2].count(0) == 0:
        return "utf-16-le"
    return ""


def is_backwards(lines: Sequence[str]) -> bool:
    """Whether frames stand above the head of their stack more often than below it."""
    votes = 0
    for at, line in enumerate(lines[:-1]):
        if "race:" in line or "<TASK>" in line:
            one, two = lines[at - 1] if at else "", lines[at + 1]
            if _TRACE_HEAD.search(line):
                votes += bool(_BELOW.search(one) and _ABOVE.search(two)) - bool(
                    _ABOVE.search(one) and _BELOW.search(two)
                )
            if abs(votes) > 20:
                break
    return votes > 0


def _carried(data: bytes, end: int) -> int:
    """Where to cut lines that are written backwards, so that a report which begins further on stays whole."""
    at = end
    for _ in range(_MAX_CARRIED):
        begin = data.rfind(b"\n", 0, max(0, at - 1)) + 1
        if _REPORT.search(data, begin, at) or not begin:
            return at if begin else end
        at = begin
    return end


# What stands for a blank or for a letter, and hides words that are looked for.
_HIDING = ((b"\xc2\xa0", b" "), (b"&nbsp;", b" "), (b"0\xc3\x97", b"0x"))


def _plain(data: bytes) -> bytes:
    for hidden, plain in _HIDING:
        if hidden in data:
            data = data.replace(hidden, plain)
    return data


def _is_dull(data: bytes, end: int) -> bool:
    if data.find(0, 0, end) >= 0:
        # No hint has a zero in it, and to look for hints among zeros takes long.
        data = data[:end].translate(None, b"\0")
        end = len(data)
    return not any(data.find(hint, 0, end) >= 0 for hint in _HINTS)


_HINTS = tuple(hint.encode() for hint in HINTS)


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
