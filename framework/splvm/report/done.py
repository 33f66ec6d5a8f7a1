"""What was done to the guest of a run, one sentence a fact, made of its record alone. Pure.

What a record does not say is not told: records of before have no commands of loads and pools.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from splvm.evidence.loads import LOADS
from splvm.evidence.timeline import Evidence
from splvm.report.markdown import code

_MOST_COMMAND_CHARS = 300


def critical_threads(count: object) -> str:
    """`1 critical thread`, `2 critical threads`."""
    return f"{count} critical thread{'' if count == 1 else 's'}"


def describe_guest(facts: Mapping[str, Any]) -> Iterator[str]:
    """Memory, CPUs, disks, pool and loads."""
    parameters = _mapping(facts.get("parameters"))
    size = f"{code(parameters.get('ram_mib', '?'))} MiB of memory and {code(parameters.get('cpus', '?'))} CPUs"
    yield f"the guest has {size}; its root is an initramfs"
    disks = facts.get("disks")
    for disk in map(_mapping, disks if isinstance(disks, list) else ()):
        speed = f"{code(disk.get('speed_mib'))} MiB/s and {code(disk.get('request_us'))} us a request"
        yield f"a disk of {code(disk.get('mib'))} MiB is memory that was set aside, with {speed} (module slowdisk)"
    zfs = _mapping(facts.get("zfs"))
    pool = _mapping(zfs.get("pool"))
    if pool:
        yield f"a disk of {code(pool.get('disk_mib'))} MiB has one partition with a pool: {_commands(pool.get('made'))}"
        values = (f"{name}={value}" for name, value in _mapping(pool.get("parameters")).items())
        yield f"parameters of ZFS that were set: {code(' '.join(values))}"
    elif zfs:
        yield "a disk has a ZFS pool"
    if zfs:
        yield f"zpool and zfs are of version {code(zfs.get('tools', '?'))}"
    yield from _loads(facts.get("loads"))


def _loads(loads: object) -> Iterator[str]:
    for load in loads if isinstance(loads, list) else ():
        told = _mapping(load)
        name = str(told.get("name"))
        summary = f": {LOADS[name].summary}" if name in LOADS else ""
        values = _mapping(told.get("values"))
        given = f"; {code(' '.join(f'{key}={value}' for key, value in values.items()))}" if values else ""
        made = f"; made by {_commands(told.get('made'))}" if told.get("made") else ""
        disk = f"; DISK is a disk of its own of {code(values.get('disk_mib', '?'))} MiB" if told.get("disk") else ""
        yield f"load {code(name)}{summary}{given}{made}{disk}"


def describe_window(evidence: Evidence) -> Iterator[str]:
    """What was done from the lever to the end, and for how long the guest was watched."""
    marks = evidence.timeline.marks
    parameters = _mapping(evidence.facts.get("parameters"))
    if "storm" in parameters:
        yield "the kernel reclaimed at SPL's allocation sites, where slabprobe's shrinker waits for transactions"
        yield "the worker was held in the last third of the window"
        storm = _mapping(parameters["storm"])
        if storm.get("helpers"):
            yield "transactions made threads, and the kernel reclaimed in kthreadd too, which makes them"
        if storm.get("mark") == 0:
            yield "the transaction thread did not mark itself with SPL's spl_fstrans_mark(), on purpose"
    elif "hold" in marks:
        yield "the test module slabprobe held the slab worker on purpose from before the window until after it"
    if "trap" in marks:
        yield "slabprobe's trap was open: a shrinker that waits for commits, where reclaim enters it"
    if threads := _threads(evidence):
        own = "its own" if threads == 1 else "their own"
        yield f"{critical_threads(threads)} of slabprobe allocated from an SPL cache of {own}"
    asked = parameters.get("window_s")
    if "window" in marks and "window-end" in marks:
        lasted = (marks["window-end"] - marks["window"]) / 1e9
        short = isinstance(asked, (int, float)) and lasted < 0.9 * asked
        rest = f" of the {asked:g} s that were asked for" if short else ""
        yield f"the window lasted {lasted:.1f} s of guest time{rest}"


def is_probe_idle(evidence: Evidence) -> bool:
    """Whether slabprobe was seen, and was only there: it held nothing, sprung nothing and allocated nothing."""
    return (
        bool(evidence.timeline.probe)
        and not {"hold", "trap"} & evidence.timeline.marks.keys()
        and not _threads(evidence)
    )


def _threads(evidence: Evidence) -> int:
    """Critical threads that allocated anything."""
    return max((sum(it.allocs > 0 for it in sample.value.threads) for sample in evidence.timeline.probe), default=0)


def _commands(commands: object) -> str:
    told: Sequence[object] = commands if isinstance(commands, list) else ()
    return ", ".join(code(command, _MOST_COMMAND_CHARS) for command in told[:10]) or "(not recorded)"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
