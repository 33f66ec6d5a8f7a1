"""The bell and lock-step, with a thread in the place of the guest."""

from __future__ import annotations

import mmap
import socket
import struct

import pytest

from ringing import LIMIT_S, obey, ringing
from splvm.deadline import Deadline
from splvm.errors import DeadlineExceeded, GuestCommandError, GuestLostError
from splvm.evidence.formats.stream import Frame
from splvm.guest import bell as bell_module
from splvm.guest.bell import PAD, Beginning, open_bell
from splvm.guest.lockstep import BELL, LockStep


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
