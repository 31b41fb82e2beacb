"""The interface of an index: vectors by partition, and the nearest ones.

Only vectors of one partition are ever compared. An entry has one vector, under the entry's key.
One contract test runs over all implementations (`faiss_index`, `vector_set_index`).

Nothing here reads a clock: the caller passes `now`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from embeddings.encoding.encoder import Vector
from embeddings.observer import IndexStats

KEY_BYTES = 32
PARTITION_BYTES = 32


@dataclass(frozen=True, slots=True, eq=False)
class IndexedVector:
    """One stored response's vector.

    Attributes:
        key: The stored response's key, 32 bytes.
        partition: 32 bytes.
        vector: Shape (dimension,), float32, L2 norm 1.
        expires_at: Unix seconds from which on it is not found any more.
    """

    key: bytes
    partition: bytes
    vector: Vector
    expires_at: float


@dataclass(frozen=True, slots=True)
class Match:
    """A stored vector near a query.

    Attributes:
        key: The stored response's key.
        score: Cosine, -1 … 1.
    """

    key: bytes
    score: float


class IndexUnavailable(Exception):
    """The index cannot be asked now: a miss. Worth another try."""


class VectorIndex(Protocol):
    """Adds, removes, searches. All methods may be called concurrently from one event loop.

    All raise IndexUnavailable where the index lies elsewhere and cannot be reached.
    """

    @property
    def is_whole(self) -> bool:
        """Whether it is not known to have lost anything since the last `begin_sweep`."""
        ...

    async def search(
        self, queries: Sequence[tuple[bytes, Vector]], k: int, now: float
    ) -> list[list[Match]]:
        """Return for each (partition, query vector) the `k` nearest vectors, best first.

        Args:
            queries: Each a partition and a vector of shape (dimension,), L2 norm 1.
            k: The most matches per query, at least 1.
            now: Unix seconds; what has expired by then is not found.

        Returns:
            One list per query, at most `k` long. Equal scores are ordered by key.

        Raises:
            ValueError: A query has not the index's dimension.
        """
        ...

    async def add(self, vectors: Sequence[IndexedVector]) -> None:
        """Add vectors, each in place of what was there under its key, in whichever partition.

        What was added is found by every search that begins after this returns.

        Raises:
            ValueError: A vector has not the index's dimension, or a key or partition its length.
        """
        ...

    async def remove(self, keys: Sequence[bytes]) -> None:
        """Forget the vectors under `keys`; those that are not there are no error."""
        ...

    async def expire(self, now: float) -> int:
        """Forget what has expired by `now`; return how many vectors that were."""
        ...

    async def begin_sweep(self) -> None:
        """Begin a rebuild: what is not added again until `end_sweep` will be forgotten then.

        Until then everything is still found. A second call begins anew.
        """
        ...

    async def end_sweep(self) -> int:
        """Forget what was not added since `begin_sweep`; return how many vectors that were."""
        ...

    async def save(self, position: str) -> None:
        """Make durable what is in the index, with the change log's `position` it stands at."""
        ...

    async def load(self) -> str | None:
        """Take up what was saved last; return its position, None if there is nothing usable.

        What is corrupt, of another format or of another encoder is removed, and None returned.
        """
        ...

    async def stats(self) -> IndexStats:
        """Return how much is held."""
        ...

    async def close(self) -> None:
        """Let go of threads and connections. Nothing is saved."""
        ...
