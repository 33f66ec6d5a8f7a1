"""How often something happens: rates and their intervals, when a measurement ends, what it leaves on the disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from simulated import Knobs, simulate
from test_pool import experiment

from framework.errors import UsageError
from framework.evidence.judge import judge
from framework.evidence.verdict import Outcome, Reason, Verdict
from framework.lab import repro
from framework.lab.pool import Job, JobResult
from framework.lab.repro import Series, Until, compare, measure
from framework.report.rates import Rate, chance_of_difference, quartiles


@pytest.mark.parametrize(
    ("hits", "runs", "low", "high"),
    [
        # Agresti and Coull (1998), table and text: the score interval for none of ten, and for half of them.
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_interval(hits: int, runs: int, low: float, high: float) -> None:
    interval = Rate(hits, runs).interval
    assert interval == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_no_run_has_no_rate() -> None:
    assert Rate(0, 0).interval is None
    assert str(Rate(0, 0)) == "-"
    assert chance_of_difference(Rate(0, 0), Rate(1, 2)) is None


def test_difference() -> None:
    """Two series that differ, two that may, two that do not; either way round."""
    clear, vague = chance_of_difference(Rate(18, 20), Rate(2, 20)), chance_of_difference(Rate(3, 5), Rate(1, 5))
    assert clear is not None and clear < 1e-5
    assert vague is not None and 0.1 < vague < 1
    assert chance_of_difference(Rate(4, 8), Rate(2, 4)) == 1
    assert chance_of_difference(Rate(2, 20), Rate(18, 20)) == pytest.approx(clear)


def test_quartiles() -> None:
    assert quartiles([]) is None
    assert quartiles([2.0]) == (2, 2, 2)
    assert quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == (2, 3, 4)


@pytest.mark.parametrize("text", ["", "20", "runs=0", "runs=-1", "runs=1.5", "hits=", "minutes=x", "tries=3"])
def test_ends_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="hits=N, runs=N or minutes=N"):
        Until.parse([text])


def test_ends() -> None:
    assert Until.parse(["hits=3", "minutes=1.5"]) == Until(hits=3, minutes=1.5)
    assert str(Until(runs=20, hits=1)) == "1 hits or 20 runs"


Answer = Callable[[Job], Outcome | None]


def run(monkeypatch: pytest.MonkeyPatch, out: Path, answer: Answer, until: Until, *variants: str) -> list[Series]:
    """A measurement in which `answer` stands for the guests."""

    def run_jobs(jobs: Iterable[Job], at_once: int, on_done: Callable[[JobResult], None]) -> None:
        for job in jobs:
            outcome = answer(job)
            figures = {"onset_s": 2.5} if outcome is Outcome.STALLED else {}
            verdicts = ((Verdict(outcome, (Reason("why"),), figures=figures), job.out),) if outcome else ()
            on_done(JobResult(job, verdicts, 1.0, "" if outcome else "no boot"))

    monkeypatch.setattr(repro, "run_jobs", run_jobs)
    series = [Series("debian-12", variant, experiment()) for variant in variants]
    measure(series, out, until=until, seed=7, at_once=2, on_trial=lambda *_: None)
    return series


def test_runs_take_turns_and_have_seeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    order: list[tuple[str, str, int]] = []

    def answer(job: Job) -> Outcome:
        order.append((job.out.parent.name, job.out.name, job.experiment.seed))
        return Outcome.HEALTHY

    run(monkeypatch, tmp_path, answer, Until(runs=2), "stock", "unscoped")
    stock, other = "debian-12-stock", "debian-12-unscoped"
    assert order == [(stock, "001", 7), (other, "001", 7), (stock, "002", 8), (other, "002", 8)]


def test_hits_misses_and_what_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    outcomes = iter([Outcome.STALLED, Outcome.SLOW, Outcome.INCONCLUSIVE, None, Outcome.NOT_TRIGGERED, Outcome.LOST])
    (series,) = run(monkeypatch, tmp_path, lambda job: next(outcomes), Until(runs=6), "stock")
    assert series.rate == Rate(hits=2, runs=3)
    assert [trial.number for trial in series.silent] == [3, 4, 5]
    assert series.onsets == (2.5, 2.5, 2.5)
    told: dict[str, Any] = json.loads((tmp_path / "repro.json").read_text())
    (kept,) = told["series"]
    assert (kept["hits"], kept["runs"], kept["silent"]) == (2, 3, 3)
    assert [trial["verdict"] for trial in kept["trials"]][:4] == ["STALLED", "SLOW", "INCONCLUSIVE", None]
    assert kept["trials"][3]["reason"] == "no boot"


def test_a_series_with_enough_hits_ends_and_the_other_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def answer(job: Job) -> Outcome:
        return Outcome.STALLED if "stock" in str(job.out) else Outcome.HEALTHY

    stock, other = run(monkeypatch, tmp_path, answer, Until(hits=2, runs=5), "stock", "unscoped")
    assert (stock.rate, other.rate) == (Rate(2, 2), Rate(0, 5))
    (told,) = compare([stock, other])
    assert told["difference"] == 1
    assert told["p"] < 0.1


def test_no_run_begins_when_time_is_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (series,) = run(monkeypatch, tmp_path, lambda job: Outcome.HEALTHY, Until(minutes=0), "stock")
    assert series.trials == []
    assert series.rate.interval is None


def test_a_standstill_has_a_beginning() -> None:
    """Without emergency objects nobody gets anything once the worker is held; with them there is no such time."""
    stuck = simulate("held-worker", Knobs(fallback=False)).evidence()
    verdict, marks = judge(stuck), stuck.timeline.marks
    assert verdict.outcome is Outcome.STALLED
    held_for_s = (marks["window-end"] - marks["hold"]) / 1e9
    assert 0 <= verdict.figures["onset_s"] < held_for_s / 2
    assert "onset_s" not in judge(simulate("held-worker").evidence()).figures
