"""Checks of the storm: reclaim at the sites where SPL allocates, while transactions are open.

At a site the kernel's own reclaim is entered with the allocation's mask, and a shrinker of the probe's waits for the
open transactions wherever the mask lets it (images/slabprobe/storm.c). Who waits for its own transaction, or for one
that waits for it, waits for ever: a deadlock. Who is let go by a commit was only held up.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from splvm.evidence.checks.asked import parameters_of
from splvm.evidence.checks.case import Case, Complaint, is_count, seconds, seqs
from splvm.evidence.formats.probestatus import ProbeStatus
from splvm.evidence.formats.sites import Site, SitesFile
from splvm.evidence.formats.stacks import Task
from splvm.evidence.formats.stormstatus import StormStatus, StormTx, StormWait
from splvm.evidence.timeline import Sample, between
from splvm.evidence.verdict import Outcome, Reason

# For how long somebody has to have waited at the end of the window, without a commit, to wait for ever, ns. SPL's own
# timeouts, after which a transaction goes on, are a tenth of it.
STANDS_NS = 1_000_000_000

# A wait that began so shortly before the end of the window is none of the window's, where commits have ended as many.
PASSING_NS = 100_000_000
_PASSED = 4

# What changes as soon as somebody is caught, or is let go.
_COMING = ("entered", "waited", "let_go", "waiting", "since_ns", "left_ns", "waits")

# Threads that may be between two counts of one thing.
_BETWEEN = 8

# Name of SPL's slab worker, without its number.
WORKER = "spl_kmem_cache"

# Of /proc/vmstat.
_WRITTEN = re.compile(r"^pswpout (\d{1,18})$", re.MULTILINE)

# What it is set to (run/scenarios.py, Storm).
_SETTINGS = ("ops", "rate", "trap", "mark", "helpers", "threads", "how")


# What the list of sites counts for each, and the status for all of them; and by how much both may differ: a thread of
# the storm may be between its two counts. Calls are counted under one lock.
_OF_SITES: Mapping[str, tuple[Callable[[ProbeStatus], int], int]] = {
    "calls": (lambda status: status.watch.calls if status.watch else 0, 0),
    "atomic": (lambda status: status.watch.atomic if status.watch else 0, 0),
    "reclaims": (lambda status: status.storm.reclaims + status.storm.shrinks if status.storm else 0, _BETWEEN),
    "declined": (lambda status: status.storm.declined if status.storm else 0, _BETWEEN),
    "entered": (lambda status: status.storm.entered if status.storm else 0, _BETWEEN),
}


def _storms(case: Case, start: str = "window", end: str = "window-end") -> tuple[Sample[ProbeStatus], ...]:
    """Readings between two marks that tell of a storm."""
    return tuple(sample for sample in case.probes(start, end) if sample.value.storm is not None)


def last_sites(case: Case) -> SitesFile | None:
    """The last reading of all sites."""
    return case.timeline.sites[-1].value if case.timeline.sites else None


def check_storm(case: Case) -> Iterator[Complaint]:
    """There was a storm, it was the one that was asked for, and of each question it is known what became of it."""
    samples = _storms(case)
    if not samples:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("the probe tells nothing of a storm"))
        return
    last = samples[-1]
    storm = last.value.storm
    assert storm is not None
    told = parameters_of(case).get("storm", {})
    for name in _SETTINGS:
        if not isinstance(told, Mapping) or told.get(name) != getattr(storm, name):
            said = told.get(name) if isinstance(told, Mapping) else told
            text = f"the storm was set to {name}={getattr(storm, name)}, and run.json says {str(said)[:40]}"
            yield Complaint(Outcome.INCONCLUSIVE, Reason(text, (last.seq,)))
    yield from _asked_otherwise(case, last, storm)
    if not storm.asked:
        text = f"in {storm.reclaims + storm.shrinks} reclaims at allocation sites no shrinker was asked"
        yield Complaint(Outcome.NOT_TRIGGERED, Reason(text, (last.seq,)))
    elif storm.asked != storm.declined + storm.waited + storm.let_go + storm.waiting:
        text = (
            f"the trap was sprung {storm.asked} times, but declined {storm.declined} times and entered {storm.entered} "
            "times: what became of the rest is not known"
        )
        # A reading may be between the two counts.
        if abs(storm.asked - storm.declined - storm.waited - storm.let_go - storm.waiting) > 4:
            yield Complaint(Outcome.INCONCLUSIVE, Reason(text, (last.seq,)))
    if storm.failed:
        text = f"{storm.failed} allocations failed that may sleep, and so must not fail"
        yield Complaint(Outcome.STALLED, Reason(text, (last.seq,)))


def _asked_otherwise(case: Case, last: Sample[ProbeStatus], storm: StormStatus) -> Iterator[Complaint]:
    """A storm over some places says nothing of the others, and one of another seed is another one."""
    parameters = parameters_of(case)
    told, seed = parameters.get("storm"), parameters.get("seed")
    only = told.get("only") if isinstance(told, Mapping) else None
    places = len(only) if isinstance(only, list | tuple) else 0
    if places != storm.only:
        text = f"the storm was confined to {storm.only} places, and run.json names {places}"
        yield Complaint(Outcome.INCONCLUSIVE, Reason(text, (last.seq,)))
    if is_count(seed) and seed & 0xFFFFFFFF != storm.seed:
        text = f"the storm had the seed {storm.seed}, and run.json says {seed}"
        yield Complaint(Outcome.INCONCLUSIVE, Reason(text, (last.seq,)))


def check_storm_seen(case: Case) -> Iterator[Complaint]:
    """All of the module's allocations were seen."""
    watches = [(s, s.value.watch) for s in case.timeline.probe if s.value.watch is not None]
    if not watches or last_sites(case) is None:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("nobody watched where SPL allocates"))
        return
    sample, watch = watches[-1]
    if watch is None or not watch.hooks:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("no function of the allocator is watched", (sample.seq,)))
    elif watch.blind or watch.lost:
        file = last_sites(case)
        names = ", ".join(hook.name for hook in file.hooks if hook.is_blind) if file else ""
        text = (
            f"{watch.blind} functions of the allocator cannot be watched ({names or 'none'}), and for {watch.lost} "
            "allocations there was no room: sites are blind"
        )
        yield Complaint(Outcome.INCONCLUSIVE, Reason(text, (sample.seq,)))
    elif case.timeline.sites[-1].end_ns < case.window[1]:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("the last list of sites is of before the end of the window"))
    yield from _counted_otherwise(case)


def _counted_otherwise(case: Case) -> Iterator[Complaint]:
    """The list of sites is that of what the probe counts: of the module, and no allocation is in one of them alone."""
    probe = [sample for sample in case.timeline.probe if sample.value.watch is not None]
    module = parameters_of(case).get("watched")
    window = [sample for sample in probe if case.window[0] <= sample.start_ns and sample.end_ns <= case.window[1]]
    for sample in window:
        watch = sample.value.watch
        if watch is not None and (not watch.on or watch.module != module):
            seen = f"allocations of {watch.module}" if watch.on else "nothing"
            text = f"{seen} was watched at {seconds(sample.start_ns)}, and run.json says {str(module)[:40]}"
            yield Complaint(Outcome.INCONCLUSIVE, Reason(text, (sample.seq,)))
            break
    bits = case.timeline.probe[-1].value.kernel
    for reading in case.timeline.sites:
        if bits is not None and (reading.value.fs, reading.value.io) != (bits.fs, bits.io):
            text = f"the list of sites has fs={reading.value.fs:#x} io={reading.value.io:#x}, and the probe's status"
            yield Complaint(Outcome.INCONCLUSIVE, Reason(f"{text} fs={bits.fs:#x} io={bits.io:#x}", (reading.seq,)))
            break
    starts, ends = [sample.start_ns for sample in probe], [sample.end_ns for sample in probe]
    for reading in case.timeline.sites:
        before, after = bisect_right(ends, reading.start_ns) - 1, bisect_left(starts, reading.end_ns)
        for name, (counted, apart) in _OF_SITES.items():
            told = sum(getattr(site, name) for site in reading.value.sites)
            low = counted(probe[before].value) if before >= 0 else 0
            high = counted(probe[after].value) if after < len(probe) else told
            # Where nothing was counted in between, nobody was between two counts.
            apart = apart if low != high else 0
            if not low - apart <= told <= high + apart:
                text = f"the sites have {told} {name} at {seconds(reading.start_ns)}, and the probe counts {low} before"
                yield Complaint(Outcome.INCONCLUSIVE, Reason(f"{text} and {high} after", (reading.seq,)))
                return


def check_storm_safe(case: Case) -> Iterator[Complaint]:
    """Nobody waits for ever at a site, and transactions are committed."""
    samples = _storms(case)
    if not samples:
        return
    first, last = samples[0].value.storm, samples[-1].value.storm
    assert first is not None and last is not None
    before = {tx.index: tx.commits for tx in first.txs}
    yield from _waiting_otherwise(samples)
    if last.told is not None and not all(_is_passing(case, wait) for wait in last.waits):
        yield from _caught(case, samples[-1], last, last.told)
    elif not last.txs or any(tx.commits == before.get(tx.index, 0) for tx in last.txs):
        text = "a thread committed no transaction in the window, and nobody was caught at a site"
        yield Complaint(Outcome.STALLED, Reason(text, seqs(samples)))


def _waiting_otherwise(samples: Sequence[Sample[ProbeStatus]]) -> Iterator[Complaint]:
    """Who waits in the trap is named, each of them; between two readings in which nobody came or went."""
    pairs = [(sample, storm) for sample in samples if (storm := sample.value.storm) is not None]
    for (sample, before), (_, now) in pairwise(pairs):
        is_at_rest = all(getattr(before, name) == getattr(now, name) for name in _COMING)
        if is_at_rest and before.waiting != len(before.waits):
            text = f"{before.waiting} threads wait in the trap at {seconds(sample.start_ns)}, and {len(before.waits)}"
            yield Complaint(Outcome.INCONCLUSIVE, Reason(f"{text} are named", (sample.seq,)))
            return


def storm_stands(case: Case) -> bool:
    """Whether somebody was caught for so long as the window ended that a run does not wait for the rest of it."""
    storms = [sample.value.storm for sample in _storms(case)]
    told = storms[-1].told if storms and storms[-1] is not None else None
    return told is not None and case.window[1] - told.since_ns >= STANDS_NS


def _is_passing(case: Case, wait: StormWait) -> bool:
    """Whether a wait began as the window ended, at a site at which commits have ended enough others."""
    file, storm = last_sites(case), case.timeline.probe[-1].value.storm
    site = file.by_number.get(wait.site) if file is not None else None
    if site is None or storm is None:
        return False
    # Whom the end of the storm let go may have waited there.
    ended = site.entered - site.waiting - storm.let_go
    return case.window[1] - wait.since_ns < PASSING_NS and ended >= _PASSED


def _caught(case: Case, sample: Sample[ProbeStatus], storm: StormStatus, wait: StormWait) -> Iterator[Complaint]:
    """Somebody waits at the end of the window: whether it is for ever."""
    end = case.window[1]
    since = max(wait.since_ns, end - STANDS_NS)
    place = describe_caught(case, wait)
    if end - wait.since_ns < STANDS_NS:
        text = f"{place} since {seconds(end - wait.since_ns)} only, when the window ended: too short to tell"
        yield Complaint(Outcome.INCONCLUSIVE, Reason(text, (sample.seq,)))
        return
    readings = [s.value.storm for s in case.timeline.probe if since <= s.start_ns <= end and s.value.storm is not None]
    # Who waits for ever waits for a transaction that stands still too; it may be its own.
    standing = [tx for tx in storm.txs if tx.open and _stands(case, readings, tx, since)]
    if not standing or not _is_still(case, wait.pid, since, or_unseen=True):
        text = (
            f"{place} for {seconds(end - wait.since_ns)}, but nobody saw that a transaction which it waits for stands"
        )
        yield Complaint(Outcome.INCONCLUSIVE, Reason(text, (sample.seq,)))
        return
    opened = " and ".join(_tx(case, tx.pid) for tx in standing)
    text = (
        f"deadlock at an allocation site: {place} for {seconds(end - wait.since_ns)} up to the end of the window; it "
        f"waits for the transaction {opened}, which did not go on"
    )
    yield Complaint(Outcome.STALLED, Reason(text, (sample.seq,)))


def _stands(case: Case, readings: list[StormStatus], tx: StormTx, since_ns: int) -> bool:
    """Whether a transaction was not committed since a time, and its thread was asleep all the while."""
    commits = {other.commits for it in readings for other in it.txs if other.index == tx.index}
    return len(commits) == 1 and _is_still(case, tx.pid, since_ns)


def _is_still(case: Case, pid: int, since_ns: int, *, or_unseen: bool = False) -> bool:
    """Whether a thread was asleep on one stack and was not switched to, up to the end of the window.

    :param or_unseen: what to say of one whose state nobody reads, such as kthreadd.
    """
    end = case.window[1]
    samples = [s for s in case.timeline.tasks if since_ns <= s.start_ns and s.end_ns <= end]
    tasks = [task for s in samples for task in s.value if task.pid == pid]
    if not tasks:
        return or_unseen
    still = {(task.state, task.voluntary, task.nonvoluntary, task.frames) for task in tasks}
    return len(tasks) == len(samples) > 1 and len(still) == 1 and tasks[0].state in "DSI"


def _tx(case: Case, pid: int) -> str:
    """A transaction's thread, and where it waits."""
    task = _task(case, pid)
    if task is None:
        return f"of pid {pid}"
    return f"of {task.comm} (pid {pid}) in {' <- '.join(task.blocked_on[:2]) or 'no stack'}"


def _task(case: Case, pid: int) -> Task | None:
    end = case.window[1]
    before = [task for s in case.timeline.tasks if s.end_ns <= end for task in s.value if task.pid == pid]
    return before[-1] if before else None


def describe_caught(case: Case, wait: StormWait) -> str:
    """Who waits where, and why it may."""
    file = last_sites(case)
    site = file.by_number.get(wait.site) if file is not None else None
    task = _task(case, wait.pid)
    who = f"{task.comm} (pid {wait.pid})" if task else f"pid {wait.pid}"
    if file is None or site is None:
        return f"{who} waits in reclaim at a site that nobody read of (GFP mask {wait.gfp:#x})"
    return f"{who} waits in reclaim at {site.words} (site {site.id}; {describe_mask(file, site)})"


def describe_mask(file: SitesFile, site: Site) -> str:
    marks = " and ".join([*(["NOIO"] if site.noio else []), *(["NOFS"] if site.nofs else [])])
    return (
        f"GFP mask {site.asked:#x}, effective {site.effective:#x}, which allows {file.may_enter(site)}; the thread is "
        f"{f'marked {marks}' if marks else 'not marked'}"
    )


def check_storm_atomic(case: Case) -> Iterator[Complaint]:
    """No allocation may sleep where that is forbidden."""
    file = last_sites(case)
    if file is None:
        return
    for site in file.sites:
        if site.atomic and not site.helper:
            text = (
                f"{site.atomic} of {site.calls} allocations at {site.words} (site {site.id}; GFP mask {site.asked:#x}) "
                f"may sleep where that is forbidden, with a preempt_count of up to {site.preempt}, in {site.thread}"
            )
            yield Complaint(Outcome.CRASHED, Reason(text))


# Reasons


def worker_was_caught(case: Case) -> bool:
    """Whether SPL's slab worker waited in the trap for some time, and was let go."""
    file = last_sites(case)
    return file is not None and any(site.entered and site.thread == WORKER for site in file.sites)


def swapped_out(readings: Sequence[Sample[str]]) -> int:
    """Pages that were written to swap between the first and the last of these readings of /proc/vmstat."""
    counts = [int(found[1]) for sample in readings if (found := _WRITTEN.search(sample.value))]
    return max(counts[-1] - counts[0], 0) if counts else 0


def because_weathered(case: Case) -> tuple[Reason, ...]:
    """What a storm did, in which nobody was caught for good."""
    samples = _storms(case)
    storm = samples[-1].value.storm
    file = last_sites(case)
    assert storm is not None and file is not None
    first = samples[0].value.storm
    begun = {tx.index: tx.commits for tx in first.txs} if first is not None else {}
    commits = sum(tx.commits - begun.get(tx.index, 0) for tx in storm.txs)
    asked = [site for site in file.sites if site.reclaims]
    if storm.entered:
        told = (
            f"the trap was sprung {storm.asked} times at allocation sites, declined {storm.declined} times, and a "
            f"commit ended each of {storm.waited} waits in it"
        )
    else:
        told = (
            f"the trap was sprung {storm.asked} times and declined {storm.declined} times, at allocation sites of SPL"
        )
    reasons = [
        Reason(told, seqs(samples)),
        Reason(
            f"{len(file.sites)} sites were reached, and the kernel reclaimed at {len(asked)} of them; {commits} "
            f"transactions were committed in the window, last mask {storm.asked_gfp:#x}",
            seqs(samples),
        ),
    ]
    if written := swapped_out(between(case.timeline.other.get("vmstat", ()), *case.window)):
        reasons.append(Reason(f"{written} pages were written to swap in the window"))
    caught = [site for site in file.sites if site.entered]
    for site in sorted(caught, key=lambda site: (site.thread != WORKER, -site.entered))[:3]:
        text = (
            f"{site.thread} was caught {site.entered} times at {site.words} ({describe_mask(file, site)}), and let go"
        )
        reasons.append(Reason(text))
    return tuple(reasons)
