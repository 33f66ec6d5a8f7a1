"""A scenario and a variant are added to a copy of the tree by the lists of CONTRIBUTING.md, and its tests take them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from places import PROJECT

# What holds for every row of the tables, without guests.
SUITE = (
    "tests/unit/run/test_expectations.py",
    "tests/unit/scenarios/test_judged.py",
    "tests/unit/test_architecture.py",
    "tests/unit/test_docs.py",
    "tests/unit/cli/test_commands.py::test_the_reference_names_everything_that_can_be_asked_for",
    "tests/vm/test_scenarios.py::test_every_variant_is_judged_in_every_scenario",
)

SCENARIO = """\
    Scenario(
        name="held-longer",
        summary="the worker is held for twice as long as in held-worker",
        steps=held_worker,
        window_s=6.0,
        rule=Rule(required=clauses(f"phases {HELD_PHASES}"), checks=HELD, good="progress"),
        expects={
            "stock": Expectation(Outcome.PROGRESS, "a longer wait asks for nothing else than a short one"),
            "no-emergency": Expectation(Outcome.STALLED, "callers wait for the worker as long as it is held"),
            "unscoped": Expectation(Outcome.PROGRESS, "the lever does not reclaim, however long it is pulled"),
            "sync-grow": Expectation(Outcome.NOT_TRIGGERED, "there is nobody to hold, not for longer either"),
            "list-walk": Expectation(Outcome.PROGRESS, "the list gets no longer by a longer wait"),
        },
    ),
)
"""

KIND = """\
    "held-longer": Kind(_HELD_PHASES, Outcome.PROGRESS, like=HELD),
}
"""

VARIANT = """\
        Variant(
            name="newcomer",
            summary="one that was added by the list",
            control_for="the list",
            cocci=("newcomer.cocci",),
            expects={cells},
        ),
    )
}}
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The tree as it is, without what git does not know and without recorded data, which are linked."""
    for name in ("framework", "images", "kernel-config", "docs", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "data")
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=ignored)
    (tmp_path / "tests" / "data").symlink_to(PROJECT / "tests" / "data")
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "conftest.py"):
        shutil.copy(PROJECT / name, tmp_path / name)
    return tmp_path


def python(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(tree / "framework"), "PYTHONDONTWRITEBYTECODE": "1"}
    # The inner pytest is no worker of the outer one.
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}
    argv = [sys.executable, *words]
    return subprocess.run(argv, cwd=tree, env=environment, capture_output=True, text=True, timeout=600, check=False)


def check(tree: Path, *words: str) -> None:
    page = python(tree, "docs/reference.py")
    assert page.returncode == 0, page.stderr
    (tree / "docs" / "reference.md").write_text(page.stdout)
    done = python(tree, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def replace_end(path: Path, end: str, new: str) -> None:
    text = path.read_text()
    at = text.rindex(end)
    path.write_text(text[:at] + new + text[at + len(end) :])


def files(tree: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(tree.rglob("*")):
        name = str(path.relative_to(tree))
        if path.is_file() and not path.is_symlink() and "__pycache__" not in name and name != "docs/reference.md":
            yield name, path.read_bytes()


@pytest.mark.splvm_slow
def test_a_scenario_that_is_composed_takes_three_files(copy: Path) -> None:
    before = dict(files(copy))
    replace_end(copy / "framework/splvm/scenarios/held.py", ")\n", SCENARIO)
    simulated = copy / "tests/helpers/simulated_kinds.py"
    kinds = simulated.read_text().index("KINDS: Mapping")
    text = simulated.read_text()
    end = text.index("\n}\n", kinds) + 1
    simulated.write_text(text[:end] + KIND + text[end + 2 :])
    (copy / "CHANGELOG.md").write_text((copy / "CHANGELOG.md").read_text() + "- New: scenario `held-longer`.\n")
    touched = [name for name, content in files(copy) if before.get(name) != content]
    assert touched == ["CHANGELOG.md", "framework/splvm/scenarios/held.py", "tests/helpers/simulated_kinds.py"]
    check(copy, *SUITE)
    check(copy, "tests/unit/evidence/test_judge.py", "-k", "held-longer")
    assert "| held-longer | " in (copy / "docs/reference.md").read_text()


@pytest.mark.splvm_slow
def test_a_variant_takes_three_files(copy: Path) -> None:
    before = dict(files(copy))
    asked = python(copy, "-c", "from splvm.scenarios.table import *; print(*{name for name, _ in EXPECTED})")
    assert asked.returncode == 0, asked.stderr
    scenarios = asked.stdout.split()
    cell = "Expectation(Outcome.SLOW, 'the newcomer is slow in {0}, as its patch says')"
    cells = ", ".join(f"{name!r}: {cell.format(name)}" for name in scenarios)
    variants = copy / "framework/splvm/builds/variants.py"
    replace_end(variants, "    )\n}\n", VARIANT.format(cells=f"{{{cells}}}"))
    imported = "from splvm.evidence.expectation import Expectation\n"
    variants.write_text(
        variants.read_text().replace(imported, f"{imported}from splvm.evidence.verdict import Outcome\n")
    )
    patch = copy / "images/spl/variants/newcomer.cocci"
    shutil.copy(copy / "images/spl/variants/no-emergency.cocci", patch)
    (copy / "CHANGELOG.md").write_text((copy / "CHANGELOG.md").read_text() + "- New: variant `newcomer`.\n")
    touched = [name for name, content in files(copy) if before.get(name) != content]
    assert touched == ["CHANGELOG.md", "framework/splvm/builds/variants.py", "images/spl/variants/newcomer.cocci"]
    check(copy, *SUITE)
    # A cell that nobody has said anything of is found.
    variants.write_text(variants.read_text().replace(f"'{scenarios[0]}':", "'nowhere':"))
    with pytest.raises(AssertionError, match="test_every_cell_is_there_and_says_why"):
        check(copy, SUITE[0])
