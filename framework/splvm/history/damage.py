"""What a row of the history has to be: somebody may have edited the database by hand. Pure.

The tables give a value that cannot be read as it is, and it is found here; nothing is guessed, and no row is left out
in silence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime

from splvm.evidence.verdict import Outcome
from splvm.history.cell import read_parameters
from splvm.history.schema import TROUBLE

_VERDICTS = frozenset({TROUBLE, *(outcome.value for outcome in Outcome)})


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_name(value: object) -> bool:
    return _is_text(value) and value != ""


def _is_moment(value: object) -> bool:
    return isinstance(value, datetime) and 1970 <= value.year < 3000 and value.tzinfo is None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_hashes(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_text, (*value, *value.values())))


def _are_parameters(value: object) -> bool:
    with suppress(ValueError):
        return isinstance(value, str) and _is_text(value) and read_parameters(value) is not None
    return False


# By table and column. Every column is in it.
CHECKS: Mapping[str, Mapping[str, Callable[[object], bool]]] = {
    "runs": {
        "id": _is_name,
        "batch": _is_text,
        "started": _is_moment,
        **dict.fromkeys(("scenario", "kernel", "variant"), _is_name),
        **dict.fromkeys(
            ("loads", "line", "release", "spl_version", "spl_source", "content", "revision", "tree", "digest"),
            _is_text,
        ),
        "token": lambda value: value is None or _is_name(value),
        **dict.fromkeys(
            ("accelerator", "qemu", "host", "starved", "reason", "fingerprint", "directory", "command"), _is_text
        ),
        "parameters": _are_parameters,
        "patches": _are_texts,
        "modules": _are_hashes,
        "verdict": lambda value: value in _VERDICTS,
        "expected": _are_texts,
        "as_expected": _is_flag,
        "duration_s": lambda value: value is None or (_is_number(value) and float(str(value)) >= 0),
    },
    "figures": {"run_id": _is_name, "name": _is_name, "value": _is_number},
    "batches": {"id": _is_name, "started": _is_moment, "planned": _is_count, "ended": _is_flag},
}


def find_fault(table: str, values: Mapping[str, object]) -> str:
    """What is wrong with a row, by its column; empty if nothing is.

    :param values: of the columns that were read.
    """
    for column, value in values.items():
        if not CHECKS[table][column](value):
            return f"{column} is {repr(value)[:80]}"
    return ""
