"""An encoder, an index, a store and an observer that can be told to fail, and count what happens.

The store here is the contract of `embeddings.service.source` in memory: records, and a log of the
keys to look at, which can be trimmed, emptied and taken away; and what was learned of answers.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from embeddings.encoding.encoder import Refused, Vector
from embeddings.index.vector_index import IndexedVector, IndexUnavailable, Match
from embeddings.observer import (
    IndexStats,
    LookUpOutcome,
    Measured,
    RebuildCause,
    SnapshotOutcome,
)
from embeddings.service.source import Changes, Learned, Record, SourceUnavailable, Witness
from embeddings.verdict import Verdict

PARTITION = b"p" * 32
FAR_FUTURE = 4e9


def key_of(name: object) -> bytes:
    """Return the key of whatever `name` is, 32 bytes."""
    return hashlib.blake2b(str(name).encode(), digest_size=32).digest()


class FakeEncoder:
    """Gives each text a vector of its own: the same text the same, others far away."""

    window_tokens = 256

    def __init__(self, dimension: int = 8) -> None:
        self.dimension = dimension
        self.fingerprint = f"{dimension:032x}"
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str]) -> list[Vector | Refused]:
        """Encode, but refuse what begins with "refuse"."""
        self.encoded += texts
        return [Refused.SCRIPT if t.startswith("refuse") else self.vector(t) for t in texts]

    def vector(self, text: str) -> Vector:
        """Return a text's vector."""
        seed = int.from_bytes(key_of(text)[:8], "little")
        vector = np.random.default_rng(seed).standard_normal(self.dimension).astype(np.float32)
        return vector / np.float32(np.linalg.norm(vector))


@dataclass
class FakeStore:
    """What lies in Redis: texts, vectors by encoder, the log; answers and what was learned of them.

    Attributes:
        witnesses: The whole records there are.
        samples: Encoder, route and sample; of a forbidden pair the pair alone.
        forbidden: All pairs that were ever forbidden.
        failures_to_come: So often what the index is filled from fails yet.
        are_samples_down: The log of samples is away, and nothing else.
    """

    records: dict[bytes, Record] = field(default_factory=dict)
    vectors: dict[tuple[bytes, str], bytes] = field(default_factory=dict)
    log: list[tuple[int, bytes | None]] = field(default_factory=list)
    written: int = 0
    gone_entries: set[bytes] = field(default_factory=set)
    is_down: bool = False
    failures_to_come: int = 0
    witnesses: dict[bytes, Witness] = field(default_factory=dict)
    samples: list[tuple[str, str, bytes]] = field(default_factory=list)
    forbidden: set[bytes] = field(default_factory=set)
    are_samples_down: bool = False

    def put(self, name: str, text: str | None = None, *, expires_at: float = FAR_FUTURE) -> bytes:
        """Store a record and tell the log; return its key."""
        key = key_of(name)
        self.records[key] = Record(key, PARTITION, expires_at, b"", name if text is None else text)
        self.tell(key)
        return key

    def drop(self, key: bytes) -> None:
        """Remove a record and tell the log."""
        del self.records[key]
        self.tell(key)

    def tell(self, key: bytes | None) -> str:
        """Write a message; None means nothing."""
        self.written += 1
        self.log.append((self.written, key))
        return str(self.written)

    def check(self) -> None:
        """Fail if the store is to fail now."""
        if self.failures_to_come:
            self.failures_to_come -= 1
            raise SourceUnavailable("down for once")
        if self.is_down:
            raise SourceUnavailable("down")

    def check_samples(self) -> None:
        """Fail if the log of samples is to fail now."""
        if self.is_down or self.are_samples_down:
            raise SourceUnavailable("down")


class FakeSource:
    """The store as an encoder sees it."""

    def __init__(self, store: FakeStore, fingerprint: str) -> None:
        self.store = store
        self.fingerprint = fingerprint
        self.reads: list[list[bytes]] = []
        self.scans = 0
        self.scan_size = 100

    async def mark(self) -> str:
        """Write a message that means nothing."""
        self.store.check()
        return self.store.tell(None)

    async def changes(self, after: str, most: int) -> Changes | None:
        """Return what is behind `after`."""
        self.store.check()
        if all(number != int(after) for number, _ in self.store.log):
            return None
        behind = [(number, key) for number, key in self.store.log if number > int(after)][:most]
        position = str(behind[-1][0]) if behind else after
        return Changes([key for _, key in behind if key], position, 1.0 if behind else None)

    async def read(self, keys: Sequence[bytes]) -> list[Record | None]:
        """Return records, their text only where there is no vector."""
        self.store.check()
        self.reads.append(list(keys))
        found: list[Record | None] = []
        for key in keys:
            record = self.store.records.get(key)
            vector = self.store.vectors.get((key, self.fingerprint))
            if record is not None and vector is not None:
                record = replace(record, vector=vector, text="")
            found.append(record)
        return found

    async def keep_vector(self, record: Record, vector: bytes) -> None:
        """Write a vector into a record."""
        self.store.check()
        if record.key in self.store.records:
            self.store.vectors[record.key, self.fingerprint] = vector

    async def forget_gone(self, keys: Sequence[bytes]) -> None:
        """Remove the records of entries that are gone."""
        self.store.check()
        for key in keys:
            if key in self.store.gone_entries and key in self.store.records:
                self.store.drop(key)

    async def scan(self, cursor: int) -> tuple[int, list[bytes]]:
        """Return some keys."""
        self.store.check()
        self.scans += 1
        # As SCAN does: what is there from the beginning to the end is returned, come what may.
        places = sorted((int.from_bytes(key[:8]), key) for key in self.store.records)
        ahead = [(place, key) for place, key in places if place >= cursor]
        end = ahead[self.scan_size][0] if len(ahead) > self.scan_size else 0
        return end, [key for _, key in ahead[: self.scan_size]]

    async def witnesses(self, keys: Sequence[bytes]) -> list[Witness | None]:
        """Return whole records."""
        self.store.check()
        return [self.store.witnesses.get(key) for key in keys]

    async def keep_group(self, witness: Witness, group: bytes) -> None:
        """Write a group into a record that has the same answer still, and tell the log."""
        self.store.check()
        held = self.store.witnesses.get(witness.key)
        if held is not None and held.words == witness.words:
            assert held.partition == witness.partition
            self.store.witnesses[witness.key] = replace(held, group=group)
            self.store.tell(witness.key)

    async def learn(self, route: str, sample: bytes) -> None:
        """Write a sample."""
        self.store.check_samples()
        self.store.samples.append((self.fingerprint, route, sample))

    async def forbid(self, pair: bytes) -> None:
        """Forbid a pair, and tell those who follow."""
        self.store.check_samples()
        self.store.forbidden.add(pair)
        self.store.samples.append(("", "", pair))

    async def forbidden(self) -> frozenset[bytes]:
        """Return what was ever forbidden."""
        self.store.check_samples()
        return frozenset(self.store.forbidden)

    async def learned(self, after: str, most: int) -> Learned:
        """Return what is behind `after`."""
        self.store.check_samples()
        begin = int(after.partition("-")[0])
        some = self.store.samples[begin : begin + most]
        samples = [(route, sample) for name, route, sample in some if name == self.fingerprint]
        pairs = [pair for name, _, pair in some if not name]
        return Learned(samples, pairs, f"{begin + len(some)}-0", len(some))


class FakeIndex:
    """Compares with all there is. Its snapshot is `saved`, which a second index may share."""

    def __init__(self, saved: dict[str, Any] | None = None) -> None:
        self.vectors: dict[bytes, IndexedVector] = {}
        self.saved = {} if saved is None else saved
        self.searches: list[int] = []
        self.not_swept: set[bytes] = set()
        self.poison: set[bytes] = set()
        self.is_whole = True
        self.expiries = 0
        self.is_expiry_broken = False
        self.is_down = False
        self.is_disk_full = False
        self.is_closed = False

    def check(self) -> None:
        """Fail if the index is to fail now."""
        if self.is_down:
            raise IndexUnavailable("down")

    async def search(
        self, queries: Sequence[tuple[bytes, Vector]], k: int, now: float
    ) -> list[list[Match]]:
        """Return the nearest of each query's partition."""
        self.check()
        self.searches.append(len(queries))
        return [self._nearest(partition, query, k, now) for partition, query in queries]

    def _nearest(self, partition: bytes, query: Vector, k: int, now: float) -> list[Match]:
        matches = [
            Match(held.key, float(held.vector @ query))
            for held in self.vectors.values()
            if held.partition == partition and held.expires_at > now
        ]
        return sorted(matches, key=lambda match: (-match.score, match.key))[:k]

    async def add(self, vectors: Sequence[IndexedVector]) -> None:
        """Add."""
        self.check()
        if self.poison & {vector.key for vector in vectors}:
            raise ValueError("poison")
        self.vectors.update((vector.key, vector) for vector in vectors)
        self.not_swept -= {vector.key for vector in vectors}

    async def remove(self, keys: Sequence[bytes]) -> None:
        """Remove."""
        self.check()
        for key in keys:
            self.vectors.pop(key, None)

    async def expire(self, now: float) -> int:
        """Drop what has expired."""
        self.check()
        self.expiries += 1
        if self.is_expiry_broken:
            raise ValueError("a defect")
        old = [key for key, held in self.vectors.items() if held.expires_at <= now]
        await self.remove(old)
        return len(old)

    async def begin_sweep(self) -> None:
        """Begin a rebuild."""
        self.check()
        self.not_swept = set(self.vectors)
        self.is_whole = True

    async def end_sweep(self) -> int:
        """End a rebuild."""
        self.check()
        await self.remove(list(self.not_swept))
        return len(self.not_swept)

    async def save(self, position: str) -> None:
        """Keep a copy."""
        self.check()
        if self.is_disk_full:
            raise OSError("no space left on device")
        self.saved.update(position=position, vectors=dict(self.vectors))

    async def load(self) -> str | None:
        """Take up the copy."""
        self.check()
        self.vectors = dict(self.saved.get("vectors", {}))
        position: str | None = self.saved.get("position")
        return position

    async def stats(self) -> IndexStats:
        """Count."""
        self.check()
        partitions = {held.partition for held in self.vectors.values()}
        return IndexStats({"flat": len(self.vectors)}, len(partitions), 100 * len(self.vectors))

    async def close(self) -> None:
        """Note it."""
        self.is_closed = True


class CountingObserver:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.outcomes: list[LookUpOutcome] = []
        self.searches: list[int] = []
        self.rebuilds: list[RebuildCause] = []
        self.snapshots: list[SnapshotOutcome] = []
        self.lags: list[float] = []
        self.sizes: list[IndexStats] = []
        self.verdicts: list[Verdict] = []
        self.comparisons: list[tuple[bool, bool]] = []
        self.is_serving: dict[str, bool] = {}

    def looked_up(self, outcome: LookUpOutcome) -> None:
        """Note an outcome."""
        self.outcomes.append(outcome)

    def encoded(self, texts: int, seconds: float) -> None:
        """Let it pass."""

    def searched(self, queries: int, seconds: float) -> None:
        """Note a batch."""
        self.searches.append(queries)

    def queued(self, texts: int) -> None:
        """Let it pass."""

    def indexed(self, stats: IndexStats) -> None:
        """Note the size."""
        self.sizes.append(stats)

    def lag(self, seconds: float) -> None:
        """Note the lag."""
        self.lags.append(seconds)

    def rebuilt(self, cause: RebuildCause, seconds: float) -> None:
        """Note a rebuild."""
        self.rebuilds.append(cause)

    def snapshot(self, outcome: SnapshotOutcome, seconds: float) -> None:
        """Note a snapshot."""
        self.snapshots.append(outcome)

    def decided(self, route: str, verdict: Verdict) -> None:
        """Note a decision."""
        self.verdicts.append(verdict)

    def compared(self, route: str, would_serve: bool, is_right: bool) -> None:
        """Note what an answer was compared with."""
        self.comparisons.append((would_serve, is_right))

    def budget(self, route: str, is_serving: bool, threshold: float, measured: Measured) -> None:
        """Note how a route stands."""
        self.is_serving[route] = is_serving
