"""/proc/slabprobe_sites, version 1 (docs/formats.md): where a module allocates, with which masks, in whose threads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from splvm.errors import EvidenceError
from splvm.evidence.formats.statusfile import Line, parse_records
from splvm.evidence.formats.stream import excerpt

VERSION = 1

# A function of a module as %pS prints it: its name, the offset of the return address, and its length.
_CALLER = re.compile(r"([\w.]{1,120})\+(0x[0-9a-f]{1,8})/(0x[0-9a-f]{1,8})")
_FUNCTION = re.compile(r"[\w.]{1,120}")
# What a compiler adds to a name, in any number.
_ADDED = re.compile(r"(?:\.(?:isra|constprop|part|cold|llvm)(?:\.\d{1,20})?)+")
_MOST_FRAMES = 40
_COUNTS = ("calls", "reclaims", "declined", "entered", "waiting", "atomic", "preempt", "least", "most")


def bare(function: str) -> str:
    """The name of a function as its source has it."""
    return _ADDED.sub("", function)


@dataclass(frozen=True, slots=True)
class Hook:
    """A function of the kernel's allocator that the probe watches."""

    name: str
    # Which argument is the mask, counted from 0; -1: not known.
    gfp_arg: int
    # Why it cannot be watched, an errno; 0: it can.
    err: int

    @property
    def is_blind(self) -> bool:
        """Whether what goes through it is not seen."""
        return self.err != 0 or self.gfp_arg < 0


@dataclass(frozen=True, slots=True)
class Site:
    """One chain of calls to the allocator, with one mask, in one sort of thread. Counters since loading."""

    # By the names of its functions: the same in each run of a build.
    id: str
    # Name of the thread without its number; `user` for any process, `interrupt` for none.
    thread: str
    # The thread is none of the module's: somebody of the module waits for what it does.
    helper: bool
    # The GFP mask as it was asked for, and what the thread's marks make of it (current_gfp_context()).
    asked: int
    effective: int
    # Marks of the thread.
    noio: bool
    nofs: bool
    # Allocations, and those that a reclaim preceded.
    calls: int
    reclaims: int
    # Reclaims in which the trap declined and was entered, and those that wait in it now.
    declined: int
    entered: int
    waiting: int
    # Allocations that may sleep where that is forbidden, and the greatest preempt_count() of all.
    atomic: int
    preempt: int
    # Bytes.
    least: int
    most: int
    # From the allocator outwards; names without what a compiler adds.
    chain: tuple[str, ...]
    # Of the outermost function, which is the module's: its name as it is, and the offset of the return address in it.
    # Empty and 0 for a helper.
    function: str = ""
    offset: int = 0

    @property
    def words(self) -> str:
        """The chain in one line, the module's function first."""
        return " -> ".join(reversed(self.chain))

    def joined(self, other: Site) -> Site:
        """Both as one."""
        counts = {name: getattr(self, name) + getattr(other, name) for name in _COUNTS[:6]}
        return replace(
            self,
            **counts,
            preempt=max(self.preempt, other.preempt),
            least=min(self.least, other.least),
            most=max(self.most, other.most),
        )


@dataclass(frozen=True, slots=True)
class SitesFile:
    """One reading of the file."""

    now_ns: int
    # Bits of a mask, as this kernel has them: may enter a filesystem, may do I/O, may reclaim.
    fs: int
    io: int
    reclaim: int
    hooks: tuple[Hook, ...]
    # Each id once.
    sites: tuple[Site, ...]
    # By the number that the probe's status has for a site.
    by_number: dict[int, Site]

    def may_enter(self, site: Site) -> str:
        """Where reclaim at a site may go, in words."""
        if not site.effective & self.reclaim:
            return "no reclaim"
        if site.effective & self.fs:
            return "FS"
        return "IO" if site.effective & self.io else "neither"


def parse_sites(text: str) -> SitesFile:
    """Read a file of version 1.

    :raises EvidenceError: for another version, for something required that is missing or not a number, and for a file
        that is cut off, with the line.
    """
    records = parse_records(text, "slabprobe_sites", VERSION)
    records.only("end")
    masks = records.only("masks").numbers("fs", "io", "reclaim")
    by_number = {line.integer(0): _site(line) for line in records.all("site")}
    by_id: dict[str, Site] = {}
    for site in by_number.values():
        by_id[site.id] = by_id[site.id].joined(site) if site.id in by_id else site
    return SitesFile(
        now_ns=records.only("now_ns").integer(0),
        **masks,
        hooks=tuple(_hooks(records.all("hook"))),
        sites=tuple(by_id.values()),
        by_number=by_number,
    )


def _hooks(lines: Iterator[Line]) -> Iterator[Hook]:
    for line in lines:
        if not _FUNCTION.fullmatch(line.word(0)):
            raise EvidenceError(f"not a function: {excerpt(line.word(0))}", line=line.number)
        yield Hook(line.word(0), **line.numbers("gfp_arg", "err"))


def _site(line: Line) -> Site:
    texts = line.texts("id", "thread", "chain")
    # What is 0 is left out, and `least` where all were of one size.
    flags = line.later(helper=0, noio=0, nofs=0)
    counts = line.numbers("asked", "effective", "calls", "reclaims", "most")
    counts |= line.later(declined=0, entered=0, waiting=0, atomic=0, preempt=0, least=counts["most"])
    frames = texts["chain"].split("<")
    if not 1 < len(frames) <= _MOST_FRAMES:
        raise EvidenceError(f"not a chain: {excerpt(texts['chain'])}", line=line.number)
    function, offset = "", 0
    if not flags["helper"]:
        caller = _CALLER.fullmatch(frames[-1])
        if caller is None:
            raise EvidenceError(f"not a place in a module: {excerpt(frames[-1])}", line=line.number)
        function, offset = caller[1], int(caller[2], 16)
        frames[-1] = function
    if wrong := next((frame for frame in frames if not _FUNCTION.fullmatch(frame)), None):
        raise EvidenceError(f"not a function: {excerpt(wrong)}", line=line.number)
    return Site(
        id=texts["id"][:16],
        thread=texts["thread"][:16],
        helper=flags["helper"] != 0,
        noio=flags["noio"] != 0,
        nofs=flags["nofs"] != 0,
        **counts,
        chain=tuple(map(bare, frames)),
        function=function,
        offset=offset,
    )
