"""Every row of the scenario table against every variant it has an expectation for, on a real guest."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from framework.build.variants import VARIANTS
from framework.errors import EvidenceError
from framework.evidence.judge import judge
from framework.evidence.verdict import Outcome
from framework.lab.rundir import EVIDENCE_FILES, read_evidence
from framework.lab.scenarios import SCENARIOS
from framework.plugin import RunResult

pytestmark = pytest.mark.vm

CELLS = [(s, v) for s in SCENARIOS.values() for v in s.expected]


@pytest.mark.parametrize(("scenario", "variant"), CELLS, ids=[f"{s.name}-{v}" for s, v in CELLS])
def test_verdict_is_the_expected_one(run_scenario: Callable[..., RunResult], scenario: object, variant: str) -> None:
    assert scenario in SCENARIOS.values()
    name = next(s.name for s in SCENARIOS.values() if s is scenario)
    result = run_scenario(name, variant=variant)
    result.must_be(SCENARIOS[name].expected[variant])
    rejudged = judge(read_evidence(result.directory))
    assert rejudged == result.verdict, "the record alone gives the same verdict"
    damage_each_file(result)


def damage_each_file(result: RunResult) -> None:
    """Without any one of its files, or with half of it, a real run is worth no verdict."""
    for name in (*EVIDENCE_FILES, "run.json"):
        path = result.directory / name
        whole = path.read_bytes()
        for damaged in (None, whole[: len(whole) // 2], whole[:-1]):
            if damaged is None:
                path.unlink()
            else:
                path.write_bytes(damaged)
            try:
                outcome = judge(read_evidence(result.directory)).outcome
            except EvidenceError:
                outcome = Outcome.INCONCLUSIVE
            if not (name == "run.json" and damaged == whole[:-1]):
                # A run.json that lacks only its last newline is still all there.
                assert outcome is Outcome.INCONCLUSIVE, f"{name} cut to {len(damaged or b'')} of {len(whole)} bytes"
            path.write_bytes(whole)
    assert judge(read_evidence(result.directory)) == result.verdict


def test_every_variant_is_judged_in_every_scenario() -> None:
    for scenario in SCENARIOS.values():
        assert set(scenario.expected) == set(VARIANTS)


def test_reasons_name_thread_stack_counts_and_times(run_scenario: Callable[..., RunResult]) -> None:
    """What a maintainer asks first is in the reasons, for the good verdict and for the bad one."""
    good = run_scenario("held-worker", variant="stock")
    good.must_be(Outcome.PROGRESS)
    text = "\n".join(reason.text for reason in good.verdict.reasons)
    for part in ("spl_kmem_cache (pid ", "slabprobe_grow_work", "context switches", "emergency objects", " ms", " s "):
        assert part in text
    bad = run_scenario("held-worker", variant="no-emergency")
    bad.must_be(Outcome.STALLED)
    text = bad.verdict.reasons[0].text
    for part in ("critical thread 0 (pid ", "got no object", "state D", "spl_kmem_cache_alloc"):
        assert part in text
