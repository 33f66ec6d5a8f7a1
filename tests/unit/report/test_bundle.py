"""`splvm bundle`: what is packed, what a maintainer finds in it, and that hostile text stays text."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from typer.testing import CliRunner

from judge_rows import ROWS
from places import PROJECT
from simulated import Run, simulate
from simulated_faults import FAULTS
from simulated_guest import GOOD, Knobs, Span
from simulated_kinds import HELD, HOTPLUG, KINDS, MEMORY, NOMINAL, STORM, TASKQS
from simulated_texts import worker_text
from splvm import cli
from splvm.cli import app
from splvm.errors import EvidenceError, UsageError
from splvm.evidence.formats.slab import parse_slab
from splvm.evidence.formats.stacks import Task
from splvm.evidence.loads import LOADS
from splvm.evidence.timeline import Evidence, Sample, Timeline
from splvm.evidence.verdict import Outcome, Reason, Verdict
from splvm.record.names import EVIDENCE_FILES
from splvm.record.reader import read_evidence
from splvm.record.writer import RunDirectory
from splvm.report import issue as issue_module
from splvm.report.again import reproducer
from splvm.report.bundle import Bundle, extract_files, whole_records, write_bundle
from splvm.report.comment import run_comment
from splvm.report.issue import MAX_ISSUE_BYTES, Contents, issue_text
from splvm.report.looks import LOOKS
from splvm.report.markdown import MAX_LINE_CHARS, clean, code, fenced, items
from splvm.run.loads import POOL_SETUP, pool_facts
from splvm.scenarios.judged import judge_evidence as judge
from unpacking import unpack

SETTINGS = settings(deadline=None, derandomize=True, max_examples=60)

DATA = PROJECT / "tests" / "data"

# A run for each verdict: one in which nothing is wrong, or the first that has its fault.
NO_THREADS = (TASKQS, STORM, MEMORY, HOTPLUG)
VERDICTS: Mapping[Outcome, tuple[str, str]] = {
    # Where slabprobe's threads ask SPL for nothing, the reasons say it all.
    **{row.outcome: (row.scenarios[0], row.fault) for row in reversed(ROWS) if row.scenarios[0] not in NO_THREADS},
    # The first one never came to its window.
    Outcome.INCONCLUSIVE: (HELD, "frames lost"),
    **{kind.best: (name, "") for name, kind in reversed([*KINDS.items()])},
}

HEADINGS = (
    "System information",
    "Describe the problem you're observing",
    "Describe how to reproduce the problem",
    "Include any warning/errors/backtraces from the system logs",
)

MADE = {
    *("slab-before.txt", "slab-during.txt", "slab-after.txt", "probe-before.txt", "probe-during.txt"),
    *("probe-after.txt", "meminfo.txt", "vmstat.txt", "pressure.txt", "stacks.txt", "dmesg.txt", "verdict.json"),
    "issue.md",
}

SYSRQ = """\
[    8.282846] sysrq: Show State
[    8.283286] task:spl_kmem_cache  state:D stack:0     pid:114   ppid:2      flags:0x00004000
[    8.284441] Call Trace:
[    8.285762]  <TASK>
[    8.286470]  __schedule+0x34d/0xa00
[    8.286470]  schedule+0x5a/0xd0
[    8.286470]  slabprobe_grow_work+0xfa/0x140 [slabprobe]
[    8.286470]  taskq_thread+0x2e0/0x510 [spl]
[    8.286470]  </TASK>
[    8.286470] task:slabprobe/0     state:D stack:0     pid:128   ppid:2      flags:0x00004000
[    8.286470] Call Trace:
[    8.286470]  <TASK>
[    8.286470]  __schedule+0x34d/0xa00
[    8.286470]  spl_kmem_cache_alloc+0x509/0x560 [spl]
[    8.286470]  critical_thread+0x74/0x340 [slabprobe]
[    8.286470]  </TASK>
[    8.300000] Showing busy workqueues and worker pools:
[    8.300001] sysrq: HELP : loglevel(0-9)
"""


def record_run(path: Path, run: Run, more: Mapping[str, Any] | None = None, sysrq: str = "") -> Path:
    """A run in its directory, as the harness leaves it."""
    record = run.start_record(path, more)
    if sysrq:
        (path / "sysrq.txt").write_text(sysrq)
        # The console has the kernel's list too.
        with (path / "console.log").open("a") as console:
            console.write(sysrq)
    outcome = run.facts["outcome"]
    size = (path / "console.log").stat().st_size
    record.finish(outcome | {"console_bytes": size} if sysrq else outcome)
    record.write_verdict(judge(read_evidence(path)))
    return path


def pack(directory: Path, out: Path | None = None, **options: Any) -> Bundle:
    return write_bundle(directory, read_evidence(directory), out, **options)


def members(bundle: Bundle) -> dict[str, bytes]:
    """What is in the archive, by name below the run's."""
    found = {}
    with tarfile.open(bundle.archive) as archive:
        for info in archive:
            file = archive.extractfile(info)
            assert file is not None
            found[info.name.partition("/")[2]] = file.read()
    return found


def beside(directory: Path) -> set[str]:
    return {path.name for path in directory.parent.iterdir()} - {directory.name}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that stalled; not to be changed."""
    started = {"started": "2026-11-24T14:57:01+00:00", "spl_parameters": {"spl_kmem_cache_slab_limit": "16384"}}
    run = simulate(HELD, FAULTS["no fallback"])
    return record_run(tmp_path_factory.mktemp("recorded") / "run", run, started, SYSRQ)


@pytest.fixture
def directory(recorded: Path, tmp_path: Path) -> Path:
    """The same, to do harm to."""
    return shutil.copytree(recorded, tmp_path / "run")


# What the text says, read as GitHub would


def parse(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(text)


def headings(tokens: list[Token]) -> tuple[str, ...]:
    return tuple(tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "heading_open")


def prose(tokens: list[Token]) -> str:
    """What is live: text in no code span, no block of code and no <code>."""
    words = []
    for token in tokens:
        inside = False
        for child in token.children or ():
            if child.type == "html_inline":
                assert child.content in ("<code>", "</code>"), child
                assert inside == (child.content == "</code>")
                inside = not inside
            elif child.type == "text" and not inside:
                words.append(child.content)
        assert not inside
    return "\n".join(words)


def check_text(text: str) -> list[Token]:
    """Everything that holds of the text of an issue, whatever the run was."""
    assert len(text.encode()) <= MAX_ISSUE_BYTES
    assert not [char for char in text if not char.isprintable() and char not in "\n\t"]
    tokens = parse(text)
    assert headings(tokens) == HEADINGS
    assert not [token.type for token in tokens if token.type == "hr"]
    html = [line for token in tokens if token.type == "html_block" for line in token.content.splitlines() if line]
    for line in html:
        assert re.fullmatch(r"<details><summary>[\w ]+\(\d+\)</summary>|</details>", line), line
    assert sum(line.startswith("<details>") for line in html) == html.count("</details>")
    inline = [child for token in tokens for child in token.children or ()]
    assert {child.type for child in inline} <= {
        *("text", "code_inline", "softbreak", "html_inline", "strong_open", "strong_close")
    }
    assert not re.search(r"@\w|#\d|https?:|www\.|\bGH-\d|[0-9a-f]{40}", prose(tokens))
    # Each block is the last one that its own fence begins.
    fences = [token for token in tokens if token.type == "fence"]
    for token in fences:
        assert len(token.markup) > max(map(len, re.findall("`+", token.content)), default=0)
        assert all(len(line) <= MAX_LINE_CHARS or token.info == "sh" for line in token.content.split("\n"))
    assert [token.info for token in fences].count("sh") == 1
    cells = [0]
    for token in tokens:
        cells[-1] += token.type in ("td_open", "th_open")
        if token.type == "tr_close":
            cells.append(0)
    assert set(cells) <= {0, 2, 10}
    # Those of the form, with their head.
    assert cells.count(2) == 6
    assert (10 in cells) == (re.search(r"^The cache `slabprobe` in .* after:$", text, re.M) is not None)
    return tokens


def contents(**left_out: str) -> Contents:
    return Contents("run", {"run.json": 1}, left_out)


def text_of(evidence: Evidence, **options: Any) -> str:
    verdict = judge(evidence)
    made = extract_files(evidence, (), verdict, verdict.wait_for)
    return issue_text(evidence, verdict, verdict.wait_for, made, contents(), **options)


# Every verdict


@pytest.mark.parametrize("outcome", Outcome)
def test_every_verdict(tmp_path: Path, outcome: Outcome) -> None:
    scenario, fault = VERDICTS[outcome]
    path = record_run(tmp_path / "run", simulate(scenario, FAULTS[fault] if fault else GOOD))
    bundle = pack(path)
    found = members(bundle)
    text = bundle.issue.read_text()
    check_text(text)
    assert text.startswith("### System information")
    assert found["issue.md"].decode() == text
    verdict = judge(read_evidence(path))
    assert verdict.outcome is outcome
    assert json.loads(found["verdict.json"]) == json.loads(json.dumps(verdict.to_json()))
    assert f"the verdict is **{outcome.value}**. {LOOKS[outcome].meaning}" in text
    for reason in verdict.reasons:
        assert code(reason.text, 900) in text
    if outcome is not Outcome.LOST:
        assert set(found) >= MADE
        for when, row in verdict.figures["slab"].items():
            packed = parse_slab(found[f"slab-{when}.txt"].decode()).cache("slabprobe")
            assert packed is not None
            assert packed.to_json() == {name: value for name, value in row.items() if name != "states"}
            assert re.search(rf"^{when} \| [\d.]+ \| \d+ \| {row['flags']:#07x} \| ", text, re.M)
    for name in (*EVIDENCE_FILES, "run.json"):
        assert found[name] == (path / name).read_bytes()


@pytest.mark.parametrize(
    "packed", sorted((DATA / "runs").glob("*.tar.xz")), ids=lambda path: path.name.partition(".")[0]
)
def test_recorded_runs(packed: Path, tmp_path: Path) -> None:
    with tarfile.open(packed) as archive:
        unpack(archive, tmp_path)
    (path,) = tmp_path.iterdir()
    bundle = pack(path)
    text = bundle.issue.read_text()
    check_text(text)
    verdict = judge(read_evidence(path))
    assert f"the verdict is **{verdict.outcome.value}**" in text
    found = members(bundle)
    for name, content in found.items():
        if not (path / name).exists() and name not in ("issue.md", "wait-for.json"):
            assert clean(content.decode()) == content.decode()
            assert content
    # Whoever is named as one that waits is there with a stack.
    stacks = text.partition("Stacks of threads")[2].partition("<details>")[0]
    for wait in verdict.wait_for.get("waits", ()):
        assert re.search(rf"pid:? *{wait['pid']} ", stacks), wait


def test_there_is_a_row_for_every_verdict() -> None:
    assert set(VERDICTS) == set(Outcome) == set(LOOKS)


def test_what_a_maintainer_asks_for(recorded: Path, tmp_path: Path) -> None:
    bundle = pack(recorded, tmp_path / "x.tar.gz")
    text = bundle.issue.read_text()
    for words in (
        "OpenZFS Version | `2.1.11-1+deb12u1`, variant `stock`",
        "Kernel Version | `6.1.0-56-cloud-amd64`",
        "Distribution Name | `Debian`",
        "Distribution Version | `12`",
        "spl_kmem_cache_slab_limit=16384",
        "`512` MiB",
        "accelerator `tcg` (`/dev/kvm is not there`)",
        "splvm run held-worker --kernel debian-12 --variant stock --accel tcg --memory 512 --window 3.0 --rate 20 "
        "--threads 2 --objects 32 --size 65536\n",
        "(by `sysrq-t`; the list has 2 tasks and is complete), the chain:\n\n> `slabprobe/0 (pid 128) waits in",
        "task:slabprobe/0     state:D",
        "spl_kmem_cache_alloc+0x509/0x560 [spl]",
        "The kernel reported nothing.",
        "`sysrq.txt`: ",
        "held the slab worker `spl_kmem_cache` (pid 114) on purpose",
    ):
        assert words in text, words
    # The chain comes first, and what SysRq printed after the last task is no part of a stack.
    assert text.index("task:slabprobe/0") < text.index("task:spl_kmem_cache")
    assert "HELP" not in text.partition("Stacks of threads")[2]
    found = members(bundle)
    assert json.loads(found["wait-for.json"])["sentence"] in text
    assert found["sysrq.txt"].decode() == SYSRQ


@pytest.mark.parametrize("by_sysrq", [False, True])
def test_stacks_that_are_too_many(by_sysrq: bool) -> None:
    evidence = simulate(HELD, FAULTS["no fallback"]).evidence()
    many = [(pid, f"t{pid}", "D") for pid in range(1000, 1090)]
    head, *stack = SYSRQ.splitlines(keepends=True)[:9]
    one = "".join(stack)
    sysrq = head + "".join(one.replace("pid:114 ", f"pid:{pid} ") for pid, _, _ in many)
    frames = tuple(f"[<0>] function_{at}+0x1/0x2" for at in range(30))
    tasks = tuple(Task(*it, 1, 0, False, ("spl_kmem_cache_alloc",), frames, None) for it in many)
    timeline = replace(evidence.timeline, tasks=(Sample(0, 0, 1, "ssh", tasks),))
    sysrq = sysrq if by_sysrq else ""
    text = text_of(replace(evidence, timeline=timeline, sysrq=sysrq, console=evidence.console + sysrq))
    where = "sysrq.txt" if by_sysrq else "stacks.txt"
    stacks = text.partition("Stacks of threads")[2].partition("<details>")[0]
    assert re.search(rf"Cut after \d+ of \d+ lines; the rest is in `{where}`\.\n\n$", stacks)


def test_stacks_by_the_agent_where_there_is_no_sysrq(tmp_path: Path) -> None:
    text = pack(record_run(tmp_path / "run", simulate(HELD, FAULTS["no fallback"]))).issue.read_text()
    assert "by the agent in the guest:" in text
    assert "slabprobe/0 pid 128 state D\n[<0>] spl_kmem_cache_alloc+0x550/0x5c0 [spl]" in text


def test_what_the_kernel_reported(tmp_path: Path) -> None:
    noise = "[    9.100000] WARNING: timekeeping: Cycle offset (1) is larger than allowed by x\n"
    run = simulate(HELD, Knobs(console=noise) | FAULTS["oops"])
    path = record_run(tmp_path / "run", run)
    text = pack(path).issue.read_text()
    reported, _, rest = text.partition("What the kernel reported:")[2].partition("Known to be harmless:")
    assert re.search(
        r"^- oops: `BUG: kernel NULL pointer .*` \(line 6, 9\.017 s; fingerprint `[0-9a-f]{12}`\)", reported, re.M
    )
    assert "timekeeping" not in reported
    assert re.match(r"\n\n- warning: `WARNING: timekeeping: ", rest)
    assert "[    9.019380] Oops: 0000 [#1] PREEMPT SMP PTI" in rest


def test_a_change_on_purpose_is_said_first(recorded: Path) -> None:
    evidence = read_evidence(recorded)
    facts = {**evidence.facts, "spl": {**evidence.facts["spl"], "variant": "no-emergency"}}
    text = text_of(replace(evidence, facts=facts), variant_summary="callers wait")
    assert text.startswith("> **This SPL was changed on purpose:** it is the variant `no-emergency` (callers wait)")
    assert "changed on purpose" not in text_of(evidence)


# Extraction


def test_a_text_that_did_not_change_is_that_of_the_last_data(tmp_path: Path) -> None:
    run = simulate(HELD, FAULTS["no fallback"])
    found = members(pack(record_run(tmp_path / "run", run)))
    last = [r for r in run.records if r.get("source") == "slab"]
    assert last[-1]["what"] == "same"
    texts = [r["text"] for r in last if r["what"] == "data"]
    assert found["slab-after.txt"].decode() == texts[-1]
    window = run.evidence().timeline.marks
    at_rest = [r["text"] for r in last if r["what"] == "data" and r["end_ns"] <= window["audit-end"]]
    before = [r["text"] for r in last if r["what"] == "data" and r["end_ns"] <= window["hold"]]
    assert (found["slab-before.txt"].decode(), found["slab-during.txt"].decode()) == (before[-1], at_rest[-1])
    in_window = [
        r["text"]
        for r in run.records
        if r.get("source") == "meminfo" and window["window"] <= r["start_ns"] and r["end_ns"] <= window["window-end"]
    ]
    assert found["meminfo.txt"].decode() == in_window[-1]
    assert "arcstats.txt" not in found


def frame(seq: int, what: str, text: str = "", source: str = "arcstats") -> dict[str, Any]:
    times = {"start_ns": 10 * seq, "end_ns": 10 * seq + 5}
    return {"kind": "frame", "path": "ssh", "seq": seq, "source": source, "what": what, "text": text, **times}


def extract(*records: dict[str, Any]) -> dict[str, bytes]:
    return extract_files(Evidence({}, Timeline(), ""), records, None, {})


def test_arcstats_if_they_are_there() -> None:
    assert extract(frame(0, "data", "size 4 1\n"), frame(1, "same")) == {"arcstats.txt": b"size 4 1\n"}
    assert extract(frame(0, "blocked"), frame(1, "error", "errno=2"), frame(2, "same")) == {}


def test_the_last_text_of_the_window() -> None:
    marks = _timeline().marks
    times = {"before": marks["hold"], "during": marks["window"], "after": marks["window-end"]}

    def last(*readings: tuple[int, str, str, str]) -> bytes:
        records = []
        for seq, when, what, text in readings:
            start_ns = times[when] + 1000 * seq
            records.append({**frame(seq, what, text), "start_ns": start_ns, "end_ns": start_ns + 1})
        return extract_files(Evidence({}, _timeline(), ""), records, None, {})["arcstats.txt"]

    a, c = (0, "before", "data", "a"), (3, "after", "data", "c")
    assert last(a, (1, "during", "data", "b"), (2, "during", "same", ""), c) == b"b"
    # A text that did not change is a reading as well.
    assert last(a, (1, "during", "same", ""), (2, "after", "same", ""), c) == b"a"
    # What it is the same as may be among the frames that are missing: then nothing is known of the window.
    assert last(a, (2, "during", "same", ""), c) == b"c"
    assert last(a, (1, "before", "same", "")) == b"a"


def test_what_no_parser_reads_is_given_all_the_same() -> None:
    assert extract(frame(0, "data", "Segmentation fault\n", "slab"))["slab-after.txt"] == b"Segmentation fault\n"


def test_no_name_is_a_guests() -> None:
    sources = ("../x", "/etc/passwd", "slab-during.txt", "x\ny", "ctl", "agent")
    assert extract(*(frame(seq, "data", "x", source) for seq, source in enumerate(sources))) == {}


@pytest.mark.parametrize("line", [b"", b"[]", b"7", b"{", b"\xff", b"[" * 100_000, b'{"kind": "frame"}', b"null"])
def test_lines_that_are_no_records_are_left_out(line: bytes) -> None:
    good = json.dumps(frame(0, "data", "x")).encode()
    records = whole_records(b"\n".join((line, good, line)))
    assert frame(0, "data", "x") in records
    assert extract(*records) == {"arcstats.txt": b"x"}


def test_the_kernels_log_without_control_characters(tmp_path: Path) -> None:
    run = simulate(HELD)
    lines = [
        "\x1b[2J\x1b[1;31mred\x1b[0m",
        "a\0b\rc\x07",
        "\x1b]0;title",
        "after the title",
        "\u202ereversed",
        "\x9b31mC1",
    ]
    path = record_run(tmp_path / "run", replace(run, console="\n".join(lines) + "\n"))
    found = members(pack(path))
    assert found["dmesg.txt"].decode() == "red\nabc\n\nafter the title\n\ufffdreversed\nC1\n"
    assert found["console.log"].decode() == "\n".join(lines) + "\n"


@SETTINGS
@given(st.text(alphabet=st.sampled_from("\x1b[]0;m\n\r\t\x07\x9bab\u2028\x85")))
def test_clean_text_keeps_its_lines(text: str) -> None:
    assert clean(text).count("\n") == text.count("\n")
    assert clean(clean(text)) == clean(text)


# The archive


def test_the_same_directory_gives_the_same_bytes(recorded: Path, tmp_path: Path) -> None:
    bundles = []
    for name in ("a", "b"):
        path = shutil.copytree(recorded, tmp_path / name / "run", copy_function=shutil.copyfile)
        if name == "b":
            for at, file in enumerate(sorted(path.iterdir(), reverse=True)):
                file.chmod(0o600)
                os.utime(file, (at, at))
        bundles.append(pack(path))
    assert bundles[0].archive.read_bytes() == bundles[1].archive.read_bytes()
    assert bundles[0].issue.read_bytes() == bundles[1].issue.read_bytes()
    assert bundles[0].size_bytes == bundles[0].archive.stat().st_size


def test_a_bundle_that_is_unpacked_gives_the_same_again(recorded: Path, tmp_path: Path) -> None:
    bundle = pack(recorded, tmp_path / "first.tar.gz")
    with tarfile.open(bundle.archive) as archive:
        unpack(archive, tmp_path)
    assert pack(tmp_path / "run").archive.read_bytes() == bundle.archive.read_bytes()


def test_members(recorded: Path, tmp_path: Path) -> None:
    path = pack(recorded, tmp_path / "x.tar.gz").archive
    # gzip has a time and a name of its own (RFC 1952).
    assert path.read_bytes()[3:8] == bytes(5)
    with tarfile.open(path) as archive:
        infos = archive.getmembers()
    assert [info.name for info in infos] == sorted(info.name for info in infos)
    for info in infos:
        assert info.isreg()
        assert info.name.startswith("run/")
        assert (info.uid, info.gid, info.uname, info.gname, info.mode) == (0, 0, "", "", 0o644)
    # Run's start, and what it took.
    assert len({info.mtime for info in infos}) == 1
    start = 1_795_532_221
    assert start <= infos[0].mtime < start + 60


@pytest.mark.parametrize("started", ["", "soon", "1960-01-01T00:00:00+00:00", "9999-12-31T23:59:59+00:00"])
def test_a_run_of_which_nobody_knows_when_it_was(tmp_path: Path, started: str) -> None:
    path = record_run(tmp_path / "run", simulate(NOMINAL), {"started": started})
    with tarfile.open(pack(path).archive) as archive:
        assert {info.mtime for info in archive} == {0}


def test_the_verdict_is_made_anew(directory: Path) -> None:
    (directory / "verdict.json").write_text('{"verdict": "PROGRESS"}')
    assert json.loads(members(pack(directory))["verdict.json"])["verdict"] == "STALLED"


def test_directories_below_it(directory: Path) -> None:
    (directory / "more").mkdir()
    (directory / "more" / "notes.txt").write_text("seen twice")
    assert members(pack(directory))["more/notes.txt"] == b"seen twice"


def test_the_dump_is_packed_when_it_is_asked_for(directory: Path) -> None:
    facts = json.loads((directory / "run.json").read_text())
    (directory / "memory.kdump").write_bytes(b"KDUMP   ")
    without = pack(directory)
    assert "memory.kdump" not in members(without)
    assert re.search(r"^Left out of the archive:\n\n- `memory\.kdump`: .*--with-dump", without.issue.read_text(), re.M)
    with_it = pack(directory, force=True, with_dump=True)
    assert members(with_it)["memory.kdump"] == b"KDUMP   "
    assert "Left out" not in with_it.issue.read_text()
    assert "memory.kdump" not in facts["evidence"]


# Whose files


def test_nothing_from_elsewhere_is_packed(directory: Path, tmp_path: Path) -> None:
    secret = tmp_path / "elsewhere" / "secret"
    secret.parent.mkdir()
    secret.write_text("a-secret-of-this-host\n")
    for name in ("console.log", "sysrq.txt", "verdict.json"):
        (directory / name).unlink()
        (directory / name).symlink_to(secret)
    (directory / "samples.jsonl").rename(secret.parent / "samples")
    with (secret.parent / "samples").open("a") as file:
        file.write(json.dumps(frame(9999, "data", secret.read_text())) + "\n")
    (directory / "samples.jsonl").symlink_to(secret.parent / "samples")
    (directory / "notes").symlink_to(secret)
    (directory / "all").symlink_to(secret.parent)
    (directory / "dangling").symlink_to("nowhere")
    (directory / "inside").symlink_to("run.json")
    bundle = pack(directory)
    found = members(bundle)
    links = {"console.log", "sysrq.txt", "samples.jsonl", "notes", "all", "dangling", "inside"}
    assert not links & set(found)
    assert not [name for name, content in found.items() if b"a-secret" in content]
    text = bundle.issue.read_text()
    assert text.startswith("> **The record is damaged.")
    for name in links:
        assert f"- `{name}`: a symbolic link" in text
    assert json.loads(found["verdict.json"])["verdict"] == "INCONCLUSIVE"


def test_run_json_from_elsewhere_is_no_run(directory: Path, tmp_path: Path) -> None:
    (directory / "run.json").rename(tmp_path / "other.json")
    (directory / "run.json").symlink_to(tmp_path / "other.json")
    with pytest.raises(EvidenceError, match=r"run\.json is a symbolic link"):
        pack(directory)
    assert beside(directory) == {"other.json"}


def test_a_pipe_is_left_out(directory: Path) -> None:
    os.mkfifo(directory / "pipe")
    (directory / "harness.log").unlink()
    os.mkfifo(directory / "harness.log")
    bundle = pack(directory)
    assert not {"pipe", "harness.log"} & set(members(bundle))
    assert "- `pipe`: a FIFO" in bundle.issue.read_text()


def test_names_that_are_hostile(directory: Path) -> None:
    names = ("a\nb", "`|`<b>", "-rf", "é" * 60, os.fsdecode(b"\xff\xfe"), "@root #12")
    for name in names:
        (directory / name).write_text("x")
    bundle = pack(directory)
    check_text(bundle.issue.read_text())
    assert set(names) <= set(members(bundle))


# Damage


@pytest.mark.parametrize("name", [*EVIDENCE_FILES, "sysrq.txt"])
@pytest.mark.parametrize("harm", ["gone", "empty", "half", "garbage", "directory"])
def test_a_damaged_run_is_packed_and_says_so(directory: Path, name: str, harm: str) -> None:
    path = directory / name
    content = path.read_bytes()
    path.unlink()
    match harm:
        case "empty":
            path.touch()
        case "half":
            path.write_bytes(content[: len(content) // 2])
        case "garbage":
            path.write_bytes(b"\xff\0\x1b[2J" * 50 + b"\n" + content)
        case "directory":
            path.mkdir()
    bundle = pack(directory)
    text = bundle.issue.read_text()
    check_text(text)
    assert re.match(rf"> \*\*The record is damaged\. .*\*\*\n> - `{re.escape(name)}: ", text)
    found = members(bundle)
    assert (name in found) == (harm not in ("gone", "directory"))
    if name != "samples.jsonl" or harm in ("half", "garbage"):
        # What is whole is there, and tells who waited for whom.
        assert found["slab-before.txt"]
        assert "wait-for.json" in found
    assert json.loads(found["verdict.json"])["verdict"] == "INCONCLUSIVE"


def test_a_run_that_was_cut_off(tmp_path: Path) -> None:
    path = record_run(tmp_path / "run", simulate(HELD))
    facts = json.loads((path / "run.json").read_text())
    for key in ("outcome", "evidence", "seal"):
        del facts[key]
    (path / "run.json").write_text(json.dumps(facts))
    text = pack(path).issue.read_text()
    assert "`run.json: the run was cut off, its end is not recorded`" in text
    assert "The run did not come to its end: not recorded" in text


def test_a_guest_that_was_never_up(tmp_path: Path) -> None:
    record = RunDirectory(tmp_path / "run", {"scenario": HELD})
    for name in ("console.log", "qemu.log", "harness.log"):
        (tmp_path / "run" / name).touch()
    record.finish({"kind": "never up", "detail": "QEMU ended with status 1"})
    bundle = pack(tmp_path / "run")
    text = bundle.issue.read_text()
    check_text(text)
    assert "(`QEMU ended with status 1`)" in text
    assert "No reading of `/proc/spl/kmem/slab`" in text
    assert set(members(bundle)) == {"run.json", "verdict.json", "issue.md", *EVIDENCE_FILES}


def test_a_scenario_that_is_not_known(tmp_path: Path) -> None:
    run = simulate(HELD, FAULTS["no fallback"])
    path = record_run(tmp_path / "run", run)
    record = RunDirectory(tmp_path / "other", {**run.facts, "scenario": "of-tomorrow"})
    for name in EVIDENCE_FILES:
        shutil.copyfile(path / name, record.path / name)
    record.finish(run.facts["outcome"])
    (record.path / "verdict.json").write_text("{}")
    bundle = pack(record.path)
    text = bundle.issue.read_text()
    check_text(text)
    assert text.startswith("> **No verdict could be given:** `run.json: scenario 'of-tomorrow' is not known")
    assert "- `verdict.json`: no verdict could be given anew" in text
    found = members(bundle)
    assert "verdict.json" not in found
    assert json.loads(found["wait-for.json"])["source"] == "agent"


# Hostile text

HOSTILE = (
    "@openzfs/maintainers",
    "#12345",
    "openzfs/zfs#1",
    "GH-12",
    "https://example.com www.example.com",
    "`", "``````````", "```\n### injected\n```", "~~~",
    "`@root #1`", "``@root", "\\` @root", "| @root |",
    "a | b | c", "\\| \\\\|", "\\`x\\`", "|---|---|",
    "<script>alert(1)</script>", "<details>", "</details>", "<!-- ", "</code>", "-->", "&lt;b&gt; &#64;x",
    "[x](https://example.com)", "![x](y)", "[x]: /url",
    "# heading", "### heading\n", "- item", "> quote", "---", "***", "    code", "**bold**", "_x_",
    "\x1b[2J\x1b]0;x\x07", "\0\x07\x08\r", "\u202e\u2066\u200b\ufeff", "\u2028\u2029\x85", "\ud800", "\x9b31m",
    "'; rm -rf / #", "$(reboot)", "\x1b'",
    "",
    "x" * 5000,
)  # fmt: skip
hostile = st.one_of(
    st.sampled_from(HOSTILE),
    st.lists(st.sampled_from((*HOSTILE, "\n", " ", "a")), max_size=6).map("".join),
    st.text(max_size=40),
)


def spread(value: Any, text: str) -> Any:
    """`value` with `text` in place of every string in it, and for every name of a file or a parameter."""
    if isinstance(value, dict):
        names = {"modules", "spl_parameters"}
        return {key: {text: text, "x": text} if key in names else spread(it, text) for key, it in value.items()}
    if isinstance(value, list):
        return [spread(it, text) for it in value]
    return text if isinstance(value, str) else value


FACTS: Mapping[str, Any] = {
    **simulate(HELD).facts,
    "spl": {
        "source": "debian",
        "version": "2.1.11",
        "variant": "stock",
        "patches": [{"name": "x.patch", "sha256": "0" * 64}],
        "modules": {"spl.ko": "0" * 64},
    },
    "spl_parameters": {"spl_kmem_alloc_max": "1048576"},
    "qemu": {"version": "7.2.22"},
    "host": {"system": "Linux", "cores": 2},
    "started": "2026-11-24",
}


def hostile_text(text: str, *, by_sysrq: bool = False) -> str:
    """An issue about a run of which every word is `text`."""
    task = Task(114, text, "D", 1, 0, False, ("spl_cache_grow",), tuple(text.split("\n")), None)
    timeline = replace(_timeline(), tasks=(Sample(0, 0, 1, text, (task,)),))
    console = f"[    1.0] BUG: {text}\n{text}\n[    2.0] WARNING: timekeeping: Cycle offset {text}\n"
    sysrq = f"task:{text} state:D stack:0 pid:114 ppid:2\n{text}\n"
    evidence = Evidence(spread(dict(FACTS), text), timeline, console, (text, text), sysrq)
    reason = Reason(text, (1, 2))
    figures = {"worker": {"pid": 114, "comm": text, "stack": [text, text]}}
    waiting = {
        **{"source": "sysrq-" + text if by_sysrq else text, "tasks": 2, "complete": False, "losses": [text]},
        **{"sentence": text, "cycle": [114], "chain": []},
        "waits": [{"pid": pid, "comm": text, "state": "D", "reason": text, "functions": [text]} for pid in (114, 115)],
    }
    verdict = Verdict(Outcome.STALLED, (reason,), ((Outcome.SLOW, reason),), figures, text, waiting)
    made = extract_files(evidence, (frame(0, "data", f"MemTotal: {text}", "meminfo"),), verdict, waiting)
    listing = Contents(text, {text: 1, "run.json": 2}, {text: "a symbolic link"})
    return issue_text(evidence, verdict, waiting, made, listing, no_verdict=text)


@functools.cache
def _timeline() -> Timeline:
    return simulate(HELD).evidence().timeline


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("by_sysrq", [False, True])
def test_hostile_words_stay_words(text: str, by_sysrq: bool) -> None:
    check_text(hostile_text(text, by_sysrq=by_sysrq))


@SETTINGS
@given(hostile, st.booleans())
def test_any_words_stay_words(text: str, by_sysrq: bool) -> None:
    check_text(hostile_text(text, by_sysrq=by_sysrq))


@pytest.mark.parametrize("text", HOSTILE)
def test_a_code_span_holds_each(text: str) -> None:
    check_span(text)


@SETTINGS
@given(hostile)
def test_a_code_span_holds_any_text(text: str) -> None:
    check_span(text)


def check_span(text: str) -> None:
    shown = code(text)
    assert "\n" not in shown
    tokens = parse(f"a {shown} b")
    (inline,) = (token for token in tokens if token.type == "inline")
    live = prose(tokens)
    assert live in ("a \n b", "a (empty) b")
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    # Nor does it end the cell of a table.
    table = parse(f"a | b\n--- | ---\n{shown} | x")
    cells = [table[at + 1].content for at, token in enumerate(table) if token.type == "td_open"]
    assert cells == [shown, "x"]
    assert inline.children is not None


@SETTINGS
@given(hostile, st.integers(0, 200))
def test_a_block_holds_any_text(text: str, limit: int) -> None:
    first, *rest = parse(fenced(text, limit, "x.txt") + "\n\nafter")
    assert first.type == "fence"
    assert len(first.content.encode()) <= limit + 1
    assert rest[-2].content == "after"
    assert {token.type for token in rest} == {"paragraph_open", "inline", "paragraph_close"}


def test_what_is_cut_says_so() -> None:
    block = fenced("\n".join(f"line {at}" for at in range(100)), 70, "dmesg.txt")
    assert block == "```text\n" + "".join(f"line {at}\n" for at in range(10)) + (
        "```\n\nCut after 10 of 100 lines; the rest is in `dmesg.txt`."
    )
    assert fenced("x" * 500, 1000, "y").splitlines()[1] == "x" * 239 + "…"
    assert items(["a", "b", "c"], 8, "run.json") == "- a\n- b\n- and 1 more, see `run.json`"


@pytest.mark.parametrize("char", ["x", "`", "|", "é", "\U0001f600", "\n", "`\n", "|\n", "'"])
def test_the_text_has_a_limit(char: str) -> None:
    text = char * 30_000
    check_text(hostile_text(text))
    facts: dict[str, Any] = {
        **FACTS,
        "spl_parameters": {f"p{at}": text[:3000] for at in range(200)},
        "spl": {"modules": {f"m{at}": text[:500] for at in range(200)}, "patches": [{"name": text}] * 500},
    }
    console = "".join(f"[{at:5}.0] BUG: number {at} of {text[:50]}\n" for at in range(900))
    evidence = Evidence(facts, _timeline(), console, (text,) * 300)
    reasons = tuple(Reason(f"{at} {text}") for at in range(300))
    verdict = Verdict(Outcome.STALLED, reasons, tuple((Outcome.SLOW, reason) for reason in reasons))
    waits = [{"pid": pid, "comm": text, "state": "D", "reason": text, "functions": [text] * 9} for pid in range(2000)]
    waiting = {"source": "agent", "tasks": 1, "complete": False, "losses": [text] * 99, "sentence": text}
    waiting |= {"cycle": [], "chain": [], "waits": waits}
    listing = Contents("run", {f"{at}{text[:200]}": at for at in range(999)}, {f"{at}": text for at in range(9)})
    check_text(issue_text(evidence, verdict, waiting, {"dmesg.txt": console.encode()}, listing))


@pytest.mark.parametrize("limit", range(1000, 12_000, 500))
def test_parts_that_do_not_fit_are_left_out(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    whole = hostile_text("```\n@root ")
    assert "too long" not in whole
    monkeypatch.setattr(issue_module, "MAX_ISSUE_BYTES", limit)
    text = hostile_text("```\n@root ")
    assert len(text.encode()) <= limit
    tokens = parse(text)
    assert headings(tokens) == HEADINGS
    assert text.count("<details>") == text.count("</details>")
    assert "@" not in prose(tokens)
    # There is room for the headings in any case.
    parts = len(whole.encode()) + 1 - sum(len(line) + 2 for line in whole.split("\n") if line.startswith("### "))
    assert (text == whole) == (parts + 1000 <= limit)
    assert text == whole or re.search(r"\n\n\d+ parts of this text were too long for it; .*\n$", text)


@pytest.mark.parametrize("value", [None, [], "x", 7, {}, {"x": []}, [None], True])
def test_facts_of_another_shape(value: Any) -> None:
    evidence = replace(simulate(HELD).evidence(), damage=("changed",))
    for key in (*FACTS, "spl", "kernel", "parameters", "accelerator"):
        check_text(
            text_of(replace(evidence, facts={**FACTS, "scenario": HELD} | ({key: value} if key != "scenario" else {})))
        )
    for key in FACTS["spl"]:
        check_text(text_of(replace(evidence, facts={**FACTS, "spl": {**FACTS["spl"], key: value}})))


# The command to run it again


def run_command(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the command line makes of the command."""
    splvm, *argv = shlex.split(reproducer(facts))
    assert splvm == "splvm"
    command = typer.main.get_command(cli.app)
    name, run, rest = command.resolve_command(command.make_context("splvm", argv, resilient_parsing=True), argv)  # type: ignore[attr-defined]
    return dict(run.make_context(name, rest).params)


def test_the_command_to_run_it_again() -> None:
    workload = {"threads": 3, "objects": 16, "size": 4096, "pause_us": 5000, "reap_rounds": 1}
    facts = {
        **FACTS,
        "argv": ["/a/path/splvm", "run", "nominal", "--out", "/tmp/x"],
        "parameters": {
            "ram_mib": 768,
            "cpus": 4,
            "preempt": "full",
            "window_s": 2.5,
            "rate_hz": 10,
            "workload": workload,
        },
        "spl": {
            "source": "path:/a/path/to my/zfs/",
            "variant": "no-emergency",
            "patches": [{"name": "fix it.patch"}, {"name": "more.cocci"}],
        },
    }
    params = run_command(facts)
    assert params["scenario"] == HELD
    assert (params["kernel"], params["variant"], params["accel"]) == ("debian-12", "no-emergency", "tcg")
    assert (params["memory"], params["cpus"], params["window"], params["rate"]) == (768, 4, 2.5, 10)
    assert params["preempt"] == "full" and "--preempt" not in reproducer(FACTS)
    assert "--cpus" not in reproducer(FACTS)
    assert (params["threads"], params["objects"], params["size"]) == (3, 16, 4096)
    assert params["spl"] == "path:zfs"
    assert list(params["spl_patch"]) == [Path("fix it.patch"), Path("more.cocci")]
    assert "/a/path" not in reproducer(facts)
    # A run again is one of the same line.
    assert run_command({**facts, "line": "fix/idle+1a2b3c4d"})["label"] == "fix/idle+1a2b3c4d"
    assert run_command({**facts, "line": "packaged"})["label"] is run_command(facts)["label"] is None
    assert run_command(FACTS)["spl"] == "debian"


def test_the_command_for_a_storm_is_that_of_its_own() -> None:
    own = {"ops": 0xFFF, "rate": 1, "trap": 3, "mark": 1, "helpers": 0, "threads": 3, "how": 3, "only": []}

    def words(**storm: object) -> list[str]:
        facts = {
            **FACTS,
            "scenario": "storm",
            "parameters": {"window_s": 1.5, "rate_hz": 20, "storm": {**own, **storm}},
        }
        run_command(facts)
        return reproducer(facts).split(" --kernel")[0].split()

    assert words() == ["splvm", "run", "storm"]
    set_to = {"helpers": 1, "mark": 0, "trap": 2, "how": 1, "ops": 1 << 5, "rate": 16, "only": ["f+0x10", "g+0x20"]}
    options = "--unmarked --helpers --trap io --by reclaim --ops kmem --one-in 16 --site f+0x10 --site g+0x20"
    assert words(**set_to) == ["splvm", "storm", "--quick", *options.split()]
    # What a record may say of it.
    assert words(helpers="1", trap=[], ops=None, only=7) == ["splvm", "run", "storm"]


@SETTINGS
@given(hostile)
def test_a_hostile_command_is_only_words(text: str) -> None:
    command = reproducer(spread(dict(FACTS), text))
    assert "\n" not in command and "`" not in command
    words = shlex.split(command)
    assert words[:2] == ["splvm", "run"]
    expected = " ".join(clean(text[:960]).split()).replace("`", "'")
    for word in (words[2], words[4]):
        assert word == expected or (len(word) == 120 and word[:-1] == expected[:119])
    # A shell sees the same words, and nothing else.
    said = subprocess.run(
        ["sh", "-c", f'set -- {command}; printf "%s\\n" "$@"'], capture_output=True, check=True, timeout=30
    )
    assert said.stdout.decode() == "".join(f"{word}\n" for word in words)
    assert said.stderr == b""


# Where it is written


@pytest.mark.parametrize("name", ["run.tar.gz", "run.issue.md"])
def test_nothing_is_overwritten_unless_it_is_to_be(directory: Path, name: str) -> None:
    there = directory.parent / name
    there.write_text("mine")
    with pytest.raises(UsageError, match=rf"{name} is there already\nhint: --force overwrites it"):
        pack(directory)
    assert (there.read_text(), beside(directory)) == ("mine", {name})
    pack(directory, force=True)
    assert there.read_bytes() != b"mine"
    assert beside(directory) == {"run.tar.gz", "run.issue.md"}


def test_a_link_in_the_way(directory: Path) -> None:
    other = directory.parent / "other"
    (directory.parent / "run.tar.gz").symlink_to(other)
    with pytest.raises(UsageError, match="is there already"):
        pack(directory)
    pack(directory, force=True)
    assert not other.exists()


def test_a_directory_in_the_way(directory: Path) -> None:
    (directory.parent / "run.issue.md").mkdir()
    with pytest.raises(UsageError, match=r"run\.issue\.md is a directory"):
        pack(directory, force=True)
    assert beside(directory) == {"run.issue.md"}


@pytest.mark.parametrize("out", ["x", "x.tgz", "x.tar", ".tar.gz", "x.tar.gz.zip"])
def test_a_name_that_is_no_archives(directory: Path, out: str) -> None:
    with pytest.raises(UsageError, match=r"the name of the archive has to end in \.tar\.gz"):
        pack(directory, directory.parent / out)


def test_an_archive_where_no_directory_is(directory: Path) -> None:
    with pytest.raises(UsageError, match="there is no directory"):
        pack(directory, directory.parent / "none" / "x.tar.gz")


def test_an_archive_within_the_run(directory: Path) -> None:
    """It does not hold itself, nor the one before it."""
    first = pack(directory, directory / "x.tar.gz")
    content = first.archive.read_bytes()
    again = pack(directory, directory / "x.tar.gz", force=True)
    assert again.archive.read_bytes() == content
    assert not {"x.tar.gz", "x.issue.md"} & set(members(again))


@pytest.mark.parametrize("name", ["a.b.c", "-x", "with space", "é", os.fsdecode(b"\xff")])
def test_names_of_runs(recorded: Path, tmp_path: Path, name: str) -> None:
    path = shutil.copytree(recorded, tmp_path / name)
    bundle = pack(path)
    assert (bundle.archive.name, bundle.issue.name) == (f"{name}.tar.gz", f"{name}.issue.md")
    with tarfile.open(bundle.archive) as archive:
        assert {info.name.partition("/")[0] for info in archive} == {name}


# The command line


def splvm(*args: str, cwd: Path | None = None, limit_blocks: int | None = None) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "splvm", *args]
    if limit_blocks is not None:
        argv = ["sh", "-c", f'ulimit -f {limit_blocks}; exec "$@"', "sh", *argv]
    env = {**os.environ, "PYTHONPATH": str(PROJECT / "framework"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, check=False, timeout=60, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_the_command_prints_both_paths_and_the_size(directory: Path) -> None:
    done = splvm("bundle", "run", cwd=directory.parent)
    assert done.returncode == 0, done.stderr
    size = (directory.parent / "run.tar.gz").stat().st_size
    assert done.stdout == f"archive: run.tar.gz ({size} bytes)\nissue: run.issue.md\n"
    text = (directory.parent / "run.issue.md").read_text()
    assert "scenario `held-worker` (the worker that grows the cache is held, then released)" in text
    # The directory that one is in is a run as well.
    again = splvm("bundle", ".", "--force", cwd=directory)
    assert again.stdout.splitlines()[0] == f"archive: {directory.parent / 'run.tar.gz'} ({size} bytes)"


def test_the_command_does_not_overwrite(directory: Path) -> None:
    assert splvm("bundle", str(directory)).returncode == 0
    done = splvm("bundle", str(directory))
    assert (done.returncode, done.stdout) == (2, "")
    assert "hint: --force" in done.stderr
    assert splvm("bundle", str(directory), "--force", "--with-dump").returncode == 0


def test_the_command_on_what_is_no_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        done = splvm("bundle", str(path))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full(directory: Path) -> None:
    """A limit on the size of files is met in the same way."""
    (directory.parent / "run.tar.gz").write_text("mine")
    done = splvm("bundle", str(directory), "--force", limit_blocks=8)
    assert done.returncode == 3, done.stderr
    assert "error: cannot write" in done.stderr
    assert beside(directory) == {"run.tar.gz"}
    assert (directory.parent / "run.tar.gz").read_text() == "mine"


# The tests themselves: what `check_text` must not let through


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("### System", "## More\n\n### System"),
        lambda text: text + "\n@someone\n",
        lambda text: text + "\nopenzfs/zfs#12\n",
        lambda text: text + "\n<b>x</b>\n",
        lambda text: text + "\n<!-- x\n",
        lambda text: text + "\n[x](y)\n",
        lambda text: text + "\n```\nnot ended\n### x\n\n```sh\n",
        lambda text: text.replace("Architecture | ", "Architecture | x | y\nx | "),
        lambda text: text + "\x1b[2J",
        lambda text: text + "\nhttps://example.com\n",
        lambda text: text + "x" * MAX_ISSUE_BYTES,
    ],
)
def test_what_is_live_would_be_found(spoil: Callable[[str], str]) -> None:
    text = hostile_text("harmless")
    check_text(text)
    with pytest.raises(AssertionError):
        check_text(spoil(text))


def test_worker_names_come_through(tmp_path: Path) -> None:
    """A thread of the guest may name itself as it likes."""
    name = "<b>@root|`x`"
    worker = worker_text().replace("comm=spl_kmem_cache", f"comm={name}")
    run = simulate(HELD, FAULTS["no fallback"] | Knobs(worker=(Span("hold", 0.06), worker)))
    text = pack(record_run(tmp_path / "run", run)).issue.read_text()
    check_text(text)
    assert code(name) in text


@pytest.mark.parametrize(
    "packed", sorted((DATA / "runs").glob("*.tar.xz")), ids=lambda path: path.name.partition(".")[0]
)
def test_the_comment_on_recorded_runs(packed: Path, tmp_path: Path) -> None:
    with tarfile.open(packed) as archive:
        unpack(archive, tmp_path)
    (path,) = tmp_path.iterdir()
    bundle = pack(path)
    assert not re.search(r"@\w|#\d|https?:|[0-9a-f]{40}", prose(parse(bundle.comment)))
    lines = bundle.comment.splitlines()
    assert len(lines) <= 40
    verdict = judge(read_evidence(path))
    assert lines[0].startswith(f"**{verdict.outcome.value}**: ")
    digest = hashlib.sha256(bundle.archive.read_bytes()).hexdigest()
    assert lines[-1] == f"Evidence: `{bundle.archive.name}`, SHA-256 `{digest}`"
    assert "splvm run " in bundle.comment and str(tmp_path) not in bundle.comment
    # Of the threads that the sentence names the first one has its stack.
    first = [*verdict.wait_for.get("cycle", ()), *verdict.wait_for.get("chain", ())][:1]
    assert all(re.search(rf"pid:? *{pid} ", bundle.comment.partition("```text")[2]) for pid in first)


def test_a_comment_with_a_link(recorded: Path, tmp_path: Path) -> None:
    argv = ["bundle", str(recorded), "--out", str(tmp_path / "x.tar.gz"), "--comment", "--link", "https://a.b/x"]
    done = CliRunner().invoke(app, argv)
    assert done.exit_code == 0 and done.stdout.startswith("**")
    assert done.stdout.endswith("Evidence: https://a.b/x\n")
    for extra in (["--link", "https://a.b/x"], ["--comment", "--link", "a b"]):
        refused = CliRunner().invoke(app, ["bundle", str(recorded), "--force", *extra])
        assert isinstance(refused.exception, UsageError) and "it is a URL for --comment" in str(refused.exception)


@pytest.mark.parametrize("name", sorted(LOADS))
def test_what_a_load_is_made_by_is_what_its_setup_does(name: str) -> None:
    script = (PROJECT / "images" / "load" / "setup").read_text()
    plain = re.sub(r"[\"$]|/dev/null|2?>", "", script.replace('"$device"', "DISK"))
    told = [re.sub(r"[{}]", "", command.replace("{device}", "DISK")) for command in LOADS[name].made]
    assert all(re.search(rf"(?m)^\t{re.escape(command)}\s*$", re.sub(r"[{}]", "", plain)) for command in told)


def test_what_a_pool_is_made_by_is_what_its_script_does() -> None:
    (command,) = pool_facts()["made"]
    assert command.replace("/dev/vda1", '"$1"') in (PROJECT / "images" / "zfs" / "zfs").read_text()
    assert POOL_SETUP.endswith("pool /dev/vda1")


MARKS = (("window", 0), ("window-end", 5e9))


def test_nothing_is_told_that_was_not_done(tmp_path: Path) -> None:
    """A run of a pool and of swap on it: no lever, no cache of the probe's, and a window that ended early."""
    text = hostile_text("x")
    assert "no disk" not in text and "makes the load" not in text
    load = {"name": "zvol-swap", "values": {"procs": 8}, "made": ["zfs create -V 600M tank/swap"]}
    facts: dict[str, Any] = {"loads": [load], "parameters": {"window_s": 20.0}}
    facts |= {"zfs": {"pool": pool_facts(), "tools": "2.1.11"}}
    facts |= {"disks": [{"mib": 2048, "speed_mib": 256, "request_us": 100}]}
    last = _timeline().probe[-1]
    marks = tuple(replace(last.value.marks[0], name=name, time_ns=int(at)) for name, at in MARKS)
    idle = replace(last.value, marks=marks, threads=tuple(replace(each, allocs=0) for each in last.value.threads))
    evidence = Evidence(facts, replace(_timeline(), probe=(replace(last, value=idle),)), "", ())
    told = issue_text(evidence, Verdict(Outcome.STALLED, (Reason("why"),)), {}, {}, Contents("run", {}, {}))
    for words in (
        "the window lasted 5.0 s of guest time of the 20 s that were asked for",
        "`zfs create -V 600M tank/swap`",
        "a disk of `2048` MiB is memory that was set aside, with `256` MiB/s and `100` us a request",
        "`zpool create -f",
        "zfs_txg_timeout=1",
        "which does nothing in this scenario",
    ):
        assert words in told, words
    assert "asked an SPL cache" not in told and "held the slab worker" not in told
    run = record_run(tmp_path / "run", simulate(HELD, FAULTS["no fallback"]))
    assert "asked an SPL cache" in pack(run).issue.read_text()


def test_a_comment_on_a_long_cycle_has_40_lines_and_says_what_it_leaves_out() -> None:
    evidence = simulate(HELD, FAULTS["no fallback"]).evidence()
    pids = [*range(1000, 1012)]
    frames = tuple(f"[<0>] function_{at}+0x1/0x2" for at in range(30))
    tasks = tuple(Task(pid, f"t{pid}", "D", 1, 0, False, ("cv_wait",), frames, None) for pid in pids)
    waits = [{"pid": pid, "comm": "t", "state": "D", "reason": "lock", "functions": ["f"]} for pid in pids]
    waiting = {"source": "agent", "cycle": pids, "chain": [], "edges": [], "waits": waits, "sentence": "a /srv/mine/x"}
    evidence = replace(evidence, timeline=replace(evidence.timeline, tasks=(Sample(0, 0, 1, "ssh", tasks),)))
    text = run_comment(evidence, judge(evidence), waiting, "https://a.b/c")
    assert 30 <= len(text.splitlines()) <= 40
    shown = len(re.findall(r"(?m)^t1\d{3} pid", text))
    assert shown and f"Stacks of {12 - shown} more threads are in the archive." in text
    # Every stack that is shown is cut, and no place of the reporter's is in it.
    assert text.count("\n...\n") == shown and "/srv/mine" not in text
