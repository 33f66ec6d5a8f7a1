"""What each matrix was to run, and whether it came to its end. Of those that are there already nobody knows."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add an empty table."""
    op.create_table(
        "batches",
        sa.Column("id", sa.String(200), primary_key=True),
        sa.Column("started", sa.DateTime, nullable=False),
        sa.Column("planned", sa.Integer, nullable=False),
        sa.Column("ended", sa.Boolean, nullable=False),
    )
