"""Stacks whose own form shows that lines are missing, doubled or mixed: neither a cycle nor a chain rests on them."""

from __future__ import annotations

import pytest

from splvm.evidence.waiting.waitedges import Closes
from splvm.paste.explanation import Explanation, explain
from splvm.paste.prefixes import Line
from splvm.paste.seams import is_torn

# A thread of the pipeline that waits for itself: a cycle of one thread.
SELF = "__schedule schedule cv_wait_common __cv_wait txg_wait_open dmu_tx_wait zio_execute taskq_thread kthread"
SYNC = "__schedule schedule cv_wait_common __cv_wait zio_wait dsl_pool_sync spa_sync txg_sync_thread kthread"
PANICKED = "dump_stack_lvl dump_stack spl_panic spl_kmem_cache_free tank_main kthread ret_from_fork"


def lines(functions: str, start: int = 0) -> list[str]:
    return [f"[  600.1{start + at:05d}]  {name}+0x10/0x20" for at, name in enumerate(functions.split())]


def hung(comm: str, pid: int, *frames: str) -> Explanation:
    head = (
        f"[  600.000001] INFO: task {comm}:{pid} blocked for more than 120 seconds.",
        f"[  600.000002] task:{comm} state:D stack:0 pid:{pid} ppid:2 flags:0x00004000",
        "[  600.000003] Call Trace:",
    )
    return explain("\n".join((*head, *frames)) + "\n")


def test_the_whole_one_closes() -> None:
    assert hung("z_wr_iss", 41, *lines(SELF)).closes is Closes.CYCLE


WHOLE = lines(SELF)
TORN = {
    # The head of the next thread was lost, and what it sleeps in stands in the middle of the stack.
    "sleeps again": [*WHOLE[:-1], *lines("schedule io_schedule zio_wait kthread", 40)],
    "in a condition variable": [*WHOLE[:-1], *lines("cv_wait_common __cv_wait spa_sync kthread", 40)],
    "shuffled": [*WHOLE[:5], WHOLE[6], WHOLE[5], *WHOLE[7:]],
    "doubled": [*WHOLE[:7], *WHOLE[4:]],
    "another form": [*WHOLE[:5], " #3 [ffff88040e1b3b98] tank_read at ffffffffa0412999 [tank]", *WHOLE[5:]],
}

TORN["another form alone"] = [
    f" #{at} [ffff88040e1b3b{at:02x}] {name} at ffffffffa0412999 [tank]" for at, name in enumerate(SELF.split())
]


@pytest.mark.parametrize("frames", TORN.values(), ids=TORN.keys())
def test_a_torn_stack_closes_nothing(frames: list[str]) -> None:
    found = hung("z_wr_iss", 41, *frames)
    assert found.closes is Closes.UNKNOWN
    assert found.telling is not None
    assert "z_wr_iss (pid 41)" in found.telling.graph.sentence
    assert "may be mixed with others" in found.telling.graph.sentence
    assert any("printed into each other" in it.what for it in found.missing)


INSIDE = {
    "a mutex is taken again": "__schedule schedule __mutex_lock mutex_lock cv_wait_common __cv_wait txg_wait_open"
    " dmu_tx_wait zio_execute taskq_thread kthread",
    "requests are handed on": "__schedule schedule cv_wait_common __cv_wait txg_wait_open dmu_tx_wait zio_execute"
    " blk_flush_plug_list io_schedule tank_read kthread",
    "interrupted": "__schedule preempt_schedule_irq irqentry_exit asm_sysvec_apic_timer_interrupt cv_wait_common"
    " __cv_wait txg_wait_open dmu_tx_wait zio_execute taskq_thread kthread",
}


@pytest.mark.parametrize("functions", INSIDE.values(), ids=INSIDE.keys())
def test_what_happens_on_the_way_to_sleep_tears_nothing(functions: str) -> None:
    found = hung("z_wr_iss", 41, *lines(functions))
    assert found.telling is not None
    assert "mixed" not in found.telling.graph.sentence


def test_no_chain_rests_on_one() -> None:
    """Nor on another stack of the list, which may have lost frames to it."""
    torn = [*lines(SYNC), *lines("schedule tank_wait", 60)]
    device = "[  599.000001] blk_update_request: I/O error, dev sdq, sector 1\n"
    assert explain(device + text_of("txg_sync", 7, lines(SYNC))).closes is Closes.CHAIN
    found = explain(device + text_of("txg_sync", 7, torn))
    assert found.closes is Closes.UNKNOWN
    assert found.telling is not None
    assert "txg_sync (pid 7) may be mixed with others" in found.telling.graph.sentence


def text_of(comm: str, pid: int, frames: list[str]) -> str:
    return (
        f"[  600.000001] INFO: task {comm}:{pid} blocked for more than 120 seconds.\n[  600.000003] Call Trace:\n"
        + "\n".join(frames)
        + "\n"
    )


@pytest.mark.parametrize("head", ["[  600.000001] CPU: 1 PID: 213 Comm: tankd/0 Tainted: G OE\n", ""])
def test_what_a_kernel_prints_of_itself_is_no_wait(head: str) -> None:
    """Also without the line that says whose it is."""
    found = explain(head + "[  600.000002] Call Trace:\n" + "\n".join(lines(PANICKED)) + "\n")
    assert found.closes is None


def listed(at: int, comm: str, pid: int, functions: str) -> str:
    told = [f"task:{comm} state:D stack:0 pid:{pid} ppid:2 flags:0x00004000", "Call Trace:"]
    told += [f" {name}+0x10/0x20" for name in functions.split()]
    return "".join(f"[  600.{at + place:06d}][    C0] {line}\n" for place, line in enumerate(told))


def test_a_list_goes_on_behind_a_report_that_another_thread_prints_into_it() -> None:
    quiesce = "__schedule schedule cv_wait_common __cv_wait txg_quiesce_thread kthread"
    holder = "__schedule schedule cv_wait_common __cv_wait txg_wait_open dmu_tx_wait try_to_free_pages zfs_mknode"
    text = (
        "[  600.000001][    C0] sysrq: Show Blocked State\n"
        + listed(100, "txg_quiesce", 5, quiesce)
        + "[  600.000150][   T30] INFO: task pondd:99 blocked for more than 120 seconds.\n"
        + "[  600.000151][   T30] Call Trace:\n[  600.000152][   T30]  pond_wait+0x1/0x2\n"
        + listed(200, "pond", 6, holder)
    )
    found = explain(text)
    assert [it.source for it in found.moments] == ["sysrq-w"]
    assert {wait.thread.pid for wait in found.moments[0].graph.waits} == {5, 6, 99}


IDLE = "dump_stack_lvl nmi_cpu_backtrace common_interrupt default_idle start_secondary secondary_startup_64_no_verify"


def test_what_a_cpu_runs_tears_no_list_before_it() -> None:
    """All names that a stack may end in are of it, and a thread whose stack is whole has lost none to it."""
    device = "[  599.000001] blk_update_request: I/O error, dev sdq, sector 1\n"
    ended = text_of("txg_sync", 7, lines(f"{SYNC} ret_from_fork"))
    cpu = "[  600.200000] NMI backtrace for cpu 1\n[  600.200001] CPU: 1 PID: 0 Comm: swapper/1 Tainted: G OE\n"
    found = explain(device + ended + cpu + "[  600.200002] Call Trace:\n" + "\n".join(lines(IDLE, 300)) + "\n")
    assert found.closes is Closes.CHAIN
    assert [it.comm for it in found.tasks] == ["txg_sync", "swapper/1"]


@pytest.mark.parametrize(
    ("then", "now", "torn"),
    [
        ("Nov 30 23:59:59", "Dec  1 00:00:00", False),
        ("Nov 29 23:59:59", "Nov 30 00:00:00", False),
        ("Nov 30 12:00:09", "Nov 30 12:00:08", True),
    ],
)
def test_midnight_and_a_new_month_tear_nothing(then: str, now: str, torn: bool) -> None:
    frames = [Line(f" {name}+0x1/0x2", time) for name, time in (("schedule", then), ("zio_wait", now))]
    assert is_torn(*frames) is torn
