"""What a guest's time is made of."""

from __future__ import annotations

from enum import StrEnum


class Clock(StrEnum):
    """The clock of a guest."""

    # The host's.
    REAL = "real"
    # The number of its own instructions; nothing comes in from the host.
    VIRTUAL = "virtual"


class ClockChoice(StrEnum):
    """Values of `--clock`."""

    AUTO = "auto"
    REAL = "real"
    VIRTUAL = "virtual"

    @property
    def clock(self) -> Clock:
        return Clock.VIRTUAL if self is ClockChoice.VIRTUAL else Clock.REAL
