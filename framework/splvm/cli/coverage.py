"""The command that tells which functions of SPL were executed, by scenario."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from splvm.cli.options import JsonOption, make_console, print_json
from splvm.errors import EvidenceError, UsageError
from splvm.evidence.formats.lcov import Coverage, merge
from splvm.report.tables import listing
from splvm.run.coverage import COVERAGE_FILE, read_coverage

SCHEMA_VERSION = 1


def coverage(
    places: Annotated[
        list[Path],
        typer.Argument(help="Directories of runs or of many runs, or files of lcov's form.", metavar="PLACE..."),
    ],
    missed: Annotated[bool, typer.Option("--missed", help="List the functions that no run has executed.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a table for a page.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell which functions of SPL were executed, by which scenarios, from runs that were made with --coverage."""
    if markdown and as_json:
        raise UsageError("--markdown and --json: it is one of the two")
    tests = read_coverage(places)
    if not tests:
        raise EvidenceError(
            f"there is no {COVERAGE_FILE} in {', '.join(map(str, places))}", hint="`run --coverage` leaves one"
        )
    rows = [it for it in _rows(tests) if not missed or not it["scenarios"]]
    if as_json:
        print_json({"schema_version": SCHEMA_VERSION, **counts(tests), "functions": rows})
        return
    shown = [(it["function"], f"{it['file']}:{it['line']}", ", ".join(it["scenarios"]) or "-") for it in rows]
    if markdown:
        for line in _markdown(("function", "source", "executed by"), shown):
            typer.echo(line)
    else:
        make_console().print(listing(("function", "source", "executed by"), shown))
    typer.echo(f"executed: {_said(counts(tests))}")


def said_of_coverage(tests: Mapping[str, Coverage], base: Path) -> str:
    """What was executed, in a line.

    :param base: the directory whose file has it.
    """
    return f"executed: {_said(counts(tests))}; {base / COVERAGE_FILE} has each"


def counts(tests: Mapping[str, Coverage]) -> dict[str, int]:
    """How many functions and lines there are, and how many of them were executed."""
    files = merge(tests.values()).values()
    functions = [runs for it in files for _, runs in it.functions.values()]
    lines = [runs for it in files for runs in it.lines.values()]
    return {
        "functions_executed": sum(map(bool, functions)),
        "functions_of": len(functions),
        "lines_executed": sum(map(bool, lines)),
        "lines_of": len(lines),
    }


def _said(told: Mapping[str, int]) -> str:
    functions = f"{told['functions_executed']} of {told['functions_of']} functions"
    return f"{functions} and {told['lines_executed']} of {told['lines_of']} lines"


def _rows(tests: Mapping[str, Coverage]) -> Iterator[dict[str, Any]]:
    """Each function, by file and line."""
    for file, of_file in sorted(merge(tests.values()).items()):
        for function, (line, _) in sorted(of_file.functions.items(), key=lambda it: (it[1][0], it[0])):
            reached = [test for test in sorted(tests) if _has(tests[test], file, function)]
            yield {"function": function, "file": file, "line": line, "scenarios": reached}


def _has(coverage: Coverage, file: str, function: str) -> bool:
    of_file = coverage.get(file)
    return of_file is not None and of_file.functions.get(function, (0, 0))[1] > 0


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for function, source, scenarios in rows:
        yield f"| `{function}` | {source} | {scenarios} |"
