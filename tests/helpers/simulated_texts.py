"""What a simulated guest prints: its numbers, stacks, console, and the slab file."""

from __future__ import annotations

from collections.abc import Mapping

QEMU_LOG = b"$ qemu-system-x86_64 -M q35\n"
HARNESS_LOG = b"booting a guest ...\nbooting a guest: done in 4.3 s\n"

# Page allocations that were to fail.
INJECTED = 8

PERIOD_NS = 50_000_000
BASE_NS = 4_000_000_000

# What each critical thread does: so many objects a round, so many rounds a tick.
THREADS = 2
OBJECTS = 32
ROUNDS = 3
SIZE = 65_536

# Part of the time for which virtual CPUs wait for the host's even if it has nothing else to do.
QUIET_HOST = 0.02
# What a storm is set to.
STORM_SETTINGS = {"ops": 0xFFF, "rate": 1, "trap": 3, "mark": 1, "helpers": 0, "threads": 3, "how": 3}
STORM_PIDS = (131, 132)
CLIENT_PIDS = (141, 142)
TAKER_PIDS = (151, 152)
# Objects in hand of each kind, and those of the first that are emergency objects.
IN_HAND = 12
IN_EMERGENCY = 2

# Commits that whoever is caught in the trap waits for.
COMMITS = 300

# What the thread of LONG keeps at most, besides those that it gives back while that is timed.
KEEP = 100
TIMED = 12

PER_SLAB = 8
SLAB_SIZE = 524_672
KVMEM, DEADLOCKED, GROWING = 0x80, 0x4000, 0x8000

HOLD = ("armed", "held", "pid", "since_ns", "entries", "released_ns")
WORKER_PID = 114
THREAD_PIDS = (128, 129)
BLOCKS: tuple[int, ...] = (0, 2, 2, 3, 2, 2, 2, 2, 2, 3, 86)
LATENCY_BOUND_MS = 500


CONSOLE = """\
[    0.000000] Linux version 6.1.0-56-cloud-amd64 (builder@example) (gcc-12 (Debian 12.2.0-14) 12.2.0) #1 SMP
[    0.000000] Command line: console=ttyS0 panic=-1 oops=panic ignore_loglevel
[    1.880030] Run /init as init process
[    3.402118] slabprobe: loading out-of-tree module taints kernel.
"""

_KTHREAD = "[<0>] kthread+0xd7/0x100\n[<0>] ret_from_fork+0x1f/0x30\n"
_LISTENS = f"[<0>] taskq_thread+0x425/0x510 [spl]\n{_KTHREAD}"
_HELD = f"[<0>] slabprobe_grow_work+0xfa/0x140 [slabprobe]\n[<0>] taskq_thread+0x2e0/0x510 [spl]\n{_KTHREAD}"
GROWS_STACK = (
    "[<0>] __vmalloc_node+0x4a/0x60\n[<0>] spl_cache_grow_work+0x7c/0x2b0 [spl]\n"
    f"[<0>] taskq_thread+0x2e0/0x510 [spl]\n{_KTHREAD}"
)
TRAP_STACK = (
    "[<0>] slabprobe_wait_commit+0xe8/0x130 [slabprobe]\n[<0>] slabprobe_shrink_scan+0x7c/0xb0 [slabprobe]\n"
    "[<0>] do_shrink_slab+0x142/0x240\n[<0>] shrink_slab+0xac/0x2a0\n[<0>] shrink_node+0x2c0/0x710\n"
    "[<0>] do_try_to_free_pages+0xd1/0x4d0\n[<0>] try_to_free_pages+0xf1/0x1a0\n"
)
_TABLE = (
    "[<0>] slabprobe_pte_alloc_kernel+0xf5/0x120 [slabprobe]\n[<0>] map_kernel_range_noflush+0x30d/0x380\n"
    "[<0>] __vmalloc_area_node+0x19d/0x230\n[<0>] __vmalloc+0x97/0xd0\n"
)
GROWTH_STACK = (
    "[<0>] spl_cache_grow_work+0x6f/0x240 [spl]\n[<0>] slabprobe_grow_work+0x51/0x140 [slabprobe]\n"
    f"[<0>] taskq_thread+0x2e0/0x510 [spl]\n{_KTHREAD}"
)
_CAUGHT = TRAP_STACK + _TABLE + GROWTH_STACK
_CAUGHT_ITSELF = (
    f"{TRAP_STACK}{_TABLE}[<0>] spl_kmem_cache_alloc+0x328/0x5d0 [spl]\n"
    f"[<0>] slabprobe_transaction+0x1b/0x30 [slabprobe]\n[<0>] critical_thread+0x74/0x340 [slabprobe]\n{_KTHREAD}"
)
_WAITS = f"[<0>] spl_kmem_cache_alloc+0x550/0x5c0 [spl]\n[<0>] critical_thread+0x74/0x340 [slabprobe]\n{_KTHREAD}"
# The probe's own thread that takes memory, asleep for good but in `reclaim-organic`.
_MEMORY_TASK = (
    "task pid=120 comm=slabprobe/mem state=I voluntary=2 nonvoluntary=0\n"
    f"[<0>] slabprobe_take+0x5f/0x220 [slabprobe]\n{_KTHREAD}"
)
_IDLES = f"[<0>] idle+0xaf/0xf0 [slabprobe]\n[<0>] critical_thread+0x32/0x340 [slabprobe]\n{_KTHREAD}"


_STORMED = (
    "[<0>] slabprobe_storm_wait+0xb8/0x130 [slabprobe]\n[<0>] slabprobe_storm_scan+0x7c/0xb0 [slabprobe]\n"
    f"{TRAP_STACK.split(chr(10), 2)[2]}[<0>] slabprobe_storm_reclaim+0x51/0x60 [slabprobe]\n"
    "[<0>] __get_free_pages+0x11/0x40\n[<0>] spl_emergency_alloc+0xd7/0x200 [spl]\n"
    f"[<0>] slabprobe_storm_transaction+0x33/0xd0 [slabprobe]\n{_KTHREAD}"
)

# Context switches of the worker when it comes to be held: a few for each tick before.
WORKER_SWITCHES = 2 + 6 * 12


def worker_text(
    state: str = "D", stack: str = _HELD, switches: tuple[int, int] = (WORKER_SWITCHES, 0), rest: str = ""
) -> str:
    """What `tasks` says of the worker."""
    header = f"task pid={WORKER_PID} comm=spl_kmem_cache state={state}"
    return f"{header} voluntary={switches[0]} nonvoluntary={switches[1]}{rest}\n{stack}"


TXG_HEADING = "txg birth state ndirty nread nwritten reads writes otime qtime wtime stime"

# Band and level of each load.
_BANDS = {
    "writeback": (4096, 24_576, 12_900),
    "lowmem": (16_384, 49_152, 33_000),
    "zfs": (64, (1 << 63) - 1, 6000),
    "zfs-mmap": (64, (1 << 63) - 1, 6000),
    "zvol-swap": (32_768, (1 << 63) - 1, 60_000),
    "disk-swap": (32_768, (1 << 63) - 1, 60_000),
    "arc-mlock": (737_280, 819_200, 800_000),
}

# A report of a load that nobody asked for.
OTHER_LOAD = (
    "splvm-load 1\nat seq=9 now_ns=5000000000 cpu_us=10\n"
    "memory total=406312 available=300000 free=290000 dirty=0 writeback=0 written=0 swap=0 scanned=0 scanned_direct=0 "
    "some_us=0 full_us=0 oom_kills=0\n"
    "load memcg unit=KiB low=24576 high=32768 level=32000 since_ns=4500000000 done_kib=5\nend seq=9\n"
)


# --- the slab file as the kernel prints it ----------------------------------------------------------------------------

SLAB_HEADER = (
    "--------------------- cache -------------------------------------------------------  "
    "----- slab ------  ---- object -----  --- emergency ---\n"
    "name                                    flags      size     alloc slabsize  objsize  "
    "total alloc   max  total alloc   max  dlock alloc   max\n"
)
ZLIB = {"flags": KVMEM, "slabsize": 2_145_216, "objsize": 268_104}
_SIZES = ("flags", "size", "alloc", "slabsize", "objsize")
_SLAB = ("slab.total", "slab.alloc", "slab.max")
_OBJECT = ("object.total", "object.alloc", "object.max")
_EMERGENCY = ("emergency.dlock", "emergency.alloc", "emergency.max")
CELLS = (*_SIZES, *_SLAB, *_OBJECT, *_EMERGENCY)


def slab_row(name: str, cells: Mapping[str, int]) -> str:
    """One cache, as slab_seq_show() prints it."""
    flags, size, alloc, slabsize, objsize = (cells[cell] for cell in _SIZES)
    groups = "".join(f"  {cells[a]:5} {cells[b]:5} {cells[c]:5}" for a, b, c in (_SLAB, _OBJECT, _EMERGENCY))
    return f"{name:36}  {flags:#07x} {size:9} {alloc:9} {slabsize:8} {objsize:8}{groups}\n"


def kernel_row(name: str, objects: int, size: int = SIZE) -> str:
    """The same for a cache that the kernel's own allocator backs."""
    dashes = f"  {'-':>5} {'-':>5} {'-':>5}"
    sizes = f"{'-':>9} {objects * size:9} {'-':>8} {size:8}"
    return f"{name:36}  0x00100 {sizes}{dashes}  {'-':>5} {objects:5} {'-':>5}{dashes}\n"
