"""Every parser of what a guest says, given what no guest should say: none raises anything but its documented error.

One table, `PARSERS`, names them all with the texts to begin with: recorded logs and files, and simulated runs. They are
damaged by a list of mutations that hypothesis draws, so that a failure is found again and told by the fewest of them.
SPLVM_FUZZ_EXAMPLES makes a longer session, with other examples each time.
"""

from __future__ import annotations

import functools
import inspect
import io
import json
import lzma
import os
import pkgutil
import random
import re
import socket
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import rich.console
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import splvm.evidence
from pasteforms import KERNEL, PLAIN, RARE
from places import PROJECT
from simulated import simulate
from simulated_faults import FAULTS
from simulated_guest import Knobs
from simulated_kinds import HELD, LOADED, NOMINAL, POOL, STORM
from simulated_texts import BASE_NS, TXG_HEADING
from splvm.deadline import Deadline
from splvm.dump.postmortem import describe_dump, parse_report
from splvm.errors import EvidenceError
from splvm.evidence.diagnosis import Condition, Signs, diagnose, parse_registers
from splvm.evidence.formats.gfpprobe import parse_gfpprobe
from splvm.evidence.formats.kerncomplaints import FindingKind
from splvm.evidence.formats.kernlog import MAX_PER_KIND, scan_kernel_log
from splvm.evidence.formats.lcov import parse_lcov
from splvm.evidence.formats.loadstatus import parse_load
from splvm.evidence.formats.merge import MAX_WAITING_FRAMES, Merger
from splvm.evidence.formats.probestatus import parse_probe
from splvm.evidence.formats.sites import parse_sites
from splvm.evidence.formats.slab import contradictions, parse_slab, regressions
from splvm.evidence.formats.stacks import parse_tasks
from splvm.evidence.formats.statusfile import parse_records
from splvm.evidence.formats.stream import Frame, FrameReader, What
from splvm.evidence.formats.sysrq import MAX_DUMPS, missing_tasks, parse_sysrq
from splvm.evidence.formats.txgs import parse_txgs
from splvm.evidence.judge import check_rule
from splvm.evidence.judge import judge as judge_by
from splvm.evidence.rule import parse_rule
from splvm.evidence.timeline import Evidence, Timeline
from splvm.evidence.verdict import Outcome, Verdict
from splvm.evidence.waiting.tasklists import find_waiting
from splvm.evidence.waiting.waitgraph import build_graph
from splvm.guest.console import start_console
from splvm.paste.answer import answer_lines
from splvm.paste.cleaning import Cleaner
from splvm.paste.explanation import explain
from splvm.paste.labels import label_of
from splvm.paste.moments import MAX_MOMENTS
from splvm.paste.names import note_names
from splvm.paste.plain import MAX_STEPS, Steps, column_of, steps_of
from splvm.paste.prefixes import Line
from splvm.paste.records import RecordReader
from splvm.paste.redact import redact
from splvm.paste.slabs import parse_slabs
from splvm.paste.wrapping import split_escaped, split_lines
from splvm.record.names import REGISTERS_FILE, SYSRQ_FILE
from splvm.record.reader import read_evidence
from splvm.record.writer import RunDirectory
from splvm.report.pasteissue import paste_issue
from splvm.report.summary import summarize, verdict_line
from splvm.scenarios.judged import judge_evidence as judge
from splvm.scenarios.table import SCENARIOS

DATA = PROJECT / "tests" / "data"
LIMIT_S = 30.0
LARGE = 1 << 20

_EXAMPLES = os.environ.get("SPLVM_FUZZ_EXAMPLES")
FUZZ = settings(
    max_examples=int(_EXAMPLES or 25),
    deadline=None,
    derandomize=_EXAMPLES is None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


# --- texts to begin with ----------------------------------------------------------------------------------------------


@functools.cache
def recorded(pattern: str) -> tuple[str, ...]:
    """The recorded texts whose names fit."""
    texts = tuple(map(_read, sorted(DATA.glob(pattern))))
    assert texts, pattern
    return texts


def _read(path: Path) -> str:
    data = path.read_bytes()
    return (lzma.decompress(data) if path.suffix == ".xz" else data).decode()


@functools.cache
def archives() -> tuple[dict[str, str], ...]:
    """The recorded runs: the texts of each by the names of the files."""
    paths = sorted((DATA / "runs").glob("*.tar.xz"))
    assert paths
    runs = []
    for path in paths:
        with tarfile.open(path) as archive:
            files = ((Path(it.name).name, archive.extractfile(it)) for it in archive.getmembers() if it.isfile())
            runs.append({name: file.read().decode() for name, file in files if file is not None})
    return tuple(runs)


def archived(name: str) -> tuple[str, ...]:
    """A file of every recorded run that has it."""
    return tuple(run[name] for run in archives() if name in run)


RUNS: tuple[tuple[str, Knobs], ...] = (
    (HELD, Knobs()),
    (NOMINAL, Knobs()),
    (HELD, FAULTS["no fallback"]),
    (LOADED, FAULTS["eater killed"]),
    (POOL, FAULTS["no txg is synced"]),
    (HELD, FAULTS["worker's switches go on"] | FAULTS["frames lost"]),
    (HELD, FAULTS["emergency objects below zero"] | FAULTS["oops"]),
    (NOMINAL, FAULTS["kernel's own cache"] | FAULTS["lost"]),
    (STORM, FAULTS["somebody is caught at a site"]),
)

_LOOK = {
    "kind": "monitor",
    "at_s": 7.5,
    "why": "the agent was silent",
    "condition": Condition.HUNG.value,
    "text": "no program in the guest answers",
    "taken": [{"what": "nmi", "ok": True, "detail": ""}, {"what": "sysrq", "ok": False, "detail": "no answer"}],
}


@functools.cache
def run_texts() -> tuple[str, ...]:
    """What samples.jsonl holds of simulated runs, and of recorded ones."""
    simulated = ("".join(json.dumps(record) + "\n" for record in _records(*run)) for run in RUNS)
    return (*simulated, *archived("samples.jsonl"))


def _records(scenario: str, knobs: Knobs) -> Iterator[dict[str, Any]]:
    yield from simulate(scenario, knobs).records
    yield _LOOK


@functools.cache
def payloads(source: str) -> tuple[str, ...]:
    """What a source read in simulated runs, at a few moments of each."""
    texts = []
    for run in RUNS:
        found = [frame.text for frame in simulate(*run).frames() if (frame.source, frame.what) == (source, What.DATA)]
        texts += found[:: max(1, len(found) // 3)]
    return tuple(dict.fromkeys(texts))


@functools.cache
def streams() -> tuple[str, ...]:
    """What the agent wrote, a character for each byte."""
    return tuple("".join(map(wire, simulate(*run).frames()[:60])) for run in RUNS)


def wire(frame: Frame) -> str:
    text = frame.text.encode().decode("latin-1")
    words = ("F", frame.seq, frame.tick, frame.source, frame.what, frame.start_ns, frame.end_ns, len(text))
    return f"{' '.join(map(str, words))}\n{text}\n"


_FILE = "=== file: "


@functools.cache
def directories() -> tuple[str, ...]:
    """Directories of runs, each in one text."""
    recorded_runs = ("".join(f"{_FILE}{name}\n{text}" for name, text in run.items()) for run in archives())
    return (*(_directory(*run) for run in RUNS[:3]), *recorded_runs)


def _directory(scenario: str, knobs: Knobs) -> str:
    run = simulate(scenario, knobs)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch)
        facts = {key: value for key, value in run.facts.items() if key != "outcome"}
        directory = RunDirectory(path, facts)
        for frame in run.frames()[:20]:
            directory.record_frame(frame, "ssh")
        (path / "console.log").write_text(run.console)
        (path / SYSRQ_FILE).write_text(recorded("sysrq/held*")[0])
        (path / REGISTERS_FILE).write_text(REGISTERS)
        for name in ("qemu.log", "harness.log"):
            (path / name).write_text("nothing\n")
        directory.finish(run.facts["outcome"])
        return "".join(f"{_FILE}{file.name}\n{file.read_text()}" for file in sorted(path.iterdir()))


REGISTERS = (
    "\nCPU#0\nRAX=0000000000000000 RBX=0000000000000000 RCX=0000000000000001 RDX=0000000000000000\n"
    "RIP=ffffffff81a2c3d4 RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\n"
    "\nCPU#1\nRIP=ffffffff81a2c3d5 RFL=00000046 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0\n"
)


REPORTS = (
    json.dumps(
        {
            "release": "6.1.0-56-cloud-amd64",
            "build_id": "0123456789abcdef",
            "caches": [
                {
                    "name": "slabprobe",
                    "flags": 0xC080,
                    "flag_names": ["kvmem", "deadlocked", "growing"],
                    "waiters": [{"pid": 128, "comm": "slabprobe/0"}],
                    **dict.fromkeys(("object_bytes", "slab_bytes", "slab_objects", "slab_total", "slab_alloc"), 8),
                    **dict.fromkeys(("slab_max", "object_total", "object_alloc", "object_max"), 8),
                    **dict.fromkeys(("emergency_alloc", "emergency_max"), 8),
                    "deadlocks": None,
                }
            ],
            "threads": [
                {
                    "pid": 114,
                    "comm": "spl_kmem_cache",
                    "state": "D",
                    "frames": [{"function": "slabprobe_grow_work", "inlined": False}],
                    "stack_error": "",
                }
            ],
            "problems": [],
        },
        indent=1,
    ),
)


# --- what is called ---------------------------------------------------------------------------------------------------


def as_bytes(text: str) -> bytes:
    """A byte for each character."""
    return bytes(ord(char) & 0xFF for char in text)


def read_frames(text: str) -> None:
    """In what pieces the bytes come makes no difference."""
    data = as_bytes(text)
    frames, error = _cut(data, len(data) + 1)
    in_pieces, another = _cut(data, len(data) // 7 + 1)
    assert in_pieces == frames
    assert (another is None) == (error is None)
    if error is not None:
        raise error


def _cut(data: bytes, step: int) -> tuple[list[Frame], EvidenceError | None]:
    reader = FrameReader()
    frames = []
    try:
        for at in range(0, len(data), step):
            frames += reader.feed(data[at : at + step])
        reader.close()
    except EvidenceError as error:
        return frames, error
    return frames, None


def read_slab(text: str) -> None:
    slab = parse_slab(text)
    json.dumps(slab.to_json())
    for row in slab.caches:
        contradictions(row)
    for before, after in pairwise(slab.caches):
        if before.name == after.name:
            regressions(before, after)


def read_slabs(text: str) -> None:
    for reading in parse_slabs(text):
        json.dumps(reading.to_json())


def read_paste(text: str) -> None:
    found = explain(text)
    json.dumps(found.to_json())
    assert all(map(_shown, filter(None, answer_lines(found))))
    assert len(found.moments) <= MAX_MOMENTS
    assert paste_issue(found)


def read_shipped(text: str) -> None:
    reader = RecordReader()
    for line in text.split("\n"):
        for record in reader.take(line) or ():
            json.dumps([record.message, record.time, record.host, record.program])
    reader.finish()


def read_cleaned(text: str) -> None:
    cleaner = Cleaner()
    for line in text.split("\n"):
        for part in cleaner.clean(line):
            assert "".join(split_lines(part)) == part
            assert split_escaped(part) is not None


def read_steps(text: str) -> None:
    steps = Steps()
    for line in text.split("\n"):
        message = line.strip()
        label_of(line)
        found = steps_of(message, column_of(line, message)) if message else ()
        if not found or steps.begins_another(found[0]):
            assert all(len(stack.frames) <= MAX_STEPS + 1 for stack, _ in steps.finish())
        if found:
            steps.add(found, Line(message), line, line)
        else:
            steps.goes_on(message, 20)


def read_redacted(text: str) -> None:
    names: dict[str, str] = {}
    for line in text.split("\n"):
        note_names(line, names)
    redact(text, names, ["smbd-jane"])


def read_log(text: str) -> None:
    findings = scan_kernel_log(text)
    assert len(findings) <= MAX_PER_KIND * len(FindingKind)
    assert all(1 <= finding.line <= text.count("\n") + 1 for finding in findings)


def read_sysrq(text: str) -> None:
    report = parse_sysrq(text)
    assert all(len(dumps) <= MAX_DUMPS for dumps in (report.tasks, report.memory, report.cpus))
    for dump in report.tasks:
        missing_tasks(dump, 100)


def read_tasks(text: str) -> None:
    for task in parse_tasks(text):
        assert len(task.blocked_on) <= len(task.frames)


def read_graph(text: str) -> None:
    for dump in parse_sysrq(text).tasks[:3]:
        assert _shown(build_graph(dump.threads).sentence)


def read_registers(text: str) -> None:
    assert _shown(diagnose(Signs(cpus=parse_registers(text))).text)


def read_records(text: str) -> list[dict[str, Any]]:
    """The lines that are JSON objects."""
    records = []
    for line in text.split("\n"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def read_timeline(text: str) -> None:
    timeline = Timeline.from_records(read_records(text))
    assert set(timeline.marks) <= {mark.name for sample in timeline.probe for mark in sample.value.marks}


def waiting_by_sysrq(text: str) -> None:
    waiting = find_waiting(Evidence({}, Timeline(), "", (), text))
    assert waiting is None or _shown(waiting.sentence)


@functools.cache
def facts_of(scenario: str) -> dict[str, Any]:
    return simulate(scenario).facts


def judged(timeline: Timeline, scenario: str = HELD, console: str = "", sysrq: str = "") -> Verdict:
    verdict = judge(Evidence(facts_of(scenario), timeline, console, (), sysrq))
    assert verdict.reasons
    json.dumps(verdict.to_json())
    return verdict


def judge_records(text: str) -> None:
    timeline = Timeline.from_records(read_records(text))
    for scenario in (HELD, NOMINAL):
        judged(timeline, scenario)


def judge_console(text: str) -> None:
    judged(Timeline(), console=text, sysrq=text)


def summarize_records(text: str) -> None:
    _summarize(judged(Timeline.from_records(read_records(text))), facts_of(HELD))


def _summarize(verdict: Verdict, facts: Any) -> None:
    shown = io.StringIO()
    rich.console.Console(file=shown, width=120).print(summarize(verdict, facts, "runs/x"))
    assert _shown(shown.getvalue().replace("\n", ""))
    assert _shown(verdict_line(verdict, facts))


def _shown(text: str) -> str:
    """A text that may be shown: nothing in it moves the cursor, rings, or ends a line."""
    assert text.isprintable(), ascii(text)
    return text


def read_report(text: str) -> None:
    report = parse_report(text, Path("memory.kdump"))
    json.dumps(report.to_json())
    assert list(describe_dump(report))
    build_graph(report.for_graph())


HELD_RUN = simulate(HELD).evidence()


def read_rule(text: str) -> None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        # So read_facts() says of a run.json.
        return
    rule = parse_rule(value)
    check_rule(rule)
    json.dumps(judge_by(HELD_RUN, rule).to_json())


def rules() -> list[str]:
    return [json.dumps(scenario.rule.to_json()) for scenario in SCENARIOS.values()]


def read_directory(text: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch)
        for part in text.split(_FILE)[1:]:
            name, _, content = part.partition("\n")
            if re.fullmatch(r"[a-z]{1,20}\.[a-z]{1,10}", name):
                (path / name).write_bytes(content.encode("utf-8", "surrogatepass"))
        evidence = read_evidence(path)
        _summarize(judge(evidence), evidence.facts)


def read_console(text: str) -> None:
    here, there = socket.socketpair()
    with here, start_console(here, Path(os.devnull)) as console:
        with there:
            there.settimeout(LIMIT_S)
            there.sendall(as_bytes(text))
        console.wait_until_ended(Deadline(LIMIT_S))
        assert console.position == len(text)
        assert not console.says("never said before", Deadline(0))
        assert console.tail().count("\n") < 30
        assert len(console.panic_title() or "") <= 500


def read_merged(text: str) -> None:
    """The numbers in a text are frames, by both paths in turn; one that ends in 7 is a silence."""
    merger = Merger("ssh", "port")
    given_out: list[int] = []
    for at, digits in enumerate(re.findall("[0-9]{1,20}", text)):
        frame = Frame(int(digits), 0, "slab", What.SAME, 0, 0, digits)
        path = "ssh" if int(digits) % 3 else "port"
        frames = merger.silence() if at % 10 == 7 else merger.take(path, frame)
        given_out += [it.seq for _, it in frames]
        assert merger.waiting <= MAX_WAITING_FRAMES
    assert given_out == sorted(set(given_out))


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parser:
    """One parser and what it is given."""

    # What it is called in splvm.
    name: str
    call: Callable[[str], object]
    # The only thing that it may raise; None: nothing.
    raises: type[EvidenceError] | None
    # Texts that are damaged.
    seeds: Callable[[], Sequence[str]]
    # Repeated, these make a megabyte, in one line and in many.
    pieces: tuple[str, ...]


# A thread of a role, and one that waits for somebody of that role.
_ZIO = "task:z_wr_iss state:S stack:0 pid:9@\ntask:x state:D stack:0 pid:@\nCall Trace:\n zio_wait+0x1/0x2\n"
_SAME = (
    '{"kind":"frame","path":"ssh","seq":@,"source":"probe","what":"same",'
    '"start_ns":5000000000,"end_ns":5000000001,"text":""}'
)


def logs() -> tuple[str, ...]:
    return recorded("kernlog/*.log") + archived("console.log") + dumps()


def dumps() -> tuple[str, ...]:
    return recorded("sysrq/*.log") + recorded("recorded/*.log.xz") + archived(SYSRQ_FILE)


def registers() -> tuple[str, ...]:
    return (REGISTERS, *archived(REGISTERS_FILE))


def slab_files() -> tuple[str, ...]:
    return recorded("slab-*.txt") + payloads("slab")


def field() -> tuple[str, ...]:
    """The texts of the corpus of pastes."""
    tables = [tomllib.loads((DATA / "field" / f"{name}.toml").read_text()) for name in ("logs", "files")]
    return tuple(str(row["text"]) for table in tables for row in table["case"])


def shipped() -> tuple[str, ...]:
    """A text of that corpus as mailers and programs that keep logs write it."""
    lines = field()[0].strip("\n").split("\n")
    return tuple(form(lines) for form in {**PLAIN, **KERNEL, **RARE}.values())


TRACEFILES = ["TN:a\nSF:a.c\nFN:1,b\nFNDA:1,b\nFNF:1\nFNH:1\nDA:1,1\nDA:2,0\nLF:2\nLH:1\nend_of_record\n"]

PARSERS: tuple[Parser, ...] = (
    Parser(
        "explain", read_paste, None, field, ("INFO: task a:@ blocked for more than 120 seconds.\n", "[<0>] f+0x1/0x2\n")
    ),
    Parser("parse_slabs", read_slabs, EvidenceError, slab_files, ("--- ", "name flags ", "x 0x1 ", "- 0x1 ")),
    Parser("redact", read_redacted, None, field, ("10.0.0.@ ", "/srv/a/b ", "a:b:c:", "Pool 'a@' ")),
    Parser(
        "RecordReader",
        read_shipped,
        None,
        shipped,
        ('{"msg":"INFO: task a:@"}', '"MESSAGE" : [', "1,", "MESSAGE=a", 'msg="a" b=@ ', '{"_source":'),
    ),
    Parser(
        "Cleaner",
        read_cleaned,
        None,
        shipped,
        (
            "Content-Transfer-Encoding: base64\n\n",
            "{\\rtf1 \\par\\'4",
            "QUJD",
            "=\n",
            "[ @.123456] a+0x1/0x2 ",
            "%0A",
            "<p>&nbsp;",
            "\x1b]",
        ),
    ),
    Parser(
        "Steps",
        read_steps,
        None,
        field,
        (
            "  mutex_lock(&a->b_lock); <- Waiting on A@\n",
            "zfs_a   zfs_b\n",
            "-- A@ -- ((a)(b",
            "=> cv_wait\n",
            "a_lock->",
        ),
    ),
    Parser("FrameReader", read_frames, EvidenceError, streams, ("F @ 1 slab same 1 1 0\n", "F ", "F 1 1 slab ")),
    Parser("Merger", read_merged, None, streams, ("@ ", "18446744073709551615 @ ")),
    Parser("parse_slab", read_slab, EvidenceError, slab_files, ("--- ", "name flags ", "x $ ", "- 0x1 ")),
    Parser(
        "parse_records",
        lambda text: parse_records(text, "slabprobe", 1),
        EvidenceError,
        lambda: payloads("probe") + recorded("gfpprobe/*.txt"),
        ("slabprobe 1\n", "thread 0 a=@ ", "mark @ 1 a"),
    ),
    Parser(
        "parse_gfpprobe",
        parse_gfpprobe,
        EvidenceError,
        lambda: recorded("gfpprobe/*.txt"),
        ("trial @ ", "alloc 0 pte gfp=@ ", "level "),
    ),
    Parser("parse_probe", parse_probe, EvidenceError, lambda: payloads("probe"), ("thread @ ", "mark @ 1 a", "a=1 ")),
    Parser(
        "parse_sites", parse_sites, EvidenceError, lambda: payloads("sites"), ("site @ ", "chain=a<b+0x1/0x2", "end\n")
    ),
    Parser("parse_lcov", parse_lcov, EvidenceError, lambda: TRACEFILES, ("DA:@,1", "FN:1,a", "FNDA:@,b", "SF:", "TN:")),
    Parser("parse_load", parse_load, EvidenceError, lambda: payloads("load"), ("load @ ", "worker @ 0 ", "a=1 ")),
    Parser("parse_txgs", parse_txgs, EvidenceError, lambda: payloads("txgs"), ("9 @ C 0 0 0 0 0 0 0 0 0", TXG_HEADING)),
    Parser("parse_tasks", read_tasks, EvidenceError, lambda: payloads("tasks"), ("task pid=@ ", "[<0>] a.", "stack ")),
    Parser(
        "scan_kernel_log", read_log, None, logs, ("[ 1.00000", "\x1b]", "WARNING: at ", "VERIFY(", "a: 0 [#1 ", "\r")
    ),
    Parser(
        "parse_sysrq", read_sysrq, None, logs, ("sysrq: Show State", "task:a  state:D ", "a  D 0 1 ", " 0x00000000")
    ),
    Parser("parse_registers", read_registers, None, registers, ("CPU#@", "RIP=1 RFL=1 ", "\x85")),
    Parser("build_graph", read_graph, None, dumps, (_ZIO,)),
    Parser("find_waiting", waiting_by_sysrq, None, logs, ("sysrq: Show Blocked State",)),
    Parser("Timeline", read_timeline, None, run_texts, (_SAME,)),
    Parser("judge", judge_records, None, run_texts, (_SAME,)),
    Parser("judge", judge_console, None, logs, ("Kernel panic - not syncing: ", "RIP: 0010:a")),
    Parser("parse_rule", read_rule, EvidenceError, rules, ("[", '["stuck"],', '{"good":')),
    Parser("summarize", summarize_records, None, run_texts, (_SAME,)),
    Parser("parse_report", read_report, EvidenceError, lambda: REPORTS, ("[", '{"a":')),
    Parser("read_evidence", read_directory, EvidenceError, directories, ("{", f"{_FILE}")),
    Parser("Console", read_console, None, logs, ("Kernel panic - not syncing", "---[ end ")),
)
BY_PARSER = pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: f"{parser.name}-{parser.call.__name__}")


def parse(parser: Parser, text: str) -> None:
    """Whatever the parser raises besides what it may is an error of the test."""
    try:
        parser.call(text)
    except EvidenceError:
        if parser.raises is None:
            raise


# --- damage -----------------------------------------------------------------------------------------------------------

# What stands where a number did.
NUMBERS = (
    *("0", "-1", "-0", "00", "1e999", "NaN", "0x", "0xffffffffffffffff", "", "null", "true", "[]", "{}", '""', "1.5"),
    *(str(2**31), str(2**32), str(2**63), str(2**64 - 1), str(2**64), "9" * 20, "9" * 25, "9" * 400, "9" * 5000),
    *("\u0661\u0662", "\u00b2", "\u0967", "\uff11", "\U0001d7d8", "1_0", "+1", " 1"),
)
SCRAPS = (
    *("\0", "\x1b[2J", "\x1b]0;x\x07", "\x1b[31m", "\r", "\r\n", "\b", "\x85", "\u2028", "\x0b", "\x1c", "\ufeff"),
    *(
        "\ud800",
        "\udfff",
        "\udcff",
        "\U0010ffff",
        "\u202e",
        "e\u0301",
        "\xa0",
        "[bold]",
        "{x}",
        "%n",
        '"',
        "\\",
        "=",
        ":",
    ),
)

Mutation = Callable[[random.Random, str, str], str]


def _place(rand: random.Random, text: str) -> int:
    return rand.randrange(len(text) + 1)


def cut(rand: random.Random, text: str, other: str) -> str:
    """The end is missing, or the beginning."""
    at = _place(rand, text)
    return text[:at] if rand.random() < 0.7 else text[at:]


def remove(rand: random.Random, text: str, other: str) -> str:
    at = _place(rand, text)
    return text[:at] + text[at + rand.choice((1, 2, 10, 100)) :]


def flip(rand: random.Random, text: str, other: str) -> str:
    """A few bytes have a bit wrong."""
    chars = list(text)
    for _ in range(rand.choice((1, 3, 20)) if chars else 0):
        at = rand.randrange(len(chars))
        chars[at] = chr(ord(chars[at]) ^ 1 << rand.randrange(8))
    return "".join(chars)


def insert(rand: random.Random, text: str, other: str) -> str:
    for _ in range(rand.choice((1, 3, 20))):
        at = _place(rand, text)
        text = text[:at] + rand.choice(SCRAPS) + text[at:]
    return text


def renumber(rand: random.Random, text: str, other: str) -> str:
    """Numbers are others: one of them, a few, or all with the same digits."""
    found = list(re.finditer(r"[0-9]+", text))
    if not found:
        return text
    chosen = rand.sample(found, min(len(found), rand.choice((1, 1, 3, 10))))
    digits = {number[0] for number in chosen} if rand.random() < 0.2 else set()
    places = {number.start() for number in chosen}

    def instead(number: re.Match[str]) -> str:
        return rand.choice(NUMBERS) if number.start() in places or number[0] in digits else number[0]

    return re.sub(r"[0-9]+", instead, text)


def revalue(rand: random.Random, text: str, other: str) -> str:
    """Something after `:` or `=` is another value."""
    found = list(re.finditer(r"[:=]\s?(\"[^\"\n]{0,80}\"|[^\s,\"]{1,40})", text))
    if not found:
        return text
    value = rand.choice(found)
    return text[: value.start(1)] + rand.choice(NUMBERS) + text[value.end(1) :]


def duplicate_line(rand: random.Random, text: str, other: str) -> str:
    lines = text.split("\n")
    at = rand.randrange(len(lines))
    return "\n".join([*lines[:at], *[lines[at]] * rand.choice((2, 3, 50)), *lines[at + 1 :]])


def swap_lines(rand: random.Random, text: str, other: str) -> str:
    lines = text.split("\n")
    a, b = rand.randrange(len(lines)), rand.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]
    return "\n".join(lines)


def remove_line(rand: random.Random, text: str, other: str) -> str:
    lines = text.split("\n")
    del lines[rand.randrange(len(lines))]
    return "\n".join(lines)


def lengthen(rand: random.Random, text: str, other: str) -> str:
    """A line that is very long."""
    at = _place(rand, text)
    piece = rand.choice((*SCRAPS, " ", "0", "a", "[", "- ", text[at : at + 5]))
    return text[:at] + piece * rand.choice((300, 5000)) + text[at:]


def end_lines(rand: random.Random, text: str, other: str) -> str:
    """Line ends of several kinds."""
    return re.sub("\n", lambda _: rand.choice(("\n", "\r\n", "\r", "\n\r", "\n\n")), text)


def splice(rand: random.Random, text: str, other: str) -> str:
    """The beginning of one text and the end of another."""
    return text[: _place(rand, text)] + other[_place(rand, other) :]


MUTATIONS: tuple[Mutation, ...] = (
    *(cut, remove, flip, insert, renumber, renumber, revalue, revalue),
    *(duplicate_line, swap_lines, remove_line, lengthen, end_lines, splice),
)

# A number of the seed, another one, and what is done to it, with where that comes from.
DAMAGE = st.tuples(
    st.integers(0, 1000),
    st.integers(0, 1000),
    st.lists(st.tuples(st.sampled_from(MUTATIONS), st.integers(0, 2**32)), max_size=4),
)


def damage(seeds: Sequence[str], one: int, another: int, steps: Sequence[tuple[Mutation, int]]) -> str:
    text, other = seeds[one % len(seeds)], seeds[another % len(seeds)]
    for mutate, seed in steps:
        text = mutate(random.Random(seed), text, other)[:LARGE]
    return text


# --- tests ------------------------------------------------------------------------------------------------------------


@BY_PARSER
def test_damaged_texts(parser: Parser) -> None:
    @FUZZ
    @given(DAMAGE)
    def run(drawn: tuple[int, int, list[tuple[Mutation, int]]]) -> None:
        parse(parser, damage(parser.seeds(), *drawn))

    run()


@BY_PARSER
def test_any_text(parser: Parser) -> None:
    @FUZZ
    @given(st.text(st.characters(), max_size=200))
    def run(text: str) -> None:
        parse(parser, text)

    run()


@BY_PARSER
@pytest.mark.parametrize("size", [LARGE // 16, pytest.param(LARGE, marks=pytest.mark.splvm_slow)])
def test_a_large_text(parser: Parser, size: int) -> None:
    """Not timed: work that grows faster than the text would not end."""
    start = parser.seeds()[0]
    frames = start.count('"kind": "frame"')
    for piece in parser.pieces:
        for end in ("", "\n"):
            count = size // (len(piece) + 1)
            parse(parser, start + "".join(piece.replace("@", str(frames + at)) + end for at in range(count)))


# What stands where a value of run.json did.
VALUES: tuple[Any, ...] = (None, True, -1, 1.5, 10**30, "x", "\ud800\x1b[2J", [], ["x"], {}, {"name": []})


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Ways to every value within a value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield (*path, key)
        yield from _places(item, (*path, key))


def test_any_value_in_run_json() -> None:
    """A record that is damaged is told to be so, and shown, or refused."""
    before, mark, rest = directories()[0].partition(f"{_FILE}run.json\n")
    facts, _, after = rest.partition(_FILE)
    parser = next(parser for parser in PARSERS if parser.name == "read_evidence")
    for place in _places(json.loads(facts)):
        for value in VALUES:
            changed = inside = json.loads(facts)
            for key in place[:-1]:
                inside = inside[key]
            inside[place[-1]] = value
            parse(parser, before + mark + json.dumps(changed) + "\n" + _FILE + after)


@pytest.mark.parametrize("mutate", sorted(set(MUTATIONS), key=lambda mutate: getattr(mutate, "__name__", "")))
def test_every_mutation_damages(mutate: Mutation) -> None:
    for text in ("", "a\n", payloads("probe")[0]):
        damaged = {mutate(random.Random(seed), text, "other\n") for seed in range(20)}
        assert len(text) < 3 or damaged - {text}


# --- what was found ---------------------------------------------------------------------------------------------------


def test_readings_at_the_same_moment_are_no_rate() -> None:
    at = {"start_ns": BASE_NS + 1_500_000_000, "end_ns": BASE_NS + 1_500_000_000}
    records = simulate(HELD).records
    verdict = judged(Timeline.from_records(it | at if it.get("source") == "probe" else it for it in records))
    assert "objects_per_s" not in verdict.figures
    _summarize(verdict, facts_of(HELD))


def test_phases_out_of_order_are_no_progress() -> None:
    text = re.sub(r"mark (\d+) \d+ hold", rf"mark \1 {BASE_NS + 9_000_000_000} hold", run_texts()[0])
    verdict = judged(Timeline.from_records(read_records(text)))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "order" in verdict.reasons[0].text


def test_deep_records_are_a_loss() -> None:
    deep: list[Any] = []
    for _ in range(sys.getrecursionlimit() * 200):
        deep = [deep]
    record = {"kind": "frame", "seq": 0, "source": "slab", "what": "data", "text": deep}
    assert "record 1 cannot be read" in Timeline.from_records([record]).losses[0]


def test_many_threads_in_many_readings_are_judged_in_time() -> None:
    """Not timed: a look at each thread for each of them in each reading would not end."""
    records = simulate(HELD).records
    last = max(at for at, it in enumerate(records) if (it.get("source"), it.get("what")) == ("probe", "data"))
    line = re.search("\nthread 1 .*", records[last]["text"])
    assert line
    more = "".join(line[0].replace("thread 1", f"thread {index}", 1) for index in range(2, 700))
    many = records[last] | {"text": records[last]["text"].replace(line[0], line[0] + more)}
    in_window = {"start_ns": BASE_NS + 3_700_000_000, "end_ns": BASE_NS + 3_700_000_001, "what": "same", "text": ""}
    again = [many | in_window | {"seq": many["seq"] + at} for at in range(1, 300)]
    verdict = judged(Timeline.from_records([*records[:last], many, *again]))
    assert any("critical thread 699" in reason.text for reason in verdict.reasons)


def test_a_second_path_cannot_fill_the_memory() -> None:
    merger = Merger("ssh", "port")
    for seq in range(MAX_WAITING_FRAMES + 5):
        list(merger.take("port", Frame(seq, 0, "slab", What.SAME, 0, 0, "")))
    assert merger.waiting == 4


# --- the table is whole -----------------------------------------------------------------------------------------------

# Functions that take what a guest said begin like this.
PREFIXES = ("parse_", "scan_", "find_", "build_graph", "judge")
# Classes that do, and what stands outside of splvm.evidence.
OTHERS = {"FrameReader", "Merger", "Timeline", "Console", "read_evidence", "parse_report", "summarize"}


def parsers_of(module: ModuleType) -> set[str]:
    """Its public functions that take texts of a guest."""
    functions = inspect.getmembers(module, inspect.isfunction)
    return {name for name, it in functions if name.startswith(PREFIXES) and it.__module__ == module.__name__}


# What reads text that somebody pasted: splvm.paste.
PASTES = {"explain", "parse_slabs", "redact", "RecordReader", "Cleaner", "Steps"}


def test_every_parser_has_a_row() -> None:
    names = [module.name for module in pkgutil.walk_packages(splvm.evidence.__path__, "splvm.evidence.")]
    assert len(names) > 10
    found = set[str]().union(*(parsers_of(import_module(name)) for name in names))
    assert found | OTHERS | PASTES == {parser.name for parser in PARSERS}


def test_a_parser_without_a_row_is_found() -> None:
    module = ModuleType("new")
    exec("def parse_new(text): pass\ndef other(text): pass", vars(module))
    vars(module)["parse_imported"] = parse_slab
    assert parsers_of(module) == {"parse_new"}
