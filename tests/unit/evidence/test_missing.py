"""What is taken out of a good record: no check is content when what it looks at is gone. A walk over all scenarios."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import pytest

from current import current, keys_of
from simulated import Run, simulate
from simulated_guest import Record
from simulated_kinds import CYCLE, DECLINED, HELD, KINDS, LONG, NOMINAL, ORGANIC, POOL, SPARE
from splvm.errors import EvidenceError
from splvm.evidence.formats.probestatus import Config
from splvm.evidence.loads import LOADS
from splvm.evidence.verdict import Outcome
from splvm.scenarios.judged import judge_evidence
from splvm.scenarios.table import SCENARIOS

# Sources of frames that no rule reads: they are for people, for plots, and to excuse what took long.
FOR_PEOPLE = ("pressure", "vmstat")
# Keys of the probe's configuration that a rule reads, where not all of them do; others are said to be read nowhere.
CONFIG_READ: Mapping[str, tuple[str, ...]] = {"keep": (LONG,), "commits": (CYCLE, DECLINED, ORGANIC), "noio": ()}
# Kinds of run.json that have all of its keys between them.
FULL = (POOL, SPARE)
# What of run.json may lack, beginnings of keys, and why. All else that a current run writes has to be there.
MAY_LACK: Mapping[str, str] = {
    "schema_version": "without it nothing is read of the record at all: record/reader.py",
    "rule.": "a rule is whole, or the record cannot be judged, or its scenario's own rule counts",
    "archive.": "an archive has the pockets of its suite",
    "spl_parameters.": "a module has the parameters that its version has",
    "kernel.packages.": "a package has the name that its distribution gives it",
    "kernel.built_with.": "likewise",
    "spl.packages.": "likewise",
    "zfs": "the modules of a pool are of the sources of spl.ko, whose hash is there",
    "loads.0.values": "a load has the parameters that its version has; `parameters.load` has what was asked for",
    "loads.0.made": "for people; what a load reached is in the readings",
    "faults.min_order": "faults of before had none, and the kernel's own are in `fault_settings`",
    "fault_settings.": "a kernel has the settings that its version has",
    "outcome.detail": "a sentence for people",
    "expected.": "an item of a list, and no key",
    "argv.": "likewise",
    "host.load.": "likewise",
}


@functools.cache
def good(kind: str) -> Run:
    return simulate(kind)


def outcome_of(run: Run) -> Outcome | None:
    """None where the record cannot be judged."""
    try:
        return judge_evidence(run.evidence()).outcome
    except EvidenceError:
        return None


def is_good(run: Run) -> bool:
    outcome = outcome_of(run)
    return outcome is not None and outcome.is_good


def sources(kind: str) -> list[str]:
    return sorted({str(it["source"]) for it in good(kind).records if it["kind"] == "frame"})


def without_source(run: Run, source: str) -> Run:
    """As an agent would have made it that never read that source: the frames have numbers without a gap."""
    kept = [dict(it) for it in run.records if it.get("source") != source]
    frames = [it for it in kept if it["kind"] == "frame"]
    for number, frame in enumerate(frames):
        frame["seq"] = number
        if frame["text"].startswith("end "):
            frame["text"] = f"end frames={number} dropped=0"
    return Run(run.facts, kept, run.console)


def with_text(run: Run, source: str, change: Callable[[str], str]) -> Run:
    def changed(record: Record) -> Record:
        return {**record, "text": change(record["text"])} if record.get("source") == source else record

    return Run(run.facts, [changed(record) for record in run.records], run.console)


def test_the_walk_takes_away_nothing_by_itself() -> None:
    for kind, it in KINDS.items():
        assert outcome_of(without_source(good(kind), "nothing")) is it.best


@pytest.mark.parametrize(("kind", "source"), [(kind, source) for kind in KINDS for source in sources(kind)])
def test_a_source_of_frames(kind: str, source: str) -> None:
    assert is_good(without_source(good(kind), source)) == (source in FOR_PEOPLE)


@pytest.mark.parametrize(("kind", "load"), [(kind, load) for kind, it in KINDS.items() for load in it.loads])
def test_a_load(kind: str, load: str) -> None:
    """One that run.json does not name, and one that is not reported."""
    run = good(kind)
    asked = [it for it in run.facts["loads"] if it["name"] != load]
    unnamed = Run({**run.facts, "loads": asked}, run.records, run.console)
    assert not is_good(unnamed)
    assert not is_good(with_text(run, "load", lambda text: re.sub(rf"(?m)^(load|worker) {load} .*\n", "", text)))
    if LOADS[load].progress or LOADS[load].pool:
        assert not is_good(
            with_text(run, "load", lambda text: re.sub(rf"(?m)^(load {load} .*) done_kib=\d+", r"\1", text))
        )


def without(facts: Any, key: tuple[str, ...]) -> Any:
    """The same without a key."""
    if isinstance(facts, list):
        return [without(it, key[1:]) if len(key) > 1 and not at else it for at, it in enumerate(facts)][len(key) == 1 :]
    if len(key) > 1:
        return {**facts, key[0]: without(facts[key[0]], key[1:])}
    return {name: value for name, value in facts.items() if name != key[0]}


def may_lack(key: tuple[str, ...]) -> bool:
    return any(
        (".".join(key) + ".").startswith(f"{prefix.removesuffix('.')}.")
        and (not prefix.endswith(".") or ".".join(key) != prefix[:-1])
        for prefix in MAY_LACK
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_current_record_is_good(kind: str) -> None:
    assert outcome_of(current(kind)) is KINDS[kind].best


def test_a_key_of_run_json() -> None:
    seen: set[tuple[str, ...]] = set()
    for kind in FULL:
        run = current(kind)
        keys = [key for key in keys_of(run.facts) if key not in seen]
        seen |= set(keys)
        for key in keys:
            assert is_good(Run(without(run.facts, key), run.records, run.console)) <= may_lack(key), key
    assert len(seen) > 100


def test_what_may_lack_is_there_to_be_taken_out() -> None:
    keys = {key for kind in FULL for key in keys_of(current(kind).facts)}
    for prefix in MAY_LACK:
        assert any(f"{'.'.join(key)}.".startswith(f"{prefix.removesuffix('.')}.") for key in keys), prefix


def test_a_key_of_an_older_run_json() -> None:
    run = good(HELD)
    for key in keys_of(run.facts):
        assert is_good(Run(without(run.facts, key), run.records, run.console)) <= may_lack(key), key


@pytest.mark.parametrize("kind", FULL)
@pytest.mark.parametrize("noted", ["start", "phase", "host"])
def test_a_kind_of_record(kind: str, noted: str) -> None:
    run = good(kind)
    assert not is_good(Run(run.facts, [it for it in run.records if it["kind"] != noted], run.console))


def test_one_phase_that_was_not_noted() -> None:
    run = good(NOMINAL)
    for name in (it["name"] for it in run.records if it["kind"] == "phase"):
        records = [it for it in run.records if (it["kind"], it.get("name")) != ("phase", name)]
        assert not is_good(Run(run.facts, records, run.console)), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fact", ["kernel", "outcome", "parameters", "loads", "faults", "scenario"])
def test_a_fact(kind: str, fact: str) -> None:
    run = good(kind)
    if fact in run.facts and not (fact == "loads" and not SCENARIOS[run.facts["scenario"]].load):
        facts: dict[str, Any] = {name: value for name, value in run.facts.items() if name != fact}
        assert not is_good(Run(facts, run.records, run.console))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", [field.name for field in fields(Config)])
def test_a_key_of_the_probes_configuration(kind: str, key: str) -> None:
    """Also one that is 0, which is what a status of before that key means."""
    run = good(kind)
    is_read = kind in CONFIG_READ.get(key, tuple(KINDS))
    less = with_text(run, "probe", lambda text: re.sub(rf"(?m)^(config .*?) ?\b{key}=\d+", r"\1", text))
    assert is_good(less) != is_read
    if is_read and key in CONFIG_READ:
        nothing = with_text(run, "probe", lambda text: re.sub(rf"(?m)^(config .*)\b{key}=\d+", rf"\1{key}=0", text))
        assert not is_good(nothing)


def test_a_rule_of_ones_own_needs_a_load_too() -> None:
    run = good("disk-swap")
    rule = {"required": [["phases", "window", "window-end", "end"]], "checks": [], "good": "endurance"}
    facts = {**run.facts, "scenario": "a newcomer", "rule": rule}
    assert is_good(Run(facts, run.records, run.console))
    unloaded = {name: value for name, value in facts.items() if name != "loads"}
    assert not is_good(Run(unloaded, run.records, run.console))


@pytest.mark.parametrize("name", [name for name, scenario in SCENARIOS.items() if scenario.load])
def test_a_rule_asks_for_the_loads_of_its_scenario(name: str) -> None:
    scenario = SCENARIOS[name]
    asked = next(it.words for it in scenario.rule.required if it.check == "loaded")
    assert asked == tuple(each.partition(":")[0] for each in scenario.load.split(","))


def test_the_cost_of_frees_is_compared_with_what_was_asked_for() -> None:
    """The ratio is in the record, and a configuration that asks for less does not hide it."""
    for keep in (0, 9, 10, 99):
        run = with_text(good(LONG), "probe", lambda text, keep=keep: text.replace("keep=100", f"keep={keep}"))  # type: ignore[misc]
        assert not is_good(run)
