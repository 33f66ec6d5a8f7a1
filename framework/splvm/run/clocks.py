"""The clock of runs for which the user named none: virtual time wherever it was tried, and real time elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from splvm.clock import Clock
from splvm.deadline import Deadline
from splvm.host.capabilities import is_emulated
from splvm.host.store import Store
from splvm.run.experiment import Dump
from splvm.run.loads import CLOSED_LOADS, TRIED_KERNELS, Load, with_own
from splvm.run.prepare import Wish, lacks_for_virtual_time
from splvm.run.scenarios import Scenario

# Scenarios that stay in real time, and why.
REAL_SCENARIOS: Mapping[str, str] = {
    "hotplug": "a CPU that spins with interrupts off takes twenty times as long in virtual time",
}

# Kernels on which a scenario was run in virtual time and came to what is expected of it (docs/determinism.md).
TRIED: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("nominal", "held-worker", "reclaim-cycle", "long-lived", "fragmented", "storm"), TRIED_KERNELS),
    **dict.fromkeys(("taskqs", "caches", "memory"), TRIED_KERNELS),
    # On debian-13 a caller waited for 1004 ms, and 1000 ms are the bound.
    "reclaim-organic": TRIED_KERNELS - {"debian-13"},
    **dict.fromkeys(("zfs-held-worker", "zvol-swap"), frozenset({"debian-12"})),
}

_SOUND = "the same seed is the same run, and the load of this machine has no say"
# Seconds for trying KVM, once in each boot of the host.
_TRIAL_S = 60.0


@dataclass(frozen=True, slots=True)
class ClockWhy:
    """A clock, and why it was taken."""

    clock: Clock
    why: str

    def __str__(self) -> str:
        return f"{self.clock} time: {self.why}"


@dataclass(frozen=True, slots=True)
class Host:
    """What has a say in the clock, whatever is run."""

    # Whether guests run under TCG, and whether they may be clones.
    emulated: bool
    clones: bool = True
    ram_mib: int = 512

    @classmethod
    def of(cls, wish: Wish) -> Host:
        """The host as a wish will find it."""
        emulated = is_emulated(wish.accelerator, Store.default_root(), Deadline(_TRIAL_S))
        return cls(emulated, wish.clones, wish.ram_mib)


def usual_clock(
    host: Host, scenario: Scenario, loads: Sequence[Load], kernel: str, dump: Dump = Dump.NEVER
) -> ClockWhy:
    """The clock of a run for which none was named.

    :param loads: those of the run; the scenario's own are added.
    :param kernel: its name, as `--kernel` takes it.
    """
    why = next(_against(host, scenario, loads, kernel, dump), "")
    return ClockWhy(Clock.REAL, why) if why else ClockWhy(Clock.VIRTUAL, _SOUND)


def common_clock(clocks: Sequence[ClockWhy]) -> ClockWhy:
    """The clock of runs that are compared with each other: virtual time if all can have it."""
    return next((each for each in clocks if each.clock is Clock.REAL), clocks[0])


def _against(host: Host, scenario: Scenario, loads: Sequence[Load], kernel: str, dump: Dump) -> Iterator[str]:
    if not host.emulated:
        yield "a guest under KVM has no other"
    if not host.clones:
        yield "only clones have virtual time"
    if lacking := lacks_for_virtual_time(scenario, loads, host.ram_mib, dump):
        yield f"{scenario.name} needs {', '.join(lacking)}"
    if scenario.name in REAL_SCENARIOS:
        yield f"{scenario.name}: {REAL_SCENARIOS[scenario.name]}"
    if kernel not in TRIED.get(scenario.name, ()):
        yield f"{scenario.name} was not tried in virtual time on {kernel}, or came to something else there"
    for load in with_own(scenario.load, loads):
        if kernel not in CLOSED_LOADS.get(load.kind.name, ()):
            yield f"the load {load.kind.name} was not tried in virtual time on {kernel}"
