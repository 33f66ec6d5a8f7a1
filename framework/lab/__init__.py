"""Experiments: what is done to a guest, what is recorded, and what is expected of it."""
