"""The three streams of a command: whether its answer could be written, and messages that need no reader.

The answer goes to stdout. If it cannot be written, no status may say that all is well.
"""

from __future__ import annotations

import io
import os
import signal
import sys

# Python's names of the streams, by their numbers.
_NAMES = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


class Answer(io.FileIO):
    """stdout. It notes why something could not be written, whoever takes care of the error then."""

    trouble: OSError | None = None
    # There was none when the command began; what stands in for it is full.
    was_closed = False

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            self.trouble = OSError(error.errno, "it is closed" if self.was_closed else error.strerror, "stdout")
            raise self.trouble from error

    def status(self, status: str | int | None) -> str | int | None:
        """The status of a command that ends with `status`: 141 if the reader has gone, as of other programs; else 3."""
        if self.trouble is None or status in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            return status
        return 128 + signal.SIGPIPE if isinstance(self.trouble, BrokenPipeError) else 3


class _Messages(io.FileIO):
    """stderr. A message that nobody can get is no trouble: the status says what came of the command."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError:
            return memoryview(data).nbytes  # type: ignore[arg-type]


def mend_streams() -> Answer:
    """See to it that there are three streams, and that stdout and stderr are those from above.

    One that is closed would be the number of the next file that is opened, and that would get what was meant for it. In
    place of a closed stdout there is one that is full. A terminal that is not UTF-8 gets escapes, and so does a name of
    a file that is not.
    """
    closed = set()
    for number, (name, mode) in enumerate(_NAMES):
        try:
            os.fstat(number)
        except OSError:
            closed.add(name)
            # The lowest number that is free is this one.
            os.open("/dev/full" if name == "stdout" and os.path.exists("/dev/full") else os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    answer = Answer(1, "w", closefd=False)
    answer.was_closed = "stdout" in closed
    sys.stdout = _text(answer, sys.stdout)
    sys.stderr = _text(_Messages(2, "w", closefd=False), sys.stderr)
    return answer


def _text(raw: io.FileIO, before: object) -> io.TextIOWrapper:
    """A stream that writes text as the one before did."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        getattr(before, "encoding", "utf-8"),
        "backslashreplace",
        line_buffering=getattr(before, "line_buffering", False),
        write_through=getattr(before, "write_through", False),
    )
