"""One encoder's vector sets in Redis, and what is written beside them: single steps, in bulk.

Commands touch one key each, as in a cluster nothing else is atomic. In which order steps leave
nothing wrong behind, wherever a writer dies, is `vector_set_index`' affair.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from embeddings.encoding.encoder import Vector
from embeddings.index.vector_index import IndexUnavailable
from embeddings.index.vector_set_keys import KeyNames, Location, Place, key_of, member_of, shard_of
from embeddings.index.vector_set_layout import Layout

Argument = bytes | str | int | float

LAYOUT_TRIES = 3


class Commands(Protocol):
    """A way to Redis, cluster or not."""

    async def run(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send each command to the node of its key, those of one node in their order.

        Returns:
            The replies in the order of the commands, as RESP3 has them (a map is a dict, a double
            a float); in the place of one that failed, the exception.
        """
        ...


class VectorSets:
    """Where an encoder's vectors lie.

    Attributes:
        names: Of its keys.
        layouts: Those that this process has learnt, by partition; others may have replaced them.
    """

    def __init__(self, commands: Commands, names: KeyNames, dimension: int) -> None:
        """Begin without layouts; nothing is sent yet."""
        self._commands = commands
        self._dimension = dimension
        self._undivided = Layout.undivided(dimension)
        self.names = names
        self.layouts: dict[bytes, Layout] = {}

    async def run(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send commands; return the replies.

        Raises:
            IndexUnavailable: One of them failed.
        """
        if not commands:
            return []
        replies = await self._commands.run(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise IndexUnavailable(str(reply)) from reply
        return replies

    # Layouts.

    def known_layouts(self, partitions: Iterable[bytes]) -> dict[bytes, Layout]:
        """Return layouts as they are known here."""
        return {name: self.layouts.get(name, self._undivided) for name in partitions}

    async def current_layouts(self, partitions: Iterable[bytes]) -> dict[bytes, Layout]:
        """Return layouts as they are in Redis now."""
        names = sorted(partitions)
        for _ in range(LAYOUT_TRIES):
            layouts = self.known_layouts(names)
            versions = await self.run([("HLEN", self.names.layout(name)) for name in names])
            if await self.are_current(layouts, versions):
                return layouts
        raise IndexUnavailable("the layout of a partition keeps changing")

    async def are_current(self, layouts: Mapping[bytes, Layout], versions: Sequence[int]) -> bool:
        """Say whether `layouts` have these versions; learn those that have not."""
        changed = [
            (partition, version)
            for (partition, layout), version in zip(layouts.items(), versions, strict=True)
            if layout.version != version
        ]
        for partition, version in changed:
            self.layouts.pop(partition, None)
            if version:
                [raw] = await self.run([("HGET", self.names.layout(partition), version)])
                # Empty: it has been replaced since.
                if raw:
                    self.layouts[partition] = Layout.unpack(version, raw, self._dimension)
        return not changed

    async def change_layout(self, partition: bytes, layout: Layout) -> None:
        """Put a next version in force, unless another host has put one there already."""
        name = self.names.layout(partition)
        await self.run([("HSETNX", name, layout.version, layout.pack())])
        if layout.version > 1:
            # The number of fields is the version; what they held is not needed any more.
            await self.run([("HSET", name, layout.version - 1, b"")])

    # Places and locations.

    async def locate(self, keys: Iterable[bytes]) -> dict[bytes, Location]:
        """Return where keys are; what is nowhere is absent."""
        by_shard: dict[int, list[bytes]] = defaultdict(list)
        for key in dict.fromkeys(keys):
            by_shard[shard_of(key)].append(key)
        replies = await self.run(
            [("HMGET", self.names.at(shard), *names) for shard, names in by_shard.items()]
        )
        return {
            key: location
            for names, page in zip(by_shard.values(), replies, strict=True)
            for key, raw in zip(names, page, strict=True)
            if (location := Location.unpack(raw)) is not None
        }

    async def write_locations(self, located: Mapping[bytes, Location]) -> None:
        """Say where keys are from now on."""
        by_shard: dict[int, list[Argument]] = defaultdict(list)
        for key, at in located.items():
            by_shard[shard_of(key)] += [key, at.pack()]
        await self.run(
            [("HSET", self.names.at(shard), *pairs) for shard, pairs in by_shard.items()]
        )

    async def take_out(self, places: Iterable[Place]) -> None:
        """Empty places and what announced them; partitions that are empty then are none."""
        places = list(places)
        layouts = await self.current_layouts({place.partition for place in places})
        parts = [
            (partition, int(part))
            for partition, layout in layouts.items()
            for part in layout.numbers
        ]
        replies = await self.run(
            [self._removal(place) for place in places]
            + [("VCARD", self.names.part(*part)) for part in parts]
        )
        cards: dict[bytes, int] = defaultdict(int)
        for (partition, _), card in zip(parts, replies[len(places) :], strict=True):
            cards[partition] += card
        await self.run(
            [("ZREM", self.names.due(shard_of(place.key)), place.pack()) for place in places]
            + [
                ("SREM", self.names.partitions(shard_of(partition)), partition)
                for partition, card in cards.items()
                if card == 0
            ]
        )

    def announcement(self, place: Place, expires_at: float) -> tuple[Argument, ...]:
        """Return the command that announces a place."""
        return ("ZADD", self.names.due(shard_of(place.key)), expires_at, place.pack())

    # Vectors.

    def addition(self, place: Place, vector: Vector) -> tuple[Argument, ...]:
        """Return the command that puts a vector there."""
        # Eight bits a number: an error of a cosine of 0.002, at a third of the memory.
        return (
            *("VADD", self.names.part(place.partition, place.part)),
            *("FP32", vector.astype("<f4").tobytes(), member_of(place.key), "Q8"),
        )

    async def read_vectors(
        self, partition: bytes, part: int, members: Sequence[bytes]
    ) -> dict[bytes, Vector]:
        """Return by their keys the vectors of those members that are still there."""
        replies = await self.run(
            [("VEMB", self.names.part(partition, part), member, "RAW") for member in members]
        )
        return {
            key_of(member): np.frombuffer(reply[1], np.int8) * np.float32(reply[3] / 127)
            for member, reply in zip(members, replies, strict=True)
            if reply is not None  # gone meanwhile
        }

    def _removal(self, place: Place) -> tuple[Argument, ...]:
        return ("VREM", self.names.part(place.partition, place.part), member_of(place.key))
