"""JSON files that are replaced whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_origin, get_type_hints

from splvm.errors import SetupError

# How half a surrogate pair, such as an argument that is not UTF-8, is written: as JSON's own escape.
ESCAPES = "backslashreplace"

Made = TypeVar("Made")


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


def make_typed(kind: type[Made], told: Mapping[str, Any]) -> Made:
    """A dataclass of what a file says, each value of its field's type; a whole number is a number too.

    :raises TypeError: when one is of another type, one that is needed is not there, or one is there that is no field.
    """
    for name, hint in get_type_hints(kind).items():
        value = told.get(name)
        wanted = hint if isinstance(hint, UnionType) else get_origin(hint) or hint
        fits = isinstance(value, wanted) or (type(value) is int and isinstance(float(value), wanted))
        if name in told and (not fits or (type(value) is bool and wanted is not bool)):
            raise TypeError(f"{name} is {value!r}")
    return kind(**told)
