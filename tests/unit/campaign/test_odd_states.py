"""What a matrix and a bisection keep of themselves, with other values: one error, or gone on with."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oddfiles import ANY_JSON, ODD_VALUES
from splvm.campaign import bisect as bisect_module
from splvm.campaign.bisect import read_bisection
from splvm.campaign.candidates import BisectPlan, Candidate, ChangeKind
from splvm.campaign.matrix import MatrixPlan, read_matrix
from splvm.campaign.repro import HITS
from splvm.cli.bisect import _is_found, _show, _tell
from splvm.errors import EvidenceError, HarnessError
from splvm.history.cell import Cell
from splvm.run.prepare import Wish


def a_matrix() -> dict[str, Any]:
    cell = Cell("held-worker", "debian-12", "stock")
    plan = MatrixPlan.new([cell], 1).to_json()
    run = {**cell.to_json(), "number": 1, "verdict": "PROGRESS", "expected": ["PROGRESS"], "reason": "", "onset_s": 1.0}
    run |= {"directory": "x", "seconds": 1.0, "candidate": 0, "machine": "", "lost": []}
    return {"schema_version": 3, "plan": plan, "runs": [run]}


def parts(told: dict[str, Any]) -> list[dict[str, Any]]:
    return [told, told["plan"], told["plan"]["cells"][0], told["runs"][0]]


def read_changed(out: Path, told: dict[str, Any]) -> None:
    out.mkdir(exist_ok=True)
    (out / "matrix.json").write_text(json.dumps(told))
    with contextlib.suppress(EvidenceError):
        read_matrix(out)


@pytest.mark.parametrize("value", [*ODD_VALUES, float("inf"), float("nan"), 1e30, ["PROGRESS", 1], {"plan": {}}])
def test_each_place_of_a_matrix_with_another_value(tmp_path: Path, value: Any) -> None:
    for number, part in enumerate(parts(a_matrix())):
        for key in part:
            told = a_matrix()
            parts(told)[number][key] = value
            read_changed(tmp_path / "matrix", told)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_matrix_is_one_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    told = a_matrix()
    part = data.draw(st.sampled_from(parts(told)))
    part[data.draw(st.sampled_from(sorted(part)))] = data.draw(ANY_JSON)
    out = tmp_path_factory.mktemp("matrix")
    read_changed(out, told)
    shutil.rmtree(out)


# bisect.json


@pytest.fixture(autouse=True)
def evidence_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here bisect.json alone is looked at."""
    monkeypatch.setattr(bisect_module, "doubts_on_run", lambda *_: "")


def a_bisection() -> dict[str, Any]:
    """Of three kernels, after a run of each end."""
    candidates = tuple(Candidate(name, name) for name in ("debian-11", "debian-12", "debian-13"))
    plan = BisectPlan("held-worker", ChangeKind.KERNELS, candidates, Wish(), HITS, 0.95, 2, 1).to_json()
    runs = []
    for number, (candidate, verdict) in enumerate(((0, "PROGRESS"), (2, "STALLED")), 1):
        cell = Cell("held-worker", candidates[candidate].id, "stock").to_json()
        run = {**cell, "number": number, "verdict": verdict, "expected": ["PROGRESS"], "reason": "why", "onset_s": 1.0}
        runs.append(run | {"directory": "x", "seconds": 1.0, "candidate": candidate, "machine": "", "lost": []})
    told = {"schema_version": 2, "plan": plan, "runs": runs}
    return {**told, "skipped": {"1": "why"}, "builds": {"0": "a", "2": "b"}, "answer": None, "likeliest": {}}


def parts_of_bisection(told: dict[str, Any]) -> list[dict[str, Any]]:
    plan = told["plan"]
    return [told, plan, plan["wish"], *plan["candidates"], *told["runs"], told["skipped"], told["builds"]]


def go_on_with(out: Path, told: dict[str, Any]) -> bool:
    """What the command does with it, but for runs; whether it was taken."""
    out.mkdir(exist_ok=True)
    (out / "bisect.json").write_text(json.dumps(told))
    try:
        search = read_bisection(out)
    except HarnessError as error:
        assert error.message
        return False
    json.dumps(search.to_json())
    for run in search.tries:
        _tell(search, run)
    _show(search)
    _is_found(search)
    return True


def test_a_bisection_that_is_whole_is_taken(tmp_path: Path) -> None:
    assert go_on_with(tmp_path / "bisection", a_bisection())


@pytest.mark.parametrize(
    "value", [*ODD_VALUES, float("inf"), float("nan"), 1e30, 10**400, "0", ["PROGRESS", 1], {"7": ""}]
)
def test_each_place_of_a_bisection_with_another_value(tmp_path: Path, value: Any) -> None:
    for number, part in enumerate(parts_of_bisection(a_bisection())):
        for key in part:
            told = a_bisection()
            parts_of_bisection(told)[number][key] = value
            go_on_with(tmp_path / "bisection", told)
            told = a_bisection()
            del parts_of_bisection(told)[number][key]
            go_on_with(tmp_path / "bisection", told)


_TYPED = {"plan": ("scenario", "load", "confidence", "most_runs", "seed", "window_s"), "wish": tuple(Wish.__slots__)}
_TYPED["candidates"] = tuple(Candidate.__slots__)


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, names in _TYPED.items() for name in names])
def test_a_plan_of_other_types_is_damaged(tmp_path: Path, part: str, name: str) -> None:
    """What nothing looked at here would end in the middle of a search."""
    odd: tuple[Any, ...] = ({}, [0], -1, 1e300, True)
    for value in odd:
        told = a_bisection()
        place = told["plan"] if part == "plan" else told["plan"][part]
        (place[1] if part == "candidates" else place)[name] = value
        if not (value is True and name in ("changes", "refresh", "clones", "cover")):
            assert not go_on_with(tmp_path / "bisection", told), value


@pytest.mark.parametrize("change", ["no hits", "no changes", "ends skipped", "ends alike", "no tree", "one candidate"])
def test_a_bisection_that_no_command_begins_is_damaged(tmp_path: Path, change: str) -> None:
    told = a_bisection()
    plan = told["plan"]
    match change:
        case "no hits":
            plan["hits"] = []
        case "no changes":
            plan["candidates"] = [{**each, "changes": False} for each in plan["candidates"]]
        case "ends skipped":
            told["skipped"] = {"2": "why"}
        case "ends alike":
            told["builds"] = {"0": "a", "2": "a"}
        case "no tree":
            plan["kind"] = "commits"
        case "one candidate":
            plan["candidates"], told["runs"] = plan["candidates"][:1], told["runs"][:1]
    assert not go_on_with(tmp_path / "bisection", told)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_bisection_is_one_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    told = a_bisection()
    part = data.draw(st.sampled_from(parts_of_bisection(told)))
    part[data.draw(st.sampled_from(sorted(part)))] = data.draw(ANY_JSON)
    out = tmp_path_factory.mktemp("bisection")
    go_on_with(out, told)
    shutil.rmtree(out)
