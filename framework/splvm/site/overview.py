"""The overview: a matrix with kernels, variants, loads, lines and parameters down and scenarios across. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from splvm.history.schema import RunRow
from splvm.site.choice import CellNews
from splvm.site.looks import cell_page, symbol, told, tone

# A bar of the line: its width with the space to the next, and the height of its half.
_BAR = 6
_HALF = 9


@dataclass(frozen=True, slots=True)
class Bar:
    """One run in the line of a cell: above its middle if it was as expected, below if not, short if it says nothing."""

    x: int
    y: int
    height: int
    tone: str


@dataclass(frozen=True, slots=True)
class Square:
    """One cell of the matrix."""

    page: str
    name: str
    kernel: str
    variant: str
    verdict: str
    symbol: str
    tone: str
    told: str
    total: int
    bars: tuple[Bar, ...]
    # What the line shows, in words.
    line: str
    started: str

    @property
    def width(self) -> int:
        return len(self.bars) * _BAR


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel, variant, loads, line and parameters, with a cell or nothing for each scenario."""

    kernel: str
    variant: str
    loads: str
    # Line and parameters, where they are not the packaged build's and the scenario's own.
    other: str
    squares: tuple[Square | None, ...]


def make_matrix(cells: Sequence[CellNews]) -> tuple[list[str], list[Row]]:
    """The scenarios, and the rows."""
    by_cell = {each.recent.cell: _square(each) for each in cells}
    scenarios = sorted({cell.scenario for cell in by_cell})
    squares: dict[tuple[str, str, str, str], dict[str, Square]] = {}
    for cell, square in by_cell.items():
        other = " ".join(cell.other)
        squares.setdefault((cell.kernel, cell.loads, cell.variant, other), {})[cell.scenario] = square
    rows = [
        Row(kernel, variant, loads, other, tuple(found.get(scenario) for scenario in scenarios))
        for (kernel, loads, variant, other), found in sorted(squares.items())
    ]
    return scenarios, rows


def _square(each: CellNews) -> Square:
    cell, last = each.recent.cell, each.last
    return Square(
        page=f"cells/{cell_page(cell)}",
        name=str(cell),
        kernel=cell.kernel,
        variant=cell.variant,
        verdict=last.verdict,
        symbol=symbol(last.verdict),
        tone=tone(last),
        told=told(last),
        total=each.recent.total,
        bars=tuple(_bar(run, number) for number, run in enumerate(each.line)),
        line=_in_words(each.line),
        started=f"{last.started:%Y-%m-%d %H:%M}",
    )


def _bar(run: RunRow, number: int) -> Bar:
    match tone(run):
        case "expected":
            return Bar(number * _BAR, 0, _HALF, "expected")
        case "unexpected":
            return Bar(number * _BAR, _HALF, _HALF, "unexpected")
        case other:
            return Bar(number * _BAR, _HALF - 2, 4, other)


def _in_words(runs: Sequence[RunRow]) -> str:
    counts = Counter(run.verdict for run in runs)
    good = sum(run.as_expected for run in runs)
    each = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common(4))
    return f"last {len(runs)}: {good} as expected ({each})"
