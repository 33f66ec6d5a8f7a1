"""What the host does to a guest meanwhile: how long its virtual CPUs ran, and how long they waited for a CPU.

The kernel's own figures (/proc/PID/task/TID/schedstat: time on a CPU, time runnable but not running, in ns;
Documentation/scheduler/sched-stats.rst), so a guest that was starved is told from one that hangs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Seconds between two readings.
INTERVAL_S = 0.25


def read_vcpus(pid: int, threads: tuple[int, ...]) -> list[dict[str, int]]:
    """One entry a thread: its id, and the ns it ran and waited. A thread that is gone is left out."""
    readings = []
    for thread in threads:
        try:
            run_ns, wait_ns = Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[:2]
        except (OSError, ValueError):
            continue
        readings.append({"tid": thread, "run_ns": int(run_ns), "wait_ns": int(wait_ns)})
    return readings


@contextmanager
def start_host_watch(pid: int, threads: tuple[int, ...], sink: Callable[[Mapping[str, Any]], None]) -> Iterator[None]:
    """Give a reading to `sink` every `INTERVAL_S`, until the block ends.

    :param pid: QEMU.
    :param threads: its virtual CPUs.
    """
    done = threading.Event()

    def watch() -> None:
        while True:
            sink({"vcpus": read_vcpus(pid, threads), "load1": os.getloadavg()[0]})
            if done.wait(INTERVAL_S):
                return

    thread = threading.Thread(target=watch, name="host-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(2)
