"""Work with taskqs and caches: what the probe says is read, and each promise and each number can be wrong."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from simulated import simulate
from simulated_kinds import NOMINAL
from splvm.errors import EvidenceError
from splvm.evidence.checks.case import Case, Check, Complaint
from splvm.evidence.checks.kinds import (
    check_kind_counts,
    check_kind_promises,
    check_kinds,
    check_kinds_alone,
    check_kinds_gone,
)
from splvm.evidence.checks.promises import BROKEN, OF_KINDS, OF_QUEUES, RARE
from splvm.evidence.checks.queues import (
    check_queue_counts,
    check_queue_promises,
    check_queues,
    check_queues_gone,
)
from splvm.evidence.checks.worksaid import CLIENTS, KINDS, QUEUES
from splvm.evidence.formats.probestatus import ProbeStatus, parse_probe
from splvm.evidence.formats.slab import SlabFile, parse_slab
from splvm.evidence.formats.stacks import parse_tasks
from splvm.evidence.formats.workstatus import WorkState
from splvm.evidence.timeline import Evidence, Sample, Timeline
from splvm.evidence.verdict import Outcome

S = 1_000_000_000

RUN = simulate(NOMINAL)
BASE = RUN.evidence().timeline.probe[-1].value

# Beginning of each phase of both scenarios, s.
MARKS = {
    "make": 1,
    "window": 2,
    "window-end": 6,
    "caught": 7,
    "alone": 8,
    "together": 10,
    "loaded": 12,
    "empty": 14,
    "emptied": 16,
    "destroy": 18,
    "gone": 20,
    "end": 22,
}

QUEUES_TEXT = """\
client 0 pid=21 state={state} rounds={rounds} step={step} since_ns={since}
queue slabprobe_one0 running={held} pending={held} front=0 delayed=0 threads=1 dynamic=0 min=8 act={held} \
nthr=1 spwn=0 maxt=1 cura=8 active={held} pend={held} prio=0 delay=0
queue slabprobe_dyn0 running={held} pending=0 front=0 delayed=0 threads=4 dynamic=1 min=4 act={held} nthr=2 \
spwn=0 maxt=4 cura=4 active={held} pend=0 prio=0 delay=0
client 1 pid=22 state={state} rounds={rounds} step=- since_ns=0
qpromise wait asked={rounds}0 broken=0
qpromise order asked={rounds}0 broken=0
"""

KINDS_TEXT = """\
kinds state={state} rounds={rounds} cpus=2 back=1
kind slabprobe_k0 size=65536 align=0 wanted=1 builds=1 held={held} emergency={few} allocs={allocs} \
frees={frees} built={allocs} torn_down={frees} in_slab=8 magazine=16 most_emergency={few}
kind slabprobe_k6 size=100 align=0 wanted=0 builds=0 held={held} emergency=0 allocs={allocs} frees={frees} \
built=0 torn_down=0 in_slab=0 magazine=0 most_emergency=0
kpromise whole asked={rounds}0 broken=0
kpromise compound asked=0 broken=0
kpromise no-sleep asked=1 broken=0
"""

HEAD = """\
--------------------- cache -----------------------------------------------------  ----- slab ------  ---- \
object -----  --- emergency ---
name                                    flags      size     alloc slabsize  objsize  total alloc   max  \
total alloc   max  dlock alloc   max
"""
OWN = "slabprobe    0x00080 524672 524288 524672 65536 1 1 4 8 8 32 0 0 0\n"
FULL = """\
slabprobe_k0 0x00080 1574016 1048576 524672 65536 3 2 4 26 16 32 0 2 2
slabprobe_k6 0x00100 - 1200 - 100 - - - - 12 - - - -
"""
EMPTY = """\
slabprobe_k0 0x00080 0 0 524672 65536 0 0 4 0 0 32 0 0 2
slabprobe_k6 0x00100 - 0 - 100 - - - - 0 - - - -
"""
USED = "MemTotal: 500000 kB\nVmallocUsed:       {} kB\n"

THREAD = "task pid=77 comm=slabprobe_temp state=S voluntary=1 nonvoluntary=0\n"

STATES = ((3, "running", 5), (5, "running", 90), (8, "running", 91), (9, "running", 92))
AT_REST = ((13, "loaded", 93), (17, "emptied", 93), (21, "gone", 93))


def work(at_s: int, state: str, rounds: int) -> str:
    held = 12 if state in ("running", "loaded") else 0
    done = 100 * rounds
    values = {"state": state, "rounds": rounds, "step": "-", "since": 0, "allocs": done, "frees": done - held}
    queues = "" if state == "gone" else QUEUES_TEXT
    if state == "gone":
        queues = "".join(line for line in QUEUES_TEXT.splitlines(keepends=True) if not line.startswith("queue "))
    text = queues.format(**values, held=1 if held else 0) + KINDS_TEXT.format(**values, held=held, few=2 if held else 0)
    return text


TEXTS = {at: work(at, state, rounds) for at, state, rounds in (*STATES, *AT_REST)}
FILES = {8: FULL, 9: FULL, 13: FULL, 17: EMPTY, 21: ""}
MEMORY = {0: USED.format(5000), 21: USED.format(5600)}


def status(text: str, at_s: int) -> ProbeStatus:
    """The simulated status with some lines more."""
    head = "".join(
        f"{line}\n"
        for line in (
            "slabprobe 1",
            f"now_ns {at_s * S}",
            "bits kvmem=0x80 deadlocked=0x4000 growing=0x8000 reaping=0x10000",
            "config threads=1 objects=12 size=65536 pause_us=5000 reap_rounds=1",
            "run state=stopped parked=0 stopped=1",
            "hold worker=1 armed=1 held=1 pid=9 since_ns=1 entries=1 released_ns=0",
            "live slab=0 emergency=0 emergency_max=0 emergency_total=0",
        )
    )
    return parse_probe(head + text)


def case(
    texts: dict[int, str] = TEXTS,
    files: dict[int, str] = FILES,
    memory: dict[int, str] = MEMORY,
    *,
    clock: str = "virtual",
    threads: str = "",
    version: str = "2.1.11",
    release: str = "5.10.0-46-cloud-amd64",
    **spl: object,
) -> Case:
    def at(second: int, value: object) -> Sample[object]:
        return Sample(second, second * S, second * S + 1, "ssh", value)

    probe = tuple(at(second, status(text, second)) for second, text in sorted(texts.items()))
    slab = tuple(at(second, parse_slab(HEAD + OWN + rows)) for second, rows in sorted(files.items()))
    meminfo = tuple(at(second, text) for second, text in sorted(memory.items()))
    tasks = tuple(at(second, parse_tasks(text)) for second, text in ((13, THREAD), (21, threads)))
    timeline = Timeline(probe=probe, slab=slab, tasks=tasks, other={"meminfo": meminfo})  # type: ignore[arg-type, dict-item]
    facts = {"parameters": {"clock": clock}, "spl": {"version": version, **spl}, "kernel": {"release": release}}
    marks = {name: second * S for name, second in MARKS.items()}
    return Case(Evidence(facts, timeline, ""), timeline, marks, S)


def changed(texts: dict[int, str], at_s: int | None, old: str, new: str) -> dict[int, str]:
    """With one text for another, in one reading or in all of them."""
    result = {at: text.replace(old, new) if at_s in (None, at) else text for at, text in texts.items()}
    assert result != texts, old
    return result


def said(check: Check, of: Case) -> list[tuple[Outcome, str]]:
    return [(complaint.outcome, complaint.reason.text) for complaint in check(of)]


ALL = (
    check_queues,
    check_queue_promises,
    check_queue_counts,
    check_queues_gone,
    check_kinds,
    check_kind_promises,
    check_kind_counts,
    check_kinds_alone,
    check_kinds_gone,
)


@pytest.mark.parametrize("check", ALL, ids=lambda check: check.__name__)
@pytest.mark.parametrize("clock", ["virtual", "real"])
def test_nothing_is_wrong(check: Check, clock: str) -> None:
    assert said(check, case(clock=clock)) == []


# Columns of the slab file that have numbers at rest, by their place; those of the deadlock counter and the flags have
# rules of their own (held-worker).
COLUMNS = dict(
    enumerate(["size", "alloc", "slabsize", "objsize", "slabs", "used", "most", "objects", "inuse", "mostobj"], start=2)
) | {
    13: "emergency",
    14: "mostemerg",
}


@pytest.mark.parametrize("number", [0, 10**9])
@pytest.mark.parametrize("column", COLUMNS, ids=COLUMNS.get)
def test_each_column_of_the_slab_file_is_asked(column: int, number: int) -> None:
    own, rest = FULL.split("\n", 1)
    words = own.split()
    words[column] = str(number)
    found = said(check_kind_counts, case(files={**FILES, 13: f"{' '.join(words)}\n{rest}"}))
    assert any(told == "MISCOUNTED" and "slabprobe_k0" in text for told, text in found), found


@pytest.mark.parametrize("name", ["act", "nthr", "spwn", "maxt", "cura", "active", "pend", "prio", "delay"])
def test_each_number_of_a_taskq_is_asked(name: str) -> None:
    """At one of the two states, at which it is known."""
    old = {
        at: text.partition("queue slabprobe_one0")[2].partition("\n")[0] for at, text in TEXTS.items() if at in (13, 17)
    }
    texts = dict(TEXTS)
    for at, row in old.items():
        texts[at] = texts[at].replace(row, re.sub(rf" {name}=\d+", f" {name}=77", row))
    assert any(told == "MISCOUNTED" for told, _ in said(check_queue_counts, case(texts)))


def test_states_come_in_their_order() -> None:
    probe = case().timeline.probe
    queues = [sample.value.queues for sample in probe]
    assert [it.state for it in queues if it] == [WorkState(state) for _, state, _ in (*STATES, *AT_REST)]


def test_status_of_before_has_no_work() -> None:
    assert BASE.queues is None
    assert BASE.kinds is None


@pytest.mark.parametrize("line", ["client 0 pid=1 state=odd rounds=1 step=- since_ns=0", "qpromise wait asked=1"])
def test_lines_that_cannot_be_read(line: str) -> None:
    other = "client 1 pid=1 state=running rounds=1 step=- since_ns=0\n"
    with pytest.raises(EvidenceError):
        status(other + line + "\n", 1)


@pytest.mark.parametrize(
    ("at_s", "old", "new", "check", "outcome", "words"),
    [
        # Taskqs.
        (
            None,
            "step=- since_ns=0",
            "step=nested since_ns=1",
            check_queues,
            "STALLED",
            "client 0 (pid 21) is in step nested",
        ),
        (5, "rounds=90", "rounds=6", check_queues, "INCONCLUSIVE", "client 0 made 1 rounds"),
        (
            21,
            "wait asked=930 broken=0",
            "wait asked=930 broken=2 saw=3 wanted=6 at=taskq_wait",
            check_queue_promises,
            "SUSPECT",
            "taskq_wait came back when 3 of 6 tasks had run (2 of 930 times)",
        ),
        (
            21,
            "order asked=930",
            "order asked=0",
            check_queue_promises,
            "INCONCLUSIVE",
            "nobody asked for the promise order",
        ),
        (
            13,
            "pend=1 prio=0",
            "pend=2 prio=0",
            check_queue_counts,
            "MISCOUNTED",
            "SPL shows 2 tasks in the pending list, and there are 1",
        ),
        (13, "nthr=1", "nthr=2", check_queue_counts, "MISCOUNTED", "SPL shows 2 threads, and 1 were made"),
        (13, "nthr=2", "nthr=5", check_queue_counts, "MISCOUNTED", "SPL shows 5 threads; at least 1 and at most 4"),
        (13, "cura=8", "cura=1", check_queue_counts, "MISCOUNTED", "SPL shows 1 entries for 2 tasks"),
        (
            17,
            "cura=8",
            "cura=9",
            check_queue_counts,
            "MISCOUNTED",
            "9 entries of tasks although all have run; it keeps 8",
        ),
        (17, "spwn=0", "spwn=1", check_queue_counts, "MISCOUNTED", "1 threads that are being made"),
        (
            17,
            "state=emptied",
            "state=loaded",
            check_queue_counts,
            "INCONCLUSIVE",
            "no taskq was looked at when they were emptied",
        ),
        # Caches.
        (5, "rounds=90", "rounds=6", check_kinds, "INCONCLUSIVE", "1 rounds with caches"),
        (5, "back=1", "back=0", check_kinds, "INCONCLUSIVE", "no CPU was away while the caches were made"),
        (
            21,
            "compound asked=0 broken=0",
            "compound asked=3 broken=3 saw=0 wanted=1 at=slabprobe_k0",
            check_kind_promises,
            "SUSPECT",
            "an emergency object of slabprobe_k0 has pages that are not compound",
        ),
        (
            21,
            "built=9300",
            "built=9200",
            check_kind_promises,
            "SUSPECT",
            "its constructor was called 9200 times for 9300 objects",
        ),
        (
            21,
            "torn_down=9300",
            "torn_down=9301",
            check_kind_promises,
            "SUSPECT",
            "its destructor was called 9301 times",
        ),
        (13, "emergency=2", "emergency=3", check_kind_counts, "MISCOUNTED", "has 2 of emergency objects, and it is 3"),
        (13, "in_slab=8", "in_slab=9", check_kind_counts, "MISCOUNTED", "and it is 29"),
        (
            13,
            "wanted=0",
            "wanted=1",
            check_kind_counts,
            "SUSPECT",
            "objects of 100 bytes come not from slabs of SPL's own",
        ),
        (13, "held=12", "held=11", check_kind_counts, "MISCOUNTED", "has 12 of objects, and it is 11"),
        (
            17,
            "state=emptied",
            "state=loaded",
            check_kind_counts,
            "INCONCLUSIVE",
            "no cache was looked at when they were emptied",
        ),
        (21, "held=0", "held=1", check_kinds_gone, "INCONCLUSIVE", "the probe says that it holds 1 objects"),
        (
            21,
            "state=gone",
            "state=emptied",
            check_kinds_gone,
            "INCONCLUSIVE",
            "nobody looked after the caches were destroyed",
        ),
    ],
)
def test_what_the_probe_says_is_wrong(
    at_s: int | None, old: str, new: str, check: Check, outcome: str, words: str
) -> None:
    found = said(check, case(changed(TEXTS, at_s, old, new)))
    assert any(told == outcome and words in text for told, text in found), found


@pytest.mark.parametrize(
    ("at_s", "old", "new", "check", "outcome", "words"),
    [
        (
            13,
            " - 1200 - 100 ",
            " - 1100 - 100 ",
            check_kind_counts,
            "MISCOUNTED",
            "has 1100 of bytes in use, and it is 1200",
        ),
        (13, "- - - - 12 -", "- - - - 0 -", check_kind_counts, "MISCOUNTED", "has 0 of objects, and it is 12"),
        (
            13,
            " 26 16 32 ",
            " 26 9 32 ",
            check_kind_counts,
            "MISCOUNTED",
            "9 objects in use; at least 10 and at most 42",
        ),
        (13, "1574016", "1574015", check_kind_counts, "MISCOUNTED", "bytes of all slabs"),
        (13, "slabprobe_k6", "slabprobe_k7", check_kind_counts, "MISCOUNTED", "has 0 rows of cache slabprobe_k6"),
        (
            17,
            " 0 0 524672 65536 0 0 4 0 0 32",
            " 524672 0 524672 65536 1 0 4 8 0 32",
            check_kind_counts,
            "NO_RECOVERY",
            "1 slabs stay",
        ),
        (9, " 0 2 2\n", " 3 2 2\n", check_kinds_alone, "SLOW", "3 callers timed out"),
        (21, "", FULL, check_kinds_gone, "MISCOUNTED", "still has slabprobe_k0, slabprobe_k6"),
    ],
)
def test_slab_file_is_wrong(at_s: int, old: str, new: str, check: Check, outcome: str, words: str) -> None:
    files = changed(FILES, at_s, old, new) if old else FILES | {at_s: new}
    found = said(check, case(files=files))
    assert any(told == outcome and words in text for told, text in found), found


def test_callers_that_time_out_beside_a_held_worker_say_nothing_in_real_time() -> None:
    files = changed(FILES, 9, " 0 2 2\n", " 3 2 2\n")
    assert said(check_kinds_alone, case(files=files, clock="real")) == []


def test_spl_without_a_worker_has_none_to_hold() -> None:
    whole = case()
    probe = tuple(
        replace(it, value=replace(it.value, hold=replace(it.value.hold, worker=False, held=0)))
        for it in whole.timeline.probe
    )
    timeline = replace(whole.timeline, probe=probe)
    assert said(check_kinds_alone, replace(whole, timeline=timeline)) == [
        (Outcome.NOT_TRIGGERED, "this SPL has no worker that could be held")
    ]


def test_thread_that_outlives_its_taskq() -> None:
    assert said(check_queues_gone, case(threads=THREAD)) == [
        (Outcome.NO_RECOVERY, "thread slabprobe_temp (pid 77) is still there although its taskq was destroyed")
    ]
    texts = {at: text for at, text in TEXTS.items() if at != 21}
    assert said(check_queues_gone, case(texts))[0][0] is Outcome.INCONCLUSIVE


def test_the_taskq_of_the_caches_goes_with_them() -> None:
    thread = THREAD.replace("slabprobe_temp", "slabprobe_pct")
    assert said(check_queues_gone, case(threads=thread))[0][0] is Outcome.NO_RECOVERY
    texts = changed(TEXTS, 21, "kinds state=gone", "kinds state=emptied")
    assert said(check_queues_gone, case(texts, threads=thread)) == []
    assert said(check_queues_gone, case(texts, threads=THREAD))[0][0] is Outcome.NO_RECOVERY


def test_memory_that_is_not_given_back() -> None:
    """600 KiB more are there at the end: a slab of the cache under test has 512, and stacks of threads the rest."""
    assert said(check_kinds_gone, case(memory=MEMORY | {21: USED.format(6024)})) == []
    found = said(check_kinds_gone, case(memory=MEMORY | {21: USED.format(6025)}))
    assert found == [
        (Outcome.NO_RECOVERY, "513 KiB of vmalloc's memory were not given back when all caches had been destroyed")
    ]
    assert said(check_kinds_gone, case(memory={}))[0][0] is Outcome.INCONCLUSIVE


PACKAGE = {"packages": {"zfs-dkms": {"version": "2.0.3-9+deb11u1"}}}
NEWER = {"packages": {"zfs-dkms": {"version": "2.1.11-1+deb12u1"}}}


@pytest.mark.parametrize(
    ("facts", "outcome"),
    [
        ({"version": "2.0.3-9+deb11u1", **PACKAGE}, None),
        ({"version": "2.0.7", "git": {"describe": "zfs-2.0.7-3-g0123456"}}, None),
        ({"version": "2.1.11"}, Outcome.SUSPECT),
        ({"version": None}, Outcome.SUSPECT),
        # No kernel of that age builds an SPL that may sleep.
        ({"version": "2.0.3", "release": "6.1.0-56-cloud-amd64"}, Outcome.SUSPECT),
        ({"version": "2.0.3", "release": "none", **PACKAGE}, Outcome.SUSPECT),
        # Nothing else says that version, or something says another one.
        ({"version": "2.0.3"}, Outcome.INCONCLUSIVE),
        ({"version": "2.0.3", **NEWER}, Outcome.INCONCLUSIVE),
        ({"version": "2.0.3", "git": {"describe": "zfs-2.1.11"}}, Outcome.INCONCLUSIVE),
        ({"version": "2.0.3", "git": {"describe": "zfs-2.0.3"}, **NEWER}, Outcome.INCONCLUSIVE),
    ],
)
def test_spl_of_before_may_sleep(facts: dict[str, Any], outcome: Outcome | None) -> None:
    """A version that nothing else confirms makes no verdict good."""
    texts = changed(TEXTS, 21, "no-sleep asked=1 broken=0", "no-sleep asked=1 broken=1 saw=1 wanted=0 at=slabprobe_k0")
    assert [found for found, _ in said(check_kind_promises, case(texts, **facts))] == ([outcome] if outcome else [])


def test_each_promise_of_the_probe_has_words() -> None:
    from places import PROJECT

    parts = ("queues", "caches", "memory")
    sources = "".join((PROJECT / "images" / "slabprobe" / f"{name}.c").read_text() for name in parts)
    tables = [part.partition("};")[0] for part in sources.split("promises[NR_PROMISES] = {")[1:]]
    names = {line.split('"')[1] for table in tables for line in table.splitlines() if '= { "' in line}
    assert names == set(BROKEN)
    assert names > RARE


def _table(source: str, name: str) -> list[str]:
    """Rows of a table of the probe's."""
    from places import PROJECT

    text = (PROJECT / "images" / "slabprobe" / f"{source}.c").read_text()
    part = text.partition(f"{name} = {{\n")[2].partition("\n}")[0]
    return [line.strip() for line in part.splitlines() if "PROBE_NAME" in line or '{ "' in line]


def test_promises_are_those_of_each_part_of_the_probe() -> None:
    for source, promises in (("queues", OF_QUEUES), ("caches", OF_KINDS)):
        told = [line.split('"')[1] for line in _table(source, "promises[NR_PROMISES]")]
        assert sorted(told) == sorted(promises)


def test_taskqs_are_those_of_the_probe() -> None:
    from places import PROJECT

    source = "".join((PROJECT / "images" / "slabprobe" / name).read_text() for name in ("queues.h", "queues.c"))
    numbers = {name: int(value) for name, value in re.findall(r"^#define (\w+)\s+(\d+)\b", source, re.MULTILINE)}
    numbers["DYN_THREADS"] = numbers["DEPTH"] + 1
    told = {}
    for line in _table("queues", "kinds[NR_KINDS]"):
        found = re.fullmatch(r'\[\w+\] = \{ PROBE_NAME "(\w+)", (\w+), (\d+), \d+, (.*) \},', line)
        assert found, line
        threads = int(found[2]) if found[2].isdigit() else numbers[found[2]]
        told[f"slabprobe{found[1]}"] = (threads, int("TASKQ_DYNAMIC" in found[4]), int(found[3]))
    assert told == QUEUES
    assert numbers["NR_CLIENTS"] == CLIENTS


def test_caches_are_those_of_the_probe() -> None:
    from places import PROJECT

    source = (PROJECT / "images" / "slabprobe" / "caches.c").read_text()
    limit = int(re.findall(r"#define SLAB_LIMIT\s+(\d+)", source)[0])
    told = {}
    for line in _table("caches", "kinds[]"):
        (name,) = re.findall(r'PROBE_NAME "(\w+)"', line)
        found = dict(re.findall(r"\.(\w+) = (\w+)", line))
        size = int(found["size"].replace("SLAB_LIMIT", str(limit)))
        wanted = found["flags"] == "KMC_KVMEM" if "flags" in found else size > limit
        told[f"slabprobe{name}"] = (size, int(found.get("align", 0)), int(wanted), int("builds" in found))
    assert told == KINDS


def test_promise_that_is_unknown_is_told_all_the_same() -> None:
    texts = changed(TEXTS, 21, "qpromise wait asked=930 broken=0", "qpromise {odd asked=1 broken=1 saw=1 wanted=2 at=x")
    (complaint,) = check_queue_promises(case(texts))
    assert isinstance(complaint, Complaint)
    assert "promise (odd: 1, not 2, at x" in complaint.reason.text


def test_slab_file_is_read() -> None:
    assert isinstance(case().timeline.slab[0].value, SlabFile)
