"""What the probe says of a storm, against itself, the list of sites and the agent's lists of tasks.

What is wrong with a record says nothing of the module; checks/consistent.py makes INCONCLUSIVE of all of it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from operator import attrgetter

from splvm.evidence.checks.asked import parameters_of
from splvm.evidence.checks.case import Case, seconds
from splvm.evidence.checks.nobody import unlisted
from splvm.evidence.checks.starvation import WORKER
from splvm.evidence.formats.probestatus import ProbeStatus
from splvm.evidence.formats.sites import Site, SitesFile
from splvm.evidence.formats.stormstatus import StormStatus, Watch
from splvm.evidence.timeline import between
from splvm.evidence.verdict import Reason

# What a storm and who watches are set to before the storm begins; nobody changes it afterwards.
_SETTINGS = attrgetter("ops", "rate", "trap", "mark", "helpers", "threads", "how", "seed", "only")
_WATCHED = attrgetter("on", "module", "hooks", "blind", "preempt_count")
# Of a site what its number and its id stand for.
_SORT = attrgetter("id", "thread", "helper", "asked", "effective", "noio", "nofs", "chain", "function", "offset")
# Threads that make transactions are the probe's.
_OWN = "slabprobe"
# Readings, and commits between the first and the last, from which on some reading shows an open transaction: of one
# thread, and of all. On stock a thread has one open in a third of the readings at least, without marks in an eighth.
_SEEN, _COMMITS = 50, 50
_SEEN_AT_ALL, _COMMITS_AT_ALL = 20, 20
# What only the worker does.
_OF_WORKER = "spl_cache_grow_work"
# Who was caught last, and where; all of it is 0 as long as nobody was.
_CAUGHT = attrgetter("pid", "since_ns", "site", "gfp")

# A reading: its frame, when it began and ended, and what it says.
_Reading = tuple[int, int, int, StormStatus, Watch]


def _storms(case: Case, since: str) -> list[_Reading]:
    """Readings that tell of a storm, from a mark on; none where run.json names no storm, or there is no such mark."""
    if "storm" not in parameters_of(case) or since not in case.marks:
        return []
    return [
        (sample.seq, sample.start_ns, sample.end_ns, storm, watch)
        for sample in case.timeline.probe
        if sample.start_ns >= case.marks[since]
        and (storm := sample.value.storm) is not None
        and (watch := sample.value.watch) is not None
    ]


def told_of_nothing(case: Case) -> Iterator[Reason]:
    """From its beginning on each reading of the status tells of the storm, and of what is watched."""
    if "storm" not in parameters_of(case) or "storm" not in case.marks:
        return
    for sample in case.timeline.probe:
        if sample.start_ns >= case.marks["storm"] and None in (sample.value.storm, sample.value.watch):
            name = "storm" if sample.value.storm is None else "sites"
            yield Reason(f"the status that was read at {seconds(sample.start_ns)} has no line `{name}`", (sample.seq,))
            return


def never_open(case: Case) -> Iterator[Reason]:
    """Who commits transactions has one open for most of the time."""
    if "window-end" not in case.marks:
        return
    told = [it for it in _storms(case, "window") if it[2] <= case.marks["window-end"]]
    if len(told) < _SEEN_AT_ALL:
        return
    first, last = told[0][3], told[-1][3]
    before = {tx.index: tx.commits for tx in first.txs}
    seen = {tx.index for *_, storm, _ in told for tx in storm.txs if tx.open}
    done = {tx.index: tx.commits - before.get(tx.index, tx.commits) for tx in last.txs}
    if not seen and len(done) > 1 and sum(done.values()) >= _COMMITS_AT_ALL:
        text = f"{sum(done.values())} transactions were committed in the window, and none was open in"
        yield Reason(f"{text} {len(told)} readings", (told[0][0], told[-1][0]))
        return
    for tx in last.txs:
        commits = done[tx.index]
        if tx.index not in seen and commits >= _COMMITS and len(told) >= _SEEN:
            text = f"pid {tx.pid} committed {commits} transactions in the window, and none was open in"
            yield Reason(f"{text} {len(told)} readings", (told[0][0], told[-1][0]))
            return


def caught_otherwise(case: Case) -> Iterator[Reason]:
    """Who was caught last has a pid, a time, a site and a mask that allows it, and nobody else has them.

    The probe writes them down before it counts a wait, and the time of its end after it has counted that.
    """
    told = [(sample, storm) for sample in case.timeline.probe if (storm := sample.value.storm) is not None]
    for at, (sample, now) in enumerate(told if "storm" in parameters_of(case) else ()):
        before, after = told[max(at - 1, 0)][1], told[min(at + 1, len(told) - 1)][1]
        times = [now.since_ns, now.left_ns, *(wait.since_ns for wait in now.waits)]
        ended = after.waited + after.let_go
        if (
            (any(_CAUGHT(now)) and not after.entered)
            or (before.entered and not (now.pid and now.since_ns and now.gfp))
            or (now.left_ns and not ended)
            or (before.waited + before.let_go and at and not now.left_ns)
            or (now.asked_gfp and not after.asked)
            or (before.asked and at and not now.asked_gfp)
            or max(times) > sample.end_ns
            or now.since_ns < before.since_ns
            or now.left_ns < before.left_ns
            or (before.entered == after.entered and _CAUGHT(now) != _CAUGHT(before))
            or (before.waited + before.let_go == ended and now.left_ns != before.left_ns)
            or not all(wait.pid and wait.since_ns for wait in now.waits)
            or any(not _may_catch(sample.value, gfp) for gfp in (now.gfp, *(wait.gfp for wait in now.waits)) if gfp)
        ):
            text = f"what the probe says at {seconds(sample.start_ns)} of who was caught last contradicts its counts"
            yield Reason(f"{text}, or what it said before", (sample.seq,))
            return


def _may_catch(status: ProbeStatus, gfp: int) -> bool:
    """Whether the trap waits where a mask is so."""
    storm, bits = status.storm, status.kernel
    if storm is None or bits is None:
        return True
    return bool(gfp & ((bits.fs if storm.trap & 1 else 0) | (bits.io if storm.trap & 2 else 0)))


def caught_elsewhere(case: Case) -> Iterator[Reason]:
    """Where somebody was caught last, by the status, a thread of that name was caught by the list of sites, with that
    mask.
    """
    told = _storms(case, "final")
    lists = [it for it in case.timeline.sites if it.start_ns >= case.marks.get("final", 0)]
    if not told or not lists or case.evidence.facts.get("outcome", {}).get("kind") != "ended":
        return
    seq, _, _, last, _ = told[-1]
    file = lists[-1].value
    both, site = file.fs | file.io, file.by_number.get(last.site)
    if last.entered and (site is None or not site.entered or (site.effective ^ last.gfp) & both):
        text = f"somebody was caught last at site {last.site} with mask {last.gfp:#x}, and not by the list of sites"
        yield Reason(text, (seq, lists[-1].seq))
    names = {task.pid: task.comm for sample in case.timeline.tasks for task in sample.value}
    if site is not None and last.entered and names.get(last.pid, site.thread) != site.thread:
        text = f"pid {last.pid}, {names[last.pid]}, was caught last, at a site that is one of {site.thread}"
        yield Reason(text, (seq, lists[-1].seq))
    masks = {it.effective & both for it in file.by_number.values() if it.reclaims}
    if last.asked and last.asked_gfp & both not in masks:
        text = f"the shrinker was asked last with mask {last.asked_gfp:#x}, which no site that was reclaimed at has"
        yield Reason(text, (seq, lists[-1].seq))


def set_otherwise(case: Case) -> Iterator[Reason]:
    """A storm, and what is watched, stay what they were set to."""
    told = _storms(case, "storm")
    for seq, start, _, storm, watch in told[1:]:
        _, _, _, first, watched = told[0]
        if _SETTINGS(storm) != _SETTINGS(first) or _WATCHED(watch) != _WATCHED(watched):
            yield Reason(f"the storm's settings, or what is watched, are other ones at {seconds(start)}", (seq,))
            return


def stopped_early(case: Case) -> Iterator[Reason]:
    """The storm goes on throughout the window, and nobody is let go by its end before it ends."""
    end = case.marks.get("window-end", 0)
    for seq, start, stop, storm, _ in _storms(case, "window"):
        if stop <= end and (not storm.running or storm.idle):
            yield Reason(f"the storm was not running at {seconds(start)}, in the window", (seq,))
            return
        if stop <= case.marks.get("release", end) and storm.let_go:
            yield Reason(f"{storm.let_go} threads were let go at {seconds(start)}, before the storm was ended", (seq,))
            return


def not_at_rest(case: Case) -> Iterator[Reason]:
    """When all is over nobody storms or waits any more, and of each question it is known what became of it."""
    told = _storms(case, "final")
    if not told or case.evidence.facts.get("outcome", {}).get("kind") != "ended":
        return
    seq, start, _, last, _ = told[-1]
    if last.running or not last.idle or last.waiting or last.waits or any(tx.open for tx in last.txs):
        yield Reason(f"the storm was ended, and goes on at {seconds(start)}", (seq,))
    if last.asked != last.declined + last.entered or last.entered != last.waited + last.let_go:
        text = f"at rest the trap was sprung {last.asked} times, declined {last.declined} times and entered"
        yield Reason(f"{text} {last.entered} times; {last.waited} waits ended, and {last.let_go} were let go", (seq,))
    if last.asked and not last.reclaims + last.shrinks:
        yield Reason(f"the trap was sprung {last.asked} times, and nothing was reclaimed", (seq,))
    before = [it for it in _storms(case, "window") if it[2] <= case.marks.get("release", 0)]
    if before:
        _, _, _, then, _ = before[-1]
        if last.let_go > then.waiting + last.entered - then.entered:
            text = f"{last.let_go} waits were let go when the storm was ended, and {then.waiting} were there before"
            yield Reason(text, (before[-1][0], seq))
        if last.failed > then.failed:
            yield Reason(f"{last.failed} allocations failed that must not, once the window was over", (seq,))


def transactions_of_nobody(case: Case) -> Iterator[Reason]:
    """Transactions are made by threads of the probe, each of them by one, and those are there."""
    told = _storms(case, "window")
    if not told or "window-end" not in case.marks:
        return
    seq, _, _, first, _ = told[0]
    threads = [(tx.index, tx.pid) for tx in first.txs]
    pids = {pid for _, pid in threads}
    if len(threads) != first.threads.bit_count() or len(pids) < len(threads) or min(pids, default=1) < 1:
        text = f"the storm's transactions are told of as those of one thread, or of none: {threads}"
        yield Reason(f"{text}, of {first.threads.bit_count()}", (seq,))
    other = next((it for it in told if [(tx.index, tx.pid) for tx in it[3].txs] != threads), None)
    if other is not None:
        yield Reason(f"the storm's threads at {seconds(other[1])} are other ones than before", (seq, other[0]))
    lists = between(case.timeline.tasks, *case.window)
    others = {task.pid for sample in lists for task in sample.value if not task.comm.startswith(_OWN)}
    if lists and (missing := unlisted(pids, lists) | pids & others):
        yield Reason(f"the lists of tasks have no thread of the probe with pid {min(missing)}, of the storm", (seq,))


def listed_otherwise(case: Case) -> Iterator[Reason]:
    """Each list of sites has as many as the probe counts, of its functions; no site becomes another one."""
    told = _storms(case, "storm")
    starts, ends = [it[1] for it in told], [it[2] for it in told]
    known: dict[int, Site] = {}
    for reading in case.timeline.sites if told else ():
        file = reading.value
        before, after = bisect_right(ends, reading.start_ns) - 1, bisect_left(starts, reading.end_ns)
        where = f"the list of sites at {seconds(reading.start_ns)}"
        if before >= 0 and after < len(told):
            low, high = told[before][4], told[after][4]
            if not low.count <= len(file.by_number) <= high.count:
                yield Reason(f"{where} has {len(file.by_number)}, and the probe counts {low.count}", (reading.seq,))
                return
            blind = sum(hook.is_blind for hook in file.hooks)
            if (low.hooks, low.blind) != (len(file.hooks) - blind, blind):
                text = f"{where} has {len(file.hooks)} functions, {blind} of them blind, and the probe watches"
                yield Reason(f"{text} {low.hooks}, and {low.blind} blind ones", (reading.seq,))
                return
        if wrong := next((it for it in file.by_number.items() if _is_odd(file, known.get(it[0]), it[1])), None):
            yield Reason(f"{where} contradicts itself, or earlier lists, in site {wrong[1].id}", (reading.seq,))
            return
        known |= file.by_number


def _is_odd(file: SitesFile, before: Site | None, site: Site) -> bool:
    """Whether no kernel has such a site: a mark takes bits out of a mask, and a reclaim is that of an allocation."""
    both = file.fs | file.io
    if any(name.startswith(_OF_WORKER) for name in site.chain) and site.thread != WORKER:
        return True
    kept = both & ~(both if site.noio else file.fs if site.nofs else 0)
    if before is not None and _SORT(before) != _SORT(site):
        return True
    return site.effective & both != site.asked & kept or site.reclaims > site.calls or site.least > site.most


STORM_SAID: tuple[Callable[[Case], Iterator[Reason]], ...] = (
    told_of_nothing,
    set_otherwise,
    stopped_early,
    not_at_rest,
    transactions_of_nobody,
    never_open,
    caught_otherwise,
    caught_elsewhere,
    listed_otherwise,
)
