"""Two builds side by side: how often each was as expected, and what their figures were. Pure.

A build is a variant of SPL on a line, with the hashes of its modules. Builds are compared for one scenario, kernel, set
of loads and parameters: the newest builds of two variants or two lines, and the two newest builds of one line.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import combinations, groupby
from statistics import median

from splvm.history.cell import Cell, write_parameters
from splvm.history.database import Recent
from splvm.history.schema import ZFS, RunRow
from splvm.record.cellfacts import PACKAGED
from splvm.report.rates import Rate, chance_of_difference
from splvm.site.looks import ORDER, by_name
from splvm.treename import parse_tree_name

# Pairs that a page shows at most.
MOST_PAIRS = 300
# Values on each side that a test is worth making for.
_LEAST = 4


@dataclass(frozen=True, slots=True)
class Side:
    """One of two builds."""

    cell: Cell
    # The build in words: variant, version, and the beginning of its modules' hashes.
    name: str
    # The oldest first; those that said something.
    runs: tuple[RunRow, ...]
    # Of each figure, by its name.
    values: Mapping[str, Sequence[float]]

    @property
    def good(self) -> Rate:
        """How often the verdict was the one expected."""
        return Rate(sum(run.as_expected for run in self.runs), len(self.runs))


@dataclass(frozen=True, slots=True)
class Verdicts:
    """How often a verdict was given on either side."""

    verdict: str
    shares: tuple[Rate, Rate]


@dataclass(frozen=True, slots=True)
class Figures:
    """A figure on either side."""

    words: str
    unit: str
    # Median, lowest and highest value, and how many there are; None without a value.
    sides: tuple[tuple[float, float, float, int] | None, ...]
    # How likely two builds that are alike differ so much; None where there are too few values.
    p: float | None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two builds and how they differ."""

    # Scenario, kernel, loads and parameters.
    where: str
    one: Side
    other: Side
    verdicts: tuple[Verdicts, ...]
    # Of the shares of runs as expected.
    p: float | None
    figures: tuple[Figures, ...]


def pairs(cells: Sequence[Recent], figures: Sequence[tuple[str, str, str]]) -> Iterator[Pair]:
    """All pairs that there are, by scenario, kernel, loads and parameters. Of an unknown line there are none.

    :param figures: name, words and unit of each figure.
    """
    found = {each.cell: _builds(each) for each in cells if each.cell.is_known}
    where = sorted((cell for cell, sides in found.items() if sides), key=lambda it: (_where(it), it.variant, it.line))
    for _, group in groupby(where, key=_where):
        alike = list(group)
        newest = [found[cell][-1] for cell in alike]
        before = [(found[cell][-2], found[cell][-1]) for cell in alike if len(found[cell]) > 1]
        for one, other in (*combinations(newest, 2), *before):
            yield _compare(one, other, figures)


def named_pairs(
    cells: Sequence[Recent], one: str, other: str, figures: Sequence[tuple[str, str, str]]
) -> Iterator[Pair]:
    """Two builds by name, wherever both ran in the same scenario, on the same kernel and so on.

    They are of one variant, if any variant ran in both. A build is never compared with itself.

    :param one: a line, a variant, a version of SPL, a name of `--spl`, or the beginning of a commit or of the hash of
        spl.ko or zfs.cpio; of several builds that it stands for the newest is taken.
    """
    ran = sorted((each for each in cells if each.cell.is_known), key=lambda each: _where(each.cell))
    for _, group in groupby(ran, key=lambda each: _where(each.cell)):
        sides = [side for each in group for side in _builds(each)]
        named = [[side for side in sides if is_named(side, name)] for name in (one, other)]
        variants = sorted({side.cell.variant for side in named[0]} & {side.cell.variant for side in named[1]})
        met = [[[it for it in ones if it.cell.variant == variant] for ones in named] for variant in variants]
        found = [pair for ones, others in met if (pair := _newest(ones, others))]
        if not found:
            names = {side.name for side in named[0]}
            found = list(filter(None, [_newest(named[0], [side for side in named[1] if side.name not in names])]))
        for pair in found:
            yield _compare(*pair, figures)


def is_named(side: Side, name: str) -> bool:
    """Whether a name stands for a build."""
    begins = re.fullmatch("[0-9a-f]{7,64}", name) is not None
    source = parse_tree_name(name)
    lines = {name, *([source.line if source.is_own else PACKAGED] if source else ())}
    return side.cell.variant == name or any(
        run.line in lines
        or run.spl_version == name
        or (begins and any(it.startswith(name) for it in (run.revision, *_made(run))))
        for run in side.runs
    )


def _made(run: RunRow) -> list[str]:
    """Hashes of what a build is told by."""
    return [run.modules[name] for name in ("spl.ko", ZFS) if run.modules.get(name)]


def list_builds(cells: Sequence[Recent]) -> list[Side]:
    """All builds that a name may stand for."""
    return [side for each in cells if each.cell.is_known for side in _builds(each)]


def names_of(side: Side) -> set[str]:
    """What a build may be called, hashes by their beginning."""
    run = side.runs[-1]
    names = (run.line, run.variant, run.spl_version, run.revision[:12], *(made[:12] for made in _made(run)))
    return set(filter(None, names))


def _newest(ones: Sequence[Side], others: Sequence[Side]) -> tuple[Side, Side] | None:
    """The newest of either; None if one has none, or it is the same build."""
    one, other = (max(sides, key=_last, default=None) for sides in (ones, others))
    return None if one is None or other is None or one is other else (one, other)


def _last(side: Side) -> datetime:
    return side.runs[-1].started


def _where(cell: Cell) -> tuple[str, ...]:
    return cell.scenario, cell.kernel, cell.loads, write_parameters(cell.parameters)


def _builds(recent: Recent) -> list[Side]:
    """The builds of a cell that said something, the newest last."""
    by_build: dict[str, list[RunRow]] = {}
    for run in recent.runs:
        if run.verdict != ORDER[0]:
            line = "" if run.line == PACKAGED else f"line={run.line}"
            name = " ".join(filter(None, (run.variant, line, run.spl_version, _digest(run))))
            # One that comes back after another is the newest again.
            by_build[name] = [*by_build.pop(name, []), run]
    return [_side(recent.cell, f"{name}{_tree(runs[-1])}", runs) for name, runs in by_build.items()]


def _side(cell: Cell, name: str, runs: Sequence[RunRow]) -> Side:
    values = {figure: [value for _, value in found] for figure, found in by_name(runs).items()}
    return Side(cell, name, tuple(runs), values)


def _digest(run: RunRow) -> str:
    hashes = [made[:8] for made in _made(run)]
    return f"({' '.join(hashes)})" if hashes else ""


def _tree(run: RunRow) -> str:
    """Commits that come to the same modules are one build, which has the name of the last."""
    return f" [{run.tree}]" if run.tree else ""


def _compare(one: Side, other: Side, figures: Sequence[tuple[str, str, str]]) -> Pair:
    tallies = [Counter(run.verdict for run in side.runs) for side in (one, other)]
    return Pair(
        where=" ".join(filter(None, _where(one.cell))),
        one=one,
        other=other,
        verdicts=tuple(
            Verdicts(it, (_share(tallies[0][it], one), _share(tallies[1][it], other)))
            for it in (*ORDER, *sorted({*tallies[0], *tallies[1]} - {*ORDER}))
            if tallies[0][it] or tallies[1][it]
        ),
        p=_chance(one.good, other.good),
        figures=tuple(_figures(one, other, figures)),
    )


def _share(hits: int, side: Side) -> Rate:
    return Rate(hits, len(side.runs))


def _figures(one: Side, other: Side, figures: Sequence[tuple[str, str, str]]) -> Iterator[Figures]:
    both = {name: (one.values.get(name, ()), other.values.get(name, ())) for name, _, _ in figures}
    chances = _rank_tests(both)
    for name, words, unit in figures:
        if any(both[name]):
            yield Figures(words, unit, tuple(_summary(values) for values in both[name]), chances.get(name))


def _rank_tests(both: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> dict[str, float]:
    """H. B. Mann's and D. R. Whitney's test (1947), two-sided, of each figure that has values enough.

    Those with as many values are tested in one call, which takes hardly longer than with one of them.
    """
    sizes: dict[tuple[int, int], list[str]] = {}
    for name, (one, other) in both.items():
        if min(len(one), len(other)) >= _LEAST:
            sizes.setdefault((len(one), len(other)), []).append(name)
    if not sizes:
        return {}
    from scipy.stats import mannwhitneyu

    chances: dict[str, float] = {}
    for names in sizes.values():
        found = mannwhitneyu([both[name][0] for name in names], [both[name][1] for name in names], axis=1)
        chances |= {name: float(p) for name, p in zip(names, found.pvalue, strict=True)}
    return chances


def _summary(values: Sequence[float]) -> tuple[float, float, float, int] | None:
    if not values:
        return None
    return median(values), min(values), max(values), len(values)


@cache
def _chance(one: Rate, other: Rate) -> float | None:
    """Boschloo's test, with its results kept: it takes part of a second, and the pairs of a night are alike."""
    return chance_of_difference(one, other)
