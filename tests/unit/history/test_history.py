"""The history: nothing twice, nothing lost, nothing half, and nothing of a newer version touched."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, func, insert, select

from commandline import CommandLine
from splvm.campaign.keep import keep_result, read_run
from splvm.errors import EvidenceError, SetupError, UsageError
from splvm.evidence.verdict import Outcome, Reason, Verdict
from splvm.history.cell import Cell
from splvm.history.database import History
from splvm.history.rows import fingerprint_of, flatten, make_run
from splvm.history.schema import Base, Figure, RunRow
from splvm.record.reader import read_evidence
from splvm.record.seal import _hash
from splvm.scenarios.judged import judge_evidence as judge
from unpacking import unpack

CELL = Cell("held-worker", "debian-12", "stock")
START = datetime(2026, 1, 1)
SPAWN = multiprocessing.get_context("spawn")


def a_run(number: int, verdict: str = "PROGRESS", **figures: float) -> RunRow:
    run_id = f"{number:064x}"
    return RunRow(
        id=run_id,
        batch="",
        started=START + timedelta(minutes=number),
        **CELL.columns(),
        **dict.fromkeys(
            ("release", "spl_version", "spl_source", "accelerator", "qemu", "host", "starved", "content", "tree"), "x"
        ),
        **dict.fromkeys(("reason", "fingerprint", "directory", "command", "revision", "digest"), "x"),
        patches=[],
        modules={},
        verdict=verdict,
        expected=["PROGRESS"],
        as_expected=verdict == "PROGRESS",
        duration_s=1.0,
        figures=[Figure(run_id=run_id, name=name, value=value) for name, value in figures.items()],
    )


@pytest.fixture
def recorded(data: Path, tmp_path: Path) -> dict[str, Any]:
    """Facts, verdict and console of a run that stalled."""
    with tarfile.open(data / "runs" / "stalled.tar.xz") as archive:
        unpack(archive, tmp_path / "runs")
    evidence = read_evidence(tmp_path / "runs" / "stalled")
    return {"facts": evidence.facts, "verdict": judge(evidence), "console": evidence.console}


def row(recorded: Mapping[str, Any], **changes: Any) -> RunRow:
    told = {**recorded, **changes}
    return make_run(
        told["facts"], told["verdict"], told["console"], directory="/d", command="splvm run x", duration_s=7.5
    )


def test_a_recorded_run_comes_back_as_it_was(tmp_path: Path, recorded: dict[str, Any]) -> None:
    with History(tmp_path / "history.sqlite") as history:
        assert history.add([row(recorded)]) == 1
        (run,) = history.runs(figures=True)
    facts = recorded["facts"]
    assert run.id == facts["seal"]
    assert run.started == datetime(2026, 11, 24, 15, 27, 22)
    assert (run.scenario, run.kernel, run.variant, run.loads) == ("held-worker", "debian-12", "no-emergency", "")
    assert (run.verdict, run.expected, run.as_expected) == ("STALLED", ["STALLED"], True)
    assert run.modules == facts["spl"]["modules"] and run.duration_s == 7.5
    figures = {figure.name: figure.value for figure in run.figures}
    assert figures["longest_gap_ms"] == 2387.2 and figures["slab.before.flags"] == 128


def test_the_same_run_is_there_once(tmp_path: Path, recorded: dict[str, Any]) -> None:
    with History(tmp_path / "history.sqlite") as history:
        assert history.add([row(recorded), row(recorded)]) == 1
        assert history.add([row(recorded)]) == 0
        cut_off = {key: value for key, value in recorded["facts"].items() if key not in ("seal", "outcome")}
        assert history.add([row(recorded, facts=cut_off)]) == 1
        assert history.add([row(recorded, facts=cut_off)]) == 0
        assert len(history.runs()) == 2


def test_a_damaged_copy_is_not_the_run(tmp_path: Path, recorded: dict[str, Any]) -> None:
    """Whatever of it was changed, the original is new after it, and the copy after that is known."""
    original = tmp_path / "runs" / "stalled"
    facts = json.loads((original / "run.json").read_text())
    damaged = {
        "run.json": json.dumps({**facts, "expected": ["PROGRESS"]}),
        "console.log": "nothing happened\n",
        "samples.jsonl": "",
    }
    with History(tmp_path / "history.sqlite") as history:
        for name, text in damaged.items():
            copy = shutil.copytree(original, tmp_path / "copies" / name)
            (copy / name).write_text(text)
            assert history.add([read_run(copy)]) == 1
            assert history.add([read_run(copy), keep_result(copy, recorded["verdict"])]) == 0
        assert history.add([read_run(original)]) == 1
        assert history.add([keep_result(original, recorded["verdict"])]) == 0
        assert {run.verdict for run in history.runs()} == {"STALLED", "INCONCLUSIVE"}


def test_a_matrix_is_known_until_its_end(tmp_path: Path) -> None:
    with History(tmp_path / "history.sqlite") as history:
        assert history.last_batch() == "" and history.batch("night") is None
        history.keep_batch("night", 4, ended=False)
        assert history.last_batch() == "night", "before it has a run"
        begun = history.batch("night")
        history.keep_batch("night", 4, ended=True)
        ended = history.batch("night")
    assert begun is not None and (begun.planned, begun.ended) == (4, False)
    assert ended is not None and (ended.planned, ended.ended, ended.started) == (4, True, begun.started)


def test_a_fingerprint_is_of_the_trouble_and_not_of_the_day(data: Path, recorded: dict[str, Any]) -> None:
    verdict, console = recorded["verdict"], recorded["console"]
    basis = fingerprint_of(verdict, console)
    waits = [{**wait, "pid": wait["pid"] + 7, "comm": "other"} for wait in verdict.wait_for["waits"]]
    moved = Verdict(verdict.outcome, verdict.reasons, wait_for={"waits": waits[::-1]})
    assert fingerprint_of(moved, console) == basis
    elsewhere = [{**wait, "functions": ["other"]} for wait in waits]
    others = [
        fingerprint_of(Verdict(Outcome.LOST, verdict.reasons, wait_for=verdict.wait_for), console),
        fingerprint_of(Verdict(verdict.outcome, verdict.reasons, wait_for={"waits": elsewhere}), console),
        fingerprint_of(verdict, (data / "kernlog" / "bug.log").read_text()),
    ]
    assert len({basis, *others}) == 4
    assert fingerprint_of(Verdict(Outcome.PROGRESS, (Reason("x"),)), console) == ""


@pytest.fixture(scope="module")
def emptied() -> Iterator[History]:
    with History(":memory:") as history:
        yield history


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text(), JSON), JSON, st.dictionaries(st.sampled_from(["waits", "x"]), JSON), st.text())
def test_whatever_a_file_says_it_is_kept_or_refused(
    emptied: History, facts: dict[str, Any], part: Any, wait_for: dict[str, Any], text: str
) -> None:
    facts |= {"started": "2026-01-01T00:00:00+00:00", "spl": part, "kernel": part, "expected": part, "parameters": part}
    verdict = Verdict(Outcome.LOST, (Reason(text),), figures=facts, wait_for=wait_for)
    run = make_run(facts, verdict, text, directory=text, command=text, duration_s=None)
    run_id = run.id
    emptied.add([run])
    with emptied._engine.connect() as connection:
        assert connection.scalar(select(func.count()).where(RunRow.id == run_id)) == 1
    with pytest.raises(EvidenceError):
        make_run({**facts, "started": part}, verdict, text, directory="", command="", duration_s=None)


def test_numbers_among_figures() -> None:
    deep: dict[str, Any] = {"end": 1}
    for _ in range(5000):
        deep = {"d": deep}
    figures = {"a": 1, "b": {"c": 2.5, "d": True}, "e": [1], "f": "1", "g": float("nan"), "h": 10**400, "i": deep}
    assert flatten(figures) == {"a": 1.0, "b.c": 2.5}
    assert len(flatten({str(n): n for n in range(10_000)})) == 200


def test_questions(tmp_path: Path) -> None:
    with History(tmp_path / "history.sqlite") as history:
        other = a_run(9, "STALLED")
        other.variant = "no-emergency"
        history.add([other, *(a_run(n, "SLOW" if n == 3 else "PROGRESS", gap=n / 2) for n in range(5)), a_run(5)])
        assert [run.id[-1] for run in history.runs(CELL)] == list("543210")
        assert [run.id[-1] for run in history.runs(since=START + timedelta(minutes=4))] == list("954")
        assert [run.id[-1] for run in history.runs(limit=2)] == list("95")
        assert [value for _, value in history.trend(CELL, "gap")] == [0, 0.5, 1, 1.5, 2]
        assert [value for _, value in history.trend(CELL, "gap", 2)] == [1.5, 2]
        told = [(last.cell.variant, last.runs, last.verdict, last.as_expected) for last in history.overview()]
        assert told == [("no-emergency", 1, "STALLED", False), ("stock", 6, "PROGRESS", True)]


def test_an_experiment_by_hand_is_no_run_of_the_packaged_cell(data: Path, tmp_path: Path) -> None:
    """Of two recorded runs on stock one has a patch, and what it showed says nothing of the other's cell."""
    for name in ("progress", "miscounted"):
        with tarfile.open(data / "runs" / f"{name}.tar.xz") as archive:
            unpack(archive, tmp_path / "runs")
    runs = [read_run(tmp_path / "runs" / name) for name in ("progress", "miscounted")]
    with History(tmp_path / "history.sqlite") as history:
        history.add(runs)
        told = [(last.cell.line.partition("+")[0], last.verdict) for last in history.overview()]
    assert told == [("debian", "MISCOUNTED"), ("packaged", "PROGRESS")]
    assert [run.cell.parameters for run in runs] == [(("window", "2"),)] * 2


def resealed(facts: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    changed = {**facts, **changes}
    return {**changed, "seal": _hash(changed)}


@pytest.mark.parametrize(
    ("told", "line", "parameters"),
    [
        ({"line": "packaged", "differs": {}}, "packaged", ""),
        ({"line": "mine", "differs": {"size": "1", "memory": "640"}}, "mine", "memory=640,size=1"),
        ({"line": "mine", "differs": {"x\0": "\ud800"}}, "mine", "x%EF%BF%BD=%5Cud800"),
        ({"line": "", "differs": {}}, "unknown", ""),
        ({"line": "a b", "differs": {}}, "unknown", ""),
        ({"line": 1, "differs": {}}, "unknown", ""),
        ({"line": "mine"}, "unknown", ""),
        ({"line": "mine", "differs": []}, "unknown", ""),
        ({"line": "mine", "differs": {"x": "y" * 150, **{str(n): "y" * 150 for n in range(9)}}}, "unknown", ""),
    ],
)
def test_a_record_says_where_a_run_belongs(
    recorded: dict[str, Any], told: dict[str, Any], line: str, parameters: str
) -> None:
    run = row(recorded, facts=resealed(recorded["facts"], **told))
    assert (run.line, run.parameters) == (line, parameters)
    assert (run.cell.columns()["line"], run.cell.columns()["parameters"]) == (line, parameters)
    # Whoever changed it afterwards is not believed.
    broken = row(recorded, facts={**recorded["facts"], **told})
    assert broken.line == "unknown"


def test_migrations_lead_to_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    History(path).close()
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()


def test_a_newer_history_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    History(path).close()
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SetupError, match=r"newer version of splvm.*'9999'"):
        History(path)
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]


@pytest.mark.parametrize(
    ("where", "error", "words"),
    [
        ("nosuch://x", UsageError, "nosuch"),
        ("/dev/null/x.sqlite", SetupError, "File exists"),
        ("junk.sqlite", SetupError, "not a database"),
    ],
)
def test_no_history(tmp_path: Path, where: str, error: type[Exception], words: str) -> None:
    (tmp_path / "junk.sqlite").write_bytes(b"x" * 5000)
    with pytest.raises(error, match=words):
        History(where if "/" in where else tmp_path / where)


def test_a_damaged_schema_that_is_no_text(tmp_path: Path) -> None:
    """SQLite quotes it in its message, which its driver cannot decode."""
    path = tmp_path / "history.sqlite"
    History(path).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET name = CAST(x'f2f8' AS TEXT), sql = 'CREATE TABLE ('")
    with pytest.raises(SetupError, match="is damaged"):
        History(path)


def add_many(path: Path, first: int, count: int) -> None:
    with History(path) as history:
        for number in range(first, first + count):
            history.add([a_run(number, gap=1.0)])


def test_writers_that_meet_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    # They make the tables at once too, and the runs in the middle are everybody's.
    writers = [SPAWN.Process(target=add_many, args=(path, first, 40)) for first in (0, 20, 40)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    with History(path) as history:
        runs = history.runs(figures=True)
    assert len({run.id for run in runs}) == len(runs) == 80
    assert all(len(run.figures) == 1 for run in runs)


def die_in_the_middle(path: Path) -> None:
    with History(path) as history:
        history.add([a_run(1, gap=1.0)])
        with history._write() as connection:
            connection.execute(insert(RunRow).values(**{c.key: getattr(a_run(2), c.key) for c in RunRow.__table__.c}))
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_leaves_what_it_had_finished(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    writer = SPAWN.Process(target=die_in_the_middle, args=(path,))
    writer.start()
    writer.join(120)
    assert writer.exitcode == -signal.SIGKILL
    with History(path) as history:
        assert [run.id[-1] for run in history.runs()] == ["1"]
        assert history.add([a_run(2)]) == 1
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


TOKEN = "c0ffee0123456789"


def sealed(facts: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """run.json, edited, and sealed again by its owner."""
    edited = {**facts, **changes}
    return {**edited, "seal": _hash(edited)}


def test_one_word_is_one_run(tmp_path: Path, recorded: dict[str, Any]) -> None:
    """Each copy has another seal. Runs of before there were words are told apart by that alone."""
    facts = recorded["facts"]
    one, *copies = [sealed(facts, token=TOKEN, argv=["splvm", "run", str(number)]) for number in range(3)]
    other, *older = sealed(facts, token="0" * 16), sealed(facts), sealed(facts, argv=["x"])
    with History(tmp_path / "history.sqlite") as history:
        assert history.add([row(recorded, facts=each) for each in (one, *copies)]) == 1
        assert history.add([row(recorded, facts=copies[0])]) == 0
        twin = history.twin(row(recorded, facts=copies[0]))
        assert twin is not None and twin.id == one["seal"]
        assert history.twin(row(recorded, facts=one)) is None
        assert history.add([row(recorded, facts=each) for each in (other, *older)]) == 3
        assert [history.twin(row(recorded, facts=each)) for each in (other, *older)] == [None] * 3
        assert len(history.runs()) == 4


def test_a_damaged_copy_has_the_word_too(tmp_path: Path, recorded: dict[str, Any]) -> None:
    """It may come before the run, and does not count as one more after it."""
    whole = sealed(recorded["facts"], token=TOKEN)
    damaged = [{**whole, "argv": [str(number)]} for number in range(3)]
    with History(tmp_path / "history.sqlite") as history:
        assert history.add([row(recorded, facts=damaged[0])]) == 1
        assert history.add([row(recorded, facts=damaged[1])]) == 0
        assert history.add([row(recorded, facts=whole)]) == 1
        assert history.add([row(recorded, facts=damaged[2])]) == 0
        twin = history.twin(row(recorded, facts=damaged[2]))
        assert twin is not None and twin.id == whole["seal"]


def test_an_import_says_that_it_is_a_copy(data: Path, tmp_path: Path, commandline: CommandLine) -> None:
    with tarfile.open(data / "runs" / "suspect.tar.xz") as archive:
        unpack(archive, tmp_path / "runs")
    first = tmp_path / "runs" / "suspect"
    copied, edited = (Path(shutil.copytree(first, tmp_path / "runs" / name)) for name in ("copied", "edited"))
    facts = json.loads((first / "run.json").read_text())
    assert facts["token"]
    del facts["seal"]
    (edited / "run.json").write_text(json.dumps(sealed(facts, argv=["splvm", "run", "nominal"])))
    history = ("--history", str(tmp_path / "history.sqlite"))
    assert "1 added" in commandline("history", "import", str(first), *history).stdout
    assert "0 added, 1 there already" in commandline("history", "import", str(copied), *history).stdout
    refused = commandline("history", "import", str(edited), *history)
    assert refused.returncode == 1 and "0 added, 0 there already, 1 " in refused.stdout
    assert f"the history has this run already, of {first}; this is another copy of it" in refused.stderr
