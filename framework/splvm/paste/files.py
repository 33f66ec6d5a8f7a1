"""Files of /proc that people paste beside a log: which ones they are, and what of them an answer uses.

Sources: module/os/linux/spl/spl-proc.c and spl-kstat.c, module/os/linux/zfs/zfs_debug.c; mm/slab_common.c and
fs/proc/meminfo.c of Linux.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from splvm.paste.prefixes import Line
from splvm.paste.slabs import SlabReader, label_of, time_of

# Kinds that have a head, and what their rows are like.
_HEADS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("taskq", re.compile(r"taskq\s{1,40}act\s{1,8}nthr\s")),
    ("slabinfo", re.compile(r"slabinfo - version: ")),
    ("meminfo", re.compile(r"MemTotal:\s{1,20}\d{1,20} kB")),
    ("arcstats", re.compile(r"name\s{4,40}type\s{1,8}data\s*$")),
    ("txgs", re.compile(r"txg\s{1,12}birth\s{1,16}state\s")),
)
_HEAD_WORDS = frozenset(("task", "slab", "MemT", "name", "txg "))
_ROWS: dict[str, re.Pattern[str]] = {
    "taskq": re.compile(
        r"\S{1,40}(?:/\d{1,6})?(?:\s{1,30}-?[\da-f]{1,12}){3,12}\s*$|\s{0,8}(?:active|delay|wait|pend|prio):\s"
    ),
    "slabinfo": re.compile(r"#? ?\S{1,40}\s{1,40}(?:<\w|\d{1,12}\s{1,12}\d)"),
    "meminfo": re.compile(r"[\w()]{1,30}:\s{1,20}\d{1,20}(?: kB)?\s*$"),
    "arcstats": re.compile(r"[\w.]{1,60}\s{1,40}\d\s{1,8}-?\d{1,20}\s*$"),
    "txgs": re.compile(r"\d{1,20}\s{1,12}\d{1,20}\s{1,12}[OQWSCR]\s"),
}
_DEBUG = re.compile(r"\d{10}(?:\.\d{1,9})?\s{1,8}\S{1,60}\.c:\d{1,6}:\w{1,60}\(\): ")
_SECTION = re.compile(r"splvm: (?:collector|section|end|uname|versions)\b")
_ACTIVE = re.compile(r"\[(\d{1,10})\]([\w.]{1,80})")
_SLAB_COMMAND = re.compile(r".{0,120}/proc/spl/kmem/slab\b")
MAX_ACTIVE = 200


@dataclass(slots=True)
class FileReader:
    """Takes the lines that are no kernel's message."""

    slabs: SlabReader = field(default_factory=SlabReader)
    # Tasks of taskqs that ran: the pid of the thread, and the function.
    active: list[tuple[int, str]] = field(default_factory=list)
    section: str = ""
    # What the input is called, if that names a machine, and whether the collector wrote what comes.
    source: str = ""
    collected: bool = False

    def begin(self, name: str) -> None:
        """Another input comes."""
        self.source = label_of(name.rpartition("/")[2].partition(".")[0])

    def take(self, number: int, line: Line, before: str = "") -> str:
        """The kind of file that the line is of; empty if it is of none.

        :param before: the line before it, where nothing was made of that one.
        """
        message = line.message
        if "0x" in message or "---" in message or message[:4] == "name" or self.slabs.half:
            label = line.host or (label_of(before) if before else "") or self.source
            time = line.time or (time_of(Line(before)) if before else "")
            if self.slabs.take(number, message, time, label):
                return "slab"
        if "/proc/spl" in message and _SLAB_COMMAND.match(message):
            return "slab"
        if message[:4] in _HEAD_WORDS:
            for kind, head in _HEADS:
                if head.match(message):
                    self.section = kind
                    return kind
        if self.section and _ROWS[self.section].match(message):
            if self.section == "taskq" and len(self.active) < MAX_ACTIVE:
                self.active += [(int(pid), function) for pid, function in _ACTIVE.findall(message)]
            return self.section
        if ".c:" in message and _DEBUG.match(message):
            return "dbgmsg"
        if message[:6] == "splvm:" and _SECTION.match(message):
            self.section = ""
            # What stands between is said by programs that need no explanation.
            self.collected = not message.startswith("splvm: end collector")
            return "collector"
        return "collector" if self.collected else ""

    def finish(self) -> None:
        """The text is at its end."""
        self.slabs.finish()
        self.slabs.layout = None
        self.section, self.collected = "", False
