"""An exploration's list: what is written is read again, if the records beside it say the same."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from experiments import experiment
from simulated import Run, simulate
from simulated_guest import Knobs
from simulated_kinds import HELD
from splvm.campaign.explore import EXPLORE_FILE, Exploration, Finding, Seed, made_of, read_exploration
from splvm.errors import EvidenceError, UsageError
from splvm.evidence.verdict import Outcome
from splvm.run.delays import Counts, draw
from splvm.run.experiment import Experiment
from splvm.run.scenarios import Workload
from splvm.scenarios.judged import judge_run

ABOUT = {"scenario": "held-worker", "delays": 3}
COUNTS = Counts({"f+0x1": 5, "g+0x2": 1}, {"h+0x3": -22})
PLACES = ("f+0x1", "g+0x2", "h+0x3")
GOOD_RUN = simulate(HELD)
# It ends STALLED.
BAD_RUN = simulate(HELD, Knobs(fallback=False))

Told = dict[str, Any]


def asked() -> Experiment:
    own = {name: GOOD_RUN.facts[name] for name in ("kernel", "spl", "qemu", "splvm")}
    return replace(experiment(), facts=own, workload=Workload(**GOOD_RUN.facts["parameters"]["workload"]))


def exploration(out: Path) -> Exploration:
    return Exploration(asked(), out, PLACES, 3, dict(ABOUT))


def leave(out: Path, name: str, of: Experiment, run: Run = GOOD_RUN) -> Seed:
    """The record of a run, and what the list says of it."""
    parameters = {
        **run.facts["parameters"],
        "latency_bound_ms": of.scenario.latency_bound_ms,
        "workload": asdict(of.workload),
    }
    if of.delays:
        parameters["delays"] = ",".join(map(str, of.delays))
    if of.watched_points:
        parameters["points"] = len(of.watched_points)
        points = [(place, hits, 0) for place, hits in COUNTS.hits.items()]
        points += [(place, 0, error) for place, error in COUNTS.blind.items()]
        told = "".join(f"[    9.0] slabprobe: point spl:{place} hits={hits} err={it}\n" for place, hits, it in points)
        run = replace(run, console=f"{run.console}{told}[    9.0] slabprobe: points end\n")
    outcome = {**run.facts["outcome"], "console_bytes": len(run.console)}
    run.start_record(out / name, {"parameters": parameters}).finish(outcome)
    verdict = judge_run(out / name)[1]
    return Seed(of.seed, verdict.outcome, verdict.reasons[0].text, of.delays, 1.25, verdict.digest)


@pytest.fixture
def written(tmp_path: Path) -> Exploration:
    made = exploration(tmp_path)
    made.counts = COUNTS
    assert leave(tmp_path, "dry", replace(made.experiment, watched_points=PLACES)).outcome is Outcome.PROGRESS
    for number in range(1, 5):
        made.seeds[number] = Seed(number, Outcome.PROGRESS, "why", draw(number, COUNTS, 3), 1.25, "d" * 64)
    found = replace(made.experiment, seed=2, delays=draw(2, COUNTS, 3))
    made.seeds[2] = leave(tmp_path, "seed-2", found, BAD_RUN)
    made.seeds[3].outcome, made.seeds[4].outcome = None, Outcome.INCONCLUSIVE
    few = draw(2, COUNTS, 3)[:1]
    leave(tmp_path, "seed-2-again-1", replace(found, delays=few), BAD_RUN)
    made.findings.append(Finding(made.seeds[2], True, few, (), str(tmp_path / "seed-2-again-1")))
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


def test_what_an_exploration_is_made_of() -> None:
    """Another memory, kernel, QEMU, module or splvm is another exploration."""
    of = asked()
    machine = replace(of.guest, machine=replace(of.guest.machine, ram_mib=1024))
    others = [replace(of, guest=machine)]
    others += [
        replace(of, facts={**of.facts, name: {**of.facts[name], key: "other"}})
        for name, key in (("kernel", "sha256"), ("qemu", "sha256"), ("spl", "modules"))
    ]
    others.append(replace(of, facts={**of.facts, "splvm": "9.9"}))
    made = made_of(of)
    assert None not in made.values()
    told = [made_of(it) for it in others]
    assert [[key for key in made if it[key] != made[key]] for it in told] == [[key] for key in made]


@pytest.mark.parametrize("name", ["kernel", "qemu", "spl", "splvm", "memory"])
def test_a_dry_run_of_another_guest(written: Exploration, name: str) -> None:
    """Also where `about` says nothing of it, or was edited."""
    other = exploration(written.out)
    of = other.experiment
    if name == "memory":
        guest = replace(of.guest, machine=replace(of.guest.machine, ram_mib=1024))
        other.experiment = replace(of, guest=guest)
    else:
        value = "9.9" if name == "splvm" else {**of.facts[name], "sha256": "other", "modules": {"spl.ko": "other"}}
        other.experiment = replace(of, facts={**of.facts, name: value})
    with pytest.raises(EvidenceError, match=r"dry is of another run: .*; nothing was started"):
        read_exploration(other)


REFUSED: dict[str, tuple[Callable[[Told], object], str]] = {
    "counts": (lambda told: told["points"]["hits"].update({"f+0x1": 6}), "counts of points are not those of the run"),
    "a point less": (lambda told: told["points"]["hits"].pop("g+0x2"), "counts of points are not those of the run"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_list_that_is_not_that_of_its_dry_run(written: Exploration, name: str) -> None:
    change, words = REFUSED[name]
    edit(written, change)
    with pytest.raises(EvidenceError, match=f"{words}.*; nothing was started"):
        read_exploration(exploration(written.out))


AGAIN: dict[str, tuple[Callable[[Told], object], list[int], str]] = {
    "a finding that is none": (
        lambda told: [told["seeds"][1].update(verdict="PROGRESS"), told["findings"].clear()],
        [1, 2],
        "seed-2 is STALLED, and not PROGRESS",
    ),
    "a finding without a record": (
        lambda told: told["seeds"][0].update(verdict="STALLED"),
        [2],
        "the record of .*seed-1 cannot be read",
    ),
    "another verdict": (lambda told: told["seeds"][1].update(verdict="CRASHED"), [1, 2], "is STALLED, and not CRASHED"),
    "another digest": (lambda told: told["seeds"][1].update(digest="e" * 64), [1, 2], "its digest is not that of"),
    "other delays": (
        lambda told: told["seeds"][0].update(delays=["f+0x1#1:100"]),
        [2],
        "its delays are not those that are drawn for it",
    ),
}


@pytest.mark.parametrize("name", AGAIN)
def test_a_seed_of_which_the_list_is_not_believed(
    written: Exploration, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    change, left, words = AGAIN[name]
    edit(written, change)
    caplog.set_level("INFO", "splvm")
    again = exploration(written.out)
    read_exploration(again)
    assert [*again.seeds] == left
    # By its record the second is a finding, whatever the list says.
    assert [(it.seed.number, it.seed.outcome) for it in again.findings] == [(2, Outcome.STALLED)]
    assert re.search(f"it will run again, because .*{words}", caplog.text)


@pytest.mark.parametrize(
    ("fewest", "directory"),
    [(["f+0x1#5:8000"], "seed-2-again-1"), ([], "seed-2-again-2"), (None, "dry"), (None, "seed-1-again-1")],
)
def test_a_shrunk_finding_is_shrunk_again_without_its_record(
    written: Exploration, fewest: list[str] | None, directory: str
) -> None:
    change = {"directory": f"/elsewhere/{directory}", **({} if fewest is None else {"fewest": fewest})}
    edit(written, lambda told: told["findings"][0].update(change))
    again = exploration(written.out)
    read_exploration(again)
    assert [(it.seed.number, it.is_repeated, it.fewest) for it in again.findings] == [(2, None, None)]


def edit(made: Exploration, change: Callable[[Told], object]) -> None:
    path = made.out / EXPLORE_FILE
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


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
    edit(written, lambda told: told.update({key: value}))
    with pytest.raises(EvidenceError, match=r"explore.json is not the list of an exploration"):
        read_exploration(exploration(written.out))


BESIDE = {
    "its fewer delays": ("seed-2-again-1", "seed-2-again-1"),
    "of a good seed": ("seed-2", "seed-1-again-1"),
    "of no seed": ("seed-2", "seed-77"),
    "elsewhere": ("seed-2", "a/b/seed-2"),
    "another name": ("seed-2", "seed-2-copy"),
}


@pytest.mark.parametrize("name", BESIDE)
def test_a_bad_record_of_no_finding(written: Exploration, name: str) -> None:
    """The list says nothing of it, or that its seed is good."""
    source, place = BESIDE[name]
    if source == place:
        edit(written, lambda told: [told["seeds"][1].update(verdict="PROGRESS"), told["findings"].clear()])
        shutil.rmtree(written.out / "seed-2")
    else:
        shutil.copytree(written.out / source, written.out / place)
    with pytest.raises(EvidenceError, match=f"{place} is STALLED, and of no finding; nothing was started"):
        read_exploration(exploration(written.out))
    (written.out / place / "console.log").write_text("cut off")
    read_exploration(exploration(written.out))


def test_a_finding_that_is_not_in_the_list(written: Exploration) -> None:
    """A kill came before its row, or somebody has dropped it."""
    edit(written, lambda told: [told["seeds"].pop(1), told["findings"].clear()])
    again = exploration(written.out)
    read_exploration(again)
    assert [(it.seed.number, it.seed.outcome, it.seed.digest) for it in again.findings] == [
        (2, Outcome.STALLED, written.seeds[2].digest)
    ]


@pytest.mark.parametrize("there", [[], ["dry"]])
def test_an_exploration_that_was_ended_before_its_list(tmp_path: Path, there: list[str]) -> None:
    for name in there:
        (tmp_path / name).mkdir()
    again = exploration(tmp_path)
    read_exploration(again)
    assert not again.counts.hits and not again.seeds


def test_a_bad_run_without_delays_is_kept(tmp_path: Path) -> None:
    made = exploration(tmp_path)
    leave(tmp_path, "dry", replace(made.experiment, watched_points=PLACES), BAD_RUN)
    with pytest.raises(EvidenceError, match="dry is STALLED; nothing was started"):
        read_exploration(made)


@pytest.mark.parametrize("there", ["seed-1", "notes", None])
def test_no_list(tmp_path: Path, there: str | None) -> None:
    if there:
        (tmp_path / there).mkdir()
    out = tmp_path if there else tmp_path / "missing"
    with pytest.raises(EvidenceError, match="is not the list of an exploration"):
        read_exploration(exploration(out))
