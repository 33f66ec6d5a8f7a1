"""Every row of the scenario table against every variant it has an expectation for, on a real guest."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from framework.build.variants import VARIANTS
from framework.errors import EvidenceError
from framework.evidence.judge import judge
from framework.evidence.verdict import Outcome
from framework.lab.rundir import EVIDENCE_FILES, read_evidence
from framework.lab.scenarios import SCENARIOS
from framework.plugin import RunResult

CELLS = [(scenario.name, variant) for scenario in SCENARIOS.values() for variant in scenario.expected]

# What a maintainer asks first is in the reasons, for the good verdicts and for the bad one.
REASONS = {
    ("nominal", "stock"): [r"2 critical threads got \d+ objects, none", r"dlock 0"],
    ("nominal", "no-emergency"): [r"2 critical threads got \d+ objects, none", r"dlock 0"],
    ("held-worker", "stock"): [
        r"spl_kmem_cache \(pid \d+\) was stuck for 3\.\d+ s in slabprobe_grow_work <- taskq_thread",
        r"\d+ readings, \d+ context switches in each",
        r"got \d+ objects meanwhile, \d+ of them emergency objects; longest gap \d+\.\d ms",
        r"recovered \d+\.\d ms after the release",
    ],
    ("held-worker", "no-emergency"): [
        r"critical thread 0 \(pid \d+\) got no object for the last \d\.\d+ s of the window: "
        r"state D, .*spl_kmem_cache_alloc.* <- critical_thread",
        r"critical thread 1 \(pid \d+\) got no object",
        r"by sysrq-t, slabprobe/\d \(pid \d+\) and 1 more wait in spl_\w+ for the slab worker spl_kmem_cache "
        r"\(pid \d+\), which is held by slabprobe until the host releases it: a chain, not a cycle",
    ],
}


@pytest.mark.vm
@pytest.mark.parametrize(("scenario", "variant"), CELLS, ids=["-".join(cell) for cell in CELLS])
def test_verdict_is_the_expected_one(run_scenario: Callable[..., RunResult], scenario: str, variant: str) -> None:
    result = run_scenario(scenario, variant=variant)
    result.must_be(SCENARIOS[scenario].expected[variant])
    text = "\n".join(reason.text for reason in result.verdict.reasons)
    for reason in REASONS[scenario, variant]:
        assert re.search(reason, text), text
    assert judge(read_evidence(result.directory)) == result.verdict, "the record alone gives the same verdict"
    check_that_damage_shows(result.directory)
    assert judge(read_evidence(result.directory)) == result.verdict


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
    for scenario in SCENARIOS.values():
        assert set(scenario.expected) == set(VARIANTS)
    assert set(REASONS) == set(CELLS)
