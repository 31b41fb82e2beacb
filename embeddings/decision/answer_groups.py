"""Which stored answers say the same: answer groups.

Answers that are equal but for blanks are one group from the start. Whether another says the same
as those of a group is a matter of odds: how near they are to an encoder, how many of the words that
are rare among answers they share, and whether their figures agree. Only answers to questions that
are near anyway are compared, so this need not tell any two answers in the world apart.

Answers of one template, with other words in it, do not say the same, however near they are; unless
these words stand in many answers, like a greeting, and tell nothing. Nor do a "yes" and a "no", or
two between which a guard sees an opposite, another order or another name.

Pure: no clock, no chance, no I/O.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from embeddings.encoding.encoder import Vector
from embeddings.guards.conflict import conflict
from embeddings.guards.guard import Guard
from embeddings.guards.traits import Traits, traits

JOINS_FROM: Final = 0.0
"""Log odds from which an answer joins a group."""
MERGES_FROM: Final = 1.0
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

_SAME_FRAME: Final = 0.45
"""Answers that share so many of their pairs of neighbouring words are one template. Of 2,270 pairs
worded anew 99 in a hundred share less than 0.42 (benchmarks/wordings)."""
_FEWEST_WORDS: Final = 6
"""An answer of fewer is nothing but its figures and names: any other word is another answer."""
_MOST_WORDS: Final = 400
_IDLE_ANSWERS: Final = 10
_IDLE_SHARE: Final = 0.15
_CERTAIN: Final = 6.0
_NEVER_IDLE: Final = frozenset(
    {"yes", "no", "not", "never", "none", "cannot", "can't", "don't", "won't", "without"}
    | {"不", "没", "無", "无", "非", "是", "否"}
)
_TELLING: Final = frozenset(
    {Guard.ANTONYM, Guard.ORDER, Guard.SLOT, Guard.COMPARISON, Guard.NAMES}
    | {Guard.CURRENCIES, Guard.UNITS}
)
"""Guards that speak against two answers in other words. Figures are weighed; a negation more or
less, or a date in other words, stands in every fourth pair that says the same."""
# Han, kana and Hangul are written without blanks: there each character counts as a word.
_WORD: Final = re.compile(
    "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]"
    "|(?:(?![\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af])\\w)+(?:['’]\\w+)*"
)
_TINY: Final = 1e-6
_MOST_ANSWERS: Final = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class Worded:
    """One answer.

    Attributes:
        vector: Of its text, shape (dimension,), L2 norm 1.
        stems: What it is about.
        figures: The figures in it, written out ones too.
        words: In lower case, in their order; in scripts without blanks, characters.
        pairs: Neighbouring words, and how often.
        traits: What guards compare.
    """

    vector: Vector
    stems: frozenset[str]
    figures: frozenset[str]
    words: tuple[str, ...]
    pairs: Counter[tuple[str, str]]
    traits: Traits


def worded(text: str, vector: Vector) -> Worded:
    """Return an answer as it is compared."""
    noted = traits(text)
    figures = frozenset(figure for figure in noted.figures if figure[:1].isdigit())
    words = tuple(_WORD.findall(text.casefold())[:_MOST_WORDS])
    return Worded(vector, noted.bag, figures, words, Counter(pairwise(words)), noted)


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
    framed = [other for other in group if _is_same_frame(answer, other)]
    if framed:
        is_same = all(_say_the_same(answer, other, vocabulary) for other in framed)
        return _CERTAIN if is_same else -math.inf
    # A guard that is wrong about one wording is seldom wrong about most.
    if 2 * sum(_contradict(answer, other) for other in group) >= len(group):
        return -math.inf
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


def _is_same_frame(one: Worded, other: Worded) -> bool:
    if min(len(one.words), len(other.words)) < _FEWEST_WORDS:
        return True
    both = one.pairs.total() + other.pairs.total()
    return 2 * (one.pairs & other.pairs).total() >= _SAME_FRAME * both


def _say_the_same(one: Worded, other: Worded, vocabulary: Vocabulary) -> bool:
    """Say whether two answers of one template differ in words that tell nothing, and no more."""
    differing = set(one.words) ^ set(other.words)
    return (
        one.figures == other.figures
        and differing.isdisjoint(_NEVER_IDLE)
        and vocabulary.is_idle(differing)
        and [w for w in one.words if w not in differing]
        == [w for w in other.words if w not in differing]
    )


def _contradict(one: Worded, other: Worded) -> bool:
    first = {worded.words[0] for worded in (one, other) if worded.words}
    return {"yes", "no"} <= first or conflict(one.traits, other.traits) in _TELLING
