"""What a guest has executed, with this process in the place of the plugin."""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

import pytest

from splvm.guest.cover import MOST_COVERED, open_coverer

PLUGIN = Path("/some/cover,1.so")


def test_marks_of_a_part_of_the_range() -> None:
    with open_coverer(PLUGIN, 0xFFFF0000, 100) as coverer:
        (shared,) = coverer.inherited
        assert coverer.args() == ["-plugin", f"/some/cover,,1.so,shared=/proc/self/fd/{shared}"]
        # The plugin's view of it.
        memory = mmap.mmap(os.dup(shared), 0)
        assert struct.unpack("<QQ", memory[:16]) == (0xFFFF0000, 100)
        memory[16 + 7] = 1
        assert coverer.marks(0xFFFF0006, 3) == b"\0\1\0"
        with pytest.raises(ValueError, match="not in the range"):
            coverer.marks(0xFFFF0063, 2)


@pytest.mark.parametrize("length", [0, MOST_COVERED + 1])
def test_a_range_that_cannot_be(length: int) -> None:
    with pytest.raises(ValueError, match="a range of"), open_coverer(PLUGIN, 0, length):
        pass
