"""Calls of a module, from its relocations: a module is made here by the compiler, as Kbuild would make it."""

from __future__ import annotations

import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from splvm.builds.calls import find_calls
from splvm.errors import SetupError

SOURCE = """\
void *__kmalloc(unsigned long size, unsigned int flags);
void *kvmalloc_node(unsigned long size, unsigned int flags, int node);
void printk(void *p);
void *twice(unsigned long n)
{
	void *a = __kmalloc(n, 1), *b = __kmalloc(n, 2);

	printk(a);
	printk(b);
	return a;
}
void *jumps(unsigned long n)
{
	return kvmalloc_node(n, 3, -1);
}
int init_module(void)
{
	printk(__kmalloc(1, 1));
	return 0;
}
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc")
    directory = tmp_path_factory.mktemp("calls")
    (directory / "m.c").write_text(SOURCE)
    argv = ["gcc", "-O2", "-fno-pic", "-mcmodel=kernel", "-c", "m.c", "-o", "m.ko"]
    subprocess.run(argv, cwd=directory, check=True)
    return directory / "m.ko"


def test_each_call_has_a_place(module: Path) -> None:
    calls = {call.place: call for call in find_calls(module)}
    assert {"twice:__kmalloc#1", "twice:__kmalloc#2", "jumps:kvmalloc_node#1", "init_module:__kmalloc#1"} <= set(calls)
    first, second = calls["twice:__kmalloc#1"], calls["twice:__kmalloc#2"]
    assert 0 < first.offset < second.offset
    assert first.is_direct and not first.is_jump and not first.is_of_init
    # What is called returns to the caller of `jumps`.
    assert calls["jumps:kvmalloc_node#1"].is_jump
    assert calls["init_module:__kmalloc#1"].is_of_init
    assert not next(call for place, call in calls.items() if ":printk#" in place).is_direct


def test_the_offset_is_that_of_the_return_address(module: Path) -> None:
    """objdump, which reads the same file otherwise, has the next instruction there."""
    lines = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", "--disassemble=twice", str(module)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    code = [line.split(":") for line in lines if "\t" in line]
    start = int(code[0][0], 16)
    after = {int(later[0], 16) - start for call, later in pairwise(code) if "call" in call[1]}
    assert {call.offset for call in find_calls(module) if call.function == "twice" and not call.is_jump} <= after


def test_a_module_without_symbols(module: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.ko"
    shutil.copy(module, bare)
    subprocess.run(["objcopy", "--remove-section=.rela.text", "--strip-all", str(bare)], check=True)
    with pytest.raises(SetupError, match="has no symbols, so its allocations have no names"):
        find_calls(bare)


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"no module at all" * 10])
def test_what_is_no_module(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.ko").write_bytes(content)
    with pytest.raises(SetupError, match="cannot be read as a module"):
        find_calls(tmp_path / "m.ko")
