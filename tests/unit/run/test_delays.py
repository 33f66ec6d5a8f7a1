"""Delays: their text, what the probe is told, what it says of its points, and what a seed draws."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from splvm.errors import EvidenceError, UsageError
from splvm.run.delays import (
    IN_A_ROW,
    LENGTHS_US,
    MOST_DELAYS,
    MOST_DEPTH,
    Counts,
    Delay,
    chance_of_pair,
    commands,
    draw,
    fewest,
    parse_counts,
    parse_delay,
    watch_commands,
)

COUNTS = Counts({"busy+0x10": 1000, "rare+0x20": 1, "some+0x30": 50, "other+0x4": 7}, {})


def test_a_delay_is_its_text() -> None:
    delay = Delay("spl_cache_grow_work+0x22c", 3, 1000)
    assert str(delay) == "spl_cache_grow_work+0x22c#3:1000"
    assert parse_delay(str(delay)) == delay
    assert parse_delay("zfs:dmu_tx_assign+0x10#2:100") == Delay("zfs:dmu_tx_assign+0x10", 2, 100)
    assert parse_delay("spl_kmem_cache_reap_now.part.0+0x1#1:1").place == "spl_kmem_cache_reap_now.part.0+0x1"


@pytest.mark.parametrize(
    "text",
    ["", "f+0x1", "f+1#1:1", "f+0x1#0:1", "f+0x1#1:", "f+0x1#1:1\n", "f g+0x1#1:1", "ext4:f+0x1#1:1", "f+0x1#1:-1"],
)
def test_what_is_no_delay(text: str) -> None:
    with pytest.raises(UsageError, match="it is no delay"):
        parse_delay(text)


def test_what_the_probe_is_told() -> None:
    assert commands([]) == ()
    assert commands([Delay("f+0x1", 2, 30)]) == ("explore delay spl:f+0x1 2 30", "explore on")
    assert commands([Delay("zfs:f+0x1", 2, 30)])[0] == "explore delay zfs:f+0x1 2 30"
    places = [f"a_function_with_a_long_name_{number}+0x{number:x}" for number in range(100)]
    *points, last = watch_commands(places)
    assert last == "explore on"
    assert all(len(line) <= 180 and line.startswith("explore points spl:") for line in points)
    assert [word.removeprefix("spl:") for line in points for word in line.split()[2:]] == places


def test_what_the_probe_says_of_its_points() -> None:
    console = (
        "[    9.1] slabprobe: point spl:f+0x1 hits=12 err=0\r\n[    9.1] slabprobe: point spl:g+0x2 hits=0 err=0\r\n"
        "[    9.1] slabprobe: point spl:h.part.0+0xff hits=0 err=-22\r\n"
        "[    9.2] slabprobe: point zfs:f+0x1 hits=3 err=0\r\n[    9.2] slabprobe: points end\r\n"
    )
    counts = parse_counts(console)
    assert dict(counts.hits) == {"f+0x1": 12, "zfs:f+0x1": 3} and counts.total == 15
    assert dict(counts.blind) == {"h.part.0+0xff": -22}
    with pytest.raises(EvidenceError, match="did not say how often"):
        parse_counts(console.replace("points end", ""))


def test_a_seed_draws_the_same_each_time() -> None:
    assert draw(7, COUNTS, 3) == draw(7, COUNTS, 3)
    assert len({draw(seed, COUNTS, 3) for seed in range(50)}) > 40
    # It is a part of what a seed means: another draw would make another run of a seed that somebody has noted.
    assert list(map(str, draw(1, COUNTS, 1))) == EXPECTED


EXPECTED = ["some+0x30#9:1000", "some+0x30#10:1000"]


def test_what_is_drawn_is_there() -> None:
    drawn = [draw(seed, COUNTS, 2) for seed in range(300)]
    assert all(1 <= it.hit <= COUNTS.hits[it.place] and it.us in LENGTHS_US for delays in drawn for it in delays)
    # A place that is met once is not drawn less often than one that is met a thousand times.
    places = [place for delays in drawn for place in {it.place for it in delays}]
    assert len(places) == 600 and 0.2 < places.count("rare+0x20") / len(places) < 0.3
    # Hits of one place are in a row.
    rows = [[it.hit for it in delays if it.place == "busy+0x10"] for delays in drawn]
    assert all(row == list(range(row[0], row[0] + len(row))) for row in rows if row)
    assert {len(row) for row in rows} == {0, *IN_A_ROW}
    assert {it.place for it in draw(1, COUNTS, 60)} == set(COUNTS.hits)
    assert draw(1, Counts({}, {}), 3) == ()
    assert all(len(draw(seed, COUNTS, MOST_DEPTH)) <= MOST_DELAYS for seed in range(100))


def test_the_chance_of_a_pair() -> None:
    rare, busiest = chance_of_pair(Counts({"a": 1, "b": 1, "c": 1, "d": 1}, {}), 2)
    assert rare == busiest == pytest.approx(1 / 6)
    mean = sum(IN_A_ROW) / len(IN_A_ROW)
    assert list(chance_of_pair(COUNTS, 2)) == pytest.approx([1 / 6, mean**2 / 6 / 50_000])
    assert chance_of_pair(COUNTS, 9)[0] == 1
    assert chance_of_pair(COUNTS, 1) == chance_of_pair(Counts({}, {}), 3) == (0.0, 0.0)


@pytest.mark.parametrize("needed", [(), (3,), (0, 7), (1, 2, 6), tuple(range(8))])
def test_the_fewest_delays(needed: tuple[int, ...]) -> None:
    delays = [Delay("f+0x1", hit, 10) for hit in range(1, 9)]
    wanted = {delays[index] for index in needed}
    asked: list[tuple[Delay, ...]] = []

    def shows(some: Sequence[Delay]) -> bool:
        asked.append(tuple(some))
        return wanted <= set(some)

    assert set(fewest(delays, shows)) == wanted
    assert len(asked) < 80
