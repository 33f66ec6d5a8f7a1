"""The lines of the work with taskqs, caches and memory: a status has those of what the probe does, and no others.

What is wrong is found by what a line says, so a line that is not there hides it. The tables are those of the probe
(images/slabprobe/queues.c, caches.c, memory.c).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from splvm.evidence.checks.case import Case, seconds
from splvm.evidence.checks.nobody import unlisted
from splvm.evidence.checks.promises import OF_KINDS, OF_MEMORY, OF_QUEUES, RARE
from splvm.evidence.formats.probestatus import ProbeStatus
from splvm.evidence.formats.workstatus import Promise, Queues, WorkState
from splvm.evidence.timeline import between
from splvm.evidence.verdict import Reason

# Clients, and what each of them makes: by the name without the client's number, threads, whether they are made when
# needed, and entries that are kept.
CLIENTS = 2
QUEUES: Mapping[str, tuple[int, int, int]] = {
    "slabprobe_one": (1, 0, 8),
    "slabprobe_two": (2, 0, 16),
    "slabprobe_dyn": (4, 1, 4),
    "slabprobe_few": (1, 0, 1),
}

# Caches: bytes of an object, alignment, whether SPL is to back it, and whether it has constructor and destructor.
KINDS: Mapping[str, tuple[int, int, int, int]] = {
    "slabprobe_k0": (65536, 0, 1, 1),
    "slabprobe_k1": (1500, 0, 1, 1),
    "slabprobe_k2": (20000, 4096, 1, 0),
    "slabprobe_k3": (3000, 1024, 1, 0),
    "slabprobe_k4": (304, 256, 0, 1),
    "slabprobe_k5": (16384, 0, 0, 0),
    "slabprobe_k6": (100, 0, 0, 1),
}

# Threads that take memory, and whether each is marked.
TAKERS: Mapping[int, tuple[int]] = {0: (0,), 1: (1,)}

# States of a client in which it has all of its taskqs; and when they are emptied, until it is told to destroy them.
_MADE = frozenset({WorkState.RUNNING, WorkState.LOADED})

# Counters of a cache that only grow.
_GROW = ("allocs", "frees", "built", "torn_down")
_TAKEN = ("rounds", "kmem", "kmem_back", "vmem", "vmem_back")
_STATES = tuple(WorkState)
# A client's thread (images/slabprobe/queues.c).
_CLIENT = re.compile(r"slabprobe/q\d{1,9}")


def another_work(case: Case) -> Iterator[Reason]:
    """Each status has all lines of the work, from the first one that has any to the end; the first that has not."""
    seen: set[str] = set()
    for sample in case.timeline.probe:
        told = {
            "taskqs": sample.value.queues is not None,
            "caches": sample.value.kinds is not None,
            "memory": sample.value.memory is not None,
            "CPUs": sample.value.cpus is not None,
        }
        seen |= {name for name, is_told in told.items() if is_told}
        lacking = [f"anything of the work with {name}" for name in sorted(seen) if not told[name]]
        lacking += _other_lines(sample.value, sample.end_ns <= case.marks.get("destroy", math.inf))
        if lacking:
            text = f"the status that was read at {seconds(sample.start_ns)} does not have as the probe has it: "
            yield Reason(text + ", ".join(lacking)[:200], (sample.seq,))
            return


def clients_of_nobody(case: Case) -> Iterator[Reason]:
    """Clients of taskqs are threads of the probe, the same throughout, and are in no step since later than the reading.

    In each round a client asks for each promise once at least (images/slabprobe/queues.c); clients of older probes lost
    a few counts to each other.
    """
    told = [(sample, queues) for sample in case.timeline.probe if (queues := sample.value.queues) is not None]
    pids = {client.index: client.pid for _, queues in told for client in queues.clients}
    for sample, queues in told:
        clients = queues.clients
        rounds = sum(client.rounds for client in clients)
        rare = next((it for it in queues.promises if 2 * it.asked + 4 < rounds and it.name not in RARE), None)
        late = any(client.since_ns > sample.end_ns for client in clients)
        if rare is not None or late or any(client.pid != pids[client.index] for client in clients):
            what = (
                f"{rounds} rounds, and {rare.asked} questions for {rare.name[:40]}"
                if rare
                else "other clients, or times"
            )
            yield Reason(f"the status that was read at {seconds(sample.start_ns)} tells of {what}", (sample.seq,))
            return
    if not told or "window-end" not in case.marks or "window" not in case.marks:
        return
    lists = between(case.timeline.tasks, *case.window)
    others = {task.pid for sample in lists for task in sample.value if not _CLIENT.fullmatch(task.comm)}
    wrong = unlisted(set(pids.values()), lists) | others & set(pids.values())
    if lists and (wrong or len(set(pids.values())) < len(pids)):
        told_pids = ", ".join(f"pid {pid}" for pid in pids.values())
        yield Reason(f"the lists of tasks do not have the clients of taskqs: {told_pids[:100]}", (lists[0].seq,))


def _other_lines(status: ProbeStatus, is_before_the_end: bool) -> Iterator[str]:
    """What there is other than once, or otherwise than it was made."""
    if (queues := status.queues) is not None:
        yield from _unlike("client", ((it.index, ()) for it in queues.clients), dict.fromkeys(range(CLIENTS), ()))
        yield from _unlike("promise", ((it.name, ()) for it in queues.promises), dict.fromkeys(OF_QUEUES, ()))
        yield from _other_queues(queues, is_before_the_end)
    if (kinds := status.kinds) is not None:
        made = ((it.name, (it.size, it.align, it.wanted, it.builds)) for it in kinds.kinds)
        yield from _unlike("cache", made, KINDS)
        yield from _unlike("promise", ((it.name, ()) for it in kinds.promises), dict.fromkeys(OF_KINDS, ()))
    if (memory := status.memory) is not None:
        yield from _unlike("taker", ((it.index, (it.marked,)) for it in memory.takers), TAKERS)
        yield from _unlike("promise", ((it.name, ()) for it in memory.promises), dict.fromkeys(OF_MEMORY, ()))


def _other_queues(queues: Queues, is_before_the_end: bool) -> Iterator[str]:
    told = [(it.name, (it.threads, it.dynamic, it.min)) for it in queues.queues]
    names = {name for name, _ in told}
    wanted: dict[str, tuple[int, ...]] = {}
    for client in queues.clients:
        has_all = client.state in _MADE or (client.state is WorkState.EMPTIED and is_before_the_end)
        for kind, how in QUEUES.items():
            name = f"{kind}{client.index}"
            # While a client makes or destroys them, some are there.
            if has_all or (client.state is not WorkState.GONE and name in names):
                wanted[name] = how
    yield from _unlike("taskq", told, wanted)


def _unlike(
    what: str,
    told: Iterable[tuple[str | int, tuple[int, ...]]],
    wanted: Mapping[str, tuple[int, ...]] | Mapping[int, tuple[int, ...]],
) -> Iterator[str]:
    """Those that are in one of both more often than in the other."""
    found, right = Counter(told), Counter[tuple[str | int, tuple[int, ...]]](list(wanted.items()))
    yield from dict.fromkeys(f"{what} {str(name)[:40]}" for name, _ in (found - right) + (right - found))


def worked(status: ProbeStatus) -> dict[tuple[str | int, ...], int]:
    """Counters of the work that only grow, by their names in parts, and states as numbers, which follow each other."""
    found: dict[tuple[str | int, ...], int] = {}
    promises: tuple[Promise, ...] = ()
    if (queues := status.queues) is not None:
        promises += queues.promises
        for client in queues.clients:
            found["state of client ", client.index] = _STATES.index(client.state)
            found["rounds of client ", client.index] = client.rounds
    if (kinds := status.kinds) is not None:
        promises += kinds.promises
        found |= {("kinds.state",): _STATES.index(kinds.state), ("kinds.rounds",): kinds.rounds}
        found |= {("kinds.back",): kinds.back}
        found |= {(name, " of cache ", it.name[:40]): getattr(it, name) for it in kinds.kinds for name in _GROW}
    if (memory := status.memory) is not None:
        promises += memory.promises
        for taker in memory.takers:
            found["state of taker ", taker.index] = _STATES.index(taker.state)
            found |= {(name, " of taker ", taker.index): getattr(taker, name) for name in _TAKEN}
    if (cpus := status.cpus) is not None:
        found |= {("cpus.", name): getattr(cpus, name) for name in ("went", "came", "failed")}
    for name in ("asked", "broken"):
        found |= {(name, " of promise ", it.name[:40]): getattr(it, name) for it in promises}
    return found
