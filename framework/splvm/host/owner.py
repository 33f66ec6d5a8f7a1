"""Whose scratch a directory is, by its name: a process of this boot and PID namespace, living or gone."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from pathlib import Path

# Scratch whose owner cannot be looked up (another boot, another PID namespace or another host with the same directory).
_KEEP_FOREIGN_S = 86400.0


def boot_id() -> str:
    """Changes with every start of the host."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _pid_space() -> str:
    """8 hexadecimal digits that stand for this boot and this PID namespace: within them a PID means something."""
    return hashlib.sha256(f"{boot_id()} {os.readlink('/proc/self/ns/pid')}".encode()).hexdigest()[:8]


def _start_ticks(pid: int) -> int | None:
    """When a process began, in clock ticks since the boot (proc(5), field 22 of stat); None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # Field 2 is the name in parentheses, which may contain anything. A zombie owns nothing any more.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def scratch_name() -> str:
    """A name for a scratch directory of this process, another one each time."""
    return f"{_pid_space()}-{os.getpid()}-{_start_ticks(os.getpid())}-{uuid.uuid4().hex[:8]}"


def age_s(path: Path, now: float) -> float:
    """Seconds since a file or directory was last changed, by the time `now`; 0 if it is gone."""
    try:
        return now - path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def is_abandoned(path: Path, now: float) -> bool:
    """Whether the process that made a scratch directory is gone."""
    match = re.fullmatch(r"([0-9a-f]{8})-(\d+)-(\d+)-[0-9a-f]{8}", path.name)
    if not match or match[1] != _pid_space():
        return age_s(path, now) > _KEEP_FOREIGN_S
    return _start_ticks(int(match[2])) != int(match[3])
