"""What alembic runs: the migrations that are missing, on the connection that `History` hands over."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
