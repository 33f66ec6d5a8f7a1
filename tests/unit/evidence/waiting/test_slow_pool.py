"""A pool that is only slow closes nothing, whichever of its threads a text has."""

from __future__ import annotations

import itertools
import random

from splvm.evidence.formats.stacks import TaskStack
from splvm.evidence.waiting.waitedges import Closes
from splvm.evidence.waiting.waitgraph import build_graph

ASLEEP = "__schedule schedule"
CV = f"{ASLEEP} cv_wait_common __cv_wait"
IO = f"{ASLEEP} io_schedule_timeout __cv_timedwait_io"
# They wait for I/O, for memory, for who waits for these, or for locks that somebody else has.
STACKS = (
    ("txg_sync", f"{IO} zio_wait dsl_pool_sync spa_sync txg_sync_thread kthread"),
    ("txg_quiesce", f"{CV} txg_quiesce txg_quiesce_thread kthread"),
    ("dd", f"{IO} zio_wait dbuf_read dmu_buf_will_dirty dmu_write_uio_dbuf zfs_write vfs_write do_syscall_64"),
    ("cp", f"{CV} txg_wait_open dmu_tx_wait dmu_tx_assign zfs_write vfs_write do_syscall_64"),
    ("fsync", f"{CV} zil_commit_waiter zil_commit_impl zil_commit zfs_fsync do_syscall_64"),
    (
        "fsync",
        f"{CV} zfs_rangelock_enter_reader zfs_get_data zil_lwb_commit"
        " zil_process_commit_list zil_commit_writer zil_commit zfs_fsync",
    ),
    ("fsync", f"{ASLEEP} __mutex_lock zil_commit_writer zil_commit zfs_write"),
    ("cat", f"{IO} zio_wait dbuf_read dmu_buf_hold_array_by_dnode dmu_read_uio zfs_read"),
    ("cat", f"{ASLEEP} io_schedule folio_wait_bit_common filemap_read"),
    (
        "kworker/u8:1",
        f"{CV} txg_wait_open dmu_tx_wait zfs_putpage zpl_putpage write_cache_pages"
        " zpl_writepages do_writepages wb_workfn worker_thread",
    ),
    (
        "kworker/u8:2",
        f"{ASLEEP} io_schedule folio_wait_writeback write_cache_pages ext4_writepages wb_workfn worker_thread",
    ),
    ("kswapd0", f"{ASLEEP} schedule_timeout reclaim_throttle shrink_node balance_pgdat kswapd kthread"),
    ("kswapd1", f"{ASLEEP} io_schedule folio_wait_writeback shrink_folio_list shrink_node balance_pgdat kswapd"),
    (
        "arc_prune",
        f"{CV} dmu_tx_wait dmu_tx_assign zfs_inactive zpl_evict_inode evict zfs_prune arc_prune_task taskq_thread",
    ),
    ("rm", f"{CV} txg_wait_open dmu_tx_wait dmu_tx_assign dmu_free_long_range_impl zfs_rmnode zfs_zinactive evict"),
    ("ls", f"{ASLEEP} __mutex_lock zfs_zget zfs_dirent_lock zfs_dirlook zfs_lookup"),
    ("ls", f"{IO} zio_wait dbuf_read dnode_hold_impl zfs_zget zfs_dirlook zfs_lookup"),
    ("zfs", f"{CV} rrw_enter_read dsl_pool_hold dmu_objset_hold zfs_ioc_objset_stats"),
    ("zfs", f"{IO} txg_wait_synced dsl_sync_task dmu_recv_begin zfs_ioc_recv_new"),
    ("z_wr_int_1", f"{ASLEEP} __mutex_lock dbuf_write_done zio_done zio_execute taskq_thread"),
    ("z_rd_int_0", f"{ASLEEP} io_schedule blk_mq_get_tag submit_bio vdev_disk_io_start zio_execute taskq_thread"),
    ("z_wr_iss", f"{CV} metaslab_load_wait metaslab_activate zio_dva_allocate zio_execute taskq_thread"),
    ("z_metaslab", f"{IO} zio_wait dmu_read space_map_load metaslab_load_impl metaslab_load taskq_thread"),
    (
        "stress",
        f"{ASLEEP} schedule_timeout reclaim_throttle shrink_node try_to_free_pages"
        " __alloc_pages_slowpath handle_mm_fault",
    ),
    (
        "find",
        f"{ASLEEP} schedule_timeout reclaim_throttle shrink_node try_to_free_pages"
        " __alloc_pages_slowpath kmem_alloc zfs_zget zfs_lookup",
    ),
    ("zvol", f"{CV} txg_wait_open dmu_tx_wait dmu_tx_assign zvol_write taskq_thread"),
    ("zvol", f"{IO} zio_wait dmu_read_uio zvol_read taskq_thread"),
    ("jbd2", f"{ASLEEP} io_schedule __wait_on_buffer jbd2_journal_commit_transaction kjournald2"),
    ("zpool", f"{CV} spa_config_enter spa_vdev_state_enter zfs_ioc_clear"),
    ("zed", f"{ASLEEP} __mutex_lock spa_open_common spa_get_stats zfs_ioc_pool_stats"),
    ("umount", f"{ASLEEP} taskq_wait_outstanding zfsvfs_teardown zfs_umount zpl_put_super"),
    ("z_zrele", f"{CV} dmu_tx_wait zfs_inactive evict iput taskq_thread"),
    ("dp_sync_taskq", f"{IO} zio_wait dbuf_read dnode_sync sync_dnodes_task taskq_thread"),
    ("zpool", f"{IO} zio_wait vdev_probe vdev_open spa_load_impl spa_load spa_import zfs_ioc_pool_import"),
    ("blkid", f"{ASLEEP} __mutex_lock spa_open_common dmu_objset_own zvol_first_open zvol_open blkdev_get_whole"),
    ("udevd", f"{ASLEEP} __mutex_lock blkdev_get_by_dev blkdev_open"),
    ("qemu", f"{ASLEEP} __mutex_lock zvol_open blkdev_get_whole"),
    ("zfs", f"{IO} txg_wait_synced dsl_sync_task dmu_recv_end zfs_ioc_recv_impl"),
    ("zfs", f"{IO} txg_wait_synced zil_close zfsvfs_teardown zfs_suspend_fs zfs_ioc_rollback"),
    ("zfs", f"{CV} rrw_enter_write rrm_enter zfsvfs_teardown zfs_suspend_fs zfs_ioc_rollback"),
    ("ls", f"{CV} rrw_enter_read_impl zfs_getattr_fast zpl_getattr"),
    ("rm", f"{ASLEEP} rwsem_down_read_slowpath down_read zfs_inactive zpl_evict_inode evict"),
    ("ls", f"{ASLEEP} wait_for_completion call_usermodehelper_exec zfsctl_snapshot_mount zpl_snapdir_automount"),
    ("mount.zfs", f"{IO} zio_wait dbuf_read zfs_domount zpl_mount path_mount"),
    ("zed", f"{IO} txg_wait_synced spa_vdev_config_exit spa_vdev_exit spa_vdev_attach"),
    ("zfs", f"{IO} txg_wait_synced dsl_sync_task dsl_destroy_snapshots_nvl"),
    ("rm", f"{CV} dmu_tx_wait dmu_tx_assign zfs_rmnode zfs_zinactive evict"),
    ("ls", f"{ASLEEP} __mutex_lock dmu_zfetch dbuf_read dnode_hold_impl zfs_zget zfs_lookup"),
    ("zpool", f"{ASLEEP} __mutex_lock spa_get_errlog_size zfs_ioc_pool_stats"),
)
THREADS = tuple(TaskStack(pid, comm, "D", tuple(stack.split())) for pid, (comm, stack) in enumerate(STACKS, 100))


def test_two_of_its_threads() -> None:
    for two in itertools.combinations(THREADS, 2):
        graph = build_graph(two)
        assert graph.closes is not Closes.CYCLE, graph.sentence


def test_some_of_its_threads() -> None:
    chosen = random.Random(20)
    for _ in range(6000):
        graph = build_graph(chosen.sample(THREADS, chosen.randint(3, 12)))
        assert graph.closes is not Closes.CYCLE, graph.sentence


def test_all_of_them() -> None:
    graph = build_graph(THREADS)
    assert graph.closes is Closes.UNKNOWN
    assert len(graph.waits) == len(THREADS)
