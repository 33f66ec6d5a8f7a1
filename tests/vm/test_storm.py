"""Reclaim at allocation sites: builds and settings in which a site has to deadlock, and stock, which has to be safe."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from splvm.cli import app
from splvm.clock import Clock
from splvm.evidence.formats.stormstatus import ops_without_marks
from splvm.evidence.verdict import Outcome, Verdict
from splvm.pytest_fixtures import RunResult
from splvm.record.reader import read_evidence
from splvm.run.experiment import run_experiment
from splvm.run.prepare import Prepared
from splvm.run.scenarios import Storm
from splvm.scenarios.judged import judge_evidence
from splvm.scenarios.table import find_scenario

pytestmark = pytest.mark.splvm_vm

HERE = Path(__file__).parent / "controls"


@dataclass(frozen=True, slots=True)
class Control:
    """A build in which a claim about marks or flags is false, and what the storm has to say of it."""

    # Name of the patch; empty: none.
    patch: str
    outcome: Outcome
    # What the first reason must say.
    reason: str
    variant: str = "stock"
    # 0: the transaction thread does not mark itself.
    mark: int = 1
    kernels: tuple[str, ...] = ("debian-11", "debian-12", "debian-13", "debian-sid")

    @property
    def id(self) -> str:
        unmarked = "" if self.mark else "unmarked"
        return "-".join(filter(None, (self.variant, self.patch.partition(".")[0], unmarked)))


_AT = r"deadlock at an allocation site: .* waits in reclaim at .*"
# SPL 2.0.3 has the one in the other, by the compiler's choice.
_EMERGENCY = r"(spl_emergency_alloc|spl_kmem_cache_alloc) -> "

CONTROLS = (
    Control(
        "emergency-enters-fs.cocci",
        Outcome.STALLED,
        _AT + _EMERGENCY + r".* which allows FS; the thread is not marked",
        variant="unscoped",
        kernels=("debian-11", "debian-12"),
    ),
    Control(
        "emergency-does-io.cocci",
        Outcome.STALLED,
        _AT + _EMERGENCY + r".* which allows IO; the thread is not marked",
        variant="unscoped",
        kernels=("debian-11", "debian-12"),
    ),
    Control("", Outcome.STALLED, _AT + r"which allows FS; the thread is not marked", mark=0),
    Control("taskq-unmarked.cocci", Outcome.STALLED, _AT + r"which allows FS; the thread is not marked"),
    Control("mark-does-nothing.patch", Outcome.STALLED, _AT + r"which allows FS; the thread is not marked"),
    Control("mark-allows-io.patch", Outcome.STALLED, _AT + r"which allows IO; the thread is marked NOFS"),
    Control(
        "nosleep-sleeps.patch",
        Outcome.CRASHED,
        r"allocations at .* may sleep where that is forbidden, with a preempt_count of up to 1",
        kernels=("debian-12", "debian-13", "debian-sid"),
    ),
)
# Where nothing else is asked for.
SHORT = {("debian-12", "unscoped-emergency-enters-fs"), ("debian-12", "stock-unmarked")}

CELLS = [(kernel, control) for control in CONTROLS for kernel in control.kernels]


def test_every_patch_has_a_row() -> None:
    named = {control.patch for control in CONTROLS} - {""}
    assert {path.name for path in HERE.iterdir()} == named | {"mark-unknown.patch"}


@pytest.mark.parametrize(
    ("kernel", "control"),
    [
        pytest.param(
            kernel,
            control,
            id=f"{kernel}-{control.id}",
            marks=[pytest.mark.splvm_slow] * ((kernel, control.id) not in SHORT),
        )
        for kernel, control in CELLS
    ],
)
def test_control_is_found(prepare_spl: Callable[..., Prepared], tmp_path: Path, kernel: str, control: Control) -> None:
    patches = (HERE / control.patch,) if control.patch else ()
    prepared = prepare_spl(kernel=kernel, variant=control.variant, patches=patches)
    experiment = prepared.experiment(find_scenario("storm"), storm=Storm(mark=control.mark), seed=1, window_s=1.5)
    verdict = run_experiment(experiment, tmp_path / "run")
    must_say(verdict, control)
    assert judge_evidence(read_evidence(tmp_path / "run")) == verdict, "the record alone gives the same verdict"


@pytest.mark.splvm_slow
@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("control", [it for it in CONTROLS if "debian-12" in it.kernels], ids=lambda it: it.id)
def test_control_is_found_in_virtual_time(
    prepare_spl: Callable[..., Prepared], tmp_path: Path, control: Control, seed: int
) -> None:
    patches = (HERE / control.patch,) if control.patch else ()
    closed = prepare_spl(variant=control.variant, patches=patches, clock=Clock.VIRTUAL, accelerator="tcg")
    experiment = closed.experiment(find_scenario("storm"), storm=Storm(mark=control.mark), seed=seed)
    must_say(run_experiment(experiment, tmp_path / "run"), control)


def must_say(verdict: Verdict, control: Control) -> None:
    text = verdict.reasons[0].text
    assert verdict.outcome is control.outcome, text
    assert re.search(control.reason, text), text


@pytest.mark.splvm_slow
@pytest.mark.parametrize(("kernel", "outcome"), [("debian-11", Outcome.PROGRESS), ("debian-12", Outcome.IMMUNE)])
def test_flags_alone_do(run_scenario: Callable[..., RunResult], kernel: str, outcome: Outcome) -> None:
    """Without marks waits end by commits of others, where transactions do what flags protect."""
    result = run_scenario("storm", kernel=kernel, variant="unscoped")
    result.must_be(outcome)
    ops = read_evidence(result.directory).facts["parameters"]["storm"]["ops"]
    assert ops == ops_without_marks(honours=kernel != "debian-11")


@pytest.mark.splvm_slow
def test_a_mark_that_the_kernel_does_not_know(run_scenario: Callable[..., RunResult]) -> None:
    """SPL's own flags go by it; page tables on 5.10 do not: those of a large kmem_alloc() in a transaction deadlock."""
    result = run_scenario("storm", kernel="debian-11", patches=(HERE / "mark-unknown.patch",), clock=Clock.REAL)
    # Whether a new page table is needed within the window is chance.
    result.must_be(Outcome.STALLED, Outcome.SUSPECT)
    text = " | ".join(reason.text for reason in result.verdict.reasons)
    at_page_tables = r"waits in reclaim at .*__vmalloc.*pte_alloc.* which allows FS; the thread is not marked"
    assert re.search(rf"{at_page_tables}|SPL's thread \S+ \(pid \d+\) is not marked", text), text


@pytest.mark.splvm_slow
def test_a_thread_that_is_made_within_a_transaction(prepare_spl: Callable[..., Prepared], tmp_path: Path) -> None:
    """kthreadd is not marked, and whoever has a thread made waits for it."""
    storm = Storm(helpers=1)
    experiment = prepare_spl().experiment(find_scenario("storm"), storm=storm, seed=1)
    verdict = run_experiment(experiment, tmp_path / "run")
    assert verdict.outcome is Outcome.STALLED
    assert re.search(r"waits in reclaim at .*kthreadd.*the thread is not marked", verdict.reasons[0].text)


@pytest.mark.splvm_slow
def test_sites_lists_what_was_never_reached(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["sites", "--json", "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    places = {place["place"]: place for place in content["places"]}
    assert not any(hook["blind"] for hook in content["hooks"])
    emergency = next(place for name, place in places.items() if name.startswith("spl_emergency_alloc:__get_free_pages"))
    assert emergency["reached"]
    assert all(site["reclaims"] == 0 for place in places.values() for site in place["sites"])
    assert all(place["why"] for place in places.values() if not place["reached"])
