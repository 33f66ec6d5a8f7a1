"""Words for what a thread does, in sentences about who waits for whom."""

from __future__ import annotations

import re

from splvm.evidence.waiting.waitedges import Wait
from splvm.evidence.waiting.waits import WaitReason

# Characters of the place where a thread waits.
MAX_PLACE_CHARS = 80


def verb_of(wait: Wait, *, plural: bool = False) -> str:
    """What the thread does and where, as in "waits in F, in shrinker G, in direct reclaim,"."""
    verb = "keeps running" if wait.thread.state == "R" else "waits"
    places = [shown(place) for place in (*wait.functions[:1], *wait.inside)]
    if wait.reason is WaitReason.SHRINKER and wait.inside:
        # What waits is the shrinker, and not the function that called it.
        del places[0]
    text = verb + "".join(f"{',' if at else ''} in {place}" for at, place in enumerate(places))
    text += "," if len(places) > 1 else ""
    return plural_of(text) if plural else text


def shown(text: str, chars: int = MAX_PLACE_CHARS) -> str:
    """A word of the guest's as a sentence shows it."""
    return "".join(char if char.isprintable() else "?" for char in text[:chars]) or "?"


def plural_of(verb: str) -> str:
    """The verb as it is said of several threads."""
    return re.sub(r"\A(wait|keep)s\b", r"\1", re.sub(r"\Ais\b", "are", verb))
