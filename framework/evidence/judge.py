"""From evidence to a verdict: `judge()`, and the checks it is made of.

Pure: it reads what was recorded and nothing else. A check looks for one kind of trouble and yields complaints; the
complaint that comes first in `Outcome` is the verdict. Only where no check complains does a run count as good, so
evidence that is missing can only make a verdict worse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from framework.errors import EvidenceError
from framework.evidence.figures import describe
from framework.evidence.kernlog import scan_kernel_log
from framework.evidence.probe import ProbeStatus
from framework.evidence.slab import CacheRow, contradictions, regressions
from framework.evidence.stacks import Task
from framework.evidence.timeline import Evidence, Sample, Timeline, between, widest_gap_ns
from framework.evidence.verdict import Outcome, Reason, Verdict

# Name of the probe's cache in the slab file.
CACHE = "slabprobe"

# The window is looked at in slices of this length, ns: in each, every critical thread has to advance.
SLICE_NS = 1_000_000_000

# A critical thread that got nothing for this long up to the end of the window stands still, ns.
STALL_NS = 1_500_000_000

# Readings further apart than this leave a hole in which anything may have happened, ns.
HOLE_NS = 1_000_000_000

# Allocations in these latency buckets (powers of two, ns) waited for as long as SPL's timeout of HZ/10 (from 67 ms), or
# long, but less (from 8 ms): spl_cache_grow() in OpenZFS, module/os/linux/spl/spl-kmem-cache.c. On a host that is busy
# long waits get rarer with their length. Where those as long as the timeout are many, and more than twice as many as
# the shorter ones, it is the timeout that ended them, and not the worker.
TIMEOUT_BUCKET = 26
LONG_BUCKET = 23
TIMEOUTS_AT_LEAST = 4

# A guest counts as starved when its virtual CPUs waited for a CPU of the host for more than this part of the time
# they wanted to run, or when its readings are further apart than this, ns (they are due every 50 ms).
STARVED_SHARE = 0.4
STARVED_GAP_NS = 300_000_000


@dataclass(frozen=True, slots=True)
class Complaint:
    """What a check found wrong."""

    outcome: Outcome
    reason: Reason


@dataclass(frozen=True, slots=True)
class Case:
    """The evidence of one run, and the times on the guest's clock that the checks refer to."""

    evidence: Evidence
    timeline: Timeline
    marks: Mapping[str, int]
    # Longest gap between two allocations that is still progress, ns.
    latency_bound_ns: int

    @property
    def window(self) -> tuple[int, int]:
        """Beginning and end of the window, ns; only after `_check_phases` found both."""
        return self.marks["window"], self.marks["window-end"]

    def probes(self, start: str, end: str) -> tuple[Sample[ProbeStatus], ...]:
        """The probe's readings between two marks."""
        return between(self.timeline.probe, self.marks[start], self.marks[end])

    def rows(self) -> list[Sample[CacheRow]]:
        """The slab file's rows of the probe's cache, in order."""
        rows = []
        for sample in self.timeline.slab:
            row = sample.value.cache(CACHE)
            if row is not None:
                rows.append(Sample(sample.seq, sample.start_ns, sample.end_ns, sample.path, row))
        return rows

    def flags(self, row: CacheRow) -> dict[str, bool]:
        """Which of the probe's named flag bits are set in a row."""
        return {name: bool(row.flags & bit) for name, bit in self.timeline.probe[-1].value.bits.items()}


Check = Callable[[Case], Iterator[Complaint]]


@dataclass(frozen=True, slots=True)
class Rule:
    """How a scenario is judged."""

    # What has to have happened at all; without it the other checks have nothing to look at.
    required: tuple[Check, ...]
    checks: tuple[Check, ...]
    # The verdict when nobody complains, and what that then means.
    good: Outcome
    because: Callable[[Case], tuple[Reason, ...]]


def judge(evidence: Evidence) -> Verdict:
    """The verdict on a run.

    :raises EvidenceError: when the run is of a scenario that has no rule.
    """
    scenario = evidence.facts.get("scenario")
    rule = RULES.get(str(scenario))
    if rule is None:
        raise EvidenceError(f"run.json: scenario {scenario!r} is not known; known are {', '.join(RULES)}")
    if evidence.damage:
        # Nothing that was changed afterwards is worth a verdict, not even a bad one.
        reasons = tuple(Reason(f"the record is damaged: {what}") for what in evidence.damage)
        return Verdict(Outcome.INCONCLUSIVE, reasons)
    timeline = evidence.timeline
    bound_ms = evidence.facts.get("parameters", {}).get("latency_bound_ms", 1000)
    case = Case(evidence, timeline, timeline.marks, int(bound_ms) * 1_000_000)
    complaints = [c for check in rule.required for c in check(case)]
    if "window" in case.marks and "window-end" in case.marks:
        complaints += [c for check in rule.checks for c in check(case)]
    figures = describe(evidence, CACHE)
    for first, last in (("recovered", "final"), ("window", "window-end")):
        if first in case.marks and last in case.marks and (starved := _starved(case, first, last)):
            figures["starved"] = starved.strip(" ()")
    if not complaints:
        return Verdict(rule.good, rule.because(case), figures=figures)
    order = list(Outcome)
    complaints.sort(key=lambda complaint: order.index(complaint.outcome))
    worst = complaints[0].outcome
    return Verdict(
        worst,
        tuple(c.reason for c in complaints if c.outcome is worst),
        tuple((c.outcome, c.reason) for c in complaints if c.outcome is not worst),
        figures,
    )


# --- what has to be there --------------------------------------------------------------------------------------------


def _check_crash(case: Case) -> Iterator[Complaint]:
    for finding in scan_kernel_log(case.evidence.console):
        if finding.fatal:
            where = f"console.log line {finding.line}"
            yield Complaint(Outcome.CRASHED, Reason(f"{finding.kind.name}: {finding.title} ({where})"))


def _check_lost(case: Case) -> Iterator[Complaint]:
    outcome = case.evidence.facts.get("outcome", {})
    match outcome.get("kind"):
        case "ended":
            return
        case "lost":
            last = case.timeline.probe[-1] if case.timeline.probe else None
            seen = f"; last reading at {_s(last.end_ns)} of guest time" if last else "; nothing was ever read"
            yield Complaint(Outcome.LOST, Reason(f"{outcome.get('detail')}{seen}", (last.seq,) if last else ()))
        case kind:
            yield Complaint(Outcome.INCONCLUSIVE, Reason(f"the run was {kind}: {outcome.get('detail')}"))


def _check_losses(case: Case) -> Iterator[Complaint]:
    for loss in case.timeline.losses[:5]:
        yield Complaint(Outcome.INCONCLUSIVE, Reason(loss))


def _check_phases(*names: str) -> Check:
    def check(case: Case) -> Iterator[Complaint]:
        missing = [name for name in names if name not in case.marks]
        if missing:
            yield Complaint(Outcome.INCONCLUSIVE, Reason(f"the run never came to: {', '.join(missing)}"))

    return check


# --- the worker ------------------------------------------------------------------------------------------------------


def _check_stuck(case: Case) -> Iterator[Complaint]:
    """The same worker, on the same stack, without one context switch, in every reading of the window."""
    start, end = case.window
    pid = _held_worker(case)
    if pid is None:
        yield Complaint(Outcome.NOT_TRIGGERED, Reason("the lever was pulled and no worker came to be held"))
        return
    samples = between(case.timeline.tasks, start, end)
    if not samples or widest_gap_ns(samples, start, end) > HOLE_NS:
        gap = _s(widest_gap_ns(samples, start, end))
        yield Complaint(Outcome.INCONCLUSIVE, Reason(f"for {gap} of the window nobody looked at the worker"))
    first = next((t for s in samples for t in s.value if t.pid == pid and t.state == "D" and t.frames), None)
    loose = [(s, why) for s in samples if (why := _why_not_stuck(s.value, pid, first))]
    if not loose:
        return
    everywhere = len(loose) == len(samples)
    sample, why = loose[0]
    yield Complaint(
        Outcome.NOT_TRIGGERED if everywhere else Outcome.INCONCLUSIVE,
        Reason(
            f"worker {pid} is not proven stuck in {len(loose)} of {len(samples)} readings: "
            f"at {_s(sample.start_ns)} {why}",
            tuple(s.seq for s, _ in loose[:20]),
        ),
    )


def _held_worker(case: Case) -> int | None:
    """The worker that was held last before the end of the window."""
    end = case.window[1]
    held = [s.value.hold.pid for s in case.timeline.probe if s.value.hold.held and s.start_ns <= end]
    return held[-1] if held else None


def _why_not_stuck(tasks: tuple[Task, ...], pid: int, first: Task | None) -> str | None:
    task = next((t for t in tasks if t.pid == pid), None)
    if task is None:
        return "it is not in the list of tasks"
    if task.state != "D":
        return f"its state is {task.state}, not D"
    if not task.frames:
        return "its stack cannot be read"
    if first is None or task.frames != first.frames:
        return f"its stack has changed: {' <- '.join(task.frames[:3])}"
    if task.moved or (task.voluntary, task.nonvoluntary) != (first.voluntary, first.nonvoluntary):
        return "it has run in between: its context switches went on"
    return None


def _check_needed(case: Case) -> Iterator[Complaint]:
    """Progress proves nothing if the callers never needed the worker."""
    samples = case.probes("window", "window-end")
    if samples and samples[-1].value.live.emergency_total <= samples[0].value.live.emergency_total:
        total = samples[-1].value.live.emergency_total
        yield Complaint(
            Outcome.NOT_TRIGGERED,
            Reason(f"no emergency object was handed out in the window ({total} before it)", _seqs(samples)),
        )


# --- progress --------------------------------------------------------------------------------------------------------


def _check_progress(case: Case) -> Iterator[Complaint]:
    start, end = case.window
    samples = between(case.timeline.probe, start, end)
    if len(samples) < 2 or widest_gap_ns(samples, start, end) > HOLE_NS:
        gap = _s(widest_gap_ns(samples, start, end))
        yield Complaint(Outcome.INCONCLUSIVE, Reason(f"for {gap} of the window nobody looked at the critical threads"))
        return
    for thread in samples[-1].value.threads:
        counts = [(s, next((t.allocs for t in s.value.threads if t.index == thread.index), 0)) for s in samples]
        yield from _look_at_thread(case, thread.index, thread.pid, counts)


def _check_threads(case: Case) -> Iterator[Complaint]:
    """Every critical thread is in every reading from the window on: one that is left out may stand still."""
    for sample in case.timeline.probe:
        threads, expected = sample.value.threads, sample.value.config.threads
        complete = threads and [t.index for t in threads] == list(range(len(threads))) and len(threads) == expected
        if sample.start_ns >= case.window[0] and not complete:
            reason = f"the status at {_s(sample.start_ns)} has {len(threads)} critical threads of {expected}"
            yield Complaint(Outcome.INCONCLUSIVE, Reason(reason, (sample.seq,)))
            return


def _look_at_thread(
    case: Case, thread: int, pid: int, counts: list[tuple[Sample[ProbeStatus], int]]
) -> Iterator[Complaint]:
    start, end = case.window
    name = f"critical thread {thread} (pid {pid})"
    last_sample, last_count = counts[-1]
    standing = [s for s, count in counts if count == last_count]
    stood_ns = last_sample.end_ns - standing[0].start_ns
    if stood_ns >= min(STALL_NS, (end - start) // 2):
        where = _where(case, pid)
        reason = f"{name} got no object for the last {_s(stood_ns)} of the window{where}"
        yield Complaint(Outcome.STALLED, Reason(reason, _seqs(standing)))
        return
    for slice_start in range(start, end - SLICE_NS + 1, SLICE_NS):
        inside = [(s, c) for s, c in counts if slice_start <= s.start_ns and s.end_ns <= slice_start + SLICE_NS]
        at = f"between {_s(slice_start)} and {_s(slice_start + SLICE_NS)}"
        if len(inside) < 2:
            yield Complaint(Outcome.INCONCLUSIVE, Reason(f"{name} was looked at {len(inside)} times {at}"))
        elif inside[0][1] == inside[-1][1]:
            starved = _starved(case)
            outcome = Outcome.INCONCLUSIVE if starved else Outcome.SLOW
            yield Complaint(outcome, Reason(f"{name} got no object {at}{starved}", _seqs([s for s, _ in inside])))


def _where(case: Case, pid: int) -> str:
    """What a task waits in, from the last reading of the window."""
    for sample in reversed(between(case.timeline.tasks, *case.window)):
        for task in sample.value:
            if task.pid == pid and task.frames:
                return f": state {task.state}, {' <- '.join(task.blocked_on[:4])}"
    return ""


def _check_latency(case: Case) -> Iterator[Complaint]:
    """The longest gap from the pull of the lever, or the start of the window, to its end."""
    start, end = case.marks.get("hold", case.window[0]), case.window[1]
    samples = between(case.timeline.probe, start, end)
    worst = max(((t.gap_max_ns, t, s) for s in samples for t in s.value.threads), key=lambda x: x[0], default=None)
    if worst is None or worst[0] <= case.latency_bound_ns:
        return
    gap_ns, thread, sample = worst
    starved = _starved(case)
    outcome = Outcome.INCONCLUSIVE if starved else Outcome.SLOW
    yield Complaint(
        outcome,
        Reason(
            f"critical thread {thread.index} (pid {thread.pid}) waited {_ms(gap_ns)} between two allocations; "
            f"the bound is {_ms(case.latency_bound_ns)}{starved}",
            (sample.seq,),
        ),
    )


def _starved(case: Case, first: str = "window", last: str = "window-end") -> str:
    """Why the guest cannot be blamed for what took long between two marks; empty when it can."""
    start, end = case.marks[first], case.marks[last]
    gap = widest_gap_ns(between(case.timeline.probe, start, end), start, end)
    if gap > STARVED_GAP_NS:
        return f" (the guest was starved: readings {_ms(gap)} apart)"
    phases = case.timeline.host_phases
    readings = [r for r in case.timeline.host if phases.get(first, 0) - 1 <= r.at_s <= phases.get(last, 0) + 1]
    if len(readings) >= 2:
        wait_s = readings[-1].wait_s - readings[0].wait_s
        run_s = readings[-1].run_s - readings[0].run_s
        # Less than before means that a CPU is gone, and so are its figures.
        if run_s >= 0 and wait_s > STARVED_SHARE * (run_s + wait_s):
            return f" (the guest was starved: its CPUs ran {run_s:.1f} s and waited {wait_s:.1f} s for the host's)"
    return ""


def _check_quiet(case: Case) -> Iterator[Complaint]:
    """With nothing stuck, nobody times out and nobody takes an emergency object."""
    before_stop = case.marks.get("final", case.window[1])
    probes = [s for s in case.timeline.probe if s.end_ns <= before_stop]
    rows = case.rows()
    starved = _starved(case)
    outcome = Outcome.INCONCLUSIVE if starved else Outcome.SLOW
    if probes and probes[-1].value.live.emergency_total:
        count = probes[-1].value.live.emergency_total
        reason = f"{count} emergency objects were handed out although nothing held the worker{starved}"
        yield Complaint(outcome, Reason(reason, (probes[-1].seq,)))
    late = next((s for s in rows if s.value.emergency.dlock), None)
    if late is not None:
        reason = f"{late.value.emergency.dlock} callers timed out although nothing held the worker{starved}"
        yield Complaint(outcome, Reason(reason, (late.seq,)))
    if rows and not rows[-1].value.slab.max:
        yield Complaint(Outcome.NOT_TRIGGERED, Reason("the cache never grew", (rows[-1].seq,)))


def _check_woken(start: str, end: str, outcome: Outcome) -> Check:
    """Callers are woken by the worker: their waits do not all last as long as the timeout."""

    def check(case: Case) -> Iterator[Complaint]:
        if start not in case.marks or end not in case.marks:
            return
        samples = case.probes(start, end)
        if len(samples) < 2:
            return
        first, last = samples[0].value.latency, samples[-1].value.latency
        grown = {bucket: count - first.get(bucket, 0) for bucket, count in last.items()}
        timeouts = sum(count for bucket, count in grown.items() if bucket >= TIMEOUT_BUCKET)
        shorter = sum(count for bucket, count in grown.items() if LONG_BUCKET <= bucket < TIMEOUT_BUCKET)
        if timeouts >= TIMEOUTS_AT_LEAST and timeouts > 2 * shorter:
            starved = _starved(case, start, end)
            yield Complaint(
                Outcome.INCONCLUSIVE if starved else outcome,
                Reason(
                    f"callers are not woken: between {start} and {end}, {timeouts} allocations took "
                    f"{2**TIMEOUT_BUCKET // 1_000_000} ms or more, as long as the timeout, and only {shorter} took "
                    f"{2**LONG_BUCKET // 1_000_000} ms to that{starved}",
                    (samples[0].seq, samples[-1].seq),
                ),
            )

    return check


# --- accounting ------------------------------------------------------------------------------------------------------


def _check_rows(case: Case) -> Iterator[Complaint]:
    """The slab file against itself."""
    rows = case.rows()
    if not rows:
        yield Complaint(Outcome.INCONCLUSIVE, Reason(f"the slab file was never read with the cache {CACHE} in it"))
    for sample in rows:
        for what in contradictions(sample.value):
            yield Complaint(Outcome.MISCOUNTED, Reason(f"slab file at {_s(sample.start_ns)}: {what}", (sample.seq,)))
            return
    for before, after in pairwise(rows):
        for what in regressions(before.value, after.value):
            at = _s(after.start_ns)
            yield Complaint(Outcome.MISCOUNTED, Reason(f"slab file at {at}: {what}", (before.seq, after.seq)))
            return


def _check_maximum(case: Case) -> Iterator[Complaint]:
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


def _check_audit(case: Case) -> Iterator[Complaint]:
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


# --- recovery --------------------------------------------------------------------------------------------------------


def _check_drained(case: Case) -> Iterator[Complaint]:
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
        where = "".join(f"; thread {t.index} waits for an object since {_s(t.alloc_since_ns)}" for t in stuck)
        reason = f"{probe.value.config.threads - idle} critical threads did not come back after the release{where}"
        yield Complaint(Outcome.NO_RECOVERY, Reason(reason, seqs))
    elif row.value.emergency.alloc:
        reason = f"{row.value.emergency.alloc} emergency objects are left although every object was given back"
        yield Complaint(Outcome.NO_RECOVERY, Reason(reason, seqs))
    for flag in ("deadlocked", "growing"):
        if case.flags(row.value).get(flag):
            reason = f"the cache is still flagged {flag} ({row.value.flags:#07x}) although nothing holds the worker"
            yield Complaint(Outcome.NO_RECOVERY, Reason(reason, seqs))


def _check_recovered(case: Case) -> Iterator[Complaint]:
    """After the release emergency objects drain, and then no more of them are handed out."""
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
        yield Complaint(Outcome.NO_RECOVERY, Reason(reason, _seqs(after[-1:])))
    if "recovered" not in case.marks or "final" not in case.marks:
        return
    samples = case.probes("recovered", "final")
    if len(samples) < 2:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("nobody looked at what came after the recovery"))
        return
    first, last_probe = samples[0].value, samples[-1].value
    more = last_probe.live.emergency_total - first.live.emergency_total
    starved = _starved(case, "recovered", "final")
    outcome = Outcome.INCONCLUSIVE if starved else Outcome.NO_RECOVERY
    if more:
        reason = f"{more} more emergency objects were handed out after the recovery{starved}"
        yield Complaint(outcome, Reason(reason, _seqs(samples)))
    for before, now in zip(first.threads, last_probe.threads, strict=False):
        if now.rounds <= before.rounds:
            reason = f"critical thread {now.index} (pid {now.pid}) finished no round after the recovery{starved}"
            yield Complaint(outcome, Reason(reason, _seqs(samples)))


# --- words -----------------------------------------------------------------------------------------------------------


def _s(ns: int) -> str:
    return f"{ns / 1e9:.3f} s"


def _ms(ns: int) -> str:
    return f"{ns / 1e6:.1f} ms"


def _seqs(samples: list[Sample[Any]] | tuple[Sample[Any], ...]) -> tuple[int, ...]:
    """First and last of them: what lies between can be looked up."""
    return tuple(dict.fromkeys((samples[0].seq, samples[-1].seq))) if samples else ()


def _because_progress(case: Case) -> tuple[Reason, ...]:
    start, end = case.window
    tasks = between(case.timeline.tasks, start, end)
    probes = between(case.timeline.probe, start, end)
    pid = _held_worker(case)
    worker = next(t for t in tasks[0].value if t.pid == pid)
    first, last = probes[0].value, probes[-1].value
    gap = max(t.gap_max_ns for s in between(case.timeline.probe, case.marks["hold"], end) for t in s.value.threads)
    got = sum(t.allocs for t in last.threads) - sum(t.allocs for t in first.threads)
    emergency = last.live.emergency_total - first.live.emergency_total
    return (
        Reason(
            f"worker {worker.comm} (pid {pid}) was stuck for {_s(end - start)} in "
            f"{' <- '.join(worker.blocked_on[:2])}: {len(tasks)} readings, "
            f"{worker.voluntary + worker.nonvoluntary} context switches in each",
            _seqs(tasks),
        ),
        Reason(
            f"{len(last.threads)} critical threads got {got} objects meanwhile, {emergency} of them emergency objects; "
            f"longest gap {_ms(gap)}",
            _seqs(probes),
        ),
        Reason(f"recovered {_ms(_recovery_ns(case))} after the release: no emergency object left, flags clear"),
    )


def _recovery_ns(case: Case) -> int:
    """From the release to the first reading without emergency objects and without the flag."""
    release = case.marks["release"]
    return next(
        s.end_ns - release
        for s in case.rows()
        if s.start_ns >= release and not s.value.emergency.alloc and not case.flags(s.value).get("deadlocked")
    )


def _because_healthy(case: Case) -> tuple[Reason, ...]:
    probes = case.probes("window", "window-end")
    first, last = probes[0].value, probes[-1].value
    got = sum(t.allocs for t in last.threads) - sum(t.allocs for t in first.threads)
    row = case.rows()[-1]
    return (
        Reason(
            f"{len(last.threads)} critical threads got {got} objects, none of them an emergency object", _seqs(probes)
        ),
        Reason(
            f"nobody timed out (dlock {row.value.emergency.dlock}), and the slab file agrees with the probe", (row.seq,)
        ),
    )


_ALWAYS = (_check_crash, _check_lost, _check_losses)

RULES: Mapping[str, Rule] = {
    "nominal": Rule(
        required=(*_ALWAYS, _check_phases("window", "window-end", "audit", "audit-end", "final", "end")),
        checks=(
            _check_threads,
            _check_progress,
            _check_latency,
            _check_quiet,
            _check_woken("window", "window-end", Outcome.SLOW),
            _check_rows,
            _check_maximum,
            _check_audit,
            _check_drained,
        ),
        good=Outcome.HEALTHY,
        because=_because_healthy,
    ),
    "held-worker": Rule(
        required=(
            *_ALWAYS,
            _check_phases("hold", "window", "window-end", "audit", "audit-end", "release", "recovered", "final", "end"),
        ),
        checks=(
            _check_stuck,
            _check_needed,
            _check_threads,
            _check_progress,
            _check_latency,
            _check_rows,
            _check_maximum,
            _check_audit,
            _check_recovered,
            _check_woken("recovered", "final", Outcome.NO_RECOVERY),
            _check_drained,
        ),
        good=Outcome.PROGRESS,
        because=_because_progress,
    ),
}
