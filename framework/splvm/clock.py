"""What a guest's time is made of."""

from __future__ import annotations

from enum import StrEnum


class Clock(StrEnum):
    """The clock of a guest."""

    # The host's.
    REAL = "real"
    # The number of its own instructions; nothing comes in from the host.
    VIRTUAL = "virtual"
