"""JSON of the project's own files, by the types of what it holds. Pure.

msgspec reads and writes it: dataclasses and typed dictionaries as objects, paths and enumerations as texts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def to_json(value: object) -> Any:
    """What the json module can write."""
    return msgspec.to_builtins(value, enc_hook=_encode)


def from_json(told: object, kind: type[T]) -> T:
    """A value of a type from what the json module read. Keys that the type does not have are left out.

    :raises ValueError: when it is none, with the first place that is wrong.
    """
    try:
        return msgspec.convert(told, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at `$")
        at = place.removesuffix("`").removeprefix(".")
        raise ValueError(f"{at}: {what[:1].lower()}{what[1:]}" if at else what) from error
    except UnicodeEncodeError as error:
        # Of bytes that were no UTF-8 (surrogateescape); where a text belongs they are as good as others.
        raise ValueError("a text in it stands where something else belongs") from error


def _encode(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _decode(kind: type, told: object) -> object:
    if kind is Path and isinstance(told, str) and told and "\0" not in told:
        return Path(told)
    raise ValueError(f"Expected a path, got {type(told).__name__}")
