"""Two builds side by side as a comment for a pull request: at most 40 lines, and nothing but what their runs showed.

Pure. No path and no name of a host is in it.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from splvm.clock import Clock
from splvm.history.schema import RunRow
from splvm.record.cellfacts import PACKAGED
from splvm.report.markdown import code
from splvm.report.summary import in_unit
from splvm.site.compare import Pair, Side

MOST_LINES = 40
_MOST_CELLS = 16
_MOST_FIGURES = 6
# A figure is named if equal builds differ so much this seldom.
_SELDOM = 0.01


def comment(pairs: Sequence[Pair], version: str) -> str:
    """The comment.

    :param pairs: the base first; at least one.
    :param version: of splvm.
    """
    lines = [*_heading(pairs[0], version), "", *_table(pairs), "", *_meaning(pairs), *_figures(pairs)]
    return "\n".join([*lines, *_again(pairs[0])]) + "\n"


def _heading(pair: Pair, version: str) -> Iterator[str]:
    yield f"splvm {version}: {_build(pair.one)} (A) against {_build(pair.other)} (B)"
    if _modules(pair.one) == _modules(pair.other):
        yield ""
        yield "**Both have the same modules**: what differs below is chance."


def _build(side: Side) -> str:
    run = side.runs[-1]
    patches = f" with {', '.join(run.patches)}" if run.patches else ""
    tree = f" [{run.tree}]" if run.tree else ""
    return code(f"{run.line}{tree}, SPL {run.spl_version} {run.variant}{patches}")


def _modules(side: Side) -> dict[str, str]:
    return {name: digest for name, digest in side.runs[-1].modules.items() if name != "slabprobe.ko"}


def _table(pairs: Sequence[Pair]) -> Iterator[str]:
    yield "scenario, kernel, variant | A | B | p"
    yield "--- | --- | --- | ---"
    for pair in sorted(pairs, key=_chance)[:_MOST_CELLS]:
        verdicts = (_verdicts(side) for side in (pair.one, pair.other))
        variants = " and ".join(_variants(pair))
        yield " | ".join((code(f"{pair.where} {variants}"), *verdicts, _p(pair.p)))
    if len(pairs) > _MOST_CELLS:
        yield f"and {len(pairs) - _MOST_CELLS} more cells with no smaller p | | |"


def _variants(pair: Pair) -> list[str]:
    return list(dict.fromkeys(side.cell.variant for side in (pair.one, pair.other)))


def _verdicts(side: Side) -> str:
    found = dict.fromkeys(run.verdict for run in side.runs)
    tallies = (f"{name} {sum(run.verdict == name for run in side.runs)}" for name in found)
    return f"{', '.join(tallies)} of {len(side.runs)}"


def _chance(pair: Pair) -> float:
    return 2.0 if pair.p is None else pair.p


def _p(p: float | None) -> str:
    return "-" if p is None else f"{p:.2g}"


def _meaning(pairs: Sequence[Pair]) -> Iterator[str]:
    many = f" With {len(pairs)} rows a small p may be chance." if len(pairs) > 4 else ""
    yield (
        "p is the probability that two equal builds differ at least as much in how often the verdict was the expected "
        f"one (Boschloo's exact test).{many}"
    )


def _figures(pairs: Sequence[Pair]) -> Iterator[str]:
    told = [
        (
            each.p,
            f"- {each.words} in {code(pair.where)}: {in_unit(a[0], each.unit)} in A, {in_unit(b[0], each.unit)} in B, "
            f"p = {each.p:.2g}",
        )
        for pair in pairs
        for each in pair.figures
        for a, b in [each.sides]
        if each.p is not None and each.p < _SELDOM and a is not None and b is not None
    ]
    if told:
        yield ""
        yield "Figures (medians) that differ, by the test of Mann and Whitney:"
        yield ""
        yield from (line for _, line in sorted(told)[:_MOST_FIGURES])


def _again(pair: Pair) -> Iterator[str]:
    """How the first row is made again, if a command makes it."""
    words = _command(pair)
    yield ""
    if words:
        yield "To repeat the comparison, with `zfs` a clone of OpenZFS that has the commits:"
        yield ""
        yield "```sh"
        yield shlex.join(words)
        yield "```"
    else:
        yield "No command repeats it: a build has edits, patches or parameters that no name of a commit stands for."


# Parameters that `repro` has an option for.
_OPTIONS = {"memory": "--memory", "window": "--window", "clock": "--clock"}


def _command(pair: Pair) -> list[str]:
    """Empty if there is none."""
    sources = [_source(side.runs[-1]) for side in (pair.one, pair.other)]
    cell = pair.one.cell
    # A cell without a clock has real time.
    parameters = {"clock": str(Clock.REAL), **dict(cell.parameters)}
    if not all(sources) or not parameters.keys() <= _OPTIONS.keys() or ":" in cell.kernel:
        return []
    variants = _variants(pair)
    # `repro` runs each source with each variant.
    if len(variants) > 1 and sources[0] != sources[1]:
        return []
    sources = list(dict.fromkeys(sources))
    words = ["splvm", "repro", cell.scenario, "--kernel", cell.kernel, "--variant", ",".join(variants)]
    words += ["--load", cell.loads] if cell.loads else []
    words += [word for name, value in sorted(parameters.items()) for word in (_OPTIONS[name], value)]
    return words + [word for source in sources for word in ("--spl", source)]


def _source(run: RunRow) -> str:
    """The name of its source for everybody; empty if it has none."""
    if run.patches or run.tree.endswith(", dirty"):
        return ""
    if run.line == PACKAGED:
        return "debian"
    return f"git:zfs@{run.revision}" if run.revision else ""
