"""One run of a campaign: of a cell of a matrix, of a series that is measured, or of a candidate of a bisection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splvm.campaign.processes import JobResult
from splvm.evidence.verdict import Outcome
from splvm.history.cell import Cell
from splvm.record.cellfacts import UNKNOWN
from splvm.run.experiment import Experiment, differing_parameters


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
    def from_json(cls, row: Mapping[str, Any]) -> CampaignRun:
        """:raises LookupError, ValueError, TypeError: when it is no such row."""
        return cls(
            Cell.from_json(row),
            int(row["number"]),
            Outcome(row["verdict"]) if row["verdict"] else None,
            str(row["reason"]),
            Path(row["directory"]) if row["directory"] else None,
            float(row["seconds"]),
            frozenset(map(Outcome, row["expected"])),
            None if row["onset_s"] is None else float(row["onset_s"]),
            int(row["candidate"]),
            str(row["machine"]),
            tuple(map(str, row["lost"])),
        )


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
