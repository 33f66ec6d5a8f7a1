"""Recorded runs, judged again: every verdict that there is, without a guest.

How they are recorded is in CONTRIBUTING.md, "To record a run as test data".
"""

from __future__ import annotations

import json
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from places import PROJECT
from splvm.evidence.diagnosis import Condition
from splvm.evidence.verdict import Outcome
from splvm.record.names import EVIDENCE_FILES, TAKEN_FILES
from splvm.record.reader import read_evidence
from splvm.scenarios.judged import judge_evidence as judge
from unpacking import unpack


@dataclass(frozen=True)
class Recorded:
    outcome: Outcome
    # What the reasons have to say.
    words: tuple[str, ...]


# On Debian 12's cloud kernel and SPL 2.1.11 if nothing else is said, two CPUs, emulated, with a window of 2 s at 10
# samples a second.
RUNS = {
    "progress": Recorded(Outcome.PROGRESS, ("was stuck for 2.", "recovered")),
    # sshd was killed at the start of the window.
    "progress-without-sshd": Recorded(Outcome.PROGRESS, ("was stuck for 2.", "recovered")),
    "healthy": Recorded(Outcome.HEALTHY, ("none of them an emergency object",)),
    # SPL without emergency objects.
    "stalled": Recorded(
        Outcome.STALLED,
        ("got no object for the last 2.", "by sysrq-t, slabprobe/0", "which is held by slabprobe until the host"),
    ),
    # The trap: SPL as of 2012 on a vmalloc that honours its flags, and on one that does not, Debian 11's 5.10 with SPL
    # 2.0.3; there also SPL from before 2012.
    "immune": Recorded(Outcome.IMMUNE, ("declined 124 times", "and nobody was caught")),
    "progress-cycle": Recorded(
        Outcome.PROGRESS,
        (
            "was caught for 2.4",
            "__vmalloc <- spl_cache_grow_work",
            "115 of 115 transactions",
            "the cycle ended by itself",
        ),
    ),
    "stalled-cycle": Recorded(
        Outcome.STALLED, ("no transaction was committed", "by sysrq-t, cycle:", "its own commit")
    ),
    # Builds with one fault each: tests/vm/mutants.
    "no-recovery": Recorded(Outcome.NO_RECOVERY, ()),
    "miscounted": Recorded(Outcome.MISCOUNTED, ()),
    "slow": Recorded(Outcome.SLOW, ("the bound is 1000.0 ms",)),
    # The same, and two more, on two cores with a load of 13.
    "slow-asleep": Recorded(Outcome.SLOW, ("waited 2547.5 ms", "the bound is 1000.0 ms")),
    "slow-unasked": Recorded(
        Outcome.SLOW, ("2121 emergency objects were handed out", "127 timed out, and only 23 allocations took 33 ms")
    ),
    # At 20 samples a second.
    "slow-unwoken": Recorded(Outcome.SLOW, ("callers are not woken", "12 of 20 that slept")),
    "crashed": Recorded(Outcome.CRASHED, ("sysrq triggered crash",)),
    # Interrupts off on all CPUs; the agent and sshd stopped; QEMU killed.
    "lost-frozen": Recorded(Outcome.LOST, ("interrupts are off on all CPUs", "an NMI met a CPU in wreck_spin")),
    "lost-hung": Recorded(Outcome.LOST, ("its kernel does", "by sysrq-t")),
    "lost-qemu": Recorded(Outcome.LOST, ("QEMU ended with status -9",)),
    # The agent was killed.
    "inconclusive": Recorded(Outcome.INCONCLUSIVE, ("the guest answers on SSH",)),
    # Free memory lies in single pages; flags that allow compaction, and flags that do not (SPL as of 2012).
    "progress-fragmented": Recorded(
        Outcome.PROGRESS, ("(order 6): 1415 before memory was fragmented, 0 after", "the longest allocation")
    ),
    "stalled-fragmented": Recorded(
        Outcome.STALLED, ("nobody made blocks for objects of 256 KiB (order 6)", "0 of 16", "43676 single pages")
    ),
    # An object of 8 MiB.
    "stalled-large": Recorded(
        Outcome.STALLED, ("no emergency object can be had: 8192 KiB are more than", "largest block, 4096 KiB")
    ),
    # Thousands of emergency objects are kept; they are in a tree, or in a list.
    "progress-kept": Recorded(Outcome.PROGRESS, ("cost of a free by emergency objects kept", "10000: ")),
    "slow-list": Recorded(
        Outcome.SLOW, ("a free costs more the more emergency objects are kept", "10000: ", "the bound is 10 times")
    ),
    # Whoever writes back may begin I/O: tests/history.
    "suspect": Recorded(
        Outcome.SUSPECT,
        ("is not marked (flags 0x248040 without PF_MEMALLOC_NOIO", "GFP mask 0xd40, which has __GFP_IO;"),
    ),
    # The threads never had the cache grow.
    "not-triggered": Recorded(Outcome.NOT_TRIGGERED, ("no worker came to be held",)),
}

ARCHIVES = (PROJECT / "tests" / "data") / "runs"


def unpack_run(name: str, target: Path) -> Path:
    with tarfile.open(ARCHIVES / f"{name}.tar.xz") as archive:
        unpack(archive, target)
    return target / name


@pytest.mark.parametrize("name", RUNS)
def test_recorded_run(name: str, tmp_path: Path) -> None:
    run = unpack_run(name, tmp_path)
    verdict = judge(read_evidence(run))
    said = " ".join(reason.text for reason in verdict.reasons)
    assert verdict.outcome is RUNS[name].outcome, said
    assert all(word in said for word in RUNS[name].words), said
    # It is the verdict that was given then.
    then = json.loads((run / "verdict.json").read_text())
    assert (then["verdict"], then["reasons"][0]["text"]) == (verdict.outcome, verdict.reasons[0].text)


@pytest.mark.parametrize("name", ["slow-asleep", "slow-unasked", "slow-unwoken"])
def test_what_no_host_can_do_was_found_on_one_that_starved_its_guest(name: str, tmp_path: Path) -> None:
    verdict = judge(read_evidence(unpack_run(name, tmp_path)))
    assert re.fullmatch(
        r"the guest was starved: its CPUs ran 0\.\d s and waited [2-5]\.\d s for the host's", verdict.starved
    )


def test_every_verdict_was_recorded() -> None:
    assert {run.outcome for run in RUNS.values()} == set(Outcome)
    assert {path.name.removesuffix(".tar.xz") for path in ARCHIVES.iterdir()} == set(RUNS)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("how", ["gone", "empty", "half"])
def test_no_verdict_gets_better_by_a_loss(name: str, how: str, tmp_path: Path) -> None:
    for file in (*EVIDENCE_FILES, *TAKEN_FILES):
        run = unpack_run(name, tmp_path / file)
        path = run / file
        # A log that is empty is whole when it is.
        if not path.is_file() or not path.stat().st_size:
            continue
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2] if how == "half" else b"")
        if how == "gone":
            path.unlink()
        assert judge(read_evidence(run)).outcome is Outcome.INCONCLUSIVE


def test_the_second_path_brought_what_the_first_could_not(tmp_path: Path) -> None:
    evidence = read_evidence(unpack_run("progress-without-sshd", tmp_path))
    paths = [sample.path for sample in evidence.timeline.slab]
    first = paths.index("virtio-serial")
    assert 0 < first < len(paths)
    assert set(paths[:first]) == {"ssh"}
    assert set(paths[first:]) == {"virtio-serial"}
    assert evidence.timeline.losses == ()


@pytest.mark.parametrize(
    ("name", "condition"),
    [
        ("crashed", Condition.CRASHED),
        ("lost-frozen", Condition.FROZEN),
        ("lost-hung", Condition.HUNG),
        ("lost-qemu", Condition.QEMU_GONE),
        ("inconclusive", Condition.AGENT_GONE),
    ],
)
def test_the_monitors_diagnosis(name: str, condition: Condition, tmp_path: Path) -> None:
    (look,) = read_evidence(unpack_run(name, tmp_path)).timeline.looks
    assert look.condition == condition
