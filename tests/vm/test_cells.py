"""Cells of a matrix as tests: selected by name and marker, judged by what is expected, with the evidence in JUnit."""

from __future__ import annotations

from pathlib import Path

import junitparser
import pytest

from splvm.run.prepare import Prepared

# What a user writes.
TEST = """
def test_cell(run_cell):
    run_cell()
"""
CELLS = """
scenarios = ["nominal", "held-worker"]
variants = ["stock", "no-emergency"]
exclude = ['scenario == "nominal" and variant != "stock"']
"""


@pytest.fixture
def project_of_a_user(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(TEST)
    (pytester.path / "night.toml").write_text(CELLS)
    return pytester


def collected(result: pytest.RunResult) -> list[str]:
    return [line.partition("[")[2].rstrip("]") for line in result.outlines if "::test_cell[" in line]


ALL = [
    f"{name}-clock=virtual"
    for name in ("nominal-debian-12-stock", "held-worker-debian-12-stock", "held-worker-debian-12-no-emergency")
]
# On a host with KVM they would have its time.
NAMES = ("--splvm-accel", "tcg", "--collect-only", "-q")


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (["-k", "held"], ALL[1:]),
        (["-m", "splvm_cell(variant='stock')"], ALL[:2]),
        (["-m", "splvm_vm and not splvm_cell(scenario='nominal')"], ALL[1:]),
    ],
)
def test_cells_are_selected(project_of_a_user: pytest.Pytester, argv: list[str], names: list[str]) -> None:
    result = project_of_a_user.runpytest_subprocess("--splvm-cells", "night.toml", *NAMES, *argv)
    assert sorted(collected(result)) == sorted(names)


def test_without_a_file_the_options_say_which(project_of_a_user: pytest.Pytester) -> None:
    result = project_of_a_user.runpytest_subprocess("--splvm-variant", "unscoped", *NAMES, "-k", "cycle")
    assert collected(result) == ["reclaim-cycle-debian-12-unscoped-clock=virtual"]


def test_a_clock_that_the_file_names(project_of_a_user: pytest.Pytester) -> None:
    (project_of_a_user.path / "night.toml").write_text(f'clock = "real"\n{CELLS}')
    result = project_of_a_user.runpytest_subprocess("--splvm-cells", "night.toml", *NAMES, "-k", "nominal")
    assert collected(result) == ["nominal-debian-12-stock"]


def test_a_fixture_of_that_name_stays_the_users(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import pytest\n@pytest.fixture\ndef cell():\n    return 7\ndef test_own(cell):\n    assert cell == 7\n"
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_a_file_that_is_none(project_of_a_user: pytest.Pytester) -> None:
    (project_of_a_user.path / "night.toml").write_text("scenarios = [nominal]")
    result = project_of_a_user.runpytest_subprocess("--splvm-cells", "night.toml")
    assert result.ret != 0
    assert "--splvm-cells night.toml: Invalid value (at line 1, column 14)" in result.stdout.str() + result.stderr.str()


@pytest.mark.splvm_vm
def test_a_cell_runs_and_junit_has_its_evidence(
    spl: Prepared, project_of_a_user: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The user that pytester makes has a home of their own, and nothing in it.
    monkeypatch.setenv("SPLVM_CACHE", str(spl.store.root))
    argv = ["--splvm-cells", "night.toml", "-k", "held-worker-debian-12-no-emergency", "--junit-xml", "x.xml"]
    result = project_of_a_user.runpytest_subprocess(*argv, timeout=600)
    result.assert_outcomes(passed=1, deselected=2, warnings=0)
    xml = junitparser.JUnitXml.fromfile(str(project_of_a_user.path / "x.xml"))
    (case,) = [case for suite in xml for case in suite]
    told = [(each.get("name"), each.get("value")) for each in case._elem.iter("property")]
    values = dict(told)
    assert values["verdict"] == "STALLED" and "no-emergency" in values["spl"]
    assert values["command"].startswith("splvm run held-worker ")
    attachments = [Path(value) for name, value in told if name == "attachment"]
    assert {path.name for path in attachments} == {
        "run.json",
        "samples.jsonl",
        "console.log",
        "qemu.log",
        "harness.log",
    }
    assert all(path.is_file() and path.parent == Path(values["evidence"]) for path in attachments)
