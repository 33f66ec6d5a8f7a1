"""A guest that is stopped, and a debugger: QEMU's gdb server, and what makes gdb know the guest's symbols."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from splvm.deadline import Deadline, poll
from splvm.errors import DeadlineExceeded, GuestLostError
from splvm.guest.qemu import Emulator

# What slabprobe says of itself and of SPL when it is loaded (images/slabprobe/explore.c).
_TEXT = re.compile(r"slabprobe: text of (\w+) is at (0x[0-9a-f]+)")
_ANSWER_S = 5.0
# Nobody has to hurry.
_SESSION_S = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class ModuleText:
    """Where the text of a module is in a guest, and a file with its symbols."""

    symbols: Path
    address: int


def text_addresses(console: str) -> dict[str, int]:
    """Address of the text of each module that the probe has told of, by the module's name."""
    return {name: int(address, 16) for name, address in _TEXT.findall(console)}


def gdb_commands(socket: Path, vmlinux: Path | None, modules: Sequence[ModuleText]) -> str:
    """What gdb reads first.

    :param vmlinux: the kernel with its debug symbols; None: they are not there.
    """
    lines = ["set confirm off", "set pagination off", "set architecture i386:x86-64"]
    lines += [f'file "{vmlinux}"'] if vmlinux else ["# `splvm build --symbols` fetches the kernel's symbols"]
    lines += [f'add-symbol-file "{it.symbols}" -s .text {it.address:#x}' for it in modules]
    return "\n".join([*lines, f"target remote {socket}", ""])


def serve_gdb(emulator: Emulator, socket: Path, deadline: Deadline) -> None:
    """Open the gdb server of a guest that is stopped.

    :param socket: path that a unix socket can have (107 bytes).
    :raises GuestLostError: when QEMU refuses.
    """
    words: dict[str, object] = {"command-line": f"gdbserver unix:{socket},server=on,wait=off"}
    emulator.qmp.execute("human-monitor-command", words, deadline=deadline.sub(_ANSWER_S))


def wait_for_session(emulator: Emulator) -> None:
    """Wait until a debugger has come and gone."""
    has_come = False

    def has_gone() -> bool | None:
        nonlocal has_come
        if emulator.exit_code() is not None:
            return True
        try:
            devices = emulator.qmp.execute("query-chardev", deadline=Deadline(_ANSWER_S))
            runs = emulator.status(Deadline(_ANSWER_S)) == "running"
        except (DeadlineExceeded, GuestLostError):
            # It was let go on, and is held at its next bell, which nobody answers.
            return True
        names = [it["filename"] for it in devices if it["label"] == "gdb"] if isinstance(devices, list) else []
        is_there = any(not name.startswith("disconnected:") for name in names)
        # One that came and went between two looks has let the guest go on.
        has_come = has_come or is_there or runs
        return (has_come and not is_there) or None

    poll(has_gone, Deadline(_SESSION_S), "a session of gdb", interval_s=0.2)
