"""splvm: proves or refutes that SPL makes forward progress while its slab worker is stuck.

`explain()` says what pasted text shows, `parse_slab()` reads a slab file, `judge()` judges recorded evidence. Each is
imported when it is first asked for, so that `import splvm` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splvm.evidence.formats.slab import parse_slab
    from splvm.paste.explanation import Explanation, explain
    from splvm.scenarios.judged import judge_evidence as judge

__version__ = "0.2.0"
__all__ = ("Explanation", "__version__", "explain", "judge", "parse_slab")

# Module, and what it is called there.
_HOMES = {
    "Explanation": ("splvm.paste.explanation", "Explanation"),
    "explain": ("splvm.paste.explanation", "explain"),
    "judge": ("splvm.scenarios.judged", "judge_evidence"),
    "parse_slab": ("splvm.evidence.formats.slab", "parse_slab"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
