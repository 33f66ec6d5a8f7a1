"""How often something happens: one scenario on one or more builds, again and again, until enough is known.

No verdict is taken back, and no run is done again: each counts as it is. Owns the directory of a measurement::

    repro.json               every run so far, and the rates; replaced as they come
    KERNEL-VARIANT[-SOURCE]/001  directory of a run
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from splvm.campaign.campaignrun import CampaignRun, cell_of, describe_build
from splvm.campaign.processes import Job, JobResult, run_jobs
from splvm.deadline import Deadline
from splvm.errors import UsageError
from splvm.evidence.verdict import BAD, Outcome
from splvm.record.jsonfile import write_json
from splvm.report.rates import Rate, chance_of_difference, quartiles
from splvm.run.experiment import Experiment

SCHEMA_VERSION = 2

# Verdicts that count as a hit unless others are named: no build is taken for a good one that does something wrong.
HITS = BAD

# Runs in a row that come to nothing by trouble of the host or the harness, after which a series ends: there will be
# nothing else.
TROUBLES = 3


@dataclass(frozen=True, slots=True)
class Until:
    """When a measurement ends: at the limit that is reached first. A run that has begun is not cut off."""

    # Hits, or runs, of each series.
    hits: int | None = None
    runs: int | None = None
    # Of the host, of all series together.
    minutes: float | None = None

    @classmethod
    def parse(cls, wishes: Sequence[str]) -> Until:
        """From `hits=N`, `runs=N` and `minutes=N`.

        :raises UsageError: when one is something else.
        """
        found: dict[str, Any] = {}
        for wish in wishes:
            match = re.fullmatch(r"(?:(hits|runs)=([1-9]\d{0,5})|(minutes)=(\d{1,5}(?:\.\d{1,3})?))", wish)
            if match is None:
                raise UsageError(
                    f"--until {wish}: it takes hits=N, runs=N or minutes=N", hint="for example --until runs=20"
                )
            if match[1]:
                found[match[1]] = int(match[2])
            else:
                found["minutes"] = float(match[4])
        return cls(**found)

    def __str__(self) -> str:
        given = {"hits": self.hits, "runs": self.runs, "minutes": self.minutes}
        return " or ".join(f"{value:g} {name}" for name, value in given.items() if value is not None)


@dataclass(slots=True)
class Series:
    """The runs of one build, and what counts as a hit among them."""

    kernel: str
    variant: str
    experiment: Experiment
    hits: frozenset[Outcome] = HITS
    # Source of SPL, as it was typed, where there are series of several; else empty.
    source: str = ""
    trials: list[CampaignRun] = field(default_factory=list)
    # Runs that have begun.
    begun: int = 0

    def __str__(self) -> str:
        return " ".join(filter(None, (self.kernel, self.variant, self.source)))

    @property
    def hit(self) -> list[CampaignRun]:
        return [trial for trial in self.trials if trial.outcome in self.hits]

    @property
    def unasked(self) -> Counter[Outcome]:
        """How often each bad verdict came that is no hit, because hits were named; these runs are not good."""
        return bad_beside(self.trials, self.hits)

    @property
    def silent(self) -> list[CampaignRun]:
        """The runs that say nothing; they are not part of the rate."""
        return [t for t in self.trials if t.outcome is None or (t.outcome.says_nothing and t.outcome not in self.hits)]

    @property
    def rate(self) -> Rate:
        return Rate(len(self.hit), len(self.trials) - len(self.silent))

    @property
    def onsets(self) -> tuple[float, float, float] | None:
        """Quartiles of the time until a hit, seconds of guest time, of the hits whose evidence has it."""
        return quartiles([trial.onset_s for trial in self.hit if trial.onset_s is not None])

    def is_over(self, until: Until) -> bool:
        """Whether no further run is to begin."""
        enough = until.hits is not None and len(self.hit) >= until.hits
        return enough or self.is_given_up or (until.runs is not None and self.begun >= until.runs)

    @property
    def is_given_up(self) -> bool:
        """Whether its last runs, `TROUBLES` of them, came to nothing."""
        last = self.trials[-TROUBLES:]
        return len(last) == TROUBLES and all(trial.outcome is None for trial in last)

    @property
    def is_trouble(self) -> bool:
        """Whether there was nothing else."""
        return bool(self.trials) and all(trial.outcome is None for trial in self.trials)

    def to_json(self) -> dict[str, Any]:
        return {
            "kernel": self.kernel,
            "variant": self.variant,
            "source": self.source,
            **self.rate.to_json(),
            "silent": len(self.silent),
            "onset_s": self.onsets,
            "trials": [trial.to_json() for trial in self.trials],
        }


def bad_beside(trials: Iterable[CampaignRun], hits: Set[Outcome]) -> Counter[Outcome]:
    """How often each bad verdict came that is none of the hits."""
    return Counter(it.outcome for it in trials if it.outcome is not None and it.outcome in BAD - hits)


OnRun = Callable[[Series, CampaignRun], None]


def measure(
    series: Sequence[Series],
    out: Path,
    *,
    until: Until,
    at_once: int,
    on_trial: OnRun,
    about: Mapping[str, Any],
) -> None:
    """Run all series, one run of each in turn, so that the load of the host hits all of them alike.

    :param out: directory of the measurement.
    :param about: further keys of repro.json.
    """
    begun: dict[Path, tuple[Series, int]] = {}
    places = {id(each): name for each, name in zip(series, _names(series), strict=True)}
    patience = Deadline(until.minutes * 60) if until.minutes is not None else None

    def jobs() -> Iterator[Job]:
        for number in count(1):
            if all(each.is_over(until) for each in series):
                return
            for each in series:
                if patience is not None and patience.expired:
                    return
                if each.is_over(until):
                    continue
                each.begun += 1
                path = out / places[id(each)] / f"{number:03}"
                begun[path] = (each, number)
                # The same for each of the series: what they differ in is the build.
                yield Job(f"{each}, run {number}", each.experiment.nth(number), path)

    def take(result: JobResult) -> None:
        each, number = begun[result.job.out]
        trial = CampaignRun.of(cell_of(each.experiment), number, each.experiment, result)
        each.trials.append(trial)
        write_json(out / "repro.json", to_json(about, series))
        on_trial(each, trial)

    run_jobs(jobs(), at_once, take)


def _names(series: Sequence[Series]) -> list[str]:
    """A name of a directory for each; sources may differ in what such a name cannot have."""
    names: list[str] = []
    for each in series:
        name = re.sub(r"[^\w.-]+", "-", str(each))
        names.append(name if name not in names else f"{name}.{len(names) + 1}")
    return names


def compare(series: Sequence[Series]) -> list[dict[str, Any]]:
    """The first series with each of the others; of several sources, the base's with the others' that are alike."""
    return [
        {
            "one": str(one),
            "other": str(other),
            "difference": _difference(one.rate, other.rate),
            "p": chance_of_difference(one.rate, other.rate),
        }
        for one, other in _pairs(series)
    ]


def _pairs(series: Sequence[Series]) -> list[tuple[Series, Series]]:
    base = series[0].source
    if all(each.source == base for each in series):
        return [(series[0], other) for other in series[1:]]
    bases = {(each.kernel, each.variant): each for each in series if each.source == base}
    return [(bases[each.kernel, each.variant], each) for each in series if each.source != base]


def same_builds(series: Sequence[Series]) -> list[tuple[Series, Series]]:
    """Those that are compared, and whose guests are made of the same modules: no difference is one of the sources."""
    return [
        (one, other)
        for one, other in _pairs(series)
        if describe_build(one.experiment) == describe_build(other.experiment)
    ]


def _difference(one: Rate, other: Rate) -> float | None:
    return one.hits / one.runs - other.hits / other.runs if one.runs and other.runs else None


def to_json(about: Mapping[str, Any], series: Sequence[Series]) -> dict[str, Any]:
    """The content of repro.json."""
    return {
        "schema_version": SCHEMA_VERSION,
        **about,
        "series": [each.to_json() for each in series],
        "comparisons": compare(series),
    }
