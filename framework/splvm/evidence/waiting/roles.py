"""By what a thread is known that can end a wait: its name, or a function of its stack; the table behind waitgraph.py.

Each row of `ROLES` says where in the source it is.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from splvm.evidence.waiting.kernellocks import KERNEL_WAITS
from splvm.evidence.waiting.zfslocks import LOCKS


class Role(enum.StrEnum):
    """Who can end a wait."""

    TRANSACTION = "transaction"
    CRITICAL = "critical"
    SLAB_WORKER = "slab_worker"
    TXG_QUIESCE = "txg_quiesce"
    TXG_SYNC = "txg_sync"
    TX_HOLDER = "tx_holder"
    ZIO = "zio"
    ZIO_READ = "zio_read"
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
    RANGE = "range"
    RANGE_WRITER = "range_writer"
    FILLER = "filler"
    PAGE = "page"
    CONFIG = "config"
    METASLAB = "metaslab"
    JOURNAL = "journal"
    NAMESPACE = "namespace"
    ZVOL_STATE = "zvol_state"
    BLOCK_DEVICE = "block_device"
    LOG_WRITER = "log_writer"
    TEARDOWN = "teardown"
    TEARDOWN_READER = "teardown_reader"
    POOL_CONFIG_WRITER = "pool_config_writer"
    POOL_CONFIG_READER = "pool_config_reader"
    ZVOL_SUSPEND = "zvol_suspend"
    OBJSET = "objset"
    SNAPSHOTS = "snapshots"
    ERROR_LOG = "error_log"
    PREFETCH = "prefetch"
    IO_PARENT = "io_parent"
    ARC_LIST = "arc_list"
    SUPER_BLOCK = "super_block"
    SHRINKERS = "shrinkers"
    Z_RELE = "z_rele"
    Z_DRAIN = "z_drain"
    Z_ZVOL = "z_zvol"
    Z_METASLAB = "z_metaslab"
    Z_SEND = "z_send"
    Z_UPGRADE = "z_upgrade"
    DP_SYNC = "dp_sync"
    DBU_EVICT = "dbu_evict"
    OBJSET_FIND = "objset_find"
    TX_CALLBACK = "tx_callback"
    SPL_TASKQ = "spl_taskq"
    # Of Linux outside of ZFS, see kernellocks.py.
    FREEZER = "freezer"
    IN_QUEUE = "in_queue"
    TAG_SET = "tag_set"
    QUEUE_LIMITS = "queue_limits"
    NVME_ANA_LOCK = "nvme_ana_lock"
    NVME_HEAD = "nvme_head"
    DM_BUFIO = "dm_bufio"
    LOOP = "loop"
    RAID_BARRIER = "raid_barrier"
    RAID_RETRY = "raid_retry"
    BTRFS_RANGE = "btrfs_range"
    BTRFS_COMMIT = "btrfs_commit"
    BTRFS_HANDLE = "btrfs_handle"
    BTRFS_ORDERED = "btrfs_ordered"
    SCRUB_PAUSER = "scrub_pauser"
    SCRUBBER = "scrubber"
    MB_CACHE = "mb_cache"
    KERNFS = "kernfs"
    XFS_BUFFER = "xfs_buffer"
    XFS_LOG = "xfs_log"
    XFS_INODEGC = "xfs_inodegc"
    BLK_TIMEOUT = "blk_timeout"
    NVME_SCAN = "nvme_scan"
    NVME_ANA = "nvme_ana"
    NVME_DELETE = "nvme_delete"
    BCACHE_ALLOCATOR = "bcache_allocator"
    XFS_CIL = "xfs_cil"
    GFS2_GLOCK = "gfs2_glock"


@dataclass(frozen=True, slots=True)
class RoleRow:
    """How a role is recognised: by the name of a thread of the kernel, or by a function anywhere in a stack."""

    role: Role
    source: str
    # A pattern for the whole name.
    comm: str = ""
    functions: frozenset[str] = frozenset()
    # Of the functions that a stack must not have, if the name does not fit.
    without: frozenset[str] = frozenset()
    # What such a function calls before the thread has the role.
    before: frozenset[str] = frozenset()
    # Functions further out that a stack must have, and no name: what has one is known by it.
    beneath: frozenset[str] = frozenset()
    # What stands before the name in a sentence.
    title: str = ""


def names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


SWAP_IN = names("do_swap_page swapin_readahead swap_cluster_readahead read_swap_cache_async shmem_swapin_folio")
SWAP_SUBMIT = names(
    "swap_readpage swap_read_folio swap_writepage swap_writeout __swap_writepage swap_writepage_bdev_async"
)
# What takes a range lock: zfs_range_lock() until 0.7, rangelock_enter() before 0.8.0.
RANGE_LOCKS = names(
    "zfs_rangelock_enter zfs_rangelock_enter_impl zfs_rangelock_enter_writer zfs_rangelock_enter_reader"
    " rangelock_enter rangelock_enter_impl rangelock_enter_writer rangelock_enter_reader"
    " zfs_range_lock zfs_range_lock_impl zfs_range_lock_writer zfs_range_lock_reader range_lock"
)
# These have a transaction that is assigned already.
TX_ASSIGNED = names(
    "dmu_write dmu_write_uio_dnode dmu_write_uio_dbuf dmu_assign_arcbuf_by_dbuf dmu_free_range dmu_buf_will_dirty"
    " dmu_buf_will_fill dbuf_dirty zvol_log_write zvol_log_truncate zfs_log_write dmu_tx_commit dmu_object_claim"
    " dmu_object_claim_dnsize dmu_object_alloc dmu_object_alloc_dnsize dmu_object_alloc_impl dmu_object_reclaim"
    " dmu_object_reclaim_dnsize dmu_object_free dnode_allocate dnode_reallocate dnode_free zap_add zap_update"
    " zap_remove zfs_mknode zfs_link_create zfs_link_destroy sa_update sa_bulk_update"
)

# Taskqs by name, and who waits for their tasks. A name of a thread has 15 characters at most.
TASKQS: tuple[tuple[Role, str, frozenset[str], str], ...] = (
    (Role.Z_RELE, "z_zrele", names("zfsvfs_teardown zfs_sb_teardown zfs_preumount"), "zfs_vfsops.c; z_iput before 2.1"),
    (Role.Z_DRAIN, "z_unlinked_drain", names("zfs_unlinked_drain_stop_wait"), "zfs_dir.c"),
    (
        Role.Z_ZVOL,
        "z_zvol",
        names(
            "zvol_create_minors zvol_remove_minors zvol_rename_minors zvol_set_common zvol_set_snapdev zvol_set_volmode"
            " spa_export_common spa_export_os zfs_ioc_create"
        ),
        "zvol.c, spa.c",
    ),
    (Role.Z_METASLAB, "z_metaslab", names("metaslab_group_passivate spa_unload"), "metaslab.c, spa.c"),
    (Role.Z_SEND, "z_send", names("dump_bytes"), "zfs_ioctl.c"),
    (
        Role.Z_UPGRADE,
        "z_upgrade",
        names("dmu_objset_upgrade_stop zfs_ioc_userspace_upgrade zfs_ioc_id_quota_upgrade"),
        "dmu_objset.c, zfs_ioctl.c",
    ),
    (
        Role.DP_SYNC,
        "dp_sync_taskq",
        names("dsl_pool_sync dsl_pool_sync_mos dmu_objset_sync dmu_objset_create_sync dsl_scan_sync"),
        "dsl_pool.c, dmu_objset.c",
    ),
    (Role.DBU_EVICT, "dbu_evict", names("dmu_buf_user_evict_wait"), "dbuf.c"),
    (Role.OBJSET_FIND, "dmu_objset_find", names("dmu_objset_find_dp"), "dmu_objset.c"),
    (Role.TX_CALLBACK, "tx_commit_cb", names("txg_wait_callbacks"), "txg.c"),
    (
        Role.SPL_TASKQ,
        "spl_",
        names(
            "zvol_create_minors_impl zfsctl_snapshot_unmount_wait zfsctl_snapshot_timer_clear"
            " zfsctl_snapshot_unmount_cancel zfsctl_snapshot_unmount_delay"
        ),
        "zvol.c, zfs_ctldir.c: spl_system_taskq and spl_delay_taskq, spl-taskq.c",
    ),
    (Role.ARC, "arc_prune", names("arc_remove_prune_callback"), "arc.c"),
    (Role.SLAB_WORKER, "spl_kmem_cache", names("spl_kmem_cache_destroy"), "spl-kmem-cache.c"),
)

# arch/*/entry: a thread that came from user space is none of the kernel's, whatever it calls itself.
USER_ENTRIES = names(
    "do_syscall_64 x64_sys_call entry_SYSCALL_64_after_hwframe entry_SYSCALL_64_fastpath entry_SYSCALL_64 do_int80"
    " do_fast_syscall_32 system_call_fastpath system_call tracesys stub_clone el0_svc el0_svc_common el0t_64_sync"
    " el0_svc_naked system_call_exception system_call_common system_call_vectored_common __do_syscall"
)

# The most telling first: a cycle is told from there. A thread may have several roles.
ROLES: tuple[RoleRow, ...] = (
    RoleRow(
        Role.TRANSACTION,
        "slabprobe_transaction(), images/slabprobe/threads.c: the thread that allocates and then commits",
        comm="slabprobe/tx",
        functions=names("slabprobe_transaction slabprobe_storm_transaction"),
        title="the transaction thread",
    ),
    RoleRow(Role.CRITICAL, "spawn(), images/slabprobe/threads.c", comm=r"slabprobe/\d+"),
    RoleRow(
        Role.SLAB_WORKER,
        "taskq spl_kmem_cache, spl_kmem_cache_init(), module/os/linux/spl/spl-kmem-cache.c",
        comm=r"spl_kmem_cache(?:/\d*)?",
        functions=names("spl_cache_grow_work"),
        title="the slab worker",
    ),
    RoleRow(
        Role.TXG_QUIESCE,
        "txg_sync_start(), module/zfs/txg.c",
        comm="txg_quiesce",
        functions=names("txg_quiesce_thread"),
    ),
    RoleRow(
        Role.TXG_SYNC,
        "txg_sync_start(), module/zfs/txg.c; spa_sync() has no other caller",
        comm="txg_sync",
        functions=names("txg_sync_thread spa_sync"),
    ),
    RoleRow(
        Role.TX_HOLDER,
        "these are given a transaction that is assigned to an open group, module/zfs/dmu.c, dbuf.c, zil.c, zvol.c",
        functions=names("dmu_free_long_range_impl zil_lwb_write_issue") | TX_ASSIGNED,
        # There the transaction is of a group that is no longer open.
        without=names("spa_sync dsl_pool_sync txg_sync_thread"),
        before=names(
            "dmu_tx_assign dmu_tx_try_assign dmu_tx_wait dmu_tx_hold_free dmu_tx_hold_free_by_dnode txg_wait_synced"
        ),
    ),
    RoleRow(
        Role.ZIO,
        "spa_taskqs_init(), module/zfs/spa.c: z_ with the type of the I/O and the queue",
        comm=r"z_(?:rd|wr|fr|cl|null|ioctl|flush|trim)_(?:iss|int).*",
        functions=names("zio_execute __zio_execute"),
        beneath=names("taskq_thread"),
    ),
    RoleRow(
        Role.ZIO_READ,
        "the same for reads, and for what has no type",
        comm=r"z_(?:rd|null|ioctl)_(?:iss|int).*",
        functions=names("zio_execute __zio_execute"),
        beneath=names("taskq_thread"),
        without=names("zio_write_compress dbuf_write_done dbuf_write_ready arc_write_done zio_write_bp_init"),
    ),
    RoleRow(
        Role.ZVOL,
        "zvol_init(), module/os/linux/zfs/zvol_os.c: zvol, and zvol_tq-N since 2.3",
        comm=r"zvol(?:/\d*|_tq-\d+)?",
        functions=names("zvol_write zvol_read zvol_discard zvol_write_task zvol_read_task zvol_discard_task"),
        beneath=names("taskq_thread"),
    ),
    RoleRow(
        Role.ARC,
        "arc_init(), module/zfs/arc.c",
        comm=r"arc_(?:evict|prune|reap|adapt|reclaim)",
        functions=names("arc_evict_cb arc_prune_task arc_adapt_thread arc_reclaim_thread"),
    ),
    RoleRow(Role.KSWAPD, "kswapd_run(), mm/vmscan.c", comm=r"kswapd\d+", functions=names("kswapd")),
    RoleRow(Role.KCOMPACTD, "kcompactd_run(), mm/compaction.c", comm=r"kcompactd\d+", functions=names("kcompactd")),
    RoleRow(
        Role.FLUSHER,
        "wb_workfn(), fs/fs-writeback.c, on a kworker; a thread flush-M:N before 3.10",
        comm=r"flush-\S+",
        functions=names("wb_workfn bdi_writeback_workfn"),
    ),
    RoleRow(
        Role.SWAP_USER,
        "the page is locked from before the I/O to its end, mm/memory.c, mm/vmscan.c",
        functions=SWAP_IN | SWAP_SUBMIT,
    ),
    RoleRow(
        Role.EVICTOR,
        "evict(), fs/inode.c: the inode is being freed from its beginning to its end",
        functions=names("evict"),
    ),
    RoleRow(
        Role.UMOUNTER,
        "cleanup_mnt(), fs/namespace.c, and the mount and umount of ZFS, module/os/linux/zfs/zpl_super.c",
        functions=names("cleanup_mnt deactivate_super generic_shutdown_super zpl_kill_sb do_mount path_mount"),
    ),
    RoleRow(
        Role.RANGE,
        "zfs_rangelock_enter() near the beginning of these, module/zfs/{zfs_vnops,zvol}.c and module/os/linux/zfs",
        functions=names(
            "zfs_write zfs_read zfs_get_data zfs_putpage zfs_free_range zfs_extend zfs_trunc zfs_clone_range"
            " zfs_freesp zfs_space zfs_holey zfs_holey_common zfs_getpage zvol_write zvol_read zvol_get_data"
            " zvol_discard"
        ),
        # The lock is given back before that, or is not taken yet.
        before=RANGE_LOCKS | names("zil_commit rrm_enter_read zfs_enter"),
    ),
    RoleRow(
        Role.RANGE_WRITER,
        "zfs_write(), module/zfs/zfs_vnops.c, has the range for itself while it copies what a program gives it; it"
        " brings pages in before it asks for the range as well as while it has it",
        functions=names("zfs_write"),
        before=RANGE_LOCKS | names("zil_commit rrm_enter_read zfs_enter zfs_uio_prefaultpages uio_prefaultpages"),
    ),
    RoleRow(
        Role.FILLER,
        "dmu_buf_will_fill() to dmu_buf_fill_done() in dmu_write_uio_dnode(), module/zfs/dmu.c: openzfs/zfs pull"
        " request 7339",
        functions=names("dmu_write_uio_dnode"),
        before=names("dmu_buf_hold_array_by_dnode dmu_buf_will_fill dmu_buf_will_dirty dmu_buf_fill_done"),
    ),
    RoleRow(
        Role.PAGE,
        "the page is locked or marked as written back, mm/filemap.c, mm/page-writeback.c: openzfs/zfs issue 2976",
        functions=names(
            "zfs_putpage zpl_putpage zpl_writepage zpl_writepages zpl_readpage zpl_read_folio filemap_read_folio"
            " write_cache_pages writeback_iter"
        ),
        # No page is held there any more, or not yet.
        before=names("zil_commit filemap_get_pages"),
    ),
    RoleRow(
        Role.CONFIG,
        "spa_vdev_enter() to spa_vdev_exit(), module/zfs/{spa,vdev_rebuild}.c: openzfs/zfs issue 18210",
        functions=names(
            "spa_vdev_attach spa_vdev_add spa_vdev_detach spa_vdev_remove spa_vdev_split_mirror vdev_rebuild_thread"
        ),
        before=names(
            "spa_vdev_enter spa_config_enter spa_vdev_exit spa_vdev_config_exit spa_vdev_config_enter"
            " vdev_rebuild_range vdev_rebuild_ranges txg_wait_synced"
        ),
    ),
    RoleRow(
        Role.METASLAB,
        "metaslab_load_impl() and metaslab_flush(), module/zfs/metaslab.c",
        functions=names("metaslab_load_impl metaslab_load metaslab_flush vdev_trim_ranges vdev_initialize_ranges"),
        before=names("metaslab_load_wait metaslab_flush_wait"),
    ),
    RoleRow(
        Role.JOURNAL,
        "kjournald2(), fs/jbd2/journal.c",
        comm=r"jbd2/.*",
        functions=names("kjournald2"),
    ),
    *(
        RoleRow(Role(lock.role), lock.source, functions=names(lock.held_in), before=names(lock.before))
        for lock in {lock.role: lock for lock in LOCKS}.values()
    ),
    *(
        RoleRow(role, f"module/os/linux/zfs or module/zfs: {source}", comm=comm)
        for role, comm, source in (
            (Role.Z_RELE, r"z_zrele|z_iput|zfs_iput_taskq.*", "dsl_pool.c"),
            (Role.Z_DRAIN, r"z_unlinked_drai.*", "dsl_pool.c"),
            (Role.Z_ZVOL, "z_zvol", "spa.c"),
            (Role.Z_METASLAB, "z_metaslab", "spa.c"),
            (Role.Z_SEND, "z_send", "zfs_ioctl.c"),
            (Role.Z_UPGRADE, "z_upgrade", "spa.c"),
            (Role.DP_SYNC, r"dp_sync_taskq.*", "dsl_pool.c"),
            (Role.DBU_EVICT, "dbu_evict", "dbuf.c"),
            (Role.OBJSET_FIND, r"dmu_objset_fin.*", "dmu_objset.c"),
            (Role.TX_CALLBACK, "tx_commit_cb", "txg.c"),
            (Role.SPL_TASKQ, r"spl_(?:system_task|delay_taskq|dynamic_tas).*", "spl-taskq.c"),
        )
    ),
    *(RoleRow(Role(it.role), it.source, functions=names(it.held_in), before=names(it.before)) for it in KERNEL_WAITS),
    RoleRow(
        Role.KTHREADD,
        "kthreadd(), kernel/kthread.c: the thread that makes all others",
        comm="kthreadd",
        functions=names("kthreadd"),
    ),
    RoleRow(
        Role.TASKQ,
        "taskq_thread(), module/os/linux/spl/spl-taskq.c: what works for whichever taskq",
        functions=names("taskq_thread"),
    ),
    RoleRow(
        Role.VDEV_QUEUE,
        "vdev_queue_io_to_issue(), module/zfs/vdev_queue.c, works under vq_lock",
        functions=names("vdev_queue_aggregate vdev_queue_io_to_issue"),
    ),
    RoleRow(
        Role.OBJECT,
        "zfs_zget(), zfs_mknode() and zfs_zinactive() hold the object, module/os/linux/zfs/zfs_znode.c",
        functions=names("zfs_zget zfs_mknode zfs_zinactive zfs_rezget"),
    ),
)
