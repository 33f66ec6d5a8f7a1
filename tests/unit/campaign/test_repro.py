"""How often something happens: rates and their intervals, when a measurement ends, what it leaves on the disk."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
from typer.testing import CliRunner

from experiments import experiment
from simulated import simulate
from simulated_faults import FAULTS
from splvm.campaign import repro
from splvm.campaign.processes import Job, JobResult
from splvm.campaign.repro import TROUBLES, Series, Until, compare, measure, same_builds
from splvm.cli import app
from splvm.errors import UsageError
from splvm.evidence.verdict import Outcome, Reason, Verdict
from splvm.report.rates import Rate, chance_of_difference, quartiles
from splvm.scenarios.judged import judge_evidence as judge


@pytest.mark.parametrize(("hits", "runs"), [(0, 10), (5, 10), (10, 10), (1, 1), (3, 20), (999, 1000)])
def test_interval(hits: int, runs: int) -> None:
    """Its ends are the rates from which what was seen is just so many standard deviations away: Wilson's definition."""
    interval = Rate(hits, runs).interval
    assert interval is not None
    z, seen = NormalDist().inv_cdf(0.975), hits / runs
    for end, outermost in zip(interval, (0, 1), strict=True):
        if seen == outermost:
            assert end == pytest.approx(outermost)
        else:
            assert abs(seen - end) == pytest.approx(z * math.sqrt(end * (1 - end) / runs), rel=1e-6)


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
    measure(series, out, until=until, at_once=2, on_trial=lambda *_: None, about={"scenario": "held-worker"})
    return series


def test_runs_take_turns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    order: list[str] = []

    def answer(job: Job) -> Outcome:
        order.append(str(job.out.relative_to(tmp_path)))
        return Outcome.HEALTHY

    run(monkeypatch, tmp_path, answer, Until(runs=2), "stock", "unscoped")
    stock, other = "debian-12-stock", "debian-12-unscoped"
    assert order == [f"{stock}/001", f"{other}/001", f"{stock}/002", f"{other}/002"]


def test_a_series_of_trouble_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without an end to its runs it would go on for ever; trouble now and then ends nothing."""
    (series,) = run(monkeypatch, tmp_path, lambda job: None, Until(hits=1), "stock")
    assert (len(series.trials), series.is_given_up, series.is_trouble) == (TROUBLES, True, True)
    outcomes = iter([None, None, Outcome.HEALTHY] * 3 + [Outcome.LOST])
    (series,) = run(monkeypatch, tmp_path, lambda job: next(outcomes), Until(hits=1), "stock")
    assert (len(series.trials), series.is_given_up, series.is_trouble) == (10, False, False)


def test_hits_misses_and_what_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    outcomes = iter([Outcome.STALLED, Outcome.SLOW, Outcome.INCONCLUSIVE, None, Outcome.NOT_TRIGGERED, Outcome.LOST])
    (series,) = run(monkeypatch, tmp_path, lambda job: next(outcomes), Until(runs=6), "stock")
    assert series.rate == Rate(hits=3, runs=3)
    assert [trial.number for trial in series.silent] == [3, 4, 5]
    assert (series.onsets, series.unasked) == ((2.5, 2.5, 2.5), {})
    told: dict[str, Any] = json.loads((tmp_path / "repro.json").read_text())
    (kept,) = told["series"]
    assert (kept["hits"], kept["runs"], kept["silent"]) == (3, 3, 3)
    assert [trial["verdict"] for trial in kept["trials"]][:4] == ["STALLED", "SLOW", "INCONCLUSIVE", None]
    assert kept["trials"][3]["reason"] == "no boot"


@pytest.mark.parametrize("outcome", [it for it in Outcome if not it.says_nothing])
def test_each_bad_verdict_is_a_hit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, outcome: Outcome) -> None:
    """Or it is told that it came and is none, where hits are named: it is not taken for a good one."""
    (series,) = run(monkeypatch, tmp_path, lambda job: outcome, Until(runs=2), "stock")
    assert (len(series.hit), series.unasked) == (0 if outcome.is_good else 2, {})
    series.hits = frozenset(Outcome) - {outcome}
    assert series.unasked == ({} if outcome.is_good else {outcome: 2})


def test_a_series_with_enough_hits_ends_and_the_other_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def answer(job: Job) -> Outcome:
        return Outcome.STALLED if "stock" in str(job.out) else Outcome.HEALTHY

    stock, other = run(monkeypatch, tmp_path, answer, Until(hits=2, runs=5), "stock", "unscoped")
    assert (stock.rate, other.rate) == (Rate(2, 2), Rate(0, 5))
    (told,) = compare([stock, other])
    assert told["difference"] == 1
    assert told["p"] < 0.1


def test_sources_are_compared_with_the_first_on_the_same_kernel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    order: list[str] = []

    def run_jobs(jobs: Iterable[Job], at_once: int, on_done: Callable[[JobResult], None]) -> None:
        for job in jobs:
            order.append(job.out.parent.name)
            outcome = Outcome.STALLED if "pr-7" in str(job.out) else Outcome.PROGRESS
            on_done(JobResult(job, ((Verdict(outcome, (Reason("why"),)), job.out),), 1.0))

    monkeypatch.setattr(repro, "run_jobs", run_jobs)
    modules = {"debian": "a", "pr:7": "b", "git:a/b@x": "a", "git:a-b@x": "b"}
    series = [
        Series(kernel, "stock", made, source=source)
        for kernel in ("debian-11", "debian-12")
        for source, module in modules.items()
        for made in [experiment(kernel={"release": kernel}, spl={"modules": {"spl.ko": module}})]
    ]
    measure(series, tmp_path, until=Until(runs=5), at_once=1, on_trial=lambda *_: None, about={})
    sources = ("debian", "pr-7", "git-a-b-x", "git-a-b-x")
    wanted = [f"{kernel}-stock-{source}" for kernel in ("debian-11", "debian-12") for source in sources]
    wanted[3], wanted[7] = f"{wanted[3]}.4", f"{wanted[7]}.8"
    assert order == wanted * 5
    told = compare(series)
    assert [(it["one"], it["other"]) for it in told] == [
        (f"{kernel} stock debian", f"{kernel} stock {source}")
        for kernel in ("debian-11", "debian-12")
        for source in list(modules)[1:]
    ]
    assert told[0]["difference"] == -1 and told[0]["p"] < 0.05 and told[1]["p"] == 1
    assert [(str(one), str(other)) for one, other in same_builds(series)] == [
        (f"{kernel} stock debian", f"{kernel} stock git:a/b@x") for kernel in ("debian-11", "debian-12")
    ]


def test_one_label_for_several_sources() -> None:
    done = CliRunner().invoke(app, ["repro", "held-worker", "--spl", "debian", "--spl", "pr:7", "--label", "x"])
    assert isinstance(done.exception, UsageError) and "--label names one line" in str(done.exception)


def test_no_run_begins_when_time_is_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (series,) = run(monkeypatch, tmp_path, lambda job: Outcome.HEALTHY, Until(minutes=0), "stock")
    assert series.trials == []
    assert series.rate.interval is None


@pytest.mark.parametrize(
    ("fault", "outcome", "phase", "after_s"),
    [
        ("no fallback", Outcome.STALLED, "hold", 0.0),
        ("thread 1 stands still until the release", Outcome.STALLED, "window", 1.4),
        ("lost", Outcome.LOST, "window", 1.5),
    ],
)
def test_when_it_began(fault: str, outcome: Outcome, phase: str, after_s: float) -> None:
    evidence = simulate("held-worker", FAULTS[fault]).evidence()
    verdict, marks = judge(evidence), evidence.timeline.marks
    assert verdict.outcome is outcome
    # Within a few readings, for they come 20 times a second, and a thread has a round behind it.
    assert verdict.figures["onset_s"] == pytest.approx((marks[phase] - marks["hold"]) / 1e9 + after_s, abs=0.25)


@pytest.mark.parametrize("fault", ["oops", "thread 1 waits too long once"])
def test_what_has_no_beginning(fault: str) -> None:
    assert "onset_s" not in judge(simulate("held-worker", FAULTS[fault]).evidence()).figures
    assert "onset_s" not in judge(simulate("held-worker").evidence()).figures
