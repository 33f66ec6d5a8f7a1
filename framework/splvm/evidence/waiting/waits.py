"""What a thread may wait for, and what a row of the table of waits is; the table is in waitrows.py."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from splvm.evidence.formats.stacks import SCHEDULER
from splvm.evidence.waiting.roles import Role, names


class WaitReason(enum.StrEnum):
    """What a thread waits for."""

    HELD = "held"  # for the host: slabprobe holds the slab worker
    PANICKED = "panicked"  # for ever: ZFS found itself to be wrong, and stopped the thread
    SLAB_GROWTH = "slab_growth"
    COMMIT = "commit"  # of slabprobe's transaction
    TXG = "txg"  # a transaction group is to be opened or synced
    TXG_HOLD = "txg_hold"  # open transactions are to end, so that their group can be quiesced
    ZIO = "zio"
    ZIL = "zil"
    BUFFER = "buffer"  # of the DMU
    PAGE = "page"  # or a buffer of a block device: lock or writeback
    BIO = "bio"  # memory for a request to a block device
    SWAP_IO = "swap_io"
    ZVOL = "zvol"
    ARC = "arc"
    SHRINKER = "shrinker"
    RECLAIM = "reclaim"
    LOCK = "lock"
    RRW = "rrw"  # a lock of ZFS's own that many read and one writes
    CONFIG = "config"  # the pool's configuration lock
    TASKQ = "taskq"  # the tasks of a taskq are to end
    QUEUE = "queue"  # another thread is to put something into a queue, or to take it out
    INODE = "inode"  # an inode is to be evicted or written back
    UMOUNT = "umount"  # a file system is to be mounted or unmounted
    DIRTY = "dirty"  # fewer pages are to be dirty
    MEMCG = "memcg"  # a memory cgroup is over its limit, and its tasks are slowed down
    KTHREAD = "kthread"  # a thread of the kernel is to be made
    MODULE = "module"  # a module is to be loaded
    DEVICE = "device"
    REMOTE = "remote"  # a server on the net
    JOURNAL = "journal"  # of ext4
    RCU = "rcu"
    WORKQUEUE = "workqueue"
    ZFS_LOCK = "zfs_lock"  # one that ZFS makes of a mutex and a condition variable
    METASLAB = "metaslab"
    REFERENCES = "references"  # others are to let go of something
    STOP = "stop"  # a thread is to end or to pause
    SUSPENDED = "suspended"  # the pool is to be resumed
    COMPLETION = "completion"
    IDLE = "idle"  # for work: not blocked
    UNKNOWN = "unknown"


# Locks that have an owner.
OWNED_LOCKS = frozenset((WaitReason.LOCK, WaitReason.ZVOL, WaitReason.RRW, WaitReason.CONFIG, WaitReason.ZFS_LOCK))
# Those of which stacks tell kinds.
TOLD_LOCKS = OWNED_LOCKS - {WaitReason.ZFS_LOCK}


@dataclass(frozen=True, slots=True)
class WaitRow:
    """Functions that mean a wait, and who ends it."""

    reason: WaitReason
    # What is waited for.
    noun: str
    functions: frozenset[str]
    # Nobody, if stacks do not say who it could be.
    holders: tuple[Role, ...]
    # Where the wait is in the source.
    source: str
    # Only where the function is the one that sleeps, and not further out.
    top: bool = False
    # Only where no other row fits.
    fallback: bool = False
    # Also in state R.
    running: bool = False
    # A thread that has such a role itself waits for itself.
    own: bool = False
    # That only if no other thread may be the one.
    sole: bool = False
    # Only with one of these further out.
    within: frozenset[str] = frozenset()
    # Only of threads that have this role.
    of: Role | None = None
    # Each of the holders has to go on, and not the one that nobody knows.
    each: bool = False
    # Only if the function that asked for it, the first further out that is not of the row, is one.
    asked_by: frozenset[str] = frozenset()
    # What ends it has a name and waits for no thread: the wait cannot close a cycle.
    named: bool = False
    # Too many threads could end it for a guess to be worth something.
    vague: bool = False
    # What is waited for, if who waits for a thing of that kind has none to give to others.
    kind: str = ""


# Put a thread to sleep for whoever called them, as those of the scheduler do (module/os/linux/spl/spl-condvar.c);
# the last ones until 3.16, for wait_on_page_bit() and its kin (mm/filemap.c, fs/buffer.c).
WAITERS = SCHEDULER | names(
    "cv_wait_common __cv_wait __cv_wait_io __cv_wait_io_sig __cv_wait_sig __cv_wait_idle __cv_wait_interruptible"
    " __cv_timedwait_common __cv_timedwait __cv_timedwait_io __cv_timedwait_sig __cv_timedwait_idle"
    " cv_timedwait_hires_common cv_timedwait_hires cv_timedwait_idle_hires __cv_timedwait_hires spl_wait_on_bit"
    " msleep usleep_range usleep_range_state"
    " sync_page sync_page_killable sleep_on_page sleep_on_page_killable sync_buffer sleep_on_buffer"
)
# mm/vmscan.c, since 6.7 mm/shrinker.c: what they call is the shrinker.
SHRINKERS = names("do_shrink_slab shrink_slab shrink_slab_node shrink_slab_memcg")
# mm/vmscan.c: where reclaim begins, and where kswapd's does.
DIRECT_RECLAIM = names("try_to_free_pages try_to_free_mem_cgroup_pages __node_reclaim balance_pgdat")
# mm/memory.c and mm/filemap.c, and where x86 enters them: a page that is not there is brought in.
PAGE_FAULT = names(
    "handle_mm_fault __handle_mm_fault filemap_fault do_page_fault __do_page_fault page_fault exc_page_fault"
    " asm_exc_page_fault"
)
