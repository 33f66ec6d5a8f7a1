"""Checks of the work with caches of several kinds: objects, promises, numbers of the slab file, memory at the end."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from splvm.evidence.checks.case import CACHE, Case, Complaint, seconds
from splvm.evidence.checks.promises import broken
from splvm.evidence.formats.probestatus import ProbeStatus
from splvm.evidence.formats.slab import CacheRow, SlabFile, contradictions
from splvm.evidence.formats.workstatus import Kind, Kinds, WorkState
from splvm.evidence.timeline import Sample, between
from splvm.evidence.verdict import Outcome, Reason, Verdict

# Rounds that all threads together have to have made in the window.
ROUNDS = 20

# Bytes that SPL keeps of a slab or of an object are fewer; and threads that take objects (images/slabprobe/caches.c).
_HEAD = 128
_WORKERS = 3

# KiB of vmalloc's memory that may have come meanwhile: stacks of threads, 16 KiB each.
OF_OTHERS_KIB = 512

_USED = re.compile(r"^VmallocUsed: {1,20}([0-9]{1,15}) kB$", re.MULTILINE)

# Where SPL may sleep for a slab even with KM_NOSLEEP, by the beginning of its version: before OpenZFS 93f8abeff0. No
# kernel after the one named here builds such an SPL (Linux-Maximum in META of zfs-2.0.7).
_SLEEPS = "2.0."
_LAST_KERNEL = (5, 15)
_RELEASE = re.compile(r"(\d{1,3})\.(\d{1,4})\.")


def _samples(case: Case, start: str, end: str) -> list[tuple[Sample[ProbeStatus], Kinds]]:
    if start not in case.marks or end not in case.marks:
        return []
    return [(it, it.value.kinds) for it in case.probes(start, end) if it.value.kinds is not None]


def check_kinds(case: Case) -> Iterator[Complaint]:
    """There was work, it went on, and came to its end."""
    inside = _samples(case, "window", "window-end")
    if not inside:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("the probe tells nothing of caches of several kinds"))
        return
    rounds = inside[-1][1].rounds - inside[0][1].rounds
    if rounds < ROUNDS:
        text = f"{rounds} rounds with caches of several kinds were made in the window"
        yield Complaint(Outcome.INCONCLUSIVE, Reason(text, (inside[-1][0].seq,)))
    if inside[-1][1].cpus > 1 and not inside[-1][1].back:
        text = "no CPU was away while the caches were made"
        yield Complaint(Outcome.INCONCLUSIVE, Reason(text, (inside[-1][0].seq,)))


def check_kind_promises(case: Case) -> Iterator[Complaint]:
    """What SPL promises of caches and memory it keeps."""
    told = [(it.seq, it.value.kinds) for it in case.timeline.probe if it.value.kinds is not None]
    if not told:
        return
    may_sleep = _may_sleep(case.evidence.facts)
    no_sleep = frozenset({"no-sleep"})
    yield from broken(
        ((seq, kinds.promises) for seq, kinds in told),
        but=no_sleep if may_sleep else frozenset(),
        doubtful=no_sleep if may_sleep is None else frozenset(),
    )
    seq, kinds = told[-1]
    if kinds.state is not WorkState.GONE:
        return
    for kind in kinds.kinds:
        for what, calls, times in (
            ("constructor", kind.built, kind.allocs),
            ("destructor", kind.torn_down, kind.frees),
        ):
            if kind.builds and calls != times:
                text = f"cache {kind.name[:40]}: its {what} was called {calls} times for {times} objects"
                yield Complaint(Outcome.SUSPECT, Reason(text, (seq,)))


def _may_sleep(facts: Mapping[str, Any]) -> bool | None:
    """Whether this SPL may sleep with KM_NOSLEEP; None: its version says so, and nothing else does.

    The kernel's release is the one that the console says (checks/consistent.py).
    """
    spl, kernel = (it if isinstance(it := facts.get(name), Mapping) else {} for name in ("spl", "kernel"))
    release = _RELEASE.match(str(kernel.get("release")))
    if not str(spl.get("version")).startswith(_SLEEPS) or release is None:
        return False
    if (int(release[1]), int(release[2])) > _LAST_KERNEL:
        return False
    git, packages = spl.get("git"), spl.get("packages")
    package = packages.get("zfs-dkms") if isinstance(packages, Mapping) else None
    told = [str(git.get("describe")).removeprefix("zfs-")] if isinstance(git, Mapping) else []
    told += [str(package.get("version"))] if isinstance(package, Mapping) else []
    return True if told and all(it.startswith(_SLEEPS) for it in told) else None


def check_kind_counts(case: Case) -> Iterator[Complaint]:
    """At rest each number of the slab file is that of the probe."""
    for start, end, state in (("loaded", "empty", WorkState.LOADED), ("emptied", "destroy", WorkState.EMPTIED)):
        found = [(it, kinds) for it, kinds in _samples(case, start, end) if kinds.state is state]
        files = between(case.timeline.slab, case.marks[start], case.marks[end]) if found else ()
        if not found or not files:
            yield Complaint(Outcome.INCONCLUSIVE, Reason(f"no cache was looked at when they were {state}"))
            continue
        sample, kinds = found[-1]
        for kind in kinds.kinds:
            yield from _of_kind(case, kind, kinds, files[-1], sample.seq)


def _of_kind(case: Case, kind: Kind, kinds: Kinds, file: Sample[SlabFile], seq: int) -> Iterator[Complaint]:
    rows = [row for row in file.value.caches if row.name == kind.name]
    seqs = (seq, file.seq)
    if len(rows) != 1:
        text = f"the slab file has {len(rows)} rows of cache {kind.name[:40]}, which is there"
        yield Complaint(Outcome.MISCOUNTED, Reason(text, seqs))
        return
    row = rows[0]
    kvmem = bool(row.flags & case.timeline.probe[-1].value.bits.get("kvmem", 0))
    if kvmem != bool(kind.wanted):
        text = f"its objects of {kind.size} bytes come {'' if kvmem else 'not '}from slabs of SPL's own"
        yield Complaint(Outcome.SUSPECT, Reason(f"cache {kind.name[:40]}: {text}", seqs))
        return
    told = [*contradictions(row), *(_numbers(kind, kinds, row) if kvmem else _backed(kind, row))]
    for text in told:
        yield Complaint(Outcome.MISCOUNTED, Reason(f"cache {kind.name[:40]}, {kinds.state}: {text}", seqs))
    left = row.slab.total
    if kvmem and kinds.state is WorkState.EMPTIED and left and not told:
        text = (
            f"cache {kind.name[:40]}: {left} slabs stay although all objects were given back and each CPU's were reaped"
        )
        yield Complaint(Outcome.NO_RECOVERY, Reason(text, seqs))


def _backed(kind: Kind, row: CacheRow) -> Iterator[str]:
    """Of a cache that the kernel's own allocator backs: objects in use, and their bytes."""
    yield from _differences(
        (
            ("bytes of an object", row.objsize, kind.size),
            ("objects", row.object.alloc, kind.held),
            ("bytes in use", row.alloc, kind.held * kind.size),
        )
    )


def _numbers(kind: Kind, kinds: Kinds, row: CacheRow) -> Iterator[str]:
    """Of a cache with slabs of SPL's own. What is in a magazine counts as allocated."""
    slabs, used = row.slab.total or 0, row.object.alloc or 0
    yield from _differences(
        (
            ("bytes of an object", row.objsize, kind.size),
            ("emergency objects", row.emergency.alloc, kind.emergency),
            ("objects of all slabs, and emergency objects", row.object.total, slabs * kind.in_slab + kind.emergency),
            ("bytes of all slabs", row.size, slabs * (row.slabsize or 0)),
            ("bytes in use", row.alloc, used * kind.size),
        )
    )
    least = kind.held - kind.emergency
    most = least + kinds.cpus * kind.magazine if kinds.state is WorkState.LOADED else least
    if not least <= used <= most:
        yield f"the slab file has {used} objects in use; at least {least} and at most {most} are right"
    most_used = row.object.max or 0
    yield from _bounds(
        (
            ("slabs in use", row.slab.alloc, -(-used // max(1, kind.in_slab)), min(slabs, used)),
            ("slabs in use at most", row.slab.max, -(-most_used // max(1, kind.in_slab)), most_used),
            ("objects in use at most", row.object.max, used, max(used, kind.allocs) + kinds.cpus * kind.magazine),
            ("bytes of a slab", row.slabsize, kind.in_slab * kind.size, _slab_bytes(kind)),
            *_of_emergency(kind, row),
        )
    )


def _slab_bytes(kind: Kind) -> int:
    """What a slab takes at most: its head, and each object with what SPL keeps of it, all aligned."""
    return _HEAD + kind.align + kind.in_slab * (kind.size + 2 * kind.align + _HEAD)


def _of_emergency(kind: Kind, row: CacheRow) -> Iterator[tuple[str, int | None, int, int]]:
    """The probe counts one after SPL, and takes it back before SPL: each thread may have one between."""
    if kind.most_emergency >= 0:
        yield ("emergency objects at most", row.emergency.max, kind.most_emergency, kind.most_emergency + _WORKERS)


def _bounds(rows: Iterable[tuple[str, int | None, int, int]]) -> Iterator[str]:
    for what, shown, least, most in rows:
        if shown is None or not least <= shown <= most:
            yield f"the slab file has {'no number' if shown is None else shown} of {what}; {least} to {most} are right"


def _differences(pairs: tuple[tuple[str, int | None, int], ...]) -> Iterator[str]:
    for what, shown, wanted in pairs:
        if shown != wanted:
            yield f"the slab file has {'no number' if shown is None else shown} of {what}, and it is {wanted}"


def check_kinds_alone(case: Case) -> Iterator[Complaint]:
    """While the worker of one cache is held, others grow: there is more than one worker.

    Callers that time out are counted in virtual time alone: elsewhere a host that is busy makes them time out too.
    """
    if "alone" not in case.marks or "together" not in case.marks:
        return
    start, end = case.marks["alone"], case.marks["together"]
    probes = _samples(case, "alone", "together")
    files = between(case.timeline.slab, start, end)
    held = [it for it, _ in probes if it.value.hold.held]
    if probes and not probes[-1][0].value.hold.worker:
        yield Complaint(Outcome.NOT_TRIGGERED, Reason("this SPL has no worker that could be held"))
        return
    if len(held) < 2 or len(files) < 2:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("the worker of one cache was not held, or nobody looked"))
        return
    for kind in probes[-1][1].kinds if case.evidence.is_virtual else ():
        rows = [row for file in (files[0], files[-1]) for row in file.value.caches if row.name == kind.name]
        if len(rows) != 2 or not kind.wanted:
            continue
        more = (rows[1].emergency.dlock or 0) - (rows[0].emergency.dlock or 0)
        if more:
            text = (
                f"cache {kind.name[:40]}: {more} callers timed out between {seconds(start)} and {seconds(end)}, while "
                f"only the worker that grows {CACHE} was held: there is no worker left for others"
            )
            yield Complaint(Outcome.SLOW, Reason(text, (files[0].seq, files[-1].seq)))


def check_kinds_gone(case: Case) -> Iterator[Complaint]:
    """Caches that were destroyed are not shown, and their memory is the kernel's again."""
    if "gone" not in case.marks or "end" not in case.marks:
        return
    start, end = case.marks["gone"], case.marks["end"]
    files = between(case.timeline.slab, start, end)
    last = case.timeline.probe[-1].value.kinds
    if last is None or last.state is not WorkState.GONE or not files:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("nobody looked after the caches were destroyed"))
        return
    names = {kind.name for kind in last.kinds}
    if left := sorted({row.name for row in files[-1].value.caches} & names):
        text = f"the slab file still has {', '.join(left)[:200]} after they were destroyed"
        yield Complaint(Outcome.MISCOUNTED, Reason(text, (files[-1].seq,)))
    for kind in last.kinds:
        if kind.held or kind.allocs != kind.frees:
            text = f"cache {kind.name[:40]}: the probe says that it holds {kind.held} objects of {kind.allocs}"
            yield Complaint(Outcome.INCONCLUSIVE, Reason(text))
    # The cache of the critical threads is still there.
    own_kib = sum((row.size or 0) // 1024 for row in files[-1].value.caches if row.name == CACHE)
    yield from not_given_back(case, "when all caches had been destroyed", own_kib)


def not_given_back(case: Case, when: str, own_kib: int = 0) -> Iterator[Complaint]:
    """What vmalloc has more of at the end than before anything was made, but for `own_kib`, which is still in use."""
    readings = [(it, found) for it in case.timeline.other.get("meminfo", ()) if (found := _USED.search(it.value))]
    before = [(it, found) for it, found in readings if it.end_ns <= case.marks.get("make", 0)]
    after = [(it, found) for it, found in readings if it.start_ns >= case.marks["gone"]]
    if not before or not after:
        yield Complaint(Outcome.INCONCLUSIVE, Reason("nobody read how much memory vmalloc has, before and after"))
        return
    more = int(after[-1][1][1]) - int(before[-1][1][1]) - own_kib
    if more > OF_OTHERS_KIB:
        text = f"{more} KiB of vmalloc's memory were not given back {when}"
        yield Complaint(Outcome.NO_RECOVERY, Reason(text, (before[-1][0].seq, after[-1][0].seq)))


def good_kinds(case: Case) -> Verdict:
    inside = _samples(case, "window", "window-end")
    before, after = inside[0][1], inside[-1][1]
    objects = sum(it.allocs for it in after.kinds) - sum(it.allocs for it in before.kinds)
    asked = sum(it.asked for it in after.promises)
    reasons = (
        Reason(
            f"{objects} objects of {len(after.kinds)} caches were taken in the window, each looked at, and SPL kept "
            f"its promises, asked {asked} times",
            (inside[0][0].seq, inside[-1][0].seq),
        ),
        Reason("each number of the slab file is that of the probe, and what was destroyed gave its memory back"),
    )
    return Verdict(Outcome.HEALTHY, reasons)
