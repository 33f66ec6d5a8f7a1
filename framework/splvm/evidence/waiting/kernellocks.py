"""What threads of Linux wait for outside of ZFS, and in which functions a thread has it: blocks, file systems, work.

Owns facts about the source only; a row here is a row of waits in waitrows.py, and one of roles in roles.py. What is
said of a function holds from the place on where it has taken the thing: what it calls before is in `before`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Way(enum.Enum):
    """How a thread waits."""

    OWN = enum.auto()  # in functions of the thing's own
    LOCK = enum.auto()  # for a mutex, a semaphore or a rwlock
    WORK = enum.auto()  # until a work is at its end
    SELF = enum.auto()  # as OWN, and who has it waits for itself


@dataclass(frozen=True, slots=True)
class KernelWait:
    """A thing that a thread waits for."""

    # The value of its role; who has it.
    role: str
    # The value of its reason, and what a sentence calls it.
    reason: str
    noun: str
    way: Way
    # The functions that wait, if it has its own; otherwise those that ask for it.
    asked_by: str
    # Functions within which it is held, and what these call when it is not.
    held_in: str
    before: str
    source: str
    # Values of roles that end it besides.
    also: tuple[str, ...] = ()


# What enters a queue of requests, and what freezes one.
_ENTERS = "blk_queue_enter __bio_queue_enter bio_queue_enter blk_mq_queue_enter"
_FREEZES = (
    "blk_mq_freeze_queue blk_mq_freeze_queue_nomemsave blk_freeze_queue blk_mq_freeze_queue_wait"
    " blk_mq_freeze_queue_wait_timeout blk_freeze_queue_start"
)
_RANGES = "wait_extent_bit lock_extent_bits __lock_extent btrfs_lock_extent_bits lock_extent btrfs_lock_extent"
_STARTS = (
    "start_transaction join_transaction wait_current_trans btrfs_start_transaction btrfs_join_transaction"
    " btrfs_attach_transaction btrfs_attach_transaction_barrier btrfs_start_transaction_fallback_global_rsv"
)

KERNEL_WAITS: tuple[KernelWait, ...] = (
    # Blocks
    KernelWait(
        "freezer",
        "device",
        "the device's frozen queue",
        Way.OWN,
        _ENTERS,
        "queue_attr_store queue_wc_store queue_ra_store queue_requests_store queue_wb_lat_store elevator_switch"
        " elevator_change elv_iosched_store blk_mq_update_nr_hw_queues __blk_mq_update_nr_hw_queues"
        " blk_mq_update_tag_set_shared blk_mq_exit_queue del_gendisk scsi_device_quiesce nvme_dev_disable"
        " nvme_start_freeze nvme_update_disk_info"
        " loop_set_status loop_clr_fd nbd_config_put dm_table_set_restrictions rbd_dev_refresh"
        " blkcg_activate_policy blk_queue_start_drain wbt_set_min_lat blk_iolatency_try_init ioc_qos_write"
        " blk_mq_freeze_queue_wait",
        "blk_mq_unfreeze_queue",
        "mq_freeze_wq of blk_queue_enter(), block/blk-core.c: until who froze the queue lets it go again,"
        " blk_mq_unfreeze_queue(), block/blk-mq.c",
    ),
    KernelWait(
        "in_queue",
        "device",
        "the requests in a device's queue",
        Way.OWN,
        _FREEZES,
        "blk_mq_timeout_work blk_zone_wplug_bio_work blk_mq_submit_bio __submit_bio dm_submit_bio md_submit_bio"
        " md_handle_request blk_mq_run_hw_queue blk_mq_dispatch_rq_list scsi_queue_rq blk_mq_run_work_fn"
        " __blk_flush_plug blk_mq_requeue_work nvme_timeout scsi_timeout loop_process_work nbd_handle_reply"
        " nvme_ns_head_make_request nvme_ns_head_submit_bio",
        "",
        "blk_mq_freeze_queue_wait(), block/blk-mq.c, until q_usage_counter is 0: requests, bios, and who looks at them"
        " count in it, blk_mq_timeout_work() and blk_mq_submit_bio()",
    ),
    KernelWait(
        "tag_set",
        "lock",
        "the lock of a set of tags",
        Way.LOCK,
        "blk_mq_quiesce_tagset blk_mq_unquiesce_tagset blk_mq_add_queue_tag_set blk_mq_del_queue_tag_set"
        " blk_mq_update_nr_hw_queues blk_mq_exit_queue blk_mq_init_allocated_queue",
        "blk_mq_update_tag_set_shared blk_mq_add_queue_tag_set blk_mq_del_queue_tag_set blk_mq_exit_queue"
        " blk_mq_update_nr_hw_queues __blk_mq_update_nr_hw_queues",
        "blk_mq_exit_hw_queues blk_mq_free_queue",
        "tag_list_lock, block/blk-mq.c",
    ),
    KernelWait(
        "queue_limits",
        "lock",
        "the lock of a queue's limits",
        Way.LOCK,
        "queue_limits_start_update queue_limits_commit_update queue_limits_set queue_attr_store queue_wc_store"
        " queue_ra_store queue_max_sectors_store queue_discard_max_store dm_table_set_restrictions sd_revalidate_disk"
        " nvme_update_ns_info_block",
        "sd_revalidate_disk queue_wc_store queue_ra_store queue_attr_store nvme_update_ns_info_block"
        " dm_set_zones_restrictions blk_revalidate_disk_zones",
        "queue_limits_start_update blk_mq_freeze_queue blk_mq_freeze_queue_nomemsave queue_wc_store",
        "limits_lock, block/blk-settings.c and blk-sysfs.c, since 6.9: who changes limits has it from"
        " queue_limits_start_update() to queue_limits_commit_update()",
    ),
    KernelWait(
        "nvme_ana_lock",
        "lock",
        "the lock of a controller's log of paths",
        Way.LOCK,
        "nvme_read_ana_log nvme_parse_ana_log nvme_mpath_add_disk",
        "nvme_parse_ana_log",
        "",
        "ana_lock, drivers/nvme/host/multipath.c",
    ),
    KernelWait(
        "nvme_head",
        "lock",
        "the lock of the paths to a name space",
        Way.LOCK,
        "nvme_update_ns_ana_state nvme_mpath_set_live",
        "nvme_mpath_set_live",
        "",
        "lock of struct nvme_ns_head, drivers/nvme/host/multipath.c, until June 2020 also while a disk is added",
    ),
    KernelWait(
        "dm_bufio",
        "lock",
        "the lock of dm-bufio",
        Way.LOCK,
        "dm_bufio_shrink_count dm_bufio_shrink_scan __scan shrink_work do_global_cleanup cleanup_old_buffers"
        " __evict_old_buffers new_read dm_bufio_prefetch dm_bufio_release dm_bufio_write_dirty_buffers"
        " dm_bufio_write_dirty_buffers_async dm_bufio_mark_partial_buffer_dirty",
        "dm_bufio_shrink_scan __scan __evict_many __evict_old_buffers new_read dm_bufio_prefetch"
        " dm_bufio_write_dirty_buffers __wait_for_free_buffer __make_buffer_clean",
        "dm_bufio_lock",
        "dm_bufio_lock(), drivers/md/dm-bufio.c",
    ),
    KernelWait(
        "loop",
        "device",
        "the I/O of dm-bufio",
        Way.OWN,
        "__make_buffer_clean __try_evict_buffer dm_bufio_write_dirty_buffers __wait_for_free_buffer",
        "loop_queue_work loop_process_work loop_workfn loop_rootcg_workfn do_req_filebacked lo_rw_aio loop_thread",
        "",
        "wait_on_bit_io() of __make_buffer_clean(), drivers/md/dm-bufio.c; drivers/block/loop.c does the I/O of a"
        " device that is a file",
    ),
    # RAID
    KernelWait(
        "raid_barrier",
        "device",
        "the barrier of a RAID",
        Way.OWN,
        "wait_barrier wait_read_barrier regular_request_wait _wait_barrier",
        "raise_barrier raid1_sync_request raid10_sync_request reshape_request freeze_array raid1_quiesce"
        " raid10_quiesce",
        "",
        "wait_barrier(), drivers/md/raid1.c and raid10.c, until the resync, or who freezes the array, lowers it",
    ),
    KernelWait(
        "raid_retry",
        "device",
        "the requests of a RAID",
        Way.OWN,
        "raise_barrier freeze_array",
        "raid10d raid1d handle_read_error fix_read_error handle_write_completed",
        "",
        "raise_barrier() and freeze_array(), drivers/md/raid1.c and raid10.c, until nr_pending is 0: requests that"
        " the array's thread is to do again count in it",
    ),
    # btrfs
    KernelWait(
        "btrfs_range",
        "lock",
        "the lock of a range of a file of btrfs",
        Way.OWN,
        _RANGES,
        "extent_fiemap btrfs_clone btrfs_clone_files btrfs_fallocate btrfs_page_mkwrite btrfs_finish_ordered_io"
        " btrfs_finish_one_ordered btrfs_direct_write btrfs_dio_iomap_begin defrag_one_range btrfs_punch_hole"
        " btrfs_zero_range btrfs_readahead extent_readahead btrfs_read_folio find_lock_delalloc_range"
        " btrfs_lock_and_flush_ordered_range lock_and_cleanup_extent_if_need btrfs_cont_expand btrfs_truncate"
        " clone_copy_inline_extent",
        _RANGES + " btrfs_join_transaction btrfs_wait_ordered_range",
        "lock_extent(), fs/btrfs/extent-io-tree.c (extent_io.c before 6.1)",
    ),
    KernelWait(
        "btrfs_commit",
        "txg",
        "the commit of a transaction of btrfs",
        Way.OWN,
        "wait_current_trans btrfs_wait_for_commit wait_for_commit",
        "btrfs_commit_transaction btrfs_write_and_wait_transaction cleanup_transaction",
        "wait_for_commit",
        "wait_current_trans(), fs/btrfs/transaction.c: who commits has blocked the transaction",
    ),
    KernelWait(
        "btrfs_handle",
        "txg_hold",
        "the handles or the data of a transaction of btrfs",
        Way.OWN,
        "btrfs_commit_transaction",
        "btrfs_evict_inode btrfs_finish_ordered_io btrfs_finish_one_ordered btrfs_create_common btrfs_rename"
        " btrfs_unlink btrfs_link btrfs_setxattr_trans btrfs_drop_extents btrfs_replace_file_extents"
        " btrfs_async_run_delayed_root btrfs_run_delayed_items btrfs_sync_log btrfs_log_inode"
        " clone_finish_inode_update btrfs_clone btrfs_dirty_inode btrfs_update_inode btrfs_truncate_inode_items"
        " btrfs_chunk_alloc btrfs_qgroup_rescan_worker btrfs_update_reloc_root merge_reloc_root",
        _STARTS + " btrfs_commit_transaction btrfs_end_transaction",
        "writer_wait and pending_wait of btrfs_commit_transaction(), fs/btrfs/transaction.c, until num_writers is 1 and"
        " no ordered extent is pending",
        also=("btrfs_ordered",),
    ),
    KernelWait(
        "btrfs_ordered",
        "page",
        "data of btrfs to be written",
        Way.OWN,
        "btrfs_start_ordered_extent btrfs_wait_ordered_range btrfs_wait_ordered_extents",
        "btrfs_finish_ordered_io btrfs_finish_one_ordered",
        "",
        "wait_event() of btrfs_start_ordered_extent(), fs/btrfs/ordered-data.c, until btrfs_finish_ordered_io() has"
        " ended",
    ),
    KernelWait(
        "scrub_pauser",
        "stop",
        "who paused the scrub",
        Way.OWN,
        "__scrub_blocked_if_needed scrub_blocked_if_needed scrub_pause_off",
        "btrfs_relocate_chunk btrfs_scrub_pause btrfs_commit_transaction",
        "",
        "scrub_pause_req, fs/btrfs/scrub.c: from btrfs_scrub_pause() to btrfs_scrub_continue() of"
        " btrfs_relocate_chunk(), fs/btrfs/volumes.c",
    ),
    KernelWait(
        "scrubber",
        "stop",
        "the scrub",
        Way.OWN,
        "btrfs_scrub_cancel btrfs_scrub_cancel_dev btrfs_scrub_pause",
        "btrfs_scrub_dev scrub_enumerate_chunks",
        "",
        "scrubs_running and scrubs_paused, fs/btrfs/scrub.c",
    ),
    KernelWait(
        "bcache_allocator",
        "references",
        "a bucket of bcache",
        Way.SELF,
        "bch_bucket_alloc",
        "bch_allocator_thread",
        "",
        "bucket_wait, drivers/md/bcache/alloc.c: bch_allocator_thread() makes buckets free",
    ),
    # ext4, and what is listed as files
    KernelWait(
        "mb_cache",
        "references",
        "the last user of a cached attribute",
        Way.OWN,
        "mb_cache_entry_wait_unused",
        "ext4_xattr_inode_cache_find ext4_xattr_block_cache_find ext2_xattr_cache_find",
        "",
        "mb_cache_entry_wait_unused(), fs/mbcache.c: ext4_xattr_inode_cache_find(), fs/ext4/xattr.c, uses the entry"
        " while it looks for the inode",
    ),
    KernelWait(
        "kernfs",
        "lock",
        "the lock of sysfs",
        Way.LOCK,
        "kernfs_find_and_get_ns kernfs_iop_lookup kernfs_dop_revalidate kernfs_iop_permission kernfs_iop_getattr"
        " kernfs_fop_readdir kernfs_add_one kernfs_remove_by_name_ns",
        "kernfs_iop_lookup kernfs_dop_revalidate kernfs_iop_permission kernfs_iop_getattr kernfs_add_one",
        "kernfs_find_and_get_ns",
        "kernfs_mutex, later kernfs_rwsem, fs/kernfs/dir.c: who looks for a name may make an inode",
    ),
    # XFS
    KernelWait(
        "xfs_buffer",
        "lock",
        "the lock of a buffer of XFS",
        Way.LOCK,
        "xfs_buf_lock xfs_buf_find_lock xfs_buf_get_map xfs_buf_item_unpin xfs_buf_find",
        "xfs_sync_sb_buf xfs_buf_ioend xfs_buf_ioend_work xfs_buf_ioend_handle_error xfs_buf_iowait xfs_bwrite",
        "xfs_buf_lock xfs_buf_find_lock",
        "b_sema, fs/xfs/xfs_buf.c: from the beginning to the end of its I/O, xfs_buf_ioend(); xfs_sync_sb_buf(),"
        " fs/xfs/libxfs/xfs_sb.c, has it while it forces the log",
    ),
    KernelWait(
        "xfs_log",
        "journal",
        "the log of XFS",
        Way.OWN,
        "xfs_iunpin_wait __xfs_iunpin_wait"
        " xlog_wait_on_iclog xlog_force_lsn xlog_wait_on_iclog_lsn xlog_wait xlog_state_get_iclog_space xfs_log_force"
        " xfs_log_force_seq xlog_cil_force_seq xlog_cil_order_write xlog_force_iclog",
        "xlog_ioend_work xlog_state_shutdown_callbacks xlog_state_do_callback xlog_cil_push_work xlog_force_shutdown"
        " xlog_cil_process_committed xlog_cil_committed",
        "",
        "ic_force_wait and ic_write_wait of xlog_wait_on_iclog(), fs/xfs/xfs_log.c: until the end of the log's I/O;"
        " flush_pending_writes() of raid1d(), drivers/md/raid1.c, hands on what an array has of it",
        also=("raid_retry",),
    ),
    # Work that is waited for
    *(
        KernelWait(role, "workqueue", f"the work {worker.split()[0]}", Way.WORK, asked_by, worker, "", source)
        for role, worker, asked_by, source in (
            (
                "xfs_inodegc",
                "xfs_inodegc_worker",
                "xfs_inode_mark_reclaimable xfs_inodegc_queue xfs_inodegc_flush xfs_inodegc_stop xfs_inodegc_wait_all",
                "xfs_inodegc_queue() and xfs_inodegc_flush(), fs/xfs/xfs_icache.c",
            ),
            (
                "blk_timeout",
                "blk_mq_timeout_work",
                "blk_sync_queue nvme_sync_io_queues nvme_sync_queues blk_cleanup_queue blk_mq_cancel_work_sync",
                "timeout_work, block/blk-mq.c; nvme_sync_io_queues(), drivers/nvme/host/core.c, waits for it",
            ),
            (
                "nvme_scan",
                "nvme_scan_work",
                "nvme_remove_namespaces nvme_stop_ctrl",
                "scan_work, drivers/nvme/host/core.c",
            ),
            (
                "nvme_ana",
                "nvme_ana_work",
                "nvme_mpath_stop nvme_stop_ctrl",
                "ana_work, drivers/nvme/host/multipath.c",
            ),
            (
                "nvme_delete",
                "nvme_do_delete_ctrl nvme_delete_ctrl_work",
                "nvme_delete_ctrl_sync",
                "delete_work, drivers/nvme/host/core.c",
            ),
            (
                "xfs_cil",
                "xlog_cil_push_work",
                "xlog_cil_force_seq xlog_cil_push_now xlog_cil_flush",
                "xc_push_wq of xlog_cil_push_now(), fs/xfs/xfs_log_cil.c",
            ),
            (
                "gfs2_glock",
                "glock_work_func",
                "gfs2_gl_hash_clear gfs2_put_super gfs2_glock_put_eventually",
                "glock_workqueue, fs/gfs2/glock.c",
            ),
        )
    ),
)
