"""What run.json says of where a run belongs: the line of its build, and which of its parameters differ. Pure.

Runs are compared within a line: that of the distribution's packages, or one that the user names. The exact build is
another thing: a tree that is run every night is one line, and another build each time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from splvm.treename import parse_tree_name

# The distribution's source without a change.
PACKAGED = "packaged"
# Nobody knows; such a run is compared with nothing.
UNKNOWN = "unknown"

MOST_LINE = 100
# What a name cannot have: it is a part of other names, on one line, between spaces and commas.
_ODD = re.compile(r"[^\w./+:@~-]+", re.ASCII)

# Parameters by their name in run.json, as the options are called that set them. Keys of the workload and of faults keep
# their names. Others, such as rate, seed and the bound on the latency, say nothing of what is done to a guest.
_NAMES = {
    "ram_mib": "memory",
    "cpus": "cpus",
    "preempt": "preempt",
    "window_s": "window",
    "clock": "clock",
    "delays": "delays",
}


def line_of(source: str, patches: Sequence[str], *, branch: str = "", label: str = "") -> str:
    """The line of a build.

    :param source: in one of the forms of `--spl`.
    :param patches: SHA-256 of each, in order; the variant's own are not among them.
    :param branch: of DIR, if it is a git checkout and on one.
    :param label: what the user calls it.
    """
    named = parse_tree_name(source)
    if not patches and named and not named.is_own:
        return PACKAGED
    line = label or branch or (named.line if named else source)
    if patches and not label:
        line += f"+{hashlib.sha256(' '.join(patches).encode()).hexdigest()[:8]}"
    line = fit_line(line)
    return f"own-{line}".rstrip("-") if line in ("", PACKAGED, UNKNOWN) else line


def fit_line(name: str) -> str:
    """The name with what it cannot have replaced."""
    return _ODD.sub("-", name)[:MOST_LINE]


def flatten_parameters(parameters: Mapping[str, Any], faults: Mapping[str, Any] | None) -> dict[str, str]:
    """What is done to a guest, by name.

    :param parameters: those of run.json.
    :param faults: likewise; None where there are none.
    """
    flat = {name: _text(parameters[key]) for key, name in _NAMES.items() if key in parameters}
    flat |= {str(key): _text(value) for key, value in _mapping(parameters.get("workload")).items()}
    flat |= {f"storm_{key}": _text(value) for key, value in _mapping(parameters.get("storm")).items()}
    return flat | {f"faults.{key}": _text(value) for key, value in _mapping(faults).items()}


def differing(told: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Those parameters of a run that are not what its scenario has by itself, by name.

    :param told: the run's; what is not among them was not known then, and so was the scenario's own.
    :param own: the scenario's.
    """
    return {name: told[name] for name in sorted(told) if own.get(name) != told[name]}


def _mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str:
    """The same for the same number, whether it was written 3 or 3.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
