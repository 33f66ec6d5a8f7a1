"""A file of TOML that a user names."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from splvm.errors import UsageError
from splvm.plainfile import MIB, read_plain

# More than anybody writes by hand.
_MOST_BYTES = 4 * MIB


def read_toml(option: str, path: Path) -> dict[str, Any]:
    """What is in it.

    :param option: by which it was named.
    :raises UsageError: when it cannot be read, or is no TOML; with the place.
    """
    try:
        return tomllib.loads(read_plain(path, _MOST_BYTES, follow=True).decode())
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        # Also bytes that are no text, and a number of more digits than Python reads.
        raise UsageError(f"{option} {path}: {error}", hint="it is TOML: https://toml.io/") from error
