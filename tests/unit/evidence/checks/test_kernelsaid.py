"""What the kernel's complaints do to a verdict: each row of the table, on both sides."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from places import DATA
from simulated import simulate
from simulated_faults import FAULTS
from simulated_guest import Knobs
from simulated_kinds import CYCLE, HELD, NOMINAL
from simulated_texts import CONSOLE
from splvm.evidence.checks.kernelsaid import OWN, ROWS, Effect, is_own, row_of
from splvm.evidence.formats.kerncomplaints import FindingKind
from splvm.evidence.formats.kernlog import scan_kernel_log
from splvm.evidence.verdict import Outcome, Verdict
from splvm.scenarios.judged import judge_evidence as judge

LOGS = {path.stem: path.read_text() for path in sorted((DATA / "kernlog").rglob("*.log"))}

# A recorded or reduced text of each row of the table, in its order.
OF_ROW = (
    ("spl-panic", "oops", "bug", "lockdep", "kasan"),
    ("unexpected-gfp-vmalloc", "ubsan", "kcsan", "refcount", "warning"),
    ("soft-lockup", "hard-lockup", "rcu-stall", "workqueue-lockup", "hung-task"),
    ("page-alloc-failure", "oom-kill"),
)
TEXTS = {name: ROWS[at] for at, name in enumerate(name for names in OF_ROW for name in names)}


def text_of(name: str) -> str:
    """Without what else is in the file: a panic that follows a soft lockup, and a complaint without a stack."""
    ends = {"soft-lockup": "Kernel panic", "refcount": "[   35.000001]"}
    return LOGS[name].partition(ends[name])[0] if name in ends else LOGS[name]


def elsewhere(text: str) -> str:
    """The same complaint, of modules that are not OpenZFS's."""
    return re.sub(rf"\[(?:{'|'.join(OWN)})\]", "[virtio_net]", text)


def judged(console: str, kind: str = HELD, knobs: Knobs | None = None) -> Verdict:
    return judge(replace(simulate(kind, knobs or Knobs()).evidence(), console=CONSOLE + console))


def test_each_row_has_a_text_and_each_kind_a_row() -> None:
    assert {row.kind for row in ROWS} == set(FindingKind)
    for name, row in TEXTS.items():
        assert row in {row_of(finding) for finding in scan_kernel_log(text_of(name))}, name
    assert len(set(TEXTS.values())) == len(ROWS) == len({row.why for row in ROWS})


@pytest.mark.parametrize("name", TEXTS)
def test_a_complaint_of_spl(name: str) -> None:
    own = any(is_own(it) for it in scan_kernel_log(text_of(name)) if not it.fatal)
    outcomes = {Effect.CRASH: Outcome.CRASHED, Effect.TOLD: Outcome.PROGRESS}
    wanted = outcomes.get(TEXTS[name].effect, Outcome.SUSPECT if own else Outcome.PROGRESS)
    verdict = judged(text_of(name))
    assert verdict.outcome is wanted, verdict.reasons
    if wanted is Outcome.SUSPECT:
        said = r"the kernel warned, with (spl|slabprobe)(, \w+)? in the stack: .* \(console\.log line \d+\)"
        assert re.match(f"{said}; {re.escape(TEXTS[name].why)}", verdict.reasons[0].text)


@pytest.mark.parametrize("name", [name for name, row in TEXTS.items() if row.effect is not Effect.CRASH])
def test_a_complaint_of_something_else_is_told(name: str) -> None:
    text = elsewhere(text_of(name))
    verdict = judged(text)
    assert verdict.outcome is Outcome.PROGRESS
    first = scan_kernel_log(text)[0].title
    told = [reason.text for reason in verdict.reasons if "the kernel said, which does not count" in reason.text]
    assert first in told[0]


@pytest.mark.parametrize("kind", [HELD, NOMINAL, CYCLE])
def test_no_good_verdict_beside_a_warning_of_spl(kind: str) -> None:
    assert judged("", kind).outcome.is_good
    assert judged(text_of("unexpected-gfp-vmalloc"), kind).outcome is Outcome.SUSPECT


@pytest.mark.parametrize(("size", "outcome"), [(60000, Outcome.SUSPECT), (65537, Outcome.PROGRESS)])
def test_spl_warns_of_large_pieces_alone(size: int, outcome: Outcome) -> None:
    said = f"[   12.000000] Large kmem_alloc({size}, 0x1), please file an issue at:\n"
    verdict = judged(said)
    assert verdict.outcome is outcome
    if outcome is Outcome.SUSPECT:
        assert verdict.reasons[0].text.startswith(f"SPL warned once of a large kmem_alloc(), of {size} bytes")


def test_a_benign_warning_is_not_even_told() -> None:
    verdict = judged(LOGS["benign"])
    assert verdict.outcome is Outcome.PROGRESS
    assert not any("the kernel said" in reason.text for reason in verdict.reasons)


@pytest.mark.parametrize("name", [name for name, row in TEXTS.items() if row.effect is Effect.LATE])
def test_what_a_busy_host_can_do_is_told(name: str) -> None:
    verdict = judged(text_of(name), knobs=FAULTS["host starves the guest"])
    assert verdict.outcome is Outcome.PROGRESS
    assert any("the kernel said" in reason.text for reason in verdict.reasons)


@pytest.mark.parametrize(("pid", "outcome"), [(114, Outcome.PROGRESS), (128, Outcome.PROGRESS), (115, Outcome.SUSPECT)])
def test_a_hung_task_that_the_experiment_holds_belongs_to_it(pid: int, outcome: Outcome) -> None:
    text = text_of("hung-task").replace("task txg_quiesce:901", f"task spl_kmem_cache:{pid}")
    lines = text.splitlines(keepends=True)
    assert judged("".join(lines[:16])).outcome is outcome


@pytest.mark.parametrize("name", ["unexpected-gfp-vmalloc", "warning"])
@pytest.mark.parametrize("pattern", [r"Call Trace:$", r"Call Trace:$(\n.*)*", r"^.*\[(spl|slabprobe)\].*$"])
def test_a_warning_whose_stack_is_torn(name: str, pattern: str) -> None:
    """Nobody knows whose it is."""
    text = re.sub(pattern, "** 12 printk messages dropped **", text_of(name), count=1, flags=re.MULTILINE)
    assert text != text_of(name)
    without = re.sub(rf"\[(?:{'|'.join(OWN)})\]", "", text)
    assert judged(without).outcome is Outcome.INCONCLUSIVE
    assert not judged(text).outcome.is_good


def test_a_warning_without_a_stack() -> None:
    verdict = judged(text_of("unexpected-gfp-vmalloc").partition("Call Trace:")[0])
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "whether SPL is in the stack is not known" in verdict.reasons[0].text
