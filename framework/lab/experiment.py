"""One experiment: boot a guest, go through the steps of a scenario, record everything, judge the record.

The verdict is made from the files in the run's directory, by the same code that `splvm judge` runs, so it can never
rest on something that was not recorded.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framework.deadline import Deadline
from framework.errors import BootError, DeadlineExceeded, EvidenceError, GuestLostError, HarnessError, QemuLaunchError
from framework.evidence.case import CACHE
from framework.evidence.judge import judge
from framework.evidence.probe import ProbeStatus, parse_probe
from framework.evidence.slab import CacheRow, parse_slab
from framework.evidence.stream import Frame
from framework.evidence.verdict import Outcome, Verdict
from framework.guest.agent import AgentStream, start_agent
from framework.guest.guest import Guest, start_guest
from framework.guest.qemu import MachineSpec
from framework.guest.ssh import SshKeys
from framework.lab.hostwatch import start_host_watch
from framework.lab.rundir import RunDirectory, read_evidence
from framework.lab.scenarios import Reading, Scenario, Step
from framework.log import LOGGER, note, step

# Seconds of the host that a run may take beyond its boot, at most; a scenario here takes about ten.
RUN_BUDGET_S = 300.0

# Seconds of the host without a frame after which the agent counts as gone. It writes 60 frames a second.
SILENCE_S = 20.0

# Seconds given to QEMU to end by itself once a guest is lost: a panic ends it, and is then in the console's log.
LAST_WORDS_S = 5.0


@dataclass(frozen=True, slots=True)
class Workload:
    """What the critical threads do; the keys of the probe's `set` command."""

    # Threads, and objects that each takes in a round.
    threads: int = 2
    objects: int = 32
    # Bytes of an object: over 16 KiB, so that SPL backs it with vmalloc by its own choice too.
    size: int = 65536
    # Sleep between two rounds, microseconds. A guest that leaves its CPUs idle for a part of the time still gets
    # what it needs when the host is busy.
    pause_us: int = 5000
    # Rounds after which empty slabs are given back, so that the cache has to grow again.
    reap_rounds: int = 1

    def command(self) -> str:
        """The probe's command."""
        return "set " + " ".join(f"{name}={getattr(self, name)}" for name in self.__slots__)


@dataclass(frozen=True, slots=True)
class Experiment:
    """Everything that one run needs; nothing is built or fetched any more."""

    scenario: Scenario
    machine: MachineSpec
    keys: SshKeys
    # Kernel modules in the order of loading: spl.ko, slabprobe.ko.
    modules: tuple[Path, ...]
    # What run.json says of kernel, SPL, host.
    facts: Mapping[str, Any]
    # Verdicts that count as expected.
    expected: frozenset[Outcome]
    # Seconds of guest time.
    window_s: float
    # Samples a second.
    rate_hz: int = 20
    workload: Workload = Workload()


# Called with the guest and the name of each phase as it begins. Whoever wants to disturb a run does it here.
OnPhase = Callable[[Guest, str], None]


def run_experiment(experiment: Experiment, out: Path, on_phase: OnPhase | None = None) -> Verdict:
    """Run it and judge it. Everything is in `out` afterwards, also when it goes wrong.

    :param out: directory of the run.
    :raises BootError: when the guest does not come up.
    :raises HarnessError: for any other trouble that is not the guest's.
    """
    record = RunDirectory(out, _facts(experiment))
    outcome: dict[str, Any] = {"kind": "cut off", "detail": "the harness failed"}
    try:
        with _harness_log(out / "harness.log"):
            try:
                outcome = _run_guest(experiment, record, on_phase)
            except (KeyboardInterrupt, SystemExit):
                outcome = {"kind": "interrupted", "detail": "by a signal"}
                raise
            except (BootError, QemuLaunchError) as error:
                outcome = {"kind": "never up", "detail": error.message}
                raise
            except HarnessError as error:
                outcome = {"kind": "cut off", "detail": error.message}
                raise
    finally:
        record.finish(outcome)
    verdict = judge(read_evidence(out))
    record.write_verdict(verdict)
    return verdict


def run_until_fed(experiment: Experiment, out: Path, attempts: int = 3) -> list[tuple[Verdict, Path]]:
    """Run again, for as long as the host starved the guest of CPU. No verdict is taken back: every run is kept.

    :param out: directory of the first run; the others are beside it, with `-2` and so on at the end of the name.
    :returns: verdict and directory of each run; the last one counts.
    """
    results: list[tuple[Verdict, Path]] = []
    for number in range(1, attempts + 1):
        directory = out if number == 1 else out.with_name(f"{out.name}-{number}")
        results.append((run_experiment(experiment, directory), directory))
        verdict = results[-1][0]
        if not verdict.is_starved:
            break
        if number < attempts:
            note(f"{directory}: {verdict.starved}; running again")
    return results


def _facts(experiment: Experiment) -> dict[str, Any]:
    scenario, workload = experiment.scenario, experiment.workload
    return {
        "scenario": scenario.name,
        "expected": sorted(experiment.expected),
        "parameters": {
            "window_s": experiment.window_s,
            "latency_bound_ms": scenario.latency_bound_ms,
            "rate_hz": experiment.rate_hz,
            "ram_mib": experiment.machine.ram_mib,
            "cpus": experiment.machine.cpus,
            "workload": {name: getattr(workload, name) for name in workload.__slots__},
        },
        **experiment.facts,
    }


@contextmanager
def _harness_log(path: Path) -> Iterator[None]:
    """Keep what the harness logs from this thread and those it starts; other runs have logs of their own."""
    handler = logging.FileHandler(path, mode="w", encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    handler.setLevel(logging.DEBUG)
    owner = threading.get_ident()
    handler.addFilter(lambda record: record.thread == owner)
    level = LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)
        handler.close()


def _run_guest(experiment: Experiment, record: RunDirectory, on_phase: OnPhase | None) -> dict[str, Any]:
    """Boot, run, end. A guest that is lost on the way is an outcome, not an error."""
    LOGGER.debug("run of %s in %s", experiment.scenario.name, record.path)
    deadline = Deadline(RUN_BUDGET_S)
    with ExitStack() as stack:
        with step(f"booting a guest ({experiment.machine.accelerator})"):
            guest = stack.enter_context(start_guest(experiment.machine, experiment.keys, record.path, deadline))
        try:
            _drive(guest, experiment, record, on_phase, deadline)
        except (GuestLostError, DeadlineExceeded) as error:
            LOGGER.debug("lost: %s", error)
            return {"kind": "lost", "detail": _last_words(guest, error)}
        return {"kind": "ended", "detail": "all steps were taken"}


def _last_words(guest: Guest, error: HarnessError) -> str:
    """What became of the guest. A panic ends QEMU a moment after the connection is lost."""
    try:
        guest.console.wait_until_ended(Deadline(LAST_WORDS_S))
    except DeadlineExceeded:
        return f"{error.message}; QEMU is still running"
    title = guest.console.panic_title()
    status = guest.qemu.wait_until_ended(Deadline(LAST_WORDS_S))
    return f"{error.message}; QEMU ended with status {status}" + (f"; {title}" if title else "")


def _drive(
    guest: Guest, experiment: Experiment, record: RunDirectory, on_phase: OnPhase | None, deadline: Deadline
) -> None:
    with step("loading SPL and the probe"):
        for module in experiment.modules:
            guest.insert_module(module, deadline=deadline.sub(60))
    live = Live(record)
    vcpus = guest.qemu.vcpu_threads(deadline.sub(10))
    with (
        start_host_watch(guest.qemu.process.pid, vcpus, record.record_host),
        start_agent(guest.ssh, rate_hz=experiment.rate_hz, sink=live.take, deadline=deadline) as agent,
    ):
        agent.command(experiment.workload.command(), deadline.sub(20))
        with step(f"{experiment.scenario.name}: {experiment.scenario.summary}"):
            for phase in experiment.scenario.steps(experiment.window_s):
                if on_phase is not None:
                    on_phase(guest, phase.name)
                _take_step(phase, agent, live, record, deadline)
        if not agent.quit(deadline.sub(20)):
            raise GuestLostError(f"the agent did not finish its stream: {agent.ended}")


def _take_step(phase: Step, agent: AgentStream, live: Live, record: RunDirectory, deadline: Deadline) -> None:
    LOGGER.debug("step %s: %s", phase.name or "(wait)", ", ".join(phase.commands) or "wait")
    if phase.name:
        record.record_phase(phase.name)
        live.begin(agent.command(f"mark {phase.name}", deadline.sub(20)))
    else:
        live.begin()
    for command in phase.commands:
        agent.command(command, deadline.sub(20))
    done = live.wait_until(phase.until, phase.limit_s, agent, deadline)
    if done and phase.then:
        record.record_phase(phase.then)
        agent.command(f"mark {phase.then}", deadline.sub(20))
    elif not done:
        LOGGER.debug("step %s: not done after %.1f s of guest time", phase.name, phase.limit_s)


class Live:
    """What the agent has reported last; keeps every frame in the record on the way.

    Only what the steps wait for is looked at here. Text that cannot be read is left to the judge.
    """

    def __init__(self, record: RunDirectory) -> None:
        self._record = record
        self._changed = threading.Condition()
        self._frames = 0
        self._probe: ProbeStatus | None = None
        self._row: CacheRow | None = None
        self._slab_readings = 0
        self._now_ns = 0
        self._began_ns = 0
        self._rounds: tuple[int, ...] = ()

    def take(self, frame: Frame) -> None:
        """The agent's sink."""
        self._record.record_frame(frame, "ssh")
        with self._changed:
            self._frames += 1
            self._now_ns = max(self._now_ns, frame.end_ns)
            if frame.what in ("data", "same"):
                self._look(frame)
            self._changed.notify_all()

    def _look(self, frame: Frame) -> None:
        try:
            if frame.source == "probe" and frame.what == "data":
                self._probe = parse_probe(frame.text)
            elif frame.source == "slab":
                self._slab_readings += frame.start_ns >= self._began_ns
                if frame.what == "data":
                    self._row = parse_slab(frame.text).cache(CACHE)
        except EvidenceError as error:
            LOGGER.debug("frame %d: %s", frame.seq, error)

    def begin(self, at_ns: int | None = None) -> None:
        """A step begins: count its readings and its time from here.

        Frames are on their way for a while, so what has just been seen may be older than what the step has just done.

        :param at_ns: guest time; by default that of what was seen last.
        """
        with self._changed:
            self._slab_readings = 0
            self._began_ns = self._now_ns if at_ns is None else at_ns
            self._rounds = tuple(t.rounds for t in self._probe.threads) if self._probe else ()

    def wait_until(
        self, condition: Callable[[Reading], bool], limit_s: float, agent: AgentStream, deadline: Deadline
    ) -> bool:
        """Wait until `condition` holds. False when `limit_s` of guest time have passed before.

        :raises GuestLostError: when the stream ends or falls silent.
        :raises DeadlineExceeded: when the host's own budget is used up.
        """
        silence, seen = Deadline(SILENCE_S), -1
        with self._changed:
            while True:
                reading = self._reading()
                if reading is not None and condition(reading):
                    return True
                if reading is not None and reading.elapsed_ns >= limit_s * 1e9:
                    return False
                if self._frames != seen:
                    silence, seen = Deadline(SILENCE_S), self._frames
                if agent.ended is not None:
                    raise GuestLostError(agent.ended)
                if silence.expired:
                    raise GuestLostError(f"the agent was silent for {SILENCE_S:.0f} s")
                self._record.check()
                deadline.check("the run")
                self._changed.wait(0.2)

    def _reading(self) -> Reading | None:
        if self._probe is None:
            return None
        rounds = self._rounds or tuple(0 for _ in self._probe.threads)
        return Reading(self._probe, self._row, self._slab_readings, self._now_ns - self._began_ns, rounds)


def host_facts() -> dict[str, Any]:
    """What run.json says of the host."""
    return {
        "host": {
            "cores": os.cpu_count(),
            "load": [round(load, 2) for load in os.getloadavg()],
            "system": " ".join(os.uname()[i] for i in (0, 2, 4)),
        }
    }
