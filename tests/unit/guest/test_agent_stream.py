"""The host's end of the agent, over a socket pair whose other end plays the agent, well or badly."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import cast

import paramiko
import pytest

from fake_agent import END, LIMIT_S, Agent, Channel, Connection, drop, frame, meanwhile, wire
from splvm.deadline import Deadline, poll
from splvm.errors import DeadlineExceeded, GuestCommandError, GuestLostError
from splvm.evidence.formats.stream import Frame, What
from splvm.guest.agent import AGENT_PATH, AgentStream, Sink, start_agent
from splvm.guest.ssh import Ssh


def start(ssh: Ssh, sink: Sink) -> AbstractContextManager[AgentStream]:
    """An agent that has only SSH."""
    return start_agent(ssh, None, rate_hz=20, sink=sink, deadline=Deadline(LIMIT_S))


@contextmanager
def started() -> Iterator[tuple[AgentStream, Agent, list[Frame]]]:
    here, there = socket.socketpair()
    there.settimeout(LIMIT_S)
    agent, taken = Agent(there), list[Frame]()
    with here:
        try:
            ssh = cast(Ssh, Connection(Channel(here)))
            with start(ssh, sink=lambda frame, _: taken.append(frame)) as stream:
                yield stream, agent, taken
        finally:
            agent.close()


def wait_until_ended(stream: AgentStream) -> str:
    return poll(lambda: stream.ended, Deadline(LIMIT_S), "end of the stream", interval_s=0.005)


def wait_until_taken(taken: list[Frame], count: int) -> None:
    poll(lambda: len(taken) >= count or None, Deadline(LIMIT_S), f"{count} frames", interval_s=0.005)


def test_the_agent_is_started_at_its_rate() -> None:
    here, there = socket.socketpair()
    with here, there:
        connection = Connection(Channel(here))
        with start_agent(cast(Ssh, connection), None, rate_hz=50, sink=drop, deadline=Deadline(LIMIT_S)):
            pass
    assert connection.commands == [f"{AGENT_PATH} --attach --rate 50"]


def test_frames_reach_the_sink_in_order() -> None:
    sent = [frame(number, text=f"reading {number}\n" * number) for number in range(200)]
    with started() as (stream, agent, taken):
        data = wire(*sent)
        for at in range(0, len(data), 997):
            agent.send(data[at : at + 997])
        wait_until_taken(taken, len(sent))
        assert taken == sent
        assert stream.ended is None


def test_frames_are_taken_by_another_thread() -> None:
    threads: list[str] = []
    here, there = socket.socketpair()
    with here, there:
        ssh = cast(Ssh, Connection(Channel(here)))

        def sink(_: Frame, path: str) -> None:
            threads.append(threading.current_thread().name)

        with start(ssh, sink=sink):
            there.sendall(wire(frame(0)))
            poll(lambda: threads or None, Deadline(LIMIT_S), "a frame", interval_s=0.005)
    assert threads == ["agent"]


def test_a_command_waits_for_its_own_answer() -> None:
    with started() as (stream, agent, taken):

        def answer() -> None:
            agent.say(frame(0, "slab"), frame(1, "probe"))
            agent.seq = 1
            agent.answer()
            agent.say(frame(3, "slab"))

        with meanwhile(answer):
            done_ns = stream.command("hold", Deadline(LIMIT_S))
        assert agent.heard == ["#1 probe hold"]
        assert done_ns == next(it.end_ns for it in taken if it.source == "ctl")
        wait_until_taken(taken, 4)
        assert [it.source for it in taken] == ["slab", "probe", "ctl", "slab"]


def test_commands_one_after_the_other() -> None:
    with started() as (stream, agent, _):
        for command in ("set threads=2", "start", "mark a b"):
            with meanwhile(agent.answer):
                stream.command(command, Deadline(LIMIT_S))
        assert agent.heard == ["#1 probe set threads=2", "#2 probe start", "#3 probe mark a b"]


def test_a_command_that_is_refused() -> None:
    with started() as (stream, agent, _):
        with (
            meanwhile(lambda: agent.answer(What.ERROR, "errno=16 ")),
            pytest.raises(GuestCommandError, match=r"refused 'set threads=9': errno=16 #1 set threads=9$"),
        ):
            stream.command("set threads=9", Deadline(LIMIT_S))
        with meanwhile(agent.answer):
            stream.command("start", Deadline(LIMIT_S))


def test_a_command_without_an_answer() -> None:
    with started() as (stream, agent, _):
        agent.say(frame(0, "slab"))
        with pytest.raises(DeadlineExceeded, match="probe hold"):
            stream.command("hold", Deadline(0.2))
        assert agent.hear() == "#1 probe hold"


def test_an_answer_that_comes_late_is_not_the_next_commands() -> None:
    with started() as (stream, agent, taken):
        with pytest.raises(DeadlineExceeded):
            stream.command("mark window", Deadline(0.1))

        def answer() -> None:
            assert (agent.hear(), agent.hear()) == ("#1 probe mark window", "#2 probe mark window-end")
            agent.say(frame(1, "ctl", What.ERROR, "errno=16 #1 mark window"))
            wait_until_taken(taken, 1)
            agent.say(frame(2, "ctl", What.DATA, "ok #2 mark window-end"))

        with meanwhile(answer):
            assert stream.command("mark window-end", Deadline(LIMIT_S)) == frame(2).end_ns


def test_a_command_that_is_too_long_is_repeated_in_part() -> None:
    long = "mark " + "x" * 300
    with started() as (stream, agent, _):

        def refuse() -> None:
            agent.say(frame(0, "ctl", What.ERROR, "errno=22 #1 " + agent.hear().removeprefix("#1 probe ")[:200]))

        with meanwhile(refuse), pytest.raises(GuestCommandError, match="errno=22"):
            stream.command(long, Deadline(LIMIT_S))


def test_a_command_that_waits_when_the_stream_ends() -> None:
    with started() as (stream, agent, _):

        def leave() -> None:
            agent.hear()
            agent.close()

        with meanwhile(leave), pytest.raises(GuestLostError, match=r"probe hold: .*ended"):
            stream.command("hold", Deadline(LIMIT_S))


def test_a_command_after_the_end() -> None:
    with started() as (stream, agent, _):
        agent.close()
        assert wait_until_ended(stream) == "the agent's stream ended"
        with pytest.raises(GuestLostError):
            stream.command("hold", Deadline(LIMIT_S))


def test_garbage_ends_the_stream_and_whoever_waits() -> None:
    with started() as (stream, agent, taken):

        def babble() -> None:
            agent.hear()
            agent.send(wire(frame(0, text="whole")))
            wait_until_taken(taken, 1)
            agent.send(b"sh: splvm-agent: not found\n")

        with meanwhile(babble), pytest.raises(GuestLostError, match=r"garbled at byte \d+: not a frame header"):
            stream.command("hold", Deadline(LIMIT_S))
        assert [it.text for it in taken] == ["whole"]
        assert "broke off" in wait_until_ended(stream)


def test_garbage_behind_a_frame_in_one_piece_is_told_at_the_end() -> None:
    with started() as (stream, agent, taken):
        agent.send(wire(frame(0)) + b"Segmentation fault\n")
        agent.close()
        assert "garbled" in wait_until_ended(stream)
        assert taken == [frame(0)]


def test_a_stream_that_ends_inside_a_frame() -> None:
    with started() as (stream, agent, taken):
        agent.send(wire(frame(0)) + wire(frame(1, text="cut"))[:-2])
        agent.close()
        assert "ends inside the frame" in wait_until_ended(stream)
        assert taken == [frame(0)]


def test_a_reset_ends_the_stream() -> None:
    with started() as (stream, agent, _):
        with pytest.raises(DeadlineExceeded):
            stream.command("hold", Deadline(0.1))
        # With a command unread, closing is a reset.
        agent.close()
        assert "broke off" in wait_until_ended(stream)


def test_a_sink_that_fails_ends_the_stream() -> None:
    def full(_: Frame, path: str) -> None:
        raise OSError(28, "No space left on device")

    here, there = socket.socketpair()
    with here, there:
        ssh = cast(Ssh, Connection(Channel(here)))
        with start(ssh, sink=full) as stream:
            there.sendall(wire(frame(0)))
            assert "No space left on device" in wait_until_ended(stream)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_sink_with_a_bug_does_not_leave_anybody_waiting() -> None:
    def buggy(_: Frame, path: str) -> None:
        raise RuntimeError("bug")

    here, there = socket.socketpair()
    with here, there:
        ssh = cast(Ssh, Connection(Channel(here)))
        with start(ssh, sink=buggy) as stream:
            there.sendall(wire(frame(0)))
            with pytest.raises(GuestLostError, match="not read to its end"):
                stream.command("hold", Deadline(LIMIT_S))


def test_quit_is_complete_with_the_last_frame() -> None:
    with started() as (stream, agent, taken):

        def finish() -> None:
            agent.hear()
            agent.say(frame(0), frame(1), frame(2, "agent", What.DATA, END))
            agent.close()

        with meanwhile(finish):
            assert stream.quit(Deadline(LIMIT_S)) is True
        assert agent.heard == ["quit"]
        assert taken[-1].text == END
        assert stream.ended == "the agent's stream ended"


def test_quit_is_not_complete_without_it() -> None:
    with started() as (stream, agent, taken):

        def finish() -> None:
            agent.hear()
            # Another frame of the agent, another source's text, and an end that is cut off.
            agent.say(frame(0, "agent", What.DATA, "hello version=1"), frame(1, "slab", What.DATA, END))
            agent.send(wire(frame(2, "agent", What.DATA, END))[:-1])
            agent.close()

        with meanwhile(finish):
            assert stream.quit(Deadline(LIMIT_S)) is False
        assert len(taken) == 2


def test_quit_of_an_agent_that_goes_on() -> None:
    with started() as (stream, agent, _):
        agent.say(frame(0))
        assert stream.quit(Deadline(0.2)) is False
        assert agent.hear() == "quit"
        assert stream.ended is None


def test_quit_after_the_end() -> None:
    with started() as (stream, agent, _):
        agent.close()
        wait_until_ended(stream)
        assert stream.quit(Deadline(LIMIT_S)) is False


def test_quit_after_a_whole_stream() -> None:
    with started() as (stream, agent, _):
        agent.say(frame(0, "agent", What.DATA, END))
        agent.close()
        wait_until_ended(stream)
        assert stream.quit(Deadline(LIMIT_S)) is True


def test_a_channel_that_cannot_be_written_to() -> None:
    class Closed(Channel):
        def sendall(self, data: bytes) -> None:
            raise paramiko.SSHException("Channel is not open")

    here, there = socket.socketpair()
    with here, there:
        ssh = cast(Ssh, Connection(Closed(here)))
        with start(ssh, sink=drop) as stream:
            with pytest.raises(GuestLostError, match="agent: Channel is not open"):
                stream.command("hold", Deadline(LIMIT_S))
            assert stream.quit(Deadline(LIMIT_S)) is False


def test_the_reader_ends_with_the_block() -> None:
    before = set(threading.enumerate())
    with started() as (_, agent, _):
        agent.say(frame(0))
        assert set(threading.enumerate()) > before
    assert set(threading.enumerate()) <= before
