"""Which of many changes made something go bad, by an oracle that may be flaky: a noisy binary search. Pure.

Candidates are in order: 0 is the end that the user calls good, and the last is the end that the user calls bad.
Hypothesis k says that k is the first bad candidate; hypothesis 0 says that all are bad, and hypothesis `count` that
none is. Below k an observation is bad with a small probability, from k on with any probability. Both probabilities are
unknown and are integrated out. The search does not trust the user's two ends: it asks them too. It asks next the
candidate that is expected to tell most about k (D. V. Lindley 1956). So a deterministic oracle is asked about log2(N)
times, and a flaky oracle more often. Nobody has to say beforehand whether the oracle is flaky.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy
from numpy.typing import NDArray
from scipy.special import betaln, entr

Array = NDArray[numpy.float64]

# What an oracle says of good ones, and of bad ones: mixtures of beta distributions, weight and both parameters. A good
# one is seldom bad, and hardly ever often. A bad one is bad nearly always, or at whatever rate, but not hardly ever.
_GOOD = ((0.9, 0.5, 200.0), (0.1, 1.0, 6.0))
_BAD = ((0.5, 60.0, 1.0), (0.5, 1.5, 1.5))

# Prior probability that the good end is bad, and that the bad end is not.
_WRONG_END = 0.02
# Observations of the bad end before anything is said: they tell how flaky it is.
_LEAST_BAD = 2

# Share of the best gain with which a candidate tells about as much.
_ALIKE = 0.8

# The best candidate is looked for among this number of candidates, spread evenly by what is believed.
_LOOKED_AT = 64


@dataclass(frozen=True, slots=True)
class Answer:
    """The first bad candidate is one of `first` to `last`. If these are several, nothing distinguishes them."""

    first: int
    last: int
    # Of that, with everything that was observed.
    probability: float


@dataclass(slots=True)
class Search:
    """What is believed of `count` candidates, 2 or more."""

    count: int
    bad: list[int] = field(init=False)
    good: list[int] = field(init=False)
    # Hypotheses that are out of the question: nothing changed there.
    _unchanged: set[int] = field(init=False, default_factory=set)
    # Candidates that cannot be asked.
    _untestable: set[int] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.bad, self.good = [0] * self.count, [0] * self.count

    def observe(self, candidate: int, is_bad: bool) -> None:
        """Take into account what the oracle said."""
        (self.bad if is_bad else self.good)[candidate] += 1

    def skip(self, candidate: int) -> None:
        """It cannot be asked: it does not build, or never says anything."""
        self._untestable.add(candidate)

    def same(self, one: int, other: int) -> None:
        """Take into account that both candidates are one build, so no change between them made anything bad."""
        self._unchanged.update(range(min(one, other) + 1, max(one, other) + 1))

    @property
    def testable(self) -> list[int]:
        """What can be asked."""
        return [each for each in range(self.count) if each not in self._untestable]

    def posterior(self) -> Array:
        """The probability of each hypothesis, 0 to `count`."""
        return _normalize(self._prior() + _score(_sums(self.bad), _sums(self.good)))

    def answer(self, confidence: float) -> Answer | None:
        """The hypotheses that are believed to be true together, if that is `confidence` or more.

        Several only if what is between them cannot be asked. None as well before the good end was asked, however likely
        it is beforehand, and before the bad end was bad often enough to tell how often it is, unless it seems that it
        never is.
        """
        posterior = self.posterior()
        groups = self._groups()
        weights = [float(posterior[group].sum()) for group in groups]
        best = int(numpy.argmax(weights))
        first, last = groups[best][0], groups[best][-1]
        if weights[best] < confidence or (sum(self.bad) < _LEAST_BAD and first < self.count) or self._owes_good_end:
            return None
        changed = [k for k in groups[best] if k not in self._unchanged]
        return Answer(changed[0], changed[-1], weights[best]) if changed else Answer(first, last, weights[best])

    def likeliest(self) -> Answer:
        """The hypotheses that are believed most, however much that is."""
        found = self.answer(0.0)
        if found is not None:
            return found
        posterior = self.posterior()
        best = int(posterior.argmax())
        return Answer(best, best, float(posterior[best]))

    def choose(self, pending: Iterable[int] = (), cheap: Callable[[int], bool] = lambda _: False) -> int:
        """The candidate to be asked next.

        :param pending: candidates that are being asked; for each the likelier answer is taken for granted.
        :param cheap: whether a candidate takes little time; one that tells about as much as the best goes before it.
        :raises ValueError: when none can be asked.
        """
        trial = Search(self.count)
        trial.bad, trial.good = self.bad.copy(), self.good.copy()
        trial._unchanged, trial._untestable = self._unchanged, self._untestable
        for candidate in pending:
            trial.observe(candidate, trial._chance(candidate) >= 0.5)
        return trial._choose(cheap)

    @property
    def bits(self) -> float:
        """What is not known yet, in bits: the least number of observations that are needed, if none is wrong."""
        return float(entr(self.posterior()).sum() / numpy.log(2))

    def _choose(self, cheap: Callable[[int], bool]) -> int:
        testable = self.testable
        if not testable:
            raise ValueError("no candidate can be asked")
        # How often the bad end is bad says what everything else means.
        if sum(self.bad) < _LEAST_BAD and self.posterior()[-1] < 0.5:
            return testable[-1]
        if self._owes_good_end:
            return 0
        looked_at = self._spread(testable)
        gains = self._gains(looked_at)
        by_gain = sorted(zip(gains, looked_at, strict=True), key=lambda it: -it[0])
        most, best = by_gain[0]
        return next((each for gain, each in by_gain if gain >= _ALIKE * most and cheap(each)), best)

    @property
    def _owes_good_end(self) -> bool:
        """Whether the good end can be asked, and neither it was nor one that is the same build."""
        differ = next((k for k in range(1, self.count + 1) if k not in self._unchanged), self.count)
        return 0 not in self._untestable and not any(self.bad[:differ] + self.good[:differ])

    def _spread(self, testable: Sequence[int]) -> list[int]:
        if len(testable) <= _LOOKED_AT:
            return list(testable)
        # A candidate splits the hypotheses at its own number; even steps of what is believed, and both ends.
        belief = self.posterior().cumsum()[numpy.asarray(testable)]
        steps = numpy.searchsorted(belief, numpy.linspace(0, belief[-1], _LOOKED_AT))
        return sorted({testable[min(int(step), len(testable) - 1)] for step in steps} | {testable[0], testable[-1]})

    def _gains(self, candidates: Sequence[int]) -> Array:
        """Nats that an observation of each candidate is expected to tell."""
        now = self._prior() + _score(_sums(self.bad), _sums(self.good))
        bad, good = (self._prior() + self._score_with(candidates, is_bad) for is_bad in (True, False))
        chance = numpy.exp(bad - now.max()).sum(axis=-1) / numpy.exp(now - now.max()).sum()
        left = chance * entr(_normalize(bad)).sum(axis=-1) + (1 - chance) * entr(_normalize(good)).sum(axis=-1)
        return numpy.asarray(entr(_normalize(now)).sum() - left)

    def _chance(self, candidate: int) -> float:
        """The probability that it is bad next time."""
        now = self._prior() + _score(_sums(self.bad), _sums(self.good))
        then = self._prior() + self._score_with([candidate], True)[0]
        return float(numpy.exp(then - now.max()).sum() / numpy.exp(now - now.max()).sum())

    def _score_with(self, candidates: Sequence[int], is_bad: bool) -> Array:
        """`_score` after one more observation: a row for each candidate."""
        # Sums below k count it if k is above it.
        more = numpy.arange(self.count + 1) > numpy.asarray(candidates)[:, None]
        bad, good = _sums(self.bad), _sums(self.good)
        below, above = bad if is_bad else good
        changed = (below + more, above + ~more)
        return _score(changed, good) if is_bad else _score(bad, changed)

    def _prior(self) -> Array:
        """Logarithms; each change that may have done it counts the same."""
        weights = numpy.ones(self.count + 1)
        weights[[*self._unchanged]] = 0.0
        weights[[0, self.count]] = 0.0
        if weights.sum():
            weights *= (1 - 2 * _WRONG_END) / weights.sum()
        weights[[0, self.count]] = _WRONG_END
        with numpy.errstate(divide="ignore"):
            return numpy.asarray(numpy.log(weights / weights.sum()))

    def _groups(self) -> list[list[int]]:
        """Hypotheses that no observation can tell apart: what is between them cannot be asked, or did not change."""
        groups: list[list[int]] = [[0]]
        for k in range(1, self.count + 1):
            if k - 1 in self._untestable and k - 1 > 0 and k < self.count:
                groups[-1].append(k)
            else:
                groups.append([k])
        return groups


def _sums(counts: Sequence[int]) -> tuple[Array, Array]:
    """For each hypothesis, how many of the observations are below k, and how many from k on."""
    below = numpy.concatenate(([0.0], numpy.cumsum(counts)))
    return below, below[-1] - below


def _score(bad: tuple[Array, Array], good: tuple[Array, Array]) -> Array:
    """Logarithms of how likely each hypothesis makes what was observed."""
    return _mixture(_GOOD, bad[0], good[0]) + _mixture(_BAD, bad[1], good[1])


def _mixture(parts: Sequence[tuple[float, float, float]], bad: Array, good: Array) -> Array:
    terms = [numpy.log(weight) + betaln(a + bad, b + good) - betaln(a, b) for weight, a, b in parts]
    return numpy.asarray(numpy.logaddexp.reduce(terms))


def _normalize(score: Array) -> Array:
    weights = numpy.exp(score - score.max(axis=-1, keepdims=True))
    return numpy.asarray(weights / weights.sum(axis=-1, keepdims=True))
