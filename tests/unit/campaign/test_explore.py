"""An exploration's list: what is written is read again, and another exploration does not go on with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments import experiment
from splvm.campaign.explore import EXPLORE_FILE, Exploration, Finding, Seed, read_exploration
from splvm.errors import EvidenceError, UsageError
from splvm.evidence.verdict import Outcome
from splvm.run.delays import Counts, Delay

ABOUT = {"scenario": "held-worker", "delays": 3}


def exploration(out: Path) -> Exploration:
    return Exploration(experiment(), out, ("f+0x1", "g+0x2"), 3, dict(ABOUT))


@pytest.fixture
def written(tmp_path: Path) -> Exploration:
    made = exploration(tmp_path)
    made.counts = Counts({"f+0x1": 5, "g+0x2": 1}, {"h+0x3": -22})
    delays = (Delay("f+0x1", 2, 100), Delay("g+0x2", 1, 8000))
    for number, outcome in enumerate((Outcome.PROGRESS, Outcome.STALLED, None, Outcome.INCONCLUSIVE), start=1):
        made.seeds[number] = Seed(number, outcome, "why", delays, 1.25, "d" * 64)
    made.findings.append(Finding(made.seeds[2], True, delays[:1], (), "seed-2-again-1"))
    made.write()
    return made


def test_it_goes_on_with_what_it_had(written: Exploration) -> None:
    again = exploration(written.out)
    read_exploration(again)
    # What came to nothing is run again.
    written.seeds = {number: written.seeds[number] for number in (1, 2)}
    assert again.to_json() == written.to_json()
    assert [it.number for it in again.judged] == [1, 2]
    assert [again.is_expected(it.outcome) for it in again.seeds.values()] == [True, False]


def test_a_finding_that_the_list_leaves_out(written: Exploration) -> None:
    written.findings.clear()
    written.write()
    again = exploration(written.out)
    read_exploration(again)
    assert [(it.seed.number, it.is_repeated, it.directory) for it in again.findings] == [
        (2, None, str(written.out / "seed-2"))
    ]


def test_a_finding_of_a_seed_that_found_nothing(written: Exploration) -> None:
    written.findings.append(Finding(written.seeds[1], True, (), (), "seed-1"))
    written.write()
    with pytest.raises(EvidenceError, match="names a finding of seed 1, and that seed has found nothing"):
        read_exploration(exploration(written.out))


def test_another_exploration_does_not_go_on(written: Exploration) -> None:
    other = replace(exploration(written.out), about={**ABOUT, "delays": 2})
    with pytest.raises(UsageError, match="explored something else: delays differ"):
        read_exploration(other)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seeds", "none"),
        ("seeds", [{"seed": 1}]),
        ("points", {"hits": {"f": "x"}, "blind": {}}),
        ("about", 3),
        ("findings", [{"seed": 1, "is_repeated": "perhaps", "fewest": None, "directory": ""}]),
    ],
)
def test_a_list_that_is_none(written: Exploration, key: str, value: Any) -> None:
    path = written.out / EXPLORE_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(EvidenceError, match=r"explore.json is not the list of an exploration"):
        read_exploration(exploration(written.out))


def test_no_list(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="is not the list of an exploration"):
        read_exploration(exploration(tmp_path))
