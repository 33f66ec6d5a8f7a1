"""The guest's agent as a process of the host: what it says, parsed and checked, and the /proc that it is shown."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import re
import select
import subprocess
import tty
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from places import PROJECT
from splvm.deadline import Deadline

GUEST = PROJECT / "images" / "guest"
LIMIT_S = 30.0
FILE_LEN = 64 * 1024
# At every which one of the slow ticks a source is read; the others are at every tick.
SLOW = {"meminfo": 1, "pressure": 1, "vmstat": 1, "loadavg": 1, "slabinfo": 4, "arcstats": 4}
NUMBER = rb"(0|[1-9][0-9]*)"
SOURCE = rb"(agent|slab|probe|load|txgs|poolstate|tasks|meminfo|pressure|vmstat|loadavg|slabinfo|arcstats|ctl)"
HEADER = re.compile(rb"F %b %b %b (data|same|blocked|error) %b %b %b" % (NUMBER, NUMBER, SOURCE, *(NUMBER,) * 3))
HELLO = re.compile(rb"hello version=2 rate_hz=%b slow_every=%b base_ns=%b period_ns=%b pid=%b" % ((NUMBER,) * 5))
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


def run(binary: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([binary, *options], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S)
