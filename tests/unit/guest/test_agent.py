"""The guest's sampling agent, built here and driven over pipes against a fake /proc."""

from __future__ import annotations

import itertools
import os
import re
import select
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_process import END, FILE_LEN, HELLO, LIMIT_S, STATUS, Agent, FakeProc, run
from splvm.deadline import Deadline, poll


def tasks_in(payload: bytes) -> dict[str, list[str]]:
    """The lines of each task that stand below its own, by that one."""
    tasks: dict[str, list[str]] = {}
    for line in payload.decode().splitlines():
        if line.startswith("task "):
            below = tasks.setdefault(line, [])
        else:
            below.append(line)
    return tasks


def test_hello_says_what_was_asked_for(start: Callable[..., Agent]) -> None:
    agent = start("--slow-every", "3")
    hello = HELLO.fullmatch(agent.until_is("agent", "data").payload)
    assert hello
    rate_hz, slow_every, _, period_ns, pid = map(int, hello.groups())
    assert (rate_hz, slow_every, period_ns, pid) == (100, 3, 10_000_000, agent.process.pid)
    agent.quit()


def test_every_source_is_read(start: Callable[..., Agent]) -> None:
    agent = start("--slow-every", "2")
    agent.until(lambda f: f.source == "vmstat" and f.tick >= 4)
    frames = agent.quit()
    first = {f.source: f.payload for f in reversed(frames) if f.source != "agent"}
    assert first == {
        "slab": b"spl/kmem/slab 1\n",
        "probe": b"slabprobe 1\n",
        "tasks": b"",
        "meminfo": b"meminfo 1\n",
        "vmstat": b"vmstat 1\n",
        "pressure": b"# memory\nsome memory\n# io\nsome io\n# cpu\nsome cpu\n",
        "loadavg": b"loadavg 1\n",
    }
    assert [f.seq for f in frames] == list(range(len(frames)))
    assert any(f.source == "slab" and f.tick % 2 for f in frames)


def test_unchanged_readings_are_same(start: Callable[..., Agent], proc: FakeProc) -> None:
    agent = start()
    agent.until_is("slab", "same")
    proc.overwrite("spl/kmem/slab", "spl/kmem/slab 2\n")
    agent.until_payload("slab", b"spl/kmem/slab 2\n")
    agent.until_is("slab", "same")
    slab = [(f.what, f.payload) for f in agent.quit() if f.source == "slab" and f.what != "same"]
    assert slab == [("data", b"spl/kmem/slab 1\n"), ("data", b"spl/kmem/slab 2\n")]


def test_files_are_held_open(start: Callable[..., Agent], proc: FakeProc) -> None:
    agent = start()
    agent.until_is("slab", "same")
    proc.write("spl/kmem/slab", "another file\n")
    agent.pass_ticks()
    assert all(f.payload != b"another file\n" for f in agent.quit())


def test_file_that_appears_later(start: Callable[..., Agent], proc: FakeProc) -> None:
    (proc.proc / "spl/kmem/slab").unlink()
    (proc.proc / "pressure/io").unlink()
    agent = start("--slow-every", "2")
    assert agent.until_is("slab", "error").payload == b"errno=2 /proc/spl/kmem/slab"
    assert agent.until_is("slab", "error").payload == b"errno=2 /proc/spl/kmem/slab"
    assert agent.until_is("pressure", "error").payload == b"errno=2 /proc/pressure/io"
    proc.write("spl/kmem/slab", "here it is\n")
    assert agent.until_is("slab", "data").payload == b"here it is\n"
    proc.write("pressure/io", "here too\n")
    assert b"# io\nhere too\n" in agent.until_is("pressure", "data").payload
    agent.until_is("slab", "same")
    agent.quit()


@pytest.mark.parametrize("excess", [0, 1])
def test_long_file_is_cut(start: Callable[..., Agent], proc: FakeProc, excess: int) -> None:
    proc.write("spl/kmem/slab", "x" * (FILE_LEN + excess))
    agent = start()
    agent.until_is("slab", "same")
    agent.until(lambda f: f.source == "slab" and f.what != "error")
    frames = [f for f in agent.quit() if f.source == "slab"]
    assert frames[0].payload == b"x" * FILE_LEN
    assert frames[1].what == ("error" if excess else "same")
    if excess:
        assert frames[1].payload == b"errno=27 cut at 65536 bytes: /proc/spl/kmem/slab"
        assert frames[1].tick == frames[0].tick
        assert frames[2].what == "same"


def test_blocked_read_is_told_while_others_go_on(start: Callable[..., Agent], proc: FakeProc) -> None:
    slab, fifo = proc.proc / "spl/kmem/slab", proc.root / "fifo"
    slab.unlink()
    os.mkfifo(slab)
    os.link(slab, fifo)
    agent = start()
    starts = set()
    for again in (True, False):
        first = agent.until_is("slab", "blocked")
        for _ in range(2):
            agent.until_is("probe", "same")
            agent.until_is("slab", "blocked")
        if not again:
            proc.write("spl/kmem/slab", "back again\n")
        # Lets go of the open, which finds something that has no offsets.
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        freed = agent.until_is("slab", "error")
        assert (freed.tick, freed.start_ns) == (first.tick, first.start_ns)
        assert freed.payload == b"errno=29 /proc/spl/kmem/slab"
        starts.add(first.start_ns)
    data = agent.until_is("slab", "data")
    assert data.payload == b"back again\n"
    # The ticks that it missed are not made up for.
    assert data.tick >= freed.tick + 3
    agent.until_is("slab", "same")
    frames = agent.quit()
    assert next(f.what for f in frames if f.source == "slab") == "blocked"
    # On a busy host a reader of another source may hang for a moment too, and says so; it goes on.
    assert {f.start_ns for f in frames if f.what == "blocked" and f.source == "slab"} == starts
    assert len(starts) == 2


def test_many_reads_may_hang_at_once(start: Callable[..., Agent], proc: FakeProc) -> None:
    hung = {"slab": "spl/kmem/slab", "meminfo": "meminfo", "pressure": "pressure/io", "vmstat": "vmstat"}
    for name in hung.values():
        (proc.proc / name).unlink()
        os.mkfifo(proc.proc / name)
    agent = start("--slow-every", "2")
    agent.until_is("agent", "data")
    # A task whose name cannot be read either; nothing is told of that.
    (proc.root / "99").mkdir()
    os.mkfifo(proc.root / "99/comm")
    (proc.root / "99").rename(proc.proc / "99")
    for source in hung:
        agent.until_is(source, "blocked")
    for source in ("tasks", "probe"):
        agent.until_is(source, "same")
    agent.send("probe hold\n")
    agent.until_payload("ctl", b"ok hold")
    blocked = [f.source for f in agent.quit() if f.what == "blocked"]
    assert set(blocked) == set(hung)


def test_commands(start: Callable[..., Agent], proc: FakeProc) -> None:
    proc.overwrite("slabprobe", "." * len("slabprobe 1\n"))
    agent = start()
    agent.send("probe hold\nprobe mark a b\n")
    assert agent.until_is("ctl", "data").payload == b"ok hold"
    assert agent.until_is("ctl", "data").payload == b"ok mark a b"
    assert (proc.proc / "slabprobe").read_text() == "holdmark a b"
    agent.send("probe " + "c" * 200 + "\nprobe " + "d" * 201 + "\nprobe " + "e" * 9000 + "\n")
    assert agent.until_is("ctl", "data").payload == b"ok " + b"c" * 200
    assert agent.until_is("ctl", "error").payload == b"errno=22 " + b"d" * 200
    assert agent.until_is("ctl", "error").payload == b"errno=22 " + b"e" * 200
    agent.send("probe \nquite\n\nprob")
    assert agent.until_is("ctl", "error").payload == b"errno=22 "
    assert agent.until_is("ctl", "error").payload == b"errno=22 quite"
    assert agent.until_is("ctl", "error").payload == b"errno=22 "
    agent.send("e release\n")
    assert agent.until_is("ctl", "data").payload == b"ok release"
    assert (proc.proc / "slabprobe").read_text() == "holdmark a b" + "c" * 200 + "release"
    agent.quit()


def test_command_errors(start: Callable[..., Agent], proc: FakeProc) -> None:
    (proc.proc / "slabprobe").unlink()
    agent = start()
    agent.send("probe hold\n")
    assert agent.until_is("ctl", "error").payload == b"errno=2 hold"
    (proc.proc / "slabprobe").symlink_to("/dev/full")
    agent.send("probe hold\n")
    assert agent.until_is("ctl", "error").payload == b"errno=28 hold"
    agent.pass_ticks()
    # It reads as zeros without end, which is no trouble either.
    assert bytes(FILE_LEN) in [f.payload for f in agent.quit() if f.source == "probe"]


def test_commands_for_a_shell(start: Callable[..., Agent], tmp_path: Path) -> None:
    """Their output is not the stream's, and their exit status is told."""
    agent = start()
    made = tmp_path / "made"
    agent.send(f"#1 run echo this is no frame; echo {'y' * 300} > {made}\n#2 run exit 3\nrun {'x' * 5000}\n")
    assert agent.until_is("ctl", "data").payload.startswith(b"ok #1 echo this is no frame; echo yyy")
    assert made.read_text() == f"{'y' * 300}\n"
    assert agent.until_is("ctl", "error").payload == b"errno=3 #2 exit 3"
    assert agent.until_is("ctl", "error").payload == b"errno=7 " + b"x" * 200
    agent.quit()


def test_overflow_is_counted(start: Callable[..., Agent]) -> None:
    agent = start("--ring", "4")
    agent.until_is("agent", "data")
    # Each line is answered with a frame; that is more than the pipe and the ring hold. The short
    # ones at the end leave less room than the last frame needs.
    threads = Path(f"/proc/{agent.process.pid}/task")
    count = len(list(threads.iterdir()))
    agent.send("".join(f"{i} {'x' * 180}\n" for i in range(2000)) + "short\n" * 200 + "quit\n")
    # Nothing is read before it has taken in the end of that, and the thread for commands is done.
    poll(lambda: len(list(threads.iterdir())) < count or None, Deadline(LIMIT_S), "the end of a thread")
    frames = agent.drain()
    answers = [int(f.payload.split()[1]) for f in frames if f.payload.endswith(b" " + b"x" * 180)]
    assert 0 < len(answers) < 2000
    assert answers == sorted(set(answers))
    assert answers[0] == 0
    assert frames[-1].seq > len(frames)


def test_frame_larger_than_the_ring_is_lost_each_time(start: Callable[..., Agent], proc: FakeProc) -> None:
    proc.write("spl/kmem/slab", "x" * 2000)
    agent = start("--ring", "1")
    agent.until(lambda f: f.source == "probe" and f.tick >= 5)
    frames = agent.quit()
    # `same` would be the same as something that was never seen.
    assert not any(f.source == "slab" for f in frames)
    end = END.fullmatch(frames[-1].payload)
    assert end
    assert int(end[2]) >= 2


def test_tasks(start: Callable[..., Agent], proc: FakeProc) -> None:
    deep = [f"[<0>] frame_{i}+0x1/0x2" for i in range(40)]
    # The ninth field of stat, and the first of schedstat; a name may hold both kinds of bracket.
    told = {"stat": "77 (a) (b) D 2 0 0 0 -1 2129984 0 0\n", "schedstat": "5000 10 3\n"}
    proc.add_task(77, "spl_kmem_cache", status=STATUS.format(12, 3), stack="\n".join(deep) + "\n", **told)
    proc.add_task(78, "slabprobe a b", status=STATUS.format(1, 0).replace("D (", "S ("), stack="[<0>] last")
    proc.add_task(79, "bash", status=STATUS.format(5, 5), stack="")
    proc.add_task(80, "slabprobe/1", status=STATUS.format(2, 0))
    proc.add_task(81, "spl_kmem_cache", status="Name:\tspl_kmem_cache\n", stack="")
    proc.add_task(82, "slabprobe/2", status=STATUS.format(3, 9).replace("D (", "R ("), stack="[<0>] where it was")
    agent = start()
    assert tasks_in(agent.until_is("tasks", "data").payload) == {
        "task pid=77 comm=spl_kmem_cache state=D voluntary=12 nonvoluntary=3 flags=2129984 run_ns=5000": deep[:32],
        "task pid=78 comm=slabprobe_a_b state=S voluntary=1 nonvoluntary=0": ["[<0>] last"],
        "task pid=80 comm=slabprobe/1 state=D voluntary=2 nonvoluntary=0": ["stack errno=2"],
        "task pid=82 comm=slabprobe/2 state=R voluntary=3 nonvoluntary=9": [],
    }
    agent.until_is("tasks", "same")
    proc.overwrite("77/status", STATUS.format(14, 3))
    proc.overwrite("77/schedstat", "6000 10 4\n")
    changed = b"task pid=77 comm=spl_kmem_cache state=D voluntary=14 nonvoluntary=3 flags=2129984 run_ns=6000\n"
    agent.until(lambda f: changed in f.payload)
    agent.quit()


def test_tasks_come_and_go(start: Callable[..., Agent], proc: FakeProc) -> None:
    proc.add_task(79, "bash", status=STATUS.format(5, 5), stack="")
    agent = start("--slow-every", "2")
    assert agent.until_is("tasks", "data").payload == b""
    proc.add_task(90, "spl_kmem_cache", status=STATUS.format(1, 1), stack="")
    task = b"task pid=90 comm=spl_kmem_cache state=D voluntary=1 nonvoluntary=1\n"
    assert agent.until_is("tasks", "data").payload == task
    # An open status of a task that is gone reads as nothing.
    os.truncate(proc.proc / "90/status", 0)
    shutil.rmtree(proc.proc / "90")
    assert agent.until_is("tasks", "data").payload == b""
    proc.add_task(90, "spl_kmem_cache", status=STATUS.format(1, 1), stack="")
    assert agent.until_is("tasks", "data").payload == task
    agent.quit()


def test_a_new_task_is_seen_when_the_number_given_last_moves(start: Callable[..., Agent], proc: FakeProc) -> None:
    proc.write("loadavg", "0.00 0.00 0.00 1/90 89\n")
    agent = start("--slow-every", "1000000")
    assert agent.until_is("tasks", "data").payload == b""
    # A kernel thread that is new has kthreadd's name until its maker gives it one.
    proc.add_task(90, "kthreadd", status=STATUS.format(1, 1), stack="")
    proc.overwrite("loadavg", "0.00 0.00 0.00 1/90 90\n")
    agent.until_is("tasks", "same")
    proc.write("90/comm", "spl_kmem_cache\n")
    task = b"task pid=90 comm=spl_kmem_cache state=D voluntary=1 nonvoluntary=1\n"
    assert agent.until_is("tasks", "data").payload == task
    agent.quit()


@pytest.mark.parametrize(("rate", "every"), [("20", 1), ("50", 3), ("100", 5)])
def test_stacks_are_read_at_most_twenty_times_a_second(start: Callable[..., Agent], rate: str, every: int) -> None:
    agent = start("--rate", rate)
    agent.until(lambda f: f.tick >= 4 * every)
    frames = agent.quit()
    told = {f.source: {it.tick for it in frames if it.source == f.source} for f in frames}
    assert {tick % every for tick in told["tasks"]} == {0}
    assert len(told["tasks"]) > 1
    if every > 1:
        assert {tick % every for tick in told["slab"]} != {0}


def test_stack_of_a_task_that_rests_is_not_read_again(start: Callable[..., Agent], proc: FakeProc) -> None:
    stat = "7 (a) b) {} 2 0 0"
    for pid, runs in ((77, "5000 10 3\n"), (78, "0 0 0\n")):
        files = {"status": STATUS.format(1, 1), "stack": "old\n", "stat": stat.format("D"), "schedstat": runs}
        proc.add_task(pid, "spl_kmem_cache", **files)

    def stacks() -> dict[int, list[str]]:
        """The stacks by pid, as last told."""
        last = [f for f in agent.frames if (f.source, f.what) == ("tasks", "data")][-1]
        return {int(line[9:11]): below for line, below in tasks_in(last.payload).items()}

    agent = start("--rate", "20")
    agent.until(lambda f: f.source == "tasks" and f.tick > 3)
    assert stacks() == {77: ["old"], 78: ["old"]}
    for pid in (77, 78):
        proc.overwrite(f"{pid}/stack", "new\n")
    agent.pass_ticks()
    # Zeros say nothing about what it did.
    assert stacks() == {77: ["old"], 78: ["new"]}
    proc.overwrite("77/schedstat", "5001 10 3\n")
    agent.pass_ticks()
    assert stacks() == {77: ["new"], 78: ["new"]}
    proc.overwrite("77/stack", "end\n")
    agent.pass_ticks()
    assert stacks() == {77: ["new"], 78: ["new"]}
    # It was woken, but did not run yet.
    proc.overwrite("77/stat", stat.format("R"))
    agent.pass_ticks()
    assert stacks() == {77: ["end"], 78: ["new"]}
    agent.quit()


def test_task_that_moves_under_the_reading(start: Callable[..., Agent], proc: FakeProc) -> None:
    with (
        subprocess.Popen(["yes"], stdout=subprocess.PIPE) as busy,
        subprocess.Popen(["cat"], stdin=busy.stdout, stdout=subprocess.DEVNULL) as other,
    ):
        try:
            proc.add_task(77, "spl_kmem_cache")
            (proc.proc / "77/status").symlink_to(f"/proc/{busy.pid}/status")
            # Takes long to read, so that there is time to move.
            (proc.proc / "77/stack").symlink_to(f"/proc/{os.getpid()}/smaps_rollup")
            agent = start("--slow-every", "1")
            agent.until(lambda f: f.source == "tasks" and b" moved=1\n" in f.payload)
            agent.quit()
        finally:
            busy.kill()
            other.kill()


def test_end_of_input_ends_the_stream(start: Callable[..., Agent]) -> None:
    agent = start()
    agent.until_is("slab", "data")
    agent.close_input()
    agent.drain()


def test_sigterm_ends_the_stream(start: Callable[..., Agent]) -> None:
    agent = start()
    agent.until_is("slab", "data")
    agent.process.terminate()
    agent.drain()


def test_quit_does_not_wait_for_a_blocked_read(start: Callable[..., Agent], proc: FakeProc) -> None:
    (proc.proc / "vmstat").unlink()
    os.mkfifo(proc.proc / "vmstat")
    agent = start("--slow-every", "2")
    agent.until_is("vmstat", "blocked")
    frames = agent.quit()
    assert {f.what for f in frames if f.source == "vmstat"} == {"blocked"}


def test_nothing_follows_quit(start: Callable[..., Agent]) -> None:
    agent = start()
    agent.send("probe hold\nquit\nprobe release\n")
    assert [f.payload for f in agent.drain() if f.source == "ctl"] == [b"ok hold"]


def test_output_that_fails_ends_the_agent(start: Callable[..., Agent]) -> None:
    agent = start()
    agent.until_is("slab", "data")
    agent.close_output()
    assert agent.process.wait(timeout=LIMIT_S) == 1


# Sources that need not be there.


def test_optional_sources(start: Callable[..., Agent], proc: FakeProc) -> None:
    agent = start("--slow-every", "2")
    agent.until(lambda f: f.tick > 20)
    assert not {"slabinfo", "arcstats"} & {f.source for f in agent.frames}
    proc.write("slabinfo", "slabinfo - version: 2.1\n")
    proc.write("spl/kstat/zfs/arcstats", "13 1 0x01\n")
    assert agent.until_is("slabinfo", "data").payload == b"slabinfo - version: 2.1\n"
    assert agent.until_is("arcstats", "data").payload == b"13 1 0x01\n"
    agent.until_is("arcstats", "same")
    proc.overwrite("spl/kstat/zfs/arcstats", "13 1 0x02\n")
    assert agent.until_is("arcstats", "data").payload == b"13 1 0x02\n"
    frames = agent.quit()
    ticks = [f.tick for f in frames if f.source == "arcstats"]
    assert {b - a for a, b in itertools.pairwise(ticks)} <= {8, 16}
    assert {f.tick % 8 for f in frames if f.source == "slabinfo"} == {0}
    assert {f.tick % 2 for f in frames if f.source == "loadavg"} == {0}


def test_an_optional_source_that_cannot_be_read_is_told(start: Callable[..., Agent], proc: FakeProc) -> None:
    (proc.proc / "slabinfo").mkdir()
    agent = start("--slow-every", "1")
    assert agent.until_is("slabinfo", "error").payload == b"errno=21 /proc/slabinfo"
    agent.quit()


def test_realtime_is_set_up_or_its_lack_is_said(binary: Path, proc: FakeProc) -> None:
    adj = proc.write("self/oom_score_adj", "0\n")
    with Agent(binary, proc.root) as agent:
        assert agent.process.stderr
        fds = [p.fileno() for p in (agent.process.stdout, agent.process.stderr) if p]
        ready, _, _ = select.select(fds, [], [], LIMIT_S)
        if agent.process.stderr.fileno() in ready:
            assert re.match(rb"agent: (mlockall|SCHED_FIFO|oom_score_adj): \w+", agent.process.stderr.read())
            assert agent.process.wait(timeout=LIMIT_S) == 1
            return
        agent.until_is("slab", "data")
        threads = list(Path(f"/proc/{agent.process.pid}/task").iterdir())
        assert len(threads) >= 10
        assert {os.sched_getscheduler(int(t.name)) for t in threads} == {os.SCHED_FIFO}
        assert {os.sched_getparam(int(t.name)).sched_priority for t in threads} == {1}
        locked = re.search(r"VmLck:\s+(\d+) kB", Path(f"/proc/{agent.process.pid}/status").read_text())
        assert locked
        assert int(locked[1]) >= 4096
        assert adj.read_text() == "-1000"
        agent.quit()


@pytest.mark.parametrize(
    "options",
    [
        ["--nonsense"],
        ["-x"],
        ["stray"],
        ["--rate"],
        ["--rate", "0"],
        ["--rate", "101"],
        ["--rate", "20x"],
        ["--rate", "-1"],
        ["--rate", ""],
        ["--slow-every", "0"],
        ["--ring", "99999999999999999999"],
    ],
    ids=" ".join,
)
def test_bad_options(binary: Path, options: list[str]) -> None:
    done = run(binary, "--no-realtime", *options)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "agent" in done.stderr


def test_help(binary: Path) -> None:
    done = run(binary, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for option in ("--rate", "--slow-every", "--port", "--root", "--no-realtime", "--settle", "--attach", "--help"):
        assert option in done.stdout


def test_root_without_proc(binary: Path, tmp_path: Path) -> None:
    done = run(binary, "--no-realtime", "--root", str(tmp_path))
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"{tmp_path}/proc" in done.stderr
