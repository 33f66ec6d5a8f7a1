"""What the documents say can be done: commands that parse, files that are what they claim, links that lead to some."""

from __future__ import annotations

import configparser
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from places import PROJECT
from splvm.campaign.matrix import clock_of_cell
from splvm.campaign.plan import plan_cells, read_axes
from splvm.cli import app
from splvm.clock import Clock
from splvm.history.knownissues import read_known
from splvm.run.clocks import Host

ROOT = PROJECT
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A command within prose, or in a recipe.
INLINE = re.compile(r"`(?:\./)?(splvm [a-z][^`]*)`")
COMMAND = re.compile(r"(?:^|[\s;'`&])(?:\./)?splvm ([a-z][^;&|\n]*)", re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [match[2] for match in BLOCK.finditer(page.read_text()) if match[1] == language]


def commands(page: Path) -> Iterator[str]:
    """Command lines of splvm in its blocks, without its name."""
    for language in ("sh", "yaml", "ini"):
        for block in blocks(page, language):
            for match in COMMAND.finditer(block):
                yield match[1].partition(" #")[0].rstrip("'\" ")


def parse(line: str) -> None:
    """Let the command line look at it, up to what it would do.

    :raises Exception: where it says no.
    """
    group: Any = get_command(app)
    words = shlex.split(line)
    while hasattr(group, "commands"):
        if words[0] not in group.commands:
            raise LookupError(f"there is no {words[0]!r}")
        group = group.commands[words.pop(0)]
    with group.make_context("splvm", words):
        pass


ALL = [(page, line) for page in PAGES for line in dict.fromkeys(commands(page))]


def test_there_are_commands() -> None:
    assert len(ALL) > 30
    assert {line.split()[0] for _, line in ALL} >= {"demo", "run", "matrix", "bisect", "history", "report", "judge"}


@pytest.mark.parametrize(("page", "line"), ALL, ids=lambda value: getattr(value, "name", value))
def test_a_command_of_a_page_is_one(page: Path, line: str) -> None:
    if line.startswith("test"):
        return
    parse(line)


@pytest.mark.parametrize("line", ["fly", "run held-worker --no-such", "history show", "matrix --repeat x"])
def test_a_command_that_is_none_would_be_seen(line: str) -> None:
    try:
        parse(line)
    # Of a library within typer, which has had more than one name.
    except Exception:
        return
    pytest.fail(f"{line}: taken for a command")


def test_the_reference_is_up_to_date() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from reference import reference
    finally:
        sys.path.pop(0)
    page = (ROOT / "docs" / "reference.md").read_text()
    # How lines are wrapped is the library's.
    assert page.split() == reference().split(), "make it anew: docs/reference.py"


def test_the_history_is_up_to_date() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from historypage import history_page
    finally:
        sys.path.pop(0)
    assert (ROOT / "docs" / "history.md").read_text() == history_page(), "make it anew: docs/historypage.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


# The files of the recipes.

CI = ROOT / "docs" / "ci.md"


def test_the_night_is_a_matrix(tmp_path: Path) -> None:
    (block,) = blocks(CI, "toml")
    path = tmp_path / "night.toml"
    path.write_text(block)
    assert len(plan_cells(read_axes(path))) == 36
    # Under TCG one cell of each scenario is in real time besides.
    cells = plan_cells(read_axes(path), Host(emulated=True))
    real = [cell.scenario for cell in cells if clock_of_cell(cell) is Clock.REAL]
    assert len(cells) == 39 and sorted(real) == ["held-worker", "nominal", "reclaim-cycle"]


def test_known_issues_are_some(tmp_path: Path) -> None:
    (text,) = re.findall(r"<<'END'\n(\[\[issue.*?)^END$", (ROOT / "docs" / "howto.md").read_text(), re.M | re.S)
    path = tmp_path / "known.toml"
    path.write_text(text)
    assert len(read_known(path)) == 1
    assert tomllib.loads(text)


def test_the_workflow_is_one() -> None:
    github, gitlab = map(yaml.safe_load, blocks(CI, "yaml"))
    # YAML 1.1 reads `on` as a truth value.
    assert set(github[True]) == {"schedule", "workflow_dispatch"}
    steps = github["jobs"]["night"]["steps"]
    assert all(("uses" in step) != ("run" in step) for step in steps)
    job = gitlab["splvm"]
    assert job["artifacts"]["reports"]["junit"] in job["artifacts"]["paths"]
    assert all(isinstance(line, str) for part in ("before_script", "script", "after_script") for line in job[part])


def test_the_units_are_some() -> None:
    parsed = []
    for block in blocks(CI, "ini"):
        unit = configparser.ConfigParser(interpolation=None)
        # Names of directives have capitals.
        unit.optionxform = str  # type: ignore[assignment, method-assign]
        unit.read_string(block)
        parsed.append(unit)
    service, timer = parsed
    assert service["Service"]["Type"] == "oneshot" and service["Service"]["WorkingDirectory"].startswith("/")
    assert timer["Timer"]["OnCalendar"] and timer["Install"]["WantedBy"] == "timers.target"


def test_the_variants_that_came_with_the_page_have_a_row() -> None:
    text = (PROJECT / "docs" / "running.md").read_text()
    section = text.partition("## Variants")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    assert set(re.findall(r"`([a-z-]+)`", " ".join(rows))) >= {
        "stock",
        "no-emergency",
        "unscoped",
        "sync-grow",
        "list-walk",
    }
