"""Taking a memory dump from a monitor that refuses, stops in the middle, never begins, or lies."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from splvm.deadline import Deadline
from splvm.errors import DeadlineExceeded, GuestLostError, HarnessError, SetupError
from splvm.guest.memorydump import dump_memory

CONTENT = b"KDUMP" + bytes(3 << 20)


class FakeMonitor:
    """QEMU's side of a dump."""

    def __init__(self) -> None:
        self.ram: object = {"base-memory": 1 << 20}
        # What is written into the pipe; None when it is never opened.
        self.write: Callable[[Any], object] | None = lambda pipe: pipe.write(CONTENT)
        # What query-dump says, one answer after the other; the last one for ever.
        self.status: list[object] = [{"status": "active"}, {"status": "completed"}]
        # What query-status says, in the same way.
        self.machine: list[object] = [{"status": "running"}]
        self.refusal: HarnessError | None = None
        self.arguments: dict[str, object] = {}
        self.broken = threading.Event()
        self.threads: list[threading.Thread] = []

    def execute(self, command: str, arguments: dict[str, object] | None = None, *, deadline: Deadline) -> object:
        deadline.check(command)
        if command == "query-memory-size-summary":
            return self.ram
        if command == "query-dump":
            return self.status.pop(0) if len(self.status) > 1 else self.status[0]
        if command == "query-status":
            return self.machine.pop(0) if len(self.machine) > 1 else self.machine[0]
        assert command == "dump-guest-memory"
        assert self.machine == [{"status": "running"}]
        if self.refusal:
            raise self.refusal
        self.arguments = arguments or {}
        if self.write is not None:
            # Opened before the answer, as QEMU does it; the thread closes it.
            pipe = os.open(str(self.arguments["protocol"]).removeprefix("file:"), os.O_WRONLY)
            self.threads.append(threading.Thread(target=self._dump, args=[pipe, self.write]))
            self.threads[-1].start()
        return {}

    def _dump(self, descriptor: int, write: Callable[[Any], object]) -> None:
        try:
            with open(descriptor, "wb", buffering=0) as pipe:
                write(pipe)
        except BrokenPipeError:
            self.broken.set()


@pytest.fixture
def monitor() -> Iterator[FakeMonitor]:
    fake = FakeMonitor()
    yield fake
    for thread in fake.threads:
        thread.join(10)
        assert not thread.is_alive()


def take(monitor: FakeMonitor, directory: Path, seconds: float = 30.0, **options: Any) -> Any:
    return dump_memory(monitor, directory / "memory.kdump", Deadline(seconds), **options)  # type: ignore[arg-type]


def test_whole_dump(monitor: FakeMonitor, tmp_path: Path) -> None:
    dump = take(monitor, tmp_path)
    assert dump.path.read_bytes() == CONTENT
    assert dump.size_bytes == len(CONTENT)
    assert [path.name for path in tmp_path.iterdir()] == ["memory.kdump"]
    assert monitor.arguments["format"] == "kdump-zlib"
    assert (monitor.arguments["paging"], monitor.arguments["detach"]) == (False, True)


def test_a_dump_waits_for_the_end_of_the_one_before_it(monitor: FakeMonitor, tmp_path: Path) -> None:
    monitor.machine = [*([{"status": "save-vm"}] * 3), {"status": "running"}]
    assert take(monitor, tmp_path).path.read_bytes() == CONTENT


def refuse(monitor: FakeMonitor) -> None:
    monitor.refusal = GuestLostError("QMP dump-guest-memory: not now")


def lie_about_memory(monitor: FakeMonitor) -> None:
    monitor.ram = {"base-memory": "much"}


def have_too_much(monitor: FakeMonitor) -> None:
    monitor.ram = {"base-memory": 1 << 60}


def end_as(status: object) -> Callable[[FakeMonitor], None]:
    def change(monitor: FakeMonitor) -> None:
        monitor.status = [status]

    return change


@pytest.mark.parametrize(
    ("change", "options", "error", "says"),
    [
        (refuse, {}, GuestLostError, "not now"),
        (lie_about_memory, {}, GuestLostError, "query-memory-size-summary"),
        (have_too_much, {"limit_bytes": 1 << 60}, SetupError, "MiB are free"),
        (end_as({"status": "failed"}), {}, SetupError, "'failed'"),
        (end_as("nonsense"), {}, SetupError, "'nonsense'"),
        (lambda monitor: None, {"limit_bytes": 1 << 20}, SetupError, "larger than 1 MiB"),
    ],
)
def test_dump_that_fails_leaves_nothing(
    monitor: FakeMonitor,
    tmp_path: Path,
    change: Callable[[FakeMonitor], None],
    options: dict[str, Any],
    error: type[HarnessError],
    says: str,
) -> None:
    change(monitor)
    with pytest.raises(error, match=says):
        take(monitor, tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_nobody_reads_after_the_limit(monitor: FakeMonitor, tmp_path: Path) -> None:
    """QEMU has to notice, or the guest would stand still for good."""
    monitor.write = lambda pipe: [pipe.write(CONTENT) for _ in range(100)]
    with pytest.raises(SetupError, match="larger"):
        take(monitor, tmp_path, limit_bytes=4 << 20)
    assert monitor.broken.wait(10)


def test_dump_that_never_begins(monitor: FakeMonitor, tmp_path: Path) -> None:
    monitor.write = None
    monitor.status = [{"status": "none"}]
    with pytest.raises(SetupError, match="ended it as 'none'"):
        take(monitor, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_dump_that_stops_in_the_middle(monitor: FakeMonitor, tmp_path: Path) -> None:
    released = threading.Event()

    def write(pipe: Any) -> None:
        pipe.write(bytes(3 << 20))
        released.wait(10)

    monitor.write = write
    with pytest.raises(DeadlineExceeded, match="3 MiB written"):
        take(monitor, tmp_path, 0.5)
    released.set()
    assert list(tmp_path.iterdir()) == []


def test_dump_that_never_says_its_end(monitor: FakeMonitor, tmp_path: Path) -> None:
    monitor.status = [{"status": "active"}]
    with pytest.raises(DeadlineExceeded, match="dump"):
        take(monitor, tmp_path, 0.5)
    assert list(tmp_path.iterdir()) == []


def test_old_dump_stays_until_the_new_one_is_whole(monitor: FakeMonitor, tmp_path: Path) -> None:
    (tmp_path / "memory.kdump").write_bytes(b"old")
    monitor.status = [{"status": "failed"}]
    with pytest.raises(SetupError):
        take(monitor, tmp_path)
    assert (tmp_path / "memory.kdump").read_bytes() == b"old"


def test_directory_that_is_not_there(monitor: FakeMonitor, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="No such file"):
        take(monitor, tmp_path / "nowhere")
