"""Bugs that OpenZFS once had, put back into the source of today: each must be noticed, for a reason that names it.

A bug is a semantic patch in this directory, named by the fix (a commit of openzfs/zfs) that it takes back. Each row
says what users saw. Its reason was there before the runs that are counted; some were written after the first look.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from splvm.clock import Clock
from splvm.evidence.verdict import Outcome
from splvm.pytest_fixtures import RunResult
from splvm.run.scenarios import Workload

pytestmark = pytest.mark.splvm_vm

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class PutBack:
    """One bug, and the scenario that shows it."""

    # Name of the semantic patch, which begins with the hash of the fix.
    patch: str
    users_saw: str
    scenario: str
    # What the reasons must say; the verdict in front.
    outcome: Outcome
    reason: str
    kernel: str = "debian-12"
    # Real time where two CPUs have to be at it at the same moment.
    clock: Clock = Clock.VIRTUAL
    # That of the scenario.
    workload: Workload | None = None
    window_s: float | None = None

    @property
    def fix(self) -> str:
        """Hash of the commit that is taken back."""
        return self.patch.partition("-")[0]


# Whole runs of all rows, none of which changed in between: commit ed0b0ae, and a1f3eb2 at loads of 5 to 13 on two cores
# (8 min 37 s with -n2). Each bug was noticed in both, for the reason of its row.
BUGS = (
    PutBack(
        patch="043f9b5-fs-reclaim",
        users_saw="ZFS stood still: a growth evicted inodes and waited for a lock or a txg that waited for the growth",
        scenario="reclaim-cycle",
        outcome=Outcome.SUSPECT,
        reason=r"GFP mask 0x\w+, which has __GFP_IO and __GFP_FS",
    ),
    PutBack(
        patch="d348f23-mark-of-its-own",
        users_saw="threads of ZFS waited in reclaim for each other, since the kernel did not know SPL's own mark",
        scenario="reclaim-cycle",
        outcome=Outcome.SUSPECT,
        reason=r"SPL's thread spl_kmem_cache .* is not marked",
        kernel="debian-11",
    ),
    PutBack(
        patch="f95e306266-highmem",
        users_saw="a warning of the kernel for each slab, since Linux 6.19",
        scenario="nominal",
        outcome=Outcome.SUSPECT,
        reason=r"the kernel warned, with .*spl in the stack: Unexpected gfp: 0x2 \(__GFP_HIGHMEM\)",
        kernel="debian-sid",
    ),
    PutBack(
        patch="f041375b52-comp",
        users_saw="a warning of the kernel for each slab, since Linux 6.19",
        scenario="nominal",
        outcome=Outcome.SUSPECT,
        reason=r"the kernel warned, with .*spl in the stack: Unexpected gfp: 0x\w+ \(__GFP_COMP\)",
        kernel="debian-sid",
    ),
    PutBack(
        patch="2adc6b35ae-late-bit",
        users_saw="allocations of 100 ms, which made up most of the time of those who allocate and free a lot",
        scenario="nominal",
        outcome=Outcome.SLOW,
        reason=r"wake-ups are lost: .* came back 67 ms or more after that",
        clock=Clock.REAL,
        # Of several threads the others ask for another growth, which wakes all; and one in a thousand is late.
        workload=Workload(threads=1, objects=512, reap_rounds=2),
        window_s=6.0,
    ),
    PutBack(
        patch="e50e6cc-whole-second",
        users_saw="all writers stood still for a second at a time while the worker was stuck",
        scenario="held-worker",
        outcome=Outcome.SLOW,
        reason=r"slept for \d+\.\d ms or more, .* for one growth of the cache; SPL's timeout is 100\.0 ms",
    ),
    PutBack(
        patch="f90096c-io-allowed",
        users_saw="swap on a zvol deadlocked: the I/O that reclaim waits for is the zvol's own",
        scenario="reclaim-cycle",
        outcome=Outcome.SUSPECT,
        reason=r"GFP mask 0xd40, which has __GFP_IO; this SPL promises neither",
    ),
    PutBack(
        patch="d4bf6d8429-taskq-unmarked",
        users_saw="work that a taskq does waited in reclaim for a filesystem that waits for the taskq",
        scenario="nominal",
        outcome=Outcome.SUSPECT,
        reason=r"SPL's thread spl_kmem_cache .* is not marked \(flags 0x208040 without PF_MEMALLOC_NOIO, 0x80000\)",
    ),
    PutBack(
        patch="dc1b302-spinning",
        users_saw="machines that seemed to hang: callers took turns at the cache's lock and kept the CPUs",
        scenario="nominal",
        outcome=Outcome.SUSPECT,
        reason=r"callers used \d+\.\d ms of CPU time for \d+ objects",
        workload=Workload(threads=8, reap_rounds=2),
    ),
    PutBack(
        patch="500e95c-reserves",
        users_saw="memory was used up to the last page, and those for whom the reserves are there got nothing",
        scenario="reclaim-organic",
        outcome=Outcome.SUSPECT,
        reason=r"the reserves of memory were used: \d+ of \d+ readings",
    ),
)

# The default suite has one that shows marks and masks; the others are noticed by rules that unit tests look at.
SHORT = ("f90096c-io-allowed",)


def test_every_patch_has_a_row() -> None:
    assert {path.stem for path in HERE.glob("*.cocci")} == {bug.patch for bug in BUGS}
    assert all(re.fullmatch(r"[0-9a-f]{7,10}", bug.fix) and len(bug.users_saw) > 20 for bug in BUGS)


@pytest.mark.parametrize(
    "bug", [pytest.param(it, id=it.patch, marks=[pytest.mark.splvm_slow] * (it.patch not in SHORT)) for it in BUGS]
)
def test_bug_is_noticed(run_scenario: Callable[..., RunResult], bug: PutBack) -> None:
    patches = (HERE / f"{bug.patch}.cocci",)
    build = {"patches": patches, "kernel": bug.kernel, "clock": bug.clock}
    result = run_scenario(bug.scenario, window_s=bug.window_s, workload=bug.workload, **build)
    result.must_be(bug.outcome)
    reasons = " | ".join(reason.text for reason in result.verdict.reasons)
    assert re.search(bug.reason, reasons), reasons
