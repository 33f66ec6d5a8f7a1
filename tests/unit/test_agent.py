"""The guest's sampling agent, built here and driven over pipes and a terminal against a fake /proc."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import itertools
import math
import os
import re
import select
import shlex
import shutil
import socket
import subprocess
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from framework.deadline import Deadline, poll

GUEST = Path(__file__).parents[2] / "images" / "guest"
LIMIT_S = 30.0
FILE_LEN = 64 * 1024
# At every which one of the slow ticks a source is read; the others are at every tick.
SLOW = {"meminfo": 1, "pressure": 1, "vmstat": 1, "loadavg": 1, "slabinfo": 4, "arcstats": 4}
NUMBER = rb"(0|[1-9][0-9]*)"
SOURCE = rb"(agent|slab|probe|load|txgs|poolstate|tasks|meminfo|pressure|vmstat|loadavg|slabinfo|arcstats|ctl)"
HEADER = re.compile(rb"F %b %b %b (data|same|blocked|error) %b %b %b" % (NUMBER, NUMBER, SOURCE, *(NUMBER,) * 3))
HELLO = re.compile(rb"hello version=1 rate_hz=%b slow_every=%b base_ns=%b period_ns=%b pid=%b" % ((NUMBER,) * 5))
END = re.compile(rb"end frames=%b dropped=%b" % ((NUMBER,) * 2))
STATUS = """\
Name:\tspl_kmem_cache
State:\tD (disk sleep)
Pid:\t77
voluntary_ctxt_switches:\t{}
nonvoluntary_ctxt_switches:\t{}
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    seq: int
    tick: int
    source: str
    what: str
    start_ns: int
    end_ns: int
    payload: bytes


def parse_header(line: bytes) -> tuple[Frame, int]:
    """Gives a frame that lacks its payload, and the payload's length."""
    match = HEADER.fullmatch(line)
    assert match, f"not a header: {line[:200]!r}"
    seq, tick, source, what, start_ns, end_ns, length = match.groups()
    frame = Frame(int(seq), int(tick), source.decode(), what.decode(), int(start_ns), int(end_ns), b"")
    return frame, int(length)


class Output:
    """One of the agent's outputs, and what has been read of it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.frames: list[Frame] = []
        # All bytes, and how many of them were whole frames.
        self.raw = bytearray()
        self._done = 0

    def _fill(self, deadline: Deadline) -> bool:
        ready, _, _ = select.select([self.fd], [], [], deadline.remaining_s)
        assert ready, f"waited for output in vain, last seen: {self.frames[-3:]}"
        try:
            chunk = os.read(self.fd, 1 << 16)
        except OSError as error:
            # The other end of a terminal is closed.
            assert error.errno == errno.EIO
            chunk = b""
        self.raw += chunk
        return bool(chunk)

    def next_frame(self, deadline: Deadline) -> Frame | None:
        """The next frame, None at the end of the output."""
        while (end := self.raw.find(b"\n", self._done)) < 0:
            if not self._fill(deadline):
                assert len(self.raw) == self._done, "the output ends within a header"
                return None
        frame, length = parse_header(bytes(self.raw[self._done : end]))
        start, end = end + 1, end + 1 + length
        while len(self.raw) < end + 1:
            assert self._fill(deadline), "the output ends within a payload"
        assert self.raw[end : end + 1] == b"\n", "no newline after the payload"
        frame = dataclasses.replace(frame, payload=bytes(self.raw[start:end]))
        self._done = end + 1
        self.frames.append(frame)
        return frame

    def until(self, wanted: Callable[[Frame], bool]) -> Frame:
        """Reads on to the first frame that is wanted."""
        deadline = Deadline(LIMIT_S)
        while frame := self.next_frame(deadline):
            if wanted(frame):
                return frame
        raise AssertionError(f"the stream ended: {self.frames[-3:]}")

    def until_is(self, source: str, what: str) -> Frame:
        return self.until(lambda f: (f.source, f.what) == (source, what))

    def until_payload(self, source: str, payload: bytes) -> Frame:
        return self.until(lambda f: (f.source, f.payload) == (source, payload))

    def finish(self) -> list[Frame]:
        """Reads to the end of the output, and checks the whole stream."""
        deadline = Deadline(LIMIT_S)
        while self.next_frame(deadline):
            pass
        check_stream(self.frames)
        return self.frames

    def take_rest(self) -> None:
        """Reads to the end of the output, wherever in the stream that is."""
        deadline = Deadline(LIMIT_S)
        while self._fill(deadline):
            pass


class Port(Output):
    """The host's end of the agent's port: a terminal that changes nothing."""

    def __init__(self) -> None:
        fd, self._slave = os.openpty()
        super().__init__(fd)
        tty.setraw(self._slave)
        self.path = os.ttyname(self._slave)

    def leave_to_agent(self) -> None:
        """Closes the other end here, once the agent has it open: then it ends when the agent does."""
        if self._slave >= 0:
            os.close(self._slave)
        self._slave = -1

    def send(self, text: str) -> None:
        assert os.write(self.fd, text.encode()) == len(text)

    def close(self) -> None:
        self.leave_to_agent()
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


class Agent(Output):
    """A running agent and its standard output; leaving the context kills it if it still runs."""

    def __init__(self, binary: Path, root: Path, *options: str) -> None:
        argv = [str(binary), "--root", str(root), *options]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )
        assert self.process.stdout
        super().__init__(self.process.stdout.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe
            pipe.close()

    def send(self, text: str) -> None:
        """Writes it all, without the agent's output being read meanwhile."""
        assert self.process.stdin
        fd = self.process.stdin.fileno()
        deadline = Deadline(LIMIT_S)
        os.set_blocking(fd, False)
        rest = text.encode()
        while rest:
            _, ready, _ = select.select([], [fd], [], deadline.remaining_s)
            assert ready, "the agent takes no more input"
            rest = rest[os.write(fd, rest) :]

    def close_input(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()

    def close_output(self) -> None:
        assert self.process.stdout
        self.process.stdout.close()

    def drain(self) -> list[Frame]:
        """Reads to the end of the output, checks the whole stream, and that the agent left with 0."""
        self.finish()
        assert self.process.wait(timeout=LIMIT_S) == 0
        return self.frames

    def pass_ticks(self) -> None:
        """Reads on until all sources were read after what the caller did last."""
        self.send("now\n")
        now = self.until_payload("ctl", b"errno=22 now")
        self.until(lambda f: f.source == "slab" and f.tick > now.tick + 1)

    def quit(self) -> list[Frame]:
        self.send("quit\n")
        return self.drain()


def check_stream(frames: list[Frame]) -> None:
    """Whatever holds for every complete stream."""
    first, last = frames[0], frames[-1]
    hello, end = HELLO.fullmatch(first.payload), END.fullmatch(last.payload)
    assert hello and end
    assert (first.seq, first.source, first.what) == (0, "agent", "data")
    assert (last.source, last.what) == ("agent", "data")
    assert sum(f.source == "agent" for f in frames) == 2
    _, slow_every, base_ns, period_ns, _ = map(int, hello.groups())
    total, dropped = map(int, end.groups())
    assert last.seq == total
    seqs = [f.seq for f in frames]
    assert seqs == sorted(set(seqs))
    assert len(set(range(total)) - set(seqs)) == dropped
    for frame in frames:
        check_frame(frame, base_ns, period_ns, slow_every)
    for source in {f.source for f in frames} - {"agent", "ctl"}:
        check_source([f for f in frames if f.source == source], base_ns, period_ns)


def check_frame(frame: Frame, base_ns: int, period_ns: int, slow_every: int) -> None:
    every = SLOW[frame.source] * slow_every if frame.source in SLOW else 1
    if frame.source == "tasks":
        every = math.ceil(1_000_000_000 / period_ns / 20)
    due_ns = base_ns + frame.tick * period_ns
    assert frame.tick % every == 0
    assert due_ns <= frame.start_ns < due_ns + every * period_ns, "another tick was due"
    assert frame.start_ns <= frame.end_ns
    if frame.what in ("same", "blocked"):
        assert frame.payload == b""
    if frame.what == "error":
        assert re.fullmatch(rb"errno=[1-9][0-9]* .*", frame.payload)


def check_source(frames: list[Frame], base_ns: int, period_ns: int) -> None:
    """The frames of one source tell one story, in order."""
    done, blocked, has_data = -1, None, False
    for frame in frames:
        if frame.what == "error" and frame.tick == done:
            assert frame.payload.startswith(b"errno=27 ")
            continue
        assert frame.tick > done
        if frame.what == "blocked":
            assert frame.end_ns - frame.start_ns > 2 * period_ns
        if blocked:
            assert (frame.tick, frame.start_ns) == (blocked.tick, blocked.start_ns)
            assert frame.end_ns > blocked.end_ns
        if blocked and frame.what == "blocked":
            tick_before, tick = ((f.end_ns - base_ns) // period_ns for f in (blocked, frame))
            assert tick > tick_before, "told twice in a tick"
        blocked = frame if frame.what == "blocked" else None
        done = frame.tick if frame.what != "blocked" else done
        assert frame.what != "same" or has_data
        has_data = has_data or frame.what == "data"


class FakeProc:
    """A directory that looks like /proc to the agent."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.proc = root / "proc"
        for name in ("spl/kmem/slab", "slabprobe", "meminfo", "vmstat", "loadavg"):
            self.write(name, f"{name} 1\n")
        for name in ("memory", "io", "cpu"):
            self.write(f"pressure/{name}", f"some {name}\n")

    def write(self, name: str, text: str) -> Path:
        """Makes the file appear with all its text at once, also in place of an old one."""
        path = self.proc / name
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.root / "scratch"
        scratch.write_text(text)
        return scratch.rename(path)

    def overwrite(self, name: str, text: str) -> None:
        """Changes a file that the agent holds open, in one write of the same length."""
        path = self.proc / name
        assert path.stat().st_size == len(text)
        fd = os.open(path, os.O_WRONLY)
        assert os.pwrite(fd, text.encode(), 0) == len(text)
        os.close(fd)

    def add_task(self, pid: int, comm: str, **files: str) -> None:
        """Makes the task's directory appear with all its files at once."""
        scratch = self.root / "scratch-task"
        scratch.mkdir()
        for name, text in {"comm": comm + "\n", **files}.items():
            (scratch / name).write_text(text)
        scratch.rename(self.proc / str(pid))


@pytest.fixture(scope="session")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    gcc = shutil.which("gcc")
    if not gcc:
        pytest.skip("gcc is not installed")
    path = tmp_path_factory.mktemp("agent") / "agent"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-static", "-pthread"]
    sources = sorted(GUEST.glob("*.c"))
    done = subprocess.run([gcc, *flags, "-o", path, *sources], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path)


@pytest.fixture
def start(binary: Path, proc: FakeProc) -> Iterator[Callable[..., Agent]]:
    """Starts an agent on the fake proc, 100 ticks a second unless told otherwise."""
    running: list[Agent] = []

    def start_agent(*options: str) -> Agent:
        agent = Agent(binary, proc.root, "--rate", "100", "--no-realtime", *options)
        running.append(agent)
        return agent

    yield start_agent
    for agent in running:
        agent.__exit__(None, None, None)


@pytest.fixture
def port() -> Iterator[Port]:
    port = Port()
    yield port
    port.close()


@pytest.fixture
def start_pair(start: Callable[..., Agent], port: Port) -> Callable[..., Agent]:
    """Starts an agent with a port, and reads the first frame from both outputs."""

    def start_agent(*options: str) -> Agent:
        agent = start("--port", port.path, *options)
        for output in (agent, port):
            assert output.until_is("agent", "data").seq == 0
        port.leave_to_agent()
        return agent

    return start_agent


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
    proc.add_task(77, "spl_kmem_cache", status=STATUS.format(12, 3), stack="\n".join(deep) + "\n")
    proc.add_task(78, "slabprobe a b", status=STATUS.format(1, 0).replace("D (", "S ("), stack="[<0>] last")
    proc.add_task(79, "bash", status=STATUS.format(5, 5), stack="")
    proc.add_task(80, "slabprobe/1", status=STATUS.format(2, 0))
    proc.add_task(81, "spl_kmem_cache", status="Name:\tspl_kmem_cache\n", stack="")
    proc.add_task(82, "slabprobe/2", status=STATUS.format(3, 9).replace("D (", "R ("), stack="[<0>] where it was")
    agent = start()
    assert tasks_in(agent.until_is("tasks", "data").payload) == {
        "task pid=77 comm=spl_kmem_cache state=D voluntary=12 nonvoluntary=3": deep[:32],
        "task pid=78 comm=slabprobe_a_b state=S voluntary=1 nonvoluntary=0": ["[<0>] last"],
        "task pid=80 comm=slabprobe/1 state=D voluntary=2 nonvoluntary=0": ["stack errno=2"],
        "task pid=82 comm=slabprobe/2 state=R voluntary=3 nonvoluntary=9": [],
    }
    agent.until_is("tasks", "same")
    proc.overwrite("77/status", STATUS.format(14, 3))
    changed = b"task pid=77 comm=spl_kmem_cache state=D voluntary=14 nonvoluntary=3\n"
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


# The second path.


def answers(output: Output) -> list[bytes]:
    return [frame.payload for frame in output.frames if frame.source == "ctl"]


def flood(agent: Agent, output: Output, count: int = 250) -> None:
    """Has the agent write much more than a pipe, a terminal and a small ring hold, as fast as one output is read."""
    for at in range(count):
        agent.send(f"{at} {'x' * 180}\n")
        output.until(lambda f, at=at: f.payload.startswith(b"errno=22 %d x" % at))


def check_prefix(part: bytes | bytearray, whole: bytes | bytearray) -> None:
    assert whole[: len(part)] == part
    assert len(part) < len(whole)


def shrink_pipe(fd: int) -> None:
    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, 4096)


def test_both_outputs_get_the_same_bytes(start_pair: Callable[..., Agent], port: Port) -> None:
    agent = start_pair("--slow-every", "2")
    agent.until(lambda f: f.source == "vmstat" and f.tick >= 8)
    agent.quit()
    port.finish()
    assert agent.raw == port.raw
    assert [f.seq for f in port.frames] == list(range(len(port.frames)))


def test_the_stream_goes_on_by_the_port_when_the_reader_of_stdout_is_gone(
    start_pair: Callable[..., Agent], port: Port
) -> None:
    agent = start_pair()
    agent.until_is("slab", "data")
    agent.close_output()
    port.until(lambda f: f.tick > agent.frames[-1].tick + 50)
    # Its input is still there.
    agent.send("probe hold\n")
    port.until_payload("ctl", b"ok hold")
    port.send("quit\n")
    frames = port.finish()
    assert [f.seq for f in frames] == list(range(len(frames)))
    assert agent.process.wait(timeout=LIMIT_S) == 0


def test_stdout_that_was_never_open(binary: Path, proc: FakeProc, port: Port) -> None:
    argv = [str(binary), "--root", str(proc.root), "--rate", "100", "--no-realtime", "--port", port.path]
    # Then another file that it opens may get the number of its standard output.
    with subprocess.Popen(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *argv]) as process:
        try:
            port.until(lambda f: f.source == "slab" and f.tick >= 5)
            port.leave_to_agent()
            port.send("quit\n")
            frames = port.finish()
            assert process.wait(timeout=LIMIT_S) == 0
        finally:
            process.kill()
    assert not any(f.what == "error" for f in frames)
    assert (proc.proc / "slabprobe").read_text() == "slabprobe 1\n"


def test_the_stream_goes_on_by_stdout_when_the_port_is_gone(start_pair: Callable[..., Agent], port: Port) -> None:
    agent = start_pair()
    port.close()
    agent.until(lambda f: f.tick > 50)
    agent.send("probe hold\n")
    agent.until_payload("ctl", b"ok hold")
    frames = agent.quit()
    assert [f.seq for f in frames] == list(range(len(frames)))


def test_both_outputs_gone_end_the_agent(start_pair: Callable[..., Agent], port: Port) -> None:
    agent = start_pair()
    agent.close_output()
    port.close()
    assert agent.process.wait(timeout=LIMIT_S) == 1


@pytest.mark.parametrize("stalls", ["stdout", "port"])
def test_an_output_that_does_not_take_its_data_is_given_up(
    start_pair: Callable[..., Agent], port: Port, stalls: str
) -> None:
    # Few ticks, so that the output that is read keeps up on a host that is busy.
    agent = start_pair("--ring", "16", "--rate", "10")
    if stalls == "stdout":
        shrink_pipe(agent.fd)
    stalled, read = (agent, port) if stalls == "stdout" else (port, agent)
    flood(agent, read)
    if stalls == "stdout":
        # Its reader comes back and finds the end. What was being written is what it was, although the ring went on.
        stalled.take_rest()
    agent.send("quit\n")
    frames = read.finish()
    assert [f.seq for f in frames] == list(range(len(frames)))
    # It does not wait for the other either.
    assert agent.process.wait(timeout=LIMIT_S) == 0
    stalled.take_rest()
    check_prefix(stalled.raw, read.raw)


def test_an_output_that_is_slow_gets_all(start_pair: Callable[..., Agent], port: Port) -> None:
    agent = start_pair("--ring", "256")
    shrink_pipe(agent.fd)
    flood(agent, port)
    agent.send("quit\n")
    port.until(lambda f: f.payload.startswith(b"end "))
    agent.drain()
    assert agent.raw == port.raw


def test_frames_are_dropped_when_both_outputs_stall(start_pair: Callable[..., Agent], port: Port) -> None:
    agent = start_pair("--ring", "4")
    shrink_pipe(agent.fd)
    threads = Path(f"/proc/{agent.process.pid}/task")
    count = len(list(threads.iterdir()))
    agent.send("".join(f"{i} {'x' * 180}\n" for i in range(1000)) + "quit\n")
    poll(lambda: len(list(threads.iterdir())) < count or None, Deadline(LIMIT_S), "the end of a thread")
    for output in (agent, port):
        output.take_rest()
    assert agent.process.wait(timeout=LIMIT_S) == 0
    # One of them stands in the way of the other before that one stalls as well.
    part, whole = sorted((agent, port), key=lambda output: len(output.raw))
    whole.finish()
    end = END.fullmatch(whole.frames[-1].payload)
    assert end
    assert int(end[2]) > 100
    if part.raw != whole.raw:
        check_prefix(part.raw, whole.raw)


@pytest.mark.parametrize("first", ["stdin", "port"])
def test_a_command_that_comes_twice_is_done_once(
    start_pair: Callable[..., Agent], proc: FakeProc, port: Port, first: str
) -> None:
    (proc.proc / "slabprobe").unlink()
    os.mkfifo(proc.proc / "slabprobe")
    with open(os.open(proc.proc / "slabprobe", os.O_RDWR), "rb", buffering=0) as probe:
        agent = start_pair()
        for line in ("#1 probe hold", "#2 probe release", "probe mark a"):
            for way in [agent, port] if first == "stdin" else [port, agent]:
                way.send(f"{line}\n")
            agent.until_payload("ctl", f"ok {line.replace('probe ', '')}".encode())
        agent.send("last\n")
        port.send("last\n")
        for output in (agent, port):
            for _ in range(2):
                output.until_payload("ctl", b"errno=22 last")
        done = [b"ok #1 hold", b"ok #2 release", b"ok mark a", b"ok mark a"]
        assert [it for it in answers(agent) if b"last" not in it] == done
        assert probe.read(100) == b"holdreleasemark amark a"
        agent.quit()
        port.finish()
        assert agent.raw == port.raw


def test_numbers_of_commands(start_pair: Callable[..., Agent], port: Port) -> None:
    agent = start_pair()
    lines = ("#7 probe a", "#7 probe a", "#3 probe b", "probe c", "#8 now", "#8 probe d", "#10 probe e", "#9 probe f")
    odd = (
        "# probe g",
        "#11",
        "#11 ",
        "#11 probe h",
        "#12 quit",
        f"#{10**16} probe i",
        f"#{10**18} probe j",
        "#13 probe k",
    )
    agent.send("".join(f"{line}\n" for line in (*lines, *odd, "last")))
    agent.until_payload("ctl", b"errno=22 last")
    assert answers(agent) == [
        *(b"ok #7 a", b"ok c", b"errno=22 #8 now", b"ok #10 e"),
        *(b"errno=22 # probe g", b"errno=22 #11", b"errno=22 #11 ", b"errno=22 #12 quit"),
        *(b"ok #%d i" % 10**16, b"errno=22 #%d probe j" % 10**18, b"errno=22 last"),
    ]
    # The longest line that is taken, and one that is not.
    for number, length in ((10**17 - 2, 200), (10**17 - 1, 201)):
        port.send(f"#{number} probe {'x' * length}\n")
        what = b"ok" if length == 200 else b"errno=22"
        agent.until_payload("ctl", b"%b #%d %b" % (what, number, b"x" * 200))
    agent.quit()


def test_commands_by_a_port_that_was_given_up(start_pair: Callable[..., Agent], port: Port) -> None:
    agent = start_pair("--ring", "16", "--rate", "10")
    flood(agent, agent)
    # Its writer comes back and finds that it was given up.
    deadline = Deadline(LIMIT_S)
    while select.select([port.fd], [], [], 0.2)[0]:
        assert port._fill(deadline)
    for number in range(1, 4):
        port.send(f"#{number} probe hold\n")
        agent.until_payload("ctl", b"ok #%d hold" % number)
    agent.quit()
    check_prefix(port.raw, agent.raw)


def test_quit_by_the_port(start_pair: Callable[..., Agent], port: Port) -> None:
    agent = start_pair()
    agent.close_input()
    port.until(lambda f: f.tick > 30)
    port.send("#1 probe hold\n")
    agent.until_payload("ctl", b"ok #1 hold")
    port.send("quit\n")
    port.finish()
    agent.drain()
    assert agent.raw == port.raw


def test_the_end_of_both_inputs_ends_the_stream(start_pair: Callable[..., Agent], port: Port) -> None:
    agent = start_pair()
    agent.close_input()
    agent.until(lambda f: f.tick > 30)
    port.close()
    agent.drain()


def test_a_port_that_cannot_be_opened(start: Callable[..., Agent], proc: FakeProc) -> None:
    path = proc.root / "no-such-port"
    agent = start("--port", str(path))
    agent.until_is("slab", "data")
    agent.quit()
    assert agent.process.stderr
    assert agent.process.stderr.read().decode() == f"agent: {path}: No such file or directory\n"


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


def run(binary: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([binary, *options], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S)


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


# One that waits in a template.


class Waiting:
    """An agent that was started to wait, by a shell that is gone; what it says on its console is in a file."""

    def __init__(self, binary: Path, proc: FakeProc, port: Port) -> None:
        self._binary, self._proc, self._port = binary, proc, port
        self._console = proc.root / "dev/console"
        self._console.parent.mkdir()
        self._console.touch()

    def settle(self) -> None:
        """Have it come to rest; one that waits already goes."""
        said = self._console.stat().st_size
        command = [self._binary, "--root", self._proc.root, "--no-realtime", "--settle", "--port", self._port.path]
        line = shlex.join(map(str, command))
        # The shell does not become the agent, whose parent would be this process then, which stays.
        shell = ["sh", "-c", f"{line}; exit $?"]
        done = subprocess.run(shell, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        poll(lambda: self._console.read_text()[said:] or None, Deadline(LIMIT_S), "a word", interval_s=0.01)
        assert self._console.read_text()[said:] == "splvm: guest has settled\n"

    def attach(self) -> Agent:
        return Agent(self._binary, self._proc.root, "--rate", "100", "--no-realtime", "--attach")

    def is_there(self) -> bool:
        """Whether one waits. A connection that is closed at once sends it away."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as called:
            called.settimeout(LIMIT_S)
            try:
                called.connect(f"\0splvm-agent{self._proc.root}"[:107])
            except ConnectionRefusedError:
                return False
            called.shutdown(socket.SHUT_WR)
            assert called.recv(1) == b""
            return True


@pytest.fixture
def waiting(binary: Path, proc: FakeProc, port: Port) -> Iterator[Waiting]:
    agent = Waiting(binary, proc, port)
    yield agent
    agent.is_there()


def test_an_agent_that_waits_samples_for_who_asks(waiting: Waiting, port: Port) -> None:
    waiting.settle()
    with waiting.attach() as agent:
        hello = HELLO.fullmatch(agent.until_is("agent", "data").payload)
        assert hello
        assert hello[1] == b"100", "the rate is that of who asks"
        assert int(hello[5]) != agent.process.pid, "another one does it"
        agent.until_is("slab", "data")
        assert port.until_is("agent", "data").seq == 0, "it has the port as well"
        agent.send("probe hold\n")
        assert agent.until(lambda f: f.source == "ctl").payload == b"ok hold"
        agent.quit()
    assert not waiting.is_there()


def test_who_asks_when_nobody_waits_samples_itself(waiting: Waiting) -> None:
    with waiting.attach() as agent:
        hello = HELLO.fullmatch(agent.until_is("agent", "data").payload)
        assert hello
        assert int(hello[5]) == agent.process.pid
        agent.quit()


def test_a_second_one_that_asks_samples_itself(waiting: Waiting) -> None:
    waiting.settle()
    with waiting.attach() as first:
        first.until_is("slab", "data")
        with waiting.attach() as second:
            hello = HELLO.fullmatch(second.until_is("agent", "data").payload)
            assert hello
            assert int(hello[5]) == second.process.pid
            second.quit()
        first.quit()


def test_whoever_settles_takes_the_place_of_who_waits(waiting: Waiting) -> None:
    waiting.settle()
    waiting.settle()
    assert waiting.is_there()
    assert not waiting.is_there()


@pytest.mark.parametrize("line", ["", "wake", "wake 0 00", "wake x 00", "quit", "x" * 1000])
def test_what_the_port_says_that_is_no_call_to_wake(waiting: Waiting, port: Port, line: str) -> None:
    waiting.settle()
    port.send(f"{line}\n")
    with waiting.attach() as agent:
        agent.until_is("slab", "data")
        agent.quit()


def test_an_agent_that_has_no_console_does_not_wait(binary: Path, proc: FakeProc) -> None:
    done = run(binary, "--root", str(proc.root), "--settle")
    assert done.returncode == 1
    assert done.stderr.startswith("agent: to settle: ")
