"""Delays at instructions of SPL, by which a run is made to take another course: their text, and the probe's commands.

Pure. A delay is written FUNCTION+OFFSET#HIT:US: whoever comes by that instruction, the HIT-th time that anybody does,
is delayed there by so many microseconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from splvm.errors import EvidenceError, UsageError

# The module whose instructions these are, unless a place names another one before a colon.
MODULE = "spl"
# Microseconds of the guest, one of which each delay that is drawn has: so long that a thread on another CPU gets past a
# few instructions, that a tick comes, and that work is done which waits for a sleeper.
LENGTHS_US = (100, 1000, 8000)
# Hits in a row that are delayed at a place.
IN_A_ROW = (1, 2, 4, 8)
# Points and delays of a run (images/slabprobe/explore.c), and bytes of a command: the agent takes 200 with its number
# (COMMAND_LEN in images/guest/agent.c).
MOST_POINTS = 768
MOST_DELAYS = 64
MOST_DEPTH = MOST_DELAYS // max(IN_A_ROW)
_COMMAND_BYTES = 180

_DELAY = re.compile(r"((?:zfs:)?[\w.]{1,70}\+0x[0-9a-f]{1,6})#([1-9]\d{0,8}):([1-9]\d{0,4})")
_TOLD = re.compile(r"slabprobe: point (?:spl:)?((?:zfs:)?[\w.]+\+0x[0-9a-f]+) hits=(\d+) err=(-?\d+)")


@dataclass(frozen=True, slots=True, order=True)
class Delay:
    """One delay."""

    # FUNCTION+0xOFFSET, of another module than SPL zfs:FUNCTION+0xOFFSET.
    place: str
    # Counted from 1, over all threads.
    hit: int
    us: int

    def __str__(self) -> str:
        return f"{self.place}#{self.hit}:{self.us}"


def parse_delay(text: str) -> Delay:
    """:raises UsageError: when it is none."""
    match = _DELAY.fullmatch(text)
    if match is None:
        raise UsageError(
            f"{text}: it is no delay", hint="FUNCTION+OFFSET#HIT:US, for example spl_cache_grow_work+0x22c#3:1000"
        )
    return Delay(match[1], int(match[2]), int(match[3]))


def commands(delays: Sequence[Delay]) -> tuple[str, ...]:
    """What the probe is told before the first step."""
    each = (f"explore delay {_named(it.place)} {it.hit} {it.us}" for it in delays)
    return (*each, "explore on") if delays else ()


def _named(place: str) -> str:
    """As the probe takes it: with its module."""
    return place if ":" in place else f"{MODULE}:{place}"


def watch_commands(places: Sequence[str]) -> tuple[str, ...]:
    """The same where all points are only counted."""

    def batches() -> Iterator[str]:
        line = "explore points"
        for place in places:
            if len(line) + len(_named(place)) + 1 > _COMMAND_BYTES:
                yield line
                line = "explore points"
            line += f" {_named(place)}"
        yield line

    return (*batches(), "explore on") if places else ()


# What the probe is told at the end of such a run: it says on the console how often each point was met.
TELL_COMMAND = "explore tell"


@dataclass(frozen=True, slots=True)
class Counts:
    """How often the points were met in a run without delays."""

    # Of those that were met, by place.
    hits: Mapping[str, int]
    # At which no kprobe can be set, with the kernel's error.
    blind: Mapping[str, int]

    @property
    def total(self) -> int:
        """All hits: n."""
        return sum(self.hits.values())

    def to_json(self) -> dict[str, dict[str, int]]:
        return {"hits": dict(self.hits), "blind": dict(self.blind)}


def parse_counts(console: str) -> Counts:
    """:raises EvidenceError: when the probe has not told of its points, or not of all."""
    if "slabprobe: points end" not in console:
        raise EvidenceError("the probe did not say how often its points were met")
    told = [(place, int(hits), int(error)) for place, hits, error in _TOLD.findall(console)]
    return Counts(
        {place: hits for place, hits, error in told if hits and not error},
        {place: error for place, _, error in told if error},
    )


def draw(seed: int, counts: Counts, depth: int) -> tuple[Delay, ...]:
    """The delays of a seed: places that differ, each as likely as any other, and some hits in a row at each.

    A place that is met a thousand times is not drawn more often than one that is met once: what is rare is where nobody
    has looked. What has to happen twice before it is noticed needs more than one hit.

    :param depth: how many places.
    """
    random = Random(f"splvm {seed}")
    places = sorted(counts.hits)
    drawn = []
    for place in random.sample(places, min(depth, len(places))):
        hits, us = min(random.choice(IN_A_ROW), counts.hits[place]), random.choice(LENGTHS_US)
        first = random.randint(1, counts.hits[place] - hits + 1)
        drawn += [Delay(place, hit, us) for hit in range(first, first + hits)]
    return tuple(drawn)


def chance_of_pair(counts: Counts, depth: int) -> tuple[float, float]:
    """The chance that a seed delays two given hits of two places: of those that are met once, and of the busiest."""
    places, depth = len(counts.hits), min(depth, len(counts.hits))
    if places < 2 or depth < 2:
        return 0.0, 0.0
    pair = depth * (depth - 1) / (places * (places - 1))
    one, other = sorted(counts.hits.values())[-2:]
    return pair, pair * _chance_of_hit(one) * _chance_of_hit(other)


def _chance_of_hit(hits: int) -> float:
    """The mean chance of a hit, of so many of a place, to be among those that are drawn of it."""
    return sum(min(length, hits) / hits for length in IN_A_ROW) / len(IN_A_ROW)


def fewest(delays: Sequence[Delay], shows: Callable[[Sequence[Delay]], bool]) -> tuple[Delay, ...]:
    """As few of the delays as still show it, so that none of them can be left out: A. Zeller's ddmin (2002).

    :param delays: that show it.
    :param shows: asked with parts of them, each once.
    """
    left, parts = tuple(delays), 2
    if shows(()):
        return ()
    while len(left) > 1:
        parts = min(parts, len(left))
        bounds = [len(left) * part // parts for part in range(parts + 1)]
        chunks = [(left[a:b], left[:a] + left[b:]) for a, b in pairwise(bounds)]
        if (alone := next((chunk for chunk, _ in chunks if shows(chunk)), None)) is not None:
            left, parts = alone, 2
        elif parts > 2 and (rest := next((rest for _, rest in chunks if shows(rest)), None)) is not None:
            left, parts = rest, parts - 1
        elif parts < len(left):
            parts *= 2
        else:
            break
    return left
