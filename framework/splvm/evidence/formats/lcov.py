"""Which lines and functions were executed, in the form of lcov's tracefiles (geninfo(1)).

Counts are runs: in how many of them a line or a function was executed, and not how often.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from splvm.errors import EvidenceError

# Lines and functions of one file of source, at most, and length of a name.
_MOST = 1_000_000
_LENGTH = 1000


@dataclass(slots=True)
class FileCoverage:
    """What of one file of source was executed."""

    # Runs, by line.
    lines: dict[int, int] = field(default_factory=dict)
    # Line at which it begins and runs, by function.
    functions: dict[str, tuple[int, int]] = field(default_factory=dict)


# By file of source.
Coverage = Mapping[str, FileCoverage]


def merge(parts: Iterable[Coverage]) -> dict[str, FileCoverage]:
    """The sum of several."""
    merged: dict[str, FileCoverage] = {}
    for part in parts:
        for name, of_file in part.items():
            into = merged.setdefault(name, FileCoverage())
            for line, runs in of_file.lines.items():
                into.lines[line] = into.lines.get(line, 0) + runs
            for function, (line, runs) in of_file.functions.items():
                first, so_far = into.functions.get(function, (line, 0))
                into.functions[function] = (min(first, line), so_far + runs)
    return merged


def to_lcov(tests: Mapping[str, Coverage]) -> str:
    """A tracefile.

    :param tests: what was executed, by the name of a test, which has letters, digits and underscores.
    """
    parts: list[str] = []
    for test in sorted(tests):
        for name, of_file in sorted(tests[test].items()):
            functions, lines = sorted(of_file.functions.items()), sorted(of_file.lines.items())
            parts += [f"TN:{test}", f"SF:{name}"]
            parts += [f"FN:{line},{function}" for function, (line, _) in functions]
            parts += [f"FNDA:{runs},{function}" for function, (_, runs) in functions]
            parts += [f"FNF:{len(functions)}", f"FNH:{sum(runs > 0 for _, (_, runs) in functions)}"]
            parts += [f"DA:{line},{runs}" for line, runs in lines]
            parts += [f"LF:{len(lines)}", f"LH:{sum(runs > 0 for _, runs in lines)}", "end_of_record"]
    return "\n".join([*parts, ""])


def parse_lcov(text: str) -> dict[str, dict[str, FileCoverage]]:
    """Coverage by test, from what `to_lcov` has written. What else a tracefile may have is left out.

    :raises EvidenceError: when it is no tracefile.
    """
    tests: dict[str, dict[str, FileCoverage]] = {}
    test, name, here = "", "", FileCoverage()
    for number, line in enumerate(text.splitlines(), 1):
        key, _, value = line.partition(":")
        try:
            if key == "TN":
                test = value[:_LENGTH]
            elif key == "SF":
                name, here = value[:_LENGTH], FileCoverage()
            elif key == "FN":
                first, function = value.split(",", 1)
                here.functions[function[:_LENGTH]] = (_count(first), 0)
            elif key == "FNDA":
                runs, function = value.split(",", 1)
                function = function[:_LENGTH]
                here.functions[function] = (here.functions[function][0], _count(runs))
            elif key == "DA":
                at, runs = value.split(",")[:2]
                here.lines[_count(at)] = _count(runs)
            elif key == "end_of_record" and name:
                of_test = tests.setdefault(test, {})
                of_test[name] = merge([{name: of_test[name]}, {name: here}])[name] if name in of_test else here
                name = ""
        except (ValueError, KeyError) as error:
            raise EvidenceError(f"line {number} is of no tracefile: {line[:100]!r}") from error
        if len(here.lines) > _MOST or len(here.functions) > _MOST:
            raise EvidenceError(f"line {number}: a file of source with more than {_MOST} lines or functions")
    return tests


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise ValueError(text)
    return int(text)
