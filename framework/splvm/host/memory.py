"""How much of the host's memory can be had."""

from __future__ import annotations

import re
from pathlib import Path


def available_mib(meminfo: str | None = None) -> int:
    """MiB that programs can have without swapping, as the kernel estimates it (proc(5), MemAvailable); 0 if unknown.

    :param meminfo: text of /proc/meminfo; by default this host's.
    """
    text = Path("/proc/meminfo").read_text(encoding="ascii") if meminfo is None else meminfo
    match = re.search(r"^MemAvailable: *(\d+) kB$", text, re.MULTILINE)
    return int(match[1]) >> 10 if match else 0
