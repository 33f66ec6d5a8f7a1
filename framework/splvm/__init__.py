"""splvm: proves or refutes that SPL makes forward progress while its slab worker is stuck."""

from __future__ import annotations

__version__ = "0.1.0"
