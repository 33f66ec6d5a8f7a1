"""What a plan asks of all its runs, beside what the records of these runs say.

A list of runs can be edited. Its plan tells what the runs were of, so it has to be what they were of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from splvm import __version__
from splvm.builds.owntree import find_tree
from splvm.builds.variants import VARIANTS
from splvm.clock import Clock
from splvm.errors import UsageError
from splvm.evidence.formats.stormstatus import ops_without_marks
from splvm.host.content import file_hash
from splvm.record.cellfacts import flatten_parameters
from splvm.run.experiment import own_parameters
from splvm.run.loads import parse_loads, with_own
from splvm.scenarios.table import find_scenario

# Those that runs of all versions have, and what a scenario has by itself of them is what it always had.
_CALLED = {"window": "the window", "memory": "the memory", "cpus": "the number of CPUs", "clock": "the clock"}


def is_of_today(facts: Mapping[str, Any]) -> bool:
    """Whether a record has all that this version writes; one that names no version is of none that wrote less."""
    return bool(facts.get("splvm", __version__) == __version__)


def done_of(
    facts: Mapping[str, Any], scenario: str, loads: str, given: Mapping[str, str]
) -> Iterator[tuple[str, object, object]]:
    """Loads and parameters by name: what a record says of them, and what was asked for. What it lacks is not that.

    :param facts: run.json.
    :param loads: in the form of `--load`, with or without the scenario's own.
    :param given: parameters that are not left to the scenario, as a cell has them.
    :raises UsageError: when there is no such scenario or load.
    """
    own, parameters = find_scenario(scenario), facts.get("parameters") or {}
    asked_loads = with_own(own.load, parse_loads([loads] if loads else []))
    yield "the load", parameters.get("load") or "", ",".join(map(str, asked_loads))
    told = {"clock": str(Clock.REAL), **flatten_parameters(parameters, None)}
    window_s = parameters.get("window_s", own.window_s)
    asked = {"clock": str(Clock.REAL), **own_parameters(own, window_s), **given}
    variant = VARIANTS.get(str((facts.get("spl") or {}).get("variant")))
    if variant is not None and not variant.marked and "storm_ops" not in given:
        # What such a build cannot protect is left out of a storm.
        usual = asked.get("storm_ops")
        left = {str(ops_without_marks(honours=honours)) for honours in (False, True)} if usual else set()
        asked |= {"storm_ops": told["storm_ops"]} if told.get("storm_ops") in left else {}
    for name in {**asked, **told} if is_of_today(facts) else _CALLED:
        yield _CALLED.get(name, f"the parameter {name}"), told.get(name), asked.get(name)


def source_of(name: str) -> str:
    """A source of SPL as run.json has it.

    :param name: in one of the forms of `--spl`. One that is not there any more stays as it is.
    """
    try:
        tree = find_tree(name)
    except UsageError:
        return name
    return str(tree.name) if tree else name


def hashes_of(patches: Sequence[Path]) -> list[str | None]:
    """SHA-256 of each patch; None of one that cannot be read."""
    return [_hash_of(path) for path in patches]


def _hash_of(path: Path) -> str | None:
    try:
        return file_hash(path) if path.is_file() else None
    except OSError:
        return None


def built_of(
    facts: Mapping[str, Any], source: str | None, patches: Sequence[str | None]
) -> Iterator[tuple[str, object, object]]:
    """Source and patches by name: what a record says of them, and what was asked for. An older record may lack them.

    :param facts: run.json.
    :param source: None: it is not asked for.
    :param patches: SHA-256 of each, the variant's own are not among them; None: not known.
    """
    spl = facts.get("spl") or {}
    if source is not None and ("source" in spl or is_of_today(facts)):
        yield "the source of SPL", spl.get("source"), source
    told = spl.get("patches")
    if not isinstance(told, list) and is_of_today(facts):
        yield "the list of patches", None, patches
    if isinstance(told, list):
        hashes = [it.get("sha256") if isinstance(it, Mapping) else None for it in told]
        known = [(found, asked) for found, asked in zip(hashes, patches, strict=False) if asked is not None]
        yield "the number of patches", len(hashes), len(patches)
        yield "the patch", [found for found, _ in known], [asked for _, asked in known]
