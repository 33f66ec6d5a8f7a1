"""Whose turn it is on this host: runs share it, and a run that got too little of it is made again alone.

Two files have locks of the kernel (flock(2)), which end with the process that holds them. One process at a time passes
the gate. A process that waits at the gate to be alone keeps others from entering.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from splvm.deadline import Deadline, poll
from splvm.errors import DeadlineExceeded
from splvm.log import note


@contextmanager
def take_turn(directory: Path, *, alone: bool, deadline: Deadline) -> Iterator[bool]:
    """Have the host, or a share of it, for as long as the block runs.

    A directory that cannot be written to, or a deadline that passes, keep nobody from running.

    :param directory: one for all processes that take turns; made if it is not there.
    :param alone: wait until nobody else has a share.
    :returns: whether the caller got its turn.
    """
    with ExitStack() as stack:
        yield _enter(stack, directory, alone, deadline)


def _enter(stack: ExitStack, directory: Path, alone: bool, deadline: Deadline) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        host = stack.enter_context((directory / "host.turn").open("ab"))
        with (directory / "gate.turn").open("ab") as gate:
            _lock(gate, fcntl.LOCK_EX, deadline)
            _lock(host, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, deadline)
    except DeadlineExceeded:
        note("other runs on this host take long: going on beside them")
        return False
    except OSError:
        return False
    return True


def _lock(file: IO[bytes], how: int, deadline: Deadline) -> None:
    def attempt() -> bool | None:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        return True

    poll(attempt, deadline, "a turn on this host")
