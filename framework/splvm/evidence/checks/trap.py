"""Checks of the trap: whether it was sprung, who was caught, what went on meanwhile, and that it let go by itself.

The trap is the deadlock that SPL's worker was made for (images/slabprobe/cycle.c). Three things can happen: the worker
is caught and transactions go on, a transaction is caught that waits for itself, or nobody is, because the flags of the
allocation forbid it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from splvm.evidence.checks.case import Case, Complaint, caught_thread, millis, seconds, seqs
from splvm.evidence.checks.progress import is_growing_worker, prove_stuck, where
from splvm.evidence.checks.starvation import starved
from splvm.evidence.formats.stacks import Task
from splvm.evidence.standstill import THREAD_NS
from splvm.evidence.timeline import between
from splvm.evidence.verdict import Outcome, Reason

# Transactions that emergency objects have to carry while the worker is stuck.
CARRIED_AT_LEAST = 100

# The way into the trap, from the inside out; each is the name of a part and a pattern for its function.
PATH = (
    ("the shrinker", re.compile(r"slabprobe_shrink_scan|slabprobe_wait_commit")),
    ("reclaim", re.compile(r"try_to_free_pages")),
    ("the page table", re.compile(r"slabprobe_pte_alloc_kernel|__pte_alloc_kernel|pte_alloc_one_kernel")),
    ("vmalloc", re.compile(r"__vmalloc(?:_node)?(?:_range)?(?:_noprof)?")),
    ("the growth of a cache", re.compile(r"(?:__)?spl_cache_grow\w*|spl_slab_alloc|spl_kmem_cache_alloc")),
)


def missing_part(frames: Sequence[str]) -> str | None:
    """The first part of the way into the trap that a stack does not show in its place; None if it shows all."""
    rest = iter(frames)
    for name, function in PATH:
        if not any(function.fullmatch(frame) for frame in rest):
            return name
    return None


def _caught_worker(case: Case) -> int | None:
    """The thread that was caught, if it is not one of those that make transactions."""
    pid = caught_thread(case)
    return None if pid in {t.pid for s in case.timeline.probe for t in s.value.threads} else pid


def check_trap(case: Case) -> Iterator[Complaint]:
    """Somebody came to the trap, and of each time it is known what became of it. Nothing changes at the end."""
    last = case.timeline.probe[-1]
    trap = last.value.trap
    if not trap.sprung:
        reason = (
            f"the trap was never sprung: the growth of the cache needed {trap.tables} page tables, and in "
            f"{trap.induced} reclaims before them no shrinker was asked"
        )
        yield Complaint(Outcome.NOT_TRIGGERED, Reason(reason, (last.seq,)))
    elif trap.sprung != trap.declined + trap.entered:
        reason = (
            f"the trap was sprung {trap.sprung} times, but declined {trap.declined} times and entered {trap.entered} "
            "times: what became of the rest is not known"
        )
        yield Complaint(Outcome.INCONCLUSIVE, Reason(reason, (last.seq,)))


def check_caught(case: Case) -> Iterator[Complaint]:
    """If somebody was caught it was SPL's worker, in a page table of its vmalloc, throughout the window."""
    pid = caught_thread(case)
    last = case.timeline.probe[-1]
    if pid is None:
        if last.value.trap.entered:
            reason = f"the trap was entered {last.value.trap.entered} times, but by the end of the window nobody saw it"
            yield Complaint(Outcome.INCONCLUSIVE, Reason(reason, (last.seq,)))
        return
    if _caught_worker(case) is None:
        place = where(case, pid)
        reason = f"not a worker was caught, but the transaction thread (pid {pid}) itself{place}"
        yield Complaint(Outcome.NOT_TRIGGERED, Reason(reason))
        return
    loose = list(prove_stuck(case, pid))
    yield from loose
    samples = between(case.timeline.tasks, *case.window)
    if loose or not samples:
        return
    # The stack is the same in each of them.
    worker = next(t for t in samples[0].value if t.pid == pid)
    part = missing_part(worker.frames)
    if part is not None:
        stack = " <- ".join(worker.blocked_on[:4])
        reason = f"worker {pid} is stuck elsewhere: {part} is not in its place in {stack}"
        yield Complaint(Outcome.NOT_TRIGGERED, Reason(reason, (samples[0].seq,)))
    elif not (last.value.hold.worker and is_growing_worker(worker)):
        lacking = "" if last.value.hold.worker else ", and this SPL has none"
        reason = f"{worker.comm} (pid {pid}), which was caught, is not SPL's worker that grows a cache{lacking}"
        yield Complaint(Outcome.NOT_TRIGGERED, Reason(reason, (samples[0].seq,)))


def check_commits(case: Case) -> Iterator[Complaint]:
    """Transactions are committed to the end of the window."""
    samples = case.probes("window", "window-end")
    if not samples:
        return
    start, end = case.window
    last = samples[-1]
    if not last.value.config.commits:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("the threads' rounds were no transactions", (last.seq,)))
    standing = [s for s in samples if s.value.tx.commits == last.value.tx.commits]
    stood_ns = last.end_ns - standing[0].start_ns
    if stood_ns >= min(THREAD_NS, (end - start) // 2):
        reason = (
            f"no transaction was committed for the last {seconds(stood_ns)} of the window, after "
            f"{last.value.tx.commits} in all"
        )
        yield Complaint(Outcome.STALLED, Reason(reason, seqs(standing)))


def check_carried(case: Case) -> Iterator[Complaint]:
    """While the worker was caught, emergency objects carried enough transactions to say that they do."""
    samples = case.probes("window", "window-end")
    if _caught_worker(case) is None or not samples:
        return
    count = samples[-1].value.tx.carried - samples[0].value.tx.carried
    if count < CARRIED_AT_LEAST:
        reason = (
            f"only {count} transactions were carried by emergency objects while the worker was caught; "
            f"{CARRIED_AT_LEAST} are asked for{starved(case)}"
        )
        yield Complaint(Outcome.INCONCLUSIVE, Reason(reason, seqs(samples)))


def check_resolved(case: Case) -> Iterator[Complaint]:
    """The commits let go whom the trap caught, before the harness takes it away."""
    if "resolve" not in case.marks or "release" not in case.marks:
        return
    if not case.timeline.probe[-1].value.trap.entered:
        return
    samples = case.probes("resolve", "release")
    if not samples:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("nobody looked at the trap between the window and its end"))
        return
    last = samples[-1]
    trap, tx = last.value.trap, last.value.tx
    if trap.waiting or trap.waited != trap.entered:
        first = samples[0].value.tx.commits
        reason = (
            f"the cycle did not end by itself: after {tx.commits - first} commits since the window thread {trap.pid} "
            f"is still caught, since {seconds(trap.since_ns)}"
        )
        yield Complaint(Outcome.NO_RECOVERY, Reason(reason, seqs(samples)))


# Reasons


def because_immune(case: Case) -> tuple[Reason, ...]:
    """Why nobody was caught."""
    last = case.timeline.probe[-1]
    samples = case.probes("window", "window-end")
    trap = last.value.trap
    commits = samples[-1].value.tx.commits - samples[0].value.tx.commits
    return (
        Reason(
            f"the trap was sprung {trap.sprung} times and declined {trap.declined} times, by the flags (the last GFP "
            f"mask {trap.gfp:#x} is without __GFP_FS), and nobody was caught",
            (last.seq,),
        ),
        Reason(f"{commits} transactions were committed in the window", seqs(samples)),
    )


def because_carried(case: Case) -> tuple[Reason, ...]:
    """What went on while the worker was caught, and how it ended."""
    start, end = case.window
    pid = caught_thread(case)
    tasks = between(case.timeline.tasks, start, end)
    samples = case.probes("window", "window-end")
    worker = next(t for t in tasks[0].value if t.pid == pid)
    gap_ns = max(t.gap_max_ns for s in between(case.timeline.probe, case.pulled_ns, end) for t in s.value.threads)
    first, last = samples[0].value, samples[-1].value
    resolved = next(s for s in case.probes("resolve", "release") if not s.value.trap.waiting)
    return (
        Reason(
            f"worker {worker.comm} (pid {worker.pid}) was caught for {seconds(end - start)} in "
            f"{' <- '.join(_steps(worker))}: {len(tasks)} readings, "
            f"its context-switch count stayed at {worker.voluntary + worker.nonvoluntary}",
            seqs(tasks),
        ),
        Reason(
            f"{last.tx.carried - first.tx.carried} of {last.tx.commits - first.tx.commits} transactions were carried "
            f"by emergency objects meanwhile ({last.live.emergency_total - first.live.emergency_total} of them); "
            f"longest gap {millis(gap_ns)}",
            seqs(samples),
        ),
        Reason(
            f"the cycle ended by itself, {seconds(resolved.value.trap.released_ns - resolved.value.trap.since_ns)} "
            f"and {last.config.commits} commits after it began",
            (resolved.seq,),
        ),
    )


def _steps(worker: Task) -> list[str]:
    """One function for each part of the way into the trap."""
    rest = iter(worker.frames)
    return [next(frame for frame in rest if function.fullmatch(frame)) for _, function in PATH]
