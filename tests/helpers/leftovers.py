"""What a run may leave behind, and must not."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def qemus_of(directory: Path) -> list[int]:
    """Processes that write their output to a file below `directory`, as every QEMU does to its log."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and (entry / "fd" / "1").readlink().is_relative_to(directory):
                found.append(int(entry.name))
    return found
