"""Whether what a search kept is believed: its plan, its runs, and what it left out, against each other and the records.

Whoever can write bisect.json can write anything into it. An answer rests on the runs' own records, so all that it says
of them has to be what they say. What a matrix and a search have in common is in planned.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splvm.campaign.campaignrun import CampaignRun, build_of, kernel_id, trouble_of
from splvm.campaign.planned import built_of, done_of, hashes_of, source_of
from splvm.campaign.records import ended_verdict, records_below
from splvm.campaign.repro import TROUBLES
from splvm.errors import EvidenceError
from splvm.evidence.verdict import Outcome
from splvm.log import note
from splvm.record.cellfacts import flatten_parameters
from splvm.record.reader import read_facts
from splvm.scenarios.judged import judge_run
from splvm.scenarios.table import find_scenario

if TYPE_CHECKING:
    from splvm.campaign.bisect import Bisection
    from splvm.campaign.candidates import BisectPlan

_BASE = "without a patch"


def doubts_on_plan(plan: BisectPlan, builds: Mapping[int, str]) -> Iterator[str]:
    """What no search of this kind has. Titles of commits are those of their repository, and are not looked at.

    :param builds: what the guests of a candidate are made of, where that is known.
    """
    for number, each in enumerate(plan.candidates):
        if plan.kind == "commits":
            continue
        own = each.id if plan.kind == "kernels" else Path(each.id).name or _BASE
        if each.title != own:
            yield f"candidate {number} is {own}, and is called {each.title[:100]}"
        if not each.changes or each.parted:
            yield f"candidate {number}, {own}, is told of as a commit"
        if plan.kind == "patches" and bool(each.sha256) != bool(number):
            yield f"candidate {number}, {own}, has {'no' if number else 'a'} hash"
    for before, number in pairwise(range(len(plan.candidates))):
        built = builds.get(before), builds.get(number)
        if not plan.candidates[number].changes and None not in built and built[0] != built[1]:
            yield f"candidate {number} changes nothing, and is another build than the one before"


def doubts_on_run(search: Bisection, run: CampaignRun, words: set[str]) -> str:
    """What keeps a run of the list from being believed; empty if its record is one of this search, and says the same.

    :param words: of the list's runs so far. That of this one is added.
    """
    directory = search.directory_of(run)
    if run.outcome is None:
        return _judged_all_the_same(search, directory)
    if trouble := trouble_of(run, directory, seed=search.plan.seed + run.number - 1, words=words):
        return trouble
    facts = read_facts(directory)
    if judge_run(directory)[1].is_starved != (run.number in search.starved):
        return f"whether the host starved its guest is not what {directory} says"
    if build_of(facts) != search.builds.get(run.candidate):
        return f"{directory} is of another build than {search.name(run.candidate)}"
    otherwise = next(_unlike_plan(search.plan, run, facts), "")
    return f"{otherwise} of {directory} is not that of the search" if otherwise else ""


def _judged_all_the_same(search: Bisection, directory: Path) -> str:
    """A run that came to nothing has left no record that says something."""
    outcome = _outcome_of(search, directory)
    return f"it came to nothing by the list, and is {outcome} by {directory}" if outcome else ""


def _outcome_of(search: Bisection, directory: Path) -> Outcome | None:
    """What a record says; None if that is nothing of what is looked for."""
    found = ended_verdict(directory)
    if found is None or (found.outcome.says_nothing and found.outcome not in search.plan.hits):
        return None
    return found.outcome


def with_unlisted(search: Bisection, tries: Sequence[CampaignRun]) -> list[CampaignRun]:
    """The list with the runs that ended, and that it does not have: each by its own record, and in its order.

    The search was killed before it wrote them down, or they were taken out. Numbers of those that the host starved are
    added to the search's.

    :raises EvidenceError: when another record is there that is no run of the search.
    """
    found, used = list(tries), {each.number for each in tries}
    listed = {search.directory_of(each) for each in tries}
    places = {each: number for number in range(len(search.plan.candidates)) for each in search.directories_of(number)}
    for directory in records_below(search.out):
        if directory in listed or (verdict := ended_verdict(directory)) is None:
            continue
        number = int(directory.name) if re.fullmatch(r"\d{3,9}", directory.name) else 0
        if directory not in places or number < 1 or directory.name != f"{number:03}" or number in used:
            raise EvidenceError(
                f"{directory} is {verdict.outcome}, and no run of the search; nothing was started",
                hint="move it elsewhere if it is not; or begin a new search",
            )
        note(f"run {number} has ended, and is not in the list: it is taken from {directory}")
        used.add(number)
        if verdict.is_starved:
            search.starved.add(number)
        at = next((at for at, each in enumerate(found) if each.number > number), len(found))
        found.insert(at, CampaignRun.of_record(directory, verdict, number, places[directory]))
    return found


def _unlike_plan(plan: BisectPlan, run: CampaignRun, facts: Mapping[str, Any]) -> Iterator[str]:
    """What a run's record, or its row, has otherwise than the plan asks."""
    candidate, wish, scenario = plan.candidates[run.candidate], plan.wish, find_scenario(plan.scenario)
    kernel, spl = facts.get("kernel") or {}, facts.get("spl") or {}
    given = {
        "window_s": scenario.window_s if plan.window_s is None else plan.window_s,
        "ram_mib": max(wish.ram_mib, scenario.least_mib),
        "cpus": max(wish.cpus, scenario.least_cpus),
        "clock": wish.clock,
    }
    told: list[tuple[str, object, object]] = [
        ("the scenario", run.cell.scenario, plan.scenario),
        ("the kernel", kernel.get("id"), kernel_id(candidate.id if plan.kind == "kernels" else wish.kernel)),
        ("the variant", spl.get("variant"), wish.variant),
        *done_of(facts, plan.scenario, plan.load, flatten_parameters(given, None)),
    ]
    series = [each.sha256 for each in plan.candidates[1 : run.candidate + 1]] if plan.kind == "patches" else []
    # A commit's own source names it, and is compared below.
    source = None if plan.kind == "commits" else source_of(wish.spl)
    told += built_of(facts, source, [*hashes_of(wish.patches), *series])
    git = spl.get("git")
    if plan.kind == "commits" and isinstance(git, Mapping):
        told.append(("the commit", git.get("commit"), candidate.id))
    yield from (name for name, is_told, asked in told if is_told != asked)


def doubts_on_skipped(search: Bisection, tries: Sequence[CampaignRun]) -> Iterator[str]:
    """A candidate is left out because it does not build, or because its runs said nothing so often in a row."""
    for number in search.skipped:
        silent = [search.is_silent(each) for each in tries if each.candidate == number]
        enough = any(all(silent[at : at + TROUBLES]) for at in range(len(silent) - TROUBLES + 1))
        if not enough and (silent or number in search.builds):
            yield f"{search.name(number)} is left out, and was built and can be asked"
        elif not enough:
            yield from filter(None, (_judged_all_the_same(search, each) for each in search.directories_of(number)))
