"""The timeline of a run: typed samples on the guest's clock, made from the records on disk.

Pure. What a record lacks or what cannot be read is kept as a loss and never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Generic, TypeVar

from splvm.errors import EvidenceError
from splvm.evidence.formats.loadstatus import LoadStatus
from splvm.evidence.formats.probestatus import Hold, ProbeStatus
from splvm.evidence.formats.sites import SitesFile
from splvm.evidence.formats.slab import CacheRow, SlabFile, parse_slab
from splvm.evidence.formats.stacks import Task
from splvm.evidence.formats.stream import Frame, What
from splvm.evidence.formats.txgs import Txgs
from splvm.evidence.sources import SourceReader, count_of, read_frame, text_of

T = TypeVar("T")

# Sources that are kept as text.
OTHERS = ("meminfo", "pressure", "vmstat", "loadavg", "slabinfo", "arcstats", "poolstate")

# Before a command, in the agent's answer to it.
_NUMBER = re.compile(r"#\d{1,18} ")


@dataclass(frozen=True, slots=True)
class Sample(Generic[T]):
    """One reading of one source."""

    # Number of the frame in the agent's stream.
    seq: int
    # The guest's clock just before and just after the read, ns.
    start_ns: int
    end_ns: int
    # How it got to the host.
    path: str
    value: T


@dataclass(frozen=True, slots=True)
class HostReading:
    """What the host knew of the guest's virtual CPUs, cumulative since their start."""

    # Seconds since the run began, on the host's clock.
    at_s: float
    # Seconds all virtual CPU threads ran, and waited for a CPU of the host.
    run_s: float
    wait_s: float
    # Seconds that were taken from the host's own CPUs by what is below it, all CPUs together.
    steal_s: float = 0.0
    # Seconds that each virtual CPU thread waited.
    waits_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Look:
    """What the monitor found and took of a guest in trouble."""

    # Seconds since the run began, on the host's clock.
    at_s: float
    # What made it look.
    why: str
    # A condition of diagnosis.py and its sentence; empty when only evidence was taken.
    condition: str
    text: str
    # What was taken, and how that went; what failed, and how.
    taken: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Timeline:
    """All samples of a run, in the order of the stream."""

    slab: tuple[Sample[SlabFile], ...] = ()
    probe: tuple[Sample[ProbeStatus], ...] = ()
    tasks: tuple[Sample[tuple[Task, ...]], ...] = ()
    load: tuple[Sample[LoadStatus], ...] = ()
    txgs: tuple[Sample[Txgs], ...] = ()
    sites: tuple[Sample[SitesFile], ...] = ()
    # Texts of the other sources (`OTHERS`), by source.
    other: Mapping[str, tuple[Sample[str], ...]] = field(default_factory=dict)
    # Reads that had not come back: source, in `value`.
    blocked: tuple[Sample[str], ...] = ()
    host: tuple[HostReading, ...] = ()
    # When the host began each phase, seconds since the run began. For comparison with `host` only.
    host_phases: Mapping[str, float] = field(default_factory=dict)
    looks: tuple[Look, ...] = ()
    # The slab file as it was read from outside, after the stream of a guest in virtual time had ended.
    slab_afterwards: SlabFile | None = None
    # What is missing or cannot be read, in words.
    losses: tuple[str, ...] = ()
    # Whether the harness wrote down that it began, and of which run it said that then.
    begun: bool = False
    token: str | None = None
    # What the agent said of itself when it began: `rate_hz`, `period_ns` and others.
    hello: Mapping[str, int] = field(default_factory=dict)
    # Commands that the probe has obeyed, without their numbers; and what the agent said of those that failed.
    obeyed: tuple[str, ...] = ()
    refused: tuple[Sample[str], ...] = ()

    @classmethod
    def from_records(cls, records: Iterable[Mapping[str, Any]]) -> Timeline:
        """Build the timeline from the records of samples.jsonl."""
        return _Builder().build(records)

    @property
    def marks(self) -> dict[str, int]:
        """The phases: name to the guest's time when it began, ns."""
        return {mark.name: mark.time_ns for mark in self.probe[-1].value.marks} if self.probe else {}


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything a verdict may rest on."""

    # run.json.
    facts: Mapping[str, Any]
    timeline: Timeline
    # What the guest said on its console.
    console: str
    # What is missing from the record or was changed afterwards, in words.
    damage: tuple[str, ...] = ()
    # What the kernel listed for SysRq.
    sysrq: str = ""
    # In virtual time: of all that the guest left.
    digest: str = ""
    # In virtual time: what the guest had said on its console before the host was let in; None if nobody knows.
    closed: str | None = None

    @property
    def is_virtual(self) -> bool:
        """Whether the guest's time was the number of its instructions."""
        parameters = self.facts.get("parameters")
        return isinstance(parameters, Mapping) and parameters.get("clock") == "virtual"


def between(samples: Sequence[Sample[T]], start_ns: int, end_ns: int) -> tuple[Sample[T], ...]:
    """The samples whose reading lies wholly within the two times."""
    return tuple(s for s in samples if start_ns <= s.start_ns and s.end_ns <= end_ns)


def hold_of(timeline: Timeline, start: int, end: int) -> Hold | None:
    """The worker that was held when the window began, or else the first one in it, or the last one before.

    SPL may make another worker meanwhile, for another cache, which is then held as well; the probe names the last one.
    It may be held between the window's beginning and the first reading in it, so the reading before comes first.

    :param start: beginning of the window, ns on the guest's clock. :param end: its end.
    """
    readings = [(s.start_ns, s.value.hold) for s in timeline.probe if s.start_ns <= end]
    before = [hold for at, hold in readings if at < start]
    within = [hold for at, hold in readings if at >= start]
    return next((hold for hold in (*before[-1:], *within, *reversed(before)) if hold.held), None)


def cache_rows(timeline: Timeline, name: str) -> list[Sample[CacheRow]]:
    """The rows of one cache, in order. A reading that has none, or several of that name, is left out."""
    rows = []
    for sample in timeline.slab:
        found = [row for row in sample.value.caches if row.name == name]
        if len(found) == 1:
            rows.append(Sample(sample.seq, sample.start_ns, sample.end_ns, sample.path, found[0]))
    return rows


def widest_gap_ns(samples: Sequence[Sample[T]], start_ns: int, end_ns: int) -> int:
    """The longest time between the two ends and the readings in between them, ns."""
    times = [start_ns, *(s.end_ns for s in samples), end_ns]
    return max(later - earlier for earlier, later in pairwise(times))


class _Builder:
    """Goes over the records once."""

    def __init__(self) -> None:
        self.losses: list[str] = []
        self.reader = SourceReader()
        self.samples: dict[str, list[Sample[Any]]] = {}
        self.blocked: list[Sample[str]] = []
        self.host: list[HostReading] = []
        self.phases: dict[str, float] = {}
        self.looks: list[Look] = []
        self.slab_afterwards: SlabFile | None = None
        self.token: str | None = None
        # Kinds of records that are in a run once, and were seen.
        self.seen: set[str] = set()
        self.hello: dict[str, int] = {}
        self.obeyed: list[str] = []
        self.refused: list[Sample[str]] = []
        self.ended = False
        # The frame before, by source.
        self.before: dict[str, Frame] = {}

    def build(self, records: Iterable[Mapping[str, Any]]) -> Timeline:
        for number, record in enumerate(records, 1):
            try:
                self._take(record)
                if record["kind"] == "start" and number > 1:
                    self.losses.append(f"record {number} says that the run begins, and others are before it")
            except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
                self.losses.append(f"record {number} cannot be read: {error!r}")
        if not self.ended:
            self.losses.append("the agent's stream has no end: it was cut off")
        other = {name: tuple(self.samples.get(name, ())) for name in OTHERS}
        return Timeline(
            slab=tuple(self.samples.get("slab", ())),
            probe=tuple(self.samples.get("probe", ())),
            tasks=tuple(self.samples.get("tasks", ())),
            load=tuple(self.samples.get("load", ())),
            txgs=tuple(self.samples.get("txgs", ())),
            sites=tuple(self.samples.get("sites", ())),
            other=other,
            blocked=tuple(self.blocked),
            host=tuple(self.host),
            host_phases=self.phases,
            looks=tuple(self.looks),
            slab_afterwards=self.slab_afterwards,
            losses=tuple(self.losses),
            begun="start" in self.seen,
            token=self.token,
            hello=self.hello,
            obeyed=tuple(self.obeyed),
            refused=tuple(self.refused),
        )

    def _take(self, record: Mapping[str, Any]) -> None:
        match record["kind"]:
            case "frame":
                self._take_frame(record)
            case "host":
                vcpus = record["vcpus"]
                waits_s = tuple(count_of(vcpu["wait_ns"]) / 1e9 for vcpu in vcpus)
                run_s = sum(count_of(vcpu["run_ns"]) for vcpu in vcpus) / 1e9
                steal_s = _seconds_of(record.get("steal_s", 0))
                self.host.append(HostReading(_seconds_of(record["at_s"]), run_s, sum(waits_s), steal_s, waits_s))
            case "phase":
                self._take_once(f"phase {text_of(record['name'])}")
                self.phases[record["name"]] = _seconds_of(record["at_s"])
            case "start":
                self._take_once("start")
                self.token = text_of(record["token"]) if "token" in record else None
            case "monitor":
                self.looks.append(_look(record))
            case "afterwards":
                self._take_once(f"afterwards {text_of(record['source'])}")
                self._take_afterwards(record)
            case _:
                pass

    def _take_once(self, what: str) -> None:
        """Note what a run has once. Twice it is the record of two runs, and the latter one must not hide the former."""
        if what in self.seen:
            self.losses.append(f"the record has `{what[:80]}` twice")
        self.seen.add(what)

    def _take_afterwards(self, record: Mapping[str, Any]) -> None:
        try:
            self.slab_afterwards = parse_slab(str(record["text"]))
        except EvidenceError as error:
            self.losses.append(f"the slab file that was read from outside cannot be read: {error.message}")

    def _take_frame(self, record: Mapping[str, Any]) -> None:
        frame, path = read_frame(record), text_of(record["path"])
        self._check_order(frame)
        if frame.source == "agent":
            self._take_agent(frame)
        elif frame.source == "ctl":
            self._take_answer(frame, path)
        elif frame.what is What.BLOCKED:
            self.blocked.append(Sample(frame.seq, frame.start_ns, frame.end_ns, path, frame.source))
        said, losses = self.reader.take(frame)
        self.losses += losses
        if said is not None and not said.error:
            sample = Sample(frame.seq, frame.start_ns, frame.end_ns, path, said.value)
            self.samples.setdefault(frame.source, []).append(sample)

    def _take_agent(self, frame: Frame) -> None:
        words = dict(word.split("=", 1) for word in frame.text.split() if "=" in word)
        if frame.text.startswith("hello "):
            self._take_once("hello")
            self.hello = {name: count_of(int(value)) for name, value in words.items()}
        elif frame.text.startswith("end "):
            self.ended = True
            dropped = count_of(int(words["dropped"]))
            if dropped:
                self.losses.append(f"the agent dropped {dropped} frames")
            if (told := count_of(int(words["frames"]))) != frame.seq:
                self.losses.append(f"the agent says that it made {told} frames, and its last has number {frame.seq}")

    def _take_answer(self, frame: Frame, path: str) -> None:
        """What the agent says of a command: `ok #NUMBER COMMAND`, or the error; older agents have no number."""
        if frame.what is What.DATA and frame.text.startswith("ok "):
            self.obeyed.append(_NUMBER.sub("", frame.text[3:]).strip())
        else:
            self.refused.append(Sample(frame.seq, frame.start_ns, frame.end_ns, path, frame.text.strip()))

    def _check_order(self, frame: Frame) -> None:
        """Nothing comes after the end, and each source is read at one tick after the other, on a clock that goes on."""
        before = self.before.get(frame.source, frame)
        self.before[frame.source] = frame
        goes_on = (before.tick, before.start_ns, before.end_ns), (frame.tick, frame.start_ns, frame.end_ns)
        if self.ended:
            self.losses.append(f"frame {frame.seq} comes after the end of the agent's stream")
        elif frame.end_ns < frame.start_ns or any(then > now for then, now in zip(*goes_on, strict=True)):
            self.losses.append(f"frame {frame.seq}: {frame.source} goes back in time")


def _seconds_of(value: Any) -> float:
    """A time of the host's. Neither a text nor true is one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise ValueError(f"not a number of seconds: {str(value)[:40]}")
    return float(value)


def _look(record: Mapping[str, Any]) -> Look:
    steps = [(str(step["what"]), bool(step["ok"]), str(step["detail"])) for step in record["taken"]]
    return Look(
        at_s=_seconds_of(record["at_s"]),
        why=str(record["why"]),
        condition=str(record.get("condition", "")),
        text=str(record.get("text", "")),
        taken={what: detail for what, ok, detail in steps if ok},
        failed={what: detail for what, ok, detail in steps if not ok},
    )
