"""The command that makes a run again, from what its run.json says. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from splvm.assets import DEBUG_HEADER
from splvm.evidence.formats.stormstatus import OPS, USUAL_OPS
from splvm.record.cellfacts import PACKAGED, UNKNOWN
from splvm.report.markdown import one_line
from splvm.treename import parse_tree_name

# Options of `splvm run`, and where run.json has their values.
_OPTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("--kernel", ("kernel", "id")),
    ("--variant", ("spl", "variant")),
    ("--spl", ("spl", "source")),
    ("--accel", ("accelerator", "name")),
    ("--memory", ("parameters", "ram_mib")),
    ("--cpus", ("parameters", "cpus")),
    ("--preempt", ("parameters", "preempt")),
    ("--window", ("parameters", "window_s")),
    ("--rate", ("parameters", "rate_hz")),
    ("--threads", ("parameters", "workload", "threads")),
    ("--objects", ("parameters", "workload", "objects")),
    ("--size", ("parameters", "workload", "size")),
    ("--noio", ("parameters", "workload", "noio")),
    ("--load", ("parameters", "load")),
    ("--clock", ("parameters", "clock")),
    ("--seed", ("parameters", "seed")),
)

# Those that `splvm storm` does not have.
_OF_RUN = ("--cpus", "--preempt", "--rate", "--threads", "--objects", "--size", "--noio")

# Values that go without saying.
_USUAL = (("--spl", "debian"), ("--cpus", 2))

# Options of `splvm storm`: what a storm is set to, and the words for values that are not its own.
_STORM: tuple[tuple[str, Mapping[int | None, tuple[str, ...]]], ...] = (
    ("mark", {0: ("--unmarked",)}),
    ("helpers", {1: ("--helpers",), 2: ("--helpers",)}),
    ("trap", {1: ("--trap", "fs"), 2: ("--trap", "io")}),
    ("how", {1: ("--by", "reclaim"), 2: ("--by", "shrinkers")}),
)


def storm_options(storm: Mapping[str, Any]) -> list[str]:
    """Options of `splvm storm` for what a storm is set to otherwise than by itself.

    :param storm: as run.json has it.
    """
    words: list[str] = []
    for name, options in _STORM:
        words += options.get(_number(storm, name), ())
    if (ops := _number(storm, "ops")) is not None and ops != USUAL_OPS:
        words += ["--ops", ",".join(name for at, name in enumerate(OPS) if ops >> at & 1)]
    rate, only = _number(storm, "rate"), storm.get("only")
    words += ["--one-in", str(rate)] if rate is not None and rate != 1 else []
    for place in only[:100] if isinstance(only, (list, tuple)) else ():
        words += ["--site", str(place)]
    return words


def _number(storm: Mapping[str, Any], name: str) -> int | None:
    value = storm.get(name)
    return value if isinstance(value, int) else None


def of(facts: object, *keys: str) -> Any:
    """What run.json says there; None when it says nothing, or is not as it should be."""
    for key in keys:
        facts = facts.get(key) if isinstance(facts, Mapping) else None
    return facts


def reproducer(facts: Mapping[str, Any], *, paths: bool = False) -> str:
    """The command that makes such a run again, on one line, fit for a shell.

    :param paths: with the user's own paths, so that it runs as it stands; without, it is fit for strangers.
    """
    storm = of(facts, "parameters", "storm")
    options = storm_options(storm) if isinstance(storm, Mapping) else []
    words = ["splvm", "storm", "--quick", *options] if options else ["splvm", "run", str(of(facts, "scenario"))]
    for option, keys in _OPTIONS:
        if options and option in _OF_RUN:
            continue
        value = source_of(facts, paths=paths) if option == "--spl" else of(facts, *keys)
        if isinstance(value, (str, int, float)) and (option, value) not in _USUAL:
            words += [option, str(value)]
    delays = of(facts, "parameters", "delays")
    for delay in delays.split(",")[:64] if isinstance(delays, str) else ():
        words += ["--delay", delay]
    patches = of(facts, "spl", "patches")
    for patch in patches[:10] if isinstance(patches, list) else ():
        if of(patch, "name") == DEBUG_HEADER:
            words.append("--debug")
            continue
        words += ["--spl-patch", str((of(patch, "path") if paths else None) or of(patch, "name"))]
    line = of(facts, "line")
    if isinstance(line, str) and line not in (PACKAGED, UNKNOWN):
        words += ["--label", line]
    # What a shell would take for more than a word must be gone before it is quoted, or a quote could go with it. The
    # back quote could end the block that this is shown in.
    most = 1000 if paths else 120
    return shlex.join(one_line(word, most).replace("`", "'") for word in words)


def source_of(facts: Mapping[str, Any], *, paths: bool = False) -> str:
    """Where SPL is from; without `paths` the reporter's tree has the name of its directory alone."""
    source = str(of(facts, "spl", "source") or "debian")
    name = parse_tree_name(source)
    return source if name is None or paths else str(name.brief)


def is_own_tree(facts: Mapping[str, Any]) -> bool:
    name = parse_tree_name(str(of(facts, "spl", "source")))
    return name is not None and name.is_own
