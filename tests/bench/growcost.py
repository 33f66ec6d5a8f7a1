"""Growth in one worker against growth in every caller: CPU time of the guest for each object that the cache grows for.

Both builds of SPL do the same: threads without a pause take 32 objects of 64 KiB, give them back, and reap the cache,
so the next round has to grow it; that it did is counted at vmalloc. What is compared runs in turn.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from framework.evidence.cost import Cost, cost_of_objects
from framework.evidence.verdict import Outcome
from framework.lab.experiment import run_experiment
from framework.lab.prepare import Prepared, Wish, prepare
from framework.lab.rundir import read_evidence
from framework.lab.scenarios import Scenario, Step, Workload, find_scenario

VARIANTS = ("stock", "sync-grow")
THREADS = (1, 2, 4, 8)

# Seconds of guest time: at rest, and with the threads at work.
IDLE_S, WINDOW_S = 2.0, 4.0

# A window with more emergency objects than this says nothing: those are no growth.
EMERGENCY_SHARE = 0.01

# Guests that are booted for one figure, at most.
ATTEMPTS = 3


def _with_rest() -> Scenario:
    """`nominal`, and before it the guest at rest, with the agent at work as it is later on."""
    nominal = find_scenario("nominal")
    rest = Step("rest", (), lambda reading: reading.elapsed_ns >= IDLE_S * 1e9, IDLE_S + 5)
    return replace(nominal, steps=lambda window_s: (rest, *nominal.steps(window_s)))


def _measure(prepared: Prepared, threads: int, cpus: int, out: Path) -> tuple[Cost | None, Outcome]:
    workload = Workload(threads=threads, pause_us=0)
    experiment = prepared.experiment(_with_rest(), window_s=WINDOW_S, workload=workload)
    experiment = replace(experiment, machine=replace(experiment.machine, cpus=cpus))
    verdict = run_experiment(experiment, out)
    cost = cost_of_objects(read_evidence(out).timeline, ("rest", "settle"))
    shutil.rmtree(out)
    return cost, verdict.outcome


def grow_cost(runs: int, cpus: int = 2) -> dict[str, object]:
    """CPU time and rate of objects for which the cache grows, by its worker (stock) or by each caller (sync-grow)."""
    builds = {variant: prepare(Wish(variant=variant)) for variant in VARIANTS}
    costs: dict[tuple[int, str], list[Cost]] = {(n, variant): [] for n in THREADS for variant in VARIANTS}
    outcomes: dict[str, int] = {}
    refused = 0
    with tempfile.TemporaryDirectory(prefix="splvm-bench-") as directory:
        for number in range(runs):
            for threads in THREADS:
                for variant in VARIANTS if number % 2 else reversed(VARIANTS):
                    for _ in range(ATTEMPTS):
                        cost, outcome = _measure(builds[variant], threads, cpus, Path(directory) / "run")
                        outcomes[f"{variant} {outcome}"] = outcomes.get(f"{variant} {outcome}", 0) + 1
                        if cost is not None and cost.emergency <= EMERGENCY_SHARE * cost.objects:
                            costs[threads, variant].append(cost)
                            break
                        refused += 1
                    sys.stderr.write(f"{number + 1}: {threads} threads, {variant}: {outcome}, {cost}\n")
    return {
        "cpus_of_the_guest": cpus,
        "object_kib": Workload().size // 1024,
        "objects_per_round": Workload().objects,
        "threads": {str(threads): _compare(costs, threads) for threads in THREADS},
        "verdicts": outcomes,
        "refused_for_emergency_objects": refused,
    }


_FIGURES: dict[str, Callable[[Cost], float]] = {
    "cpu_us_per_object": lambda cost: cost.cpu_us_per_object,
    "cpu_us_per_slab": lambda cost: cost.cpu_us_per_slab,
    "objects_per_s": lambda cost: cost.objects_per_s,
    "objects_per_slab": lambda cost: cost.objects / cost.slabs,
    "cpus_busy": lambda cost: cost.window_cpu - cost.idle_cpu,
    "cpus_busy_at_rest": lambda cost: cost.idle_cpu,
}


def _compare(costs: dict[tuple[int, str], list[Cost]], threads: int) -> dict[str, object]:
    stock, callers = (costs[threads, variant] for variant in VARIANTS)
    pairs = list(zip(stock, callers, strict=False))
    return {
        **{variant: _figures(costs[threads, variant]) for variant in VARIANTS},
        "worker / callers, CPU time per object": _spread([a.cpu_us_per_object / b.cpu_us_per_object for a, b in pairs]),
        "worker / callers, CPU time per slab": _spread([a.cpu_us_per_slab / b.cpu_us_per_slab for a, b in pairs]),
        "worker / callers, objects per second": _spread([a.objects_per_s / b.objects_per_s for a, b in pairs]),
    }


def _figures(costs: Sequence[Cost]) -> dict[str, object]:
    return {name: _spread([figure(cost) for cost in costs]) for name, figure in _FIGURES.items()}


def _spread(values: Sequence[float]) -> dict[str, object]:
    if not values:
        return {"runs": 0}
    numbers = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {**{name: round(value, 3) for name, value in numbers.items()}, "runs": len(values)}
