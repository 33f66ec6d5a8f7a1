"""What the pytest plugin's fixtures give to a test: guests, recordings, and runs that were judged.

`splvm.plugin` imports this module when a test first asks for one of them, and not before.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from splvm.assets import find_debug_header
from splvm.builds.variants import find_variant
from splvm.campaign.matrix import clock_of_cell
from splvm.campaign.plan import Axes, plan_cells, read_axes
from splvm.clock import ClockChoice
from splvm.deadline import Deadline
from splvm.errors import HarnessError, UsageError
from splvm.evidence.timeline import Timeline
from splvm.evidence.verdict import Outcome, Verdict
from splvm.guest.agent import AgentStream, start_agent
from splvm.guest.guest import Guest
from splvm.history.cell import Cell
from splvm.host.capabilities import inspect_host
from splvm.host.memory import available_mib
from splvm.log import note
from splvm.record.names import EVIDENCE_FILES, RUN_FILE
from splvm.record.reader import read_facts
from splvm.record.writer import RunDirectory
from splvm.report.again import reproducer
from splvm.report.summary import plain
from splvm.run.clocks import Host, usual_clock
from splvm.run.experiment import Dump, OnPhase, run_until_fed
from splvm.run.live import LiveReadings
from splvm.run.loads import parse_loads
from splvm.run.prepare import Prepared, Wish, find_any_kernel, prepare
from splvm.run.readings import Reading
from splvm.run.scenarios import Workload
from splvm.run.starting import load_modules, start_any_guest
from splvm.scenarios.table import ANYWHERE, find_scenario

# Seconds of the host for one command in a healthy guest, and for a guest to boot and load its modules.
_COMMAND_S = 30.0
_GUEST_S = 180.0


def check_names(kernel: str, variant: str) -> None:
    """:raises UsageError: when there is no such kernel or variant; the message says what there is."""
    find_any_kernel(kernel)
    find_variant(variant)


def lacking(needed_mib: int | None) -> str:
    """What the host lacks to run a test with guests, in words; empty if nothing.

    :param needed_mib: memory that the test needs, if it says so.
    """
    problems = [f"{check.name}: {check.detail}" for check in inspect_host().checks if check.required and not check.ok]
    if needed_mib is not None and (available := available_mib()) < needed_mib:
        problems.append(f"memory: {available} MiB available, {needed_mib} needed")
    return "; ".join(problems)


def cells_of(path: Path | None, kernel: str, variant: str, wish: Wish | None = None) -> list[tuple[Cell, int | None]]:
    """The cells that a test with `run_cell` is run for; each with its number if it is repeated.

    :param path: a TOML file of `matrix`; what it does not say is `kernel` and `variant`, in the scenarios that run on
        every kernel.
    :param wish: how guests are started, which has a say in their clock; None: they have real time.
    :raises UsageError: when the file is none.
    """
    axes = read_axes(path, "--splvm-cells") if path else Axes()
    if axes.spl or axes.spl_patch or axes.debug or axes.label:
        raise UsageError(f"--splvm-cells {path}: --splvm-spl, --splvm-spl-patch and --splvm-debug choose the build")
    host = Host.of(wish) if wish and axes.clock in (None, ClockChoice.AUTO) else None
    cells = plan_cells(axes.over(Axes(scenarios=ANYWHERE, kernels=(kernel,), variants=(variant,))), host)
    numbers = range(1, axes.repeat + 1) if axes.repeat and axes.repeat > 1 else [None]
    return [(cell, number) for cell in cells for number in numbers]


def patches_of(given: Sequence[Path], *, debug: bool) -> tuple[Path, ...]:
    """The patches of a build, with what `--splvm-debug` adds."""
    return tuple(patch.absolute() for patch in (*given, *([find_debug_header()] if debug else [])))


class CachedBuilds:
    """Builds once for each wish; a failure is kept and raised again, not tried again."""

    def __init__(self) -> None:
        self._results: dict[Wish, Prepared | HarnessError] = {}

    def get(self, wish: Wish) -> Prepared:
        if wish not in self._results:
            try:
                self._results[wish] = prepare(wish)
            except HarnessError as error:
                self._results[wish] = error
        result = self._results[wish]
        if isinstance(result, HarnessError):
            raise result
        return result


@contextmanager
def start_guest(spl: Prepared, logs: Path) -> Iterator[Guest]:
    """A guest with SPL and the probe loaded.

    :param logs: directory of its console and QEMU's log.
    """
    deadline = Deadline(_GUEST_S)
    with start_any_guest(spl.plan, logs, deadline) as running:
        load_modules(running, spl.plan, deadline)
        yield running


@dataclass(frozen=True, slots=True)
class Recording:
    """The agent at work in a guest: give commands to the probe, wait on guest time, look at the evidence so far."""

    directory: RunDirectory
    agent: AgentStream
    live: LiveReadings

    def command(self, command: str) -> None:
        """Give the probe a command (docs/formats.md)."""
        self.agent.command(command, Deadline(_COMMAND_S))

    def wait_until(self, condition: Callable[[Reading], bool], limit_s: float = 10.0) -> bool:
        """Wait until `condition` holds; False when `limit_s` of guest time have passed before."""
        self.live.begin()
        return self.live.wait_until(condition, limit_s, self.agent, Deadline(_GUEST_S))

    def read(self) -> Timeline:
        """Everything that was recorded so far."""
        return Timeline.from_records(self.directory.read_so_far())


@contextmanager
def start_recording(guest: Guest, directory: Path) -> Iterator[Recording]:
    """The timeline of a guest, under way."""
    record = RunDirectory(directory, {"scenario": "test"})
    live = LiveReadings(record)
    deadline = Deadline(_COMMAND_S)
    with start_agent(guest.ssh, guest.qemu.port, rate_hz=20, sink=live.take, deadline=deadline) as agent:
        agent.command(Workload().command(), Deadline(_COMMAND_S))
        yield Recording(record, agent, live)
    record.finish({"kind": "ended", "detail": "end of the test"})


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run that was judged."""

    verdict: Verdict
    directory: Path
    # What is expected of such a run.
    expected: frozenset[Outcome]

    def must_be(self, *outcomes: Outcome) -> None:
        """Fail the test, with the reasons and the place of the evidence, unless the verdict is one of `outcomes`."""
        if self.verdict.outcome in outcomes:
            return
        lines = [f"verdict {self.verdict.outcome}, expected {' or '.join(outcomes)}"]
        lines += [f"  {plain(reason.text)}" for reason in self.verdict.reasons]
        lines += [f"  also {outcome}: {plain(reason.text)}" for outcome, reason in self.verdict.also]
        pytest.fail("\n".join([*lines, f"evidence: {self.directory}"]), pytrace=False)


def scenario_runner(
    prepare_spl: Callable[..., Prepared], directory: Path, properties: list[tuple[str, object]]
) -> Callable[..., RunResult]:
    """The function that `run_scenario` gives to a test.

    :param properties: of the test, for JUnit's XML; what is to be said of each run is added.
    """
    numbers = itertools.count()

    def run(
        scenario: str,
        *,
        window_s: float | None = None,
        workload: Workload | None = None,
        dump: Dump = Dump.NEVER,
        load: str = "",
        on_phase: OnPhase | None = None,
        **changes: Any,
    ) -> RunResult:
        chosen, loads = find_scenario(scenario), parse_loads([load] if load else ())
        prepared = prepare_spl(**changes)
        # What looks at a guest in its run is something from outside.
        if "clock" not in changes and on_phase is None:
            host = Host(prepared.accelerator.name == "tcg", prepared.clones, prepared.machine.ram_mib)
            usual = usual_clock(host, chosen, loads, prepared.kernel.spec.id, dump)
            note(f"{scenario}: {usual}")
            prepared = prepare_spl(**changes, clock=usual.clock)
        experiment = prepared.experiment(chosen, window_s=window_s, workload=workload, dump=dump, loads=loads)
        verdict, evidence = run_until_fed(experiment, directory / f"run{next(numbers)}", on_phase=on_phase)[-1]
        # As `record_property` does, which warns of any form of JUnit's XML but an old one.
        properties.extend(_properties(verdict, evidence))
        return RunResult(verdict, evidence, experiment.expected)

    return run


def _properties(verdict: Verdict, directory: Path) -> Iterator[tuple[str, object]]:
    """What JUnit's XML is to say of a run (`--junit-xml`): verdict, build, evidence and where it is."""
    facts = read_facts(directory)
    yield "verdict", verdict.outcome.value
    yield "reason", plain(verdict.reasons[0].text)
    yield "kernel", plain(str(facts["kernel"]["release"]))
    yield "spl", plain(f"{facts['spl']['version']} {facts['spl']['variant']}")
    yield "command", reproducer(facts, paths=True)
    yield "evidence", str(directory)
    yield from (("attachment", str(directory / name)) for name in (RUN_FILE, *EVIDENCE_FILES))


def cell_runner(cell: Cell, run_scenario: Callable[..., RunResult]) -> Callable[[], RunResult]:
    """The function that `run_cell` gives to a test."""

    def run() -> RunResult:
        clock = clock_of_cell(cell)
        result = run_scenario(cell.scenario, kernel=cell.kernel, variant=cell.variant, load=cell.loads, clock=clock)
        result.must_be(*sorted(result.expected))
        return result

    return run
