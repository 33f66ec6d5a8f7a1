"""The counter of a guest's instructions, with this process in the place of the plugin."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from splvm.deadline import Deadline
from splvm.errors import GuestLostError
from splvm.guest.bell import PAD, open_bell
from splvm.guest.debugger import ModuleText, gdb_commands, text_addresses
from splvm.guest.moment import INSTRUCTION_NS, Counter, MomentReached, open_counter

# Words of `struct shared` in images/plugin/moment.c.
COUNT, CLOCK, CLOCK_COUNT, HOLD_AT = range(4)


@pytest.fixture
def counter() -> Iterator[Counter]:
    with open_counter(Path("/some/moment,1.so")) as made:
        yield made


def plugin_memory(counter: Counter) -> mmap.mmap:
    """The plugin's view of what it shares with the host."""
    return mmap.mmap(os.dup(counter.inherited[0]), 0)


def put(memory: mmap.mmap, word: int, value: int) -> None:
    memory[8 * word : 8 * word + 8] = struct.pack("<Q", value)


def get(memory: mmap.mmap, word: int) -> int:
    return int.from_bytes(memory[8 * word : 8 * word + 8], "little")


def test_what_qemu_is_told(counter: Counter) -> None:
    shared, there = counter.inherited
    assert counter.args() == [
        "-plugin",
        f"/some/moment,,1.so,shared=/proc/self/fd/{shared},socket={there},ns={INSTRUCTION_NS}",
    ]


def test_a_moment_is_aimed_at_with_each_frame(counter: Counter) -> None:
    """The counter of the CPUs is ahead of the guest's clock by the least that any frame has shown."""
    memory = plugin_memory(counter)
    counter.hold_at(7_000_000)
    assert get(memory, HOLD_AT) == 0
    # The CPUs read 1,000,000 at instruction 100, and later comes a frame that was read at 900,000. How far the guest is
    # in ringing for it depends on the host.
    put(memory, CLOCK, 1_000_000)
    put(memory, CLOCK_COUNT, 100)
    for count in (150, 153):
        put(memory, COUNT, count)
        counter.hear(900_000)
        assert get(memory, HOLD_AT) == 7_000_000 + 100_000
    put(memory, CLOCK, 2_000_000)
    put(memory, CLOCK_COUNT, 150)
    counter.hear(1_980_000)
    assert get(memory, HOLD_AT) == 7_020_000
    counter.hear(1_500_000)
    assert get(memory, HOLD_AT) == 7_020_000


def test_the_bell_tells_of_a_guest_that_is_held(counter: Counter) -> None:
    with open_bell() as (bell, there, _):
        bell.expect_moment(counter.socket)
        os.write(counter.inherited[1], b"h")
        with pytest.raises(MomentReached):
            bell.wait(Deadline(30))
        # A bell that rings comes first.
        there.sendall(b"\0")
        assert PAD > 1 and bell.wait(Deadline(30)) == b""


def test_a_qemu_that_ends_is_not_held(counter: Counter) -> None:
    with open_bell() as (bell, _, _):
        bell.expect_moment(counter.socket)
        bell.watch(lambda: None, lambda: False)
        counter.launched()
        with pytest.raises(GuestLostError, match="QEMU has ended"):
            bell.wait(Deadline(30))


def test_what_gdb_reads() -> None:
    text_at = "[    1.0] slabprobe: text of {} is at {}\r\n".format
    console = text_at("slabprobe", "0xffffffffa0001000") + text_at("spl", "0xf0")
    assert text_addresses(console) == {"slabprobe": 0xFFFFFFFFA0001000, "spl": 0xF0}
    text = gdb_commands(Path("/run/gdb"), Path("/my/vmlinux"), [ModuleText(Path("/spl.ko.debug"), 0xF0)])
    assert 'add-symbol-file "/spl.ko.debug" -s .text 0xf0\n' in text
    assert text.index('file "/my/vmlinux"') < text.index("target remote /run/gdb\n")
    assert "splvm build --symbols" in gdb_commands(Path("/run/gdb"), None, [])
