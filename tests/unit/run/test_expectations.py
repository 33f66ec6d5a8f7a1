"""Expected verdicts, the workload of the trap, the steps that wait for it, and names that C and Python share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from places import PROJECT
from simulated import simulate
from simulated_guest import Knobs, Span
from simulated_kinds import CYCLE, DECLINED, LONG
from simulated_texts import WORKER_PID
from splvm.builds.variants import VARIANTS
from splvm.evidence.checks.longlived import BATCHES_AT_LEAST, FIRST, STEP, levels
from splvm.evidence.checks.trap import CARRIED_AT_LEAST, PATH, missing_part
from splvm.evidence.expectation import Expectation
from splvm.evidence.formats.probestatus import Pressure, ProbeStatus, Trap
from splvm.evidence.verdict import Outcome
from splvm.evidence.waiting.roles import ROLES, Role, RoleRow
from splvm.evidence.waiting.waitrows import ROWS
from splvm.evidence.waiting.waits import WaitRow
from splvm.run.expectations import expected_outcomes, find_expectation, growth_of
from splvm.run.expected import GOOD
from splvm.run.readings import BATCHES, CARRIED, DECLINES, Reading
from splvm.run.scenarios import Step, Workload
from splvm.scenarios.table import EXPECTED, SCENARIOS, WHATEVER_SPL

SOURCES = PROJECT / "images" / "slabprobe"


# Expectations


def test_every_cell_is_there_and_says_why() -> None:
    asked = set(SCENARIOS) - set(WHATEVER_SPL)
    assert set(EXPECTED) == {(scenario, variant) for scenario in asked for variant in VARIANTS}
    cells = (*EXPECTED.values(), *WHATEVER_SPL.values())
    assert all(len(cell.why) > 20 for cell in cells)
    assert len({cell.why for cell in cells}) == len(cells)


@pytest.mark.parametrize(
    ("variant", "scenario", "honours", "marked", "noio"),
    [
        ("stock", "reclaim-cycle", False, True, True),
        ("no-emergency", "nominal", False, True, True),
        ("unscoped", "reclaim-cycle", True, False, True),
        ("unscoped", "reclaim-cycle", False, False, False),
        ("sync-grow", "reclaim-organic", False, False, False),
        ("unscoped", "held-worker", False, False, None),
    ],
)
def test_how_a_growth_allocates(variant: str, scenario: str, honours: bool, marked: bool, noio: bool | None) -> None:
    """By the mark on any kernel, by the flags as the kernel was measured, and unknown where no trap sees them."""

    def measured() -> bool:
        assert not marked
        assert noio is not None, "a kernel is measured for nothing"
        return honours

    told = growth_of(SCENARIOS[scenario], VARIANTS[variant], measured)
    assert told == {"marked": marked, "noio": noio}


def test_what_depends_on_the_kernel() -> None:
    """Only where SPL relies on the flags alone, and reclaim is in it."""
    depends = {
        pair: (cell.on(honours=False), cell.on(honours=True))
        for pair, cell in EXPECTED.items()
        if cell.on(honours=False) != cell.on(honours=True)
    }
    assert depends == {
        ("reclaim-cycle", "unscoped"): (Outcome.PROGRESS, Outcome.IMMUNE),
        ("reclaim-cycle", "sync-grow"): (Outcome.STALLED, Outcome.IMMUNE),
        ("reclaim-organic", "unscoped"): (Outcome.PROGRESS, Outcome.IMMUNE),
        ("reclaim-organic", "sync-grow"): (Outcome.STALLED, Outcome.IMMUNE),
        ("storm", "unscoped"): (Outcome.PROGRESS, Outcome.IMMUNE),
        ("storm", "sync-grow"): (Outcome.STALLED, Outcome.IMMUNE),
    }


@pytest.mark.parametrize("scenario", sorted(set(SCENARIOS) - set(WHATEVER_SPL)))
def test_every_scenario_has_a_build_that_fails_it(scenario: str) -> None:
    bad = {cell.on(honours=False) for (name, _), cell in EXPECTED.items() if name == scenario} - GOOD
    # What shows that nominal can fail are mutants.
    assert bad or scenario == "nominal"


def never() -> bool:
    raise AssertionError("a guest would be booted for nothing")


def test_what_counts_as_expected() -> None:
    cycle, held = SCENARIOS["reclaim-cycle"], SCENARIOS["held-worker"]
    assert expected_outcomes(cycle, VARIANTS["sync-grow"], lambda: False, own=False) == {Outcome.STALLED}
    assert expected_outcomes(cycle, VARIANTS["sync-grow"], lambda: True, own=False) == {Outcome.IMMUNE}
    newcomer = replace(VARIANTS["stock"], name="newcomer")
    for own in (True, False):
        assert expected_outcomes(held, newcomer, never, own=own) == GOOD
        assert expected_outcomes(held, VARIANTS["stock"], never, own=own) == {Outcome.PROGRESS}


def test_a_variant_that_came_later_says_itself_what_is_expected_of_it() -> None:
    cell = Expectation(Outcome.SLOW, "it is made to be slow, so that this test has something to find")
    newcomer = replace(VARIANTS["stock"], name="newcomer", expects={"held-worker": cell})
    assert find_expectation(SCENARIOS["held-worker"], newcomer) is cell
    assert find_expectation(SCENARIOS["nominal"], newcomer) is None
    # Whose variant has no say is asked first, and so is the scenario's own row.
    assert find_expectation(SCENARIOS["disk-swap"], newcomer) is SCENARIOS["disk-swap"].expects
    assert (
        find_expectation(SCENARIOS["held-worker"], replace(newcomer, name="stock")) is EXPECTED["held-worker", "stock"]
    )


def test_each_cell_is_said_in_one_place() -> None:
    for scenario in SCENARIOS.values():
        said = [scenario.expects] if isinstance(scenario.expects, Mapping) else []
        for variant in VARIANTS.values():
            assert sum([variant.name in cells for cells in said] + [scenario.name in variant.expects]) == len(said)
    assert {Outcome.PROGRESS, Outcome.HEALTHY, Outcome.IMMUNE} == GOOD


def test_a_kernel_is_measured_only_for_a_verdict_that_depends_on_it() -> None:
    for (name, variant), cell in EXPECTED.items():
        if cell.ignoring is None:
            assert expected_outcomes(SCENARIOS[name], VARIANTS[variant], never, own=False) == {cell.outcome}
        else:
            with pytest.raises(AssertionError):
                expected_outcomes(SCENARIOS[name], VARIANTS[variant], never, own=False)


# The workload of the trap


@pytest.mark.parametrize("window_s", [1.0, 2.0, 3.0, 3.3, 10.0, 60.0])
def test_the_worker_is_caught_for_longer_than_the_window(window_s: float) -> None:
    workload = SCENARIOS["reclaim-cycle"].workload(window_s)
    assert (workload.threads, workload.reap_rounds) == (1, 1)
    # The pause alone keeps transactions from being faster; a half second is for what comes before and after.
    assert workload.commits > (window_s + 0.5) * 1e6 / workload.pause_us
    assert workload.commits > 2 * CARRIED


def test_other_scenarios_have_no_transactions() -> None:
    assert SCENARIOS["held-worker"].workload(3.0) == Workload()
    # Every other round finds in the magazines what the one before gave back.
    assert SCENARIOS["nominal"].workload(3.0) == Workload(reap_rounds=2)
    assert CARRIED > CARRIED_AT_LEAST


# Objects that are kept


def test_the_objects_kept_are_timed_at_each_number() -> None:
    workload = SCENARIOS["long-lived"].workload(3.0)
    assert levels(workload.keep) == [10, 100, 1000, 10_000]
    assert levels(9_999) == [10, 100, 1000]
    assert BATCHES > BATCHES_AT_LEAST
    source = (SOURCES / "threads.c").read_text()
    assert f"#define KEPT_FIRST\t{FIRST}\n" in source
    assert f"kept *= {STEP})" in source


def test_the_window_lasts_until_frees_were_timed_often_enough() -> None:
    until = next(step for step in SCENARIOS["long-lived"].steps(3.0) if step.name == "window").until
    base = simulate(LONG).evidence().timeline.probe[-1].value
    often = tuple(replace(kept, batches=BATCHES) for kept in base.kept)
    seldom = (*often[:-1], replace(often[-1], batches=BATCHES - 1))
    for kept, elapsed_s, done in ((often, 3.1, True), (often, 2.9, False), (seldom, 3.1, False), ((), 3.1, False)):
        assert until(reading(replace(base, kept=kept), elapsed_s)) is done
    # The most are not kept yet.
    assert not until(reading(replace(base, kept=often[:-1]), 3.1))


# Steps of the trap

BASE = simulate(CYCLE).evidence().timeline.probe


def step(name: str) -> Step:
    return next(step for step in SCENARIOS["reclaim-cycle"].steps(3.0) if step.name == name)


def status(**trap: Any) -> ProbeStatus:
    """A status of a run in which threads are there, with another trap."""
    last = BASE[-1].value
    return replace(last, trap=replace(last.trap, **{"waiting": 0, "declined": 0, **trap}))


def reading(probe: ProbeStatus, elapsed_s: float = 0.0, carried_before: int = 0) -> Reading:
    return Reading(probe, None, 0, int(elapsed_s * 1e9), (0,), carried_before, seen=frozenset({WORKER_PID}))


def test_the_trap_is_waited_for() -> None:
    until = step("trap").until
    assert not until(reading(status(), 9))
    assert not until(reading(status(declined=DECLINES - 1), 9))
    assert until(reading(status(declined=DECLINES)))
    assert until(reading(status(waiting=1, pid=WORKER_PID)))
    # The agent has to have found it, or there is a hole at the beginning of the window.
    assert not until(reading(status(waiting=1, pid=WORKER_PID + 1)))


def test_a_held_worker_is_waited_for_until_it_is_looked_at() -> None:
    until = next(step for step in SCENARIOS["held-worker"].steps(3.0) if step.name == "hold").until
    hold = replace(BASE[-1].value.hold, held=1, pid=WORKER_PID)
    held = replace(BASE[-1].value, hold=hold)
    assert until(reading(held))
    assert not until(reading(replace(held, hold=replace(hold, pid=WORKER_PID + 1))))
    assert not until(reading(replace(held, hold=replace(hold, held=0))))


def test_the_window_lasts_until_enough_was_carried() -> None:
    until, caught = step("window").until, status(waiting=1)
    carried = caught.tx.carried
    assert not until(reading(caught, 2.9))
    assert until(reading(caught, 3.1))
    assert not until(reading(caught, 3.1, carried_before=carried - CARRIED + 1))
    assert until(reading(caught, 3.1, carried_before=carried - CARRIED))
    # Nothing is carried where nobody was caught, or the transaction itself.
    assert until(reading(status(), 3.1, carried_before=carried))
    assert until(reading(status(waiting=1, pid=caught.threads[0].pid), 3.1, carried_before=carried))


def test_the_end_of_the_cycle_is_waited_for() -> None:
    until, own = step("resolve").until, BASE[-1].value.threads[0].pid
    assert not until(reading(status(), 0.1))
    assert until(reading(status(), 0.4))
    assert not until(reading(status(waiting=1), 14))
    assert not until(reading(status(waiting=1, pid=own), 1))
    assert until(reading(status(waiting=1, pid=own), 2.1))


def test_the_trap_stays_until_it_was_left() -> None:
    names = [step.name for step in SCENARIOS["reclaim-cycle"].steps(3.0)]
    commands = [command for step in SCENARIOS["reclaim-cycle"].steps(3.0) for command in step.commands]
    assert names.index("resolve") + 1 == names.index("release")
    assert commands == ["start", "trap induced", "park", "resume", "trap off", "stop"]


def test_memory_is_low_before_the_trap_is_set_and_until_it_is_gone() -> None:
    steps = SCENARIOS["reclaim-organic"].steps(3.0)
    commands = [command for step in steps for command in step.commands]
    assert commands == ["start", "pressure on", "trap organic", "park", "resume", "trap off", "pressure off", "stop"]
    until = {step.name: step.until for step in steps}
    for pressure, low in ((Pressure(), False), (Pressure(refused=1), False), (Pressure(refused=1, given=1), True)):
        assert until["press"](reading(replace(status(), pressure=pressure))) is low
    assert not until["trap"](reading(replace(status(), trap=Trap()), 59))
    assert until["trap"](reading(replace(status(), trap=Trap(sprung=1))))


# The way into the trap


def test_every_part_of_the_way_has_to_be_there() -> None:
    samples = simulate(CYCLE).evidence().timeline.tasks
    frames = next(t.frames for s in samples for t in s.value if "slabprobe_wait_commit" in t.frames)
    assert missing_part(frames) is None
    for name, function in PATH:
        assert missing_part([frame for frame in frames if not function.fullmatch(frame)]) == name
    assert missing_part(frames[::-1]) is not None
    assert missing_part(()) == "the shrinker"


def test_a_declined_trap_leaves_nobody_in_it() -> None:
    assert not any(s.value.trap.waiting for s in simulate(DECLINED).evidence().timeline.probe)
    caught = simulate(CYCLE, Knobs(uncarried=Span("window"))).evidence().timeline.probe
    assert any(s.value.trap.waiting for s in caught)


# Names


def test_names_of_the_probe_are_those_of_its_source() -> None:
    """Functions and threads of the tables are in the C source, or the wait-for graph would never find them."""
    source = "\n".join(path.read_text() for path in SOURCES.glob("*.c"))
    rows: list[WaitRow | RoleRow] = [*ROWS, *ROLES]
    functions = {name for row in rows for name in row.functions if name.startswith("slabprobe_")}
    functions |= {"slabprobe_pte_alloc_kernel"}
    assert {"slabprobe_wait_commit", "slabprobe_shrink_scan", "slabprobe_transaction"} <= functions
    for name in functions:
        assert re.search(rf"(?m)^(?:static .*)?\b{name}\(", source), name
    for name in ("slabprobe_wait_commit", "slabprobe_shrink_scan", "slabprobe_transaction"):
        assert re.search(rf"static noinline [\w ]+\b{name}\(", source), f"{name} has to be a frame of its own"
    (transaction,) = (role for role in ROLES if role.role is Role.TRANSACTION)
    assert re.fullmatch(transaction.comm, "slabprobe/tx")
    assert 'PROBE_NAME "/tx"' in source


def test_faults_are_limited_before_they_can_happen() -> None:
    for scenario in SCENARIOS.values():
        if scenario.faults is not None:
            names = list(scenario.faults.settings())
            # Until the filter is set, any task's allocations may fail; and there is always an end to them.
            assert (names[0], names[-1]) == ("task-filter", "probability")
            assert scenario.faults.times > 0
            # An emergency object is the only allocation of its size.
            size = scenario.workload(3).size
            assert scenario.faults.min_order in (0, (size // 4096).bit_length() - 1)
