"""What the runs of a storm come to: the verdict of all, findings, and several searches as one. No guest."""

from __future__ import annotations

from pathlib import Path

import pytest

from splvm.campaign.places import group_of
from splvm.campaign.stormreport import Finding, Pass, StormReport, found_in, joined
from splvm.evidence.formats.sites import parse_sites
from splvm.evidence.verdict import Outcome, Reason, Verdict


def made(name: str, outcome: Outcome, *, is_extra: bool = False, reclaims: int = 0) -> Pass:
    site = (
        "site 1 id=1 thread=user helper=0 asked=0xcc0 effective=0xc00 calls=9 most=64 chain=__kmalloc<f+0x1/0x9"
        f" reclaims={reclaims}\n"
    )
    file = parse_sites(f"slabprobe_sites 1\nnow_ns 1\nmasks fs=0x80 io=0x40 reclaim=0x400\n{site}end\n")
    return Pass(name, Verdict(outcome, (Reason(name),)), Path("/runs") / name, file, is_extra=is_extra)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("spl_emergency_alloc:kmalloc_trace#1", "caches"),
        ("__spl_cache_grow+0x20", "caches"),
        ("spl_kmem_cache_alloc:kmem_cache_alloc#1", "caches"),
        ("spl_kmem_alloc:__kmalloc_node#2", "memory"),
        ("kmem_asprintf:kvasprintf#1", "memory"),
        ("task_alloc:__kmalloc_node#1", "taskqs"),
        ("taskq_create:kstrdup#1", "taskqs"),
        ("__thread_create+0x40", "threads"),
        ("spl_kthread_create:vsnprintf#1", "threads"),
        ("spl_init:__alloc_percpu#1", "others"),
        ("helpers:kthreadd", "helpers"),
    ],
)
def test_the_part_of_spl_that_a_place_belongs_to(name: str, group: str) -> None:
    assert group_of(name) == group


def test_a_part_that_nothing_came_by_says_nothing() -> None:
    parts = [made("part", Outcome.NOT_TRIGGERED, is_extra=True), made("other part", Outcome.IMMUNE, is_extra=True)]
    report = StormReport((), [made("all", Outcome.PROGRESS), *parts])
    assert report.worst.name == "all"
    report.passes.append(made("bad part", Outcome.STALLED, is_extra=True))
    assert report.worst.name == "bad part"
    # Of all places it does.
    assert StormReport((), [made("all", Outcome.IMMUNE), made("low", Outcome.NOT_TRIGGERED)]).worst.name == "low"


def test_several_searches_as_one() -> None:
    first, second = (StormReport((), [made("all", Outcome.STALLED, reclaims=3)], seed=seed) for seed in (7, 8))
    first.findings.append(Finding("f:g#1", first.passes[0]))
    second.findings += [Finding("f:g#1", second.passes[0]), Finding("f:h#1", second.passes[0])]
    report = joined([first, second])
    assert [it.place for it in report.findings] == ["f:g#1", "f:h#1"]
    assert report.findings[0].first is first.passes[0]
    assert (report.seed, report.reclaims, len(report.passes)) == (7, 6, 2)
    assert found_in([first, second]) == {"f:g#1": 2, "f:h#1": 1}


def test_how_few_places_a_finding_needs() -> None:
    stalled = made("all", Outcome.STALLED)
    assert Finding("f", stalled).reach == "in fewer places nobody looked for it"
    assert Finding("f", stalled, tried=True).reach == "not found again in fewer places"
    assert Finding("f", stalled, stalled, ("f",)).reach == "found again with reclaim at this place alone"
    assert "at 2 places" in Finding("f", stalled, stalled, ("f", "g")).reach
