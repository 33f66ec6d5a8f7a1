"""Exploration: one scenario in virtual time, seed after seed, each with delays at other instructions of SPL.

Owns the directory of an exploration::

    explore.json      what is explored, how often each point was met, every seed so far, and the findings
    dry               the run without delays, in which points are counted
    seed-N            the run of a seed whose verdict is not an expected one; the others are removed
    seed-N-again-M    runs of that finding: the same again, and with fewer delays
    coverage.info     what of SPL the seeds have executed, if that was asked for

One that was interrupted goes on from there, as far as its list is what the records beside it say: that of the dry run
says what is explored, and each finding has its own. A finding is a seed and its delays: it is run again, and then with
as few delays as still show it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from splvm.campaign.processes import Job, JobResult, run_jobs
from splvm.campaign.records import ended_verdict, records_below
from splvm.errors import EvidenceError, HarnessError, SetupError, UsageError
from splvm.evidence.formats.explorestatus import Delayed
from splvm.evidence.verdict import Outcome
from splvm.log import note
from splvm.plainfile import MIB, read_plain
from splvm.record.jsonfile import write_json
from splvm.record.reader import last_record_s, read_console, read_damage, read_evidence, read_facts
from splvm.record.typedjson import from_json
from splvm.run.coverage import add_coverage
from splvm.run.delays import MOST_POINTS, Counts, Delay, chance_of_pair, draw, fewest, parse_counts, parse_delay
from splvm.run.experiment import Experiment, run_experiment
from splvm.run.replay import made_otherwise
from splvm.scenarios.judged import judge_run

SCHEMA_VERSION = 1
EXPLORE_FILE = "explore.json"
_MOST_BYTES = 64 * MIB

# Directories of runs.
DRY = "dry"
_SEED, _AGAIN = re.compile(r"seed-(\d{1,9})"), re.compile(r"seed-(\d{1,9})-again-\d+")

# Findings of one verdict and reason that are brought down to fewer delays; more of the kind say nothing new.
MOST_SHRUNK = 3
# Runs for that, of each.
MOST_RUNS = 40


@dataclass(slots=True)
class Seed:
    """The run of one seed."""

    number: int
    # None if there was trouble of the harness or the host.
    outcome: Outcome | None
    # The first reason of the verdict, or the trouble.
    reason: str
    delays: tuple[Delay, ...]
    seconds: float
    digest: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "seed": self.number,
            "verdict": self.outcome,
            "reason": self.reason,
            "delays": [str(it) for it in self.delays],
            "seconds": round(self.seconds, 2),
            "digest": self.digest,
        }


@dataclass(slots=True)
class Finding:
    """A seed whose verdict is not an expected one."""

    seed: Seed
    # Whether the same seed and delays gave the same digest again; None: not tried.
    is_repeated: bool | None = None
    # The fewest delays that still show it; None: not looked for.
    fewest: tuple[Delay, ...] | None = None
    # Where these delays were, with whom, as the probe has told.
    told: tuple[Delayed, ...] = ()
    # Of the run with the fewest delays.
    directory: str = ""

    @property
    def delays(self) -> tuple[Delay, ...]:
        return self.seed.delays if self.fewest is None else self.fewest

    def to_json(self) -> dict[str, Any]:
        return {
            "seed": self.seed.number,
            "verdict": self.seed.outcome,
            "reason": self.seed.reason,
            "is_repeated": self.is_repeated,
            "fewest": None if self.fewest is None else [str(it) for it in self.fewest],
            "told": [it.to_json() for it in self.told],
            "directory": self.directory,
        }


@dataclass(slots=True)
class Exploration:
    """What is explored, and what was seen so far."""

    experiment: Experiment
    out: Path
    # Places of all points.
    places: tuple[str, ...]
    # Places that each seed delays at.
    depth: int
    # Further keys of explore.json, which have to be the same when it goes on.
    about: dict[str, Any]
    counts: Counts = field(default_factory=lambda: Counts({}, {}))
    seeds: dict[int, Seed] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def is_expected(self, outcome: Outcome | None) -> bool:
        """Whether it is no finding; a run that says nothing is none either."""
        return outcome is None or outcome in self.experiment.expected or outcome.says_nothing

    @property
    def judged(self) -> list[Seed]:
        return [it for it in self.seeds.values() if it.outcome is not None and not it.outcome.says_nothing]

    def to_json(self) -> dict[str, Any]:
        """As explore.json has it."""
        likely, unlikely = chance_of_pair(self.counts, self.depth)
        return {
            "schema_version": SCHEMA_VERSION,
            "about": self.about,
            "points": self.counts.to_json(),
            "n": self.counts.total,
            "places": len(self.counts.hits),
            "d": self.depth,
            "chance_of_pair": {"rare": likely, "busiest": unlikely},
            "seeds": [self.seeds[number].to_json() for number in sorted(self.seeds)],
            "findings": [it.to_json() for it in self.findings],
        }

    def write(self) -> None:
        write_json(self.out / EXPLORE_FILE, self.to_json())


class _SeedRow(TypedDict):
    seed: int
    verdict: Outcome | None
    reason: str
    delays: list[str]
    seconds: float
    digest: str


class _FindingRow(TypedDict):
    seed: int
    is_repeated: bool | None
    fewest: list[str] | None
    directory: str


class _Points(TypedDict):
    hits: dict[str, int]
    blind: dict[str, int]


class _File(TypedDict):
    schema_version: int
    about: dict[str, Any]
    points: _Points
    seeds: list[_SeedRow]
    findings: list[_FindingRow]


def read_exploration(new: Exploration) -> None:
    """Take over what an exploration that was interrupted has in its directory.

    Seeds that came to nothing are run again, and those of which the list says something else than their records or
    their numbers. The record of a seed counts, in the list or not. Each unexpected verdict is a finding, whatever the
    list of findings says.

    :raises UsageError: when it explored something else.
    :raises EvidenceError: when its file cannot be read, the run without delays is not what the file says, or a bad
        record is there that is of none of its seeds.
    """
    path = new.out / EXPLORE_FILE
    if _is_before_list(new.out):
        verdict = ended_verdict(new.out / DRY)
        if verdict is not None and not new.is_expected(verdict.outcome):
            raise EvidenceError(
                f"{new.out / DRY} is {verdict.outcome}; nothing was started", hint="keep it, and begin anew elsewhere"
            )
        note(f"{new.out} has no {EXPLORE_FILE} yet: the exploration begins with its run without delays")
        return
    told, seeds = _read_list(path)
    fewest = {
        row["seed"]: None if row["fewest"] is None else tuple(map(parse_delay, row["fewest"]))
        for row in told["findings"]
    }
    if other := sorted(key for key in new.about if told["about"].get(key) != json.loads(json.dumps(new.about[key]))):
        raise UsageError(f"{new.out} explored something else: {', '.join(other)} differ")
    new.counts = Counts(told["points"]["hits"], told["points"]["blind"])
    if new.counts.hits and (doubt := next(_doubts_on_dry(new), "")):
        raise EvidenceError(f"{path}: {doubt}; nothing was started", hint="begin a new exploration")
    for seed in seeds:
        if seed.outcome in (None, Outcome.INCONCLUSIVE):
            continue
        if doubt := next(_doubts_on_seed(new, seed), ""):
            note(f"seed {seed.number}: it will run again, because {doubt}")
        else:
            new.seeds[seed.number] = seed
    new.seeds |= {seed.number: seed for seed in _unlisted(new)}
    rows = {row["seed"]: row for row in told["findings"]}
    found = [it for it in new.seeds.values() if not new.is_expected(it.outcome)]
    if unfounded := sorted(rows.keys() - {it.number for it in (*seeds, *found) if not new.is_expected(it.outcome)}):
        raise EvidenceError(f"{path} names a finding of seed {unfounded[0]}, and that seed has found nothing")
    new.findings = [_finding_of(new, it, rows.get(it.number), fewest.get(it.number)) for it in found]
    if doubt := next(_bad_and_unfound(new), ""):
        raise EvidenceError(f"{path}: {doubt}; nothing was started", hint="move it elsewhere; or begin anew")


def _is_before_list(out: Path) -> bool:
    """Whether an exploration was ended before it wrote its list: there is at most its run without delays."""
    return out.is_dir() and {each.name for each in out.iterdir()} <= {DRY}


def _read_list(path: Path) -> tuple[_File, list[Seed]]:
    """:raises EvidenceError: when it is none."""
    try:
        told = from_json(json.loads(read_plain(path, _MOST_BYTES)), _File)
        seeds = [
            Seed(
                row["seed"],
                row["verdict"],
                row["reason"],
                tuple(map(parse_delay, row["delays"])),
                row["seconds"],
                row["digest"],
            )
            for row in told["seeds"]
        ]
        for row in told["findings"]:
            tuple(map(parse_delay, row["fewest"] or ()))
    except (OSError, ValueError, UsageError) as error:
        raise EvidenceError(f"{path} is not the list of an exploration: {error}") from error
    return told, seeds


def _unlisted(new: Exploration) -> Iterator[Seed]:
    """Seeds whose run has ended with a finding, and which the list does not have, or not as their records are."""
    for directory in records_below(new.out):
        match = _SEED.fullmatch(directory.name)
        if directory.parent != new.out or match is None or int(match[1]) in new.seeds:
            continue
        verdict, number = ended_verdict(directory), int(match[1])
        if verdict is None or new.is_expected(verdict.outcome):
            continue
        delays = draw(number, new.counts, new.depth)
        seconds = last_record_s(directory) or 0.0
        seed = Seed(number, verdict.outcome, verdict.reasons[0].text, delays, seconds, verdict.digest)
        if not next(_judged_otherwise(new, seed, delays, directory), ""):
            note(f"seed {number}: it has ended, and is taken from {directory}")
            yield seed


def _bad_and_unfound(new: Exploration) -> Iterator[str]:
    """Bad records that are of no finding: to go on without them would give a better answer than they bear out."""
    found = {it.seed.number for it in new.findings}
    for directory in records_below(new.out):
        match = _SEED.fullmatch(directory.name) or _AGAIN.fullmatch(directory.name)
        if directory.parent == new.out and (directory.name == DRY or (match and int(match[1]) in found)):
            continue
        verdict = ended_verdict(directory)
        if verdict is not None and not new.is_expected(verdict.outcome):
            yield f"{directory} is {verdict.outcome}, and of no finding"


def _doubts_on_dry(new: Exploration) -> Iterator[str]:
    """What the run without delays, by its record, has otherwise than the list says of it."""
    yield from _unlike(replace(new.experiment, watched_points=new.places), new.out / DRY)
    evidence, verdict = judge_run(new.out / DRY)
    if verdict.outcome not in new.experiment.expected:
        yield f"the run without delays is {verdict.outcome}"
    if parse_counts(evidence.console) != new.counts:
        yield "the counts of points are not those of the run without delays"


def _doubts_on_seed(new: Exploration, seed: Seed) -> Iterator[str]:
    """What a seed's delays, or its record, have otherwise than the list says. A good run has left no record."""
    directory = new.out / f"seed-{seed.number}"
    if seed.delays != draw(seed.number, new.counts, new.depth):
        yield "its delays are not those that are drawn for it"
    if directory.exists() or not new.is_expected(seed.outcome):
        yield from _judged_otherwise(new, seed, seed.delays, directory)
        if judge_run(directory)[1].digest != seed.digest:
            yield f"its digest is not that of {directory}"


def _finding_of(new: Exploration, seed: Seed, row: _FindingRow | None, fewest: tuple[Delay, ...] | None) -> Finding:
    """The finding of a seed; one that is to be shrunk again where the record that it names shows something else."""
    first = Finding(seed, directory=str(new.out / f"seed-{seed.number}"))
    if row is None or fewest is None:
        return first
    directory = new.out / Path(row["directory"]).name
    if not directory.name.startswith(f"seed-{seed.number}-again-"):
        return first
    if doubt := next(_judged_otherwise(new, seed, fewest, directory), ""):
        note(f"seed {seed.number}: it is brought down to fewer delays again, because {doubt}")
        return first
    return Finding(seed, row["is_repeated"], fewest, delays_told(directory), str(directory))


def _judged_otherwise(new: Exploration, seed: Seed, delays: Sequence[Delay], directory: Path) -> Iterator[str]:
    yield from _unlike(_with(new.experiment, seed.number, delays), directory)
    if (outcome := judge_run(directory)[1].outcome) is not seed.outcome:
        yield f"{directory} is {outcome}, and not {seed.outcome}"


def _unlike(experiment: Experiment, directory: Path) -> Iterator[str]:
    """What keeps a record from being that of such a run."""
    try:
        facts = read_facts(directory)
        yield from (f"{directory}: {what}" for what in read_damage(directory, facts))
    except (EvidenceError, OSError) as error:
        yield f"the record of {directory} cannot be read: {error}"
        return
    yield from (f"{directory} is of another run: {what}" for what in made_otherwise(experiment, facts))
    if facts.get("scenario") != experiment.scenario.name:
        yield f"{directory} is a run of {facts.get('scenario')}"


def made_of(experiment: Experiment) -> dict[str, Any]:
    """What guests of an exploration are made of, as its list has it."""
    facts = experiment.facts
    kernel, spl, qemu = (facts.get(name) or {} for name in ("kernel", "spl", "qemu"))
    return {
        "memory": experiment.guest.machine.ram_mib,
        "kernel_sha256": kernel.get("sha256"),
        "qemu_sha256": qemu.get("sha256"),
        "modules": spl.get("modules"),
        "splvm": facts.get("splvm"),
    }


def count_points(exploration: Exploration) -> None:
    """The run without delays, in which the points are counted.

    :raises EvidenceError: when its verdict is not an expected one: then there is nothing to explore yet.
    :raises UsageError: when there are more points than the probe takes.
    """
    if len(exploration.places) > MOST_POINTS:
        raise UsageError(
            f"{len(exploration.places)} points: the probe takes {MOST_POINTS}", hint="--function names some of them"
        )
    directory = exploration.out / DRY
    shutil.rmtree(directory, ignore_errors=True)
    verdict = run_experiment(replace(exploration.experiment, watched_points=exploration.places), directory)
    if verdict.outcome.says_nothing and verdict.outcome not in exploration.experiment.expected:
        raise SetupError(
            f"the run without delays says nothing: {verdict.reasons[0].text}", hint="--resume runs it again"
        )
    if verdict.outcome not in exploration.experiment.expected:
        raise EvidenceError(
            f"the run without delays is {verdict.outcome} already: {verdict.reasons[0].text}",
            hint=f"this is a finding of seed {exploration.experiment.seed}; `splvm replay {directory}` runs it again",
        )
    exploration.counts = parse_counts(read_console(directory))
    exploration.write()


OnSeed = Callable[[Seed], None]


def run_seeds(
    exploration: Exploration, numbers: Sequence[int], at_once: int, on_seed: OnSeed, *, first_only: bool
) -> None:
    """Run the seeds that were not run yet.

    :param on_seed: called with each as it comes.
    :param first_only: begin no further seed after the first finding.
    """
    begun: dict[Path, tuple[int, tuple[Delay, ...]]] = {}

    def jobs() -> Iterator[Job]:
        for number in numbers:
            if first_only and exploration.findings:
                return
            if number in exploration.seeds:
                continue
            delays = draw(number, exploration.counts, exploration.depth)
            path = exploration.out / f"seed-{number}"
            shutil.rmtree(path, ignore_errors=True)
            begun[path] = (number, delays)
            yield Job(f"seed {number}", _with(exploration.experiment, number, delays), path)

    def take(result: JobResult) -> None:
        number, delays = begun.pop(result.job.out)
        seed = _seed_of(result, number, delays)
        exploration.seeds[number] = seed
        is_good = exploration.is_expected(seed.outcome)
        if not is_good:
            exploration.findings.append(Finding(seed, directory=str(result.job.out)))
        exploration.write()
        add_coverage(exploration.out, result.job.out)
        if is_good and seed.outcome is not None and not seed.outcome.says_nothing:
            shutil.rmtree(result.job.out, ignore_errors=True)
        on_seed(seed)

    run_jobs(jobs(), at_once, take)


def _seed_of(result: JobResult, number: int, delays: tuple[Delay, ...]) -> Seed:
    if not result.runs:
        return Seed(number, None, result.trouble, delays, result.seconds)
    verdict = result.last[0]
    return Seed(number, verdict.outcome, verdict.reasons[0].text, delays, result.seconds, verdict.digest)


def _with(experiment: Experiment, seed: int, delays: Sequence[Delay]) -> Experiment:
    return replace(experiment, seed=seed, delays=tuple(delays))


def shrink(exploration: Exploration, on_step: Callable[[str], None]) -> None:
    """Run each finding again, and then with as few of its delays as still give its verdict.

    :param on_step: called with a line for people.
    """
    shrunk: dict[tuple[Outcome | None, str], int] = {}
    for finding in exploration.findings:
        kind = (finding.seed.outcome, finding.seed.reason.partition(":")[0])
        if finding.is_repeated is not None or shrunk.setdefault(kind, 0) >= MOST_SHRUNK:
            continue
        shrunk[kind] += 1
        _Shrinker(exploration, finding, on_step).run()
        exploration.write()


class _Shrinker:
    """Runs one finding with all and with fewer delays."""

    def __init__(self, exploration: Exploration, finding: Finding, on_step: Callable[[str], None]) -> None:
        self._exploration = exploration
        self._finding = finding
        self._on_step = on_step
        self._runs = 0

    def run(self) -> None:
        finding = self._finding
        outcome, digest, self._best = self._try(finding.seed.delays)
        finding.is_repeated = outcome is finding.seed.outcome and digest == finding.seed.digest
        finding.directory = str(self._best)
        finding.fewest = fewest(finding.seed.delays, self._shows) if finding.is_repeated else finding.seed.delays
        finding.directory = str(self._best)
        finding.told = delays_told(self._best)

    def _shows(self, delays: Sequence[Delay]) -> bool:
        if self._runs >= MOST_RUNS:
            return False
        outcome, _, directory = self._try(delays)
        if outcome is not self._finding.seed.outcome:
            shutil.rmtree(directory, ignore_errors=True)
            return False
        shutil.rmtree(self._best, ignore_errors=True)
        self._best = directory
        # Also of use if nobody waits for the end.
        self._finding.fewest, self._finding.directory = tuple(delays), str(directory)
        return True

    def _try(self, delays: Sequence[Delay]) -> tuple[Outcome | None, str, Path]:
        seed = self._finding.seed.number
        self._runs += 1
        directory = self._exploration.out / f"seed-{seed}-again-{self._runs}"
        shutil.rmtree(directory, ignore_errors=True)
        named = f"{len(delays)} delays" if len(delays) > 2 else ", ".join(map(str, delays)) or "no delay"
        try:
            verdict = run_experiment(_with(self._exploration.experiment, seed, delays), directory)
        except HarnessError as error:
            self._on_step(f"seed {seed} with {named}: {error.message}")
            return None, "", directory
        self._on_step(f"seed {seed} with {named}: {verdict.outcome}")
        return verdict.outcome, verdict.digest, directory


def delays_told(directory: Path) -> tuple[Delayed, ...]:
    """The delays that came about in a run, by what the probe said last."""
    probe = read_evidence(directory).timeline.probe
    return probe[-1].value.delayed if probe else ()
