"""Checks of how SPL allocates: the marks of its threads, and the flags that page tables of a growth are asked for with.

SPL marks its threads as such in which memory must not be reclaimed by I/O (spl_fstrans_mark(), PF_MEMALLOC_NOIO). The
kernel takes the flags that allow I/O and filesystems out of each allocation of a marked thread
(current_gfp_context(), include/linux/sched/mm.h). Run.json says of the build whether it marks its threads, by the row
of its variant, and whether page tables of a growth are asked for without both flags, by the mark or by what was
measured of the kernel.

Bits of the kernel differ, so the probe tells them from the headers that it was built with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from splvm.evidence.checks.case import Case, Complaint, seqs
from splvm.evidence.checks.starvation import WORKER
from splvm.evidence.formats.probestatus import KernelBits
from splvm.evidence.formats.stacks import Task
from splvm.evidence.timeline import Sample
from splvm.evidence.verdict import Outcome, Reason

# Agents whose stream is of this version, and later ones, tell marks and CPU time of threads.
TELLS = 2

# A thread that has come to this function has its mark: taskq_thread() sets it before all else (spl-taskq.c).
_TASKQ = "taskq_thread"


def tells(case: Case) -> bool:
    """Whether the agent is one that tells marks and CPU time."""
    return case.timeline.hello.get("version", 0) >= TELLS


def check_told(case: Case) -> Iterator[Complaint]:
    """An agent that tells marks and CPU time has told them of each thread, and probe and run.json what they mean."""
    if not tells(case):
        yield from _told_all_the_same(case)
        return
    growth = case.evidence.facts.get("growth")
    if not isinstance(growth, Mapping) or type(growth.get("marked")) is not bool or "noio" not in growth:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("run.json does not say how the growth of this SPL allocates"))
    for sample in case.timeline.probe:
        status = sample.value
        if status.kernel is None or status.pressure.min is None or None in (status.growth, status.magazine):
            text = (
                "the probe does not tell the kernel's bits of marks and masks, where its reserves begin, growths, and "
                "where objects came from"
            )
            yield Complaint(Outcome.INCONCLUSIVE, Reason(text, (sample.seq,)))
            break
    for tasks in case.timeline.tasks:
        if untold := next((it for it in tasks.value if _is_untold(case, tasks, it)), None):
            text = f"the agent does not tell marks and CPU time of {untold.comm} (pid {untold.pid})"
            yield Complaint(Outcome.INCONCLUSIVE, Reason(text, (tasks.seq,)))
            break


def _told_all_the_same(case: Case) -> Iterator[Complaint]:
    """An agent of an older version tells neither, and neither does the probe that came with it."""
    version = case.timeline.hello.get("version", 0)
    seq = next((s.seq for s in case.timeline.tasks for it in s.value if (it.flags, it.run_ns) != (None, None)), None)
    if seq is None:
        seq = next((s.seq for s in case.timeline.probe if s.value.kernel is not None), None)
    if seq is not None:
        text = f"the agent's stream is of version {version}, and marks and CPU time of threads are told in it"
        yield Complaint(Outcome.INCONCLUSIVE, Reason(text, (seq,)))


def _is_untold(case: Case, sample: Sample[tuple[Task, ...]], task: Task) -> bool:
    """Whether marks or CPU time are missing of a thread that was not just about to end: SPL ends those it needs not."""
    if task.flags is not None and task.run_ns is not None:
        return False
    later = [it for it in case.timeline.tasks if it.start_ns > sample.start_ns]
    return not later or any(it.pid == task.pid for it in later[0].value)


def check_marks(case: Case) -> Iterator[Complaint]:
    """SPL's threads are marked in each reading, or in none, as the row of the variant says."""
    bits, growth = _bits(case), case.evidence.facts.get("growth")
    if not tells(case) or bits is None or not isinstance(growth, Mapping):
        return
    told = list(_listening(case))
    if not told:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("nobody saw a thread of SPL's taskq, so its marks are not known"))
    bare = [(sample, task) for sample, task in told if task.flags is not None and not task.flags & bits.noio]
    if growth.get("marked") is True and bare:
        yield Complaint(Outcome.SUSPECT, _unmarked(bare, len(told), bits))
    # Since 5.17 vmalloc itself marks its caller while it allocates without I/O, so some readings may show a mark.
    marked = [sample for sample, task in told if task.flags is not None and task.flags & bits.noio]
    if growth.get("marked") is False and len(marked) * 2 > len(told):
        text = f"SPL's threads are marked in {len(marked)} of {len(told)} readings, and this variant has no marks"
        yield Complaint(Outcome.INCONCLUSIVE, Reason(text, seqs(marked)))


def check_mask(case: Case) -> Iterator[Complaint]:
    """The trap was asked with a mask that allows neither I/O nor filesystems, where SPL promises that."""
    used = [sample for sample in case.timeline.probe if sample.value.trap.reserves]
    if used:
        text = (
            f"{used[-1].value.trap.reserves} page tables of the growth were asked for as PF_MEMALLOC, which may use up "
            "the reserves of memory"
        )
        yield Complaint(Outcome.SUSPECT, Reason(text, (used[-1].seq,)))
    bits, growth = _bits(case), case.evidence.facts.get("growth")
    if bits is None or not isinstance(growth, Mapping) or growth.get("noio") is not True:
        return
    for sample in case.timeline.probe:
        trap = sample.value.trap
        allowed = [name for name, bit in (("__GFP_IO", bits.io), ("__GFP_FS", bits.fs)) if trap.gfp & bit]
        if trap.sprung and allowed:
            text = (
                f"a page table of the growth was asked for with the GFP mask {trap.gfp:#x}, which has "
                f"{' and '.join(allowed)}; this SPL promises neither"
            )
            yield Complaint(Outcome.SUSPECT, Reason(text, (sample.seq,)))
            return


def _bits(case: Case) -> KernelBits | None:
    return case.timeline.probe[-1].value.kernel if case.timeline.probe else None


def _listening(case: Case) -> Iterator[tuple[Sample[tuple[Task, ...]], Task]]:
    """Readings of threads of SPL's taskq that have begun their work. One that has just been made has no mark yet."""
    begun: set[int] = set()
    for sample in case.timeline.tasks:
        for task in sample.value:
            if task.comm.startswith(WORKER) and _TASKQ in task.frames:
                begun.add(task.pid)
            # One that runs has no stack to be read.
            if task.pid in begun:
                yield sample, task


def _unmarked(bare: list[tuple[Sample[tuple[Task, ...]], Task]], count: int, bits: KernelBits) -> Reason:
    _, task = bare[0]
    text = (
        f"SPL's thread {task.comm} (pid {task.pid}) is not marked (flags {task.flags:#x} without PF_MEMALLOC_NOIO, "
        f"{bits.noio:#x}) in {len(bare)} of {count} readings: what it allocates may begin I/O"
    )
    return Reason(text, seqs([sample for sample, _ in bare]))
