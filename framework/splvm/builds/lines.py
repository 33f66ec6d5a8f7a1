"""The instructions of a module, with the functions and the lines of source that each belongs to.

Of the module as it is loaded, which is stripped, and the debug information that it was stripped of: the two have one
build id, so their code is one. What is inlined belongs to its own function and to those that it is inlined into. The
lines of a module are an artefact of the store.
"""

from __future__ import annotations

import json
import posixpath
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from splvm.builds.module import debug_file, fresh_log
from splvm.builds.points import disassemble, instructions
from splvm.builds.root import BuildRoot
from splvm.deadline import Deadline
from splvm.errors import EvidenceError, SetupError
from splvm.evidence.formats.lcov import FileCoverage
from splvm.evidence.formats.sites import bare
from splvm.host.content import input_hash
from splvm.host.store import Store

RECIPE = 2
LINES_FILE = "lines.json"
# Where the build root had the sources.
_BUILT_AT = "/build/src/"


@dataclass(frozen=True, slots=True)
class Frame:
    """A line of a function."""

    function: str
    # From the top of the tree of sources on.
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of a module's section .text."""

    # From the beginning of the section.
    address: int
    # The line that it is of, and those of the calls that are inlined around it; none of another tree's sources.
    frames: tuple[Frame, ...]


def find_lines(store: Store, root: BuildRoot, module: Path, deadline: Deadline) -> Path:
    """The file that has all instructions of a module, for `read_lines`.

    :raises SetupError: when its debug information is not there, or is of another build.
    """
    debug = debug_file(module)
    if not debug.is_file():
        raise SetupError(f"{module} has no debug information beside it")
    key = input_hash({"recipe": RECIPE, "root": root.artefact.key, "module": module, "debug": debug})

    def build(tree: Path) -> None:
        if not (own := build_id(module)) or own != build_id(debug):
            raise SetupError(f"{debug} is not the debug information of {module}: its build id is another one")
        addresses = [address for address, _, _, _ in instructions(disassemble(store, root, module, key, deadline))]
        with store.temporary() as work:
            shutil.copy2(debug, work / "debug")
            (work / "addresses").write_text("".join(f"{address:#x}\n" for address in addresses))
            argv = ["sh", "-c", "addr2line -a -f -i --exe=debug --section=.text <addresses"]
            log = fresh_log(store, f"lines-{key[:12]}")
            told = root.run(argv, work=work, deadline=deadline, what=f"lines of {module.name}", log=log).stdout
        rows = [
            (address, [(it.function, it.file, it.line) for it in frames])
            for address, frames in zip(addresses, parse_lines(told), strict=True)
        ]
        (tree / LINES_FILE).write_text(json.dumps(rows))

    kept = store.get("lines", key, build, deadline=deadline, what=f"lines of {module.name}")
    return kept.path / LINES_FILE


def read_lines(path: Path) -> tuple[Instruction, ...]:
    """All instructions, by address."""
    rows = json.loads(path.read_text())
    return tuple(Instruction(address, tuple(Frame(*frame) for frame in frames)) for address, frames in rows)


def build_id(module: Path) -> str:
    """That of a module or of its debug information; empty if it has none.

    :raises SetupError: when it is no ELF file.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import NoteSection

    try:
        with module.open("rb") as file:
            notes = (it for it in ELFFile(file).iter_sections() if isinstance(it, NoteSection))
            found = (note for section in notes for note in section.iter_notes())
            return next((str(note["n_desc"]) for note in found if note["n_type"] == "NT_GNU_BUILD_ID"), "")
    except (ELFError, OSError) as error:
        raise SetupError(f"{module}: it cannot be read as a module: {error}") from error


def parse_lines(told: str) -> Iterator[tuple[Frame, ...]]:
    """Frames of each address, of what addr2line says with -a, -f and -i; those of the tree of sources alone."""
    for each in re.split(r"^0x[0-9a-f]+\n", told, flags=re.MULTILINE)[1:]:
        lines = each.splitlines()
        frames = (_frame(*pair) for pair in zip(lines[::2], lines[1::2], strict=True))
        yield tuple(frame for frame in frames if frame is not None)


def _frame(function: str, place: str) -> Frame | None:
    file, _, line = place.partition(" (")[0].rpartition(":")
    path = posixpath.normpath(file)
    if not line.isdigit() or not int(line) or not path.startswith(_BUILT_AT):
        return None
    return Frame(bare(function), path.removeprefix(_BUILT_AT), int(line))


def cover(of_module: Iterable[Instruction], marks: bytes) -> dict[str, FileCoverage]:
    """What of a module was executed in one run.

    :param marks: 1 for each address of its text at which an executed instruction begins.
    :raises EvidenceError: when nothing was: then it was looked for in the wrong place.
    """
    files: dict[str, FileCoverage] = {}
    for each in of_module:
        hit = int(bool(marks[each.address]))
        for frame in each.frames:
            into = files.setdefault(frame.file, FileCoverage())
            into.lines[frame.line] = max(hit, into.lines.get(frame.line, 0))
            first, so_far = into.functions.get(frame.function, (frame.line, 0))
            into.functions[frame.function] = (min(first, frame.line), max(hit, so_far))
    if not any(runs for it in files.values() for runs in it.lines.values()):
        raise EvidenceError("no instruction of the module was executed")
    return files
