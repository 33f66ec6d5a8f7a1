"""The two paths of the agent's stream: nothing is lost or doubled, whichever of them dies, and when."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_agent import END, LIMIT_S, Agent, Channel, Connection, drop, frame, meanwhile, wire
from splvm.deadline import Deadline, poll
from splvm.errors import DeadlineExceeded, GuestLostError
from splvm.evidence.formats import merge
from splvm.evidence.formats.merge import Merger
from splvm.evidence.formats.stream import Frame, What
from splvm.guest import agent as agent_module
from splvm.guest.agent import AGENT_PATH, AgentStream, start_agent
from splvm.guest.ssh import Ssh


@dataclass
class Pair:
    """An agent with both paths: the guest's ends of SSH and of the port, and what reached the sink."""

    stream: AgentStream
    ssh: Agent
    port: Agent
    taken: list[tuple[int, str]]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence that a test can wait for."""
    for name in ("SILENT_S", "PORT_PATIENCE_S", "QUIET_S"):
        monkeypatch.setattr(agent_module, name, 0.3)


@contextmanager
def both(is_starving: Callable[[], bool] = lambda: False, left: bytes = b"") -> Iterator[Pair]:
    """An agent that can be spoken to by both paths.

    :param left: what an agent before this one has left in the port.
    """
    with ExitStack() as stack:
        (ssh_here, ssh_there), (port_here, port_there) = socket.socketpair(), socket.socketpair()
        for sock in (ssh_here, port_here):
            stack.enter_context(sock)
        ssh, port, taken = Agent(ssh_there), Agent(port_there), list[tuple[int, str]]()
        for there, guest in ((ssh_there, ssh), (port_there, port)):
            there.settimeout(LIMIT_S)
            stack.callback(guest.close)
        port.send(left)

        def sink(frame: Frame, path: str) -> None:
            taken.append((frame.seq, path))

        stream = stack.enter_context(
            start_agent(
                cast(Ssh, Connection(Channel(ssh_here))),
                port_here,
                rate_hz=20,
                sink=sink,
                deadline=Deadline(LIMIT_S),
                is_starving=is_starving,
            )
        )
        yield Pair(stream, ssh, port, taken)


def wait_for(pair: Pair, count: int) -> list[tuple[int, str]]:
    poll(lambda: len(pair.taken) >= count or None, Deadline(LIMIT_S), f"{count} frames", interval_s=0.005)
    return pair.taken


def test_the_agent_is_told_of_the_port() -> None:
    here, there = socket.socketpair()
    port_here, port_there = socket.socketpair()
    with here, there, port_here, port_there:
        connection = Connection(Channel(here))
        with start_agent(cast(Ssh, connection), port_here, rate_hz=20, sink=drop, deadline=Deadline(LIMIT_S)):
            pass
        assert port_there.recv(100) == b"quit\n"
    assert connection.commands == [f"{AGENT_PATH} --attach --rate 20 --port /dev/virtio-ports/splvm.agent"]


def test_ssh_is_the_rule() -> None:
    with both() as pair:
        for number in range(5):
            pair.port.say(frame(number))
            pair.ssh.say(frame(number))
        assert wait_for(pair, 5) == [(number, "ssh") for number in range(5)]


@pytest.mark.usefixtures("impatient")
def test_no_frame_is_lost_or_doubled_when_ssh_dies() -> None:
    with both() as pair:
        pair.ssh.say(*map(frame, range(10)))
        pair.port.say(*map(frame, range(15)))
        pair.ssh.close()
        assert wait_for(pair, 15) == [(n, "ssh") for n in range(10)] + [(n, "virtio-serial") for n in range(10, 15)]
        pair.port.say(frame(15))
        assert wait_for(pair, 16)[-1] == (15, "virtio-serial")
        assert pair.stream.ssh_ended == "the agent's stream ended"
        assert pair.stream.gone() is None


@pytest.mark.usefixtures("impatient")
def test_ssh_that_falls_silent_and_comes_back() -> None:
    with both() as pair:
        pair.ssh.say(frame(0))
        pair.port.say(frame(0), frame(1), frame(2))
        assert wait_for(pair, 3) == [(0, "ssh"), (1, "virtio-serial"), (2, "virtio-serial")]
        pair.ssh.say(frame(1), frame(2), frame(3))
        assert wait_for(pair, 4)[3] == (3, "ssh")


def test_a_gap_of_ssh_is_filled_from_the_port() -> None:
    with both() as pair:
        pair.port.say(frame(0), frame(1))
        poll(lambda: pair.stream._merger.waiting == 2 or None, Deadline(LIMIT_S), "frames by the port")
        pair.ssh.say(frame(0), frame(2))
        assert wait_for(pair, 3) == [(0, "ssh"), (1, "virtio-serial"), (2, "ssh")]


def test_a_command_goes_by_both_paths() -> None:
    with both() as pair:
        with meanwhile(pair.ssh.answer):
            pair.stream.command("hold", Deadline(LIMIT_S))
        assert pair.port.hear() == "#1 probe hold"


@pytest.mark.usefixtures("impatient")
def test_a_command_is_answered_by_the_port_when_ssh_is_gone() -> None:
    with both() as pair:
        pair.ssh.close()
        poll(lambda: pair.stream.ssh_ended, Deadline(LIMIT_S), "end of SSH")
        with meanwhile(pair.port.answer):
            pair.stream.command("mark window", Deadline(LIMIT_S))


@pytest.mark.usefixtures("impatient")
def test_both_paths_dead_is_the_end() -> None:
    with both() as pair:
        pair.ssh.say(frame(0))
        pair.ssh.close()
        assert "ended" in str(poll(lambda: pair.stream.ended, Deadline(LIMIT_S), "the end"))


@pytest.mark.usefixtures("impatient")
def test_silence_on_both_paths_is_a_loss() -> None:
    with both() as pair:
        assert "silent" in str(poll(pair.stream.gone, Deadline(LIMIT_S), "silence"))
        with pytest.raises(GuestLostError, match="probe hold: the agent was silent"):
            pair.stream.command("hold", Deadline(LIMIT_S))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("what", [What.BLOCKED, What.SAME, What.ERROR])
def test_any_frame_breaks_the_silence(what: What) -> None:
    with both() as pair:
        poll(lambda: pair.stream._quiet.expired or None, Deadline(LIMIT_S), "silence")
        pair.port.say(frame(0, what=what))
        poll(lambda: pair.stream.gone() is None or None, Deadline(LIMIT_S), "a sign of life", interval_s=0.001)


@pytest.mark.usefixtures("impatient")
def test_a_host_that_starves_the_guest_excuses_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    with both(is_starving=lambda: True) as pair, pytest.raises(DeadlineExceeded):
        pair.stream.command("hold", Deadline(1))
    monkeypatch.setattr(agent_module, "STARVED_QUIET_S", 0.3)
    with both(is_starving=lambda: True) as pair:
        assert "silent" in str(poll(pair.stream.gone, Deadline(LIMIT_S), "the end of the excuse"))


@pytest.mark.usefixtures("impatient")
def test_a_host_that_starves_the_guest_also_excuses_the_second_path() -> None:
    """It may be long before the port brings what SSH brings no more."""
    with both(is_starving=lambda: True) as pair:
        pair.ssh.close()
        poll(lambda: pair.stream.ssh_ended, Deadline(LIMIT_S), "end of SSH")
        poll(lambda: pair.stream._port_patience.expired or None, Deadline(LIMIT_S), "silence of the port")
        assert pair.stream.gone() is None
        pair.port.say(frame(0))
        assert wait_for(pair, 1) == [(0, "virtio-serial")]


@pytest.mark.usefixtures("impatient")
def test_a_harness_that_did_not_run_has_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    with both() as pair:
        poll(lambda: pair.stream._quiet.expired or None, Deadline(LIMIT_S), "silence")
        monkeypatch.setattr(pair.stream, "_looked", Deadline(0))
        assert pair.stream.gone() is None


@pytest.mark.usefixtures("impatient")
def test_the_end_may_come_by_the_port_alone() -> None:
    with both() as pair:
        pair.ssh.close()

        def finish() -> None:
            pair.port.hear()
            pair.port.say(frame(0, "agent", What.DATA, END))

        with meanwhile(finish):
            assert pair.stream.quit(Deadline(LIMIT_S)) is True


def test_garbage_on_the_port_leaves_ssh_alone() -> None:
    with both() as pair:
        pair.port.send(b"login: \n")
        pair.ssh.say(frame(0), frame(1))
        assert wait_for(pair, 2) == [(0, "ssh"), (1, "ssh")]
        assert pair.stream.gone() is None


def test_what_an_agent_before_left_in_the_port_is_thrown_away() -> None:
    with both(left=wire(frame(7), frame(8))[:-3]) as pair:
        pair.ssh.close()
        pair.port.say(frame(0))
        assert wait_for(pair, 1) == [(0, "virtio-serial")]


# The rule by itself.


def run_merger(merger: Merger, events: list[tuple[str, int]]) -> list[int]:
    given_out = []
    for path, seq in events:
        frames = merger.silence() if path == "silence" else merger.take(path, frame(seq))
        given_out += [it.seq for _, it in frames]
    return given_out


@given(st.integers(1, 40), st.integers(0, 40), st.sets(st.integers(0, 39)), st.randoms(use_true_random=False))
def test_everything_that_either_path_brings_is_given_once(
    count: int, ssh_dies_after: int, dropped: set[int], order: random.Random
) -> None:
    """Both paths bring the same numbers, SSH up to its death; in between they come in any interleaving."""
    numbers = [number for number in range(count) if number not in dropped]
    queues = {"ssh": [number for number in numbers if number < ssh_dies_after], "port": list(numbers)}
    events: list[tuple[str, int]] = []
    while any(queues.values()):
        path = order.choice([name for name, queue in queues.items() if queue])
        events.append((path, queues[path].pop(0)))
        if order.random() < 0.2:
            events.append(("silence", 0))
    events.append(("silence", 0))
    assert run_merger(Merger("ssh", "port"), events) == numbers


def test_a_first_path_that_is_far_behind_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "MAX_WAITING_BYTES", 10)
    merger = Merger("ssh", "port")
    long = [Frame(n, n, "slab", What.DATA, 0, 0, "x" * 6) for n in range(3)]
    assert list(merger.take("port", long[0])) == []
    assert [it.seq for _, it in merger.take("port", long[1])] == [0, 1]
    assert list(merger.take("port", long[2])) == []
    assert list(merger.take("ssh", long[0])) == []
    assert list(merger.take("ssh", long[2])) == [("ssh", long[2])]
    assert merger.waiting == 0
