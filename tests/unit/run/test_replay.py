"""Replaying: what a recorded run is made of, its moments, and frames that are compared as they come."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from simulated import simulate
from simulated_faults import FAULTS
from simulated_kinds import HELD
from simulated_texts import BASE_NS, PERIOD_NS
from splvm.clock import Clock
from splvm.errors import UsageError
from splvm.evidence.formats.stream import Frame, What
from splvm.run.replay import Comparison, Differs, find_moment, first_frame_ns, wish_of

RUN = simulate(HELD)
FACTS = {
    "kernel": {"id": "debian-12"},
    "spl": {
        "variant": "unscoped",
        "source": "path:/some/tree",
        "patches": [{"name": "a.patch", "path": "/a.patch"}],
    },
    "parameters": {"clock": "virtual", "ram_mib": 768},
    "line": "mine",
}


def frame(number: int, text: str) -> Frame:
    return Frame(number, number, "slab", What.DATA, 100 * number, 100 * number + 5, text)


def records(*frames: Frame) -> list[dict[str, Any]]:
    others = [{"kind": "start"}, {"kind": "phase", "name": "window"}]
    return others + [{"kind": "frame", "path": "bell", "at_s": 1.5, **asdict(it)} for it in frames]


def test_what_a_recorded_run_was_made_of() -> None:
    wish = wish_of(FACTS)
    assert (wish.kernel, wish.variant, wish.spl, wish.ram_mib) == ("debian-12", "unscoped", "path:/some/tree", 768)
    assert (wish.patches, wish.label, wish.clock) == ((Path("/a.patch"),), "mine", Clock.VIRTUAL)
    with pytest.raises(UsageError, match="in real time"):
        wish_of({**FACTS, "parameters": {"ram_mib": 512}})


def test_frames_that_are_the_same() -> None:
    frames = [frame(n, f"text {n}") for n in range(5)]
    # What the host adds to a frame is another thing in each run.
    comparison = Comparison(records(*frames), go_on=False)
    for each in frames:
        comparison.hear(each)
    assert comparison.end() == comparison.difference == ""
    assert comparison.frames == 5


def test_the_first_frame_that_differs_is_named() -> None:
    frames = [frame(n, f"text {n}") for n in range(5)]
    comparison = Comparison(records(*frames), go_on=False)
    comparison.hear(frames[0])
    with pytest.raises(Differs):
        comparison.hear(frame(1, "another text"))
    assert comparison.difference.startswith("frame 1: ")
    assert "text 1" in comparison.difference and "another text" in comparison.difference
    going_on = Comparison(records(*frames), go_on=True)
    for each in (frames[0], frame(1, "another text"), frame(2, "and another")):
        going_on.hear(each)
    assert going_on.end() == comparison.difference


def test_frames_that_are_missing_or_too_many() -> None:
    frames = [frame(n, f"text {n}") for n in range(3)]
    short = Comparison(records(*frames), go_on=False)
    short.hear(frames[0])
    assert short.end() == "frame 1: it is missing"
    long = Comparison(records(*frames[:1]), go_on=True)
    long.hear(frames[0])
    long.hear(frames[1])
    assert long.end() == "frame 1: there was none"


@pytest.mark.parametrize(
    ("asked", "after_ms"),
    [("6.5s", 2500.0), ("6.5s-5ms", 2495.0), ("6.5s+250us", 2500.25), ("sample:0", None), ("sample:10-1ms", None)],
)
def test_moments(asked: str, after_ms: float | None) -> None:
    moment = find_moment(asked, RUN.evidence().timeline, BASE_NS - 1_000_000_000)
    if after_ms is not None:
        assert moment.at_ns == BASE_NS + round(after_ms * 1e6)
    else:
        number = int(asked.partition(":")[2].partition("-")[0])
        assert abs(moment.at_ns - RUN.evidence().timeline.probe[number].start_ns) in (0, 1_000_000)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("", "it is no moment"),
        ("soon", "it is no moment"),
        ("stall-5", "it is no moment"),
        ("sample:100000", "samples of the probe, from 0 on"),
        ("1.0s", "the run begins at"),
        ("stall", "no thread stands still"),
    ],
)
def test_what_is_no_moment(asked: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        find_moment(asked, RUN.evidence().timeline, BASE_NS)


def test_the_stall_is_when_the_thread_moved_last() -> None:
    """It asked for the object then that it never got."""
    timeline = simulate(HELD, FAULTS["thread 1 stands still"]).evidence().timeline
    last = timeline.probe[-1].value
    moment = find_moment("stall", timeline, BASE_NS - PERIOD_NS)
    assert moment.at_ns in {it.alloc_since_ns for it in last.threads if it.alloc_since_ns}
    assert find_moment("stall-5ms", timeline, BASE_NS - PERIOD_NS).at_ns == moment.at_ns - 5_000_000


def test_the_first_frame() -> None:
    assert first_frame_ns(records(frame(3, "x"), frame(4, "y"))) == 305
    assert json.dumps(records(frame(1, "x")))
