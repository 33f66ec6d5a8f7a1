"""The first tables: runs, and their figures."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "runs",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("started", sa.DateTime, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("scenario", "kernel", "variant", "loads")),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("release", "spl_version", "spl_source")),
        sa.Column("patches", sa.JSON, nullable=False),
        sa.Column("modules", sa.JSON, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("accelerator", "qemu", "host", "verdict")),
        sa.Column("expected", sa.JSON, nullable=False),
        sa.Column("as_expected", sa.Boolean, nullable=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("starved", "reason", "fingerprint", "directory")),
        sa.Column("command", sa.Text, nullable=False),
        sa.Column("duration_s", sa.Double),
    )
    op.create_index("runs_by_cell", "runs", ["scenario", "kernel", "variant", "loads", "started"])
    op.create_index("runs_by_start", "runs", ["started"])
    op.create_table(
        "figures",
        sa.Column("run_id", sa.String(64), sa.ForeignKey("runs.id"), primary_key=True),
        sa.Column("name", sa.String(80), primary_key=True),
        sa.Column("value", sa.Double, nullable=False),
    )
