"""testinfra's assertions on a guest; the only module that imports testinfra, for the fixture `guest_host`."""

from __future__ import annotations

from typing import Any

from testinfra.backend.base import BaseBackend, CommandResult
from testinfra.host import Host

from splvm.deadline import Deadline
from splvm.guest.guest import Guest

# Seconds of the host for one command in a healthy guest.
_COMMAND_S = 30.0


class _GuestBackend(BaseBackend):  # type: ignore[misc]
    """testinfra over the guest's own connection, with a deadline on every command.

    testinfra's paramiko backend has none, and after a reconnect may run a command twice.
    """

    NAME = "splvm"

    def __init__(self, guest: Guest) -> None:
        super().__init__("guest")
        self._guest = guest

    def run(self, command: str, *args: str, **kwargs: Any) -> CommandResult:
        line = self.get_command(command, *args)
        result = self._guest.ssh.run(line, deadline=Deadline(_COMMAND_S), check=False)
        return self.result(result.status, line, result.stdout, result.stderr)


def host_of(guest: Guest) -> Host:
    """Assertions of testinfra on a healthy guest."""
    return Host(_GuestBackend(guest))
