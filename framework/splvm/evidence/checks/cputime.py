"""Check of CPU time against work: what callers of SPL use for an object, by what the worker uses for a growth.

Of one kernel and one host neither is the same as of another one. But whatever makes the one slow makes the other slow,
so their ratio says what callers do: with stock they take an object, write to its pages, and sleep. Who spins, for the
cache's lock or until somebody has done something, uses CPU time without getting objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from splvm.evidence.checks.asked import parameters_of
from splvm.evidence.checks.case import Case, Complaint, is_count, millis, seqs
from splvm.evidence.checks.marks import tells
from splvm.evidence.checks.starvation import WORKER
from splvm.evidence.formats.stacks import Task
from splvm.evidence.timeline import Sample, between
from splvm.evidence.verdict import Outcome, Reason

# CPU time that the callers use for an object, as a share of what the worker uses for a growth (docs/performance.md has
# the figures of stock).
MOST = 0.16

# Threads for each CPU, up to which that holds: with more of them many objects are emergency objects, which cost more.
THREADS_AT_MOST = 4

# Objects and growths in a window from which on the ratio is one.
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
    if last.config.threads > THREADS_AT_MOST * cpus:
        return
    objects = sum(t.allocs for t in last.threads) - sum(t.allocs for t in first.threads)
    growths = last.growth.done - first.growth.done
    callers = _used_ns(tasks, {thread.pid for thread in last.threads})
    workers = _used_ns(tasks, {task.pid for task in tasks[-1].value if task.comm.startswith(WORKER)})
    if objects < OBJECTS_AT_LEAST or growths < GROWTHS_AT_LEAST or not workers:
        return
    of_object, of_growth = callers / objects, workers / growths
    if of_object > MOST * of_growth:
        pids = {thread.pid for thread in last.threads}
        ready = sum(any(task.pid in pids and task.state == "R" for task in sample.value) for sample in tasks)
        text = (
            f"callers used {millis(callers)} of CPU time for {objects} objects, and the worker {millis(workers)} for "
            f"{growths} growths: {of_object / of_growth:.3f} of a growth for each object, and {MOST} is the bound; one "
            f"of them was ready to run in {ready} of {len(tasks)} readings"
        )
        yield Complaint(Outcome.SUSPECT, Reason(text, seqs(tasks)))


def _used_ns(tasks: Sequence[Sample[tuple[Task, ...]]], pids: set[int]) -> int:
    """CPU time that threads had between the first and the last reading; those that are not in both are left out."""
    first, last = ({task.pid: task.run_ns for task in tasks[at].value if task.pid in pids} for at in (0, -1))
    return sum((last[pid] or 0) - (first[pid] or 0) for pid in first.keys() & last.keys())
