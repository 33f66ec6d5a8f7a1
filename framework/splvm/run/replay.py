"""A recorded run in virtual time, run again: what it needs, what differs from then, and its frames compared.

Nothing of the first run is played back to the guest. The guest is begun with what run.json says, and does the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from splvm.clock import Clock
from splvm.deadline import Deadline
from splvm.errors import EvidenceError, UsageError
from splvm.evidence.formats.stream import Frame
from splvm.evidence.standstill import LOOK_NS
from splvm.evidence.timeline import Timeline
from splvm.evidence.verdict import Outcome
from splvm.guest.template import Templates
from splvm.host.content import file_hash
from splvm.host.store import Store
from splvm.record.cellfacts import PACKAGED, UNKNOWN
from splvm.record.digest import frame_texts, is_virtual
from splvm.run.delays import Delay, parse_delay
from splvm.run.experiment import Experiment, differing_facts
from splvm.run.loads import Load, parse_loads
from splvm.run.prepare import Prepared, Wish
from splvm.run.scenarios import Scenario, Storm, Workload

_QEMU = "qemu-system-x86_64"


class Differs(Exception):
    """A frame is not that of the recorded run, and the run is not gone on with. It is no error of the harness."""


def wish_of(facts: Mapping[str, Any]) -> Wish:
    """What a recorded run was made of, by name.

    :param facts: its run.json, checked.
    :raises UsageError: when it was in real time.
    """
    if not is_virtual(facts):
        raise UsageError(
            "this run was in real time, and nothing makes it again",
            hint="`splvm run --clock virtual` makes runs that can be replayed",
        )
    kernel, spl, parameters = (facts.get(name) or {} for name in ("kernel", "spl", "parameters"))
    line = str(facts.get("line", ""))
    return Wish(
        kernel=str(kernel.get("id", "")),
        variant=str(spl.get("variant", "")),
        spl=str(spl.get("source", "")),
        patches=tuple(Path(str(it.get("path") or it.get("name"))) for it in spl.get("patches") or ()),
        ram_mib=int(parameters.get("ram_mib", Wish().ram_mib)),
        cpus=int(parameters.get("cpus", Wish().cpus)),
        preempt=str(parameters.get("preempt", "")),
        label="" if line in (PACKAGED, UNKNOWN) else line,
        clock=Clock.VIRTUAL,
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """What was done to the guest of a recorded run."""

    expected: frozenset[Outcome]
    window_s: float
    rate_hz: int
    workload: Workload
    loads: tuple[Load, ...]
    seed: int
    storm: Storm | None
    watched: str
    delays: tuple[Delay, ...]


def asked_of(facts: Mapping[str, Any]) -> Asked:
    """What its run.json says was done.

    :raises EvidenceError: when it does not say so.
    """
    parameters = facts.get("parameters") or {}
    try:
        told = parameters.get("storm")
        return Asked(
            expected=frozenset(map(Outcome, facts.get("expected") or ())),
            window_s=parameters["window_s"],
            rate_hz=int(parameters["rate_hz"]),
            workload=Workload(**parameters["workload"]),
            loads=parse_loads([parameters["load"]]) if "load" in parameters else (),
            seed=parameters["seed"],
            storm=Storm(**{**told, "only": tuple(told["only"])}) if told else None,
            watched=parameters.get("watched", ""),
            delays=tuple(map(parse_delay, parameters["delays"].split(","))) if "delays" in parameters else (),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise EvidenceError(f"run.json does not say what was done: {error}") from error


def experiment_of(facts: Mapping[str, Any], prepared: Prepared, scenario: Scenario) -> Experiment:
    """The experiment that the recorded run was.

    :param prepared: of `wish_of(facts)`.
    :raises EvidenceError: when run.json does not say what was done.
    """
    asked = asked_of(facts)
    experiment = prepared.experiment(
        scenario,
        expected=asked.expected,
        window_s=asked.window_s,
        rate_hz=asked.rate_hz,
        workload=asked.workload,
        loads=asked.loads,
        seed=asked.seed,
        storm=asked.storm,
        watched=asked.watched,
    )
    return replace(experiment, delays=asked.delays)


def with_recorded_qemu(prepared: Prepared, facts: Mapping[str, Any], store: Store) -> Prepared:
    """The same with the QEMU of the recorded run, if the store still has it: a suite drops old versions."""
    wanted = (facts.get("qemu") or {}).get("sha256")
    if prepared.counting is None or prepared.counting.sha256 == wanted:
        return prepared
    for path in sorted((store.root / "qemu").glob(f"*/tree/{_QEMU}")):
        if file_hash(path) == wanted:
            told = facts["qemu"]
            version = tuple(int(part) for part in re.findall(r"\d+", str(told.get("version", "")))[:3])
            qemu = replace(prepared.counting, path=path, version=version, sha256=wanted, origin=str(told.get("origin")))
            return replace(prepared, counting=replace(qemu, reason="that of the recorded run"))
    return prepared


def otherwise(experiment: Experiment, facts: Mapping[str, Any], deadline: Deadline) -> list[str]:
    """What a run of this experiment would differ in from the recorded run, of all that decides what the guest does.

    The guest's template is made if it is missing.

    :returns: one line for each.
    """
    template = Templates.default().get(experiment.guest, deadline).name
    lines = made_otherwise(experiment, facts)
    if facts.get("template") != template:
        lines.append(f"template: {facts.get('template')} then, {template} now")
    return lines


def made_otherwise(experiment: Experiment, facts: Mapping[str, Any]) -> list[str]:
    """The same without the guest's template: splvm, QEMU, kernel, modules, and what is done to the guest."""
    own, lines = dict(experiment.facts), []
    if facts.get("splvm") != own.get("splvm"):
        lines.append(f"splvm: {facts.get('splvm')} then, {own.get('splvm')} now")
    for place, name in ((("qemu", "sha256"), "QEMU"), (("kernel", "sha256"), "kernel")):
        then, now = _at(facts, place), _at(own, place)
        if then != now:
            lines.append(f"{name}: {_told(facts, place[0])} then, {_told(own, place[0])} now")
    then_modules, now_modules = (_at(it, ("spl", "modules")) or {} for it in (facts, own))
    lines += [
        f"{name}: SHA-256 {str(then_modules.get(name))[:16]} then, {str(now_modules.get(name))[:16]} now"
        for name in sorted({*then_modules, *now_modules})
        if then_modules.get(name) != now_modules.get(name)
    ]
    if "parameters" in differing_facts(experiment, facts):
        lines.append("parameters: this splvm would do something else to the guest")
    return lines


def _at(facts: object, place: Iterable[str]) -> Any:
    for key in place:
        facts = facts.get(key) if isinstance(facts, Mapping) else None
    return facts


def _told(facts: Mapping[str, Any], name: str) -> str:
    about = facts.get(name) or {}
    said = f"{about.get('release') or about.get('version')}"
    return f"{said} ({str(about.get('sha256'))[:16]})"


class Comparison:
    """Compares frames with those of a record, one after the other.

    :param records: of the recorded run.
    :param go_on: whether to go on after the first frame that differs.
    """

    def __init__(self, records: Iterable[Mapping[str, Any]], *, go_on: bool) -> None:
        self._expected = frame_texts(records)
        self._go_on = go_on
        self.frames = 0
        # The first frame that differs, in words.
        self.difference = ""

    def hear(self, frame: Frame) -> None:
        """Compare the next one.

        :raises Differs: at the first difference, unless the run is to go on.
        """
        if self.difference:
            return
        (here,) = frame_texts(({"kind": "frame", **asdict(frame)},))
        there = next(self._expected, None)
        if here == there:
            self.frames += 1
            return
        self.difference = _describe(self.frames, there, here)
        if not self._go_on:
            raise Differs

    def end(self) -> str:
        """The run is over: the first difference, empty if there is none."""
        left = next(self._expected, None)
        if not self.difference and left is not None:
            self.difference = _describe(self.frames, left, None)
        return self.difference


def _describe(number: int, then: str | None, now: str | None) -> str:
    """Both frames from a little before the place in which they differ."""
    if then is None or now is None:
        return f"frame {number}: {'there was none' if then is None else 'it is missing'}"
    at = next((i for i, (one, other) in enumerate(zip(then, now, strict=False)) if one != other), 0)
    begin = max(0, at - 60)
    return f"frame {number}: ...{then[begin : at + 80]}... then, ...{now[begin : at + 80]}... now"


_MOMENT = re.compile(
    r"(?:(stall)|(\d{1,6}(?:\.\d{1,9})?)s|sample:(\d{1,7}))(?:([-+])(\d{1,9}(?:\.\d{1,6})?)(us|ms|s))?"
)


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment of a recorded run."""

    # Guest time, ns; and what it is, for people.
    at_ns: int
    what: str


def find_moment(asked: str, timeline: Timeline, began_ns: int) -> Moment:
    """The moment that a user names: `stall`, `12.3456s` or `sample:N`, each with an offset such as `-5ms` behind it.

    :param timeline: of the recorded run.
    :param began_ns: guest time of its first frame, ns: there is nothing to stop before that.
    :raises UsageError: when it is none of these, or the run has no such moment.
    """
    match = _MOMENT.fullmatch(asked)
    if match is None:
        raise UsageError(
            f"--until {asked}: it is no moment", hint="for example stall, stall-5ms, 12.3456s or sample:40"
        )
    if match[1]:
        at_ns, what = _stall(asked, timeline)
    elif match[2]:
        at_ns, what = round(float(match[2]) * 1e9), "the guest's clock"
    else:
        sample = next(islice(timeline.probe, int(match[3]), None), None)
        if sample is None:
            raise UsageError(f"--until {asked}: the run has {len(timeline.probe)} samples of the probe, from 0 on")
        at_ns, what = sample.start_ns, f"the reading of sample {match[3]}"
    if match[4]:
        offset_ns = round(float(match[5]) * {"us": 1e3, "ms": 1e6, "s": 1e9}[match[6]])
        at_ns += offset_ns if match[4] == "+" else -offset_ns
        what += f" {match[4]} {match[5]} {match[6]}"
    if at_ns <= began_ns:
        raise UsageError(f"--until {asked}: the run begins at {began_ns / 1e9:.6f} s of the guest's clock")
    return Moment(at_ns, what)


def _stall(asked: str, timeline: Timeline) -> tuple[int, str]:
    """When the first thread that stood still moved for the last time."""
    still = [
        thread
        for sample in timeline.probe
        for thread in sample.value.threads
        if thread.alloc_since_ns and sample.value.now_ns - thread.alloc_since_ns >= LOOK_NS
    ]
    if not still:
        raise UsageError(
            f"--until {asked}: no thread stands still for {LOOK_NS / 1e9:g} s in this run",
            hint="name a moment of the guest's clock: --until 12.3456s",
        )
    first = min(still, key=lambda it: it.alloc_since_ns)
    return first.alloc_since_ns, f"thread {first.index} asks for the object that it does not get"


def first_frame_ns(records: Iterable[Mapping[str, Any]]) -> int:
    """Guest time at which the first frame of a record was read, ns.

    :raises EvidenceError: when there is none.
    """
    frames: Iterator[Mapping[str, Any]] = (it for it in records if it.get("kind") == "frame")
    first = next(frames, None)
    if first is None or not isinstance(first.get("end_ns"), int):
        raise EvidenceError("the record has no frame")
    return int(first["end_ns"])
