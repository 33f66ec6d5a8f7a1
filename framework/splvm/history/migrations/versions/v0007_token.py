"""The word of a run, which copies of its record have too. Of runs that are there already nobody knows it."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, empty: rows without a word may be many."""
    op.add_column("runs", sa.Column("token", sa.String(17), nullable=True))
    op.create_index("runs_by_token", "runs", ["token"], unique=True)
