"""Framing of the agent's stream."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splvm.errors import EvidenceError
from splvm.evidence.formats.stream import (
    MAX_HEADER_BYTES,
    MAX_LINE_CHARS,
    MAX_PAYLOAD_BYTES,
    Frame,
    FrameReader,
    What,
    excerpt,
    payload_lines,
)

FUZZ = settings(deadline=None, max_examples=150, derandomize=True)

HELLO = Frame(0, 0, "agent", What.DATA, 1_000, 1_001, "hello version=1 rate_hz=20 slow_every=10\n")
SLAB = Frame(1, 3, "slab", What.DATA, 2_000, 2_900, "name flags\nzio_cache 0x00100\n\nF 9 9 slab same 1 1 0\n")
SAME = Frame(3, 4, "slab", What.SAME, 3_000, 3_005, "")
BLOCKED = Frame(4, 5, "slab", What.BLOCKED, 4_000, 99_000, "")
ERROR = Frame(5, 6, "probe", What.ERROR, 5_000, 5_001, "errno=2 /proc/slabprobe")
FRAMES = (HELLO, SLAB, SAME, BLOCKED, ERROR)

frames = st.builds(
    Frame,
    seq=st.integers(0, 2**64 - 1),
    tick=st.integers(0, 2**32),
    source=st.sampled_from(["agent", "slab", "probe", "tasks", "meminfo", "ctl"]),
    what=st.just(What.DATA),
    start_ns=st.integers(0, 2**63),
    end_ns=st.integers(0, 2**63),
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=80),
)


def wire(frame: Frame) -> bytes:
    payload = frame.text.encode()
    head = f"F {frame.seq} {frame.tick} {frame.source} {frame.what} {frame.start_ns} {frame.end_ns} {len(payload)}\n"
    return head.encode() + payload + b"\n"


WIRE = b"".join(wire(frame) for frame in FRAMES)


def test_a_stream_in_one_piece() -> None:
    reader = FrameReader()
    assert reader.feed(WIRE) == list(FRAMES)
    assert reader.offset == len(WIRE)
    reader.close()


def test_a_stream_byte_by_byte() -> None:
    reader = FrameReader()
    got = [frame for at in range(len(WIRE)) for frame in reader.feed(WIRE[at : at + 1])]
    assert got == list(FRAMES)


@FUZZ
@given(st.lists(frames, max_size=6), st.lists(st.integers(0, 2_000), max_size=12))
def test_chunks_make_no_difference(sent: list[Frame], cuts: list[int]) -> None:
    data = b"".join(wire(frame) for frame in sent)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    reader = FrameReader()
    got = [frame for a, b in pairwise(edges) for frame in reader.feed(data[a:b])]
    assert got == sent
    reader.close()


def test_a_frame_comes_with_its_last_byte() -> None:
    reader = FrameReader()
    assert reader.feed(wire(SLAB)[:-1]) == []
    assert reader.feed(b"\n") == [SLAB]


def test_the_largest_payload() -> None:
    frame = replace(SLAB, text="x" * MAX_PAYLOAD_BYTES)
    assert FrameReader().feed(wire(frame)) == [frame]


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    assert FrameReader().feed(b"F 0 0 slab data 1 2 3\na\xff\xc3\n")[0].text == "a\ufffd\ufffd"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"X", "not a frame header"),
        (b"\n", "not a frame header"),
        (b"Fx", "not a frame header"),
        (b"F 0 0 slab data 1 2\n", "not a frame header"),
        (b"F 0 0 slab data 1 2 3 4\n", "not a frame header"),
        (b"F -1 0 slab data 1 2 3\n", "not a frame header"),
        (b"F 0 0 SLAB data 1 2 3\n", "not a frame header"),
        (b"F 0 0 slab gone 1 2 3\n", "not a frame header"),
        (b"F 0 0 slab data 1 2 0x3\n", "not a frame header"),
        (b"F 0 0 slab data 1 2 \xd9\xa3\n", "not a frame header"),
        (b"F 0  0 slab data 1 2 3\n", "not a frame header"),
        (b"F " + b"1" * MAX_HEADER_BYTES, "not a frame header"),
        (b"F 0 0 slab data 1 2 1048577\n", "1048577 bytes, the limit is 1048576"),
        (b"F 0 0 slab data 1 2 9999999999\n", "9999999999 bytes"),
        (b"F 0 0 slab same 1 2 1\nx\n", "where none belongs"),
        (b"F 0 0 slab blocked 1 2 1\nx\n", "where none belongs"),
        (b"F 0 0 slab data 1 2 3\nabcd\n", "no newline after the payload"),
        (b"sh: splvm-agent: not found\n", "not a frame header"),
    ],
)
def test_garbage_is_refused(data: bytes, words: str) -> None:
    reader = FrameReader()
    with pytest.raises(EvidenceError, match=r"at byte 0\b") as caught:
        reader.feed(data)
    assert words in str(caught.value)


def test_the_error_names_the_byte_where_the_bad_frame_begins() -> None:
    reader = FrameReader()
    reader.feed(wire(HELLO))
    reader.feed(wire(SAME))
    with pytest.raises(EvidenceError, match=rf"at byte {len(wire(HELLO) + wire(SAME))}\b"):
        reader.feed(b"F 9 9 slab dat")
        reader.feed(b"\n")


def test_frames_before_the_garbage_are_not_lost() -> None:
    reader = FrameReader()
    assert reader.feed(wire(HELLO) + wire(SLAB) + b"garbage") == [HELLO, SLAB]
    with pytest.raises(EvidenceError, match="garbage"):
        reader.feed(b"")
    with pytest.raises(EvidenceError, match="garbage"):
        reader.feed(wire(SAME))
    with pytest.raises(EvidenceError, match="garbage"):
        reader.close()


@pytest.mark.parametrize("cut", [1, 10, len(wire(SLAB)) - 1])
def test_an_end_inside_a_frame(cut: int) -> None:
    reader = FrameReader()
    reader.feed(wire(HELLO) + wire(SLAB)[:cut])
    with pytest.raises(EvidenceError, match=rf"inside the frame that begins at byte {len(wire(HELLO))}$"):
        reader.close()


@FUZZ
@given(st.integers(0, len(WIRE)), st.integers(0, 30), st.binary(max_size=30))
def test_fuzz_only_evidence_errors(at: int, gone: int, instead: bytes) -> None:
    reader = FrameReader()
    got = []
    try:
        got += reader.feed(WIRE[:at] + instead + WIRE[at + gone :])
        got += reader.feed(b"")
        reader.close()
    except EvidenceError:
        pass
    ends = [len(b"".join(wire(frame) for frame in FRAMES[:count])) for count in range(len(FRAMES) + 1)]
    untouched = sum(end <= at for end in ends) - 1
    assert got[:untouched] == list(FRAMES[:untouched])


def test_lines_end_at_line_feeds_only() -> None:
    assert list(payload_lines("a\u2028b\x0cc\r\n\r\nd")) == [(1, "a\u2028b\x0cc"), (2, ""), (3, "d")]
    assert list(payload_lines("")) == []
    assert list(payload_lines("a\n")) == [(1, "a")]


@pytest.mark.parametrize(("text", "line"), [("a\nb\0c\n", 2), ("x" * (MAX_LINE_CHARS + 1), 1)])
def test_lines_that_are_not_text(text: str, line: int) -> None:
    with pytest.raises(EvidenceError) as caught:
        list(payload_lines(text))
    assert caught.value.line == line


def test_excerpts_are_short_and_escaped() -> None:
    assert excerpt("a\x1b[31m") == r"'a\x1b[31m'"
    assert len(excerpt("\u2028" * 10_000)) < 500
