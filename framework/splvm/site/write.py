"""Writes the site: what a history and its runs' directories show, as pages that need neither a server nor a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from splvm.history.database import History
from splvm.history.knownissues import KnownIssue
from splvm.history.schema import RunRow
from splvm.log import step
from splvm.report.markdown import clean
from splvm.report.rates import CONFIDENCE, Rate
from splvm.site import compare, plots
from splvm.site.artefacts import Budget
from splvm.site.choice import CELL_RUNS, CellNews, Choice, choose
from splvm.site.looks import ORDER, cell_page, printable, run_pages, symbol, told, tone
from splvm.site.overview import make_matrix
from splvm.site.place import check_place, real_path, start_site
from splvm.site.runpage import ReadEvidence, facts_of, show_run
from splvm.site.trends import FIGURES

_HERE = Path(__file__).resolve().parent
ASSETS = ("site.css", "site.js")
PLOTLY = "plotly.min.js"


@dataclass(frozen=True, slots=True)
class Built:
    """A site that was written."""

    directory: Path
    pages: int
    # Of all files.
    bytes: int


def write_site(
    history: History,
    out: Path,
    read: ReadEvidence,
    *,
    explain: Callable[[str, str], str] = lambda scenario, variant: "",
    batch: str = "",
    since_days: int | None = None,
    most_runs: int = 100,
    known: Sequence[KnownIssue] = (),
) -> Built:
    """Write a site, in the place of the one before.

    :param out: its directory.
    :param read: reads the evidence of a run's directory.
    :param explain: tells why a verdict is expected of a scenario on a variant; empty where it is not known.
    :param batch, since_days, most_runs, known: as `choose` takes them.
    :raises UsageError: when there is something else at `out`.
    :raises EvidenceError: when there is no such run.
    :raises SetupError: when the history cannot be read, or the site not be written.
    """
    check_place(real_path(out))
    with step("reading the history"):
        choice = choose(history, batch=batch, since_days=since_days, most=most_runs, known=known)
    with start_site(out) as site:
        writer = _Writer(site, choice)
        writer.write_assets()
        with step(f"overview of {len(choice.cells)} cells"):
            writer.write_index()
            for each in choice.cells:
                writer.write_cell(each, explain)
        with step("comparing builds"):
            writer.write_comparison()
        with step(f"pages of {len(choice.runs)} runs"):
            writer.write_runs(choice.runs, read)
        pages, size = writer.pages, writer.bytes_there()
    return Built(out.absolute(), pages, size)


class _Writer:
    """Renders pages into the directory of a site."""

    def __init__(self, site: Path, choice: Choice) -> None:
        self.site = site
        self.choice = choice
        self.pages = 0
        self.run_pages = run_pages(choice.runs)
        self.env = make_environment()
        self.env.globals |= {
            "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            "what": printable(choice.what, 200),
            "run_page": self.run_pages.get,
        }
        for name in ("cells", "runs"):
            (site / name).mkdir()

    def write_assets(self) -> None:
        for name in ASSETS:
            (self.site / name).write_bytes((_HERE / "assets" / name).read_bytes())
        (self.site / PLOTLY).write_text(get_plotlyjs(), encoding="utf-8")

    def write_index(self) -> None:
        scenarios, rows = make_matrix(self.choice.cells)
        squares = [square for row in rows for square in row.squares if square is not None]
        self._render(
            *("index.html", "index.html"),
            root="",
            scenarios=scenarios,
            rows=rows,
            kernels=sorted({square.kernel for square in squares}),
            variants=sorted({square.variant for square in squares}),
            verdicts=[it for it in ORDER if any(square.verdict == it for square in squares)],
            remarks=self.choice.remarks(),
            newest=self.choice.runs[:30],
            total=sum(each.recent.total for each in self.choice.cells),
            tones={
                name: sum(square.tone == name for square in squares) for name in ("expected", "unexpected", "unsure")
            },
        )

    def write_cell(self, each: CellNews, explain: Callable[[str, str], str]) -> None:
        cell = each.recent.cell
        self._render(
            *("cell.html", f"cells/{cell_page(cell)}"),
            root="../",
            each=each,
            why=explain(cell.scenario, cell.variant),
            most=CELL_RUNS,
            plot=embed(plots.plot_trend(each.recent.runs, FIGURES, self.run_pages)),
        )

    def write_comparison(self) -> None:
        found = list(
            islice(compare.pairs([each.recent for each in self.choice.cells], FIGURES), compare.MOST_PAIRS + 1)
        )
        builds = sorted({side.name for pair in found for side in (pair.one, pair.other)})
        self._render(
            *("compare.html", "compare.html"),
            root="",
            pairs=found[: compare.MOST_PAIRS],
            cut=len(found) > compare.MOST_PAIRS,
            places=sorted({pair.where for pair in found}),
            builds=builds,
            confidence=CONFIDENCE,
        )

    def write_runs(self, runs: Iterable[RunRow], read: ReadEvidence) -> None:
        """What was not as expected comes first: it may take most of the room."""
        ordered = sorted(runs, key=lambda run: run.as_expected)
        budget = Budget.of(self.bytes_there(), len(ordered))
        cells = {each.recent.cell for each in self.choice.cells}
        for run in ordered:
            page = self.run_pages[run.id]
            shown = show_run(run, read, self.site / "runs" / page.removesuffix(".html"), budget)
            record = None if isinstance(shown, str) else shown
            size = self._render(
                *("run.html", f"runs/{page}"),
                root="../",
                run=run,
                cell=run.cell,
                has_cell=run.cell in cells,
                facts=list(facts_of(run)),
                shown=record,
                gone=shown if record is None else "",
                files=page.removesuffix(".html"),
                plot=embed(record.plot) if record and record.plot else None,
                latency=embed(record.latency) if record and record.latency else None,
            )
            budget.page(size)

    def _render(self, template: str, name: str, **values: Any) -> int:
        content = self.env.get_template(template).render(**values).encode("utf-8", "replace")
        (self.site / name).write_bytes(content)
        self.pages += 1
        return len(content)

    def bytes_there(self) -> int:
        return sum(path.stat().st_size for path in self.site.rglob("*") if path.is_file())


def make_environment() -> Environment:
    """Templates: everything is escaped, and a name that is missing is an error."""
    env = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_without_controls,
    )
    env.filters |= {"printable": printable, "number": _number, "chance": _chance, "rate": _rate, "bytes": _bytes}
    env.globals |= {"symbol": symbol, "tone": tone, "told": told, "cell_page": cell_page}
    return env


def _without_controls(value: object) -> object:
    """What a template shows, wherever it comes from. Markup is of the site's own making."""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def embed(data: str) -> Markup:
    """JSON that may stand within a script element: these characters are only in its strings, where \\u is read."""
    for char in "<>&\u2028\u2029":
        data = data.replace(char, f"\\u{ord(char):04x}")
    return Markup(data)


def _number(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def _chance(p: float | None) -> str:
    if p is None:
        return "-"
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def _rate(rate: Rate) -> str:
    return str(rate)


def _bytes(count: int) -> str:
    return f"{count} B" if count < 1000 else f"{count / 1000:.0f} kB"
