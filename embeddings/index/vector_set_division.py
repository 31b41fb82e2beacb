"""Dividing a vector set that has grown too large: its vectors move to new sets, a few at a time.

A new version of the layout names the parts and that the old set is being emptied into them. Until
it is, searches look into both. All of it lies in Redis, so that another host, or this one after a
crash, goes on where it stopped.
"""

import asyncio
from collections.abc import Mapping

import numpy as np

from embeddings.index.vector_set_keys import Location, Place, key_of
from embeddings.index.vector_set_layout import FAN_OUT, Layout, cells
from embeddings.index.vector_sets import VectorSets

# Small enough that a node is not held up for long.
_MOVED_AT_ONCE = 128
# How many vectors a division is learnt from.
_SAMPLE = 2048


class Division:
    """Begins divisions and moves them on; its caller sees to it that nothing is added meanwhile."""

    def __init__(self, sets: VectorSets, divide_at: int) -> None:
        """Divide sets of `divide_at` vectors and more."""
        self._sets = sets
        self._divide_at = divide_at
        self._indivisible: set[tuple[bytes, int]] = set()

    async def begin(
        self, layouts: Mapping[bytes, Layout], cards: Mapping[tuple[bytes, int], int]
    ) -> None:
        """Begin to divide those parts that are too large, and whose partition is at rest.

        Args:
            layouts: As they were before this, by partition.
            cards: How many vectors a partition's part holds.
        """
        for (partition, part), card in cards.items():
            is_large = card >= self._divide_at and (partition, part) not in self._indivisible
            if is_large and not layouts[partition].draining:
                await self._divide(partition, layouts[partition], part)

    async def go_on(self, partition: bytes, layout: Layout) -> None:
        """Move some vectors out of a part that is being emptied, if any is; drop it when it is."""
        if not layout.draining:
            return
        part = layout.draining[0]
        sets = self._sets
        [members] = await sets.run(
            [("VRANDMEMBER", sets.names.part(partition, part), _MOVED_AT_ONCE)]
        )
        if not members:
            await sets.change_layout(partition, layout.without(part))
            return
        vectors = await sets.read_vectors(partition, part, members)
        locations = await sets.locate(vectors)
        # Those that are located elsewhere were left by a writer that died.
        moved = {
            key: Location(partition, at.expires_at, layout.home(vectors[key]), at.stamp)
            for key, at in locations.items()
            if at.partition == partition and at.part == part
        }
        await sets.run(
            [sets.announcement(at.place(key), at.expires_at) for key, at in moved.items()]
        )
        await sets.run([sets.addition(at.place(key), vectors[key]) for key, at in moved.items()])
        await sets.write_locations(moved)
        await sets.take_out(Place(key_of(member), partition, part) for member in members)

    async def _divide(self, partition: bytes, layout: Layout, part: int) -> None:
        """Begin to divide one part by centroids of a sample; the first host to do so wins."""
        sets = self._sets
        [members] = await sets.run([("VRANDMEMBER", sets.names.part(partition, part), _SAMPLE)])
        sample = await sets.read_vectors(partition, part, members)
        if len(sample) < FAN_OUT:  # emptied meanwhile
            return
        centroids = await asyncio.to_thread(cells, np.stack(list(sample.values())))
        if centroids is None:
            self._indivisible.add((partition, part))
        else:
            await sets.change_layout(partition, layout.divide(part, centroids))
