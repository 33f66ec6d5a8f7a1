"""The directory of a run: what is written can be read at once, and what was changed afterwards is noticed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from simulated import simulate
from simulated_faults import FAULTS
from simulated_guest import GOOD, Knobs
from simulated_kinds import HELD, NOMINAL
from splvm.errors import EvidenceError, SetupError, UsageError
from splvm.evidence.formats.stream import Frame, What
from splvm.evidence.verdict import Outcome, Verdict
from splvm.record.names import EVIDENCE_FILES, SCHEMA_VERSION
from splvm.record.reader import find_digests, read_evidence, read_records
from splvm.record.writer import RunDirectory
from splvm.scenarios.judged import judge_evidence as judge


def record_run(path: Path, scenario: str = HELD, knobs: Knobs = GOOD) -> Path:
    run = simulate(scenario, knobs)
    run.start_record(path).finish(run.facts["outcome"])
    return path


def judged(path: Path) -> Verdict:
    return judge(read_evidence(path))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good run; not to be changed."""
    return record_run(tmp_path_factory.mktemp("recorded"))


@pytest.fixture
def directory(recorded: Path, tmp_path: Path) -> Path:
    """A good run to do harm to."""
    return shutil.copytree(recorded, tmp_path / "run")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two frames; not to be changed."""
    path = tmp_path_factory.mktemp("small")
    record = RunDirectory(path, {"scenario": NOMINAL, "parameters": {"latency_bound_ms": 500}})
    for frame in simulate(NOMINAL).frames()[:2]:
        record.record_frame(frame, "ssh")
    for name in ("console.log", "qemu.log", "harness.log"):
        (path / name).write_text(f"{name}\n")
    record.finish({"kind": "ended", "detail": "all steps were taken"})
    return path


@pytest.fixture
def open_run(tmp_path: Path) -> Iterator[RunDirectory]:
    record = RunDirectory(tmp_path / "run", {"scenario": HELD})
    yield record
    record.finish({"kind": "ended", "detail": ""})


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "samples.jsonl").read_text().splitlines()]


def frame(seq: int, text: str = "x") -> Frame:
    return Frame(seq, seq, "vmstat", What.DATA, 10 * seq, 10 * seq + 5, text)


# Writing and reading back


@pytest.mark.parametrize(("scenario", "outcome"), [(HELD, Outcome.PROGRESS), (NOMINAL, Outcome.HEALTHY)])
def test_a_run_is_judged_as_it_was(tmp_path: Path, scenario: str, outcome: Outcome) -> None:
    assert judged(record_run(tmp_path, scenario)).outcome is outcome


@pytest.mark.parametrize("fault", ["no fallback", "lost", "oops", "size is wrong", "frames lost"])
def test_a_bad_run_is_judged_as_it_was(tmp_path: Path, fault: str) -> None:
    """The host's times are those of the writing here; a sleep that is excused by them is told second at most."""
    read, made = judged(record_run(tmp_path, HELD, FAULTS[fault])), judge(simulate(HELD, FAULTS[fault]).evidence())
    assert (read.outcome, read.reasons, read.wait_for) == (made.outcome, made.reasons, made.wait_for)
    assert [outcome for outcome, _ in read.also] == [outcome for outcome, _ in made.also]


def test_what_is_read_is_what_was_written(recorded: Path) -> None:
    run, evidence = simulate(HELD), read_evidence(recorded)
    assert (evidence.console, evidence.damage) == (run.console, ())
    assert run.facts.items() <= evidence.facts.items()
    written, read = run.evidence().timeline, evidence.timeline
    for name in ("slab", "probe", "tasks", "other", "blocked", "losses"):
        assert getattr(read, name) == getattr(written, name), name
    assert [(r.run_s, r.wait_s) for r in read.host] == [(r.run_s, r.wait_s) for r in written.host]
    assert list(read.host_phases) == list(written.host_phases)


def test_times_of_the_host_only_grow(recorded: Path) -> None:
    times = [line["at_s"] for line in lines_of(recorded)]
    assert times == sorted(times)
    assert lines_of(recorded)[0] == {"kind": "start", "schema_version": SCHEMA_VERSION, "at_s": times[0]}


def test_hostile_text_comes_back_as_it_was(open_run: RunDirectory) -> None:
    texts = ["", "\0\x1b[31m\r\n", '"}\n{"kind":"frame"', "\u2028\x85\ufffd", "\\ud800", "\ud800", "é" * 5000]
    for seq, text in enumerate(texts):
        open_run.record_frame(frame(seq, text), "ssh")
    lines = (open_run.path / "samples.jsonl").read_bytes().split(b"\n")
    assert [json.loads(line)["text"] for line in lines[1:-1]] == texts


def test_facts_that_are_not_utf8_come_back_as_they_were(tmp_path: Path) -> None:
    """An argument that is not UTF-8 reaches Python as half a surrogate pair."""
    record = RunDirectory(tmp_path, {"scenario": HELD, "argv": ["--out", "\udcff"]})
    record.finish({"kind": "cut off", "detail": "\udcff"})
    evidence = read_evidence(tmp_path)
    assert (evidence.facts["argv"], evidence.facts["outcome"]["detail"]) == (["--out", "\udcff"], "\udcff")
    assert not [what for what in evidence.damage if what.startswith("run.json")]


def test_a_console_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    run = simulate(HELD)
    record = run.start_record(tmp_path)
    (tmp_path / "console.log").write_bytes(b"\xff\xfe\0" + run.console.encode())
    size = (tmp_path / "console.log").stat().st_size
    record.finish({**run.facts["outcome"], "console_bytes": size})
    assert judged(tmp_path).outcome is Outcome.PROGRESS
    assert read_evidence(tmp_path).console.startswith("\ufffd\ufffd\0[")


def test_the_verdict_is_kept_and_is_no_evidence(directory: Path) -> None:
    verdict = judged(directory)
    record = RunDirectory(directory.parent / "other", {"scenario": HELD})
    record.finish({"kind": "ended", "detail": ""})
    record.write_verdict(verdict)
    shutil.copy(record.path / "verdict.json", directory)
    assert json.loads((directory / "verdict.json").read_text()) == verdict.to_json()
    assert judged(directory) == verdict


# While it runs


def test_everything_can_be_read_as_it_comes(open_run: RunDirectory) -> None:
    path = open_run.path
    assert json.loads((path / "run.json").read_text()) == {"schema_version": SCHEMA_VERSION, "scenario": HELD}
    assert [line["kind"] for line in lines_of(path)] == ["start"]
    open_run.record_frame(frame(0), "ssh")
    assert lines_of(path)[-1].items() >= {"kind": "frame", "path": "ssh", "seq": 0, "what": "data", "text": "x"}.items()
    open_run.record_phase("window")
    assert lines_of(path)[-1].items() >= {"kind": "phase", "name": "window"}.items()
    open_run.record_host({"vcpus": [], "load1": 0.5})
    assert lines_of(path)[-1].items() >= {"kind": "host", "vcpus": [], "load1": 0.5}.items()


def test_a_run_that_is_under_way_is_not_judged(open_run: RunDirectory) -> None:
    verdict = judged(open_run.path)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reasons[0].text == "the record is damaged: run.json: the run was cut off, its end is not recorded"


@pytest.mark.parametrize("fault", [None, "oops", "no fallback"])
def test_a_run_that_was_cut_off_is_inconclusive(tmp_path: Path, fault: str | None) -> None:
    """As it would be found after the harness was killed, in the midst of a line."""
    run = simulate(HELD, FAULTS[fault] if fault else GOOD)
    record = run.start_record(tmp_path / "run")
    killed = shutil.copytree(tmp_path / "run", tmp_path / "killed")
    record.finish(run.facts["outcome"])
    samples = killed / "samples.jsonl"
    for end in (None, -7):
        samples.write_bytes(samples.read_bytes()[:end])
        verdict = judged(killed)
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert "the run was cut off" in verdict.reasons[0].text


def test_many_writers_at_once(open_run: RunDirectory) -> None:
    writers, each = 6, 60
    together = threading.Barrier(writers)

    def write(writer: int) -> None:
        together.wait()
        for at in range(each):
            match writer % 3:
                case 0:
                    open_run.record_frame(frame(writer * each + at, "text " * 2000), "ssh")
                case 1:
                    open_run.record_phase(f"phase {writer} {at}")
                case _:
                    open_run.record_host({"vcpus": [{"tid": writer, "run_ns": at, "wait_ns": 0}]})

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = lines_of(open_run.path)
    assert len(lines) == 1 + writers * each
    assert [line["seq"] for line in lines if line["kind"] == "frame" and line["seq"] < each] == list(range(each))
    assert len({line["name"] for line in lines if line["kind"] == "phase"}) == 2 * each


def test_nothing_is_written_after_the_end(recorded: Path, tmp_path: Path) -> None:
    """Threads that give readings may be late."""
    record = RunDirectory(tmp_path, {"scenario": HELD})
    record.finish({"kind": "ended", "detail": ""})
    before = (tmp_path / "samples.jsonl").read_bytes()
    record.record_frame(frame(0), "ssh")
    record.record_host({"vcpus": []})
    assert (tmp_path / "samples.jsonl").read_bytes() == before


def test_what_was_written_so_far(open_run: RunDirectory) -> None:
    for seq in range(3):
        open_run.record_frame(frame(seq), "ssh")
        assert open_run.read_so_far() == lines_of(open_run.path)


def test_a_full_disk(tmp_path: Path) -> None:
    """The writers go on, whoever drives the run is told, and what is left is no evidence."""
    record = RunDirectory(tmp_path, {"scenario": HELD})
    with open("/dev/full", "w") as full:
        os.dup2(full.fileno(), record._samples.fileno())
    record.record_frame(frame(0), "ssh")
    for tell in (record.check, lambda: record.finish({"kind": "ended", "detail": ""})):
        with pytest.raises(SetupError, match=r"cannot write to .*: No space left on device\nhint: free some space"):
            tell()
    assert "outcome" not in json.loads((tmp_path / "run.json").read_text())


# The end


def test_the_end_has_size_and_hash_of_everything(recorded: Path) -> None:
    facts = json.loads((recorded / "run.json").read_text())
    console_bytes = (recorded / "console.log").stat().st_size
    outcome = {"kind": "ended", "detail": "all steps were taken", "console_bytes": console_bytes}
    assert facts["outcome"] == outcome
    assert list(facts["evidence"]) == list(EVIDENCE_FILES)
    for name in EVIDENCE_FILES:
        content = (recorded / name).read_bytes()
        assert facts["evidence"][name] == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_nothing_is_left_beside_it(recorded: Path) -> None:
    assert {path.name for path in recorded.iterdir()} == {"run.json", *EVIDENCE_FILES}


def test_a_file_that_was_never_written_is_missing(tmp_path: Path) -> None:
    record = RunDirectory(tmp_path, {"scenario": HELD})
    record.finish({"kind": "never up", "detail": "QEMU ended with status 1"})
    verdict = judged(tmp_path)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    missing = [reason.text for reason in verdict.reasons]
    assert missing == [f"the record is damaged: {name}: missing" for name in EVIDENCE_FILES if name != "samples.jsonl"]


# Harm


def cut(at: float) -> Callable[[bytes], bytes]:
    """Only a part of it is left."""
    return lambda content: content[: int(at * len(content))]


def flip(at: float) -> Callable[[bytes], bytes]:
    """One bit of one byte is different."""

    def harm(content: bytes) -> bytes:
        place = int(at * (len(content) - 1))
        return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]

    return harm


HARM: dict[str, Callable[[bytes], bytes]] = {
    "empty": cut(0),
    "first part left": cut(0.1),
    "half left": cut(0.5),
    "last byte gone": lambda content: content[:-1],
    "last line gone": lambda content: content[: content[:-1].rfind(b"\n") + 1],
    "first byte changed": flip(0),
    "a byte in the middle changed": flip(0.5),
    "last byte changed": flip(1),
    "a line twice": lambda content: content + content[content[:-1].rfind(b"\n") + 1 :],
    "not UTF-8": lambda content: content + b"\xff\n",
    "hostile JSON": lambda content: content + b"[" * 100_000 + b"\n",
    "something else": lambda content: b"[]\n",
}


@pytest.mark.parametrize("name", EVIDENCE_FILES)
@pytest.mark.parametrize("harm", HARM)
def test_a_file_that_was_changed(directory: Path, name: str, harm: str) -> None:
    path = directory / name
    path.write_bytes(HARM[harm](path.read_bytes()))
    verdict = judged(directory)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reasons[0].text == f"the record is damaged: {name}: not what it was when the run ended"


@pytest.mark.parametrize("name", EVIDENCE_FILES)
def test_a_file_that_is_gone(directory: Path, name: str) -> None:
    (directory / name).unlink()
    verdict = judged(directory)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reasons[0].text == f"the record is damaged: {name}: missing"


@pytest.mark.parametrize("name", EVIDENCE_FILES)
def test_a_directory_in_place_of_a_file(directory: Path, name: str) -> None:
    (directory / name).unlink()
    (directory / name).mkdir()
    verdict = judged(directory)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reasons[0].text == f"the record is damaged: {name}: a directory, so it was not read"


@pytest.mark.parametrize("name", EVIDENCE_FILES)
def test_each_byte_counts(small: Path, tmp_path: Path, name: str) -> None:
    whole = (small / name).read_bytes()
    path = shutil.copytree(small, tmp_path / "run") / name
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert judged(path.parent).outcome is Outcome.INCONCLUSIVE, at


# run.json


def test_each_byte_of_the_facts_counts(small: Path, tmp_path: Path) -> None:
    """A changed bound or outcome would be another verdict. What is not noticed has to have changed nothing."""
    whole = (small / "run.json").read_bytes()
    facts = json.loads(whole)
    path = shutil.copytree(small, tmp_path / "run") / "run.json"
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            evidence = read_evidence(path.parent)
        except EvidenceError:
            continue
        assert evidence.damage or evidence.facts == facts, at


def test_the_facts_cut_short(directory: Path) -> None:
    path = directory / "run.json"
    whole = path.read_bytes().rstrip()
    for end in (0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(EvidenceError, match=r"run\.json is damaged: "):
            read_evidence(directory)


CHANGES: tuple[tuple[str, Any], ...] = (
    ("parameters", {"latency_bound_ms": 60_000}),
    ("scenario", NOMINAL),
    ("outcome", {"kind": "ended", "detail": "all is well"}),
    ("kernel", {"id": "debian-13"}),
    ("seal", "0" * 64),
    ("more", 1),
)


@pytest.mark.parametrize(("key", "value"), CHANGES)
def test_facts_that_were_changed(directory: Path, key: str, value: Any) -> None:
    facts = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps({**facts, key: value}))
    verdict = judged(directory)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reasons[0].text == "the record is damaged: run.json: not what it was when the run ended"


@pytest.mark.parametrize("other", [0, 1, 297, 299, 1 << 40])
def test_a_console_of_another_size_than_was_read(tmp_path: Path, other: int) -> None:
    run = simulate(HELD)
    run.start_record(tmp_path).finish({**run.facts["outcome"], "console_bytes": other})
    verdict = judged(tmp_path)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reasons[0].text == f"the record is damaged: console.log: 298 bytes, and the guest said {other}"


@pytest.mark.parametrize("other", [True, 1.0, "1", None, 2])
def test_a_schema_version_that_is_not_ours(directory: Path, other: object) -> None:
    facts = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps({**facts, "schema_version": other}))
    with pytest.raises(EvidenceError, match="has schema version"):
        read_evidence(directory)


@pytest.mark.parametrize("key", ["outcome", "evidence"])
def test_facts_without_an_end(directory: Path, key: str) -> None:
    facts = json.loads((directory / "run.json").read_text())
    del facts[key]
    (directory / "run.json").write_text(json.dumps(facts))
    verdict = judged(directory)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "the run was cut off" in verdict.reasons[0].text


@pytest.mark.parametrize("key", ["outcome", "evidence", "parameters", "scenario", "seal"])
def test_facts_without_a_part(directory: Path, key: str) -> None:
    facts = json.loads((directory / "run.json").read_text())
    del facts[key]
    (directory / "run.json").write_text(json.dumps(facts))
    if key == "scenario":
        with pytest.raises(EvidenceError, match="scenario None is not known"):
            judged(directory)
    else:
        assert judged(directory).outcome is Outcome.INCONCLUSIVE


def test_facts_laid_out_anew_are_the_same_facts(directory: Path) -> None:
    facts = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps(dict(sorted(facts.items(), reverse=True))))
    assert judged(directory).outcome is Outcome.PROGRESS


# What is no run


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match=r"nowhere is not a directory\nhint: give the directory that"):
        read_evidence(tmp_path / "nowhere")


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(EvidenceError, match="file is not a directory"):
        read_evidence(path)


def test_a_record_that_cannot_be_read(directory: Path) -> None:
    (directory / "run.json").unlink()
    (directory / "run.json").symlink_to("run.json")
    with pytest.raises(EvidenceError, match=r"run\.json is a symbolic link, so it was not read"):
        read_evidence(directory)


def test_a_foreign_directory(tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").touch()
    with pytest.raises(EvidenceError, match=r"has no run\.json: it is not the directory of a run"):
        read_evidence(tmp_path)


@pytest.mark.parametrize("content", ["[]", "7", "null", '"run"', "{}", '{"version": 1}'])
def test_a_foreign_record(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(EvidenceError, match=r"run\.json is not the record of a run"):
        read_evidence(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"\0", b"{}{}", b"[" * 100_000, b'{"schema_version": 1e'])
def test_a_damaged_record(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(EvidenceError, match=r"run\.json is damaged: "):
        read_evidence(tmp_path)


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 0, "1", None])
def test_a_record_of_another_version(directory: Path, version: object) -> None:
    facts = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps({**facts, "schema_version": version}))
    with pytest.raises(
        EvidenceError, match=rf"has schema version {version!r}, this program reads 1\nhint: judge it with"
    ):
        read_evidence(directory)


@pytest.mark.parametrize(
    "content", [b"{}\n" * 500_001, b'{"a":"' + b"x" * (8 << 20) + b'"}\n'], ids=["records", "a line"]
)
def test_more_than_any_run_records(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "samples.jsonl").write_bytes(content)
    with pytest.raises(EvidenceError, match="larger than any record of a run"):
        read_records(tmp_path / "samples.jsonl")


def test_a_large_dump_is_known_by_its_size(small: Path, tmp_path: Path) -> None:
    """Nothing rests on it, and hashing gigabytes takes longer than judging all the rest."""
    path = shutil.copytree(small, tmp_path / "run")
    with (path / "memory.kdump").open("wb") as file:
        file.truncate(3 << 30)
    facts = json.loads((path / "run.json").read_text())
    recorded = {**facts["evidence"], "memory.kdump": {"bytes": 3 << 30, "sha256": "of something"}}
    assert find_digests(path, recorded) == recorded
    recorded["memory.kdump"]["bytes"] += 1
    assert find_digests(path, recorded)["memory.kdump"] == {"bytes": 3 << 30, "sha256": None}


def test_evidence_of_another_run_is_not_replaced(tmp_path: Path) -> None:
    """A link in a campaign's directory may lead anywhere."""
    mine = tmp_path / "mine"
    RunDirectory(mine, {}).finish({})
    kept = (mine / "samples.jsonl").read_text()
    (tmp_path / "link").symlink_to(mine)
    with pytest.raises(UsageError, match="has the evidence of a run"):
        RunDirectory(tmp_path / "link", {"x": 1})
    assert (mine / "samples.jsonl").read_text() == kept
    assert "x" not in json.loads((mine / "run.json").read_text())
