"""The history: adds runs, and answers questions about them.

Owns the connections. SQLite keeps a write-ahead log, so who reads does not wait for who writes, and writers take
turns. A run is added whole or not at all, in one transaction: a process that dies leaves what it had committed.
"""

from __future__ import annotations

import os
import socket
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from alembic.command import upgrade
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import ColumnElement, Connection, Engine, create_engine, event, func, insert, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session, selectinload
from sqlalchemy.orm.attributes import set_committed_value

from splvm.errors import SetupError, UsageError
from splvm.history.cell import Cell, read_parameters
from splvm.history.damage import find_fault
from splvm.history.schema import DAMAGED, Batch, Figure, RunRow

# How long a writer waits for its turn.
_BUSY_MS = 30_000
# How long a server may take to let one in, and to answer: a history of years is asked for all its cells in seconds.
_CONNECT_S = 10
_ANSWER_S = 120.0
_CONNECT_ARGS: dict[str, dict[str, Any]] = {
    name: {"connect_timeout": _CONNECT_S} for name in ("postgresql", "mysql", "mariadb")
}
# A database of SQLite begins with a head of so many bytes (sqlite.org/fileformat.html).
_LEAST_BYTES = 100
# What to do about what SQLite says.
_HINTS = (
    ("not a database", "this file is something else, and was left as it is; name a history with --history"),
    (
        "malformed",
        "it is damaged; name another one with --history: `splvm history import DIR` adds runs to it",
    ),
    ("unable to open", "is it a file, and may it be opened?"),
    ("readonly", "may it be written?"),
    ("locked", "another program has written to it for long"),
    ("Could not decode", "somebody has edited it: a text in it is not UTF-8; name another one with --history"),
)
_WORDS = {"runs": "run", "figures": "a figure", "batches": "matrix"}
Found = TypeVar("Found", RunRow, Figure, Batch)

# Ids that one question asks for: SQLite has a limit for what a statement takes.
_AT_ONCE = 500
_AXES = (RunRow.scenario, RunRow.kernel, RunRow.variant, RunRow.loads, RunRow.line, RunRow.parameters)
# A number of its own for the lock of PostgreSQL that lets one process migrate at a time.
_MIGRATION_LOCK = 0x73706C766D


@dataclass(frozen=True, slots=True)
class Last:
    """A cell of the overview: how many runs it has, and the last of them."""

    cell: Cell
    runs: int
    started: datetime
    verdict: str
    as_expected: bool


@dataclass(frozen=True, slots=True)
class Recent:
    """A cell with its last runs."""

    cell: Cell
    # How many it has in all.
    total: int
    # The oldest first.
    runs: tuple[RunRow, ...]


class History:
    """A history that is open.

    :param where: a file of SQLite, or a URL as SQLAlchemy takes it.
    :param create: whether a file that is not there is made.
    :raises UsageError: when that is no such URL, or there is no such file.
    :raises SetupError: when it cannot be opened, or a newer version of splvm has written it.

    Questions raise SetupError also where a row that they read is damaged, and name it.
    """

    def __init__(self, where: str | Path, *, create: bool = True) -> None:
        self._engine = _make_engine(where, create=create)
        self._patience = Patience()
        if self._engine.dialect.name != "sqlite":
            event.listen(self._engine, "connect", lambda connection, _: self._patience.follow(connection))
        try:
            with self._trouble():
                self._migrate()
        except BaseException:
            # A connection that stays open keeps SQLite's log beside the file.
            self.close()
            raise

    def __enter__(self) -> History:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def add(self, runs: Sequence[RunRow]) -> int:
        """Add those that are not there yet, all in one transaction. Another copy of a run that is there is not added.

        :returns: how many were new.
        :raises SetupError: when the database says no; then none of them is there.
        """
        with self._trouble():
            try:
                return self._add(runs)
            except IntegrityError:
                # Another process had one of them first; on SQLite writers take turns, and this cannot be.
                return self._add(runs)

    def twin(self, run: RunRow) -> RunRow | None:
        """The run of which `run` is another copy, with another record: it has the same word."""
        words = _words([run])
        if not words:
            return None
        query = select(RunRow).where(RunRow.token.in_(words), RunRow.id != run.id).order_by(RunRow.token).limit(1)
        with self._trouble(), Session(self._engine, expire_on_commit=False) as session:
            found = session.scalars(query).first()
            return None if found is None else self._whole(found)

    def runs(
        self,
        cell: Cell | None = None,
        *,
        since: datetime | None = None,
        batch: str | None = None,
        limit: int = 1000,
        figures: bool = False,
    ) -> list[RunRow]:
        """Runs, the newest first.

        :param cell: only those of this one.
        :param batch: only those of this matrix.
        :param figures: read their figures too.
        """
        query = select(RunRow).order_by(RunRow.started.desc(), RunRow.id).limit(limit)
        if cell is not None:
            query = query.where(*_is_of(cell))
        if since is not None:
            query = query.where(RunRow.started >= since)
        if batch is not None:
            query = query.where(RunRow.batch == batch)
        if figures:
            query = query.options(selectinload(RunRow.figures))
        with self._trouble(), Session(self._engine, expire_on_commit=False) as session:
            found = [self._whole(run) for run in session.scalars(query)]
            session.expunge_all()
        for figure in (each for run in found if figures for each in run.figures):
            self._whole(figure)
        return found

    def keep_batch(self, batch: str, planned: int, *, ended: bool) -> None:
        """Say what a matrix was to run, and whether it came to its end; what was said before is replaced.

        :raises SetupError: when the database says no.
        """
        with self._trouble(), Session(self._engine.execution_options(writes=True)) as session, session.begin():
            known = session.get(Batch, batch)
            if known is not None:
                self._whole(known)
            started = known.started if known is not None else datetime.now(UTC).replace(tzinfo=None)
            session.merge(Batch(id=batch, started=started, planned=planned, ended=ended))

    def batch(self, batch: str) -> Batch | None:
        """What is known of a matrix; None for one of before such rows."""
        with self._trouble(), Session(self._engine, expire_on_commit=False) as session:
            found = session.get(Batch, batch)
            return self._whole(found) if found is not None else None

    def last_batch(self) -> str:
        """The matrix that is the newest, or has the newest run; empty if there is none."""
        by_run = select(RunRow.batch, RunRow.started).where(RunRow.batch != "").order_by(RunRow.started.desc()).limit(1)
        by_start = select(Batch.id, Batch.started).order_by(Batch.started.desc()).limit(1)
        with self._trouble(), self._engine.connect() as connection:
            found = []
            for query, table, name in ((by_run, "runs", "batch"), (by_start, "batches", "id")):
                for batch, started in connection.execute(query):
                    self._check(table, {name: batch, "started": started}, f"of matrix {batch}")
                    found.append((started, batch))
            return max(found)[1] if found else ""

    def trend(self, cell: Cell, figure: str, limit: int = 1000) -> list[tuple[RunRow, float]]:
        """A figure of one cell over its last runs, the oldest first; runs without it are left out."""
        query = (
            select(RunRow, Figure.value)
            .join(Figure, (Figure.run_id == RunRow.id) & (Figure.name == figure))
            .where(*_is_of(cell))
            .order_by(RunRow.started.desc(), RunRow.id)
            .limit(limit)
        )
        with self._trouble(), Session(self._engine, expire_on_commit=False) as session:
            found = [(self._whole(run), value) for run, value in session.execute(query)]
            session.expunge_all()
        for run, value in found:
            self._check("figures", {"run_id": run.id, "name": figure, "value": value}, f"of run {run.id}")
        return found[::-1]

    def overview(self) -> list[Last]:
        """Each cell with its last run, sorted by cell."""
        newest = func.row_number().over(partition_by=_AXES, order_by=(RunRow.started.desc(), RunRow.id)).label("newest")
        count = func.count().over(partition_by=_AXES).label("runs")
        ranked = select(*_AXES, RunRow.started, RunRow.verdict, RunRow.as_expected, newest, count).subquery()
        query = select(ranked).where(ranked.c.newest == 1).order_by(*(ranked.c[axis.key] for axis in _AXES))
        columns = [*(axis.key for axis in _AXES), "started", "verdict", "as_expected"]
        with self._trouble(), self._engine.connect() as connection:
            rows = connection.execute(query).all()
        for row in rows:
            self._check("runs", {name: getattr(row, name) for name in columns}, f"the last one of {row.scenario}")
        return [
            Last(
                Cell(row.scenario, row.kernel, row.variant, row.loads, row.line, read_parameters(row.parameters)),
                row.runs,
                row.started,
                row.verdict,
                row.as_expected,
            )
            for row in rows
        ]

    def recent(self, count: int, names: Sequence[str] = (), *, until: datetime | None = None) -> list[Recent]:
        """The last runs of every cell, sorted by cell: for all cells at once what `runs` gives for one.

        :param count: so many runs of each cell.
        :param names: the figures that are read; the runs have no others.
        :param until: leave out what began later.
        """
        newest = func.row_number().over(partition_by=_AXES, order_by=(RunRow.started.desc(), RunRow.id)).label("newest")
        total = func.count().over(partition_by=_AXES).label("total")
        every = select(RunRow.id, newest, total)
        ranked = (every if until is None else every.where(RunRow.started <= until)).subquery()
        query = select(RunRow, ranked.c.total).join(ranked, ranked.c.id == RunRow.id).where(ranked.c.newest <= count)
        query = query.order_by(*_AXES, RunRow.started, RunRow.id.desc())
        cells: dict[Cell, tuple[int, list[RunRow]]] = {}
        with self._trouble(), Session(self._engine, expire_on_commit=False) as session:
            for run, of_cell in session.execute(query):
                cells.setdefault(self._whole(run).cell, (of_cell, []))[1].append(run)
            _read_figures(session, [run for _, runs in cells.values() for run in runs], names)
            session.expunge_all()
        for figure in (each for _, runs in cells.values() for run in runs for each in run.figures):
            self._whole(figure)
        return [Recent(cell, of_cell, tuple(runs)) for cell, (of_cell, runs) in cells.items()]

    def _add(self, runs: Sequence[RunRow]) -> int:
        with self._write() as connection:
            there: set[str] = set()
            words: set[str] = set()
            for start in range(0, len(runs), _AT_ONCE):
                some = runs[start : start + _AT_ONCE]
                there.update(connection.scalars(select(RunRow.id).where(RunRow.id.in_([run.id for run in some]))))
                same = select(RunRow.token).where(RunRow.token.in_(_words(some)))
                words.update(word for word in connection.scalars(same) if word is not None)
            new: dict[str, RunRow] = {}
            for run in runs:
                if run.id not in there and words.isdisjoint(_words([run])):
                    new.setdefault(run.id, run)
                    words.update({run.token} if run.token else ())
            if new:
                connection.execute(insert(RunRow), [_row(run) for run in new.values()])
            figures = [_row(figure) for run in new.values() for figure in run.figures]
            if figures:
                connection.execute(insert(Figure), figures)
            return len(new)

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with self._engine.connect().execution_options(writes=True) as connection, connection.begin():
            yield connection

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", "splvm.history:migrations")
        script = ScriptDirectory.from_config(config)
        head = script.get_current_head()
        with self._engine.connect() as connection:
            if MigrationContext.configure(connection).get_current_revision() == head:
                return
        with self._write() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            found = MigrationContext.configure(connection).get_current_revision()
            if found is not None and found not in {each.revision for each in script.walk_revisions()}:
                raise SetupError(
                    f"{self._name}: a newer version of splvm has written this history (its tables are of {found!r}, "
                    f"this program knows them up to {head!r})",
                    hint="use that version, or name another history with --history",
                )
            config.attributes["connection"] = connection
            try:
                _check_whole(connection)
                upgrade(config, "head")
            except (DBAPIError, ValueError, LookupError, TypeError) as error:
                reason = error.orig if isinstance(error, DBAPIError) else error
                raise SetupError(
                    f"history {self._name} is damaged, or is none, and was left as it is: {reason}",
                    hint="name another history with --history; `splvm history import DIR` adds runs to it again",
                ) from error

    def _whole(self, row: Found | None) -> Found:
        """:raises SetupError: when it is damaged; a row without a key is none for the library."""
        if row is None:
            raise self._damage("a row has no id")
        table, values = row.__tablename__, _row(row)
        name = f"of run {values['run_id']}, {values['name']}" if table == "figures" else str(values["id"])
        self._check(table, values, name)
        return row

    def _check(self, table: str, values: Mapping[str, object], name: str) -> None:
        if fault := find_fault(table, values):
            raise self._damage(f"{_WORDS[table]} {name}: {fault}")

    def _damage(self, what: str) -> SetupError:
        return SetupError(
            f"history {self._name} is damaged: {' '.join(what.split())}",
            hint="delete this row, or name another history with --history; `splvm history import DIR` adds runs again",
        )

    @property
    def _name(self) -> str:
        return self._engine.url.render_as_string(hide_password=True)

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            with self._patience.within(_ANSWER_S):
                yield
        except SQLAlchemyError as error:
            said = error.orig if isinstance(error, DBAPIError) else error
            lines = str(said).splitlines() or [type(error).__name__]
            hint = next((hint for words, hint in _HINTS if words in str(said)), "is it there, with room?")
            raise SetupError(f"history {self._name}: {lines[0]}", hint=hint) from error
        except UnicodeDecodeError as error:
            # SQLite quotes the damaged bytes in its message, and its driver cannot read that.
            raise SetupError(
                f"history {self._name} is damaged: {error}", hint="name another history with --history"
            ) from error


class Patience:
    """Ends connections to a server that stands still: its host answers for it, and drivers wait for ever."""

    def __init__(self) -> None:
        self._connections: list[weakref.ref[Any]] = []

    def follow(self, connection: Any) -> None:
        """Count a driver's connection among those that may be ended."""
        with suppress(TypeError):
            self._connections.append(weakref.ref(connection))

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """What is asked in the block has to be answered within so many seconds; after that its connections end."""
        timer = threading.Timer(seconds, self._end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _end(self) -> None:
        for connection in filter(None, (each() for each in self._connections)):
            # The driver keeps its own descriptor, and finds the end of the stream there.
            with suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as copy:
                copy.shutdown(socket.SHUT_RDWR)


def _words(runs: Sequence[RunRow]) -> list[str]:
    """Words in rows of which these runs would be copies: one that is not whole is also a copy of one that is."""
    words = [run.token for run in runs if run.token]
    return [*words, *(word.removeprefix(DAMAGED) for word in words if word.startswith(DAMAGED))]


def differing(run: RunRow, other: RunRow) -> list[str]:
    """Columns in which two rows of one run differ, without where they lie."""
    here, there = _row(run), _row(other)
    return [name for name in here if name not in ("id", "token", "directory") and here[name] != there[name]]


def _is_of(cell: Cell) -> Iterator[ColumnElement[bool]]:
    for axis, value in cell.columns().items():
        yield getattr(RunRow, axis) == value


def _check_whole(connection: Connection) -> None:
    """:raises ValueError: when SQLite finds its file damaged."""
    if connection.dialect.name == "sqlite":
        found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if found != "ok":
            raise ValueError(" ".join(str(found).split()))


def _read_figures(session: Session, runs: Sequence[RunRow], names: Sequence[str]) -> None:
    """Give each run those of its figures that have one of the names."""
    found: dict[str, list[Figure]] = {run.id: [] for run in runs}
    ids = list(found) if names else []
    for start in range(0, len(ids), _AT_ONCE):
        some = Figure.run_id.in_(ids[start : start + _AT_ONCE])
        for figure in session.scalars(select(Figure).where(some, Figure.name.in_(names))):
            found[figure.run_id].append(figure)
    for run in runs:
        set_committed_value(run, "figures", found[run.id])


def _row(each: RunRow | Figure | Batch) -> dict[str, Any]:
    return {column.key: getattr(each, column.key) for column in each.__table__.columns}


def _make_engine(where: str | Path, *, create: bool = True) -> Engine:
    try:
        url = (
            make_url(where) if isinstance(where, str) and "://" in where else URL.create("sqlite", database=str(where))
        )
        if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
            path = Path(url.database)
            if not create and not url.database.startswith("file:") and (not path.exists() or _is_empty(path)):
                raise UsageError(
                    f"there is no history at {url.database}",
                    hint="`splvm matrix` and `splvm history import DIR` make one; --history names another",
                )
            if path.is_file() and 0 < path.stat().st_size < _LEAST_BYTES:
                # SQLite takes a file of one byte for an empty one, and would write over it.
                raise SetupError(f"--history {where}: file is not a database", hint=_HINTS[0][1])
            path.parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url, connect_args=_CONNECT_ARGS.get(url.get_backend_name(), {}))
    except (ArgumentError, NoSuchModuleError) as error:
        raise UsageError(f"--history: {error}", hint="give a file, or a URL as SQLAlchemy takes it") from error
    except ModuleNotFoundError as error:
        raise SetupError(f"--history: {error}", hint="install the driver of this database") from error
    except OSError as error:
        raise SetupError(f"--history {where}: {error.strerror}") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _is_empty(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == 0


def _set_up_sqlite(connection: Any, _record: object) -> None:
    # The driver begins no transaction by itself: by its own rules it would leave out those that change the tables.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    # A writer takes its turn at once: one that has read first and then wants to write may be told to start again.
    immediate = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
