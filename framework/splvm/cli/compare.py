"""The command that puts two builds of the history side by side. It boots nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splvm import __version__
from splvm.cli.history import HistoryOption, history_place
from splvm.cli.options import JsonOption, make_console, print_json
from splvm.errors import EvidenceError, UsageError, did_you_mean
from splvm.report.summary import in_unit, plain
from splvm.report.tables import listing

if TYPE_CHECKING:
    from splvm.history.database import Recent
    from splvm.site.compare import Pair, Side

SCHEMA_VERSION = 1

# Runs of a cell that are looked at, the newest.
_CELL_RUNS = 10_000

_NAME = (
    "Name of a build: its line (such as a branch or pr:N), its name for --spl, a variant, a version of SPL, or the "
    "beginning of its commit or of the hash of spl.ko or zfs.cpio."
)


def compare(
    base: Annotated[str, typer.Argument(help=_NAME, metavar="BUILD")],
    head: Annotated[str, typer.Argument(help="Name of the other build.", metavar="BUILD")],
    as_comment: Annotated[
        bool, typer.Option("--comment", help="Print a comment for a pull request, at most 40 lines of Markdown.")
    ] = False,
    history: HistoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put two builds of the history side by side: how often each was as expected, and what their figures were.

    They are compared wherever both ran the same scenario on the same kernel, under the same loads and with the same
    parameters: builds of the same variant, or of two variants where no variant ran in both. A name that stands for
    several builds stands for the newest. The exit status is 1 if they have nothing in common.
    """
    from splvm.history.database import History
    from splvm.site.compare import named_pairs
    from splvm.site.comparetext import comment
    from splvm.site.trends import FIGURES, NAMES

    if as_comment and as_json:
        raise UsageError("--comment and --json are two forms", hint="leave one out")
    with History(history_place(history), create=False) as opened:
        cells = opened.recent(_CELL_RUNS, NAMES)
    pairs = list(named_pairs(cells, base, head, FIGURES))
    if not pairs:
        raise _nothing(cells, base, head)
    if as_comment:
        typer.echo(comment(pairs, __version__), nl=False)
    elif as_json:
        print_json({"schema_version": SCHEMA_VERSION, "pairs": [_to_json(pair) for pair in pairs]})
    else:
        for pair in pairs:
            _show(pair)


def _nothing(cells: Sequence[Recent], *names: str) -> EvidenceError:
    """Which of the names stands for no build, or else that the two never met."""
    from splvm.site.compare import is_named, list_builds, names_of

    builds = list_builds(cells)
    known = sorted({name for side in builds for name in names_of(side)})
    for name in names:
        if not any(is_named(side, name) for side in builds):
            hint = did_you_mean(name, known) or "`splvm history show` names builds"
            raise EvidenceError(f"{name}: the history has no build of that name", hint=plain(hint))
    one, other = ({side.name for side in builds if is_named(side, name)} for name in names)
    if same := one & other:
        return EvidenceError(f"{' and '.join(names)} stand for the same build: {plain(min(same))}")
    return EvidenceError(
        f"{' and '.join(names)} never ran the same scenario on the same kernel with the same parameters"
    )


def _show(pair: Pair) -> None:
    for words in (pair.where, f"  A: {pair.one.name}", f"  B: {pair.other.name}"):
        typer.echo(plain(words))
    make_console().print(listing(("what", "A", "B", "p"), list(_rows(pair))))


def _rows(pair: Pair) -> Iterator[tuple[object, ...]]:
    yield "as expected", *(f"{side.good} of {side.good.runs}" for side in (pair.one, pair.other)), _p(pair.p)
    for verdict in pair.verdicts:
        yield plain(verdict.verdict), *(str(share) for share in verdict.shares), ""
    for figure in pair.figures:
        # Each duration has a unit that fits it; any other unit stands once, beside the name.
        unit, name = ("ns", "") if figure.unit == "ns" else ("", figure.unit)
        told = ([in_unit(value, unit) for value in it[:3]] if it else None for it in figure.sides)
        yield (
            f"{figure.words}, {name}".rstrip(", "),
            *(f"{it[0]} ({it[1]} to {it[2]})" if it else "-" for it in told),
            _p(figure.p),
        )


def _p(p: float | None) -> str:
    return "-" if p is None else f"{p:.2g}"


def _to_json(pair: Pair) -> dict[str, Any]:
    return {
        **pair.one.cell.to_json(),
        "builds": [_side_to_json(side) for side in (pair.one, pair.other)],
        "p": pair.p,
        "figures": [asdict(figure) for figure in pair.figures],
    }


def _side_to_json(side: Side) -> dict[str, Any]:
    run = side.runs[-1]
    return {
        "name": side.name,
        "line": run.line,
        "revision": run.revision,
        "modules": run.modules,
        "as_expected": side.good.to_json(),
        "verdicts": [each.verdict for each in side.runs],
    }
