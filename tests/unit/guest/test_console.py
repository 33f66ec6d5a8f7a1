"""The serial console, over a socket pair whose other end says what a guest might."""

from __future__ import annotations

import os
import select
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fake_agent import LIMIT_S, meanwhile
from splvm.deadline import Deadline, poll
from splvm.errors import BootError, DeadlineExceeded
from splvm.guest.console import _LAST_READS, _TAIL_BYTES, Console, start_console

PANIC = b"[    2.4] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n"
TITLE = "Kernel panic - not syncing: VFS: Unable to mount root fs"


@contextmanager
def started() -> Iterator[tuple[Console, socket.socket]]:
    """A console, and the guest's end of it."""
    here, guest = socket.socketpair()
    with here, guest, start_console(here, Path(os.devnull)) as console:
        yield console, guest


def wait_until_read(console: Console, text: str) -> None:
    poll(lambda: text in console.tail(10_000) or None, Deadline(LIMIT_S), f"{text!r} on the console", interval_s=0.005)


def test_what_is_waited_for_comes_later() -> None:
    with started() as (console, guest), meanwhile(lambda: guest.sendall(b"splvm: guest is up\r\n")):
        console.wait_until_says("guest is up", Deadline(LIMIT_S))


def test_what_is_waited_for_was_said_before() -> None:
    with started() as (console, guest):
        guest.sendall(b"[1.0] one\r\n[1.1] two\r\n")
        wait_until_read(console, "two")
        console.wait_until_says(r"\] one", Deadline(0))


def test_a_pattern_in_pieces() -> None:
    with started() as (console, guest):

        def speak() -> None:
            said = ""
            for piece in ("login: splvm: gu", "est i", "s up"):
                guest.sendall(piece.encode())
                said += piece
                wait_until_read(console, said)

        with meanwhile(speak):
            console.wait_until_says("splvm: guest is up", Deadline(LIMIT_S))


def test_bytes_that_are_no_text() -> None:
    with started() as (console, guest):
        guest.sendall(b"\xff\xfe\x00\x1b[2Jsplvm\xc3\r\n")
        console.wait_until_says("splvm", Deadline(LIMIT_S))
        wait_until_read(console, "splvm\ufffd")


def test_a_panic_ends_the_wait() -> None:
    with started() as (console, guest):
        guest.sendall(b"[    2.3] VFS: no root\r\n" + PANIC + b"[    2.5] CPU: 0 PID: 1\r\n")
        guest.close()
        with pytest.raises(BootError) as caught:
            console.wait_until_says("guest is up", Deadline(LIMIT_S))
        assert caught.value.title == TITLE
        assert "VFS: no root" in caught.value.console_tail
        assert "CPU: 0 PID: 1" in caught.value.console_tail
        assert console.panic_title() == TITLE


def test_a_panic_without_an_end_is_named_at_the_deadline() -> None:
    with started() as (console, guest):
        guest.sendall(PANIC)
        wait_until_read(console, "VFS")
        with pytest.raises(BootError) as caught:
            console.wait_until_says("guest is up", Deadline(0.1))
        assert caught.value.title.startswith(TITLE)


def test_what_is_said_before_a_panic_counts() -> None:
    with started() as (console, guest):
        guest.sendall(b"splvm: guest is up\r\n" + PANIC)
        guest.close()
        console.wait_until_says("guest is up", Deadline(LIMIT_S))


def test_no_panic() -> None:
    with started() as (console, guest):
        guest.sendall(b"panic=-1 on the command line, Kernel panic is only a word\r\n")
        wait_until_read(console, "word")
        assert console.panic_title() is None


def test_an_end_before_the_pattern() -> None:
    with started() as (console, guest):
        guest.sendall(b"SeaBIOS\r\nBooting from ROM...\r\n")
        guest.close()
        with pytest.raises(BootError, match="QEMU closed the console") as caught:
            console.wait_until_says("guest is up", Deadline(LIMIT_S))
        assert caught.value.console_tail.endswith("Booting from ROM...")


def test_silence_ends_at_the_deadline() -> None:
    with started() as (console, guest):
        guest.sendall(b"Booting from ROM...")
        wait_until_read(console, "ROM")
        with pytest.raises(BootError, match=r"did not say 'guest is up' within 0 s") as caught:
            console.wait_until_says("guest is up", Deadline(0.1))
        assert caught.value.console_tail == "Booting from ROM..."


def test_the_end_is_awaited() -> None:
    with started() as (console, guest):
        with pytest.raises(DeadlineExceeded, match="end of the console"):
            console.wait_until_ended(Deadline(0.1))
        guest.sendall(b"last words")
        guest.close()
        console.wait_until_ended(Deadline(LIMIT_S))
        assert console.tail() == "last words"


def test_the_tail_is_the_last_lines() -> None:
    with started() as (console, guest):
        assert console.tail() == ""
        guest.sendall(b"".join(b"line %d\r\n" % number for number in range(100)))
        guest.close()
        console.wait_until_ended(Deadline(LIMIT_S))
        assert console.tail(3) == "line 97\nline 98\nline 99"
        assert len(console.tail().splitlines()) == 30


def flood(guest: socket.socket) -> None:
    """20 MB of lines and NULs, then 10 MB without a line end, then one more line."""
    block = (b"[    1.0] " + bytes(90) + b"\r\n") * 640
    for _ in range(20 * 1024 * 1024 // len(block) + 1):
        guest.sendall(block)
    guest.sendall(b"x" * (10 * 1024 * 1024))
    guest.sendall(b"\r\nsplvm: guest is up\r\n")


def test_a_flood_is_bounded_and_what_comes_after_it_is_found() -> None:
    tracemalloc.start()
    try:
        with started() as (console, guest), meanwhile(lambda: flood(guest)):
            console.wait_until_says("splvm: guest is up", Deadline(LIMIT_S))
            assert len(console.tail(1_000_000).encode()) <= _TAIL_BYTES
            _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The sender's 10 MB are in it.
    assert peak < 10 * 1024 * 1024 + 16 * _TAIL_BYTES


def test_a_flood_without_a_waiter_does_not_block_the_guest() -> None:
    with started() as (console, guest):
        guest.settimeout(LIMIT_S)
        guest.sendall(b"y" * (4 * _TAIL_BYTES))
        guest.close()
        console.wait_until_ended(Deadline(LIMIT_S))
        assert console.tail() == "y" * _TAIL_BYTES


def test_the_reader_ends_with_the_block_and_leaves_the_socket() -> None:
    before = set(threading.enumerate())
    here, guest = socket.socketpair()
    with here, guest:
        with start_console(here, Path(os.devnull)):
            assert set(threading.enumerate()) > before
        assert set(threading.enumerate()) <= before
        guest.sendall(b"later")
        assert here.recv(5) == b"later"


def test_what_has_come_is_read_when_the_reading_ends(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    here, guest = socket.socketpair()
    said = b"x" * 50_000
    with here, guest:
        with start_console(here, log) as console:
            guest.sendall(said)
        assert console.position == len(said)
    assert log.read_bytes() == said


def test_a_guest_that_does_not_stop_talking_does_not_keep_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    here, guest = socket.socketpair()
    late: list[bytes] = []

    def talk(console: Console, data: bytes) -> None:
        guest.send(b"and ")
        if select.select([console._stop_here], [], [], 0)[0]:
            late.append(data)

    monkeypatch.setattr(Console, "_keep", talk)
    with here, guest:
        with start_console(here, Path(os.devnull)) as console:
            guest.send(b"and ")
        assert not console._thread.is_alive()
    # One more may have been on its way when it was told to end.
    assert len(late) <= _LAST_READS + 1


def test_a_console_that_is_reset() -> None:
    """An end with words unread is a reset, not an end of file."""
    here, guest = socket.socketpair()
    with here, guest:
        here.sendall(b"unread")
        guest.close()
        with (
            start_console(here, Path(os.devnull)) as console,
            pytest.raises(BootError, match="QEMU closed the console"),
        ):
            console.wait_until_says("guest is up", Deadline(LIMIT_S))


def test_everything_is_kept_as_it_comes(tmp_path: Path) -> None:
    said = b"".join(b"[    1.0] line %d\r\n\x00\xff" % number for number in range(5000))
    log = tmp_path / "console.log"
    log.write_bytes(b"before\n")
    here, guest = socket.socketpair()
    with here, guest, start_console(here, log) as console:
        # A byte at a time, as a serial port's come.
        for at in range(0, 2000):
            guest.sendall(said[at : at + 1])
        guest.sendall(said[2000:])
        guest.close()
        console.wait_until_ended(Deadline(LIMIT_S))
        assert console.position == len(said)
    assert log.read_bytes() == b"before\n" + said


def test_a_full_disk_does_not_end_the_reading() -> None:
    here, guest = socket.socketpair()
    with here, guest, start_console(here, Path("/dev/full")) as console:
        guest.sendall(b"one\r\n")
        wait_until_read(console, "one")
        guest.sendall(b"two\r\n")
        console.wait_until_says("two", Deadline(LIMIT_S))
        assert console.position == 10


def test_only_what_comes_after_a_position_counts() -> None:
    with started() as (console, guest):
        guest.sendall(b"sysrq: HELP\r\n")
        console.wait_until_says("HELP", Deadline(LIMIT_S))
        since = console.position
        assert console.says("HELP", Deadline(0.1), since=since) is False
        guest.sendall(b"sysrq: HE")
        assert console.says("HELP", Deadline(0.1), since=since) is False
        guest.sendall(b"LP\r\n")
        assert console.says("sysrq: HELP", Deadline(LIMIT_S), since=since) is True


def test_a_break_and_a_key() -> None:
    with started() as (console, guest):
        assert console.send_break("w") is True
        assert guest.recv(10) == b"\x01bw"


def test_a_break_to_a_qemu_that_is_gone() -> None:
    with started() as (console, guest):
        guest.close()
        assert console.send_break("w") is False


def test_a_panic_is_remembered_whatever_is_said_after_it() -> None:
    with started() as (console, guest):
        guest.sendall(PANIC + b"y" * (2 * _TAIL_BYTES))
        guest.close()
        console.wait_until_ended(Deadline(LIMIT_S))
        assert console.panic_title() == TITLE


def test_a_panic_in_pieces_has_its_whole_title() -> None:
    with started() as (console, guest):
        for at in range(0, len(PANIC), 7):
            guest.sendall(PANIC[at : at + 7])
        console.wait_until_says("root fs", Deadline(LIMIT_S))
        assert console.panic_title() == TITLE
