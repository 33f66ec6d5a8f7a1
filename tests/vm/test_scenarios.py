"""Every row of the scenario table against every variant it has an expectation for, on a real guest."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from splvm.assets import find_images
from splvm.builds.variants import VARIANTS
from splvm.clock import Clock
from splvm.errors import EvidenceError
from splvm.evidence.verdict import Outcome, Verdict
from splvm.pytest_fixtures import RunResult
from splvm.record.names import EVIDENCE_FILES
from splvm.record.reader import read_evidence
from splvm.run.loads import need_pool, with_own
from splvm.run.prepare import Prepared
from splvm.run.scenarios import Workload
from splvm.scenarios.judged import judge_evidence as judge
from splvm.scenarios.table import EXPECTED, SCENARIOS, WHATEVER_SPL

# What a maintainer asks first is in the reasons, whatever the scenario.
ALWAYS = {
    Outcome.PROGRESS: r"spl_kmem_cache \(pid \d+\) was (stuck|caught) for \d+\.\d+ s in slabprobe_|"
    r"spl_kmem_cache was caught \d+ times at spl_cache_grow_work",
    Outcome.HEALTHY: r"none of them an emergency object|nothing stood still under the load|made to fail; no caller|"
    r"\d+ objects of 7 caches were taken in the window, each looked at",
    Outcome.IMMUNE: r"the trap was sprung (\d+) times and declined \1 times|and a commit ended each of \d+ waits in it",
    Outcome.SLOW: r"a free costs more|waited \d+\.\d ms between two allocations|got no object between",
    Outcome.STALLED: r"for (the last )?\d+\.\d+ s (of|up to the end of) the window|nothing was .* between",
    Outcome.SUSPECT: r"is not marked \(flags 0x\w+ without PF_MEMALLOC_NOIO|which has __GFP_IO and __GFP_FS",
    Outcome.NOT_TRIGGERED: r"no worker came to be held|no allocation was made to fail|has no worker that could be held",
}

# And what is asked of some besides.
REASONS = {
    ("nominal", Outcome.HEALTHY): [
        r"2 critical threads got \d+ objects, none",
        r"dlock 0",
        r"\d+ of \d+ objects came from the magazines of the CPUs; of \d+ refills \d+ had the cache grow",
    ],
    ("held-worker", Outcome.PROGRESS): [
        r"spl_kmem_cache \(pid \d+\) was stuck for 3\.\d+ s in slabprobe_grow_work <- taskq_thread",
        r"\d+ readings, its context-switch count stayed at \d+",
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
    ("zfs-held-worker", Outcome.PROGRESS): [
        r"spl_kmem_cache \(pid \d+\) was stuck for [5-9]\.\d+ s in slabprobe_grow_work <- taskq_thread",
        r"pool tank: \d+ txgs were synced in the window, the last one is \d+",
        r"load zfs was at \d+\.\d MiB/s to \d+\.\d MiB/s \(0\.1 MiB/s and more are asked for\)",
    ],
    ("zfs-held-worker", Outcome.STALLED): [
        r"pool tank: no txg was synced for [4-9]\.\d+ s up to the end of the window; txg \d+ is (syncing|quiescing)",
    ],
    ("zfs-held-worker", Outcome.NOT_TRIGGERED): [r"no worker came to be held: this SPL has none"],
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
    ("fragmented", Outcome.PROGRESS): [
        r"spl_kmem_cache \(pid \d+\) was stuck for [3-9]\.\d+ s in slabprobe_grow_work <- taskq_thread",
        r"free blocks for an object of 256 KiB \(order 6\): \d{4} before memory was fragmented, \d after; the "
        r"longest allocation while the worker was held took \d+\.\d ms to \d+\.\d ms",
        r"recovered \d+\.\d ms after the release",
    ],
    ("fragmented", Outcome.STALLED): [r"critical thread [01] .* got no object for the last \d\.\d+ s of the window"],
    ("fragmented", Outcome.NOT_TRIGGERED): [r"no worker came to be held: this SPL has none"],
    ("long-lived", Outcome.PROGRESS): [
        r"spl_kmem_cache \(pid \d+\) was stuck for [3-9]\.\d+ s in slabprobe_grow_work <- taskq_thread",
        r"cost of a free by emergency objects kept \(median of \d+ batches or more\): "
        r"10: .* us, 100: .* us, 1000: .* us, 10000: \d+\.\d\d us, \d\.\d times",
        r"recovered \d+\.\d ms after the release",
    ],
    ("long-lived", Outcome.SLOW): [
        r"a free costs more .* kept: 10: .* us, 100: .*, 1000: .*, 10000: .* us, \d\d+\.\d times; the bound is 10"
    ],
    ("long-lived", Outcome.STALLED): [r"critical thread 0 .* got no object for the last \d\.\d+ s of the window"],
    ("long-lived", Outcome.NOT_TRIGGERED): [r"no worker came to be held: this SPL has none"],
    ("reclaim-cycle", Outcome.IMMUNE): [
        r"the trap was sprung (\d+) times and declined \1 times, by the flags .*, and nobody was caught",
        r"\d+ transactions were committed in the window",
    ],
    ("reclaim-cycle", Outcome.PROGRESS): [
        r"spl_kmem_cache \(pid \d+\) was caught for [3-9]\.\d+ s in slabprobe_wait_commit <- try_to_free_pages <- "
        r"slabprobe_pte_alloc_kernel <- __vmalloc\w* <- spl_cache_grow_work: \d+ readings, its context-switch count",
        r"\d{3} of \d{3} transactions were carried by emergency objects",
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

REASONS |= {
    ("storm", Outcome.IMMUNE): [
        r"\d+ sites were reached, and the kernel reclaimed at \d+ of them; \d+ transactions were committed in the w",
    ],
    ("storm", Outcome.STALLED): [r"deadlock at an allocation site: .* waits in reclaim at .*spl_kmem_cache_alloc"],
}

LOW = r"memory was low throughout: \d+ to \d+ KiB free in the readings, \d{3} MiB taken; \d+ times there was no page"
REASONS |= {
    ("reclaim-organic", outcome): [
        *(text.replace("slabprobe_pte_alloc_kernel", "_*pte_alloc_\\w+") for text in REASONS["reclaim-cycle", outcome]),
        *([LOW] if outcome.is_good else []),
    ]
    for outcome in (Outcome.IMMUNE, Outcome.PROGRESS, Outcome.STALLED)
}


# Cells of the default suite; the whole table takes longer than that allows.
SHORT = {
    ("nominal", "stock"),
    *(("held-worker", variant) for variant in ("stock", "no-emergency")),
    *(("reclaim-cycle", variant) for variant in ("stock", "unscoped", "sync-grow")),
    *(("long-lived", variant) for variant in ("stock", "list-walk")),
    ("fragmented", "stock"),
    ("zfs-held-worker", "stock"),
    ("storm", "stock"),
}


def has_pool(cell: tuple[str, str]) -> bool:
    """Whether the guests of a cell have a ZFS pool."""
    return need_pool(with_own(SCENARIOS[cell[0]].load, ()))


# Those with faults take a kernel that is built from source, and such builds take minutes.
FAULTY = [cell for cell in EXPECTED if SCENARIOS[cell[0]].faults]
FAULTS_KERNEL = "built:faults"


# Of the default suite, in the time that they have by default: virtual time under TCG.
USUAL = [pytest.param(*cell, {}, id="-".join(cell)) for cell in EXPECTED if cell in SHORT and not has_pool(cell)]

# The whole table in real time. A template with a pool takes as long in virtual time as several runs.
REAL = [
    pytest.param(
        *(*cell, {"clock": Clock.REAL}),
        id="-".join((*cell, "real")),
        marks=[pytest.mark.splvm_slow] * (cell not in SHORT or not has_pool(cell)),
    )
    for cell in EXPECTED
]


@pytest.mark.splvm_vm
@pytest.mark.parametrize(("scenario", "variant", "clock"), [*USUAL, *REAL])
def test_verdict_is_the_expected_one(
    run_scenario: Callable[..., RunResult],
    prepare_spl: Callable[..., Prepared],
    pytestconfig: pytest.Config,
    scenario: str,
    variant: str,
    clock: dict[str, Clock],
) -> None:
    kernel = FAULTS_KERNEL if (scenario, variant) in FAULTY else pytestconfig.getoption("--splvm-kernel")
    result = run_scenario(scenario, variant=variant, kernel=kernel, **clock)
    (outcome,) = prepare_spl(variant=variant, kernel=kernel).expected(SCENARIOS[scenario])
    result.must_be(outcome)
    check_reasons(scenario, result.verdict)
    assert judge(read_evidence(result.directory)) == result.verdict, "the record alone gives the same verdict"
    if scenario == "nominal":
        check_service(result.verdict.figures, has_worker=variant != "sync-grow")
    # Files are read before anybody knows the scenario.
    if (scenario, variant) in (("nominal", "stock"), ("held-worker", "stock")):
        check_that_damage_shows(result.directory)
        assert judge(read_evidence(result.directory)) == result.verdict


# Without the marks the flags are GFP_KERNEL, as spl_fstrans_check() in kmem_flags_convert() is then false.
# Of the worker without marks the mutant marks-forgotten is in the default suite.
@pytest.mark.splvm_vm
@pytest.mark.splvm_slow
@pytest.mark.parametrize("scenario", ["reclaim-cycle", "reclaim-organic"])
@pytest.mark.parametrize(
    ("patches", "outcome"),
    [
        pytest.param(("no-marks",), Outcome.SUSPECT, id="worker"),
        pytest.param(("no-marks", "grow-in-caller"), Outcome.STALLED, id="caller"),
    ],
)
def test_without_flags_and_marks_no_kernel_is_immune(
    run_scenario: Callable[..., RunResult], scenario: str, patches: tuple[str, ...], outcome: Outcome
) -> None:
    """The control for IMMUNE where vmalloc honours its flags: there are none that it could honour."""
    variants = find_images() / "spl" / "variants"
    result = run_scenario(scenario, patches=tuple(variants / f"{name}.cocci" for name in patches), clock=Clock.REAL)
    result.must_be(outcome)
    check_reasons(scenario, result.verdict)


def check_reasons(scenario: str, verdict: Verdict) -> None:
    text = "\n".join(reason.text for reason in verdict.reasons)
    for reason in (ALWAYS[verdict.outcome], *REASONS.get((scenario, verdict.outcome), ())):
        assert re.search(reason, text), text
    for carried, total in re.findall(r"(\d+) of (\d+) transactions were carried", text):
        # A reading may have been between a commit and the count of what carried it.
        assert abs(int(total) - int(carried)) <= 1, text


def check_service(figures: Mapping[str, Any], *, has_worker: bool) -> None:
    """What the probe counts at three places fits: the magazines, the worker, and vmalloc."""
    magazines, growths, slabs = figures["magazines"], figures["growths"], figures["slabs_grown"]
    assert 0 < magazines["grew"] <= magazines["refills"] + 1
    assert magazines["hits"] > magazines["refills"]
    assert slabs > 0
    # Either reading may have been in the middle of one.
    assert abs(growths - slabs) <= 2 if has_worker else growths == 0
    # Without a worker nobody waits for it.
    assert ("woken" in figures["latency"]) == ("waited" in figures["latency"]) == has_worker


@pytest.mark.splvm_vm
@pytest.mark.splvm_slow
@pytest.mark.parametrize("size_kib", [32, 64, 128, 256, 512, 1024])
def test_emergency_objects_may_be_large(run_scenario: Callable[..., RunResult], size_kib: int) -> None:
    workload = Workload(objects=8, size=size_kib * 1024, noio=1)
    run_scenario("held-worker", workload=workload, clock=Clock.REAL).must_be(Outcome.PROGRESS)


@pytest.mark.splvm_vm
@pytest.mark.splvm_slow
def test_no_emergency_object_is_larger_than_the_largest_block(run_scenario: Callable[..., RunResult]) -> None:
    """The control for large objects."""
    result = run_scenario("held-worker", workload=Workload(objects=2, size=8 << 20), window_s=2.0, clock=Clock.REAL)
    result.must_be(Outcome.STALLED)
    assert result.verdict.reasons[0].text == (
        "no emergency object can be had: 8192 KiB are more than the page allocator's largest block, 4096 KiB"
    )


@pytest.mark.splvm_vm
@pytest.mark.splvm_slow
@pytest.mark.parametrize(("noio", "outcome"), [(0, Outcome.PROGRESS), (1, Outcome.STALLED)])
def test_who_makes_large_blocks(run_scenario: Callable[..., RunResult], noio: int, outcome: Outcome) -> None:
    """Compaction does, and GFP_NOIO keeps it from its caller (try_to_compact_pages(), mm/compaction.c)."""
    workload = Workload(objects=8, size=262_144, noio=noio)
    result = run_scenario("fragmented", workload=workload, clock=Clock.REAL)
    result.must_be(outcome)
    text = "\n".join(reason.text for reason in result.verdict.reasons)
    assert ("nobody made blocks for objects of 256 KiB (order 6)" in text) == bool(noio), text


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
    asked = set(SCENARIOS) - set(WHATEVER_SPL)
    assert set(EXPECTED) == {(scenario, variant) for scenario in asked for variant in VARIANTS}
    cells = {(name, cell.on(honours=honours)) for (name, _), cell in EXPECTED.items() for honours in (True, False)}
    assert set(REASONS) <= cells
    assert {outcome for _, outcome in cells} <= set(ALWAYS)
