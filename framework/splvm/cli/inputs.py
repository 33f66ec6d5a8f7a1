"""Inputs that a command reads: files, pipes and stdin, none of which may keep it for ever."""

from __future__ import annotations

import io
import os
import select
import stat

from splvm.errors import UsageError

# For how long a pipe may say nothing.
SILENCE_S = 60.0


class PatientRaw(io.RawIOBase):
    """A descriptor that is read as long as something comes.

    :raises TimeoutError: by a read, when nothing comes within `silence_s`.
    """

    def __init__(self, descriptor: int, silence_s: float) -> None:
        self.descriptor = descriptor
        self.silence_s = silence_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int | None:
        if not select.select([self.descriptor], [], [], self.silence_s)[0]:
            raise TimeoutError(None, f"nothing came from it within {self.silence_s:.0f} s")
        view = memoryview(buffer)  # type: ignore[arg-type]
        data = os.read(self.descriptor, len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed and self.descriptor > 2:
            os.close(self.descriptor)
        super().close()


def open_input(name: str, silence_s: float = SILENCE_S) -> io.BufferedReader:
    """Open a file, a pipe, a shell's `<(...)`, or `-` for stdin.

    :raises UsageError: when it is not there or cannot be read.
    """
    try:
        # A pipe that nobody writes to yet opens at once, and is waited for when it is read.
        descriptor = 0 if name == "-" else os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise UsageError(f"{name} is a directory")
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from error
    return io.BufferedReader(PatientRaw(descriptor, silence_s))
