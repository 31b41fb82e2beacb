"""A stream of questions and their answers, asked once more: what would a budget have made of it?

The code that decides is the embedding process' own; only Redis, the wire and the clock are left
out. Labels are seen as they would be there: of what is not served, and of the hits that are
checked. What is thought of it afterwards may use them all.

Pure but for `chance`, which the caller passes.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from embeddings.decision.budget import Budget
from embeddings.decision.decision import MOST_NEIGHBOURS, Decision, Neighbour, decide
from embeddings.decision.sample import Sample
from embeddings.encoding.encoder import Vector
from embeddings.index.partition import Partition
from embeddings.index.vector_index import IndexedVector
from embeddings.verdict import Verdict

_FOREVER: Final = 4e9


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """One question, and what its right answer is.

    Attributes:
        key: 32 bytes; the same for the same question.
        partition: 32 bytes; only questions of one partition are compared.
        text: What is compared by meaning.
        vector: Of `text`.
        group: Equal for answers that say the same, 16 bytes.
        is_asked: False: it is stored, whatever is near.
    """

    key: bytes
    partition: bytes
    text: str
    vector: Vector
    group: bytes
    is_asked: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """What became of one question.

    Attributes:
        decision: What was decided.
        is_hit: Whether it was served.
        is_right: Whether the answer that the neighbours spoke for was the right one.
    """

    decision: Decision
    is_hit: bool
    is_right: bool


def replayed(
    stream: Iterable[Asked], max_error: float, check_share: float, chance: Callable[[], float]
) -> Iterator[Answered]:
    """Ask all of `stream` in its order, of an empty cache; yield what became of each.

    Args:
        stream: Of one route.
        max_error: The largest share of hits that may be wrong.
        check_share: The share of the hits that are checked, above 0.
        chance: Drawn evenly from 0 … 1: which those are.
    """
    budget = Budget(max_error)
    partitions: dict[bytes, Partition] = {}
    stored: dict[bytes, Neighbour] = {}
    for at, asked in enumerate(stream):
        partition = partitions.get(asked.partition)
        if partition is None:
            partition = Partition(asked.partition, len(asked.vector))
            partitions[asked.partition] = partition
        is_checked = True
        if asked.is_asked:
            matches = partition.search(asked.vector, MOST_NEIGHBOURS, 0.0)
            near = [replace(stored[match.key], score=match.score) for match in matches]
            decision = decide(asked.text, near, budget)
            is_hit = decision.verdict is Verdict.SERVE
            is_checked = not is_hit or chance() < check_share
            is_right = decision.group == asked.group
            if decision.evidence is not None:
                budget.saw(decision.evidence)
                if is_checked:
                    weight = 1 / check_share if is_hit else 1.0
                    budget.add(_sample(at, decision, weight, is_right))
            yield Answered(decision, is_hit, is_right)
        if is_checked:
            stored[asked.key] = Neighbour(
                asked.key, 1.0, asked.text, asked.vector, asked.group, float(at)
            )
            partition.add(IndexedVector(asked.key, asked.partition, asked.vector, _FOREVER), 0)


def _sample(at: int, decision: Decision, weight: float, is_right: bool) -> Sample:
    assert decision.evidence is not None
    return Sample(
        at=float(at),
        group=decision.group,
        evidence=decision.evidence,
        probability=decision.probability,
        weight=weight,
        is_right=is_right,
        would_serve=decision.would_serve,
    )
