"""Which cells a matrix has: every combination of its axes, but for those that its expressions leave out.

An axis is given on the command line or in a file of TOML::

    scenarios = ["nominal", "held-worker"]
    kernels = ["debian-12", "debian-13"]
    variants = ["stock", "no-emergency"]
    loads = ["", "writeback,lowmem"]
    include = ['scenario != "nominal" or load == ""']
    exclude = ['kernel =~ "debian-1[12]" and variant == "unscoped"']
    repeat = 1
    spl = "git:/srv/zfs@master"
    spl_patch = ["fix.patch"]
    debug = true
    clock = "auto"
    also_real = ['kernel == "debian-12"']
    label = "nightly"

Expressions are those of rule-engine (https://zerosteiner.github.io/rule-engine/syntax.html).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splvm.builds.variants import find_variant
from splvm.clock import Clock, ClockChoice
from splvm.deadline import interrupted_after
from splvm.errors import DeadlineExceeded, UsageError, did_you_mean
from splvm.history.cell import Cell
from splvm.run.clocks import ClockWhy, Host, usual_clock
from splvm.run.experiment import Dump
from splvm.run.loads import parse_loads, with_own
from splvm.run.prepare import Wish, find_any_kernel, lacks_for_virtual_time
from splvm.scenarios.table import find_scenario
from splvm.tomlfile import read_toml

if TYPE_CHECKING:
    from rule_engine import Rule

_MOST_REPEATS = 10_000
# What an expression may have of characters, and take of seconds for one cell.
_MOST_CHARS = 2000
_EXPRESSION_S = 2.0
_AXES = ("scenario", "kernel", "variant", "load")
_EXAMPLE = 'for example scenario == "nominal" and kernel =~ "debian-1[12]"'


@dataclass(frozen=True, slots=True)
class Axes:
    """What is combined; None where nothing was said."""

    scenarios: tuple[str, ...] | None = None
    kernels: tuple[str, ...] | None = None
    variants: tuple[str, ...] | None = None
    # Each is a set of loads as `--load` takes it, or empty: nothing beside the scenario's own. A cell names both.
    loads: tuple[str, ...] | None = None
    # Expressions. A cell has to match each of the first, and none of the second.
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] | None = None
    repeat: int | None = None
    # No axis: source, patches, debug option and name of the line of all cells, as `run` takes them.
    spl: str | None = None
    spl_patch: tuple[str, ...] | None = None
    debug: bool | None = None
    # `virtual`: in each cell whose scenario can be run so. `auto`, or nothing: where it was tried as well.
    clock: str | None = None
    # Expressions. Cells for which one holds are run in real time besides.
    also_real: tuple[str, ...] | None = None
    label: str | None = None

    def over(self, other: Axes) -> Axes:
        """These, and the other's where these say nothing."""
        return replace(other, **{name: value for name, value in _items(self) if value is not None})


def _items(axes: Axes) -> list[tuple[str, Any]]:
    return [(field.name, getattr(axes, field.name)) for field in fields(axes)]


def read_axes(path: Path, option: str = "--file") -> Axes:
    """The axes in a file.

    :param option: that names it, for messages.
    :raises UsageError: when it cannot be read, or is not what this module's head says; with the place.
    """
    content = read_toml(option, path)
    known = [field.name for field in fields(Axes)]
    for name, value in content.items():
        if name not in known:
            hint = did_you_mean(name, known) or f"there are: {', '.join(known)}"
            raise UsageError(f"{option} {path}: there is no {name!r}", hint=hint)
        if name == "repeat":
            if type(value) is not int or not 1 <= value <= _MOST_REPEATS:
                raise UsageError(f"{option} {path}: repeat = {value!r}: it is a number from 1 to {_MOST_REPEATS}")
        elif name == "debug":
            if not isinstance(value, bool):
                raise UsageError(f"{option} {path}: debug = {value!r}: it is true or false")
        elif name == "clock":
            if value not in tuple(ClockChoice):
                raise UsageError(f"{option} {path}: clock = {value!r}: it is one of {', '.join(ClockChoice)}")
        elif name in ("spl", "label"):
            if not isinstance(value, str) or not value:
                raise UsageError(f"{option} {path}: {name} = {value!r}: it is a string that is not empty")
        elif not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise UsageError(f"{option} {path}: {name} = {value!r}: it is a list of strings")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
    return Axes(**values)


def plan_cells(axes: Axes, host: Host | None = None) -> list[Cell]:
    """The cells, in the order in which they are run: one kernel after the other, each once.

    :param axes: scenarios, kernels and variants are there.
    :param host: what has a say in the clock of cells for which none was named; None: they have real time.
    :raises UsageError: when a name stands for nothing, an expression is none, or nothing is left.
    """
    scenarios = [find_scenario(name).name for name in axes.scenarios or ()]
    variants = [find_variant(name).name for name in axes.variants or ()]
    kernels = axes.kernels or ()
    for name in kernels:
        find_any_kernel(name)
    loads = [parse_loads([given] if given else []) for given in axes.loads or ("",)]
    wanted = [_Expression("--include", text) for text in axes.include or ()]
    unwanted = [_Expression("--exclude", text) for text in axes.exclude or ()]
    cells = dict.fromkeys(
        Cell(scenario, kernel, variant, ",".join(map(str, with_own(find_scenario(scenario).load, load))))
        for kernel in kernels
        for variant in variants
        for load in loads
        for scenario in scenarios
    )
    left = [cell for cell in cells if _matches(cell, wanted, unwanted)]
    if not left:
        raise UsageError("no cell is left", hint=f"--include and --exclude leave out all {len(cells)} cells")
    besides = [_Expression("--also-real", text) for text in axes.also_real or ()]
    return [each for cell in left for each in _with_clocks(cell, axes.clock, host, besides)]


def _with_clocks(cell: Cell, clock: str | None, host: Host | None, besides: Sequence[_Expression]) -> Iterator[Cell]:
    """The cell in the time that it is run in, and once more in real time if that is asked for besides."""
    if clock_of(cell, clock, host).clock is Clock.VIRTUAL:
        yield replace(cell, parameters=(*cell.parameters, ("clock", Clock.VIRTUAL)))
        if not any(it.matches(cell) for it in besides):
            return
    yield cell


def clock_of(cell: Cell, clock: str | None, host: Host | None) -> ClockWhy:
    """The clock that a cell without one is run in.

    :param clock: what was asked for; `virtual` holds where nothing is needed that comes from the host.
    :param host: as `plan_cells` takes it.
    """
    scenario = find_scenario(cell.scenario)
    loads = parse_loads([cell.loads] if cell.loads else [])
    if clock == ClockChoice.VIRTUAL:
        lacking = lacks_for_virtual_time(scenario, loads, Wish().ram_mib, Dump.NEVER)
        needs = f"{cell.scenario} needs {', '.join(lacking)}"
        return ClockWhy(Clock.REAL, needs) if lacking else ClockWhy(Clock.VIRTUAL, "asked for")
    if clock == ClockChoice.REAL:
        return ClockWhy(Clock.REAL, "asked for")
    if host is None:
        return ClockWhy(Clock.REAL, "guests of a cluster have no other")
    return usual_clock(host, scenario, loads, cell.kernel)


def tell_clocks(cells: Sequence[Cell], clock: str | None, host: Host | None) -> str:
    """One line: how many cells have which clock, and why."""
    counts = Counter[str]()
    for cell in cells:
        is_virtual = ("clock", Clock.VIRTUAL) in cell.parameters
        why = clock_of(replace(cell, parameters=()), clock, host)
        besides = ClockWhy(Clock.REAL, "asked for by --also-real")
        counts[str(why if is_virtual or why.clock is Clock.REAL else besides)] += 1
    return "; ".join(f"{count} of {len(cells)} cells in {told}" for told, count in counts.items())


def _matches(cell: Cell, wanted: Sequence[_Expression], unwanted: Sequence[_Expression]) -> bool:
    return all(it.matches(cell) for it in wanted) and not any(it.matches(cell) for it in unwanted)


def _names(cell: Cell) -> Mapping[str, str]:
    """What an expression can ask of a cell."""
    return {"scenario": cell.scenario, "kernel": cell.kernel, "variant": cell.variant, "load": cell.loads}


class _Expression:
    """An expression of the user's. A pattern in it may take for ever, and what it computes may be none.

    :raises UsageError: when it is none; with the place, and with the name that was meant.
    """

    def __init__(self, option: str, text: str) -> None:
        self._option, self._text = option, text
        if len(text) > _MOST_CHARS:
            raise UsageError(f"{option}: an expression has at most {_MOST_CHARS} characters, this one has {len(text)}")
        with self._evaluated():
            self._rule = self._compiled()

    def matches(self, cell: Cell) -> bool:
        """Whether it holds for a cell."""
        with self._evaluated():
            return bool(self._rule.matches(_names(cell)))
        raise AssertionError("it holds or not")

    def _compiled(self) -> Rule:
        import rule_engine

        names = {name: rule_engine.DataType.STRING for name in _names(Cell("", "", ""))}
        context = rule_engine.Context(type_resolver=rule_engine.type_resolver_from_dict(names))
        return rule_engine.Rule(self._text, context=context)

    @contextmanager
    def _evaluated(self) -> Iterator[None]:
        import rule_engine

        option, text = self._option, self._text
        try:
            with interrupted_after(f"{option} {text}", _EXPRESSION_S):
                yield
        except rule_engine.SymbolResolutionError as error:
            near = f"did you mean {error.suggestion}?" if error.suggestion else f"there are: {', '.join(_AXES)}"
            raise UsageError(f"{option} {text}: {error.message}", hint=near) from error
        except rule_engine.EngineError as error:
            token = getattr(error, "token", None)
            at = len(text) if token is None else token.lexpos
            raise UsageError(f"{option}: {error.message}\n  {text}\n  {' ' * at}^", hint=_EXAMPLE) from error
        except (RecursionError, MemoryError, ArithmeticError, ValueError, LookupError, TypeError) as error:
            raise UsageError(f"{option} {text}: {error}", hint=_EXAMPLE) from error
        except DeadlineExceeded as error:
            raise UsageError(f"{option} {text}: it takes longer than {_EXPRESSION_S:g} s", hint=_EXAMPLE) from error
