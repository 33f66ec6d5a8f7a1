"""What belongs to one moment, what happened between two, what the files beside a log say, and what is missing."""

from __future__ import annotations

import itertools

import pytest

from splvm.evidence.waiting.waitedges import Closes
from splvm.paste.answer import answer_lines
from splvm.paste.explanation import Explanation, explain

SYNC = "__schedule schedule cv_wait_common spl_kmem_cache_alloc zio_buf_alloc spa_sync txg_sync_thread kthread"
WORKER = (
    "__schedule schedule cv_wait_common txg_wait_open dmu_tx_wait zfs_inactive evict super_cache_scan do_shrink_slab"
    " try_to_free_pages __vmalloc_node_range spl_cache_grow_work taskq_thread kthread"
)
LOCKED = "__schedule schedule __mutex_lock zfs_zget zfs_lookup"


def frames(stack: str, before: str = "") -> str:
    return "".join(f"{before} {name}+0x10/0x90\n" for name in stack.split())


def hung(comm: str, pid: int, stack: str, at: float | None = None, blocked_s: int = 120) -> str:
    time = "" if at is None else f"[{at:12.6f}] "
    head = (
        f"INFO: task {comm}:{pid} blocked for more than {blocked_s} seconds.",
        f"task:{comm:<16}state:D stack:    0 pid:{pid:5} ppid:     2 flags:0x00004000",
        "Call Trace:",
    )
    return "".join(f"{time}{line}\n" for line in head) + frames(stack, time)


def listed(*threads: tuple[str, int, str, str]) -> str:
    """A list by SysRq t."""
    text = "sysrq: Show State\n"
    for comm, pid, state, stack in threads:
        text += f"task:{comm:<16}state:{state} stack:    0 pid:{pid:5} ppid:     2 flags:0x00004000\nCall Trace:\n"
        text += frames(stack)
    return text + "Showing busy workqueues and worker pools:\n"


def by_hand(pid: int, stack: str) -> str:
    return f"# cat /proc/{pid}/stack\n" + frames(stack, "[<0>]")


def said(found: Explanation) -> str:
    return "\n".join(answer_lines(found))


# One moment


def test_stacks_read_by_hand_belong_to_the_hang_in_the_log() -> None:
    found = explain(hung("txg_sync", 1423, SYNC) + "\n" + by_hand(402, WORKER))
    assert [(moment.source, moment.graph.cycle) for moment in found.moments] == [("hung-task", (402, 1423))]
    assert {(it.pid, it.moment) for it in found.tasks} == {(1423, 0), (402, 0)}


def test_a_stack_read_by_hand_needs_no_name() -> None:
    found = explain(by_hand(1423, SYNC) + by_hand(402, WORKER))
    assert found.closes is Closes.CYCLE
    assert "of the txg_sync thread (pid 1423)" in said(found)


def test_a_number_is_no_pid() -> None:
    text = "Thread 1:\n" + frames(SYNC, "[<0>]") + "\nThread 2:\n" + frames(WORKER, "[<0>]")
    found = explain(text)
    assert [it.pid for it in found.tasks] == [None, None]
    assert found.closes is Closes.CYCLE


@pytest.mark.parametrize(
    ("again", "moments"), [(SYNC, 1), ("cv_wait_common zio_wait spa_sync txg_sync_thread", 2)], ids=["still", "moved"]
)
def test_stacks_of_another_time_do_not(again: str, moments: int) -> None:
    found = explain(hung("txg_sync", 1423, SYNC) + by_hand(402, WORKER) + by_hand(1423, again))
    assert len(found.moments) == moments
    assert (found.closes is Closes.CYCLE) == (moments == 1)


def test_stacks_of_two_times_do_not() -> None:
    found = explain(hung("txg_sync", 1423, SYNC) + 2 * by_hand(402, WORKER))
    assert len(found.moments) == 3


# Between two moments


def test_a_cycle_whose_threads_got_on_is_none() -> None:
    first = listed(("txg_sync", 1423, "D", SYNC), ("spl_kmem_cache", 402, "D", WORKER))
    again = listed(("txg_sync", 1423, "D", SYNC), ("spl_kmem_cache", 402, "R", "memset spl_cache_grow_work"))
    assert explain(first).closes is explain(first + first).closes is Closes.CYCLE
    found = explain(first + again)
    assert found.closes is Closes.UNKNOWN
    assert "later spl_kmem_cache (pid 402) was elsewhere" in said(found)
    assert "spl_kmem_cache (pid 402) moved between them" in said(found)
    assert "txg_sync (pid 1423) is where it was in each of them" in said(found)


def test_a_cycle_of_the_boot_before_stays_one() -> None:
    first = hung("txg_sync", 1423, SYNC, 5000) + hung("spl_kmem_cache", 402, WORKER, 5000.1)
    later = hung("txg_sync", 1423, LOCKED, 400) + hung("spl_kmem_cache", 402, LOCKED, 400.1)
    assert explain(first + "[    0.000000] Linux version 6.1.0\n" + later).closes is Closes.CYCLE


def test_a_thread_that_goes_round_in_reclaim_does_not_get_on() -> None:
    """It is in another function each time that somebody looks, and nothing comes of it."""
    zvol = "__schedule schedule cv_wait_common zil_commit_impl zil_commit zvol_write taskq_thread"
    dumps = [
        listed(("z_wr_int_h", 129, "R", f"{top} try_to_free_pages zio_execute"), ("zvol", 109, "D", zvol))
        for top in ("do_try_to_free_pages", "shrink_node do_try_to_free_pages", "try_to_free_pages")
    ]
    assert [it.graph.closes for it in explain("".join(dumps)).moments] == [Closes.CYCLE] * 3
    assert "z_wr_int_h (pid 129) spins in each of them" in said(explain("".join(dumps)))


# What explains a wait without a lock


SUSPENDED = "WARNING: Pool 'tank' has encountered an uncorrectable I/O failure and has been suspended.\n"


def test_a_suspended_pool_opens_a_cycle_by_role() -> None:
    text = hung("txg_sync", 1423, SYNC) + hung("spl_kmem_cache", 402, WORKER)
    assert explain(text).closes is Closes.CYCLE
    found = explain(text + SUSPENDED)
    assert found.closes is Closes.UNKNOWN
    assert "may close, but it need not be a lock: WARNING: Pool" in said(found)
    assert found.findings[0].kind == "pool_suspended"


def test_two_pools() -> None:
    text = hung("txg_sync", 1423, SYNC) + hung("spl_kmem_cache", 402, WORKER)
    other = hung("txg_sync", 1999, "__schedule schedule cv_wait_common zio_wait spa_sync txg_sync_thread")
    assert explain(text + other).closes is Closes.UNKNOWN


# What is missing


def missing(found: Explanation) -> list[str]:
    return [it.what for it in found.missing]


def test_an_owner_that_was_printed_is_not_missing() -> None:
    text = hung("mysqld", 10, LOCKED)
    assert "the owner of the lock" in missing(explain(text))
    owned = text + "INFO: task mysqld:10 is blocked on a mutex likely owned by task rm:55.\n"
    found = explain(owned)
    assert "the owner of the lock" not in missing(found)
    assert "the stack of rm (pid 55), who owns a lock" in missing(found)
    assert [it.command for it in found.missing if "rm (pid 55)" in it.what] == ["cat /proc/55/stack"]
    assert "of rm (pid 55), whose stack is not in the text" in said(found)
    whole = owned + hung("rm", 55, "__schedule schedule cv_wait_common zio_wait zfs_remove")
    assert not any("rm (pid 55)" in it for it in missing(explain(whole)))


def test_who_died_may_have_the_lock() -> None:
    oops = (
        "BUG: kernel NULL pointer dereference, address: 0000000000000010\n"
        "CPU: 1 PID: 2345 Comm: zpool Not tainted 6.1.0 #1\n"
        "RIP: 0010:spa_import+0x10/0x90 [zfs]\nCall Trace:\n spa_import+0x10/0x90 [zfs]\n---[ end trace 0 ]---\n"
    )
    died = "zpool (pid 2345) died: what it had locked stays locked"
    assert died in said(explain(oops + hung("zfs", 3000, LOCKED)))
    assert died not in said(explain(oops + hung("zfs", 3000, SYNC)))


def test_a_list_that_is_cut_is_said_to_be() -> None:
    text = listed(("txg_sync", 1423, "D", SYNC), ("bash", 5, "S", "do_wait"))
    assert "the list is cut" not in said(explain(text))
    cut = text.replace("task:bash", "** 12 printk messages dropped **\ntask:bash")
    assert "the list is cut: the kernel dropped messages" in said(explain(cut))


def test_the_closing_line_is_of_the_moment_that_is_told() -> None:
    by_role = hung("txg_sync", 1423, SYNC) + hung("spl_kmem_cache", 402, WORKER)
    owners = "".join(
        hung(comm, pid, LOCKED) + f"INFO: task {comm}:{pid} is blocked on a mutex likely owned by task {other}.\n"
        for comm, pid, other in (("one", 11, "two:12"), ("two", 12, "one:11"))
    )
    assert "By role it closes, which is a guess" in said(explain(by_role))
    assert "It closes: these threads wait for each other, a deadlock" in said(explain(owners))
    assert "By role it closes" not in said(explain(owners))


# Files beside a log


TASKQS = """\
taskq                       act  nthr  spwn  maxt   pri  mina         maxa cura      flags
z_zvol/0                      0     1     0     1   120     1   2147483647    1   80000005
spl_kmem_cache/0              1     1     0     4   100    16   2147483647   20   8000000d
\tactive: [402]spl_cache_grow_work [spl](0xffff888104)
\tpend: spl_cache_grow_work [spl](0x1) spl_cache_grow_work [spl](0x2)
\tdelay: zfsctl_snapshot_unmount_task [zfs](0x3)
\twait: 1423 1424
"""
ARC = """\
13 1 0x01 123 33456 4242424242 9999999999
name                            type data
hits                            4    123456789
c                               4    1073741824
c_max                           4    17179869184
size                            4    16106127360
memory_throttle_count           4    55
arc_no_grow                     4    0
"""
MEMORY = """\
[  500.100000] sysrq: Show Memory
[  500.100000] Mem-Info:
[  500.100000]  slab_reclaimable:2000 slab_unreclaimable:991000
[  500.100000] Node 0 DMA free:9000kB boost:0kB min:100kB low:110kB high:140kB
[  500.100000] Node 0 Normal free:1200kB min:9000kB low:11000kB high:14000kB
"""
MEMINFO = """\
MemTotal:       32768000 kB
MemFree:          120000 kB
MemAvailable:     220000 kB
SUnreclaim:     20971520 kB
"""


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        (TASKQS, ["taskq spl_kmem_cache: 1 of 1 threads busy with spl_cache_grow_work by pid 402; 2 tasks wait"]),
        (
            ARC,
            [
                "ARC: 15.0 GiB, target 1.0 GiB, 14.0 GiB more than its target, at most 16.0 GiB",
                "ARC: memory is low or was: memory_throttle_count 55",
            ],
        ),
        (
            MEMORY,
            [
                "zone Normal of node 0 had 1200 kB free, less than its minimum of 9000 kB",
                "slabs that cannot be reclaimed: 3.8 GiB (with pages of 4 KiB)",
            ],
        ),
        (MEMINFO, ["memory: MemTotal 31.2 GiB, MemFree 0.1 GiB, MemAvailable 0.2 GiB, SUnreclaim 20.0 GiB"]),
        (hung("txg_sync", 1423, SYNC), []),
    ],
    ids=["taskq", "arcstats", "memory", "meminfo", "none"],
)
def test_what_files_say(text: str, facts: list[str]) -> None:
    found = explain(text)
    assert list(found.facts) == facts
    assert all(f"  {fact}" in said(found) for fact in facts)
    assert found.to_json()["facts"] == facts


def test_facts_are_bounded() -> None:
    rows = "".join(f"q{at}/0   1 1 0 1 100 1 1 1 1\n\tactive: [{at}]f [spl](0x1)\n" for at in range(1000))
    facts = explain(TASKQS.splitlines()[0] + "\n" + rows).facts
    assert len(facts) < 20 and "more taskqs" in facts[-1]


def test_callers_that_gave_up_are_told() -> None:
    text = (
        "name                                    flags      size     alloc slabsize  objsize  total alloc   max  total"
        " alloc   max  dlock alloc   max\n"
        "zio_buf_comb_131072                   0x00042   1048576    655360   524288   131072      2     2     5      8"
        "     5    20      1     3     9\n"
    )
    assert "callers gave up waiting for the slab worker in zio_buf_comb_131072 (1)" in said(explain(text))


def test_the_order_of_moments_is_that_of_the_text() -> None:
    texts = [hung("mysqld", 10, LOCKED, at) for at in (100, 1000, 2000)]
    for order in itertools.permutations(texts):
        assert len(explain("".join(order)).moments) == 3
