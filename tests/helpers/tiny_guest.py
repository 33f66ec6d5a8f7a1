"""A guest of some sixty bytes, which boots in no time: machine code that says something, and then does as told."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import pytest

from splvm.guest.machine import MachineSpec

QEMU = "qemu-system-x86_64"

needs_qemu = pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is missing")

_BASE, _SIZE = 0x100000, 4096

# Machine code for the end of a guest: to stand still for ever, or to reset the machine through the keyboard controller.
IDLE = bytes.fromhex("fa f4 ebfd")
RESET = bytes.fromhex("b0fe e664") + IDLE
# To answer each byte on the serial port with the number of those before, which is kept in memory:
# mov ebx, counter; next: mov edx, 0x3fd; in al, dx; test al, 1; jz next;
# mov edx, 0x3f8; in al, dx; mov al, [ebx]; out dx, al; inc byte [ebx]; jmp next
COUNT = (
    b"\xbb"
    + struct.pack("<I", _BASE + _SIZE - 64)
    + bytes.fromhex("bafd030000 ec a801 74f6 baf8030000 ec 8a03 ee fe03 ebe9")
)


def multiboot_image(text: bytes, end: bytes) -> bytes:
    """What QEMU's -kernel loads as well as a Linux kernel. The text goes to the first serial port."""
    base, header_bytes, total = _BASE, 32, _SIZE
    # mov esi, text; mov dx, 0x3f8; next: lodsb; test al, al; jz done; out dx, al; jmp next; done:
    code = b"\xbe%b" + bytes.fromhex("66baf803 ac 84c0 7403 ee ebf8") + end
    code = code.replace(b"%b", struct.pack("<I", base + header_bytes + len(code) + 2))
    magic, flags = 0x1BADB002, 0x00010000
    addresses = (base, base, base + total, base + total, base + header_bytes)
    header = struct.pack("<8I", magic, flags, -(magic + flags) & 0xFFFFFFFF, *addresses)
    return (header + code + text + b"\0").ljust(total, b"\0")


def make_spec(directory: Path, end: bytes = IDLE, text: bytes = b"") -> MachineSpec:
    (directory / "kernel").write_bytes(multiboot_image(text, end))
    (directory / "initrd").write_bytes(b"070701")
    return MachineSpec(QEMU, directory / "kernel", (directory / "initrd",), "tcg", ram_mib=32, cpus=1)
