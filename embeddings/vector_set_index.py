"""Vectors in Redis 8's vector sets: one index that all hosts share, as large as a Redis Cluster.

For an index past one host's memory; `faiss_index` is faster. Nothing lies in this process but the
centroids of divided partitions. Hosts may all write to it: what two of them add or remove twice is
harmless, so that one need write and any may. That only one does is arranged elsewhere.

What is kept, under `{namespace}:i:{fingerprint}` (which encoders there are, in `{namespace}:i`):

    :{partition}            a vector set, the partition's vectors under their keys
    :{partition}:layout     a hash, version → how the partition is divided; absent: it is not
    :{partition}:{tag}:N    a vector set, part N of a divided partition
    :at:{tag}               a hash, key → where its vector is and until when. This is the truth.
    :due:{tag}              a sorted set, every place a vector was put, by when it expires
    :partitions:{tag}       a set, the partitions there are
    :position:{tag}         what was saved last

The last four are sharded by hash tags that lie evenly over the slots, so that no node carries all.

Commands touch one key each, as in a cluster nothing else is atomic. A vector's place is announced
in `due`, then it is put there, then located in `at`; on its way out it is taken from `at`, from its
place and last from `due`. So wherever a writer dies, what is left in a set is not found by anyone,
because `at` does not point there, and goes when it is due.

A set past `divide_at` vectors is divided by k-means: a new version of the layout names its parts
and that the old set is being emptied into them, which each later `add` and `expire` does a little
of. Until then searches look into both. All of it lies in Redis, so that another host, or this one
after a crash, goes on where it stopped.
"""

import asyncio
import secrets
import struct
from binascii import crc_hqx
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from embeddings.encoder import Vector
from embeddings.index import (
    KEY_BYTES,
    PARTITION_BYTES,
    IndexedVector,
    IndexStats,
    IndexUnavailable,
    Match,
)

Argument = bytes | str | int | float

_SHARDS = 64
_SLOTS = 16384
# Small enough that a node is not held up for long, nor a deadline of half a second missed: adding
# to a large set takes a millisecond or two each.
_ADDED_AT_ONCE = 64
_MOVED_AT_ONCE = 128
_FORGOTTEN_AT_ONCE = 1024
# Asked for beyond `k`, for those that have expired but are not yet forgotten; when these are more,
# it is asked again for four times as many.
_SPARE = 8
_COUNT_MAX = 4096
_LAYOUT_TRIES = 3
# Parts that a set is divided into, and how many vectors the division is learnt from.
_FAN_OUT = 8
_SAMPLE = 2048
_K_MEANS_ROUNDS = 10
# Vectors of which more than this lie in one part (they are all but equal) stay together.
_LARGEST_SHARE = 0.9
_NO_STAMP = bytes(8)
_PLACE = struct.Struct(f">{KEY_BYTES}s{PARTITION_BYTES}sI")
_LOCATION = struct.Struct(f">{PARTITION_BYTES}sdI{len(_NO_STAMP)}s")


class Commands(Protocol):
    """A way to Redis, cluster or not."""

    async def run(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send each command to the node of its key, those of one node in their order.

        Returns:
            The replies in the order of the commands, as RESP3 has them (a map is a dict, a double
            a float); in the place of one that failed, the exception.
        """
        ...


async def supports_vector_sets(commands: Commands) -> bool:
    """Say whether this Redis knows vector sets.

    Raises:
        IndexUnavailable: It cannot be asked now.
    """
    [reply] = await commands.run([("COMMAND", "INFO", "VADD")])
    if isinstance(reply, Exception):
        raise IndexUnavailable(str(reply)) from reply
    return isinstance(reply, list) and any(reply)


class _Place(NamedTuple):
    """Where a vector was put; what `due` holds."""

    key: bytes
    partition: bytes
    part: int

    def pack(self) -> bytes:
        return _PLACE.pack(*self)

    @classmethod
    def unpack(cls, raw: bytes) -> "_Place":
        return cls(*_PLACE.unpack(raw))


@dataclass(frozen=True, slots=True)
class _Location:
    """Where a key's vector is; what `at` holds.

    Attributes:
        part: Number of the part, 0 for the undivided set.
        stamp: The sweep in which it was added last.
    """

    partition: bytes
    expires_at: float
    part: int
    stamp: bytes

    def place(self, key: bytes) -> _Place:
        return _Place(key, self.partition, self.part)

    def pack(self) -> bytes:
        return _LOCATION.pack(self.partition, self.expires_at, self.part, self.stamp)

    @classmethod
    def unpack(cls, raw: bytes | None) -> "_Location | None":
        """Read one back; None too for what is none, which is then overwritten or forgotten."""
        if raw is None or len(raw) != _LOCATION.size:
            return None
        return cls(*_LOCATION.unpack(raw))


@dataclass(frozen=True, slots=True, eq=False)
class _Layout:
    """How a partition is divided.

    Attributes:
        version: 0: it never was.
        numbers: The parts, ascending. A number is never given out twice.
        is_draining: For each part, whether it is being emptied into the others.
        centroids: For each part, shape (parts, dimension).
    """

    version: int
    numbers: NDArray[np.uint32]
    is_draining: NDArray[np.bool_]
    centroids: NDArray[np.float32]

    @classmethod
    def undivided(cls, dimension: int) -> "_Layout":
        return cls(
            0,
            np.zeros(1, np.uint32),
            np.zeros(1, np.bool_),
            np.zeros((1, dimension), np.float32),
        )

    @classmethod
    def unpack(cls, version: int, raw: bytes, dimension: int) -> "_Layout":
        form = cls._form(dimension)
        if not raw or len(raw) % form.itemsize:
            raise IndexUnavailable("the layout of a partition is not one")
        parts = np.frombuffer(raw, form)
        return cls(
            version,
            parts["number"],
            parts["is_draining"],
            np.ascontiguousarray(parts["centroid"]),
        )

    def pack(self) -> bytes:
        parts = np.empty(len(self.numbers), self._form(self.centroids.shape[1]))
        parts["number"] = self.numbers
        parts["is_draining"] = self.is_draining
        parts["centroid"] = self.centroids
        return parts.tobytes()

    @staticmethod
    def _form(dimension: int) -> np.dtype[np.void]:
        return np.dtype(
            [("number", "<u4"), ("is_draining", "?"), ("centroid", "<f4", (dimension,))]
        )

    @property
    def draining(self) -> list[int]:
        return [int(number) for number in self.numbers[self.is_draining]]

    def home(self, vector: Vector) -> int:
        """Return the part that `vector` is added to."""
        return self.nearest(vector, 1)[0]

    def nearest(self, vector: Vector, parts: int) -> list[int]:
        """Return the `parts` parts that `vector`'s neighbours were added to, most likely first."""
        scores = np.where(self.is_draining, -np.inf, self.centroids @ vector)
        best = np.argsort(-scores, kind="stable")[: min(parts, int((~self.is_draining).sum()))]
        return [int(number) for number in self.numbers[best]]

    def divide(self, number: int, centroids: NDArray[np.float32]) -> "_Layout":
        """Return the next version: part `number` drains into new ones at `centroids`."""
        first = int(self.numbers.max()) + 1
        return _Layout(
            self.version + 1,
            np.append(self.numbers, np.arange(first, first + len(centroids), dtype=np.uint32)),
            np.append(self.is_draining | (self.numbers == number), np.zeros(len(centroids), bool)),
            np.concatenate([self.centroids, centroids]),
        )

    def without(self, number: int) -> "_Layout":
        """Return the next version: part `number` is empty."""
        stays = self.numbers != number
        return _Layout(
            self.version + 1, self.numbers[stays], self.is_draining[stays], self.centroids[stays]
        )


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
        self._prefix = f"{namespace}:i:{fingerprint}"
        self._dimension = dimension
        self._divide_at = divide_at
        self._parts_searched = parts_searched
        self._undivided = _Layout.undivided(dimension)
        self._layouts: dict[bytes, _Layout] = {}
        self._indivisible: set[tuple[bytes, int]] = set()
        self._sweep = _NO_STAMP
        # What one step reads of a location must hold until the step is done. Between hosts it may
        # not: then a vector is missing until it is added again.
        self._writing = asyncio.Lock()

    async def search(
        self, queries: Sequence[tuple[bytes, Vector]], k: int, now: float
    ) -> list[list[Match]]:
        """Return for each query the `k` nearest vectors, best first; see `VectorIndex`.

        Two round trips: the sets are asked for neighbours, then `at` whether they count. An expiry
        kept beside each vector would come with the first, from Redis 8.2 on, but could not tell
        one that a writer left behind.
        """
        for _, vector in queries:
            self._check(vector)
        results: list[list[Match]] = [[] for _ in queries]
        unanswered = list(range(len(queries)))
        count = k + _SPARE
        while unanswered:
            neighbours = await self._neighbours([queries[i] for i in unanswered], count)
            locations = await self._locate({key for found in neighbours for key in found.keys})
            again = []
            for i, found in zip(unanswered, neighbours, strict=True):
                results[i] = found.matches(queries[i][0], locations, now)[:k]
                if found.is_cut and len(results[i]) < k and count < _COUNT_MAX:
                    again.append(i)
            unanswered, count = again, 4 * count
        return results

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
                found = await self._locate(keys[start : start + _FORGOTTEN_AT_ONCE])
                await self._forget(found)

    async def expire(self, now: float) -> int:
        """Forget what has expired by `now`, that of former encoders too; see `VectorIndex`.

        Nobody else would: hosts may still use an encoder that this one knows nothing of, so that
        its vectors are left to their expiry.
        """
        forgotten = await self._expire_own(now)
        for partition, layout in list(self._layouts.items()):
            if layout.draining:
                async with self._writing:
                    await self._drain(partition, layout)
        encoders = f"{self._namespace}:i"
        _, known = await self._run(
            [("HSET", encoders, self._fingerprint, self._dimension), ("HGETALL", encoders)]
        )
        for name, dimension in known.items():
            if (fingerprint := name.decode()) != self._fingerprint:
                former = VectorSetIndex(
                    self._commands, self._namespace, fingerprint, int(dimension)
                )
                forgotten += await former._expire_own(now)
                if (await former.stats()).vectors["remote"] == 0:
                    await self._run([("HDEL", encoders, fingerprint)])
        return forgotten

    async def begin_sweep(self) -> None:
        """Begin a rebuild; see `VectorIndex`. Of several hosts' the latest counts."""
        async with self._writing:
            self._sweep = secrets.token_bytes(len(_NO_STAMP))
            await self._run([("SET", self._sweep_name, self._sweep)])

    async def end_sweep(self) -> int:
        """Forget what nobody added since `begin_sweep`; see `VectorIndex`."""
        forgotten = 0
        cursors: dict[int, bytes] = dict.fromkeys(range(_SHARDS), b"0")
        while cursors:
            async with self._writing:
                stamp, *pages = await self._run(
                    [
                        ("GET", self._sweep_name),
                        *(
                            ("HSCAN", self._at(shard), cursor, "COUNT", 32)
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
                        location = _Location.unpack(raw)
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
        await self._run([("SET", self._position(shard), position) for shard in range(_SHARDS)])

    async def load(self) -> str | None:
        """Return the position saved last; None if any node has lost it, and vectors with it."""
        self._layouts.clear()
        positions = set(
            await self._run([("GET", self._position(shard)) for shard in range(_SHARDS)])
        )
        if len(positions) > 1 or None in positions:
            return None
        return str(positions.pop(), "utf-8")

    async def stats(self) -> IndexStats:
        """Return how much is held by all nodes, and by this process."""
        counts = await self._run(
            [("HLEN", self._at(shard)) for shard in range(_SHARDS)]
            + [("SCARD", self._partitions(shard)) for shard in range(_SHARDS)]
        )
        return IndexStats(
            vectors={"remote": sum(counts[:_SHARDS])},
            partitions=sum(counts[_SHARDS:]),
            bytes=sum(layout.centroids.nbytes for layout in self._layouts.values()),
        )

    async def close(self) -> None:
        """Do nothing: the way to Redis is its owner's to close."""

    async def _add(self, vectors: Sequence[IndexedVector]) -> None:
        partitions = sorted({vector.partition for vector in vectors})
        layouts = await self._current_layouts(partitions)
        former = await self._locate([vector.key for vector in vectors])
        homes = [layouts[vector.partition].home(vector.vector) for vector in vectors]
        stamp, *_ = await self._run(
            [
                ("GET", self._sweep_name),
                *(
                    self._announce(_Place(vector.key, vector.partition, home), vector.expires_at)
                    for vector, home in zip(vectors, homes, strict=True)
                ),
                *(("SADD", self._partitions(_shard(name)), name) for name in partitions),
            ]
        )
        located = {
            vector.key: _Location(vector.partition, vector.expires_at, home, stamp or _NO_STAMP)
            for vector, home in zip(vectors, homes, strict=True)
        }
        touched = sorted({(at.partition, at.part) for at in located.values()})
        replies = await self._run(
            [
                self._vadd(at.place(vector.key), vector.vector)
                for vector, at in zip(vectors, located.values(), strict=True)
            ]
            + [("VCARD", self._part(*part)) for part in touched]
        )
        await self._write_locations(located)
        await self._take_out(
            place
            for key, at in located.items()
            for place in (
                *([former[key].place(key)] if key in former else []),
                *(_Place(key, at.partition, part) for part in layouts[at.partition].draining),
            )
            if place != at.place(key)
        )
        for (partition, part), card in zip(touched, replies[len(vectors) :], strict=True):
            is_large = card >= self._divide_at and (partition, part) not in self._indivisible
            if is_large and not layouts[partition].draining:
                await self._divide(partition, layouts[partition], part)
        for partition in partitions:
            if layouts[partition].draining:
                await self._drain(partition, layouts[partition])

    async def _forget(self, located: Mapping[bytes, _Location]) -> None:
        """Undo `_add` for keys and where they are."""
        by_shard: dict[int, list[bytes]] = defaultdict(list)
        for key in located:
            by_shard[_shard(key)].append(key)
        await self._run([("HDEL", self._at(shard), *keys) for shard, keys in by_shard.items()])
        await self._take_out(at.place(key) for key, at in located.items())

    async def _take_out(self, places: Iterable[_Place]) -> None:
        """Empty places and what announced them; partitions that are empty then are none."""
        places = list(places)
        layouts = await self._current_layouts({place.partition for place in places})
        parts = [
            (partition, int(part))
            for partition, layout in layouts.items()
            for part in layout.numbers
        ]
        replies = await self._run(
            [("VREM", self._part(place.partition, place.part), place.key.hex()) for place in places]
            + [("VCARD", self._part(*part)) for part in parts]
        )
        cards: dict[bytes, int] = defaultdict(int)
        for (partition, _), card in zip(parts, replies[len(places) :], strict=True):
            cards[partition] += card
        await self._run(
            [("ZREM", self._due(_shard(place.key)), place.pack()) for place in places]
            + [
                ("SREM", self._partitions(_shard(partition)), partition)
                for partition, card in cards.items()
                if card == 0
            ]
        )

    async def _expire_own(self, now: float) -> int:
        forgotten = 0
        shards = list(range(_SHARDS))
        most = _FORGOTTEN_AT_ONCE // _SHARDS
        while shards:
            async with self._writing:
                pages = await self._run(
                    [
                        ("ZRANGE", self._due(shard), "-inf", now, "BYSCORE", "LIMIT", 0, most)
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
        places = [_Place.unpack(entry) for entry in entries]
        located = await self._locate([place.key for place in places])
        expired: dict[bytes, _Location] = {}
        # Both left by a writer that died before it had located the vector.
        astray: list[_Place] = []
        early: list[_Place] = []
        for place in places:
            at = located.get(place.key)
            if at is None or at.place(place.key) != place:
                astray.append(place)
            elif at.expires_at > now:
                early.append(place)
            else:
                expired[place.key] = at
        await self._forget(expired)
        await self._take_out(astray)
        await self._run([self._announce(place, located[place.key].expires_at) for place in early])
        return len(expired)

    async def _divide(self, partition: bytes, layout: _Layout, part: int) -> None:
        """Begin to divide one part by centroids of a sample; the first host to do so wins."""
        [members] = await self._run([("VRANDMEMBER", self._part(partition, part), _SAMPLE)])
        sample = await self._read_vectors(partition, part, members)
        if len(sample) < _FAN_OUT:  # emptied meanwhile
            return
        vectors = np.stack(list(sample.values()))
        centroids = await asyncio.to_thread(_k_means, vectors, _FAN_OUT)
        sizes = np.bincount(np.argmax(vectors @ centroids.T, axis=1))
        if sizes.max() > _LARGEST_SHARE * len(vectors):
            self._indivisible.add((partition, part))
            return
        await self._change_layout(partition, layout.divide(part, centroids))

    async def _drain(self, partition: bytes, layout: _Layout) -> None:
        """Move some vectors out of a part that is being emptied; drop the part when it is."""
        part = layout.draining[0]
        [members] = await self._run([("VRANDMEMBER", self._part(partition, part), _MOVED_AT_ONCE)])
        if not members:
            await self._change_layout(partition, layout.without(part))
            return
        vectors = await self._read_vectors(partition, part, members)
        locations = await self._locate(vectors)
        # Those that are located elsewhere were left by a writer that died.
        moved = {
            key: _Location(partition, at.expires_at, layout.home(vectors[key]), at.stamp)
            for key, at in locations.items()
            if at.partition == partition and at.part == part
        }
        await self._run([self._announce(at.place(key), at.expires_at) for key, at in moved.items()])
        await self._run([self._vadd(at.place(key), vectors[key]) for key, at in moved.items()])
        await self._write_locations(moved)
        await self._take_out(_Place(_key(member), partition, part) for member in members)

    async def _change_layout(self, partition: bytes, layout: _Layout) -> None:
        """Put a next version in force, unless another host has put one there already."""
        name = self._layout(partition)
        await self._run([("HSETNX", name, layout.version, layout.pack())])
        if layout.version > 1:
            # The number of fields is the version; what they held is not needed any more.
            await self._run([("HSET", name, layout.version - 1, b"")])

    async def _neighbours(
        self, queries: Sequence[tuple[bytes, Vector]], count: int
    ) -> list["_Neighbours"]:
        """Ask the sets for the `count` nearest in each part, by layouts that hold."""
        partitions = sorted({partition for partition, _ in queries})
        for _ in range(_LAYOUT_TRIES):
            layouts = {name: self._layouts.get(name, self._undivided) for name in partitions}
            asked = [
                (query, partition, part, vector)
                for query, (partition, vector) in enumerate(queries)
                for part in (
                    *layouts[partition].nearest(vector, self._parts_searched),
                    *layouts[partition].draining,
                )
            ]
            replies = await self._run(
                [("HLEN", self._layout(partition)) for partition in partitions]
                + [
                    (
                        *("VSIM", self._part(partition, part)),
                        *("FP32", vector.astype("<f4").tobytes()),
                        *("WITHSCORES", "COUNT", count),
                    )
                    for _, partition, part, vector in asked
                ]
            )
            if await self._are_current(layouts, replies[: len(partitions)]):
                found = [_Neighbours(set(layouts[partition].draining)) for partition, _ in queries]
                for (query, _, part, _), reply in zip(
                    asked, replies[len(partitions) :], strict=True
                ):
                    found[query].take(part, reply, count)
                return found
        raise IndexUnavailable("the layout of a partition keeps changing")

    async def _current_layouts(self, partitions: Iterable[bytes]) -> dict[bytes, _Layout]:
        names = sorted(partitions)
        for _ in range(_LAYOUT_TRIES):
            layouts = {name: self._layouts.get(name, self._undivided) for name in names}
            versions = await self._run([("HLEN", self._layout(name)) for name in names])
            if await self._are_current(layouts, versions):
                return layouts
        raise IndexUnavailable("the layout of a partition keeps changing")

    async def _are_current(self, layouts: Mapping[bytes, _Layout], versions: Sequence[int]) -> bool:
        """Say whether `layouts` have these versions; learn those that have not."""
        changed = [
            (partition, version)
            for (partition, layout), version in zip(layouts.items(), versions, strict=True)
            if layout.version != version
        ]
        for partition, version in changed:
            self._layouts.pop(partition, None)
            if version:
                [raw] = await self._run([("HGET", self._layout(partition), version)])
                # Empty: it has been replaced since.
                if raw:
                    self._layouts[partition] = _Layout.unpack(version, raw, self._dimension)
        return not changed

    async def _locate(self, keys: Iterable[bytes]) -> dict[bytes, _Location]:
        """Return where keys are; what is nowhere is absent."""
        by_shard: dict[int, list[bytes]] = defaultdict(list)
        for key in dict.fromkeys(keys):
            by_shard[_shard(key)].append(key)
        replies = await self._run(
            [("HMGET", self._at(shard), *names) for shard, names in by_shard.items()]
        )
        return {
            key: location
            for names, page in zip(by_shard.values(), replies, strict=True)
            for key, raw in zip(names, page, strict=True)
            if (location := _Location.unpack(raw)) is not None
        }

    async def _write_locations(self, located: Mapping[bytes, _Location]) -> None:
        by_shard: dict[int, list[Argument]] = defaultdict(list)
        for key, at in located.items():
            by_shard[_shard(key)] += [key, at.pack()]
        await self._run([("HSET", self._at(shard), *pairs) for shard, pairs in by_shard.items()])

    async def _read_vectors(
        self, partition: bytes, part: int, members: Sequence[bytes]
    ) -> dict[bytes, Vector]:
        replies = await self._run(
            [("VEMB", self._part(partition, part), member, "RAW") for member in members]
        )
        return {
            _key(member): np.frombuffer(reply[1], np.int8) * np.float32(reply[3] / 127)
            for member, reply in zip(members, replies, strict=True)
            if reply is not None  # gone meanwhile
        }

    async def _run(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        if not commands:
            return []
        replies = await self._commands.run(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise IndexUnavailable(str(reply)) from reply
        return replies

    def _announce(self, place: _Place, expires_at: float) -> tuple[Argument, ...]:
        return ("ZADD", self._due(_shard(place.key)), expires_at, place.pack())

    def _vadd(self, place: _Place, vector: Vector) -> tuple[Argument, ...]:
        # Eight bits a number: an error of a cosine of 0.002, at a third of the memory.
        return (
            *("VADD", self._part(place.partition, place.part)),
            *("FP32", vector.astype("<f4").tobytes(), place.key.hex(), "Q8"),
        )

    def _check(self, vector: Vector) -> None:
        if vector.shape != (self._dimension,):
            raise ValueError(f"shape {vector.shape}, not ({self._dimension},)")

    @property
    def _sweep_name(self) -> str:
        return f"{self._prefix}:sweep"

    def _part(self, partition: bytes, part: int) -> str:
        whole = f"{self._prefix}:{partition.hex()}"
        # Neighbouring numbers are far apart in slots: 23 and 64 have no common divisor.
        return f"{whole}:{_TAGS[(partition[0] + 23 * part) % _SHARDS]}:{part}" if part else whole

    def _layout(self, partition: bytes) -> str:
        return f"{self._prefix}:{partition.hex()}:layout"

    def _at(self, shard: int) -> str:
        return f"{self._prefix}:at:{_TAGS[shard]}"

    def _due(self, shard: int) -> str:
        return f"{self._prefix}:due:{_TAGS[shard]}"

    def _partitions(self, shard: int) -> str:
        return f"{self._prefix}:partitions:{_TAGS[shard]}"

    def _position(self, shard: int) -> str:
        return f"{self._prefix}:position:{_TAGS[shard]}"


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
                self.scores[_key(member), part] = min(1.0, max(-1.0, 2 * similarity - 1))

    @property
    def keys(self) -> set[bytes]:
        return {key for key, _ in self.scores}

    def matches(
        self, partition: bytes, locations: Mapping[bytes, _Location], now: float
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


def _shard(name: bytes) -> int:
    return name[0] % _SHARDS


def _key(member: bytes) -> bytes:
    return bytes.fromhex(member.decode())


def _even_tags() -> list[str]:
    """Return for each shard a hash tag whose slot lies in its share of the slots.

    A node that holds a few hundred slots in a row then has a shard, and when it loses its memory
    `load` notices.
    """
    tags: dict[int, str] = {}
    number = 0
    while len(tags) < _SHARDS:
        # Redis Cluster's CRC16 is the XMODEM one.
        slot = crc_hqx(str(number).encode(), 0) % _SLOTS
        tags.setdefault(slot * _SHARDS // _SLOTS, f"{{{number}}}")
        number += 1
    return [tags[shard] for shard in range(_SHARDS)]


_TAGS = _even_tags()


def _k_means(vectors: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Return `k` directions around which `vectors` lie (spherical k-means)."""
    chance = np.random.default_rng(0)
    centroids = vectors[chance.choice(len(vectors), k, replace=False)]
    for _ in range(_K_MEANS_ROUNDS):
        nearest = np.argmax(vectors @ centroids.T, axis=1)
        for cluster in range(k):
            members = vectors[nearest == cluster]
            if len(members):
                mean = members.sum(axis=0)
                centroids[cluster] = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return centroids
