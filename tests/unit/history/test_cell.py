"""What runs are compared within: names of cells, what is a part of one, and what runs of older versions belong to."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import experiment
from splvm.campaign.campaignrun import CampaignRun, cell_of
from splvm.errors import UsageError
from splvm.evidence.verdict import Outcome
from splvm.history.cell import Cell, read_parameters, write_parameters
from splvm.history.olderruns import NOTHING_KNOWN, by_record, by_row
from splvm.record.cellfacts import PACKAGED, UNKNOWN, line_of
from splvm.report.again import reproducer
from splvm.run.buildline import check_label, find_line
from splvm.run.experiment import Experiment, _facts, differing_parameters
from splvm.run.loads import parse_loads
from splvm.scenarios.table import SCENARIOS

CELL = Cell("held-worker", "debian-12", "stock")


@pytest.mark.parametrize(
    ("cell", "name"),
    [
        (CELL, "held-worker debian-12 stock"),
        (replace(CELL, loads="writeback,lowmem"), "held-worker debian-12 stock writeback,lowmem"),
        (replace(CELL, line="fix/idle+1a2b3c4d"), "held-worker debian-12 stock line=fix/idle+1a2b3c4d"),
        (
            replace(CELL, loads="zram", line="mine", parameters=(("window", "9"), ("memory", "640"))),
            "held-worker debian-12 stock zram line=mine memory=640,window=9",
        ),
        (replace(CELL, parameters=(("a,b", "c=d e"),)), "held-worker debian-12 stock a%2Cb=c%3Dd%20e"),
    ],
)
def test_the_name_of_a_cell(cell: Cell, name: str) -> None:
    assert str(cell) == name


# Names that a row of the history can have: no half of a surrogate pair.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PARAMETERS = st.dictionaries(TEXT.filter(bool), TEXT, max_size=4).map(lambda it: tuple(it.items()))


@given(PARAMETERS, st.permutations(range(4)))
def test_parameters_are_written_and_read(parameters: tuple[tuple[str, str], ...], order: list[int]) -> None:
    text = write_parameters(parameters)
    assert read_parameters(text) == tuple(sorted(parameters))
    assert " " not in text and text.isprintable()
    mixed = tuple(parameters[at] for at in order if at < len(parameters))
    assert replace(CELL, parameters=mixed) == replace(CELL, parameters=parameters)
    assert Cell.from_json(replace(CELL, parameters=mixed).to_json()).columns()["parameters"] == text


@pytest.mark.parametrize("text", ["memory", "=5", "memory=1,x"])
def test_text_that_is_no_parameters(text: str) -> None:
    with pytest.raises(ValueError, match="it is NAME=VALUE"):
        read_parameters(text)


def changed(**changes: Any) -> Experiment:
    base = experiment(kernel={"id": "debian-12"}, spl={"variant": "stock"}, line=PACKAGED)
    workload, machine = (changes.pop(name, {}) for name in ("workload", "machine"))
    guest = replace(base.guest, machine=replace(base.guest.machine, **machine))
    base = replace(base, workload=replace(base.workload, **workload), guest=guest)
    return replace(base, **changes)


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({}, {}),
        ({"seed": 7}, {}),
        ({"rate_hz": 50}, {}),
        ({"machine": {"append": ("quiet",)}}, {}),
        ({"window_s": 3}, {}),
        ({"window_s": 2.5}, {"window": "2.5"}),
        ({"window_s": 10.0}, {"window": "10"}),
        ({"machine": {"ram_mib": 1024, "cpus": 4}}, {"cpus": "4", "memory": "1024"}),
        ({"machine": {"append": ("quiet", "preempt=full")}}, {"preempt": "full"}),
        ({"workload": {"size": 131072, "noio": 1}}, {"noio": "1", "size": "131072"}),
    ],
)
def test_what_differs_is_a_part_of_the_cell(changes: dict[str, Any], differs: dict[str, str]) -> None:
    assert differing_parameters(changed(**changes)) == differs
    assert cell_of(changed(**changes)) == replace(CELL, parameters=tuple(differs.items()))
    assert cell_of(changed(**changes, loads=parse_loads(["lowmem"]))).loads.startswith("lowmem")


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("window_s", [None, 11.0])
def test_a_scenario_by_itself_has_no_parameter_that_differs(name: str, window_s: float | None) -> None:
    """Also by the table of older runs, until a scenario becomes another one; then it leaves this test."""
    scenario = SCENARIOS[name]
    length_s = window_s or scenario.window_s
    run = replace(changed(), scenario=scenario, window_s=length_s, workload=scenario.workload(length_s))
    run = replace(run, storm=scenario.storm)
    machine = replace(run.guest.machine, ram_mib=max(512, scenario.least_mib), cpus=max(2, scenario.least_cpus))
    run = replace(run, guest=replace(run.guest, machine=machine))
    expected = {} if window_s is None else {"window": "11"}
    assert differing_parameters(run) == expected
    if scenario.storm is not None:
        # It is younger than the table.
        changed_storm = replace(run, storm=replace(scenario.storm, mark=0, only=("f+0x1",)))
        assert differing_parameters(changed_storm) == {**expected, "storm_mark": "0", "storm_only": "['f+0x1']"}
        return
    if name in ("taskqs", "caches", "hotplug", "memory"):
        # So are these.
        return
    facts = {**_facts(run), "spl": {"source": "debian", "patches": [], "variant": "stock"}}
    assert by_record(facts) == (PACKAGED, expected)
    assert by_row(name, "debian", [], reproducer(facts)) == (PACKAGED, expected)


# Lines

ONE, OTHER = ("0" * 64, "1" * 64)


def digest(*patches: str) -> str:
    return hashlib.sha256(" ".join(patches).encode()).hexdigest()[:8]


@pytest.mark.parametrize(
    ("source", "patches", "named", "line"),
    [
        ("debian", (), {}, "packaged"),
        ("debian", (ONE,), {}, f"debian+{digest(ONE)}"),
        ("debian", (ONE, OTHER), {}, f"debian+{digest(ONE, OTHER)}"),
        ("path:/src/zfs", (), {}, "zfs"),
        ("path:/src/zfs/", (), {}, "zfs"),
        ("path:/src/zfs", (), {"branch": "fix/idle"}, "fix/idle"),
        ("path:/src/zfs", (ONE,), {"branch": "fix"}, f"fix+{digest(ONE)}"),
        ("path:/src/zfs", (ONE,), {"branch": "fix", "label": "mine"}, "mine"),
        ("path:/src/my zfs, new", (), {}, "my-zfs-new"),
        ("path:/src/packaged", (), {}, "own-packaged"),
        ("path:/src/unknown", (), {}, "own-unknown"),
        ("path:/", (), {}, "own"),
    ],
)
def test_the_line_of_a_build(source: str, patches: tuple[str, ...], named: dict[str, str], line: str) -> None:
    assert line_of(source, patches, **named) == line


def test_a_line_is_found(tmp_path: Path) -> None:
    tree = tmp_path / "zfs-2.3"
    tree.mkdir()
    (tree / "HEAD").write_text("")
    one, same, other = (tmp_path / name for name in ("a.patch", "b.patch", "c.cocci"))
    for path, text in ((one, "x"), (same, "x"), (other, "y")):
        path.write_text(text)
    assert find_line(f"path:{tree}", []) == "zfs-2.3"
    # By content: the same patch by another name is the same line.
    assert find_line("debian", [one]) == find_line("debian", [same]) != find_line("debian", [other])
    assert find_line("debian", []) == PACKAGED
    assert find_line("debian", [one], "mine") == "mine"


@pytest.mark.parametrize("label", ["", "a b", "a,b", "packaged", "unknown", "x" * 101, "ü"])
def test_a_label_that_is_none(label: str) -> None:
    with pytest.raises(UsageError, match="--label"):
        check_label(label, "path:/x", [])


def test_a_label_is_of_a_build_of_ones_own() -> None:
    with pytest.raises(UsageError, match="the build is the distribution's"):
        check_label("mine", "debian", [])
    assert check_label("mine", "debian", [Path("x.patch")]) == check_label("mine", "path:/x", []) == "mine"
    assert check_label(None, "debian", []) == ""


# Runs of older versions

FACTS: dict[str, Any] = {
    "scenario": "held-worker",
    "spl": {"source": "debian", "patches": []},
    "parameters": {"window_s": 3.0, "ram_mib": 512, "cpus": 2, "workload": {"threads": 2, "size": 65536}},
}


@pytest.mark.parametrize(
    ("changes", "line", "parameters"),
    [
        ({}, PACKAGED, {}),
        ({"spl": {"source": "path:/src/zfs", "patches": []}}, "zfs", {}),
        ({"spl": {"source": "debian", "patches": [{"name": "a", "sha256": ONE}]}}, f"debian+{digest(ONE)}", {}),
        ({"parameters": {"window_s": 2, "ram_mib": 640}}, PACKAGED, {"memory": "640", "window": "2"}),
        ({"faults": {"times": 3, "min_order": 0}}, PACKAGED, {"faults.min_order": "0", "faults.times": "3"}),
        ({"spl": {"source": "debian", "patches": ["a.patch"]}}, *NOTHING_KNOWN),
        ({"spl": {"source": "", "patches": []}}, *NOTHING_KNOWN),
        ({"spl": {"patches": []}}, *NOTHING_KNOWN),
        ({"spl": 1}, *NOTHING_KNOWN),
        ({"parameters": {"window_s": float("nan")}}, *NOTHING_KNOWN),
        ({"parameters": {"window_s": "long"}}, *NOTHING_KNOWN),
        ({"scenario": "of-somebody-else"}, *NOTHING_KNOWN),
    ],
)
def test_an_older_record_tells_it(changes: dict[str, Any], line: str, parameters: dict[str, str]) -> None:
    assert by_record({**FACTS, **changes}) == (line, parameters)


COMMAND = "splvm run held-worker --kernel debian-12 --variant stock --accel tcg --memory 512 --window 3.0 --rate 20"


@pytest.mark.parametrize(
    ("source", "patches", "command", "line", "parameters"),
    [
        ("debian", [], COMMAND, PACKAGED, {}),
        ("path:/src/zfs", [], f"{COMMAND} --spl path:zfs", "zfs", {}),
        ("debian", [], f"{COMMAND} --size 131072 --load zram", PACKAGED, {"size": "131072"}),
        ("debian", [], COMMAND.replace("512", "1024"), PACKAGED, {"memory": "1024"}),
        ("debian", [], COMMAND.replace("3.0", "2.5"), PACKAGED, {"window": "2.5"}),
        # What was in a patch is not told by its name.
        ("debian", ["a.patch"], f"{COMMAND} --spl-patch a.patch", *NOTHING_KNOWN),
        ("", [], COMMAND, *NOTHING_KNOWN),
        ("debian", [], "", *NOTHING_KNOWN),
        ("debian", [], COMMAND[:-3], *NOTHING_KNOWN),
        ("debian", [], f"{COMMAND} 'torn", *NOTHING_KNOWN),
        ("debian", [], COMMAND.replace("3.0", "nan"), *NOTHING_KNOWN),
        ("debian", [], "make test", *NOTHING_KNOWN),
    ],
)  # fmt: skip
def test_an_older_row_tells_it(
    source: str, patches: list[str], command: str, line: str, parameters: dict[str, str]
) -> None:
    assert by_row("held-worker", source, patches, command) == (line, parameters)


# The record of a run in a campaign


@given(
    st.sampled_from([*Outcome, None]),
    st.none() | st.floats(0, 100),
    st.frozensets(st.sampled_from(Outcome)),
    PARAMETERS,
)
def test_a_run_of_a_campaign_is_written_and_read(
    outcome: Outcome | None,
    onset_s: float | None,
    expected: frozenset[Outcome],
    parameters: tuple[tuple[str, str], ...],
) -> None:
    cell = replace(CELL, line=UNKNOWN, parameters=parameters)
    directory = Path("/runs/x") if outcome else None
    run = CampaignRun(cell, 3, outcome, "why", directory, 1.5, expected, onset_s, 4, "tcp://a:1", ("tcp://b:2",))
    assert CampaignRun.from_json(run.to_json()) == run
    for name in run.to_json():
        if name != "as_expected":
            with pytest.raises(ValueError, match="missing required field"):
                CampaignRun.from_json({key: value for key, value in run.to_json().items() if key != name})
