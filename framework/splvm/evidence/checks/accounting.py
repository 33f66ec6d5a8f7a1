"""Checks of the counts, and of what is left at the end: the slab file against itself and against the probe."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from splvm.evidence.checks.case import CACHE, HOLE_NS, Case, Complaint, seconds, seqs, unless_starved
from splvm.evidence.checks.loadlevel import on_pool, wanted
from splvm.evidence.checks.starvation import excuse_wait
from splvm.evidence.checks.timeouts import explain_timeouts, weigh_timeouts
from splvm.evidence.formats.probestatus import ProbeStatus
from splvm.evidence.formats.slab import contradictions, regressions
from splvm.evidence.timeline import between, widest_gap_ns
from splvm.evidence.verdict import Outcome, Reason


def check_read(case: Case) -> Iterator[Complaint]:
    """The slab file was read in the window. Its read takes SPL's locks, and may itself hang on what is tested."""
    start, end = case.window
    gap = widest_gap_ns([s for s in case.rows() if start <= s.start_ns and s.end_ns <= end], start, end)
    if gap <= HOLE_NS:
        return
    hung = [s for s in case.timeline.blocked if s.value == "slab" and start <= s.end_ns <= end]
    why = f": a read that began at {seconds(hung[0].start_ns)} did not come back" if hung else ""
    reason = f"for {seconds(gap)} of the window the slab file was not read with the cache {CACHE} in it{why}"
    yield Complaint(Outcome.INCONCLUSIVE, Reason(reason, seqs(hung)))


def check_rows(case: Case) -> Iterator[Complaint]:
    """The slab file against itself."""
    rows = case.rows()
    for sample in rows:
        for what in contradictions(sample.value):
            yield Complaint(
                Outcome.MISCOUNTED, Reason(f"slab file at {seconds(sample.start_ns)}: {what}", (sample.seq,))
            )
            return
    for before, after in pairwise(rows):
        for what in regressions(before.value, after.value):
            at = seconds(after.start_ns)
            yield Complaint(Outcome.MISCOUNTED, Reason(f"slab file at {at}: {what}", (before.seq, after.seq)))
            return


def check_maximum(case: Case) -> Iterator[Complaint]:
    """The slab file against the probe, while both change.

    The probe counts an object after it got it and before it gives it back, so it never counts one that SPL does not.
    SPL may count one more for each thread that is on its way in or out.
    """
    probes = iter(case.timeline.probe)
    probe, upcoming = None, next(probes, None)
    for sample in case.rows():
        while upcoming is not None and upcoming.end_ns <= sample.start_ns:
            probe, upcoming = upcoming, next(probes, None)
        row = sample.value.emergency
        if probe is None or row.max is None:
            continue
        live = probe.value.live
        seqs = (probe.seq, sample.seq)
        if row.max < live.emergency_max:
            reason = f"the slab file's maximum is {row.max} emergency objects, the probe held {live.emergency_max}"
            yield Complaint(Outcome.MISCOUNTED, Reason(reason, seqs))
            return
        if live.emergency_total and row.dlock == 0:
            reason = f"{live.emergency_total} emergency objects were handed out, yet dlock is 0"
            yield Complaint(Outcome.MISCOUNTED, Reason(reason, seqs))
            return
    yield from _maximum_too_high(case)


def _maximum_too_high(case: Case) -> Iterator[Complaint]:
    """The last row that the probe was read after: both maxima only ever grow."""
    last = case.timeline.probe[-1]
    row = next((s for s in reversed(case.rows()) if s.end_ns <= last.start_ns), None)
    if row is None or row.value.emergency.max is None:
        return
    slack = last.value.config.threads
    maximum = row.value.emergency.max
    if maximum > last.value.live.emergency_max + slack:
        reason = (
            f"the slab file's maximum is {maximum} emergency objects, the probe never held more than "
            f"{last.value.live.emergency_max}"
        )
        yield Complaint(Outcome.MISCOUNTED, Reason(reason, (row.seq, last.seq)))


def check_audit(case: Case) -> Iterator[Complaint]:
    """The slab file against the probe, while the threads are parked and nothing changes: the counts are equal."""
    if "audit" not in case.marks or "audit-end" not in case.marks:
        return
    start, end = case.marks["audit"], case.marks["audit-end"]
    probes = [s for s in between(case.timeline.probe, start, end) if s.value.run.parked == s.value.config.threads]
    rows = [s for s in case.rows() if start <= s.start_ns and s.end_ns <= end]
    if not probes or not rows:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("the threads did not come to rest, so nothing could be counted"))
        return
    for sample in rows:
        live, row = probes[-1].value.live, sample.value
        seqs = (probes[-1].seq, sample.seq)
        # A cache for which SPL has no such column has no emergency objects either.
        counted = row.emergency.alloc or 0
        if counted != live.emergency:
            reason = f"at rest the slab file has {counted} emergency objects, the probe holds {live.emergency}"
            yield Complaint(Outcome.MISCOUNTED, Reason(reason, seqs))
            return
        # Objects that wait in the per-CPU magazines count as allocated too.
        if row.object.alloc is not None and row.object.alloc < live.slab:
            reason = f"at rest the slab file has {row.object.alloc} slab objects, the probe holds {live.slab}"
            yield Complaint(Outcome.MISCOUNTED, Reason(reason, seqs))
            return
    yield from _damaged_objects(case)


def _damaged_objects(case: Case) -> Iterator[Complaint]:
    last = case.timeline.probe[-1]
    for thread in last.value.threads:
        if thread.corrupt or thread.failures:
            reason = (
                f"critical thread {thread.index}: {thread.corrupt} objects came back damaged, "
                f"{thread.failures} allocations that may sleep failed"
            )
            yield Complaint(Outcome.MISCOUNTED, Reason(reason, (last.seq,)))


def check_drained(case: Case) -> Iterator[Complaint]:
    """At the end nobody holds anything: no emergency object is left, and no flag is set."""
    if "final" not in case.marks or "end" not in case.marks:
        return
    start, end = case.marks["final"], case.marks["end"]
    probes = between(case.timeline.probe, start, end)
    rows = [s for s in case.rows() if start <= s.start_ns and s.end_ns <= end]
    if not probes or not rows:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("nothing was read after the threads were stopped"))
        return
    probe, row = probes[-1], rows[-1]
    seqs = (probe.seq, row.seq)
    idle = probe.value.run.stopped
    if idle != probe.value.config.threads:
        stuck = [t for t in probe.value.threads if t.alloc_since_ns]
        where = "".join(f"; thread {t.index} waits for an object since {seconds(t.alloc_since_ns)}" for t in stuck)
        reason = f"{probe.value.config.threads - idle} critical threads did not come back after the release{where}"
        yield Complaint(Outcome.NO_RECOVERY, Reason(reason, seqs))
    elif row.value.emergency.alloc:
        reason = f"{row.value.emergency.alloc} emergency objects are left although every object was given back"
        yield Complaint(Outcome.NO_RECOVERY, Reason(reason, seqs))
    for flag in ("deadlocked", "growing"):
        if case.flags(row.value).get(flag):
            reason = f"the cache is still flagged {flag} ({row.value.flags:#07x}) although nothing holds the worker"
            yield Complaint(Outcome.NO_RECOVERY, Reason(reason, seqs))


def check_recovered(case: Case) -> Iterator[Complaint]:
    """After the release emergency objects drain, and then no more of them are handed out.

    Under a load on memory a growth may wait for it longer than callers do for the growth, so that some of them are. But
    there are slab objects again, and most callers get one.
    """
    if "release" not in case.marks:
        return
    release = case.marks["release"]
    after = [s for s in case.rows() if s.start_ns >= release]
    back = next((s for s in after if not s.value.emergency.alloc and not case.flags(s.value).get("deadlocked")), None)
    if not after:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("the slab file was never read after the release"))
    elif back is None:
        last = f"{after[-1].value.emergency.alloc} in use, flags {after[-1].value.flags:#07x}"
        reason = f"emergency objects did not drain after the release: {last}"
        yield Complaint(Outcome.NO_RECOVERY, Reason(reason, seqs(after[-1:])))
    if "recovered" not in case.marks or "final" not in case.marks:
        return
    samples = case.probes("recovered", "final")
    if len(samples) < 2:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("nobody looked at what came after the recovery"))
        return
    start, end = case.marks["recovered"], case.marks["final"]
    first, last_probe = samples[0].value, samples[-1].value
    more = last_probe.live.emergency_total - first.live.emergency_total
    loads = wanted(case.evidence.facts)
    if more > (_half_of_all(first, last_probe) if set(loads).difference(on_pool(loads)) else 0):
        early, excuse = weigh_timeouts(case, start, end)
        if early or not explain_timeouts(case, start, end):
            text = f"{more} more emergency objects were handed out after the recovery{early}"
            yield unless_starved(Outcome.NO_RECOVERY, text, excuse, seqs(samples))
    looked_ns = samples[-1].end_ns - samples[0].start_ns
    for before, now in zip(first.threads, last_probe.threads, strict=False):
        if now.rounds <= before.rounds:
            # Of a round that has half of the time to itself something would be seen.
            excuse = excuse_wait(case, now.pid, (start, end), looked_ns, looked_ns // 2)
            text = f"critical thread {now.index} (pid {now.pid}) finished no round after the recovery"
            yield unless_starved(Outcome.NO_RECOVERY, text, excuse, seqs(samples))


def _half_of_all(before: ProbeStatus, now: ProbeStatus) -> int:
    """Half of the objects that threads took between two readings."""
    return sum(later.allocs - thread.allocs for thread, later in zip(before.threads, now.threads, strict=False)) // 2
