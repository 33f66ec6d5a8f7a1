"""Records that have a part of another run: each is whole and could be sealed, and none is good."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from current import TOKEN, current
from simulated import Run, simulate
from simulated_guest import Record
from simulated_kinds import HELD, KINDS, NOMINAL
from splvm.evidence.timeline import Evidence
from splvm.evidence.verdict import Outcome, Verdict
from splvm.evidence.waiting.tasklists import find_waiting
from splvm.scenarios.judged import judge_evidence

OTHER = "0123456789abcdef"
LISTED = """\
[    9.100000] sysrq: Show Blocked State
[    9.200000] task:slabprobe/0     state:D stack:0     pid:128   ppid:2      flags:0x00004000
[    9.200000] Call Trace:
[    9.200000]  <TASK>
[    9.200000]  spl_kmem_cache_alloc+0x550/0x5c0 [spl]
[    9.200000]  </TASK>
"""

Change = Callable[[Run], Run]


def with_start(run: Run, **changes: object) -> Run:
    """The same with another record of how it began; None takes a key out."""
    first = {name: value for name, value in {**run.records[0], **changes}.items() if value is not None}
    return Run(run.facts, [first, *run.records[1:]], run.console)


def with_facts(run: Run, **facts: object) -> Run:
    return Run({**run.facts, **facts}, run.records, run.console)


def told(verdict: Verdict) -> str:
    return " | ".join(reason.text for reason in (*verdict.reasons, *(reason for _, reason in verdict.also)))


def spoil(run: Run, words: str) -> None:
    verdict = judge_evidence(run.evidence())
    assert verdict.outcome is Outcome.INCONCLUSIVE, verdict
    assert re.search(words, told(verdict)), told(verdict)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_another_run(kind: str) -> None:
    """Of the same scenario, kernel and build: the run's own word is the one thing that differs."""
    run = current(kind)
    assert judge_evidence(run.evidence()).outcome is KINDS[kind].best
    spoil(with_start(run, token=OTHER), rf"samples\.jsonl is of run {OTHER}; run\.json is of {TOKEN}")


SWAPS: Mapping[str, tuple[Change, str]] = {
    "samples that say no run": (lambda run: with_start(run, token=None), "samples.jsonl is of run None"),
    "run.json of another run": (lambda run: with_facts(run, token=OTHER), "samples.jsonl is of run c0ffee"),
    "run.json that says no run": (lambda run: with_facts(run, token=None), "run.json is of None"),
    "no word at all": (
        lambda run: with_start(Run({**run.facts, "token": None}, run.records, run.console[:-45]), token=None),
        "samples.jsonl is of run None; run.json is of None",
    ),
    "a word that is none": (
        lambda run: with_start(with_facts(run, token="x"), token="x"),
        "samples.jsonl is of run x; run.json is of x",
    ),
    "samples of an older run that says no run": (
        lambda run: with_facts(with_start(run, token=None), splvm="0.1.0"),
        "samples.jsonl is of run None",
    ),
    "samples of this version in the record of an older one": (
        lambda run: Run(
            {name: value for name, value in run.facts.items() if name != "token"} | {"splvm": "0.1.0"},
            run.records,
            run.console,
        ),
        "run.json is of None",
    ),
    "a console of another run": (
        lambda run: Run(run.facts, run.records, run.console.replace(TOKEN, OTHER)),
        f"console.log is of run {OTHER}",
    ),
}


@pytest.mark.parametrize("kind", [HELD, NOMINAL])
@pytest.mark.parametrize("name", SWAPS)
def test_a_part_of_another_run(name: str, kind: str) -> None:
    change, words = SWAPS[name]
    spoil(change(current(kind)), words)


@pytest.mark.parametrize("odd", [7, True, [], {}, "a\0b"], ids=repr)
def test_a_word_that_is_no_text(odd: Any) -> None:
    spoil(with_start(current(HELD), token=odd), "record 1 cannot be read")


@pytest.mark.parametrize(("token", "outcome"), [(None, Outcome.CRASHED), (OTHER, Outcome.INCONCLUSIVE)])
def test_a_bad_record_stays_bad_unless_it_is_another_runs(token: str | None, outcome: Outcome) -> None:
    """An expected bad verdict is a good exit status: evidence of another run is worth none."""
    run = with_start(current(HELD), token=token)
    panic = Run(run.facts, run.records, f"{run.console}[    9.0] Kernel panic - not syncing: Fatal exception\n")
    assert judge_evidence(panic.evidence()).outcome is outcome


# What a run has once


def doubled(run: Run, at: int) -> Run:
    return Run(run.facts, [*run.records[: at + 1], copy.deepcopy(run.records[at]), *run.records[at + 1 :]], run.console)


def is_once(record: Record) -> bool:
    return record["kind"] in ("start", "phase", "afterwards") or str(record.get("text", "")).startswith("hello ")


@pytest.mark.parametrize("kind", [HELD, NOMINAL])
def test_what_a_run_has_once(kind: str) -> None:
    run = current(kind)
    numbers = [number for number, record in enumerate(run.records) if is_once(record)]
    assert len(numbers) > 8
    for number in numbers:
        spoil(doubled(run, number), r"the record has `[a-z -]+` twice")


def test_slab_files_that_were_read_afterwards() -> None:
    run = simulate(HELD)
    after = {"kind": "afterwards", "source": "slab", "text": "", "at_s": 99.0}
    spoil(Run(run.facts, [*run.records, after, after], run.console), "the record has `afterwards slab` twice")


def test_a_beginning_that_is_not_the_first_word() -> None:
    first, second, *rest = current(HELD).records
    spoil(Run(current(HELD).facts, [second, first, *rest], current(HELD).console), "record 2 says that the run begins")


def test_a_mark_twice() -> None:
    run = copy.deepcopy(current(HELD))
    for record in run.records:
        if record.get("source") == "probe":
            record["text"] = re.sub(r"(?m)^(mark 0 (\d+) (\S+))$", r"\1\nmark 9 \2 \3", record["text"])
    spoil(run, "the probe has a mark twice: settle")


# How the guest came up

BEGINNINGS: Mapping[str, tuple[Mapping[str, object], str]] = {
    "a boot with a template": ({"boots": 1}, "1 boots, a template"),
    "a clone without a template": ({"template": ""}, "0 boots, no template"),
    "a clone, and why it is none": ({"no_clone": "no room"}, "0 boots, a template, and why"),
    "a boot with the console of a clone": ({"boots": 1, "template": ""}, "its console is that of a clone"),
    "too many boots": ({"boots": 7, "template": ""}, "boots is 7"),
    "boots that are no number": ({"boots": "1"}, "run.json"),
    "true for one boot": ({"boots": True, "template": ""}, "boots is True"),
    "a template that is none": ({"template": 7}, "how the guest came up"),
    "a reason that is none": ({"no_clone": None}, "how the guest came up"),
}


@pytest.mark.parametrize("name", BEGINNINGS)
def test_how_the_guest_came_up(name: str) -> None:
    facts, words = BEGINNINGS[name]
    spoil(with_facts(current(HELD), **facts), words)


@pytest.mark.parametrize(("boots", "no_clone"), [(1, ""), (2, ""), (1, "no room")])
def test_a_guest_that_was_booted(boots: int, no_clone: str) -> None:
    run = with_facts(current(HELD), boots=boots, template="", no_clone=no_clone)
    silent = Run(run.facts, run.records, run.console.replace("splvm: clone is awake\n", ""))
    assert judge_evidence(silent.evidence()).outcome is Outcome.PROGRESS
    spoil(with_facts(silent, boots=0, template="9c", no_clone=""), "its console is that of no clone")


# What the kernel listed


def listed(run: Run, console: str, sysrq: str) -> Evidence:
    taken = {"kind": "monitor", "why": "the end of the window", "at_s": 9.0}
    look = {**taken, "taken": [{"what": "sysrq", "ok": True, "detail": "by BREAK"}]}
    records = [*run.records[:-1], look, run.records[-1]]
    return replace(Run(run.facts, records, run.console + console).evidence(), sysrq=sysrq)


def test_a_list_of_another_run() -> None:
    run, other = current(HELD), LISTED.replace("9.", "8.") * 2
    assert judge_evidence(listed(run, LISTED, LISTED)).outcome is Outcome.PROGRESS
    # It is read from the middle of a line to the middle of another one.
    assert judge_evidence(listed(run, LISTED * 2, LISTED[4:-9])).outcome is Outcome.PROGRESS
    swapped = listed(run, LISTED, other)
    assert "sysrq.txt has lines that console.log does not have" in told(judge_evidence(swapped))
    assert not judge_evidence(swapped).outcome.is_good
    # Nobody is told who waited in another run.
    for evidence, source in ((listed(run, LISTED, LISTED), "sysrq-w"), (swapped, "agent")):
        waiting = find_waiting(evidence)
        assert waiting is not None and waiting.source == source
