"""Where one stack of a paste ends and another one begins, though no line of the kernel's says so."""

from __future__ import annotations

import pytest

from splvm.evidence.waiting.waitedges import Closes
from splvm.paste.explanation import Explanation, explain

HUNG = """\
[  600.100001] INFO: task tankd:501 blocked for more than 120 seconds.
[  600.100002] task:tankd           state:D stack:0     pid:501   ppid:1      flags:0x00004000
[  600.100003] Call Trace:
[  600.100004]  __schedule+0x2be/0x780
[  600.100005]  schedule+0x40/0xb0
[  600.100006]  __mutex_lock+0x2b5/0x4a0
[  600.100007]  zil_commit_impl+0x147/0xe00 [zfs]
[  600.100008]  do_syscall_64+0x33/0x80
[  600.100009]  entry_SYSCALL_64_after_hwframe+0x44/0xa9
"""
OURS = ("__schedule", "schedule", "__mutex_lock", "zil_commit_impl")
ENDED = (*OURS, "do_syscall_64", "entry_SYSCALL_64_after_hwframe")
CUT = "".join(HUNG.splitlines(keepends=True)[:-2])
WARNED = """\
[  600.100001] WARNING: CPU: 1 PID: 77 at mm/tank.c:68 tank_iter+0x267/0x2d0
[  600.100002]  tank_write+0x51/0xc0
[  600.100003]  tank_writepages+0xb0/0x1f0 [zfs]
"""
# The rest of a thread's stack, as the kernel prints it and as /proc has it.
TAIL = """\
[  {time}]  zfs_fsync+0x70/0xe0 [zfs]
[  {time}]  do_syscall_64+0x55/0x110
[  {time}]  entry_SYSCALL_64_after_hwframe+0x44/0xa9
"""
PROC = """\
[<0>] wait_on_page_bit+0x127/0x230
[<0>] zfs_freesp+0x403/0x430 [zfs]
[<0>] do_syscall_64+0x33/0x80
[<0>] entry_SYSCALL_64_after_hwframe+0x44/0xa9
"""
BLOCKS = "```\n\nand then\n\n```\n"


def stacks(found: Explanation) -> list[tuple[int | None, tuple[str, ...]]]:
    return [(it.pid, it.frames) for it in found.tasks]


def bare(text: str) -> str:
    return "".join(line.split("] ", 1)[1] + "\n" for line in text.splitlines())


@pytest.mark.parametrize("between", ["", "\n", BLOCKS, "This one holds a range and does not go on:\n", "612\n"])
@pytest.mark.parametrize(
    ("first", "frames"), [(HUNG, ENDED), (bare(HUNG), ENDED), (CUT, OURS)], ids=["", "bare", "cut"]
)
def test_a_stack_of_proc_after_one_of_the_kernels(first: str, frames: tuple[str, ...], between: str) -> None:
    found = explain(first + between + PROC)
    other = ("wait_on_page_bit", "zfs_freesp", "do_syscall_64", "entry_SYSCALL_64_after_hwframe")
    assert stacks(found) == [(501, frames), (612 if between == "612\n" else None, other)]
    assert [it.frames for it in found.findings] == [frames]


@pytest.mark.parametrize("first", [HUNG, CUT], ids=["ended", "cut"])
@pytest.mark.parametrize(
    ("time", "between"), [("721.300001", ""), ("600.200001", BLOCKS), ("600.200001", "```\n```\n")]
)
def test_the_rest_of_a_stack_after_another_one(first: str, time: str, between: str) -> None:
    """A report of which the beginning was not copied, later than the one before or in a block of its own."""
    found = explain(first + between + TAIL.format(time=time))
    assert [pid for pid, _ in stacks(found)] == [501, None]
    assert stacks(found)[1][1] == ("zfs_fsync", "do_syscall_64", "entry_SYSCALL_64_after_hwframe")
    assert "zfs_fsync" not in found.findings[0].frames


@pytest.mark.parametrize("first", [HUNG, bare(HUNG), CUT, bare(CUT)], ids=["", "bare", "cut", "bare and cut"])
@pytest.mark.parametrize("head", ["612", "PID: 612", "612 pondd", "root 612 2 0 16:05 ? 00:00:00 [pondd]"])
def test_a_number_alone(head: str, first: str) -> None:
    """Also where the frames after it look like those before it."""
    tail = TAIL.format(time="600.200001")
    found = explain(f"{first}{head}\n{tail if first[0] == '[' else bare(tail)}")
    assert [pid for pid, _ in stacks(found)] == [501, 612]
    assert "zfs_fsync" not in found.findings[0].frames


def test_a_block_after_a_warning() -> None:
    """Nothing says whose the stack of a warning is, and whose the next one."""
    again = bare(WARNED).split("\n", 1)[1].replace("tank_", "pond_")
    found = explain(f"```\n{WARNED}```\nLater the worker stood still:\n```\nfolio_wait_bit_common\n{again}```\n")
    assert [it.frames for it in found.findings] == [("tank_write", "tank_writepages")]
    assert stacks(found) == [(None, ("folio_wait_bit_common", "pond_write", "pond_writepages"))]
    assert found.closes is Closes.UNKNOWN


@pytest.mark.parametrize("between", ["\n", "This thread holds the range and does not go on.\n", "```\n```\n"])
def test_two_stacks_by_hand_of_which_the_first_is_cut(between: str) -> None:
    one = "".join(PROC.splitlines(keepends=True)[: 4 if between == "\n" else 2])
    found = explain(f"{one}{between}[<0>] zio_wait+0x1/0x20 [zfs]\n[<0>] spa_sync+0x1/0x20 [zfs]\n")
    assert [frames[0] for _, frames in stacks(found)] == ["wait_on_page_bit", "zio_wait"]


def test_a_cycle_whose_threads_stand_behind_a_log() -> None:
    one = "19\n[<0>] zfs_rangelock_enter_impl+0x4/0x5\n[<0>] zfs_get_data+0xb/0x35\n[<0>] zil_commit_impl+0x9/0xe0\n"
    two = f"* That one has the range.\n21\n{PROC}"
    for text in (f"{HUNG}\nI see:\n{one}{two}", f"```\n{HUNG}```\n```\n{one}```\n```\n{two}```\n"):
        found = explain(text)
        assert found.closes is Closes.CYCLE
        assert found.telling is not None and sorted(found.telling.graph.cycle) == [19, 21]


@pytest.mark.parametrize(
    "between",
    [
        "[  OK  ] Started the tank of the pond again.\n",
        "(some of the frames are left out here)\n",
        "[  603.100004]  ? tank_walk+0x1/0x20\n",
        "[  600.100004] nvme nvme0: the drive took its time and is back\n",
    ],
)
def test_what_ends_no_stack(between: str) -> None:
    lines = HUNG.splitlines(keepends=True)
    found = explain("".join([*lines[:5], between, *lines[5:]]))
    assert stacks(found) == [(501, ENDED)]
    by_hand = PROC.splitlines(keepends=True)
    if "left out" in between:
        assert len(explain("".join([*by_hand[:2], between, *by_hand[2:]])).tasks) == 1


def test_reports_around_a_stack_without_a_head_are_of_one_moment() -> None:
    second = HUNG.replace("501", "502").replace("600.1", "600.9")
    found = explain(f"```\n{HUNG}```\n```\n{TAIL.format(time='600.500001')}```\n```\n{second}```\n")
    assert [it.source for it in found.moments] == ["hung-task"]
    assert [pid for pid, _ in stacks(found)] == [501, None, 502]
