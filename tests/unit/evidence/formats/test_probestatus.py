"""/proc/slabprobe."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splvm.errors import EvidenceError
from splvm.evidence.formats.probestatus import (
    Config,
    CriticalThread,
    Fail,
    FailPlace,
    Fragment,
    Growth,
    Hold,
    Kept,
    LiveObjects,
    Magazine,
    Mark,
    Pressure,
    RunState,
    ThreadsStatus,
    Transactions,
    Trap,
    TrapMode,
    parse_probe,
)

FUZZ = settings(deadline=None, max_examples=200, derandomize=True)

TEXT = """\
slabprobe 1
now_ns 8123456789
bits kvmem=0x80 deadlocked=0x4000 growing=0x8000 reaping=0x10000
hold armed=1 held=1 pid=77 since_ns=7012345678 entries=1 released_ns=0
trap mode=induced spent=1 tables=9 induced=8 sprung=7 declined=6 entered=1 waited=5 let_go=4 waiting=3 pid=77 \
since_ns=7012345679 released_ns=2 gfp=0xdc0
tx commits=397 carried=326 ballast=12 ballast_kib=3120
fail place=grow marked=5 injected=4 missed=1
config threads=2 objects=64 size=65536 pause_us=500 reap_rounds=1
run state=parked parked=2 stopped=0
live slab=-1 emergency=64 emergency_max=65 emergency_total=1234
thread 0 pid=90 rounds=12 allocs=768 frees=704 emergency=320 failures=0 corrupt=0 gap_max_ns=101800000 \
gap_total_max_ns=101900000 alloc_since_ns=0 last_ns=8123400000
thread 1 pid=91 rounds=11 allocs=700 frees=640 emergency=300 failures=1 corrupt=2 gap_max_ns=5 \
gap_total_max_ns=6 alloc_since_ns=8123400001 last_ns=8123300000
latency 12 345
latency 26 1
growth begun=9 done=8 slabs=10
magazine size=64 refill=32 cpus=2 hits=700 refills=30 grew=29 reusable=512 reused=511
waited 20 27
woken 13 26
woken 14 1
pressure on=1 held=92000 taken=99 given=98 refused=97 free=1234
mark 0 7000000000 settle
mark 1 7100000000 hold
"""
LINES = TEXT.splitlines(keepends=True)


def test_a_status() -> None:
    status = parse_probe(TEXT)
    assert status.now_ns == 8_123_456_789
    assert status.bits == {"kvmem": 0x80, "deadlocked": 0x4000, "growing": 0x8000, "reaping": 0x10000}
    assert status.config == Config(threads=2, objects=64, size=65536, pause_us=500, reap_rounds=1)
    assert status.run == ThreadsStatus(RunState.PARKED, parked=2, stopped=0)
    assert status.hold == Hold(armed=True, held=1, pid=77, since_ns=7_012_345_678, entries=1, released_ns=0)
    assert status.live == LiveObjects(slab=-1, emergency=64, emergency_max=65, emergency_total=1234)
    assert status.threads[0] == CriticalThread(
        0, 90, 12, 768, 704, 320, 0, 0, 101_800_000, 101_900_000, 0, 8_123_400_000
    )
    assert status.threads[1] == CriticalThread(1, 91, 11, 700, 640, 300, 1, 2, 5, 6, 8_123_400_001, 8_123_300_000)
    assert status.trap == Trap(TrapMode.INDUCED, True, 9, 8, 7, 6, 1, 5, 4, 3, 77, 7_012_345_679, 2, 0xDC0)
    assert status.tx == Transactions(397, 326, ballast=12, ballast_kib=3120)
    assert status.fail == Fail(FailPlace.GROW, marked=5, injected=4, missed=1)
    assert status.latency == {12: 345, 26: 1}
    assert status.growth == Growth(begun=9, done=8, slabs=10)
    assert status.magazine == Magazine(64, 32, 2, hits=700, refills=30, grew=29, reusable=512, reused=511)
    assert status.pressure == Pressure(True, held=92000, free=1234, taken=99, given=98, refused=97)
    assert (status.waited, status.woken) == ({20: 27}, {13: 26, 14: 1})
    assert status.marks == (Mark(0, 7_000_000_000, "settle"), Mark(1, 7_100_000_000, "hold"))


def test_a_status_before_anything_was_done() -> None:
    status = parse_probe("".join(LINES[:10]))
    assert (status.threads, status.latency, status.marks) == ((), {}, ())


def test_what_is_not_known_is_left_alone() -> None:
    text = TEXT.replace("entries=1", "entries=1 colour=red").replace("latency 12", "shrinker count=what\n\nlatency 12")
    assert parse_probe(text) == parse_probe(TEXT)


def test_a_status_of_before_the_trap() -> None:
    status = parse_probe("".join(line for line in LINES if not line.startswith(("trap ", "tx ", "fail "))))
    assert status.fail == Fail()
    assert (status.trap, status.tx, status.config.commits, status.hold.worker) == (Trap(), Transactions(), 0, True)
    later = TEXT.replace("reap_rounds=1", "reap_rounds=1 commits=300").replace("hold armed", "hold worker=0 armed")
    assert (parse_probe(later).config.commits, parse_probe(later).hold.worker) == (300, False)


def test_a_status_of_before_the_magazines() -> None:
    later = ("growth ", "magazine ", "waited ", "woken ")
    status = parse_probe("".join(line for line in LINES if not line.startswith(later)))
    assert (status.growth, status.magazine, status.waited, status.woken) == (None, None, {}, {})
    uncounted = parse_probe(TEXT.replace(" slabs=10", ""))
    assert uncounted.growth == Growth(begun=9, done=8, slabs=None)


def test_a_status_with_objects_kept() -> None:
    assert (parse_probe(TEXT).kept, parse_probe(TEXT).config.keep) == ((), 0)
    many = "kept 10000 objects=10 batches=4 min_ns=20220 median_ns=28810\n"
    few = "kept 10 objects=10 batches=5 min_ns=6970 median_ns=7710\n"
    status = parse_probe(TEXT.replace("reap_rounds=1", "reap_rounds=1 keep=10000") + many + few)
    assert status.config.keep == 10_000
    assert status.kept == (Kept(10, 10, 5, 6_970, 7_710), Kept(10_000, 10, 4, 20_220, 28_810))
    for line, words in ((few * 2, "doubled"), (few.replace("min_ns", "least_ns"), "missing: min_ns")):
        with pytest.raises(EvidenceError, match=words):
            parse_probe(TEXT + line)


def test_a_status_of_fragmented_memory() -> None:
    status = parse_probe(TEXT)
    assert (status.fragment, status.blocks, status.config.noio) == (Fragment(), {}, 0)
    lines = "fragment mib=512 filled=89121 punched=44560 rest=1380\nblocks now 43660 32 21\nblocks after 44497 0 0\n"
    status = parse_probe(TEXT.replace("reap_rounds=1", "reap_rounds=1 noio=1") + lines)
    assert (status.fragment, status.config.noio) == (Fragment(512, 89_121, 44_560, 1_380), 1)
    assert status.blocks == {"now": (43_660, 32, 21), "after": (44_497, 0, 0)}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("fragment mib=1 filled=1 punched=1", "missing: rest"),
        ("blocks", "of no time"),
        ("blocks then 1 2", "'then' are doubled or of no time"),
        ("blocks now 1\nblocks now 1", "'now' are doubled or of no time"),
        ("blocks now", "free blocks of 0 orders"),
        ("blocks now" + " 1" * 65, "free blocks of 65 orders"),
        ("blocks now 1 x", "not a number"),
    ],
)
def test_what_is_refused_of_fragmented_memory(line: str, words: str) -> None:
    with pytest.raises(EvidenceError, match=words):
        parse_probe(f"{TEXT}{line}\n")


def test_bits_that_later_versions_add_are_kept() -> None:
    assert parse_probe(TEXT.replace("reaping=", "destroy=0x20000 reaping=")).bits["destroy"] == 0x20000


@pytest.mark.parametrize("tag", ["now_ns", "bits", "hold", "config", "run", "live"])
def test_required_lines(tag: str) -> None:
    without = "".join(line for line in LINES if not line.startswith(tag + " "))
    with pytest.raises(EvidenceError, match=f"without a line `{tag}`") as caught:
        parse_probe(without)
    assert caught.value.line == len(LINES) - 1
    with pytest.raises(EvidenceError, match=f"a second line `{tag}`") as caught:
        parse_probe(TEXT + next(line for line in LINES if line.startswith(tag + " ")))
    assert caught.value.line == len(LINES) + 1


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (at, word.partition("=")[0])
        for at, line in enumerate(LINES, 1)
        for word in line.split()
        # `slabs` need not be there.
        if "=" in word and not word.startswith("slabs=")
    ],
)
def test_required_keys(line: int, key: str) -> None:
    lines = LINES.copy()
    lines[line - 1] = lines[line - 1].replace(f" {key}=", f" no_{key}=")
    with pytest.raises(EvidenceError) as caught:
        parse_probe("".join(lines))
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("slabprobe 1", "slabprobe 2", 1, "version 1"),
        ("slabprobe 1", "slabprobe", 1, "version 1"),
        ("slabprobe 1", "slabprobe 1 1", 1, "version 1"),
        ("slabprobe 1\n", "", 1, "version 1"),
        ("8123456789", "8123456789.5", 2, "not a number"),
        ("now_ns 8123456789", "now_ns", 2, "a number is missing"),
        ("0x4000", "4000h", 3, "not a number"),
        ("entries=1", "entries=", 4, "not a number"),
        ("entries=1", "entries=\u0661", 4, "not a number"),
        ("entries=1", "entries=" + "1" * 30, 4, "not a number"),
        ("state=parked", "state=asleep", 9, "'asleep', valid are stopped, running, parked"),
        ("mode=induced", "mode=on", 5, "'on', valid are off, induced, organic"),
        ("place=grow", "place=here", 7, "'here', valid are off, grow, emergency"),
        ("gfp=0xdc0", "gfp=dc0", 5, "not a number"),
        ("thread 1", "thread one", 12, "not a number"),
        ("latency 26", "latency 12", 14, "bucket 12"),
        ("latency 26", "latency 64", 14, "bucket 64"),
        ("latency 26 1", "latency 26", 14, "a number is missing"),
        ("begun=9", "begun=nine", 15, "not a number"),
        ("slabs=10", "slabs=", 15, "not a number"),
        ("reused=511", "reused=x", 16, "not a number"),
        ("woken 14", "woken 13", 19, "bucket 13"),
        ("waited 20", "waited 64", 17, "bucket 64"),
        ("on=1", "on=one", 20, "not a number"),
        ("7100000000 hold", "7100000000", 22, "a mark without a name"),
    ],
)
def test_what_is_refused(old: str, new: str, line: int, words: str) -> None:
    with pytest.raises(EvidenceError) as caught:
        parse_probe(TEXT.replace(old, new, 1))
    assert caught.value.line == line
    assert words in str(caught.value)


def test_an_empty_status() -> None:
    with pytest.raises(EvidenceError, match="empty"):
        parse_probe("")


def test_every_cut_is_noticed_or_between_lines() -> None:
    whole = {sum(map(len, LINES[:count])) for count in range(10, len(LINES) + 1)}
    for cut in range(len(TEXT)):
        if cut in whole:
            parse_probe(TEXT[:cut])
        else:
            with pytest.raises(EvidenceError):
                parse_probe(TEXT[:cut])


@FUZZ
@given(st.lists(st.tuples(st.integers(0, len(TEXT)), st.integers(0, 40), st.text(max_size=12)), max_size=4))
def test_fuzz_only_evidence_errors(edits: list[tuple[int, int, str]]) -> None:
    text = TEXT
    for at, gone, instead in edits:
        text = text[:at] + instead + text[at + gone :]
    try:
        parse_probe(text)
    except EvidenceError as error:
        assert error.line is not None or "empty" in error.message


def test_the_longest_status() -> None:
    text = TEXT + LINES[10] * 2_000 + "".join(f"mark {at} {at} m{at}\n" for at in range(2_000))
    status = parse_probe(text)
    assert (len(status.threads), len(status.marks)) == (2_002, 2_002)
