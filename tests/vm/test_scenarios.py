"""Every row of the scenario table against every variant it has an expectation for, on a real guest."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from framework.assets import find_images
from framework.build.kernels import KERNELS
from framework.build.variants import VARIANTS
from framework.errors import EvidenceError
from framework.evidence.judge import judge
from framework.evidence.verdict import Outcome
from framework.lab.expectations import EXPECTED
from framework.lab.prepare import find_any_kernel, spec_of
from framework.lab.rundir import EVIDENCE_FILES, read_evidence
from framework.lab.scenarios import SCENARIOS
from framework.plugin import RunResult

# What a maintainer asks first is in the reasons, for the good verdicts and for the bad ones.
REASONS = {
    ("nominal", Outcome.HEALTHY): [r"2 critical threads got \d+ objects, none", r"dlock 0"],
    ("held-worker", Outcome.PROGRESS): [
        r"spl_kmem_cache \(pid \d+\) was stuck for 3\.\d+ s in slabprobe_grow_work <- taskq_thread",
        r"\d+ readings, \d+ context switches in each",
        r"got \d+ objects meanwhile, \d+ of them emergency objects; longest gap \d+\.\d ms",
        r"recovered \d+\.\d ms after the release",
    ],
    ("held-worker", Outcome.STALLED): [
        r"critical thread 0 \(pid \d+\) got no object for the last \d\.\d+ s of the window: "
        r"state D, .*spl_kmem_cache_alloc.* <- critical_thread",
        r"critical thread 1 \(pid \d+\) got no object",
        r"by sysrq-t, slabprobe/\d \(pid \d+\) and 1 more wait in spl_\w+ for the slab worker spl_kmem_cache "
        r"\(pid \d+\), which is held by slabprobe until the host releases it: a chain, not a cycle",
    ],
    ("held-worker", Outcome.NOT_TRIGGERED): [r"no worker came to be held: this SPL has none"],
    ("grow-fails", Outcome.HEALTHY): [
        r"8 page allocations were made to fail; no caller was refused, 2 critical threads got \d+ objects from then on",
        r"no emergency object is left, flags clear",
    ],
    ("grow-fails", Outcome.STALLED): [r"critical thread \d \(pid \d+\) got no object for the last \d\.\d+ s"],
    ("grow-fails", Outcome.NOT_TRIGGERED): [r"no allocation was made to fail, although 0 were open to it"],
    ("emergency-fails", Outcome.PROGRESS): [
        r"spl_kmem_cache \(pid \d+\) was stuck for 3\.\d+ s in slabprobe_grow_work <- taskq_thread",
        r"16 page allocations were made to fail; no caller was refused, 2 critical threads got \d+ objects",
    ],
    ("emergency-fails", Outcome.STALLED): [r"critical thread 0 \(pid \d+\) got no object for the last \d\.\d+ s"],
    ("emergency-fails", Outcome.NOT_TRIGGERED): [r"no worker came to be held: this SPL has none"],
    ("reclaim-cycle", Outcome.IMMUNE): [
        r"the trap was sprung (\d+) times and declined \1 times, by the flags .*, and nobody was caught",
        r"\d+ transactions were committed in the window",
    ],
    ("reclaim-cycle", Outcome.PROGRESS): [
        r"spl_kmem_cache \(pid \d+\) was caught for [3-9]\.\d+ s in slabprobe_wait_commit <- try_to_free_pages <- "
        r"slabprobe_pte_alloc_kernel <- __vmalloc\w* <- spl_cache_grow_work: \d+ readings, \d+ context switches in e",
        r"(\d{3}) of \1 transactions were carried by emergency objects",
        r"the cycle ended by itself, \d+\.\d+ s and 300 commits after it began",
        r"cycle: the transaction thread slabprobe/tx \(pid \d+\) waits in spl_\w+ for the slab worker spl_kmem_cache "
        r"\(pid \d+\); the slab worker .* waits in slabprobe_wait_commit, in shrinker slabprobe_shrink_scan, in direct "
        r"reclaim, for the commit of the transaction thread",
    ],
    ("reclaim-cycle", Outcome.STALLED): [
        r"no transaction was committed for the last 3\.\d+ s of the window",
        r"by sysrq-t, cycle: the transaction thread slabprobe/tx \(pid \d+\) waits in slabprobe_wait_commit, in "
        r"shrinker slabprobe_shrink_scan, in direct reclaim, for its own commit",
    ],
}


# Cells that show what other cells show as well; the whole table takes longer than the default suite allows.
# Those with faults take a kernel that is built from source, and such builds take minutes.
FAULTY = [cell for cell in EXPECTED if SCENARIOS[cell[0]].faults]
FAULTS_KERNEL = "built:faults"
LONG = {*FAULTY, ("nominal", "unscoped"), ("nominal", "sync-grow"), ("held-worker", "sync-grow")}


@pytest.mark.vm
@pytest.mark.parametrize(
    ("scenario", "variant"),
    [pytest.param(*cell, id="-".join(cell), marks=[pytest.mark.slow] * (cell in LONG)) for cell in EXPECTED],
)
def test_verdict_is_the_expected_one(
    run_scenario: Callable[..., RunResult], pytestconfig: pytest.Config, scenario: str, variant: str
) -> None:
    kernel = FAULTS_KERNEL if (scenario, variant) in FAULTY else pytestconfig.getoption("--kernel")
    result = run_scenario(scenario, variant=variant, kernel=kernel)
    outcome = EXPECTED[scenario, variant].on(spec_of(find_any_kernel(kernel)))
    result.must_be(outcome)
    text = "\n".join(reason.text for reason in result.verdict.reasons)
    for reason in REASONS[scenario, outcome]:
        assert re.search(reason, text), text
    assert judge(read_evidence(result.directory)) == result.verdict, "the record alone gives the same verdict"
    check_that_damage_shows(result.directory)
    assert judge(read_evidence(result.directory)) == result.verdict


# Without the marks the flags are GFP_KERNEL, as spl_fstrans_check() in kmem_flags_convert() is then false.
@pytest.mark.vm
@pytest.mark.parametrize(
    ("patches", "outcome"),
    [(("no-marks",), Outcome.PROGRESS), (("no-marks", "grow-in-caller"), Outcome.STALLED)],
    ids=["worker", "caller"],
)
def test_without_flags_and_marks_no_kernel_is_immune(
    run_scenario: Callable[..., RunResult], patches: tuple[str, ...], outcome: Outcome
) -> None:
    """The control for IMMUNE where vmalloc honours its flags: there are none that it could honour."""
    variants = find_images() / "spl" / "variants"
    result = run_scenario("reclaim-cycle", patches=tuple(variants / f"{name}.cocci" for name in patches))
    result.must_be(outcome)
    text = "\n".join(reason.text for reason in result.verdict.reasons)
    for reason in REASONS["reclaim-cycle", outcome]:
        assert re.search(reason, text), text


def check_that_damage_shows(directory: Path) -> None:
    """Without any one of its files, or with a part of it, a real run is worth no verdict."""
    for name in (*EVIDENCE_FILES, "run.json"):
        whole = (directory / name).read_bytes()
        (directory / name).unlink()
        assert judged(directory) is Outcome.INCONCLUSIVE, f"{name} is missing"
        for size in (0, len(whole) // 2, len(whole) - 2):
            (directory / name).write_bytes(whole[:size])
            assert judged(directory) is Outcome.INCONCLUSIVE, f"{name} has {size} of {len(whole)} bytes"
        (directory / name).write_bytes(whole)


def judged(directory: Path) -> Outcome:
    """The outcome; a record that cannot be read at all is as good as none."""
    try:
        return judge(read_evidence(directory)).outcome
    except EvidenceError:
        return Outcome.INCONCLUSIVE


def test_every_variant_is_judged_in_every_scenario() -> None:
    assert set(EXPECTED) == {(scenario, variant) for scenario in SCENARIOS for variant in VARIANTS}
    cells = {(name, cell.on(kernel)) for (name, _), cell in EXPECTED.items() for kernel in KERNELS.values()}
    assert cells == set(REASONS)
