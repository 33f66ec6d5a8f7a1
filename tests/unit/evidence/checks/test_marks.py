"""How SPL allocates: marks of its threads and masks of its page tables, against what its variant promises."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from modern import MARKED, bare, in_virtual_time, marked, modern
from simulated import Run, simulate
from simulated_guest import Knobs, Skew, Span
from simulated_kinds import CYCLE, DECLINED, HELD, NOMINAL, ORGANIC, STORM
from splvm.evidence.verdict import Outcome, Verdict
from splvm.scenarios.judged import judge_evidence as judge


def judged(run: Run) -> Verdict:
    return judge(run.evidence())


@pytest.mark.parametrize("kind", [HELD, NOMINAL, CYCLE, DECLINED, ORGANIC])
def test_a_good_run_of_this_version(kind: str) -> None:
    assert judged(modern(kind)).outcome is judged(simulate(kind)).outcome
    assert judged(modern(kind)).outcome.is_good


@pytest.mark.parametrize("kind", [HELD, NOMINAL, DECLINED])
def test_a_thread_without_its_mark(kind: str) -> None:
    verdict = judged(modern(kind, flags=bare))
    assert verdict.outcome is Outcome.SUSPECT
    said = r"SPL's thread spl_kmem_cache \(pid 114\) is not marked \(flags 0x208040 without PF_MEMALLOC_NOIO, 0x80000\)"
    assert re.match(said + r" in (\d+) of \1 readings", verdict.reasons[0].text)


def test_the_bit_is_that_of_the_kernel() -> None:
    """On a kernel that has the mark at another place, the same flags are unmarked."""
    kernel = "kernel noio=0x100000 io=0x40 fs=0x80"
    assert judged(modern(HELD, kernel=kernel)).outcome is Outcome.SUSPECT
    assert judged(modern(HELD, kernel=kernel, flags=lambda comm, tick: 0x308040)).outcome is Outcome.PROGRESS


def test_a_mark_is_asked_of_the_worker_alone_once_it_has_begun() -> None:
    def others(comm: str, tick: int) -> int:
        return MARKED if comm == "spl_kmem_cache" else 0

    assert judged(modern(HELD, flags=others)).outcome is Outcome.PROGRESS
    # One that has just been made; nobody saw another.
    stack = "[<0>] kthread+0xd7/0x100\n[<0>] ret_from_fork+0x1f/0x30\n"
    new = f"task pid=114 comm=spl_kmem_cache state=S voluntary=0 nonvoluntary=0\n{stack}"
    verdict = judged(modern(NOMINAL, Knobs(worker=(Span(""), new)), flags=bare))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reasons[0].text == "nobody saw a thread of SPL's taskq, so its marks are not known"


@pytest.mark.parametrize(
    ("growth", "flags", "outcome"),
    [
        ({"marked": False, "noio": None}, bare, Outcome.PROGRESS),
        ({"marked": False, "noio": None}, marked, Outcome.INCONCLUSIVE),
        ({"marked": False, "noio": None}, lambda _, tick: 0x208040 if tick % 4 else MARKED, Outcome.PROGRESS),
        ({"marked": True, "noio": True}, marked, Outcome.PROGRESS),
    ],
)
def test_what_the_variant_promises(growth: Mapping[str, bool | None], flags: object, outcome: Outcome) -> None:
    assert judged(modern(HELD, growth=dict(growth), flags=flags)).outcome is outcome  # type: ignore[arg-type]


def test_a_record_that_does_not_tell() -> None:
    """Of version 1 it is judged without; of version 2 it is not good."""
    assert judged(simulate(HELD)).outcome is Outcome.PROGRESS
    for word in ("flags", "run_ns"):
        run = modern(HELD)
        for record in run.records:
            if record.get("source") == "tasks":
                record["text"] = re.sub(rf" {word}=\d+", "", record["text"])
        verdict = judged(run)
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert verdict.reasons[0].text == "the agent does not tell marks and CPU time of spl_kmem_cache (pid 114)"
    assert judged(modern(HELD, kernel="")).outcome is Outcome.INCONCLUSIVE
    untold = modern(HELD)
    del untold.facts["growth"]
    assert judged(untold).outcome is Outcome.INCONCLUSIVE


def masked(gfp: int) -> Knobs:
    return Knobs(skews=(Skew("probe", {"trap.gfp": gfp}, Span("window")),))


# What the shrinker was asked with in a simulated run that declined, and what is added to it.
@pytest.mark.parametrize(
    ("more", "noio", "outcome", "names"),
    [
        (0x00, True, Outcome.IMMUNE, ""),
        (0x40, True, Outcome.SUSPECT, "__GFP_IO"),
        (0xC0, True, Outcome.SUSPECT, "__GFP_IO and __GFP_FS"),
        (0xC0, False, Outcome.IMMUNE, ""),
        (0xC0, None, Outcome.IMMUNE, ""),
    ],
)
def test_the_mask_that_the_trap_saw(more: int, noio: bool | None, outcome: Outcome, names: str) -> None:
    growth, flags = {"marked": noio is True, "noio": noio}, marked if noio else bare
    verdict = judged(modern(DECLINED, masked(more), growth=growth, flags=flags))
    assert verdict.outcome is outcome
    if names:
        assert f"which has {names}; this SPL promises neither" in verdict.reasons[0].text


@pytest.mark.parametrize(
    ("free", "outcome"), [(622, Outcome.PROGRESS), (560, Outcome.PROGRESS), (559, Outcome.SUSPECT)]
)
def test_the_reserves(free: int, outcome: Outcome) -> None:
    run = modern(ORGANIC)
    for record in run.records:
        if record.get("source") == "probe":
            record["text"] = re.sub(r"(pressure on=1 .* free=)\d+", rf"\g<1>{free}", record["text"])
    verdict = judged(in_virtual_time(run))
    assert verdict.outcome is outcome
    # In real time what comes in from the network uses them.
    assert judged(run).outcome is Outcome.PROGRESS
    if outcome is Outcome.SUSPECT:
        said = r"the reserves of memory were used: (\d+) of \1 readings .* \(622\), the lowest 559$"
        assert re.match(said, verdict.reasons[0].text)


def first_words(run: Run, old: str, new: str) -> Run:
    """The same with something else in what the agent says when it begins."""
    for record in run.records:
        if record.get("source") == "agent":
            record["text"] = record["text"].replace(old, new)
    return run


def test_an_agent_that_says_that_it_is_older() -> None:
    """What is told is not left alone because of a number beside it."""
    run = first_words(modern(HELD, flags=bare), "hello version=2", "hello version=1")
    verdict = judged(run)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "the agent's stream is of version 1, and marks" in verdict.reasons[0].text


@pytest.mark.parametrize("growth", [{"marked": False, "noio": None}, {"marked": True, "noio": None}])
def test_what_the_record_promises_is_what_the_variant_does(growth: dict[str, bool | None]) -> None:
    """A record that promises less than its variant is not asked for what the variant has."""
    run = modern(HELD, flags=marked if growth["marked"] else bare, growth=growth)
    run.facts["spl"]["variant"] = "stock"
    verdict = judged(run)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert any("that is not so of stock" in reason.text for reason in verdict.reasons)


def test_cpu_time_does_not_fall() -> None:
    verdict = judged(modern(HELD, run_ns=lambda comm, tick: 1_000_000 * (200 - tick)))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert any("tasks: CPU time of " in reason.text for reason in verdict.reasons)


@pytest.mark.parametrize(
    ("kernel", "since", "words"),
    [
        ("kernel noio=0x280040 io=0x40 fs=0x80", 0, "the kernel's bits are not one bit each"),
        ("kernel noio=0x200000 io=0x40 fs=0x80", 20, "are other ones than before"),
    ],
)
def test_bits_of_the_kernel_are_bits(kernel: str, since: int, words: str) -> None:
    """By another bit an unmarked thread is a marked one."""
    run = modern(HELD)
    probes = [record for record in run.records if record.get("source") == "probe"]
    for record in probes[since:]:
        record["text"] = re.sub(r"(?m)^kernel .*$", kernel, record["text"])
    verdict = judged(run)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert any(words in reason.text for reason in verdict.reasons)


def test_a_list_of_sites_has_the_kernels_bits() -> None:
    assert judged(modern(STORM)).outcome is Outcome.IMMUNE
    verdict = judged(modern(STORM, kernel="kernel noio=0x80000 io=0x80 fs=0x40"))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert any("the list of sites has fs=0x80 io=0x40" in reason.text for reason in verdict.reasons)


# Its mark and stack cannot be read any more when it ends while it is read.
ENDING = "task pid=147 comm=spl_kmem_cache state=R voluntary=5 nonvoluntary=3 run_ns=17729924\n"


@pytest.mark.parametrize(("readings", "outcome"), [(1, Outcome.HEALTHY), (2, Outcome.INCONCLUSIVE)])
def test_a_thread_that_ends_while_it_is_read(readings: int, outcome: Outcome) -> None:
    """SPL ends threads that it does not need; one that is still there afterwards was not about to end."""
    run = modern(NOMINAL)
    tasks = [record for record in run.records if record.get("source") == "tasks"]
    text = ""
    for number, record in enumerate(tasks[: 20 + readings + 1]):
        text = record["text"] if record["what"] == "data" else text
        if number >= 20:
            record |= {"what": "data", "text": text + (ENDING if number < 20 + readings else "")}
    assert judged(run).outcome is outcome


@pytest.mark.parametrize("tag", ["growth", "magazine"])
@pytest.mark.parametrize("kind", [HELD, NOMINAL])
def test_growths_that_nobody_tells(kind: str, tag: str) -> None:
    """The probe that came with such an agent counts growths, and where objects came from, in each status."""
    run = modern(kind)
    for record in run.records:
        if record.get("source") == "probe":
            record["text"] = re.sub(rf"(?m)^{tag} .*\n", "", record["text"])
    verdict = judged(run)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert any("the probe does not tell" in reason.text for reason in verdict.reasons), verdict.reasons


def test_reserves_of_memory_are_not_for_a_growth() -> None:
    skewed = Knobs(skews=(Skew("probe", {"trap.reserves": 7}, Span("window")),))
    verdict = judged(modern(DECLINED, skewed))
    assert verdict.outcome is Outcome.SUSPECT
    assert verdict.reasons[0].text.startswith("7 page tables of the growth were asked for as PF_MEMALLOC")
