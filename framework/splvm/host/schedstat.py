"""How long threads ran, and how long they waited for a CPU: the scheduler's own figures.

/proc/PID/task/TID/schedstat has time on a CPU and time runnable but not running, in ns
(Documentation/scheduler/sched-stats.rst), so a starved guest can be distinguished from a guest that hangs.
"""

from __future__ import annotations

import os
from pathlib import Path


def read_threads(pid: int, threads: tuple[int, ...]) -> list[dict[str, int]]:
    """One entry a thread: its id, and the ns it ran and waited. A thread that is gone is left out."""
    readings = []
    for thread in threads:
        try:
            run_ns, wait_ns = Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[:2]
        except (OSError, ValueError):
            continue
        readings.append({"tid": thread, "run_ns": int(run_ns), "wait_ns": int(wait_ns)})
    return readings


def read_thread_ids(pid: int) -> tuple[int, ...]:
    """The threads of a process; none when it is gone."""
    try:
        return tuple(int(name) for name in os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return ()


def read_steal_s() -> float:
    """Seconds that a hypervisor below this host gave its CPUs to others, over all CPUs, since boot (proc(5), stat)."""
    try:
        words = Path("/proc/stat").read_text().partition("\n")[0].split()
        return int(words[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


def read_cpu_s(pid: int) -> float | None:
    """Seconds of CPU time that all threads of a process have used; None when it has ended."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    # Fields 14 and 15 of proc(5), the first of these words being field 3.
    return None if words[0] in "ZX" else (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def read_wait(pid: int) -> str:
    """The kernel's function in which the first thread of a process waits (proc(5), /proc/PID/wchan); empty or 0: in
    none, or it is not told.
    """
    try:
        return Path(f"/proc/{pid}/wchan").read_text(errors="replace")
    except OSError:
        return ""


def read_state(pid: int) -> str:
    """The letter of a process's state (proc(5), /proc/PID/stat): R, S, D, T, Z, ...; empty when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[0]
