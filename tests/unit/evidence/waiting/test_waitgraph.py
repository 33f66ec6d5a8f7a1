"""Who waits for whom."""

from __future__ import annotations

import itertools
import json
import lzma
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from places import PROJECT
from splvm.evidence.formats.stacks import TaskStack
from splvm.evidence.formats.sysrq import DumpKind, parse_sysrq
from splvm.evidence.waiting.blocked import MAX_FRAMES
from splvm.evidence.waiting.kernellocks import KERNEL_WAITS, KernelWait, Way
from splvm.evidence.waiting.roles import ROLES, TASKQS, Role, RoleRow
from splvm.evidence.waiting.waitedges import Basis, Closes, Owner
from splvm.evidence.waiting.waitgraph import MAX_EDGES, WaitGraph, build_graph
from splvm.evidence.waiting.waitrows import ROWS, UNKNOWN_ROW
from splvm.evidence.waiting.waits import WaitReason, WaitRow
from splvm.evidence.waiting.zfslocks import LOCKS, How

FUZZ = settings(deadline=None, max_examples=200, derandomize=True)
DATA = (PROJECT / "tests" / "data") / "sysrq"
R = WaitReason

# Pieces of stacks, innermost first.
ASLEEP = "__schedule schedule"
CV = f"{ASLEEP} cv_wait_common __cv_wait_io"
KTHREAD = "kthread ret_from_fork"
TASKQ = f"taskq_thread {KTHREAD}"
SHRINK = "do_shrink_slab shrink_slab shrink_node do_try_to_free_pages try_to_free_pages __alloc_pages_slowpath"
SCAN = "shrink_page_list shrink_inactive_list shrink_lruvec shrink_node try_to_free_pages __alloc_pages_slowpath"
FAULT = "do_anonymous_page handle_mm_fault exc_page_fault"
WRITE = f"zvol_write zvol_write_task {TASKQ}"
GROW = f"{ASLEEP} schedule_timeout spl_cache_grow spl_kmem_cache_alloc"
GROW_WORK = f"__vmalloc spl_vmalloc spl_slab_alloc __spl_cache_grow spl_cache_grow_work {TASKQ}"
READ_IN = "filemap_fault __do_fault handle_mm_fault do_user_addr_fault exc_page_fault"
INACTIVE = "txg_wait_open dmu_tx_wait dmu_tx_assign zfs_inactive zpl_evict_inode evict prune_icache_sb super_cache_scan"


def thread(pid: int, comm: str, stack: str, state: str = "D") -> TaskStack:
    return TaskStack(pid, comm, state, tuple(stack.split()))


WORKER_HELD = thread(77, "spl_kmem_cache", f"{ASLEEP} slabprobe_grow_work {TASKQ}")
WORKER_IN_RECLAIM = thread(77, "spl_kmem_cache", f"{CV} {INACTIVE} {SHRINK} {GROW_WORK}")
WORKER_AT_TRAP = thread(
    77, "spl_kmem_cache", f"{ASLEEP} slabprobe_wait_commit slabprobe_shrink_scan {SHRINK} {GROW_WORK}"
)
WORKER_IDLE = thread(77, "spl_kmem_cache", f"{ASLEEP} {TASKQ}", "S")
CRITICAL = thread(90, "slabprobe/0", f"{GROW} critical_thread {KTHREAD}")
CRITICAL_2 = thread(91, "slabprobe/1", f"{GROW} critical_thread {KTHREAD}")
TRANSACTION = thread(95, "slabprobe/tx", f"{GROW} slabprobe_transaction {KTHREAD}")
ISSUE = thread(300, "z_wr_iss", f"{GROW} zio_buf_alloc zio_write_compress zio_execute {TASKQ}")
SYNC = thread(400, "txg_sync", f"{CV} zio_wait dsl_pool_sync spa_sync txg_sync_thread {KTHREAD}")
QUIESCE = thread(401, "txg_quiesce", f"{ASLEEP} cv_wait_common __cv_wait txg_quiesce_thread {KTHREAD}")
QUIESCE_IDLE = thread(401, "txg_quiesce", f"{CV} txg_thread_wait txg_quiesce_thread {KTHREAD}", "S")
PAGE_WAIT = f"{ASLEEP} io_schedule folio_wait_bit_common folio_wait_writeback"
EATER = thread(500, "eater", f"{PAGE_WAIT} {SCAN} {FAULT}")
ZVOL_HOLDER = thread(600, "zvol", f"{PAGE_WAIT} {SCAN} zil_itx_create zvol_log_write {WRITE}")
ZVOL_WAITS = thread(601, "zvol", f"{CV} txg_wait_open dmu_tx_wait dmu_tx_assign {WRITE}")


# What waits where a lock is asked for.
ASKED = {How.LOCK: "__mutex_lock", How.READ: "rrw_enter_read", How.WRITE: "rrw_enter_write"}


@dataclass(frozen=True, slots=True)
class Case:
    threads: tuple[TaskStack, ...]
    # Of each blocked thread.
    reasons: dict[int, WaitReason]
    edges: set[tuple[int, int]]
    cycle: tuple[int, ...] = ()
    chain: tuple[int, ...] = ()
    # What the sentence has to say.
    says: str = ""
    # If there is a chain.
    closes: Closes = Closes.CHAIN
    # Beside the stacks.
    owners: dict[int, Owner] = field(default_factory=dict)
    mixed: frozenset[int] = frozenset()
    devices: str = ""
    suspended: bool = False

    def graph(self) -> WaitGraph:
        return build_graph(
            self.threads, owners=self.owners, mixed=self.mixed, devices=self.devices, suspended=self.suspended
        )


def alone(
    stack: str,
    reason: WaitReason,
    holder: TaskStack | None = None,
    *,
    says: str = "",
    comm: str = "sh",
    closes: Closes = Closes.UNKNOWN,
) -> Case:
    """One thread that waits, and perhaps one that it waits for and that waits for a lock."""
    waiter = thread(10, comm, stack)
    if holder is None:
        return Case((waiter,), {10: reason}, set(), chain=(10,), says=says, closes=closes)
    return Case(
        (waiter, holder), {10: reason, holder.pid: R.LOCK}, {(10, holder.pid)}, (), (10, holder.pid), says, closes
    )


def locked(comm: str, stack: str = KTHREAD) -> TaskStack:
    return thread(20, comm, f"{ASLEEP} schedule_preempt_disabled __mutex_lock mutex_lock {stack}")


CASES: dict[str, Case] = {
    "held worker": Case(
        (CRITICAL, CRITICAL_2, WORKER_HELD, QUIESCE_IDLE),
        {77: R.HELD, 90: R.SLAB_GROWTH, 91: R.SLAB_GROWTH},
        {(90, 77), (91, 77)},
        chain=(90, 77),
        says="slabprobe/0 (pid 90) and 1 more wait in spl_cache_grow for the slab worker spl_kmem_cache (pid 77),"
        " which is held by slabprobe until the host releases it: a chain, not a cycle",
    ),
    "held worker, critical thread first": Case(
        (CRITICAL, replace(ISSUE, pid=30), WORKER_HELD),
        {77: R.HELD, 90: R.SLAB_GROWTH, 30: R.SLAB_GROWTH},
        {(90, 77), (30, 77)},
        chain=(90, 77),
        says="slabprobe/0 (pid 90) and 1 more wait in spl_cache_grow",
    ),
    "original deadlock with a worker": Case(
        (TRANSACTION, WORKER_AT_TRAP, CRITICAL),
        {95: R.SLAB_GROWTH, 77: R.COMMIT, 90: R.SLAB_GROWTH},
        {(95, 77), (77, 95), (90, 77)},
        cycle=(95, 77),
        says="cycle: the transaction thread slabprobe/tx (pid 95) waits in spl_cache_grow for the slab worker"
        " spl_kmem_cache (pid 77); the slab worker spl_kmem_cache (pid 77) waits in slabprobe_wait_commit, in shrinker"
        " slabprobe_shrink_scan, in direct reclaim, for the commit of the transaction thread slabprobe/tx (pid 95)",
    ),
    "bio": alone(
        f"{ASLEEP} io_schedule_timeout mempool_alloc bio_alloc_bioset vdev_disk_io_start zio_nowait",
        R.BIO,
        locked("zvol", KTHREAD),
        says="waits in mempool_alloc for the bio of zvol (pid 20)",
        comm="z_wr_int_h",
    ),
    "a transaction in whose reclaim another one begins": Case(
        (thread(50, "receiver", f"{CV} txg_wait_open dmu_tx_wait zfs_rmnode {SCAN} dnode_create dmu_object_claim"),),
        {50: R.TXG},
        {(50, 50)},
        cycle=(50,),
        says="cycle: receiver (pid 50) waits in txg_wait_open, in direct reclaim, for its own transaction group",
    ),
    "a transaction that is not assigned yet": alone(
        f"{CV} txg_wait_open dmu_tx_wait zfs_rmnode {SCAN} spl_kmem_cache_alloc zfs_write", R.TXG
    ),
    "who has all of the configuration reads": Case(
        (thread(51, "zpool", f"{CV} spa_config_enter zio_read arc_read vdev_label_init spa_vdev_attach"),),
        {51: R.CONFIG},
        {(51, 51)},
        cycle=(51,),
        says="waits in spa_config_enter for its own pool's configuration lock",
    ),
    "a writer of the configuration that waits for its turn": alone(
        f"{CV} spa_config_enter spa_vdev_enter spa_vdev_attach", R.CONFIG
    ),
    "a mount, an unmount and the group that both need": Case(
        (
            thread(400, "txg_sync", f"{CV} rrw_enter_write rrw_enter spa_sync_upgrades spa_sync txg_sync_thread"),
            thread(70, "mount", f"{ASLEEP} rwsem_down_write_failed down_write grab_super sget zpl_mount_impl mount_fs"),
            thread(71, "umount", f"{CV} txg_wait_synced zfs_sync zpl_sync_fs generic_shutdown_super cleanup_mnt"),
        ),
        {400: R.RRW, 70: R.LOCK, 71: R.TXG},
        {(400, 70), (70, 71), (71, 400)},
        cycle=(400, 70, 71),
    ),
    "an I/O and its children": Case(
        (
            thread(60, "a", f"{ASLEEP} mutex_lock zio_wait_for_children zio_vdev_io_assess vdev_queue_aggregate"),
            thread(61, "b", f"{ASLEEP} mutex_lock vdev_queue_change_io_priority zio_change_priority arc_read"),
        ),
        {60: R.LOCK, 61: R.LOCK},
        {(60, 61), (61, 60)},
        cycle=(61, 60),
    ),
    "no bio": alone(f"{ASLEEP} mempool_alloc something_else", R.UNKNOWN),
    "sync-grow": Case(
        (
            thread(
                95,
                "slabprobe/tx",
                f"{ASLEEP} slabprobe_wait_commit slabprobe_shrink_scan {SHRINK} __vmalloc spl_slab_alloc spl_cache_grow"
                f" spl_kmem_cache_alloc slabprobe_transaction {KTHREAD}",
            ),
        ),
        {95: R.COMMIT},
        {(95, 95)},
        cycle=(95,),
        says="cycle: the transaction thread slabprobe/tx (pid 95) waits in slabprobe_wait_commit, in shrinker"
        " slabprobe_shrink_scan, in direct reclaim, for its own commit",
    ),
    "classic": Case(
        (ISSUE, WORKER_IN_RECLAIM, SYNC, QUIESCE_IDLE),
        {300: R.SLAB_GROWTH, 77: R.TXG, 400: R.ZIO},
        {(300, 77), (77, 400), (400, 300)},
        cycle=(77, 400, 300),
        says="cycle: the slab worker spl_kmem_cache (pid 77) waits in txg_wait_open, in shrinker super_cache_scan, in"
        " direct reclaim, for the transaction group of txg_sync (pid 400); txg_sync (pid 400) waits in zio_wait for"
        " the I/O of z_wr_iss (pid 300); z_wr_iss (pid 300) waits in spl_cache_grow for the slab worker spl_kmem_cache"
        " (pid 77)",
    ),
    "the syncing thread waits for itself": Case(
        (
            thread(400, "txg_sync", f"{CV} {INACTIVE} {SHRINK} kmem_alloc spa_sync txg_sync_thread {KTHREAD}"),
            QUIESCE_IDLE,
        ),
        {400: R.TXG},
        {(400, 400)},
        cycle=(400,),
        says="in direct reclaim, for its own transaction group",
    ),
    "zvol swap": Case(
        (EATER, ZVOL_HOLDER, ZVOL_WAITS, QUIESCE),
        {500: R.PAGE, 600: R.PAGE, 601: R.TXG, 401: R.TXG_HOLD},
        {(500, 600), (500, 601), (600, 601), (601, 401), (401, 600)},
        cycle=(401, 600, 601),
        says="cycle: txg_quiesce (pid 401) waits in txg_quiesce_thread for the open transaction of zvol (pid 600)",
    ),
    "zvol swap, txg_sync waits too, and the open group for both": Case(
        (ZVOL_HOLDER, ZVOL_WAITS, QUIESCE, SYNC),
        {600: R.PAGE, 601: R.TXG, 401: R.TXG_HOLD, 400: R.ZIO},
        {(600, 601), (601, 400), (601, 401), (401, 600)},
        cycle=(401, 600, 601),
    ),
    "zvol swap, the holder goes round in reclaim": Case(
        (
            thread(
                600,
                "zvol",
                f"shrink_lruvec shrink_node do_try_to_free_pages try_to_free_pages zvol_log_write {WRITE}",
                "R",
            ),
            ZVOL_WAITS,
            QUIESCE,
        ),
        {600: R.RECLAIM, 601: R.TXG, 401: R.TXG_HOLD},
        {(600, 601), (601, 401), (401, 600)},
        cycle=(401, 600, 601),
        says="zvol (pid 600) keeps running in do_try_to_free_pages, in direct reclaim, for the reclaim of zvol (pid"
        " 601)",
    ),
    "a transaction of the syncing group holds nothing open": Case(
        (
            QUIESCE,
            thread(400, "txg_sync", f"{CV} zio_wait dbuf_dirty dsl_pool_sync spa_sync txg_sync_thread {KTHREAD}"),
        ),
        {401: R.TXG_HOLD, 400: R.ZIO},
        set(),
        chain=(401,),
        says="txg_quiesce (pid 401) waits in txg_quiesce_thread for the open transaction, and its holder is not in the"
        " text",
        closes=Closes.UNKNOWN,
    ),
    "zil": alone(f"{CV} zil_commit_waiter zil_commit_impl zil_commit zvol_write", R.ZIL, locked("z_wr_int_0")),
    "dbuf": alone(f"{CV} dbuf_read dmu_buf_hold_array_by_dnode dmu_read", R.BUFFER, locked("z_rd_int_1")),
    "swap-in": alone(
        f"{ASLEEP} io_schedule __folio_lock_or_retry do_swap_page handle_mm_fault", R.SWAP_IO, locked("zvol_tq-0")
    ),
    "swap-out": alone(f"{ASLEEP} io_schedule blk_mq_get_tag __swap_writepage {SCAN}", R.SWAP_IO, locked("zvol")),
    "range lock": alone(
        f"{CV} zfs_rangelock_enter_impl zfs_rangelock_enter {WRITE}", R.ZVOL, locked("zvol/3", WRITE), comm="zvol/1"
    ),
    "arc": alone(f"{CV} arc_wait_for_eviction arc_get_data_impl dbuf_read", R.ARC, locked("arc_evict")),
    "arc's shrinker": alone(
        f"{ASLEEP} arc_shrinker_scan {SHRINK}", R.ARC, locked("arc_prune"), says="shrinker arc_shrinker_scan"
    ),
    "page and flusher": alone(PAGE_WAIT, R.PAGE, locked("kworker/u4:1", f"wb_workfn worker_thread {KTHREAD}")),
    "page and old flusher": alone(PAGE_WAIT, R.PAGE, locked("flush-8:0")),
    "page and kcompactd": alone(f"{ASLEEP} io_schedule __lock_page", R.PAGE, locked("kcompactd0")),
    "page and a user of swap": alone(f"{ASLEEP} io_schedule __folio_lock", R.PAGE, locked("eater", "do_swap_page")),
    "buffer of a block device": alone(f"{ASLEEP} io_schedule bit_wait_io __wait_on_buffer", R.PAGE, locked("kswapd0")),
    "direct reclaim": alone(f"{ASLEEP} schedule_timeout reclaim_throttle {SCAN}", R.RECLAIM, locked("kswapd0")),
    "background reclaim": alone(
        f"{ASLEEP} msleep shrink_inactive_list shrink_node balance_pgdat kswapd {KTHREAD}",
        R.RECLAIM,
        locked("zvol"),
        comm="kswapd0",
        says="kswapd0 (pid 10) waits in shrink_inactive_list, in background reclaim, for the reclaim of zvol (pid 20),"
        " which waits in __mutex_lock for a lock: may close, the owner of this lock is not in the text",
    ),
    "allocation": alone(f"{ASLEEP} schedule_timeout __alloc_pages_slowpath {FAULT}", R.RECLAIM, locked("kswapd1")),
    "another shrinker": alone(
        f"{ASLEEP} some_shrinker_scan {SHRINK}",
        R.SHRINKER,
        says="sh (pid 10) waits in shrinker some_shrinker_scan, in direct reclaim, for something that is not known",
    ),
    "lock": alone(f"{ASLEEP} schedule_preempt_disabled __mutex_lock dmu_tx_wait zvol_write", R.LOCK),
    "completion": alone(
        f"{ASLEEP} schedule_timeout __wait_for_common wait_for_completion new_flush drain", R.COMPLETION
    ),
    "completion further in than a row": alone(f"{ASLEEP} wait_for_completion new_wait zio_wait", R.ZIO),
    "unknown": alone(
        f"{ASLEEP} something_new do_syscall_64",
        R.UNKNOWN,
        says="waits in something_new for something that is not known",
    ),
    "no stack": alone(
        "",
        R.UNKNOWN,
        says="sh (pid 10) waits, without a stack in the text: may close, nothing says what it waits for",
    ),
    "a stack that is cut": alone(
        f"{ASLEEP} cv_wait_common",
        R.UNKNOWN,
        says="sh (pid 10) waits, and its stack is cut before it says for what: may",
    ),
    # It had just been woken: its stack was read while it changed, and what is left of it is the scheduler.
    "a stack that tells nothing": Case(
        (thread(90, "slabprobe/0", "__schedule"), WORKER_HELD),
        {90: R.UNKNOWN, 77: R.HELD},
        set(),
        chain=(77,),
        says="the slab worker spl_kmem_cache (pid 77)",
    ),
    "no worker": Case(
        (CRITICAL, CRITICAL_2),
        {90: R.SLAB_GROWTH, 91: R.SLAB_GROWTH},
        set(),
        chain=(90,),
        says="slabprobe/0 (pid 90) and 1 more wait in spl_cache_grow for the slab worker, and its holder is not in the"
        " text",
        closes=Closes.UNKNOWN,
    ),
    "a worker that is free": Case(
        (CRITICAL, WORKER_IDLE),
        {90: R.SLAB_GROWTH},
        {(90, 77)},
        chain=(90, 77),
        says="for the slab worker spl_kmem_cache (pid 77), which is idle (state S): may close, another thread may be",
        closes=Closes.UNKNOWN,
    ),
    "a worker under another name": Case(
        (CRITICAL, thread(77, "x", f"{ASLEEP} spl_new_wait {GROW_WORK}")),
        {90: R.SLAB_GROWTH, 77: R.UNKNOWN},
        {(90, 77)},
        chain=(90, 77),
        says="for the slab worker x (pid 77), which waits in spl_new_wait for something that is not known here:",
        closes=Closes.UNKNOWN,
    ),
    "a worker that was just woken": Case(
        (CRITICAL, replace(WORKER_IDLE, state="R")),
        {90: R.SLAB_GROWTH},
        {(90, 77)},
        chain=(90, 77),
        says="for the slab worker spl_kmem_cache (pid 77), which runs (state R): a chain, not a cycle",
    ),
    "one that goes round in reclaim while kswapd has nothing to do": Case(
        (
            thread(10, "stress", f"shrink_node do_try_to_free_pages try_to_free_pages {FAULT}", "R"),
            thread(88, "kswapd0", f"{ASLEEP} kswapd_try_to_sleep kswapd {KTHREAD}", "S"),
        ),
        {10: R.RECLAIM},
        set(),
        chain=(10,),
        says="stress (pid 10) keeps running in do_try_to_free_pages, in direct reclaim: a chain, not a cycle",
    ),
    "workers that are free": Case(
        (CRITICAL, WORKER_IDLE, replace(WORKER_IDLE, pid=78)),
        {90: R.SLAB_GROWTH},
        set(),
        chain=(90,),
        says="for the slab worker, and the 2 threads that could end that are idle",
        closes=Closes.UNKNOWN,
    ),
    "workers of the pipeline that are free": Case(
        (SYNC, *(thread(pid, f"z_rd_int_{pid}", f"{ASLEEP} {TASKQ}", "S") for pid in (50, 51))),
        {400: R.ZIO},
        set(),
        chain=(400,),
        says="for the I/O, and the 2 threads that could end that are idle: a chain, not a cycle",
    ),
    "a directory entry": alone(f"{ASLEEP} cv_wait_common __cv_wait zfs_dirent_lock zfs_remove", R.ZFS_LOCK),
    "a range lock of a file": alone(
        f"{CV} zfs_rangelock_enter_reader zfs_rangelock_enter_impl zfs_get_data zil_lwb_commit zil_commit",
        R.ZVOL,
        locked("cp", "dmu_tx_wait zfs_write vfs_write"),
        says="for the range lock of cp (pid 20)",
    ),
    "one that has given its range lock back": Case(
        (
            thread(10, "sync", f"{CV} zfs_rangelock_enter_reader zfs_get_data zil_commit"),
            thread(20, "cp", f"{CV} zil_commit_waiter zil_commit zfs_write vfs_write"),
        ),
        {10: R.ZVOL, 20: R.ZIL},
        set(),
        chain=(10,),
        closes=Closes.UNKNOWN,
    ),
    "a page and a range lock": Case(
        (
            thread(10, "fallocate", f"{PAGE_WAIT} truncate_inode_pages_range zfs_free_range zfs_freesp zfs_space"),
            thread(20, "fsx", f"{CV} zfs_rangelock_enter_writer zfs_rangelock_enter_impl zfs_putpage zpl_writepages"),
        ),
        {10: R.PAGE, 20: R.ZVOL},
        {(10, 20), (20, 10)},
        cycle=(10, 20),
    ),
    "the configuration and a transaction group": Case(
        (
            thread(400, "txg_sync", f"{CV} spa_config_enter spa_sync txg_sync_thread {KTHREAD}"),
            thread(20, "zed", f"{CV} dmu_tx_wait dmu_tx_assign vdev_rebuild_initiate vdev_rebuild spa_vdev_attach"),
            thread(21, "mmp", f"{CV} spa_config_enter vdev_count_leaves mmp_thread {KTHREAD}"),
        ),
        {400: R.CONFIG, 20: R.TXG, 21: R.CONFIG},
        {(400, 20), (20, 400), (21, 20)},
        cycle=(400, 20),
    ),
    "a configuration that was given back": Case(
        (
            thread(400, "txg_sync", f"{CV} spa_config_enter spa_sync txg_sync_thread {KTHREAD}"),
            thread(20, "zpool", f"{CV} txg_wait_synced spa_vdev_config_exit spa_vdev_exit spa_vdev_attach"),
        ),
        {400: R.CONFIG, 20: R.TXG},
        {(20, 400)},
        chain=(20, 400),
        closes=Closes.UNKNOWN,
    ),
    "a holder of which nothing is known": Case(
        (CRITICAL, thread(77, "", GROW_WORK, "?")),
        {90: R.SLAB_GROWTH},
        {(90, 77)},
        chain=(90, 77),
        says="which may be blocked: nothing says its state: may close",
        closes=Closes.UNKNOWN,
    ),
    "dirty pages": alone(
        f"{ASLEEP} io_schedule_timeout balance_dirty_pages generic_perform_write",
        R.DIRTY,
        locked("kworker/u4:1", f"wb_workfn worker_thread {KTHREAD}"),
    ),
    "metaslab": alone(
        f"{CV} metaslab_load_wait metaslab_activate", R.METASLAB, locked("z_metaslab", "metaslab_load_impl x")
    ),
    "references": alone(f"{CV} spa_evicting_os_wait spa_export_common", R.REFERENCES),
    "a thread that is to stop": alone(f"{CV} zthr_cancel_impl zthr_cancel spa_unload", R.STOP),
    "a pool that is to be resumed": alone(f"{CV} zio_resume_wait spa_x", R.SUSPENDED, closes=Closes.CHAIN),
    "a file server": alone(f"{ASLEEP} rpc_wait_bit_killable __rpc_execute", R.REMOTE, closes=Closes.CHAIN),
    "a journal": alone(f"{ASLEEP} wait_transaction_locked add_transaction_credits", R.JOURNAL, locked("jbd2/sda1-8")),
    "readers of RCU": alone(f"{ASLEEP} wait_for_completion __wait_rcu_gp synchronize_rcu x", R.RCU),
    "a workqueue": alone(f"{ASLEEP} wait_for_completion __flush_work lru_add_drain_all", R.WORKQUEUE),
    "a queue that is frozen": alone(f"{ASLEEP} blk_queue_enter submit_bio vdev_disk_io_start", R.DEVICE),
    **{
        f"taskq {name}": alone(
            f"{ASLEEP} taskq_wait_outstanding {min(asked_by)} x",
            R.TASKQ,
            locked({"spl_": "spl_system_task"}.get(name, name)[:15]),
            says=f"for the tasks of the taskq {name} of ",
        )
        for role, name, asked_by, _ in TASKQS
        if role is not Role.SLAB_WORKER
    },
    "taskq spl_kmem_cache": alone(
        f"{ASLEEP} taskq_wait_id taskq_cancel_id spl_kmem_cache_destroy", R.TASKQ, locked("spl_kmem_cache")
    ),
    **{
        f"{lock.role}, {lock.how.name.lower()}": alone(
            f"{ASLEEP} {ASKED[lock.how]} {min((lock.asked_by or 'x').split())} y",
            R.LOCK if lock.how is How.LOCK else R.RRW,
            locked("holder", f"new_function {min(lock.held_in.split())} x"),
            says=f"for {lock.noun} of holder (pid 20)",
        )
        for lock in LOCKS
    },
    "zvols and a pool's configuration": Case(
        (
            thread(400, "txg_sync", f"{ASLEEP} __mutex_lock zvol_rename_minors dsl_sync_task_sync spa_sync {KTHREAD}"),
            thread(20, "blkid", f"{CV} rrw_enter_read rrw_enter dsl_pool_config_enter dmu_objset_own zvol_open"),
        ),
        {400: R.LOCK, 20: R.RRW},
        {(400, 20), (20, 400)},
        cycle=(400, 20),
        says="for the lock of all zvols of blkid (pid 20); blkid (pid 20) waits in rrw_enter_read for the configuration"
        " of a pool's datasets of txg_sync (pid 400)",
    ),
    "a writer that waits keeps readers out": Case(
        (
            thread(400, "txg_sync", f"{CV} rrw_enter_write rrw_enter dsl_sync_task_sync spa_sync {KTHREAD}"),
            thread(
                20, "z_zvol", f"{ASLEEP} __mutex_lock dmu_objset_from_ds dmu_objset_own zvol_create_minors_cb {TASKQ}"
            ),
            thread(21, "zfs", f"{CV} rrw_enter_read dsl_pool_config_enter dsl_prop_get_ds dmu_objset_from_ds recv"),
        ),
        {400: R.RRW, 20: R.LOCK, 21: R.RRW},
        {(400, 20), (20, 21), (21, 400)},
        cycle=(400, 20, 21),
    ),
    "a reader and a writer who both wait": Case(
        (
            thread(10, "zfs", f"{CV} rrw_enter_write rrm_enter zfsvfs_teardown zfs_suspend_fs zfs_ioc_rollback"),
            thread(11, "ls", f"{CV} rrw_enter_read_impl zfs_getattr_fast zpl_getattr"),
        ),
        {10: R.RRW, 11: R.RRW},
        {(11, 10)},
        chain=(11, 10),
        closes=Closes.UNKNOWN,
    ),
    "an unmount of a snapshot, its program, and who lets go of it": Case(
        (
            thread(
                20, "spl_delay_taskq", f"{ASLEEP} wait_for_completion call_usermodehelper_exec snapentry_expire {TASKQ}"
            ),
            thread(21, "umount", f"{CV} rrw_enter_write rrm_enter_write zfsvfs_teardown zfs_umount deactivate_super"),
            thread(
                22, "arc_prune", f"{ASLEEP} taskq_cancel_id zfsctl_snapshot_unmount_delay zfs_exit_fs zfs_prune {TASKQ}"
            ),
        ),
        {20: R.UMOUNT, 21: R.RRW, 22: R.TASKQ},
        {(20, 21), (21, 22), (22, 20)},
        cycle=(22, 20, 21),
    ),
    "the expiry of a snapshot and an unmount": Case(
        (
            thread(
                20, "spl_delay_taskq", f"{ASLEEP} rwsem_down_read_slowpath down_read zfsctl_snapshot_unmount {TASKQ}"
            ),
            thread(21, "umount", f"{ASLEEP} taskq_cancel_id zfsctl_snapshot_unmount_cancel zfsctl_destroy zfs_umount"),
        ),
        {20: R.LOCK, 21: R.TASKQ},
        {(20, 21), (21, 20)},
        cycle=(21, 20),
    ),
    "an unmount and its taskq": Case(
        (
            thread(10, "umount", f"{ASLEEP} taskq_wait_all taskq_wait zfs_sb_teardown zfs_umount"),
            thread(20, "zfs_iput_taskq/", f"{CV} rrw_enter_read zpl_writepages write_inode_now iput {TASKQ}"),
        ),
        {10: R.TASKQ, 20: R.RRW},
        {(10, 20), (20, 10)},
        cycle=(20, 10),
    ),
    "a block device and all pools": Case(
        (
            thread(10, "zpool", f"{ASLEEP} __mutex_lock __blkdev_get vdev_disk_open vdev_open spa_vdev_add"),
            thread(20, "udevd", f"{ASLEEP} __mutex_lock spa_open_common dmu_objset_own zvol_open blkdev_open"),
        ),
        {10: R.LOCK, 20: R.LOCK},
        {(10, 20), (20, 10)},
        cycle=(10, 20),
    ),
    "a file system that goes away, and who shrinks its inodes": Case(
        (
            thread(10, "umount", f"{ASLEEP} rwsem_down_write_slowpath down_write unregister_shrinker zpl_kill_sb"),
            thread(
                20,
                "find",
                f"{ASLEEP} rwsem_down_read_slowpath down_read zfs_inactive evict super_cache_scan"
                " do_shrink_slab shrink_slab shrink_node try_to_free_pages",
            ),
        ),
        {10: R.LOCK, 20: R.LOCK},
        {(10, 20)},
        chain=(10, 20),
        closes=Closes.UNKNOWN,
    ),
    "a helper of another part of the kernel, and who unmounts": Case(
        (
            thread(10, "rpc.nfsd", f"{ASLEEP} wait_for_completion call_usermodehelper_exec nfsd_upcall write_threads"),
            thread(20, "umount", f"{ASLEEP} __mutex_lock zfs_umount zpl_kill_sb deactivate_locked_super"),
        ),
        {10: R.COMPLETION, 20: R.LOCK},
        set(),
        chain=(20,),
        closes=Closes.UNKNOWN,
    ),
    "a page that the log is to write": Case(
        (
            thread(10, "fsx", f"{ASLEEP} wait_on_page_bit truncate_inode_pages_range zfs_freesp zfs_space"),
            thread(20, "fsync", f"{CV} zfs_rangelock_enter_impl zfs_get_data zil_commit_impl zfs_fsync"),
            thread(21, "sync", f"{ASLEEP} __mutex_lock zil_commit_impl zfs_sync"),
        ),
        {10: R.PAGE, 20: R.ZVOL, 21: R.LOCK},
        {(10, 20), (20, 10), (21, 20)},
        cycle=(10, 20),
    ),
    "a read, and a thread that writes": Case(
        (
            thread(10, "z_wr_iss", f"{CV} metaslab_load_wait metaslab_activate zio_dva_allocate zio_execute {TASKQ}"),
            thread(20, "z_metaslab", f"{CV} zio_wait dmu_read space_map_load metaslab_load_impl metaslab_load {TASKQ}"),
        ),
        {10: R.METASLAB, 20: R.ZIO},
        {(10, 20)},
        chain=(10, 20),
        closes=Closes.UNKNOWN,
    ),
    "a read, and a thread that reads": Case(
        (
            thread(10, "z_rd_int", f"{CV} metaslab_load_wait metaslab_activate zio_dva_allocate zio_execute {TASKQ}"),
            thread(20, "z_metaslab", f"{CV} zio_wait dmu_read space_map_load metaslab_load_impl metaslab_load {TASKQ}"),
        ),
        {10: R.METASLAB, 20: R.ZIO},
        {(10, 20), (20, 10)},
        cycle=(10, 20),
    ),
    "any taskq proves nothing": Case(
        (
            thread(400, "txg_sync", f"{ASLEEP} taskq_wait new_user spa_sync txg_sync_thread {KTHREAD}"),
            thread(20, "w", f"{CV} {INACTIVE} {TASKQ}"),
        ),
        {400: R.TASKQ, 20: R.TXG},
        {(400, 20), (20, 400)},
        chain=(400, 20),
        says="may close, but nothing says that txg_sync (pid 400) waits for just that thread",
        closes=Closes.UNKNOWN,
    ),
    "a taskq that has a name": Case(
        (
            thread(400, "txg_sync", f"{ASLEEP} taskq_wait dsl_pool_sync spa_sync txg_sync_thread {KTHREAD}"),
            thread(20, "dp_sync_taskq", f"{CV} {INACTIVE} {SHRINK} {TASKQ}"),
        ),
        {400: R.TASKQ, 20: R.TXG},
        {(400, 20), (20, 400)},
        cycle=(400, 20),
    ),
    "a failed check": Case(
        (thread(10, "smbd", f"{CV} txg_wait_synced zil_commit"), thread(400, "txg_sync", f"{ASLEEP} spl_panic dbuf_x")),
        {10: R.TXG, 400: R.PANICKED},
        {(10, 400)},
        chain=(10, 400),
        says="txg_sync (pid 400), which waits in spl_panic for ever: it failed a check of ZFS's own, and what it has it"
        " never gives back: a chain, not a cycle",
    ),
    "a list of the ARC, by itself through reclaim": Case(
        (
            thread(
                500,
                "l2arc_feed",
                f"{ASLEEP} __mutex_lock mutex_lock arc_evict_state arc_evict_impl {SHRINK} spl_kmem_alloc"
                f" l2arc_feed_thread {KTHREAD}",
            ),
        ),
        {500: R.LOCK},
        {(500, 500)},
        cycle=(500,),
    ),
    "a list of the ARC, which another thread may have as well": Case(
        (
            thread(10, "sh", f"{ASLEEP} __mutex_lock mutex_lock arc_evict_state {SHRINK} kvmalloc l2arc_write_buffers"),
            thread(501, "l2arc_feed", "memcpy l2arc_write_buffers l2arc_feed_thread", "R"),
        ),
        {10: R.LOCK},
        {(10, 501)},
        chain=(10, 501),
        says="which runs (state R)",
    ),
    "a file system that is resumed, and lets go of an inode": Case(
        (
            thread(
                10,
                "zfs",
                f"{ASLEEP} rwsem_down_read_failed down_read zfs_inactive zpl_evict_inode evict iput zfs_rezget"
                " zfs_resume_fs zfs_ioc_rollback",
            ),
        ),
        {10: R.LOCK},
        {(10, 10)},
        cycle=(10,),
    ),
    # Locks and what else has no owner in a stack.
    "configuration": alone(
        f"{ASLEEP} cv_wait_common __cv_wait spa_config_enter zio_vdev_io_start", R.CONFIG, says="lock: may close"
    ),
    "rrw": alone(
        f"{ASLEEP} cv_wait_common __cv_wait rrw_enter_read_impl zfs_getattr",
        R.RRW,
        says="for the teardown lock of a file system",
    ),
    "queue": alone(f"{ASLEEP} cv_wait_common __cv_wait_sig bqueue_dequeue dmu_send_impl", R.QUEUE),
    "semaphore": alone(f"{ASLEEP} schedule_timeout __down down console_lock", R.LOCK),
    "taskq": alone(f"{ASLEEP} taskq_wait new_user spa_load", R.TASKQ, says="for the tasks of a taskq"),
    "taskq that is cancelled": alone(f"{ASLEEP} taskq_cancel_id new_user", R.TASKQ),
    "taskq and one that works for it": alone(f"{ASLEEP} taskq_wait_outstanding x", R.TASKQ, locked("w", TASKQ)),
    "inode": alone(
        f"{ASLEEP} __wait_on_freeing_inode find_inode_fast iget_locked", R.INODE, locked("rm", "truncate evict iput")
    ),
    "module": alone(f"{ASLEEP} idempotent_init_module __x64_sys_finit_module", R.MODULE),
    "module by request": alone(
        f"{ASLEEP} wait_for_completion_state call_usermodehelper_exec call_modprobe __request_module", R.MODULE
    ),
    "automount": alone(
        f"{ASLEEP} wait_for_completion call_usermodehelper_exec zfsctl_snapshot_mount zpl_snapdir_automount",
        R.UMOUNT,
        locked("mount.zfs", "mount_too_revealing path_mount"),
    ),
    "kthread": alone(
        f"{ASLEEP} wait_for_completion_killable __kthread_create_on_node spl_kthread_create",
        R.KTHREAD,
        locked("kthreadd"),
    ),
    "memcg": alone(
        f"{ASLEEP} schedule_timeout_killable mem_cgroup_handle_over_high exit_to_user", R.MEMCG, closes=Closes.CHAIN
    ),
    "device": alone(f"{ASLEEP} io_schedule submit_bio_wait blkdev_issue_flush", R.DEVICE, closes=Closes.CHAIN),
    "a place in the device's queue": alone(
        f"{ASLEEP} io_schedule rq_qos_wait wbt_wait __rq_qos_throttle blk_mq_submit_bio vdev_disk_io_start zio_nowait",
        R.DEVICE,
        closes=Closes.CHAIN,
    ),
    "a thread of the pipeline waits for itself": Case(
        (thread(300, "z_wr_iss_3", f"{CV} {INACTIVE} {SHRINK} zio_buf_alloc zio_execute {TASKQ}"), SYNC),
        {300: R.TXG, 400: R.ZIO},
        {(300, 300), (400, 300)},
        cycle=(300,),
        says="(pid 300) waits in txg_wait_open, in shrinker super_cache_scan, in direct reclaim, for its own",
    ),
    "zvol waits for the group that it holds open": Case(
        (thread(600, "zvol", f"{CV} {INACTIVE} {SHRINK} zil_itx_create zvol_log_write {WRITE}"),),
        {600: R.TXG},
        {(600, 600)},
        cycle=(600,),
    ),
    # A page fault in the middle of a write.
    "its own range, asked for again": Case(
        (thread(20, "cp", f"{CV} zfs_rangelock_enter_impl zfs_getpage {READ_IN} fault_in_readable zfs_write"),),
        {20: R.ZVOL},
        {(20, 20)},
        cycle=(20,),
        says="cp (pid 20) waits in zfs_rangelock_enter_impl for its own range lock (by role, a guess",
    ),
    "its own range, or another's": Case(
        (
            thread(20, "cp", f"{CV} zfs_rangelock_enter_impl zfs_getpage {READ_IN} fault_in_readable zfs_write"),
            thread(21, "fallocate", f"{CV} txg_wait_open dmu_tx_wait zfs_free_range zfs_freesp zfs_space"),
        ),
        {20: R.ZVOL, 21: R.TXG},
        {(20, 21)},
        chain=(20, 21),
        closes=Closes.UNKNOWN,
    ),
    "the range of who reads is not its own": alone(
        f"{CV} zfs_rangelock_enter_impl zfs_getpage {READ_IN} zfs_uiomove zfs_read", R.ZVOL
    ),
    "a range that is not asked for by a fault": alone(f"{CV} zfs_rangelock_enter_impl zfs_getpage zfs_write", R.ZVOL),
    "its own buffer, which it fills": Case(
        (thread(20, "cp", f"{CV} dmu_buf_hold_array_by_dnode zfs_getpage {READ_IN} uiomove dmu_write_uio_dnode"),),
        {20: R.BUFFER},
        {(20, 20)},
        cycle=(20,),
        says="for its own buffer",
    ),
    "a buffer that a thread reads": Case(
        (
            thread(20, "cp", f"{CV} dmu_buf_hold_array_by_dnode zfs_getpage {READ_IN} uiomove dmu_write_uio_dnode"),
            thread(21, "z_rd_int_1", f"{ASLEEP} new_function zio_execute {TASKQ}"),
        ),
        {20: R.BUFFER, 21: R.UNKNOWN},
        {(20, 21)},
        chain=(20, 21),
        closes=Closes.UNKNOWN,
    ),
    "a buffer that a disk may owe": Case(
        (thread(20, "cp", f"{CV} dmu_buf_hold_array_by_dnode zfs_getpage {READ_IN} uiomove dmu_write_uio_dnode"),),
        {20: R.BUFFER},
        set(),
        chain=(20,),
        devices="a disk that fails",
    ),
    "the group that it holds open itself": Case(
        (thread(20, "cp", f"{CV} txg_wait_open dmu_tx_wait zpl_dirty_inode {READ_IN} uiomove dmu_write_uio_dnode"),),
        {20: R.TXG},
        {(20, 20)},
        cycle=(20,),
    ),
    "the next group": Case(
        (thread(20, "vdev_autotrim", f"{ASLEEP} cv_wait_common __cv_wait vdev_autotrim_thread"), SYNC),
        {20: R.TXG, 400: R.ZIO},
        {(20, 400)},
        chain=(20, 400),
        closes=Closes.UNKNOWN,
    ),
    "pipe": alone(f"{ASLEEP} pipe_wait pipe_write vfs_write", R.QUEUE),
    # What is known of locks of ZFS: openzfs/zfs pull request 4111.
    "a device's queue": Case(
        (
            thread(300, "z_wr_iss", f"{GROW} zio_buf_alloc vdev_queue_aggregate vdev_queue_io_to_issue {TASKQ}"),
            replace(locked("z_wr_int_1", f"vdev_queue_io_done zio_vdev_io_done {TASKQ}"), pid=310),
            WORKER_IN_RECLAIM,
            SYNC,
        ),
        {300: R.SLAB_GROWTH, 310: R.LOCK, 77: R.TXG, 400: R.ZIO},
        {(300, 77), (310, 300), (77, 400), (400, 300), (400, 310)},
        cycle=(77, 400, 300),
    ),
    "an object": alone(
        f"{ASLEEP} __mutex_lock zfs_zinactive zfs_inactive evict",
        R.LOCK,
        locked("ls", "dmu_zfetch zfs_zget zfs_dirlook"),
        says="waits in __mutex_lock for the lock of an object of ls (pid 20)",
    ),
    "a lock that is taken under an object's": alone(
        f"{ASLEEP} __mutex_lock dbuf_find zfs_zget x", R.LOCK, says="for a lock: may close"
    ),
    # What the kernel prints of owners.
    "owner": Case(
        (
            thread(360, "dbuf_evict", f"{CV} zio_wait dbuf_evict_one dbuf_evict_thread {KTHREAD}"),
            locked("z_wr_int_0"),
            locked("z_wr_int_1").__class__(21, "z_wr_int_1", "D", locked("x").frames),
        ),
        {360: R.ZIO, 20: R.LOCK, 21: R.LOCK},
        {(360, 20), (360, 21), (20, 360), (21, 360)},
        cycle=(20, 360),
        says="z_wr_int_0 (pid 20) waits in __mutex_lock for a lock of dbuf_evict (pid 360); dbuf_evict (pid 360) waits"
        " in zio_wait for the I/O of z_wr_int_0 (pid 20) (by role, a guess: no line of the kernel's says who holds the",
        owners={20: Owner(360, Basis.OWNER), 21: Owner(360, Basis.OWNER)},
    ),
    "owners only": Case(
        (locked("a"), replace(locked("b"), pid=21)),
        {20: R.LOCK, 21: R.LOCK},
        {(20, 21), (21, 20)},
        cycle=(20, 21),
        says="cycle: a (pid 20) waits in __mutex_lock for a lock of b (pid 21); b (pid 21) waits in __mutex_lock for a"
        " lock of a (pid 20)",
        owners={20: Owner(21, Basis.LOCK_LIST), 21: Owner(20, Basis.OWNER)},
    ),
    "its own lock": Case(
        (locked("a"),),
        {20: R.LOCK},
        {(20, 20)},
        cycle=(20,),
        says="a (pid 20) waits in __mutex_lock for its own lock",
        owners={20: Owner(20, Basis.OWNER)},
    ),
    "an owner that runs": Case(
        (locked("a"), thread(21, "b", "memcpy", "R")),
        {20: R.LOCK},
        {(20, 21)},
        chain=(20, 21),
        owners={20: Owner(21, Basis.OWNER)},
    ),
    "an owner without a stack": Case(
        (locked("a"),),
        {20: R.LOCK},
        set(),
        chain=(20,),
        says="for a lock of mv (pid 99), whose stack is not in the text: may close, the stack of the owner is not",
        closes=Closes.UNKNOWN,
        owners={20: Owner(99, Basis.OWNER, "mv")},
    ),
    # A role that two threads have closes only what both lead back to.
    "two that could": Case(
        (ISSUE, replace(locked("z_rd_int_0"), pid=310), WORKER_IN_RECLAIM, SYNC),
        {300: R.SLAB_GROWTH, 310: R.LOCK, 77: R.TXG, 400: R.ZIO},
        {(300, 77), (77, 400), (400, 300), (400, 310)},
        chain=(77, 400, 300),
        says="may close, but txg_sync (pid 400) may as well wait for z_rd_int_0 (pid 310), and which of them it is",
        closes=Closes.UNKNOWN,
    ),
    "two that lead back": Case(
        (ISSUE, replace(ISSUE, pid=301), WORKER_IN_RECLAIM, SYNC),
        {300: R.SLAB_GROWTH, 301: R.SLAB_GROWTH, 77: R.TXG, 400: R.ZIO},
        {(300, 77), (301, 77), (77, 400), (400, 300), (400, 301)},
        cycle=(77, 400, 300),
    ),
    "one that does something": Case(
        (ISSUE, thread(302, "z_wr_iss", "lz4_compress zio_write_compress", "R"), WORKER_IN_RECLAIM, SYNC),
        {300: R.SLAB_GROWTH, 77: R.TXG, 400: R.ZIO},
        {(300, 77), (77, 400), (400, 300)},
        chain=(77, 400, 300),
        closes=Closes.UNKNOWN,
    ),
    # Who only waits for a thing of the same kind has none of it to give.
    "two that queue for objects": Case(
        (
            thread(10, "nfsd", f"{ASLEEP} __mutex_lock zfs_zget zfs_lookup"),
            thread(11, "smbd", f"{ASLEEP} __mutex_lock zfs_zget zfs_get_data"),
        ),
        {10: R.LOCK, 11: R.LOCK},
        set(),
        chain=(11,),
        says="smbd (pid 11) and 1 more wait in __mutex_lock for the lock of an object: may close, the owner of this",
        closes=Closes.UNKNOWN,
    ),
    "one that queues to look an object up, and one to give it back": Case(
        (
            thread(10, "nfsd", f"{ASLEEP} __mutex_lock zfs_zget zfs_lookup"),
            thread(
                88, "kswapd0", f"{ASLEEP} __mutex_lock zfs_zinactive zfs_inactive evict {SCAN} balance_pgdat kswapd"
            ),
        ),
        {10: R.LOCK, 88: R.LOCK},
        set(),
        chain=(88,),
        closes=Closes.UNKNOWN,
    ),
    "one that has an object while it queues for another": Case(
        (
            thread(10, "ls", f"{ASLEEP} __mutex_lock zfs_zinactive zfs_inactive evict {SHRINK} kmem_alloc zfs_zget x"),
            thread(11, "smbd", f"{ASLEEP} __mutex_lock zfs_zget zfs_get_data"),
        ),
        {10: R.LOCK, 11: R.LOCK},
        {(11, 10)},
        chain=(11, 10),
        closes=Closes.UNKNOWN,
    ),
    "two that have an object while they queue for another": Case(
        (
            thread(10, "ls", f"{ASLEEP} __mutex_lock zfs_zinactive zfs_inactive evict {SHRINK} kmem_alloc zfs_zget x"),
            thread(11, "mv", f"{ASLEEP} __mutex_lock zfs_zinactive zfs_inactive evict {SHRINK} kmem_alloc zfs_zget x"),
        ),
        {10: R.LOCK, 11: R.LOCK},
        {(11, 10), (10, 11)},
        cycle=(10, 11),
    ),
    "one that may be waited for, and that waits for an object which only it has": Case(
        (
            thread(
                301, "z_rd_int_0", f"{ASLEEP} __mutex_lock zfs_zinactive evict {SHRINK} zfs_zget zio_execute {TASKQ}"
            ),
            ISSUE,
            WORKER_IN_RECLAIM,
            SYNC,
        ),
        {301: R.LOCK, 300: R.SLAB_GROWTH, 77: R.TXG, 400: R.ZIO},
        {(300, 77), (77, 400), (400, 300), (400, 301)},
        chain=(77, 400, 300),
        closes=Closes.UNKNOWN,
    ),
    "an object's lock and memory": Case(
        (
            thread(10, "find", f"{ASLEEP} schedule_timeout reclaim_throttle {SCAN} kmem_alloc zfs_zget zfs_lookup"),
            thread(11, "nfsd", f"{ASLEEP} __mutex_lock zfs_zget zfs_lookup"),
            thread(
                88, "kswapd0", f"{ASLEEP} __mutex_lock zfs_zinactive zfs_inactive evict {SCAN} balance_pgdat kswapd"
            ),
        ),
        {10: R.RECLAIM, 11: R.LOCK, 88: R.LOCK},
        {(10, 88), (11, 10), (88, 10)},
        cycle=(88, 10),
    ),
    "two that wait for range locks": Case(
        tuple(
            thread(pid, f"zvol/{pid}", f"{CV} zfs_rangelock_enter_impl zfs_rangelock_enter {WRITE}") for pid in (1, 2)
        ),
        {1: R.ZVOL, 2: R.ZVOL},
        set(),
        chain=(1,),
        says="for the range lock: may close, the owner of this lock is not in the text",
        closes=Closes.UNKNOWN,
    ),
    "two that wait for memory": Case(
        tuple(
            thread(pid, f"kswapd{pid}", f"{ASLEEP} msleep shrink_inactive_list shrink_node balance_pgdat kswapd")
            for pid in (1, 2)
        ),
        {1: R.RECLAIM, 2: R.RECLAIM},
        {(1, 2), (2, 1)},
        chain=(1, 2),
        says="may close, but each of them only waits for what another one has, and none of these has it for sure",
        closes=Closes.UNKNOWN,
    ),
    "a flusher and kswapd, who wait for memory and pages": Case(
        (
            thread(1, "kswapd0", f"{ASLEEP} schedule_timeout reclaim_throttle {SCAN} balance_pgdat kswapd"),
            thread(2, "kworker/u8:1", f"{PAGE_WAIT} write_cache_pages wb_workfn worker_thread {KTHREAD}"),
        ),
        {1: R.RECLAIM, 2: R.PAGE},
        {(1, 2), (2, 1)},
        chain=(1, 2),
        closes=Closes.UNKNOWN,
    ),
    "two of the pipeline that wait for I/O": Case(
        tuple(thread(pid, f"z_rd_int_{pid}", f"{CV} zio_wait dbuf_read zio_execute {TASKQ}") for pid in (1, 2)),
        {1: R.ZIO, 2: R.ZIO},
        {(1, 2), (2, 1)},
        chain=(1, 2),
        closes=Closes.UNKNOWN,
    ),
    "two that evict": Case(
        tuple(thread(pid, "rm", f"{ASLEEP} __inode_wait_for_writeback evict iput") for pid in (1, 2)),
        {1: R.INODE, 2: R.INODE},
        {(1, 2), (2, 1)},
        chain=(1, 2),
        closes=Closes.UNKNOWN,
    ),
    # Nothing says which pool it is.
    "two pools, one of which goes on": Case(
        (
            thread(400, "txg_sync", f"{GROW} zio_buf_alloc spa_sync txg_sync_thread {KTHREAD}"),
            replace(SYNC, pid=410),
            WORKER_IN_RECLAIM,
        ),
        {400: R.SLAB_GROWTH, 410: R.ZIO, 77: R.TXG},
        {(400, 77), (77, 400), (77, 410)},
        chain=(77, 400),
        says="may close, but the slab worker spl_kmem_cache (pid 77) may as well wait for txg_sync (pid 410), and",
        closes=Closes.UNKNOWN,
    ),
    "two pools, both of which are stuck": Case(
        (
            thread(400, "txg_sync", f"{GROW} zio_buf_alloc spa_sync txg_sync_thread {KTHREAD}"),
            thread(410, "txg_sync", f"{GROW} zio_buf_alloc spa_sync txg_sync_thread {KTHREAD}"),
            WORKER_IN_RECLAIM,
        ),
        {400: R.SLAB_GROWTH, 410: R.SLAB_GROWTH, 77: R.TXG},
        {(400, 77), (410, 77), (77, 400), (77, 410)},
        cycle=(77, 400),
    ),
    "two pools, one of which has nothing to do": Case(
        (
            ISSUE,
            WORKER_IN_RECLAIM,
            SYNC,
            thread(410, "txg_sync", f"{CV} txg_thread_wait txg_sync_thread {KTHREAD}", "S"),
        ),
        {300: R.SLAB_GROWTH, 77: R.TXG, 400: R.ZIO},
        {(300, 77), (77, 400), (400, 300)},
        cycle=(77, 400, 300),
    ),
    "two pools, and a thread of the pipeline that waits for one of them": Case(
        (
            thread(300, "z_wr_iss_3", f"{CV} {INACTIVE} {SHRINK} zio_buf_alloc zio_execute {TASKQ}"),
            SYNC,
            thread(410, "txg_sync", f"{ASLEEP} __mutex_lock spa_sync txg_sync_thread {KTHREAD}"),
        ),
        {300: R.TXG, 400: R.ZIO, 410: R.LOCK},
        {(300, 400), (300, 410), (400, 300)},
        chain=(400, 300),
        closes=Closes.UNKNOWN,
    ),
    "two pools, and a txg_sync that waits for one of them": Case(
        (
            thread(400, "txg_sync", f"{CV} {INACTIVE} {SHRINK} kmem_alloc spa_sync txg_sync_thread {KTHREAD}"),
            thread(410, "txg_sync", f"{ASLEEP} __mutex_lock spa_sync txg_sync_thread {KTHREAD}"),
        ),
        {400: R.TXG, 410: R.LOCK},
        {(400, 410)},
        chain=(400, 410),
        closes=Closes.UNKNOWN,
    ),
    "two pools, and a transaction of one of them": Case(
        (
            QUIESCE,
            replace(QUIESCE, pid=402),
            thread(600, "zvol", f"{CV} {INACTIVE} {SHRINK} zil_itx_create zvol_log_write {WRITE}"),
            thread(601, "rsync", f"{ASLEEP} new_wait dmu_tx_commit zfs_write"),
        ),
        {401: R.TXG_HOLD, 402: R.TXG_HOLD, 600: R.TXG, 601: R.UNKNOWN},
        {(401, 600), (401, 601), (402, 600), (402, 601), (600, 401), (600, 402)},
        chain=(401, 600),
        closes=Closes.UNKNOWN,
    ),
    "a transaction that is not assigned yet holds nothing open": Case(
        (
            QUIESCE,
            thread(10, "rm", f"{CV} txg_wait_open dmu_tx_wait dmu_tx_assign dmu_free_long_range_impl zfs_rmnode"),
        ),
        {401: R.TXG_HOLD, 10: R.TXG},
        {(10, 401)},
        chain=(10, 401),
        closes=Closes.UNKNOWN,
    ),
    # Names.
    "a program that calls itself txg_sync": Case(
        (WORKER_IN_RECLAIM, thread(400, "txg_sync", f"{GROW} zfs_write vfs_write do_syscall_64")),
        {77: R.TXG, 400: R.SLAB_GROWTH},
        {(400, 77)},
        chain=(400, 77),
        closes=Closes.UNKNOWN,
    ),
    "a program that does a part of the pipeline's work": Case(
        (SYNC, thread(10, "dd", f"{ASLEEP} new_wait zio_execute zio_wait dbuf_read zpl_iter_read do_syscall_64")),
        {400: R.ZIO, 10: R.ZIO},
        set(),
        chain=(400,),
        closes=Closes.UNKNOWN,
    ),
    "threads without names": Case(
        tuple(replace(it, comm="") for it in (ISSUE, WORKER_IN_RECLAIM, SYNC)),
        {300: R.SLAB_GROWTH, 77: R.TXG, 400: R.ZIO},
        {(300, 77), (77, 400), (400, 300)},
        cycle=(77, 400, 300),
        says="cycle: the slab worker (pid 77) waits in txg_wait_open, in shrinker super_cache_scan, in direct reclaim,"
        " for the transaction group of the txg_sync thread (pid 400); the txg_sync thread (pid 400) waits in zio_wait"
        " for the I/O of the zio thread (pid 300);",
    ),
    # What explains a wait without a thread.
    "a pool that is suspended beside a cycle": Case(
        (ISSUE, WORKER_IN_RECLAIM, SYNC),
        {300: R.SLAB_GROWTH, 77: R.TXG, 400: R.ZIO},
        {(300, 77), (77, 400), (400, 300)},
        chain=(77, 400, 300),
        says="may close, but it need not be a lock: pool tank is suspended",
        closes=Closes.UNKNOWN,
        devices="pool tank is suspended",
        suspended=True,
    ),
    "a pool that is suspended beside a cycle without I/O": Case(
        (ZVOL_HOLDER, ZVOL_WAITS, QUIESCE),
        {600: R.PAGE, 601: R.TXG, 401: R.TXG_HOLD},
        {(600, 601), (601, 401), (401, 600)},
        chain=(401, 600, 601),
        closes=Closes.UNKNOWN,
        devices="pool tank is suspended",
        suspended=True,
    ),
    "a disk that fails beside a cycle through I/O": Case(
        (ISSUE, WORKER_IN_RECLAIM, SYNC),
        {300: R.SLAB_GROWTH, 77: R.TXG, 400: R.ZIO},
        {(300, 77), (77, 400), (400, 300)},
        chain=(77, 400, 300),
        closes=Closes.UNKNOWN,
        devices="I/O errors of sdb",
    ),
    "a disk that fails beside a cycle without I/O": Case(
        (TRANSACTION, WORKER_AT_TRAP),
        {95: R.SLAB_GROWTH, 77: R.COMMIT},
        {(95, 77), (77, 95)},
        cycle=(95, 77),
        devices="I/O errors of sdb",
    ),
    "a pool that is suspended beside owners": Case(
        (locked("a"), replace(locked("b"), pid=21)),
        {20: R.LOCK, 21: R.LOCK},
        {(20, 21), (21, 20)},
        cycle=(20, 21),
        owners={20: Owner(21, Basis.OWNER), 21: Owner(20, Basis.OWNER)},
        devices="pool tank is suspended",
        suspended=True,
    ),
    "stacks that are mixed": Case(
        (ISSUE, WORKER_IN_RECLAIM, SYNC),
        {300: R.SLAB_GROWTH, 77: R.TXG, 400: R.ZIO},
        {(300, 77), (77, 400), (400, 300)},
        chain=(77, 400, 300),
        says="may close, the stacks of the slab worker spl_kmem_cache (pid 77) and txg_sync (pid 400) may be mixed",
        closes=Closes.UNKNOWN,
        mixed=frozenset((77, 400)),
    ),
    "a disk that fails": Case(
        (SYNC,),
        {400: R.ZIO},
        set(),
        chain=(400,),
        says="which ends in a device: I/O errors of sdb: a chain",
        devices="I/O errors of sdb",
    ),
    "a lock beside": Case(
        (CRITICAL, WORKER_HELD, locked("x")),
        {90: R.SLAB_GROWTH, 77: R.HELD, 20: R.LOCK},
        {(90, 77)},
        chain=(90, 77),
        says=": a chain, not a cycle; beside it x (pid 20) waits in __mutex_lock for a lock: may close, the owner",
        closes=Closes.UNKNOWN,
    ),
    "nothing blocked": Case((WORKER_IDLE, QUIESCE_IDLE), {}, set(), says="none of the 2 threads is blocked"),
    "idle in state D": Case(
        (thread(3, "spl_kmem_cache", f"{ASLEEP} {TASKQ}"),), {}, set(), says="none of the 1 threads"
    ),
    "nothing at all": Case((), {}, set(), says="there are no threads"),
}
# Without one of several that lead back the others still do.
SEVERAL = ("two that lead back", "two pools, both of which are stuck")


def kernel_case(it: KernelWait) -> Case:
    """One thread that waits for a thing outside of ZFS, and one that has it and sleeps in a function nobody knows."""
    asked, held = it.asked_by.split()[0], it.held_in.split()[0]
    inner = {Way.LOCK: "__mutex_lock", Way.WORK: "__flush_work"}.get(it.way, "")
    waiter = thread(601, "waiter", f"{ASLEEP} {inner} {asked} f")
    holder = thread(602, "holder", f"{ASLEEP} new_function {held} f")
    return Case(
        (waiter, holder),
        {601: R(it.reason), 602: R.UNKNOWN},
        {(601, 602)},
        chain=(601, 602),
        says=f"for {it.noun} of holder (pid 602)",
        closes=Closes.UNKNOWN,
    )


CASES |= {f"kernel: {it.role}": kernel_case(it) for it in KERNEL_WAITS}
CASES["an inode that its writer evicts"] = Case(
    (thread(606, "kworker/u8:6", f"{ASLEEP} inode_wait_for_writeback evict writeback_sb_inodes wb_workfn"),),
    {606: R.INODE},
    {(606, 606)},
    cycle=(606,),
    says="waits in inode_wait_for_writeback for its own inode",
)
CASES["a path that another work finds"] = Case(
    (
        thread(607, "kworker/u8:7", f"{ASLEEP} do_read_cache_page add_disk nvme_mpath_set_live nvme_parse_ana_log"),
        thread(608, "kworker/u8:8", f"{ASLEEP} __mutex_lock nvme_read_ana_log nvme_ana_work process_one_work"),
    ),
    {607: R.DEVICE, 608: R.LOCK},
    {(607, 608), (608, 607)},
    cycle=(607, 608),
    says="waits in do_read_cache_page for a path to the disk",
)
CASES["a buffer of a journal, which no thread has"] = Case(
    (
        thread(604, "jbd2/sda1-8", f"{ASLEEP} __wait_on_buffer jbd2_journal_commit_transaction kjournald2 {KTHREAD}"),
        thread(605, "kworker/u8:5", f"{ASLEEP} out_of_line_wait_on_bit do_get_write_access ext4_writepages wb_workfn"),
    ),
    {604: R.DEVICE, 605: R.JOURNAL},
    {(605, 604)},
    chain=(605, 604),
    says="which waits in __wait_on_buffer for the I/O of a buffer: may close",
    closes=Closes.UNKNOWN,
)
CASES["a page that its reader writes back"] = Case(
    (
        thread(
            603,
            "reader",
            f"{ASLEEP} folio_wait_bit_common __folio_lock extent_write_cache_pages btrfs_writepages"
            " btrfs_start_ordered_extent btrfs_do_readpage btrfs_read_folio filemap_read_folio",
        ),
    ),
    {603: R.PAGE},
    {(603, 603)},
    cycle=(603,),
    says="waits in folio_wait_bit_common for its own page",
)
CYCLIC = [name for name, case in CASES.items() if case.cycle and name not in SEVERAL]


def pairs(graph: WaitGraph) -> set[tuple[int, int]]:
    return {(edge.waiter, edge.holder) for edge in graph.edges}


def reasons(graph: WaitGraph) -> dict[int, WaitReason]:
    return {wait.thread.pid: wait.reason for wait in graph.waits}


@pytest.mark.parametrize("name", CASES)
def test_a_case(name: str) -> None:
    case = CASES[name]
    graph = case.graph()
    assert reasons(graph) == case.reasons
    assert pairs(graph) == case.edges
    assert (graph.cycle, graph.chain) == (case.cycle, case.chain)
    assert case.says in graph.sentence
    assert graph.closes is (Closes.CYCLE if case.cycle else case.closes if case.reasons else None)
    assert graph.sentence.startswith("cycle: ") == (graph.closes is Closes.CYCLE)
    assert (": may close, " in graph.sentence) == (graph.closes is Closes.UNKNOWN)
    assert graph.sentence.endswith(": a chain, not a cycle") == (graph.closes is Closes.CHAIN)


def test_what_a_wait_rests_on() -> None:
    graph = build_graph(CASES["classic"].threads)
    worker = graph.waits[0]
    assert worker.functions == ("txg_wait_open", "super_cache_scan", "try_to_free_pages")
    assert worker.thread.frames[worker.index] == "txg_wait_open"
    assert worker.inside == ("shrinker super_cache_scan", "direct reclaim")
    assert {(edge.waiter, edge.holder, edge.why) for edge in graph.edges} == {
        (77, 400, "the transaction group"),
        (300, 77, "the slab worker"),
        (400, 300, "the I/O"),
    }


def test_json() -> None:
    graph = build_graph((CRITICAL, WORKER_HELD))
    assert json.loads(json.dumps(graph.to_json())) == {
        "waits": [
            {
                "pid": 77,
                "comm": "spl_kmem_cache",
                "state": "D",
                "reason": "held",
                "functions": ["slabprobe_grow_work"],
                "frame": 2,
            },
            {
                "pid": 90,
                "comm": "slabprobe/0",
                "state": "D",
                "reason": "slab_growth",
                "functions": ["spl_cache_grow"],
                "frame": 3,
            },
        ],
        "edges": [{"from": 90, "to": 77, "why": "the slab worker", "by": "role"}],
        "closes": "chain",
        "cycle": [],
        "chain": [90, 77],
        "end": "is held by slabprobe until the host releases it",
        "sentence": graph.sentence,
    }


# From a console to the sentence


@pytest.mark.parametrize(
    ("name", "cycle", "chain"),
    [
        ("classic-5.10", (151, 402, 388), ()),
        ("zvol-swap-7.2", (640, 655, 656), ()),
        ("held-6.1", (), (90, 77)),
        ("old-3.10", (), (5644,)),
    ],
)
def test_a_console(name: str, cycle: tuple[int, ...], chain: tuple[int, ...]) -> None:
    dump = parse_sysrq((DATA / f"{name}.log").read_text()).last_tasks(DumpKind.BLOCKED)
    assert dump is not None
    graph = build_graph(dump.threads)
    assert (graph.cycle, graph.chain) == (cycle, chain)


# Controls: what makes a cycle is needed for it


# Recorded from Debian 12's kernel and ZFS 2.1.11 with 640 MiB: swap on a zvol as in openzfs #7734, which stood still
# within three seconds, and the same load with swap on a raw disk, which did not.
RECORDED = {
    "zvol-swap-w": (
        "cycle: z_wr_int_h (pid 129) waits in mempool_alloc for the bio of zvol (pid 109); zvol (pid 109) waits in"
        " zil_commit_impl for the log write of z_wr_int_h (pid 129)"
        " (by role, a guess: no line of the kernel's says who holds the bio, the log write)"
    ),
    "zvol-swap-t": (
        "cycle: z_wr_int_h (pid 129) keeps running in do_try_to_free_pages, in direct reclaim, for the reclaim of zvol"
        " (pid 109); zvol (pid 109) waits in zil_commit_impl for the log write of z_wr_int_h (pid 129)"
        " (by role, a guess: no line of the kernel's says who holds the reclaim, the log write)"
    ),
    # What is stuck runs, so it is in no list of blocked tasks.
    "zvol-swap-livelock-t": (
        "cycle: z_wr_iss_h (pid 127) keeps running in do_try_to_free_pages, in direct reclaim, for the reclaim of zvol"
        " (pid 109); zvol (pid 109) waits in zil_commit_impl for the log write of z_wr_iss_h (pid 127)"
        " (by role, a guess: no line of the kernel's says who holds the reclaim, the log write)"
    ),
    "raw-swap-t": "a chain, not a cycle",
    # A thread that only sleeps is in state D there.
    "raw-swap-w": "none of the 1 threads is blocked",
}


@pytest.mark.parametrize(("name", "sentence"), RECORDED.items())
def test_recorded_lists(name: str, sentence: str) -> None:
    text = lzma.decompress((DATA.parent / "recorded" / f"{name}.log.xz").read_bytes()).decode(errors="replace")
    (dump,) = parse_sysrq(text).tasks
    assert build_graph(dump.threads).sentence.endswith(sentence)
    if dump.kind is DumpKind.ALL:
        assert dump.losses == ()
        assert len(dump.threads) == 108


@pytest.mark.parametrize(("name", "pid"), [(name, pid) for name in CYCLIC for pid in CASES[name].cycle])
def test_without_one_thread_the_cycle_is_gone(name: str, pid: int) -> None:
    graph = build_graph([t for t in CASES[name].threads if t.pid != pid])
    assert graph.cycle == ()
    assert not graph.sentence.startswith("cycle")


@pytest.mark.parametrize(("name", "pid"), [(name, pid) for name in CYCLIC for pid in CASES[name].cycle])
def test_with_one_thread_running_the_cycle_is_gone(name: str, pid: int) -> None:
    threads = [replace(t, state="R", frames=("spl_memcpy",)) if t.pid == pid else t for t in CASES[name].threads]
    assert build_graph(threads).cycle == ()


def test_the_order_of_frames_counts() -> None:
    frames = (*CV.split(), "zio_wait", "txg_wait_synced", "zfs_sync")
    swapped = (*CV.split(), "txg_wait_synced", "zio_wait", "zfs_sync")
    found = [reasons(build_graph([TaskStack(1, "sync", "D", each)]))[1] for each in (frames, swapped)]
    assert found == [R.ZIO, R.TXG]


def test_a_worker_in_the_original_is_not_held() -> None:
    """slabprobe_grow_work() calls the original, so it is in the stack of a worker that is stuck for another reason."""
    stack = f"{ASLEEP} {{}} spl_slab_alloc __spl_cache_grow spl_cache_grow_work slabprobe_grow_work {TASKQ}"
    for function, reason in (("something_new", R.UNKNOWN), ("__mutex_lock", R.LOCK), ("zio_wait", R.ZIO)):
        assert reasons(build_graph([thread(77, "spl_kmem_cache", stack.format(function))])) == {77: reason}


def test_an_emergency_allocation_is_no_wait_for_the_worker() -> None:
    stack = f"{ASLEEP} schedule_timeout reclaim_throttle {SCAN} spl_emergency_alloc spl_cache_grow spl_kmem_cache_alloc"
    assert reasons(build_graph([thread(90, "slabprobe/0", stack), WORKER_HELD])) == {77: R.HELD, 90: R.RECLAIM}


def test_in_a_list_that_is_cut_another_thread_may_have_the_range() -> None:
    """Who holds the transaction itself needs no other thread."""
    for name, closes in (
        ("its own range, asked for again", Closes.UNKNOWN),
        ("the group that it holds open itself", Closes.CYCLE),
    ):
        assert build_graph(CASES[name].threads, cut=True).closes is closes


def test_mixed_stacks_are_no_proof_that_nobody_waits() -> None:
    running = (thread(10, "a", "memcpy", "R"), thread(11, "b", "memcpy", "R"))
    assert build_graph(running).closes is None
    graph = build_graph(running, mixed=frozenset((10, 11)))
    assert graph.closes is Closes.UNKNOWN
    assert graph.sentence == (
        "none of the 2 threads is blocked, but the stacks of a (pid 10) and b (pid 11) may be mixed with others:"
        " may close"
    )


@pytest.mark.parametrize("state", ["S", "I", "T", "Z", "X", "?", "d", ""])
def test_other_states_are_not_blocked(state: str) -> None:
    assert build_graph([replace(CRITICAL, state=state)]).waits == ()


def test_state_r_is_blocked_in_reclaim_only() -> None:
    for stack in (f"{CV} zio_wait", f"{PAGE_WAIT} do_swap_page", f"{GROW}", "shrink_node balance_pgdat kswapd"):
        assert build_graph([thread(1, "x", stack, "R")]).waits == ()
    assert reasons(build_graph([thread(1, "x", f"shrink_node {SCAN}", "R")])) == {1: R.RECLAIM}


# The tables


@pytest.mark.parametrize(
    ("row", "function"),
    [(row, name) for row in ROWS for name in sorted(row.functions)],
    ids=lambda x: getattr(x, "reason", x),
)
def test_every_function_of_a_row(row: WaitRow, function: str) -> None:
    further_out = sorted(row.asked_by or row.within)[:1] or ["f"]
    (found,) = [
        build_graph([TaskStack(1, "x", "D", ("__schedule", "schedule", function, *further_out, "kthread"))]).waits
    ]
    assert [wait.reason for wait in found] == ([] if row.reason is R.IDLE else [row.reason])


@pytest.mark.parametrize("wait", KERNEL_WAITS, ids=lambda wait: wait.reason)
def test_nouns_go_on_in_a_sentence(wait: KernelWait) -> None:
    assert not wait.noun.endswith(",")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.reason)
def test_every_row_is_needed(row: WaitRow) -> None:
    others = [each for each in ROWS if each is not row]
    assert any(is_other(build_graph(c.threads, rows=others), build_graph(c.threads)) for c in CASES.values())


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.role)
def test_every_role_is_needed(role: RoleRow) -> None:
    others = [each for each in ROLES if each is not role]
    assert any(is_other(build_graph(c.threads, roles=others), build_graph(c.threads)) for c in CASES.values())


@pytest.mark.parametrize(
    ("row", "role"), [(row, role) for row in ROWS if row.of is None for role in row.holders], ids=lambda x: str(x)[:24]
)
def test_every_holder_of_a_row_can_be_one(row: WaitRow, role: Role) -> None:
    """A thread of the role that is blocked gets an edge, and none without the role."""
    entry = next(each for each in ROLES if each.role is role)
    names = dict(
        ZIO="z_wr_iss", ZVOL="zvol", ARC="arc_evict", KSWAPD="kswapd0", KCOMPACTD="kcompactd0", FLUSHER="flush-8:0"
    )
    names |= dict(ZIO_READ="z_rd_int_1", JOURNAL="jbd2/sda1-8", Z_RELE="z_zrele", SPL_TASKQ="spl_delay_taskq")
    comm = names.get(role.name, entry.comm.removesuffix(r"\d*").removesuffix(r"(?:/\d*)?"))
    frames = [] if entry.comm else sorted(entry.functions)[:1]
    waiter = thread(1, "x", " ".join([ASLEEP, sorted(row.functions)[0], *sorted(row.asked_by or row.within)[:1]]))
    holder = thread(2, comm, " ".join([ASLEEP, "__mutex_lock", "new_function", *frames]))
    assert (1, 2) in pairs(build_graph([waiter, holder]))
    assert (1, 2) not in pairs(
        build_graph([waiter, holder], rows=[r if r is not row else replace(r, holders=()) for r in ROWS])
    )


@pytest.mark.parametrize("function", sorted(next(r.functions for r in ROLES if r.role is Role.TX_HOLDER)))
def test_every_function_that_holds_a_transaction(function: str) -> None:
    holder = thread(2, "x", f"{ASLEEP} something_new {function}")
    assert pairs(build_graph([QUIESCE, holder])) == {(401, 2)}
    assert pairs(build_graph([QUIESCE, replace(holder, frames=(*holder.frames, "spa_sync"))])) == set()


@pytest.mark.parametrize(
    "field", ["top", "fallback", "running", "own", "within", "of", "each", "named", "asked_by", "vague", "kind"]
)
def test_every_mark_of_a_row_is_needed(field: str) -> None:
    default = {"within": frozenset[str](), "asked_by": frozenset[str](), "of": None, "kind": ""}.get(field, False)
    rows = [replace(row, **{field: default}) for row in ROWS]  # type: ignore[arg-type]
    extra = [CRITICAL, thread(10, "x", f"{ASLEEP} something_new spl_kmem_cache_alloc")]
    changed = [
        is_other(build_graph(c, rows=rows), build_graph(c)) for c in [*(c.threads for c in CASES.values()), extra]
    ]
    assert any(changed)


def is_other(graph: WaitGraph, usual: WaitGraph) -> bool:
    return (reasons(graph), graph.edges, graph.cycle, graph.chain, graph.closes) != (
        reasons(usual),
        usual.edges,
        usual.cycle,
        usual.chain,
        usual.closes,
    )


def test_every_reason_has_a_case() -> None:
    assert {reason for case in CASES.values() for reason in case.reasons.values()} == set(WaitReason) - {R.IDLE}
    assert {row.reason for row in ROWS} | {UNKNOWN_ROW.reason} == set(WaitReason)


def test_every_role_has_a_row_and_every_row_a_source() -> None:
    assert {role.role for role in ROLES} == set(Role)
    assert all(row.source and row.noun for row in ROWS)
    assert all(role.source and (role.comm or role.functions) for role in ROLES)


# Hostile input


def test_names_are_shown_without_control_characters() -> None:
    graph = build_graph([thread(1, "a\x1b[2J\n" + "x" * 100, f"{CV} zio_wait")])
    assert graph.sentence.startswith("a?[2J?" + "x" * 26 + " (pid 1) waits in zio_wait")


def test_edges_are_bounded_and_leave_no_reason_out() -> None:
    crowd = [replace(ZVOL_WAITS, pid=1000 + n) for n in range(200)]
    graph = build_graph([*crowd, ZVOL_HOLDER, EATER, QUIESCE])
    per_waiter = [len(list(edges)) for _, edges in itertools.groupby(graph.edges, key=lambda edge: edge.waiter)]
    assert max(per_waiter) == MAX_EDGES
    assert {(500, 600), (500, 1000)} <= pairs(graph)
    assert graph.cycle == (401, 600, 1000)


def test_a_crowd_takes_no_time_for_each_pair() -> None:
    """Work that grows with the square of it would not come to an end."""
    queue = f"{ASLEEP} __mutex_lock zfs_zget zfs_lookup"
    graph = build_graph([thread(pid, "nfsd", queue) for pid in range(1, 40_001)])
    assert (graph.closes, graph.edges) == (Closes.UNKNOWN, ())
    assert graph.sentence.startswith("nfsd (pid 1) and 39999 more wait in __mutex_lock for the lock of an object")


def test_long_stacks_are_cut() -> None:
    deep = TaskStack(1, "x", "D", ("f",) * MAX_FRAMES + ("zio_wait",))
    assert reasons(build_graph([deep])) == {1: R.UNKNOWN}


def test_many_threads_are_told_in_part() -> None:
    """Tables in which each thread waits for the next."""
    order = list(Role)
    roles = [RoleRow(role, "test", comm=f"t{at + 1}") for at, role in enumerate(order)]
    rows = [WaitRow(R.ZIO, "x", frozenset({f"f{at}"}), (role,), "test") for at, role in enumerate(order)]
    threads = [thread(at, f"t{at}", f"f{at}") for at in range(len(order) + 1)]
    graph = build_graph(threads, rows=rows, roles=roles)
    last = len(order)
    assert graph.chain == tuple(range(last + 1))
    assert f", and so on through {last - 12} more, the last of which waits in f{last} for something" in graph.sentence
    threads[-1] = thread(len(order), f"t{len(order)}", "f0")
    rows[0] = replace(rows[0], holders=(order[0],))
    graph = build_graph(threads[1:], rows=[*rows[1:], rows[0]], roles=roles)
    assert len(graph.cycle) == last
    assert f"; and so on through {last - 12} more (by role, a guess: " in graph.sentence


COMMS = [
    "spl_kmem_cache",
    "slabprobe/0",
    "slabprobe/tx",
    "txg_sync",
    "txg_quiesce",
    "z_wr_iss",
    "zvol",
    "arc_evict",
    "x",
]
NAMES = sorted({name for row in ROWS for name in row.functions} | {name for role in ROLES for name in role.functions})
THREADS = st.builds(
    TaskStack,
    pid=st.integers(0, 30),
    comm=st.one_of(st.sampled_from([*COMMS, "kswapd0", "kcompactd0", "flush-8:0"]), st.text(max_size=8)),
    state=st.one_of(st.sampled_from(["D", "D", "D", "R", "S"]), st.text(max_size=2)),
    frames=st.lists(st.one_of(st.sampled_from([*NAMES, "schedule", "f"]), st.text(max_size=4)), max_size=12).map(tuple),
)


@FUZZ
@given(st.lists(THREADS, max_size=25), st.randoms(use_true_random=False))
def test_the_order_of_threads_makes_no_difference(threads: list[TaskStack], random: object) -> None:
    shuffled = list(threads)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert build_graph(shuffled) == build_graph(threads)


@FUZZ
@given(st.lists(THREADS, max_size=25))
def test_a_graph_holds_together(threads: list[TaskStack]) -> None:
    graph = build_graph(threads)
    known, blocked, edges = {t.pid for t in threads}, set(reasons(graph)), pairs(graph)
    assert len(edges) == len(graph.edges)
    assert {waiter for waiter, _ in edges} <= blocked <= known
    assert {holder for _, holder in edges} <= known
    assert (graph.closes is Closes.CYCLE) == bool(graph.cycle)
    if graph.cycle:
        assert has_cycle(edges)
        assert set(itertools.pairwise([*graph.cycle, graph.cycle[0]])) <= edges
        assert len(set(graph.cycle)) == len(graph.cycle)
    else:
        assert bool(graph.chain) == bool(blocked)
        assert set(itertools.pairwise(graph.chain)) <= edges
        assert len(graph.chain) == longest(edges, blocked)
    for wait in graph.waits:
        assert wait.functions[:1] == wait.thread.frames[wait.index : wait.index + 1]
    assert all(char.isprintable() for char in graph.sentence)
    json.dumps(graph.to_json())


def has_cycle(edges: set[tuple[int, int]]) -> bool:
    """By taking away, again and again, whoever waits for nobody."""
    left = set(edges)
    while free := {holder for _, holder in left} - {waiter for waiter, _ in left}:
        left = {(waiter, holder) for waiter, holder in left if holder not in free}
    return bool(left)


def longest(edges: set[tuple[int, int]], blocked: set[int]) -> int:
    lengths = dict.fromkeys(blocked | {pid for pair in edges for pid in pair}, 1)
    for _ in lengths:
        for waiter, holder in edges:
            lengths[waiter] = max(lengths[waiter], 1 + lengths[holder])
    return max((lengths[pid] for pid in blocked), default=0)


def test_stacks_that_only_differ_in_the_pid_are_alike() -> None:
    threads: Sequence[TaskStack] = [*CASES["classic"].threads, replace(ISSUE, pid=301)]
    assert build_graph(threads).cycle == (77, 400, 300)
