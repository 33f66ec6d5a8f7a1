"""Which list of tasks tells best who waited for whom in a run, and what it says.

Owns the choice between the sources: the kernel's own list by SysRq, which has every task, and the agent's stacks, which
are of the threads of interest only. What a list lacks is said beside what it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from splvm.evidence.formats.stacks import TaskStack
from splvm.evidence.formats.sysrq import DumpKind, TaskDump, missing_tasks, parse_sysrq
from splvm.evidence.timeline import Evidence, Timeline, between
from splvm.evidence.waiting.waitgraph import WaitGraph, build_graph


@dataclass(frozen=True, slots=True)
class Waiting:
    """Who waited for whom, and by which list."""

    graph: WaitGraph
    # `sysrq-t`, `sysrq-w` or `agent`.
    source: str
    # Tasks in the list.
    tasks: int
    # Everything that shows that the list is cut; empty if it is whole.
    losses: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The finding, and what the list lacks."""
        cut = f" (the list of tasks is cut: {'; '.join(self.losses[:3])})" if self.losses else ""
        return f"by {self.source}, {self.graph.sentence}{cut}"

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "tasks": self.tasks,
            "complete": not self.losses,
            "losses": list(self.losses),
            **self.graph.to_json(),
        }


def find_waiting(evidence: Evidence) -> Waiting | None:
    """Who waited for whom when the evidence was taken; None when no list of tasks is there.

    A list of the kernel's that its console does not have is another run's, and not used.
    """
    is_there = evidence.sysrq and is_of_console(evidence)
    dump = _best_dump(parse_sysrq(evidence.sysrq).tasks) if is_there else None
    if dump is not None:
        return _from_dump(dump, evidence.timeline)
    threads = _agent_threads(evidence.timeline)
    return Waiting(build_graph(threads), "agent", len(threads), ()) if threads else None


def is_of_console(evidence: Evidence) -> bool:
    """Whether the console has what the kernel listed: sysrq.txt is made of parts of console.log.

    Each part may begin and end in the middle of a line, and there is one for each time that the monitor looked.
    """
    lines = evidence.sysrq.splitlines()
    said = frozenset(evidence.console.splitlines()) if lines else frozenset()
    return sum(line not in said for line in lines) <= 1 + len(evidence.timeline.looks)


def cycle_between(timeline: Timeline, start_ns: int, end_ns: int) -> Waiting | None:
    """The first cycle between two times, by the agent's stacks; None when they show none."""
    for sample in between(timeline.tasks, start_ns, end_ns):
        threads = tuple(TaskStack(t.pid, t.comm, t.state, t.frames) for t in sample.value)
        graph = build_graph(threads)
        if graph.cycle:
            return Waiting(graph, "agent", len(threads), ())
    return None


def _best_dump(dumps: Sequence[TaskDump]) -> TaskDump | None:
    """Of all tasks before of those blocked, a whole one before one that is cut, the last one before those before it."""
    worth = {at: (dump.kind is DumpKind.ALL, not dump.losses, at) for at, dump in enumerate(dumps)}
    return dumps[max(worth, key=worth.__getitem__)] if worth else None


def _from_dump(dump: TaskDump, timeline: Timeline) -> Waiting:
    expected = _task_count(timeline)
    lacking = missing_tasks(dump, expected) if expected is not None else ""
    losses = (*dump.losses, *([lacking] if lacking else []))
    return Waiting(build_graph(dump.threads, cut=bool(losses)), f"sysrq-{dump.kind}", len(dump.threads), losses)


def _task_count(timeline: Timeline) -> int | None:
    """How many tasks the guest had when it was last asked: the fourth word of /proc/loadavg, RUNNABLE/ALL (proc(5))."""
    for sample in reversed(timeline.other.get("loadavg", ())):
        words = sample.value.split()
        count = words[3].partition("/")[2] if len(words) > 3 else ""
        if count.isdecimal() and len(count) < 10:
            return int(count)
    return None


def _agent_threads(timeline: Timeline) -> tuple[TaskStack, ...]:
    """The threads of interest as the agent saw them last in the window, or at all."""
    marks = timeline.marks
    samples = timeline.tasks
    if "window" in marks and "window-end" in marks:
        samples = between(samples, marks["window"], marks["window-end"]) or samples
    return tuple(TaskStack(t.pid, t.comm, t.state, t.frames) for t in samples[-1].value) if samples else ()
