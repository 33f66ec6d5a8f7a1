"""The agent's second path, in the place of which there is a terminal here."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_process import END, LIMIT_S, Agent, FakeProc, Output, Port
from splvm.deadline import Deadline, poll


def answers(output: Output) -> list[bytes]:
    return [frame.payload for frame in output.frames if frame.source == "ctl"]


def flood(agent: Agent, output: Output, count: int = 250) -> None:
    """Has the agent write much more than a pipe, a terminal and a small ring hold, as fast as one output is read."""
    for at in range(count):
        agent.send(f"{at} {'x' * 180}\n")
        answer = b"errno=22 %d x" % at
        output.until(lambda f, answer=answer: f.payload.startswith(answer))  # type: ignore[misc]


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
            ways: list[Agent | Port] = [agent, port] if first == "stdin" else [port, agent]
            for way in ways:
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
