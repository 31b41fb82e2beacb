"""vCache as it was published, to be compared with: a model of correctness for each stored entry.

After Schroeder et al. 2025 (arXiv 2502.03771), from their description and not from their code.
Only the nearest entry counts. Whether its answer is right at a similarity s is a logistic function
of s with a threshold t and a steepness γ, fitted by maximum likelihood to what was seen of that
entry alone. The question is *explored* (asked upstream, and the answer compared) with such a
probability that the bound on the error holds for the least favourable t of its confidence interval;
else the entry's answer is served. A wrong answer makes the question an entry of its own.

The interval is that of the profile likelihood (Wilks 1938), as few observations of one entry can
mostly be parted without a fault, where the usual one by curvature does not exist.
"""

from collections.abc import Callable
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from admin.tune_replay import Scored
from admin.tune_stream import Question, Stream
from embeddings.index.partition import Partition
from embeddings.index.vector_index import IndexedVector

Floats = NDArray[np.float64]

_THRESHOLDS: Final = np.linspace(0.0, 1.0, 101)[:, None]
_STEEPNESSES: Final = np.geomspace(2.0, 500.0, 24)[None, :]
_DOUBTS: Final = np.geomspace(1e-4, 0.5, 30)
_DROPS: Final = np.array([NormalDist().inv_cdf(1.0 - doubt) ** 2 / 2 for doubt in _DOUBTS])
"""How far below the best the log-likelihood of a threshold may be, one-sided, for each doubt."""
_FOREVER: Final = 4e9


class Entry:
    """What was seen of one stored answer.

    That it is wrong for what has nothing in common with its question and right for its very words
    counts as seen.
    """

    def __init__(self) -> None:
        self._log_likelihood = np.zeros((_THRESHOLDS.size, _STEEPNESSES.size))
        self.observe(0.0, False)
        self.observe(1.0, True)

    def observe(self, similarity: float, is_right: bool) -> None:
        """Learn that the answer was right or wrong for a question so near, −1 … 1."""
        odds = _STEEPNESSES * (similarity - _THRESHOLDS)
        self._log_likelihood -= np.logaddexp(0.0, -odds if is_right else odds)

    def explore_probability(self, similarity: float, max_error: float) -> float:
        """Return with which probability a question so near must be asked upstream, 0 … 1."""
        steepest = self._log_likelihood.argmax(axis=1)
        of_threshold = self._log_likelihood[np.arange(steepest.size), steepest]
        within = of_threshold >= of_threshold.max() - _DROPS[:, None]
        highest = within.shape[1] - 1 - within[:, ::-1].argmax(axis=1)
        steepness = _STEEPNESSES[0, steepest[highest]]
        odds = steepness * (similarity - _THRESHOLDS[highest, 0])
        right: Floats = (1.0 - _DOUBTS) / (1.0 + np.exp(-odds))
        return float(np.clip(1.0 - max_error / (1.0 - right), 0.0, 1.0).min())


def by_entry(stream: Stream, max_error: float, chance: Callable[[], float]) -> list[Scored]:
    """Return what vCache makes of each question that is asked, in their order.

    Args:
        stream: All of one cache.
        max_error: The largest probability of a wrong answer.
        chance: Drawn evenly from 0 … 1: who explores.
    """
    partitions: dict[bytes, Partition] = {}
    stored: dict[bytes, Question] = {}
    entries: dict[bytes, Entry] = {}
    scored = []
    for question in stream.questions:
        name = question.partition
        partition = partitions.get(name)
        if partition is None:
            partition = partitions[name] = Partition(name, len(question.vector))
        if question.is_asked:
            nearest = partition.search(question.vector, 1, 0.0)
            is_right = False
            for match in nearest:
                is_right = stored[match.key].group == question.group
                entry = entries.get(match.key)
                if entry is None:
                    entry = entries[match.key] = Entry()
                if chance() >= entry.explore_probability(match.score, max_error):
                    scored.append(Scored(True, is_right))
                    break
                entry.observe(match.score, is_right)
            else:
                scored.append(Scored(False, False))
                if not is_right:
                    _store(question, partition, stored)
            continue
        _store(question, partition, stored)
    return scored


def _store(question: Question, partition: Partition, stored: dict[bytes, Question]) -> None:
    stored[question.key] = question
    partition.add(IndexedVector(question.key, question.partition, question.vector, _FOREVER), 0)
