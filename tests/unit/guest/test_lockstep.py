"""The bell and lock-step, with a thread in the place of the guest: it writes to the port as QEMU does."""

from __future__ import annotations

import mmap
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from splvm.deadline import Deadline
from splvm.errors import DeadlineExceeded, GuestCommandError, GuestLostError
from splvm.evidence.formats.stream import Frame
from splvm.guest import bell as bell_module
from splvm.guest.bell import PAD, Beginning, Bell, open_bell
from splvm.guest.lockstep import BELL, LockStep

LIMIT_S = 30.0


class Guest:
    """QEMU's end: rings with some bytes of frames, and gives the answer that is there when it may go on."""

    def __init__(self, sock: socket.socket, shared: int) -> None:
        self.sock = sock
        self.memory = mmap.mmap(os.dup(shared), 1 << 20)
        self.seq = 0

    def ring(self, data: bytes) -> str:
        self.memory[65536 : 65536 + len(data)] = data
        self.memory[8:12] = struct.pack("<I", len(data))
        for _ in range(PAD):
            self.sock.sendall(b"\0")
        (length,) = struct.unpack("<I", self.memory[12:16])
        return self.memory[4096 : 4096 + length].decode()

    def frame(self, source: str, what: str, text: str, ns: int) -> bytes:
        head = f"F {self.seq} {self.seq} {source} {what} {ns} {ns} {len(text)}\n"
        self.seq += 1
        return f"{head}{text}\n".encode()


@contextmanager
def ringing(act: Callable[[Guest], None]) -> Iterator[Bell]:
    """A bell that `act` rings, in a thread."""
    with open_bell() as (bell, there, shared):
        guest = Guest(there, shared)

        def run() -> None:
            # The host goes while the guest rings.
            with suppress(OSError):
                act(guest)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield bell
        finally:
            there.shutdown(socket.SHUT_RDWR)
            thread.join(LIMIT_S)
            guest.memory.close()


def test_the_guest_is_held_until_the_answer_is_there() -> None:
    said: list[str] = []
    with ringing(lambda guest: said.extend(guest.ring(b"frames") for _ in range(3))) as bell:
        for number in range(3):
            assert bell.wait(Deadline(LIMIT_S)) == b"frames"
            assert len(said) == number, "it has not come back from its write"
            bell.answer(f"answer {number}\n", Deadline(LIMIT_S))
    assert said == ["answer 0\n", "answer 1\n", "answer 2\n"]


def test_a_socket_takes_little_before_it_is_read() -> None:
    """Otherwise the guest would go on without an answer."""
    with open_bell() as (_, there, _):
        room = 0
        with pytest.raises(BlockingIOError):
            while True:
                room += there.send(b"\0", socket.MSG_DONTWAIT)
    assert room < PAD // 4


def test_what_a_clone_begins_with() -> None:
    with open_bell() as (bell, _, shared), mmap.mmap(shared, 1 << 20) as memory:
        template = bytearray(1 << 20)
        template[900_000] = 7
        bell.prepare(bytes(template), Beginning(rate_hz=20, seed=0x0102030405))
        assert struct.unpack("<II", memory[:8]) == (0x1EA5E0FB, 20)
        assert struct.unpack("<Q", memory[16:24]) == (0x0102030405,)
        assert memory[64:128] == struct.pack("<Q", 0x0102030405) * 8
        assert memory[900_000] == 7, "tables of the firmware stay"


@pytest.mark.parametrize(
    ("used", "message"),
    [([0.0, 0.0, None], "QEMU has ended"), ([0.0, 29.0, 31.0], "did not ring while QEMU ran for 30 s")],
)
def test_a_silent_guest_is_known_by_the_time_of_qemu(
    used: list[float | None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bell_module, "_LOOK_S", 0.0)
    with open_bell() as (bell, _, _):
        bell.watch(lambda: used.pop(0), lambda: False)
        with pytest.raises(GuestLostError, match=message):
            bell.wait(Deadline(LIMIT_S))


def test_a_guest_that_waits_for_ever_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bell_module, "_IDLE_S", 0.0)
    monkeypatch.setattr(bell_module, "_LOOK_S", 0.0)
    with open_bell() as (bell, _, _), pytest.raises(GuestLostError, match="QEMU does not run"):
        bell.wait(Deadline(LIMIT_S))


def test_a_qemu_that_is_stopped_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it goes on, and does nothing."""
    monkeypatch.setattr(bell_module, "_IDLE_S", 0.05)
    monkeypatch.setattr(bell_module, "_LOOK_S", 0.0)
    looks = iter([True] * 50)
    with open_bell() as (bell, _, _):
        bell.watch(lambda: 0.0, lambda: next(looks, False))
        with pytest.raises(GuestLostError, match="QEMU does not run"):
            bell.wait(Deadline(LIMIT_S))
    assert next(looks, None) is None


def test_a_guest_that_is_held_is_let_go() -> None:
    with open_bell() as (bell, there, _):
        bell.hang_up()
        with pytest.raises(OSError, match="Broken pipe"):
            while True:
                there.sendall(b"\0")


def test_a_guest_that_ends() -> None:
    with open_bell() as (bell, there, _):
        there.close()
        with pytest.raises(GuestLostError, match="closed the bell"):
            bell.wait(Deadline(LIMIT_S))


# Lock-step


def obey(guest: Guest, refused: str = "", quick: int = 2) -> None:
    """The agent: answers a command some bells after it, and ends its stream when it is told to."""
    ns = 1_000_000_000
    data = guest.frame("agent", "data", "hello version=1", ns)
    pending: list[tuple[int, str]] = []
    while True:
        said = guest.ring(data)
        if said.startswith("open "):
            return
        ns += 50_000_000
        data = guest.frame("loadavg", "data", "0.0", ns)
        pending = [(left - 1, line) for left, line in pending] + [(quick, line) for line in said.splitlines()]
        for left, line in pending:
            number, _, command = line.partition(" ")
            kind, _, words = command.partition(" ")
            if left == 0 and line == "quit":
                data += guest.frame("agent", "data", f"end frames={guest.seq} dropped=0", ns)
            elif left == 0:
                bad = refused and words == refused
                head = "errno=22" if bad else "ok"
                data += guest.frame("ctl", "error" if bad else "data", f"{head} {number} {words}", ns)
                assert kind in ("probe", "sysrq", "run")


def test_commands_and_the_end() -> None:
    frames: list[tuple[Frame, str]] = []
    with ringing(obey) as bell:
        agent = LockStep(bell, lambda frame, path: frames.append((frame, path)), Deadline(LIMIT_S))
        assert agent.command("mark window", Deadline(LIMIT_S)) == 1_150_000_000
        agent.list_tasks("wt")
        agent.run("mount -t proc none /proc", 1.0)
        assert agent.quit(Deadline(LIMIT_S))
        agent.let_in("KEY HOSTKEY")
    assert {path for _, path in frames} == {BELL}
    assert [frame.seq for frame, _ in frames] == list(range(len(frames)))
    assert [frame.text for frame, _ in frames if frame.source == "ctl"] == [
        "ok #1 mark window",
        "ok #2 w",
        "ok #3 t",
        "ok #4 mount -t proc none /proc",
    ]
    assert frames[-1][0].text.startswith("end ")


def test_frames_do_not_depend_on_how_long_the_host_takes() -> None:
    """The deadline of a command is the guest's."""

    def frames(deadline: Deadline) -> list[Frame]:
        found: list[Frame] = []
        with ringing(obey) as bell:
            agent = LockStep(bell, lambda frame, _: found.append(frame), Deadline(LIMIT_S))
            agent.command("hold", deadline)
            agent.quit(deadline)
        return found

    assert frames(Deadline(LIMIT_S)) == frames(Deadline(0))


def test_a_command_that_is_refused() -> None:
    with ringing(lambda guest: obey(guest, refused="hold")) as bell:
        agent = LockStep(bell, lambda *_: None, Deadline(LIMIT_S))
        with pytest.raises(GuestCommandError, match=r"the probe refused 'hold': errno=22"):
            agent.command("hold", Deadline(LIMIT_S))


def test_a_command_that_fails_in_a_shell() -> None:
    with ringing(lambda guest: obey(guest, refused="false", quick=40)) as bell:
        agent = LockStep(bell, lambda *_: None, Deadline(LIMIT_S))
        with pytest.raises(GuestCommandError, match=r"the guest cannot run 'false': errno=22"):
            agent.run("false", 10.0)
        with pytest.raises(DeadlineExceeded, match=r"run true: not done after 1\.0 s"):
            agent.run("true", 1.0)


def test_a_command_that_is_never_answered() -> None:
    with ringing(lambda guest: obey(guest, quick=100_000)) as bell:
        agent = LockStep(bell, lambda *_: None, Deadline(LIMIT_S))
        with pytest.raises(DeadlineExceeded, match=r"probe hold: not done after 20\.0 s"):
            agent.command("hold", Deadline(LIMIT_S))
