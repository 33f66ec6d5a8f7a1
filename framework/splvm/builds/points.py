"""Points of a module at which a thread may be overtaken: calls of locks, waits and wake-ups, and atomic instructions.

Calls are found by the module's relocations. What is inlined is found by disassembly, with the objdump of the kernel's
build root. The points of a module are an artefact of the store.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from splvm.builds.calls import Call, find_calls
from splvm.builds.module import debug_file, fresh_log
from splvm.builds.root import BuildRoot
from splvm.deadline import Deadline
from splvm.host.content import input_hash
from splvm.host.store import Store

RECIPE = 1
_NAME = "points.json"
# Bytes of a call with a relocation (E8 and a displacement of 32 bits).
_CALL_BYTES = 5


class Kind(StrEnum):
    """What a thread is about to do at a point."""

    LOCK = "lock"
    # It has just let go of a lock.
    UNLOCKED = "unlocked"
    WAIT = "wait"
    WAKE = "wake"
    TIMER = "timer"
    THREAD = "thread"
    ATOMIC = "atomic"


# Functions of the kernel, by their names since 5.10; the first that fits counts.
_CALLEES: tuple[tuple[Kind, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        (Kind.UNLOCKED, r"_raw_(spin|read|write)_unlock\w*|mutex_unlock|up_(read|write)|__raw_callee_save\w*unlock\w*"),
        (Kind.LOCK, r"_raw_(spin|read|write)_(try)?lock\w*|mutex_(try)?lock\w*|down_(read|write)\w*"),
        (Kind.WAIT, r"(io_)?schedule\w*|(prepare_to|finish)_wait\w*|(add|remove)_wait_queue\w*|init_wait_entry"),
        (Kind.WAIT, r"wait_for_completion\w*|__wait_on_bit\w*|out_of_line_wait_on\w*|msleep\w*|usleep_range\w*"),
        (Kind.WAKE, r"__wake_up\w*|wake_up_\w+|complete(_all)?"),
        (Kind.TIMER, r"(mod|add|del|__mod)_timer\w*|timer_(delete|reduce|shutdown)\w*"),
        (Kind.THREAD, r"kthread_(stop|should_stop|create\w*|bind\w*|exit)|do_exit"),
    )
)


@dataclass(frozen=True, slots=True)
class Point:
    """An instruction."""

    function: str
    offset: int
    kind: Kind
    # The function that is called there, or the instruction.
    what: str
    # FILE:LINE, empty where it is not known.
    source: str = ""

    @property
    def place(self) -> str:
        """As kprobes have it."""
        return f"{self.function}+{self.offset:#x}"


def find_points(store: Store, root: BuildRoot, module: Path, deadline: Deadline) -> tuple[Point, ...]:
    """The points of a module, by function and offset.

    :raises SetupError: when it is no module, or one without symbols.
    """
    key = input_hash({"recipe": RECIPE, "root": root.artefact.key, "module": module})

    def build(tree: Path) -> None:
        points = _disassembled(store, root, module, key, deadline)
        (tree / _NAME).write_text(json.dumps([asdict(point) for point in points]))

    kept = store.get("points", key, build, deadline=deadline, what=f"points of {module.name}")
    rows = json.loads((kept.path / _NAME).read_text())
    return tuple(Point(**{**row, "kind": Kind(row["kind"])}) for row in rows)


def _disassembled(store: Store, root: BuildRoot, module: Path, key: str, deadline: Deadline) -> list[Point]:
    text = disassemble(store, root, module, key, deadline)
    points = list(choose(text, find_calls(module)))
    if not debug_file(module).is_file():
        return points
    log = fresh_log(store, f"points-{key[:12]}")
    with store.temporary() as work:
        shutil.copy2(debug_file(module), work / "debug")
        starts = dict(_functions(text))
        addresses = [f"{starts[point.function] + point.offset:#x}" for point in points]
        script = 'exe=$1; shift; addr2line --exe="$exe" --section=.text "$@"'
        argv = ["sh", "-c", script, "sh", "debug", *addresses]
        lines = root.run(argv, work=work, deadline=deadline, what="lines of points", log=log).stdout.splitlines()
    return [
        Point(point.function, point.offset, point.kind, point.what, source_line(line))
        for point, line in zip(points, lines, strict=True)
    ]


def disassemble(store: Store, root: BuildRoot, module: Path, key: str, deadline: Deadline) -> str:
    """The section .text of a module, as objdump prints it.

    :param key: names the log.
    """
    log = fresh_log(store, f"disassembly-{key[:12]}")
    with store.temporary() as work:
        shutil.copy2(module, work / module.name)
        argv = ["objdump", "--disassemble", "--no-show-raw-insn", "--section=.text", module.name]
        return root.run(argv, work=work, deadline=deadline, what=f"disassembling {module.name}", log=log).stdout


def source_line(told: str) -> str:
    """File and line of what addr2line says, without the directory; empty if it does not know."""
    match = re.match(r"(?:.*/)?([\w.-]+):(\d+)", told)
    return f"{match[1]}:{match[2]}" if match else ""


def choose(disassembly: str, calls: Sequence[Call]) -> Iterator[Point]:
    """The points among all instructions.

    :param disassembly: of the section .text, as objdump prints it.
    :param calls: of the module.
    """
    starts = dict(_functions(disassembly))
    found: dict[tuple[str, int], Point] = {}
    for call in calls:
        kind = next((kind for kind, names in _CALLEES if names.fullmatch(call.callee)), None)
        if kind is None or call.is_of_init or call.function not in starts:
            continue
        if kind is Kind.UNLOCKED and call.is_jump:
            # Nothing of this function comes after it.
            continue
        offset = call.offset if kind is Kind.UNLOCKED else call.offset - _CALL_BYTES
        if kind is not Kind.UNLOCKED or (call.function, offset) not in found:
            found[call.function, offset] = Point(call.function, offset, kind, call.callee)
    for _, name, offset, instruction in instructions(disassembly):
        is_atomic = instruction.startswith("lock ") or (instruction.startswith("xchg") and "(" in instruction)
        if is_atomic and not Call(name, 0, "", 0).is_of_init:
            found[name, offset] = Point(name, offset, Kind.ATOMIC, " ".join(instruction.split()))
    yield from (found[key] for key in sorted(found))


_FUNCTION = re.compile(r"^([0-9a-f]+) <([\w.]+)>:$", re.MULTILINE)
_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(\S.*)$")


def _functions(disassembly: str) -> Iterator[tuple[str, int]]:
    """Name and address of each function."""
    yield from ((match[2], int(match[1], 16)) for match in _FUNCTION.finditer(disassembly))


def instructions(disassembly: str) -> Iterator[tuple[int, str, int, str]]:
    """Address, function, offset in it and text of each instruction."""
    name, start = "", 0
    for line in disassembly.splitlines():
        if head := _FUNCTION.match(line):
            name, start = head[2], int(head[1], 16)
        elif name and (match := _INSTRUCTION.match(line)):
            address = int(match[1], 16)
            yield address, name, address - start, match[2].partition("#")[0].strip()
