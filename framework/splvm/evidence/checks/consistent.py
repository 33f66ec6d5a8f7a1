"""Checks of the record against itself: what its parts say of one thing agrees.

A record is sealed by whoever can write it, so that it is whole does not say that it is true. What is wrong with a
record says nothing of the module: all complaints are INCONCLUSIVE. Order and number of frames are looked at where
frames are read (evidence/timeline.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from operator import attrgetter
from types import MappingProxyType
from typing import TypeVar

from splvm.evidence.checks.asked import another_machine, another_rate, another_workload, parameters_of
from splvm.evidence.checks.case import CACHE, Case, Complaint, is_count, is_number, seconds
from splvm.evidence.checks.closedload import other_disks, set_up_otherwise
from splvm.evidence.checks.complete import (
    another_beginning,
    another_console,
    another_list,
    another_samples,
    another_version,
    lacking_facts,
    lacking_notes,
    refused_commands,
)
from splvm.evidence.checks.holes import unread
from splvm.evidence.checks.letin import let_in_elsewhere
from splvm.evidence.checks.loadlevel import OVERSTEP_KIB
from splvm.evidence.checks.nobody import (
    grown_by_nobody,
    grown_unseen,
    held_by_nobody,
    never_switched,
    renamed,
    threads_of_nobody,
    used_by_nobody,
    used_too_much,
)
from splvm.evidence.checks.selfsaid import (
    counted_twice,
    empty_columns,
    flag_bits,
    held_at_rest,
    lasting_flags,
    lever_let_go,
    listed_twice,
    not_running,
    parts_of_refills,
    times_over,
)
from splvm.evidence.checks.storm import storm_stands
from splvm.evidence.checks.stormsaid import STORM_SAID
from splvm.evidence.checks.unlike import UNLIKE
from splvm.evidence.checks.worksaid import another_work, clients_of_nobody, worked
from splvm.evidence.checks.zpool import pool_gave_up
from splvm.evidence.formats.loadstatus import LoadStatus
from splvm.evidence.formats.probestatus import ProbeStatus
from splvm.evidence.formats.sites import SitesFile
from splvm.evidence.formats.stacks import Task
from splvm.evidence.formats.txgs import Txgs
from splvm.evidence.timeline import Sample
from splvm.evidence.verdict import Outcome, Reason

T = TypeVar("T")
# A counter's name in parts, which are put together only where it is told: there are hundreds in each reading.
_Name = tuple[str | int, ...]

# The kernel's first line: linux_banner, init/version-timestamp.c.
_BANNER = re.compile(r"Linux version (\S{1,200}) \(")

# Counters of the probe that only grow, by tag; those of `thread` begin anew with `start`, with other threads.
_PROBE: Mapping[str, tuple[str, ...]] = {
    "hold": ("entries",),
    "live": ("emergency_max", "emergency_total"),
    "trap": ("tables", "induced", "sprung", "declined", "entered", "waited", "let_go"),
    "tx": ("commits", "carried"),
    "pressure": ("taken", "given", "refused"),
    "fail": ("marked", "injected", "missed"),
    "growth": ("begun", "done", "slabs"),
    "storm": ("reclaims", "shrinks", "crowded", "asked", "declined", "entered", "waited", "let_go", "kswapd", "failed"),
    "watch": ("count", "calls", "lost", "atomic"),
    "magazine": ("hits", "refills", "grew", "reusable", "reused"),
}
# For each tag the names, as they are told, and what reads the values: the class is read too, as of one attribute alone
# there would be no tuple.
_PROBE_COUNTERS = tuple(
    (tag, tuple((tag, ".", name) for name in names), attrgetter(*names, "__class__")) for tag, names in _PROBE.items()
)
_SITE = ("calls", "reclaims", "declined", "entered", "atomic", "preempt")
_HISTOGRAMS = ("latency", "waited", "woken")
_THREAD = ("rounds", "allocs", "frees", "emergency", "failures", "corrupt")
_MEMORY = ("written", "scanned", "scanned_direct", "some_us", "full_us", "oom_kills")


def check_consistent(case: Case) -> Iterator[Complaint]:
    """The record does not contradict itself."""
    for told in (
        _console(case),
        another_samples(case),
        another_list(case),
        another_version(case),
        _afterwards(case),
        let_in_elsewhere(case),
        _monitor(case),
        _clock(case),
        _fallen(case),
        another_workload(case),
        _bound(case),
        _window(case),
        counted_twice(case),
        parts_of_refills(case),
        held_at_rest(case),
        flag_bits(case),
        lasting_flags(case),
        times_over(case),
        lever_let_go(case),
        not_running(case),
        listed_twice(case),
        empty_columns(case),
        threads_of_nobody(case),
        held_by_nobody(case),
        used_by_nobody(case),
        never_switched(case),
        renamed(case),
        grown_by_nobody(case),
        grown_unseen(case),
        another_work(case),
        clients_of_nobody(case),
        used_too_much(case),
        *(unlike(case) for unlike in UNLIKE),
        *(said(case) for said in STORM_SAID),
        *(_of_the_whole(case) if case.evidence.facts.get("outcome", {}).get("kind") == "ended" else ()),
    ):
        yield from (Complaint(Outcome.INCONCLUSIVE, reason) for reason in told)


def _of_the_whole(case: Case) -> Iterator[Iterator[Reason]]:
    """What is asked of the record of a run that came to its end; no other has a good verdict."""
    yield lacking_facts(case)
    yield lacking_notes(case)
    yield refused_commands(case)
    yield another_rate(case)
    yield another_machine(case)
    yield another_console(case)
    yield another_beginning(case)
    yield unread(case)
    yield other_disks(case)
    yield set_up_otherwise(case)


def _console(case: Case) -> Iterator[Reason]:
    """The kernel that run.json names is the one that said so on the console."""
    kernel = case.evidence.facts.get("kernel")
    release = kernel.get("release") if isinstance(kernel, Mapping) else None
    said = list(dict.fromkeys(_BANNER.findall(case.evidence.console)))
    if not isinstance(release, str) or not release:
        yield Reason("run.json does not say which kernel it was")
    elif not said:
        yield Reason(f"console.log: no kernel said which it is; run.json says {release[:200]}")
    elif said != [release]:
        yield Reason(f"console.log is of kernel {', '.join(said[:3])}; run.json says {release[:200]}")


def _afterwards(case: Case) -> Iterator[Reason]:
    """In virtual time the slab file, read from outside as in real time, says what the last frame of it said."""
    rows = case.rows()
    after = case.timeline.slab_afterwards
    if not case.evidence.is_virtual or not rows:
        return
    row = after.cache(CACHE) if after is not None else None
    last = rows[-1].value
    if row is None:
        # A guest that was lost let nobody in.
        if case.evidence.facts.get("outcome", {}).get("kind") == "ended":
            yield Reason("the slab file was not read from outside after the stream had ended", (rows[-1].seq,))
    elif (row.emergency, row.object.max, row.slab.max) != (last.emergency, last.object.max, last.slab.max):
        yield Reason("the slab file that was read from outside is another than that of the last frame", (rows[-1].seq,))


def _monitor(case: Case) -> Iterator[Reason]:
    """A guest in which all steps were taken was not found in trouble."""
    outcome = case.evidence.facts.get("outcome", {})
    for look in case.timeline.looks if outcome.get("kind") == "ended" else ():
        if look.condition:
            yield Reason(f"run.json says that the run ended, and the monitor found the guest {look.condition[:80]}")
            return


def _clock(case: Case) -> Iterator[Reason]:
    """What the probe says of the time is the time of its reading, and no mark is of later."""
    for sample in case.timeline.probe:
        times = [mark.time_ns for mark in sample.value.marks]
        now_ns = sample.value.now_ns
        if not sample.start_ns <= now_ns <= sample.end_ns or times != sorted(times) or (times and times[-1] > now_ns):
            reason = f"the status that was read at {seconds(sample.start_ns)} is of {seconds(now_ns)}"
            yield Reason(f"{reason}, or its marks are not in order", (sample.seq,))
            return


def _fallen(case: Case) -> Iterator[Reason]:
    """Counters that fall back; the first one of each source."""
    timeline = case.timeline
    loads = [sample for sample in timeline.load if not sample.value.torn]
    yield from _fall("probe", timeline.probe, _probe_counters)
    yield from _fall("tasks", timeline.tasks, _switches)
    cpus = parameters_of(case).get("cpus")
    overstep = OVERSTEP_KIB * (cpus if is_count(cpus) else 1)
    slack: Mapping[_Name, int] = {("written",): overstep, ("done_kib of ", "writeback"): overstep}
    yield from _fall("load", loads, _load_counters, slack)
    yield from _fall("txgs", timeline.txgs, _txg)
    yield from _fall("sites", timeline.sites, _sites)


def _fall(
    source: str,
    samples: Sequence[Sample[T]],
    counters: Callable[[T], Mapping[_Name, int]],
    slack: Mapping[_Name, int] = MappingProxyType({}),
) -> Iterator[Reason]:
    told: list[tuple[Sample[T], Mapping[_Name, int]]] = []
    for sample in samples:
        # Most sources say the same again and again, by one and the same value.
        again = told and told[-1][0].value is sample.value
        told.append((sample, told[-1][1] if again else counters(sample.value)))
    for sample, counts in told:
        if min(counts.values(), default=0) >= 0:
            continue
        if (negative := next((name for name, count in counts.items() if count < 0), None)) is not None:
            text = f"{source}: {''.join(map(str, negative))} is {counts[negative]} at {seconds(sample.start_ns)}"
            yield Reason(text, (sample.seq,))
            return
    for before, now in pairwise(told):
        if before[1] is now[1]:
            continue
        # One that is gone was never there.
        fallen = next((name for name, it in before[1].items() if it - now[1].get(name, it) > slack.get(name, 0)), None)
        if fallen is not None:
            text = f"{source}: {''.join(map(str, fallen))} fell from {before[1][fallen]} to {now[1][fallen]}"
            yield Reason(f"{text} at {seconds(now[0].start_ns)}", (before[0].seq, now[0].seq))
            return


def _probe_counters(status: ProbeStatus) -> dict[_Name, int]:
    found: dict[_Name, int] = {}
    for tag, names, read in _PROBE_COUNTERS:
        if (part := getattr(status, tag)) is not None:
            found |= ((name, count) for name, count in zip(names, read(part), strict=False) if count is not None)
    for tag in _HISTOGRAMS:
        found |= {(tag, " ", bucket): count for bucket, count in getattr(status, tag).items()}
    for tx in status.storm.txs if status.storm is not None else ():
        found["commits of transactions of thread ", tx.index] = tx.commits
    for thread in status.threads:
        found |= {("thread ", thread.index, ".", name): getattr(thread, name) for name in _THREAD}
    return found | worked(status)


def _switches(tasks: tuple[Task, ...]) -> dict[_Name, int]:
    found: dict[_Name, int] = {
        (name, " context switches of ", task.pid): getattr(task, name)
        for task in tasks
        for name in ("voluntary", "nonvoluntary")
    }
    return found | {("CPU time of ", task.pid): task.run_ns for task in tasks if task.run_ns is not None}


def _sites(file: SitesFile) -> dict[_Name, int]:
    return {(name, " of site ", site.id): getattr(site, name) for site in file.sites for name in _SITE}


def _load_counters(status: LoadStatus) -> dict[_Name, int]:
    found: dict[_Name, int] = {("now_ns",): status.now_ns, ("cpu_us",): status.cpu_us}
    found |= {("done_kib of ", load.name): load.done_kib for load in status.loads if load.done_kib is not None}
    return found | {(name,): status.memory[name] for name in _MEMORY}


def _txg(txgs: Txgs) -> dict[_Name, int]:
    # None of those that are listed may be synced.
    return {("the last txg that was synced",): txgs.committed} if txgs.committed else {}


def _bound(case: Case) -> Iterator[Reason]:
    """The bound on the latency is the run's own."""
    if "latency_bound_ms" not in parameters_of(case):
        yield Reason("run.json does not say which latency is still progress")


def _window(case: Case) -> Iterator[Reason]:
    """The window lasted as long as it was to, unless the pool or a storm stood still, which ends some of them."""
    if "window" not in case.marks or "window-end" not in case.marks:
        return
    start, end = case.window
    asked_s = parameters_of(case).get("window_s")
    if not is_number(asked_s) or not 0 < asked_s < 1e9:
        yield Reason(f"run.json: window_s is {str(asked_s)[:40]}, and not a number of seconds")
    elif end - start < int(asked_s * 1e9) and not pool_gave_up(case) and not storm_stands(case):
        yield Reason(f"the window lasted {seconds(end - start)}; {asked_s:g} s are asked for")
