"""Where a guest is held, with threads in the place of QEMU and its plugin."""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import dataclass, field

import pytest

from splvm.deadline import Deadline
from splvm.errors import DeadlineExceeded, GuestLostError
from splvm.guest.hold import LateStopError, open_hold

LIMIT_S = 30.0


@dataclass
class OwnProcess:
    pid: int = field(default_factory=os.getpid)


@dataclass
class StandIn:
    """QEMU: it stops when its guest has come to the end of the block."""

    process: OwnProcess = field(default_factory=OwnProcess)
    stopped: threading.Event = field(default_factory=threading.Event)

    def stop(self, deadline: Deadline) -> None:
        assert self.stopped.wait(LIMIT_S)


def test_a_guest_is_stopped_where_it_is_held() -> None:
    qemu = StandIn()
    with open_hold() as (hold, there):

        def run() -> None:
            there.sendall(b"h")
            assert there.recv(1) == b"g"
            qemu.stopped.set()

        thread = threading.Thread(target=run)
        thread.start()
        hold.wait(Deadline(LIMIT_S))
        hold.stop(qemu, Deadline(LIMIT_S), mark_s=0.01)  # type: ignore[arg-type]
        thread.join(LIMIT_S)


def test_a_guest_that_comes_round_again_was_not_stopped() -> None:
    qemu = StandIn()
    with open_hold() as (hold, there):

        def run() -> None:
            there.sendall(b"h")
            assert there.recv(1) == b"g"
            there.sendall(b"h")
            assert there.recv(1) == b"", "it is let go for good"
            qemu.stopped.set()

        thread = threading.Thread(target=run)
        thread.start()
        hold.wait(Deadline(LIMIT_S))
        with pytest.raises(LateStopError, match="did not stop its CPUs"):
            hold.stop(qemu, Deadline(LIMIT_S), mark_s=0.01)  # type: ignore[arg-type]
        thread.join(LIMIT_S)


def test_a_guest_that_never_comes_there() -> None:
    with open_hold() as (hold, there):
        with pytest.raises(DeadlineExceeded, match="a guest in virtual time"):
            hold.wait(Deadline(0.01))
        there.shutdown(socket.SHUT_RDWR)
        with pytest.raises(GuestLostError, match="QEMU ended"):
            hold.wait(Deadline(LIMIT_S))
