"""A route's error budget: how sure must the evidence be, and may the route serve at all?

Of the answers served by meaning, at most `max_error` may be wrong. Three things hold that:

- A calibrated probability for each look-up, refitted as samples come, and the lowest threshold at
  which the mean of (1 − probability) above it stays within the budget.
- Earning: a route serves nothing until answers it would have served were right often enough. While
  it earns, every one of them is a sample, as the upstream is asked for all.
- Alarms, each a running bet against a hypothesis (Shafer & Vovk 2019) that begins anew whenever
  all of it is lost (Page 1954): that what is served keeps to the budget (a small share of the hits
  is checked), and that answers are right as often as was said. A route against which one is won
  goes back to earning.

Where answers are right much less often than was said, the world has changed: what was stored
until then has no voice any more. An answer group that is contradicted again and again where it was
thought to be right is retired in the same way, by itself.

After vCache (Schroeder et al. 2025, arXiv 2502.03771), whose model of correctness is fitted for
each stored entry by itself and needs many hits of one entry before it may serve; here it is pooled
over a route, so that a question asked for the second time may be a hit.

Pure: no clock, no chance, no I/O.
"""

import math
from collections import deque
from collections.abc import Iterable
from typing import Final

import numpy as np

from embeddings.decision.calibration import Calibration, fitted
from embeddings.decision.consensus import Floats
from embeddings.decision.sample import Sample
from embeddings.observer import Measured

MOST_SAMPLES: Final = 5000
"""What is remembered of a route: older samples are forgotten one by one."""

_FEWEST_SAMPLES: Final = 60
_GROWTH_SHARE: Final = 0.1
"""The calibration is fitted anew when the samples have grown by this share."""

_MARGIN: Final = 0.9
"""What part of the budget is planned for; the rest is for the calibration's own error."""
_PRIOR_WRONG: Final = 10.0
"""So many wrong answers, where as many were expected, are taken to have been seen already."""
_RECENT: Final = 2000
_FEWEST_RECENT: Final = 60
_MOST_RISK: Final = 6.0
"""No single answer is served that is so many times as likely to be wrong as the budget says."""

_EARNED: Final = 0.7
"""A route has earned its hits when so many wrong answers less came than the budget would have let
through: at 1 %, after 70 right answers in a row; a wrong one takes 99 right ones to make good."""

_ALARM: Final = 50.0
"""The odds at which a bet against the budget is won. With just as much wrong as the budget allows,
that comes by chance alone once in some 4,600 answers compared at 1 %, in 850 at 5 % (simulated)."""
_BET: Final = 4.0
_MOST_BET: Final = 0.5
"""Of what is held, the most that one right answer may cost."""
_DRIFT_ALARM: Final = 100_000.0
_RETIREMENT: Final = 20_000.0
_SUREST: Final = 0.95
"""In bets, nothing counts as surer than this: one odd answer is not a drift."""
_LIKELY: Final = 0.6
"""Nor does it say much of the world that something unlikely was wrong."""
_DRIFTS_FROM: Final = 200
"""Samples since the start, or the last drift; until then the calibration itself is too young to
accuse the world."""
_MOST_GROUPS: Final = 10_000
_Z95: Final = 1.96


class Budget:
    """The state of one route: all of it follows from `max_error` and the samples, in their order.

    Args:
        max_error: The largest share of semantic hits that may be wrong, above 0 and below 1.
    """

    def __init__(self, max_error: float) -> None:
        if not 0 < max_error < 1:
            raise ValueError("max_error lies between 0 and 1")
        self.max_error = max_error
        self._samples: deque[Sample] = deque(maxlen=MOST_SAMPLES)
        self._recent: deque[Floats] = deque(maxlen=_RECENT)
        self._calibration: Calibration | None = None
        self._fit_at = _FEWEST_SAMPLES
        self._count = 0
        self._threshold = 1.0
        self._is_serving = False
        self._earned = 0.0
        self._against_budget = 1.0
        self._against_calibration = 1.0
        self._drifts_from = _DRIFTS_FROM
        self._against_group: dict[bytes, float] = {}
        self._drifted_at = -math.inf
        self._retired_at: dict[bytes, float] = {}
        self._alarms = 0

    @property
    def is_serving(self) -> bool:
        """Whether the route may serve; else it is earning that."""
        return self._is_serving

    @property
    def threshold(self) -> float:
        """The least probability at which an answer is served, 0 … 1; 1 for never."""
        return self._threshold

    @property
    def samples(self) -> int:
        """How many answers taught it, those forgotten by now included."""
        return self._count

    @property
    def alarms(self) -> int:
        """How often it went back from serving to earning."""
        return self._alarms

    def probability(self, evidence: Floats) -> float:
        """Return how likely the answer with this evidence is right; 0 while nothing is known."""
        if self._calibration is None:
            return 0.0
        return float(self._calibration.probability(evidence))

    def would_serve(self, probability: float) -> bool:
        """Return whether that is sure enough."""
        return probability >= self._threshold

    def is_retired(self, group: bytes, stored_at: float) -> bool:
        """Return whether what was stored then of an answer group has no voice any more."""
        return stored_at <= max(self._drifted_at, self._retired_at.get(group, -math.inf))

    def measured(self) -> Measured:
        """Return what was seen of the answers that were sure enough, of the samples remembered."""
        seen = wrong = 0
        for sample in self._samples:
            if sample.would_serve:
                seen += 1
                wrong += not sample.is_right
        return Measured(seen, wrong, *interval(wrong, seen))

    def saw(self, evidence: Floats) -> None:
        """Note the evidence of a look-up, whatever becomes of it."""
        self._recent.append(evidence)

    def add(self, sample: Sample) -> None:
        """Learn from one answer."""
        self._take(sample)
        if self._count >= self._fit_at:
            self._fit()

    def add_all(self, samples: Iterable[Sample]) -> None:
        """Learn from many answers, in their order: what was learned before, say."""
        for sample in samples:
            self._take(sample)
        if self._count >= self._fit_at:
            self._fit()

    def _take(self, sample: Sample) -> None:
        self._samples.append(sample)
        self._count += 1
        if sample.would_serve and self._is_serving:
            self._bet_against_budget(sample.is_right)
        elif sample.would_serve:
            self._earn(sample.is_right)
        if self._count >= self._drifts_from and sample.probability >= _LIKELY:
            self._bet_against_calibration(sample)

    def _earn(self, is_right: bool) -> None:
        self._earned = max(0.0, self._earned + self.max_error - (not is_right))
        if self._earned >= _EARNED:
            self._is_serving = True
            self._against_budget = 1.0

    def _stop_serving(self) -> None:
        self._earned = 0.0
        self._against_budget = 1.0
        if self._is_serving:
            self._is_serving = False
            self._alarms += 1

    def _bet_against_budget(self, is_right: bool) -> None:
        """Bet that what is served is wrong more often than the budget says."""
        bet = min(_BET, _MOST_BET / self.max_error)
        factor = 1.0 + bet * ((not is_right) - self.max_error)
        self._against_budget = max(1.0, self._against_budget * factor)
        if self._against_budget >= _ALARM:
            self._stop_serving()

    def _bet_against_calibration(self, sample: Sample) -> None:
        """Bet that answers are right half as often as was said."""
        said = min(sample.probability, _SUREST)
        factor = 0.5 if sample.is_right else (1.0 - said / 2.0) / (1.0 - said)
        self._against_calibration = max(1.0, self._against_calibration * factor)
        if self._against_calibration >= _DRIFT_ALARM:
            self._against_calibration = 1.0
            self._against_group.clear()
            self._drifted_at = sample.at
            self._drifts_from = self._count + _DRIFTS_FROM
            self._stop_serving()
        odds = max(1.0, self._against_group.pop(sample.group, 1.0) * factor)
        if odds >= _RETIREMENT:
            self._retire(sample.group, sample.at)
        elif odds > 1.0:
            self._against_group[sample.group] = odds
            if len(self._against_group) > _MOST_GROUPS:
                self._against_group.pop(next(iter(self._against_group)))

    def _retire(self, group: bytes, at: float) -> None:
        self._retired_at[group] = at
        if len(self._retired_at) > _MOST_GROUPS:
            self._retired_at.pop(next(iter(self._retired_at)))

    def _optimism(self) -> float:
        """Return how many times as often what was sure enough was wrong as was said, at least 1."""
        sure = [s for s in self._samples if s.would_serve and s.at > self._drifted_at]
        wrong = sum(not sample.is_right for sample in sure)
        expected = sum(1.0 - sample.probability for sample in sure)
        return max(1.0, (wrong + _PRIOR_WRONG) / (expected + _PRIOR_WRONG))

    def _fit(self) -> None:
        samples = list(self._samples)
        # Of many, older ones are forgotten as well: then this is a tenth of what is kept.
        self._fit_at = self._count + max(1, int(_GROWTH_SHARE * len(samples)))
        evidence = np.stack([sample.evidence for sample in samples])
        is_right = np.array([float(sample.is_right) for sample in samples])
        self._calibration = fitted(evidence, is_right, self._calibration)
        if len(self._recent) >= _FEWEST_RECENT:
            probabilities = self._calibration.probability(np.stack(self._recent))
            weights = np.ones(len(probabilities))
        else:
            # After a start: samples are what was not served, but for those with a weight.
            probabilities = self._calibration.probability(evidence[-_RECENT:])
            weights = np.array([sample.weight for sample in samples[-_RECENT:]])
        order = np.argsort(-probabilities)
        risk = np.cumsum(((1.0 - probabilities) * weights)[order]) / np.cumsum(weights[order])
        risk *= self._optimism()
        within = int(np.count_nonzero(risk <= self.max_error * _MARGIN))
        least = float(probabilities[order[within - 1]]) if within else 1.0
        self._threshold = max(least, 1.0 - _MOST_RISK * self.max_error)


def interval(found: int, of: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share (Wilson 1927); of nothing, 0 … 1."""
    if not of:
        return 0.0, 1.0
    rate, spread = found / of, _Z95**2 / of
    middle = (rate + spread / 2) / (1 + spread)
    width = math.sqrt(rate * (1 - rate) * spread + spread**2 / 4) / (1 + spread)
    return max(0.0, middle - width), min(1.0, middle + width)
