"""/proc/spl/kmem/slab: both layouts, what is refused, and what rows say against themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from places import PROJECT
from splvm.errors import EvidenceError
from splvm.evidence.formats.slab import (
    CacheRow,
    Emergency,
    Layout,
    SlabFile,
    Usage,
    contradictions,
    parse_slab,
    regressions,
)

FUZZ = settings(deadline=None, max_examples=150, derandomize=True)

DATA = PROJECT / "tests" / "data"
NEW = (DATA / "slab-2012-11.txt").read_text()
OLD = (DATA / "slab-2012-08.txt").read_text()
# Bytes, because its CR LF must come through.
PASTED = (DATA / "slab-pasted.txt").read_bytes().decode()
GROUPS, COLUMNS, *ROWS = NEW.splitlines()
HEAD = f"{GROUPS}\n{COLUMNS}\n"

PROBE = CacheRow(
    name="slabprobe",
    flags=0xC080,
    size=1_056_768,
    alloc=1_048_576,
    slabsize=528_384,
    objsize=65_536,
    slab=Usage(2, 2, 9),
    object=Usage(80, 16, 72),
    emergency=Emergency(1, 64, 64),
)


def zio_cache(old: str, new: str) -> str:
    """A file with one row, whose `old` is made `new`."""
    return f"{HEAD}{ROWS[1].replace(old, new, 1)}\n"


def parse_one(row: str) -> CacheRow:
    (cache,) = parse_slab(f"{HEAD}{row}\n").caches
    return cache


# Reading


def test_the_layout_of_november_2012() -> None:
    slab = parse_slab(NEW)
    assert slab.layout is Layout.NOVEMBER_2012
    assert [row.name for row in slab.caches] == [
        "zfs_znode_cache",
        "zio_cache",
        "spl_zlib_workspace_cache",
        "slabprobe",
        "zio_buf_20480",
        "abd chunk pool",
        "zio_data_buf_131072",
        "a_cache_whose_name_is_longer_than_its_column",
    ]
    assert slab.cache("slabprobe") == PROBE


def test_the_layout_of_august_2012() -> None:
    slab = parse_slab(OLD)
    assert slab.layout is Layout.AUGUST_2012
    assert slab.cache("zio_buf_131072") == CacheRow(
        "zio_buf_131072",
        0x40,
        58_720_256,
        51_118_080,
        4_194_304,
        131_072,
        Usage(14, 13, 21),
        Usage(437, 390, 640),
        Emergency(None, 3, 7),
    )


def test_dashes_are_none() -> None:
    none = Usage(None, None, None)
    assert parse_slab(NEW).cache("zfs_znode_cache") == CacheRow(
        "zfs_znode_cache", 0x100, None, 25_392, None, 1_104, none, Usage(None, 23, None), Emergency(None, None, None)
    )


def test_numbers_wider_than_their_columns() -> None:
    row = parse_slab(NEW).cache("zio_data_buf_131072")
    assert row is not None
    assert (row.size, row.alloc) == (109_700_001_792, 109_222_297_600)
    assert (row.slab, row.object) == (Usage(104_211, 104_170, 120_008), Usage(833_688, 833_300, 960_011))


def test_json_is_the_contract() -> None:
    assert SlabFile(Layout.NOVEMBER_2012, (PROBE,)).to_json() == {
        "layout": "2012-11",
        "caches": [
            {
                "name": "slabprobe",
                "flags": 49_280,
                "size": 1_056_768,
                "alloc": 1_048_576,
                "slabsize": 528_384,
                "objsize": 65_536,
                "slab": {"total": 2, "alloc": 2, "max": 9},
                "object": {"total": 80, "alloc": 16, "max": 72},
                "emergency": {"dlock": 1, "alloc": 64, "max": 64},
            }
        ],
    }
    old = parse_slab(OLD).to_json()
    assert old["layout"] == "2012-08"
    assert old["caches"][1]["emergency"] == {"dlock": None, "alloc": 3, "max": 7}  # type: ignore[index]


def test_caches_by_name() -> None:
    slab = parse_slab(NEW)
    assert slab.cache("slabprobe2") is None
    assert slab.cache("abd chunk pool") == slab.caches[5]
    with pytest.raises(EvidenceError, match="2 rows are named 'slabprobe'"):
        replace(slab, caches=slab.caches * 2).cache("slabprobe")


# What people paste


def test_a_pasted_file() -> None:
    assert parse_slab(PASTED) == SlabFile(Layout.NOVEMBER_2012, parse_slab(NEW).caches[:6])


@pytest.mark.parametrize(
    "text",
    [
        f"\n\n{NEW}\n \n",
        NEW.replace("\n", "\r\n"),
        NEW.rstrip("\n"),
        f"\ufeff{NEW}",
        f"{COLUMNS}\n" + "\n".join(ROWS),
        "\n".join("    " + line for line in NEW.splitlines()),
        "\n".join(" ".join(line.split()) for line in NEW.splitlines()),
        NEW.replace(" ", "\u00a0"),
        NEW.replace(f"\n{ROWS[2]}", f"\n\n{HEAD}{ROWS[2]}"),
        f"$ cat /proc/spl/kmem/slab\n{NEW}$ ",
        f"{NEW}[root@bench ~]# \n",
        f"{NEW}bench ~ #\n",
        f"```text\n{NEW}\n```\n",
    ],
    ids=range(13),
)
def test_what_pasting_does_to_a_file(text: str) -> None:
    caches = parse_slab(text).caches
    expected = parse_slab(NEW).caches
    assert [replace(row, name="") for row in caches] == [replace(row, name="") for row in expected]
    assert [row.name.replace("\u00a0", " ") for row in caches] == [row.name for row in expected]


def test_a_last_row_with_collapsed_spaces() -> None:
    row = " ".join(ROWS[3].split())
    assert parse_slab(f"{HEAD}{row}\n").caches == (PROBE,)
    # Without its end, nobody can tell it from one that lost its last digits.
    with pytest.raises(EvidenceError, match="line 3: truncated: the last number is cut off"):
        parse_slab(f"{HEAD}{row}")


def test_a_file_without_caches() -> None:
    assert parse_slab(HEAD) == SlabFile(Layout.NOVEMBER_2012, ())
    assert parse_slab(COLUMNS) == SlabFile(Layout.NOVEMBER_2012, ())


# What is refused


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("slabinfo - version: 2.1\n", 1, "column names were expected"),
        (f"slab:\n{NEW}", 1, "column names were expected"),
        (f"{ROWS[0]}\n{HEAD}", 1, "column names were expected"),
        ("$ \n", 1, "no column names"),
        (f"{GROUPS}\n", 1, "the file ends before the column names"),
        (f"\n{GROUPS}\n{ROWS[0]}\n", 3, "no column names after"),
        (f"{GROUPS}\n{COLUMNS[:-1]}\n", 2, "columns that are not those"),
        (f"{COLUMNS[:-19]}\n", 1, "before August 2012"),
        (COLUMNS.replace("dlock", "emerg"), 1, "columns that are not those"),
        (NEW + OLD, 12, "the columns of 2012-08 in a file of 2012-11"),
        (f"{HEAD}{ROWS[0]}\nConnection reset\n{ROWS[1]}\n", 4, "not a row of a slab file, 2 of 15 cells"),
        (f"{HEAD}{ROWS[0][:60]}\n{ROWS[1]}\n", 3, "not a row of a slab file"),
        (f"{HEAD}{ROWS[0]}\n{ROWS[1][:60]}\n", 4, "truncated"),
        (f"{HEAD}{ROWS[0]}\n{ROWS[1][:-1]}", 4, "truncated: the last row has 14 of 15 cells"),
        (f"{HEAD}{ROWS[0]}\n{ROWS[4]}9\n{ROWS[5][:-1]}", 5, "truncated"),
        (f"{HEAD}{ROWS[0]} {ROWS[1]}\n", 3, "two rows on one line"),
        (zio_cache(" 1280 ", " 1 28 "), 3, "truncated"),
        (zio_cache(" 1280 ", " -280 "), 3, "not a number of 64 bits: '-280'"),
        (zio_cache(" 1280 ", " 0x80 "), 3, "not a number of 64 bits"),
        (zio_cache(" 1280 ", f" {1 << 64} "), 3, "not a number of 64 bits"),
        (zio_cache(" 1280 ", " 12\u0668 "), 3, "not a number of 64 bits"),
        (zio_cache("zio", "z\x1b[1m"), 3, "control characters"),
        (zio_cache("zio", "z\0o"), 3, "NUL"),
        (f"{HEAD}{'z' * 5_000}{ROWS[1]}\n", 3, "5140 characters"),
        (f"{HEAD}$ \n{ROWS[1]}\n", 3, "not a row"),
    ],
)
def test_what_is_refused(text: str, line: int, words: str) -> None:
    with pytest.raises(EvidenceError) as caught:
        parse_slab(text)
    assert words in str(caught.value)
    assert caught.value.line == line


@pytest.mark.parametrize("text", ["", "\n", " \r\n\n", "```\n```\n"])
def test_an_empty_file(text: str) -> None:
    with pytest.raises(EvidenceError, match="empty"):
        parse_slab(text)


@pytest.mark.parametrize("text", [NEW, OLD], ids=["2012-11", "2012-08"])
def test_every_cut_is_noticed_or_between_rows(text: str) -> None:
    starts = [at + 1 for at, char in enumerate(text) if char == "\n"]
    # Whole lines, with and without the end of the last one, from the column names on.
    whole = {*starts[1:], *(start - 1 for start in starts[1:])}
    for cut in range(1, len(text)):
        if cut in whole:
            parse_slab(text[:cut])
        else:
            with pytest.raises(EvidenceError) as caught:
                parse_slab(text[:cut])
            assert caught.value.line == text[:cut].count("\n") + (cut not in starts)


@FUZZ
@given(
    st.sampled_from([NEW, OLD, PASTED]),
    st.lists(st.tuples(st.integers(0, len(NEW)), st.integers(0, 200), st.text(max_size=12)), max_size=4),
)
def test_fuzz_only_evidence_errors(text: str, edits: list[tuple[int, int, str]]) -> None:
    for at, gone, instead in edits:
        text = text[:at] + instead + text[at + gone :]
    try:
        slab = parse_slab(text)
    except EvidenceError:
        return
    for row in slab.caches:
        contradictions(row)
        regressions(row, row)


def test_long_files_take_their_time_once() -> None:
    assert len(parse_slab(HEAD + f"{ROWS[5]}\n" * 10_000).caches) == 10_000
    for hostile in ("- " * 2_000, "0x0 " * 1_000, "a@b " * 1_000 + "$", " " * 4_000 + "x"):
        with pytest.raises(EvidenceError):
            parse_slab(f"{HEAD}{hostile}\n")


# What a row says against itself


def test_sound_rows() -> None:
    for row in (*parse_slab(NEW).caches, *parse_slab(OLD).caches):
        assert contradictions(row) == ()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"size": 1}, "size is 1, but 2 slabs of 528384 bytes take 1056768"),
        ({"alloc": 2}, "alloc is 2, but 16 objects of 65536 bytes take 1048576"),
        ({"slab": Usage(2, 3, 9)}, "slab alloc 3 exceeds slab total 2"),
        ({"slab": Usage(2, 2, 1)}, "slab alloc 2 exceeds slab max 1"),
        ({"object": Usage(80, 16, 15)}, "object alloc 16 exceeds object max 15"),
        ({"object": Usage(15, 16, 72)}, "object alloc 16 exceeds object total 15"),
        ({"emergency": Emergency(1, 64, 63)}, "emergency alloc 64 exceeds emergency max 63"),
        ({"object": Usage(80, 1, 72), "alloc": 65_536}, "slab alloc 2 exceeds object alloc 1"),
        ({"object": Usage(80, 16, 8)}, "slab max 9 exceeds object max 8"),
        (
            {"object": Usage(79, 16, 72)},
            "object alloc 16 and emergency alloc 64 make 80, more than object total 79",
        ),
        (
            {"object": Usage(81, 16, 72)},
            "object total 81 less emergency alloc 64 is 17, which 2 slabs of equally many objects cannot hold",
        ),
        (
            {"slab": Usage(0, 0, 9), "size": 0, "object": Usage(65, 0, 72), "alloc": 0},
            "object total 65 less emergency alloc 64 is 1, which 0 slabs of equally many objects cannot hold",
        ),
        (
            {"object": Usage(64, 0, 72), "alloc": 0},
            "object total 64 less emergency alloc 64 is 0, which 2 slabs of equally many objects cannot hold",
        ),
        ({"slab": Usage(2, 1, 9)}, "object alloc 16 exceeds 8, slab alloc 1 of 8 objects each"),
        ({"object": Usage(80, 16, 73)}, "object max 73 exceeds 72, slab max 9 of 8 objects each"),
        (
            {"emergency": Emergency(1, (1 << 64) - 2, 64)},
            "emergency alloc is 18446744073709551614, it went below zero by 2",
        ),
    ],
)
def test_contradictions(change: dict[str, object], sentence: str) -> None:
    assert f"slabprobe: {sentence}" in contradictions(replace(PROBE, **change))  # type: ignore[arg-type]


def test_a_counter_below_zero_is_the_only_sentence() -> None:
    row = replace(PROBE, emergency=Emergency(1, (1 << 64) - 1, 64))
    assert len(contradictions(row)) == 1


def test_emergency_objects_without_a_deadlock_are_sound() -> None:
    assert contradictions(replace(PROBE, emergency=Emergency(0, 64, 64))) == ()


def test_the_sum_over_cpus_of_a_linux_slab_may_be_below_zero() -> None:
    minus_one = (1 << 64) - 1
    row = parse_one(ROWS[1].replace(" 0 ", f" {(1 << 64) - 1280} ", 1).replace(" 0 ", f" {minus_one} ", 1))
    assert (row.objsize, row.object.alloc) == (1280, minus_one)
    assert contradictions(row) == ()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"slab": Usage(2, 2, 8)}, "slab max went down from 9 to 8"),
        ({"object": Usage(80, 16, 71)}, "object max went down from 72 to 71"),
        ({"emergency": Emergency(1, 63, 63)}, "emergency max went down from 64 to 63"),
        ({"emergency": Emergency(0, 64, 64)}, "dlock went down from 1 to 0"),
        ({"objsize": 4_096}, "objsize changed from 65536 to 4096: this is another cache"),
        ({"slabsize": 4_096}, "slabsize changed from 528384 to 4096: this is another cache"),
    ],
)
def test_regressions(change: dict[str, object], sentence: str) -> None:
    after = replace(PROBE, **change)  # type: ignore[arg-type]
    assert regressions(PROBE, after) == (f"slabprobe: {sentence}",)
    if "size" not in sentence:
        assert regressions(after, PROBE) == ()


def test_what_may_go_down() -> None:
    drained = replace(
        PROBE, size=0, alloc=0, slab=Usage(0, 0, 9), object=Usage(0, 0, 72), emergency=Emergency(1, 0, 64)
    )
    assert regressions(PROBE, drained) == ()


def test_regressions_need_one_cache() -> None:
    with pytest.raises(ValueError, match="two caches"):
        regressions(PROBE, replace(PROBE, name="zio_cache"))


# A cache in motion: whatever SPL does to its counters, no row may contradict itself.


@dataclass
class Model:
    """The counters of spl-kmem-cache.c, changed as its functions change them, one call at a time."""

    per_slab: int
    objsize: int
    slabs: list[int] = field(default_factory=list)  # objects in use of each slab
    slab_max: int = 0
    object_max: int = 0
    dlock: int = 0
    emergency: int = 0
    emergency_max: int = 0

    def grow(self) -> None:
        self.slabs.append(0)

    def take(self) -> None:
        free = [at for at, used in enumerate(self.slabs) if used < self.per_slab]
        if free:
            self.slabs[free[0]] += 1
            self.object_max = max(self.object_max, sum(self.slabs))
            self.slab_max = max(self.slab_max, sum(used > 0 for used in self.slabs))

    def give(self) -> None:
        used = [at for at, count in enumerate(self.slabs) if count]
        if used:
            self.slabs[used[-1]] -= 1

    def reap(self) -> None:
        self.slabs = [used for used in self.slabs if used]

    def time_out(self) -> None:
        self.dlock += 1

    def take_emergency(self) -> None:
        self.emergency += 1
        self.emergency_max = max(self.emergency_max, self.emergency)

    def give_emergency(self) -> None:
        self.emergency = max(0, self.emergency - 1)

    def line(self) -> str:
        slabsize = self.per_slab * (self.objsize + 64) + 128
        total, in_use = len(self.slabs), sum(self.slabs)
        return (
            f"{'a model cache':36}  0x00080"
            f" {slabsize * total:9} {self.objsize * in_use:9} {slabsize:8} {self.objsize:8}"
            f"  {total:5} {sum(used > 0 for used in self.slabs):5} {self.slab_max:5}"
            f"  {total * self.per_slab + self.emergency:5} {in_use:5} {self.object_max:5}"
            f"  {self.dlock:5} {self.emergency:5} {self.emergency_max:5}"
        )


STEPS = (Model.grow, Model.take, Model.give, Model.reap, Model.time_out, Model.take_emergency, Model.give_emergency)


@FUZZ
@given(
    st.integers(1, 9),
    st.integers(1, 2**32 - 1),
    st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, 12)), min_size=1, max_size=15),
)
def test_a_cache_in_motion_never_contradicts_itself(
    per_slab: int, objsize: int, steps: list[tuple[Callable[[Model], None], int]]
) -> None:
    model = Model(per_slab, objsize)
    before = parse_one(model.line())
    for step, times in steps:
        for _ in range(times):
            step(model)
        after = parse_one(model.line())
        assert contradictions(after) == ()
        assert regressions(before, after) == ()
        assert (after.object.alloc, after.emergency.alloc) == (sum(model.slabs), model.emergency)
        before = after
