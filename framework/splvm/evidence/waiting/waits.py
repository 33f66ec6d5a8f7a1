"""Which function of a stack means which wait, and who ends such a wait: the tables behind waitgraph.py.

A wait that is new is one row of `ROWS`, who ends it one of `ROLES`; each says where in the source it is.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from splvm.evidence.formats.stacks import SCHEDULER


class WaitReason(enum.StrEnum):
    """What a thread waits for."""

    HELD = "held"  # for the host: slabprobe holds the slab worker
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
    COMPLETION = "completion"
    IDLE = "idle"  # for work: not blocked
    UNKNOWN = "unknown"


class Role(enum.StrEnum):
    """Who can end a wait."""

    TRANSACTION = "transaction"
    CRITICAL = "critical"
    SLAB_WORKER = "slab_worker"
    TXG_QUIESCE = "txg_quiesce"
    TXG_SYNC = "txg_sync"
    TX_HOLDER = "tx_holder"
    ZIO = "zio"
    ZVOL = "zvol"
    ARC = "arc"
    KSWAPD = "kswapd"
    KCOMPACTD = "kcompactd"
    FLUSHER = "flusher"
    SWAP_USER = "swap_user"


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
    # Only with one of these further out.
    within: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class RoleRow:
    """How a role is recognised: by the name of the thread or by a function anywhere in its stack."""

    role: Role
    source: str
    # A pattern for the whole name.
    comm: str = ""
    functions: frozenset[str] = frozenset()
    # Of the functions that a stack must not have, if the name does not fit.
    without: frozenset[str] = frozenset()
    # What stands before the name in a sentence.
    title: str = ""


def _names(names: str) -> frozenset[str]:
    return frozenset(names.split())


# Put a thread to sleep for whoever called them, as those of the scheduler do (module/os/linux/spl/spl-condvar.c).
WAITERS = SCHEDULER | _names(
    "cv_wait_common __cv_wait __cv_wait_io __cv_wait_io_sig __cv_wait_sig __cv_wait_idle __cv_wait_interruptible"
    " __cv_timedwait_common __cv_timedwait __cv_timedwait_io __cv_timedwait_sig __cv_timedwait_idle"
    " cv_timedwait_hires_common cv_timedwait_hires cv_timedwait_idle_hires __cv_timedwait_hires spl_wait_on_bit"
    " msleep usleep_range usleep_range_state"
)
# mm/vmscan.c, since 6.7 mm/shrinker.c: what they call is the shrinker.
SHRINKERS = _names("do_shrink_slab shrink_slab shrink_slab_node shrink_slab_memcg")
# mm/vmscan.c: where reclaim begins, and where kswapd's does.
DIRECT_RECLAIM = _names("try_to_free_pages try_to_free_mem_cgroup_pages __node_reclaim balance_pgdat")

_SWAP_IN = _names("do_swap_page swapin_readahead swap_cluster_readahead read_swap_cache_async shmem_swapin_folio")
_SWAP_SUBMIT = _names(
    "swap_readpage swap_read_folio swap_writepage swap_writeout __swap_writepage swap_writepage_bdev_async"
)
_PAGE = _names(
    "folio_wait_bit_common folio_wait_bit folio_wait_bit_killable folio_wait_writeback __folio_lock"
    " __folio_lock_killable __folio_lock_or_retry wait_on_page_bit wait_on_page_bit_common wait_on_page_writeback"
    " __lock_page __lock_page_killable __lock_page_or_retry"
)

# The innermost function that is in a row decides; of several rows with it, the first.
ROWS: tuple[WaitRow, ...] = (
    WaitRow(
        WaitReason.HELD,
        "the host",
        # The compiler may make one function of the two. Outside of the original they mean nothing: hence `top`.
        _names("slabprobe_held_grow slabprobe_grow_work"),
        (),
        "wait_event() of slabprobe_held_grow(), images/slabprobe/hold.c",
        top=True,
    ),
    WaitRow(
        WaitReason.SLAB_GROWTH,
        "the slab worker",
        # The compiler may put spl_cache_grow() into its callers.
        _names("spl_cache_grow spl_cache_refill spl_kmem_cache_alloc"),
        (Role.SLAB_WORKER,),
        "wait_event_timeout() on skc_waitq, spl_cache_grow(), module/os/linux/spl/spl-kmem-cache.c",
        top=True,
    ),
    WaitRow(
        WaitReason.COMMIT,
        "the commit",
        _names("slabprobe_wait_commit slabprobe_shrink_scan"),
        (Role.TRANSACTION,),
        "slabprobe_wait_commit(), images/slabprobe/cycle.c: a shrinker that waits, as a filesystem's does, for commits",
        own=True,
    ),
    WaitRow(
        WaitReason.TXG,
        "the transaction group",
        _names("txg_wait_open txg_wait_synced txg_wait_synced_impl txg_wait_synced_flags dmu_tx_wait"),
        (Role.TXG_SYNC, Role.TXG_QUIESCE),
        "tx_quiesce_done_cv and tx_sync_done_cv, module/zfs/txg.c; dp_spaceavail_cv of dmu_tx_wait(), dmu_tx.c",
        own=True,
    ),
    WaitRow(
        WaitReason.TXG_HOLD,
        "the open transaction",
        # The compiler makes one function of the two.
        _names("txg_quiesce txg_quiesce_thread"),
        (Role.TX_HOLDER,),
        "cv_wait() on tc_cv until tc_count is 0, txg_quiesce(), module/zfs/txg.c",
        top=True,
    ),
    WaitRow(WaitReason.ZIO, "the I/O", _names("zio_wait"), (Role.ZIO,), "io_cv of zio_wait(), module/zfs/zio.c"),
    WaitRow(
        WaitReason.ZIL,
        "the log write",
        _names("zil_commit_waiter zil_commit_impl zil_commit"),
        (Role.ZIO,),
        "zcw_cv of zil_commit_waiter(), signalled by zil_lwb_flush_vdevs_done(), module/zfs/zil.c",
    ),
    WaitRow(
        WaitReason.BUFFER,
        "the buffer",
        _names("dbuf_read dbuf_read_impl dmu_buf_hold_array_by_dnode"),
        (Role.ZIO,),
        "db_changed of dbuf_read(), signalled by dbuf_read_done(), module/zfs/dbuf.c and dmu.c",
    ),
    WaitRow(
        WaitReason.BIO,
        "the bio",
        _names("mempool_alloc mempool_alloc_noprof"),
        (Role.ZVOL, Role.FLUSHER),
        "bio_alloc_bioset(), block/bio.c, waits until another bio of the pool ends; on a zvol zvol_write() ends it",
        within=_names("bio_alloc_bioset bio_alloc bio_alloc_clone bio_clone_fast"),
    ),
    WaitRow(
        WaitReason.SWAP_IO,
        "the swap I/O",
        _PAGE,
        (Role.ZVOL,),
        "do_swap_page() locks the page that it reads, mm/memory.c; swap is on a zvol in openzfs #7734",
        within=_SWAP_IN,
    ),
    WaitRow(
        WaitReason.PAGE,
        "the page",
        _PAGE | _names("__wait_on_buffer __lock_buffer migration_entry_wait_on_locked"),
        (Role.ZVOL, Role.FLUSHER, Role.KSWAPD, Role.KCOMPACTD, Role.SWAP_USER),
        "folio_wait_bit_common(), mm/filemap.c (wait_on_page_bit_common() before 5.16); fs/buffer.c; mm/migrate.c",
    ),
    WaitRow(
        WaitReason.SWAP_IO,
        "the swap I/O",
        _SWAP_SUBMIT | _SWAP_IN,
        (Role.ZVOL,),
        "mm/page_io.c: a request or a bio is not to be had, or a synchronous read is not back",
    ),
    WaitRow(
        WaitReason.ZVOL,
        "the range lock",
        _names("zfs_rangelock_enter zfs_rangelock_enter_impl zfs_range_lock"),
        (Role.ZVOL,),
        "lr_write_cv and lr_read_cv, module/zfs/zfs_rlock.c; taken by zvol_write(), module/os/linux/zfs/zvol_os.c",
    ),
    WaitRow(
        WaitReason.ARC,
        "the eviction",
        _names("arc_wait_for_eviction arc_shrinker_scan __arc_shrinker_func"),
        (Role.ARC,),
        "aew_cv of arc_wait_for_eviction(), module/zfs/arc.c; arc_shrinker_scan(), module/os/linux/zfs/arc_os.c",
    ),
    WaitRow(
        WaitReason.SHRINKER,
        "something that no row of the table knows",
        SHRINKERS,
        (),
        "do_shrink_slab(), mm/shrinker.c: the shrinker's own wait is not in this table",
    ),
    WaitRow(
        WaitReason.RECLAIM,
        "the reclaim",
        _names(
            "reclaim_throttle throttle_direct_reclaim wait_iff_congested congestion_wait shrink_folio_list"
            " shrink_page_list shrink_inactive_list shrink_lruvec shrink_node shrink_zone balance_pgdat"
        ),
        (Role.KSWAPD, Role.ZVOL, Role.FLUSHER),
        "reclaim_throttle() and throttle_direct_reclaim(), mm/vmscan.c; congestion_wait() until 5.15, mm/backing-dev.c",
    ),
    WaitRow(
        WaitReason.RECLAIM,
        "the reclaim",
        _names("do_try_to_free_pages try_to_free_pages try_to_free_mem_cgroup_pages __alloc_pages_slowpath"),
        (Role.KSWAPD, Role.ZVOL, Role.FLUSHER),
        "__alloc_pages_slowpath(), mm/page_alloc.c, tries again and again as long as it sees progress",
        running=True,
    ),
    WaitRow(
        WaitReason.LOCK,
        "a lock",
        _names(
            "__mutex_lock __mutex_lock_slowpath mutex_lock rwsem_down_read_slowpath rwsem_down_write_slowpath"
            " rwsem_down_read_failed rwsem_down_write_failed down_read down_write"
        ),
        (),
        "kernel/locking/mutex.c and rwsem.c: the owner is in the lock and in no stack",
    ),
    WaitRow(
        WaitReason.COMPLETION,
        "a completion",
        _names("wait_for_completion wait_for_completion_io wait_for_completion_timeout wait_for_completion_killable"),
        (),
        "kernel/sched/completion.c: whoever completes it is in no stack",
        fallback=True,
    ),
    WaitRow(
        WaitReason.IDLE,
        "work",
        # In state D where there is no TASK_IDLE, that is, before 4.2, and where nobody used it.
        _names(
            "taskq_thread txg_thread_wait worker_thread rescuer_thread kthread_worker_fn smpboot_thread_fn kthreadd"
            " kswapd kcompactd rcu_gp_kthread critical_thread one_round arc_reap_cb"
        ),
        (),
        "the loops of kernel threads: kernel/workqueue.c, kthread.c, smpboot.c, mm/vmscan.c; spl-taskq.c, txg.c;"
        " idle() of images/slabprobe/threads.c; the delay() of arc_reap_cb(), module/zfs/arc.c",
        top=True,
    ),
)
UNKNOWN_ROW = WaitRow(WaitReason.UNKNOWN, "something that no row of the table knows", frozenset(), (), "this table")

# The most telling first: a cycle is told from there. A thread may have several roles.
ROLES: tuple[RoleRow, ...] = (
    RoleRow(
        Role.TRANSACTION,
        "slabprobe_transaction(), images/slabprobe/threads.c: the thread that allocates and then commits",
        comm="slabprobe/tx",
        functions=_names("slabprobe_transaction"),
        title="the transaction thread",
    ),
    RoleRow(Role.CRITICAL, "spawn(), images/slabprobe/threads.c", comm=r"slabprobe/\d+"),
    RoleRow(
        Role.SLAB_WORKER,
        "taskq spl_kmem_cache, spl_kmem_cache_init(), module/os/linux/spl/spl-kmem-cache.c",
        comm=r"spl_kmem_cache(?:/\d*)?",
        functions=_names("spl_cache_grow_work"),
        title="the slab worker",
    ),
    RoleRow(Role.TXG_QUIESCE, "txg_sync_start(), module/zfs/txg.c", comm="txg_quiesce"),
    RoleRow(Role.TXG_SYNC, "txg_sync_start(), module/zfs/txg.c", comm="txg_sync"),
    RoleRow(
        Role.TX_HOLDER,
        "these are given a transaction that is assigned to an open group, module/zfs/dmu.c, dbuf.c, zil.c, zvol.c",
        functions=_names(
            "dmu_write dmu_write_uio_dnode dmu_write_uio_dbuf dmu_assign_arcbuf_by_dbuf dmu_free_long_range_impl"
            " dmu_free_range dmu_buf_will_dirty dmu_buf_will_fill dbuf_dirty zvol_log_write zvol_log_truncate"
            " zfs_log_write zil_lwb_write_issue dmu_tx_commit"
        ),
        # There the transaction is of a group that is no longer open.
        without=_names("spa_sync dsl_pool_sync txg_sync_thread"),
    ),
    RoleRow(
        Role.ZIO,
        "spa_taskqs_init(), module/zfs/spa.c: z_ with the type of the I/O and the queue",
        comm=r"z_(?:rd|wr|fr|cl|null|ioctl|flush|trim)_(?:iss|int).*",
    ),
    RoleRow(
        Role.ZVOL,
        "zvol_init(), module/os/linux/zfs/zvol_os.c: zvol, and zvol_tq-N since 2.3",
        comm=r"zvol(?:/\d*|_tq-\d+)?",
    ),
    RoleRow(Role.ARC, "arc_init(), module/zfs/arc.c", comm=r"arc_(?:evict|prune|reap|adapt|reclaim)"),
    RoleRow(Role.KSWAPD, "kswapd_run(), mm/vmscan.c", comm=r"kswapd\d+"),
    RoleRow(Role.KCOMPACTD, "kcompactd_run(), mm/compaction.c", comm=r"kcompactd\d+"),
    RoleRow(
        Role.FLUSHER,
        "wb_workfn(), fs/fs-writeback.c, on a kworker; a thread flush-M:N before 3.10",
        comm=r"flush-\S+",
        functions=_names("wb_workfn bdi_writeback_workfn"),
    ),
    RoleRow(
        Role.SWAP_USER,
        "the page is locked from before the I/O to its end, mm/memory.c, mm/vmscan.c",
        functions=_SWAP_IN | _SWAP_SUBMIT,
    ),
)
