"""Which answers of a stream say the same though they are worded otherwise.

The embedding process' own comparison says so, in the stream's order, each answer against those of
the questions nearest to its own. Two things differ from online, where labels are sought for a
decision: all answers are seen, those of hits too, and none is thought likely beforehand.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, cast

from admin.tune_stream import Question, Stream
from cachestore.vector_record import MOST_ANSWER_BYTES
from embeddings.decision.decision import MOST_NEIGHBOURS
from embeddings.encoding.encoder import Refused, Vector
from embeddings.index.partition import Partition
from embeddings.index.vector_index import IndexedVector
from embeddings.service.comparison import Comparison
from embeddings.service.source import Source, Witness

_FOREVER: Final = 4e9
_TOLD_EVERY: Final = 100

EncodeNow = Callable[[Sequence[str]], list[Vector | Refused]]


class _Groups:
    """Where the comparison writes down what it finds: all that it asks of a store."""

    def __init__(self) -> None:
        self.of: dict[bytes, bytes] = {}

    async def keep_group(self, witness: Witness, group: bytes) -> None:
        self.of[witness.key] = group


def with_joined_answers(
    stream: Stream, encode: EncodeNow, tell: Callable[[str], None] = lambda _: None
) -> Stream:
    """Return `stream` with answers that say the same in one group.

    Args:
        stream: Answers that stand as labels only are left as they are.
        encode: Makes vectors of answers.
        tell: Told how far it is, in a few words: long answers take some minutes for 10,000.
    """
    if not any(question.answer for question in stream.questions):
        return stream
    return asyncio.run(_joined(stream, encode, tell))


async def _joined(stream: Stream, encode: EncodeNow, tell: Callable[[str], None]) -> Stream:
    async def encode_at_once(texts: Sequence[str]) -> Sequence[Vector | Refused]:
        return encode(texts)

    groups = _Groups()
    comparison = Comparison(cast(Source, groups), encode_at_once)
    partitions: dict[bytes, Partition] = {}
    stored: dict[bytes, Witness] = {}
    for number, question in enumerate(stream.questions):
        if number % _TOLD_EVERY == 0:
            tell(f"comparing answers: {number:,} of {len(stream.questions):,}")
        partition = partitions.get(question.partition)
        if partition is None:
            partition = Partition(question.partition, len(question.vector))
            partitions[question.partition] = partition
        near = [
            replace(stored[match.key], group=groups.of[match.key])
            for match in partition.search(question.vector, MOST_NEIGHBOURS, 0.0)
        ]
        witness = _witness(question)
        groups.of[question.key] = question.group
        await comparison.groups(witness, near, (), 0.0)
        stored[question.key] = witness
        indexed = IndexedVector(question.key, question.partition, question.vector, _FOREVER)
        partition.add(indexed, 0)
    questions = [replace(one, group=groups.of[one.key]) for one in stream.questions]
    return replace(stream, questions=tuple(questions))


def _witness(question: Question) -> Witness:
    beginning = question.answer.encode()[:MOST_ANSWER_BYTES].decode("utf-8", "ignore")
    return Witness(
        key=question.key,
        partition=question.partition,
        expires_at=_FOREVER,
        text=question.text,
        vector=b"",
        group=question.group,
        words=question.group,
        stored_at=0.0,
        answer=beginning,
    )
