"""Loads on real guests: scenarios go on under them and are told by them, and a load that is not there is found."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from splvm.builds.kernels import KERNELS
from splvm.clock import Clock
from splvm.deadline import Deadline
from splvm.evidence.loads import LOADS
from splvm.evidence.verdict import Outcome
from splvm.guest.guest import Guest
from splvm.pytest_fixtures import RunResult
from splvm.record.reader import read_evidence
from splvm.scenarios.judged import judge_evidence as judge

pytestmark = pytest.mark.splvm_vm

BOTH = "writeback,lowmem"
HELD = [
    r"load writeback was at \d+\.\d MiB to \d+\.\d MiB \(4\.0 MiB to 24\.0 MiB are asked for\), and (\d+\.\d) MiB was "
    r"written back to the disk",
    r"load lowmem was at \d+\.\d MiB to \d+\.\d MiB \(16\.0 MiB to 48\.0 MiB are asked for\)",
]


@pytest.mark.parametrize(
    ("scenario", "variant", "outcome"),
    [
        ("held-worker", "stock", Outcome.PROGRESS),
        ("held-worker", "no-emergency", Outcome.STALLED),
        pytest.param("reclaim-cycle", "stock", Outcome.IMMUNE, marks=pytest.mark.splvm_slow),
    ],
)
def test_writeback_and_low_memory(
    run_scenario: Callable[..., RunResult], scenario: str, variant: str, outcome: Outcome
) -> None:
    """The sentence that this project is about, and its control."""
    result = run_scenario(scenario, variant=variant, load=BOTH)
    result.must_be(outcome)
    loads = result.verdict.figures["loads"]
    for name in BOTH.split(","):
        level = loads["levels"][name]
        assert level["low"] <= level["median"] <= level["high"]
    # In an idle guest reclaim has nothing to do.
    assert loads["memory"]["scanned"] + loads["memory"]["scanned_direct"] > 0
    assert loads["levels"]["writeback"]["done_kib_per_s"] > 0
    if outcome.is_good:
        text = "\n".join(reason.text for reason in result.verdict.reasons)
        for reason in HELD:
            assert re.search(reason, text), text
    assert judge(read_evidence(result.directory)) == result.verdict, "the record alone gives the same verdict"


@pytest.mark.splvm_slow
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("load", [BOTH, *LOADS])
def test_every_load_on_every_kernel(run_scenario: Callable[..., RunResult], load: str, kernel: str) -> None:
    run_scenario("held-worker", load=load, kernel=kernel).must_be(Outcome.PROGRESS)


# What is no load


def in_the_window(command: str) -> Callable[[Guest, str], None]:
    def disturb(guest: Guest, phase: str) -> None:
        if phase == "window":
            guest.ssh.run(command, deadline=Deadline(20))

    return disturb


@pytest.mark.splvm_slow
def test_a_process_of_the_load_that_is_killed_is_named(run_scenario: Callable[..., RunResult]) -> None:
    kill = "kill -9 $(sed -n 's/^worker lowmem 1 .*pid=\\([0-9]*\\) .*/\\1/p' /run/splvm-load)"
    result = run_scenario("held-worker", load="lowmem", on_phase=in_the_window(kill))
    result.must_be(Outcome.INCONCLUSIVE)
    assert re.match(r"load lowmem: its eater \(pid \d+\) was killed by signal 9", result.verdict.reasons[0].text)


def test_a_disk_that_writes_nothing_back_is_a_standstill(run_scenario: Callable[..., RunResult]) -> None:
    def stop_disk(guest: Guest, phase: str) -> None:
        if phase == "window":
            guest.qemu.throttle(0, 1, Deadline(20))

    result = run_scenario("held-worker", load="writeback", on_phase=stop_disk)
    # A host that is busy is an excuse, and the reason is the same.
    if not result.verdict.is_starved:
        result.must_be(Outcome.STALLED)
    assert result.verdict.reasons[0].text.startswith("load writeback: nothing was written back to the disk between ")


@pytest.mark.splvm_slow
@pytest.mark.parametrize(
    ("load", "reason"),
    [
        # Its disk takes 64 MiB.
        (
            "writeback:disk_mib=64:file_mib=512:speed_mib=64",
            r"load writeback: its (mapped-)?writer .* (ENOSPC|signal 7)",
        ),
        # More than the guest has.
        ("lowmem:available_mib=2048", r"load lowmem was not held for .*, and 1024\.0 MiB to 3072\.0 MiB are asked for"),
        # Nothing is left for the rest.
        ("lowmem:available_mib=1", r"the OOM killer ran \d+ times|load lowmem "),
    ],
    ids=["disk", "much", "little"],
)
def test_a_target_that_cannot_be_reached_is_named(
    run_scenario: Callable[..., RunResult], load: str, reason: str
) -> None:
    result = run_scenario("held-worker", load=load, clock=Clock.REAL)
    result.must_be(Outcome.INCONCLUSIVE)
    assert re.match(reason, result.verdict.reasons[0].text), result.verdict.reasons
