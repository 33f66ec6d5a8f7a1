"""Memory that is no object of a cache, and CPUs that go and come: each line of the probe's can be wrong."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from places import PROJECT
from simulated import Run, simulate
from simulated_kinds import HOTPLUG, MEMORY
from splvm.errors import EvidenceError
from splvm.evidence.checks.promises import OF_MEMORY
from splvm.evidence.checks.worksaid import TAKERS
from splvm.evidence.formats.probestatus import ProbeStatus, parse_probe
from splvm.evidence.verdict import Outcome, Verdict
from splvm.scenarios.judged import judge_evidence

RUNS = {name: simulate(name) for name in (HOTPLUG, MEMORY)}


def last_text(run: Run, source: str) -> str:
    return next(str(it["text"]) for it in reversed(run.records) if it.get("source") == source and it.get("text"))


def status_of(scenario: str, old: str = "", new: str = "") -> ProbeStatus:
    return parse_probe(
        re.sub(old, new, last_text(RUNS[scenario], "probe")) if old else last_text(RUNS[scenario], "probe")
    )


def judged(scenario: str, old: str, new: str, phase: str = "") -> Verdict:
    """With other words in the probe's status, from a phase on."""
    records, found, begun = [], False, not phase
    for record in RUNS[scenario].records:
        begun = begun or (record["kind"] == "phase" and record["name"] == phase)
        if begun and record.get("source") == "probe":
            text = re.sub(old, new, str(record["text"]))
            found = found or text != record["text"]
            record = {**record, "text": text}
        records.append(record)
    assert found, old
    return judge_evidence(replace(RUNS[scenario], records=records).evidence())


def test_status_is_read() -> None:
    memory, cpus = status_of(MEMORY).memory, status_of(HOTPLUG).cpus
    assert memory is not None
    assert [(it.index, it.marked, it.step) for it in memory.takers] == [(0, 0, ""), (1, 1, "")]
    assert {it.name for it in memory.promises} == set(OF_MEMORY)
    assert cpus is not None
    assert (cpus.state, cpus.present, cpus.online, cpus.failed) == ("all", 4, 4, 0)
    assert status_of(HOTPLUG).memory is None
    assert status_of(MEMORY).cpus is None


@pytest.mark.parametrize(
    ("scenario", "old", "new"),
    [
        (MEMORY, r"vmem_back=\d+", "vmem_back=x"),
        (MEMORY, "state=gone", "state=dead"),
        (MEMORY, "marked=1", ""),
        (HOTPLUG, "present=4", "present="),
        (HOTPLUG, "state=all", ""),
    ],
)
def test_status_that_lacks_something_is_none(scenario: str, old: str, new: str) -> None:
    with pytest.raises(EvidenceError):
        status_of(scenario, old, new)


@pytest.mark.parametrize(
    ("scenario", "old", "new", "outcome", "reason"),
    [
        (HOTPLUG, "(state=away .*) online=1", r"\1 online=2", "INCONCLUSIVE", "2 CPUs were there"),
        (HOTPLUG, r"(?m)^cpus .*\n", "", "INCONCLUSIVE", "the probe tells nothing of CPUs that go and come"),
        (HOTPLUG, "present=4", "present=8", "INCONCLUSIVE", "4 of 8 CPUs are there at the end"),
        (HOTPLUG, "back=1", "back=0", "INCONCLUSIVE", "no CPU was away while the caches were made"),
        (MEMORY, r"(?m)^(taker|mpromise) .*\n", "", "INCONCLUSIVE", "the probe tells nothing of memory"),
        (MEMORY, "taker 1", "taker 2", "INCONCLUSIVE", "does not have as the probe has it: taker"),
        (MEMORY, r"vmem_back=\d+", "vmem_back=0", "NOT_TRIGGERED", r"0 large pieces that vmem_alloc\(\)"),
        (MEMORY, r"kmem_back=\d+", "kmem_back=0", "NOT_TRIGGERED", r"0 large pieces that kmem_alloc\(\)"),
        (MEMORY, r"(?m)^blocks after.*\n", "", "NOT_TRIGGERED", "free memory did not lie in single pages"),
        (MEMORY, "state=gone", "state=emptied", "INCONCLUSIVE", "nobody looked after all memory had been given back"),
        *(
            (MEMORY, rf"(mpromise {name} .*) broken=0", r"\1 broken=1", "SUSPECT", text.format(at="kmem_alloc"))
            for name, text in OF_MEMORY.items()
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(scenario: str, old: str, new: str, outcome: str, reason: str) -> None:
    verdict = judged(scenario, old, new)
    assert verdict.outcome is Outcome(outcome), verdict
    assert any(re.search(reason, it.text) for it in verdict.reasons), verdict


def test_kmem_alloc_of_before_does_not_fall_back() -> None:
    old = r"kmem_falls_back=1 kmem=(\d+) kmem_back=\d+"
    assert judged(MEMORY, old, r"kmem_falls_back=0 kmem=\1 kmem_back=0").outcome is Outcome.HEALTHY


def test_threads_and_promises_are_those_of_the_probe() -> None:
    source = (PROJECT / "images" / "slabprobe" / "memory.c").read_text()
    table = source.partition("promises[NR_PROMISES] = {\n")[2].partition("};")[0]
    assert re.findall(r'\{ "([\w-]+)" \}', table) == list(OF_MEMORY)
    assert re.findall(r"#define NR_THREADS\s+(\d+)", source) == [str(len(TAKERS))]
