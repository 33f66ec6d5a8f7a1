"""The pytest plugin: guests, and verdicts on them, as fixtures.

Registered under the entry point `pytest11`, so every suite of an environment with splvm loads it: it imports pytest and
the standard library alone until a test asks for one of its fixtures or markers, or its options name a kernel, and does
nothing to tests that do not. `splvm.pytest_fixtures` has what the fixtures give.

A wrong verdict is a failure of the test, with its evidence; trouble of the harness is an error. A host that cannot run
guests skips the tests marked `splvm_vm`, unless `--splvm-require-vm` is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

    from splvm.guest.guest import Guest
    from splvm.history.cell import Cell
    from splvm.pytest_fixtures import Recording, RunResult
    from splvm.run.prepare import Prepared

_KERNEL = "debian-12"
_VARIANT = "stock"

_MARKERS = (
    "splvm_vm: boots guests; skipped on a host that cannot run guests, unless --splvm-require-vm is given",
    "splvm_slow: takes longer than the default suite allows; run with --splvm-run-slow",
    "splvm_kernels(*ids): runs only on these kernels",
    "splvm_memory(mib): needs this much available memory of the host, MiB",
    "splvm_cell(scenario, kernel, variant, loads): a cell of a matrix; select it by -m \"splvm_cell(variant='stock')\"",
)

# Options without their prefix; they had these names once, which others use too.
_OLD_NAMES = ("kernel", "variant", "spl", "spl-patch", "cells", "accel", "no-template", "require-vm", "run-slow")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("splvm", "guests with SPL (splvm)")
    group.addoption("--splvm-kernel", default=_KERNEL, metavar="ID", help="kernel; `splvm kernels` lists them")
    group.addoption(
        "--splvm-variant", default=_VARIANT, metavar="NAME", help="the variant of SPL; `splvm variants` lists them"
    )
    group.addoption(
        "--splvm-spl", default="debian", metavar="SOURCE", help="source of SPL: debian, path:DIR, git:DIR@REV or pr:N"
    )
    group.addoption(
        "--splvm-spl-patch",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a .patch, .cocci or .h file for the source; may be given again",
    )
    group.addoption(
        "--splvm-debug", action="store_true", help="build all modules with OpenZFS's debug option (assertions)"
    )
    group.addoption(
        "--splvm-cells",
        type=Path,
        metavar="FILE",
        help="cells of tests with the fixture `run_cell`: a TOML file as `splvm matrix --file` takes it",
    )
    group.addoption("--splvm-accel", default="auto", choices=("auto", "kvm", "tcg"), help="accelerator")
    group.addoption(
        "--splvm-no-template", action="store_true", help="boot each guest; by default guests are clones of a template"
    )
    group.addoption(
        "--splvm-require-vm",
        action="store_true",
        help="fail where guests cannot run; by default skip",
    )
    group.addoption("--splvm-run-slow", action="store_true", help="also run tests with the marker splvm_slow")


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(parser: pytest.Parser, args: list[str]) -> Iterator[None]:
    """An option's old name is an error that says the new one, unless somebody else has an option of that name.

    All who can have one have said so once the first files conftest.py are read.
    """
    result = yield
    if not any(map(_new_name, args)):
        return result
    _, unknown = parser.parse_known_and_unknown_args(args)
    renamed = [f"{word.partition('=')[0]} is {new} now" for word in unknown if (new := _new_name(word))]
    if renamed:
        raise pytest.UsageError("; ".join(renamed))
    return result


def _new_name(word: str) -> str | None:
    """What an old option is called now."""
    dashes, name = word[:2], word.partition("=")[0][2:]
    return f"--splvm-{name}" if dashes == "--" and name in _OLD_NAMES else None


def pytest_configure(config: pytest.Config) -> None:
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    kernel, variant = config.getoption("--splvm-kernel"), config.getoption("--splvm-variant")
    if (kernel, variant) == (_KERNEL, _VARIANT):
        return
    from splvm.errors import UsageError
    from splvm.pytest_fixtures import check_names

    try:
        check_names(kernel, variant)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `run_cell` is one for each cell of a matrix."""
    # `run_cell` asks for it; a fixture `run_cell` of somebody else's does not.
    if "splvm_cell" not in metafunc.fixturenames or _is_theirs(metafunc, "splvm_cell"):
        return
    from splvm.errors import UsageError
    from splvm.pytest_fixtures import cells_of
    from splvm.run.prepare import Wish

    option = metafunc.config.getoption
    try:
        wish = Wish(accelerator=option("--splvm-accel"), clones=not option("--splvm-no-template"))
        cells = cells_of(option("--splvm-cells"), option("--splvm-kernel"), option("--splvm-variant"), wish)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from error
    metafunc.parametrize("splvm_cell", [_as_parameter(cell, number) for cell, number in cells])


def _is_theirs(metafunc: pytest.Metafunc, name: str) -> bool:
    """Whether somebody else's fixture or parameter has a name that is a parameter alone here, and no fixture."""
    marked = (mark.args[0] for mark in metafunc.definition.iter_markers("parametrize") if mark.args)
    words = {word.strip() for names in marked for word in (names.split(",") if isinstance(names, str) else names)}
    # pytest has no public way to ask for it here.
    return name in words or bool(getattr(metafunc, "_arg2fixturedefs", {}).get(name))


def _as_parameter(cell: Cell, number: int | None) -> Any:
    names = [*cell.words, *([] if number is None else [str(number)])]
    marks = [pytest.mark.splvm_vm, pytest.mark.splvm_cell(**asdict(cell))]
    return pytest.param(cell, id="-".join(names), marks=marks)


def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    run_slow = config.getoption("--splvm-run-slow")
    for item in items:
        if item.get_closest_marker("splvm_slow") and not run_slow:
            item.add_marker(pytest.mark.skip(reason="slow; run with --splvm-run-slow"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Steps and notes go to stderr for as long as a test runs that has to do with guests."""
    if not item.get_closest_marker("splvm_vm") and "prepare_spl" not in getattr(item, "fixturenames", ()):
        return (yield)
    from splvm.log import end_logging, setup_logging

    setup_logging(0 if item.config.getoption("verbose") > 0 else -1)
    try:
        return (yield)
    finally:
        end_logging()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if not item.get_closest_marker("splvm_vm"):
        return
    from splvm.pytest_fixtures import lacking

    memory = item.get_closest_marker("splvm_memory")
    if memory and not (memory.args and isinstance(memory.args[0], int)):
        raise pytest.UsageError(f"{item.nodeid}: the marker splvm_memory takes MiB, as in splvm_memory(2048)")
    trouble = lacking(memory.args[0] if memory else None)
    if trouble and item.config.getoption("--splvm-require-vm"):
        pytest.fail(f"--splvm-require-vm: {trouble}", pytrace=False)
    if trouble:
        pytest.skip(trouble)
    marker = item.get_closest_marker("splvm_kernels")
    kernel = item.config.getoption("--splvm-kernel")
    if marker and kernel not in marker.args:
        pytest.skip(f"not for kernel {kernel}")


@pytest.fixture(scope="session")
def prepare_spl(pytestconfig: pytest.Config) -> Callable[..., Prepared]:
    """A function that builds SPL for the kernel of the command line.

    Its arguments are fields of `Wish` and take precedence over the options.
    """
    from splvm.pytest_fixtures import CachedBuilds, patches_of
    from splvm.run.prepare import Wish

    option = pytestconfig.getoption
    base: dict[str, Any] = {
        "kernel": option("--splvm-kernel"),
        "variant": option("--splvm-variant"),
        "spl": option("--splvm-spl"),
        "patches": patches_of(option("--splvm-spl-patch"), debug=option("--splvm-debug")),
        "accelerator": option("--splvm-accel"),
        "clones": not option("--splvm-no-template"),
    }
    cached = CachedBuilds()
    return lambda **changes: cached.get(Wish(**{**base, **changes}))


@pytest.fixture(scope="session")
def spl(prepare_spl: Callable[..., Prepared]) -> Prepared:
    """The kernel and the modules of the options, built."""
    return prepare_spl()


@pytest.fixture
def guest(spl: Prepared, tmp_path: Path) -> Iterator[Guest]:
    """A guest of this test's own, with SPL and the probe loaded."""
    from splvm.pytest_fixtures import start_guest

    with start_guest(spl, tmp_path) as running:
        yield running


@pytest.fixture
def guest_host(guest: Guest) -> Host:
    """Assertions of testinfra on the test's guest."""
    from splvm.errors import SetupError

    try:
        from splvm.pytest_host import host_of
    except ModuleNotFoundError as error:
        hint = "pip install pytest-testinfra, or splvm with its extra `pytest`"
        raise SetupError("guest_host needs testinfra, which is not here", hint=hint) from error
    return host_of(guest)


@pytest.fixture
def timeline(guest: Guest, tmp_path: Path) -> Iterator[Recording]:
    """A running recording of the test's guest."""
    from splvm.pytest_fixtures import start_recording

    with start_recording(guest, tmp_path / "timeline") as recording:
        yield recording


@pytest.fixture
def run_scenario(
    prepare_spl: Callable[..., Prepared], tmp_path: Path, request: pytest.FixtureRequest
) -> Callable[..., RunResult]:
    """A function that runs a scenario and judges it.

    Its arguments: the scenario's name, `window_s`, `workload`, `dump`, `load` as on the command line, `on_phase`, and
    fields of `Wish`. If the host starved the guest of CPU, the scenario runs again; every run is kept.
    """
    from splvm.pytest_fixtures import scenario_runner

    return scenario_runner(prepare_spl, tmp_path, request.node.user_properties)


@pytest.fixture
def run_cell(splvm_cell: Cell, run_scenario: Callable[..., RunResult]) -> Callable[[], RunResult]:
    """A function that runs the test's cell of a matrix, and fails unless the verdict is the expected verdict.

    pytest runs a test with this fixture once for each cell of `--splvm-cells FILE`. `splvm_cell` is the cell.
    """
    from splvm.pytest_fixtures import cell_runner

    return cell_runner(splvm_cell, run_scenario)
