"""Checks that a record has what each run leaves: what run.json says of it, and what harness and agent wrote down.

A verdict is one on a build, a kernel and a machine. A record that does not say which they were shows nothing, also if
nothing in it is wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from splvm.evidence.checks.case import Case, is_count
from splvm.evidence.verdict import Reason
from splvm.evidence.waiting.tasklists import is_of_console

# Keys of run.json, the outer one first, and keys below. Each version of splvm has written them in each run.
ALWAYS: Mapping[tuple[str, ...], tuple[str, ...]] = {
    (): ("argv", "expected", "scenario", "splvm", "spl_parameters", "started"),
    ("parameters",): ("cpus", "latency_bound_ms", "ram_mib", "rate_hz", "window_s", "workload"),
    ("parameters", "workload"): ("objects", "pause_us", "reap_rounds", "size", "threads"),
    ("kernel",): ("id", "package", "release", "sha256"),
    ("spl",): ("modules", "patches", "source", "variant", "version"),
    ("spl", "modules"): ("slabprobe.ko", "spl.ko"),
    ("qemu",): ("sha256", "version"),
    ("accelerator",): ("name", "reason"),
    ("host",): ("cores", "load", "system"),
    ("outcome",): ("console_bytes",),
}

# The source of SPL that is a package of the kernel's suite.
_PACKAGED = "debian"

# The one version that wrote no keys of `LATER`.
_OLDER = "0.1.0"

# Keys that each version after 0.1.0 has written.
LATER: Mapping[tuple[str, ...], tuple[str, ...]] = {
    (): ("archive", "boots", "differs", "line", "no_clone", "rule", "template", "token"),
    ("parameters", "workload"): ("commits", "keep", "noio"),
    ("kernel",): ("built", "built_with", "packages", "passed_over", "root", "suite"),
    ("spl",): ("content", "git", "packages", "passed_over"),
}

# Where there was something of the kind.
_OF_A_LOAD: Mapping[tuple[str, ...], tuple[str, ...]] = {(): ("loads",), ("parameters",): ("load", "seed")}
_OF_VIRTUAL_TIME: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("parameters",): ("seed",),
    ("outcome",): ("closed_bytes",),
}
_OF_A_STORM: Mapping[tuple[str, ...], tuple[str, ...]] = {("parameters",): ("seed", "watched")}
_OF_FAULTS: Mapping[tuple[str, ...], tuple[str, ...]] = {(): ("faults", "fault_settings")}

# The run's own word (run/experiment.py): what the harness writes of it into the guest's kernel log, and so on its
# console.
_TOKEN = re.compile(r"[0-9a-f]{16}")
_SAID = re.compile(rf"splvm: run ({_TOKEN.pattern})\b")

# What the agent of a clone says on the console when it is given time and seed (images/guest/agent_clone.c).
_AWAKE = "splvm: clone is awake"
# Boots of a guest at most, see guest/guest.py.
_MOST_BOOTS = 2


def lacking_facts(case: Case) -> Iterator[Reason]:
    """run.json says what was run, on what, and how it was built."""
    facts = case.evidence.facts
    wanted = [ALWAYS, *([_OF_VIRTUAL_TIME] if case.evidence.is_virtual else [])]
    if facts.get("splvm") != _OLDER:
        wanted.append(LATER)
        # In virtual time, and in a storm, a run has a seed also without a load.
        parameters = _at(facts, ("parameters",))
        of_a_load = {"load"} if case.evidence.is_virtual or "storm" in parameters else {"load", "seed"}
        wanted += [_OF_A_LOAD] if of_a_load & parameters.keys() or facts.get("loads") else []
        wanted += [_OF_A_STORM] if "storm" in parameters else []
        wanted += [_OF_FAULTS] if {"faults", "fault_settings"} & facts.keys() else []
    missing = [
        ".".join((*outer, key))
        for table in wanted
        for outer, keys in table.items()
        for key in keys
        if key not in _at(facts, outer)
    ]
    if missing:
        yield Reason(f"run.json does not say {', '.join(missing[:20])}")


def _at(facts: Mapping[str, object], keys: tuple[str, ...]) -> Mapping[str, object]:
    """What is there; empty where that has no keys."""
    for key in keys:
        inner = facts.get(key)
        facts = inner if isinstance(inner, Mapping) else {}
    return facts


def another_version(case: Case) -> Iterator[Reason]:
    """The version of SPL is that of the package which it was built of."""
    facts = case.evidence.facts
    spl, packages = _at(facts, ("spl",)), _at(facts, ("spl", "packages"))
    if "packages" not in spl:
        # Version 0.1.0 did not write it.
        return
    told = _at(packages, ("zfs-dkms",)).get("version")
    if (spl.get("source") == _PACKAGED) != ("zfs-dkms" in packages) or told not in (None, spl.get("version")):
        text = f"run.json says that SPL is {str(spl.get('version'))[:40]}, of {str(spl.get('source'))[:100]}"
        yield Reason(f"{text}, and the package {str(told)[:40]}")


def lacking_notes(case: Case) -> Iterator[Reason]:
    """The harness wrote down that it began, when it began each phase, and how the host treated the guest meanwhile."""
    timeline = case.timeline
    if not timeline.begun:
        yield Reason("samples.jsonl: the harness did not write that it began")
    if other := sorted(set(case.marks) ^ set(timeline.host_phases)):
        yield Reason(f"only one of probe and harness noted the phase {', '.join(other)[:200]}")
    commands = {command.removeprefix("mark ") for command in timeline.obeyed if command.startswith("mark ")}
    if other := sorted(set(case.marks) ^ commands):
        yield Reason(f"the agent's answers are not those to the marks of the run: {', '.join(other)[:200]}")
    marks = [mark.name for mark in timeline.probe[-1].value.marks] if timeline.probe else []
    if twice := sorted({name for name in marks if marks.count(name) > 1}):
        yield Reason(f"the probe has a mark twice: {', '.join(twice)[:200]}")
    if case.evidence.is_virtual:
        # The host has no part in it.
        return
    begin_s, end_s = (timeline.host_phases.get(name, math.inf) for name in ("window", "window-end"))
    if not any(begin_s <= reading.at_s <= end_s for reading in timeline.host):
        yield Reason("the host's own readings of the window are missing")


def refused_commands(case: Case) -> Iterator[Reason]:
    """Each command was obeyed."""
    for refusal in case.timeline.refused[:1]:
        yield Reason(f"a command failed in the guest: {refusal.value[:200]}", (refusal.seq,))


def another_console(case: Case) -> Iterator[Reason]:
    """The console is this run's own: it has the run's word, and no other run's."""
    token = case.evidence.facts.get("token")
    said = list(dict.fromkeys(_SAID.findall(case.evidence.console)))
    if said != ([] if token is None else [token]):
        told = f"of run {', '.join(said[:3])}" if said else "of no run that says its name"
        yield Reason(f"console.log is {told}; run.json is of {str(token)[:40]}")


def another_samples(case: Case) -> Iterator[Reason]:
    """The samples are this run's own: the harness wrote the run's word when it began them."""
    token, said = case.evidence.facts.get("token"), case.timeline.token
    is_older = token is None and case.evidence.facts.get("splvm") == _OLDER
    if said != token or not (is_older or (isinstance(token, str) and _TOKEN.fullmatch(token))):
        yield Reason(f"samples.jsonl is of run {str(said)[:40]}; run.json is of {str(token)[:40]}")


def of_another_run(case: Case) -> Iterator[Reason]:
    """What says itself that it is another run's: it is worth no verdict, as little as what is damaged."""
    if case.timeline.token is not None:
        yield from another_samples(case)
    if _SAID.search(case.evidence.console):
        yield from another_console(case)


def another_list(case: Case) -> Iterator[Reason]:
    """What the kernel listed is this run's own: the console has it too."""
    if not is_of_console(case.evidence):
        yield Reason("sysrq.txt has lines that console.log does not have")


def another_beginning(case: Case) -> Iterator[Reason]:
    """The guest came up as run.json says: a clone has a template and says that it is one, another one was booted."""
    facts = case.evidence.facts
    if facts.get("splvm") == _OLDER:
        return
    boots, template, no_clone = (facts.get(name) for name in ("boots", "template", "no_clone"))
    if not (is_count(boots) and boots <= _MOST_BOOTS and isinstance(template, str) and isinstance(no_clone, str)):
        yield Reason(f"run.json does not say how the guest came up: boots is {str(boots)[:40]}")
        return
    told = f"{boots} boots, {'a' if template else 'no'} template" + (", and why it is no clone" if no_clone else "")
    # In virtual time there are clones alone, and they are silent.
    awake = _AWAKE in case.evidence.console
    if bool(boots) == bool(template) or (no_clone and not boots) or (case.evidence.is_virtual and boots):
        yield Reason(f"run.json says of the guest: {told}")
    elif not case.evidence.is_virtual and awake == bool(boots):
        yield Reason(f"run.json says of the guest: {told}; its console is that of {'a' if awake else 'no'} clone")
