"""Vectors in Redis 8's vector sets: one index that all hosts share, as large as a Redis Cluster.

For an index past one host's memory; `faiss_index` is faster. Nothing lies in this process but the
centroids of divided partitions. All hosts write to it, each whatever happens on any of them: what
is added or removed twice is harmless, and costs its nodes the work once for each host.

What is kept is told in `vector_set_keys`. Commands touch one key each, as in a cluster nothing else
is atomic. A vector's place is announced in `due`, then it is put there, then located in `at`; on
its way out it is taken from `at`, from its place and last from `due`. So wherever a writer dies,
what is left in a set is not found by anyone, because `at` does not point there, and goes when it is
due.
"""

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence

from embeddings.encoding.encoder import Vector
from embeddings.index.vector_index import (
    KEY_BYTES,
    PARTITION_BYTES,
    IndexedVector,
    IndexUnavailable,
    Match,
)
from embeddings.index.vector_set_division import Division
from embeddings.index.vector_set_keys import NO_STAMP, SHARDS, KeyNames, Location, Place, shard_of
from embeddings.index.vector_set_search import search
from embeddings.index.vector_sets import Commands, VectorSets
from embeddings.observer import IndexStats

# Small enough that a node is not held up for long, nor a deadline of half a second missed: adding
# to a large set takes a millisecond or two each.
_ADDED_AT_ONCE = 64
_FORGOTTEN_AT_ONCE = 1024


async def supports_vector_sets(commands: Commands) -> bool:
    """Say whether this Redis knows vector sets.

    Raises:
        IndexUnavailable: It cannot be asked now.
    """
    [reply] = await commands.run([("COMMAND", "INFO", "VADD")])
    if isinstance(reply, Exception):
        raise IndexUnavailable(str(reply)) from reply
    return isinstance(reply, list) and any(reply)


class VectorSetIndex:
    """The vectors of one encoder in Redis."""

    def __init__(
        self,
        commands: Commands,
        namespace: str,
        fingerprint: str,
        dimension: int,
        *,
        divide_at: int = 200_000,
        parts_searched: int = 4,
    ) -> None:
        """Take part in an index; nothing is sent yet.

        Args:
            commands: Not closed by the index.
            namespace: What Recollect's keys in this Redis begin with.
            fingerprint: The encoder's; vectors of others are never seen.
            dimension: Numbers in a vector.
            divide_at: Vectors in a set from which on it is divided. A set lies on one node and is
                searched by one thread.
            parts_searched: Parts of a divided partition that a search looks into, nearest first.
        """
        self._commands = commands
        self._namespace = namespace
        self._fingerprint = fingerprint
        self._dimension = dimension
        self._parts_searched = parts_searched
        self._names = KeyNames(namespace, fingerprint)
        self._sets = VectorSets(commands, self._names, dimension)
        self._division = Division(self._sets, divide_at)
        self._sweep = NO_STAMP
        # What one step reads of a location must hold until the step is done. Between hosts it may
        # not: then a vector is missing until it is added again.
        self._writing = asyncio.Lock()

    @property
    def is_whole(self) -> bool:
        """True: what a node has lost is seen by `load` alone."""
        return True

    async def search(
        self, queries: Sequence[tuple[bytes, Vector]], k: int, now: float
    ) -> list[list[Match]]:
        """Return for each query the `k` nearest vectors, best first; see `VectorIndex`."""
        for _, vector in queries:
            self._check(vector)
        return await search(self._sets, queries, k, now, self._parts_searched)

    async def add(self, vectors: Sequence[IndexedVector]) -> None:
        """Add vectors in place of what was there under their keys; see `VectorIndex`."""
        for vector in vectors:
            self._check(vector.vector)
            if len(vector.key) != KEY_BYTES or len(vector.partition) != PARTITION_BYTES:
                raise ValueError(f"a key has {KEY_BYTES} bytes, a partition {PARTITION_BYTES}")
        latest = list({vector.key: vector for vector in vectors}.values())
        for start in range(0, len(latest), _ADDED_AT_ONCE):
            async with self._writing:
                await self._add(latest[start : start + _ADDED_AT_ONCE])

    async def remove(self, keys: Sequence[bytes]) -> None:
        """Forget the vectors under `keys`; see `VectorIndex`."""
        for start in range(0, len(keys), _FORGOTTEN_AT_ONCE):
            async with self._writing:
                found = await self._sets.locate(keys[start : start + _FORGOTTEN_AT_ONCE])
                await self._forget(found)

    async def expire(self, now: float) -> int:
        """Forget what has expired by `now`, that of former encoders too; see `VectorIndex`.

        Nobody else would: hosts may still use an encoder that this one knows nothing of, so that
        its vectors are left to their expiry.
        """
        forgotten = await self._expire_own(now)
        for partition, layout in list(self._sets.layouts.items()):
            async with self._writing:
                await self._division.go_on(partition, layout)
        encoders = self._names.encoders
        _, known = await self._sets.run(
            [("HSET", encoders, self._fingerprint, self._dimension), ("HGETALL", encoders)]
        )
        for name, dimension in known.items():
            if (fingerprint := name.decode()) != self._fingerprint:
                former = VectorSetIndex(
                    self._commands, self._namespace, fingerprint, int(dimension)
                )
                forgotten += await former._expire_own(now)
                if (await former.stats()).vectors["remote"] == 0:
                    await self._sets.run([("HDEL", encoders, fingerprint)])
        return forgotten

    async def begin_sweep(self) -> None:
        """Begin a rebuild; see `VectorIndex`. Of several hosts' the latest counts."""
        async with self._writing:
            self._sweep = secrets.token_bytes(len(NO_STAMP))
            await self._sets.run([("SET", self._names.sweep, self._sweep)])

    async def end_sweep(self) -> int:
        """Forget what nobody added since `begin_sweep`; see `VectorIndex`."""
        forgotten = 0
        cursors: dict[int, bytes] = dict.fromkeys(range(SHARDS), b"0")
        while cursors:
            async with self._writing:
                stamp, *pages = await self._sets.run(
                    [
                        ("GET", self._names.sweep),
                        *(
                            ("HSCAN", self._names.at(shard), cursor, "COUNT", 32)
                            for shard, cursor in cursors.items()
                        ),
                    ]
                )
                if stamp != self._sweep:
                    # Another host began one: what it has yet to add must not go.
                    return forgotten
                stale = {}
                for shard, (cursor, fields) in zip(list(cursors), pages, strict=True):
                    for key, raw in zip(fields[::2], fields[1::2], strict=True):
                        location = Location.unpack(raw)
                        if location is not None and location.stamp != stamp:
                            stale[key] = location
                    cursors[shard] = cursor
                    if cursor == b"0":
                        del cursors[shard]
                await self._forget(stale)
                forgotten += len(stale)
        return forgotten

    async def save(self, position: str) -> None:
        """Note `position`; the vectors are as durable as Redis is."""
        await self._sets.run(
            [("SET", self._names.position(shard), position) for shard in range(SHARDS)]
        )

    async def load(self) -> str | None:
        """Return the position saved last; None if any node has lost it, and vectors with it."""
        self._sets.layouts.clear()
        positions = set(
            await self._sets.run([("GET", self._names.position(shard)) for shard in range(SHARDS)])
        )
        if len(positions) > 1 or None in positions:
            return None
        return str(positions.pop(), "utf-8")

    async def stats(self) -> IndexStats:
        """Return how much is held by all nodes, and by this process."""
        counts = await self._sets.run(
            [("HLEN", self._names.at(shard)) for shard in range(SHARDS)]
            + [("SCARD", self._names.partitions(shard)) for shard in range(SHARDS)]
        )
        return IndexStats(
            vectors={"remote": sum(counts[:SHARDS])},
            partitions=sum(counts[SHARDS:]),
            bytes=sum(layout.centroids.nbytes for layout in self._sets.layouts.values()),
        )

    async def close(self) -> None:
        """Do nothing: the way to Redis is its owner's to close."""

    async def _add(self, vectors: Sequence[IndexedVector]) -> None:
        partitions = sorted({vector.partition for vector in vectors})
        layouts = await self._sets.current_layouts(partitions)
        former = await self._sets.locate([vector.key for vector in vectors])
        homes = [layouts[vector.partition].home(vector.vector) for vector in vectors]
        stamp, *_ = await self._sets.run(
            [
                ("GET", self._names.sweep),
                *(
                    self._sets.announcement(
                        Place(vector.key, vector.partition, home), vector.expires_at
                    )
                    for vector, home in zip(vectors, homes, strict=True)
                ),
                *(("SADD", self._names.partitions(shard_of(name)), name) for name in partitions),
            ]
        )
        located = {
            vector.key: Location(vector.partition, vector.expires_at, home, stamp or NO_STAMP)
            for vector, home in zip(vectors, homes, strict=True)
        }
        touched = sorted({(at.partition, at.part) for at in located.values()})
        replies = await self._sets.run(
            [
                self._sets.addition(at.place(vector.key), vector.vector)
                for vector, at in zip(vectors, located.values(), strict=True)
            ]
            + [("VCARD", self._names.part(*part)) for part in touched]
        )
        await self._sets.write_locations(located)
        await self._sets.take_out(
            place
            for key, at in located.items()
            for place in (
                *([former[key].place(key)] if key in former else []),
                *(Place(key, at.partition, part) for part in layouts[at.partition].draining),
            )
            if place != at.place(key)
        )
        cards = dict(zip(touched, replies[len(vectors) :], strict=True))
        await self._division.begin(layouts, cards)
        for partition, layout in layouts.items():
            await self._division.go_on(partition, layout)

    async def _forget(self, located: Mapping[bytes, Location]) -> None:
        """Undo `_add` for keys and where they are."""
        by_shard: dict[int, list[bytes]] = defaultdict(list)
        for key in located:
            by_shard[shard_of(key)].append(key)
        await self._sets.run(
            [("HDEL", self._names.at(shard), *keys) for shard, keys in by_shard.items()]
        )
        await self._sets.take_out(at.place(key) for key, at in located.items())

    async def _expire_own(self, now: float) -> int:
        forgotten = 0
        shards = list(range(SHARDS))
        most = _FORGOTTEN_AT_ONCE // SHARDS
        while shards:
            async with self._writing:
                pages = await self._sets.run(
                    [
                        ("ZRANGE", self._names.due(shard), "-inf", now, "BYSCORE", "LIMIT", 0, most)
                        for shard in shards
                    ]
                )
                forgotten += await self._forget_due(
                    [entry for page in pages for entry in page], now
                )
            shards = [shard for shard, page in zip(shards, pages, strict=True) if len(page) == most]
        return forgotten

    async def _forget_due(self, entries: Sequence[bytes], now: float) -> int:
        """Empty the places that these entries of `due` announce; return how many were right."""
        places = [Place.unpack(entry) for entry in entries]
        located = await self._sets.locate([place.key for place in places])
        expired: dict[bytes, Location] = {}
        # Both left by a writer that died before it had located the vector.
        astray: list[Place] = []
        early: list[Place] = []
        for place in places:
            at = located.get(place.key)
            if at is None or at.place(place.key) != place:
                astray.append(place)
            elif at.expires_at > now:
                early.append(place)
            else:
                expired[place.key] = at
        await self._forget(expired)
        await self._sets.take_out(astray)
        await self._sets.run(
            [self._sets.announcement(place, located[place.key].expires_at) for place in early]
        )
        return len(expired)

    def _check(self, vector: Vector) -> None:
        if vector.shape != (self._dimension,):
            raise ValueError(f"shape {vector.shape}, not ({self._dimension},)")
