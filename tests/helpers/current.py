"""A simulated run with all of run.json that a current run of its kind writes: keys as in the records of real runs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from modern import modern
from simulated import Run
from simulated_kinds import KINDS
from splvm import __version__
from splvm.evidence.checks.loadlevel import on_pool
from splvm.record.cellfacts import differing, flatten_parameters
from splvm.run.experiment import own_parameters
from splvm.run.loads import with_own
from splvm.run.scenarios import Faults, Workload
from splvm.scenarios.table import SCENARIOS

TOKEN = "c0ffee0123456789"
_PACKAGE = {"version": "2.1.11-1+deb12u1", "sha256": "28" * 32}


def current(kind: str) -> Run:
    """A good run of this version."""
    run = modern(kind)
    facts, scenario = run.facts, SCENARIOS[run.facts["scenario"]]
    facts["splvm"] = __version__
    facts |= {"rule": scenario.rule.to_json(), "line": "packaged", "differs": {}, "boots": 0, "template": "9c" * 16}
    facts |= {"no_clone": "", "token": TOKEN, "archive": {"bookworm": {"date": "2026-07-11T10:16:37+00:00"}}}
    workload = facts["parameters"]["workload"]
    facts["parameters"]["workload"] = {**dict.fromkeys(asdict(Workload()), 0), **workload}
    facts["kernel"] |= {"suite": "bookworm", "packages": {"linux-image": _PACKAGE}, "root": "db" * 16}
    facts["kernel"] |= {"built_with": {"gcc": "4:12.2.0-3"}, "passed_over": [], "built": None}
    facts["spl"] |= {"content": "ab" * 32, "git": None, "packages": {"zfs-dkms": _PACKAGE}, "passed_over": []}
    if KINDS[kind].loads:
        loads = with_own(",".join(KINDS[kind].loads), ())
        facts["loads"] = [load.to_json() for load in loads]
        facts["parameters"] |= {"load": ",".join(map(str, loads)), "seed": 1}
    if on_pool(KINDS[kind].loads):
        facts["zfs"] = {"version": "2.1.11", "modules": {"zfs.ko": "aa" * 32}, "packages": {"zfsutils-linux": _PACKAGE}}
    if "faults" in facts:
        faults = Faults(**facts["faults"])
        facts |= {"faults": asdict(faults), "fault_settings": dict(faults.settings())}
    own = own_parameters(scenario, scenario.window_s)
    facts["differs"] = differing(flatten_parameters(facts["parameters"], None), own)
    console = f"{run.console}splvm: clone is awake\n[    4.101010] splvm: run {TOKEN}\n"
    facts["outcome"]["console_bytes"] = len(console)
    first, *rest = run.records
    return Run(facts, [{**first, "token": TOKEN}, *rest], console)


def keys_of(facts: Any, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Each key of run.json with those above it; of a list, `0` for its first one."""
    pairs = facts.items() if isinstance(facts, dict) else enumerate(facts[:1]) if isinstance(facts, list) else ()
    return [key for name, value in pairs for key in ((*above, str(name)), *keys_of(value, (*above, str(name))))]
