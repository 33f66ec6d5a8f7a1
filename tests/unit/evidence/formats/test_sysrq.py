"""Dumps that SysRq leaves on a console."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from places import PROJECT
from splvm.evidence.formats import sysrq
from splvm.evidence.formats.kernlog import MAX_FRAMES
from splvm.evidence.formats.stacks import TaskStack
from splvm.evidence.formats.sysrq import CpuTrace, DumpKind, SysrqReport, TaskDump, missing_tasks, parse_sysrq

FUZZ = settings(deadline=None, max_examples=200, derandomize=True)

DATA = (PROJECT / "tests" / "data") / "sysrq"
LOGS = {path.stem: path.read_text() for path in sorted(DATA.glob("*.log"))}
ALL, BLOCKED = DumpKind.ALL, DumpKind.BLOCKED

# What each log must give: kind and line of each dump of tasks; name, pid, state and innermost frames of its threads.
Expected = list[tuple[DumpKind, int, list[tuple[str, int, str, str]]]]
_HELD = [
    ("spl_kmem_cache", 77, "D", "__schedule schedule slabprobe_grow_work taskq_thread kthread ret_from_fork"),
    ("slabprobe/0", 90, "D", "__schedule schedule schedule_timeout spl_cache_grow spl_kmem_cache_alloc"),
    ("slabprobe/1", 91, "D", "__schedule schedule schedule_timeout spl_cache_grow spl_kmem_cache_alloc"),
]
EXPECTED: dict[str, Expected] = {
    "classic-5.10": [
        (
            BLOCKED,
            1,
            [
                ("spl_kmem_cache", 151, "D", "__schedule schedule cv_wait_common __cv_wait_io txg_wait_open"),
                ("z_wr_iss", 388, "D", "__schedule schedule schedule_timeout spl_cache_grow"),
                ("txg_sync", 402, "D", "__schedule schedule io_schedule cv_wait_common __cv_wait_io zio_wait"),
                ("dd", 511, "D", "__schedule schedule cv_wait_common __cv_wait_io txg_wait_open"),
            ],
        )
    ],
    "held-6.1": [
        (
            ALL,
            3,
            [
                ("init", 1, "S", "__schedule schedule do_wait kernel_wait4 __do_sys_wait4"),
                ("kthreadd", 2, "S", "__schedule schedule kthreadd ret_from_fork"),
                ("rcu_gp", 3, "I", "__schedule schedule rescuer_thread kthread"),
                ("kworker/0:1", 12, "I", "__schedule schedule worker_thread kthread"),
                ("ksoftirqd/0", 13, "S", "__schedule schedule smpboot_thread_fn kthread"),
                ("kworker/u4:2-ev", 31, "I", "__schedule schedule worker_thread kthread"),
                ("kswapd0", 45, "S", "__schedule schedule kswapd kthread"),
                *_HELD,
                ("a b:c [d]", 210, "S", "__schedule schedule schedule_hrtimeout_range_clock poll_schedule_timeout"),
                ("sh", 230, "R", ""),
            ],
        ),
        (BLOCKED, 133, _HELD),
    ],
    "old-3.10": [
        (
            BLOCKED,
            1,
            [
                ("kswapd0", 45, "D", "schedule io_schedule sleep_on_page __wait_on_bit wait_on_page_bit"),
                ("txg_sync", 5644, "D", "schedule cv_wait_common __cv_wait_io zio_wait dsl_pool_sync"),
            ],
        )
    ],
    "zvol-swap-7.2": [
        (
            BLOCKED,
            1,
            [
                ("eater", 301, "D", "__schedule schedule io_schedule folio_wait_bit_common folio_wait_writeback"),
                ("txg_quiesce", 640, "D", "__schedule schedule cv_wait_common __cv_wait txg_quiesce_thread"),
                ("zvol_tq-0", 655, "D", "__schedule schedule io_schedule folio_wait_bit_common"),
                ("zvol_tq-0", 656, "D", "__schedule schedule cv_wait_common __cv_wait_io txg_wait_open"),
            ],
        )
    ],
}


def test_every_log_is_expected() -> None:
    assert sorted(LOGS) == sorted(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_log(name: str) -> None:
    report = parse_sysrq(LOGS[name])
    assert [(dump.kind, dump.line) for dump in report.tasks] == [(kind, line) for kind, line, _ in EXPECTED[name]]
    for dump, (_, _, threads) in zip(report.tasks, EXPECTED[name], strict=True):
        assert dump.losses == ()
        assert [(t.comm, t.pid, t.state) for t in dump.threads] == [row[:3] for row in threads]
        for thread, (*_, frames) in zip(dump.threads, threads, strict=True):
            assert " ".join(thread.frames).startswith(frames)
            assert bool(thread.frames) == bool(frames)
    assert report.dropped == 0


def test_the_frames_are_whole() -> None:
    dump = parse_sysrq(LOGS["held-6.1"]).last_tasks(BLOCKED)
    assert dump is not None
    assert dump.threads[0] == TaskStack(
        77,
        "spl_kmem_cache",
        "D",
        ("__schedule", "schedule", "slabprobe_grow_work", "taskq_thread", "kthread", "ret_from_fork"),
    )
    (_, quiesce, *_) = parse_sysrq(LOGS["zvol-swap-7.2"]).tasks[0].threads
    assert quiesce.frames[-4:] == ("thread_generic_wrapper", "kthread", "ret_from_fork", "ret_from_fork_asm")
    assert "not_a_frame_of_this" not in quiesce.frames


def test_memory() -> None:
    (dump,) = parse_sysrq(LOGS["held-6.1"]).memory
    assert (dump.line, len(dump.lines), dump.losses) == (179, 13, ())
    assert (dump.lines[0], dump.lines[-1]) == ("Mem-Info:", "0 pages hwpoisoned")
    assert dump == parse_sysrq(LOGS["held-6.1"]).last_memory


def test_cpus() -> None:
    (dump,) = parse_sysrq(LOGS["held-6.1"]).cpus
    assert (dump.line, dump.losses) == (193, ())
    asked, running, idle = dump.cpus
    assert (asked.cpu, asked.pid, asked.comm, asked.frames[0]) == (0, 230, "sh", "dump_stack_lvl")
    frames = ("spl_kmem_cache_alloc", "critical_thread", "kthread", "ret_from_fork")
    assert running == CpuTrace(1, 90, "slabprobe/0", frames, False)
    assert idle == CpuTrace(2, None, "", (), True)


def test_cpus_without_nmi() -> None:
    text = "sysrq: Show backtrace of all active CPUs\nsysrq: CPU1:\nCall trace:\n f+0x1/0x2\nsysrq: HELP : x\n"
    (dump,) = parse_sysrq(text).cpus
    assert dump.cpus == (CpuTrace(1, None, "", ("f",), False),)


def test_cpus_of_new_kernels_and_other_callers() -> None:
    text = (
        "[    1.000000][    C0] sysrq: Show backtrace of all active CPUs\n"
        "[    1.000001][    C1] NMI backtrace for cpu 1\n"
        "[    1.000002][    C1] CPU: 1 UID: 0 PID: 7 Comm: a b Kdump: loaded Not tainted 7.2.0 #1 PREEMPT(full)\n"
        "[    1.000003][    C1] RIP: 0010:f+0x1/0x2\n"
        "[    1.000003][    C1] RIP: 0033:0x401136\n"
        "[    1.000004][    C1] Call Trace:\n"
        "[    1.000005][    C1]  <TASK>\n"
        "[    1.000006][    T9]  noise+0x1/0x2\n"
        "[    1.000007][    C1]  g+0x1/0x2\n"
        "[    1.000008][    C1]  ha+0x1\n"
        "[    1.000009][    C0] sysrq: HELP : x\n"
    )
    (dump,) = parse_sysrq(text).cpus
    assert dump.cpus == (CpuTrace(1, 7, "a b", ("f", "g"), False),)
    assert dump.losses == ("a stack ends in the middle of a line (line 10)",)


# How a log was recorded makes no difference


def essence(report: SysrqReport) -> list[object]:
    return [
        [(dump.kind, dump.line, dump.threads, dump.losses) for dump in report.tasks],
        [(dump.line, dump.lines) for dump in report.memory],
        report.cpus,
    ]


def stripped(text: str) -> str:
    return re.sub(r"(?m)^\[[ 0-9.]+\](\[ *[TC]\d+\])? ", "", text)


RECORDED: dict[str, Callable[[str], str]] = {
    "without time stamps": stripped,
    "with caller ids": lambda text: re.sub(r"(?m)^(\[[ 0-9.]+\])(?!\[)", r"\1[   C0]", text),
    "with levels": lambda text: re.sub(r"(?m)^", "<6>", text),
    "with CR LF": lambda text: text.replace("\n", "\r\n"),
    "with colours": lambda text: re.sub(r"(?m)^(.*)$", "\x1b[1;33m\\1\x1b[0m\x1b[K", text),
    "with NULs": lambda text: "\0".join(text),
    "after a prompt": lambda text: re.sub(r"(?m)^\[", "~ # [", text),
    "from the journal": lambda text: re.sub(r"(?m)^(?=.)", "Nov  4 11:22:33 host kernel: ", stripped(text)),
    "from the journal, with time stamps": lambda text: re.sub(r"(?m)^(?=.)", "Nov  4 11:22:33 host kernel: ", text),
}

# Without caller ids nothing tells the lines of other callers in this log apart.
NEEDS_CALLERS = {
    ("zvol-swap-7.2", "without time stamps"),
    ("zvol-swap-7.2", "from the journal"),
}


@pytest.mark.parametrize(
    ("name", "how"), [pair for name in EXPECTED for how in RECORDED if (pair := (name, how)) not in NEEDS_CALLERS]
)
def test_how_it_was_recorded(name: str, how: str) -> None:
    assert essence(parse_sysrq(RECORDED[how](LOGS[name]))) == essence(parse_sysrq(LOGS[name]))


def test_callers_that_nothing_tells_apart_do_not_spoil_the_rest() -> None:
    (dump,) = parse_sysrq(stripped(LOGS["zvol-swap-7.2"])).tasks
    assert {t.pid for t in dump.threads} == {301, 640, 655, 656, 9999}
    assert [t for t in dump.threads if t.pid in (301, 655, 656)] == [
        t for t in parse_sysrq(LOGS["zvol-swap-7.2"]).tasks[0].threads if t.pid in (301, 655, 656)
    ]


# Lines of tasks


@pytest.mark.parametrize(
    ("line", "comm", "state", "pid"),
    [
        ("task:kworker/0:1     state:I stack:    0 pid:   12 ppid:     2 flags:0x00004000", "kworker/0:1", "I", 12),
        (
            "task:sh              state:R  running task     stack:    0 pid:  230 ppid:   210 flags:0x00004002",
            "sh",
            "R",
            230,
        ),
        ("task:x               state:D stack:13080 pid:104871 ppid:104870 flags:0x00000000", "x", "D", 104871),
        ("task:a state:D       state:S stack:0     pid:7     ppid:2      flags:0x00004000", "a state:D", "S", 7),
        (
            "task:[kthread: x]    state:S stack:0     pid:7     tgid:7     ppid:2      flags:0x00004000",
            "[kthread: x]",
            "S",
            7,
        ),
        (
            "task:f               state:X stack:0     pid:7     tgid:7     ppid:2      task_flags:0x1 flags:0x0",
            "f",
            "X",
            7,
        ),
        ("systemd         S12456     1      0 0x00000000", "systemd", "S", 1),
        ("sshd            D    0  3018   2976 0x00000000", "sshd", "D", 3018),
        ("bash            R  running task        0  3018   2976 0x00000000", "bash", "R", 3018),
        ("txg_quiesce   S ffff880877eb4980     0  1285      2    0 0x00000000", "txg_quiesce", "S", 1285),
        ("Web Content     D ffffffff81606a20     0 30639      1 0x00000004", "Web Content", "D", 30639),
    ],
)
def test_the_line_of_a_task(line: str, comm: str, state: str, pid: int) -> None:
    text = f"sysrq: Show State\n{line}\nCall Trace:\n f+0x1/0x2\nSched Debug Version: v0.11\n"
    (dump,) = parse_sysrq(text).tasks
    assert dump == TaskDump(ALL, 1, (TaskStack(pid, comm, state, ("f",)),), ())


def test_the_line_of_a_task_in_two_pieces() -> None:
    text = (
        "sysrq: Show State\ntask:sh              state:R\nrandom: crng init done\n"
        "  running task     stack:0     pid:9     ppid:1      flags:0x00004002\n"
        "Call Trace:\n f+0x1/0x2\nsysrq: HELP : x\n"
    )
    (dump,) = parse_sysrq(text).tasks
    assert (dump.threads, dump.losses) == ((TaskStack(9, "sh", "R", ("f",)),), ())


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("sysrq: Show State", ALL),
        ("SysRq : Show State", ALL),
        ("sysrq: SysRq : Show State", ALL),
        ("sysrq: Show Blocked State", BLOCKED),
        ("SysRq : Show Blocked State", BLOCKED),
        ("sysrq: Show Memory", None),
        ("sysrq: Show Regs", None),
        ("sysrq: This sysrq operation is disabled.", None),
    ],
)
def test_headers(header: str, kind: DumpKind | None) -> None:
    tasks = parse_sysrq(f"[    1.000000] {header}\n[    1.000001] sysrq: HELP : x\n").tasks
    assert [dump.kind for dump in tasks] == ([kind] if kind else [])


def test_nothing_blocked_is_a_whole_dump() -> None:
    assert parse_sysrq("sysrq: Show Blocked State\nsysrq: HELP : x\n").tasks == (TaskDump(BLOCKED, 1, (), ()),)


@pytest.mark.parametrize(
    "after",
    [
        "Showing busy workqueues and worker pools:",
        "Sched Debug Version: v0.11, 6.1",
        "Showing all locks held in the system:",
        "sysrq: Show Memory",
    ],
)
def test_what_follows_a_dump(after: str) -> None:
    task = "task:a               state:S stack:0     pid:7     ppid:2      flags:0x0\nCall Trace:\n f+0x1/0x2\n"
    (dump,) = parse_sysrq(f"sysrq: Show State\n{task}{after}\n{task.replace('pid:7', 'pid:8')}").tasks
    assert (dump.threads, dump.losses) == ((TaskStack(7, "a", "S", ("f",)),), ())


def test_guesses_count_only_when_there_is_nothing_else() -> None:
    head = "sysrq: Show State\ntask:a               state:S stack:0     pid:7     ppid:2      flags:0x0\nCall Trace:\n"
    guessed = parse_sysrq(f"{head} ? left_over+0x1/0x2\nsysrq: HELP\n").tasks[0]
    assert guessed.threads[0].frames == ("left_over",)
    assert parse_sysrq(f"{head} ? left_over+0x1/0x2\n f+0x1/0x2\nsysrq: HELP\n").tasks[0].threads[0].frames == ("f",)


def test_the_last_whole_dump() -> None:
    whole, cut = LOGS["classic-5.10"], LOGS["held-6.1"].partition("NMI backtrace for cpu 0")[0]
    report = parse_sysrq(whole + cut.replace("slabprobe/1", "slabprobe/7"))
    assert [dump.kind for dump in report.tasks] == [BLOCKED, ALL, BLOCKED]
    last = report.last_tasks(BLOCKED)
    assert last == report.tasks[2]
    assert report.last_cpus is None
    assert report.cpus[0].losses == ("the text ends in the middle of line 276", "no CPU is in it")
    report = parse_sysrq(whole + LOGS["held-6.1"].partition("sysrq: Show Memory")[0])
    assert report.last_tasks(BLOCKED) == report.tasks[0]


# Losses


def losses(text: str) -> tuple[str, ...]:
    return parse_sysrq(text).tasks[-1].losses


@pytest.mark.parametrize("name", ["classic-5.10", "old-3.10", "zvol-swap-7.2"])
def test_a_dump_that_is_cut_anywhere_says_so(name: str) -> None:
    text = LOGS[name]
    end = re.search(r"sysrq: HELP|SysRq : HELP", text)
    assert end is not None
    for at in range(text.index("State\n") + 6, end.start(), 17):
        assert losses(text[:at]), at


def test_a_text_that_ends_in_the_middle_of_a_line() -> None:
    text = LOGS["classic-5.10"].partition("zio_wait")[0]
    assert losses(text) == (f"the text ends in the middle of line {text.count(chr(10)) + 1}",)
    assert losses(text.rpartition("\n")[0] + "\n") == ("what follows its end is missing",)


def test_dropped_messages() -> None:
    text = LOGS["classic-5.10"].replace("\n", "\n** 37 printk messages dropped **\n", 20)
    report = parse_sysrq(text)
    assert report.dropped == 20 * 37
    assert report.tasks[0].losses[0] == "the kernel dropped 37 messages (line 2)"
    # Old kernels go on in the same line.
    same_line = re.sub(r"(?m)^(?=.*Call Trace)", "** 5 printk messages dropped ** ", LOGS["old-3.10"], count=1)
    assert losses(same_line) == ("the kernel dropped 5 messages (line 7)",)
    assert parse_sysrq("** 5 printk messages dropped **\n" + LOGS["classic-5.10"]).tasks[0].losses == ()


@pytest.mark.parametrize(
    ("old", "new", "loss"),
    [
        (r"(?m) zio_wait\+.*$", " zio_wait+0x1", r"a stack ends in the middle of a line \(line 59\)"),
        (r"(?m) zio_wait\+.*\n", " zio_wa", r"a stack ends in the middle of a line \(line 59\)"),
        (r"(?m)(task:txg_sync ).*$", r"\1", r"the line of a task ends in the middle \(line 52\)"),
        (r"(?m)(task:txg_sync .*\n).*Call Trace:\n", r"\1", r"txg_sync \(pid 402\) has no stack \(line 52\)"),
        (r"(?s)(task:txg_sync .*?\n)[^\n]*Call.*?(\[[^\n]*task:dd)", r"\1\2", r"txg_sync \(pid 402\) has no stack"),
        (r"(?s)\A", "sysrq: Show State\n", "no task is in it"),
        (r"(?m)^.*sysrq: HELP.*$", "[    0.000000] Linux version 6", "the guest was booted again before its end"),
    ],
)
def test_losses(old: str, new: str, loss: str) -> None:
    text = re.sub(old, new, LOGS["classic-5.10"], count=1)
    assert text != LOGS["classic-5.10"]
    found = [loss for dump in parse_sysrq(text).tasks for loss in dump.losses]
    assert any(re.match(loss, each) for each in found), found


def test_a_stack_without_frames_is_a_loss_of_a_blocked_thread_only() -> None:
    task = "task:a               state:{} stack:0     pid:7     ppid:2      flags:0x0\nCall Trace:\n"
    texts = [f"sysrq: Show State\n{task.format(state)}sysrq: HELP\n" for state in "RSD"]
    assert [bool(losses(text)) for text in texts] == [False, False, True]


def test_a_dump_whose_header_is_lost() -> None:
    text = LOGS["classic-5.10"].partition("\n")[2]
    (dump,) = parse_sysrq(text).tasks
    assert dump.kind is BLOCKED
    assert len(dump.threads) == 4
    assert dump.losses == ("its header is missing; the first task is in line 1",)
    (dump,) = parse_sysrq(text.replace("state:D", "state:S", 1)).tasks
    assert dump.kind is ALL
    assert parse_sysrq(LOGS["old-3.10"].partition("father\n")[2]).tasks == (), "two tasks are no dump"


def test_reports_of_hung_tasks_are_no_dump() -> None:
    hung = (DATA.parent / "kernlog" / "hung-task.log").read_text()
    assert parse_sysrq(hung + hung + hung).tasks == ()


def test_a_thread_that_is_seen_twice_is_kept_once() -> None:
    text = LOGS["classic-5.10"]
    task = text[text.index("[", text.index("\n")) : text.index("[", text.index("ret_from_fork"))]
    twice = text.replace("txg_sync_thread", "other_thread").partition("\n")
    (dump,) = parse_sysrq(f"{twice[0]}\n{twice[2].partition('[  812.4')[0]}{task}{task}{twice[2]}").tasks
    assert [t.pid for t in dump.threads] == [151, 388, 402, 511]


@pytest.mark.parametrize(
    ("expected", "lost"),
    [(0, False), (8, False), (12, False), (16, False), (17, True), (626, True)],
)
def test_missing_tasks(expected: int, lost: bool) -> None:
    dump = parse_sysrq(LOGS["held-6.1"]).last_tasks(ALL)
    assert dump is not None
    assert bool(missing_tasks(dump, expected)) == lost
    if lost:
        assert missing_tasks(dump, expected) == f"12 tasks are in it, and the guest had {expected}"


def test_missing_tasks_of_large_guests_and_of_blocked_ones() -> None:
    threads = tuple(TaskStack(pid, "x", "S", ("f",)) for pid in range(980))
    assert missing_tasks(TaskDump(ALL, 1, threads, ()), 1000) == ""
    assert missing_tasks(TaskDump(ALL, 1, threads[:979], ()), 1000) != ""
    assert missing_tasks(TaskDump(BLOCKED, 1, (), ()), 1000) == ""


# Hostile text


def test_dumps_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    head = "task:{:<15} state:S stack:0     pid:{}     ppid:2      flags:0x0\nCall Trace:\n"
    text = "sysrq: Show State\n" + head.format("a", 1) + " f+0x1/0x2\n" * 5_000 + "sysrq: HELP\n"
    assert len(parse_sysrq(text).tasks[0].threads[0].frames) == MAX_FRAMES
    monkeypatch.setattr(sysrq, "MAX_THREADS", 10)
    (dump,) = parse_sysrq(
        "sysrq: Show State\n" + "".join(head.format("a", n) for n in range(50)) + "sysrq: HELP\n"
    ).tasks
    assert len(dump.threads) == 10
    assert dump.losses[0] == "the tasks from line 22 on are left out, more than 10"
    assert len(dump.losses) == sysrq.MAX_LOSSES
    (memory,) = parse_sysrq("sysrq: Show Memory\n" + "x\n" * 5_000 + "sysrq: HELP\n").memory
    assert len(memory.lines) == sysrq.MAX_MEMORY_LINES
    (cpus,) = parse_sysrq(
        "sysrq: Show backtrace of all active CPUs\n" + "NMI backtrace for cpu 1\n" * 5_000 + "sysrq: HELP\n"
    ).cpus
    assert len(cpus.cpus) == sysrq.MAX_CPUS
    assert len(parse_sysrq("sysrq: Show Blocked State\n" * 500).tasks) == sysrq.MAX_DUMPS


_PIECES = st.sampled_from(
    [
        *(line + "\n" for text in LOGS.values() for line in text.splitlines()[::7]),
        *("sysrq: Show State\n", "SysRq : Show Blocked State\n", "sysrq: Show Memory\n", "sysrq: HELP : x\n"),
        *("sysrq: Show backtrace of all active CPUs\n", "NMI backtrace for cpu 3\n", "sysrq: CPU1:\n", "Call Trace:\n"),
        *("task:", "task:x state:D", " stack:0 pid:", "99999999999\n", " <TASK>\n", " </TASK>\n", "\r", "\0", "\x1b["),
        *("[    1.000000]", "[   C1] ", "** 9999999999 printk messages dropped **", "Linux version 6\n", " f+0x", "\n"),
    ]
)


@FUZZ
@given(st.lists(st.one_of(_PIECES, st.text(max_size=20)), max_size=60).map("".join))
def test_nothing_is_raised(text: str) -> None:
    report = parse_sysrq(text)
    for dump in report.tasks:
        assert len({thread.pid for thread in dump.threads}) == len(dump.threads)
        assert all(1 <= len(thread.comm) <= 64 or not thread.comm for thread in dump.threads)
    assert parse_sysrq(text) == report
