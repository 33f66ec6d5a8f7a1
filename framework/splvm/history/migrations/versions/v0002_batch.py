"""Which matrix a run was part of."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Runs that are there already are of none."""
    op.add_column("runs", sa.Column("batch", sa.Text, nullable=False, server_default=""))
    op.create_index("runs_by_batch", "runs", ["batch"])
