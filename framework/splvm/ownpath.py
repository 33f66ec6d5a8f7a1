"""Names of what is at a path of the user's: `path:` and where it is. The one place that reads them."""

from __future__ import annotations

from pathlib import Path, PurePath

_PREFIX = "path:"


def own_path(name: str) -> str | None:
    """What follows `path:`, which may be empty; None for a name of another form."""
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else None


def name_path(path: PurePath) -> str:
    """The name of what is at a path."""
    return f"{_PREFIX}{path}"


def absolute(text: str) -> Path:
    """The path that a user's words stand for: `~` is the home directory, and the rest is from the current one."""
    return Path(text).expanduser().absolute()
