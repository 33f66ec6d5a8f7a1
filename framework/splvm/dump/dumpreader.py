"""What drgn finds in a memory dump, as one JSON object on standard output; postmortem.py starts this.

A process of its own: a dump is whatever the guest left, and drgn is C code that follows the pointers in it. Every loop
has a bound here, memory has one, and time has the parent's deadline. Unreadable parts are named in `problems`, and
the rest is still read.
"""

from __future__ import annotations

import json
import re
import resource
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from drgn import (
    Architecture,
    FaultError,
    MissingDebugInfoError,
    ModuleFileStatus,
    Object,
    Platform,
    Program,
    StackFrame,
    cast,
)
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.sched import task_state_to_char
from drgn.helpers.linux.wait import waitqueue_for_each_entry

# What is not a number here is at most so much; a healthy guest with all of ZFS has some 100 caches and 600 threads.
MAX_CACHES = 1024
MAX_WAITERS = 1024
MAX_THREADS = 4096
MAX_MODULES = 4096
MAX_FRAMES = 64
MAX_PROBLEMS = 64
MAX_NAME = 128
MAX_PROBLEM_CHARS = 300
# All of drgn's memory, vmlinux and the dump mapped included.
MEMORY_BYTES = 8 << 30

# Our names of the counts, and SPL's (struct spl_kmem_cache in sys/kmem_cache.h, 2.0.3 to 2.4). One that a version does
# not have is null.
COUNTS = {
    "object_bytes": "skc_obj_size",
    "slab_bytes": "skc_slab_size",
    "slab_objects": "skc_slab_objs",
    "slab_total": "skc_slab_total",
    "slab_alloc": "skc_slab_alloc",
    "slab_max": "skc_slab_max",
    "object_total": "skc_obj_total",
    "object_alloc": "skc_obj_alloc",
    "object_max": "skc_obj_max",
    "emergency_alloc": "skc_obj_emergency",
    "emergency_max": "skc_obj_emergency_max",
    "deadlocks": "skc_obj_deadlock",
}

# Members of enum kmc_bit; their numbers have moved between versions, so the dump's own are taken.
FLAGS = ("kvmem", "slab", "deadlocked", "growing", "reaping", "destroy")

# The head of the kernel's ELF note (append_elf_note() in kernel/crash_core.c) and its name with the padding, and how
# what it says begins (crash_save_vmcoreinfo_init()).
_NOTE_HEAD = struct.Struct("<III")
_NOTE_NAME = b"VMCOREINFO\0\0"
_NOTE_TEXT = b"OSRELEASE="
_NOTE_BYTES = 1 << 16
# BUILD-ID is there since Linux kernel commit 0935288c6e00 ("kdump: append kernel build-id string to VMCOREINFO")
# (in v5.9).
_NOTE_LINES = (rb"^OSRELEASE=([\w.+~-]{1,64})$", rb"^BUILD-ID=([0-9a-f]{8,64})$", rb"^SYMBOL\(swapper_pg_dir\)=")

# A search has to step over what is no memory: blocks of memory begin and end at multiples of this.
_BLOCK_BYTES = 1 << 20
_MAX_HOLES = 1 << 16

# Enough for drgn to open a dump and search physical memory, for which it needs none of this.
_ANY_KERNEL = "OSRELEASE=6.1.0\nPAGESIZE=4096\nKERNELOFFSET=0\nSYMBOL(swapper_pg_dir)=ffffffff80000000\n"

# Addresses of the kernel on x86-64 are from here on.
_KERNEL_HALF = 1 << 63

_FUNCTION = re.compile(r"[A-Za-z_$][\w$]*", re.ASCII)


class UnreadableError(Exception):
    """The dump as a whole cannot be read.

    :param kind: `dump` when it is the dump's fault, `symbols` when symbols are missing.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Problems:
    """What could not be read, in words."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def add(self, text: str) -> None:
        """Keep a problem; those beyond the bound are dropped."""
        if len(self.texts) < MAX_PROBLEMS:
            self.texts.append(text[:MAX_PROBLEM_CHARS])

    @contextmanager
    def within(self, what: str) -> Iterator[None]:
        """Go on after the block, whatever was wrong in the dump."""
        try:
            yield
        # drgn raises Exception itself for what libkdumpfile says, and any of LookupError, ValueError, TypeError and
        # its own for the rest.
        except Exception as error:
            self.add(f"{what}: {error or type(error).__name__}")


def read_dump(dump: str, vmlinux: str, debug_files: Sequence[str]) -> dict[str, Any]:
    """Everything that postmortem.py wants to know.

    :raises UnreadableError: when nothing can be read.
    """
    note = _find_note(dump)
    prog = _open(dump, note)
    problems = Problems()
    modules = _load_symbols(prog, vmlinux, debug_files, problems)
    release, build_id = (_line(note, pattern) for pattern in _NOTE_LINES[:2])
    threads = list(_threads(prog, problems))
    if not threads:
        raise UnreadableError(
            "dump", f"there is a kernel {release} in it, but no thread: {' '.join(problems.texts[-1:])}"
        )
    return {
        "release": release,
        "build_id": build_id,
        "caches": list(_caches(prog, problems)) if "spl" in modules else [],
        "threads": threads,
        "problems": problems.texts,
    }


def open_dump(dump: str, vmlinux: str, debug_files: Sequence[str]) -> Program:
    """A dump for a session of drgn, with its symbols.

    :raises UnreadableError: when it cannot be read.
    """
    prog = _open(dump, _find_note(dump))
    _load_symbols(prog, vmlinux, debug_files, Problems())
    return prog


def _open(dump: str, note: bytes | str) -> Program:
    # A dump of QEMU's does not say what machine it is of in a way that libkdumpfile understands.
    prog = Program(Platform(Architecture.X86_64), vmcoreinfo=note)
    try:
        prog.set_core_dump(dump)
    # Any of OSError, ValueError and Exception itself.
    except Exception as error:
        raise UnreadableError("dump", f"it is no memory dump that drgn can read: {error}") from error
    return prog


def _find_note(dump: str) -> bytes:
    """VMCOREINFO, which tells where page tables and symbols are, from the kernel's own memory.

    QEMU puts it into the dump only if the guest has said where it is, which takes a device and a driver. The kernel
    makes it at boot in any case, and nothing writes to it afterwards.
    """
    prog = _open(dump, _ANY_KERNEL)
    found = prog.search_memory(_NOTE_NAME + _NOTE_TEXT).set_address_range(physical=True)
    for _ in range(_MAX_HOLES):
        try:
            for address in found:
                note = _read_note(prog, address)
                if all(re.search(pattern, note, re.MULTILINE) for pattern in _NOTE_LINES):
                    return note
            break
        except FaultError as hole:
            found.set_address_range((hole.address | (_BLOCK_BYTES - 1)) + 1, physical=True)
    raise UnreadableError("dump", "there is no Linux kernel since 5.9 in it, or what describes the kernel is missing")


def _read_note(prog: Program, address: int) -> bytes:
    """The text of the note whose name is at a physical address."""
    _, length, _ = _NOTE_HEAD.unpack(prog.read(address - _NOTE_HEAD.size, _NOTE_HEAD.size, True))
    note: bytes = prog.read(address + len(_NOTE_NAME), min(length, _NOTE_BYTES), True)
    return note.partition(b"\0")[0]


def _line(note: bytes, pattern: bytes) -> str:
    match = re.search(pattern, note, re.MULTILINE)
    assert match is not None
    return match[1].decode("ascii")


def _load_symbols(prog: Program, vmlinux: str, debug_files: Sequence[str], problems: Problems) -> set[str]:
    """Load symbols from these files and from nowhere else; returns the names of the modules that have theirs."""
    prog.set_enabled_debug_info_finders([])
    try:
        prog.load_debug_info([vmlinux])
    except MissingDebugInfoError:
        # What it says is about the modules, which come next; on the kernel see below.
        pass
    except Exception as error:
        raise UnreadableError("symbols", f"{vmlinux} cannot be read: {error}") from error
    kernel = prog.main_module()
    if kernel.debug_file_status != ModuleFileStatus.HAVE:
        build_id = kernel.build_id.hex() if kernel.build_id else "unknown"
        raise UnreadableError("symbols", f"the kernel in it has build id {build_id}, and {vmlinux} is of another one")
    with problems.within("modules"):
        _load_modules(prog, debug_files, problems)
    modules = islice(prog.modules(), MAX_MODULES)
    return {module.name for module in modules if module.debug_file_status == ModuleFileStatus.HAVE}


def _load_modules(prog: Program, debug_files: Sequence[str], problems: Problems) -> None:
    wanted = {re.sub(r"\.ko.*", "", name.rpartition("/")[2]): name for name in debug_files}
    loaded = {}
    for module, _ in islice(prog.loaded_modules(), MAX_MODULES):
        if module.name in wanted:
            loaded[module.name] = module
            module.try_file(wanted[module.name])
    for name, path in wanted.items():
        if name not in loaded:
            problems.add(f"module {name} is not in the guest's list of modules, as far as that can be read")
        elif loaded[name].debug_file_status != ModuleFileStatus.HAVE:
            problems.add(f"module {name} in the guest is another build than {path}")


def _bounded(entries: Iterator[Object], limit: int, what: str) -> Iterator[Object]:
    """:raises ValueError: when a list is too long or runs in a circle that misses its head."""
    seen: set[int] = set()
    for entry in entries:
        address = entry.value_()
        if address in seen:
            raise ValueError(f"the list runs in a circle after {len(seen)} {what}")
        if len(seen) == limit:
            raise ValueError(f"the list has more than {limit} {what}")
        seen.add(address)
        yield entry


def _caches(prog: Program, problems: Problems) -> Iterator[dict[str, Any]]:
    with problems.within("spl_kmem_cache_list"):
        head = prog.variable("spl_kmem_cache_list").address_of_()
        entries = list_for_each_entry("struct spl_kmem_cache", head, "skc_list")
        for number, cache in enumerate(_bounded(entries, MAX_CACHES, "caches")):
            with problems.within(f"cache {number} at {cache.value_():#x}"):
                yield _cache(prog, cache, problems)


def _cache(prog: Program, cache: Object, problems: Problems) -> dict[str, Any]:
    name = _text(prog.read_c_string(cache.skc_name.value_(), max_size=MAX_NAME))
    flags = int(cache.skc_flags.value_())
    waiters: list[dict[str, Any]] = []
    with problems.within(f"wait queue of cache {name}"):
        entries = waitqueue_for_each_entry(cache.skc_waitq.address_of_())
        for entry in _bounded(entries, MAX_WAITERS, "waiters"):
            task = cast("struct task_struct *", entry.private)
            waiters.append({"pid": int(task.pid), "comm": _text(task.comm.string_())})
    return {
        "name": name,
        "flags": flags,
        "flag_names": [flag for flag in FLAGS if flags & _bit(prog, flag)],
        "waiters": waiters,
        **{ours: _count(cache, theirs) for ours, theirs in COUNTS.items()},
    }


def _bit(prog: Program, flag: str) -> int:
    try:
        return 1 << int(prog.constant(f"KMC_BIT_{flag.upper()}"))
    except LookupError:
        return 0


def _count(cache: Object, member: str) -> int | None:
    try:
        return int(cache.member_(member).value_())
    except LookupError:
        return None


def _threads(prog: Program, problems: Problems) -> Iterator[dict[str, Any]]:
    with problems.within("list of threads"):
        for task in _bounded(for_each_task(prog), MAX_THREADS, "threads"):
            with problems.within(f"thread at {task.value_():#x}"):
                yield _thread(prog, task)


def _thread(prog: Program, task: Object) -> dict[str, Any]:
    frames: list[dict[str, Any]] = []
    error = ""
    try:
        for frame in islice(prog.stack_trace(task), MAX_FRAMES):
            if frame.pc < _KERNEL_HALF:
                # Where a process is in its own code is of no concern here.
                break
            frames.append({"function": _function(frame), "inlined": frame.is_inline})
    # As in Problems.within(): what is known of the thread stays.
    except Exception as reason:
        error = str(reason)[:MAX_PROBLEM_CHARS]
    return {
        "pid": int(task.pid),
        "comm": _text(task.comm.string_()),
        "state": task_state_to_char(task),
        "frames": frames,
        "stack_error": error,
    }


def _function(frame: StackFrame) -> str:
    """Its name without what a compiler appends to copies of a function; "" for an address without a name."""
    match = _FUNCTION.match(frame.name)
    return match[0][:MAX_NAME] if match else ""


def _text(data: bytes) -> str:
    return data[:MAX_NAME].decode(errors="replace")


def main(argv: Sequence[str]) -> None:
    """Read one dump.

    :param argv: the dump, vmlinux with its debug symbols, and those of modules.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    dump, vmlinux, *debug_files = argv
    try:
        answer = read_dump(dump, vmlinux, debug_files)
    except UnreadableError as error:
        answer = {"error": {"kind": error.kind, "message": str(error)[:MAX_PROBLEM_CHARS]}}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
