"""The host's end of the bell, by which a guest in virtual time asks what to do next.

Owns the memory that host and guest share, and the socket behind the port that the guest writes to. Each time the guest
has put frames into that memory it writes `PAD` bytes to the port. The socket takes a few of them and no more before the
host reads, so QEMU holds the one thread of all virtual CPUs in that write: no instruction is executed and no time
passes in the guest until the host has read the rest. The answer is in the memory by then.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from splvm.deadline import Deadline
from splvm.errors import DeadlineExceeded, GuestLostError, SetupError
from splvm.guest.machine import SHARED_MIB
from splvm.guest.moment import MomentReached

# images/guest/agent_bell.c has the same.
PAD = 64
_GO, _RATE, _FRAMES, _ANSWER, _SEED = range(0, 20, 4)
# The value of the first word; the firmware and QEMU's loader leave other things there.
_YES = 0x1EA5E0FB
_ENTROPY, ENTROPY_BYTES = 64, 64
_ANSWER_AT, _ANSWER_BYTES = 4096, 65536 - 4096
_FRAMES_AT = 65536

# Seconds of CPU time that QEMU may use without a bell, after which the guest counts as silent: a busy guest takes one
# for one to three of its own. Its time on the host's clock says nothing: it may be stopped, or alone on no core.
SILENT_CPU_S = 30.0
# Seconds of the host without a bell and without CPU time: a guest whose CPUs all wait for what never comes.
_IDLE_S = 60.0
_LOOK_S = 0.25


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a clone begins with. Nothing else makes one differ from another of its template."""

    # Samples a second of the guest.
    rate_hz: int
    seed: int

    def entropy(self) -> bytes:
        """The seed of the kernel's random numbers."""
        return self.seed.to_bytes(8, "little") * (ENTROPY_BYTES // 8)


class Bell:
    """The bell of one guest."""

    def __init__(self, sock: socket.socket, memory: mmap.mmap) -> None:
        self._sock = sock
        self._memory = memory
        self._cpu_s: Callable[[], float | None] = lambda: 0.0
        self._is_stopped: Callable[[], bool] = lambda: False
        self._moment: socket.socket | None = None

    def watch(self, cpu_s: Callable[[], float | None], is_stopped: Callable[[], bool]) -> None:
        """Tell a silent guest by what QEMU does.

        :param cpu_s: seconds of CPU time that QEMU has used; None once it has ended.
        :param is_stopped: whether somebody has stopped it: then it is not silent.
        """
        self._cpu_s, self._is_stopped = cpu_s, is_stopped

    def expect_moment(self, sock: socket.socket) -> None:
        """Look for word of a plugin as well that holds the guest, see guest/moment.py."""
        self._moment = sock

    def hang_up(self) -> None:
        """Let a guest go that is held: nobody answers any more."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def content(self) -> bytes:
        """All of the shared memory. The firmware has tables of its own in it."""
        return self._memory[:]

    def prepare(self, content: bytes, beginning: Beginning) -> None:
        """Put into the memory what a clone begins with, before its first instruction.

        :param content: that of the template's.
        """
        self._memory[:] = content
        self._put(_RATE, beginning.rate_hz)
        self._memory[_SEED : _SEED + 8] = struct.pack("<Q", beginning.seed)
        self._memory[_ENTROPY : _ENTROPY + ENTROPY_BYTES] = beginning.entropy()
        self._put(_GO, _YES)

    def wait(self, deadline: Deadline) -> bytes:
        """Wait until it rings, and give what the guest has brought; the guest is then held until the answer.

        :raises GuestLostError: when QEMU ends, or runs for too long without a bell.
        :raises DeadlineExceeded: at the deadline.
        :raises MomentReached: when it is held elsewhere than at its bell.
        """
        since_s, idle = self._cpu_s(), Deadline(_IDLE_S)
        heard = [self._sock] if self._moment is None else [self._sock, self._moment]
        while self._sock not in (ready := select.select(heard, [], [], min(_LOOK_S, deadline.remaining_s))[0]):
            if ready and self._moment is not None and self._moment.recv(1, socket.MSG_PEEK):
                raise MomentReached
            used_s = self._cpu_s()
            if used_s is None or since_s is None:
                raise GuestLostError("QEMU has ended")
            if used_s - since_s > SILENT_CPU_S:
                raise GuestLostError(f"the guest did not ring while QEMU ran for {SILENT_CPU_S:.0f} s")
            if self._is_stopped():
                idle = Deadline(_IDLE_S)
            if idle.expired and used_s - since_s < 1:
                raise GuestLostError("the guest does not ring, and QEMU does not run")
            deadline.check("the guest's bell")
        if not self._sock.recv(1):
            raise GuestLostError("QEMU has closed the bell")
        length = min(self._word(_FRAMES), len(self._memory) - _FRAMES_AT)
        return self._memory[_FRAMES_AT : _FRAMES_AT + length]

    def answer(self, text: str, deadline: Deadline) -> None:
        """Answer, and let the guest go on.

        :param text: lines of commands, or nothing.
        :raises GuestLostError: when QEMU ends meanwhile.
        """
        data = text.encode()
        if len(data) > _ANSWER_BYTES:
            raise ValueError(f"an answer of {len(data)} bytes")
        self._memory[_ANSWER_AT : _ANSWER_AT + len(data)] = data
        self._put(_ANSWER, len(data))
        left = PAD - 1
        while left:
            if not select.select([self._sock], [], [], deadline.remaining_s)[0]:
                raise DeadlineExceeded("the rest of a bell", deadline.seconds)
            got = len(self._sock.recv(left))
            if not got:
                raise GuestLostError("QEMU has closed the bell")
            left -= got

    def _word(self, at: int) -> int:
        return int.from_bytes(self._memory[at : at + 4], "little")

    def _put(self, at: int, value: int) -> None:
        self._memory[at : at + 4] = value.to_bytes(4, "little")


@contextmanager
def open_bell() -> Iterator[tuple[Bell, socket.socket, int]]:
    """A bell, QEMU's end of its socket, and the descriptor of the shared memory.

    :raises SetupError: when a socket takes so much at once that a write to it would not hold the guest.
    """
    with ExitStack() as stack:
        here, there = map(stack.enter_context, socket.socketpair())
        # The least that the kernel allows: some six writes of a byte each.
        there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        if (room := _room(here, there)) > PAD // 2:
            raise SetupError(f"a socket of this host takes {room} bytes at once; the bell needs one that takes fewer")
        shared = os.memfd_create("bell", os.MFD_CLOEXEC)
        stack.callback(os.close, shared)
        os.truncate(shared, SHARED_MIB << 20)
        memory = stack.enter_context(mmap.mmap(shared, SHARED_MIB << 20))
        yield Bell(here, memory), there, shared


def _room(here: socket.socket, there: socket.socket) -> int:
    """How many single bytes can be written before they are read."""
    room = 0
    try:
        while room < PAD:
            room += there.send(b"\0", socket.MSG_DONTWAIT)
    except BlockingIOError:
        pass
    left = room
    while left:
        left -= len(here.recv(left))
    return room
