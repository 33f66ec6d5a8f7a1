"""What the host is, and what it does to a guest: how long the virtual CPUs ran, and how long they waited for a CPU."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from splvm.host.schedstat import read_steal_s

# Seconds between two readings.
INTERVAL_S = 0.25


@contextmanager
def start_host_watch(
    read: Callable[[float], list[dict[str, int]]], sink: Callable[[Mapping[str, Any]], None]
) -> Iterator[None]:
    """Give a reading to `sink` every `INTERVAL_S`, until the block ends.

    :param read: what the scheduler says of the virtual CPUs, given the host's monotonic clock.
    """
    done = threading.Event()

    def watch() -> None:
        while True:
            sink({"vcpus": read(time.monotonic()), "load1": os.getloadavg()[0], "steal_s": read_steal_s()})
            if done.wait(INTERVAL_S):
                return

    thread = threading.Thread(target=watch, name="host-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(2)


def host_facts() -> dict[str, Any]:
    """The part of run.json about the host."""
    return {
        "host": {
            "cores": os.cpu_count(),
            "load": [round(load, 2) for load in os.getloadavg()],
            "system": " ".join(os.uname()[i] for i in (0, 2, 4)),
        }
    }
