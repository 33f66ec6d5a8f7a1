"""The wait-for graph of a run as a drawing: a column of threads, and at its side the way back of a cycle. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from splvm.site.looks import printable

# Threads that are drawn, and those that are listed besides.
_DRAWN = 12
_LISTED = 40

BOX_WIDTH = 420
BOX_HEIGHT = 44
STEP = 84
_MARGIN = 12
# Where words beside an arrow begin: below a box, and at the right of the way back.
_WHY_X = 70
_BACK_X = 472
# A character of the drawing's 12 pixels, monospaced, at the widest.
_CHAR_PX = 7.5
# Characters of a place in a box; the list has them whole.
_BOXED = 54


@dataclass(frozen=True, slots=True)
class Box:
    """One thread: the top of its box, and two lines in it."""

    y: int
    name: str
    place: str


@dataclass(frozen=True, slots=True)
class Arrow:
    """From a box to the next one, with why the upper one waits."""

    y1: int
    y2: int
    why: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """Geometry in pixels, and the rest in words."""

    width: int
    height: int
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    # Why the last thread of a cycle waits for the first; None for a chain.
    back: str | None
    sentence: str
    # Every wait that was found: thread, state, and where it waits.
    waits: tuple[tuple[str, str, str], ...]
    more: int


def draw(wait_for: Mapping[str, Any]) -> Drawing | None:
    """Draw the cycle, or else the chain, of a verdict's `wait_for`; None if there is none."""
    if not wait_for:
        return None
    waits = {wait["pid"]: wait for wait in wait_for.get("waits", ())}
    cycle: Sequence[int] = wait_for.get("cycle", ())
    column = list(cycle or wait_for.get("chain", ()))
    cut, column = len(column) > _DRAWN, column[:_DRAWN]
    why = {(edge["from"], edge["to"]): str(edge["why"]) for edge in wait_for.get("edges", ())}
    boxes = tuple(
        Box(_MARGIN + at * STEP, _name(pid, waits), _place(waits.get(pid, {}), _BOXED)) for at, pid in enumerate(column)
    )
    arrows = tuple(
        Arrow(boxes[at].y + BOX_HEIGHT, boxes[at + 1].y, printable(why.get((one, other), ""), 60))
        for at, (one, other) in enumerate(pairwise(column))
    )
    back = printable(why.get((column[-1], column[0]), "…" if cut else ""), 60) if cycle else None
    listed = [(_name(pid, waits), str(wait["state"]), _place(wait)) for pid, wait in waits.items()]
    whys = [(_WHY_X, f"waits for {arrow.why}") for arrow in arrows] + ([(_BACK_X, back)] if back is not None else [])
    return Drawing(
        width=max(BOX_WIDTH, *(math.ceil(x + len(words) * _CHAR_PX) for x, words in whys), 0) + 2 * _MARGIN,
        height=2 * _MARGIN + max(0, len(boxes) - 1) * STEP + BOX_HEIGHT,
        boxes=boxes,
        arrows=arrows,
        back=back,
        sentence=printable(str(wait_for.get("sentence", ""))),
        waits=tuple(listed[:_LISTED]),
        more=max(0, len(listed) - _LISTED),
    )


def _name(pid: int, waits: Mapping[int, Mapping[str, Any]]) -> str:
    comm = printable(str(waits[pid]["comm"]), 32) if pid in waits else "thread"
    return f"{comm} (pid {pid})"


def _place(wait: Mapping[str, Any], most: int = 500) -> str:
    functions = " ← ".join(str(name) for name in wait.get("functions", ()))
    return printable(f"{wait.get('reason', '')}: {functions}" if functions else str(wait.get("reason", "")), most)
