"""Lines of builds, parameters that differ, and what a build was made from.

Each run that is there is given a line and parameters by its own record, if that is still there and its seal holds, or
else by its row; what neither tells is `unknown`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import op

from splvm.errors import EvidenceError
from splvm.history.cell import write_parameters
from splvm.history.olderruns import by_record, by_row
from splvm.history.rows import identity
from splvm.record.cellfacts import PACKAGED
from splvm.record.reader import read_facts
from splvm.record.seal import is_sealed_whole

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_AXES = ("scenario", "kernel", "variant", "loads")
_TEXTS = ("id", "scenario", "spl_source", "command", "directory", "verdict", "batch", "line", "parameters")
_RUNS = sa.table("runs", *(sa.column(name, sa.Text) for name in _TEXTS), sa.column("patches", sa.JSON))
_AT_ONCE = 500


def upgrade() -> None:
    """Add the columns, and fill them."""
    op.add_column("runs", sa.Column("line", sa.Text, nullable=False, server_default="unknown"))
    op.add_column("runs", sa.Column("parameters", sa.Text, nullable=False, server_default=""))
    op.add_column("runs", sa.Column("content", sa.Text, nullable=False, server_default=""))
    connection = op.get_bind()
    fill = sa.update(_RUNS).where(_RUNS.c.id == sa.bindparam("id_"))
    fill = fill.values(line=sa.bindparam("line_"), parameters=sa.bindparam("parameters_"))
    rows = connection.execute(sa.select(_RUNS)).all()
    for start in range(0, len(rows), _AT_ONCE):
        connection.execute(fill, list(_filled(rows[start : start + _AT_ONCE])))
    op.drop_index("runs_by_cell", "runs")
    op.create_index("runs_by_cell", "runs", [*_AXES, "line", "parameters", "started"])


def _filled(rows: Any) -> Iterator[dict[str, str]]:
    for row in rows:
        line, parameters = _place_of(row)
        yield {"id_": row.id, "line_": line, "parameters_": write_parameters(parameters.items())}


def _place_of(row: Any) -> tuple[str, dict[str, str]]:
    # What came to no verdict has neither a record nor a command; only a matrix wrote such rows, of packaged builds.
    if row.verdict == "TROUBLE" and row.batch:
        return PACKAGED, {}
    try:
        facts = read_facts(Path(row.directory)) if row.directory else {}
    except (EvidenceError, OSError, ValueError):
        facts = {}
    if facts and identity(facts) == row.id and is_sealed_whole(facts):
        return by_record(facts)
    patches = row.patches
    if not isinstance(patches, list):
        raise ValueError(f"patches of run {row.id}: {patches!r}"[:200])
    return by_row(row.scenario, row.spl_source, patches, row.command)
