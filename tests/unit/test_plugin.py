"""The plugin in suites of other people: they do not notice it. And what its options and fixtures were called."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foreign_suite import ASKED, outcomes, run_suite
from splvm.pytest_fixtures import scenario_runner
from splvm.run.experiment import Dump

OLD = ("kernel", "variant", "spl", "spl-patch", "cells", "accel", "no-template", "require-vm", "run-slow")


@pytest.fixture
def suite(data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(data / "foreign-suite", tmp_path / "suite"))


@pytest.mark.parametrize("argv", ASKED, ids=" ".join)
def test_a_foreign_suite_is_as_without_it(suite: Path, argv: tuple[str, ...]) -> None:
    run_suite(sys.executable, suite, "-p", "no:splvm", *argv)
    without = outcomes(suite)
    told = run_suite(sys.executable, suite, *argv)
    assert outcomes(suite) == without
    assert len(without) == 15 and {case.outcome for case in without.values()} == {
        *("passed", "failure", "error", "skipped")
    }, told


def test_a_difference_would_be_seen(suite: Path) -> None:
    run_suite(sys.executable, suite, "-p", "no:splvm")
    without = outcomes(suite)
    (suite / "bad_plugin.py").write_text(
        "import logging\ndef pytest_configure():\n    logging.getLogger('splvm').setLevel(logging.WARNING)\n"
    )
    run_suite(sys.executable, suite, "-p", "no:splvm", "-p", "bad_plugin")
    assert outcomes(suite) != without


def modules(directory: Path, *argv: str) -> set[str]:
    """What is imported while a test runs."""
    (directory / "test_modules.py").write_text(
        "import json, pathlib, sys\n"
        "def test_it():\n    pathlib.Path('modules.json').write_text(json.dumps(sorted(sys.modules)))\n"
    )
    argv = ("-m", "pytest", "-p", "no:cacheprovider", "test_modules.py", *argv)
    subprocess.run([sys.executable, *argv], cwd=directory, check=True, capture_output=True, timeout=120)
    return set(json.loads((directory / "modules.json").read_text()))


def test_it_imports_pytest_and_the_standard_library_alone(tmp_path: Path) -> None:
    # Without testinfra's plugin, which would have imported its modules anyway.
    bare = ("-p", "no:pytest11.testinfra", "-p", "no:testinfra")
    more = modules(tmp_path, *bare) - modules(tmp_path, *bare, "-p", "no:splvm")
    assert {name for name in more if name.split(".")[0] not in sys.stdlib_module_names} == {"splvm", "splvm.plugin"}


def test_an_old_option_says_the_new_one(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\naddopts = --run-slow")
    result = pytester.runpytest_inprocess(*(f"--{name}=x" for name in OLD[:4]), *(f"--{name}" for name in OLD[4:-1]))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line.startswith("ERROR: ")]
    assert {*line.removeprefix("ERROR: ").split("; ")} == {f"--{name} is --splvm-{name} now" for name in OLD}


def test_an_option_of_the_users_stays_theirs(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        f"def pytest_addoption(parser):\n    for name in {OLD[1:]}:\n        parser.addoption(f'--{{name}}')\n"
    )
    pytester.makepyfile(
        "def test_it(pytestconfig):\n"
        f"    assert {{*map(pytestconfig.getoption, {[f'--{name}' for name in OLD[1:]]})}} == {{'7'}}\n"
    )
    theirs = [word for name in OLD[1:5] for word in (f"--{name}", "7")] + [f"--{name}=7" for name in OLD[5:]]
    pytester.runpytest_inprocess(*theirs).assert_outcomes(passed=1)
    # Of the two only one is theirs.
    result = pytester.runpytest_inprocess(*theirs, "--kernel", "x")
    assert [line for line in result.errlines if line] == ["ERROR: --kernel is --splvm-kernel now"]


def test_an_old_name_as_a_value_is_one(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_kernel():\n    pass")
    pytester.runpytest_inprocess("--rootdir", ".", "-k=--kernel").assert_outcomes(deselected=1)


def test_every_option_and_marker_has_the_name_in_it(pytester: pytest.Pytester) -> None:
    section = re.search(r"^guests with SPL.*?^\S", pytester.runpytest_inprocess("--help").stdout.str(), re.M | re.S)
    assert section
    names = re.findall(r"^ +(--[\w-]+)", section[0], re.M)
    assert {name.removeprefix("--splvm-") for name in names} == {*OLD, "debug"}
    markers = re.findall(r"^@pytest\.mark\.(\w+)", pytester.runpytest_inprocess("--markers").stdout.str(), re.M)
    ours = {"splvm_vm", "splvm_slow", "splvm_kernels", "splvm_memory", "splvm_cell"}
    assert ours <= {*markers} and not {*markers} & {"vm", "slow", "kernels", "memory", "cell"}


LOGS = """
import logging

import pytest

from splvm.log import LOGGER, note


@pytest.fixture
def prepare_spl():
    pass


def handlers():
    note("said")
    return LOGGER.level, len(LOGGER.handlers)


def test_before():
    assert handlers() == (logging.NOTSET, 0)


@pytest.mark.parametrize("n", [1, 2])
def test_fixture(prepare_spl, n):
    assert handlers() == (logging.INFO, 1)


@pytest.mark.splvm_vm
@pytest.mark.splvm_kernels("none")
def test_skipped():
    pass


def test_after():
    assert handlers() == (logging.NOTSET, 0)
"""


def test_logs_are_shown_for_tests_that_ask_for_a_guest(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(LOGS)
    result = pytester.runpytest_subprocess("-v")
    result.assert_outcomes(passed=4, skipped=1)


def test_without_testinfra_the_guests_host_says_so(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "import sys\nimport pytest\n"
        "for name in [*sys.modules, 'testinfra']:\n"
        "    if name.split('.')[0] == 'testinfra':\n        sys.modules[name] = None\n"
        "@pytest.fixture\ndef guest():\n    pass\n"
    )
    pytester.makepyfile("def test_it(guest_host):\n    pass")
    result = pytester.runpytest_subprocess("-p", "no:pytest11.testinfra")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("*guest_host needs testinfra*")


@pytest.mark.parametrize(
    "suite_text",
    [
        "import pytest\n@pytest.fixture\ndef splvm_cell():\n    return 'mine'\n"
        "def test_it(splvm_cell):\n    assert splvm_cell == 'mine'\n",
        "import pytest\n@pytest.mark.parametrize('splvm_cell', ['mine'])\n"
        "def test_it(splvm_cell):\n    assert splvm_cell == 'mine'\n",
        "import pytest\n@pytest.mark.parametrize(('x', 'splvm_cell'), [(1, 'mine')])\n"
        "def test_it(x, splvm_cell):\n    assert splvm_cell == 'mine'\n",
    ],
    ids=["fixture", "parameter", "parameters"],
)
def test_a_name_of_somebody_else_is_theirs(pytester: pytest.Pytester, suite_text: str) -> None:
    pytester.makepyfile(suite_text)
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


@pytest.mark.parametrize("words", ["", "'lots'"])
def test_memory_without_a_number_is_told(pytester: pytest.Pytester, words: str) -> None:
    pytester.makepyfile(
        f"import pytest\n@pytest.mark.splvm_vm\n@pytest.mark.splvm_memory({words})\ndef test_it():\n    pass\n"
    )
    told = pytester.runpytest_subprocess().stdout.str()
    assert "the marker splvm_memory takes MiB" in told and "IndexError" not in told and "TypeError" not in told


@pytest.mark.parametrize(
    ("arguments", "changes", "clocks"),
    [
        ({}, {}, [None, "virtual"]),
        ({"load": "memcg"}, {}, [None, "real"]),
        ({"dump": Dump.TROUBLE}, {}, [None, "real"]),
        ({}, {"clock": "real"}, ["real"]),
        ({"on_phase": lambda guest, phase: None}, {}, [None]),
    ],
)
def test_the_clock_of_a_scenario(
    tmp_path: Path, arguments: dict[str, Any], changes: dict[str, Any], clocks: list[str | None]
) -> None:
    """Virtual time where it was tried, unless the test names a clock or looks at its guest."""
    asked = []

    class Enough(Exception):
        pass

    def begin(*_: object, **__: object) -> None:
        raise Enough

    def prepare_spl(**wanted: Any) -> Any:
        asked.append(wanted.get("clock"))
        kernel = SimpleNamespace(spec=SimpleNamespace(id="debian-12"))
        parts = {"accelerator": SimpleNamespace(name="tcg"), "machine": SimpleNamespace(ram_mib=512), "kernel": kernel}
        return SimpleNamespace(clones=True, experiment=begin, **parts)

    with pytest.raises(Enough):
        scenario_runner(prepare_spl, tmp_path, [])("held-worker", **arguments, **changes)
    assert asked == clocks
