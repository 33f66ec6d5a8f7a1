"""Checks of the record against what nobody did: a lever that was not pulled, a load that was not asked for, a reboot.

What is wrong with a record says nothing of the module; checks/consistent.py makes INCONCLUSIVE of all of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

from splvm.evidence.checks.asked import parameters_of
from splvm.evidence.checks.case import CACHE, Case, Complaint, is_count, seconds
from splvm.evidence.checks.loadlevel import OVERSTEP_KIB, wanted
from splvm.evidence.formats.probestatus import ProbeStatus
from splvm.evidence.timeline import HostReading
from splvm.evidence.verdict import Outcome, Reason

# Counters of the load's status, by the kernel's own (/proc/vmstat) and what one of these is.
_COUNTERS: Mapping[str, tuple[str, int]] = {
    "written": ("nr_written", 4),
    "scanned": ("pgscan_kswapd", 1),
    "scanned_direct": ("pgscan_direct", 1),
    "oom_kills": ("oom_kill", 1),
}
_COUNTER = re.compile(r"^(nr_written|pgscan_kswapd|pgscan_direct|oom_kill) (\d{1,19})$", re.MULTILINE)
# The load's status may be as old as that when it is read, ns.
_AROUND_NS = 1_000_000_000

# The kernel's first line, once for each boot.
_BOOT = re.compile(r"Linux version \S{1,200} \(")

# What a status says of a lever, by the phase in which the lever is pulled; zero without this phase.
_LEVERS: Mapping[str, Callable[[ProbeStatus], int]] = {
    "hold": lambda status: abs(status.hold.held) + abs(status.hold.entries),
    "trap": lambda status: abs(status.trap.sprung) + abs(status.trap.entered) + abs(status.trap.waiting),
    "press": lambda status: int(status.pressure.on) + abs(status.pressure.taken),
    "fail": lambda status: abs(status.fail.marked) + abs(status.fail.injected),
    "fragment": lambda status: abs(status.fragment.mib) + abs(status.fragment.filled),
}
# Another phase in which that lever is pulled: the worker of one cache alone is held, after the window.
_ALSO: Mapping[str, str] = {"hold": "caught"}


def pulled_by_nobody(case: Case) -> Iterator[Reason]:
    """A lever that the run has no phase for was not pulled."""
    for phase, pulled in _LEVERS.items():
        # Faults have no phase of their own where they come while the worker is held.
        is_of_faults = phase == "fail" and case.evidence.facts.get("faults")
        if phase in case.marks or _ALSO.get(phase) in case.marks or is_of_faults:
            continue
        sample = next((it for it in case.timeline.probe if pulled(it.value)), None)
        if sample is not None:
            reason = f"the run has no phase {phase}, and the probe's status at {seconds(sample.start_ns)} is of one"
            yield Reason(reason, (sample.seq,))


def stormed_by_nobody(case: Case) -> Iterator[Reason]:
    """Nobody reclaims at allocation sites in a run that run.json names no storm of."""
    if "storm" in parameters_of(case):
        return
    for sample in case.timeline.probe:
        storm = sample.value.storm
        if storm is not None and (storm.reclaims or storm.shrinks or storm.running):
            reason = f"run.json names no storm, and the probe's status at {seconds(sample.start_ns)} is of one"
            yield Reason(reason, (sample.seq,))
            return


def loaded_by_nobody(case: Case) -> Iterator[Reason]:
    """The load generator reports the loads of run.json alone."""
    names = set(wanted(case.evidence.facts))
    for sample in case.timeline.load:
        other = sorted({load.name for load in sample.value.loads} - names)
        if other or not names:
            told = f"load {', '.join(other)}" if other else "a load"
            yield Reason(f"the guest reports {told[:200]}, and run.json does not name it", (sample.seq,))
            return


def loaded_elsewhere(case: Case) -> Iterator[Reason]:
    """What the load generator says of the kernel's counters, the agent's readings of /proc/vmstat say too."""
    cpus = parameters_of(case).get("cpus")
    slack = {"written": 2 * OVERSTEP_KIB * (cpus if is_count(cpus) else 1)}
    vmstat = case.timeline.other.get("vmstat", ()) if case.timeline.load else ()
    told = [(it, dict(_COUNTER.findall(it.value))) for it in vmstat]
    for sample in (it for it in case.timeline.load if told and not it.value.torn):
        now_ns = sample.value.now_ns
        low = next((it for at, it in reversed(told) if at.end_ns <= now_ns - _AROUND_NS), {})
        high = next((it for at, it in told if at.start_ns >= now_ns + _AROUND_NS), {})
        for name, (counter, unit) in _COUNTERS.items():
            value, more = sample.value.memory[name], slack.get(name, 0)
            least, most = (unit * int(it[counter]) if counter in it else value for it in (low, high))
            if not least - more <= value <= most + more:
                text = f"load: {name} is {value} at {seconds(now_ns)}, and was {least} by {counter} of /proc/vmstat"
                yield Reason(f"{text} before it, and {most} after it", (sample.seq,))
                return


def booted_twice(case: Case) -> Iterator[Reason]:
    """The console is that of one boot."""
    boots = len(_BOOT.findall(case.evidence.console))
    if boots > 1:
        yield Reason(f"console.log is of {boots} boots")


def ended_by_nmi(case: Case) -> Iterator[Reason]:
    """Nobody sends an NMI, which the kernel answers with a panic, to a guest in which all steps are taken."""
    ended = case.evidence.facts.get("outcome", {}).get("kind") == "ended"
    if ended and any("nmi" in (*look.taken, *look.failed) for look in case.timeline.looks):
        yield Reason("run.json says that the run ended, and the monitor sent an NMI to the guest")


def listed_by_nobody(case: Case) -> Iterator[Reason]:
    """What the kernel listed is there because the monitor asked for it."""
    if case.evidence.sysrq and not any(look.taken for look in case.timeline.looks):
        yield Reason("sysrq.txt is there, and the monitor did not ask for it")


def other_threads(case: Case) -> Iterator[Reason]:
    """The critical threads are the same throughout, and what the module counts too."""
    probe = case.timeline.probe
    for before, now in pairwise(sample for sample in probe if sample.value.threads):
        if _threads(before.value) != _threads(now.value) or _counts(before.value) != _counts(now.value):
            reason = (
                f"the probe's status at {seconds(now.start_ns)} is of other threads, or another module, than before"
            )
            yield Reason(reason, (before.seq, now.seq))
            return


def _threads(status: ProbeStatus) -> tuple[tuple[int, int], ...]:
    return tuple((thread.index, thread.pid) for thread in status.threads)


def _counts(status: ProbeStatus) -> tuple[bool, bool]:
    return status.growth is None, status.magazine is None


def worker_of_nobody(case: Case) -> Iterator[Reason]:
    """Whether this SPL has a worker does not change, and one that is not there grows nothing and is not held."""
    for before, now in pairwise(case.timeline.probe):
        hold, growth = now.value.hold, now.value.growth
        begun = max(hold.entries, growth.begun if growth is not None else 0)
        if hold.worker != before.value.hold.worker or (begun and not hold.worker):
            text = f"the probe says at {seconds(now.start_ns)} that SPL has {'a' if hold.worker else 'no'} worker"
            yield Reason(f"{text}, and counts {begun} growths by one, or said otherwise before", (before.seq, now.seq))
            return


def reserves_elsewhere(case: Case) -> Iterator[Reason]:
    """The kernel's reserves begin somewhere, and stay there."""
    told = [(sample, sample.value.pressure.min) for sample in case.timeline.probe]
    for sample, least in told:
        if least is not None and (least <= 0 or least != told[-1][1]):
            text = f"the reserves of memory begin below {least} free pages at {seconds(sample.start_ns)}"
            yield Reason(f"{text}, and below {told[-1][1]} at last", (sample.seq, told[-1][0].seq))
            return


def grown_before(case: Case) -> Iterator[Reason]:
    """No growth of the cache is done that was not begun."""
    for now, after in pairwise(case.timeline.probe):
        done, begun = (getattr(it.value.growth, name, 0) for it, name in ((now, "done"), (after, "begun")))
        if now.value.growth is not None and after.value.growth is not None and done > begun:
            reason = f"the probe counts {done} growths that were done at {seconds(now.start_ns)}, and {begun} that were"
            yield Reason(f"{reason} begun", (now.seq, after.seq))
            return


def more_than_began(case: Case) -> Iterator[Reason]:
    """Nobody is held, or caught in the trap, who did not come there."""
    for sample in case.timeline.probe:
        hold, trap = sample.value.hold, sample.value.trap
        if not 0 <= hold.held <= hold.entries:
            reason = f"the probe says that it holds {hold.held} workers, of {hold.entries}"
            yield Reason(f"{reason}, at {seconds(sample.start_ns)}", (sample.seq,))
            return
        if trap.waited + trap.let_go > trap.entered or trap.waiting < 0:
            reason = f"the probe counts {trap.waited + trap.let_go} waits in the trap that ended, of {trap.entered}"
            yield Reason(f"{reason}, at {seconds(sample.start_ns)}", (sample.seq,))
            return


def held_too_many(case: Case) -> Iterator[Reason]:
    """No thread holds more objects than it ever takes."""
    for sample in case.timeline.probe:
        live, config = sample.value.live, sample.value.config
        # It gives some back before it takes others only where it keeps some besides.
        most = config.threads * (2 * config.objects + config.keep)
        if min(live.slab, live.emergency) < 0 or live.slab + live.emergency > most:
            reason = f"the probe says that threads hold {live.slab} and {live.emergency} objects at"
            yield Reason(f"{reason} {seconds(sample.start_ns)}; they never take more than {most}", (sample.seq,))
            return


def host_goes_back(case: Case) -> Iterator[Reason]:
    """The host's clock and its counters of the virtual CPUs only grow, and phases began in the order of the probe's."""
    readings = case.timeline.host
    for before, now in pairwise(readings):
        if not before.at_s <= now.at_s or _fell(before, now):
            yield Reason(f"what the host says of the guest's CPUs at {now.at_s:.3f} s goes back")
            break
    both = [name for name in sorted(case.marks, key=case.marks.__getitem__) if name in case.timeline.host_phases]
    begun = [case.timeline.host_phases[name] for name in both]
    if begun != sorted(begun):
        yield Reason(f"the host began the phases in another order than the probe noted: {', '.join(both)[:200]}")


def _fell(before: HostReading, now: HostReading) -> bool:
    # When QEMU ends, its CPUs go one by one.
    if len(before.waits_s) != len(now.waits_s):
        return False
    return now.run_s < before.run_s or any(it < was for was, it in zip(before.waits_s, now.waits_s, strict=True))


def cache_came_back(case: Case) -> Iterator[Reason]:
    """The probe makes its cache once: a reading without its row, between two that have it, is not whole."""
    has = [any(row.name == CACHE for row in sample.value.caches) for sample in case.timeline.slab]
    if True not in has:
        return
    first, last = has.index(True), len(has) - has[::-1].index(True)
    for sample, is_there in zip(case.timeline.slab[first:last], has[first:last], strict=True):
        if not is_there:
            yield Reason(f"the slab file of {seconds(sample.start_ns)} lacks the row of {CACHE}", (sample.seq,))
            return


UNLIKE: tuple[Callable[[Case], Iterator[Reason]], ...] = (
    cache_came_back,
    pulled_by_nobody,
    stormed_by_nobody,
    loaded_by_nobody,
    loaded_elsewhere,
    booted_twice,
    ended_by_nmi,
    listed_by_nobody,
    other_threads,
    worker_of_nobody,
    reserves_elsewhere,
    grown_before,
    more_than_began,
    held_too_many,
    host_goes_back,
)


def check_unpulled(case: Case) -> Iterator[Complaint]:
    """Where a rule asks nothing of the critical threads, nobody pulled a lever on them."""
    pulled = [name for name in ("hold", "trap", "fail") if name in case.marks]
    if pulled:
        reason = f"the run has the phase {', '.join(pulled)}, and is judged as one that only has to endure its load"
        yield Complaint(Outcome.INCONCLUSIVE, Reason(reason))
