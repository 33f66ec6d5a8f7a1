"""A history of the schema before there were lines: each run gets what can be known of it, or nothing is touched."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tarfile
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.command import upgrade
from alembic.config import Config

from splvm.campaign.keep import read_run
from splvm.errors import SetupError
from splvm.history.cell import Cell
from splvm.history.database import History, _make_engine
from splvm.history.judgement import judge_nights
from splvm.history.schema import RunRow
from splvm.record.cellfacts import PACKAGED, UNKNOWN
from unpacking import unpack

COMMAND = "splvm run held-worker --kernel debian-12 --variant stock --memory 512 --window 3.0"
# A run as the old program kept it, apart from what only one of them has.
OLD: Mapping[str, Any] = {
    "batch": "night",
    "started": str(datetime(2026, 1, 1)),
    "scenario": "held-worker",
    "kernel": "debian-12",
    "variant": "stock",
    **dict.fromkeys(("loads", "starved", "fingerprint", "directory"), ""),
    **dict.fromkeys(("release", "spl_version", "accelerator", "qemu", "host", "reason"), "x"),
    "spl_source": "debian",
    "command": COMMAND,
    "patches": "[]",
    "modules": "{}",
    "verdict": "PROGRESS",
    "expected": '["PROGRESS"]',
    "as_expected": 1,
    "duration_s": 1.0,
}


def old_history(path: Path, *rows: Mapping[str, Any]) -> Path:
    """A history whose tables are those of 0002, made by the migrations that led there."""
    engine = _make_engine(path)
    config = Config()
    config.set_main_option("script_location", "splvm.history:migrations")
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        upgrade(config, "0002")
    engine.dispose()
    with closing(sqlite3.connect(path)) as raw, raw:
        for number, row in enumerate(rows):
            full = {"id": f"{number:064x}", **OLD, **row}
            marks = ", ".join("?" * len(full))
            raw.execute(f"INSERT INTO runs ({', '.join(full)}) VALUES ({marks})", list(full.values()))
    return path


def migrated(path: Path, *rows: Mapping[str, Any]) -> list[RunRow]:
    with History(old_history(path, *rows)) as history:
        return sorted(history.runs(), key=lambda run: run.id)


@pytest.fixture
def record(data: Path, tmp_path: Path) -> Path:
    """A run with a patch, in a window of 2 s."""
    with tarfile.open(data / "runs" / "miscounted.tar.xz") as archive:
        unpack(archive, tmp_path / "runs")
    return tmp_path / "runs" / "miscounted"


def row_of(record: Path) -> dict[str, Any]:
    """As the old program kept it."""
    run = read_run(record)
    told = {name: getattr(run, name) for name in OLD}
    lists = {name: json.dumps(told[name]) for name in ("patches", "modules", "expected")}
    return {**told, **lists, "id": run.id, "started": str(run.started)}


def test_a_run_is_told_by_its_record_and_as_a_new_import_tells_it(record: Path, tmp_path: Path) -> None:
    (run,) = migrated(tmp_path / "h.sqlite", row_of(record))
    assert run.line.startswith("debian+") and len(run.line) == len("debian+12345678")
    assert run.cell == read_run(record).cell
    assert run.parameters == "window=2"
    assert (run.verdict, run.content, run.patches) == ("MISCOUNTED", "", ["counts-double.cocci"])


def change(record: Path) -> None:
    facts = json.loads((record / "run.json").read_text())
    facts["spl"]["patches"] = []
    (record / "run.json").write_text(json.dumps(facts))


def another(record: Path) -> None:
    with tarfile.open(Path(__file__).parents[2] / "data" / "runs" / "progress.tar.xz") as archive:
        unpack(archive, record.parent)
    shutil.rmtree(record)
    (record.parent / "progress").rename(record)


@pytest.mark.parametrize(
    "spoil",
    [
        shutil.rmtree,
        change,
        another,
        lambda record: (record / "run.json").write_text("[1"),
        lambda record: (record / "run.json").unlink(),
        lambda record: (record / "run.json").write_text('{"schema_version": 9}'),
    ],
    ids=["gone", "seal broken", "another run", "torn", "no run.json", "newer"],
)
def test_a_record_that_tells_nothing_is_not_believed(
    record: Path, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    """A patch's content is in the record alone, so that run is of an unknown line. Without one the row tells it."""
    patched = row_of(record)
    plain = {**patched, "id": "f" * 64, "patches": "[]", "command": COMMAND}
    spoil(record)
    one, other = migrated(tmp_path / "h.sqlite", patched, plain)
    assert {one.line, other.line} == {UNKNOWN, PACKAGED}
    assert (one.parameters, other.parameters) == ("", "")
    assert {one.id: one, other.id: other}["f" * 64].line == PACKAGED


def test_rows_whose_record_is_gone(tmp_path: Path) -> None:
    runs = migrated(
        tmp_path / "h.sqlite",
        {},
        {"command": COMMAND.replace("512", "1024")},
        {"spl_source": "path:/src/zfs", "command": f"{COMMAND} --spl path:zfs"},
        {"patches": '["a.patch"]', "command": f"{COMMAND} --spl-patch a.patch"},
        {"spl_source": ""},
        {"command": ""},
        # Of a matrix, which had packaged builds alone.
        {"spl_source": "", "command": "", "verdict": "TROUBLE", "as_expected": 0},
        {"scenario": "of-somebody-else"},
    )
    packaged = Cell("held-worker", "debian-12", "stock")
    assert [(run.line, run.parameters) for run in runs] == [
        (PACKAGED, ""),
        (PACKAGED, "memory=1024"),
        ("zfs", ""),
        *[(UNKNOWN, "")] * 3,
        (PACKAGED, ""),
        (UNKNOWN, ""),
    ]
    assert [run.cell == packaged for run in runs].count(True) == 2


def test_an_unknown_line_is_compared_with_nothing(tmp_path: Path) -> None:
    gone = {"patches": '["a.patch"]'}
    runs = migrated(tmp_path / "h.sqlite", gone, {**gone, "verdict": "STALLED", "as_expected": 0})
    assert {run.line for run in runs} == {UNKNOWN}
    assert judge_nights(runs) == []
    for run in runs:
        run.line = PACKAGED
    assert judge_nights(runs) != []


def test_many_rows(tmp_path: Path) -> None:
    runs = migrated(tmp_path / "h.sqlite", *[{}] * 1203)
    assert len(runs) == 1000 and {run.line for run in runs} == {PACKAGED}
    with closing(sqlite3.connect(tmp_path / "h.sqlite")) as raw:
        assert raw.execute("SELECT count(*), count(DISTINCT line) FROM runs").fetchone() == (1203, 1)


def torn_json(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE runs SET patches = '[\"a' WHERE id LIKE '%1'")


def no_list(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE runs SET patches = '1' WHERE id LIKE '%1'")


def no_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("DROP TABLE runs")


def overwritten(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-8192:] = b"\xa5" * 8192
    path.write_bytes(content)


def elsewhere(path: Path) -> None:
    """In a table that the migration does not even read."""
    with closing(sqlite3.connect(path)) as raw:
        (page,) = raw.execute("SELECT rootpage FROM sqlite_master WHERE name = 'figures'").fetchone()
        (size,) = raw.execute("PRAGMA page_size").fetchone()
    content = bytearray(path.read_bytes())
    content[(page - 1) * size : page * size] = b"\xa5" * size
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [torn_json, no_list, no_table, overwritten, elsewhere])
def test_a_damaged_history_is_said_and_not_touched(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = old_history(tmp_path / "h.sqlite", *[{}] * 30)
    damage(path)
    before = path.read_bytes()
    with pytest.raises(SetupError, match=r"h\.sqlite is damaged, or is none, and was left as it is: "):
        History(path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["h.sqlite"]


@pytest.mark.parametrize("size", [1, 2, 15, 99, 100, 512])
@pytest.mark.parametrize("create", [False, True])
def test_a_small_file_of_somebody_elses_is_left_as_it_is(tmp_path: Path, size: int, create: bool) -> None:
    path = tmp_path / "mine"
    path.write_bytes(b"x" * size)
    with pytest.raises(SetupError), History(path, create=create) as history:
        history.last_batch()
    assert path.read_bytes() == b"x" * size
