"""JSON files that are replaced whole."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from splvm.errors import SetupError

# How half a surrogate pair, such as an argument that is not UTF-8, is written: as JSON's own escape.
ESCAPES = "backslashreplace"


def write_json(path: Path, value: object) -> None:
    """Whole or not at all: a reader never sees half of it.

    :raises SetupError: when it cannot be written; what was there before is as it was.
    """
    scratch = path.with_name(path.name + ".new")
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    try:
        scratch.write_text(text, encoding="utf-8", errors=ESCAPES)
        scratch.replace(path)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise SetupError(f"{path}: {error.strerror}", hint="is there room?") from error
