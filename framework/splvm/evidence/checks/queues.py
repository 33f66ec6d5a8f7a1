"""Checks of the work with taskqs: each step comes to its end, SPL keeps its promises, and counts right."""

from __future__ import annotations

from collections.abc import Iterator

from splvm.evidence.checks.case import Case, Complaint, seconds, unless_starved
from splvm.evidence.checks.promises import broken
from splvm.evidence.checks.starvation import starved
from splvm.evidence.formats.probestatus import ProbeStatus
from splvm.evidence.formats.workstatus import Queue, Queues, WorkState
from splvm.evidence.timeline import Sample, between
from splvm.evidence.verdict import Outcome, Reason, Verdict

# A step takes at most some tenths of a second; one that took so long, ns, never ends.
STANDS_NS = 1_500_000_000

# What the names of all threads of the probe's taskqs begin with (images/slabprobe/queues.c, caches.c).
THREADS = tuple(f"slabprobe_{name}" for name in ("one", "two", "dyn", "few", "temp", "pct"))

# Rounds that each client has to have made in the window.
ROUNDS = 2


def _samples(case: Case, start: str, end: str) -> list[tuple[Sample[ProbeStatus], Queues]]:
    if start not in case.marks or end not in case.marks:
        return []
    return [(it, it.value.queues) for it in case.probes(start, end) if it.value.queues is not None]


def check_queues(case: Case) -> Iterator[Complaint]:
    """There was work, it went on, and came to each of its states."""
    inside = _samples(case, "window", "window-end")
    if not inside:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("the probe tells nothing of taskqs"))
        return
    last = next(it for it in reversed(case.timeline.probe) if it.value.queues is not None)
    assert last.value.queues is not None
    stuck = False
    for client in last.value.queues.clients:
        took = last.value.now_ns - client.since_ns
        if client.step and took >= STANDS_NS:
            stuck = True
            text = (
                f"client {client.index} (pid {client.pid}) is in step {client.step[:40]} of its work with taskqs for "
                f"{seconds(took)}{_where(case, client.pid)}"
            )
            excuse = starved(case, "window", "window-end")
            yield unless_starved(Outcome.STALLED, text, excuse, (last.seq,))
    before, after = inside[0][1], inside[-1][1]
    for client, later in zip(before.clients, after.clients, strict=False):
        if later.rounds - client.rounds < ROUNDS and not stuck:
            text = f"client {client.index} made {later.rounds - client.rounds} rounds with taskqs in the window"
            yield Complaint(Outcome.INCONCLUSIVE, Reason(text, (inside[-1][0].seq,)))


def _where(case: Case, pid: int) -> str:
    tasks = [task for sample in case.timeline.tasks for task in sample.value if task.pid == pid]
    return f", in {' <- '.join(tasks[-1].blocked_on[:3])}" if tasks and tasks[-1].blocked_on else ""


def check_queue_promises(case: Case) -> Iterator[Complaint]:
    """What SPL promises of taskqs it keeps."""
    yield from broken((it.seq, it.value.queues.promises) for it in case.timeline.probe if it.value.queues is not None)


def check_queue_counts(case: Case) -> Iterator[Complaint]:
    """At rest what SPL shows of each taskq is what was done with it."""
    for start, end, state in (("loaded", "empty", WorkState.LOADED), ("emptied", "destroy", WorkState.EMPTIED)):
        found = [(it, queues) for it, queues in _samples(case, start, end) if queues.state is state]
        if not found:
            yield Complaint(Outcome.INCONCLUSIVE, Reason(f"no taskq was looked at when they were {state}"))
            continue
        # The last one: threads that are being made have come, and those that go have gone.
        sample, queues = found[-1]
        for queue in queues.queues:
            for text in _wrong(queue, state):
                reason = Reason(f"taskq {queue.name[:40]}, {state}: {text}", (sample.seq,))
                yield Complaint(Outcome.MISCOUNTED, reason)


def check_queues_gone(case: Case) -> Iterator[Complaint]:
    """A taskq that was destroyed has no threads any more."""
    if "gone" not in case.marks or "end" not in case.marks:
        return
    tasks = between(case.timeline.tasks, case.marks["gone"], case.marks["end"])
    probes = _samples(case, "gone", "end")
    if not tasks or not probes or probes[-1][1].state is not WorkState.GONE:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("nobody looked after the taskqs were destroyed"))
        return
    kinds = probes[-1][0].value.kinds
    # The one that is made with the caches goes with them.
    names = THREADS if kinds is None or kinds.state is WorkState.GONE else THREADS[:-1]
    for task in tasks[-1].value:
        if task.comm.startswith(names):
            text = f"thread {task.comm} (pid {task.pid}) is still there although its taskq was destroyed"
            yield Complaint(Outcome.NO_RECOVERY, Reason(text, (tasks[-1].seq,)))


def _wrong(queue: Queue, state: WorkState) -> Iterator[str]:
    pairs = (
        ("active threads", queue.act, queue.running),
        ("tasks in the active list", queue.active, queue.running),
        ("tasks in the pending list", queue.pend, queue.pending),
        ("tasks in the priority list", queue.prio, queue.front),
        ("tasks in the delay list", queue.delay, queue.delayed),
        ("threads at most", queue.maxt, queue.threads),
    )
    for what, shown, wanted in pairs:
        if shown != wanted:
            yield f"SPL shows {shown} {what}, and there are {wanted}"
    if not queue.dynamic and queue.nthr != queue.threads:
        yield f"SPL shows {queue.nthr} threads, and {queue.threads} were made"
    if queue.dynamic and not max(1, queue.running) <= queue.nthr <= queue.threads:
        yield f"SPL shows {queue.nthr} threads; at least {max(1, queue.running)} and at most {queue.threads} are right"
    if queue.spwn and state is WorkState.EMPTIED:
        yield f"SPL shows {queue.spwn} threads that are being made, and none is"
    outstanding = queue.running + queue.pending + queue.front + queue.delayed
    if queue.cura < outstanding:
        yield f"SPL shows {queue.cura} entries for {outstanding} tasks"
    if state is WorkState.EMPTIED and queue.cura != queue.min:
        yield f"SPL shows {queue.cura} entries of tasks although all have run; it keeps {queue.min}"


def good_queues(case: Case) -> Verdict:
    inside = _samples(case, "window", "window-end")
    before, after = inside[0][1], inside[-1][1]
    rounds = sum(it.rounds for it in after.clients) - sum(it.rounds for it in before.clients)
    asked = sum(it.asked for it in after.promises)
    reasons = (
        Reason(
            f"{len(after.clients)} clients made {rounds} rounds of work with taskqs, and SPL kept each of "
            f"{len(after.promises)} promises, asked {asked} times",
            (inside[0][0].seq, inside[-1][0].seq),
        ),
        Reason(f"what SPL shows of {len(after.queues)} taskqs at rest is what was done with them"),
    )
    return Verdict(Outcome.HEALTHY, reasons)
