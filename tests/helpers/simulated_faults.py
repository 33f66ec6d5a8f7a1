"""What can go wrong in a simulated run: one thing at a time, by a name that says it."""

from __future__ import annotations

from collections.abc import Mapping

from simulated_guest import Knobs, Skew, Span
from simulated_texts import (
    CELLS,
    DEADLOCKED,
    GROWING,
    GROWS_STACK,
    GROWTH_STACK,
    OTHER_LOAD,
    SLAB_HEADER,
    TRAP_STACK,
    WORKER_SWITCHES,
    slab_row,
    worker_text,
)
from splvm.evidence.checks.progress import SLICE_NS

# The window, its second half, a moment in it, and the time for which nothing should change.
_WINDOW = Span("window")
_HALF = Span("window", 1.5)
_MOMENT = Span("window", 1.0, 0.1)
_AT_REST = Span("audit", 0.0, 0.2)
_SLICE_S = SLICE_NS / 1e9

_OOPS = """\
[    9.017302] BUG: kernel NULL pointer dereference, address: 0000000000000018
[    9.017911] #PF: supervisor read access in kernel mode
[    9.019380] Oops: 0000 [#1] PREEMPT SMP PTI
[    9.020105] CPU: 0 PID: 114 Comm: spl_kmem_cache Tainted: G           OE      6.1.0-56-cloud-amd64 #1
[    9.021880] Kernel panic - not syncing: Fatal exception
"""


# A line that no report contains comes first: what the kernel says while it goes down is a part of the crash.
_WARNING = """\
[    9.017000] sysrq: Show Blocked State
[    9.017302] Unexpected gfp: 0x2 (__GFP_HIGHMEM). Fixing up to gfp: 0xcc0 (GFP_KERNEL). Fix your code!
[    9.017911] CPU: 0 PID: 114 Comm: spl_kmem_cache Tainted: G           OE      6.1.0-56-cloud-amd64 #1
[    9.019380] Call Trace:
[    9.020105]  dump_stack_lvl+0x44/0x5c
[    9.021880]  spl_slab_alloc+0x2f/0x1b0 [spl]
"""


def _slab(span: Span, **cells: int) -> Knobs:
    """The slab file is wrong: `emergency_max=3` adds 3 to that cell."""
    return Knobs(skews=(Skew("slab", {name.replace("_", "."): by for name, by in cells.items()}, span),))


def _load(span: Span, cell: str, by: int) -> Knobs:
    """The load's generator reports something else."""
    return Knobs(skews=(Skew("load", {cell: by}, span),))


def _probe(span: Span, cell: str, by: int, also: str = "") -> Knobs:
    """The probe's status is wrong, and says so twice where `also` counts the same."""
    return Knobs(skews=(Skew("probe", dict.fromkeys(filter(None, (cell, also)), by), span),))


FAULTS: Mapping[str, Knobs] = {
    # --- the storm
    "storm without a question": Knobs(deaf=True),
    "somebody is caught at a site": Knobs(stormed=Span("window", 1.0)),
    "somebody is caught at a site as the window ends": Knobs(stormed=Span("hold", 0.5)),
    "storm that is another": _probe(_WINDOW, "storm.rate", 1),
    "functions of the allocator are blind": _probe(_WINDOW, "sites.blind", 1),
    "nobody watches the allocator": Knobs(unwatched=True),
    "an allocation sleeps under a lock": Knobs(skews=(Skew("sites", {"site 0.atomic": 3}, _WINDOW),)),
    # --- work with taskqs and caches
    "client of taskqs stands still": Knobs(standing=Span("window", 1.0)),
    "promise of taskqs is broken": _probe(_HALF, "qpromise wait.broken", 2),
    "taskq shows another number of tasks": _probe(Span("loaded"), "queue slabprobe_one0.pend", 1),
    "thread outlives its taskq": Knobs(
        garbled={"tasks": (Span("gone"), "task pid=77 comm=slabprobe_temp state=S voluntary=9 nonvoluntary=0\n")}
    ),
    "caches are hardly used": _probe(_HALF, "kinds.rounds", -50),
    "object is not aligned": _probe(_HALF, "kpromise aligned.broken", 1),
    "slab file has another number of objects": _probe(Span("loaded"), "kind slabprobe_k6.held", 1),
    "worker of one cache is not held": Knobs(free_worker=Span("caught")),
    "memory of caches is not given back": Knobs(
        garbled={"meminfo": (Span("gone"), "MemTotal:  406312 kB\nVmallocUsed:  90000 kB\n")}
    ),
    # --- CPUs that come and go, and memory
    "CPUs hardly move": _probe(Span("window", 2.8), "cpus.came", -28, "cpus.went"),
    "a CPU does not come back": _probe(Span("window", 1.5), "cpus.failed", 2),
    "memory is not in single pages": Knobs(unbroken=True),
    "memory that is to be zeroed is not": _probe(_HALF, "mpromise cleared.broken", 1),
    "vmem_alloc() does not come back": Knobs(standing=Span("window", 0.5)),
    "memory is hardly asked for": _probe(Span("window", 2.8), "taker 0.rounds", -59),
    # --- the guest
    "console of another kernel": Knobs(console="[    0.000000] Linux version 5.10.0-46 (builder@example)\n"),
    "oops": Knobs(console=_OOPS),
    "kernel warns": Knobs(console=_WARNING),
    "lost": Knobs(outcome=("lost", "the agent was silent for 20 s; QEMU is still running"), cut=_HALF),
    "lost before the first reading": Knobs(outcome=("lost", "the connection was closed"), cut=Span("")),
    "cut off": Knobs(outcome=("cut off", "no space left on device"), cut=_HALF),
    "interrupted": Knobs(outcome=("interrupted", "by the user")),
    # --- the stream
    "frames lost": Knobs(lost=_MOMENT),
    "first frames lost": Knobs(lost=Span("", 0.0, 0.04)),
    "frames dropped": Knobs(dropped=3),
    "no end of the stream": Knobs(ended=False),
    "slab file garbled": Knobs(garbled={"slab": (_MOMENT, "Segmentation fault\n")}),
    "probe's status garbled": Knobs(garbled={"probe": (_MOMENT, "slabprobe 2\n")}),
    "list of tasks garbled": Knobs(garbled={"tasks": (_MOMENT, "[<0>] kthread+0xd7/0x100\n")}),
    # --- the worker
    "no worker came": Knobs(free_worker=Span("hold")),
    "worker let go half way": Knobs(free_worker=_HALF),
    "worker held from half way on": Knobs(free_worker=Span("hold", 0.0, 1.7)),
    "worker not looked at": Knobs(unread={"tasks": _WINDOW}),
    "worker not looked at for a while": Knobs(unread={"tasks": Span("window", 1.0, 1.2)}),
    "worker runs": Knobs(worker=(_WINDOW, worker_text("R"))),
    "worker runs at times": Knobs(worker=(Span("window", 2.0, 0.2), worker_text("R"))),
    "worker's stack unreadable": Knobs(worker=(_HALF, worker_text(stack="stack errno=1\n"))),
    "worker's stack changes": Knobs(worker=(_HALF, worker_text(stack=GROWS_STACK))),
    "worker's switches go on": Knobs(worker=(_HALF, worker_text(switches=(WORKER_SWITCHES + 1, 0)))),
    "worker's involuntary switches go on": Knobs(worker=(_HALF, worker_text(switches=(WORKER_SWITCHES, 1)))),
    "worker moved while it was read": Knobs(worker=(_MOMENT, worker_text(rest=" moved=1"))),
    "another worker is held as well": _probe(_WINDOW, "hold.pid", 118),
    "worker not in the list": Knobs(worker=(_HALF, "")),
    "worker not needed": Knobs(ample_slabs=True),
    # --- the trap
    "shrinker is not asked": Knobs(deaf=True),
    "declines are not counted": _probe(_WINDOW, "trap.declined", -2),
    "caught when nobody looked": (
        _probe(_HALF, "trap.sprung", 1) | _probe(_HALF, "trap.entered", 1) | _probe(_HALF, "trap.waited", 1)
    ),
    "worker stuck elsewhere": Knobs(worker=(Span("trap"), worker_text(stack=TRAP_STACK + GROWTH_STACK))),
    "worker comes free half way": Knobs(free_worker=_HALF),
    "transaction waits for itself": Knobs(own=True),
    "nothing is committed": Knobs(uncommitted=_HALF),
    "few transactions are carried": Knobs(uncarried=_HALF),
    "cycle does not end": Knobs(forever=True),
    "memory is not low for a while": Knobs(relieved=Span("window", 0.9, 1.3)),
    "nobody keeps memory low": _probe(_HALF, "pressure.on", -1),
    "reclaim was induced": _probe(_WINDOW, "trap.induced", 1),
    "trap not looked at after the window": Knobs(unread={"probe": Span("resolve", 0.0, 0.4)}),
    # --- faults
    "no allocation fails": Knobs(faultless=True),
    "fewer allocations fail": _probe(Span(""), "fail.injected", -2),
    "faults are missed": _probe(_HALF, "fail.missed", 1),
    "faults not looked at": Knobs(unread={"probe": Span("settle", 0.48, 3.3)}),
    # --- objects that are large
    "objects are too large": Knobs(fallback=False) | _probe(Span(""), "config.size", 1 << 23),
    "memory is not fragmented": Knobs(unbroken=True),
    # --- the load
    "load not looked at": Knobs(unread={"load": _WINDOW}),
    "load not looked at for a while": Knobs(unread={"load": Span("window", 1.0, 1.2)}),
    "load's reports torn": Knobs(torn=_WINDOW),
    "load's reports torn for a moment": Knobs(torn=_MOMENT),
    "load's report garbled": Knobs(garbled={"load": (_MOMENT, "splvm-load 1\n")}),
    "load of another name": Knobs(garbled={"load": (_HALF, OTHER_LOAD)}),
    "memory is not low": _load(_HALF, "load lowmem.level", 300_000),
    "memory is not low for a moment": _load(_MOMENT, "load lowmem.level", 300_000),
    "too little is dirty": _load(_HALF, "load writeback.level", -12_000),
    "nothing is written back": Knobs(unwritten=_HALF),
    "nothing is written back, and the host withholds": Knobs(unwritten=_HALF, host_wait=0.9, starving=_WINDOW),
    "no txg is synced from the beginning": Knobs(unsynced=Span("load")),
    # It spins, as its neighbour does: with half of a CPU each gets enough.
    "no txg is synced by a guest that spins": Knobs(unsynced=Span("load"), host_wait=0.6, starving=Span("load")),
    "nothing is touched or locked": Knobs(unwritten=Span("window")),
    "no txg is synced": Knobs(unsynced=_WINDOW),
    "no txg is synced, and the host withholds": Knobs(unsynced=_WINDOW, host_wait=0.95, starving=_WINDOW),
    "txgs not looked at": Knobs(unread={"txgs": _WINDOW}),
    "txgs garbled": Knobs(garbled={"txgs": (_MOMENT, "txg birth\n")}),
    "pool suspended": Knobs(garbled={"poolstate": (_HALF, "SUSPENDED\n")}),
    "nothing is written to the pool": Knobs(unwritten=_HALF),
    "pool's state not looked at": Knobs(unread={"poolstate": _WINDOW}),
    "no load is named": Knobs(unloaded=True),
    "eater killed": Knobs(
        skews=(Skew("load", {"worker lowmem 0.alive": -1, "worker lowmem 0.signal": 9}, _HALF),),
    ),
    "writer ended": Knobs(
        unwritten=_HALF,
        skews=(Skew("load", {"worker writeback 0.alive": -1, "worker writeback 0.status": 28}, _HALF),),
    ),
    "OOM killer ran": _load(_HALF, "memory.oom_kills", 2),
    "nobody makes blocks": Knobs(waiting=dict.fromkeys((0, 1), Span("window", 0.0, 3.4))),
    # --- objects that are kept
    "frees cost more the more is kept": _probe(_WINDOW, "kept 100.median_ns", 70_000),
    "frees are hardly timed": _probe(_WINDOW, "kept 100.batches", -56),
    "fewer objects are kept": _probe(_AT_REST, "config.keep", 20),
    "growth goes on while the worker is stuck": _probe(_HALF, "growth.done", 1),
    # --- progress
    "no fallback": Knobs(fallback=False),
    "thread 1 stands still": Knobs(waiting={1: Span("window", 1.0)}),
    "thread 1 stands still until the release": Knobs(waiting={1: Span("window", 1.4, 2.0)}),
    "thread 1 stands still for a slice": Knobs(waiting={1: Span("window", _SLICE_S - 0.1, _SLICE_S + 0.2)}),
    "thread 1 waits too long once": Knobs(waiting={1: Span("window", 1.2, 0.7)}),
    "thread 1 waits too long before the window": _probe(Span("hold", 0.0, 0.2), "thread 1.gap_max_ns", 600_000_000),
    "thread 0 stands still for a slice": Knobs(waiting={0: Span("window", _SLICE_S - 0.1, _SLICE_S + 0.2)}),
    "thread 0 waits too long once": Knobs(waiting={0: Span("window", 1.2, 0.7)}),
    "threads not looked at": Knobs(unread={"probe": Span("window", 0.0, 3.0)}),
    "threads not looked at for a while": Knobs(unread={"probe": Span("window", 1.0, 1.2)}),
    "threads looked at once in a slice": Knobs(unread={"probe": Span("window", _SLICE_S + 0.02, _SLICE_S - 0.07)}),
    "a third thread is left out": _probe(_MOMENT, "config.threads", 1),
    # --- woken, or timed out
    "nobody is woken": Knobs(timeouts=_WINDOW),
    "nobody is woken after the recovery": Knobs(timeouts=Span("recovered")),
    "nobody is woken, and nobody counts who slept": Knobs(timeouts=Span("recovered"), uncounted=True),
    "emergency objects for nothing": (
        _slab(_WINDOW, emergency_dlock=1, emergency_max=2)
        | _probe(_WINDOW, "live.emergency_total", 5)
        | _probe(_WINDOW, "live.emergency_max", 2)
    ),
    "callers time out for nothing": _slab(_WINDOW, emergency_dlock=3),
    "kernel's own cache": Knobs(kernel_cache=True),
    # --- the magazines
    "objects are not there again": _probe(_HALF, "magazine.reused", -64),
    "magazines of one": _probe(_HALF, "magazine.refills", 100_000),
    "nothing is asked for again": Knobs(unused=True),
    "magazines not counted": Knobs(uncounted=True),
    # --- accounting
    "size is wrong": _slab(_MOMENT, size=4096),
    "emergency objects below zero": _slab(Span("settle", 0.2, 0.1), emergency_alloc=-1),
    "maximum goes down": _slab(Span("window", 1.0, 0.5), emergency_max=5),
    "timeouts go down": _slab(Span("window", 1.0, 0.5), emergency_dlock=5),
    "no cache in the slab file": Knobs(garbled={"slab": (Span(""), SLAB_HEADER)}),
    "maximum too low": _probe(_WINDOW, "live.emergency_max", 7),
    "maximum too high": _slab(Span("settle", 0.2), emergency_max=40),
    "timeouts not counted": _slab(Span("hold", 0.06), emergency_dlock=-2),
    "emergency objects miscounted at rest": _probe(_AT_REST, "live.emergency", 1),
    "slab objects miscounted at rest": _probe(_AT_REST, "live.slab", 70),
    "objects damaged": _probe(_HALF, "thread 1.corrupt", 2),
    "allocations failed": _probe(_HALF, "thread 0.failures", 4),
    "threads not at rest": _probe(_AT_REST, "run.parked", -1),
    "slab file not read in the window": Knobs(unread={"slab": _WINDOW}),
    "slab file has the cache twice": Knobs(
        garbled={"slab": (Span(""), SLAB_HEADER + 2 * slab_row("slabprobe", dict.fromkeys(CELLS, 0)))}
    ),
    "slab file not read at rest": Knobs(unread={"slab": _AT_REST}),
    # --- recovery
    "emergency objects do not drain": _slab(Span("release"), emergency_alloc=3, object_total=3),
    "cache stays deadlocked": _slab(Span("release"), flags=DEADLOCKED),
    "slab file not read after the release": Knobs(unread={"slab": Span("release")}),
    "emergency objects after the recovery": Knobs(
        skews=(
            Skew(
                "probe",
                {"live.emergency_total": 9, "thread 0.emergency": 9, "magazine.hits": -9},
                Span("recovered", 0.4),
            ),
        )
    ),
    "emergency objects only after the recovery": _probe(Span("recovered", 0.4), "live.emergency_total", 900_000),
    "thread 1 stands still after the recovery": Knobs(waiting={1: Span("recovered")}),
    "thread 1 rests after the recovery": Knobs(waiting={1: Span("recovered", 0.0, 1.1)}, ready=True),
    "threads not looked at after the recovery": Knobs(unread={"probe": Span("recovered", 0.0, 1.1)}),
    "threads hardly looked at after the recovery": Knobs(unread={"probe": Span("recovered", 0.0, 1.0)}),
    "thread 1 does not stop": Knobs(waiting={1: Span("stop")}),
    "thread 0 does not stop": Knobs(waiting={0: Span("stop")}),
    "emergency object left": _slab(Span("final"), emergency_alloc=1, object_total=1),
    "flagged deadlocked at the end": _slab(Span("final"), flags=DEADLOCKED),
    "flagged growing at the end": _slab(Span("final"), flags=GROWING),
    "slab file not read at the end": Knobs(unread={"slab": Span("final")}),
    "probe not read at the end": Knobs(unread={"probe": Span("final", 0.0, 0.2)}),
    # --- the host; no fault of the module, and none at all as long as nothing else is wrong
    "host starves the guest": Knobs(host_wait=0.7),
    "guest gets no CPU for a moment": Knobs(unread={"probe": Span("window", 2.3, 0.4)}),
}
