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
    RRW = "rrw"  # a lock of ZFS's own that many read and one writes
    CONFIG = "config"  # the pool's configuration lock
    TASKQ = "taskq"  # the tasks of a taskq are to end
    QUEUE = "queue"  # another thread is to put something into a queue, or to take it out
    INODE = "inode"  # an inode is to be evicted or written back
    UMOUNT = "umount"  # a file system is to be mounted or unmounted
    MEMCG = "memcg"  # a memory cgroup is over its limit, and its tasks are slowed down
    KTHREAD = "kthread"  # a thread of the kernel is to be made
    MODULE = "module"  # a module is to be loaded
    DEVICE = "device"
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
    EVICTOR = "evictor"
    UMOUNTER = "umounter"
    KTHREADD = "kthreadd"
    TASKQ = "taskq"
    VDEV_QUEUE = "vdev_queue"
    OBJECT = "object"


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
    # Only of threads that have this role.
    of: Role | None = None
    # Each of the holders has to go on, and not the one that nobody knows.
    each: bool = False
    # Only if the function that asked for it, the first further out that is not of the row, is one of these.
    asked_by: frozenset[str] = frozenset()
    # What ends it has a name and waits for no thread: the wait cannot close a cycle.
    named: bool = False


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

_TXG = _names("txg_wait_open txg_wait_synced txg_wait_synced_impl txg_wait_synced_flags dmu_tx_wait")
# These have a transaction that is assigned already.
_TX_ASSIGNED = _names(
    "dmu_write dmu_write_uio_dnode dmu_write_uio_dbuf dmu_assign_arcbuf_by_dbuf dmu_free_range dmu_buf_will_dirty"
    " dmu_buf_will_fill dbuf_dirty zvol_log_write zvol_log_truncate zfs_log_write dmu_tx_commit"
)
_LOCK = _names(
    "__mutex_lock __mutex_lock_slowpath mutex_lock mutex_lock_nested mutex_lock_killable"
    " mutex_lock_interruptible __mutex_lock_common __mutex_lock_killable_slowpath"
    " __mutex_lock_interruptible_slowpath rwsem_down_read_slowpath rwsem_down_write_slowpath"
    " rwsem_down_read_failed rwsem_down_write_failed rwsem_down_failed_common call_rwsem_down_read_failed"
    " call_rwsem_down_write_failed down_read down_write down_read_nested down_write_nested down_read_killable"
    " down_write_killable __down_read __down_write __down __down_common down rt_mutex_slowlock"
    " rwbase_read_lock rwbase_write_lock __rt_mutex_lock"
)
_MODULE = _names("request_module __request_module call_modprobe")

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
        named=True,
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
        _TXG,
        (Role.ZIO,),
        "a thread of the pipeline does the I/O that the group needs to be synced: openzfs/zfs pull request 4111",
        own=True,
        of=Role.ZIO,
    ),
    WaitRow(
        WaitReason.TXG,
        "the transaction group",
        _TXG,
        (Role.ZVOL,),
        "the group stays open until zvol_write() commits, module/os/linux/zfs/zvol_os.c; reclaim may come in between",
        own=True,
        of=Role.ZVOL,
        within=_TX_ASSIGNED,
    ),
    WaitRow(
        WaitReason.TXG,
        "the transaction group",
        _TXG,
        (Role.TXG_SYNC, Role.TXG_QUIESCE),
        "tx_quiesce_done_cv and tx_sync_done_cv, module/zfs/txg.c; dp_spaceavail_cv of dmu_tx_wait(), dmu_tx.c",
        own=True,
        each=True,
    ),
    WaitRow(
        WaitReason.TXG_HOLD,
        "the open transaction",
        # The compiler makes one function of the two.
        _names("txg_quiesce txg_quiesce_thread txg_wait_exit"),
        (Role.TX_HOLDER,),
        "cv_wait() on tc_cv until tc_count is 0, txg_quiesce(), module/zfs/txg.c",
        top=True,
        each=True,
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
        _names("dbuf_read dbuf_read_impl dmu_buf_hold_array_by_dnode arc_read"),
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
        "the lock of a device's queue",
        _LOCK,
        (Role.VDEV_QUEUE,),
        "vq_lock of vdev_queue_io_done(), module/zfs/vdev_queue.c: openzfs/zfs pull request 4111",
        asked_by=_names("vdev_queue_io_done vdev_queue_io vdev_queue_change_io_priority"),
    ),
    WaitRow(
        WaitReason.LOCK,
        "the lock of an object",
        _LOCK,
        (Role.OBJECT,),
        "z_hold_mtx, later zfs_znode_hold_enter(), module/os/linux/zfs/zfs_znode.c: openzfs/zfs issue 4106",
        asked_by=_names("zfs_zget zfs_zinactive zfs_znode_hold_enter zfs_rezget zfs_mknode"),
    ),
    WaitRow(
        WaitReason.LOCK,
        "a lock",
        _LOCK,
        (),
        "kernel/locking/mutex.c, rwsem.c, semaphore.c and rtmutex.c: the owner is in the lock and in no stack",
    ),
    WaitRow(
        WaitReason.CONFIG,
        "the pool's configuration lock",
        _names("spa_config_enter spa_config_enter_impl spa_config_enter_mmp spa_config_enter_priority"),
        (),
        "scl_cv of spa_config_enter_impl(), module/zfs/spa_misc.c: readers and writer are counted in no stack",
    ),
    WaitRow(
        WaitReason.RRW,
        "an rrw lock",
        _names(
            "rrw_enter rrw_enter_read rrw_enter_read_impl rrw_enter_read_prio rrw_enter_write rrm_enter rrm_enter_read"
            " rrm_enter_write"
        ),
        (),
        "rr_cv of rrw_enter_read_impl() and rrw_enter_write(), module/zfs/rrwlock.c",
    ),
    WaitRow(
        WaitReason.TASKQ,
        "the tasks of a taskq",
        _names(
            "taskq_wait taskq_wait_id taskq_wait_outstanding taskq_wait_check taskq_wait_id_check"
            " taskq_wait_outstanding_check taskq_cancel_id taskq_destroy"
        ),
        (Role.TASKQ,),
        "tq_wait_waitq of taskq_wait() and its kin, module/os/linux/spl/spl-taskq.c",
    ),
    WaitRow(
        WaitReason.QUEUE,
        "the other end of a queue",
        _names("bqueue_enqueue bqueue_enqueue_impl bqueue_dequeue zthr_cancel zthr_wait_cycle_done zthr_cancel_impl"),
        (),
        "bq_add_cv and bq_pop_cv, module/zfs/bqueue.c; zthr_wait_cv, module/zfs/zthr.c",
    ),
    WaitRow(
        WaitReason.INODE,
        "the inode",
        _names(
            "__wait_on_freeing_inode find_inode find_inode_fast inode_wait_for_writeback __inode_wait_for_writeback"
            " inode_sleep_on_writeback evict_inodes wait_on_inode"
        ),
        (Role.EVICTOR, Role.FLUSHER),
        "__wait_on_freeing_inode(), fs/inode.c, until evict() is done; inode_wait_for_writeback(), fs/fs-writeback.c",
    ),
    WaitRow(
        WaitReason.MODULE,
        "the module",
        _names("call_usermodehelper_exec"),
        (),
        "__request_module(), kernel/module/kmod.c: modprobe is to end",
        within=_MODULE,
    ),
    WaitRow(
        WaitReason.MODULE,
        "the module",
        _names("load_module idempotent_init_module idempotent_wait_for_completion resolve_symbol_wait") | _MODULE,
        (),
        "module_wq and idempotent_init_module(), kernel/module/main.c: another one loads it",
    ),
    WaitRow(
        WaitReason.UMOUNT,
        "the program that mounts or unmounts",
        _names(
            "call_usermodehelper_exec call_usermodehelper zfsctl_snapshot_mount zfsctl_snapshot_unmount autofs_wait"
            " autofs_mount_wait"
        ),
        (Role.UMOUNTER,),
        "zfsctl_snapshot_mount(), module/os/linux/zfs/zfs_ctldir.c; autofs_wait(), fs/autofs/waitq.c",
    ),
    WaitRow(
        WaitReason.MEMCG,
        "its memory cgroup to come below its limit",
        _names("mem_cgroup_handle_over_high __mem_cgroup_handle_over_high"),
        (),
        "mem_cgroup_handle_over_high(), mm/memcontrol.c: a penalty of 2 s at most, again and again",
        named=True,
    ),
    WaitRow(
        WaitReason.KTHREAD,
        "a new thread",
        _names(
            "__kthread_create_on_node kthread_create_on_node __thread_create taskq_thread_create spl_kthread_create"
            " kthread_stop"
        ),
        (Role.KTHREADD,),
        "kthread_create_on_node(), kernel/kthread.c: kthreadd makes the thread",
    ),
    WaitRow(
        WaitReason.DEVICE,
        "the device",
        _names("submit_bio_wait blkdev_issue_flush blk_execute_rq blkdev_issue_discard scsi_execute_cmd"),
        (),
        "submit_bio_wait(), block/bio.c; blk_execute_rq(), block/blk-mq.c: the end of the request",
        named=True,
    ),
    WaitRow(
        WaitReason.DEVICE,
        "a place in the device's queue",
        _names("rq_qos_wait wbt_wait blk_mq_get_tag get_request_wait __blk_mq_get_tag bt_get"),
        (),
        "rq_qos_wait(), block/blk-rq-qos.c; blk_mq_get_tag(), block/blk-mq-tag.c: other requests are to end",
        fallback=True,
        named=True,
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
            " kswapd kswapd_try_to_sleep kcompactd rcu_gp_kthread critical_thread one_round arc_reap_cb zthr_procedure"
        ),
        (),
        "the loops of kernel threads: kernel/workqueue.c, kthread.c, smpboot.c, mm/vmscan.c; spl-taskq.c, txg.c;"
        " idle() of images/slabprobe/threads.c; the delay() of arc_reap_cb(), module/zfs/arc.c",
        top=True,
    ),
)
# Functions of threads that wait for work.
IDLE = frozenset(name for row in ROWS if row.reason is WaitReason.IDLE for name in row.functions)
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
        functions=_names("dmu_free_long_range_impl zil_lwb_write_issue") | _TX_ASSIGNED,
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
    RoleRow(
        Role.EVICTOR,
        "evict(), fs/inode.c: the inode is being freed from its beginning to its end",
        functions=_names("evict"),
    ),
    RoleRow(
        Role.UMOUNTER,
        "cleanup_mnt(), fs/namespace.c, and the mount and umount of ZFS, module/os/linux/zfs/zpl_super.c",
        functions=_names("cleanup_mnt deactivate_super generic_shutdown_super zpl_kill_sb do_mount path_mount"),
    ),
    RoleRow(Role.KTHREADD, "kthreadd(), kernel/kthread.c: the thread that makes all others", comm="kthreadd"),
    RoleRow(
        Role.TASKQ,
        "taskq_thread(), module/os/linux/spl/spl-taskq.c: what works for whichever taskq",
        functions=_names("taskq_thread"),
    ),
    RoleRow(
        Role.VDEV_QUEUE,
        "vdev_queue_io_to_issue(), module/zfs/vdev_queue.c, works under vq_lock",
        functions=_names("vdev_queue_aggregate vdev_queue_io_to_issue"),
    ),
    RoleRow(
        Role.OBJECT,
        "zfs_zget(), zfs_mknode() and zfs_zinactive() hold the object, module/os/linux/zfs/zfs_znode.c",
        functions=_names("zfs_zget zfs_mknode zfs_zinactive zfs_rezget"),
    ),
)
