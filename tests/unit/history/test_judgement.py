"""What runs of one cell say over the nights: each remark, and runs of which it is not made."""

from __future__ import annotations

import random
from datetime import date, datetime, timedelta

import pytest

from splvm.history.judgement import RemarkKind, find_change, judge_figures, judge_nights
from splvm.history.knownissues import KnownIssue
from splvm.history.schema import TROUBLE, Figure, RunRow


def nights(verdicts: str, fingerprints: str = "", modules: str = "") -> list[RunRow]:
    """One run for each letter: P is as expected, S and C are not, and T came to no verdict."""
    names = {"P": "PROGRESS", "S": "STALLED", "C": "CRASHED", "T": TROUBLE}
    marks = fingerprints or verdicts.replace("P", " ").replace("T", " ")
    return [
        RunRow(
            id=str(number),
            started=datetime(2026, 1, 1) + timedelta(days=number),
            verdict=names[letter],
            expected=["PROGRESS"],
            as_expected=letter == "P",
            fingerprint=mark.strip(),
            reason="why",
            starved="",
            modules={"spl.ko": build},
        )
        for number, (letter, mark, build) in enumerate(
            zip(verdicts, marks, modules or "a" * len(verdicts), strict=True)
        )
    ]


@pytest.mark.parametrize(
    ("verdicts", "fingerprints", "modules", "kinds"),
    [
        ("", "", "", set()),
        ("P", "", "", set()),
        ("PPPP", "", "", set()),
        ("SP", "", "ab", set()),
        ("SP", "", "aa", {RemarkKind.FLIP}),
        ("S", "", "", {RemarkKind.NEW_FINGERPRINT}),
        ("SS", "", "", {RemarkKind.STREAK}),
        ("SS", "xy", "", {RemarkKind.STREAK, RemarkKind.NEW_FINGERPRINT}),
        ("PPS", "", "aab", {RemarkKind.REGRESSION, RemarkKind.NEW_FINGERPRINT}),
        ("PPS", "", "aaa", {RemarkKind.REGRESSION, RemarkKind.NEW_FINGERPRINT, RemarkKind.FLIP}),
        ("SPS", "", "aab", {RemarkKind.REGRESSION}),
        ("PSS", "", "", {RemarkKind.REGRESSION, RemarkKind.STREAK}),
        ("T", "", "", set()),
        ("PTT", "", "", set()),
        ("TP", "", "", set()),
        ("STS", "", "", {RemarkKind.STREAK}),
        ("PSC", "", "aab", {RemarkKind.REGRESSION, RemarkKind.STREAK, RemarkKind.NEW_FINGERPRINT}),
    ],
)
def test_remarks(verdicts: str, fingerprints: str, modules: str, kinds: set[RemarkKind]) -> None:
    assert {remark.kind for remark in judge_nights(nights(verdicts, fingerprints, modules))} == kinds


def test_a_control_that_ends_as_it_has_to_is_no_news() -> None:
    """Not the first time; in another way than before it is."""
    runs = nights("SS", fingerprints="xy", modules="ab")
    for run in runs:
        run.as_expected = True
    assert judge_nights(runs[:1]) == []
    assert {remark.kind for remark in judge_nights(runs)} == {RemarkKind.NEW_FINGERPRINT}


def test_a_starved_run_is_no_flip() -> None:
    runs = nights("PSP")
    runs[1].verdict = "INCONCLUSIVE"
    assert {remark.kind for remark in judge_nights(runs)} == {RemarkKind.FLIP}
    runs[1].starved = "for 2 s"
    assert judge_nights(runs) == []


def test_a_regression_names_the_last_good_run() -> None:
    (regression,) = (each for each in judge_nights(nights("PPSS")) if each.kind is RemarkKind.REGRESSION)
    assert regression.against == "1"
    assert regression.text == "STALLED, not PROGRESS; the last that was as expected: 2026-01-02"


def test_trouble_of_a_known_issue_is_no_regression_until_it_expires() -> None:
    runs, issue = nights("PPS", modules="aab"), KnownIssue("S", "https://example.org/1", date(2026, 2, 1))
    (remark,) = judge_nights(runs, [issue], date(2026, 2, 1))
    assert (remark.kind, remark.text) == (RemarkKind.KNOWN, "STALLED: https://example.org/1, until 2026-02-01")
    later = {remark.kind: remark.text for remark in judge_nights(runs, [issue], date(2026, 2, 2))}
    assert set(later) == {RemarkKind.EXPIRED, RemarkKind.REGRESSION}
    assert later[RemarkKind.EXPIRED] == "STALLED: https://example.org/1, looked after until 2026-02-01"
    # Another trouble is not excused by it.
    other = judge_nights(nights("PPC", modules="aab"), [issue], date(2026, 2, 1))
    assert {remark.kind for remark in other} == {RemarkKind.REGRESSION, RemarkKind.NEW_FINGERPRINT}


def test_a_change_is_found_where_it_is() -> None:
    noise = random.Random(1)
    change = find_change([noise.gauss(100, 5) for _ in range(30)] + [noise.gauss(115, 5) for _ in range(15)])
    assert change is not None
    assert abs(change.at - 30) <= 2 and change.before < 105 < 110 < change.after and change.p <= 0.01


@pytest.mark.parametrize("values", [[], [1.0] * 4 + [9.0] * 4, [5.0] * 50, [5.0] * 49 + [5e9]])
def test_no_change(values: list[float]) -> None:
    assert find_change(values) is None


def test_a_figure_of_good_runs_that_changed_is_told() -> None:
    runs = nights("P" * 20)
    for number, run in enumerate(runs):
        run.figures = [Figure(name="longest_gap_ms", value=100.0 + number % 3 + 50 * (number >= 12))]
    (remark,) = judge_figures(runs)
    assert (remark.kind, remark.against) == (RemarkKind.CHANGE, "12")
    assert remark.text.startswith("longest_gap_ms: 101, and 151 since 2026-01-13 (p = ")
    for run in runs[12:]:
        run.as_expected = False
    assert not judge_figures(runs)


def test_noise_is_seldom_a_change() -> None:
    noise = random.Random(2)
    assert sum(find_change([noise.gauss(100, 5) for _ in range(30)]) is not None for _ in range(20)) <= 2
