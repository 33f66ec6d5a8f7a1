"""What each load reaches on each kernel, and what it costs."""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from figures import summary
from splvm.builds.kernels import KERNELS
from splvm.errors import HarnessError
from splvm.evidence.loads import LOADS
from splvm.evidence.verdict import Verdict
from splvm.record.reader import read_evidence
from splvm.run.experiment import run_experiment
from splvm.run.loads import parse_loads
from splvm.run.prepare import Prepared, Wish, prepare
from splvm.scenarios.table import find_scenario

# Those that are a scenario of their own are told of in docs/zfs.md.
_APART = ("zfs-mmap", "zvol-swap", "disk-swap", "arc-mlock")
# Beside each of the others, the two that the mission is about, together.
NAMES = (*(name for name in LOADS if name not in _APART), "writeback,lowmem")


def loads(runs: int) -> dict[str, object]:
    """held-worker under each load: level, time to reach it, CPU time of the generator, longest gap of a thread."""
    return {kernel: _on(kernel, runs) for kernel in KERNELS}


def _on(kernel: str, runs: int) -> dict[str, object]:
    try:
        prepared = prepare(Wish(kernel=kernel))
    except HarnessError as error:
        return {"trouble": error.message}
    return {name: _under(prepared, name, runs) for name in ("", *NAMES)}


def _under(prepared: Prepared, name: str, runs: int) -> dict[str, Any]:
    told: list[Verdict] = []
    reached: list[float] = []
    for number in range(1, runs + 1):
        chosen = parse_loads([name] if name else [])
        experiment = prepared.experiment(find_scenario("held-worker"), loads=chosen, seed=number)
        with tempfile.TemporaryDirectory(prefix="splvm-bench-") as directory:
            told.append(run_experiment(experiment, Path(directory) / "run"))
            marks = read_evidence(Path(directory) / "run").timeline.marks
        if name:
            reached.append((marks["settle"] - marks["load"]) / 1e9)
        sys.stderr.write(f"{prepared.kernel.spec.id} {name or '(none)'}: {told[-1].outcome}\n")
    good = [verdict.figures for verdict in told if verdict.outcome.is_good]
    figures: dict[str, Any] = {"verdicts": [verdict.outcome.value for verdict in told]}
    if good:
        figures["longest gap"] = summary([figure["longest_gap_ms"] for figure in good], "ms")
        figures["objects"] = summary([figure["objects_per_s"] for figure in good], "1/s")
    if good and name:
        figures["reached after"] = summary(reached, "s of guest time")
        figures["generator"] = summary([100 * figure["loads"]["cpu"] for figure in good], "% of a CPU")
        for load in name.split(","):
            levels = [figure["loads"]["levels"][load] for figure in good]
            figures[load] = {
                "asked": f"{levels[0]['low']} to {levels[0]['high']} {levels[0]['unit']}",
                "median": statistics.median(level["median"] for level in levels),
                "min": min(level["min"] for level in levels),
                "max": max(level["max"] for level in levels),
            }
        for kind in ("some", "full", "scanned", "scanned_direct"):
            figures[kind] = statistics.median(figure["loads"]["memory"][kind] for figure in good)
    return figures
