"""A matrix that goes on: what of its list, its plan and its records is believed."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments import experiment, leave_record
from matrixlab import PLAN, Lab, Told, ignore
from splvm.campaign.keep import keep_batches
from splvm.campaign.matrix import MatrixPlan, read_matrix, run_matrix
from splvm.campaign.plan import Axes, plan_cells
from splvm.campaign.processes import Job, JobResult
from splvm.errors import EvidenceError, SetupError
from splvm.evidence.formats.stormstatus import ops_without_marks
from splvm.evidence.verdict import Outcome, Reason, Verdict
from splvm.history.cell import Cell
from splvm.history.database import History
from splvm.host.content import file_hash
from splvm.run.prepare import Wish
from splvm.scenarios.table import SCENARIOS


def test_a_matrix_goes_on_where_it_was_interrupted(lab: Lab, tmp_path: Path) -> None:
    lab.stop_after = 5
    with pytest.raises(KeyboardInterrupt):
        run_matrix(PLAN, tmp_path, runner=lab.run_jobs, wish=Wish(), on_run=ignore)
    plan, done = read_matrix(tmp_path)
    assert plan == PLAN
    assert len(done) == 5
    first = list(lab.ran)
    left_over = tmp_path / PLAN.places()[PLAN.todo[5]] / "half"
    left_over.parent.mkdir(parents=True)
    left_over.touch()
    lab.stop_after, lab.ran = 1000, []
    runs = run_matrix(plan, tmp_path, runner=lab.run_jobs, wish=Wish(), on_run=ignore, done=done)
    assert len(first + lab.ran) == len(runs) == 16
    assert {(run.cell, run.number) for run in runs} == set(PLAN.todo), "each once"
    assert not left_over.exists()
    assert (
        run_matrix(plan, tmp_path, runner=lab.run_jobs, wish=Wish(), on_run=ignore, done=read_matrix(tmp_path)[1])
        == runs
    )


def test_a_disk_that_is_full_in_the_middle(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was finished is kept, and the rest goes on when there is room."""
    write, left = Path.write_text, [6]

    def write_text(path: Path, *argv: Any, **options: Any) -> int:
        left[0] -= path.name.startswith("matrix.json")
        if left[0] < 0:
            write(path, "half")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, *argv, **options)

    with monkeypatch.context() as full, pytest.raises(SetupError, match=r"matrix\.json: No space left on device"):
        full.setattr(Path, "write_text", write_text)
        run_matrix(PLAN, tmp_path, runner=lab.run_jobs, wish=Wish(), on_run=ignore)
    assert [path.name for path in tmp_path.glob("matrix.json*")] == ["matrix.json"]
    plan, done = read_matrix(tmp_path)
    assert len(done) == 6, "the last one by its record: its row was not written"
    again = Lab(monkeypatch)
    runs = run_matrix(plan, tmp_path, runner=again.run_jobs, wish=Wish(), on_run=ignore, done=done)
    assert {(run.cell, run.number) for run in runs} == set(PLAN.todo)


PROGRESS = Verdict(Outcome.PROGRESS, (Reason("so it is"),))


def rewrite(place: Path, **changes: Any) -> None:
    """Leave the record of a run again, sealed, with other facts; None: without it."""
    facts = json.loads((place / "run.json").read_text())
    shutil.rmtree(place)
    kept = {name: facts[name] for name in facts if name not in ("outcome", "evidence", "seal")}
    leave_record(Job("x", replace(experiment(), facts={**kept, **changes}), place), PROGRESS)


SPOILT = [
    "copied",
    "gone",
    "no run.json",
    "changed",
    "another matrix",
    "moved",
    "another cell",
    "expected",
    "twice",
]
# By its record the run is what the plan has, and so it counts.
STILL_THERE = ("moved", "expected", "twice")


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_run_whose_evidence_is_gone_is_run_again(lab: Lab, tmp_path: Path, spoil: str) -> None:
    out = tmp_path / "o"
    out.mkdir()
    run_matrix(PLAN, out, runner=lab.run_jobs, wish=Wish(), on_run=ignore)
    place = out / PLAN.places()[PLAN.todo[3]]
    match spoil:
        case "gone":
            shutil.rmtree(place)
        case "copied":
            # In both lies one run; the latter is none more.
            for number in (2, 3):
                rewrite(out / PLAN.places()[PLAN.todo[number]], token="0" * 16)
        case "no run.json":
            (place / "run.json").unlink()
        case "changed":
            (place / "console.log").write_text("nothing happened")
        case "another matrix":
            rewrite(place, batch="another")
        case "another cell" | "expected":
            rewrite(place, scenario="x") if spoil == "another cell" else rewrite(place, expected=["SLOW"])
        case "twice":
            listed = json.loads((out / "matrix.json").read_text())
            listed["runs"][3]["directory"] = listed["runs"][2]["directory"]
            (out / "matrix.json").write_text(json.dumps(listed))
        case "moved":
            out = out.rename(tmp_path / "elsewhere")
    plan, done = read_matrix(out)
    assert len(done) == (16 if spoil in STILL_THERE else 15)
    lab.ran = []
    run_matrix(plan, out, runner=lab.run_jobs, wish=Wish(), on_run=ignore, done=done)
    assert len(lab.ran) == 16 - len(done)
    assert len(read_matrix(out)[1]) == 16


@pytest.mark.parametrize(
    "change",
    [{name: None} for name in ("splvm", "scenario", "kernel", "spl", "line", "expected", "parameters", "token")]
    + [
        {"parameters": {name: value}}
        for name, value in (
            ("load", "lowmem"),
            ("clock", "virtual"),
            ("window_s", 4.0),
            ("window_s", None),
            ("ram_mib", 1024),
            ("cpus", None),
            ("delays", "f+0x1:1:2"),
            ("workload", None),
            ("workload", {"threads": 1}),
        )
    ],
    ids=str,
)
def test_a_record_that_says_otherwise_or_nothing_is_run_again(lab: Lab, tmp_path: Path, change: dict[str, Any]) -> None:
    """Whatever every run writes; only a record that names no version is taken for one of today."""
    run_matrix(PLAN, tmp_path, runner=lab.run_jobs, wish=Wish(), on_run=ignore)
    place = tmp_path / PLAN.places()[PLAN.todo[3]]
    if isinstance(told := change.get("parameters"), dict):
        parameters = json.loads((place / "run.json").read_text())["parameters"] | told
        change = {"parameters": {name: value for name, value in parameters.items() if value is not None}}
    rewrite(place, **change)
    assert len(read_matrix(tmp_path)[1]) == (16 if change == {"splvm": None} else 15)


LISTED_OTHERWISE: dict[str, Callable[[Told], object]] = {
    "clock": lambda cell: cell.update(parameters={"clock": "virtual"}),
    "load": lambda cell: cell.update(loads="writeback"),
    "line": lambda cell: cell.update(line="mine"),
}


@pytest.mark.parametrize("name", LISTED_OTHERWISE)
def test_a_list_and_a_plan_that_were_edited_alike(lab: Lab, tmp_path: Path, name: str) -> None:
    out = tmp_path / "o"
    out.mkdir()
    cells = (Cell("storm", "debian-12", "stock"),)
    run_matrix(MatrixPlan("night", cells, 3, 1), out, runner=lab.run_jobs, wish=Wish(), on_run=ignore)
    assert len(read_matrix(out)[1]) == 3
    told = json.loads((out / "matrix.json").read_text())
    for each in (*told["plan"]["cells"], *told["runs"]):
        LISTED_OTHERWISE[name](each)
    (out / "matrix.json").write_text(json.dumps(told))
    place = next(iter(MatrixPlan.from_json(told["plan"]).places().values())).parent
    (out / "storm-debian-12-stock").rename(out / place)
    plan, done = read_matrix(out)
    assert not done
    # What is run then is what the plan asks for.
    lab.ran = []
    run_matrix(plan, out, runner=lab.run_jobs, wish=Wish(), on_run=ignore, done=done)
    assert len(lab.ran) == 3 and len(read_matrix(out)[1]) == 3


@pytest.mark.parametrize("parameters", [{"window": "600"}, {"memory": "4096"}, {"clock": "real"}, {"clock": "x"}])
def test_a_plan_with_parameters_that_no_matrix_has(tmp_path: Path, parameters: dict[str, str]) -> None:
    told = MatrixPlan("night", (Cell("storm", "debian-12", "stock"),), 1, 1).to_json()
    told["cells"][0]["parameters"] = parameters
    (tmp_path / "matrix.json").write_text(json.dumps({"schema_version": 3, "plan": told, "runs": []}))
    with pytest.raises(EvidenceError, match="is damaged: parameters that no matrix has"):
        read_matrix(tmp_path)


def test_what_scenarios_have_by_themselves_is_no_doubt(lab: Lab, tmp_path: Path) -> None:
    """Loads, memory, windows, CPUs and virtual time, also where the cell does not name the scenario's own load."""
    axes = Axes(scenarios=tuple(SCENARIOS), kernels=("debian-12",), variants=("stock", "unscoped"), clock="virtual")
    cells = plan_cells(replace(axes, loads=("", "lowmem")))
    cells += [Cell(cell.scenario, "debian-11", "stock") for cell in cells[: len(SCENARIOS)]]
    plan = MatrixPlan("night", tuple(dict.fromkeys(cells)), 1, 1)
    run_matrix(plan, tmp_path, runner=lab.run_jobs, wish=Wish(), on_run=ignore)
    assert len(read_matrix(tmp_path)[1]) == len(plan.cells)


@pytest.mark.parametrize(("variant", "ops", "kept"), [("unscoped", 0, 1), ("stock", 0, 0), ("unscoped", 1, 0)])
def test_a_storm_leaves_out_what_a_build_cannot_protect(
    lab: Lab, tmp_path: Path, variant: str, ops: int, kept: int
) -> None:
    plan = MatrixPlan("night", (Cell("storm", "debian-12", variant),), 1, 1)
    run_matrix(plan, tmp_path, runner=lab.run_jobs, wish=Wish(), on_run=ignore)
    place = tmp_path / plan.places()[plan.todo[0]]
    parameters = json.loads((place / "run.json").read_text())["parameters"]
    parameters["storm"]["ops"] = ops or ops_without_marks(honours=False)
    rewrite(place, parameters=parameters)
    assert len(read_matrix(tmp_path)[1]) == kept


# How often each cell is run, where another run lies, and whether the listed one is then run again.
BESIDE = {
    "second": (1, "NAME-2", True),
    "third": (1, "NAME-3", True),
    "fourth": (1, "NAME-4", False),
    "of a series": (2, "NAME-2", False),
    "deep": (1, "a/b/c/001", False),
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("spoil", ["whole", "of another version", "torn"])
def test_a_run_beside_the_listed_one(lab: Lab, tmp_path: Path, name: str, spoil: str) -> None:
    """The last attempt is the one that counts; no other run of this matrix is in its directory."""
    repeat, beside, again = BESIDE[name]
    plan = replace(PLAN, repeat=repeat)
    run_matrix(plan, tmp_path, runner=lab.run_jobs, wish=Wish(), on_run=ignore)
    place = tmp_path / plan.places()[plan.todo[3]]
    other = tmp_path / beside if "/" in beside else place.with_name(beside.replace("NAME", place.name))
    shutil.copytree(place, other)
    told = json.loads((other / "run.json").read_text())
    if spoil == "of another version":
        (other / "run.json").write_text(json.dumps(told | {"schema_version": 99}))
    elif spoil == "torn":
        (other / "run.json").write_text(json.dumps(told)[:-1])
    if not again:
        with pytest.raises(EvidenceError, match=f"{other} is a run of this matrix, and not in the plan"):
            read_matrix(tmp_path)
        return
    done = read_matrix(tmp_path)[1]
    assert len(done) == len(plan.todo) - 1
    runs = run_matrix(plan, tmp_path, runner=lab.run_jobs, wish=Wish(), on_run=ignore, done=done)
    assert len(runs) == len(read_matrix(tmp_path)[1]) == len(plan.todo)
    assert not other.exists()


CRASHED = Verdict(Outcome.CRASHED, (Reason("so it is"),))

UNLISTED: dict[str, Callable[[Told], object]] = {
    "dropped": lambda told: told["runs"].pop(3),
    "trouble": lambda told: told["runs"][3].update(verdict=None, directory=None),
    "another verdict": lambda told: told["runs"][3].update(verdict="PROGRESS"),
    "another directory": lambda told: told["runs"][3].update(verdict="PROGRESS", directory="/elsewhere"),
}


# Each way once, and the runs of a cell once each.
@pytest.mark.parametrize(
    ("name", "repeat"),
    [("dropped", 1), ("dropped", 2), ("trouble", 1), ("another verdict", 2), ("another directory", 1)],
)
def test_a_bad_run_that_the_list_does_not_have(lab: Lab, tmp_path: Path, name: str, repeat: int) -> None:
    """It counts by its record, and is not overwritten; so does one of which a kill kept the row from being written."""
    plan = replace(PLAN, repeat=repeat)
    lab.outcomes = {str(plan.todo[3][0]): Outcome.CRASHED}
    run_matrix(plan, tmp_path, runner=lab.run_jobs, wish=Wish(), on_run=ignore)
    path = tmp_path / "matrix.json"
    UNLISTED[name](told := json.loads(path.read_text()))
    path.write_text(json.dumps(told))
    done = read_matrix(tmp_path)[1]
    assert len(done) == len(plan.todo)
    assert [run.outcome for run in done if (run.cell, run.number) == plan.todo[3]] == [Outcome.CRASHED]


@pytest.mark.parametrize(("beside", "batch"), [("", "night"), ("-2", "night"), ("-3", "night"), ("-3", "another")])
def test_a_bad_record_that_is_not_as_the_plan_has_it(lab: Lab, tmp_path: Path, beside: str, batch: str) -> None:
    """Beside the listed run, or in its place: it is not overwritten."""
    plan = replace(PLAN, repeat=1)
    run_matrix(plan, tmp_path, runner=lab.run_jobs, wish=Wish(), on_run=ignore)
    place = tmp_path / plan.places()[plan.todo[3]]
    other = place.with_name(f"{place.name}{beside}")
    if beside:
        shutil.copytree(place, other)
    facts = json.loads((other / "run.json").read_text())
    kept = {name: facts[name] for name in facts if name not in ("outcome", "evidence", "seal", "token")}
    kept["parameters"] |= {"window_s": 9.0}
    shutil.rmtree(other)
    leave_record(Job("x", replace(experiment(), facts={**kept, "batch": batch}), other), CRASHED)
    if batch == "another":
        assert len(read_matrix(tmp_path)[1]) == len(plan.todo) - 1
    else:
        with pytest.raises(EvidenceError, match=f"{other} is CRASHED, and not as the list .*; nothing was started"):
            read_matrix(tmp_path)


@pytest.mark.parametrize(("first", "kept"), [("the host was busy", 1), ("", 0)])
def test_a_run_that_was_starved_and_done_again(lab: Lab, tmp_path: Path, first: str, kept: int) -> None:
    plan = MatrixPlan("night", PLAN.cells[:1], 1, 1)

    def run_jobs(jobs: Iterable[Job], on_done: Callable[[JobResult], None]) -> None:
        for job in jobs:
            starved = Verdict(Outcome.INCONCLUSIVE, (Reason("busy"),), starved=first)
            again = job.out.with_name(f"{job.out.name}-2")
            leave_record(job, starved)
            leave_record(replace(job, out=again), PROGRESS)
            on_done(JobResult(job, ((starved, job.out), (PROGRESS, again)), 2.0))

    run_matrix(plan, tmp_path, runner=run_jobs, wish=Wish(), on_run=ignore)
    for _ in range(2):
        done = read_matrix(tmp_path)[1]
        assert len(done) == kept
    run_matrix(plan, tmp_path, runner=lab.run_jobs, wish=Wish(), on_run=ignore, done=done)
    assert len(lab.ran) == 1 - kept


BUILD: dict[str, Any] = {
    "kernel": {"release": "6.1.0-28"},
    "spl": {"content": "a", "modules": {"spl.ko": "1"}},
    "zfs": {"version": "2.1.11", "git": {"commit": "c", "dirty": ""}},
}


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"kernel": {"release": "6.1.0-29"}}, "the kernel of debian-\\d\\d, "),
        ({"spl": {"content": "b"}}, "the source of SPL of debian-\\d\\d, "),
        ({"zfs": {"version": "2.1.11", "git": {"commit": "d", "dirty": ""}}}, "the source of ZFS of "),
        ({"zfs": {"version": "2.1.11", "git": {"commit": "c", "dirty": "e"}}}, "the source of ZFS of "),
        ({}, ""),
        # The same source, compiled once more, by a store that was emptied.
        ({"spl": {"content": "a", "modules": {"spl.ko": "2"}}}, ""),
        # Of a guest without a pool.
        ({"zfs": None}, ""),
    ],
)
def test_a_matrix_does_not_go_on_with_another_build(lab: Lab, tmp_path: Path, now: dict[str, Any], said: str) -> None:
    lab.stop_after, lab.facts = 5, BUILD
    with pytest.raises(KeyboardInterrupt):
        run_matrix(PLAN, tmp_path, runner=lab.run_jobs, wish=Wish(), on_run=ignore)
    lab.stop_after, lab.ran, lab.facts = 1000, [], BUILD | now
    plan, done = read_matrix(tmp_path)
    if said:
        with pytest.raises(SetupError, match=f"^{said}.* is not what it was when .* was run; nothing was started"):
            run_matrix(plan, tmp_path, runner=lab.run_jobs, wish=Wish(), on_run=ignore, done=done)
        assert not lab.ran and read_matrix(tmp_path)[1] == done
    else:
        assert len(run_matrix(plan, tmp_path, runner=lab.run_jobs, wish=Wish(), on_run=ignore, done=done)) == 16


def without_cell(told: Told, *, rows: bool) -> None:
    cell = told["plan"]["cells"].pop()
    if rows:
        told["runs"] = [row for row in told["runs"] if not cell.items() <= row.items()]


OTHER_PLANS: dict[str, tuple[Callable[[Told], object], str]] = {
    "another source": (lambda told: told["plan"].update(spl="pr:1"), "the source of SPL of .* is not that of the plan"),
    "a patch more": (
        lambda told: told["plan"].update(patches=["/x.patch", "/y.patch"]),
        "the number of patches of .* is not that of the plan",
    ),
    "no patch": (lambda told: told["plan"].update(patches=[]), "the number of patches of .* is not that of the plan"),
    "fewer runs": (lambda told: told["plan"].update(repeat=1), "run 2 of .* is not in the plan"),
    "a cell less": (lambda told: without_cell(told, rows=False), "run 1 of .* is not in the plan"),
    "a cell and its runs less": (
        lambda told: without_cell(told, rows=True),
        "001 is a run of this matrix, and not in the plan",
    ),
}


@pytest.fixture
def patched(lab: Lab, tmp_path: Path) -> Path:
    """A matrix of two patches that has ended."""
    patch, out = tmp_path / "fix.patch", tmp_path / "o"
    patch.write_text("1d\n")
    out.mkdir()
    spl = {"source": "debian", "patches": [{"name": "fix.patch", "sha256": file_hash(patch), "path": str(patch)}]}
    lab.facts = {**BUILD, "spl": {**BUILD["spl"], **spl}}
    plan = replace(PLAN, patches=(patch,))
    run_matrix(plan, out, runner=lab.run_jobs, wish=Wish(), on_run=ignore)
    assert len(read_matrix(out)[1]) == 16
    return out


@pytest.mark.parametrize("name", OTHER_PLANS)
def test_a_plan_that_its_runs_were_not_of(patched: Path, name: str) -> None:
    change, words = OTHER_PLANS[name]
    told = json.loads((patched / "matrix.json").read_text())
    change(told)
    (patched / "matrix.json").write_text(json.dumps(told))
    with pytest.raises(EvidenceError, match=f"{words}.*; nothing was started"):
        read_matrix(patched)


def test_a_patch_that_was_edited_or_is_gone(patched: Path) -> None:
    """One that is gone cannot be compared; `--resume` itself refuses to go on without it."""
    patch = patched.parent / "fix.patch"
    patch.write_text("2d\n")
    with pytest.raises(EvidenceError, match=r"the patch of .* is not that of the plan; nothing was started"):
        read_matrix(patched)
    patch.unlink()
    assert len(read_matrix(patched)[1]) == 16


def test_a_run_of_another_matrix_may_lie_beside_it(patched: Path) -> None:
    (patched / "beside").mkdir()
    (patched / "beside" / "run.json").write_text('{"batch": "another"}')
    (patched / "odd").mkdir()
    (patched / "odd" / "run.json").write_text("[")
    assert len(read_matrix(patched)[1]) == 16


def test_a_matrix_that_was_interrupted_is_one_where_it_is_imported_too(lab: Lab, tmp_path: Path) -> None:
    out = tmp_path / "o"
    out.mkdir()
    lab.stop_after = 5
    with pytest.raises(KeyboardInterrupt):
        run_matrix(PLAN, out, runner=lab.run_jobs, wish=Wish(), on_run=ignore)
    with History(tmp_path / "history.sqlite") as history:
        keep_batches([tmp_path], history)
        begun = history.batch("night")
        lab.stop_after = 1000
        run_matrix(PLAN, out, runner=lab.run_jobs, wish=Wish(), on_run=ignore, done=read_matrix(out)[1])
        keep_batches([tmp_path], history)
        ended = history.batch("night")
        shutil.rmtree(out / PLAN.places()[PLAN.todo[0]])
        (tmp_path / "matrix.json").write_text("[")
        keep_batches([tmp_path], history)
        after = history.batch("night")
    assert begun is not None and (begun.planned, begun.ended) == (16, False)
    assert ended is not None and ended.ended
    assert after is not None and after.ended, "it was whole once"


def test_what_was_trouble_is_tried_again(lab: Lab, tmp_path: Path) -> None:
    cell = PLAN.cells[0]
    lab.outcomes = {str(cell): "no room", "debian-12": "no mirror"}
    runs = run_matrix(PLAN, tmp_path, runner=lab.run_jobs, wish=Wish(), on_run=ignore)
    assert sorted(run.reason for run in runs if run.outcome is None) == ["no mirror"] * 8 + ["no room"] * 2
    lab.outcomes, lab.ran = {}, []
    run_matrix(PLAN, tmp_path, runner=lab.run_jobs, wish=Wish(), on_run=ignore, done=read_matrix(tmp_path)[1])
    assert len(lab.ran) == 10


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"schema_version": 3}', '{"schema_version": 3, "plan": 1}'])
def test_a_matrix_that_cannot_be_gone_on_with(tmp_path: Path, damage: str) -> None:
    with pytest.raises(EvidenceError, match=r"has no matrix\.json"):
        read_matrix(tmp_path)
    (tmp_path / "matrix.json").write_text(damage)
    with pytest.raises(EvidenceError, match=r"is damaged|is of schema"):
        read_matrix(tmp_path)


def test_a_matrix_of_another_version(tmp_path: Path) -> None:
    (tmp_path / "matrix.json").write_text(json.dumps({"schema_version": 2, "runs": []}))
    with pytest.raises(EvidenceError, match="is of schema 2, this program reads 3; nothing was started"):
        read_matrix(tmp_path)
