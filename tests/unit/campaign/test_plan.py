"""Which cells a matrix has, what is said of a plan that is none, and going on with one that was interrupted."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from experiments import believe_verdicts, experiment, facts_of, leave_record
from splvm.campaign import matrix as matrix_module
from splvm.campaign import night as night_module
from splvm.campaign import plan
from splvm.campaign.campaignrun import CampaignRun
from splvm.campaign.keep import keep_batches
from splvm.campaign.matrix import MatrixPlan, clock_of_cell, grid, read_matrix, run_matrix
from splvm.campaign.night import Keeper, estimate_s
from splvm.campaign.plan import Axes, plan_cells, read_axes, tell_clocks
from splvm.campaign.processes import Job, JobResult
from splvm.cli import app
from splvm.cli import matrix as matrix_command
from splvm.errors import EvidenceError, SetupError, UsageError
from splvm.evidence.formats.stormstatus import ops_without_marks
from splvm.evidence.verdict import Outcome, Reason, Verdict
from splvm.history.cell import Cell
from splvm.history.database import History
from splvm.history.rows import make_trouble
from splvm.history.schema import TROUBLE
from splvm.host.content import file_hash
from splvm.pytest_fixtures import cells_of
from splvm.run.buildline import find_line
from splvm.run.clocks import Host
from splvm.run.experiment import Experiment
from splvm.run.loads import with_own
from splvm.run.prepare import Wish
from splvm.run.scenarios import Scenario
from splvm.scenarios.table import SCENARIOS

SMALL = Axes(
    scenarios=("nominal", "held-worker"), kernels=("debian-11", "debian-12"), variants=("stock", "no-emergency")
)


def test_every_combination_one_kernel_after_the_other() -> None:
    cells = plan_cells(replace(SMALL, loads=("", "writeback,lowmem")))
    assert len(cells) == 16
    assert [cell.kernel for cell in cells] == ["debian-11"] * 8 + ["debian-12"] * 8
    assert {cell.loads for cell in cells} == {"", "writeback,lowmem"}


@pytest.mark.parametrize(
    ("include", "exclude", "left"),
    [
        ((), (), 8),
        (('kernel == "debian-11"',), (), 4),
        (('kernel == "debian-11"', 'variant == "stock"'), (), 2),
        ((), ('scenario == "nominal"', 'variant == "stock"'), 2),
        (('kernel =~ "debian-1[12]"',), ('load == ""', 'scenario == "x"'), 0),
        (('variant in ["stock", "unscoped"]',), (), 4),
    ],
)
def test_expressions(include: tuple[str, ...], exclude: tuple[str, ...], left: int) -> None:
    axes = replace(SMALL, include=include, exclude=exclude)
    if left:
        assert len(plan_cells(axes)) == left
        return
    with pytest.raises(UsageError, match="no cell is left"):
        plan_cells(axes)


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ('scenaro == "nominal"', "unknown symbol: 'scenaro'", "did you mean scenario?"),
        ('scenario == "nominal', '  scenario == "nominal\n              ^', "for example"),
        ("scenario ==", "  scenario ==\n             ^", "for example"),
        ('kernel =~ "["', "invalid regular expression", "for example"),
        ("kernel + 1", "--include", ""),
    ],
)
def test_an_expression_that_is_none(text: str, said: str, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        plan_cells(replace(SMALL, include=(text,)))
    assert said in error.value.message
    assert hint in (error.value.hint or "")


@pytest.mark.parametrize(
    "axes",
    [
        replace(SMALL, scenarios=("nominl",)),
        replace(SMALL, kernels=("debian-10",)),
        replace(SMALL, variants=("stuck",)),
        replace(SMALL, loads=("rain",)),
    ],
)
def test_names_that_stand_for_nothing(axes: Axes) -> None:
    with pytest.raises(UsageError, match=r"there is no|no such|there are"):
        plan_cells(axes)


def test_a_file_and_what_comes_before_it(tmp_path: Path) -> None:
    path = tmp_path / "night.toml"
    path.write_text('scenarios = ["nominal"]\nkernels = ["debian-13"]\nrepeat = 3\nexclude = []\n')
    axes = Axes(kernels=("debian-11",)).over(read_axes(path)).over(SMALL)
    assert axes == Axes(("nominal",), ("debian-11",), ("stock", "no-emergency"), None, None, (), 3)


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("scenarios = [", r"at end of document", "TOML"),
        ('scenarios = ["nominal"]\nkernel = ["x"]', "there is no 'kernel'", "did you mean kernels?"),
        ("weather = 1", "there is no 'weather'", "there are: scenarios"),
        ('scenarios = "nominal"', "it is a list of strings", None),
        ("scenarios = [1]", "it is a list of strings", None),
        ("repeat = 0", "a number from 1 to", None),
        ("repeat = true", "a number from 1 to", None),
        ("spl = 1", "a string that is not empty", None),
        ('label = ""', "a string that is not empty", None),
        ('spl_patch = "x.patch"', "it is a list of strings", None),
        ("debug = 1", "it is true or false", None),
        ('clock = "host"', "it is one of auto, real, virtual", None),
        ('also_real = "load"', "it is a list of strings", None),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, text: str, said: str, hint: str | None) -> None:
    path = tmp_path / "night.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        read_axes(path)
    assert said in error.value.message or said in str(error.value)
    assert (hint or "") in (error.value.hint or "")


@pytest.mark.parametrize("text", ["scenarios = [", "weather = 1", "scenarios = [1]", "repeat = 0"])
def test_an_error_names_the_option_that_named_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "night.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        cells_of(path, "debian-12", "stock")
    assert error.value.message.startswith(f"--splvm-cells {path}: ")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_axes(tmp_path / "night.toml")


# Going on.


class Lab:
    """In the place of guests: says what each cell comes to, and can be interrupted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[str] = []
        self.stop_after = 1000
        self.outcomes: dict[str, Outcome | str] = {}
        # What guests are made of.
        self.facts: dict[str, Any] = {}
        self.wishes: list[Wish] = []
        monkeypatch.setattr(matrix_module, "prepare", self.prepare)
        believe_verdicts(monkeypatch)

    def prepare(self, wish: Wish) -> Any:
        self.wishes.append(wish)
        if wish.kernel in self.outcomes:
            raise SetupError(str(self.outcomes[wish.kernel]))
        return SimpleNamespace(experiment=partial(self.experiment, wish))

    def experiment(self, wish: Wish, scenario: Scenario, **wishes: Any) -> Experiment:
        made = experiment(**facts_of(wish, **self.facts))
        machine = replace(
            made.guest.machine,
            clock=wish.clock,
            ram_mib=max(wish.ram_mib, scenario.least_mib),
            cpus=max(wish.cpus, scenario.least_cpus),
        )
        return replace(
            made,
            scenario=scenario,
            guest=replace(made.guest, machine=machine),
            window_s=scenario.window_s,
            workload=scenario.workload(scenario.window_s),
            storm=scenario.storm,
            loads=with_own(scenario.load, wishes["loads"]),
            seed=wishes["seed"],
        )

    def run_jobs(self, jobs: Iterable[Job], on_done: Callable[[JobResult], None]) -> None:
        for job in jobs:
            if len(self.ran) == self.stop_after:
                raise KeyboardInterrupt
            self.ran.append(job.title)
            outcome = self.outcomes.get(job.title, Outcome.PROGRESS)
            if not isinstance(outcome, Outcome):
                leave_record(job)
                on_done(JobResult(job, (), 2.0, outcome))
            else:
                verdict = Verdict(outcome, (Reason("so it is"),))
                leave_record(job, verdict)
                on_done(JobResult(job, ((verdict, job.out),), 2.0))


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(monkeypatch)


def test_cells_in_virtual_time(lab: Lab, tmp_path: Path) -> None:
    """Those that can be; each build is made once for each clock."""
    axes = Axes(scenarios=("nominal", "zfs-arc-mlock"), kernels=("debian-12",), variants=("stock",), clock="virtual")
    cells = plan_cells(replace(axes, loads=("", "memcg")))
    assert [dict(cell.parameters) for cell in cells] == [{"clock": "virtual"}, {}, {}, {}]
    assert str(cells[0]) == "nominal debian-12 stock clock=virtual"
    run_matrix(MatrixPlan.new(cells, 1), tmp_path, runner=lab.run_jobs, wish=Wish(), on_run=lambda *_: None)
    assert [wish.clock for wish in lab.wishes] == ["virtual", "real"]
    assert {cell.parameters for cell in plan_cells(replace(axes, clock=None))} == {()}


@pytest.mark.parametrize("clock", [None, "auto"])
def test_cells_for_which_no_clock_was_named(clock: str | None) -> None:
    """They are in virtual time where that was tried; one line says how many, and why others are not."""
    axes = replace(SMALL, scenarios=("nominal", "grow-fails"), variants=("stock",), clock=clock)
    cells = plan_cells(axes, Host(emulated=True))
    assert [clock_of_cell(cell) for cell in cells] == ["virtual", "real"] * 2
    told = tell_clocks(cells, clock, Host(emulated=True))
    assert told == (
        "2 of 4 cells in virtual time: the same seed is the same run, and the load of this machine has no say; "
        "2 of 4 cells in real time: grow-fails needs fault injection"
    )
    under_kvm = plan_cells(axes, Host(emulated=False))
    assert {cell.parameters for cell in under_kvm} == {()}
    assert tell_clocks(under_kvm, clock, Host(emulated=False)).endswith("real time: a guest under KVM has no other")
    real = plan_cells(replace(axes, clock="real"), Host(emulated=True))
    assert {cell.parameters for cell in real} == {()}
    assert tell_clocks(real, "real", None) == "4 of 4 cells in real time: asked for"


def test_cells_in_real_time_besides() -> None:
    """A cell that is in real time anyway is there once."""
    axes = replace(SMALL, scenarios=("nominal", "grow-fails"), variants=("stock",), also_real=('kernel =~ ".*12"',))
    cells = plan_cells(axes, Host(emulated=True))
    assert list(map(str, cells)) == [
        "nominal debian-11 stock clock=virtual",
        "grow-fails debian-11 stock",
        "nominal debian-12 stock clock=virtual",
        "nominal debian-12 stock",
        "grow-fails debian-12 stock",
    ]
    assert "1 of 5 cells in real time: asked for by --also-real" in tell_clocks(cells, None, Host(emulated=True))
    with pytest.raises(UsageError, match="--also-real"):
        plan_cells(replace(axes, also_real=("kernal",)), Host(emulated=True))


def test_a_grid_tells_clocks_apart() -> None:
    cells = [Cell("nominal", "debian-12", "stock", parameters=each) for each in ((), (("clock", "virtual"),))]
    runs = [CampaignRun(cell, 1, Outcome.HEALTHY, "", None, 1.0, frozenset({Outcome.HEALTHY})) for cell in cells]
    heading, rows = grid(runs)
    assert heading == ("kernel", "variant", "clock", "nominal")
    assert rows == [("debian-12", "stock", "real", "HEALTHY"), ("debian-12", "stock", "virtual", "HEALTHY")]
    assert grid(runs[1:])[0] == ("kernel", "variant", "nominal")


Told = dict[str, Any]

AT = datetime(2026, 1, 1, tzinfo=UTC)
PLAN = MatrixPlan("night", tuple(plan_cells(SMALL)), 2, 1)


def ignore(run: CampaignRun, result: JobResult | None) -> None:
    pass


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


def test_the_runs_of_a_matrix_say_so(lab: Lab, tmp_path: Path) -> None:
    seen: list[Any] = []
    run_matrix(PLAN, tmp_path, runner=lambda jobs, on_done: seen.extend(jobs), wish=Wish(), on_run=ignore)
    assert {job.experiment.facts["batch"] for job in seen} == {"night"}
    assert {job.experiment.seed for job in seen} == {1, 2}, "each run of a cell has a seed of its own"


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


def test_runs_of_cells_with_like_names_have_a_directory_each() -> None:
    cells = tuple(Cell("nominal", kernel, "stock") for kernel in ("path:/a/b,/h", "path:/a-b,/h", "path:/a,b,/h"))
    places = MatrixPlan("night", cells, 2, 1).places()
    assert len(places) == len(set(places.values())) == 6


def test_a_scenario_with_a_load_of_its_own_is_one_cell_whoever_names_it() -> None:
    axes = Axes(("zfs-held-worker",), ("debian-12",), ("stock",), loads=("", "zfs", "lowmem"))
    assert [cell.loads for cell in plan_cells(axes)] == ["zfs", "zfs,lowmem"]


def test_a_matrix_of_a_build_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its line is what it was when the plan was made, also for whoever goes on with it."""
    wishes: list[Wish] = []

    def prepare(wish: Wish) -> Any:
        wishes.append(wish)
        raise SetupError("no mirror")

    monkeypatch.setattr(matrix_module, "prepare", prepare)
    patch = tmp_path / "fix.patch"
    patch.write_text("1d\n")
    names = ["--scenario", "nominal", "--kernel", "debian-12", "--variant", "stock", "--spl-patch", str(patch)]
    argv = ["matrix", "--jobs", "1", "--history", str(tmp_path / "h")]
    done = CliRunner().invoke(app, [*argv, *names, "--out", str(tmp_path / "o")])
    assert done.exit_code == 3
    plan, (run,) = read_matrix(tmp_path / "o")
    line = find_line("debian", [patch])
    assert (run.cell.line, plan.spl, plan.patches) == (line, "debian", (patch,))
    with History(tmp_path / "h") as history:
        assert [each.cell.line for each in history.overview()] == [line]
    again = CliRunner().invoke(app, [*argv, "--resume", str(tmp_path / "o")])
    assert again.exit_code == 3
    assert [(wish.label, wish.patches) for wish in wishes] == [(line, (patch,))] * 2
    # A file says it as well.
    (tmp_path / "night.toml").write_text(f'spl_patch = ["{patch}"]\nlabel = "mine"\n')
    axes = ["--scenario", "nominal", "--kernel", "debian-12", "--variant", "stock", "--file", f"{tmp_path}/night.toml"]
    CliRunner().invoke(app, [*argv, *axes, "--out", str(tmp_path / "file")])
    assert (wishes[-1].label, wishes[-1].patches, wishes[-1].spl) == ("mine", (patch,), "debian")
    refused = CliRunner().invoke(app, [*argv, "--resume", str(tmp_path / "o"), "--label", "mine"])
    assert "other cells cannot be named" in str(refused.exception)
    patch.unlink()
    gone = CliRunner().invoke(app, [*argv, "--resume", str(tmp_path / "o")])
    assert isinstance(gone.exception, UsageError) and "not a file that ends in" in str(gone.exception)


def test_an_own_line_of_a_matrix_has_directories_of_its_own() -> None:
    cells = [Cell("nominal", "debian-12", "stock", line=line) for line in ("packaged", "mine")]
    places = MatrixPlan("night", tuple(cells), 1, 1).places()
    assert [str(path) for path in places.values()] == [
        "nominal-debian-12-stock",
        "nominal-debian-12-stock-line-mine",
    ]


def test_jobs_of_a_cluster_are_its_workers_own(tmp_path: Path) -> None:
    argv = ["matrix", "--on", "dask://127.0.0.1:9", "--jobs", "2", "--history", str(tmp_path / "h"), "--plan"]
    done = CliRunner().invoke(app, argv)
    assert isinstance(done.exception, UsageError) and "--jobs is for this machine" in str(done.exception)


# The history of it.


def test_a_run_that_came_to_nothing_is_a_row_too(tmp_path: Path) -> None:
    with History(tmp_path / "h.sqlite") as history:
        keeper = Keeper(history, "night", 16)
        for number in (1, 2):
            keeper.take(CampaignRun(PLAN.cells[0], number, None, "no room", None, 3.0), None)
        (one, two) = history.runs(PLAN.cells[0])
    assert {one.verdict, two.verdict} == {TROUBLE}
    assert (one.reason, one.batch, one.as_expected) == ("no room", "night", False)


def test_a_history_that_is_away_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with History(tmp_path / "h.sqlite") as history:
        keeper = Keeper(history, "night", 16)

        def lost(runs: Any) -> int:
            raise SetupError("the connection is lost")

        with monkeypatch.context() as away:
            away.setattr(history, "add", lost)
            keeper.take(CampaignRun(PLAN.cells[0], 1, None, "no room", None, 3.0), None)
            with pytest.raises(SetupError):
                keeper.flush()
        keeper.take(CampaignRun(PLAN.cells[0], 2, None, "no room", None, 3.0), None)
        assert len(history.runs()) == 2
        keeper.flush()
        assert len(history.runs()) == 2


def test_a_run_whose_files_are_gone_does_not_end_the_matrix(tmp_path: Path) -> None:
    result = JobResult(Job("x", experiment(), tmp_path), ((Verdict(Outcome.PROGRESS, (Reason("r"),)), tmp_path),), 1.0)
    with History(tmp_path / "h.sqlite") as history:
        Keeper(history, "night", 16).take(CampaignRun(PLAN.cells[0], 1, Outcome.PROGRESS, "r", tmp_path, 1.0), result)
        assert not history.runs()


def test_what_a_matrix_came_to_is_shown_although_its_history_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(history: History, runs: Any) -> int:
        raise SetupError("the connection is lost")

    def run(plan: MatrixPlan, out: Path, **wishes: Any) -> list[CampaignRun]:
        done = CampaignRun(plan.cells[0], 1, None, "no room", None, 1.0)
        wishes["on_run"](done, None)
        return [replace(done, outcome=Outcome.PROGRESS, expected=frozenset({Outcome.PROGRESS}))]

    monkeypatch.setattr(matrix_command, "run_matrix", run)
    monkeypatch.setattr(History, "add", lost)
    words = ["matrix", "--out", str(tmp_path / "out"), "--history", str(tmp_path / "h.sqlite")]
    done = CliRunner().invoke(app, [*words, "--scenario", "nominal", "--kernel", "debian-12", "--variant", "stock"])
    assert "1 of 1 runs as expected" in done.stdout
    assert isinstance(done.exception, SetupError)
    assert f"history import {tmp_path / 'out'}" in str(done.exception)


def test_how_long_it_will_take(tmp_path: Path) -> None:
    one, other = PLAN.cells[:2]
    with History(tmp_path / "h.sqlite") as history:
        assert estimate_s([one, other], history, 1) == (2 * night_module._GUESS_S, 0)
        runs = [make_trouble(one, "b", n, "", at=AT, duration_s=seconds) for n, seconds in enumerate((7, 8, 90))]
        for run in runs:
            run.verdict = "PROGRESS"
        history.add(runs)
        assert estimate_s([one, one, other, Cell("x", "debian-13", "z")], history, 2) == (4 * 8 / 2, 1)


@pytest.mark.parametrize(
    "text",
    [
        'scenario[99] == "x"',
        "scenario.length ** 9999 ** 99 > 1",
        '$split(scenario, "") == 1',
        '$parse_datetime("x") == 1',
        "$range(999999999999) == 1",
        "1 / 0 == 1",
        "not " * 400 + "true",
        "1+" * 900 + "1 == 1",
        'load =~ "' + "(" * 1500 + '"',
        "1 == 1 or " * 300 + "true",
    ],
)
def test_an_expression_that_comes_to_nothing(text: str) -> None:
    axes = Axes(("nominal",), ("debian-12",), ("stock",), include=(text,))
    try:
        assert plan_cells(axes)
    except UsageError as error:
        assert "--include" in error.message


def test_an_expression_that_takes_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_EXPRESSION_S", 0.2)
    axes = Axes(("nominal",), ("debian-12",), ("stock",), exclude=(f'"{"a" * 40}" =~ "(a|a)*b"',))
    with pytest.raises(UsageError, match="takes longer than"):
        plan_cells(axes)


def test_a_cluster_has_real_time(tmp_path: Path) -> None:
    """Its workers may have another QEMU than this machine."""
    axes = replace(SMALL, scenarios=("nominal",), variants=("stock",))
    here, there = (matrix_command._make_plan(axes, None, Wish(accelerator="tcg"), on) for on in (None, "dask://x:1"))
    assert {clock_of_cell(cell) for cell in here.cells} == {"virtual"}
    assert {clock_of_cell(cell) for cell in there.cells} == {"real"}
    argv = ["matrix", "--on", "dask://localhost:1", "--clock", "virtual", "--out", str(tmp_path / "out")]
    assert "not for those of a cluster" in str(CliRunner().invoke(app, argv).exception)
    assert not list(tmp_path.iterdir())
