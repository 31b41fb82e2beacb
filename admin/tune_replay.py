"""What two rules make of a stream: an error budget, and one least score for all questions.

The budget's is `embeddings.replay`, the very code that decides online. The plain score is what
`proxy.lookup.semantic_tier` does where no budget is set.
"""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Final

from admin.tune_stream import Question, Stream
from embeddings import replay
from embeddings.decision.budget import interval
from embeddings.guards.conflict import conflict
from embeddings.guards.traits import traits
from embeddings.index.partition import Partition
from embeddings.index.vector_index import IndexedVector
from embeddings.replay import Answered

BUDGETS: Final = (0.005, 0.01, 0.02, 0.05)
SCORES: Final = (0.98, 0.95, 0.9, 0.85, 0.8)

_NEIGHBOURS: Final = 4
_FOREVER: Final = 4e9
_BINS: Final = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)

_traits = lru_cache(maxsize=65_536)(traits)


@dataclass(frozen=True, slots=True)
class Scored:
    """What became of one question where a plain score decides.

    Attributes:
        is_hit: Whether it was served.
        is_right: Whether that was its right answer; False where it was not served.
        vetoed_right: How many nearer ones a guard spoke against that had its right answer.
        vetoed_wrong: How many that had not.
    """

    is_hit: bool
    is_right: bool
    vetoed_right: int = 0
    vetoed_wrong: int = 0


@dataclass(frozen=True, slots=True)
class Point:
    """What one setting makes of a stream.

    Attributes:
        setting: Its value.
        asked: How many questions were looked up.
        hits: How many were served.
        wrong: How many of those with an answer that was not theirs.
        verdicts: How many look-ups ended how, where a budget decides.
    """

    setting: float
    asked: int
    hits: int
    wrong: int
    verdicts: Mapping[str, int] = field(default_factory=dict)

    @property
    def hit_share(self) -> float:
        """Hits of what was asked, 0 … 1."""
        return self.hits / self.asked if self.asked else 0.0

    @property
    def wrong_share(self) -> float:
        """Wrong ones of the hits, 0 … 1."""
        return self.wrong / self.hits if self.hits else 0.0

    @property
    def wrong_interval(self) -> tuple[float, float]:
        """The 95 % interval of the wrong share."""
        return interval(self.wrong, self.hits)

    @property
    def hit_interval(self) -> tuple[float, float]:
        """The 95 % interval of the hit share."""
        return interval(self.hits, self.asked)


@dataclass(frozen=True, slots=True)
class Bin:
    """Look-ups whose answer was said to be about so likely right.

    Attributes:
        low: The least probability in it.
        high: The probability it ends before; 1 belongs to the last.
        count: How many look-ups.
        said: Their mean probability; 0 where there are none.
        right: The share of them whose answer was right; 0 where there are none.
    """

    low: float
    high: float
    count: int
    said: float
    right: float


def by_budget(stream: Stream, max_error: float, check_share: float, seed: int) -> list[Answered]:
    """Return what an error budget makes of each question that is asked, in their order.

    Args:
        stream: Of any routes; each has a budget of its own.
        max_error: The largest share of hits that may be wrong.
        check_share: The share of the hits that are checked.
        seed: Which those are.
    """
    chance = random.Random(seed).random
    answered: dict[bytes, Answered] = {}
    for route in dict.fromkeys(question.route for question in stream.questions):
        of_route = [question for question in stream.questions if question.route == route]
        asked = [question.key for question in of_route if question.is_asked]
        came = replay.replayed(map(_to_ask, of_route), max_error, check_share, chance)
        answered |= zip(asked, came, strict=True)
    return [answered[question.key] for question in stream.asked]


def by_score(stream: Stream, min_score: float, *, has_guards: bool = True) -> list[Scored]:
    """Return what a least score makes of each question that is asked, in their order."""
    partitions: dict[bytes, Partition] = {}
    stored: dict[bytes, Question] = {}
    scored = []
    for question in stream.questions:
        name = question.strict_partition
        partition = partitions.get(name)
        if partition is None:
            partition = partitions[name] = Partition(name, len(question.vector))
        if question.is_asked:
            found = _scored(question, partition, stored, min_score, has_guards)
            scored.append(found)
            if found.is_hit:
                continue
        stored[question.key] = question
        partition.add(IndexedVector(question.key, name, question.vector, _FOREVER), 0)
    return scored


def budget_point(max_error: float, answered: Sequence[Answered]) -> Point:
    """Return the sums of what a budget made of a stream."""
    hits = [one for one in answered if one.is_hit]
    verdicts = Counter(one.decision.verdict.value for one in answered)
    wrong = sum(not one.is_right for one in hits)
    return Point(max_error, len(answered), len(hits), wrong, dict(verdicts))


def score_point(min_score: float, scored: Sequence[Scored]) -> Point:
    """Return the sums of what a least score made of a stream."""
    hits = [one for one in scored if one.is_hit]
    return Point(min_score, len(scored), len(hits), sum(not one.is_right for one in hits))


def calibration(answered: Iterable[Answered]) -> list[Bin]:
    """Return how often what was said to be likely was so.

    Left out: look-ups before there was anything to say it by.
    """
    said = [
        (one.decision.probability, one.is_right) for one in answered if one.decision.probability > 0
    ]
    bins = []
    for low, high in pairwise(_BINS):
        some = [one for one in said if low <= one[0] < high or one[0] == high == 1.0]
        count = len(some)
        mean = sum(probability for probability, _ in some) / count if count else 0.0
        right = sum(is_right for _, is_right in some) / count if count else 0.0
        bins.append(Bin(low, high, count, mean, right))
    return bins


def _to_ask(question: Question) -> replay.Asked:
    return replay.Asked(
        question.key,
        question.partition,
        question.text,
        question.vector,
        question.group,
        question.is_asked,
    )


def _scored(
    asked: Question,
    partition: Partition,
    stored: Mapping[bytes, Question],
    min_score: float,
    has_guards: bool,
) -> Scored:
    right = wrong = 0
    for match in partition.search(asked.vector, _NEIGHBOURS, 0.0):
        if match.score < min_score:
            break
        near = stored[match.key]
        is_right = near.group == asked.group
        if not has_guards or conflict(_traits(asked.text), _traits(near.text)) is None:
            return Scored(True, is_right, right, wrong)
        right += is_right
        wrong += not is_right
    return Scored(False, False, right, wrong)
