"""The tables as they are now; migrations/ has how they came to be so, and a test holds the two together."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Boolean, DateTime, Dialect, Double, ForeignKey, Index, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

from splvm.evidence.verdict import Outcome
from splvm.history.cell import Cell, read_parameters
from splvm.record.cellfacts import UNKNOWN

# Before the word of a run whose record is not whole: it does not stand in the way of one that is.
DAMAGED = "~"
# In the place of a verdict.
TROUBLE = "TROUBLE"
# Verdicts that say nothing of the module.
_SAYS_NOTHING = frozenset({TROUBLE, *(outcome.value for outcome in Outcome if outcome.says_nothing)})


# Among the modules of a run with a pool: the archive of all but spl.ko, with zpool and zfs.
ZFS = "zfs.cpio"


class _AsItIs(TypeDecorator[Any]):
    """A type whose values are given as they are where they are no such values."""

    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        read = self.impl_instance.result_processor(dialect, coltype)
        return None if read is None else lambda value: self._read(read, value)

    def _read(self, read: Callable[[Any], Any], value: Any) -> Any:
        with suppress(ValueError, TypeError, AttributeError, ArithmeticError, RecursionError):
            return read(value)
        return value


class Moment(_AsItIs):
    """A date with a time."""

    impl = DateTime
    cache_ok = True


class Listing(_AsItIs):
    """A list or a mapping, as JSON."""

    impl = JSON
    cache_ok = True


class Flag(_AsItIs):
    """Yes or no. Where a database has numbers for that, other numbers are neither."""

    impl = Boolean
    cache_ok = True

    def _read(self, read: Callable[[Any], Any], value: Any) -> Any:
        return read(value) if type(value) in (int, bool) and value in (0, 1) else value


class Base(DeclarativeBase):
    """Of all tables."""

    type_annotation_map = {  # noqa: RUF012
        str: Text,
        list[str]: Listing,
        dict[str, str]: Listing,
        datetime: Moment,
        bool: Flag,
        float: Double,
    }


class Batch(Base):
    """A matrix. One of before there were these rows has none, and nobody knows whether it is whole."""

    __tablename__ = "batches"

    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    # When it was begun, UTC, without a zone.
    started: Mapped[datetime]
    # Runs that it was to have, one that is done again counted once.
    planned: Mapped[int]
    # Whether all of them were run, to a verdict or to trouble.
    ended: Mapped[bool]


class Figure(Base):
    """One number of a run's verdict."""

    __tablename__ = "figures"

    run_id: Mapped[str] = mapped_column(String(64), ForeignKey("runs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(80), primary_key=True)
    value: Mapped[float]


class RunRow(Base):
    """One run. Text in it may be a guest's: it is bounded, and not escaped."""

    __tablename__ = "runs"
    __table_args__ = (
        Index("runs_by_cell", "scenario", "kernel", "variant", "loads", "line", "parameters", "started"),
        Index("runs_by_start", "started"),
        Index("runs_by_batch", "batch"),
        Index("runs_by_token", "token", unique=True),
    )

    # The seal of its run.json: the same run has the same one, wherever its directory is.
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    # Of the matrix that it was part of; empty for a run of its own.
    batch: Mapped[str] = mapped_column(server_default="")
    # UTC, without a zone.
    started: Mapped[datetime]
    scenario: Mapped[str]
    # Its id, such as debian-12.
    kernel: Mapped[str]
    variant: Mapped[str]
    # As `run --load` takes them; empty without.
    loads: Mapped[str]
    # Of builds, and parameters that are not the scenario's own, as `write_parameters` has them.
    line: Mapped[str] = mapped_column(server_default=UNKNOWN)
    parameters: Mapped[str] = mapped_column(server_default="")
    release: Mapped[str]
    spl_version: Mapped[str]
    spl_source: Mapped[str]
    # Hash of the source with all patches that spl.ko was made from; empty where it was not recorded.
    content: Mapped[str] = mapped_column(server_default="")
    # Commit that the user's modules are of, and that with its branch and whether it was edited, in short; empty for the
    # distribution's, and where it was not recorded.
    revision: Mapped[str] = mapped_column(server_default="")
    tree: Mapped[str] = mapped_column(server_default="")
    # Of all that a guest in virtual time left; empty in real time.
    digest: Mapped[str] = mapped_column(server_default="")
    # Its own word, behind `DAMAGED` where its record is not whole; None where it was not recorded.
    token: Mapped[str | None] = mapped_column(String(17))
    # Names of the patches, and the hash of each module: two runs with the same modules ran the same build.
    patches: Mapped[list[str]]
    modules: Mapped[dict[str, str]]
    accelerator: Mapped[str]
    qemu: Mapped[str]
    host: Mapped[str]
    # `TROUBLE` if there is none: something of the harness or the host kept the run from one.
    verdict: Mapped[str]
    expected: Mapped[list[str]]
    as_expected: Mapped[bool]
    starved: Mapped[str]
    # The first one of the verdict.
    reason: Mapped[str]
    # The same for the same trouble on another day; empty for a good verdict.
    fingerprint: Mapped[str]
    directory: Mapped[str]
    # That makes such a run again.
    command: Mapped[str]
    # Of the record, on the host's clock; None where there is no record.
    duration_s: Mapped[float | None]
    figures: Mapped[list[Figure]] = relationship(order_by=Figure.name)

    @property
    def cell(self) -> Cell:
        """What it is compared within."""
        parameters = read_parameters(self.parameters)
        return Cell(self.scenario, self.kernel, self.variant, self.loads, self.line, parameters)

    @property
    def is_silent(self) -> bool:
        """Whether it says nothing, where something was to be said."""
        return not self.as_expected and self.verdict in _SAYS_NOTHING
