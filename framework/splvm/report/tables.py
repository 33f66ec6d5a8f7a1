"""Tables for a terminal: a slab file, the verdicts of a series, and lists of what there is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from splvm.evidence.formats.slab import SlabFile
from splvm.evidence.verdict import Outcome, Verdict
from splvm.report.summary import plain


def slab_table(slab: SlabFile) -> Table:
    """The columns of a slab file that tell the story, one cache a row."""
    table = Table(box=None, padding=(0, 2, 0, 0), title=f"layout of {slab.layout}", title_justify="left")
    columns: Sequence[tuple[str, Callable[[Any], object]]] = (
        ("name", lambda row: plain(row.name)),
        ("flags", lambda row: f"{row.flags:#07x}"),
        ("objsize", lambda row: row.objsize),
        ("slabs", lambda row: row.slab.total),
        ("objects", lambda row: row.object.total),
        ("in use", lambda row: row.object.alloc),
        ("dlock", lambda row: row.emergency.dlock),
        ("emergency", lambda row: row.emergency.alloc),
        ("max", lambda row: row.emergency.max),
    )
    for name, _ in columns:
        table.add_column(name, justify="left" if name == "name" else "right")
    for row in slab.caches:
        cells = (value(row) for _, value in columns)
        table.add_row(*(Text("-" if cell is None else str(cell)) for cell in cells))
    return table


def tally_table(verdicts: Sequence[Verdict], wanted: frozenset[Outcome]) -> Table:
    """How often each verdict was given in a series.

    :param wanted: those that were expected.
    """
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for outcome in Outcome:
        count = sum(verdict.outcome is outcome for verdict in verdicts)
        if count:
            table.add_row(outcome.value, f"{count} of {len(verdicts)}", "" if outcome in wanted else "not expected")
    return table


def listing(columns: Sequence[str], rows: Iterable[Sequence[object]], prose: int = 1) -> Table:
    """A list with a heading.

    :param prose: so many columns at the end may be wrapped.
    """
    table = Table(box=None, padding=(0, 2, 0, 0))
    for number, name in enumerate(columns):
        table.add_column(name, no_wrap=number < len(columns) - prose)
    for row in rows:
        table.add_row(*(Text(plain(str(cell))) for cell in row))
    return table
