"""Errors of the harness.

::

    HarnessError              trouble of the harness or the host (exit status 3)
    ├── UsageError            a name or an option that does not exist (exit status 2)
    ├── SetupError            something the host lacks, or a step of the set-up that failed
    │   └── BuildError        configure, a compiler, spatch or patch said no
    ├── QemuLaunchError       QEMU ended before a guest could run
    ├── BootError             a guest that never answered
    │   └── SilentBootError   a guest that fell silent before it could
    ├── GuestLostError        a guest that answered once and does so no more
    ├── GuestCommandError     a guest that answers, and says no
    ├── DeadlineExceeded      a step took longer than its budget
    └── EvidenceError         recorded evidence that cannot be read

A wrong verdict is not an error: it is a result.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path


class HarnessError(Exception):
    """Trouble of the harness or the host.

    :param message: what was tried and what was seen, one or more lines.
    :param hint: what the user can do about it.
    """

    exit_status = 3

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class UsageError(HarnessError):
    """A name or an option that does not exist; the message lists the valid ones."""

    exit_status = 2


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A hint that names what is spelled nearly like it; None if nothing is."""
    near = difflib.get_close_matches(name, list(known), 2)
    return f"did you mean {' or '.join(near)}?" if near else None


class SetupError(HarnessError):
    """Something the host lacks, or a step of the set-up that failed."""


class BuildError(SetupError):
    """A build step said no.

    :param step: what was being built.
    :param tail: the tool's own last lines.
    :param log: where all of its output is kept.
    """

    def __init__(self, step: str, tail: str, log: Path | None, *, hint: str | None = None) -> None:
        where = f"\nlog: {log}" if log else ""
        super().__init__(f"{step} failed:\n{tail.rstrip()}{where}", hint=hint)
        self.step = step
        self.tail = tail
        self.log = log


class QemuLaunchError(HarnessError):
    """QEMU ended before a guest could run."""

    def __init__(self, argv: Sequence[str], exit_code: int | None, log_tail: str) -> None:
        what = "QEMU does not answer on its monitor" if exit_code is None else f"QEMU ended with status {exit_code}"
        super().__init__(
            f"{what}: {log_tail.strip() or '(no output)'}\ncommand: {shlex.join(argv)}",
            hint="`splvm doctor` checks the host",
        )
        self.argv = tuple(argv)
        self.exit_code = exit_code


class BootError(HarnessError):
    """A guest that never answered.

    :param title: the kernel's own complaint, or what was waited for.
    """

    def __init__(self, title: str, console_tail: str) -> None:
        super().__init__(f"the guest did not come up: {title}\nlast lines of its console:\n{console_tail.rstrip()}")
        self.title = title
        self.console_tail = console_tail


class SilentBootError(BootError):
    """A guest that fell silent while it booted, without a complaint."""


class GuestLostError(HarnessError):
    """A guest that answered once and does so no more."""


class GuestCommandError(HarnessError):
    """A guest that answers, and says no: a command that failed, a module it does not load."""


class DeadlineExceeded(HarnessError):
    """A step took longer than its budget.

    :param what: the step.
    :param seconds: its budget.
    :param last_seen: what was seen last.
    """

    def __init__(self, what: str, seconds: float, last_seen: str = "") -> None:
        seen = f"; last seen: {last_seen}" if last_seen else ""
        super().__init__(f"{what}: not done after {seconds:.1f} s{seen}")
        self.what = what
        self.seconds = seconds
        self.last_seen = last_seen


class EvidenceError(HarnessError):
    """Recorded evidence that cannot be read (exit status 1).

    :param line: the line, counted from 1, if there is one to name.
    """

    exit_status = 1

    def __init__(self, message: str, *, line: int | None = None, hint: str | None = None) -> None:
        super().__init__(f"line {line}: {message}" if line is not None else message, hint=hint)
        self.line = line
