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
    label = "nightly"

Expressions are those of rule-engine (https://zerosteiner.github.io/rule-engine/syntax.html).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splvm.builds.variants import find_variant
from splvm.errors import UsageError, did_you_mean
from splvm.history.cell import Cell
from splvm.run.loads import parse_loads, with_own
from splvm.run.prepare import find_any_kernel
from splvm.scenarios.table import find_scenario
from splvm.tomlfile import read_toml

if TYPE_CHECKING:
    from rule_engine import Rule

_MOST_REPEATS = 10_000


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
    # No axis: source, patches and name of the line of all cells, as `run` takes them.
    spl: str | None = None
    spl_patch: tuple[str, ...] | None = None
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
        elif name in ("spl", "label"):
            if not isinstance(value, str) or not value:
                raise UsageError(f"{option} {path}: {name} = {value!r}: it is a string that is not empty")
        elif not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise UsageError(f"{option} {path}: {name} = {value!r}: it is a list of strings")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
    return Axes(**values)


def plan_cells(axes: Axes) -> list[Cell]:
    """The cells, in the order in which they are run: one kernel after the other, each once.

    :param axes: scenarios, kernels and variants are there.
    :raises UsageError: when a name stands for nothing, an expression is none, or nothing is left.
    """
    scenarios = [find_scenario(name).name for name in axes.scenarios or ()]
    variants = [find_variant(name).name for name in axes.variants or ()]
    kernels = axes.kernels or ()
    for name in kernels:
        find_any_kernel(name)
    loads = [parse_loads([given] if given else []) for given in axes.loads or ("",)]
    wanted = [_compile("--include", text) for text in axes.include or ()]
    unwanted = [_compile("--exclude", text) for text in axes.exclude or ()]
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
    return left


def _matches(cell: Cell, wanted: Sequence[Rule], unwanted: Sequence[Rule]) -> bool:
    names = _names(cell)
    return all(rule.matches(names) for rule in wanted) and not any(rule.matches(names) for rule in unwanted)


def _names(cell: Cell) -> Mapping[str, str]:
    """What an expression can ask of a cell."""
    return {"scenario": cell.scenario, "kernel": cell.kernel, "variant": cell.variant, "load": cell.loads}


def _compile(option: str, text: str) -> Rule:
    """:raises UsageError: with the place, and with the name that was meant."""
    import rule_engine

    names = {name: rule_engine.DataType.STRING for name in _names(Cell("", "", ""))}
    context = rule_engine.Context(type_resolver=rule_engine.type_resolver_from_dict(names))
    try:
        return rule_engine.Rule(text, context=context)
    except rule_engine.SymbolResolutionError as error:
        near = f"did you mean {error.suggestion}?" if error.suggestion else f"there are: {', '.join(names)}"
        raise UsageError(f"{option} {text}: {error.message}", hint=near) from error
    except rule_engine.EngineError as error:
        token = getattr(error, "token", None)
        at = len(text) if token is None else token.lexpos
        raise UsageError(
            f"{option}: {error.message}\n  {text}\n  {' ' * at}^",
            hint='for example scenario == "nominal" and kernel =~ "debian-1[12]"',
        ) from error
