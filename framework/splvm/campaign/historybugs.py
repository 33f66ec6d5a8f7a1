"""Bugs that SPL once had, put back into a source of today: which of them a scenario notices, and for which reason.

The table is images/history/bugs.toml, and its semantic patches lie beside it. Verdict and reason of a row were written
down before the bug was first run.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from splvm.assets import find_images
from splvm.campaign.processes import Job, JobResult, OnDone
from splvm.clock import Clock
from splvm.errors import HarnessError, UsageError, did_you_mean
from splvm.evidence.verdict import Outcome, Verdict
from splvm.log import note, step
from splvm.run.experiment import Experiment
from splvm.run.prepare import Wish, prepare
from splvm.run.scenarios import Workload
from splvm.scenarios.table import find_scenario

TABLE_FILE = "bugs.toml"
# Runs of a guest that the host starves.
_ATTEMPTS = 3
# The kernel of a row that names none.
USUAL_KERNEL = "debian-12"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    """A row of the table."""

    # Commit that mended it, and its repository: `zfs` is openzfs/zfs, `spl` is zfsonlinux/spl.
    fix: str
    repository: str
    year: int
    kind: str
    users_saw: str
    # How it is put back: by a semantic patch of the table, by a variant, or by both.
    patch: str = ""
    variant: str = "stock"
    # A semantic patch of the table that mends the source of today, where that has a bug which hides this one.
    mend: str = ""
    # What notices it: the verdict, and what one of its reasons says, a regular expression.
    scenario: str = ""
    outcome: Outcome = Outcome.SUSPECT
    reason: str = ""
    # The kernel that it takes; empty: any.
    kernel: str = ""
    clock: Clock = Clock.VIRTUAL
    # Those of the scenario where they are None.
    workload: Workload | None = None
    window_s: float | None = None
    # Why nothing here can notice it; empty if something can.
    why_not: str = ""

    @property
    def name(self) -> str:
        return self.patch or (self.fix if self.why_not else f"{self.fix}-{self.variant}")

    def patches(self) -> tuple[Path, ...]:
        """What is applied to the source beside the variant's own."""
        return tuple(find_images() / "history" / f"{name}.cocci" for name in (self.mend, self.patch) if name)

    def without(self) -> Bug:
        """The row of its control: the same run without the bug."""
        return replace(self, patch="", variant=self.variant if self.patch else "stock")


class Answer(StrEnum):
    """What came of a bug."""

    # By the verdict and for the reason of its row.
    NOTICED = "noticed"
    # The verdict is bad, and it or its reason is another one.
    OTHERWISE = "noticed otherwise"
    # The verdict is good.
    MISSED = "missed"
    # The verdict says nothing of SPL.
    SILENT = "nothing said"
    # Of the harness or the host; or the bug cannot be put back into this source.
    TROUBLE = "trouble"


@dataclass(frozen=True, slots=True)
class BugRun:
    """A run with a bug, or its control."""

    bug: Bug
    kernel: str
    # From 1.
    number: int
    answer: Answer
    # None in trouble.
    outcome: Outcome | None
    # The reason that was written down, if the verdict has it, or else its first one; or the trouble.
    reason: str
    directory: Path | None
    seconds: float
    is_control: bool = False

    def to_json(self) -> dict[str, Any]:
        bug = self.bug
        return {
            "name": bug.name,
            "fix": bug.fix,
            "repository": bug.repository,
            "year": bug.year,
            "kind": bug.kind,
            "users_saw": bug.users_saw,
            "scenario": bug.scenario,
            "variant": bug.variant,
            "kernel": self.kernel,
            "clock": bug.clock,
            "wanted": {"verdict": bug.outcome, "reason": bug.reason},
            "number": self.number,
            "answer": self.answer,
            "verdict": self.outcome,
            "reason": self.reason,
            "directory": str(self.directory) if self.directory else None,
            "seconds": round(self.seconds, 1),
        }


def history_table() -> tuple[Bug, ...]:
    """The table that comes with splvm."""
    return read_table(find_images() / "history" / TABLE_FILE)


def read_table(path: Path) -> tuple[Bug, ...]:
    """:raises UsageError: when a row has a key or a value that no row has; with the row's fix."""
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["bug"]
    return tuple(_bug(row, path) for row in rows)


def _bug(row: Mapping[str, Any], path: Path) -> Bug:
    known = {it.name for it in fields(Bug)}
    odd = sorted(row.keys() - known)
    try:
        if odd:
            raise ValueError(f"there is no {', '.join(odd)}")
        told = dict(row)
        if "workload" in told:
            told["workload"] = Workload(**told["workload"])
        told["outcome"] = Outcome(told.get("outcome", Outcome.SUSPECT))
        told["clock"] = Clock(told.get("clock", Clock.VIRTUAL))
        bug = Bug(**told)
        re.compile(bug.reason)
        if bool(bug.why_not) == bool(bug.scenario and bug.reason):
            raise ValueError("it has a scenario with a reason, or why nothing notices it")
    except (TypeError, ValueError, re.error) as error:
        raise UsageError(f"{path}: bug {str(row.get('fix'))[:40]}: {error}") from error
    return bug


def choose(table: Sequence[Bug], names: Sequence[str], kinds: Sequence[str], kernel: str) -> tuple[Bug, ...]:
    """The rows to run.

    :param names: of rows, or the beginning of their fixes; none: all. :param kinds: likewise.
    :param kernel: the only one that is run, empty: each row's own. Rows that take another one are left out.
    :raises UsageError: when a name stands for no row that can be run, or nothing is left.
    """
    able = [bug for bug in table if not bug.why_not]
    for name in names:
        if not any(bug.name.startswith(name) for bug in able):
            why = next((bug.why_not for bug in table if bug.name.startswith(name)), "")
            hint = f"nothing here can notice it: {why}" if why else did_you_mean(name, [bug.name for bug in able])
            raise UsageError(f"there is no bug {name!r} that can be run", hint=hint or "`--list` names them")
    for kind in kinds:
        if not any(bug.kind == kind for bug in able):
            there = ", ".join(dict.fromkeys(bug.kind for bug in able))
            raise UsageError(f"there is no kind {kind!r} that can be run; there are: {there}")
    chosen = tuple(
        bug
        for bug in able
        if (not names or any(bug.name.startswith(name) for name in names))
        and (not kinds or bug.kind in kinds)
        and (not kernel or bug.kernel in ("", kernel))
    )
    if not chosen:
        raise UsageError(f"none of these bugs means anything on {kernel}", hint="`--list` says which kernel each takes")
    return chosen


def answer_of(bug: Bug, verdict: Verdict) -> tuple[Answer, str]:
    """What a verdict says of a bug, and the reason that says it."""
    texts = [reason.text for reason in verdict.reasons]
    found = next((text for text in texts if re.search(bug.reason, text)), "")
    if verdict.outcome is bug.outcome and found:
        return Answer.NOTICED, found
    if verdict.outcome.says_nothing:
        return Answer.SILENT, texts[0]
    return (Answer.MISSED if verdict.outcome.is_good else Answer.OTHERWISE), texts[0]


# Runs jobs and calls with each result.
Runner = Callable[[Iterable[Job], OnDone], None]


def run_bugs(
    bugs: Sequence[Bug],
    base: Path,
    *,
    wish: Wish,
    kernel: str,
    repeat: int,
    seed: int,
    runner: Runner,
    on_run: Callable[[BugRun], None],
) -> list[BugRun]:
    """Run each bug, and before it its control, once for all that have the same.

    :param base: directory of all runs. :param wish: what all builds have in common.
    :param kernel: the only one, empty: each row's own. :param repeat: runs of each bug.
    :param seed: of the first run of each; every further one has the next.
    :param runner: what runs jobs, which are prepared one by one.
    """
    runs: list[BugRun] = []
    known: dict[Path, tuple[Bug, str, int, bool, frozenset[Outcome]]] = {}

    def take(run: BugRun) -> None:
        runs.append(run)
        on_run(run)

    def jobs() -> Iterator[Job]:
        for bug, number, is_control in _todo(bugs, repeat):
            where = kernel or bug.kernel or USUAL_KERNEL
            name = f"control-{bug.scenario}-{len(known)}" if is_control else bug.name
            out = base / name / f"{number:03}" if repeat > 1 and not is_control else base / name
            try:
                experiment = _experiment(bug, where, wish, seed)
            except HarnessError as error:
                take(BugRun(bug, where, number, Answer.TROUBLE, None, error.message, None, 0.0, is_control))
                continue
            known[out] = (bug, where, number, is_control, experiment.expected)
            yield Job(f"{name}: {bug.scenario} on {where}", experiment.nth(number), out, _ATTEMPTS)

    def on_done(result: JobResult) -> None:
        bug, where, number, is_control, expected = known[result.job.out]
        if not result.runs:
            take(BugRun(bug, where, number, Answer.TROUBLE, None, result.trouble, None, result.seconds, is_control))
            return
        verdict, directory = result.last
        answer, reason = answer_of(bug, verdict)
        if is_control:
            answer = Answer.MISSED if verdict.outcome in expected else Answer.OTHERWISE
            reason = verdict.reasons[0].text
        take(BugRun(bug, where, number, answer, verdict.outcome, reason, directory, result.seconds, is_control))

    runner(jobs(), on_done)
    return runs


def _todo(bugs: Sequence[Bug], repeat: int) -> Iterator[tuple[Bug, int, bool]]:
    """Each bug with the number of its run; a control before the first bug that has it."""
    told: set[object] = set()
    for bug in bugs:
        own = bug.without()
        control = (own.scenario, own.variant, own.kernel, own.clock, own.workload, own.window_s)
        if control not in told:
            told.add(control)
            yield own, 1, True
        yield from ((bug, number, False) for number in range(1, repeat + 1))


def _experiment(bug: Bug, kernel: str, wish: Wish, seed: int) -> Experiment:
    asked = replace(wish, kernel=kernel, variant=bug.variant, patches=(*wish.patches, *bug.patches()), clock=bug.clock)
    with step(f"preparing {bug.name} on {kernel}"):
        prepared = prepare(asked)
    scenario = find_scenario(bug.scenario)
    return prepared.experiment(scenario, window_s=bug.window_s, workload=bug.workload, seed=seed)


def tell(run: BugRun) -> None:
    """A line for a run as it ends."""
    what = f"control of {run.bug.scenario}" if run.is_control else f"{run.bug.name}: {run.answer}"
    note(f"{what}: {run.outcome or 'TROUBLE'} {run.reason.partition(chr(10))[0]}")
