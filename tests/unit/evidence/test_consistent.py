"""Records that contradict themselves: each is whole and could be sealed, and none is good."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterator, Mapping

import pytest

from simulated import Run, simulate
from simulated_guest import Knobs, Record, Span
from simulated_kinds import CACHES, CYCLE, HELD, KINDS, LOADED, LONG, NOMINAL, ORGANIC, POOL, SPARE, STORM, TASKQS, ZVOL
from simulated_texts import DEADLOCKED, GROWING, KVMEM
from splvm.errors import EvidenceError
from splvm.evidence.sources import read_frame
from splvm.evidence.verdict import Outcome, Verdict
from splvm.scenarios.judged import judge_evidence

Change = Callable[[Run], None]


def frames(run: Run, source: str) -> list[Record]:
    return [record for record in run.records if record.get("source") == source]


def judge(kind: str, change: Change) -> Verdict:
    run = copy.deepcopy(simulate(kind))
    change(run)
    return judge_evidence(Run(run.facts, run.records, run.console).evidence())


def _text(source: str, pattern: str, new: str, at: int = -1) -> Change:
    """Put `new` for what the pattern finds in one of the texts of a source."""

    def change(run: Run) -> None:
        told = [it for it in frames(run, source) if it["what"] == "data"][at]
        text = re.sub(pattern, new, told["text"], count=1, flags=re.MULTILINE)
        assert text != told["text"]
        told["text"] = text

    return change


def _every(source: str, pattern: str, new: str) -> Change:
    """The same in all of them."""

    def change(run: Run) -> None:
        changed = 0
        for frame in frames(run, source):
            text = re.sub(pattern, new, frame["text"], flags=re.MULTILINE)
            changed += text != frame["text"]
            frame["text"] = text
        assert changed

    return change


def _frame(source: str, at: int, **fields: int) -> Change:
    """Add to fields of a frame."""

    def change(run: Run) -> None:
        frame = frames(run, source)[at]
        frame.update({name: frame[name] + by for name, by in fields.items()})

    return change


def _facts(**facts: object) -> Change:
    return lambda run: run.facts.update(facts)


def _later(run: Run) -> None:
    """A frame after the end, with the next number."""
    run.records.append({**frames(run, "slab")[-1], "seq": run.records[-1]["seq"] + 1})


def _found(run: Run) -> None:
    look = {"kind": "monitor", "at_s": 9.0, "why": "lost", "condition": "hung", "text": "it hangs", "taken": []}
    run.records.insert(-1, look)


def _swap(run: Run) -> None:
    """Two readings of the probe change places, and keep their numbers."""
    one, other = frames(run, "probe")[40:42]
    for name in ("tick", "start_ns", "end_ns", "text"):
        one[name], other[name] = other[name], one[name]


def _console(text: str) -> Change:
    def change(run: Run) -> None:
        object.__setattr__(run, "console", text)

    return change


def _numbers(facts: Mapping[str, object], above: str = "") -> Iterator[str]:
    """Places of run.json that have a number which a verdict rests on."""
    for name, value in facts.items():
        if isinstance(value, Mapping) and name in ("parameters", "workload"):
            yield from _numbers(value, f"{above}{name}.")
        elif above and isinstance(value, int | float):
            yield f"{above}{name}"


CONTRADICTIONS: Mapping[str, tuple[Change, str]] = {
    "console is empty": (_console(""), "console.log: no kernel said which it is; run.json says 6.1.0-56"),
    "console of another kernel": (
        _console("[    0.000000] Linux version 5.10.0 (builder) #1\n"),
        "console.log is of kernel 5.10.0; run.json says 6.1.0-56",
    ),
    "no kernel in run.json": (_facts(kernel={}), "run.json does not say which kernel it was"),
    "fewer frames than the agent made": (
        _text("agent", r"frames=\d+", "frames=7"),
        "the agent says that it made 7 frames, and its last has number ",
    ),
    "a frame after the end": (_later, r"frame \d+ comes after the end of the agent's stream"),
    "a tick goes back": (_frame("slab", 50, tick=-3), r"frame \d+: slab goes back in time"),
    "time goes back": (_frame("tasks", 50, start_ns=-200_000_000, end_ns=-200_000_000), r"frame \d+: tasks goes back"),
    "a reading ended before it began": (_frame("slab", 50, end_ns=-90_000), r"frame \d+: slab goes back in time"),
    "two readings changed places": (_swap, r"frame \d+: probe goes back in time"),
    "the probe's own clock": (
        _text("probe", r"^now_ns \d+", "now_ns 4000000001", 60),
        r"the status that was read at \d\.\d{3} s is of 4\.000 s, or its marks are not in order",
    ),
    "a mark of the future": (_text("probe", r"^mark 0 \d+", "mark 0 9999999999999"), "the status that was read at "),
    "rounds fall back": (
        _text("probe", r"\brounds=\d+", "rounds=3"),
        r"probe: thread 0\.rounds fell from \d+ to 3 ",
    ),
    "a histogram falls back": (
        _text("probe", r"^(latency \d+) \d+", r"\1 0"),
        r"probe: latency \d+ fell from \d+ to 0 at ",
    ),
    "context switches fall back": (
        _text("tasks", r"(pid=120 .*)voluntary=2", r"\1voluntary=1"),
        "tasks: voluntary context switches of 120 fell from 2 to 1 at ",
    ),
    "the monitor found it hung": (_found, "run.json says that the run ended, and the monitor found the guest hung"),
    "another workload": (
        lambda run: run.facts["parameters"].update(workload={"threads": 8}),
        "the probe was set to threads=2, and run.json says 8",
    ),
    "a configuration that changes": (
        _text("probe", r"reap_rounds=\d", "reap_rounds=7"),
        r"the probe's configuration at \d\.\d{3} s is another than at the beginning of the window",
    ),
    "a window that is too short": (
        lambda run: run.facts["parameters"].update(window_s=30.0),
        r"the window lasted [36]\.\d{3} s; 30 s are asked for",
    ),
    "latencies that are not counted": (
        _every("probe", r"^latency .*\n", ""),
        r"the probe counts allocations, by how long they took and by thread: 0 and \d+ at ",
    ),
    "latencies of more than were had": (
        _every("probe", r"^(latency 8) (\d+)", r"\1 9\2"),
        r"the probe counts allocations, by how long they took and by thread: \d+ and \d+ at ",
    ),
    "emergency objects of threads that are not among all": (
        _every("probe", r"(frees=\d+ emergency)=(\d+)", r"\1=77\2"),
        r"the probe counts emergency objects, of all and by thread: \d+ and \d+ at ",
    ),
    "callers that were not woken": (
        _every("probe", r"^woken .*\n", ""),
        r"the probe counts refills that slept, by when they were woken and by how long they took: 0 and \d+ at ",
    ),
    "no bit": (_every("probe", r"growing=0x8000", "growing=0"), "the probe's flag bits are not one bit each: kvmem"),
    "one bit for two": (_every("probe", r"reaping=0x10000", "reaping=0x80"), "the probe's flag bits are not one bit"),
    "a bit that changes": (_text("probe", r"deadlocked=0x4000", "deadlocked=0x2000"), "the flag bits at "),
    "a count below nothing": (
        _every("probe", r"entries=\d+", "entries=-1"),
        r"probe: hold\.entries is -1 at ",
    ),
    "an allocation since for ever": (
        _every("probe", r"alloc_since_ns=\d+ last_ns=\d+", "alloc_since_ns=1 last_ns=0"),
        r"critical thread 0 waits for an object since 0\.000 s, and its longest gap is 0\.\d{3} s at ",
    ),
    "a time of later": (
        _text("probe", r"(?<=last_ns=)\d+", "9999999999999"),
        r"the status that was read at .* has a time of 10000.000 s",
    ),
    "a gap that is longer than the longest": (
        _every("probe", r"gap_total_max_ns=\d+", "gap_total_max_ns=0"),
        "critical thread 0: a gap is longer than the longest one of all at ",
    ),
    "threads that were stopped in the window": (
        _every("probe", r"^run state=running", "run state=stopped"),
        r"the threads were stopped at \d\.\d{3} s, in the window, 0 of them parked",
    ),
    "threads that were parked in the window": (_every("probe", r" parked=0", " parked=1"), "the threads were running"),
    "a task that is listed twice": (
        _every("tasks", r"\A(task [^\n]*\n(?:\[[^\n]*\n)*)", r"\1\1"),
        r"the tasks that were read at \d\.\d{3} s have one twice",
    ),
    "columns without a number": (
        _every("slab", r"^(slabprobe .*\S) +\S+( +\S+ +\S+)$", r"\1 -\2"),
        r"slab file at \d\.\d{3} s: the probe's cache has no number in emergency\.dlock",
    ),
    "another rate": (
        lambda run: run.facts["parameters"].update(rate_hz=100),
        "the agent read 20 times a second, every 50000000 ns; run.json says 100",
    ),
    "a rate that is another than its period": (
        _text("agent", r"period_ns=\d+", "period_ns=7", 0),
        "the agent read 20 ",
    ),
    "an agent that does not say its rate": (
        _text("agent", r"^hello.*", "hello", 0),
        "the agent does not say how often",
    ),
    "another number of CPUs": (
        lambda run: run.facts["parameters"].update(cpus=4),
        "the host ran 2 CPUs of the guest; run.json says 4",
    ),
    "more memory": (
        lambda run: run.facts["parameters"].update(ram_mib=1024),
        "the guest has 406312 KiB of memory at its disposal, which is not what a machine of 1024 MiB has",
    ),
    "less memory": (lambda run: run.facts["parameters"].update(ram_mib=384), "the guest has 406312 KiB of memory"),
    "memory that is not what is mapped": (
        _every("meminfo", r"\Z", "DirectMap4k:  32640 kB\nDirectMap2M:  753664 kB\n"),
        "the guest has 406312 KiB of memory at its disposal",
    ),
    "memory that nobody read": (_every("meminfo", r"^MemTotal.*\n", ""), "nobody read how much memory the guest has"),
    "a command that failed": (
        _every("ctl", r"^ok start$", "errno=22 start"),
        "a command failed in the guest: errno=22 start",
    ),
    "a mark that nobody asked for": (
        _every("ctl", r"^ok mark window$", "ok start"),
        "the agent's answers are not those to the marks of the run: window",
    ),
    "the console of a run that says its name": (
        lambda run: _console(f"{run.console}[    4.1] splvm: run 0123456789abcdef\n")(run),
        "console.log is of run 0123456789abcdef; run.json is of None",
    ),
    "the console of no run that says its name": (
        _facts(token="0123456789abcdef"),
        "console.log is of no run that says its name; run.json is of 0123456789abcdef",
    ),
    "no length of the window": (
        lambda run: run.facts["parameters"].update(window_s="long"),
        "run.json: window_s is long, and not a number of seconds",
    ),
}


@pytest.mark.parametrize("name", [*_numbers(simulate(NOMINAL).facts)])
def test_true_is_no_number(name: str) -> None:
    """Also where the number is 1, which it equals."""
    run = copy.deepcopy(simulate(NOMINAL))
    *above, last = name.split(".")
    part = run.facts
    for key in above:
        part = part[key]
    part[last] = True
    for frame in frames(run, "probe"):
        frame["text"] = re.sub(rf"(?m)^(config .*\b{last})=\d+", r"\1=1", frame["text"])
    with contextlib.suppress(EvidenceError):
        assert not judge_evidence(run.evidence()).outcome.is_good


@pytest.mark.parametrize("field", ["seq", "tick", "start_ns", "end_ns"])
@pytest.mark.parametrize("odd", [True, "7", 7.5, None])
def test_a_number_of_a_frame_is_one(field: str, odd: object) -> None:
    with pytest.raises(ValueError, match="not a number of 64 bits"):
        read_frame({**frames(simulate(NOMINAL), "slab")[3], field: odd})


@pytest.mark.parametrize("kind", [HELD, NOMINAL])
@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_contradiction(name: str, kind: str) -> None:
    change, reason = CONTRADICTIONS[name]
    verdict = judge(kind, change)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert any(re.match(reason, it.text) for it in verdict.reasons), verdict.reasons


def test_objects_that_nobody_holds() -> None:
    verdict = judge(NOMINAL, _every("probe", r"(?<=live slab=)\d+", "0"))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    reason = r"at rest at \d\.\d{3} s threads had taken 64 objects more than they gave back, and the probe .* hold 0"
    assert re.match(reason, verdict.reasons[0].text)


def _within(run: Run, first: str, last: str) -> list[Record]:
    """The probe's readings between two marks."""
    times = dict(re.findall(r"^mark \d+ (\d+) (\S+)", frames(run, "probe")[-1]["text"], re.MULTILINE))
    marks = {name: int(at_ns) for at_ns, name in times.items()}
    return [it for it in frames(run, "probe") if marks[first] <= it["start_ns"] and it["end_ns"] <= marks[last]]


@pytest.mark.parametrize("at", [slice(None), slice(20, None), slice(30, 31), slice(1, None, 2)])
def test_a_worker_that_the_probe_let_go(at: slice) -> None:
    def change(run: Run) -> None:
        for frame in _within(run, "window", "window-end")[at]:
            frame["text"] = frame["text"].replace(" held=1 ", " held=0 ")

    verdict = judge(HELD, change)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert re.match(r"the probe says that it held no worker at \d\.\d{3} s", verdict.reasons[0].text)


@pytest.mark.parametrize(
    ("pattern", "new"),
    [
        (r"slabprobe_grow_work\+\S+ \[slabprobe\]", "msleep+0x1/0x2"),
        (r"\[<0>\] slabprobe_grow_work.*\n", ""),
        (r"(\[<0>\] slabprobe_grow_work)", r"[<0>] spl_cache_grow_work+0x1/0x2 [spl]\n\1"),
        (r"comm=spl_kmem_cache state=D", "comm=bash state=D"),
    ],
)
def test_a_worker_that_is_stuck_elsewhere(pattern: str, new: str) -> None:
    verdict = judge(HELD, _every("tasks", pattern, new))
    assert verdict.outcome is Outcome.NOT_TRIGGERED
    assert re.search(r"\(pid 114\) is not where the probe holds a worker: ", verdict.reasons[0].text)


@pytest.mark.parametrize(
    "comm",
    ["bash", "kworker/0:1", "spl_kmem", "spl_kmem_cache2", "spl_dynamic_tas", "xspl_kmem_cache", "slabprobe/mem"],
)
@pytest.mark.parametrize("kind", [HELD, CYCLE, ORGANIC])
def test_a_worker_of_another_name(kind: str, comm: str) -> None:
    """Whether it is held or caught."""
    verdict = judge(kind, _every("tasks", r"comm=spl_kmem_cache", f"comm={comm}"))
    assert verdict.outcome is Outcome.NOT_TRIGGERED
    assert verdict.reasons[0].text.startswith(f"{comm} (pid 114)"), verdict.reasons


@pytest.mark.parametrize("comm", ["spl_kmem_cache", "spl_kmem_cache/", "spl_kmem_cache/0"])
@pytest.mark.parametrize("kind", [HELD, CYCLE])
def test_the_workers_name_in_each_version(kind: str, comm: str) -> None:
    run = copy.deepcopy(simulate(kind))
    for frame in frames(run, "tasks"):
        frame["text"] = frame["text"].replace("comm=spl_kmem_cache ", f"comm={comm} ")
    assert judge_evidence(run.evidence()).outcome is KINDS[kind].best


@pytest.mark.parametrize("function", ["taskq_thread", "slabprobe_grow_work"])
def test_who_was_caught_was_sent_there_by_its_taskq(function: str) -> None:
    verdict = judge(CYCLE, _every("tasks", rf"^\[<0>\] {function}\+.*\n", ""))
    assert verdict.outcome is Outcome.NOT_TRIGGERED
    assert "which was caught, is not SPL's worker that grows a cache" in verdict.reasons[0].text


def test_a_worker_that_was_caught_in_an_spl_without_one() -> None:
    verdict = judge(CYCLE, _every("probe", r"^hold ", "hold worker=0 "))
    assert verdict.outcome is Outcome.NOT_TRIGGERED
    assert "is not SPL's worker that grows a cache, and this SPL has none" in verdict.reasons[0].text


@pytest.mark.parametrize("kind", [HELD, CYCLE])
def test_a_worker_that_gets_another_name(kind: str) -> None:
    def change(run: Run) -> None:
        told = [it for it in frames(run, "tasks") if "state=D" in it["text"].partition("\n")[0]]
        told[len(told) // 2]["text"] = told[len(told) // 2]["text"].replace("spl_kmem_cache", "spl_kmem_cache/1", 1)

    verdict = judge(kind, change)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert any("its name has changed to spl_kmem_cache/1" in reason.text for reason in verdict.reasons)


def _flags(run: Run, change: Callable[[int], int], share: float) -> None:
    """Change the flags of the probe's cache in one reading, some share of the way through those in the window."""
    times = dict(re.findall(r"^mark \d+ (\d+) (\S+)", frames(run, "probe")[-1]["text"], re.MULTILINE))
    marks = {name: int(at_ns) for at_ns, name in times.items()}
    slab = frames(run, "slab")
    texts = [it["text"] for it in slab]
    for at, frame in enumerate(slab):
        # Each has a text of its own now.
        texts[at] = frame["text"] if frame["what"] == "data" else texts[at - 1]
        frame.update(what="data", text=texts[at])
    inside = [it for it in slab if marks["window"] <= it["start_ns"] and it["end_ns"] <= marks["window-end"]]
    chosen = inside[int(share * (len(inside) - 1))]
    chosen["text"] = re.sub(
        r"(?m)^(slabprobe +)(0x\w+)", lambda m: f"{m[1]}{change(int(m[2], 16)):#07x}", chosen["text"]
    )


# Where the probe has a cache of its own; a storm's operations have theirs.
CACHED = [kind for kind, it in KINDS.items() if any(p.name == "settle" for p in it.phases) and kind != STORM]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", CACHED)
@pytest.mark.parametrize("bit", [KVMEM, 0x1, 0x100])
def test_a_cache_of_another_sort_in_one_reading(kind: str, bit: int, share: float) -> None:
    verdict = judge(kind, lambda run: _flags(run, lambda flags: flags ^ bit, share))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert any("it has become one of another sort" in reason.text for reason in verdict.reasons), verdict.reasons


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", [HELD, CYCLE, ORGANIC, LONG, SPARE, LOADED, POOL])
@pytest.mark.parametrize(("name", "bit"), [("growing", GROWING), ("deadlocked", DEADLOCKED)])
def test_a_flag_that_one_reading_does_not_show(kind: str, name: str, bit: int, share: float) -> None:
    verdict = judge(kind, lambda run: _flags(run, lambda flags: flags & ~bit, share))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert any(re.search(rf"do not show that it is {name}$", it.text) for it in verdict.reasons), verdict.reasons


@pytest.mark.parametrize("kind", [HELD, NOMINAL, CYCLE])
def test_frees_of_the_last_status(kind: str) -> None:
    verdict = judge(kind, _text("probe", r"frees=\d+", "frees=99999999"))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert re.match(r"at rest at \d+\.\d{3} s threads had taken -\d+ objects more", verdict.reasons[0].text)


def test_what_a_load_has_done_does_not_become_less() -> None:
    verdict = judge(LOADED, _text("load", r"cpu_us=\d+", "cpu_us=1"))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert re.match(r"load: cpu_us fell from \d+ to 1 at ", verdict.reasons[0].text)


@pytest.mark.parametrize(("kib", "is_right"), [(8, True), (2 * 62 * 4, True), (2 * 62 * 4 + 4, False)])
def test_a_count_of_pages_takes_back_what_a_cpu_gave_too_much(kib: int, is_right: bool) -> None:
    """Two CPUs, and half of the threshold of each; it happened in a guest of 5.10 that swapped."""

    def change(run: Run) -> None:
        told = [it for it in frames(run, "load") if it["what"] == "data"]
        for at, record in enumerate(told):
            record["text"] = re.sub(r"\bwritten=\d+", f"written={99999 - kib * (at % 2)}", record["text"])

    verdict = judge(LOADED, change)
    fell = any(re.match(r"load: written fell from \d+ to \d+ at ", reason.text) for reason in verdict.reasons)
    assert fell != is_right


def test_a_txg_that_was_synced_stays_so() -> None:
    def change(run: Run) -> None:
        told = [it for it in frames(run, "txgs") if it["what"] == "data"]
        told[-1]["text"] = told[0]["text"]

    verdict = judge(POOL, change)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert re.match(r"txgs: the last txg that was synced fell from \d+ to \d+ at ", verdict.reasons[0].text)


def test_a_window_that_a_pool_ended_is_short_for_a_reason() -> None:
    def verdict_of(knobs: Knobs) -> Verdict:
        run = simulate(ZVOL, knobs)
        run.facts["parameters"]["window_s"] = 20.0
        return judge_evidence(run.evidence())

    stalled = verdict_of(Knobs(unsynced=Span("load")))
    assert stalled.outcome is Outcome.STALLED
    assert not any("are asked for" in reason.text for _, reason in stalled.also)
    assert verdict_of(Knobs()).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_verdict_stays_one(kind: str) -> None:
    """A contradiction takes a good verdict away, and no bad one."""
    run = simulate(kind, Knobs(console="[    9.0] Kernel panic - not syncing: Fatal exception\n"))
    object.__setattr__(run, "console", run.console.replace("Linux version", "Some version"))
    verdict = judge_evidence(run.evidence())
    assert verdict.outcome is Outcome.CRASHED
    assert Outcome.INCONCLUSIVE in {outcome for outcome, _ in verdict.also}


@pytest.mark.parametrize("odd", [None, [], {}, 7, True, "a\0b"], ids=repr)
def test_a_frame_without_a_text_is_a_loss(odd: object) -> None:
    """Also of a source that nothing of the verdict rests on."""
    run = simulate(HELD)
    frames = [record for record in run.records if record["kind"] == "frame"]
    for name in sorted({str(record["source"]) for record in frames}):
        last = [at for at, record in enumerate(run.records) if record.get("source") == name][-1]
        records = [*run.records[:last], {**run.records[last], "text": odd}, *run.records[last + 1 :]]
        verdict = judge_evidence(Run(run.facts, records, run.console).evidence())
        assert verdict.outcome is Outcome.INCONCLUSIVE, name


@pytest.mark.parametrize("odd", [None, [], {}, True, "1", float("nan"), float("inf"), -1.0, 1e12], ids=repr)
@pytest.mark.parametrize("kind", ["phase", "host"])
def test_a_time_of_the_hosts_that_is_none_is_a_loss(kind: str, odd: object) -> None:
    run = simulate(HELD)
    at = [number for number, record in enumerate(run.records) if record["kind"] == kind][3]
    run.records[at] = {**run.records[at], "at_s": odd}
    assert judge_evidence(run.evidence()).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("odd", [None, [], {}, 7, True], ids=repr)
def test_a_path_that_is_none_is_a_loss(odd: object) -> None:
    run = simulate(HELD)
    at = [number for number, record in enumerate(run.records) if record["kind"] == "frame"][40]
    run.records[at] = {**run.records[at], "path": odd}
    assert judge_evidence(run.evidence()).outcome is Outcome.INCONCLUSIVE


def test_faults_that_nobody_asked_for() -> None:
    run = simulate(HELD)
    for frame in frames(run, "probe"):
        frame["text"] = frame["text"].replace("config ", "fail place=grow marked=3 injected=2 missed=0\nconfig ", 1)
    verdict = judge_evidence(run.evidence())
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "the run has no phase fail" in verdict.reasons[0].text


@pytest.mark.parametrize(
    ("kind", "pattern", "new"),
    [
        (TASKQS, r"^qpromise .*\n", ""),
        (TASKQS, r"^qpromise room .*\n", ""),
        (TASKQS, r"^(qpromise room .*\n)", r"\1\1"),
        (TASKQS, r"^qpromise room ", "qpromise more "),
        (TASKQS, r"^client 1 .*\n", ""),
        (TASKQS, r"^queue .*\n", ""),
        (TASKQS, r"^queue slabprobe_few1 .*\n", ""),
        (TASKQS, r"^(queue slabprobe_dyn0 .* threads=4) dynamic=1", r"\1 dynamic=0"),
        (CACHES, r"^kpromise .*\n", ""),
        (CACHES, r"^kpromise zeroed .*\n", ""),
        (CACHES, r"^kind .*\n", ""),
        (CACHES, r"^kind slabprobe_k3 .*\n", ""),
        (CACHES, r"^(kind slabprobe_k0 .*) builds=1", r"\1 builds=0"),
    ],
)
@pytest.mark.parametrize("is_last", [True, False])
def test_lines_of_the_work_that_are_not_there(kind: str, pattern: str, new: str, is_last: bool) -> None:
    """In the last status that has them, or in each."""

    def change(run: Run) -> None:
        told = [it for it in _of_their_own(run, "probe") if re.search(pattern, it["text"], re.MULTILINE)]
        for frame in told[-1:] if is_last else told:
            frame["text"] = re.sub(pattern, new, frame["text"], flags=re.MULTILINE)
        assert told

    verdict = judge(kind, change)
    assert not verdict.outcome.is_good
    found = [reason.text for reason in verdict.reasons] + [reason.text for _, reason in verdict.also]
    assert any(" does not have as the probe has it: " in text for text in found), found


def _of_their_own(run: Run, source: str) -> list[Record]:
    """The frames of a source, each with its text."""
    told, text = frames(run, source), ""
    for frame in told:
        text = frame["text"] if frame["what"] == "data" else text
        frame.update(what="data", text=text)
    return told


@pytest.mark.parametrize(("kind", "tag"), [(TASKQS, "client"), (CACHES, "kind")])
def test_work_that_a_status_says_nothing_of(kind: str, tag: str) -> None:
    """Neither one in the middle."""

    def change(run: Run) -> None:
        told = [it for it in _of_their_own(run, "probe") if f"\n{tag}" in it["text"]]
        frame = told[len(told) // 2]
        frame["text"] = re.sub(r"(?m)^(client|queue|qpromise|kinds?|kpromise) .*\n", "", frame["text"])

    verdict = judge(kind, change)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert any("anything of the work with" in reason.text for reason in verdict.reasons), verdict.reasons


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        (TASKQS, r"^(client 0 .*rounds=)\d+"),
        (TASKQS, r"^(qpromise wait asked=)\d+"),
        (CACHES, r"^(kinds rounds=)\d+"),
        (CACHES, r"^(kinds .*back=)\d+"),
        (CACHES, r"^(kpromise whole asked=)\d+"),
        (CACHES, r"^(kind slabprobe_k0 .*allocs=)\d+"),
        (CACHES, r"^(kind slabprobe_k0 .*built=)\d+"),
    ],
)
def test_counters_of_the_work_that_fall(kind: str, pattern: str) -> None:
    verdict = judge(kind, _text("probe", pattern, r"\g<1>0"))
    found = [reason.text for reason in verdict.reasons] + [reason.text for _, reason in verdict.also]
    assert not verdict.outcome.is_good
    assert any(re.match(r"probe: .* fell from \d+ to 0 at ", text) for text in found), found


@pytest.mark.parametrize(("kind", "name"), [(TASKQS, "qpromise wait"), (CACHES, "kpromise whole")])
def test_a_promise_that_was_broken_and_is_not_any_more(kind: str, name: str) -> None:
    """A status that says so counts, whichever it is."""

    def change(run: Run) -> None:
        told = [it for it in _of_their_own(run, "probe") if f"\n{name} " in it["text"]]
        frame = told[len(told) // 2]
        frame["text"] = re.sub(rf"(?m)^({name} asked=\d+) broken=0", r"\1 broken=3", frame["text"])

    verdict = judge(kind, change)
    assert verdict.outcome is Outcome.SUSPECT
    assert "(3 of " in verdict.reasons[0].text


@pytest.mark.parametrize("kind", [TASKQS, CACHES])
def test_states_of_the_work_follow_each_other(kind: str) -> None:
    verdict = judge(kind, lambda run: _back(run, kind))
    assert not verdict.outcome.is_good
    found = [reason.text for reason in verdict.reasons] + [reason.text for _, reason in verdict.also]
    assert any(re.match(r"probe: .*state.* fell from ", text) for text in found), found


def _back(run: Run, kind: str) -> None:
    tag = "client 1" if kind == TASKQS else "kinds"
    told = [it for it in _of_their_own(run, "probe") if f"\n{tag} " in it["text"]]
    told[-1]["text"] = re.sub(rf"(?m)^({tag} .*state=)\w+", r"\1loaded", told[-1]["text"])
