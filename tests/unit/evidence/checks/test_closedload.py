"""Disks and loads of a guest in virtual time: what it says of them is what run.json has."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from modern import in_virtual_time, modern
from simulated_kinds import LOADED
from splvm.evidence.checks.case import Case
from splvm.evidence.checks.closedload import other_disks, set_up_otherwise
from splvm.evidence.timeline import Evidence, Timeline
from splvm.evidence.verdict import Outcome
from splvm.scenarios.judged import judge_evidence

SMALL = {"mib": 256, "speed_mib": 8, "request_us": 100}
LARGE = {"mib": 2048, "speed_mib": 256, "request_us": 100}
ON_CONSOLE = (
    "[    1.100000] slowdisk: vda: 2048 MiB at 0x20000000, 256 MiB/s, 100 us a request\n"
    "[    1.200000] slowdisk: vdb: 256 MiB at 0xa0000000, 8 MiB/s, 100 us a request\n"
)
WRITEBACK = {"name": "writeback", "values": {"disk_mib": 256, "speed_mib": 8}, "disk": "ext4"}
FACTS: dict[str, Any] = {
    "parameters": {"clock": "virtual"},
    "loads": [{"name": "zfs", "values": {}}, WRITEBACK],
    "disks": [LARGE, SMALL],
}
OBEYED = (
    "mark load",
    "/bin/splvm-load-setup zfs - rate_kib=64",
    "/bin/splvm-load-setup writeback /dev/vdb disk_mib=256",
    "/bin/splvm-load --seed 1 zfs:rate_kib=64 writeback:dir=/mnt/writeback",
)


def case(facts: dict[str, Any], console: str = ON_CONSOLE, obeyed: Iterable[str] = OBEYED) -> Case:
    evidence = Evidence(facts, Timeline.from_records([]), console)
    return Case(evidence, replace(evidence.timeline, obeyed=tuple(obeyed)), {}, 0)


def test_disks_and_loads_as_asked_for() -> None:
    assert not [*other_disks(case(FACTS)), *set_up_otherwise(case(FACTS))]
    none = {"parameters": {"clock": "virtual"}}
    assert not [*other_disks(case(none, "", ())), *set_up_otherwise(case(none, "", ("mark window",)))]


def test_in_real_time_they_are_the_hosts() -> None:
    facts = {**FACTS, "parameters": {}}
    assert not [*other_disks(case(facts, "", ())), *set_up_otherwise(case(facts, "", ()))]


@pytest.mark.parametrize(
    ("change", "console", "words"),
    [
        ({}, "", r"names the disks .*, and the guest said \[\]"),
        ({}, ON_CONSOLE.replace(" 8 MiB/s", " 9 MiB/s"), "and the guest said .*9, 100"),
        ({"disks": [LARGE]}, ON_CONSOLE, "names 1 disks, and its loads ask for 2"),
        ({"disks": []}, "", "names 0 disks, and its loads ask for 2"),
        ({"loads": [WRITEBACK]}, ON_CONSOLE, "names 2 disks, and its loads ask for 1"),
        ({"disks": [SMALL, LARGE]}, ON_CONSOLE, r"a disk of 2048 MiB, 256 MiB/s, and its load asks for \(256, 8\)"),
    ],
)
def test_other_disks(change: dict[str, Any], console: str, words: str) -> None:
    said = [reason.text for reason in other_disks(case({**FACTS, **change}, console))]
    assert any(re.search(words, text) for text in said), said


@pytest.mark.parametrize(
    ("obeyed", "words"),
    [
        ((), "set up no load, and started its loads 0 times; run.json names zfs, writeback"),
        (OBEYED[:-1], "set up zfs, writeback, and started its loads 0 times"),
        ((*OBEYED, OBEYED[-1]), "started its loads 2 times"),
        ((OBEYED[2], OBEYED[3]), "set up writeback, and"),
    ],
)
def test_loads_that_were_set_up_otherwise(obeyed: tuple[str, ...], words: str) -> None:
    (reason,) = set_up_otherwise(case(FACTS, obeyed=obeyed))
    assert words in reason.text


def test_a_run_under_load_that_set_up_none_is_not_good() -> None:
    run = in_virtual_time(copy.deepcopy(modern(LOADED)))
    verdict = judge_evidence(run.evidence())
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert any("the guest has set up no load" in reason.text for reason in verdict.reasons)
