"""The storm over a build: all places at once, then those by themselves at which a shrinker may wait; findings to one.

Each run is an experiment in a clone of its own, judged as any other. What deadlocks in a run of all places is run
again alone, and left out of the next run of all, so that one finding does not hide another.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from splvm.builds.calls import Call
from splvm.campaign.places import HELPERS, Place, find_places, masks_of, place_of, places_json, why_unreached
from splvm.evidence.formats.sites import SitesFile
from splvm.evidence.verdict import Outcome, Verdict
from splvm.log import note
from splvm.record.reader import read_evidence
from splvm.run.experiment import Experiment, run_until_fed
from splvm.run.scenarios import Storm

# Findings of one build that are looked for, at most.
MOST_FINDINGS = 6
# Places that a run may be confined to (NR_ONLY of images/slabprobe/storm.c).
MOST_PLACES = 64
# Of the first run one allocation in so many is preceded by a reclaim.
LOW_RATE = 16
# Seconds of guest time in a run of one place.
ALONE_S = 1.0

BAD = (Outcome.CRASHED, Outcome.LOST, Outcome.STALLED)


@dataclass(frozen=True, slots=True)
class Pass:
    """One run of a storm."""

    name: str
    verdict: Verdict
    directory: Path
    # The last list of sites; None if there is none.
    file: SitesFile | None
    # Name of the place at which somebody was caught for good; empty if nobody was.
    caught: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A place at which something is wrong, by a run of that place alone."""

    place: str
    # Of all places, and of the one alone.
    first: Pass
    alone: Pass | None

    @property
    def is_repeated(self) -> bool:
        return self.alone is not None and self.alone.verdict.outcome is self.first.verdict.outcome

    @property
    def last(self) -> Pass:
        """The run that tells most."""
        return self.alone if self.alone is not None and self.is_repeated else self.first


@dataclass(slots=True)
class StormReport:
    """What came out of all runs."""

    calls: tuple[Call, ...]
    passes: list[Pass] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    # Places that the time did not suffice for.
    left: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[SitesFile]:
        return [it.file for it in self.passes if it.file is not None]

    @property
    def places(self) -> list[Place]:
        return find_places(self.files, self.calls)

    @property
    def worst(self) -> Pass:
        """The run whose verdict is that of all; of several the last, which asked most."""
        order = list(Outcome)
        return min(reversed(self.passes), key=lambda it: order.index(it.verdict.outcome))

    def state(self, place: Place) -> str:
        """What is known of a place, in words."""
        found = next((it for it in self.findings if it.place == place.name), None)
        if found is not None:
            return {Outcome.STALLED: "DEADLOCKS", Outcome.CRASHED: "CRASHES"}.get(
                found.first.verdict.outcome, found.first.verdict.outcome
            )
        if not place.sites:
            return f"never reached: {why_unreached(place, self.places)}"
        if place.atomic and not place.name.startswith(HELPERS):
            return "SLEEPS where it must not"
        if place.reclaims:
            return "safe"
        may = masks_of(place, self.files)
        return "may not reclaim" if may == "no reclaim" else "reached, never asked: no transaction came by it"

    def to_json(self) -> dict[str, Any]:
        """As storm.json has it."""
        files = self.files
        return {
            "schema_version": 1,
            "places": places_json(self.places, files[-1]) if files else [],
            "states": {place.name: self.state(place) for place in self.places},
            "findings": [
                {
                    "place": it.place,
                    "verdict": it.first.verdict.outcome,
                    "alone": it.alone.verdict.outcome if it.alone else None,
                    "reason": it.last.verdict.reasons[0].text,
                    "cycle": it.last.verdict.wait_for.get("sentence", ""),
                    "directory": str(it.last.directory),
                }
                for it in self.findings
            ],
            "passes": [
                {"name": it.name, "verdict": it.verdict.outcome, "directory": str(it.directory)} for it in self.passes
            ],
            "left": self.left,
        }


def run_pass(experiment: Experiment, directory: Path, name: str, calls: Sequence[Call]) -> Pass:
    """One run, and what it left of sites."""
    verdict, where = run_until_fed(experiment, directory)[-1]
    timeline = read_evidence(where).timeline
    file = timeline.sites[-1].value if timeline.sites else None
    caught = ""
    # At the end nobody waits any more.
    told = [it.told for sample in timeline.probe if (it := sample.value.storm) is not None and it.told is not None]
    if verdict.outcome is Outcome.STALLED and file is not None and told:
        site = file.by_number.get(told[-1].site)
        caught = place_of(site, calls)[0] if site is not None else ""
    note(f"{name}: {verdict.outcome} {verdict.reasons[0].text}")
    return Pass(name, verdict, where, file, caught)


def weather(
    make: Callable[[Storm, float | None], Experiment],
    storm: Storm,
    calls: Sequence[Call],
    base: Path,
    *,
    budget_s: float,
) -> StormReport:
    """All runs over one build.

    :param make: an experiment with this storm and a window of so many seconds, None: the scenario's own.
    :param storm: what transactions do, and where shrinkers wait.
    :param budget_s: seconds of the host after which no run of a single place is begun.
    """
    report = StormReport(tuple(calls))
    end = time.monotonic() + budget_s
    report.passes.append(
        run_pass(make(replace(storm, rate=LOW_RATE), 2.0), base / "low", "all places, low rate", calls)
    )
    left_out: set[str] = set()
    for number in range(1, MOST_FINDINGS + 1):
        confined = _all_but(report, storm, left_out)
        if confined is None:
            break
        last = run_pass(make(confined, None), base / f"all-{number}", "all places", calls)
        report.passes.append(last)
        found = _at_fault(report, last) - left_out
        if not found:
            break
        for name in sorted(found):
            left_out.add(name)
            report.findings.append(_alone(make, report, storm, name, last, base))
    for place in report.places:
        if place.name in left_out or masks_of(place, report.files) not in ("FS", "IO") or not place.reclaims:
            continue
        if time.monotonic() > end:
            report.left.append(place.name)
            continue
        alone = run_pass(make(_only(storm, place), ALONE_S), base / _directory(place.name), place.name, calls)
        # Nothing may come by it in so short a window; all of them together have told of it.
        report.passes.extend([alone] if alone.verdict.outcome in BAD else [])
        if alone.verdict.outcome in BAD:
            report.findings.append(Finding(place.name, alone, None))
    return report


def _at_fault(report: StormReport, last: Pass) -> set[str]:
    """Names of the places that a run blames."""
    if last.verdict.outcome is Outcome.STALLED:
        return {last.caught} if last.caught else set()
    if last.verdict.outcome is Outcome.CRASHED and last.file is not None:
        places = find_places([last.file], report.calls)
        return {place.name for place in places if place.atomic and not place.name.startswith(HELPERS)}
    return set()


def _alone(
    make: Callable[[Storm, float | None], Experiment],
    report: StormReport,
    storm: Storm,
    name: str,
    first: Pass,
    base: Path,
) -> Finding:
    place = next((it for it in report.places if it.name == name), None)
    if place is None or len([it for it in report.findings if it.first is first]) > 2:
        return Finding(name, first, None)
    alone = run_pass(make(_only(storm, place), None), base / _directory(name), name, report.calls)
    return Finding(name, first, alone)


def _only(storm: Storm, place: Place) -> Storm:
    return replace(storm, only=(place.address,)) if place.address else replace(storm, helpers=2, only=())


def _all_but(report: StormReport, storm: Storm, left_out: set[str]) -> Storm | None:
    """The storm without what has been found; None if nothing is left."""
    if not left_out:
        return storm
    places = [it for it in report.places if it.sites and it.name not in left_out]
    helpers = storm.helpers if not any(name.startswith(HELPERS) for name in left_out) else 0
    only = tuple(it.address for it in places if it.address)[:MOST_PLACES]
    return replace(storm, only=only, helpers=helpers) if only else None


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
