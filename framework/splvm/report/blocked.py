"""The stacks of a run that say why it stood still. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from splvm.evidence.timeline import Evidence, Sample, T, between
from splvm.evidence.waiting.waits import WaitReason
from splvm.report.markdown import clean

# Stacks, and lines of one.
_MAX_STACKS = 100
_MAX_STACK_LINES = 48


def blocked_stacks(evidence: Evidence, waiting: Mapping[str, Any]) -> list[str]:
    """The stacks of the cycle or the chain, then of those that others wait for, or that wait for SPL or ZFS."""
    named = [*waiting.get("cycle", ()), *waiting.get("chain", ())]
    named += [edge["to"] for edge in waiting.get("edges", ())]
    named += [wait["pid"] for wait in waiting.get("waits", ()) if _has_part(wait)]
    told = {wait["pid"]: wait for wait in waiting.get("waits", ())}
    stacks = (
        _sysrq_stacks(evidence.sysrq) if is_by_sysrq(waiting) else _agent_stacks(evidence, only_blocked=not waiting)
    )
    blocks = []
    for pid in list(dict.fromkeys(named or told) if waiting else stacks)[:_MAX_STACKS]:
        if pid in stacks:
            blocks.append(stacks[pid])
        elif pid in told:
            # In the formats of old kernels a task has no line of its own to tell it by: then its functions have to do.
            wait = told[pid]
            functions = " <- ".join(wait["functions"])
            blocks.append(f"{wait['comm']} pid {pid} state {wait['state']}: {wait['reason']}, {functions}")
    return blocks


# Of SPL and ZFS. Who waits for memory or a disk may be any program of the guest.
_OF_ZFS = frozenset(
    {
        *(WaitReason.HELD, WaitReason.SLAB_GROWTH, WaitReason.COMMIT, WaitReason.TXG, WaitReason.TXG_HOLD),
        *(WaitReason.ZIO, WaitReason.ZIL, WaitReason.BUFFER, WaitReason.ZVOL, WaitReason.ARC, WaitReason.RRW),
    }
)


def _has_part(wait: Mapping[str, Any]) -> bool:
    return wait["reason"] in _OF_ZFS or wait["comm"].startswith("slabprobe/")


def is_by_sysrq(waiting: Mapping[str, Any]) -> bool:
    return str(waiting.get("source", "")).startswith("sysrq")


_SYSRQ_TASK = re.compile(r"task:.{1,64}? {1,20}state:.{1,80}?\bpid: {0,12}(\d{1,10})\b", re.ASCII)


def _sysrq_stacks(text: str) -> dict[int, str]:
    """Each task of the lists with its stack as the kernel printed it, by pid; of several a whole one, then the last."""
    found: dict[int, list[str]] = {}
    block: list[str] | None = None
    for line in clean(text).split("\n"):
        task = _SYSRQ_TASK.search(line)
        if task is not None:
            pid = int(task[1])
            block = [line]
            if pid not in found or not any("</TASK>" in old for old in found[pid]):
                found[pid] = block
        elif "sysrq: " in line or "Showing busy workqueues" in line or "Sched Debug Version" in line:
            block = None
        elif block is not None and len(block) < _MAX_STACK_LINES:
            block.append(line)
    return {pid: "\n".join(lines).rstrip("\n") for pid, lines in found.items()}


def _agent_stacks(evidence: Evidence, *, only_blocked: bool) -> dict[int, str]:
    sample = last_in_window(evidence.timeline.tasks, evidence.timeline.marks)
    tasks = [task for task in sample.value if task.state == "D" or not only_blocked] if sample else []
    return {task.pid: "\n".join((f"{task.comm} pid {task.pid} state {task.state}", *task.raw)) for task in tasks}


def last_in_window(samples: Sequence[Sample[T]], marks: Mapping[str, int]) -> Sample[T] | None:
    """The last reading in the window, or the last of all if there is none, or was no window."""
    within: Sequence[Sample[T]] = ()
    if "window" in marks and "window-end" in marks:
        within = between(samples, marks["window"], marks["window-end"])
    return next(reversed(within or samples), None)
