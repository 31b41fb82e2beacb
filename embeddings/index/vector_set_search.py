"""Searching vector sets: what lies near, and which of it counts.

Two round trips: the sets are asked for neighbours, then `at` whether they count. An expiry kept
beside each vector would come with the first, from Redis 8.2 on, but could not tell one that a
writer left behind.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from embeddings.encoding.encoder import Vector
from embeddings.index.vector_index import IndexUnavailable, Match
from embeddings.index.vector_set_keys import Location, key_of
from embeddings.index.vector_sets import LAYOUT_TRIES, VectorSets

# Asked for beyond `k`, for those that have expired but are not yet forgotten; when these are more,
# it is asked again for four times as many.
_SPARE = 8
_COUNT_MAX = 4096


async def search(
    sets: VectorSets,
    queries: Sequence[tuple[bytes, Vector]],
    k: int,
    now: float,
    parts_searched: int,
) -> list[list[Match]]:
    """Return for each query the `k` nearest vectors, best first; see `VectorIndex`.

    Args:
        sets: Where they lie.
        queries: Partitions and vectors.
        k: The most matches for each.
        now: What has expired by then does not count.
        parts_searched: Parts of a divided partition that are looked into, nearest first.

    Raises:
        IndexUnavailable: Redis does not answer, or not in peace.
    """
    results: list[list[Match]] = [[] for _ in queries]
    unanswered = list(range(len(queries)))
    count = k + _SPARE
    while unanswered:
        neighbours = await _ask(sets, [queries[i] for i in unanswered], count, parts_searched)
        locations = await sets.locate({key for found in neighbours for key in found.keys})
        again = []
        for i, found in zip(unanswered, neighbours, strict=True):
            results[i] = found.matches(queries[i][0], locations, now)[:k]
            if found.is_cut and len(results[i]) < k and count < _COUNT_MAX:
                again.append(i)
        unanswered, count = again, 4 * count
    return results


@dataclass(slots=True)
class _Neighbours:
    """What the sets answered to one query.

    Attributes:
        draining: Parts whose vectors may just then be somewhere else.
        scores: Cosines by key and part.
        is_cut: A set may hold more than it answered.
    """

    draining: set[int]
    scores: dict[tuple[bytes, int], float] = field(default_factory=dict)
    is_cut: bool = False

    def take(self, part: int, reply: Mapping[bytes, float] | list[Any], count: int) -> None:
        """Add one set's reply; a set that does not exist answers with an empty list."""
        if isinstance(reply, Mapping):
            self.is_cut |= len(reply) >= count
            for member, similarity in reply.items():
                # On the wire a score is (1 + cosine) / 2.
                self.scores[key_of(member), part] = min(1.0, max(-1.0, 2 * similarity - 1))

    @property
    def keys(self) -> set[bytes]:
        return {key for key, _ in self.scores}

    def matches(
        self, partition: bytes, locations: Mapping[bytes, Location], now: float
    ) -> list[Match]:
        """Return those that are located where they were found, best first."""
        best: dict[bytes, float] = {}
        for (key, part), score in self.scores.items():
            at = locations.get(key)
            if at is None or at.partition != partition or at.expires_at <= now:
                continue
            # One that is being moved was found on one side and may be located on the other.
            if at.part == part or part in self.draining or at.part in self.draining:
                best[key] = max(score, best.get(key, -1.0))
        ordered = sorted(best.items(), key=lambda item: (-item[1], item[0]))
        return [Match(key, score) for key, score in ordered]


async def _ask(
    sets: VectorSets, queries: Sequence[tuple[bytes, Vector]], count: int, parts_searched: int
) -> list[_Neighbours]:
    """Ask the sets for the `count` nearest in each part, by layouts that hold."""
    partitions = sorted({partition for partition, _ in queries})
    for _ in range(LAYOUT_TRIES):
        layouts = sets.known_layouts(partitions)
        asked = [
            (query, partition, part, vector)
            for query, (partition, vector) in enumerate(queries)
            for part in (
                *layouts[partition].nearest(vector, parts_searched),
                *layouts[partition].draining,
            )
        ]
        replies = await sets.run(
            [("HLEN", sets.names.layout(partition)) for partition in partitions]
            + [
                (
                    *("VSIM", sets.names.part(partition, part)),
                    *("FP32", vector.astype("<f4").tobytes()),
                    *("WITHSCORES", "COUNT", count),
                )
                for _, partition, part, vector in asked
            ]
        )
        if await sets.are_current(layouts, replies[: len(partitions)]):
            found = [_Neighbours(set(layouts[partition].draining)) for partition, _ in queries]
            for (query, _, part, _), reply in zip(asked, replies[len(partitions) :], strict=True):
                found[query].take(part, reply, count)
            return found
    raise IndexUnavailable("the layout of a partition keeps changing")
