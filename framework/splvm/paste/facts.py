"""What files of /proc and lists of memory say of a machine: busy taskqs, the ARC's size, low memory.

Owns the few figures that an answer tells; which file a line is of is for files.py. Sources: taskq_seq_show_impl(),
module/os/linux/spl/spl-proc.c; arc_stats, module/zfs/arc.c; show_free_areas(), mm/show_mem.c; fs/proc/meminfo.c.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

# Taskqs and zones kept of a text.
MAX_KEPT = 100
MAX_TOLD = 8

_TASKQ = re.compile(r"(?P<name>\S{1,40}?)(?:/\d{1,6})?\s{1,30}(?P<active>\d{1,9})\s{1,12}(?P<threads>\d{1,9})\s")
_ACTIVE = re.compile(r"\[(\d{1,10})\]([\w.]{1,80})")
_ENTRY = re.compile(r"(?:\[\d{1,10}\])?[\w.]{1,80}(?: ?\[\w{1,20}\])?\(")
_VALUE = re.compile(r"(?P<name>[\w.()]{1,60}):?\s{1,40}(?:\d\s{1,8})?(?P<value>-?\d{1,20})(?: kB)?\s*$")
_ZONE = re.compile(
    r"Node (?P<node>\d{1,6}) (?P<zone>\w{1,16}) free:(?P<free>\d{1,15})kB (?:boost:\d{1,15}kB )?min:(?P<min>\d{1,15})kB"
)
_UNRECLAIMABLE = re.compile(r"\s{0,8}.{0,60}?\bslab_unreclaimable:(?P<pages>\d{1,15})\b")
_PAGE = 4096
_KIB, _GIB = 1024, 1 << 30


@dataclass(slots=True)
class _Taskq:
    name: str
    active: int
    threads: int
    tasks: list[tuple[int, str]] = field(default_factory=list)
    pending: int = 0


@dataclass(slots=True)
class Facts:
    """Figures of a text, as far as they were read."""

    taskqs: list[_Taskq] = field(default_factory=list)
    # By file and name: bytes in `meminfo`, whatever it counts in `arcstats`.
    values: dict[tuple[str, str], int] = field(default_factory=dict)
    zones: dict[str, str] = field(default_factory=dict)
    unreclaimable: int = 0

    def take(self, kind: str, message: str) -> None:
        """Read a line of a file of this kind."""
        if kind == "taskq":
            self.take_taskq(message)
        elif kind in ("arcstats", "meminfo") and (match := _VALUE.match(message)):
            name = match["name"]
            if len(self.values) < 10 * MAX_KEPT:
                self.values[kind, name] = int(match["value"]) * (_KIB if kind == "meminfo" else 1)

    def take_taskq(self, message: str) -> None:
        if row := _TASKQ.match(message):
            if len(self.taskqs) < MAX_KEPT:
                self.taskqs.append(_Taskq(row["name"], int(row["active"]), int(row["threads"])))
        elif self.taskqs and message.lstrip()[:7] == "active:":
            self.taskqs[-1].tasks += [(int(pid), name) for pid, name in _ACTIVE.findall(message)][:MAX_TOLD]
        elif self.taskqs and message.lstrip()[:5] in ("pend:", "prio:"):
            self.taskqs[-1].pending += len(_ENTRY.findall(message))

    def hear(self, message: str) -> bool:
        """Read a message of the kernel's, if it is one of a list of memory."""
        if "slab_unreclaimable:" in message and (match := _UNRECLAIMABLE.match(message)):
            if message.lstrip()[:4] != "Node":
                self.unreclaimable = max(self.unreclaimable, int(match["pages"]) * _PAGE)
            return True
        if " free:" in message and (match := _ZONE.match(message)):
            if int(match["free"]) < int(match["min"]) and len(self.zones) < MAX_KEPT:
                where = f"zone {match['zone']} of node {match['node']}"
                self.zones[where] = f"{where} had {match['free']} kB free, less than its minimum of {match['min']} kB"
            return True
        return False

    def sentences(self) -> Iterator[str]:
        """What the figures say, in words."""
        yield from list(self.zones.values())[:MAX_TOLD]
        if self.unreclaimable:
            yield f"slabs that cannot be reclaimed: {_bytes(self.unreclaimable)} (with pages of 4 KiB)"
        yield from self.of_taskqs()
        yield from self.of_arc()
        if "MemTotal" in (names := {name: value for (kind, name), value in self.values.items() if kind == "meminfo"}):
            told = [f"{name} {_bytes(names[name])}" for name in _MEMINFO if name in names]
            yield f"memory: {', '.join(told)}"

    def of_taskqs(self) -> Iterator[str]:
        busy = [it for it in self.taskqs if it.tasks or it.pending]
        for it in busy[:MAX_TOLD]:
            tasks = ", ".join(f"{name} by pid {pid}" for pid, name in it.tasks[:MAX_TOLD])
            waits = f"; {it.pending} {'task waits' if it.pending == 1 else 'tasks wait'}" if it.pending else ""
            yield f"taskq {it.name}: {it.active} of {it.threads} threads busy{f' with {tasks}' if tasks else ''}{waits}"
        if len(busy) > MAX_TOLD:
            yield f"and {len(busy) - MAX_TOLD} more taskqs that have tasks"

    def of_arc(self) -> Iterator[str]:
        arc = {name: value for (kind, name), value in self.values.items() if kind == "arcstats"}
        if "size" not in arc or "c" not in arc:
            return
        over = f", {_bytes(arc['size'] - arc['c'])} more than its target" if arc["size"] > arc["c"] else ""
        most = f", at most {_bytes(arc['c_max'])}" if "c_max" in arc else ""
        yield f"ARC: {_bytes(arc['size'])}, target {_bytes(arc['c'])}{over}{most}"
        signs = [f"{name} {arc[name]}" for name in _ARC_SIGNS if arc.get(name, 0) > 0]
        if arc.get("memory_available_bytes", 0) < 0:
            signs.append(f"memory_available_bytes {arc['memory_available_bytes']}")
        if signs:
            yield f"ARC: memory is low or was: {', '.join(signs)}"


_ARC_SIGNS = ("arc_no_grow", "arc_need_free", "memory_throttle_count", "memory_direct_count")
_MEMINFO = ("MemTotal", "MemFree", "MemAvailable", "Dirty", "Writeback", "SUnreclaim", "SwapTotal", "SwapFree")


def _bytes(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB // 10 else f"{count // _KIB} KiB"
