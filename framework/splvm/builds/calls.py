"""The calls of a module, from its relocations: which of its functions call the kernel's allocator, and where.

The linker's own table is the source, so a call that no run ever reaches is known by name too.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splvm.errors import SetupError
from splvm.evidence.formats.sites import bare

# Functions that give memory, in the names of all kernels since 5.10. What they call in turn is the kernel's affair.
ALLOCATOR = re.compile(
    r"(?:__|_)?(?:k[mvz]*alloc|kmem_cache_alloc|krealloc|kvrealloc|v[mz]alloc|alloc_pages|get_free_pages"
    r"|get_zeroed_page|kstrn?dup|kmemdup|kv?asprintf|alloc_percpu|pcpu_alloc|kmalloc_order|alloc_frozen_pages)\w*"
)

# Relocations of a call or a jump to another function (x86-64 psABI): R_X86_64_PC32, R_X86_64_PLT32.
_BRANCHES = (2, 4)
_CALL, _JUMP = 0xE8, 0xE9


@dataclass(frozen=True, slots=True)
class Call:
    """One call that the linker knows of: of a function outside of the module, or in another section of it."""

    # The calling function as the symbol table has it.
    function: str
    # Offset in it of the return address; of the end of the instruction if it is a jump.
    offset: int
    callee: str
    # Which of the function's calls of this callee it is, counted from 1.
    ordinal: int
    # It jumps there, and so is in no stack: what is called returns to the function's own caller.
    is_jump: bool = False

    @property
    def place(self) -> str:
        """Its name: the same from build to build, as long as the code is."""
        return f"{bare(self.function)}:{self.callee}#{self.ordinal}"

    @property
    def is_direct(self) -> bool:
        """Whether it calls the allocator itself."""
        return ALLOCATOR.fullmatch(self.callee) is not None

    @property
    def is_of_init(self) -> bool:
        """Whether it is in code that runs while the module is loaded or goes."""
        return re.fullmatch(r"(?:init|cleanup)_module|\w*_(?:init|fini|exit)", bare(self.function)) is not None


def find_calls(module: Path) -> tuple[Call, ...]:
    """All calls of a module, by function.

    :raises SetupError: when it is no module, or one without symbols.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    try:
        with module.open("rb") as file:
            elf = ELFFile(file)
            symbols = elf.get_section_by_name(".symtab")
            if not isinstance(symbols, SymbolTableSection) or not symbols.num_symbols():
                raise SetupError(
                    f"{module}: it has no symbols, so its allocations have no names",
                    hint="strip --strip-debug leaves the symbols that are needed",
                )
            found = [
                call
                for section in elf.iter_sections()
                if section["sh_type"] == "SHT_RELA"
                for call in _calls_of(elf, section, symbols)
            ]
    except (ELFError, OSError) as error:
        raise SetupError(f"{module}: it cannot be read as a module: {error}") from error
    return tuple(_numbered(found))


def _calls_of(elf: Any, relocations: Any, symbols: Any) -> Iterator[tuple[str, int, str, bool]]:
    """Function, offset and callee of each call in one section of code, and whether it is a jump."""
    index = relocations["sh_info"]
    code = elf.get_section(index)
    # SHF_EXECINSTR, by the ELF specification.
    if not code["sh_flags"] & 0x4:
        return
    text = code.data()
    functions = sorted(
        (symbol["st_value"], symbol.name)
        for symbol in symbols.iter_symbols()
        if symbol["st_shndx"] == index and symbol["st_info"]["type"] == "STT_FUNC"
    )
    starts = [start for start, _ in functions]
    for relocation in relocations.iter_relocations():
        at = relocation["r_offset"]
        if relocation["r_info_type"] not in _BRANCHES or not 0 < at < len(text) or text[at - 1] not in (_CALL, _JUMP):
            continue
        callee = symbols.get_symbol(relocation["r_info_sym"])
        if not callee.name or not starts or at < starts[0]:
            continue
        start, name = functions[bisect_right(starts, at) - 1]
        yield name, at + 4 - start, callee.name, text[at - 1] == _JUMP


def _numbered(found: Sequence[tuple[str, int, str, bool]]) -> Iterator[Call]:
    counts: Counter[tuple[str, str]] = Counter()
    for function, offset, callee, is_jump in sorted(found, key=lambda call: (call[0], call[1])):
        # Parts of a function have one name, and so one count.
        counts[bare(function), callee] += 1
        yield Call(function, offset, callee, counts[bare(function), callee], is_jump)
