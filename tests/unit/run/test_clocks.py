"""Which clock a run has for which none was named, and why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from splvm.builds.kernels import KERNELS
from splvm.clock import Clock
from splvm.deadline import Deadline
from splvm.evidence.loads import LOADS
from splvm.host import capabilities
from splvm.host.capabilities import is_emulated
from splvm.run.clocks import REAL_SCENARIOS, TRIED, ClockWhy, Host, common_clock, usual_clock
from splvm.run.experiment import Dump
from splvm.run.loads import CLOSED_LOADS, parse_loads
from splvm.scenarios.table import SCENARIOS, find_scenario

TCG = Host(emulated=True)


@pytest.mark.parametrize("kernel", ["debian-11", "debian-12", "debian-13", "debian-sid"])
@pytest.mark.parametrize("scenario", ["nominal", "held-worker", "reclaim-cycle", "long-lived", "fragmented", "storm"])
def test_virtual_time_where_it_was_tried(scenario: str, kernel: str) -> None:
    assert usual_clock(TCG, find_scenario(scenario), (), kernel).clock is Clock.VIRTUAL


@pytest.mark.parametrize(
    ("host", "scenario", "loads", "kernel", "dump", "why"),
    [
        (replace(TCG, emulated=False), "nominal", "", "debian-12", Dump.NEVER, "a guest under KVM has no other"),
        (replace(TCG, clones=False), "nominal", "", "debian-12", Dump.NEVER, "only clones have virtual time"),
        (replace(TCG, ram_mib=4096), "nominal", "", "debian-12", Dump.NEVER, "nominal needs 4096 MiB of memory"),
        (TCG, "nominal", "", "debian-12", Dump.TROUBLE, "nominal needs a memory dump"),
        (TCG, "grow-fails", "", "debian-12", Dump.NEVER, "grow-fails needs fault injection"),
        (TCG, "hotplug", "", "debian-12", Dump.NEVER, "hotplug: a CPU that spins"),
        (TCG, "nominal", "memcg", "debian-12", Dump.NEVER, "nominal needs load memcg"),
        (TCG, "reclaim-organic", "", "debian-13", Dump.NEVER, "reclaim-organic was not tried in virtual time on"),
        (TCG, "nominal", "", "built:kasan", Dump.NEVER, "nominal was not tried in virtual time on built:kasan"),
        (TCG, "nominal", "lowmem", "built:kasan", Dump.NEVER, "nominal was not tried in virtual time on built:kasan"),
        (TCG, "ext4-mmap", "", "debian-12", Dump.NEVER, "ext4-mmap was not tried in virtual time on debian-12"),
    ],
)
def test_real_time_and_why(host: Host, scenario: str, loads: str, kernel: str, dump: Dump, why: str) -> None:
    given = parse_loads([loads] if loads else [])
    chosen = usual_clock(host, find_scenario(scenario), given, kernel, dump)
    assert chosen.clock is Clock.REAL
    assert chosen.why.startswith(why)
    assert str(chosen).startswith("real time: ")


def test_a_load_is_tried_kernel_by_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splvm.run.clocks.CLOSED_LOADS", {"lowmem": {"debian-12"}})
    scenario, lowmem = find_scenario("held-worker"), parse_loads(["lowmem"])
    assert usual_clock(TCG, scenario, lowmem, "debian-12").clock is Clock.VIRTUAL
    other = usual_clock(TCG, scenario, lowmem, "debian-13")
    assert other == ClockWhy(Clock.REAL, "the load lowmem was not tried in virtual time on debian-13")


def test_runs_that_are_compared_have_one_clock() -> None:
    virtual, real = ClockWhy(Clock.VIRTUAL, "sound"), ClockWhy(Clock.REAL, "not tried")
    assert common_clock([virtual, virtual]) == virtual
    assert common_clock([virtual, real, virtual]) == real


@pytest.mark.parametrize(("wanted", "emulated"), [("tcg", True), ("kvm", False), ("auto", True)])
def test_before_there_is_a_kernel(wanted: str, emulated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without /dev/kvm needs no QEMU to say so."""
    monkeypatch.setattr(capabilities, "_KVM", str(tmp_path / "kvm"))
    assert is_emulated(wanted, tmp_path, Deadline(1)) is emulated


def test_what_was_tried_is_there() -> None:
    assert TRIED.keys() | REAL_SCENARIOS.keys() <= SCENARIOS.keys()
    assert not TRIED.keys() & REAL_SCENARIOS.keys()
    assert {kernel for kernels in (*TRIED.values(), *CLOSED_LOADS.values()) for kernel in kernels} <= KERNELS.keys()
    assert CLOSED_LOADS.keys() <= LOADS.keys()
