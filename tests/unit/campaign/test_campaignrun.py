"""A run in the list of a campaign, against its own record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from simulated import HELD, simulate
from splvm.campaign.campaignrun import CampaignRun, trouble_of
from splvm.evidence.verdict import Outcome
from splvm.history.cell import Cell

CELL = Cell("held-worker", "debian-12", "stock", line="mine")
RUN = CampaignRun(CELL, 1, Outcome.PROGRESS, "why", None, 1.0, frozenset({Outcome.PROGRESS}))


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good run of this cell."""
    path = tmp_path_factory.mktemp("record") / "run"
    run = simulate(HELD)
    record = run.start_record(path, {"line": "mine", "batch": "night"})
    record.finish(run.facts["outcome"])
    return path


def listed(**changes: object) -> CampaignRun:
    """As the list has it."""
    return replace(RUN, cell=replace(CELL, **changes))  # type: ignore[arg-type]


def test_a_run_that_is_what_its_record_says(record: Path) -> None:
    assert trouble_of(listed(), record, "night") == ""


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
    assert trouble_of(run, record, "night") == f"{name} is not what {record} says"


@pytest.mark.parametrize(("key", "value", "name"), [("load", "cpu", "the load"), ("clock", "virtual", "the clock")])
def test_load_and_clock(tmp_path: Path, key: str, value: str, name: str) -> None:
    run = simulate(HELD)
    parameters = {**run.facts["parameters"], key: value}
    run.start_record(tmp_path / "run", {"line": "mine", "parameters": parameters}).finish(run.facts["outcome"])
    assert trouble_of(listed(), tmp_path / "run") == f"{name} is not what {tmp_path / 'run'} says"


def test_a_record_of_another_matrix_or_none(record: Path, tmp_path: Path) -> None:
    assert trouble_of(listed(), record, "another").endswith("is of another matrix")
    assert "is not a directory" in trouble_of(listed(), tmp_path / "gone")
