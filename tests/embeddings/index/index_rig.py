"""Vectors like those of texts, and a brute force to compare an index with."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embeddings.encoding.encoder import Vector
from embeddings.index.vector_index import IndexedVector, Match, VectorIndex

DIMENSION = 48
NOW = 1_000.0
LATER = 2_000.0
PARTITION = b"p" * 32
OTHER_PARTITION = b"q" * 32
# What eight bits a number cost a cosine.
Q8_ERROR = 0.01

Vectors = NDArray[np.float32]


def key(number: int) -> bytes:
    """Return a key; keys are ordered as their numbers are."""
    return b"k" * 24 + number.to_bytes(8, "big")


def number_of(some_key: bytes) -> int:
    """Return the number `key` was called with."""
    return int.from_bytes(some_key[24:], "big")


def unit(vectors: NDArray[np.floating]) -> Vectors:
    """Return vectors with norm 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


def some_vectors(count: int, seed: int = 0, clusters: int = 50) -> Vectors:
    """Return vectors that lie in clusters, as those of texts do."""
    chance = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((clusters, DIMENSION))
    noise = chance.standard_normal((count, DIMENSION))
    return unit(centres[chance.integers(0, clusters, count)] + 0.7 * noise)


def near(vectors: Vectors, seed: int = 1) -> Vectors:
    """Return a vector close to each: as of the same questions in other words."""
    noise = np.random.default_rng(seed).standard_normal(vectors.shape)
    return unit(vectors + 0.3 / DIMENSION**0.5 * noise)


def entries(
    vectors: Sequence[Vector] | Vectors,
    first: int = 0,
    partition: bytes = PARTITION,
    expires_at: float = LATER,
) -> list[IndexedVector]:
    """Return vectors under keys that count from `first`."""
    return [
        IndexedVector(key(first + at), partition, vector, expires_at)
        for at, vector in enumerate(vectors)
    ]


async def found(
    index: VectorIndex,
    vector: Vector,
    k: int = 1,
    partition: bytes = PARTITION,
    now: float = NOW,
) -> list[int]:
    """Return the numbers of the keys nearest to `vector`, best first."""
    [matches] = await index.search([(partition, vector)], k, now)
    return [number_of(match.key) for match in matches]


@dataclass
class BruteForce:
    """What an index should say: all vectors, by key."""

    held: dict[bytes, IndexedVector] = field(default_factory=dict)

    def add(self, vectors: Iterable[IndexedVector]) -> None:
        """Add, each in place of what was there."""
        self.held.update((one.key, one) for one in vectors)

    def nearest(self, partition: bytes, query: Vector, k: int, now: float) -> list[Match]:
        """Return the nearest, best first."""
        matches = [
            Match(one.key, float(one.vector @ query))
            for one in self.held.values()
            if one.partition == partition and one.expires_at > now
        ]
        return sorted(matches, key=lambda match: (-match.score, match.key))[:k]


def files(folder: Path, pattern: str = "*") -> list[Path]:
    """Return what lies in `folder`, by name."""
    return sorted(folder.glob(pattern))
