"""Which function of a stack means which wait, and who ends such a wait: the table behind waitgraph.py.

A wait that is new is one row of `ROWS`, which says where in the source it is; who ends it is in roles.py. Rows of
waits for I/O, memory and transactions are in iorows.py, those of many locks in zfslocks.py and kernellocks.py.
"""

from __future__ import annotations

from splvm.evidence.waiting.iorows import IO_ROWS
from splvm.evidence.waiting.kernellocks import KERNEL_WAITS, KernelWait, Way
from splvm.evidence.waiting.roles import TASKQS, Role, names
from splvm.evidence.waiting.waits import WaitReason, WaitRow
from splvm.evidence.waiting.zfslocks import LOCKS, How

_LOCK = names(
    "__mutex_lock __mutex_lock_slowpath mutex_lock mutex_lock_nested mutex_lock_killable"
    " mutex_lock_interruptible __mutex_lock_common __mutex_lock_killable_slowpath"
    " __mutex_lock_interruptible_slowpath rwsem_down_read_slowpath rwsem_down_write_slowpath"
    " rwsem_down_read_failed rwsem_down_write_failed rwsem_down_failed_common call_rwsem_down_read_failed"
    " call_rwsem_down_write_failed down_read down_write down_read_nested down_write_nested down_read_killable"
    " down_write_killable __down_read __down_write __down __down_common down rt_mutex_slowlock"
    " rwbase_read_lock rwbase_write_lock __rt_mutex_lock percpu_rwsem_wait percpu_down_write __percpu_down_read"
)
_TASKQ = names(
    "taskq_wait taskq_wait_id taskq_wait_outstanding taskq_wait_check taskq_wait_id_check"
    " taskq_wait_outstanding_check taskq_cancel_id taskq_destroy taskq_wait_all taskq_wait_all_id"
)
_RRW = names(
    "rrw_enter rrw_enter_read rrw_enter_read_impl rrw_enter_read_prio rrw_enter_write rrm_enter rrm_enter_read"
    " rrm_enter_write"
)
_CONFIG = names("spa_config_enter spa_config_enter_impl spa_config_enter_mmp spa_config_enter_priority spa_vdev_enter")
_WORK = names(
    "__flush_work flush_work flush_delayed_work cancel_work_sync __cancel_work_sync __cancel_work_timer"
    " cancel_delayed_work_sync __flush_workqueue flush_workqueue drain_workqueue destroy_workqueue kthread_flush_work"
)
_MODULE = names("request_module __request_module call_modprobe")


def kernel_row(it: KernelWait) -> WaitRow:
    """The row of a wait for something outside of ZFS."""
    asked = names(it.asked_by)
    functions = {Way.LOCK: _LOCK, Way.WORK: _WORK}.get(it.way, asked)
    return WaitRow(
        WaitReason(it.reason),
        it.noun,
        functions,
        (Role(it.role), *map(Role, it.also)),
        it.source,
        top=functions is asked,
        # A work that waits for its own end does so for ever.
        own=it.way in (Way.WORK, Way.SELF),
        of=None,
        asked_by=frozenset() if functions is asked else asked,
        kind=it.role,
    )


# The innermost function that is in a row decides; of several rows with it, the first.
ROWS: tuple[WaitRow, ...] = (
    *IO_ROWS,
    WaitRow(
        WaitReason.LOCK,
        "the lock of a device's queue",
        _LOCK,
        (Role.VDEV_QUEUE,),
        "vq_lock of vdev_queue_io_done(), module/zfs/vdev_queue.c: openzfs/zfs pull request 4111",
        asked_by=names("vdev_queue_io_done vdev_queue_io vdev_queue_change_io_priority"),
        kind="a device's queue",
    ),
    WaitRow(
        WaitReason.LOCK,
        "the lock of an object",
        _LOCK,
        (Role.OBJECT,),
        "z_hold_mtx, later zfs_znode_hold_enter(), module/os/linux/zfs/zfs_znode.c: openzfs/zfs issue 4106",
        asked_by=names("zfs_zget zfs_zinactive zfs_znode_hold_enter zfs_rezget zfs_mknode"),
        kind="an object",
    ),
    *(
        WaitRow(
            WaitReason.LOCK,
            lock.noun,
            _LOCK,
            (Role(lock.role),),
            lock.source,
            asked_by=names(lock.asked_by),
            kind=lock.role,
            own=again,
            sole=again,
            of=Role(lock.role) if again else None,
            within=names(lock.again) if again else frozenset(),
        )
        for lock in LOCKS
        for again in ([True, False] if lock.again else [False])
        if lock.how is How.LOCK
    ),
    *map(kernel_row, KERNEL_WAITS),
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
        _CONFIG,
        (Role.CONFIG,),
        "who has all of it as its writer has to wait as a reader too, spa_config_enter_impl(), module/zfs/spa_misc.c:"
        " openzfs/zfs issue 9256",
        own=True,
        of=Role.CONFIG,
        within=names("spa_vdev_attach spa_vdev_add spa_vdev_detach spa_vdev_split_mirror"),
        kind="the configuration",
    ),
    WaitRow(
        WaitReason.CONFIG,
        "the pool's configuration lock",
        _CONFIG,
        (Role.CONFIG,),
        "scl_cv of spa_config_enter_impl(), module/zfs/spa_misc.c: readers and writer are counted in no stack",
        kind="the configuration",
    ),
    *(
        WaitRow(
            WaitReason.RRW,
            lock.noun,
            _RRW,
            (Role(lock.role),),
            f"rr_cv of rrw_enter_read_impl() and rrw_enter_write(), module/zfs/rrwlock.c; {lock.source}",
            asked_by=names(lock.asked_by),
            kind=lock.role,
        )
        for lock in LOCKS
        if lock.how is not How.LOCK
    ),
    *(
        WaitRow(
            WaitReason.TASKQ,
            f"the tasks of the taskq {name}",
            _TASKQ,
            (role,),
            f"taskq_wait() and its kin, for the taskq of that name: {source}",
            asked_by=asked_by,
            kind=name,
        )
        for role, name, asked_by, source in TASKQS
    ),
    WaitRow(
        WaitReason.TASKQ,
        "the tasks of a taskq",
        _TASKQ,
        (Role.TASKQ,),
        "tq_wait_waitq of taskq_wait() and its kin, module/os/linux/spl/spl-taskq.c",
        kind="a taskq",
        vague=True,
    ),
    WaitRow(
        WaitReason.QUEUE,
        "the other end of a queue",
        names(
            "bqueue_enqueue bqueue_enqueue_impl bqueue_dequeue traverse_visitbp traverse_impl traverse_prefetcher"
            " do_dump range_free dmu_recv_stream"
        ),
        (),
        "bq_add_cv and bq_pop_cv, module/zfs/bqueue.c; dmu_traverse.c, dmu_send.c, dmu_recv.c of module/zfs",
    ),
    WaitRow(
        WaitReason.QUEUE,
        "the other end of a pipe",
        names(
            "pipe_wait pipe_wait_readable pipe_wait_writable wait_for_partner pipe_write pipe_read anon_pipe_write"
            " anon_pipe_read"
        ),
        (),
        "pipe_wait() until 5.4, then rd_wait and wr_wait of pipe_read() and pipe_write(), fs/pipe.c",
        top=True,
    ),
    WaitRow(
        WaitReason.INODE,
        "the inode",
        names("inode_wait_for_writeback __inode_wait_for_writeback"),
        (Role.FLUSHER,),
        "inode_wait_for_writeback(), fs/fs-writeback.c, until writeback_sb_inodes() is done with the inode: who evicts"
        " it within that waits for itself",
        own=True,
        of=Role.FLUSHER,
        within=names("writeback_sb_inodes __writeback_single_inode"),
    ),
    WaitRow(
        WaitReason.DEVICE,
        "a path to the disk",
        names("do_read_cache_page read_cache_page do_read_cache_folio"),
        (Role.NVME_ANA, Role.NVME_DELETE),
        "nvme_ns_head_submit_bio(), drivers/nvme/host/multipath.c, keeps I/O until a path is there, nvme_ana_work(), or"
        " none may come, nvme_do_delete_ctrl(); device_add_disk() reads the table of partitions",
        top=True,
        within=names("nvme_mpath_set_live"),
        kind="a path",
    ),
    WaitRow(
        WaitReason.INODE,
        "the inode",
        names(
            "__wait_on_freeing_inode find_inode find_inode_fast inode_wait_for_writeback __inode_wait_for_writeback"
            " inode_sleep_on_writeback evict_inodes wait_on_inode inode_dio_wait __inode_dio_wait d_alloc_parallel"
        ),
        (Role.EVICTOR, Role.FLUSHER),
        "__wait_on_freeing_inode(), fs/inode.c, until evict() is done; inode_wait_for_writeback(), fs/fs-writeback.c;"
        " d_alloc_parallel(), fs/dcache.c, until another lookup of the name is done",
        kind="an inode",
    ),
    WaitRow(
        WaitReason.MODULE,
        "the module",
        names("load_module idempotent_init_module idempotent_wait_for_completion resolve_symbol_wait") | _MODULE,
        (),
        "module_wq and idempotent_init_module(), kernel/module/main.c: another one loads it; __request_module(),"
        " kernel/module/kmod.c: modprobe is to end",
    ),
    WaitRow(
        WaitReason.UMOUNT,
        "the program that mounts or unmounts",
        names(
            "zfsctl_snapshot_mount zfsctl_snapshot_unmount snapentry_expire zfsctl_expire_snapshot autofs_wait"
            " autofs_mount_wait zpl_snapdir_manage zfsctl_snapshot_invalidate super_lock"
        ),
        (Role.UMOUNTER,),
        "zfsctl_snapshot_mount() and se_cv, module/os/linux/zfs/zfs_ctldir.c; autofs_wait(), fs/autofs/waitq.c;"
        " super_lock(), fs/super.c, since 6.6",
        kind="a mount",
    ),
    WaitRow(
        WaitReason.MEMCG,
        "its memory cgroup to come below its limit",
        names("mem_cgroup_handle_over_high __mem_cgroup_handle_over_high mem_cgroup_oom_synchronize"),
        (),
        "mem_cgroup_handle_over_high(), mm/memcontrol.c: a penalty of 2 s at most, again and again",
        named=True,
    ),
    WaitRow(
        WaitReason.KTHREAD,
        "a new thread",
        names(
            "__kthread_create_on_node kthread_create_on_node __thread_create taskq_thread_create spl_kthread_create"
            " taskq_create"
        ),
        (Role.KTHREADD,),
        "kthread_create_on_node(), kernel/kthread.c: kthreadd makes the thread",
    ),
    WaitRow(
        WaitReason.DIRTY,
        "dirty pages to be written",
        names("balance_dirty_pages balance_dirty_pages_ratelimited balance_dirty_pages_ratelimited_flags"),
        (Role.FLUSHER,),
        "balance_dirty_pages(), mm/page-writeback.c: it sleeps 200 ms at most, again and again",
        kind="memory",
    ),
    WaitRow(
        WaitReason.ZFS_LOCK,
        "a lock of ZFS's own",
        names("zfs_dirent_lock zrl_add_impl zrl_add spa_namespace_wait spa_namespace_enter"),
        (),
        "dl_cv of zfs_dirent_lock(), module/os/linux/zfs/zfs_dir.c; zr_cv, module/zfs/zrlock.c; spa_namespace_cv,"
        " module/zfs/spa_misc.c",
    ),
    WaitRow(
        WaitReason.METASLAB,
        "the metaslab",
        names(
            "metaslab_load_wait metaslab_flush_wait metaslab_group_disable_wait metaslab_group_disabled_increment"
            " metaslab_disable"
        ),
        (Role.METASLAB,),
        "ms_load_cv, ms_flush_cv and mg_ms_disabled_cv, module/zfs/metaslab.c",
        kind="a metaslab",
    ),
    WaitRow(
        WaitReason.REFERENCES,
        "the last user of it",
        names("spa_evicting_os_wait dnode_special_close spl_kmem_cache_destroy zvol_remove_minors_impl zil_suspend"),
        (),
        "spa_misc.c, dnode.c, zvol.c and zil.c of module/zfs; skc_ref, module/os/linux/spl/spl-kmem-cache.c",
    ),
    WaitRow(
        WaitReason.STOP,
        "another thread to end or to pause",
        names(
            "zthr_cancel zthr_cancel_impl zthr_wait_cycle_done kthread_stop txg_sync_stop mmp_thread_stop"
            " vdev_initialize_stop_wait vdev_initialize_stop_wait_impl vdev_rebuild_stop_wait vdev_trim_stop_wait"
            " vdev_trim_stop_wait_impl vdev_autotrim_stop_wait spa_async_suspend spa_vdev_remove_suspend"
            " l2arc_remove_vdev l2arc_spa_rebuild_stop dsl_dir_cancel_waiters spa_wake_waiters spa_deactivate"
        ),
        (),
        "zthr.c, txg.c, mmp.c, vdev_*.c, spa.c, arc.c and dsl_dir.c of module/zfs; kthread_stop(), kernel/kthread.c",
    ),
    WaitRow(
        WaitReason.SUSPENDED,
        "the pool to be resumed: it is suspended",
        names("zio_resume_wait"),
        (),
        "spa_suspend_cv of zio_resume_wait(), module/zfs/zio.c",
        named=True,
    ),
    WaitRow(
        WaitReason.REMOTE,
        "the answer of a server",
        names("rpc_wait_bit_killable nfs_wait_bit_killable nfs_wait_bit_uninterruptible wait_for_response"),
        (),
        "rpc_wait_bit_killable(), net/sunrpc/sched.c; nfs_wait_bit_killable(), fs/nfs/inode.c;"
        " wait_for_response(), fs/smb/client/transport.c",
        named=True,
    ),
    WaitRow(
        WaitReason.JOURNAL,
        "the journal of ext4",
        names(
            "jbd2_journal_commit_transaction jbd2_log_wait_commit jbd2_log_do_checkpoint start_this_handle"
            " wait_transaction_locked wait_transaction_switching do_get_write_access jbd2_complete_transaction"
        ),
        (Role.JOURNAL,),
        "j_wait_done_commit and j_wait_transaction_locked, fs/jbd2/{commit,journal,transaction}.c",
        kind="a journal",
    ),
    WaitRow(
        WaitReason.RCU,
        "all readers of RCU",
        names(
            "synchronize_rcu synchronize_rcu_normal synchronize_rcu_expedited __wait_rcu_gp synchronize_sched"
            " synchronize_srcu __synchronize_srcu rcu_barrier"
        ),
        (),
        "synchronize_rcu(), kernel/rcu/tree.c; __synchronize_srcu(), kernel/rcu/srcutree.c",
    ),
    WaitRow(
        WaitReason.WORKQUEUE,
        "the work of a workqueue",
        _WORK,
        (),
        "__flush_work() and __flush_workqueue(), kernel/workqueue.c",
    ),
    WaitRow(
        WaitReason.DEVICE,
        "the device",
        names("submit_bio_wait blkdev_issue_flush blk_execute_rq blkdev_issue_discard scsi_execute_cmd"),
        (),
        "submit_bio_wait(), block/bio.c; blk_execute_rq(), block/blk-mq.c: the end of the request",
        named=True,
    ),
    WaitRow(
        WaitReason.DEVICE,
        "a place in the device's queue",
        names("rq_qos_wait wbt_wait blk_mq_get_tag get_request_wait __blk_mq_get_tag bt_get"),
        (),
        "rq_qos_wait(), block/blk-rq-qos.c; blk_mq_get_tag(), block/blk-mq-tag.c: other requests are to end",
        fallback=True,
        named=True,
    ),
    WaitRow(
        WaitReason.COMPLETION,
        "a completion",
        names("wait_for_completion wait_for_completion_io wait_for_completion_timeout wait_for_completion_killable"),
        (),
        "kernel/sched/completion.c: whoever completes it is in no stack",
        fallback=True,
    ),
    WaitRow(
        WaitReason.IDLE,
        "work",
        # In state D where there is no TASK_IDLE, that is, before 4.2, and where nobody used it.
        names(
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
UNKNOWN_ROW = WaitRow(WaitReason.UNKNOWN, "something that is not known here", frozenset(), (), "this table")
