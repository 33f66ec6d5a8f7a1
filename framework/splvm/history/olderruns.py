"""Where runs belong whose record does not say so itself: those of splvm before lines of builds had names. Pure.

The table is what scenarios had by themselves at that time, and is never edited: today's may be other ones.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from splvm.record.cellfacts import UNKNOWN, differing, flatten_parameters, line_of

_WORKLOAD = {"threads": 2, "objects": 32, "size": 65536, "pause_us": 5000, "reap_rounds": 1}
_WORKLOAD |= {"commits": 0, "noio": 0, "keep": 0}
_TRANSACTIONS = {"threads": 1, "objects": 64, "size": 32768, "pause_us": 12000}
# Options of `splvm run` that are parameters of a cell.
_OPTIONS = ("memory", "window", "threads", "objects", "size", "noio")


@dataclass(frozen=True, slots=True)
class _Own:
    """What a scenario had by itself."""

    window_s: float
    # Where that differs from the workload of most.
    workload: Mapping[str, int]
    ram_mib: int = 512
    faults: Mapping[str, int] | None = None
    # Whether the trap waits for commits, as many as outlast the window.
    commits: bool = False


_OWN: Mapping[str, _Own] = {
    "nominal": _Own(3, {"reap_rounds": 2}),
    "held-worker": _Own(3, {}),
    "zfs-held-worker": _Own(5, {}),
    "zfs-mmap": _Own(10, {}),
    "ext4-mmap": _Own(10, {}),
    "zvol-swap": _Own(20, {}, 640),
    "disk-swap": _Own(20, {}, 640),
    "zfs-arc-mlock": _Own(10, {}, 1024),
    "zfs-arc-room": _Own(10, {}, 1024),
    "reclaim-cycle": _Own(3, _TRANSACTIONS, commits=True),
    "reclaim-organic": _Own(3, _TRANSACTIONS, commits=True),
    "grow-fails": _Own(3, {}, faults={"times": 8, "min_order": 0}),
    "emergency-fails": _Own(3, {}, faults={"times": 16, "min_order": 4}),
    "fragmented": _Own(3, {"objects": 8, "size": 262_144}),
    "long-lived": _Own(3, {"threads": 1, "objects": 10, "size": 4096, "keep": 10_000}),
}

# Line and parameters of a run of which nothing is known.
NOTHING_KNOWN: tuple[str, dict[str, str]] = (UNKNOWN, {})


def by_record(facts: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Line and parameters of a run, by its run.json.

    The branch of a tree is not in it, so that is known by the name of its directory.
    """
    spl, parameters, faults = (facts.get(name) for name in ("spl", "parameters", "faults"))
    if not isinstance(spl, Mapping) or not isinstance(parameters, Mapping):
        return NOTHING_KNOWN
    hashes = _hashes(spl.get("patches"))
    source, window_s = spl.get("source"), parameters.get("window_s")
    if hashes is None or not isinstance(source, str) or not source or not _is_number(window_s):
        return NOTHING_KNOWN
    told = flatten_parameters(parameters, faults if isinstance(faults, Mapping) else None)
    return _place(line_of(source, hashes), str(facts.get("scenario")), told, float(window_s))


def by_row(scenario: str, source: str, patches: Sequence[str], command: str) -> tuple[str, dict[str, str]]:
    """Line and parameters of a run, by what a row of the history has of it.

    :param source: in one of the forms of `--spl`; empty where it is not known.
    :param patches: names; what was in them is not known.
    :param command: that makes such a run again.
    """
    told = _read_command(command)
    if not source or patches or told is None:
        return NOTHING_KNOWN
    try:
        window_s = float(told["window"]) if "window" in told else None
    except ValueError:
        return NOTHING_KNOWN
    if window_s is not None and not _is_number(window_s):
        return NOTHING_KNOWN
    return _place(line_of(source, ()), scenario, told, window_s)


def _place(line: str, scenario: str, told: Mapping[str, str], window_s: float | None) -> tuple[str, dict[str, str]]:
    own = _OWN.get(scenario)
    if own is None:
        return NOTHING_KNOWN
    workload = {**_WORKLOAD, **own.workload}
    if own.commits:
        workload["commits"] = max(300, math.ceil(100 * (own.window_s if window_s is None else window_s)))
    parameters = {"window_s": own.window_s, "ram_mib": own.ram_mib, "cpus": 2, "workload": workload}
    return line, differing(told, flatten_parameters(parameters, own.faults))


def _read_command(command: str) -> dict[str, str] | None:
    """The parameters that a command sets; None if it is not the whole of one."""
    try:
        words = shlex.split(command)
        pairs = list(zip(words[3::2], words[4::2], strict=True))
    except ValueError:
        return None
    if words[:2] != ["splvm", "run"] or len(words) < 3 or not all(name.startswith("--") for name, _ in pairs):
        return None
    numbers = {name.removeprefix("--"): value for name, value in pairs}
    return {name: numbers[name].removesuffix(".0") for name in _OPTIONS if name in numbers}


def _hashes(patches: object) -> list[str] | None:
    """SHA-256 of each; None if one is not there."""
    if not isinstance(patches, list):
        return None
    found = [patch.get("sha256") if isinstance(patch, Mapping) else None for patch in patches]
    return [each for each in found if isinstance(each, str)] if all(isinstance(each, str) for each in found) else None


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value < 1e9
