"""Growth in one worker against growth in every caller: CPU time of the guest for each object and for each slab.

All builds of SPL do the same: threads without a pause take 32 objects of 64 KiB, give them back, and reap the cache, so
the next round has to grow it. How often it did is counted at vmalloc: SPL leaves out a reap while another one is under
way, so several threads reuse some objects, and what is comparable is the cost of a slab. What an object takes that
comes from a magazine is measured without a reap and taken off. What is compared runs in turn.

`stock` may hand out emergency objects, which are no growth, when the guest is short of CPU; `no-emergency` has the same
worker without them.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from splvm.evidence.cost import Cost, cost_of_objects
from splvm.evidence.verdict import Outcome
from splvm.record.reader import read_evidence
from splvm.run.experiment import run_experiment
from splvm.run.prepare import Prepared, Wish, prepare
from splvm.run.scenarios import Scenario, Step, Workload
from splvm.scenarios.table import find_scenario

CALLERS = "sync-grow"
VARIANTS = ("stock", "no-emergency", CALLERS)
THREADS = (1, 2, 4, 8)

# Seconds of guest time: at rest, and with the threads at work.
IDLE_S, WINDOW_S = 2.0, 4.0


def _with_rest() -> Scenario:
    """`nominal`, and before it the guest at rest, with the agent at work as it is later on."""
    nominal = find_scenario("nominal")
    rest = Step("rest", (), lambda reading: reading.elapsed_ns >= IDLE_S * 1e9, IDLE_S + 5)
    return replace(nominal, steps=lambda window_s: (rest, *nominal.steps(window_s)))


def _measure(
    prepared: Prepared, threads: int, cpus: int, out: Path, reap_rounds: int = 1
) -> tuple[Cost | None, Outcome]:
    workload = Workload(threads=threads, pause_us=0, reap_rounds=reap_rounds)
    experiment = prepared.experiment(_with_rest(), window_s=WINDOW_S, workload=workload)
    machine = replace(experiment.guest.machine, cpus=cpus)
    experiment = replace(experiment, guest=replace(experiment.guest, machine=machine))
    verdict = run_experiment(experiment, out)
    cost = cost_of_objects(read_evidence(out).timeline, ("rest", "settle"))
    shutil.rmtree(out)
    return cost, verdict.outcome


def grow_cost(runs: int, cpus: int = 2) -> dict[str, object]:
    """CPU time and rate of objects for which the cache grows, by its worker (stock) or by each caller (sync-grow)."""
    builds = {variant: prepare(Wish(variant=variant)) for variant in VARIANTS}
    costs: dict[tuple[int, str], list[Cost | None]] = {(n, variant): [] for n in THREADS for variant in VARIANTS}
    outcomes: dict[str, int] = {}
    reused: list[float] = []
    with tempfile.TemporaryDirectory(prefix="splvm-bench-") as directory:
        for number in range(runs):
            # As many threads as magazines, which hold what all of them take.
            cost, outcome = _measure(builds["stock"], cpus, cpus, Path(directory) / "run", reap_rounds=0)
            reused += [cost.cpu_us_per_object] if cost is not None else []
            sys.stderr.write(f"{number + 1}: nothing reaped: {outcome}, {cost}\n")
            for threads in THREADS:
                for variant in VARIANTS if number % 2 else reversed(VARIANTS):
                    cost, outcome = _measure(builds[variant], threads, cpus, Path(directory) / "run")
                    outcomes[f"{variant} {outcome}"] = outcomes.get(f"{variant} {outcome}", 0) + 1
                    costs[threads, variant].append(cost)
                    sys.stderr.write(f"{number + 1}: {threads} threads, {variant}: {outcome}, {cost}\n")
    return {
        "cpus_of_the_guest": cpus,
        "object_kib": Workload().size // 1024,
        "objects_per_round": Workload().objects,
        "cpu_us_per_object_from_a_magazine": _spread(reused),
        "threads": {
            str(threads): _compare(costs, threads, statistics.median(reused) if reused else 0.0) for threads in THREADS
        },
        "verdicts": outcomes,
    }


def _figures(cost: Cost, object_us: float) -> dict[str, float]:
    return {
        "cpu_us_per_object": cost.cpu_us_per_object,
        "cpu_us_per_slab": cost.cpu_us_per_slab(object_us),
        "objects_per_s": cost.objects_per_s,
        "objects_per_slab": cost.objects / cost.slabs,
        "emergency_share": cost.emergency / cost.objects,
        "cpus_busy": cost.window_cpu - cost.idle_cpu,
        "cpus_busy_at_rest": cost.idle_cpu,
    }


# What the worker's build is compared to growth in the callers by.
_RATIOS = ("cpu_us_per_object", "cpu_us_per_slab", "objects_per_s")


def _compare(
    costs: dict[tuple[int, str], list[Cost | None]], threads: int, object_us: float
) -> dict[str, dict[str, object]]:
    """Of runs in turn; one whose record lacks something, or without a growth, is left out with its pair."""
    told: dict[str, dict[str, object]] = {}
    figures = {
        variant: [_figures(cost, object_us) if cost and cost.slabs else None for cost in costs[threads, variant]]
        for variant in VARIANTS
    }
    for variant, runs in figures.items():
        kept = [run for run in runs if run]
        told[variant] = {name: _spread([run[name] for run in kept]) for name in (kept[0] if kept else ())}
        if variant != CALLERS:
            pairs = [(a, b) for a, b in zip(runs, figures[CALLERS], strict=True) if a and b]
            told[f"{variant} / {CALLERS}"] = {name: _spread([a[name] / b[name] for a, b in pairs]) for name in _RATIOS}
    return told


def _spread(values: Sequence[float]) -> dict[str, object]:
    if not values:
        return {"runs": 0}
    numbers = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {**{name: round(value, 3) for name, value in numbers.items()}, "runs": len(values)}


def grow_cost_one_cpu(runs: int) -> dict[str, object]:
    """The same in a guest with one CPU, where nobody waits for what another virtual CPU holds."""
    return grow_cost(runs, cpus=1)


def grow_cost_four_cpus(runs: int) -> dict[str, object]:
    """The same in a guest with four CPUs."""
    return grow_cost(runs, cpus=4)
