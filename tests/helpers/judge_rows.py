"""What each fault of a simulated run must lead to: verdict and first reason."""

from __future__ import annotations

from dataclasses import dataclass

from simulated_kinds import (
    ARC,
    CACHES,
    CYCLE,
    DECLINED,
    DISK,
    EXT4,
    FRAGMENTED,
    GROW,
    HELD,
    HOTPLUG,
    LOADED,
    LONG,
    MAPPED,
    MEMORY,
    NOMINAL,
    ORGANIC,
    POOL,
    ROOM,
    SPARE,
    STORM,
    TASKQS,
    ZVOL,
)
from splvm.evidence.verdict import Outcome


@dataclass(frozen=True, slots=True)
class Row:
    """What a fault must lead to."""

    fault: str
    outcome: Outcome
    # What the first reason says, from its beginning.
    reason: str
    scenarios: tuple[str, ...] = (HELD, SPARE)


MORE = (LONG, FRAGMENTED, POOL)
CAUGHT = (CYCLE, ORGANIC)
TRAP = (*CAUGHT, DECLINED)
BOTH = (HELD, NOMINAL, GROW, SPARE)
AFTER = (HELD, GROW, SPARE)
FAULTY = (GROW, SPARE)
ALL = (*BOTH, *TRAP, *MORE)
ON_POOL = (ZVOL, ARC, ROOM, MAPPED)
ENDURED = (*ON_POOL, DISK, EXT4)
EVERY = (*ALL, *ENDURED)
STUCK_HALF = r"worker 114 is not proven stuck in 30 of 60 readings: at 6\.3\d\d s "
BACK = r"critical threads did not come back after the release"

# What any record may lack.
ANY = (*EVERY, STORM, TASKQS, CACHES, HOTPLUG, MEMORY)

ROWS = (
    # check_queues
    Row(
        "client of taskqs stands still",
        Outcome.STALLED,
        r"client 0 \(pid 141\) is in step nested of its work with taskqs for \d\.\d+ s",
        (TASKQS, HOTPLUG),
    ),
    # check_queue_promises
    Row(
        "promise of taskqs is broken",
        Outcome.SUSPECT,
        r"taskq_wait came back when 3 of 6 tasks had run \(2 of \d+ times\)$",
        (TASKQS, HOTPLUG),
    ),
    # check_queue_counts
    Row(
        "taskq shows another number of tasks",
        Outcome.MISCOUNTED,
        r"taskq slabprobe_one0, loaded: SPL shows 2 tasks in the pending list, and there are 1$",
        (TASKQS, HOTPLUG),
    ),
    # check_queues_gone
    Row(
        "thread outlives its taskq",
        Outcome.NO_RECOVERY,
        r"thread slabprobe_temp \(pid 77\) is still there although its taskq was destroyed$",
        (TASKQS, HOTPLUG),
    ),
    # check_kinds
    Row(
        "caches are hardly used",
        Outcome.INCONCLUSIVE,
        r"\d rounds with caches of several kinds were made in the window$",
        (CACHES, HOTPLUG),
    ),
    # check_kind_promises
    Row(
        "object is not aligned",
        Outcome.SUSPECT,
        r"an object of slabprobe_k0 lay 3 bytes beside its alignment \(1 of \d+ times\)$",
        (CACHES, HOTPLUG),
    ),
    # check_kind_counts
    Row(
        "slab file has another number of objects",
        Outcome.MISCOUNTED,
        r"cache slabprobe_k6, loaded: the slab file has 12 of objects, and it is 13$",
        (CACHES, HOTPLUG),
    ),
    # check_kinds_alone
    Row(
        "worker of one cache is not held",
        Outcome.INCONCLUSIVE,
        r"the worker of one cache was not held, or nobody looked$",
        (CACHES,),
    ),
    # check_kinds_gone
    Row(
        "memory of caches is not given back",
        Outcome.NO_RECOVERY,
        r"84880 KiB of vmalloc's memory were not given back when all caches had been destroyed$",
        (CACHES, HOTPLUG),
    ),
    # check_comers
    Row(
        "CPUs hardly move", Outcome.INCONCLUSIVE, r"in the window a CPU went \d+ times and came \d+ times$", (HOTPLUG,)
    ),
    Row(
        "a CPU does not come back",
        Outcome.INCONCLUSIVE,
        r"4 of 4 CPUs are there at the end; 2 times the kernel refused one$",
        (HOTPLUG,),
    ),
    # check_memory
    Row(
        "vmem_alloc() does not come back",
        Outcome.STALLED,
        r"thread 1 \(pid 152\) is marked and is in step vmem of its work with memory for \d\.\d+ s$",
        (MEMORY,),
    ),
    Row("memory is hardly asked for", Outcome.INCONCLUSIVE, r"thread 0 made \d rounds with memory", (MEMORY,)),
    # check_memory_falls_back
    Row(
        "memory is not in single pages",
        Outcome.NOT_TRIGGERED,
        r"0 large pieces that vmem_alloc\(\) was asked for came from vmalloc: there were blocks of pages$",
        (MEMORY,),
    ),
    # check_memory_promises
    Row(
        "memory that is to be zeroed is not",
        Outcome.SUSPECT,
        r"kmem_alloc gave memory that is not zeroed \(1 of \d+ times\)$",
        (MEMORY,),
    ),
    # check_memory_gone
    Row(
        "memory of caches is not given back",
        Outcome.NO_RECOVERY,
        r"84880 KiB of vmalloc's memory were not given back at the end$",
        (MEMORY,),
    ),
    # check_storm
    Row("storm without a question", Outcome.NOT_TRIGGERED, r"in 0 reclaims at allocation sites no shrinker", (STORM,)),
    Row("storm that is another", Outcome.INCONCLUSIVE, r"the storm was set to rate=2, and run.json says 1$", (STORM,)),
    # check_storm_safe
    Row(
        "somebody is caught at a site",
        Outcome.STALLED,
        r"deadlock at an allocation site: slabprobe_tq \(pid 132\) waits in reclaim at spl_emergency_alloc -> "
        r"__get_free_pages -> __alloc_pages \(site 1c0f874f; GFP mask 0xcc0, .* for 1\.\d+ s up to the end",
        (STORM,),
    ),
    Row(
        "somebody is caught at a site as the window ends",
        Outcome.INCONCLUSIVE,
        r"slabprobe_tq \(pid 132\) waits in reclaim at .* since 0\.\d+ s only, when the window ended: too short",
        (STORM,),
    ),
    # check_storm_seen
    Row(
        "functions of the allocator are blind",
        Outcome.INCONCLUSIVE,
        r"1 functions of the allocator cannot be watched .*: sites are blind$",
        (STORM,),
    ),
    Row("nobody watches the allocator", Outcome.INCONCLUSIVE, r"nobody watched where SPL allocates$", (STORM,)),
    # check_storm_atomic
    Row(
        "an allocation sleeps under a lock",
        Outcome.CRASHED,
        r"3 of \d+ allocations at spl_emergency_alloc -> .* may sleep where that is forbidden",
        (STORM,),
    ),
    # check_crash
    Row("oops", Outcome.CRASHED, r"OOPS: BUG: kernel NULL pointer .* \(console\.log line 5\)$", ANY),
    # check_warned
    Row(
        "kernel warns",
        Outcome.SUSPECT,
        r"the kernel warned, with spl in the stack: Unexpected gfp: 0x2",
        ANY,
    ),
    # check_lost
    Row("lost", Outcome.LOST, r"the agent was silent for 20 s; .*; last reading at 6\.\d{3} s of guest time$", ALL),
    Row(
        "lost before the first reading",
        Outcome.LOST,
        r"the connection was closed; nothing was ever read$",
        (*ALL, *ENDURED),
    ),
    Row("cut off", Outcome.INCONCLUSIVE, r"the run was cut off: no space left on device$", ANY),
    Row("interrupted", Outcome.INCONCLUSIVE, r"the run was interrupted: by the user$", ANY),
    # check_losses
    Row("frames lost", Outcome.INCONCLUSIVE, r"frames \d+ to \d+ are missing$", ANY),
    Row("first frames lost", Outcome.INCONCLUSIVE, r"frames 0 to 1 are missing$", ANY),
    Row("frames dropped", Outcome.INCONCLUSIVE, r"the agent dropped 3 frames$", ANY),
    Row(
        "no end of the stream",
        Outcome.INCONCLUSIVE,
        r"the agent's stream has no end: it was cut off$",
        (*ALL, *ENDURED),
    ),
    Row(
        "slab file garbled", Outcome.INCONCLUSIVE, r"frame \d+: slab cannot be read: line 1: .*Segmentation fault", ALL
    ),
    Row("probe's status garbled", Outcome.INCONCLUSIVE, r"frame \d+: probe cannot be read: line 1: .*version 1", ALL),
    Row("list of tasks garbled", Outcome.INCONCLUSIVE, r"frame \d+: tasks cannot be read: line 1: a task was", ALL),
    # check_stuck
    Row("no worker came", Outcome.NOT_TRIGGERED, r"the lever was pulled and no worker came to be held$"),
    Row("worker runs", Outcome.NOT_TRIGGERED, r"worker 114 is not proven stuck in 60 of 60 readings: .* is R, not D$"),
    Row(
        "worker runs at times",
        Outcome.INCONCLUSIVE,
        r"worker 114 is not proven stuck in 4 of 60 .* 6\.8\d\d s its state",
    ),
    Row("worker let go half way", Outcome.INCONCLUSIVE, STUCK_HALF + r"its state is S, not D$"),
    Row(
        "worker held from half way on",
        Outcome.INCONCLUSIVE,
        r"worker 114 .* 30 of 60 .* 4\.8\d\d s its state is S, not D$",
    ),
    Row("worker's stack unreadable", Outcome.INCONCLUSIVE, STUCK_HALF + r"its stack cannot be read$"),
    Row(
        "worker's stack changes",
        Outcome.INCONCLUSIVE,
        STUCK_HALF + r"its stack has changed: __vmalloc_node <- spl_cache_",
    ),
    Row("worker's switches go on", Outcome.INCONCLUSIVE, STUCK_HALF + r"it has run in between: its context switches"),
    Row("worker's involuntary switches go on", Outcome.INCONCLUSIVE, STUCK_HALF + r"it has run in between"),
    Row("worker moved while it was read", Outcome.INCONCLUSIVE, r"worker 114 .* in 2 of 60 .* it has run in between"),
    Row("worker not in the list", Outcome.INCONCLUSIVE, STUCK_HALF + r"it is not in the list of tasks$"),
    Row(
        "growth goes on while the worker is stuck",
        Outcome.INCONCLUSIVE,
        r"worker 114 is not stuck: 1 growths of the cache were done in the window$",
        (HELD, SPARE, *CAUGHT),
    ),
    Row("worker not looked at", Outcome.INCONCLUSIVE, r"for 3\.000 s of the window nobody looked at the worker$"),
    Row("worker not looked at for a while", Outcome.INCONCLUSIVE, r"for 1\.250 s of the window nobody looked at the w"),
    # check_trap
    Row(
        "shrinker is not asked",
        Outcome.NOT_TRIGGERED,
        r"the trap was never sprung: the growth of the cache needed \d+ page tables, and in \d+ reclaims before them",
        (DECLINED, ORGANIC),
    ),
    Row(
        "declines are not counted",
        Outcome.INCONCLUSIVE,
        r"the trap was sprung \d+ times, but declined \d+ times and entered 0 times: what became of the rest is not",
        (DECLINED,),
    ),
    # check_caught
    Row("worker runs", Outcome.NOT_TRIGGERED, r"worker 114 is not proven stuck in 60 of 60 readings", CAUGHT),
    Row("worker not looked at", Outcome.INCONCLUSIVE, r"for 3\.000 s of the window nobody looked at the w", CAUGHT),
    Row("worker comes free half way", Outcome.INCONCLUSIVE, STUCK_HALF + r"its state is S, not D$", CAUGHT),
    Row(
        "caught when nobody looked",
        Outcome.INCONCLUSIVE,
        r"the trap was entered 1 times, but by the end of the window nobody saw it$",
        (DECLINED,),
    ),
    Row(
        "worker stuck elsewhere",
        Outcome.NOT_TRIGGERED,
        r"worker 114 is stuck elsewhere: the page table is not in its place in slabprobe_wait_commit <- slabprobe_shr",
        CAUGHT,
    ),
    # check_commits
    Row(
        "transaction waits for itself",
        Outcome.STALLED,
        r"no transaction was committed for the last 2\.950 s of the window, after \d+ in all$",
        CAUGHT,
    ),
    Row(
        "nothing is committed",
        Outcome.STALLED,
        r"no transaction was committed for the last 1\.\d{3} s of the window, after \d+ in all$",
        TRAP,
    ),
    # check_carried
    Row(
        "few transactions are carried",
        Outcome.INCONCLUSIVE,
        r"only \d\d transactions were carried by emergency objects while the worker was caught; 100 are asked for$",
        CAUGHT,
    ),
    Row("no fallback", Outcome.STALLED, r"no transaction was committed for the last 2\.950 s", CAUGHT),
    # check_resolved
    Row(
        "cycle does not end",
        Outcome.NO_RECOVERY,
        r"the cycle did not end by itself: after \d+ commits since the window thread 114 is still caught, since \d\.",
        CAUGHT,
    ),
    Row(
        "trap not looked at after the window",
        Outcome.INCONCLUSIVE,
        r"nobody looked at the trap between the window and its end$",
        CAUGHT,
    ),
    # check_low
    Row(
        "memory is not low for a while",
        Outcome.INCONCLUSIVE,
        r"memory was not seen to be low between 5\.\d{3} s and 6\.\d{3} s$",
        (ORGANIC,),
    ),
    Row(
        "nobody keeps memory low", Outcome.INCONCLUSIVE, r"memory was not seen to be low between 5\.\d{3} s", (ORGANIC,)
    ),
    Row(
        "reclaim was induced", Outcome.INCONCLUSIVE, r"1 reclaims were induced: what sprang the trap was n", (ORGANIC,)
    ),
    # check_injected
    Row(
        "no allocation fails",
        Outcome.NOT_TRIGGERED,
        r"no allocation was made to fail, although \d+ were open to it$",
        FAULTY,
    ),
    Row(
        "fewer allocations fail",
        Outcome.INCONCLUSIVE,
        r"6 allocations failed before the end of the window, and 8 were to; of 0 it is not known$",
        FAULTY,
    ),
    Row("faults are missed", Outcome.INCONCLUSIVE, r"8 allocations failed .* and 8 were to; of 1 it is not k", FAULTY),
    Row("faults not looked at", Outcome.INCONCLUSIVE, r"nobody looked at the faults$", (GROW,)),
    # check_order
    Row(
        "objects are too large",
        Outcome.STALLED,
        r"no emergency object can be had: 8256 KiB are more than the page allocator's largest block, 4096 KiB$",
        (HELD, SPARE, *MORE),
    ),
    # check_fragmented
    Row(
        "memory is not fragmented",
        Outcome.NOT_TRIGGERED,
        r"memory was not fragmented: there were free blocks for \d{4} objects of 64 KiB, and a round takes 64$",
        (FRAGMENTED,),
    ),
    # check_made
    Row(
        "nobody makes blocks",
        Outcome.STALLED,
        r"nobody made blocks for objects of 64 KiB \(order 4\): at the end of the window there were 0 of 64 that ",
        (FRAGMENTED,),
    ),
    # check_loads
    Row(
        "load not looked at", Outcome.INCONCLUSIVE, r"for 3\.\d+ s of the window nobody looked at the load$", (LOADED,)
    ),
    Row(
        "load not looked at for a while",
        Outcome.INCONCLUSIVE,
        r"for 1\.2\d\d s of the window nobody looked at the load$",
        (LOADED,),
    ),
    Row("load's reports torn", Outcome.INCONCLUSIVE, r"for 3\.\d+ s of the window nobody looked at", (LOADED,)),
    Row("load's report garbled", Outcome.INCONCLUSIVE, r"frame \d+: load cannot be read: .*`at`", (LOADED,)),
    Row(
        "load of another name",
        Outcome.INCONCLUSIVE,
        r"load writeback is missing in 30 of 60 reports$",
        (LOADED,),
    ),
    Row(
        "memory is not low",
        Outcome.INCONCLUSIVE,
        r"load lowmem was not held for 1\.4\d\d s from 7\.\d{3} s on: it was at 325\.\d MiB to 325\.\d MiB, and "
        r"16\.0 MiB to 48\.0 MiB are asked for$",
        (LOADED,),
    ),
    Row(
        "too little is dirty",
        Outcome.INCONCLUSIVE,
        r"load writeback was not held for 1\.4\d\d s from .*: it was at 0\.9 MiB to 0\.9 MiB, and 4\.0 MiB to 24",
        (LOADED,),
    ),
    Row(
        "nothing is written back",
        Outcome.STALLED,
        r"load writeback: nothing was written back to the disk between \d\.\d{3} s and \d\.\d{3} s$",
        (LOADED,),
    ),
    Row(
        "nothing is written back, and the host withholds",
        Outcome.INCONCLUSIVE,
        r"load writeback: nothing was written back to the disk between .* \(the guest was starved: ",
        (LOADED,),
    ),
    Row("eater killed", Outcome.INCONCLUSIVE, r"load lowmem: its eater \(pid 146\) was killed by signal 9$", (LOADED,)),
    Row("writer ended", Outcome.INCONCLUSIVE, r"load writeback: its eater \(pid 149\) ended with ENOSPC$", (LOADED,)),
    Row("OOM killer ran", Outcome.INCONCLUSIVE, r"the OOM killer ran 2 times under the load, up to the end", (LOADED,)),
    # check_txgs
    Row(
        "no txg is synced",
        Outcome.STALLED,
        r"pool tank: no txg was synced for \d\.\d{3} s up to the end of the window; txg \d+ is syncing; txg \d+ is op",
        (POOL,),
    ),
    Row(
        "no txg is synced, and the host withholds",
        Outcome.INCONCLUSIVE,
        r"pool tank: no txg was synced for .* \(the guest was starved: ",
        (POOL,),
    ),
    Row(
        "txgs not looked at",
        Outcome.INCONCLUSIVE,
        r"for 3\.\d+ s of the window nobody looked at the txgs of pool tank$",
        (POOL,),
    ),
    Row("txgs garbled", Outcome.INCONCLUSIVE, r"frame \d+: txgs cannot be read: there is no heading", (POOL,)),
    Row("pool suspended", Outcome.INCONCLUSIVE, r"pool tank was SUSPENDED at \d\.\d{3} s$", (POOL,)),
    Row(
        "nothing is written to the pool",
        Outcome.INCONCLUSIVE,
        r"load zfs: nothing was done between \d\.\d{3} s and \d\.\d{3} s$",
        (POOL,),
    ),
    Row(
        "no txg is synced from the beginning",
        Outcome.STALLED,
        r"pool tank: no txg was synced for [67]\.\d{3} s up to the end of the window; txg \d+ is syncing; ",
        ON_POOL,
    ),
    Row(
        "no txg is synced by a guest that spins",
        Outcome.STALLED,
        r"pool tank: no txg was synced for [67]\.\d{3} s up to the end of the window; txg \d+ is syncing; ",
        ON_POOL,
    ),
    Row(
        "nothing is touched or locked",
        Outcome.STALLED,
        r"load [a-z-]+: nothing was (touched|locked) by its process(es)? between \d+\.\d{3} s and \d+\.\d{3} s$",
        (ZVOL, ARC, ROOM, DISK),
    ),
    Row(
        "pool's state not looked at",
        Outcome.INCONCLUSIVE,
        r"nobody looked at the state of pool tank in the window$",
        (POOL,),
    ),
    # check_loaded
    Row("no load is named", Outcome.INCONCLUSIVE, r"run\.json does not name the load [a-z, -]+$", (POOL, *ENDURED)),
    # check_consistent
    Row("console of another kernel", Outcome.INCONCLUSIVE, r"console\.log is of kernel 6\.1\.0-56-.*, 5\.10", ANY),
    # check_costs
    Row(
        "frees cost more the more is kept",
        Outcome.SLOW,
        r"a free costs more the more emergency objects are kept: 10: 0\.62 us, 100: 6\.58 us, 10\.5 times; ",
        (LONG,),
    ),
    Row(
        "frees are hardly timed",
        Outcome.INCONCLUSIVE,
        r"with 100 emergency objects kept [0-9] batches of frees were timed; 10 are asked for$",
        (LONG,),
    ),
    # check_kept
    Row(
        "fewer objects are kept",
        Outcome.NOT_TRIGGERED,
        r"at rest 112 emergency objects were held; 120 are asked for$",
        (LONG,),
    ),
    # check_needed
    Row(
        "worker not needed", Outcome.NOT_TRIGGERED, r"no emergency object was handed out in the window \(0 before it\)$"
    ),
    # check_threads
    Row(
        "a third thread is left out",
        Outcome.INCONCLUSIVE,
        r"the status at 5\.\d{3} s has (2 critical threads of 3|1 critical threads of 2)$",
        ALL,
    ),
    # check_progress
    Row(
        "no fallback",
        Outcome.STALLED,
        r"critical thread 0 \(pid 128\) got no object for the last 2\.950 s of the window: "
        r"state D, spl_kmem_cache_alloc <- critical_thread <- kthread <- ret_from_fork$",
    ),
    Row(
        "thread 1 stands still",
        Outcome.STALLED,
        r"critical thread 1 \(pid 129\) got no object for the last 2\.000 s of the window: state D, spl_kmem_cache_",
        BOTH,
    ),
    Row(
        "thread 1 stands still until the release", Outcome.STALLED, r"critical thread 1 .* for the last 1\.600 s", BOTH
    ),
    Row(
        "thread 1 stands still for a slice",
        Outcome.SLOW,
        r"critical thread 1 \(pid 129\) got no object between \d\.\d{3} s and \d\.\d{3} s$",
        BOTH,
    ),
    Row(
        "threads not looked at",
        Outcome.INCONCLUSIVE,
        r"for 3\.000 s of the window nobody looked at the critical",
        (HELD, NOMINAL, SPARE, *TRAP),
    ),
    Row("threads not looked at for a while", Outcome.INCONCLUSIVE, r"for 1\.250 s of the window nobody looked at", ALL),
    Row(
        "threads looked at once in a slice",
        Outcome.INCONCLUSIVE,
        r"critical thread 0 \(pid 128\) was looked at 1 times between \d\.\d{3} s and \d\.\d{3} s$",
        ALL,
    ),
    Row(
        "thread 0 stands still for a slice",
        Outcome.SLOW,
        r"critical thread 0 \(pid 128\) got no object between \d\.\d{3} s and \d\.\d{3} s$",
        TRAP,
    ),
    # check_latency
    Row(
        "thread 0 waits too long once",
        Outcome.SLOW,
        r"critical thread 0 \(pid 128\) waited 750\.0 ms between two allocations; the bound is 500\.0 ms$",
        (*TRAP, LONG),
    ),
    Row(
        "thread 1 waits too long once",
        Outcome.SLOW,
        r"critical thread 1 \(pid 129\) waited 750\.0 ms between two allocations; the bound is 500\.0 ms$",
        BOTH,
    ),
    Row("thread 1 waits too long before the window", Outcome.SLOW, r"critical thread 1 \(pid 129\) waited 700\.0 ms"),
    # check_quiet
    Row(
        "emergency objects for nothing",
        Outcome.SLOW,
        r"5 emergency objects were handed out although nothing",
        (NOMINAL,),
    ),
    Row("callers time out for nothing", Outcome.SLOW, r"3 callers timed out although nothing held the w", (NOMINAL,)),
    Row("kernel's own cache", Outcome.NOT_TRIGGERED, r"the cache never grew$", (NOMINAL,)),
    # check_woken
    Row(
        "nobody is woken",
        Outcome.SLOW,
        r"callers are not woken: between window and window-end, (\d\d) of \1 that slept .* came back 67 ms or more",
        (NOMINAL,),
    ),
    Row(
        "nobody is woken after the recovery",
        Outcome.NO_RECOVERY,
        r"callers are not woken: between recovered and final, (\d{1,2}) of \1 that slept .* came back 67 ms or more",
        (HELD, *TRAP),
    ),
    Row(
        "nobody is woken, and nobody counts who slept",
        Outcome.NO_RECOVERY,
        r"callers are not woken: between recovered and final, \d{1,2} allocations took 67 ms or more",
        (*AFTER, *TRAP),
    ),
    # check_magazines
    Row(
        "objects are not there again",
        Outcome.SLOW,
        r"objects do not come from the magazines: of \d+ that a thread had given back on the same CPU, 64 were not",
        (NOMINAL,),
    ),
    Row(
        "magazines of one",
        Outcome.SLOW,
        r"objects do not come from the magazines: only \d+ of 1[01]\d{4} allocations found one there; a magaz",
        (NOMINAL,),
    ),
    Row(
        "nothing is asked for again",
        Outcome.INCONCLUSIVE,
        r"no object was given back to a magazine and asked for again$",
        (NOMINAL,),
    ),
    Row(
        "magazines not counted",
        Outcome.INCONCLUSIVE,
        r"nobody counted which objects came from the magazines of the CPUs$",
        (NOMINAL,),
    ),
    # check_rows
    Row(
        "size is wrong",
        Outcome.MISCOUNTED,
        r"slab file at 5\.\d{3} s: slabprobe: size is \d+, but \d+ slabs of 524672",
        ALL,
    ),
    Row(
        "emergency objects below zero",
        Outcome.MISCOUNTED,
        r"slab file at 4\.\d{3} s: slabprobe: emergency alloc is 18446744073709551615, it went below zero by 1$",
        ALL,
    ),
    Row("maximum goes down", Outcome.MISCOUNTED, r"slab file at 6\.\d{3} s: .* emergency max went down from 69 to 64$"),
    Row("timeouts go down", Outcome.MISCOUNTED, r"slab file at 6\.\d{3} s: .* dlock went down from \d to \d$", ALL),
    Row(
        "no cache in the slab file",
        Outcome.INCONCLUSIVE,
        r"for 3\.\d{3} s of the window the slab file was not read with the cache slabprobe in it$",
        ALL,
    ),
    # check_read
    Row(
        "slab file not read in the window",
        Outcome.INCONCLUSIVE,
        r"for \d\.\d{3} s of the window the slab file was not read with the cache slabprobe in it$",
        ALL,
    ),
    Row(
        "slab file has the cache twice",
        Outcome.INCONCLUSIVE,
        r"for 3\.\d{3} s of the window the slab file was not read with the cache slabprobe in it$",
        ALL,
    ),
    # check_maximum
    Row(
        "maximum too low",
        Outcome.MISCOUNTED,
        r"the slab file's maximum is 64 emergency objects, the probe held 71$",
    ),
    Row(
        "maximum too high",
        Outcome.MISCOUNTED,
        r"the slab file's maximum is \d+ emergency objects, the probe never held more than (0|32|64|112)$",
        ALL,
    ),
    Row("timeouts not counted", Outcome.MISCOUNTED, r"\d+ emergency objects were handed out, yet dlock is 0$"),
    # check_audit
    Row(
        "emergency objects miscounted at rest",
        Outcome.MISCOUNTED,
        r"at rest the slab file has (64|32|0|112) emergency objects, the probe holds (65|33|1|113)$",
        ALL,
    ),
    Row(
        "kernel's own cache", Outcome.MISCOUNTED, r"at rest the slab file has 0 emergency objects, the probe holds 64$"
    ),
    Row(
        "slab objects miscounted at rest",
        Outcome.MISCOUNTED,
        r"at rest the slab file has (64|0) slab objects, the probe holds (134|70)$",
        BOTH,
    ),
    Row("objects damaged", Outcome.MISCOUNTED, r"critical thread 1: 2 objects came back damaged, 0 allocations", BOTH),
    Row("allocations failed", Outcome.MISCOUNTED, r"critical thread 0: 0 objects .*, 4 allocations .* failed$", BOTH),
    Row("threads not at rest", Outcome.INCONCLUSIVE, r"the threads did not come to rest, so nothing could be c", ALL),
    Row("slab file not read at rest", Outcome.INCONCLUSIVE, r"the threads did not come to rest, so nothing could", ALL),
    # check_recovered
    Row(
        "emergency objects do not drain",
        Outcome.NO_RECOVERY,
        r"emergency objects did not drain after the release: 3 in use, flags 0x00080$",
    ),
    Row("cache stays deadlocked", Outcome.NO_RECOVERY, r"emergency objects did not drain .*: 0 in use, flags 0x04080$"),
    Row(
        "slab file not read after the release", Outcome.INCONCLUSIVE, r"the slab file was never read after the release$"
    ),
    Row(
        "emergency objects after the recovery",
        Outcome.NO_RECOVERY,
        r"9 more emergency objects were handed out after",
        (*AFTER, *CAUGHT, POOL),
    ),
    Row(
        "emergency objects only after the recovery",
        Outcome.NO_RECOVERY,
        r"900000 more emergency objects were handed out after",
        (LOADED,),
    ),
    Row(
        "thread 1 stands still after the recovery",
        Outcome.NO_RECOVERY,
        r"critical thread 1 \(pid 129\) finished no round after the recovery$",
        AFTER,
    ),
    Row(
        "thread 1 rests after the recovery",
        Outcome.NO_RECOVERY,
        r"critical thread 1 \(pid 129\) finished no round after the recovery$",
        AFTER,
    ),
    Row(
        "threads not looked at after the recovery",
        Outcome.INCONCLUSIVE,
        r"nobody looked at what came after the recovery$",
        AFTER,
    ),
    Row(
        "threads hardly looked at after the recovery",
        Outcome.INCONCLUSIVE,
        r"critical thread 0 .* finished no round after the recovery \(the guest was starved: readings 1\d{3}\.\d ms",
    ),
    # check_drained
    Row(
        "thread 1 does not stop",
        Outcome.NO_RECOVERY,
        rf"1 {BACK}; thread 1 waits for an object since \d+\.\d{{3}} s$",
        BOTH,
    ),
    Row("thread 0 does not stop", Outcome.NO_RECOVERY, rf"1 {BACK}; thread 0 waits for an object since \d", TRAP),
    Row("emergency object left", Outcome.NO_RECOVERY, r"1 emergency objects are left although every object was g", ALL),
    Row(
        "flagged deadlocked at the end", Outcome.NO_RECOVERY, r"the cache is still flagged deadlocked \(0x04080\)", ALL
    ),
    Row("flagged growing at the end", Outcome.NO_RECOVERY, r"the cache is still flagged growing \(0x08080\)", ALL),
    Row(
        "slab file not read at the end", Outcome.INCONCLUSIVE, r"nothing was read after the threads were stopped$", ALL
    ),
    Row("probe not read at the end", Outcome.INCONCLUSIVE, r"nothing was read after the threads were stopped$", ALL),
)

# What the host does to a guest, and what else is no reason for another verdict as long as it is all there is.
STARVED = ("host starves the guest", "guest gets no CPU for a moment")
HARMLESS = (
    *STARVED,
    "memory is not low for a moment",
    "load's reports torn for a moment",
    "another worker is held as well",
)
