"""Locks of ZFS that a stack tells by the function which asks for them, and in which functions a thread has them.

Owns facts about the source only; a row here is a row of waits in waitrows.py, and one of roles in roles.py. What is
said of a function holds from the place on where it has taken the lock: what it calls before is in `before`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class How(enum.Enum):
    """How a lock is asked for."""

    LOCK = enum.auto()  # a mutex, or a rwlock of the kernel's
    READ = enum.auto()  # an rrw lock
    WRITE = enum.auto()


@dataclass(frozen=True, slots=True)
class ZfsLock:
    """A lock, or one of each file system."""

    # The value of its role; who has it.
    role: str
    # What a sentence calls it.
    noun: str
    # How it is asked for.
    how: How
    # Functions that ask for it, further out than those of the lock itself; empty if any does.
    asked_by: str
    # Functions within which it is held, and what these call when it is not.
    held_in: str
    before: str
    source: str
    # Functions that a thread which has it goes through where it asks for it once more, and so waits for itself.
    again: str = ""


LOCKS: tuple[ZfsLock, ...] = (
    ZfsLock(
        "namespace",
        "the lock of all pools",
        How.LOCK,
        "spa_open_common spa_all_configs spa_get_stats spa_create spa_import spa_tryimport spa_export_common"
        " spa_vdev_enter spa_vdev_detach_enter spa_namespace_enter spa_namespace_enter_interruptible",
        "spa_load spa_load_impl spa_load_best spa_import spa_create spa_tryimport spa_export_common spa_vdev_attach"
        " spa_vdev_add spa_vdev_detach spa_vdev_exit spa_vdev_config_exit zvol_first_open",
        "spa_vdev_enter spa_async_suspend zvol_remove_minors zvol_create_minors taskq_wait spa_namespace_enter",
        "spa_namespace_lock, module/zfs/{spa,spa_misc,spa_config}.c",
    ),
    ZfsLock(
        "zvol_state",
        "the lock of all zvols",
        How.LOCK,
        "zvol_rename_minors zvol_rename_minors_impl zvol_remove_minors_impl zvol_find_by_name_hash"
        " zvol_os_create_minor",
        "zvol_open zvol_release zvol_rename_minors_impl zvol_remove_minors_impl",
        "zvol_find_by_name_hash",
        "zvol_state_lock, module/zfs/zvol.c: openzfs/zfs issue 3681",
    ),
    ZfsLock(
        "block_device",
        "the lock of a block device",
        How.LOCK,
        "__blkdev_get blkdev_get blkdev_get_by_dev blkdev_get_whole blkdev_put __blkdev_put bdev_open bdev_release",
        "zvol_open zvol_release blkdev_get_whole",
        "blkdev_get",
        "bd_mutex, later open_mutex, fs/block_dev.c and block/bdev.c: openzfs/zfs issue 6065",
    ),
    ZfsLock(
        "shrinkers",
        "the lock of all shrinkers",
        How.LOCK,
        "register_shrinker register_shrinker_prepared prealloc_shrinker unregister_shrinker free_prealloced_shrinker",
        "shrink_slab shrink_slab_memcg",
        "",
        "shrinker_rwsem, mm/vmscan.c, until 6.6: who shrinks reads the list for as long as it does",
    ),
    ZfsLock(
        "log_writer",
        "the lock of the log's writer",
        How.LOCK,
        "zil_commit_impl zil_commit_writer zil_commit_waiter_timeout zil_commit_waiter zil_commit_writer_stall",
        "zil_process_commit_list zil_lwb_commit zil_commit_writer zil_create zfs_get_data zvol_get_data",
        "zil_commit_waiter zil_commit_waiter_timeout",
        "zl_issuer_lock, module/zfs/zil.c",
    ),
    ZfsLock(
        "teardown",
        "the teardown lock of a file system",
        How.LOCK,
        "zfs_inactive",
        "zfsvfs_teardown zfs_sb_teardown zfs_resume_fs",
        "taskq_wait_outstanding",
        "z_teardown_inactive_lock, module/os/linux/zfs/zfs_vfsops.c: openzfs/zfs pull requests 2681, 3726",
        again="zfs_resume_fs",
    ),
    ZfsLock(
        "zvol_suspend",
        "the lock that suspends a zvol",
        How.LOCK,
        "zvol_open zvol_suspend zvol_release",
        "zfs_ioc_recv_impl zfs_ioc_rollback zvol_first_open",
        "zvol_suspend zvol_find_by_name",
        "zv_suspend_lock, module/zfs/zvol.c: openzfs/zfs pull request 12863",
    ),
    ZfsLock(
        "objset",
        "the lock of a dataset that is opened",
        How.LOCK,
        "dmu_objset_from_ds",
        "dmu_objset_from_ds",
        "dmu_objset_evict_done",
        "ds_opening_lock, module/zfs/dmu_objset.c: openzfs/zfs issue 9662",
    ),
    ZfsLock(
        "snapshots",
        "the lock of all mounted snapshots",
        How.LOCK,
        "zfsctl_snapshot_unmount snapentry_expire zfsctl_destroy zfsctl_snapshot_unmount_delay zfsctl_unmount_snapshot",
        "zfsctl_destroy zfsctl_snapshot_unmount_delay zfsctl_unmount_snapshot",
        "call_usermodehelper zfsctl_snapshot_hold",
        "zfs_snapshot_lock, before 0.6.5 z_ctldir_lock, module/os/linux/zfs/zfs_ctldir.c: openzfs/zfs issues 1527, 7751"
        " and 18689",
    ),
    ZfsLock(
        "error_log",
        "the lock of the error log",
        How.LOCK,
        "spa_delete_dataset_errlog spa_errlog_sync spa_get_errlog_size spa_get_errlog spa_log_error",
        "spa_errlog_sync spa_get_errlog_size spa_get_errlog spa_approx_errlog_size",
        "spa_open",
        "spa_errlog_lock and spa_errlist_lock, module/zfs/spa_errlog.c: openzfs/zfs issue 14239",
    ),
    ZfsLock(
        "prefetch",
        "the lock of a file's prefetch",
        How.LOCK,
        "dmu_zfetch dmu_zfetch_prepare",
        "dmu_zfetch dmu_zfetch_prepare",
        "dbuf_prefetch dmu_zfetch_run",
        "zf_rwlock, later zf_lock, module/zfs/dmu_zfetch.c: openzfs/zfs issue 3183",
    ),
    ZfsLock(
        "io_parent",
        "the lock of an I/O",
        How.LOCK,
        "zio_wait_for_children zio_add_child zio_remove_child zio_notify_parent zio_change_priority zio_walk_parents",
        "zio_change_priority",
        "",
        "io_lock, module/zfs/zio.c, which zio_change_priority() has while it changes the children: openzfs/zfs pull"
        " request 7301",
    ),
    ZfsLock(
        "arc_list",
        "the lock of a list of the ARC",
        How.LOCK,
        "arc_evict arc_evict_ghost arc_evict_state arc_evict_state_impl l2arc_list_locked l2arc_sublist_lock",
        "l2arc_write_buffers l2arc_feed_thread",
        "l2arc_list_locked l2arc_sublist_lock l2arc_evict spa_config_enter arc_adjust arc_reclaim_needed",
        "arcs_mtx, later the lock of a multilist's part, module/zfs/arc.c: openzfs/zfs commit 409dc1a570",
        again="try_to_free_pages shrink_slab",
    ),
    ZfsLock(
        "super_block",
        "the lock of a mounted file system",
        How.LOCK,
        "grab_super deactivate_super iterate_supers get_super user_get_super sget sget_userns zpl_sget",
        "deactivate_locked_super generic_shutdown_super zpl_kill_sb",
        "",
        "s_umount, fs/super.c: openzfs/zfs issues 7598 and 7693",
    ),
    # A writer that waits keeps new readers out, rrw_enter_read_impl(): it counts as one that has the lock.
    ZfsLock(
        "pool_config_writer",
        "the configuration of a pool's datasets",
        How.READ,
        "dsl_pool_config_enter dsl_pool_config_enter_prio dsl_pool_hold dmu_objset_own dmu_objset_hold",
        "dsl_sync_task_sync dsl_process_async_destroys spa_sync_upgrades",
        "",
        "dp_config_rwlock, module/zfs/{dsl_pool,dsl_synctask}.c: openzfs/zfs issues 3681 and 9662",
    ),
    ZfsLock(
        "pool_config_reader",
        "the configuration of a pool's datasets",
        How.WRITE,
        "dsl_sync_task_sync dsl_process_async_destroys spa_sync_upgrades dsl_pool_sync spa_sync",
        # The last one until 0.7.9, while it looks for the super block.
        "dmu_objset_own dmu_objset_hold dmu_objset_hold_flags dsl_prop_get zvol_create_minors_cb zpl_mount_impl",
        "dmu_objset_hold dmu_objset_rele dsl_pool_hold dsl_pool_config_enter dsl_pool_config_enter_prio spa_open"
        " rrw_enter rrw_enter_read rrw_enter_read_impl rrw_enter_read_prio",
        "dp_config_rwlock, module/zfs/{dsl_pool,dsl_synctask}.c: openzfs/zfs issues 7484, 7598 and 9662",
    ),
    ZfsLock(
        "teardown_reader",
        "the teardown lock of a file system",
        How.WRITE,
        "zfsvfs_teardown zfs_sb_teardown",
        "zfs_prune zfs_write zfs_read zfs_lookup zfs_getattr_fast zfs_setattr zfs_readdir zfs_create zfs_remove"
        " zfs_rename zfs_fsync zfs_get_data zfs_getpage zfs_putpage zpl_writepages zfsctl_snapshot_mount",
        "zfs_enter zfs_enter_verify_zp rrm_enter rrm_enter_read rrw_enter rrw_enter_read rrw_enter_read_impl",
        "z_teardown_lock, module/os/linux/zfs/zfs_vfsops.c: openzfs/zfs pull requests 17941 and 18415",
    ),
    ZfsLock(
        "teardown",
        "the teardown lock of a file system",
        How.READ,
        "",
        "zfsvfs_teardown zfs_sb_teardown zfs_resume_fs",
        "taskq_wait_outstanding",
        "z_teardown_lock, module/os/linux/zfs/zfs_vfsops.c: openzfs/zfs issue 1988",
    ),
)
