"""Memory dumps: what drgn finds in one, and what that says of SPL."""
