"""Records of what nobody did: each is whole and could be sealed, and none is good."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from current import current
from simulated import Run, simulate
from simulated_guest import Knobs, Record, Span
from simulated_kinds import CACHES, DECLINED, HELD, LOADED, NOMINAL, POOL, STORM, TASKQS
from splvm.errors import EvidenceError
from splvm.evidence.checks.case import Case
from splvm.evidence.checks.nobody import grown_by_nobody
from splvm.evidence.checks.unlike import loaded_elsewhere
from splvm.evidence.formats.statusfile import to_integer
from splvm.evidence.rule import Rule, clauses
from splvm.evidence.verdict import Outcome
from splvm.scenarios import judged
from splvm.scenarios.judged import judge_evidence

Change = Callable[[Run], None]


def every(source: str, pattern: str, new: str, since: float = 0.0, *, some: bool = False) -> Change:
    """Put `new` for what the pattern finds in the texts of a source, from a share of them on: in each, or in some."""

    def change(run: Run) -> None:
        told = [it for it in run.records if it.get("source") == source and it["what"] == "data"]
        changed = 0
        for record in told[int(since * len(told)) :]:
            text = re.sub(pattern, new, record["text"], flags=re.MULTILINE)
            changed += text != record["text"]
            record["text"] = text
        assert changed if some else changed == len(told) - int(since * len(told))

    return change


def of_kind(run: Run, kind: str) -> list[Record]:
    return [record for record in run.records if record["kind"] == kind]


def look(run: Run) -> None:
    taken = [{"what": "nmi", "ok": True, "detail": "from byte 0 of console.log on"}]
    run.records.append({"kind": "monitor", "why": "lost", "taken": taken, "at_s": 9.0})


def unnamed(run: Run) -> None:
    run.facts["loads"] = []


def fall(name: str) -> Change:
    def change(run: Run) -> None:
        for number, record in enumerate(reversed(of_kind(run, "host"))):
            record["vcpus"] = [{**vcpu, name: number * 1000} for vcpu in record["vcpus"]]

    return change


def backwards(kind: str) -> Change:
    def change(run: Run) -> None:
        records = of_kind(run, kind)
        for record, at_s in zip(records, [it["at_s"] for it in reversed(records)], strict=True):
            record["at_s"] = at_s

    return change


def before_it_began(run: Run) -> None:
    of_kind(run, "host")[0]["at_s"] = -1.0


SPRUNG = (
    "trap mode=off spent=0 tables=1 induced=0 sprung=1 declined=1 entered=0 waited=0 let_go=0 waiting=0 pid=0"
    " since_ns=0 released_ns=0 gfp=0\n"
)
# A line for each of what a storm's status has.
STORMY = (
    "\n".join(
        line
        for line in next(
            it["text"] for it in reversed(simulate(STORM).records) if it.get("source") == "probe"
        ).splitlines()
        if line.startswith(("storm ", "stormtx "))
    )
    + "\n"
)
CAUGHT = "of who was caught last contradicts its counts"
HELD_STACK = "[<0>] slabprobe_grow_work+0x15b/0x1a0 [slabprobe]"
CHANGES: dict[str, tuple[str, Change, str]] = {
    "a worker that was held in a run without the lever": (
        NOMINAL,
        every("probe", r"^hold (.*)entries=0", r"hold \1entries=1"),
        "no phase hold",
    ),
    "a trap in a run without it": (HELD, every("probe", r"\Z", SPRUNG), "no phase trap"),
    "memory that was fragmented by nobody": (
        HELD,
        every("probe", r"\Z", "fragment mib=5 filled=4 punched=2 rest=1\n"),
        "no phase fragment",
    ),
    "a load that run.json does not name": (LOADED, unnamed, "does not name it"),
    "an NMI in a run that ended": (HELD, look, "an NMI"),
    "a thread of another pid": (HELD, every("probe", r"^thread 0 pid=\d+", "thread 0 pid=7", 0.5), "other threads"),
    "growths that nobody counts any more": (NOMINAL, every("probe", r"^growth .*\n", "", 0.5), "another module"),
    "growths that were done and not begun": (
        NOMINAL,
        every("probe", r"^growth begun=\d+ done=\d+", "growth begun=2 done=9"),
        "were begun",
    ),
    "more workers that are held than came": (
        HELD,
        every("probe", r"^hold (.*) held=1 ", r"hold \1 held=4 ", 0.5, some=True),
        "holds 4 workers",
    ),
    "a wait in the trap that ended and did not begin": (
        DECLINED,
        every("probe", r"^trap (.*) waited=0 ", r"trap \1 waited=1 "),
        "waits in the trap that ended",
    ),
    "more objects than threads take": (
        NOMINAL,
        every("probe", r"^live slab=\d+", f"live slab={1 << 40}"),
        "never take more",
    ),
    "a host's clock that goes back": (HELD, backwards("host"), "goes back"),
    "a host's count of waiting that falls": (HELD, fall("wait_ns"), "goes back"),
    "a host's count of running that falls": (HELD, fall("run_ns"), "goes back"),
    "a time before the run": (HELD, before_it_began, "not a number of seconds"),
    "phases that the host began in another order": (HELD, backwards("phase"), "another order"),
    "phases of another scenario": (
        DECLINED,
        lambda run: run.facts.update(scenario="nominal"),
        "phases that nominal does not have",
    ),
}


# What the agent's lists of tasks say, and the probe does not.
CHANGES |= {
    "a critical thread that is nobody's": (
        NOMINAL,
        every("tasks", r"^task pid=\d+ comm=slabprobe/0 ", "task pid=77777 comm=slabprobe/0 ", some=True),
        "slabprobe/0 with pid 77777; the probe says",
    ),
    "a critical thread more": (
        NOMINAL,
        every("tasks", r"comm=slabprobe/1 ", "comm=slabprobe/9 ", some=True),
        "the probe says no such thread",
    ),
    "a worker that is held in a run without the lever": (
        NOMINAL,
        every("tasks", r"^(task pid=\d+ comm=spl_kmem_cache.* state=)\S+(.*)$", r"\1D\2\n" + HELD_STACK, some=True),
        "no worker is held, and the list of tasks shows pid",
    ),
    "a worker that is held and is not there": (
        HELD,
        every("tasks", r"^task pid=\d+ comm=spl_kmem_cache.*\n(?:\[.*\n)*", "", some=True),
        "is held, and the list of tasks has no such task",
    ),
}


# Counters of a storm, and what run.json says of it.
def sets(**parameters: object) -> Change:
    return lambda run: run.facts["parameters"].update(parameters)


CHANGES |= {
    "a storm in a run without one": (
        NOMINAL,
        every("probe", r"\Z", STORMY),
        "names no storm",
    ),
    "a storm over one place": (
        STORM,
        every("probe", r" only=0", " only=1"),
        "confined to 1 places, and run.json names 0",
    ),
    "a storm of another seed": (STORM, sets(seed=8), "had the seed 7, and run.json says 8"),
    "allocations of another module": (
        STORM,
        every("probe", r"module=spl\b", "module=zfs"),
        "allocations of zfs was watched",
    ),
    "allocations that nobody watched": (
        STORM,
        every("probe", r"mode=count", "mode=off"),
        "nothing was watched",
    ),
    "sites of another run": (STORM, every("sites", r" calls=\d+", " calls=999999"), "the sites have 999999 calls"),
    "an allocation that slept and is at no site": (
        STORM,
        every("probe", r"^(sites .*) atomic=0", r"\1 atomic=3"),
        "the sites have 0 atomic",
    ),
    "waits at sites of another run": (
        STORM,
        every("sites", r" entered=\d+", " entered=50"),
        "the sites have 50 entered",
    ),
    "a few waits at sites and none in the status": (
        STORM,
        every("sites", r" entered=0", " entered=5"),
        "the sites have 5 entered",
    ),
    "reclaims at sites of another run": (
        STORM,
        every("sites", r" reclaims=\d+", " reclaims=1", some=True),
        "1 reclaims",
    ),
    "waits that nobody names": (
        STORM,
        every("probe", r"^(storm .*) entered=0 (.*) waiting=0 ", r"\1 entered=2 \2 waiting=2 "),
        "2 threads wait in the trap at",
    ),
    "reclaims that fall": (STORM, every("probe", r" reclaims=\d+", " reclaims=0", 0.9), "storm.reclaims fell"),
    "a storm that was not running": (
        STORM,
        every("probe", r"^storm running=1", "storm running=0", some=True),
        "was not",
    ),
    "a storm that never ended": (
        STORM,
        every("probe", r"^storm running=0 idle=1", "storm running=1 idle=0", 0.9),
        "goes on",
    ),
    "a storm that is set anew": (
        STORM,
        every("probe", r"^(storm .*) ops=\S+", r"\1 ops=0x1", 0.9),
        "are other ones at",
    ),
    "a watch of another kind": (STORM, every("probe", r"mode=count", "mode=off", 0.9), "are other ones at"),
    "somebody let go before the end": (
        STORM,
        every("probe", r"^(storm .*) let_go=0", r"\1 let_go=1"),
        "were let go at",
    ),
    "somebody let go who was not there": (
        STORM,
        every("probe", r"^(storm .*) let_go=0", r"\1 let_go=1", 0.9),
        "1 waits were let go when the storm was ended, and 0 were there before",
    ),
    "a question without an answer": (
        STORM,
        every("probe", r"^(storm .*) asked=\d+", r"\1 asked=9999", 0.9),
        "at rest the trap was sprung 9999 times",
    ),
    "allocations that failed when all was over": (
        STORM,
        every("probe", r"^(storm .*) failed=0", r"\1 failed=3", 0.9),
        "3 allocations failed that must not, once",
    ),
    "transactions of nobody": (STORM, every("probe", r"^stormtx (\d) pid=\d+", r"stormtx \1 pid=0"), "or of none"),
    "transactions of somebody else": (
        STORM,
        every("probe", r"^stormtx 0 pid=\d+", "stormtx 0 pid=7"),
        "no thread of the probe with pid 7",
    ),
    "transactions of others at last": (
        STORM,
        every("probe", r"^stormtx 0 pid=\d+", "stormtx 0 pid=7", 0.9),
        "the storm's threads at",
    ),
    "more sites than are listed": (STORM, every("probe", r" count=1 ", " count=2 "), "has 1, and the probe counts 2"),
    "a function that is blind in the list alone": (STORM, every("sites", r" err=0", " err=22"), "1 of them blind"),
    "a mask that no mark makes": (STORM, every("sites", r" effective=\S+", " effective=0xcc0"), "contradicts itself"),
    "more reclaims than allocations": (
        STORM,
        every("sites", r" calls=\d+", " calls=1", some=True),
        "contradicts itself",
    ),
    "a site that becomes another one": (
        STORM,
        every("sites", r" thread=\S+", " thread=user", 0.7),
        "or earlier lists, in site 1c0f874f",
    ),
    "commits of a storm that fall": (
        STORM,
        every("probe", r"^(stormtx .*) commits=\d+", r"\1 commits=0", 0.9),
        "commits of transactions of thread",
    ),
    "readings that count no sites": (
        STORM,
        every("probe", r"^sites .*\n", "", some=True),
        "has no line `sites`",
    ),
    "readings without the storm": (STORM, every("probe", r"^storm .*\n", "", 0.9), "has no line `storm`"),
    "transactions that are never open": (
        STORM,
        every("probe", r"^(stormtx 1 .*) open=1", r"\1 open=0", some=True),
        "pid 132 committed",
    ),
    "no transaction at all that is open": (
        STORM,
        every("probe", r"^(stormtx .*) open=1", r"\1 open=0", some=True),
        "transactions were committed in the window, and none was open",
    ),
    "a site of the worker in a thread of another name": (
        STORM,
        every("sites", r"chain=\S+", "chain=__alloc_pages<__vmalloc_node<spl_cache_grow_work+0x7c/0x2b0"),
        "contradicts itself, or earlier lists",
    ),
    "somebody caught who was not": (STORM, every("probe", r"^(storm .*) pid=0", r"\1 pid=77"), CAUGHT),
    "a time of nobody who was caught": (STORM, every("probe", r"^(storm .*) since_ns=0", r"\1 since_ns=77"), CAUGHT),
    "somebody who came free and was not caught": (
        STORM,
        every("probe", r"^(storm .*) left_ns=0", r"\1 left_ns=77"),
        CAUGHT,
    ),
    "a mask of nobody who was asked": (
        STORM,
        every("probe", r"^(storm .*) asked_gfp=\S+", r"\1 asked_gfp=0x0", 0.7),
        CAUGHT,
    ),
    "a mask that no site has": (
        STORM,
        every("probe", r"^(storm .*) asked_gfp=\S+", r"\1 asked_gfp=0xc40", 0.7),
        "was asked last with mask 0xc40",
    ),
    "sites that fall": (STORM, every("sites", r" reclaims=\d+", " reclaims=0", 0.9), "sites: reclaims of site"),
}


CHANGES |= {
    "a worker of another name": (
        NOMINAL,
        every("tasks", r"comm=spl_kmem_cache", "comm=0", 0.5),
        "was spl_kmem_cache, and is 0 later",
    ),
    "critical threads that are in no list": (
        NOMINAL,
        every("tasks", r"^task pid=\d+ comm=slabprobe/\d .*\n(?:\[.*\n)*", "", some=True),
        "no critical thread with pid",
    ),
    "growths that are never done": (
        NOMINAL,
        every("probe", r"^growth begun=\d+ done=\d+ slabs=\d+", "growth begun=900 done=2 slabs=900"),
        "900 growths that began and 900 slabs",
    ),
}


def first_growth(run: Run) -> None:
    """Each reading tells of growths what the first one with threads does."""
    told = [it for it in run.records if it.get("source") == "probe" and it["what"] == "data"]
    lines = [re.search(r"^growth .*$", it["text"], re.MULTILINE) for it in told]
    first = next(it[0] for it in lines if it is not None)
    every("probe", r"^growth .*$", first, some=True)(run)


CHANGES |= {"growths that nobody counts": (NOMINAL, first_growth, "the probe counts no")}


def asks_once(run: Run) -> None:
    every("probe", r"^(qpromise \S+ asked=)\d+", r"\g<1>1", some=True)(run)


_OF_CLIENTS = "do not have the clients of taskqs"
CHANGES |= {
    "clients of taskqs that are one thread": (
        TASKQS,
        every("probe", r"^(client \d+ pid=)\d+", r"\g<1>141", some=True),
        _OF_CLIENTS,
    ),
    "clients of taskqs that are threads of others": (
        TASKQS,
        every("tasks", r"comm=slabprobe/q", "comm=bash", some=True),
        _OF_CLIENTS,
    ),
    "clients of taskqs that are in no list": (
        TASKQS,
        every("tasks", r"^task pid=\d+ comm=slabprobe/q\d .*\n(?:\[.*\n)*", "", some=True),
        _OF_CLIENTS,
    ),
    "another client of taskqs at last": (
        TASKQS,
        every("probe", r"^client 0 pid=\d+", "client 0 pid=7", 0.95, some=True),
        "tells of other clients, or times",
    ),
    "a client of taskqs in a step of later": (
        TASKQS,
        every("probe", r"^(client .*since_ns=)\d+", r"\g<1>99999999999999", some=True),
        "tells of other clients, or times",
    ),
    "promises that were asked for less often than there were rounds": (TASKQS, asks_once, "and 1 questions for"),
}


def of_magazine(key: str, value: int) -> Change:
    return every("probe", rf"^(magazine .*\b{key}=)\d+", rf"\g<1>{value}", some=True)


CHANGES |= {
    "objects that came from nowhere": (NOMINAL, of_magazine("hits", 9), "the probe counts objects, by where they came"),
    "objects that came twice": (NOMINAL, of_magazine("hits", 10**9), "the probe counts objects, by where they came"),
    "growths of more refills than there were": (NOMINAL, of_magazine("grew", 10**9), "refills during a growth and"),
    "more waits than growths to wait for": (
        NOMINAL,
        every("probe", r"^((?:waited|woken) \d+) [1-9]\d*", r"\g<1> 99999999", some=True),
        "waits for a growth and",
    ),
    "more objects again than had to be": (NOMINAL, of_magazine("reused", 10**9), "objects that were there again and"),
    "a worker that is gone at last": (
        NOMINAL,
        every("probe", r"^hold .*$", r"\g<0> worker=0", 0.9),
        "that SPL has no worker",
    ),
    "growths by a worker that is not there": (
        NOMINAL,
        every("probe", r"^hold .*$", r"\g<0> worker=0"),
        "that SPL has no worker",
    ),
    "transactions of fewer threads than were asked for": (
        STORM,
        every("probe", r"^stormtx 1 .*\n", "", some=True),
        "the storm's transactions are told of as those",
    ),
}


def cut(run: Run, gone: list[Record]) -> None:
    """Take frames out of a run, and number the others anew."""
    run.records[:] = [it for it in run.records if not any(it is other for other in gone)]
    frames = of_kind(run, "frame")
    for seq, frame in enumerate(frames):
        frame["seq"] = seq
    frames[-1]["text"] = f"end frames={len(frames) - 1} dropped=0"


@pytest.mark.parametrize("kind", [NOMINAL, HELD, LOADED, STORM])
@pytest.mark.parametrize("source", ["tasks", "probe", "slab", "meminfo", "sites"])
def test_a_piece_that_was_cut_out(kind: str, source: str) -> None:
    """Also where the frames are numbered anew."""
    run = copy.deepcopy(simulate(kind))
    told = [it for it in run.records if it.get("source") == source]
    gone = told[int(0.3 * len(told)) : int(0.9 * len(told))]
    if source == "sites" and kind != STORM:
        assert not told
        return
    cut(run, gone)
    verdict = judge_evidence(run.evidence())
    told_reasons = [reason.text for reason in (*verdict.reasons, *(reason for _, reason in verdict.also))]
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert any(f"{source} was not read for" in text for text in told_reasons), told_reasons


def test_a_list_of_sites_of_before_the_end_of_the_window() -> None:
    """What was reached, or slept where it must not, later than that is not in it."""
    run = copy.deepcopy(simulate(STORM))
    end_ns = run.evidence().timeline.marks["window-end"]
    cut(run, [it for it in run.records if it.get("source") == "sites" and it["end_ns"] > end_ns])
    verdict = judge_evidence(run.evidence())
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert any("the last list of sites is of before the end" in reason.text for reason in verdict.reasons)


@pytest.mark.parametrize("said", [" slow_every=1000000", ""])
def test_an_agent_that_says_that_it_reads_seldom(said: str) -> None:
    """How often it reads the harness decides, so a hole is one whatever it says."""
    run = copy.deepcopy(simulate(HELD))
    for record in run.records:
        if record.get("source") == "agent":
            record["text"] = record["text"].replace(" slow_every=10", said)
    assert judge_evidence(run.evidence()).outcome.is_good
    told = [it for it in run.records if it.get("source") == "meminfo"]
    cut(run, told[len(told) // 3 : -1])
    verdict = judge_evidence(run.evidence())
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert any("meminfo was not read for" in reason.text for reason in verdict.reasons)


@pytest.mark.parametrize("name", CHANGES)
def test_what_nobody_did(name: str) -> None:
    kind, change, words = CHANGES[name]
    run = copy.deepcopy(simulate(kind))
    assert judge_evidence(run.evidence()).outcome.is_good
    change(run)
    verdict = judge_evidence(run.evidence())
    told = [reason.text for reason in (*verdict.reasons, *(reason for _, reason in verdict.also))]
    assert not verdict.outcome.is_good
    assert any(words in text for text in told), told


@pytest.mark.parametrize(
    "spl",
    [
        {"version": "2.0.3-9+deb11u1"},
        {"version": None},
        {"packages": {}},
        {"packages": {"zfs-dkms": {"version": "2.3.9"}}},
        {"source": "pr:1"},
    ],
)
def test_a_version_that_is_not_the_packages(spl: Mapping[str, object]) -> None:
    run = current(NOMINAL)
    run.facts["spl"] = {**run.facts["spl"], **spl}
    verdict = judge_evidence(run.evidence())
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "run.json says that SPL is" in verdict.reasons[0].text


def vmstat(run: Run, counter: str, values: tuple[int, int]) -> None:
    """The agent reads /proc/vmstat before all reports of the load and after them, with these values of a counter."""
    reports = [it for it in run.records if it.get("source") == "load"]
    for value, beside, by_ns in zip(values, (reports[0], reports[-1]), (-2_000_000_000, 2_000_000_000), strict=True):
        times = {name: beside[name] + by_ns for name in ("start_ns", "end_ns")}
        record = {**beside, **times, "source": "vmstat", "what": "data", "text": f"nr_dirty 1\n{counter} {value}\n"}
        at = run.records.index(beside)
        run.records.insert(at if by_ns < 0 else at + 1, record)


@pytest.mark.parametrize(
    ("counter", "values", "words"),
    [
        ("oom_kill", (0, 0), None),
        ("oom_kill", (1, 1), "load: oom_kills is 0 at"),
        ("pgscan_kswapd", (0, 10**9), None),
        ("pgscan_direct", (10**9, 10**9), "load: scanned_direct is"),
        ("nr_written", (0, 0), "load: written is"),
        ("nr_written", (0, 10**9), None),
    ],
)
def test_a_load_that_the_kernel_counts_otherwise(counter: str, values: tuple[int, int], words: str | None) -> None:
    run = copy.deepcopy(simulate(LOADED))
    vmstat(run, counter, values)
    evidence = run.evidence()
    told = [it.text for it in loaded_elsewhere(Case(evidence, evidence.timeline, evidence.timeline.marks, 500_000_000))]
    assert bool(told) == (words is not None) and all(text.startswith(words or "") for text in told), told


@pytest.mark.parametrize(("least", "since"), [(0, 0.0), (311, 0.9), (9999, 0.9)])
def test_reserves_that_begin_elsewhere(least: int, since: float) -> None:
    run = current(HELD)
    every("probe", r"^(pressure .*) min=\d+", rf"\1 min={least}", since)(run)
    verdict = judge_evidence(run.evidence())
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "the reserves of memory begin below" in verdict.reasons[0].text


def test_cpu_time_of_who_was_never_switched_to() -> None:
    run = current(HELD)
    assert judge_evidence(run.evidence()).outcome is Outcome.PROGRESS
    every("tasks", r" voluntary=\d+", " voluntary=0", some=True)(run)
    verdict = judge_evidence(run.evidence())
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert any("of CPU time up to" in it.text and "never went to sleep" in it.text for it in verdict.reasons)


@pytest.mark.parametrize("thread", ["slabprobe_tq", "slabprobe/tx"])
def test_who_was_caught_has_the_name_of_its_sites_thread(thread: str) -> None:
    """By another name one that was caught is the worker, or is not."""
    run = copy.deepcopy(simulate(STORM, Knobs(stormed=Span("window", 1.0))))
    for record in run.records:
        if record.get("source") == "sites":
            record["text"] = record["text"].replace(" thread=slabprobe_tq", f" thread={thread}")
    verdict = judge_evidence(run.evidence())
    told = [reason.text for _, reason in verdict.also]
    assert verdict.outcome is Outcome.STALLED
    assert any("at a site that is one of slabprobe/tx" in text for text in told) == (thread != "slabprobe_tq"), told


def without_a_worker(run: Run) -> None:
    """It is SPL of before its worker: callers make slabs, and nobody counts growths."""
    every("probe", r"^(hold .*)$", r"\1 worker=0")(run)
    every("probe", r"^growth begun=\d+ done=\d+", "growth begun=0 done=0", some=True)(run)


@pytest.mark.parametrize(
    ("kind", "change"),
    [(CACHES, lambda run: None), (NOMINAL, without_a_worker), (POOL, lambda run: run.facts.update(zfs={}))],
)
def test_slabs_that_the_worker_did_not_make(kind: str, change: Change) -> None:
    run = copy.deepcopy(simulate(kind))
    change(run)
    every("probe", r"^(growth .*) slabs=\d+", r"\1 slabs=900", some=True)(run)
    evidence = run.evidence()
    case = Case(evidence, evidence.timeline, evidence.timeline.marks, 500_000_000)
    assert not list(grown_by_nobody(case))


@pytest.mark.parametrize(("others", "is_good"), [(10, False), (62, True)])
def test_a_list_that_is_full_may_lack_a_thread(others: int, is_good: bool) -> None:
    """The agent lists 64 tasks; of more critical threads it lists some."""
    run = copy.deepcopy(simulate(NOMINAL))
    every("tasks", r"^task pid=\d+ comm=slabprobe/1 .*\n(?:\[.*\n)*", "", some=True)(run)
    more = [f"task pid={900 + n} comm=slabprobe_{n} state=S voluntary=1 nonvoluntary=1\n" for n in range(others)]
    every("tasks", r"\Z", "".join(more))(run)
    assert judge_evidence(run.evidence()).outcome.is_good == is_good


def test_a_console_of_two_boots() -> None:
    run = copy.deepcopy(simulate(HELD))
    verdict = judge_evidence(Run(run.facts, run.records, run.console * 2).evidence())
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "2 boots" in verdict.reasons[0].text


@pytest.mark.parametrize(
    ("differs", "version", "is_good"),
    [({"window": "2"}, None, True), ({}, None, False), ({}, "0.0.9", True)],
)
def test_a_shorter_window_is_named(
    monkeypatch: pytest.MonkeyPatch, differs: Mapping[str, str], version: str | None, is_good: bool
) -> None:
    """What a scenario does not have by itself stands in `differs`, in a record of this version."""
    run = copy.deepcopy(simulate(NOMINAL))
    monkeypatch.setattr(judged, "__version__", version or run.facts["splvm"])
    run.facts["differs"] = differs
    run.facts["parameters"] = {**run.facts["parameters"], "window_s": 2.0}
    assert judge_evidence(run.evidence()).outcome.is_good == is_good


def test_a_rule_that_asks_nothing_of_threads() -> None:
    """A scenario that splvm does not know has to endure its load alone only where no lever was pulled."""
    rule = Rule(clauses("phases window window-end end"), (), "endurance").to_json()
    run = copy.deepcopy(simulate(LOADED))
    run.facts.update(scenario="mine", rule=rule)
    verdict = judge_evidence(run.evidence())
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "has the phase hold" in verdict.reasons[0].text


@pytest.mark.parametrize("word", [str(1 << 64), "9" * 20, str(-(1 << 63) - 1), "-" + "9" * 20])
def test_a_number_has_64_bits(word: str) -> None:
    with pytest.raises(EvidenceError, match="64 bits"):
        to_integer(word, 1)


def test_the_largest_numbers() -> None:
    assert [to_integer(word, 1) for word in (str((1 << 64) - 1), "0xffffffffffffffff", str(-(1 << 63)))] == [
        (1 << 64) - 1,
        (1 << 64) - 1,
        -(1 << 63),
    ]


@pytest.mark.parametrize(
    ("line", "spl"),
    [
        ("packaged", {"patches": [{"name": "mine.patch", "sha256": "ab" * 32}]}),
        ("packaged", {"source": "path:/src/zfs", "packages": {}}),
        ("packaged", {"source": "git:/src/zfs@main", "packages": {}}),
        ("mine", {}),
    ],
)
def test_a_line_that_is_another_builds(line: str, spl: Mapping[str, object]) -> None:
    """Runs are compared within a line: one of the user's own is none of the distribution's."""
    run = current(HELD)
    assert judge_evidence(run.evidence()).outcome is Outcome.PROGRESS
    run.facts.update(line=line, spl={**run.facts["spl"], **spl})
    verdict = judge_evidence(run.evidence())
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert any("the line of the build is" in reason.text for reason in verdict.reasons)


def test_a_reading_without_the_row_of_the_cache() -> None:
    """Nobody makes the probe's cache twice, so its row is in each reading between two that have it."""
    run = current(HELD)
    timeline = run.evidence().timeline
    middle = timeline.slab[len(timeline.slab) // 2].seq
    evidence = run.evidence()
    slab = tuple(
        replace(it, value=replace(it.value, caches=tuple(row for row in it.value.caches if row.name != "slabprobe")))
        if it.seq == middle
        else it
        for it in timeline.slab
    )
    verdict = judge_evidence(replace(evidence, timeline=replace(timeline, slab=slab)))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "lacks the row of slabprobe" in verdict.reasons[0].text
