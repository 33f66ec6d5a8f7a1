"""Checks: each looks for one kind of trouble in a run and yields complaints. Pure."""
