"""Promises of SPL that the probe asks for while it works with taskqs, caches and memory, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from splvm.evidence.checks.case import Complaint
from splvm.evidence.formats.workstatus import Promise
from splvm.evidence.verdict import Outcome, Reason

# What a promise that is broken looks like. {saw} and {wanted} are those of the first time, {at} is a call or a cache.
OF_QUEUES: Mapping[str, str] = {
    "dispatched": "{at} failed, and may sleep, so it must not",
    "ran-once": "after {at} a task had run {saw} times, and not once",
    "wait": "{at} came back when {saw} of {wanted} tasks had run",
    "wait-empty": "{at} came back when {saw} of {wanted} tasks had run, each of which dispatched the next one",
    "wait-id": "{at} came back when {saw} of the {wanted} tasks that it waits for had run",
    "outstanding": "{at} came back when {saw} of {wanted} tasks had run that were dispatched before",
    "outstanding-ends": "{at} waited for tasks that were dispatched after it was called, until there were no more",
    "order": "a task that was dispatched with {at} ran as number {saw} of its thread, and its turn was {wanted}",
    "delay": "a task of {at} ran before its time",
    "cancel": "taskq_cancel_id() of a task that was {at} gave {saw}, and not {wanted}",
    "cancelled": "a task that was {at} ran although taskq_cancel_id() had said that it was cancelled",
    "noqueue": "{at} was refused although another thread may be made",
    "entry": "{at} used the caller's entry after its task had begun, when it is the caller's again",
    "shown": "/proc/spl/taskq looked at the entry of {at} after its task had begun, when it is the caller's again",
    "member": "taskq_member() gave {saw} {at}, and not {wanted}",
    "journal": "a thread of a taskq had journal_info set, which filesystems take for theirs",
    "priority": "a thread of a {at} has nice {saw}, and {wanted} is that of its priority",
    "room": "{at} was accepted although the taskq had no entry left",
    "room-sleeps": "whoever waited for an entry of a {at} taskq did not sleep, and kept the CPU",
    "destroy": "{at} came back when {saw} of {wanted} tasks had run",
    "irqs-off": "{at}() was called with interrupts off, and came back with interrupts on",
    "as-made": "SPL shows {saw} as {at} of a taskq that was made with {wanted}",
    "counted": "a kstat of {at} says {saw} at rest, and it is {wanted}",
}
OF_KINDS: Mapping[str, str] = {
    "aligned": "an object of {at} lay {saw} bytes beside its alignment",
    "whole": "an object of {at} did not hold any more what was written to it",
    "constructed": "an object of {at} was not constructed",
    "not-null": "{at} gave nothing, and may sleep, so it must not",
    "no-sleep": "an allocation of {at} with KM_NOSLEEP slept",
    "compound": "an emergency object of {at} has pages that are not compound, so that no reference to one holds all",
    "own-pages": "an emergency object of {at} lies in a slab of kmalloc(), which runs out where it is needed",
    "zeroed": "{at} gave memory that is not zeroed",
    "text": "{at} gave another text",
    "reclaimed": "slabs of {at} were freed in reclaim, which was told of {saw} pages of {wanted}",
    "sent": "what the network had of an object of {at} was gone when the object had been given back",
    "for-cpus": "a taskq with a thread for each CPU has {saw} threads for {wanted} CPUs",
    "own-magazine": "reaping {at} on one CPU left {saw} of {wanted} objects in magazines of others, which are theirs",
    "irqs-stay-off": "an object of {at} was given back with interrupts off, and they were on after that",
    "scaled": "{at} of a taskq with a thread for each CPU came back when {saw} of {wanted} tasks had run",
}
OF_MEMORY: Mapping[str, str] = {
    "given": "{at} gave nothing, and may sleep, so it must not",
    "no-wait": "{at} with KM_NOSLEEP slept",
    "cleared": "{at} gave memory that is not zeroed",
    "kept": "memory of {at} did not hold any more what was written to it",
    "same-text": "{at} gave another text",
    "mark": "after {at} a thread is not marked as it was before",
}
BROKEN: Mapping[str, str] = {**OF_QUEUES, **OF_KINDS, **OF_MEMORY}

# Those that need not come up: emergency objects have to be asked for, slabs be left to free, and threads of a dynamic
# taskq have gone that were idle, which takes seconds since OpenZFS 2.3. Others take a second CPU, or a newer SPL.
RARE = frozenset(
    (
        *("compound", "own-pages", "reclaimed", "no-sleep", "sent", "own-magazine", "for-cpus"),
        *("noqueue", "room-sleeps", "counted"),
    )
)


def broken(
    readings: Iterable[tuple[int, Sequence[Promise]]],
    *,
    but: frozenset[str] = frozenset(),
    doubtful: frozenset[str] = frozenset(),
) -> Iterator[Complaint]:
    """What was promised and not kept, by the reading that says so of most times, and what nobody asked for.

    :param readings: number and promises of each.
    :param but: promises that this SPL does not make.
    :param doubtful: promises of which nobody knows whether it makes them.
    """
    worst: dict[str, tuple[int, Promise]] = {}
    for seq, promises in readings:
        for promise in promises:
            if promise.name not in worst or promise.broken >= worst[promise.name][1].broken:
                worst[promise.name] = (seq, promise)
    for seq, promise in worst.values():
        if promise.name in but:
            continue
        if promise.broken:
            said = BROKEN.get(
                promise.name, "promise " + promise.name.replace("{", "(") + ": {saw}, not {wanted}, at {at}"
            )
            text = said.format(saw=promise.saw, wanted=promise.wanted, at=promise.at[:80])
            text += f" ({promise.broken} of {promise.asked} times)"
            if promise.name in doubtful:
                text += "; by its version alone this SPL does not promise that"
            yield Complaint(Outcome.INCONCLUSIVE if promise.name in doubtful else Outcome.SUSPECT, Reason(text, (seq,)))
        elif not promise.asked and promise.name not in RARE:
            text = f"nobody asked for the promise {promise.name[:40]}"
            yield Complaint(Outcome.INCONCLUSIVE, Reason(text, (seq,)))
