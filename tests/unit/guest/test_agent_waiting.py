"""The agent that waits in a template, and whoever calls it."""

from __future__ import annotations

import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_process import HELLO, LIMIT_S, Agent, FakeProc, Port, run
from splvm.deadline import Deadline, poll


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
