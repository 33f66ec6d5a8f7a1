"""One run: what is done to a guest, what it has to bear, what is expected, and how it is driven."""
