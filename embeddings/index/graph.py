"""A graph over many vectors: HNSW (Malkov and Yashunin, arXiv 1603.09320), 8 bits a number.

What leaves it stays as a dead row, which still leads to others, until a graph without the dead is
made from it. Not shared between threads, but that others may read what nothing is added to.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import faiss
import numpy as np
from numpy.typing import NDArray

from embeddings.encoding.encoder import Vector
from embeddings.index.vector_index import Match

_LINKS: Final = 32
"""With a million, the process holds 971 MB after a restart; with 24, 907, but of the nearest at a
cosine of .86 a search finds 98.3 % instead of all."""
_EF_SEARCH: Final = 64
"""Neighbours looked at in a graph of up to 100,000; see benchmarks/index.py for recall."""
_EF_SEARCH_UP_TO: Final = 100_000
_EF_SEARCH_GROWTH: Final = 0.3
"""Twice as many in a million. There, of the nearest at a cosine of .86, 64 find 97.0 % in 0.6 ms
and 128 all in 1.0 ms; of those at .96, 99.6 % and all."""
_EF_CONSTRUCTION: Final = 40
"""A row takes 0.4 ms to add to a million, during which a search waits; with 100 it takes 1.05.
Both find all that is near enough to be a hit, see above; where the nearest has a cosine of .47,
69 % and 81 %."""
_SPARE: Final = 4
_MOST_WANTED: Final = 4096
_LEAST_DEAD: Final = 500
_DEAD_SHARE: Final = 0.25
_SAMPLE: Final = 10_000
_AT_ONCE: Final = 200
_WIDEST: Final = 5.0
"""Numbers of up to so many times their usual size have a place in the eight bits, whatever the
first vectors are like: what comes later may be about something else. Scores are off by .001."""
_ROW_BYTES: Final = 4 * 2 * _LINKS + 24
"""What a row takes beside its vector: links, key, time of expiry, generation."""


@dataclass(slots=True)
class Graph:
    """The older vectors.

    Attributes:
        index: faiss' HNSW index.
        keys: By row; None where the vector is dead.
        expires_at: By row, Unix seconds.
        generations: By row, of the sweep in which it was last added.
        dead: Rows that are.
        file: That holds the index as it is now, if one does.
        is_buried: Whether a search found too little behind the dead and expired.
    """

    index: Any
    keys: list[bytes | None]
    expires_at: NDArray[np.float64]
    generations: NDArray[np.int32]
    dead: int = 0
    file: str | None = None
    is_buried: bool = False

    @classmethod
    def trained(cls, sample: NDArray[np.float32]) -> "Graph":
        """Return an empty graph for vectors like those in `sample`, shape (n, dimension)."""
        index = faiss.IndexHNSWSQ(
            sample.shape[1],
            faiss.ScalarQuantizer.QT_8bit,  # type: ignore[arg-type]  # the stub names the class
            _LINKS,
            faiss.METRIC_INNER_PRODUCT,
        )
        widest = np.full((1, sample.shape[1]), _WIDEST / sample.shape[1] ** 0.5, np.float32)
        index.train(np.concatenate([sample, widest, -widest]))
        return cls(index, [], np.empty(0, np.float64), np.empty(0, np.int32))

    def add(
        self,
        keys: Sequence[bytes],
        vectors: NDArray[np.float32],
        expires_at: NDArray[np.float64],
        generations: NDArray[np.int32],
    ) -> int:
        """Append rows; return the first one's number."""
        first = len(self.keys)
        end = first + len(keys)
        if end > len(self.expires_at):
            self._make_room(max(1024, 2 * end))
        self.expires_at[first:end] = expires_at
        self.generations[first:end] = generations
        # A graph from a snapshot comes with the setting it was written with.
        self.index.hnsw.efConstruction = _EF_CONSTRUCTION
        self.index.add(vectors)
        self.keys.extend(keys)
        self.file = None
        return first

    def _make_room(self, rows: int) -> None:
        count = len(self.keys)
        for name in ("expires_at", "generations"):
            old = getattr(self, name)
            # Not np.resize, which writes to all of it: what is not used yet takes no memory.
            new = np.empty(rows, old.dtype)
            new[:count] = old[:count]
            setattr(self, name, new)

    def kill(self, row: int) -> None:
        """Have what is in a row never be found again."""
        self.keys[row] = None
        self.dead += 1

    @property
    def is_worn(self) -> bool:
        """Whether so much is dead, or in the way, that it should be made anew."""
        least = 0 if self.is_buried else max(_LEAST_DEAD, _DEAD_SHARE * len(self.keys))
        return self.dead > least

    @property
    def size_bytes(self) -> int:
        """Memory it takes, estimated."""
        return len(self.keys) * (int(self.index.d) + _ROW_BYTES)

    def search(self, query: Vector, k: int, now: float) -> list[Match]:
        """Return nearest that have not expired by `now`, `k` or some more.

        Fewer only if there are fewer, or if thousands of dead or expired ones are nearer.
        """
        total = len(self.keys)
        wanted = k + _SPARE
        near = _EF_SEARCH * max(1.0, total / _EF_SEARCH_UP_TO) ** _EF_SEARCH_GROWTH
        while total:
            wanted = min(wanted, total)
            # Not in faiss' stub.
            options = faiss.SearchParametersHNSW(  # type: ignore[attr-defined]
                efSearch=max(int(near), 2 * wanted)
            )
            scores, rows = self.index.search(query[None], wanted, params=options)
            matches = [
                Match(key, float(score))
                for score, row in zip(scores[0], rows[0], strict=True)
                if row >= 0 and (key := self.keys[row]) is not None and self.expires_at[row] > now
            ]
            if len(matches) >= k or wanted == total:
                return matches
            if wanted > _MOST_WANTED:
                # What has expired goes soon, by itself.
                dead = sum(row >= 0 and self.keys[row] is None for row in rows[0])
                self.is_buried = dead > wanted // 2
                return matches
            # Dead and expired ones were in the way.
            wanted *= 8
        return []

    def copy(self) -> "Graph":
        """Return what stays as it is now whatever dies meanwhile; the index is shared."""
        rows = len(self.keys)
        return Graph(
            self.index,
            list(self.keys),
            self.expires_at[:rows].copy(),
            self.generations[:rows].copy(),
            self.dead,
            self.file,
        )

    def without_dead(self, goes_on: Callable[[], bool] = lambda: True) -> "Graph | None":
        """Return the same without its dead rows; None if it does not go on.

        Reads only: may run on another thread.
        """
        rows = np.array([row for row, key in enumerate(self.keys) if key is not None], np.int64)
        if not len(rows):
            return None
        step = max(1, len(rows) // _SAMPLE)
        smaller = Graph.trained(self.index.reconstruct_batch(rows[::step]))
        for at in range(0, len(rows), _AT_ONCE):
            if not goes_on():
                return None
            some = rows[at : at + _AT_ONCE]
            # A key may have died since the rows were listed; whoever takes the graph over looks.
            smaller.add(
                [self.keys[row] or b"" for row in some],
                self.index.reconstruct_batch(some),
                self.expires_at[some],
                self.generations[some],
            )
        return smaller
