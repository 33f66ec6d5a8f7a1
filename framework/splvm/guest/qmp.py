"""QEMU's monitor: one command after the other, each with a deadline."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from qemu.qmp import ExecuteError, QMPClient
from qemu.qmp.error import QMPError

from splvm.deadline import Deadline
from splvm.errors import DeadlineExceeded, GuestLostError

T = TypeVar("T")


class Qmp:
    """The monitor of one QEMU, with a deadline on every command.

    qemu.qmp speaks asyncio; its loop runs in a thread of this object's own.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qmp", daemon=True)
        self._client = QMPClient("splvm")

    def connect(self, sock: socket.socket, deadline: Deadline) -> None:
        """Take over `sock` and negotiate."""
        self._thread.start()
        self._wait(self._client.connect(sock), deadline, "QMP greeting")

    def execute(self, command: str, arguments: dict[str, object] | None = None, *, deadline: Deadline) -> object:
        """Run one command and return its answer.

        :raises GuestLostError: when QEMU is gone or refuses.
        :raises DeadlineExceeded: when it does not answer.
        """
        try:
            return self._wait(self._client.execute(command, arguments), deadline, f"QMP {command}")
        except (ExecuteError, QMPError, OSError, EOFError) as error:
            raise GuestLostError(f"QMP {command}: {error}") from error

    def close(self) -> None:
        """Disconnect and end the thread; safe to call in any state."""
        if not self._thread.is_alive():
            self._loop.close()
            return
        with suppress(Exception):
            self._wait(self._client.disconnect(), Deadline(2), "QMP disconnect")
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(2)
        if not self._thread.is_alive():
            self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, T], deadline: Deadline, what: str) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(deadline.remaining_s)
        except TimeoutError:
            future.cancel()
            raise DeadlineExceeded(what, deadline.seconds) from None
