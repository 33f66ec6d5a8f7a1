"""The pytest plugin: guests, and verdicts on them, as fixtures.

The only module that imports pytest. Registered under the entry point `pytest11`, so a test directory of the user's own
has it after `pip install`.

A wrong verdict is a failure of the test, with its evidence; trouble of the harness is an error. A host that cannot run
guests skips the tests marked `vm`, unless `--require-vm` is given.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from testinfra.backend.base import BaseBackend, CommandResult
from testinfra.host import Host

from splvm.builds.kernels import KERNELS
from splvm.builds.variants import VARIANTS, find_variant
from splvm.campaign.plan import Axes, plan_cells, read_axes
from splvm.deadline import Deadline
from splvm.errors import HarnessError, UsageError
from splvm.evidence.timeline import Timeline
from splvm.evidence.verdict import Outcome, Verdict
from splvm.guest.agent import AgentStream, start_agent
from splvm.guest.guest import Guest
from splvm.history.cell import Cell
from splvm.host.capabilities import inspect_host
from splvm.host.memory import available_mib
from splvm.log import setup_logging
from splvm.record.names import EVIDENCE_FILES, RUN_FILE
from splvm.record.reader import read_facts
from splvm.record.writer import RunDirectory
from splvm.report.issue import reproducer
from splvm.report.summary import plain
from splvm.run.experiment import Dump, LiveReadings, OnPhase, run_until_fed
from splvm.run.loads import parse_loads
from splvm.run.prepare import Prepared, Wish, find_any_kernel, prepare
from splvm.run.readings import Reading
from splvm.run.scenarios import ANYWHERE, Workload, find_scenario
from splvm.run.starting import load_modules, start_any_guest

# Seconds of the host for one command in a healthy guest, and for a guest to boot and load its modules.
COMMAND_S = 30.0
GUEST_S = 180.0

_MARKERS = (
    "vm: boots guests; skipped where the host cannot, unless --require-vm is given",
    "slow: takes longer than the default suite allows; run with --run-slow",
    "kernels(*ids): runs only on these kernels",
    "memory(mib): needs this much memory of the host",
    "cell(scenario, kernel, variant, loads): one cell of a matrix; select with -m \"cell(variant='stock')\"",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("splvm", "guests with SPL (splvm)")
    group.addoption("--kernel", default="debian-12", metavar="ID", help=f"kernel: {', '.join(KERNELS)}")
    group.addoption("--variant", default="stock", metavar="NAME", help=f"variant of SPL: {', '.join(VARIANTS)}")
    group.addoption("--spl", default="debian", metavar="SOURCE", help="source of SPL: debian or path:DIR")
    group.addoption(
        "--spl-patch", action="append", default=[], type=Path, metavar="FILE", help=".patch or .cocci, may be repeated"
    )
    group.addoption(
        "--cells",
        type=Path,
        metavar="FILE",
        help="cells for tests with the fixture `run_cell`, a TOML file of `matrix`",
    )
    group.addoption("--accel", default="auto", choices=("auto", "kvm", "tcg"), help="accelerator")
    group.addoption("--no-template", action="store_true", help="boot each guest; otherwise they are clones of one")
    group.addoption("--require-vm", action="store_true", help="fail, not skip, where guests cannot run")
    group.addoption("--run-slow", action="store_true", help="also run tests marked slow")


def pytest_configure(config: pytest.Config) -> None:
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    try:
        find_any_kernel(config.getoption("--kernel"))
        find_variant(config.getoption("--variant"))
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error
    setup_logging(0 if config.getoption("verbose") > 0 else -1)
    if not config.getoption("hosts", None):
        # Registered after testinfra's own plugin, so that `host` is the guest. Whoever names other hosts gets those.
        config.pluginmanager.register(_HostPlugin(), "splvm-host")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `run_cell` is one for each cell of a matrix."""
    # Others may have a fixture `cell` of their own.
    if "run_cell" not in metafunc.fixturenames:
        return
    option = metafunc.config.getoption
    default = Axes(scenarios=ANYWHERE, kernels=(option("--kernel"),), variants=(option("--variant"),))
    try:
        axes = read_axes(option("--cells")) if option("--cells") else Axes()
        cells = plan_cells(axes.over(default))
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error
    repeats = range(1, (axes.repeat or 1) + 1)
    metafunc.parametrize("cell", [_as_parameter(cell, n, len(repeats)) for cell in cells for n in repeats])


def _as_parameter(cell: Cell, number: int, repeats: int) -> Any:
    names = [*filter(None, asdict(cell).values()), *([str(number)] if repeats > 1 else [])]
    return pytest.param(cell, id="-".join(names), marks=[pytest.mark.vm, pytest.mark.cell(**asdict(cell))])


def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    run_slow = config.getoption("--run-slow")
    for item in items:
        if item.get_closest_marker("slow") and not run_slow:
            item.add_marker(pytest.mark.skip(reason="slow; run with --run-slow"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if not item.get_closest_marker("vm"):
        return
    lacking = _lacking(item)
    if lacking and item.config.getoption("--require-vm"):
        pytest.fail(f"--require-vm: {lacking}", pytrace=False)
    if lacking:
        pytest.skip(lacking)
    marker = item.get_closest_marker("kernels")
    kernel = item.config.getoption("--kernel")
    if marker and kernel not in marker.args:
        pytest.skip(f"not for kernel {kernel}")


def _lacking(item: pytest.Item) -> str:
    """What the host lacks to run a test, in words; empty if nothing."""
    problems = [f"{check.name}: {check.detail}" for check in inspect_host().checks if check.required and not check.ok]
    marker = item.get_closest_marker("memory")
    if marker:
        available = available_mib()
        if available < marker.args[0]:
            problems.append(f"memory: {available} MiB available, {marker.args[0]} needed")
    return "; ".join(problems)


class _Cached:
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


@pytest.fixture(scope="session")
def prepare_spl(pytestconfig: pytest.Config) -> Callable[..., Prepared]:
    """A function that builds SPL for the kernel of the command line.

    Its arguments are fields of `Wish` and take precedence over the options.
    """
    option = pytestconfig.getoption
    base: dict[str, Any] = {
        "kernel": option("--kernel"),
        "variant": option("--variant"),
        "spl": option("--spl"),
        "patches": tuple(patch.absolute() for patch in option("--spl-patch")),
        "accelerator": option("--accel"),
        "clones": not option("--no-template"),
    }
    cached = _Cached()
    return lambda **changes: cached.get(Wish(**{**base, **changes}))


@pytest.fixture(scope="session")
def spl(prepare_spl: Callable[..., Prepared]) -> Prepared:
    """Kernel and modules that the options ask for, built."""
    return prepare_spl()


@pytest.fixture
def guest(spl: Prepared, tmp_path: Path) -> Iterator[Guest]:
    """A guest of this test's own, with SPL and the probe loaded."""
    deadline = Deadline(GUEST_S)
    with start_any_guest(spl.plan, tmp_path, deadline) as running:
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
        self.agent.command(command, Deadline(COMMAND_S))

    def wait_until(self, condition: Callable[[Reading], bool], limit_s: float = 10.0) -> bool:
        """Wait until `condition` holds; False when `limit_s` of guest time have passed before."""
        self.live.begin()
        return self.live.wait_until(condition, limit_s, self.agent, Deadline(GUEST_S))

    def read(self) -> Timeline:
        """Everything that was recorded so far."""
        return Timeline.from_records(self.directory.read_so_far())


@pytest.fixture
def timeline(guest: Guest, tmp_path: Path) -> Iterator[Recording]:
    """The timeline of the test's guest, under way."""
    record = RunDirectory(tmp_path / "timeline", {"scenario": "test"})
    live = LiveReadings(record)
    deadline = Deadline(COMMAND_S)
    with start_agent(guest.ssh, guest.qemu.port, rate_hz=20, sink=live.take, deadline=deadline) as agent:
        agent.command(Workload().command(), Deadline(COMMAND_S))
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


@pytest.fixture
def run_scenario(
    prepare_spl: Callable[..., Prepared], tmp_path: Path, request: pytest.FixtureRequest
) -> Callable[..., RunResult]:
    """A function that runs a scenario and judges it.

    Its arguments: the scenario's name, `window_s`, `workload`, `dump`, `load` as on the command line, `on_phase`, and
    fields of `Wish`. A run whose guest was starved by the host is done again, as a run of its own.
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
        experiment = prepare_spl(**changes).experiment(
            find_scenario(scenario),
            window_s=window_s,
            workload=workload,
            dump=dump,
            loads=parse_loads([load] if load else ()),
        )
        runs = run_until_fed(experiment, tmp_path / f"run{next(numbers)}", on_phase=on_phase)
        verdict, directory = runs[-1]
        # As `record_property` does, which warns of any form of JUnit's XML but an old one.
        request.node.user_properties += _properties(verdict, directory)
        return RunResult(verdict, directory, experiment.expected)

    return run


def _properties(verdict: Verdict, directory: Path) -> Iterator[tuple[str, object]]:
    """What JUnit's XML is to say of a run (`--junit-xml`): verdict, build, evidence and where it is."""
    facts = read_facts(directory)
    yield "verdict", verdict.outcome.value
    yield "reason", plain(verdict.reasons[0].text)
    yield "kernel", plain(str(facts["kernel"]["release"]))
    yield "spl", plain(f"{facts['spl']['version']} {facts['spl']['variant']}")
    yield "command", reproducer(facts)
    yield "evidence", str(directory)
    yield from (("attachment", str(directory / name)) for name in (RUN_FILE, *EVIDENCE_FILES))


@pytest.fixture
def run_cell(cell: Cell, run_scenario: Callable[..., RunResult]) -> Callable[[], RunResult]:
    """A function that runs the test's cell of a matrix, and fails unless its verdict is what is expected of it.

    A test that asks for it is there once for each cell of `--cells FILE`.
    """

    def run() -> RunResult:
        result = run_scenario(cell.scenario, kernel=cell.kernel, variant=cell.variant, load=cell.loads)
        result.must_be(*sorted(result.expected))
        return result

    return run


class _GuestBackend(BaseBackend):  # type: ignore[misc]
    """testinfra over the guest's own connection, with a deadline on every command.

    testinfra's paramiko backend has none, and after a reconnect may run a command twice.
    """

    NAME = "splvm"

    def __init__(self, guest: Guest) -> None:
        super().__init__("guest")
        self._guest = guest

    def run(self, command: str, *args: str, **kwargs: Any) -> CommandResult:
        line = self.get_command(command, *args)
        result = self._guest.ssh.run(line, deadline=Deadline(COMMAND_S), check=False)
        return self.result(result.status, line, result.stdout, result.stderr)


class _HostPlugin:
    """testinfra's `host`, for the guest of the test."""

    @pytest.fixture
    def host(self, guest: Guest) -> Host:
        """Assertions of testinfra on a healthy guest."""
        return Host(_GuestBackend(guest))
