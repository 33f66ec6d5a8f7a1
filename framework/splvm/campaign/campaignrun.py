"""One run of a campaign: of a cell of a matrix, of a series that is measured, or of a candidate of a bisection."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from splvm.campaign.planned import done_of, is_of_today
from splvm.campaign.processes import JobResult
from splvm.errors import HarnessError, UsageError
from splvm.evidence.verdict import Outcome, Verdict
from splvm.history.cell import Cell
from splvm.record.cellfacts import UNKNOWN
from splvm.record.reader import last_record_s, read_damage, read_facts
from splvm.record.typedjson import from_json
from splvm.run.experiment import Experiment, differing_parameters
from splvm.run.prepare import find_any_kernel, spec_of
from splvm.scenarios.judged import judge_run


@dataclass(frozen=True, slots=True)
class CampaignRun:
    """The result of one run. All campaigns keep it in this form."""

    cell: Cell
    # Of the run, from 1: within its cell or its series; of a bisection within all of its runs.
    number: int
    # None if there was trouble of the harness or the host.
    outcome: Outcome | None
    # The first reason of the verdict, or the trouble.
    reason: str
    # Of the run that counts; None if there is none.
    directory: Path | None
    # Of the host, for all attempts.
    seconds: float
    # Verdicts that count as expected; empty if it came to nothing before its run.
    expected: frozenset[Outcome] = frozenset()
    # Seconds of guest time until what the verdict is about began, where the evidence tells.
    onset_s: float | None = None
    # Index of the candidate that was run, of a bisection; 0 elsewhere.
    candidate: int = 0
    # The machine it ran on, and those that were lost while they ran it; empty where it was this one.
    machine: str = ""
    lost: tuple[str, ...] = ()

    @property
    def as_expected(self) -> bool:
        """Whether the verdict is one of those that were expected."""
        return self.outcome in self.expected

    @property
    def said(self) -> str:
        """The first line of its reason."""
        return next(iter(self.reason.splitlines()), "")

    @classmethod
    def of(cls, cell: Cell, number: int, experiment: Experiment, result: JobResult, candidate: int = 0) -> CampaignRun:
        """What came of a job.

        :param number: of the run.
        :param experiment: that the job was made of.
        """
        outcome, reason, directory, onset_s = None, result.trouble, None, None
        if result.runs:
            verdict, directory = result.last
            outcome, reason, onset_s = verdict.outcome, verdict.reasons[0].text, verdict.figures.get("onset_s")
        place = (candidate, result.machine, result.lost)
        return cls(cell, number, outcome, reason, directory, result.seconds, experiment.expected, onset_s, *place)

    @classmethod
    def of_record(cls, directory: Path, verdict: Verdict, number: int, candidate: int = 0) -> CampaignRun:
        """The row of a run that nobody has written down, by its record alone."""
        facts = read_facts(directory)
        kernel, spl, parameters = (facts.get(name) or {} for name in ("kernel", "spl", "parameters"))
        cell = Cell(
            str(facts.get("scenario")),
            str(kernel.get("id", "")),
            str(spl.get("variant", "")),
            str(parameters.get("load") or ""),
            str(facts.get("line", UNKNOWN)),
            tuple((str(name), str(value)) for name, value in (facts.get("differs") or {}).items()),
        )
        expected = frozenset(Outcome(each) for each in facts.get("expected") or ())
        reason, seconds = verdict.reasons[0].text, last_record_s(directory) or 0.0
        onset_s = verdict.figures.get("onset_s")
        return cls(cell, number, verdict.outcome, reason, directory, seconds, expected, onset_s, candidate)

    def to_json(self) -> dict[str, Any]:
        """As matrix.json, repro.json and bisect.json have it."""
        return {
            **self.cell.to_json(),
            "number": self.number,
            "verdict": self.outcome,
            "expected": sorted(self.expected),
            "as_expected": self.as_expected,
            "reason": self.reason,
            "onset_s": self.onset_s,
            "directory": str(self.directory) if self.directory else None,
            "seconds": round(self.seconds, 1),
            "candidate": self.candidate,
            "machine": self.machine,
            "lost": list(self.lost),
        }

    @classmethod
    def from_json(cls, told: object) -> CampaignRun:
        """:raises ValueError: when it is no such row."""
        row = from_json(told, _Row)
        return cls(
            Cell.from_json(told),
            row["number"],
            row["verdict"],
            row["reason"],
            row["directory"],
            row["seconds"],
            frozenset(row["expected"]),
            row["onset_s"],
            row["candidate"],
            row["machine"],
            row["lost"],
        )


class _Row(TypedDict):
    number: int
    verdict: Outcome | None
    expected: list[Outcome]
    reason: str
    onset_s: float | None
    directory: Path | None
    seconds: float
    candidate: int
    machine: str
    lost: tuple[str, ...]


def cell_of(experiment: Experiment) -> Cell:
    """The cell that an experiment's runs belong to."""
    kernel, spl = (experiment.facts.get(name, {}) for name in ("kernel", "spl"))
    return Cell(
        experiment.scenario.name,
        str(kernel.get("id", "")),
        str(spl.get("variant", "")),
        ",".join(map(str, experiment.loads)),
        str(experiment.facts.get("line", UNKNOWN)),
        tuple(differing_parameters(experiment).items()),
    )


def describe_build(experiment: Experiment) -> str:
    """What its guests are made of, as far as candidates differ in it."""
    facts = experiment.facts
    # Not of which commit they are: many commits come to the same modules.
    zfs = (facts.get("zfs") or {}).get("sha256")
    return json.dumps([facts["kernel"]["release"], facts["spl"]["modules"], zfs], sort_keys=True)


def build_of(facts: Mapping[str, Any]) -> str:
    """What a run's guest was made of, as `describe_build` says it.

    :param facts: its run.json.
    """
    kernel, spl = facts.get("kernel") or {}, facts.get("spl") or {}
    zfs = (facts.get("zfs") or {}).get("sha256")
    return json.dumps([kernel.get("release"), spl.get("modules"), zfs], sort_keys=True)


def trouble_of(
    run: CampaignRun, directory: Path, batch: str | None = None, *, seed: int | None = None, words: set[str]
) -> str:
    """What keeps a run of a list from being believed; empty if its record says what the list says.

    :param directory: of the run, where it is now.
    :param batch: of the matrix.
    :param seed: that the run was to have; it is looked at where the record has one.
    :param words: of the runs that are believed so far. If this one is, its word is added.
    """
    try:
        facts = read_facts(directory)
        word = facts.get("token")
        if word is not None and str(word) in words:
            return f"{directory} is a copy of another run of the list"
        if word is None and is_of_today(facts):
            return f"{directory} has no word of its own"
        if seed is not None and (facts.get("parameters") or {}).get("seed", seed) != seed:
            return f"{directory} has another seed than {seed}"
        damage = read_damage(directory, facts)
        if batch is not None and facts.get("batch") != batch:
            return f"{directory} is of another matrix"
        if damage:
            return f"{directory}: {damage[0]}"
        otherwise = next(_otherwise(run, facts, directory), "")
    except HarnessError as error:
        return error.message
    except OSError as error:
        return f"{directory}: {error.strerror}"
    if otherwise:
        return f"{otherwise} is not what {directory} says"
    if word is not None:
        words.add(str(word))
    return ""


def kernel_id(name: str) -> str:
    """The id of a kernel that the user named, as run.json has it."""
    try:
        return spec_of(find_any_kernel(name)).id
    except UsageError:
        return name


def _otherwise(run: CampaignRun, facts: Mapping[str, Any], directory: Path) -> Iterator[str]:
    """What the list of runs says otherwise than a run's own record: somebody may have moved directories.

    What every run writes and a record lacks is otherwise too.
    """
    cell, kernel, spl = run.cell, facts.get("kernel") or {}, facts.get("spl") or {}
    told = [
        ("the scenario", facts.get("scenario"), cell.scenario),
        ("the kernel", kernel.get("id"), kernel_id(cell.kernel)),
        ("the variant", spl.get("variant"), cell.variant),
        ("the expected verdict", facts.get("expected"), sorted(run.expected)),
    ]
    if "line" in facts or is_of_today(facts):
        told.append(("the line", facts.get("line"), cell.line))
    yield from (name for name, record, listed in told if record != listed)
    done = done_of(facts, cell.scenario, cell.loads, dict(cell.parameters))
    yield from (name for name, record, listed in done if record != listed)
    if judge_run(directory)[1].outcome != run.outcome:
        yield "the verdict"
