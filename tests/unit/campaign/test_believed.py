"""A search that is gone on with: its plan, its list of runs and what it left out, against the runs' own records."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from simulated import simulate
from simulated_kinds import HELD
from splvm.campaign.believed import doubts_on_plan, doubts_on_run
from splvm.campaign.bisect import Bisection, read_bisection
from splvm.campaign.campaignrun import CampaignRun, build_of
from splvm.campaign.candidates import BisectPlan, Candidate, ChangeKind
from splvm.campaign.repro import HITS
from splvm.errors import EvidenceError
from splvm.evidence.verdict import Outcome
from splvm.history.cell import Cell
from splvm.host.content import file_hash
from splvm.record.jsonfile import write_json
from splvm.run.prepare import Wish

CELL = Cell("held-worker", "debian-12", "stock", line="mine")
Told = dict[str, Any]


def patch(each: Candidate) -> Told:
    return {"name": each.title, "sha256": each.sha256, "path": each.id}


def made(tmp_path: Path) -> Bisection:
    """A search among three patches after two runs, both of them good; the patch in the middle has been asked."""
    paths = [tmp_path / name for name in ("a.patch", "b.patch")]
    for path in paths:
        path.write_text(path.name)
    candidates = tuple(Candidate(str(path), path.name, sha256=file_hash(path)) for path in paths)
    candidates = (Candidate("", "without a patch"), *candidates)
    plan = BisectPlan("held-worker", ChangeKind.PATCHES, candidates, Wish(), HITS, 0.95, 9, 7, window_s=3.0)
    search, out = Bisection(plan, tmp_path / "out"), tmp_path / "out"
    out.mkdir()
    for number, candidate in enumerate((0, 1), 1):
        cell = replace(CELL, line="mine" if candidate else "packaged")
        run = CampaignRun(
            cell, number, Outcome.PROGRESS, "why", None, 1.0, frozenset({Outcome.PROGRESS}), candidate=candidate
        )
        facts = leave(search, run, [patch(each) for each in candidates[1 : candidate + 1]])
        search.tries.append(run)
        search.builds[candidate] = build_of(facts)
    write_json(out / "bisect.json", search.to_json())
    return search


def leave(search: Bisection, run: CampaignRun, patches: list[Told]) -> Told:
    """The record of a run, and its run.json."""
    simulated = simulate(HELD)
    parameters = {**simulated.facts["parameters"], "seed": search.plan.seed + run.number - 1}
    spl = {
        **simulated.facts["spl"],
        "patches": patches,
        "modules": {**simulated.facts["spl"]["modules"], "spl.ko": str(len(patches))},
    }
    facts = {"line": run.cell.line, "parameters": parameters, "spl": spl}
    directory = search.directory_of(run)
    directory.parent.mkdir(parents=True, exist_ok=True)
    simulated.start_record(directory, facts).finish(simulated.facts["outcome"])
    return {**simulated.facts, **facts}


def test_a_search_that_is_what_its_records_say(tmp_path: Path) -> None:
    search = made(tmp_path)
    assert [each.outcome for each in read_bisection(search.out).tries] == [Outcome.PROGRESS] * 2


CHANGES: dict[str, tuple[Callable[[Told], object], str]] = {
    "another scenario": (lambda told: told["plan"].update(scenario="nominal"), "the scenario of .* is not that"),
    "another load": (lambda told: told["plan"].update(load="writeback"), "the load of .* is not that"),
    "another window": (lambda told: told["plan"].update(window_s=60.0), "the window of .* is not that"),
    "other seeds": (lambda told: told["plan"].update(seed=8), "has another seed than 8"),
    "another kernel": (lambda told: told["plan"]["wish"].update(kernel="debian-13"), "the kernel of .* is not that"),
    "another variant": (
        lambda told: told["plan"]["wish"].update(variant="no-emergency"),
        "the variant of .* is not that",
    ),
    "another clock": (lambda told: told["plan"]["wish"].update(clock="virtual"), "the clock of .* is not that"),
    "more memory": (lambda told: told["plan"]["wish"].update(ram_mib=1024), "the memory of .* is not that"),
    "a patch more": (
        lambda told: told["plan"]["wish"].update(patches=["/x.patch"]),
        "the number of patches of .* is not that",
    ),
    "another source": (lambda told: told["plan"]["wish"].update(spl="pr:1"), "the source of SPL of .* is not that"),
    "titles of others": (
        lambda told: [each.update(title="b.patch") for each in told["plan"]["candidates"][1:2]],
        "candidate 1 is a.patch, and is called b.patch",
    ),
    "a patch that changes nothing": (
        lambda told: told["plan"]["candidates"][1].update(changes=False),
        "is told of as a commit",
    ),
    "a patch without a hash": (
        lambda told: told["plan"]["candidates"][2].update(sha256=""),
        "candidate 2, b.patch, has no hash",
    ),
    "one left out that was asked": (
        lambda told: told.update(skipped={"1": "does not build"}),
        "a.patch is left out, and was built",
    ),
    "one left out with its runs": (
        lambda told: told.update(
            skipped={"1": "does not build"}, runs=told["runs"][:1], builds={"0": told["builds"]["0"]}
        ),
        "is of another build than a.patch",
    ),
    "a guest that nobody starved": (lambda told: told.update(starved=[2]), "whether the host starved its guest"),
    "runs that came to nothing": (
        lambda told: [each.update(verdict=None) for each in told["runs"]],
        "it came to nothing by the list, and is PROGRESS by",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_the_list_says_otherwise(tmp_path: Path, name: str) -> None:
    change, words = CHANGES[name]
    path = made(tmp_path).out / "bisect.json"
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))
    with pytest.raises(EvidenceError, match=words):
        read_bisection(path.parent)


@pytest.mark.parametrize(("built", "count"), [("one", 0), ("other", 1)])
def test_a_commit_that_changes_nothing_is_the_build_before(built: str, count: int) -> None:
    candidates = tuple(Candidate(str(number) * 40, "title", changes=number != 1) for number in range(3))
    plan = BisectPlan("held-worker", ChangeKind.COMMITS, candidates, Wish(), HITS, 0.95, 9, 7, window_s=3.0)
    doubts = list(doubts_on_plan(plan, {0: "one", 1: built, 2: "third"}))
    assert len(doubts) == count
    assert all("candidate 1 changes nothing, and is another build" in doubt for doubt in doubts)


def test_a_record_of_another_patch(tmp_path: Path) -> None:
    search = made(tmp_path)
    run = replace(search.tries[1], number=3)
    leave(search, run, [patch(search.plan.candidates[2])])
    assert "the patch of" in doubts_on_run(search, run, set())


def test_runs_of_trouble_are_trouble(tmp_path: Path) -> None:
    """Without a record, or with one that says nothing."""
    search = made(tmp_path)
    run = replace(search.tries[0], number=3, outcome=None)
    assert doubts_on_run(search, run, set()) == ""
    leave(search, run, [])
    (search.directory_of(run) / "console.log").write_text("cut off")
    assert doubts_on_run(search, run, set()) == ""
