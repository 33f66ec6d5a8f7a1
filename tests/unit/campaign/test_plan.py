"""Which cells a matrix has, in which time, what is said of a plan that is none, and what its runs come to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from experiments import experiment
from matrixlab import AT, PLAN, SMALL, Lab, ignore
from splvm.campaign import matrix as matrix_module
from splvm.campaign import night as night_module
from splvm.campaign import plan
from splvm.campaign.campaignrun import CampaignRun
from splvm.campaign.matrix import MatrixPlan, clock_of_cell, grid, read_matrix, run_matrix
from splvm.campaign.night import Keeper, estimate_s
from splvm.campaign.plan import Axes, plan_cells, read_axes, tell_clocks
from splvm.campaign.processes import Job, JobResult
from splvm.cli import app
from splvm.cli import matrix as matrix_command
from splvm.errors import SetupError, UsageError
from splvm.evidence.verdict import Outcome, Reason, Verdict
from splvm.history.cell import Cell
from splvm.history.database import History
from splvm.history.rows import make_trouble
from splvm.history.schema import TROUBLE
from splvm.pytest_fixtures import cells_of
from splvm.run.buildline import find_line
from splvm.run.clocks import Host
from splvm.run.prepare import Wish


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


def test_the_runs_of_a_matrix_say_so(lab: Lab, tmp_path: Path) -> None:
    seen: list[Any] = []
    run_matrix(PLAN, tmp_path, runner=lambda jobs, on_done: seen.extend(jobs), wish=Wish(), on_run=ignore)
    assert {job.experiment.facts["batch"] for job in seen} == {"night"}
    assert {job.experiment.seed for job in seen} == {1, 2}, "each run of a cell has a seed of its own"


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
