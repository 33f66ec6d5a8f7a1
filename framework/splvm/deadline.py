"""One budget of host time, handed down to whatever blocks."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from splvm.errors import DeadlineExceeded

T = TypeVar("T")


class Deadline:
    """A point on the host's monotonic clock.

    :param seconds: budget from now on.
    """

    __slots__ = ("_end", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def remaining_s(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._end - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether the budget is used up."""
        return self.remaining_s == 0.0

    def sub(self, seconds: float) -> Deadline:
        """A deadline that ends after `seconds`, or with this one if that is earlier."""
        return Deadline(min(seconds, self.remaining_s))

    def check(self, what: str, last_seen: str = "") -> None:
        """:raises DeadlineExceeded: when the budget is used up."""
        if self.expired:
            raise DeadlineExceeded(what, self.seconds, last_seen)


def poll(probe: Callable[[], T | None], deadline: Deadline, what: str, interval_s: float = 0.05) -> T:
    """Call `probe` until it returns something, for conditions that send no event.

    The last call is made after the deadline, so that the error shows what was seen last.

    :raises DeadlineExceeded: when `probe` still returns None at the end.
    """
    while True:
        last = deadline.expired
        value = probe()
        if value is not None:
            return value
        if last:
            raise DeadlineExceeded(what, deadline.seconds)
        time.sleep(min(interval_s, deadline.remaining_s))


@contextmanager
def interrupted_after(what: str, seconds: float) -> Iterator[None]:
    """Interrupt what the interpreter does by itself, such as the match of a pattern. In the main thread alone.

    :raises DeadlineExceeded: when it is not done within `seconds`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise DeadlineExceeded(what, seconds)

    before = signal.signal(signal.SIGALRM, interrupt)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)
