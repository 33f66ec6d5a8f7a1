"""What came out of the runs of a storm over one build: findings, and what is known of each place. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splvm.builds.calls import Call
from splvm.campaign.places import HELPERS, Place, find_places, group_of, masks_of, places_json, why_unreached
from splvm.evidence.formats.sites import SitesFile
from splvm.evidence.verdict import Outcome, Verdict


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
    # One of so many allocations was preceded by a reclaim.
    rate: int = 1
    # Seconds of the host.
    seconds: float = 0.0
    # It was made besides those of all places: that nothing came by a part of them in a short window, or that the guest
    # did not swap, is no verdict on all.
    is_extra: bool = False

    @property
    def reclaims(self) -> int:
        return sum(site.reclaims for site in self.file.sites) if self.file is not None else 0

    def at_fault(self, calls: Sequence[Call]) -> set[str]:
        """Names of the places that the run blames.

        :param calls: of the module.
        """
        if self.verdict.outcome is Outcome.STALLED:
            return {self.caught} if self.caught else set()
        if self.verdict.outcome is Outcome.CRASHED and self.file is not None:
            places = find_places([self.file], calls)
            return {place.name for place in places if place.atomic and not place.name.startswith(HELPERS)}
        return set()


@dataclass(frozen=True, slots=True)
class Finding:
    """A place at which something is wrong."""

    place: str
    # The run of several places that found it, and the one in which it was found again, in the fewest places; None: it
    # was not found again.
    first: Pass
    again: Pass | None = None
    # What that run was confined to: the place itself, or a group's places.
    confined: tuple[str, ...] = ()
    # Whether it was looked for in fewer places.
    tried: bool = False

    @property
    def last(self) -> Pass:
        """The run that tells most."""
        return self.again or self.first

    @property
    def reach(self) -> str:
        """In how few places it was found again, in words."""
        if self.again is None:
            return "not found again in fewer places" if self.tried else "in fewer places nobody looked for it"
        if self.confined == (self.place,):
            return "found again with reclaim at this place alone"
        return f"found again with reclaim at {len(self.confined)} places, and not at this place alone"


@dataclass(slots=True)
class StormReport:
    """What came out of all runs."""

    calls: tuple[Call, ...]
    passes: list[Pass] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    # Runs that were not made, or said nothing, each with the reason.
    left: list[str] = field(default_factory=list)
    # Of the first run.
    seed: int = 1

    @property
    def files(self) -> list[SitesFile]:
        return [it.file for it in self.passes if it.file is not None]

    @property
    def places(self) -> list[Place]:
        return find_places(self.files, self.calls)

    @property
    def reclaims(self) -> int:
        return sum(it.reclaims for it in self.passes)

    @property
    def worst(self) -> Pass:
        """The run whose verdict is that of all; of several the last, which asked most."""
        order = list(Outcome)
        telling = [it for it in self.passes if not (it.is_extra and it.verdict.outcome.says_nothing)]
        return min(reversed(telling), key=lambda it: order.index(it.verdict.outcome))

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
            "seed": self.seed,
            "reclaims": self.reclaims,
            "places": places_json(self.places, files[-1]) if files else [],
            "groups": {place.name: group_of(place.name) for place in self.places},
            "states": {place.name: self.state(place) for place in self.places},
            "findings": [
                {
                    "place": it.place,
                    "verdict": it.first.verdict.outcome,
                    "again": it.again.verdict.outcome if it.again else None,
                    "confined": list(it.confined),
                    "rate": it.last.rate,
                    "reason": it.last.verdict.reasons[0].text,
                    "cycle": it.last.verdict.wait_for.get("sentence", ""),
                    "directory": str(it.last.directory),
                }
                for it in self.findings
            ],
            "passes": [
                {
                    "name": it.name,
                    "verdict": it.verdict.outcome,
                    "rate": it.rate,
                    "reclaims": it.reclaims,
                    "seconds": round(it.seconds, 1),
                    "directory": str(it.directory),
                }
                for it in self.passes
            ],
            "left": self.left,
        }


def joined(reports: Sequence[StormReport]) -> StormReport:
    """Several reports of one build as one; a place has its findings once, by the first report that has them."""
    found: dict[str, Finding] = {}
    for report in reports:
        for finding in report.findings:
            found.setdefault(finding.place, finding)
    return StormReport(
        reports[0].calls,
        [it for report in reports for it in report.passes],
        list(found.values()),
        [name for report in reports for name in report.left],
        reports[0].seed,
    )


def found_in(reports: Iterable[StormReport]) -> Counter[str]:
    """In how many of the reports a place is a finding."""
    return Counter(name for report in reports for name in {it.place for it in report.findings})
