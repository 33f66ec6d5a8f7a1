"""Batches of the magazines: whole ones, but for the last one of a slab."""

from __future__ import annotations

import functools
import re
from dataclasses import replace

import pytest

from simulated import simulate
from simulated_kinds import NOMINAL
from splvm.evidence.checks.case import Case
from splvm.evidence.checks.magazines import check_magazines
from splvm.evidence.formats.probestatus import Growth, Magazine, ProbeStatus
from splvm.evidence.timeline import Evidence
from splvm.evidence.verdict import Outcome


@functools.cache
def evidence() -> Evidence:
    return simulate(NOMINAL).evidence()


def complaints(hits: int, refills: int, slabs: int) -> list[str]:
    """What is said of two threads, each on its CPU, with so many in the window. Batches are of two objects at most."""
    first = Magazine(size=4, refill=2, cpus=2, hits=0, refills=0, grew=0, reusable=9, reused=9)
    last = replace(first, hits=hits, refills=refills, grew=slabs)
    timeline, half = evidence().timeline, evidence().timeline.marks["window"] + 1_000_000_000

    def told(status: ProbeStatus, late: bool) -> ProbeStatus:
        grown = slabs if late else 0
        return replace(status, magazine=last if late else first, growth=Growth(grown, grown, grown))

    probe = tuple(replace(it, value=told(it.value, it.start_ns > half)) for it in timeline.probe)
    case = Case(evidence(), replace(timeline, probe=probe), timeline.marks, 500_000_000)
    return [f"{it.outcome}: {it.reason.text}" for it in check_magazines(case)]


# Slabs of seven objects: three batches of two, and one of one, whose caller waits for the next growth. As seen with
# objects of 4 MiB, the largest of which a slab has several.
def test_the_last_batch_of_a_slab_may_be_of_one() -> None:
    assert not complaints(hits=30, refills=40, slabs=10)


@pytest.mark.parametrize(("hits", "refills"), [(0, 70), (10, 60)])
def test_batches_of_one(hits: int, refills: int) -> None:
    (said,) = complaints(hits, refills, slabs=10)
    assert re.match(rf"{Outcome.SLOW}: objects do not come from the magazines: only {hits} of 70 allocations", said)
