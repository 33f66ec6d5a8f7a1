"""The host: what it can do, where packages come from, what is kept of them. Knows nothing of guests' contents."""
