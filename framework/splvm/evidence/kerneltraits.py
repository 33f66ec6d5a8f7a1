"""What a report of gfpprobe says of a kernel: whether it allocates page tables with the flags it was told.

The answer is made from what was seen, and where that is not whole it is `unknown`: nothing that is missing can make an
answer better.
"""

from __future__ import annotations

import enum
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from splvm.evidence.formats.gfpprobe import CONTROL, FlagEntry, FlagTrial, GfpReport, Level, LevelUse, Mask, Way
from splvm.evidence.formats.kerncomplaints import FindingKind
from splvm.evidence.formats.kernlines import split_stamp
from splvm.evidence.formats.kernlog import scan_kernel_log
from splvm.evidence.formats.stream import excerpt


class TraitAnswer(enum.StrEnum):
    """What a kernel does at one level, told in one way."""

    HONOURED = "honoured"
    IGNORED = "ignored"
    # Every table of this level was there before: it is not allocated when vmalloc runs.
    NEVER = "never allocated"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class TraitCell:
    """The answer at one level, told in one way, and what it rests on."""

    answer: TraitAnswer
    # GFP flags that tables of the level were asked for with, and what the scope made of them.
    gfp: tuple[int, ...]
    effective: tuple[int, ...]
    # One line.
    reason: str

    def to_json(self) -> dict[str, Any]:
        """As `splvm probe-kernel --json` has it."""
        return {
            "answer": self.answer.value,
            "gfp": [f"{gfp:#x}" for gfp in self.gfp],
            "effective": [f"{gfp:#x}" for gfp in self.effective],
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class MaskAnswer:
    """Whether the kernel complained of GFP flags that __vmalloc() was given."""

    mask: Mask
    # Its own words; empty if it did not complain, None if that is not known.
    complaint: str | None

    def to_json(self) -> dict[str, Any]:
        """As `splvm probe-kernel --json` has it."""
        warned = None if self.complaint is None else bool(self.complaint)
        return {"name": self.mask.name, "gfp": f"{self.mask.gfp:#x}", "warned": warned, "complaint": self.complaint}


@dataclass(frozen=True, slots=True)
class KernelTraits:
    """What was measured of a kernel."""

    release: str
    paging_levels: int
    cells: Mapping[Level, Mapping[Way, TraitCell]]
    masks: tuple[MaskAnswer, ...]
    # Why the measurement as a whole cannot be trusted.
    problems: tuple[str, ...]

    @property
    def doubts(self) -> tuple[str, ...]:
        """What is not known, and why. Empty if everything was measured."""
        unknown = (
            f"{way.words} at the {level.upper()} level: {cell.reason}"
            for level, row in self.cells.items()
            for way, cell in row.items()
            if cell.answer is TraitAnswer.UNKNOWN
        )
        silent = (f"flags {it.mask.name}: the console does not tell" for it in self.masks if it.complaint is None)
        return (*self.problems, *unknown, *silent)

    def levels(self, way: Way, answer: TraitAnswer) -> tuple[Level, ...]:
        """The levels that have this answer."""
        return tuple(level for level, row in self.cells.items() if row[way].answer is answer)

    def honours(self, way: Way) -> bool | None:
        """Whether all tables that vmalloc allocates at run time are allocated as it was told; None: not known."""
        if self.levels(way, TraitAnswer.IGNORED):
            return False
        if self.problems or self.levels(way, TraitAnswer.UNKNOWN) or not self.levels(way, TraitAnswer.HONOURED):
            return None
        return True

    @property
    def complaints(self) -> tuple[MaskAnswer, ...]:
        """The flags that the kernel complained of."""
        return tuple(it for it in self.masks if it.complaint)

    @property
    def sentence(self) -> str:
        """The answer in one sentence."""
        ignored = {way: self.levels(way, TraitAnswer.IGNORED) for way in Way}
        flags = [way for way in (Way.NOFS_FLAGS, Way.NOIO_FLAGS) if ignored[way]]
        scopes = [way for way in (Way.NOFS_SCOPE, Way.NOIO_SCOPE) if ignored[way]]
        if flags:
            levels = [level for level in self.cells if any(level in ignored[way] for way in flags)]
            rest = "within a scope it is not" if all(self.honours(way) for way in Way if way not in flags) else ""
            text = (
                f"__vmalloc() ignores {_listed([way.words for way in flags])} for page tables at the "
                f"{_listed([level.upper() for level in levels])} level: the original deadlock is possible"
            )
            return f"{text}; {rest}" if rest else text
        if scopes:
            return f"page tables of __vmalloc() ignore {_listed([way.words for way in scopes])}: a deadlock is possible"
        if self.doubts:
            return f"not measured: {self.doubts[0]}"
        return (
            "__vmalloc() honours GFP_NOFS and GFP_NOIO for page tables at every level that it allocates: "
            "the original deadlock cannot come from them"
        )

    def to_json(self) -> dict[str, Any]:
        """As `splvm probe-kernel --json` has it."""
        return {
            "release": self.release,
            "paging_levels": self.paging_levels,
            "measured": not self.doubts,
            "page_tables": {
                level.value: {way.value: cell.to_json() for way, cell in row.items()}
                for level, row in self.cells.items()
            },
            "honours": {way.value: self.honours(way) for way in Way},
            "flags": [answer.to_json() for answer in self.masks],
            "doubts": list(self.doubts),
            "sentence": self.sentence,
        }


def decide(report: GfpReport, console: str) -> KernelTraits:
    """What a report says of its kernel.

    :param console: what the guest said on its console, while the module was loaded at least.
    """
    return KernelTraits(
        release=report.release,
        paging_levels=report.paging_levels,
        cells={level: {way: _cell(report, level, way) for way in Way} for level in report.levels},
        masks=tuple(_mask_answers(report, console)),
        problems=tuple(_problems(report, console)),
    )


def _problems(report: GfpReport, console: str) -> Iterator[str]:
    if not report.test_passed:
        yield f"the probe on {report.allocator}() did not see an allocation as it was made"
    if not report.masks:
        yield "no flags were tried"
    begins = [number for number, message in _messages(console) if message == "begins"]
    ends = [number for number, message in _messages(console) if message == "ends"]
    if len(begins) != 1 or len(ends) != 1:
        yield "the console does not tell where the measurement began and ended"
        return
    for finding in scan_kernel_log(console):
        grave = finding.kind is FindingKind.WARNING or finding.fatal
        if grave and not finding.benign and finding.line > begins[0]:
            yield f"the kernel complained: {excerpt(finding.title, 120)}"


def _mask_answers(report: GfpReport, console: str) -> Iterator[MaskAnswer]:
    """The kernel's words between the two lines that the module prints for each mask."""
    places: dict[str, list[int]] = {}
    for number, message in _messages(console):
        places.setdefault(message, []).append(number)
    findings = [finding for finding in scan_kernel_log(console) if finding.kind is FindingKind.UNEXPECTED_GFP]
    names = Counter(mask.name for mask in report.masks)
    for mask in report.masks:
        begins, ends = (places.get(f"mask {mask.name} {word}", []) for word in ("begins", "ends"))
        if mask.err or names[mask.name] > 1 or len(begins) != 1 or len(ends) != 1 or begins >= ends:
            yield MaskAnswer(mask, None)
            continue
        said = [finding.title for finding in findings if begins[0] < finding.line < ends[0]]
        yield MaskAnswer(mask, said[0] if said else "")


_MESSAGE = re.compile(r"gfpprobe: ([a-z][a-z -]{0,60})")


def _messages(console: str) -> Iterator[tuple[int, str]]:
    """What the module said on the console, with the line."""
    for number, line in enumerate(console.replace("\0", "").split("\n"), 1):
        if "gfpprobe: " in line and (match := _MESSAGE.fullmatch(split_stamp(line.rstrip("\r"))[2])):
            yield number, match[1]


def _cell(report: GfpReport, level: Level, way: Way) -> TraitCell:
    forbidden = report.fs if way in (Way.NOFS_FLAGS, Way.NOFS_SCOPE) else report.fs | report.io
    trials = [trial for entry in FlagEntry if (trial := report.find(way, entry)) is not None]
    allocs = [alloc for trial in trials for alloc in trial.allocs if alloc.level is level]
    gfp = tuple(sorted({alloc.gfp for alloc in allocs}))
    effective = tuple(sorted({alloc.effective for alloc in allocs}))
    # One that was not held back is enough, whatever else is missing.
    if report.test_passed and any(alloc.effective & forbidden for alloc in allocs):
        return TraitCell(TraitAnswer.IGNORED, gfp, effective, "a table was asked for with flags that it must not have")
    doubts = list(_doubts(report, level, way))
    was_there = all(trial.levels[level].before for trial in trials if trial.entry is FlagEntry.RANGE and not doubts)
    if was_there and allocs:
        doubts.append("its table was there before in addresses that nobody had used, and was made in others")
    if doubts:
        return TraitCell(TraitAnswer.UNKNOWN, gfp, effective, doubts[0])
    if was_there:
        return TraitCell(
            TraitAnswer.NEVER, gfp, effective, "in addresses that nobody had used, its table was there before"
        )
    return TraitCell(TraitAnswer.HONOURED, gfp, effective, "no table was asked for with flags that it must not have")


def _doubts(report: GfpReport, level: Level, way: Way) -> Iterator[str]:
    """Why nothing follows from tables of this level not having been seen with forbidden flags."""
    if not report.test_passed:
        yield "the probe does not see allocations as they are made"
    if level not in report.probed:
        yield "the function that makes its tables could not be probed"
    states = set()
    for what in (CONTROL, way):
        trial = report.find(what, FlagEntry.RANGE)
        yield from _trial_doubts(report, trial, level, what)
        if trial is not None and level in trial.levels:
            states.add(trial.levels[level].before)
    if len(states) > 1:
        yield "its table was there before in one trial and not in the other"
    if level is Level.PTE:
        if states == {True}:
            yield "no addresses without a table were found"
        for what in (CONTROL, way):
            trial = report.find(what, FlagEntry.DIRECT)
            yield from _trial_doubts(report, trial, level, f"{what} of __vmalloc() itself")
    everything = report.fs | report.io
    for entry in FlagEntry:
        control = report.find(CONTROL, entry)
        allocs = [alloc for alloc in control.allocs if alloc.level is level] if control is not None else []
        if any(alloc.effective & everything != everything for alloc in allocs):
            yield "the control, which may do everything, was held back too"


def _trial_doubts(report: GfpReport, trial: FlagTrial | None, level: Level, what: str) -> Iterator[str]:
    if trial is None:
        yield f"there was no trial {what}"
        return
    use = trial.levels.get(level)
    if trial.err:
        yield f"trial {what} failed with errno {-trial.err}"
    elif trial.lost:
        yield f"trial {what} lost {trial.lost} allocations"
    elif not _is_as_named(trial, report):
        yield f"trial {what} was made with other flags"
    elif use is None or (trial.entry is FlagEntry.RANGE and (use.before is None or use.after is None)):
        yield f"trial {what} does not tell of this level"
    else:
        seen = sum(alloc.count for alloc in trial.allocs if alloc.level is level)
        yield from _count_doubts(use, seen, what)


def _is_as_named(trial: FlagTrial, report: GfpReport) -> bool:
    """Whether a trial forbids what its name says, and nothing else."""
    everything = report.fs | report.io
    forbidden = {Way.NOFS_FLAGS.value: report.fs, Way.NOIO_FLAGS.value: everything}
    scopes = {Way.NOFS_SCOPE.value: "nofs", Way.NOIO_SCOPE.value: "noio"}
    wanted = (everything & ~forbidden.get(trial.what, 0), scopes.get(trial.what, "none"))
    return (trial.gfp & everything, trial.scope) == wanted


def _count_doubts(use: LevelUse, seen: int, what: str) -> Iterator[str]:
    """Calls and allocations have to fit what became of the table."""
    if use.before:
        if use.calls or seen:
            yield f"trial {what} made a table that was there before"
    elif use.after is False:
        yield f"trial {what} left no table behind"
    elif not use.calls:
        yield f"trial {what} needed a table and nothing was seen to make it"
    elif seen < use.calls:
        yield f"trial {what} made {use.calls} tables and {seen} allocations were seen"


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
