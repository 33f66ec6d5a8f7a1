"""What was measured of a kernel, for a terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from splvm.evidence.formats.gfpprobe import Way
from splvm.evidence.kerneltraits import KernelTraits, MaskAnswer, TraitAnswer, TraitCell
from splvm.report.summary import plain

_STYLE = {
    TraitAnswer.HONOURED: "green",
    TraitAnswer.IGNORED: "red",
    TraitAnswer.NEVER: "dim",
    TraitAnswer.UNKNOWN: "yellow",
}


def traits_table(traits: KernelTraits) -> Table:
    """A row for each level of the page tables, a column for each way to tell."""
    title = f"page tables of __vmalloc() on {plain(traits.release)}, {traits.paging_levels} levels of paging"
    table = Table(box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
    table.add_column("level")
    for way in Way:
        table.add_column(way.words)
    for level, row in traits.cells.items():
        table.add_row(level.upper(), *(_cell(row[way]) for way in Way))
    return table


def _cell(cell: TraitCell) -> Text:
    """The answer, the flags that were seen, and what the scope made of them where that is something else."""
    flags = ", ".join(f"{gfp:#x}" for gfp in cell.gfp)
    if cell.effective != cell.gfp:
        flags += " as " + ", ".join(f"{gfp:#x}" for gfp in cell.effective)
    return Text.assemble((cell.answer.value, _STYLE[cell.answer]), f"\n{flags}" if flags else "")


def describe_masks(traits: KernelTraits) -> str:
    """Which flags the kernel complains of, one line."""
    complaints = [_complaint(answer) for answer in traits.complaints]
    silent = [f"{answer.mask.name} ({answer.mask.gfp:#x})" for answer in traits.masks if answer.complaint == ""]
    if not complaints:
        return f"no complaint of any flags: {', '.join(silent)}"
    return f"complains of {'; '.join(complaints)}; not of {', '.join(silent)}"


def _complaint(answer: MaskAnswer) -> str:
    return f"{answer.mask.name} ({answer.mask.gfp:#x}): {plain(answer.complaint or '')}"
