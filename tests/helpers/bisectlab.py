"""A bisection without builds and guests: a world in their place, and plans."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from experiments import believe_verdicts, experiment, facts_of, leave_record
from splvm.campaign import bisect
from splvm.campaign.bisect import Bisection
from splvm.campaign.candidates import BisectPlan, Candidate, ChangeKind
from splvm.campaign.processes import Job, JobResult
from splvm.campaign.repro import HITS
from splvm.errors import BuildError, HarnessError
from splvm.evidence.verdict import Outcome, Reason, Verdict
from splvm.run.prepare import Wish

# Outcome of a run of a candidate; None is trouble.
Oracle = Callable[[int], Outcome | None]


def plan(count: int, **changes: Any) -> BisectPlan:
    candidates = tuple(Candidate(f"k{number}", f"k{number}") for number in range(count))
    base: dict[str, Any] = {"hits": HITS, "confidence": 0.95, "most_runs": 200, "seed": 1}
    return BisectPlan(
        **{
            "scenario": "held-worker",
            "kind": ChangeKind.KERNELS,
            "candidates": candidates,
            "wish": Wish(),
            **base,
            **changes,
        }
    )


def steps(first_bad: int) -> Oracle:
    return lambda number: Outcome.STALLED if number >= first_bad else Outcome.PROGRESS


def broken(*names: str) -> dict[str, HarnessError]:
    """Kernels for which nothing compiles."""
    return dict.fromkeys(names, BuildError("spl.ko", "error: expected ';'\nmore", None))


def found(search: Bisection) -> tuple[int, int] | None:
    answer = search.answer
    return (answer.first, answer.last) if answer else None


def make_world(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What stands for builds and guests: `oracle`, `builds` by the wish's kernel, and what was `asked` and built."""
    told = SimpleNamespace(oracle=steps(0), builds={}, zfs={}, asked=[], built=[], broken={})

    def prepare(wish: Wish) -> Any:
        told.built.append(wish)
        if wish.kernel in told.broken:
            raise told.broken[wish.kernel]
        modules = {"spl.ko": told.builds.get(wish.kernel, str(wish))}
        more = {"kernel": {"release": "6.1"}, "spl": {"modules": modules}, "zfs": told.zfs.get(wish.kernel)}
        made = experiment(**facts_of(wish, **more))

        return SimpleNamespace(experiment=lambda *_, **__: made)

    def run_jobs(jobs: Iterable[Job], at_once: int, on_done: Callable[[JobResult], None]) -> None:
        for job in jobs:
            number = int(job.out.parent.name[:3])
            told.asked.append(number)
            outcome = told.oracle(number)
            verdict = None if outcome is None else Verdict(outcome, (Reason("why"),))
            leave_record(job, verdict)
            if verdict is None:
                on_done(JobResult(job, (), 1.0, "no room"))
            else:
                on_done(JobResult(job, ((verdict, job.out),), 1.0))

    monkeypatch.setattr(bisect, "prepare", prepare)
    monkeypatch.setattr(bisect, "run_jobs", run_jobs)
    believe_verdicts(monkeypatch)
    return told
