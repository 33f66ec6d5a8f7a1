"""Rows of waits for the slab worker, a transaction group, I/O, a page and memory: a part of waitrows.py's table."""

from __future__ import annotations

from splvm.evidence.waiting.roles import RANGE_LOCKS, SWAP_IN, SWAP_SUBMIT, Role, names
from splvm.evidence.waiting.waits import DIRECT_RECLAIM, PAGE_FAULT, SHRINKERS, WaitReason, WaitRow

PAGE_WAITS = names(
    "folio_wait_bit_common folio_wait_bit folio_wait_bit_killable folio_wait_writeback __folio_lock"
    " __folio_lock_killable __folio_lock_or_retry wait_on_page_bit wait_on_page_bit_common wait_on_page_writeback"
    " __lock_page __lock_page_killable __lock_page_or_retry"
)

_ZIO = names(
    "zio_wait vdev_rebuild_range vdev_rebuild_thread vdev_trim_range vdev_trim_ranges vdev_trim_simple"
    " vdev_trim_l2arc_thread vdev_initialize_write vdev_initialize_thread scan_exec_io dsl_scan_prefetch_thread"
    " dmu_prefetch_wait_by_dnode spa_load_verify_cb zil_lwb_flush_wait_all ddt_lookup"
)
# What reads a block, so that no thread that writes can end it.
_READ = names(
    "dbuf_read dbuf_read_impl dmu_read dmu_read_impl dmu_read_uio_dnode dmu_buf_hold dmu_buf_hold_array_by_dnode"
    " arc_read space_map_load space_map_iterate zap_get_leaf_byblk dmu_tx_check_ioerr"
)
_BUFFER = names(
    "dbuf_read dbuf_read_impl dmu_buf_hold_array_by_dnode arc_read dbuf_noread dbuf_assign_arcbuf dbuf_sync_leaf"
    " dbuf_read_verify_dnode_crypt dmu_read_abd"
)
_TXG = names("txg_wait_open txg_wait_synced txg_wait_synced_impl txg_wait_synced_flags dmu_tx_wait")

IO_ROWS: tuple[WaitRow, ...] = (
    WaitRow(
        WaitReason.HELD,
        "the host",
        # The compiler may make one function of the two. Outside of the original they mean nothing: hence `top`.
        names("slabprobe_held_grow slabprobe_grow_work"),
        (),
        "wait_event() of slabprobe_held_grow(), images/slabprobe/hold.c",
        top=True,
        named=True,
    ),
    WaitRow(
        WaitReason.PANICKED,
        "ever: it failed a check of ZFS's own, and what it has it never gives back",
        names("spl_panic spl_debug_bug vcmn_err"),
        (),
        "spl_panic() and vcmn_err(), module/os/linux/spl/spl-err.c: they schedule for ever;"
        " spl_debug_bug(), spl-debug.c before 0.6.4",
        named=True,
    ),
    WaitRow(
        WaitReason.SLAB_GROWTH,
        "the slab worker",
        # The compiler may put spl_cache_grow() into its callers.
        names("spl_cache_grow spl_cache_refill spl_kmem_cache_alloc"),
        (Role.SLAB_WORKER,),
        "wait_event_timeout() on skc_waitq, spl_cache_grow(), module/os/linux/spl/spl-kmem-cache.c",
        top=True,
    ),
    WaitRow(
        WaitReason.COMMIT,
        "the commit",
        names("slabprobe_wait_commit slabprobe_shrink_scan slabprobe_storm_wait slabprobe_storm_scan"),
        (Role.TRANSACTION,),
        "slabprobe_wait_commit(), images/slabprobe/cycle.c, and slabprobe_storm_wait(), storm.c: a shrinker that waits,"
        " as a filesystem's does, for commits",
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
        (Role.TX_HOLDER,),
        "no later group opens, and none is synced, until it commits, txg_quiesce() of module/zfs/txg.c; reclaim may"
        " come in between, as in receive_object() of module/zfs/dmu_send.c in 2016",
        own=True,
        of=Role.TX_HOLDER,
        within=DIRECT_RECLAIM | PAGE_FAULT,
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
        WaitReason.TXG,
        "the next transaction group",
        # The compiler makes one function of the two.
        names("vdev_autotrim_wait_kick vdev_autotrim_thread"),
        (Role.TXG_SYNC,),
        "vdev_autotrim_kick_cv, which spa_sync() signals, module/zfs/vdev_trim.c",
        top=True,
    ),
    WaitRow(
        WaitReason.TXG_HOLD,
        "the open transaction",
        # The compiler makes one function of the two.
        names("txg_quiesce txg_quiesce_thread txg_wait_exit"),
        (Role.TX_HOLDER,),
        "cv_wait() on tc_cv until tc_count is 0, txg_quiesce(), module/zfs/txg.c",
        top=True,
        each=True,
    ),
    WaitRow(
        WaitReason.ZIO,
        "the I/O",
        _ZIO,
        (Role.ZIO_READ,),
        "io_cv of zio_wait(), module/zfs/zio.c, for a read: zio_taskqs of module/zfs/spa.c are of one type each",
        within=_READ,
        kind="I/O",
    ),
    WaitRow(
        WaitReason.ZIO,
        "the I/O",
        _ZIO,
        (Role.ZIO,),
        "io_cv of zio_wait(), module/zfs/zio.c; the others count the I/O that they have in flight, in vdev_rebuild.c,"
        " vdev_trim.c, vdev_initialize.c, dsl_scan.c, dmu.c, spa.c, zil.c, ddt.c of module/zfs",
        kind="I/O",
    ),
    WaitRow(
        WaitReason.ZIL,
        "the log write",
        names("zil_commit_waiter zil_commit_impl zil_commit"),
        (Role.ZIO,),
        "zcw_cv of zil_commit_waiter(), signalled by zil_lwb_flush_vdevs_done(), module/zfs/zil.c",
        kind="I/O",
    ),
    WaitRow(
        WaitReason.BUFFER,
        "the buffer",
        _BUFFER,
        (Role.FILLER, Role.ZIO_READ),
        "db_changed, which dmu_buf_fill_done() signals as well, module/zfs/dbuf.c: who copies from a page into a buffer"
        " and has to read that page first may read that very buffer, openzfs/zfs pull request 7339",
        own=True,
        sole=True,
        of=Role.FILLER,
        within=PAGE_FAULT,
        kind="I/O",
    ),
    WaitRow(
        WaitReason.BUFFER,
        "the buffer",
        _BUFFER,
        (Role.ZIO_READ,),
        "db_changed of dbuf_read(), signalled by dbuf_read_done(), module/zfs/dbuf.c and dmu.c",
        kind="I/O",
    ),
    WaitRow(
        WaitReason.BIO,
        "the bio",
        names("mempool_alloc mempool_alloc_noprof"),
        (Role.ZVOL, Role.FLUSHER),
        "bio_alloc_bioset(), block/bio.c, waits until another bio of the pool ends; on a zvol zvol_write() ends it",
        within=names("bio_alloc_bioset bio_alloc bio_alloc_clone bio_clone_fast"),
        kind="memory",
    ),
    WaitRow(
        WaitReason.SWAP_IO,
        "the swap I/O",
        PAGE_WAITS,
        (Role.ZVOL,),
        "do_swap_page() locks the page that it reads, mm/memory.c; swap is on a zvol in openzfs #7734",
        within=SWAP_IN,
        kind="memory",
    ),
    WaitRow(
        WaitReason.PAGE,
        "the page",
        PAGE_WAITS,
        (Role.PAGE, Role.LOG_WRITER, Role.FLUSHER),
        "zfs_putpage_commit_cb(), module/os/linux/zfs/zfs_vnops_os.c: writeback of a page ends when the log has it",
        within=names("zfs_freesp zfs_free_range zfs_trunc zfs_extend zfs_space zfs_putpage zpl_writepages zpl_fsync"),
        kind="memory",
    ),
    WaitRow(
        WaitReason.PAGE,
        "the page",
        PAGE_WAITS,
        (Role.PAGE,),
        "btrfs_do_readpage(), fs/btrfs/extent_io.c, has the page that it reads, and writes back what it finds of it"
        " that is not at its end, btrfs_lock_and_flush_ordered_range(), ordered-data.c",
        own=True,
        of=Role.PAGE,
        within=names("btrfs_do_readpage"),
        asked_by=names("extent_write_cache_pages"),
        kind="memory",
    ),
    WaitRow(
        WaitReason.DEVICE,
        "the I/O of a buffer",
        names("__wait_on_buffer"),
        (),
        "journal_finish_inode_data_buffers() and journal_wait_on_commit_record(), fs/jbd2/commit.c;"
        " fs/jbd2/checkpoint.c; __sync_dirty_buffer(), fs/buffer.c: who waits has handed it to the device itself",
        asked_by=names(
            "jbd2_journal_commit_transaction journal_wait_on_commit_record jbd2_log_do_checkpoint jbd2_write_superblock"
            " jbd2_journal_update_sb_errno jbd2_journal_update_sb_log_tail __sync_dirty_buffer sync_dirty_buffer"
        ),
    ),
    WaitRow(
        WaitReason.PAGE,
        "the page",
        PAGE_WAITS | names("__wait_on_buffer __lock_buffer migration_entry_wait_on_locked"),
        (Role.ZVOL, Role.PAGE, Role.FLUSHER, Role.KSWAPD, Role.KCOMPACTD, Role.SWAP_USER),
        "folio_wait_bit_common(), mm/filemap.c (wait_on_page_bit_common() before 5.16); fs/buffer.c; mm/migrate.c",
        kind="memory",
    ),
    WaitRow(
        WaitReason.SWAP_IO,
        "the swap I/O",
        SWAP_SUBMIT | SWAP_IN,
        (Role.ZVOL,),
        "mm/page_io.c: a request or a bio is not to be had, or a synchronous read is not back",
        kind="memory",
    ),
    WaitRow(
        WaitReason.ZVOL,
        "the range lock",
        RANGE_LOCKS,
        (Role.RANGE,),
        "who writes what a page of the same file has, and has to read that page first, asks for the range again in"
        " zfs_getpage(), module/os/linux/zfs/zfs_vnops_os.c: openzfs/zfs issue 18135",
        own=True,
        sole=True,
        of=Role.RANGE_WRITER,
        within=PAGE_FAULT,
        kind="a range lock",
    ),
    WaitRow(
        WaitReason.ZVOL,
        "the range lock",
        RANGE_LOCKS,
        (Role.RANGE,),
        "lr_write_cv and lr_read_cv, module/zfs/zfs_rlock.c",
        kind="a range lock",
    ),
    WaitRow(
        WaitReason.ARC,
        "the eviction",
        names("arc_wait_for_eviction arc_shrinker_scan __arc_shrinker_func"),
        (Role.ARC,),
        "aew_cv of arc_wait_for_eviction(), module/zfs/arc.c; arc_shrinker_scan(), module/os/linux/zfs/arc_os.c",
        kind="an eviction",
    ),
    WaitRow(
        WaitReason.SHRINKER,
        "something that is not known here",
        SHRINKERS,
        (),
        "do_shrink_slab(), mm/shrinker.c: the shrinker's own wait is not in this table",
    ),
    WaitRow(
        WaitReason.RECLAIM,
        "the reclaim",
        names(
            "reclaim_throttle throttle_direct_reclaim wait_iff_congested congestion_wait shrink_folio_list"
            " shrink_page_list shrink_inactive_list shrink_lruvec shrink_node shrink_zone balance_pgdat"
        ),
        (Role.KSWAPD, Role.ZVOL, Role.FLUSHER),
        "reclaim_throttle() and throttle_direct_reclaim(), mm/vmscan.c; congestion_wait() until 5.15, mm/backing-dev.c",
        kind="memory",
    ),
    WaitRow(
        WaitReason.RECLAIM,
        "the reclaim",
        names("do_try_to_free_pages try_to_free_pages try_to_free_mem_cgroup_pages __alloc_pages_slowpath"),
        (Role.KSWAPD, Role.ZVOL, Role.FLUSHER),
        "__alloc_pages_slowpath(), mm/page_alloc.c, tries again and again as long as it sees progress",
        running=True,
        kind="memory",
    ),
)
