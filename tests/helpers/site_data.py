"""Runs for tests of the report site: recorded ones, and rows of a history."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from splvm.campaign.keep import find_runs, read_runs
from splvm.history.schema import Figure, RunRow
from splvm.record.cellfacts import PACKAGED
from unpacking import unpack

# Text that would be markup, or a program, wherever it is not escaped.
HOSTILE = """</script><script>alert(1)</script><img src=x onerror=alert(1)>"'<b>{{7*7}}&lt;"""


def recorded_runs(data: Path, target: Path) -> list[RunRow]:
    """The runs of tests/data, unpacked below `target`; the first one is `progress`."""
    for archive in sorted((data / "runs").glob("*.tar.xz")):
        with tarfile.open(archive) as opened:
            unpack(opened, target)
    found = [run for _, run in read_runs(find_runs([target])[0]) if isinstance(run, RunRow)]
    return sorted(found, key=lambda run: Path(run.directory).name != "progress")


def a_run(number: int, verdict: str = "PROGRESS", **told: Any) -> RunRow:
    """A row; numbers among what is told are figures, the rest columns."""
    run_id = hashlib.sha256(str(number).encode()).hexdigest()
    figures = {name: value for name, value in told.items() if isinstance(value, float)}
    columns: dict[str, Any] = {
        "id": run_id,
        "batch": "",
        "started": datetime(2026, 1, 1) + timedelta(minutes=number),
        **{
            "scenario": "held-worker",
            "kernel": "debian-12",
            "variant": "stock",
            "loads": "",
            "line": PACKAGED,
            "parameters": "",
        },
        **dict.fromkeys(
            ("release", "spl_version", "spl_source", "accelerator", "qemu", "host", "command", "content"), "x"
        ),
        **{
            "revision": "",
            "tree": "",
            "digest": "",
            "starved": "",
            "reason": f"reason of {number}",
            "fingerprint": "",
            "directory": "/nowhere",
        },
        **{"patches": [], "modules": {"spl.ko": "a" * 64}, "duration_s": 1.0},
        **{"verdict": verdict, "expected": ["PROGRESS"], "as_expected": verdict == "PROGRESS"},
    }
    columns |= {name: value for name, value in told.items() if name not in figures}
    return RunRow(**columns, figures=[Figure(run_id=run_id, name=name, value=value) for name, value in figures.items()])


def contrast(one: Sequence[int], other: Sequence[int]) -> float:
    """The ratio of contrast of two colours of red, green and blue to 255, as WCAG 2 defines it."""

    def luminance(colour: Sequence[int]) -> float:
        shares = [part / 255 for part in colour]
        red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in shares)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)
