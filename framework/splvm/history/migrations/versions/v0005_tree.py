"""The commit of the user's tree. Of runs that are there already nobody knows it."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns, empty."""
    for name in ("revision", "tree"):
        op.add_column("runs", sa.Column(name, sa.Text, nullable=False, server_default=""))
