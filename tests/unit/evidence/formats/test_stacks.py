"""The `tasks` payload."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splvm.errors import EvidenceError
from splvm.evidence.formats.stacks import SCHEDULER, Task, parse_tasks, without_top

FUZZ = settings(deadline=None, max_examples=200, derandomize=True)

TEXT = """\
task pid=77 comm=spl_kmem_cache state=D voluntary=12 nonvoluntary=3
[<0>] __schedule+0x34d/0x9e0
[<0>] schedule_timeout+0x88/0x150
[<0>] probe_held_grow+0x5c/0x90 [slabprobe]
[<0>] __spl_cache_grow.constprop.0+0x41/0x150 [spl]
[<0>] schedule+0x5a/0xd0
[<0>] kthread+0x11b/0x140
task pid=90 comm=slabprobe/0 state=R voluntary=812 nonvoluntary=40 moved=1 cpu=1
task pid=91 comm=slabprobe/1 state=S voluntary=5 nonvoluntary=0
stack errno=13
"""

WORKER, RUNNING, UNREADABLE = parse_tasks(TEXT)


def test_a_blocked_worker() -> None:
    assert (
        Task(
            pid=77,
            comm="spl_kmem_cache",
            state="D",
            voluntary=12,
            nonvoluntary=3,
            moved=False,
            frames=("__schedule", "schedule_timeout", "probe_held_grow", "__spl_cache_grow", "schedule", "kthread"),
            raw=tuple(TEXT.splitlines()[1:7]),
            stack_error=None,
        )
        == WORKER
    )


def test_the_scheduler_is_stripped_at_the_top_only() -> None:
    assert WORKER.blocked_on == ("probe_held_grow", "__spl_cache_grow", "schedule", "kthread")


def test_a_stack_of_the_scheduler_alone() -> None:
    assert without_top(("__schedule", "schedule"), SCHEDULER) == ()


def test_a_task_that_ran_while_it_was_read() -> None:
    assert (RUNNING.moved, RUNNING.frames, RUNNING.blocked_on, RUNNING.stack_error) == (True, (), (), None)


def test_a_stack_that_could_not_be_read() -> None:
    assert (UNREADABLE.pid, UNREADABLE.frames, UNREADABLE.stack_error) == (91, (), "errno=13")
    assert UNREADABLE.raw == ("stack errno=13",)


def test_no_tasks() -> None:
    assert parse_tasks("") == ()


@pytest.mark.parametrize(
    ("line", "frames"),
    [
        ("[<0>] kthread+0x11b/0x140", ("kthread",)),
        ("[<ffffffff810a1c2b>] kthread+0x11b/0x140", ("kthread",)),
        ("[<0>] ? kthread+0x11b/0x140 [spl]", ("kthread",)),
        ("[<0>] f.isra.0.part.3+0x1/0x2 [a_b-c]\r", ("f",)),
        ("[<0>] 0xffffffffc05a1000", ("?",)),
        ("[<ffffffffffffffff>] 0xffffffffffffffff", ()),
    ],
)
def test_lines_of_a_stack(line: str, frames: tuple[str, ...]) -> None:
    (task,) = parse_tasks(f"task pid=1 comm=a state=D voluntary=0 nonvoluntary=0\n{line}\n")
    assert task.frames == frames


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("kthread+0x11b/0x140\n", 1, "a task was expected"),
        ("\ntask\n", 1, "a task was expected"),
        ("task comm=a state=D voluntary=0 nonvoluntary=0\n", 1, "without pid="),
        ("task pid=1 comm= state=D voluntary=0 nonvoluntary=0\n", 1, "without comm="),
        ("task pid=1 comm=a state=D voluntary=0\n", 1, "without nonvoluntary="),
        ("task pid=x comm=a state=D voluntary=0 nonvoluntary=0\n", 1, "pid is not a number"),
        ("task pid=1 comm=a state=D voluntary=-1 nonvoluntary=0\n", 1, "voluntary is not a number"),
        ("task pid=1 comm=a state=Dx voluntary=0 nonvoluntary=0\n", 1, "one letter"),
        (TEXT + "kthread\n", 11, "not a line of a stack"),
        (TEXT.replace("+0x5c/0x90", ""), 4, "not a line of a stack"),
        (TEXT.replace("[<0>] kthread", "<0> kthread"), 7, "not a line of a stack"),
        (TEXT + "\0", 11, "NUL"),
    ],
)
def test_what_is_refused(text: str, line: int, words: str) -> None:
    with pytest.raises(EvidenceError) as caught:
        parse_tasks(text)
    assert caught.value.line == line
    assert words in str(caught.value)


@FUZZ
@given(st.lists(st.tuples(st.integers(0, len(TEXT)), st.integers(0, 40), st.text(max_size=12)), max_size=4))
def test_fuzz_only_evidence_errors(edits: list[tuple[int, int, str]]) -> None:
    text = TEXT
    for at, gone, instead in edits:
        text = text[:at] + instead + text[at + gone :]
    try:
        tasks = parse_tasks(text)
    except EvidenceError:
        return
    assert all(len(task.blocked_on) <= len(task.frames) <= len(task.raw) for task in tasks)


def test_long_texts_take_their_time_once() -> None:
    task = "task pid=1 comm=a state=D voluntary=0 nonvoluntary=0\n"
    assert len(parse_tasks((task + "[<0>] f+0x1/0x2\n" * 30) * 1_000)) == 1_000
    for hostile in ("[<0>] " + "a" * 4_000, "[<0>] f" + ".a" * 2_000, "[<0>] f+0x" + "0" * 4_000, "[<" * 2_000):
        with pytest.raises(EvidenceError):
            parse_tasks(task + hostile + "\n")
