"""Cycles of blocks, RAID, btrfs and XFS: texts of our own with the functions that the rows name."""

from __future__ import annotations

import pytest

from splvm.evidence.waiting.kernellocks import KERNEL_WAITS, Way
from splvm.evidence.waiting.waitedges import Closes
from splvm.evidence.waiting.waitrows import ROWS
from splvm.paste.explanation import Explanation, explain


def hung(pid: int, functions: str, comm: str = "tankd", at: float = 600.0) -> str:
    frames = "".join(f"[  {at:.6f}]  {name}+0x10/0x20\n" for name in f"__schedule schedule {functions} kthread".split())
    return (
        f"[  {at:.6f}] INFO: task {comm}:{pid} blocked for more than 120 seconds.\n"
        f"[  {at:.6f}] task:{comm} state:D stack:0 pid:{pid} ppid:2 flags:0x0\n[  {at:.6f}] Call Trace:\n{frames}"
    )


def told(*stacks: str) -> Explanation:
    return explain("".join(hung(at + 1, stack) for at, stack in enumerate(stacks)))


CYCLES = {
    "frozen queue": ("__bio_queue_enter blk_zone_wplug_bio_work", "blk_mq_freeze_queue_wait queue_attr_store"),
    "limits": (
        "blk_queue_enter scsi_execute_cmd sd_revalidate_disk sd_open",
        "__mutex_lock queue_wc_store queue_attr_store",
    ),
    "set of tags": (
        "__mutex_lock blk_mq_quiesce_tagset tank_timeout blk_mq_timeout_work process_one_work",
        "blk_mq_freeze_queue_wait blk_mq_update_tag_set_shared blk_mq_exit_queue del_gendisk",
    ),
    "dm-bufio": (
        "out_of_line_wait_on_bit __make_buffer_clean dm_bufio_shrink_scan shrink_slab kswapd",
        "mutex_lock dm_bufio_shrink_count shrink_slab try_to_free_pages loop_queue_work",
    ),
    "barrier": (
        "wait_barrier regular_request_wait raid10_read_request raid10d md_thread",
        "raise_barrier raid10_sync_request md_do_sync md_thread",
    ),
    "btrfs": (
        "btrfs_commit_transaction btrfs_mksubvol",
        "__lock_extent btrfs_finish_one_ordered btrfs_work_helper",
        "wait_current_trans start_transaction extent_fiemap btrfs_fiemap",
    ),
    "btrfs data": (
        "btrfs_commit_transaction btrfs_sync_file",
        "wait_current_trans start_transaction btrfs_finish_ordered_io btrfs_work_helper",
    ),
    "scrub": (
        "__scrub_blocked_if_needed scrub_pause_off scrub_stripe scrub_enumerate_chunks btrfs_scrub_dev",
        "btrfs_scrub_cancel btrfs_commit_transaction prepare_to_relocate btrfs_relocate_chunk btrfs_balance",
    ),
    "attributes": (
        "__wait_on_freeing_inode find_inode_fast iget_locked ext4_xattr_inode_cache_find ext4_xattr_block_set",
        "mb_cache_entry_wait_unused ext4_evict_ea_inode ext4_evict_inode evict iput",
    ),
    "disk of several paths": (
        "blk_queue_enter direct_make_request nvme_ns_head_make_request submit_bio",
        "blk_mq_freeze_queue_wait blk_mq_freeze_queue nvme_update_disk_info nvme_user_cmd",
    ),
    "path": (
        "io_schedule do_read_cache_page device_add_disk nvme_mpath_set_live nvme_scan_work",
        "__flush_work nvme_remove_namespaces nvme_do_delete_ctrl nvme_delete_ctrl_work",
    ),
    "sysfs": (
        "io_schedule xfs_iunpin_wait xfs_reclaim_inode shrink_slab try_to_free_pages kernfs_iop_lookup",
        "__mutex_lock kernfs_find_and_get_ns sysfs_notify md_update_sb md_check_recovery raid1d md_thread",
    ),
    "buffer and its log": (
        "wait_for_completion __flush_workqueue xlog_cil_force_seq xlog_force_shutdown xfs_buf_ioend_work",
        "__down_common down xfs_buf_lock xfs_buf_item_unpin xlog_state_shutdown_callbacks xlog_cil_push_work",
    ),
    "xfs": (
        "__down_common down xfs_buf_lock xfs_buf_item_unpin xlog_state_shutdown_callbacks xlog_ioend_work",
        "xlog_wait_on_iclog xlog_force_lsn __xfs_trans_commit xfs_sync_sb_buf",
    ),
}


@pytest.mark.parametrize("stacks", CYCLES.values(), ids=CYCLES.keys())
def test_cycles(stacks: tuple[str, ...]) -> None:
    found = told(*stacks)
    assert found.closes is Closes.CYCLE
    assert found.telling is not None
    assert sorted(found.telling.graph.cycle) == list(range(1, len(stacks) + 1))
    assert "by role, a guess" in found.telling.graph.sentence


@pytest.mark.parametrize("stacks", CYCLES.values(), ids=CYCLES.keys())
def test_without_one_of_the_threads_nothing_closes(stacks: tuple[str, ...]) -> None:
    for place in range(len(stacks)):
        assert told(*(it for at, it in enumerate(stacks) if at != place)).closes is Closes.UNKNOWN


@pytest.mark.parametrize(
    "functions",
    [
        "__flush_work xfs_inode_mark_reclaimable evict shrink_slab try_to_free_pages xfs_inactive xfs_inodegc_worker",
        "io_schedule folio_wait_bit_common __folio_lock extent_write_cache_pages btrfs_writepages btrfs_do_readpage"
        " btrfs_read_folio filemap_read_folio",
        "inode_wait_for_writeback evict tank_put tank_writepages writeback_sb_inodes wb_workfn",
        "bch_bucket_alloc bch_prio_write bch_allocator_thread",
        "__flush_work __cancel_work_sync nvme_sync_io_queues tank_timeout blk_mq_timeout_work process_one_work",
    ],
)
def test_a_thread_that_waits_for_itself(functions: str) -> None:
    found = told(functions)
    assert found.telling is not None
    assert found.telling.graph.cycle == (1,)
    # Of another thread such a wait is none.
    assert told(functions.rsplit(" ", min(3, functions.count(" ") - 1))[0]).closes is Closes.UNKNOWN


def test_each_row_names_functions_and_a_source() -> None:
    for it in KERNEL_WAITS:
        assert it.asked_by
        assert it.held_in
        assert it.source
        assert (it.way in (Way.OWN, Way.SELF)) == any(
            row.source == it.source and row.top and set(it.asked_by.split()) == row.functions for row in ROWS
        )


def test_a_wait_further_out_is_not_where_a_thread_waits() -> None:
    """Who submits a bio and waits for something else on the way waits for no device."""
    assert told("wait_for_completion_io submit_bio_wait tank_read").closes is Closes.CHAIN
    assert told("raid5_get_active_stripe raid5_make_request submit_bio_wait tank_read").closes is Closes.UNKNOWN


def test_few_stacks_without_a_state_that_sleep() -> None:
    """Somebody shows them because they hang: what they wait for is not known."""
    frames = "".join(
        f"#{at} [ffff9d3b3e651f{at:02x}] {name} at ffffffffa8e6{at:04x}\n"
        for at, name in enumerate(["__schedule", "schedule", "tank_wait", "kthread"])
    )
    head = 'PID: {}     TASK: ffff9d3b3e651f00  CPU: 65   COMMAND: "tankd"\n'
    assert explain(head.format(7) + frames).closes is Closes.UNKNOWN
    assert explain("\n".join(head.format(at) + frames for at in range(1, 20))).closes is None
    assert explain(head.format(7) + frames.replace("tank_wait", "worker_thread")).closes is None


def test_reports_of_one_round_in_any_order() -> None:
    one, two = CYCLES["barrier"]
    found = explain(hung(1, one, at=600.2) + hung(2, two, at=600.1))
    assert found.closes is Closes.CYCLE
    assert len(explain(hung(1, one, at=600.2) + hung(2, two, at=590.1)).moments) == 2


@pytest.mark.parametrize("name", ["remove_wait_queue", "truncate_pagecache", "delete_node", "skip_spaces"])
def test_names_of_functions_are_no_words_about_what_was_left_out(name: str) -> None:
    one, two = CYCLES["barrier"]
    frame = f"[  600.000000]  ? {name}+0x60/0x60\n[  600.000000]  schedule+"
    assert explain((hung(1, one) + hung(2, two)).replace("[  600.000000]  schedule+", frame)).closes is Closes.CYCLE
    left_out = "[some frames removed]\n[  600.000000]  schedule+"
    assert (
        explain((hung(1, one) + hung(2, two)).replace("[  600.000000]  schedule+", left_out)).closes is not Closes.CYCLE
    )


def test_a_head_that_lost_its_state_and_names_with_marks() -> None:
    text = hung(7, "blk_freeze_queue scsi_device_quiesce").split("\n", 1)[1]
    text = text.replace("state:D", "state").replace("quiesce+", "quiesce[jt]+")
    (task,) = explain(text).tasks
    assert (task.pid, task.state, task.frames[3]) == (7, "?", "scsi_device_quiesce")


GLOCK = """\
2 locks held by kworker/3:1H/1:
 #0: ffff000000000100 ((wq_completion)glock_workqueue){+.+.}-{0:0}, at: process_one_work+0x1/0x2
 #1: ffff000000000200 (&type->s_umount_key){+.+.}-{3:3}, at: freeze_super+0x1/0x2
1 lock held by a.out/2:
 #0: ffff000000000200 (&type->s_umount_key){+.+.}-{3:3}, at: alloc_super+0x1/0x2
"""


def test_a_work_and_a_list_of_locks() -> None:
    text = hung(1, "rwsem_down_write_slowpath freeze_super glock_work_func process_one_work", "kworker/3:1H")
    text += hung(2, "wait_for_completion __flush_workqueue gfs2_gl_hash_clear gfs2_fill_super", "a.out")
    assert explain(text).closes is Closes.UNKNOWN
    found = explain(text + GLOCK)
    assert found.closes is Closes.CYCLE


def test_crash_with_lines_broken_and_copies_of_functions() -> None:
    """What a mailer broke off is the address, and a place in a program is no thread."""
    text = (
        'PID: 642  TASK: ffff9768823f4000  CPU: 37  COMMAND: "jbd2/tank-8"\n'
        "  #0 [ffffbd6c40c17c60] __schedule+617 at ffffffffbb912df9\n"
        "  #1 [ffffbd6c40c17d08] jbd2_journal_commit_transaction+877 at\n"
        "ffffffffc016b90d [jbd2] (/pond/linux/fs/jbd2/commit.c:497)\n"
        "  #2 [ffffbd6c40c17e00] __dta_tank_wait_3443 at ffffffffc03a4057 [xfs]\n"
        "  #3 [ffffbd6c40c17ea0] kjournald2+282 at ffffffffc01723ba [jbd2]\n"
        "(/pond/fs/jbd2/journal.c:214)\n"
        "  #4 [ffffbd6c40c17f10] kthread+279 at ffffffffbb0b9167\n"
    )
    (task,) = explain(text).tasks
    functions = ("__schedule", "jbd2_journal_commit_transaction", "tank_wait", "kjournald2", "kthread")
    assert (task.pid, task.frames) == (642, functions)
