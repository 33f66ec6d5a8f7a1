"""A run in the list of a campaign, against its own record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from simulated import simulate
from simulated_kinds import HELD
from splvm.campaign.campaignrun import CampaignRun, trouble_of
from splvm.evidence.verdict import Outcome
from splvm.history.cell import Cell
from splvm.scenarios.judged import judge_run

CELL = Cell("held-worker", "debian-12", "stock", line="mine")
RUN = CampaignRun(CELL, 1, Outcome.PROGRESS, "why", None, 1.0, frozenset({Outcome.PROGRESS}))


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good run of this cell."""
    path = tmp_path_factory.mktemp("record") / "run"
    run = simulate(HELD)
    own = {**run.facts["spl"], "patches": [{"name": "mine.patch", "sha256": "ab" * 32}]}
    record = run.start_record(path, {"line": "mine", "batch": "night", "spl": own})
    record.finish(run.facts["outcome"])
    return path


def listed(**changes: object) -> CampaignRun:
    """As the list has it."""
    return replace(RUN, cell=replace(CELL, **changes))  # type: ignore[arg-type]


def test_a_run_that_is_what_its_record_says(record: Path) -> None:
    assert trouble_of(listed(), record, "night", words=set()) == ""


@pytest.mark.parametrize(
    ("run", "name"),
    [
        (listed(scenario="nominal"), "the scenario"),
        (listed(kernel="debian-13"), "the kernel"),
        (listed(variant="no-emergency"), "the variant"),
        (listed(line="another"), "the line"),
        (replace(listed(), expected=frozenset({Outcome.STALLED})), "the expected verdict"),
        (replace(listed(), outcome=Outcome.STALLED), "the verdict"),
    ],
)
def test_what_the_list_says_otherwise(record: Path, run: CampaignRun, name: str) -> None:
    assert trouble_of(run, record, "night", words=set()) == f"{name} is not what {record} says"


OTHER_PARAMETERS = [
    ("load", "cpu", "the load"),
    ("clock", "virtual", "the clock"),
    ("window_s", 600.0, "the window"),
    ("ram_mib", 4096, "the memory"),
    ("cpus", 1, "the number of CPUs"),
]


@pytest.mark.parametrize("changes", [{"loads": "lowmem"}, {"parameters": (("clock", "virtual"),)}])
def test_what_a_record_of_any_version_lacks(record: Path, changes: dict[str, Any]) -> None:
    """It had no load, and was in real time."""
    assert trouble_of(listed(**changes), record, "night", words=set()).endswith(f" is not what {record} says")


@pytest.mark.parametrize(("key", "value", "name"), OTHER_PARAMETERS)
def test_other_parameters(tmp_path: Path, key: str, value: object, name: str) -> None:
    run = simulate(HELD)
    parameters = {**run.facts["parameters"], key: value}
    run.start_record(tmp_path / "run", {"line": "mine", "parameters": parameters}).finish(run.facts["outcome"])
    assert trouble_of(listed(), tmp_path / "run", words=set()) == f"{name} is not what {tmp_path / 'run'} says"


def test_a_record_of_another_matrix_or_none(record: Path, tmp_path: Path) -> None:
    assert trouble_of(listed(), record, "another", words=set()).endswith("is of another matrix")
    assert "is not a directory" in trouble_of(listed(), tmp_path / "gone", words=set())


def test_one_run_is_in_the_list_once(tmp_path: Path) -> None:
    """A copy of it is no second run, also where its record was edited; older records have no word."""
    words: set[str] = set()
    told: dict[str, dict[str, Any]] = {
        "one": {"token": "0" * 16},
        "copy": {"token": "0" * 16, "argv": ["x"]},
        "older": {},
        "oldest": {},
    }
    found = {}
    for name, more in told.items():
        run = simulate(HELD)
        run.start_record(tmp_path / name, {"line": "mine", **more}).finish(run.facts["outcome"])
        # A word in run.json alone is another matter, and told of elsewhere.
        outcome = judge_run(tmp_path / name)[1].outcome
        found[name] = trouble_of(replace(listed(), outcome=outcome), tmp_path / name, words=words)
    assert "is a copy of another run of the list" in found.pop("copy")
    assert not any("copy" in text for text in found.values())


@pytest.mark.parametrize(("seed", "is_told"), [(7, False), (8, True), (None, False)])
def test_each_run_has_a_seed_of_its_own(tmp_path: Path, seed: int | None, is_told: bool) -> None:
    run = simulate(HELD)
    parameters = {**run.facts["parameters"], "seed": 7}
    run.start_record(tmp_path / "run", {"line": "mine", "parameters": parameters}).finish(run.facts["outcome"])
    trouble = trouble_of(listed(), tmp_path / "run", seed=seed, words=set())
    assert ("has another seed than 8" in trouble) == is_told
