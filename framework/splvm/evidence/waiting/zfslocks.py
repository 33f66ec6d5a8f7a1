"""Locks of ZFS that a stack tells by the function which asks for them, and in which functions a thread has them.

Owns facts about the source only; a row here is a row of waits in waitrows.py, and one of roles in roles.py. What is
said of a function holds from the place on where it has taken the lock: what it calls before is in `before`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ZfsLock:
    """A lock, or one of each file system."""

    # The value of its role; who has it.
    role: str
    # What a sentence calls it.
    noun: str
    # Whether it is an rrw lock, and no mutex or rwlock.
    rrw: bool
    # Functions that ask for it, further out than those of the lock itself; empty if any does.
    asked_by: str
    # Functions within which it is held, and what these call when it is not.
    held_in: str
    before: str
    source: str


LOCKS: tuple[ZfsLock, ...] = (
    ZfsLock(
        "namespace",
        "the lock of all pools",
        False,
        "spa_open_common spa_all_configs spa_get_stats spa_create spa_import spa_tryimport spa_export_common"
        " spa_vdev_enter spa_vdev_detach_enter spa_namespace_enter spa_namespace_enter_interruptible",
        "spa_load spa_load_impl spa_load_best spa_import spa_create spa_tryimport spa_export_common spa_vdev_attach"
        " spa_vdev_add spa_vdev_detach spa_vdev_exit spa_vdev_config_exit",
        "spa_vdev_enter spa_async_suspend zvol_remove_minors zvol_create_minors taskq_wait spa_namespace_enter",
        "spa_namespace_lock, module/zfs/{spa,spa_misc,spa_config}.c",
    ),
    ZfsLock(
        "zvol_state",
        "the lock of all zvols",
        False,
        "zvol_rename_minors zvol_rename_minors_impl zvol_remove_minors_impl zvol_find_by_name_hash"
        " zvol_os_create_minor",
        "zvol_open zvol_release zvol_rename_minors_impl zvol_remove_minors_impl",
        "zvol_find_by_name_hash",
        "zvol_state_lock, module/zfs/zvol.c: openzfs/zfs issue 3681",
    ),
    ZfsLock(
        "block_device",
        "the lock of a block device",
        False,
        "__blkdev_get blkdev_get blkdev_get_by_dev blkdev_get_whole blkdev_put __blkdev_put bdev_open bdev_release",
        "zvol_open zvol_release blkdev_get_whole",
        "blkdev_get",
        "bd_mutex, later open_mutex, fs/block_dev.c and block/bdev.c: openzfs/zfs issue 6065",
    ),
    ZfsLock(
        "log_writer",
        "the lock of the log's writer",
        False,
        "zil_commit_impl zil_commit_writer zil_commit_waiter_timeout zil_commit_waiter zil_commit_writer_stall",
        "zil_process_commit_list zil_lwb_commit zil_commit_writer zil_create zfs_get_data zvol_get_data",
        "zil_commit_waiter zil_commit_waiter_timeout",
        "zl_issuer_lock, module/zfs/zil.c",
    ),
    ZfsLock(
        "teardown",
        "the teardown lock of a file system",
        False,
        "zfs_inactive",
        "zfsvfs_teardown zfs_sb_teardown zfs_resume_fs",
        "rrm_enter rrm_enter_write rrw_enter_write taskq_wait_outstanding",
        "z_teardown_inactive_lock, module/os/linux/zfs/zfs_vfsops.c: openzfs/zfs pull request 2681",
    ),
    ZfsLock(
        "pool_config",
        "the configuration of a pool's datasets",
        True,
        "dsl_pool_config_enter dsl_pool_config_enter_prio dsl_pool_hold dsl_sync_task_sync dsl_process_async_destroys"
        " spa_sync_upgrades dsl_pool_sync spa_sync dmu_objset_own dmu_objset_hold",
        "dsl_sync_task_sync dmu_objset_own dmu_objset_hold dmu_objset_hold_flags dsl_prop_get",
        "dsl_pool_hold dsl_pool_config_enter dsl_pool_config_enter_prio spa_open rrw_enter rrw_enter_read",
        "dp_config_rwlock, module/zfs/{dsl_pool,dsl_synctask}.c: openzfs/zfs issues 3681 and 9662",
    ),
    ZfsLock(
        "teardown",
        "the teardown lock of a file system",
        True,
        "",
        "zfsvfs_teardown zfs_sb_teardown zfs_resume_fs",
        "rrm_enter rrm_enter_write rrw_enter_write taskq_wait_outstanding",
        "z_teardown_lock, module/os/linux/zfs/zfs_vfsops.c: openzfs/zfs issue 1988",
    ),
)
