"""Fixtures of several modules of tests: the guest's agent, built here, and what it is started with."""

from __future__ import annotations

import gc
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent_process import GUEST, Agent, FakeProc, Port


@pytest.fixture(scope="module")
def still_heap() -> Iterator[None]:
    """What there is by now is not looked through any more: a collection would take seconds after thousands of tests."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


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
