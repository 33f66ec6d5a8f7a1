"""Which of many changes made a scenario end badly: builds and runs what the search asks for.

Candidates are commits of an OpenZFS tree, kernels, or patches of a series. Every run is a guest of its own and counts
as it is. Owns the directory of a bisection::

    bisect.json              its plan, every run so far, and what is believed; replaced as they come
    NAME/001                 directory of a run of a candidate

One that was interrupted goes on from there.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from splvm.builds.owntree import find_tree
from splvm.campaign.believed import doubts_on_plan, doubts_on_run, doubts_on_skipped, with_unlisted
from splvm.campaign.campaignrun import CampaignRun, cell_of, describe_build
from splvm.campaign.candidates import BisectPlan, Candidate, ChangeKind
from splvm.campaign.processes import Job, JobResult, run_jobs
from splvm.campaign.quiet import QUIET_S, wait_until_quiet
from splvm.campaign.repro import TROUBLES
from splvm.campaign.search import Answer, Search
from splvm.errors import BuildError, EvidenceError, SetupError, UsageError
from splvm.host.content import file_hash
from splvm.log import note, step
from splvm.ownpath import own_path
from splvm.plainfile import MIB, read_plain
from splvm.record.jsonfile import write_json
from splvm.record.names import RUN_FILE
from splvm.run.experiment import Experiment
from splvm.run.loads import parse_loads
from splvm.run.prepare import Wish, prepare
from splvm.scenarios.table import find_scenario
from splvm.treename import TreeKind, TreeName

SCHEMA_VERSION = 2

_FILE = "bisect.json"
# Far more than any bisection's.
_MOST_BYTES = 64 * MIB


@dataclass(frozen=True, slots=True)
class Tally:
    """What runs of a candidate came to."""

    bad: int
    good: int
    silent: int
    # Why it was left out; empty if it was not.
    why: str


OnTry = Callable[["Bisection", CampaignRun], None]


@dataclass(slots=True)
class Bisection:
    """A search under way."""

    plan: BisectPlan
    # Its directory.
    out: Path
    tries: list[CampaignRun] = field(default_factory=list)
    # Candidates that cannot be asked, and why.
    skipped: dict[int, str] = field(default_factory=dict)
    # What a candidate's guests are made of: the same for those that are the same build.
    builds: dict[int, str] = field(default_factory=dict)
    # Numbers of the runs whose guest the host starved.
    starved: set[int] = field(default_factory=set)
    search: Search = field(init=False)
    # Why it ended without an answer, beside that there were enough runs; not kept, for it may go on.
    undecided: str = ""
    # Whether the host starved the guest of the last run.
    _starved: bool = False
    _experiments: dict[int, Experiment] = field(default_factory=dict)
    _begun: dict[Path, int] = field(default_factory=dict)
    # When this process began with it, on the monotonic clock, and how many runs there were.
    _began_s: float = 0.0
    _known: int = 0

    def __post_init__(self) -> None:
        self.search = Search(len(self.plan.candidates))
        for number, candidate in enumerate(self.plan.candidates):
            if number and not candidate.changes:
                self.search.same(number - 1, number)
        for number in self.skipped:
            self.search.skip(number)
        for number in self.builds:
            self._compare(number)
        known, self.tries = self.tries, []
        for each in known:
            self._take(each)
        # The host may be another one now.
        self.undecided = ""

    @property
    def answer(self) -> Answer | None:
        """What was found, if it was."""
        return self.search.answer(self.plan.confidence)

    @property
    def is_over(self) -> bool:
        """Whether no further run is needed, or allowed."""
        return self.answer is not None or bool(self.undecided) or len(self.tries) >= self.plan.most_runs

    def run(self, at_once: int, on_try: OnTry) -> None:
        """Go on until it is over.

        :param at_once: so many guests; with more than one some runs may turn out not to have been needed.
        :raises SetupError: when an end cannot be built or says nothing, or both ends are the same build.
        :raises EvidenceError: when what is built is not what the runs so far were of.
        """

        def take(result: JobResult) -> None:
            number = self._begun.pop(result.job.out)
            experiment, count = self._experiments[number], int(result.job.out.name)
            found = CampaignRun.of(cell_of(experiment), count, experiment, result, number)
            self._starved = bool(result.runs) and result.last[0].is_starved
            if self._starved:
                self.starved.add(count)
            self._take(found)
            self._keep()
            on_try(self, found)

        self._keep()
        self._began_s, self._known = time.monotonic(), len(self.tries)
        if not self.is_over:
            # What is wrong with them is known before anything is run; also after an interruption.
            for end in (self.search.count - 1, 0):
                self._prepare(end)
        while not self.is_over:
            run_jobs(self._jobs(), at_once, take)

    def _jobs(self) -> Iterator[Job]:
        while not self.is_over and len(self.tries) + len(self._begun) < self.plan.most_runs:
            if self._starved and not wait_until_quiet():
                self.undecided = f"the host was busy for {QUIET_S / 60:.0f} minutes"
                return
            self._starved = False
            # Nobody said that the commit is good at which the good end parted from the bad one: git asks it first too.
            is_known = not self.plan.candidates[0].parted or any(each.candidate == 0 for each in self.tries)
            if is_known or 0 in self._begun.values() or 0 in self.skipped:
                number = self.search.choose(self._begun.values(), self._is_configured)
            else:
                number = 0
            experiment = self._prepare(number)
            if experiment is None:
                continue
            # An interruption leaves gaps where several ran at once.
            used = {each.number for each in self.tries} | {int(path.name) for path in self._begun}
            count = next(number for number in itertools.count(1) if number not in used)
            path = self.out / self._place(number) / f"{count:03}"
            # What an interrupted run has left.
            shutil.rmtree(path, ignore_errors=True)
            self._begun[path] = number
            yield Job(f"run {count}, {self.plan.candidates[number].title}", experiment.nth(count), path)

    def directory_of(self, each: CampaignRun) -> Path:
        """Where the evidence of a run is."""
        return self.out / self._place(each.candidate) / f"{each.number:03}"

    def directories_of(self, number: int) -> list[Path]:
        """Of all runs that there are of a candidate, whether they are listed or not."""
        return sorted(each.parent for each in (self.out / self._place(number)).glob(f"*/{RUN_FILE}"))

    def _place(self, number: int) -> str:
        candidate = self.plan.candidates[number]
        name = candidate.id[:12] if self.plan.kind is ChangeKind.COMMITS else Path(candidate.id).name or "base"
        return f"{number:03}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}"

    def _take(self, found: CampaignRun) -> None:
        self.tries.append(found)
        number = found.candidate
        if not self.is_silent(found):
            self.search.observe(number, found.outcome in self.plan.hits)
            return
        last = [each for each in self.tries if each.candidate == number][-TROUBLES:]
        if any(each.number in self.starved for each in last):
            # That is the host's doing. A host that is quiet by its own account and starves guests gives no answer.
            if len(last) == TROUBLES and all(each.number in self.starved for each in last):
                self.undecided = f"the host starved {TROUBLES} guests in a row"
            return
        if len(last) == TROUBLES and all(self.is_silent(each) for each in last):
            self._skip(number, f"{TROUBLES} runs in a row said nothing: {found.reason}")

    def _is_configured(self, number: int) -> bool:
        """Whether a commit needs no configure run, or no build at all."""
        return self.plan.candidates[number].config in {self.plan.candidates[each].config for each in self._experiments}

    def is_silent(self, each: CampaignRun) -> bool:
        """Whether a run says nothing of what is looked for."""
        return each.outcome is None or (each.outcome.says_nothing and each.outcome not in self.plan.hits)

    def _skip(self, number: int, why: str) -> None:
        self.skipped[number] = why
        self.search.skip(number)
        title = self.plan.candidates[number].title
        if number in (0, self.search.count - 1):
            end = "bad" if number else "good"
            raise SetupError(
                f"the {end} end, {title}, cannot be asked: {why}", hint="name another commit, patch or kernel"
            )
        note(f"skipped {title}: {why.splitlines()[0]}")

    def _prepare(self, number: int) -> Experiment | None:
        """What a candidate's runs are; None if it tells something by itself, and another one may be asked now.

        :raises HarnessError: for other trouble than that it does not build: it may not be the candidate's own.
        """
        if number in self._experiments:
            return self._experiments[number]
        title = self.plan.candidates[number].title
        try:
            with step(f"preparing {title}"):
                experiment = self._build(number)
        except BuildError as error:
            if number in self.builds:
                # It did build, and has runs: what is in the way now is none of its own.
                raise
            self._skip(number, error.message)
            self._keep()
            return None
        build = describe_build(experiment)
        known = self.builds.get(number)
        if known not in (None, build):
            raise EvidenceError(f"{title} is another build than its runs so far were of", hint="begin a new search")
        self._experiments[number], self.builds[number] = experiment, build
        tells = self._compare(number) and known is None
        self._keep()
        if self.builds.get(0) == self.builds.get(self.search.count - 1):
            raise SetupError(
                f"{self.name(0)} and {self.name(self.search.count - 1)} are the same build: no change between them is "
                "in the guest's modules",
                hint="without a pool a guest has only spl.ko of OpenZFS, and a semantic patch is put on SPL alone",
            )
        return None if tells else experiment

    def _compare(self, number: int) -> bool:
        """Whether another candidate is the same build; what is between them then made nothing bad."""
        same = [each for each, build in self.builds.items() if build == self.builds[number] and each != number]
        for each in same:
            self.search.same(each, number)
        return bool(same)

    def _build(self, number: int) -> Experiment:
        """:raises BuildError: when it does not build, or a commit has no SPL in it."""
        plan, candidate = self.plan, self.plan.candidates[number]
        match plan.kind:
            case ChangeKind.KERNELS:
                return self._experiment(replace(plan.wish, kernel=candidate.id))
            case ChangeKind.PATCHES:
                series = [Path(each.id) for each in plan.candidates[1 : number + 1]]
                return self._experiment(replace(plan.wish, patches=(*plan.wish.patches, *series)))
            case ChangeKind.COMMITS:
                repository = own_path(plan.wish.spl) or ""
                name = str(TreeName(TreeKind.COMMIT, repository, candidate.id))
                _check_tree(candidate, name)
                return self._experiment(replace(plan.wish, spl=name))

    def _experiment(self, wish: Wish) -> Experiment:
        plan = self.plan
        loads = parse_loads([plan.load] if plan.load else [])
        scenario = find_scenario(plan.scenario)
        return prepare(wish).experiment(scenario, window_s=plan.window_s, loads=loads, seed=plan.seed)

    @property
    def left_s(self) -> float:
        """The host's time that the rest takes, if each further run is like those so far and none is in doubt, s."""
        # Builds take most of it.
        each_s = (time.monotonic() - self._began_s) / max(1, len(self.tries) - self._known)
        # An answer has to be confirmed on either side.
        return (self.search.bits + 2) * each_s

    def name(self, number: int) -> str:
        """A candidate for people to read; one beyond the last is none."""
        if number >= len(self.plan.candidates):
            return "none of them"
        candidate = self.plan.candidates[number]
        return f"{candidate.id[:12]} {candidate.title}" if self.plan.kind is ChangeKind.COMMITS else candidate.title

    def tallies(self) -> dict[int, Tally]:
        """Of each candidate that was looked at: how often it was bad and good, and why it was left out."""
        found = {}
        for number in sorted({each.candidate for each in self.tries} | self.skipped.keys()):
            silent = sum(self.is_silent(each) for each in self.tries if each.candidate == number)
            bad, good = self.search.bad[number], self.search.good[number]
            found[number] = Tally(bad, good, silent, self.skipped.get(number, "").partition("\n")[0])
        return found

    def evidence(self) -> list[tuple[str, CampaignRun]]:
        """What the likeliest answer rests on: a run of the last good candidate, and a bad one of the first bad one."""
        first = self.search.likeliest().first
        told = [each for each in self.tries if not self.is_silent(each)]
        good = [each for each in told if each.candidate < first and each.outcome not in self.plan.hits]
        bad = [each for each in told if each.candidate >= first and each.outcome in self.plan.hits]
        found = [("last good", max(good, key=lambda each: each.candidate))] if good else []
        return found + ([("first bad", min(bad, key=lambda each: each.candidate))] if bad else [])

    def _keep(self) -> None:
        write_json(self.out / _FILE, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The content of bisect.json."""
        answer = self.answer
        return {
            "schema_version": SCHEMA_VERSION,
            "plan": self.plan.to_json(),
            "runs": [each.to_json() for each in self.tries],
            "skipped": {str(number): why for number, why in self.skipped.items()},
            "builds": {str(number): build for number, build in self.builds.items()},
            "starved": sorted(self.starved),
            "answer": asdict(answer) if answer else None,
            "likeliest": asdict(self.search.likeliest()),
        }


def read_bisection(out: Path) -> Bisection:
    """A search that was begun, to go on with.

    :param out: directory of the search.
    :raises EvidenceError: when there is no search, its file is damaged, a patch has changed, or a run's record is not
        there, or says something else.
    """
    listed, path = _parse(out), out / _FILE
    plan, builds, skipped = listed.plan, listed.builds, listed.skipped
    for patch in plan.candidates:
        if patch.sha256 and (not Path(patch.id).is_file() or file_hash(patch.id) != patch.sha256):
            raise EvidenceError(f"{patch.id} has changed since the search began", hint="begin a new search")
    if len({each.number for each in listed.tries}) < len(listed.tries):
        raise EvidenceError(f"{path} is damaged: a run is listed twice", hint="begin a new search")
    tries = with_unlisted(blank := Bisection(plan, out, starved=listed.starved), listed.tries)
    search = Bisection(plan, out, tries, skipped, builds, blank.starved)
    words: set[str] = set()
    troubles = [f"run {each.number}: {trouble}" for each in tries if (trouble := doubts_on_run(search, each, words))]
    if troubles := [*doubts_on_plan(plan, builds), *troubles, *doubts_on_skipped(search, tries)]:
        raise EvidenceError(f"{path}: {troubles[0]}; nothing was started", hint="begin a new search")
    return search


_TOLD = ("skipped", "builds")


def _parse(out: Path) -> Bisection:
    """The search as its list has it.

    :raises EvidenceError: when there is no list, or none of this program.
    """
    path = out / _FILE
    try:
        told = json.loads(read_plain(path, _MOST_BYTES, follow=True))
        if told["schema_version"] != SCHEMA_VERSION:
            raise EvidenceError(
                f"{path} is of schema {told['schema_version']!r}, this program reads {SCHEMA_VERSION}; "
                "nothing was started",
                hint="begin a new search",
            )
        plan = BisectPlan.from_json(told["plan"])
        tries = [CampaignRun.from_json(row) for row in told["runs"]]
        skipped, builds = ({int(number): str(value) for number, value in told[name].items()} for name in _TOLD)
        starved = {int(number) for number in told.get("starved", ())}
        numbers = {each.candidate for each in tries} | {*skipped, *builds}
        last = len(plan.candidates) - 1
        if not numbers <= set(range(last + 1)):
            raise ValueError("a run of no candidate")
        if {0, last} & set(skipped) or (0 in builds and builds[0] == builds.get(last)):
            raise ValueError("an end that is none")
    except FileNotFoundError:
        raise EvidenceError(f"{out} has no {_FILE}", hint="give the directory that `splvm bisect` named") from None
    except OSError as error:
        raise EvidenceError(f"{path}: {error.strerror}") from error
    except (LookupError, ValueError, TypeError, ArithmeticError, AttributeError, RecursionError) as error:
        raise EvidenceError(f"{path} is damaged: {error}", hint="begin anew") from error
    return Bisection(plan, out, tries, skipped, builds, starved)


def _check_tree(candidate: Candidate, name: str) -> None:
    """:raises BuildError: when a commit has no SPL in it."""
    try:
        find_tree(name)
    except UsageError as error:
        raise BuildError(candidate.title, error.message, None) from error
