"""How the tables came to be what they are; run by alembic when a history is opened."""
