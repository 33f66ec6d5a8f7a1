"""A shell in a guest, for people."""

from __future__ import annotations

import os
from pathlib import Path

from splvm.deadline import Deadline
from splvm.guest.ssh import SshKeys
from splvm.host.process import find_program
from splvm.log import note
from splvm.run.prepare import Prepared
from splvm.run.starting import load_modules, start_any_guest


def run_shell(prepared: Prepared, logs: Path, command: str | None) -> int:
    """A shell in a guest with SPL and the probe loaded, through the system's own ssh, which knows terminals.

    :param logs: directory for the guest's logs, and for ssh's known hosts.
    :param command: run this instead of a shell.
    :returns: its exit status.
    """
    deadline = Deadline(600)
    with start_any_guest(prepared.plan, logs, deadline) as guest:
        load_modules(guest, prepared.plan, deadline)
        note(f"guest is up; {'running the command' if command else 'leave the shell to end it'}")
        return run_ssh(prepared.keys, guest.ssh.port, logs, command)


def run_ssh(keys: SshKeys, port: int, logs: Path, command: str | None = None) -> int:
    """A shell in a guest that lets the host in.

    :param port: of the host's, which leads to the guest.
    :returns: its exit status.
    """
    ssh, known_hosts = find_program("ssh"), logs / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{port} {keys.host_key.read_text()}")
    argv = [
        *(ssh, "-F", "none", "-p", str(port), "-i", str(keys.identity)),
        *("-o", f"UserKnownHostsFile={known_hosts}", "-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR"),
        *("root@127.0.0.1", *([command] if command else [])),
    ]
    # The user's terminal is the child's as well, so this one is not started through the gate for subprocesses.
    return os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn(ssh, argv, os.environ), 0)[1])
