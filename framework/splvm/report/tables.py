"""Tables for a terminal: a slab file, the verdicts of a series, and lists of what there is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from splvm.evidence.formats.slab import SlabFile
from splvm.evidence.verdict import Outcome, Verdict
from splvm.paste.slabs import Reading, changes, elapsed_s, sort_rows, utilisation
from splvm.report.summary import plain


def slab_table(slab: SlabFile, sort: str = "") -> Table:
    """The columns of a slab file that tell the story, one cache a row, and their sums.

    :param sort: a column of `SORTS`; by default the file's own order.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), title=f"layout of {slab.layout}", title_justify="left")
    columns: Sequence[tuple[str, Callable[[Any], object]]] = (
        ("name", lambda row: plain(row.name)),
        ("flags", lambda row: f"{row.flags:#07x}"),
        ("bytes", lambda row: row.size),
        ("used", lambda row: None if (part := utilisation(row)) is None else f"{part:.0%}"),
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
    for row in sort_rows(slab.caches, sort) if sort else slab.caches:
        cells = (value(row) for _, value in columns)
        table.add_row(*(Text("-" if cell is None else str(cell)) for cell in cells))
    if len(slab.caches) > 1:
        size = sum(row.size or 0 for row in slab.caches)
        used = f"{sum(row.alloc or 0 for row in slab.caches if row.size) / size:.0%}" if size else "-"
        table.add_row(f"{len(slab.caches)} caches", "", str(size), used)
    return table


def change_table(before: Reading, after: Reading) -> Table:
    """What differs between two readings of a slab file, with rates if both have a time."""
    table = Table(box=None, padding=(0, 2, 0, 0), title="changes", title_justify="left")
    seconds = elapsed_s(before.time, after.time)
    for name in ("name", "column", "before", "after", "per second"):
        table.add_column(name, justify="left" if name in ("name", "column") else "right")
    for change in changes(before.slab, after.slab):
        rate = ""
        if seconds and change.before is not None and change.after is not None:
            rate = f"{(change.after - change.before) / seconds:+.1f}"
        cells = (change.before, change.after)
        shown = ("-" if cell is None else str(cell) for cell in cells)
        table.add_row(plain(change.cache), change.column, *shown, rate)
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

    :param prose: number of columns at the end that may be wrapped.
    """
    table = Table(box=None, padding=(0, 2, 0, 0))
    for number, name in enumerate(columns):
        table.add_column(name, no_wrap=number < len(columns) - prose)
    for row in rows:
        table.add_row(*(Text(plain(str(cell))) for cell in row))
    return table
