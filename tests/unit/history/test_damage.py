"""A history that somebody has edited by hand, that is not there, or that is something else."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer

from splvm.cli import app
from splvm.errors import HarnessError, SetupError, UsageError
from splvm.history.cell import Cell
from splvm.history.damage import CHECKS, find_fault
from splvm.history.database import History
from splvm.history.schema import Base, Figure, RunRow

CELL = Cell("held-worker", "debian-12", "stock")
COLUMNS = [(table.name, column.key) for table in Base.metadata.sorted_tables for column in table.columns]
ODD: tuple[Any, ...] = (None, b"\xff\x00", -1, 1e999, "{", "[1]", "a\0b", "2026-13-45 25:61:00")


def a_run(number: int) -> RunRow:
    run_id = f"{number:064x}"
    words = ("release", "spl_version", "spl_source", "accelerator", "qemu", "host", "content", "reason", "fingerprint")
    return RunRow(
        id=run_id,
        batch="night",
        revision="",
        tree="",
        digest="",
        started=datetime(2026, 1, 1) + timedelta(minutes=number),
        **CELL.columns(),
        **dict.fromkeys(words, "x"),
        **dict.fromkeys(("directory", "command", "starved"), ""),
        patches=["a.patch"],
        modules={"spl.ko": "0"},
        verdict="STALLED",
        expected=["PROGRESS"],
        as_expected=False,
        duration_s=1.0,
        figures=[Figure(run_id=run_id, name="longest_gap_ms", value=1.0)],
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A history of which each column may be anything, also nothing. Not to be changed."""
    path = tmp_path_factory.mktemp("whole") / "history.sqlite"
    with History(path) as history:
        history.add([a_run(number) for number in range(3)])
        history.keep_batch("night", 3, ended=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '')")
        connection.execute("PRAGMA journal_mode = DELETE")
    return path


def readers(history: Path) -> list[list[str]]:
    """The commands that read a history."""
    return [
        ["history", "list"],
        ["history", "show", "held-worker,debian-12,stock", "--figure", "longest_gap_ms"],
        ["history", "show", "held-worker,debian-12,stock", "--json"],
        ["history", "judge"],
        *(["history", "export", "--format", form] for form in ("junit", "ktap", "json")),
        ["report", "--out", str(history.parent / "site")],
    ]


def end_of(command: list[str], history: Path) -> tuple[int, str]:
    """Its status, and the error if there was one; anything else that is raised is a traceback for users."""
    try:
        app([*command, "--history", str(history)], standalone_mode=False)
    except typer.Exit as ended:
        return ended.exit_code, ""
    except HarnessError as error:
        return error.exit_status, error.message
    return 0, ""


def test_every_column_has_a_check(whole: Path) -> None:
    assert sorted(COLUMNS) == sorted((table, column) for table, checks in CHECKS.items() for column in checks)
    for command in readers(whole):
        assert end_of(command, whole)[1] == ""


@pytest.mark.parametrize("values", [1, pytest.param(len(ODD), marks=pytest.mark.splvm_slow)])
@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_a_row_that_is_damaged_is_named(whole: Path, tmp_path: Path, table: str, column: str, values: int) -> None:
    """Every command that reads it says one thing, or did not need what is wrong."""
    path = Path(shutil.copy(whole, tmp_path / "history.sqlite"))
    # One value for each column, and all values among the columns.
    first = COLUMNS.index((table, column)) if values == 1 else 0
    for value in (ODD * 2)[first % len(ODD) :][:values]:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            rowid, before = connection.execute(f"SELECT rowid, {column} FROM {table} ORDER BY rowid DESC").fetchone()
            change = f"UPDATE {table} SET {column} = ? WHERE rowid = ?"
            connection.execute(change, (value, rowid))
            (kept,) = connection.execute(f"SELECT {column} FROM {table} WHERE rowid = ?", (rowid,)).fetchone()
        # An export is read as a list is, and a site takes longest.
        commands = readers(path) if value == "{" else readers(path)[:4]
        ends = [end_of(command, path) for command in commands]
        assert all(status == 3 for status, said in ends if "is damaged" in said)
        # What is the key of another table, or the way to the row, may be sought in vain.
        if column not in ("run_id", "id", "batch", *CELL.columns()) and is_odd(table, column, kept):
            said = [said for _, said in ends if "is damaged" in said]
            assert said and all(f"{column} is " in each or "no id" in each for each in said), (value, ends)
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute(change, (before, rowid))


def is_odd(table: str, column: str, kept: Any) -> bool:
    """Whether what a database has is nothing that a column can have, by what the column is."""
    if column in ("patches", "expected", "modules"):
        try:
            kept = json.loads(kept)
        except (ValueError, TypeError):
            return True
    if column in ("started",):
        return True
    if column in ("as_expected", "ended"):
        return kept not in (0, 1)
    return bool(find_fault(table, {column: kept}))


@pytest.mark.parametrize("verdict", ["PASSED", "progress", "TROUBLE ", ""])
def test_a_verdict_that_there_is_none_of(whole: Path, tmp_path: Path, verdict: str) -> None:
    path = Path(shutil.copy(whole, tmp_path / "history.sqlite"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE runs SET verdict = ?", (verdict,))
    for command in readers(path):
        status, said = end_of(command, path)
        assert status == 3 and f"verdict is {verdict!r}" in said


def test_text_that_is_none(whole: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(whole, tmp_path / "history.sqlite"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE runs SET verdict = CAST(X'ff' AS TEXT)")
    for command in readers(path):
        assert end_of(command, path)[0] == 3


# No history


@pytest.mark.parametrize("place", ["none.sqlite", "nowhere/none.sqlite", "empty"])
def test_reading_makes_no_history(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").touch()
    for command in readers(tmp_path / "history.sqlite"):
        status, said = end_of(command, tmp_path / place)
        assert status == 2 and f"there is no history at {tmp_path / place}" in said
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    assert (tmp_path / "empty").stat().st_size == 0


def test_a_history_that_is_to_be_written_is_made(tmp_path: Path) -> None:
    with History(tmp_path / "new" / "history.sqlite"):
        assert (tmp_path / "new" / "history.sqlite").exists()


def text_file(path: Path) -> None:
    path.write_text("verdict = 'PROGRESS'\n" * 100)


@pytest.mark.parametrize(("make", "hint"), [(text_file, "something else"), (Path.mkdir, "is it a file")])
def test_what_is_no_history(tmp_path: Path, make: Callable[[Path], None], hint: str) -> None:
    path = tmp_path / "file"
    make(path)
    for create in (True, False):
        with pytest.raises(SetupError) as caught:
            History(path, create=create)
        assert hint in (caught.value.hint or "")
    if path.is_file():
        assert path.read_text().startswith("verdict")
    with pytest.raises(UsageError):
        History("no-such-database://x", create=False)
