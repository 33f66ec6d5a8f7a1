"""Benchmark of what handing out a run costs, on this machine and on a cluster of two workers of it."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from figures import PROJECT, summary
from splvm.campaign.cluster import Cluster, parse_address
from splvm.campaign.matrix import Runner
from splvm.campaign.parcel import make_parcel
from splvm.campaign.processes import Job, JobResult, run_jobs
from splvm.errors import HarnessError
from splvm.run.experiment import Experiment
from splvm.run.prepare import Wish, prepare
from splvm.scenarios.table import find_scenario

sys.path.append(str(PROJECT / "tests" / "helpers"))
from cluster_processes import cluster

_JOBS = 40


def on_machine(experiment: Experiment, **changes: Any) -> Experiment:
    """An experiment on another machine."""
    machine = replace(experiment.guest.machine, **changes)
    return replace(experiment, guest=replace(experiment.guest, machine=machine))


def overhead(runs: int) -> dict[str, object]:
    """Seconds for each run that comes to nothing at once, because there is no such QEMU: all the rest is overhead.

    What two at once take for it is what a cell of a matrix waits for more than its guest. Over a cluster it is told
    with and without the files that a worker has not got yet.
    """
    whole = prepare(Wish()).experiment(find_scenario("nominal"))
    broken = on_machine(whole, qemu="no-such-qemu")
    with tempfile.TemporaryDirectory(prefix="splvm-bench-") as directory:
        top = Path(directory)
        local = [_time(lambda jobs, done: run_jobs(jobs, 2, done), broken, top / f"l{n}") for n in range(runs)]
        _, files = make_parcel(Job("", whole, top))
        size = sum(path.stat().st_size for path in files.values())
        # Workers take their own QEMU, so what keeps the run from being one is a kernel that is none.
        (top / "vmlinuz").write_text("none")
        odd = on_machine(whole, kernel=top / "vmlinuz", initrds=())
        with cluster(top, {"one": {}, "two": {}}) as (address, _), Cluster(parse_address(address)) as opened:
            first = _time(opened.run, odd, top / "first")
            then = [_time(opened.run, odd, top / f"c{n}") for n in range(runs)]
    return {
        "local": summary(local, "s"),
        "cluster": summary(then, "s"),
        "cluster_first": round(first, 4),
        "files_of_a_build_bytes": size,
    }


def _time(runner: Runner, experiment: Experiment, out: Path) -> float:
    results: list[JobResult] = []
    take: Callable[[JobResult], None] = results.append
    start = time.monotonic()
    runner([Job(f"job {number}", experiment, out / str(number)) for number in range(_JOBS)], take)
    seconds = time.monotonic() - start
    if len(results) != _JOBS or any(result.runs for result in results):
        raise HarnessError("a run that cannot be has a verdict")
    return seconds / _JOBS
