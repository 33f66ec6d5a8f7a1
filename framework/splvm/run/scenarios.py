"""What a scenario is: steps that are taken in a guest, a workload, a rule, and the verdicts that are expected.

A step sends commands to the probe and waits, on the guest's own clock, until a condition holds in what the agent
reports. The scenarios themselves are above this, in the room scenarios/: whoever runs one is given it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from splvm.evidence.expectation import Expectation
from splvm.evidence.formats.stormstatus import USUAL_OPS
from splvm.evidence.rule import Rule
from splvm.run import readings
from splvm.run.readings import Reading

# Seconds of guest time in which a load has to reach its target.
REACH_S = 30.0


@dataclass(frozen=True, slots=True)
class Workload:
    """What the critical threads do; the keys of the probe's `set` command."""

    # Threads, and objects that each takes in a round.
    threads: int = 2
    objects: int = 32
    # Bytes of an object: over 16 KiB, so that SPL backs it with vmalloc by its own choice too.
    size: int = 65536
    # Sleep between two rounds, microseconds. A guest that leaves its CPUs idle for a part of the time still gets
    # what it needs when the host is busy.
    pause_us: int = 5000
    # Rounds after which empty slabs are given back, so that the cache has to grow again.
    reap_rounds: int = 1
    # Commits that a shrinker in the trap waits for. 0: rounds are no transactions; else there is one thread only.
    commits: int = 0
    # 1: threads are marked as SPL marks those that write back, so that they allocate with GFP_NOIO.
    noio: int = 0
    # Objects that the one thread keeps besides while the worker is held, at most: ten first, then ten times more. 0:
    # none.
    keep: int = 0

    def command(self) -> str:
        """The probe's command."""
        return "set " + " ".join(f"{name}={getattr(self, name)}" for name in self.__slots__)


@dataclass(frozen=True, slots=True)
class Faults:
    """How the kernel's fail_page_alloc is set up; the probe's `fail` says when, and for which tasks."""

    # Allocations that fail, one after the other, before they succeed again.
    times: int
    # Smallest order of pages that fails.
    min_order: int = 0

    def settings(self) -> Mapping[str, str]:
        """Its files below /sys/kernel/debug/fail_page_alloc, in the order to write them in: the filter comes first.

        Linux, Documentation/fault-injection/fault-injection.rst.
        """
        return {
            "task-filter": "Y",
            "interval": "1",
            "space": "0",
            "verbose": "1",
            "min-order": str(self.min_order),
            # vmalloc's pages may sleep, and may be high memory; by default such allocations are spared.
            "ignore-gfp-wait": "N",
            "ignore-gfp-highmem": "N",
            "times": str(self.times),
            "probability": "100",
        }


@dataclass(frozen=True, slots=True)
class Storm:
    """Reclaim at allocation sites; the keys of the probe's `storm set` command."""

    # What transactions do, as bits of `OPS`.
    ops: int = USUAL_OPS
    # One of so many allocations is preceded by a reclaim.
    rate: int = 1
    # Where the shrinker waits: 1 where it may enter a filesystem, 2 where it may do I/O, 3 both.
    trap: int = 3
    # 1: the transaction thread marks itself with SPL's spl_fstrans_mark().
    mark: int = 1
    # 1: also in threads of others that somebody of SPL's waits for, 2: there alone. With both, threads are made within
    # transactions, and otherwise between them.
    helpers: int = 0
    # Who makes transactions: 1 a thread of the probe's, 2 a task of a taskq, 3 both.
    threads: int = 3
    # How: 1 by try_to_free_pages(), 2 by all shrinkers at priority 0, 3 in turns.
    how: int = 3
    # Places to which reclaim is confined, each as FUNCTION+OFFSET of a return address; none: everywhere.
    only: tuple[str, ...] = ()

    def commands(self, seed: int) -> tuple[str, ...]:
        """The probe's commands.

        :param seed: of the draw for `rate`.
        """
        names = ("ops", "rate", "trap", "mark", "helpers", "threads", "how")
        values = " ".join(f"{name}={getattr(self, name)}" for name in names)
        return (f"storm set {values} seed={seed & 0xFFFFFFFF}", *(f"storm only {place}" for place in self.only))


@dataclass(frozen=True, slots=True)
class Step:
    """One phase of a scenario."""

    # Name of the phase; it becomes a mark in the probe, unless it is empty.
    name: str
    # Commands for the probe, after the mark.
    commands: tuple[str, ...]
    # The phase is over when this holds.
    until: Callable[[Reading], bool]
    # ... or when it has lasted this long in guest time. Then the next step begins; what that means, judge() says.
    limit_s: float
    # Mark that is set when `until` held, and only then.
    then: str | None = None


# Before the steps of any scenario, if there is a load: it is to be there first. What it means that it is not, the judge
# says.
LOAD_STEP = Step("load", (), readings.reached, REACH_S)


def same_rounds(window_s: float) -> Workload:
    """The workload of a scenario that has none of its own, whatever its window."""
    return Workload()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One experiment. Its functions have names, so that it can be sent to another process."""

    name: str
    # One line for people.
    summary: str
    # The steps, for a window of this length in seconds.
    steps: Callable[[float], tuple[Step, ...]]
    # Default length of the window, seconds of guest time.
    window_s: float
    # How its runs are judged.
    rule: Rule
    # The expected verdict on each variant of SPL; one verdict if the variant does not matter. The expected verdict on a
    # variant that is younger than the scenario is in the row of the variant.
    expects: Mapping[str, Expectation] | Expectation
    # Longest gap between two allocations of a critical thread that is still progress, ms. SPL's own timeout is HZ/10,
    # that is 100 ms (a whole HZ before 2015); the factor is for a guest that is emulated on a busy host.
    latency_bound_ms: int = 1000
    # The work of the critical threads, for a window of this length in seconds.
    workload: Callable[[float], Workload] = same_rounds
    # What the kernel's fault injection is set to; None: it is not used, and the kernel need not have it.
    faults: Faults | None = None
    # Reclaim at allocation sites; None: there is none.
    storm: Storm | None = None
    # Loads that belong to it, as `--load` names them; what the command line names comes on top.
    load: str = ""
    # MiB that its guest has at least.
    least_mib: int = 0
    # CPUs that its guest has at least.
    least_cpus: int = 1
    # Words for the command line of its guest's kernel.
    words: tuple[str, ...] = ()
