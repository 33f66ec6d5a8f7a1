"""What is known of hangs: each row of the table is found by threads of its shape, and by nothing less."""

from __future__ import annotations

import pytest

from splvm.evidence.waiting.waitrows import ROWS
from splvm.evidence.waiting.waits import WaitReason
from splvm.paste.explanation import explain
from splvm.paste.known import KnownIssue, KnownScenario, Shape, Stacks, fits, known_table

TABLE = known_table()
BY_MOMENT = [row for row in TABLE.issues if row.threads]
# A function that means the wait, whoever calls it.
WAITS = {
    row.reason: min(row.functions)
    for row in reversed(ROWS)
    if not (row.within or row.asked_by or row.of or row.fallback or row.top)
}
WAITS[WaitReason.TASKQ] = "taskq_wait"


def stack(shape: Shape) -> list[str]:
    """Functions of a thread that has the shape, what it waits in first."""
    names = [min(group, key=lambda name: (name[:1] == "@", name)) for group in shape if not is_unwanted(group)]
    waits = [WAITS[WaitReason(name[1:])] for name in names if name[:1] == "@"]
    functions = [name for name in names if name[:1] != "@"]
    inner = [] if any(name in row.functions for name in functions for row in ROWS) and not waits else waits
    return ["__schedule", "schedule", *inner, *functions]


def is_unwanted(group: frozenset[str]) -> bool:
    return any(name[:1] == "!" for name in group)


def text_of(threads: tuple[Shape, ...]) -> str:
    text = ""
    for pid, shape in enumerate(threads, 100):
        text += f"INFO: task t{pid}:{pid} blocked for more than 120 seconds.\n"
        text += f"task:t{pid:<15}state:D stack:    0 pid:{pid:5} ppid:     2 flags:0x00004000\nCall Trace:\n"
        text += "".join(f" {name}+0x10/0x90\n" for name in stack(shape))
    return text


def known(threads: tuple[Shape, ...]) -> list[str]:
    return [row.issue for row in explain(text_of(threads)).known]


@pytest.mark.parametrize("row", BY_MOMENT, ids=lambda row: row.issue.rpartition("/")[2])
def test_a_moment_of_the_shape_is_known(row: KnownIssue) -> None:
    assert row.issue in known(row.threads)


@pytest.mark.parametrize(
    ("row", "without"),
    [(row, at) for row in BY_MOMENT if len(row.threads) > 1 for at in range(len(row.threads))],
    ids=lambda value: value.issue.rpartition("/")[2] if isinstance(value, KnownIssue) else str(value),
)
def test_a_moment_that_lacks_a_thread_is_not(row: KnownIssue, without: int) -> None:
    assert row.issue not in known(tuple(shape for at, shape in enumerate(row.threads) if at != without))


@pytest.mark.parametrize(
    "name", sorted({name for row in TABLE.issues for shape in row.threads for it in shape for name in it})
)
def test_a_reason_of_a_shape_is_one(name: str) -> None:
    if name[:1] in "@!" and name.lstrip("!")[:1] == "@":
        assert name.lstrip("!")[1:] in set(WaitReason)


def test_what_must_not_be_in_a_stack() -> None:
    shape: Shape = (frozenset(["zfs_zget"]), frozenset(["!@lock"]))
    assert fits([shape], Stacks([frozenset(["zfs_zget", "@zio"])]))
    assert not fits([shape], Stacks([frozenset(["zfs_zget", "@lock"])]))


def test_each_shape_needs_a_stack_of_its_own() -> None:
    both, one = frozenset(["zfs_zget", "zfs_zinactive"]), frozenset(["zfs_zget"])
    shapes: tuple[Shape, ...] = ((frozenset(["zfs_zget", "zfs_rezget"]),), (frozenset(["zfs_zinactive"]),))
    assert not fits(shapes, Stacks([both]))
    assert not fits(shapes, Stacks([one, one]))
    assert fits(shapes, Stacks([both, one]))
    assert fits(shapes, Stacks([one, one, one, both]))
    assert not fits((), Stacks([both]))


def test_the_table_is_large_enough_and_each_row_says_where_it_is_from() -> None:
    assert len(TABLE.issues) >= 22
    assert len({row.issue for row in TABLE.issues}) == len(TABLE.issues)
    assert all(row.versions and row.why for row in TABLE.issues)


def test_two_that_queue_for_objects_are_no_known_cycle() -> None:
    lock = frozenset(["@lock"])
    shapes = ((lock, frozenset(["zfs_zget"])), (lock, frozenset(["zfs_zget"])))
    assert known(shapes) == []


def test_scenarios_have_shapes() -> None:
    assert all(isinstance(row, KnownScenario) and row.threads for row in TABLE.scenarios)
