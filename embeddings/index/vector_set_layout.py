"""How a partition that is too large for one vector set is divided: cells around centroids.

Pure: vectors in, layouts out; that layouts lie in Redis is `vector_sets`' affair.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embeddings.encoding.encoder import Vector
from embeddings.index.vector_index import IndexUnavailable

# Parts that a set is divided into.
FAN_OUT = 8
_K_MEANS_ROUNDS = 10
# Vectors of which more than this lie in one part (they are all but equal) stay together.
_LARGEST_SHARE = 0.9


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
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
    def undivided(cls, dimension: int) -> "Layout":
        """Return that of a partition which is one set."""
        return cls(
            0,
            np.zeros(1, np.uint32),
            np.zeros(1, np.bool_),
            np.zeros((1, dimension), np.float32),
        )

    @classmethod
    def unpack(cls, version: int, raw: bytes, dimension: int) -> "Layout":
        """Read one back.

        Raises:
            IndexUnavailable: It is none.
        """
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
        """Return it as it lies in Redis, but for the version."""
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
        """Parts that are being emptied."""
        return [int(number) for number in self.numbers[self.is_draining]]

    def home(self, vector: Vector) -> int:
        """Return the part that `vector` is added to."""
        return self.nearest(vector, 1)[0]

    def nearest(self, vector: Vector, parts: int) -> list[int]:
        """Return the `parts` parts that `vector`'s neighbours were added to, most likely first."""
        scores = np.where(self.is_draining, -np.inf, self.centroids @ vector)
        best = np.argsort(-scores, kind="stable")[: min(parts, int((~self.is_draining).sum()))]
        return [int(number) for number in self.numbers[best]]

    def divide(self, number: int, centroids: NDArray[np.float32]) -> "Layout":
        """Return the next version: part `number` drains into new ones at `centroids`."""
        first = int(self.numbers.max()) + 1
        return Layout(
            self.version + 1,
            np.append(self.numbers, np.arange(first, first + len(centroids), dtype=np.uint32)),
            np.append(self.is_draining | (self.numbers == number), np.zeros(len(centroids), bool)),
            np.concatenate([self.centroids, centroids]),
        )

    def without(self, number: int) -> "Layout":
        """Return the next version: part `number` is empty."""
        stays = self.numbers != number
        return Layout(
            self.version + 1, self.numbers[stays], self.is_draining[stays], self.centroids[stays]
        )


def cells(sample: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Return centroids that divide vectors like `sample`, both of shape (count, dimension).

    Returns:
        None: No division would make their set smaller, as they are all alike.
    """
    centroids = _k_means(sample, FAN_OUT)
    sizes = np.bincount(np.argmax(sample @ centroids.T, axis=1))
    return None if sizes.max() > _LARGEST_SHARE * len(sample) else centroids


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
