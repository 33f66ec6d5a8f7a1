"""Check of CPU time against work: what callers of SPL use for objects and rounds, by what the worker uses for a growth.

With stock a caller takes an object, writes to its pages, gives it back, and sleeps. What it uses for the pages of an
object goes with what the worker uses for those of a slab. Who spins, for the cache's lock or until somebody has done
something, uses CPU time without getting objects.
"""

from __future__ import annotations

from collections.abc import Iterator

from splvm.evidence.checks.asked import parameters_of
from splvm.evidence.checks.case import Case, Complaint, is_count, millis, seqs
from splvm.evidence.checks.growths import used_by, workers_of
from splvm.evidence.checks.marks import tells
from splvm.evidence.timeline import between
from splvm.evidence.verdict import Outcome, Reason

# CPU time that callers use for an object: a share of what the worker uses for a growth, and ns besides; and ns for each
# round, with its pause and its reaping. Time is the number of instructions, so these are the same on each host
# (docs/performance.md has the figures of stock).
SHARE = 0.03
OBJECT_NS = 80_000
ROUND_NS = 600_000

# What an emergency object costs besides, as a share of what the growth costs for one of the slab's: the caller itself
# has the kernel look for its pages and clear them.
EMERGENCY = 2.0

# Threads for each CPU, up to which that holds: with more of them many objects are emergency objects, which cost more.
THREADS_AT_MOST = 4

# Objects and growths in a window from which on their cost is one.
OBJECTS_AT_LEAST, GROWTHS_AT_LEAST = 500, 50


def check_cpu(case: Case) -> Iterator[Complaint]:
    """Callers do not use more CPU time for an object than writing to it takes.

    Only where nothing is held or let fail, so that the worker grows the cache throughout the window; and only in
    virtual time. In real time a thread also counts as running while its virtual CPU waits for one of the host's.
    """
    start, end = case.window
    probes, tasks = case.probes("window", "window-end"), between(case.timeline.tasks, start, end)
    if not tells(case) or not case.evidence.is_virtual or case.pulled_ns != start or len(probes) < 2 or len(tasks) < 2:
        return
    first, last = probes[0].value, probes[-1].value
    cpus = parameters_of(case).get("cpus")
    if first.growth is None or last.growth is None or not is_count(cpus):
        return
    if last.config.threads > THREADS_AT_MOST * cpus or last.kinds is not None:
        # Work with caches of other kinds takes from the pages and slabs of this one, and gives back to them.
        return
    objects = sum(t.allocs for t in last.threads) - sum(t.allocs for t in first.threads)
    growths = last.growth.done - first.growth.done
    callers, workers = used_by(tasks, {thread.pid for thread in last.threads}), used_by(tasks, workers_of(tasks))
    if objects < OBJECTS_AT_LEAST or growths < GROWTHS_AT_LEAST:
        return
    if workers <= 0 and callers <= 0:
        # Some kernels count no CPU time.
        return
    if workers <= 0:
        text = f"the cache grew {growths} times in the window, and nobody saw a worker use CPU time for it"
        yield Complaint(Outcome.INCONCLUSIVE, Reason(text, seqs(tasks)))
        return
    rounds = sum(t.rounds for t in last.threads) - sum(t.rounds for t in first.threads)
    emergency = last.live.emergency_total - first.live.emergency_total
    of_growth = workers / growths
    most = objects * (SHARE * of_growth + OBJECT_NS) + rounds * ROUND_NS
    most += EMERGENCY * emergency * of_growth / _per_slab(case)
    if callers > most:
        pids = {thread.pid for thread in last.threads}
        ready = sum(any(task.pid in pids and task.state == "R" for task in sample.value) for sample in tasks)
        text = (
            f"callers used {millis(callers)} of CPU time for {objects} objects in {rounds} rounds, and the worker "
            f"{millis(workers)} for {growths} growths; {millis(int(most))} are the bound of that, and one of them was "
            f"ready to run in {ready} of {len(tasks)} readings"
        )
        yield Complaint(Outcome.SUSPECT, Reason(text, seqs(tasks)))


def _per_slab(case: Case) -> int:
    """Objects that a slab has; 1 if nobody saw one."""
    sizes = [(row.value.object.total or 0) // row.value.slab.total for row in case.rows() if row.value.slab.total]
    return max([1, *sizes])
