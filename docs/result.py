"""Writes result.svg: what `splvm run` prints of a run and of its control, as a picture.

.venv/bin/python docs/result.py > docs/result.svg
.venv/bin/python docs/result.py runs/DIR ... > result.svg

Without directories it takes two runs that tests/data has. A test sees to it that the picture is up to date.
"""

from __future__ import annotations

import io
import re
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from splvm.report.summary import summarize
from splvm.scenarios.judged import judge_run

RECORDED = Path(__file__).resolve().parents[1] / "tests" / "data" / "runs"
# The run, and the one in which what it shows is not so.
RUNS = ("progress", "stalled")
WIDTH = 100

# The colours that a terminal numbers from 0 to 7, on a light and on a dark background.
_LIGHT = ("#0f1318", "#aa1e14", "#146e3c", "#7d5500", "#0b57a4", "#783282", "#006973", "#57606a")
_DARK = ("#e6e9ed", "#ff9d8a", "#7bd88f", "#e5c07b", "#7cb9f2", "#d8a5e0", "#7fd4dc", "#a5b0bc")
_DIM_DARK = "#a5b0bc"

# Rich's own template fetches a font from a network. The names in braces are what rich puts in.
_TEMPLATE = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<title>What splvm says of a run, and of its control</title>
<style>
.{unique_id}-matrix {{
  font: {char_height}px/{line_height}px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
  white-space: pre;
}}
{styles}
@media (prefers-color-scheme: dark) {{
.paper {{ fill: #12161c; stroke: #3a424d }}
/* dark */
}}
</style>
<defs>{lines}</defs>
<rect class="paper" fill="#ffffff" stroke="#c9d1d9" width="100%" height="100%" rx="6"/>
<g transform="translate(9 22)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def picture(runs: Iterable[tuple[Path, str]]) -> str:
    """The summaries of runs, one below the other, as an SVG.

    :param runs: directories, each with what the picture calls it.
    """
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, highlight=False)
    for directory, shown in runs:
        evidence, verdict = judge_run(directory)
        expected = verdict.outcome in evidence.facts["expected"]
        console.print(summarize(verdict, evidence.facts, shown, expected=expected))
    theme = TerminalTheme(_rgb("#ffffff"), _rgb(_LIGHT[0]), [_rgb(colour) for colour in _LIGHT])
    svg = console.export_svg(theme=theme, code_format=_TEMPLATE, unique_id="result")
    return svg.replace("/* dark */", "\n".join(_dark_rules(svg)))


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def _dark_rules(svg: str) -> Iterator[str]:
    """For each class of rich's that has a colour a rule with the dark background's."""
    dark = dict(zip(_LIGHT, _DARK, strict=True))
    for name, colour in re.findall(r"^\.(result-r\d+) \{ fill: (#\w{6})", svg, re.MULTILINE):
        yield f".{name} {{ fill: {dark.get(colour, _DIM_DARK)} }}"


@contextmanager
def recorded() -> Iterator[list[tuple[Path, str]]]:
    """The runs of tests/data, unpacked."""
    # The Python of Debian 12, 3.11.2, knows no filters yet.
    options: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with TemporaryDirectory(prefix="splvm-result-") as directory:
        for name in RUNS:
            with tarfile.open(RECORDED / f"{name}.tar.xz") as archive:
                archive.extractall(directory, **options)
        yield [(Path(directory) / name, f"runs/{name}") for name in RUNS]


def main(arguments: Sequence[str]) -> str:
    if arguments:
        return picture([(Path(argument), argument) for argument in arguments])
    with recorded() as runs:
        return picture(runs)


if __name__ == "__main__":
    sys.stdout.write(main(sys.argv[1:]))
