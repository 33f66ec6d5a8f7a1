"""The digest of what a guest in virtual time left. A run in real time has none."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, empty."""
    op.add_column("runs", sa.Column("digest", sa.Text, nullable=False, server_default=""))
