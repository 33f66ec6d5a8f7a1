"""The host's end of the plugin that counts the instructions of a guest in virtual time, and holds it at a moment.

Owns the memory that plugin and host share, and the socket by which the plugin says that it holds the CPUs. The guest
sees nothing of it: a run with the plugin is the run without it.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from splvm.deadline import Deadline
from splvm.errors import GuestLostError
from splvm.guest.machine import escaped
from splvm.guest.qemu import Emulator

# ns of an instruction: what -icount shift=3 says (ICOUNT_ARGS in host/emulator.py).
INSTRUCTION_NS = 8

# struct shared of images/plugin/moment.c: words of 64 bits.
_COUNT, _CLOCK, _CLOCK_COUNT, _HOLD_AT, _HELD, _HELD_COUNT = range(0, 48, 8)
_SHARED_BYTES = 48

# Seconds until QEMU has taken the command that stops its CPUs, which it can only obey when they go on.
_TAKEN_S = 0.1
_STOP_S = 10.0


class MomentReached(Exception):
    """The guest is held at the moment that was asked for. It is no error; whoever asked goes on from here."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a guest was stopped."""

    # Instructions since it was let go, and its clock, ns: both as of the first instruction that was not executed.
    count: int
    now_ns: int


class Counter:
    """Counts the instructions of one guest."""

    def __init__(self, plugin: Path, memory: mmap.mmap, shared: int, here: socket.socket, there: socket.socket) -> None:
        self._plugin = plugin
        self._memory = memory
        self._shared = shared
        self._there = there
        self.socket = here
        # The moment that is waited for, guest time in ns; None: none.
        self._at_ns: int | None = None
        # By how much the counter of the CPUs is ahead of the guest's clock, ns. A little too much rather than too
        # little: time passes between a reading and the bell that brings it.
        self._ahead_ns: int | None = None

    def args(self) -> list[str]:
        """For QEMU's command line."""
        plugin = f"{escaped(self._plugin)},shared=/proc/self/fd/{self._shared},socket={self._there.fileno()}"
        return ["-plugin", f"{plugin},ns={INSTRUCTION_NS}"]

    @property
    def inherited(self) -> tuple[int, ...]:
        """Descriptors that the command line names."""
        return self._shared, self._there.fileno()

    def launched(self) -> None:
        """QEMU has its end now."""
        self._there.close()

    @property
    def count(self) -> int:
        """Instructions since the guest was let go, while it is held."""
        return self._word(_COUNT)

    def hold_at(self, at_ns: int) -> None:
        """Have the CPUs held at a moment of the guest's clock, ns. It is aimed at with each frame that comes."""
        self._at_ns = at_ns

    def hear(self, end_ns: int) -> None:
        """A frame has come whose reading was over at this time of the guest, ns; the guest is held at its bell.

        The counter is that of the guest's last look at it. The count of instructions is not: how far the guest is in
        ringing its bell depends on when the host reads.
        """
        ahead_ns = self._word(_CLOCK) - end_ns
        self._ahead_ns = ahead_ns if self._ahead_ns is None else min(ahead_ns, self._ahead_ns)
        if self._at_ns is not None:
            self._put(_HOLD_AT, max(1, self._at_ns + self._ahead_ns))

    def stop(self, emulator: Emulator, deadline: Deadline) -> Stop:
        """Stop a guest that is held, so that QEMU answers.

        :raises GuestLostError: when the guest ran on before QEMU had stopped it: then it is elsewhere each time.
        """
        if not self.socket.recv(1):
            raise GuestLostError("QEMU has ended")
        go_on = threading.Timer(_TAKEN_S, self.socket.sendall, (b"g",))
        go_on.start()
        # Its answer comes when the CPUs have stopped.
        emulator.qmp.execute("stop", deadline=deadline.sub(_STOP_S))
        held, count = self._word(_HELD_COUNT), self.count
        now_ns = self._word(_CLOCK) + (held - self._word(_CLOCK_COUNT)) * INSTRUCTION_NS - (self._ahead_ns or 0)
        # The block in front of which it was held is executed, and no other one.
        if count - held > 1024 or count < held:
            raise GuestLostError(f"the guest ran on for {count - held} instructions before it was stopped")
        return Stop(count, now_ns)

    def _word(self, at: int) -> int:
        return int.from_bytes(self._memory[at : at + 8], "little")

    def _put(self, at: int, value: int) -> None:
        self._memory[at : at + 8] = struct.pack("<Q", value)


@contextmanager
def open_counter(plugin: Path) -> Iterator[Counter]:
    """A counter for one guest.

    :param plugin: the shared object.
    """
    with ExitStack() as stack:
        here, there = map(stack.enter_context, socket.socketpair())
        shared = os.memfd_create("moment", os.MFD_CLOEXEC)
        stack.callback(os.close, shared)
        os.truncate(shared, _SHARED_BYTES)
        memory = stack.enter_context(mmap.mmap(shared, _SHARED_BYTES))
        yield Counter(plugin, memory, shared, here, there)
