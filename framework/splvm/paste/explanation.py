"""What a text says: findings, threads, who waits for whom at each moment, and what follows from it.

Owns the answer as data, and its JSON; its words for people are in answer.py.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

from splvm.evidence.formats.kerncomplaints import FindingKind
from splvm.evidence.waiting.waitedges import Closes, Wait
from splvm.evidence.waiting.waitgraph import MAX_NAMED, WaitGraph
from splvm.evidence.waiting.waits import OWNED_LOCKS, WaitReason
from splvm.paste.findings import OUTAGES, PasteFinding, PasteKind, in_order
from splvm.paste.known import KnownIssue, KnownScenario, Stacks, fits, has_shape, known_table
from splvm.paste.moments import NO_OUTAGE, Moment, Outage, Thread, join_stacks
from splvm.paste.reader import Reader
from splvm.paste.reading import Input, Reading, Unread
from splvm.paste.slabs import Reading as SlabReading
from splvm.paste.slabs import never, series

SCHEMA_VERSION = 1
# Threads compared between two lists.
MAX_CHANGES = 200
_SPINS = frozenset(
    [
        "arc_prune_task",
        "arc_prune_async",
        "zpl_prune_sb",
        "zpl_prune_sbs",
        "arc_shrinker_scan",
        "do_shrink_slab",
        "shrink_slab",
        "shrink_node",
        "shrink_lruvec",
        "try_to_free_pages",
        "do_try_to_free_pages",
        "arc_evict_state",
        "arc_evict_state_impl",
        "balance_pgdat",
    ]
)


@dataclass(frozen=True, slots=True)
class Task:
    """A thread of the text."""

    comm: str
    # None if nothing says it.
    pid: int | None
    # The kernel's letter, `?` if nothing says it.
    state: str
    frames: tuple[str, ...]
    # Place of its moment, None if it belongs to none.
    moment: int | None
    line: int


@dataclass(frozen=True, slots=True)
class MomentShown:
    """Who waited for whom at one moment."""

    source: str
    graph: WaitGraph
    # By pid: what is known of the lock that the thread waits for.
    locks: Mapping[int, str]
    # Why threads may lack; empty if the list is whole.
    cut: str = ""

    def to_json(self) -> dict[str, object]:
        by_waiter: dict[int, list[dict[str, object]]] = {}
        for edge in self.graph.edges:
            by_waiter.setdefault(edge.waiter, []).append({"pid": edge.holder, "by": edge.by.value})
        return {
            "source": self.source,
            "waits": [
                {
                    "pid": wait.thread.pid,
                    "comm": wait.thread.comm,
                    "reason": wait.reason.value,
                    "lock": self.locks.get(wait.thread.pid),
                    "functions": list(wait.functions),
                    "for": by_waiter.get(wait.thread.pid, []),
                }
                for wait in self.graph.waits
            ],
            "sentence": self.graph.sentence,
            "closes": self.graph.closes.value if self.graph.closes else None,
            "cycle": list(self.graph.cycle),
            "chain": list(self.graph.chain),
        }


@dataclass(frozen=True, slots=True)
class Missing:
    """What is not in the text, and the command that gets it."""

    what: str
    command: str


@dataclass(frozen=True, slots=True)
class Moved:
    """A thread that is in several lists: whether it `moved`, is where it was (`still`), or `spins`."""

    pid: int
    comm: str
    what: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that a text says."""

    inputs: tuple[Input, ...]
    # What is no deadlock first, then what makes the rest doubtful, then the hangs.
    findings: tuple[PasteFinding, ...]
    tasks: tuple[Task, ...]
    moments: tuple[MomentShown, ...]
    # The strongest of the moments.
    closes: Closes | None
    known: tuple[KnownIssue, ...]
    missing: tuple[Missing, ...]
    scenarios: tuple[KnownScenario, ...]
    slab: tuple[SlabReading, ...]
    # What went down between two readings of the slab file although it never does.
    never: tuple[str, ...]
    moved: tuple[Moved, ...]
    # What the text says and proves nothing.
    hints: tuple[str, ...]
    # What files of /proc and lists of memory say, in words.
    facts: tuple[str, ...]
    unread: tuple[Unread, ...]
    # What the text says of the machine: `kernel`, `architecture`, `zfs`, `distribution`, `distribution version`.
    system: Mapping[str, str]
    # Names of machines, and of people, pools and the like with what they name; no report of a bug shows them.
    hosts: frozenset[str]
    names: Mapping[str, str]

    @property
    def is_empty(self) -> bool:
        """Whether nothing of use was in the text."""
        return (
            not self.findings and not self.tasks and not self.slab and all(it.kind == "unknown" for it in self.inputs)
        )

    @property
    def contradictions(self) -> tuple[str, ...]:
        return (*(it for reading in self.slab for it in reading.contradictions), *self.never)

    @property
    def telling(self) -> MomentShown | None:
        """The moment that an answer tells: the strongest, and of several the last."""
        order = [None, Closes.CHAIN, Closes.UNKNOWN, Closes.CYCLE]
        return max(reversed(self.moments), key=lambda it: order.index(it.graph.closes), default=None)

    def to_json(self) -> dict[str, object]:
        """The answer for programs; docs/formats.md has its keys."""
        return {
            "schema_version": SCHEMA_VERSION,
            "inputs": [{"name": it.name, "kind": it.kind, "lines": it.lines} for it in self.inputs],
            "findings": [it.to_json() for it in self.findings],
            "tasks": [
                {
                    "comm": it.comm,
                    "pid": it.pid,
                    "state": it.state,
                    "frames": list(it.frames),
                    "moment": it.moment,
                    "line": it.line,
                }
                for it in self.tasks
            ],
            "moments": [it.to_json() for it in self.moments],
            "closes": self.closes.value if self.closes else None,
            "known": [
                {"issue": it.issue, "versions": it.versions, "fixed_in": it.fixed_in or None, "why": it.why}
                for it in self.known
            ],
            "missing": [{"what": it.what, "command": it.command} for it in self.missing],
            "scenarios": [{"name": it.name, "command": it.command} for it in self.scenarios],
            "slab": [it.to_json() for it in self.slab],
            "moved": [{"pid": it.pid, "comm": it.comm, "what": it.what} for it in self.moved],
            "hints": list(self.hints),
            "facts": list(self.facts),
            "unread": [{"line": it.line, "why": it.why} for it in self.unread],
        }


def explain(text: str, *, name: str = "-") -> Explanation:
    """Say what a text that somebody pasted shows; nothing is raised, whatever it is.

    :param text: any mix of kernel logs, stacks, and files of /proc.
    :param name: what `inputs` call it.
    """
    return explain_streams([(name, io.BytesIO(text.encode("utf-8", "replace")))])


def explain_streams(streams: Iterable[tuple[str, BinaryIO]]) -> Explanation:
    """The same of several inputs, each read once from beginning to end, packed or not.

    :raises OSError: when an input cannot be read at all.
    """
    reading = Reading()
    for name, stream in streams:
        Reader(name, reading).read(stream)
    return conclude(reading)


def conclude(reading: Reading) -> Explanation:
    """What follows from all that was read."""
    findings = in_order(reading.findings.all())
    outage = next(
        (Outage(it.title, it.kind == PasteKind.POOL_SUSPENDED) for it in findings if it.kind in OUTAGES), NO_OUTAGE
    )
    forget_empty(reading)
    kept = join_stacks([moment for moment in reading.moments if moment.threads])
    places = {id(thread): place for place, moment in enumerate(kept) for thread in moment.threads.values()}
    moments = []
    for moment in kept:
        graph = moment.graph(outage)
        locks = {wait.thread.pid: lock for wait in graph.waits if (lock := moment.lock_of(wait.thread.pid, wait))}
        moments.append(MomentShown(moment.source, graph, locks, moment.cut))
    moments = _open_moved(kept, moments)
    stacks = [_shapes(moment, shown.graph) for moment, shown in zip(kept, moments, strict=True)]
    table = known_table()
    slab = tuple(reading.files.slabs.readings)
    draft = Explanation(
        inputs=tuple(reading.inputs),
        findings=tuple(findings),
        tasks=tuple(_task(thread, places.get(id(thread))) for thread, _ in reading.threads),
        moments=tuple(moments),
        closes=next((it for it in Closes if any(shown.graph.closes is it for shown in moments)), None),
        known=tuple(row for row in table.issues if _is_known(row, findings, stacks)),
        missing=(),
        scenarios=tuple(row for row in table.scenarios if any(fits(row.threads, each) for each in stacks)),
        slab=slab,
        never=tuple(it for one, two in series(slab) for it in never(one.slab, two.slab)),
        moved=tuple(_compare(kept)),
        hints=tuple(dict.fromkeys((*reading.hints, *_left_locked(findings, moments)))),
        facts=tuple(reading.facts.sentences()),
        unread=(*reading.unread, *(Unread(line, why) for line, why in reading.files.slabs.broken[:MAX_CHANGES])),
        system=dict(reading.system),
        hosts=frozenset(reading.hosts),
        names=dict(reading.names),
    )
    return _with_missing(draft, reading)


def forget_empty(reading: Reading) -> None:
    """Forget whose stack was asked for by number alone, and not shown: it may have ended, or root alone may read it."""
    empty = {id(it) for it, _ in reading.threads if it.kind == "stack" and not it.stack and not it.comm}
    if empty:
        reading.threads = [(it, moment) for it, moment in reading.threads if id(it) not in empty]
        for moment in reading.moments:
            moment.threads = {pid: it for pid, it in moment.threads.items() if id(it) not in empty}


def _task(thread: Thread, place: int | None) -> Task:
    return Task(
        thread.comm,
        thread.pid if thread.pid >= 0 else None,
        thread.state,
        thread.stack,
        place,
        thread.line,
    )


def _left_locked(findings: Sequence[PasteFinding], moments: Sequence[MomentShown]) -> Iterable[str]:
    """Who died before others waited for a lock: make_task_dead(), kernel/exit.c, gives no lock back."""
    if any(wait.reason in OWNED_LOCKS for moment in moments for wait in moment.graph.waits):
        for it in findings:
            if it.kind in (FindingKind.OOPS, FindingKind.BUG) and it.comm:
                yield f"{it.comm}{'' if it.pid is None else f' (pid {it.pid})'} died: what it had locked stays locked"


def _shapes(moment: Moment, graph: WaitGraph) -> Stacks:
    """The functions of each thread, and what it waits for, in the form of the table of what is known."""
    reasons = {wait.thread.pid: f"@{wait.reason}" for wait in graph.waits}
    return Stacks(frozenset((*thread.stack, reasons.get(pid, ""))) for pid, thread in moment.threads.items())


def _is_known(row: KnownIssue, findings: Sequence[PasteFinding], stacks: Sequence[Stacks]) -> bool:
    if row.finding:
        return any(it.kind == row.finding and has_shape(row.functions, frozenset(it.frames)) for it in findings)
    return any(fits(row.threads, each) for each in stacks)


def _open_moved(kept: Sequence[Moment], moments: Sequence[MomentShown]) -> list[MomentShown]:
    """The moments, of which no cycle is one any more whose threads got on later."""
    shown: list[MomentShown] = []
    later: dict[tuple[str, int, str], tuple[float | None, Wait | None]] = {}
    for moment, it in zip(reversed(kept), reversed(moments), strict=True):
        waits = {wait.thread.pid: wait for wait in it.graph.waits}
        keys = {pid: (moment.host, pid, thread.comm) for pid, thread in moment.threads.items() if pid >= 0}
        moved = [
            pid
            for pid in it.graph.cycle
            if (then := later.get(keys.get(pid, ("", -1, "")))) and _got_on(waits[pid], moment.clock_s, *then)
        ]
        if moved:
            who = " and ".join(f"{waits[pid].thread.comm or 'the thread'} (pid {pid})" for pid in moved[:MAX_NAMED])
            steps = it.graph.sentence.removeprefix("cycle: ")
            sentence = f"{steps}: may close, but later {who} was elsewhere, and so had got on"
            it = replace(
                it, graph=replace(it.graph, cycle=(), chain=it.graph.cycle, closes=Closes.UNKNOWN, sentence=sentence)
            )
        shown.append(it)
        for pid, key in keys.items():
            later.setdefault(key, (moment.clock_s, waits.get(pid)))
    return shown[::-1]


def _got_on(before: Wait, before_s: float | None, after_s: float | None, after: Wait | None) -> bool:
    """Whether a thread waits elsewhere later; one that goes round in reclaim is in another function each time."""
    if before_s is not None and after_s is not None and after_s < before_s:
        # The machine was started anew in between.
        return False
    if after is None:
        return True
    return before.functions != after.functions and {before.reason, after.reason} != {WaitReason.RECLAIM}


def _compare(moments: Sequence[Moment]) -> Iterable[Moved]:
    """Who moved between the lists that a text has, and who spins in all of them."""
    seen: dict[tuple[str, int], list[Thread]] = {}
    for moment in moments:
        for pid, thread in moment.threads.items():
            if pid >= 0:
                seen.setdefault((moment.host, pid), []).append(thread)
    count = 0
    for (_, pid), threads in seen.items():
        if len(threads) < 2 or not threads[0].stack:
            continue
        spins = all(it.state == "R" and not _SPINS.isdisjoint(it.stack) for it in threads)
        moved = len({it.stack for it in threads}) > 1
        if threads[-1].state not in ("D", "R", "?"):
            continue
        yield Moved(pid, threads[0].comm, "spins" if spins else "moved" if moved else "still")
        count += 1
        if count >= MAX_CHANGES:
            return


# Gives the stacks of all threads.
_LIST = "echo t > /proc/sysrq-trigger; dmesg > tasks.txt  # with log_buf_len=16M, or the ring buffer cuts it"


def _with_missing(draft: Explanation, reading: Reading) -> Explanation:
    """The explanation with what is missing to be sure of it."""
    unknown = draft.telling is not None and draft.telling.graph.closes is Closes.UNKNOWN
    rules = (*_missing_of_waits(draft, reading, unknown), *_missing_of_text(draft, reading, unknown))
    return replace(draft, missing=tuple(Missing(what, command) for holds, what, command in rules if holds))


def _missing_of_waits(draft: Explanation, reading: Reading, unknown: bool) -> Iterator[tuple[bool, str, str]]:
    """What would tell more of those who wait: whether it is missing, what it is, and the command."""
    reasons = {wait.reason for moment in draft.moments for wait in moment.graph.waits}
    owned = {pid for moment in reading.moments for pid in moment.owners}
    waits = draft.telling.graph.waits if draft.telling is not None else ()
    absent = _absent_owners(reading)
    yield (
        unknown and "sysrq-t" not in {it.source for it in draft.moments},
        "the stacks of all threads: the one that others wait for may not be blocked for long enough to be reported",
        _LIST,
    )
    yield (
        unknown and any(it.reason in OWNED_LOCKS and it.thread.pid not in owned for it in waits),
        "the owner of the lock",
        "drgn or crash on /proc/kcore; kernels with CONFIG_DETECT_HUNG_TASK_BLOCKER or lockdep print it",
    )
    yield (
        bool(absent),
        f"the stack of {' and '.join(absent.values())}, who owns a lock",
        f"cat {' '.join(f'/proc/{pid}/stack' for pid in absent)}",
    )
    yield (
        WaitReason.TASKQ in reasons and "taskq" not in {it.kind for it in draft.inputs},
        "which tasks of the taskq run",
        "cat /proc/spl/taskq-all",
    )
    yield (
        WaitReason.SLAB_GROWTH in reasons and not draft.slab,
        "whether the cache is flagged as deadlocked and emergency objects are handed out",
        "timeout 5 cat /proc/spl/kmem/slab",
    )
    outage = {it.kind for it in draft.findings} & OUTAGES
    yield (
        WaitReason.ZIO in reasons and not outage and draft.closes is not Closes.CYCLE,
        "whether a device owes the I/O",
        "zpool status -v; zpool events -v | tail -n 200; dmesg | grep -iE 'error|timeout|reset'",
    )


def _missing_of_text(draft: Explanation, reading: Reading, unknown: bool) -> Iterator[tuple[bool, str, str]]:
    """What a better text would have."""
    yield (
        any(it.kind == PasteKind.HUNG_TASKS_SILENCED for it in draft.findings),
        "reports of what hung later",
        "sysctl kernel.hung_task_warnings=-1",
    )
    yield (
        any(thread.mixed for thread, _ in reading.threads),
        "stacks that are not printed into each other",
        "echo w > /proc/sysrq-trigger  # once more, by itself",
    )
    yield (
        unknown and len(draft.moments) == 1,
        "whether anything moves",
        "echo w > /proc/sysrq-trigger; sleep 30; echo w > /proc/sysrq-trigger",
    )
    yield (
        bool(draft.tasks) and not any(it.stack for it, _ in reading.threads),
        "the stacks of the blocked threads",
        "echo w > /proc/sysrq-trigger; dmesg",
    )


def _absent_owners(reading: Reading) -> dict[int, str]:
    """By pid: the owners of locks that the kernel named, and of whom the text has no stack; some of them."""
    found = {}
    for moment in reading.moments:
        for owner in moment.owners.values():
            thread = moment.threads.get(owner.pid)
            if thread is None or not thread.stack:
                found[owner.pid] = f"{owner.comm or 'the thread'} (pid {owner.pid})"
    return dict(list(found.items())[:MAX_NAMED])
