"""The storm over a build: all places at once, then groups of them, then single places; each finding to the fewest.

Each run is an experiment in a clone of its own, judged as any other. What deadlocks in a run of all places is run
again alone, and left out of the next run of all, so that one finding does not hide another.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from splvm.builds.calls import Call
from splvm.campaign.places import HELPERS, Place, group_of, masks_of, place_of
from splvm.campaign.processes import Job, JobResult, run_jobs
from splvm.campaign.stormreport import Finding, Pass, StormReport
from splvm.errors import HarnessError
from splvm.evidence.formats.sites import Site
from splvm.evidence.timeline import Timeline
from splvm.evidence.verdict import Outcome
from splvm.log import note
from splvm.record.reader import read_evidence
from splvm.run.experiment import Experiment
from splvm.run.scenarios import Storm

# Findings of one build that are looked for, at most.
MOST_FINDINGS = 6
# Places that a run may be confined to (NR_ONLY of images/slabprobe/storm.c).
MOST_PLACES = 64
# Of the first run one allocation in so many is preceded by a reclaim.
LOW_RATE = 16
# Seconds of guest time in the first run, and in one of a group or of a single place.
LOW_S = 2.0
PART_S = 1.0
# Reclaims after which all places are not run once more.
ENOUGH = 20_000
BAD = (Outcome.CRASHED, Outcome.LOST, Outcome.STALLED)


@dataclass(frozen=True, slots=True)
class Run:
    """One run that is to be made."""

    # For people.
    name: str
    directory: Path
    storm: Storm
    # Seconds of guest time; None: the scenario's own.
    window_s: float | None = None
    # Loads beside it, in the form of `--load`.
    load: str = ""
    # Number in a series, counted from 1: each has a seed of its own.
    number: int = 1
    # It is made besides those of all places.
    is_extra: bool = False
    # Runs that a guest which the host starves is given.
    attempts: int = 3


@dataclass(frozen=True, slots=True)
class Weather:
    """Makes runs over one build."""

    make: Callable[[Run], Experiment]
    calls: tuple[Call, ...]
    # Runs at once.
    at_once: int = 1

    def passes(self, todo: Sequence[Run]) -> list[Pass]:
        """Make runs, each judged by itself.

        :raises HarnessError: when one cannot be made.
        """
        results: dict[Path, JobResult] = {}
        jobs = (Job(run.name, self.make(run), run.directory, run.attempts) for run in todo)
        run_jobs(jobs, self.at_once, lambda result: results.update({result.job.out: result}))
        return [_read_pass(run, results[run.directory], self.calls) for run in todo]


def _read_pass(run: Run, result: JobResult, calls: Sequence[Call]) -> Pass:
    """What a run left of sites."""
    verdict, where = result.last
    timeline = read_evidence(where).timeline
    file = timeline.sites[-1].value if timeline.sites else None
    caught = ""
    if verdict.outcome is Outcome.STALLED and (site := caught_site(timeline)) is not None:
        caught = place_of(site, calls)[0]
    note(f"{run.name}: {verdict.outcome} {verdict.reasons[0].text}")
    return Pass(run.name, verdict, where, file, caught, run.storm.rate, result.seconds, run.is_extra)


def caught_site(timeline: Timeline) -> Site | None:
    """Where the one waits, as the window ends, that the verdict is about. Afterwards others are let go, one by one."""
    end_ns = timeline.marks.get("window-end", timeline.marks.get("release"))
    storms = [it.value.storm for it in timeline.probe if end_ns is None or it.end_ns <= end_ns]
    told = storms[-1].told if storms and storms[-1] is not None else None
    return timeline.sites[-1].value.by_number.get(told.site) if told is not None and timeline.sites else None


def single_runs(weather: Weather, storm: Storm, base: Path, *, repeat: int, seed: int, load: str) -> list[StormReport]:
    """One run over all places, or those that the storm is confined to, each time; every run is a report of its own.

    :param seed: of the first run.
    :param load: loads beside each.
    """
    numbers = range(1, repeat + 1)
    todo = [
        Run(
            f"run {number} of {repeat}" if repeat > 1 else "one run",
            base / (f"{number:03}" if repeat > 1 else "one"),
            storm,
            load=load,
            number=number,
            # Of a series each counts, also one that says nothing.
            attempts=1 if repeat > 1 else 3,
        )
        for number in numbers
    ]
    reports = []
    for number, made in zip(numbers, weather.passes(todo), strict=True):
        report = StormReport(weather.calls, [made], seed=seed + number - 1)
        report.findings += [Finding(name, made) for name in sorted(made.at_fault(weather.calls))]
        reports.append(report)
    return reports


def search_places(
    weather: Weather, storm: Storm, base: Path, *, budget_s: float, seed: int, load: str, swap: str, number: int = 1
) -> StormReport:
    """All runs over one build: all places at a low rate, all at every allocation, groups, single places, with swap.

    :param storm: what transactions do, and where shrinkers wait.
    :param budget_s: seconds of the host after which no run is begun that is not needed for a finding.
    :param seed: of the first run.
    :param load: loads beside each run.
    :param swap: a load with swap, for one more run of all places; empty: there is none.
    :param number: of this search in a series.
    """
    search = _Search(weather, storm, base, time.monotonic() + budget_s, load, number, StormReport(weather.calls))
    search.report.seed = seed
    search.make(search.run("all places, low rate", "low", replace(storm, rate=LOW_RATE * storm.rate), LOW_S))
    search.all_places()
    search.groups()
    search.single_places()
    if swap:
        search.swapping(swap)
    search.more()
    return search.report


@dataclass(slots=True)
class _Search:
    weather: Weather
    storm: Storm
    base: Path
    end_s: float
    load: str
    number: int
    report: StormReport

    def run(self, name: str, directory: str, storm: Storm, window_s: float | None) -> Run:
        """A run of all places, but for those that are findings."""
        return Run(name, self.base / directory, storm, window_s, self.load, self.number)

    def part(self, name: str, directory: str, places: Sequence[Place], window_s: float | None) -> Run:
        """A run of some places."""
        run = self.run(name, directory, _only(self.storm, places), window_s)
        return replace(run, is_extra=True, attempts=1)

    def make(self, *todo: Run) -> list[Pass]:
        """Make runs that belong to the report."""
        made = self.weather.passes(todo)
        self.report.passes += made
        return made

    @property
    def blamed(self) -> set[str]:
        return {it.place for it in self.report.findings}

    @property
    def _is_late(self) -> bool:
        return time.monotonic() > self.end_s

    def all_places(self) -> None:
        """Until nothing is found, without what has been found."""
        for number in range(1, MOST_FINDINGS + 1):
            confined = self._all_but_blamed()
            if confined is None:
                return
            (last,) = self.make(self.run("all places", f"all-{number}", confined, None))
            found = last.at_fault(self.weather.calls) - self.blamed
            if not found:
                return
            self._find(last, found)

    def groups(self) -> None:
        """Each part of SPL by itself."""
        todo = [
            self.part(f"all of {group} ({len(places)})", f"group-{group}", places, PART_S)
            for group, places in self._groups().items()
        ]
        for batch in self._batches(todo):
            for made in self.make(*batch):
                self._find(made, made.at_fault(self.weather.calls) - self.blamed)

    def single_places(self) -> None:
        """Those alone at which a mask allows FS or IO."""
        todo = [
            self.part(place.name, _directory(place.name), [place], PART_S)
            for place in self.report.places
            if place.reclaims and place.name not in self.blamed and masks_of(place, self.report.files) in ("FS", "IO")
        ]
        for batch in self._batches(todo):
            for made in self.make(*batch):
                if made.verdict.outcome in BAD:
                    self.report.findings.append(Finding(made.name, made, made, (made.name,), tried=True))

    def swapping(self, load: str) -> None:
        """All places by try_to_free_pages(), with dirty anonymous pages and swap in use."""
        confined = self._all_but_blamed()
        if confined is None:
            return
        run = self.run("all places, with swap", "swap", replace(confined, how=1), None)
        run = replace(run, load=load, is_extra=True, attempts=1)
        for batch in self._batches([run]):
            try:
                (made,) = self.make(*batch)
            except HarnessError as error:
                # A kernel without zram.
                self.report.left.append(f"{run.name}: {error.message.splitlines()[0]}")
                return
            self._find(made, made.at_fault(self.weather.calls) - self.blamed)
            if made.verdict.outcome.says_nothing:
                self.report.left.append(f"{run.name}: {made.verdict.outcome} {made.verdict.reasons[0].text}")

    def more(self) -> None:
        """All places once more, with other seeds, until there were enough reclaims or the time is over."""
        number = 1
        while self.report.reclaims < ENOUGH and not self._is_late and (confined := self._all_but_blamed()):
            run = self.run("all places once more", f"more-{number}", confined, None)
            (made,) = self.make(replace(run, number=self.number + number))
            self._find(made, made.at_fault(self.weather.calls) - self.blamed)
            number += 1

    def _batches(self, todo: Sequence[Run]) -> Iterator[Sequence[Run]]:
        """As many runs at a time as there may be; what the time does not suffice for is named in the report."""
        for start in range(0, len(todo), self.weather.at_once):
            if self._is_late:
                self.report.left += [f"{run.name}: the time was over" for run in todo[start:]]
                return
            yield todo[start : start + self.weather.at_once]

    def _find(self, first: Pass, names: set[str]) -> None:
        """Bring what a run blames down to the fewest places: to the place alone, or to its group."""
        places = {place.name: place for place in self.report.places}
        for count, name in enumerate(sorted(names)):
            finding = Finding(name, first)
            if name in places and count < 3:
                finding = self._again(finding, places[name])
            self.report.findings.append(finding)

    def _again(self, finding: Finding, place: Place) -> Finding:
        group = [it for it in self._groups().get(group_of(place.name), []) if it.name != place.name]
        for few in ([place], [place, *group]) if group and place.address else ([place],):
            suffix = "" if len(few) == 1 else "-group"
            (again,) = self.make(self.part(place.name, _directory(place.name) + suffix, few, None))
            if again.verdict.outcome is finding.first.verdict.outcome:
                return replace(finding, again=again, confined=tuple(it.name for it in few), tried=True)
        return replace(finding, tried=True)

    def _groups(self) -> dict[str, list[Place]]:
        """Places at which the kernel reclaimed, by the part of SPL; without what has been found."""
        groups: dict[str, list[Place]] = {}
        for place in self.report.places:
            if place.reclaims and place.address and place.name not in self.blamed:
                groups.setdefault(group_of(place.name), []).append(place)
        return {name: places[:MOST_PLACES] for name, places in groups.items()}

    def _all_but_blamed(self) -> Storm | None:
        """The storm without what has been found; None if nothing is left."""
        if not self.blamed:
            return self.storm
        places = [it for it in self.report.places if it.sites and it.name not in self.blamed]
        helpers = self.storm.helpers if not any(name.startswith(HELPERS) for name in self.blamed) else 0
        only = tuple(it.address for it in places if it.address)[:MOST_PLACES]
        return replace(self.storm, only=only, helpers=helpers) if only else None


def _only(storm: Storm, places: Sequence[Place]) -> Storm:
    only = tuple(place.address for place in places if place.address)
    return replace(storm, only=only) if only else replace(storm, helpers=2, only=())


def _directory(name: str) -> str:
    return "one-" + re.sub(r"[^\w.+-]", "-", name)


def find_only(names: Sequence[str], calls: Sequence[Call]) -> tuple[tuple[str, ...], list[str]]:
    """What the probe is told of places that a user names, and the names that stand for nothing.

    :param names: each FUNCTION:CALLEE#N, FUNCTION:CALLEE for all of these, or FUNCTION for all calls of a function;
        FUNCTION+0xOFFSET is left as it is.
    """
    found: list[str] = []
    wrong: list[str] = []
    for name in names:
        if re.fullmatch(r"[\w.]+\+0x[0-9a-f]+", name):
            found.append(name)
            continue
        fits = [f"{call.function}+{call.offset:#x}" for call in calls if not call.is_jump and _fits(name, call)]
        found += fits
        wrong += [] if fits else [name]
    return tuple(dict.fromkeys(found)), wrong


def _fits(name: str, call: Call) -> bool:
    function, _, rest = call.place.partition(":")
    return name in (call.place, f"{function}:{rest.partition('#')[0]}", function)
