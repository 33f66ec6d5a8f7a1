"""What the benchmarks have in common: how a figure is told, and of which machine."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from splvm.host.capabilities import find_qemu

PROJECT = Path(__file__).resolve().parents[2]
SPLVM = str(PROJECT / "splvm")

# A benchmark: how many runs, and what came of them.
Benchmark = Callable[[int], dict[str, object]]


def summary(values: Sequence[float], unit: str) -> dict[str, object]:
    """Median, minimum and maximum."""
    if not values:
        return {"runs": 0, "unit": unit}
    numbers = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {**{name: round(value, 4) for name, value in numbers.items()}, "runs": len(values), "unit": unit}


def timed(argv: Sequence[str], expect: str, env: dict[str, str] | None = None) -> float:
    """Seconds that a command takes; its output must have a line that starts with `expect`."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as cwd:
        done = subprocess.run(
            argv, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False
        )
    seconds = time.monotonic() - start
    if done.returncode != 0 or not any(line.startswith(expect) for line in done.stdout.splitlines()):
        raise SystemExit(f"{argv}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return seconds


def machine() -> dict[str, object]:
    """What the figures hold for."""
    qemu = find_qemu()
    models = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.findall(r"^MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": models[0] if models else "",
        "memory_mib": int(memory[0]) // 1024,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "qemu": qemu.version,
    }


def load() -> float:
    """Of this host, the mean of a minute."""
    return round(os.getloadavg()[0], 2)
