"""Which stored answers say the same: answer groups.

Answers that are equal but for blanks are one group from the start. Whether another says the same
as those of a group is a matter of odds: how near they are to an encoder, how many of the words that
are rare among answers they share, and whether their figures agree. Only answers to questions that
are near anyway are compared, so this need not tell any two answers in the world apart.

Answers of one template, with other words in it, do not say the same, however near they are; unless
these words stand in many answers, like a greeting, and tell nothing.

Pure: no clock, no chance, no I/O.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final

from embeddings.encoding.encoder import Vector
from embeddings.guards.chunks import OUTER
from embeddings.guards.traits import traits

JOINS_FROM: Final = 0.0
"""Log odds from which an answer joins a group."""
MERGES_FROM: Final = 2.5
"""Log odds from which two groups that an answer fits are one. Higher: an error here spreads."""
MOST_PRIOR: Final = 2.5
"""Log odds that the questions' nearness may add, at the most."""

# Logistic regression on answers to 227 intents, worded five times each, against those to the six
# nearest other intents (benchmarks/wordings). Fitted on one of the two sets and tried on the other:
# 96 % of the same found at 0.5 % of others (Banking77; Clinc150, too), four answers known.
_BIAS: Final = -15.2
_MEAN_COSINE, _BEST_COSINE = 17.2, 2.3
_MEAN_OVERLAP, _BEST_OVERLAP = 3.6, 4.0
_FIGURES: Final = 3.0
_COVERED: Final = 1.7

_SAME_FRAME: Final = 0.5
"""Answers that share so much of their words, in the same order, are one template. Of 2,270 pairs of
answers worded anew 99 in a hundred share less than 0.43 (benchmarks/wordings)."""
_IDLE_ANSWERS: Final = 10
_IDLE_SHARE: Final = 0.15
_CERTAIN: Final = 6.0
_TINY: Final = 1e-6
_MOST_ANSWERS: Final = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class Worded:
    """One answer.

    Attributes:
        vector: Of its text, shape (dimension,), L2 norm 1.
        stems: What it is about.
        figures: The figures in it, written out ones too.
        words: In lower case, in their order, without the signs around them.
    """

    vector: Vector
    stems: frozenset[str]
    figures: frozenset[str]
    words: tuple[str, ...]


def worded(text: str, vector: Vector) -> Worded:
    """Return an answer as it is compared."""
    noted = traits(text)
    figures = frozenset(figure for figure in noted.figures if figure[:1].isdigit())
    words = tuple(word.strip(OUTER) for word in text.casefold().split())
    return Worded(vector, noted.bag, figures, words)


class Vocabulary:
    """How rare words are among the answers seen."""

    def __init__(self) -> None:
        self._answers = 0
        self._with_stem: Counter[str] = Counter()
        self._with_word: Counter[str] = Counter()

    def add(self, answer: Worded) -> None:
        """Count an answer, once for each of its words. After many it begins anew."""
        if self._answers == _MOST_ANSWERS:
            self._answers = 0
            self._with_stem.clear()
            self._with_word.clear()
        self._answers += 1
        self._with_stem.update(answer.stems)
        self._with_word.update(set(answer.words))

    def weight(self, stems: Iterable[str]) -> float:
        """Return how much these words tell together (inverse document frequency)."""
        return sum(
            max(0.0, math.log((self._answers + 1) / (self._with_stem[stem] + 0.5)))
            for stem in stems
        )

    def is_idle(self, words: Iterable[str]) -> bool:
        """Return whether each of these words stands in so many answers that it tells nothing."""
        least = max(_IDLE_ANSWERS, _IDLE_SHARE * self._answers)
        return all(self._with_word[word] >= least for word in words)


def log_odds(answer: Worded, group: Sequence[Worded], vocabulary: Vocabulary) -> float:
    """Return the log odds that an answer says what the answers of a group say.

    Args:
        answer: The answer.
        group: Some answers of the group, at least one.
        vocabulary: What the weights of words come from.
    """
    framed = [other for other in group if _is_same_frame(answer.words, other.words)]
    if framed:
        is_same = all(
            answer.figures == other.figures
            and vocabulary.is_idle(set(answer.words) ^ set(other.words))
            for other in framed
        )
        return _CERTAIN if is_same else -math.inf
    cosines = [float(answer.vector @ other.vector) for other in group]
    own = vocabulary.weight(answer.stems) + _TINY
    overlaps = [
        vocabulary.weight(answer.stems & other.stems)
        / min(own, vocabulary.weight(other.stems) + _TINY)
        for other in group
    ]
    figures = [_figures_agree(answer.figures, other.figures) for other in group]
    known = frozenset[str]().union(*(other.stems for other in group))
    count = len(group)
    return (
        _BIAS
        + _MEAN_COSINE * sum(cosines) / count
        + _BEST_COSINE * max(cosines)
        + _MEAN_OVERLAP * sum(overlaps) / count
        + _BEST_OVERLAP * max(overlaps)
        + _FIGURES * sum(figures) / count
        + _COVERED * vocabulary.weight(answer.stems & known) / own
    )


def _figures_agree(one: frozenset[str], other: frozenset[str]) -> int:
    if not one or not other:
        return 0
    if one == other:
        return 1
    return 0 if one <= other or other <= one else -1


def _is_same_frame(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return SequenceMatcher(None, one, other, autojunk=False).ratio() >= _SAME_FRAME
