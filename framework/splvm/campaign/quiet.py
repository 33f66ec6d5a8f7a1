"""Waiting until the host has CPUs to spare: a guest that is starved of CPU says nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from splvm.deadline import Deadline, poll
from splvm.errors import DeadlineExceeded
from splvm.log import step

# Seconds for which a quiet host is waited for, and between two looks.
QUIET_S = 600.0
_LOOK_S = 2.0

# Share of the time of all CPUs that others may take.
_BUSY = 0.3


def wait_until_quiet(
    limit_s: float = QUIET_S, read: Callable[[], str] = lambda: Path("/proc/stat").read_text(encoding="ascii")
) -> bool:
    """Wait until little else runs; False when that does not come within `limit_s`.

    :param read: gives the text of /proc/stat.
    """
    before = _times(read())

    def look() -> bool | None:
        nonlocal before
        now = _times(read())
        busy, total = now[0] - before[0], now[1] - before[1]
        before = now
        return True if total > 0 and busy < _BUSY * total else None

    try:
        with step("waiting for a quiet host"):
            poll(look, Deadline(limit_s), "a quiet host", min(_LOOK_S, limit_s / 100))
    except DeadlineExceeded:
        return False
    return True


def _times(stat: str) -> tuple[int, int]:
    """Ticks in which CPUs were busy, and of all, since boot (proc_stat(5): user nice system idle iowait irq ...)."""
    ticks = [int(word) for word in stat.split("\n", 1)[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)
