"""The search among changes: right as often as it says, with few questions, whatever the oracle is like."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from splvm.campaign.search import Answer, Search

Oracle = Callable[[int], bool]


def ask(search: Search, oracle: Oracle, confidence: float = 0.95, most: int = 500) -> tuple[Answer | None, int]:
    """The answer, and how many questions it took."""
    for number in range(1, most + 1):
        candidate = search.choose()
        search.observe(candidate, oracle(candidate))
        answer = search.answer(confidence)
        if answer is not None:
            return answer, number
    return None, most


def flaky(first_bad: int, rate: float, seed: int, background: float = 0.0) -> Oracle:
    noise = random.Random(seed)
    return lambda candidate: noise.random() < (rate if candidate >= first_bad else background)


@pytest.mark.parametrize("count", [2, 3, 8, 64, 1000])
def test_a_sure_oracle_is_asked_about_as_often_as_by_halving(count: int) -> None:
    """Both ends twice or thrice, halves, and both neighbours once more."""
    for first_bad in {1, 2, count // 3, count // 2, count - 2, count - 1} & set(range(1, count)):
        answer, asked = ask(Search(count), flaky(first_bad, 1.0, 0))
        assert answer is not None and (answer.first, answer.last) == (first_bad, first_bad)
        assert answer.probability >= 0.95
        assert asked <= math.log2(count) + 9


@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_a_good_end_that_is_bad_is_found_however_few_there_are(count: int) -> None:
    """By the prior alone the first of two or three changes would have 0.96 and more: nobody would ask the good end."""
    search = Search(count)
    answer, _ = ask(search, lambda candidate: True)
    assert answer is not None and answer.first == 0
    assert search.bad[0] > 0


@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_no_change_is_named_before_the_good_end_was_run(count: int) -> None:
    search = Search(count)
    answer, _ = ask(search, lambda candidate: candidate > 0)
    assert answer is not None and answer.first == 1
    assert search.good[0] > 0


@pytest.mark.parametrize(
    ("rate", "background", "most"), [(0.3, 0.0, 140), (0.5, 0.0, 80), (0.9, 0.02, 60), (0.3, 0.01, 250)]
)
def test_a_flaky_oracle_is_right_as_often_as_it_says(rate: float, background: float, most: int) -> None:
    right, asked = 0, []
    for seed in range(20):
        first_bad = 1 + random.Random(seed).randrange(31)
        answer, number = ask(Search(32), flaky(first_bad, rate, seed, background))
        right += answer is not None and (answer.first, answer.last) == (first_bad, first_bad)
        asked.append(number)
    # Of twenty, one or two may be wrong at 0.95; four hardly ever.
    assert right >= 17
    assert sorted(asked)[len(asked) // 2] <= most


def test_more_confidence_takes_more_questions() -> None:
    asked = [ask(Search(16), flaky(7, 0.5, 1), confidence)[1] for confidence in (0.6, 0.95, 0.999)]
    assert asked == sorted(asked) and asked[0] < asked[-1]


def test_a_good_end_that_is_bad() -> None:
    answer, asked = ask(Search(64), lambda _: True)
    assert answer is not None and (answer.first, answer.last) == (0, 0)
    assert asked < 25


@pytest.mark.parametrize("count", [2, 3, 4, 8, 64])
def test_a_good_end_is_asked_before_anything_is_said(count: int) -> None:
    """Also where the prior alone would be sure: with few candidates it nearly is."""
    for oracle in (lambda _: True, lambda _: False, *(flaky(k, 1.0, 0) for k in range(1, count))):
        search = Search(count)
        while search.answer(0.5) is None:
            candidate = search.choose()
            search.observe(candidate, oracle(candidate))
        assert search.bad[0] + search.good[0]
    answer, _ = ask(Search(count), lambda _: True)
    assert answer is not None and (answer.first, answer.last) == (0, 0)


def test_one_that_is_the_same_build_speaks_for_the_good_end() -> None:
    search = Search(3)
    search.same(0, 1)
    for candidate, is_bad in ((2, True), (2, True), (1, False)):
        assert search.answer(0.5) is None
        search.observe(candidate, is_bad)
    assert search.answer(0.5) is not None
    search = Search(3)
    search.same(0, 2)
    search.skip(0)
    search.observe(2, False)
    assert search.choose() != 0


def test_a_bad_end_that_is_good() -> None:
    answer, asked = ask(Search(64), lambda _: False)
    assert answer is not None and (answer.first, answer.last) == (64, 64)
    assert asked < 150


def test_one_that_cannot_be_asked_is_left_out() -> None:
    """Where it is beside the change, the answer is one of two; elsewhere it makes no difference."""
    for untestable, found in (({10}, (10, 11)), ({9, 10}, (9, 11)), ({11}, (11, 12)), ({3}, None)):
        search = Search(20)
        for each in untestable:
            search.skip(each)
        first_bad = 11
        asked: list[int] = []

        def oracle(candidate: int, asked: list[int] = asked, first_bad: int = first_bad) -> bool:
            asked.append(candidate)
            return candidate >= first_bad

        answer, _ = ask(search, oracle)
        assert answer is not None
        assert (answer.first, answer.last) == (found or (11, 11))
        assert not untestable & set(asked)


def test_builds_that_are_the_same_are_no_answer() -> None:
    """What changes nothing is never found, and its neighbours need not be asked."""
    search = Search(64)
    for number in range(1, 64):
        if number != 40:
            search.same(number - 1, number)
    answer, asked = ask(search, flaky(40, 1.0, 0))
    assert answer is not None and (answer.first, answer.last) == (40, 40)
    assert asked <= 4
    search = Search(64)
    search.same(20, 50)
    assert not search.posterior()[21:51].any()
    assert search.posterior()[20] > 0


def test_what_is_being_asked_already_is_not_asked_again() -> None:
    search = Search(64)
    for _ in range(3):
        search.observe(63, True)
    search.observe(0, False)
    first = search.choose()
    others = {search.choose([first]), search.choose([first, search.choose([first])])}
    assert first not in others
    assert (sum(search.bad), sum(search.good)) == (3, 1), "nothing was observed by that"


def test_nothing_can_be_asked() -> None:
    search = Search(2)
    search.skip(0)
    search.skip(1)
    with pytest.raises(ValueError, match="no candidate"):
        search.choose()


def test_nothing_is_said_before_it_is_known() -> None:
    search = Search(8)
    assert search.answer(0.5) is None
    assert search.posterior().sum() == pytest.approx(1.0)
    search.observe(7, True)
    assert search.answer(0.5) is None
    assert 0 < search.likeliest().probability < 0.5


def test_one_stray_hit_on_the_good_side_does_not_mislead() -> None:
    search = Search(8)
    for candidate, bad, good in ((0, 0, 5), (2, 1, 20), (4, 0, 10), (5, 6, 0), (7, 5, 0)):
        for _ in range(bad):
            search.observe(candidate, True)
        for _ in range(good):
            search.observe(candidate, False)
    answer = search.answer(0.95)
    assert answer is not None and (answer.first, answer.last) == (5, 5)
