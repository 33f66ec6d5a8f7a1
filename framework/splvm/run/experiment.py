"""One experiment: boot a guest, go through the steps of a scenario, record everything, judge the record.

The verdict is made from the files in the run's directory, by the code that `splvm judge` runs. So it can never rest on
something that was not recorded.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from splvm.clock import Clock
from splvm.deadline import Deadline
from splvm.errors import BootError, DeadlineExceeded, GuestLostError, HarnessError, QemuLaunchError
from splvm.evidence.judge import judge
from splvm.evidence.verdict import Outcome, Verdict
from splvm.guest.agent import start_agent
from splvm.guest.bell import Beginning
from splvm.guest.closed import BOOT_S
from splvm.guest.guest import Guest
from splvm.guest.guestplan import GuestPlan
from splvm.guest.lockstep import LockStep
from splvm.guest.machine import MachineSpec
from splvm.guest.memorydump import DUMP_LIMIT_BYTES
from splvm.guest.moment import MomentReached
from splvm.guest.monitor import Monitor
from splvm.host.store import Store
from splvm.host.turns import take_turn
from splvm.log import LOGGER, LogFile, note, step
from splvm.record.cellfacts import differing, flatten_parameters
from splvm.record.names import CONSOLE_FILE, HARNESS_FILE
from splvm.record.reader import read_evidence
from splvm.record.writer import RunDirectory
from splvm.run.closedrun import Witness, drive, start_closed_clone
from splvm.run.coverage import Cover, covering
from splvm.run.delays import TELL_COMMAND, Delay, watch_commands
from splvm.run.delays import commands as delay_commands
from splvm.run.hostwatch import host_facts, start_host_watch
from splvm.run.live import LiveReadings
from splvm.run.loads import Load, start_closed_loads, start_loads
from splvm.run.scenarios import LOAD_STEP, Faults, Scenario, Storm, Workload
from splvm.run.starting import load_modules, start_any_guest
from splvm.run.stepping import take_steps

# Seconds of the host that a run may take beyond its boot, at most; a scenario here takes about ten.
RUN_BUDGET_S = 300.0

# Seconds of the host beyond that, kept in reserve for the evidence of a guest in trouble.
EVIDENCE_S = 60.0

# Seconds that a run waits for others to end; each of them has its own budget.
TURN_S = 2 * (RUN_BUDGET_S + EVIDENCE_S)

# Where a guest has it; init does not mount it.
_DEBUGFS = "/sys/kernel/debug"

# How often the run's own word is written to the kernel's log at most, and how long the console may take for it, in
# seconds of the host. A host that starves the guest loses characters of its serial line.
_TOKEN_TRIES = 3
_TOKEN_S = 5.0


class Dump(StrEnum):
    """When a dump of the guest's memory is kept."""

    NEVER = "never"
    # Of a guest that stalls or is lost.
    TROUBLE = "trouble"
    # Also at the end of every window.
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class Experiment:
    """Everything that one run needs; nothing is built or fetched any more."""

    scenario: Scenario
    guest: GuestPlan
    # What run.json says of kernel, SPL, host.
    facts: Mapping[str, Any]
    # Verdicts that count as expected.
    expected: frozenset[Outcome]
    # Seconds of guest time.
    window_s: float
    # Samples a second.
    rate_hz: int = 20
    workload: Workload = field(default_factory=Workload)
    dump: Dump = Dump.NEVER
    # What the guest has to bear meanwhile, and what random numbers of it are drawn from.
    loads: tuple[Load, ...] = ()
    seed: int = 1
    # Reclaim at allocation sites, and whether they are watched: of which module, empty: not.
    storm: Storm | None = None
    watched: str = ""
    # Delays at instructions of SPL; or places that are counted, and told of at the end.
    delays: tuple[Delay, ...] = ()
    watched_points: tuple[str, ...] = ()
    # To say which lines of SPL are executed; None: nobody asks. The guest sees nothing of it.
    cover: Cover | None = None

    def nth(self, number: int) -> Experiment:
        """The same with the seed of a run in a series; that of the first is its own."""
        return replace(self, seed=self.seed + number - 1)


# Called with the guest and the name of each phase as it begins. Whoever wants to disturb a run does it here.
OnPhase = Callable[[Guest, str], None]


def run_experiment(
    experiment: Experiment, out: Path, on_phase: OnPhase | None = None, witness: Witness | None = None
) -> Verdict:
    """Run an experiment and judge it. All evidence is in `out` afterwards, also after an error.

    :param out: directory of the run.
    :param witness: of a run in virtual time.
    :raises MomentReached: when the witness has a counter that holds the guest at a moment.
    :raises BootError: when the guest does not come up.
    :raises HarnessError: for any other trouble that is not the guest's.
    """
    # The run's own word: in samples.jsonl from the beginning, and on the console as soon as there is a guest.
    record = RunDirectory(out, {**_facts(experiment), "token": secrets.token_hex(8)})
    outcome: dict[str, Any] = {"kind": "cut off", "detail": "the harness failed"}
    try:
        with _harness_log(out / HARNESS_FILE):
            try:
                outcome = _run_guest(experiment, record, on_phase, witness)
            except (KeyboardInterrupt, SystemExit):
                outcome = {"kind": "interrupted", "detail": "by a signal"}
                raise
            except MomentReached:
                outcome = {"kind": "stopped", "detail": "at the moment that was asked for"}
                raise
            except (BootError, QemuLaunchError) as error:
                outcome = {"kind": "never up", "detail": error.message}
                raise
            except HarnessError as error:
                outcome = {"kind": "cut off", "detail": error.message}
                raise
    finally:
        record.finish(outcome)
    verdict = judge(read_evidence(out), experiment.scenario.rule)
    record.write_verdict(verdict)
    return verdict


def run_until_fed(
    experiment: Experiment, out: Path, attempts: int = 3, on_phase: OnPhase | None = None
) -> list[tuple[Verdict, Path]]:
    """Run an experiment, and again while the host starved the guest of CPU. Every run is kept with its verdict.

    The first run shares the host with other runs, also of other processes. Each further run has the host alone.

    :param out: directory of the first run; the others are beside it, with `-2` and so on at the end of the name.
    :returns: verdict and directory of each run; the last one counts.
    """
    results: list[tuple[Verdict, Path]] = []
    for number in range(1, attempts + 1):
        directory = attempt_directory(out, number)
        with take_turn(Store.default_root() / "locks", alone=number > 1, deadline=Deadline(TURN_S)):
            results.append((run_experiment(experiment, directory, on_phase), directory))
        verdict = results[-1][0]
        if not verdict.is_starved:
            break
        if number < attempts:
            note(f"{directory}: {verdict.starved}; running again")
    return results


def attempt_directory(out: Path, number: int) -> Path:
    """Where the run of an attempt is, counted from 1."""
    return out if number == 1 else out.with_name(f"{out.name}-{number}")


def _facts(experiment: Experiment) -> dict[str, Any]:
    scenario, loads = experiment.scenario, experiment.loads
    is_virtual = experiment.guest.machine.clock is Clock.VIRTUAL
    return {
        "scenario": scenario.name,
        "rule": scenario.rule.to_json(),
        "expected": sorted(experiment.expected),
        "parameters": {
            "latency_bound_ms": scenario.latency_bound_ms,
            "rate_hz": experiment.rate_hz,
            **_done_to_guest(experiment),
            **({"load": ",".join(map(str, loads))} if loads else {}),
            **({"seed": experiment.seed} if loads or is_virtual or experiment.storm else {}),
            **({"watched": experiment.watched} if experiment.watched else {}),
            **({"points": len(experiment.watched_points)} if experiment.watched_points else {}),
        },
        **({"loads": [load.to_json() for load in loads]} if loads else {}),
        **({"faults": asdict(scenario.faults)} if scenario.faults else {}),
        **experiment.facts,
        "differs": differing_parameters(experiment),
        "started": datetime.now(UTC).isoformat(timespec="milliseconds"),
        **host_facts(),
    }


# What a run's record says of the host that ran it, and not of what was asked for.
_OF_THE_HOST = ("started", "host")


def differing_facts(experiment: Experiment, facts: Mapping[str, Any]) -> list[str]:
    """What a record's run.json says otherwise than a run of this experiment would, by name; nothing if it is one."""
    asked: dict[str, Any] = json.loads(json.dumps(_facts(experiment)))
    return [name for name, value in asked.items() if name not in _OF_THE_HOST and facts.get(name) != value]


def _done_to_guest(experiment: Experiment) -> dict[str, Any]:
    """The parameters that decide what is done to a guest."""
    return {
        "window_s": experiment.window_s,
        "ram_mib": experiment.guest.machine.ram_mib,
        "cpus": experiment.guest.machine.cpus,
        **({"preempt": experiment.guest.machine.preempt} if experiment.guest.machine.preempt else {}),
        **({"clock": Clock.VIRTUAL} if experiment.guest.machine.clock is Clock.VIRTUAL else {}),
        "workload": asdict(experiment.workload),
        **({"delays": ",".join(map(str, experiment.delays))} if experiment.delays else {}),
        **({"storm": {**asdict(experiment.storm), "only": list(experiment.storm.only)}} if experiment.storm else {}),
    }


def differing_parameters(experiment: Experiment) -> dict[str, str]:
    """The parameters that the scenario does not have by itself, by name: they are a part of the run's cell."""
    told = flatten_parameters(_done_to_guest(experiment), None)
    return differing(told, own_parameters(experiment.scenario, experiment.window_s))


def own_parameters(scenario: Scenario, window_s: float) -> dict[str, str]:
    """The parameters that a scenario has by itself, by name.

    :param window_s: of the run, because the workload of some scenarios lasts as long as the window.
    """
    usual = MachineSpec("", Path(), (), "")
    own = {
        "window_s": scenario.window_s,
        "ram_mib": max(usual.ram_mib, scenario.least_mib),
        "cpus": max(usual.cpus, scenario.least_cpus),
        "workload": asdict(scenario.workload(window_s)),
        **({"storm": {**asdict(scenario.storm), "only": list(scenario.storm.only)}} if scenario.storm else {}),
    }
    return flatten_parameters(own, None)


@contextmanager
def _harness_log(path: Path) -> Iterator[None]:
    """Keep what the harness logs from this thread and those it starts; other runs have logs of their own."""
    handler = LogFile(path, mode="w", encoding="utf-8", errors="backslashreplace")
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


def _run_guest(
    experiment: Experiment, record: RunDirectory, on_phase: OnPhase | None, witness: Witness | None
) -> dict[str, Any]:
    """Boot, run, end. A guest that is lost on the way is an outcome, not an error."""
    LOGGER.debug("run of %s in %s", experiment.scenario.name, record.path)
    deadline = Deadline(RUN_BUDGET_S)
    if experiment.guest.machine.clock is Clock.VIRTUAL:
        return _run_closed(experiment, record, deadline, witness)
    with ExitStack() as stack:
        guest = stack.enter_context(start_any_guest(experiment.guest, record.path, deadline))
        record.add_facts({"boots": guest.boots, "template": guest.template, "no_clone": guest.no_clone})
        monitor = Monitor(guest, record.path, 0 if experiment.dump is Dump.NEVER else DUMP_LIMIT_BYTES)
        outcome: dict[str, Any] = {"kind": "ended", "detail": "all steps were taken"}
        try:
            _drive(guest, monitor, experiment, record, on_phase, deadline)
        except (GuestLostError, DeadlineExceeded) as error:
            LOGGER.debug("lost: %s", error)
            outcome = _look_into(monitor, record, error)
    # What was read of the console, so that a log that the disk had no room for shows.
    return {**outcome, "console_bytes": guest.console.position}


def _run_closed(
    experiment: Experiment, record: RunDirectory, deadline: Deadline, witness: Witness | None
) -> dict[str, Any]:
    """The same in virtual time, where nobody disturbs a run."""
    scenario, live = experiment.scenario, LiveReadings(record)
    console = record.path / CONSOLE_FILE

    def take(agent: LockStep, list_tasks: Callable[[], None]) -> None:
        def after(phase: str) -> None:
            if phase == "window-end" and live.stands_still:
                list_tasks()

        for command in _first_commands(experiment):
            agent.command(command, deadline)
        reached = False
        with step(f"{scenario.name}: {scenario.summary}"):
            steps = scenario.steps(experiment.window_s)
            try:
                if experiment.loads:
                    machine, said = experiment.guest.machine, partial(console.read_text, errors="replace")
                    start_closed_loads(agent, machine, experiment.loads, experiment.seed, said)
                    steps = (LOAD_STEP, *steps)
                take_steps(steps, agent, live, record, deadline, before=lambda _: None, after=after)
            except MomentReached:
                # The step has not failed: it is as far as somebody wants to go.
                reached = True
        if reached:
            raise MomentReached
        if experiment.watched_points:
            agent.command(TELL_COMMAND, deadline)

    beginning = Beginning(experiment.rate_hz, experiment.seed)
    with ExitStack() as stack:
        if experiment.cover is not None:
            looking_on = covering(
                experiment.cover, experiment.guest, scenario.name, record.path, witness, deadline.sub(BOOT_S)
            )
            witness = stack.enter_context(looking_on)
        guest = stack.enter_context(start_closed_clone(experiment.guest, beginning, record, deadline, witness))
        outcome = drive(guest, record, live, take, deadline, witness)
    # QEMU has written it all, and has ended.
    return {**outcome, "console_bytes": console.stat().st_size}


def _first_commands(experiment: Experiment) -> tuple[str, ...]:
    """What the probe is set to before the first step."""
    watch = (f"sites on {experiment.watched}",) if experiment.watched else ()
    storm = experiment.storm.commands(experiment.seed) if experiment.storm else ()
    explore = (*watch_commands(experiment.watched_points), *delay_commands(experiment.delays))
    return (experiment.workload.command(), *watch, *storm, *explore)


def _look_into(monitor: Monitor, record: RunDirectory, error: HarnessError) -> dict[str, Any]:
    """What became of a guest that fell silent, and its last evidence."""
    with step("nothing comes from the guest any more; taking its last evidence"):
        diagnosis, taken = monitor.look_into(Deadline(EVIDENCE_S))
    look = {"condition": diagnosis.condition, "text": diagnosis.text, "taken": [it.to_json() for it in taken]}
    record.record_look("lost", look)
    return {"kind": "lost", "condition": diagnosis.condition, "detail": f"{error.message}; {diagnosis.text}"}


def _drive(
    guest: Guest,
    monitor: Monitor,
    experiment: Experiment,
    record: RunDirectory,
    on_phase: OnPhase | None,
    deadline: Deadline,
) -> None:
    load_modules(guest, experiment.guest, deadline)
    _sign_console(guest, record, deadline)
    record.add_facts({"spl_parameters": _parameters(guest, deadline)})
    if experiment.scenario.faults is not None:
        record.add_facts({"fault_settings": _set_faults(guest, experiment.scenario.faults, deadline)})
    live = LiveReadings(record)
    with (
        start_host_watch(monitor.take_reading, record.record_host),
        start_agent(
            guest.ssh,
            guest.qemu.port,
            rate_hz=experiment.rate_hz,
            sink=live.take,
            deadline=deadline,
            is_starving=monitor.is_starving,
        ) as agent,
    ):
        for command in _first_commands(experiment):
            agent.command(command, deadline.sub(20))
        steps = experiment.scenario.steps(experiment.window_s)
        if experiment.loads:
            start_loads(guest, experiment.loads, experiment.seed, deadline)
            steps = (LOAD_STEP, *steps)

        def before(phase: str) -> None:
            if on_phase is not None:
                on_phase(guest, phase)

        def after(phase: str) -> None:
            if phase == "window-end" and (experiment.dump is Dump.ALWAYS or live.stands_still):
                taken = monitor.take_stall(Deadline(EVIDENCE_S))
                record.record_look("the end of the window", {"taken": [it.to_json() for it in taken]})

        with step(f"{experiment.scenario.name}: {experiment.scenario.summary}"):
            take_steps(steps, agent, live, record, deadline, before=before, after=after)
        if not agent.quit(deadline.sub(20)):
            raise GuestLostError(f"the agent did not finish its stream: {agent.gone() or 'no end came'}")


def _sign_console(guest: Guest, record: RunDirectory, deadline: Deadline) -> None:
    """Have the guest's console say a word of this run's own; evidence/checks/complete.py looks for it."""
    token = record.facts["token"]
    for _ in range(_TOKEN_TRIES):
        since = guest.console.position
        guest.ssh.run(f"echo splvm: run {token} > /dev/kmsg", deadline=deadline.sub(20))
        if guest.console.says(rf"splvm: run {token}\r?\n", deadline.sub(_TOKEN_S), since=since):
            return
    LOGGER.debug("the console does not have the run's word")


def _parameters(guest: Guest, deadline: Deadline) -> dict[str, str]:
    """SPL's parameters: half of them decide how its caches behave."""
    listing = guest.ssh.run("cd /sys/module/spl/parameters && grep . *", deadline=deadline.sub(20), check=False)
    pairs = (line.partition(":")[::2] for line in listing.stdout.splitlines()[:200])
    return {name: value[:200] for name, value in pairs}


def _set_faults(guest: Guest, faults: Faults, deadline: Deadline) -> dict[str, str]:
    """Set up the kernel's fault injection, for tasks that the probe will mark; how it is set then.

    :raises GuestCommandError: when the guest's kernel does not have it.
    """
    writes = "".join(f" && echo {value} > {name}" for name, value in faults.settings().items())
    script = f"mount -t debugfs none {_DEBUGFS} && cd {_DEBUGFS}/fail_page_alloc{writes} && grep . *"
    listing = guest.ssh.run(script, deadline=deadline.sub(20))
    pairs = (line.partition(":")[::2] for line in listing.stdout.splitlines()[:50])
    return {name: value[:200] for name, value in pairs}
