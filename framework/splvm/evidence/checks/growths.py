"""What the worker computes for a growth of the cache: for large slabs, longer than SPL's callers wait for it.

The time is that of making pages ready: the kernel clears each of them where it was built so (init_on_alloc=1). So it
grows with the slab, and a caller that times out while the worker is at it says nothing of SPL.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from splvm.evidence.checks.asked import parameters_of
from splvm.evidence.checks.case import Case, is_count
from splvm.evidence.checks.starvation import WORKER
from splvm.evidence.formats.stacks import Task
from splvm.evidence.timeline import Sample

# How long a caller waits for the worker before it times out, ns: HZ/10, spl_cache_grow() in OpenZFS,
# module/os/linux/spl/spl-kmem-cache.c.
TIMEOUT_NS = 100_000_000

# CPU time for a MiB of slab, ns, that a growth takes at most (docs/performance.md has the figures of stock).
NS_PER_MIB = 40_000_000

_MIB = 1 << 20


def slab_mib(case: Case) -> float:
    """Size of a slab, MiB; 0 if nobody saw one."""
    sizes = [row.value.slabsize or 0 for row in case.rows()]
    return max(sizes, default=0) / _MIB


def takes_long(case: Case, until_ns: int) -> bool:
    """Whether slabs are so large that a growth may take as long as the timeout, and the worker was at work on them for
    that long, up to a moment, and does not take longer than the size of a slab explains.
    """
    bound_ns = slab_mib(case) * NS_PER_MIB
    steps = [
        (before, after)
        for before, after in pairwise(case.timeline.tasks)
        if after.end_ns > until_ns - TIMEOUT_NS and after.start_ns < until_ns
    ]
    if bound_ns * _sharers(case) < TIMEOUT_NS or not steps or _of_growth_ns(case) > bound_ns:
        return False
    return all(_is_at_work(before.value, after.value) for before, after in steps)


def _is_at_work(before: tuple[Task, ...], after: tuple[Task, ...]) -> bool:
    """Whether a worker had CPU time from one reading to the next, or was ready for it."""
    earlier = {task.pid: task for task in before}
    return any(
        "R" in (task.state, earlier[task.pid].state) or task.run_ns != earlier[task.pid].run_ns
        for task in after
        if task.comm.startswith(WORKER) and task.run_ns is not None and task.pid in earlier
    )


def _sharers(case: Case) -> float:
    """Threads for each CPU, the worker among them: of its time a growth gets as much less."""
    cpus = parameters_of(case).get("cpus")
    threads = case.timeline.probe[-1].value.config.threads + 1 if case.timeline.probe else 1
    return max(1.0, threads / cpus) if is_count(cpus) and cpus else 1.0


def _of_growth_ns(case: Case) -> float:
    """CPU time of the worker for each growth that began in the run."""
    told = [sample.value.growth for sample in case.timeline.probe if sample.value.growth is not None]
    begun = told[-1].begun - told[0].begun if told else 0
    return used_by(case.timeline.tasks, workers_of(case.timeline.tasks)) / max(1, begun)


def workers_of(samples: Sequence[Sample[tuple[Task, ...]]]) -> set[int]:
    return {task.pid for sample in samples for task in sample.value if task.comm.startswith(WORKER)}


def used_by(samples: Sequence[Sample[tuple[Task, ...]]], pids: set[int]) -> int:
    """CPU time that threads had between the first and the last reading, ns.

    A thread that was made or ended meanwhile counts from the first to the last reading of it.
    """
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for sample in samples:
        for task in sample.value:
            if task.pid in pids and task.run_ns is not None:
                first.setdefault(task.pid, task.run_ns)
                last[task.pid] = task.run_ns
    return sum(last[pid] - first[pid] for pid in last)
