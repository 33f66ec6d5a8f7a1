"""Writes reference.md from the program's help texts and tables. A test fails until reference.md is up to date.

.venv/bin/python docs/reference.py > docs/reference.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import typer
from typer.main import get_command

from splvm.builds.kernels import KERNELS
from splvm.builds.source import BUILT
from splvm.builds.variants import VARIANTS
from splvm.cli import app
from splvm.evidence.loads import LOADS
from splvm.evidence.verdict import Outcome
from splvm.scenarios.table import EXPECTED, SCENARIOS, WHATEVER_SPL

_WIDTH = 100


def reference() -> str:
    """The whole page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Reference"
    yield ""
    yield "Made from `--help` and the tables by `docs/reference.py`."
    yield ""
    yield "## Tables"
    yield ""
    yield "Scenarios (`run SCENARIO`):"
    yield from _table(("scenario", "what happens"), [(each.name, each.summary) for each in SCENARIOS.values()])
    yield "Variants of SPL (`--variant`):"
    rows = [(each.name, each.summary, each.control_for) for each in VARIANTS.values()]
    yield from _table(("variant", "what it is", "control for"), rows)
    yield "Kernels (`--kernel`):"
    packaged = [(each.id, each.suite, each.note) for each in KERNELS.values()]
    built = [(f"built:{each.name}", "from source", each.summary) for each in BUILT.values()]
    yield from _table(("kernel", "suite", "what it is"), [*packaged, *built])
    yield "Loads (`--load`), with their parameters and the defaults; [loads.md](loads.md) has figures:"
    loads = [
        (
            each.name,
            each.summary,
            each.level,
            "; ".join(f"`{it.name}` {it.default}, {it.help}" for it in each.parameters),
        )
        for each in LOADS.values()
    ]
    yield from _table(("load", "what it does", "its level", "parameters"), loads)
    yield "Expected verdicts, on kernels whose vmalloc honours or ignores GFP_NOIO for its page tables:"
    expected = [
        (scenario, variant, cell.on(honours=True).value, cell.on(honours=False).value)
        for (scenario, variant), cell in EXPECTED.items()
    ]
    whatever = [
        (scenario, "any", cell.on(honours=True).value, cell.on(honours=False).value)
        for scenario, cell in WHATEVER_SPL.items()
    ]
    yield from _table(("scenario", "variant", "honoured", "ignored"), [*expected, *whatever])
    yield f"Verdicts, the worst first: {', '.join(f'`{outcome}`' for outcome in Outcome)}."
    yield ""
    yield "## Commands"
    yield ""
    yield from _commands(get_command(app), ["splvm"])


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield ""
    for row in (columns, ["---"] * len(columns), *rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
    yield ""


def _commands(command: Any, path: list[str]) -> Iterator[str]:
    for name in command.commands:
        found = command.commands[name]
        title = " ".join([*path, name])
        context = typer.Context(found, info_name=title, max_content_width=_WIDTH, terminal_width=_WIDTH)
        yield f"### {title}"
        yield ""
        yield "```text"
        yield from (line.rstrip() for line in found.get_help(context).splitlines())
        yield "```"
        yield ""
        if hasattr(found, "commands"):
            yield from _commands(found, [*path, name])


if __name__ == "__main__":
    sys.stdout.write(reference())
