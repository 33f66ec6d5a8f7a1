"""How things look and what they are called on the pages: verdicts, names of pages, text of a guest.

A verdict has its word and a symbol of its own; colours only repeat the words.
"""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Iterable, Mapping

from splvm.evidence.verdict import Outcome
from splvm.history.cell import Cell
from splvm.history.schema import TROUBLE, RunRow
from splvm.report.looks import LOOKS

# A symbol for each verdict, and for a run that came to none.
SYMBOLS: Mapping[str, str] = {TROUBLE: "!", **{outcome: look.symbol for outcome, look in LOOKS.items()}}
# Verdicts from worst to best, as axes and lists show them.
ORDER = (TROUBLE, *(outcome.value for outcome in Outcome))


def symbol(verdict: str) -> str:
    return SYMBOLS.get(verdict, "·")


def tone(run: RunRow) -> str:
    """Whether a run is as expected, or else whether it says anything: a class of the style sheet."""
    if run.as_expected:
        return "expected"
    return "unsure" if run.is_silent else "unexpected"


def told(run: RunRow) -> str:
    """The expectation of a run in words."""
    if run.as_expected:
        return "as expected"
    wanted = " or ".join(run.expected)
    return f"expected {wanted}" if wanted else "came to no verdict"


def printable(text: str, most: int = 2000) -> str:
    """Text of a guest for a page: bounded, without control characters. Escaping is the template's business."""
    cut = text[:most]
    return "".join(char if char.isprintable() or char in "\t\n" else "\ufffd" for char in cut) + (
        "…" if len(text) > most else ""
    )


def label(text: str, most: int = 60) -> str:
    """Text of a guest within a plot: plotly takes some tags and entities in every text it draws, but none of quotes."""
    return html.escape(printable(text, most).replace("\n", " "), quote=False)


def cell_page(cell: Cell) -> str:
    """The name of a cell's page: readable, and another one for each cell whatever it is called."""
    axes = (cell.scenario, cell.kernel, cell.variant, cell.loads, *cell.other)
    readable = re.sub("[^a-z0-9.]+", "-", str(cell).lower()).strip("-.")[:80]
    digest = hashlib.sha256("\0".join(axes).encode()).hexdigest()
    return f"{readable or 'cell'}-{digest[:8]}.html"


def run_pages(runs: Iterable[RunRow]) -> dict[str, str]:
    """Names of the runs' pages by their id: the first 12 digits, or all where two begin alike."""
    pages: dict[str, str] = {}
    for run in runs:
        digits = run.id if re.fullmatch("[0-9a-f]{64}", run.id) else hashlib.sha256(run.id.encode()).hexdigest()
        name = f"{digits[:12]}.html"
        pages[run.id] = name if name not in pages.values() else f"{digits}.html"
    return pages


def by_name(runs: Iterable[RunRow]) -> dict[str, list[tuple[RunRow, float]]]:
    """The figures of runs: of each name those runs that have it, with its value."""
    found: dict[str, list[tuple[RunRow, float]]] = {}
    for run in runs:
        for figure in run.figures:
            found.setdefault(figure.name, []).append((run, figure.value))
    return found
