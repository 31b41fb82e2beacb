"""The vectors of one partition: a flat tail, and a graph once there are many.

What is added lies in the tail at once and is found by comparing with all of it. Past `GRAPH_AT`
vectors a graph takes the older ones over, some at a time, whenever its owner has time for `tend`.
What leaves the tail is replaced by the tail's last; what leaves the graph is dead there.

Not shared between threads, but for one thing: while a partition is held, another thread may read
its graph, to which nothing is added then.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from embeddings.encoding.encoder import Vector
from embeddings.index.graph import Graph
from embeddings.index.vector_index import IndexedVector, Match

LARGE_BYTES: Final = 512 * 1024
"""What is larger, or has a graph, is written and read beside the index's owner; of the others at
most 3 and 1 ms are waited for."""
GRAPH_AT: Final = 2000
"""Where a search of the graph becomes as fast as of the tail: 0.07 ms; see benchmarks/index.py."""

_TAIL_BYTES: Final = 330
"""What a key takes beside its vector: itself, two dictionaries' places, a number; measured."""


class Partition:
    """The vectors under one name."""

    __slots__ = (
        "_died",
        "_expires_at",
        "_generations",
        "_keys",
        "_rows",
        "_tail",
        "dimension",
        "graph",
        "holds",
        "name",
    )

    def __init__(self, name: bytes, dimension: int) -> None:
        """Start empty."""
        self.name = name
        self.dimension = dimension
        self.graph: Graph | None = None
        # How many read the graph on another thread.
        self.holds = 0
        # A key's row: in the tail from 0 up, in the graph from -1 down.
        self._rows: dict[bytes, int] = {}
        self._keys: list[bytes] = []
        self._tail = np.empty((0, dimension), np.float32)
        self._expires_at = np.empty(0, np.float64)
        self._generations = np.empty(0, np.int32)
        # What has left the graph since one began to be made from it; None while none is.
        self._died: list[bytes] | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def keys(self) -> list[bytes]:
        """All keys."""
        return list(self._rows)

    @property
    def in_graph(self) -> int:
        """Living vectors in the graph."""
        return 0 if self.graph is None else len(self.graph.keys) - self.graph.dead

    @property
    def size_bytes(self) -> int:
        """Memory it takes, estimated."""
        size = 1000 + len(self._rows) * _TAIL_BYTES + self._tail.nbytes
        if self.graph is not None:
            size += self.graph.size_bytes
        return size

    @property
    def is_large(self) -> bool:
        """Whether writing it takes longer than a search should wait."""
        return self.graph is not None or self.size_bytes > LARGE_BYTES

    def add(self, vector: IndexedVector, generation: int) -> None:
        """Add one vector, in place of what was there under its key."""
        row = self._rows.get(vector.key)
        if row is not None and row < 0:
            self._kill(vector.key, row)
            row = None
        if row is None:
            row = len(self._keys)
            if row == len(self._tail):
                self._make_room(max(1, 2 * row))
            self._keys.append(vector.key)
            self._rows[vector.key] = row
        self._tail[row] = vector.vector
        self._expires_at[row] = vector.expires_at
        self._generations[row] = generation

    def remove(self, key: bytes) -> bool:
        """Forget one vector; say whether it was there."""
        row = self._rows.pop(key, None)
        if row is None:
            return False
        if row < 0:
            self._kill(key, row)
            return True
        last = len(self._keys) - 1
        if row != last:
            moved = self._keys[last]
            self._keys[row] = moved
            self._rows[moved] = row
            self._tail[row] = self._tail[last]
            self._expires_at[row] = self._expires_at[last]
            self._generations[row] = self._generations[last]
        self._keys.pop()
        if len(self._tail) > 4 * last + 8:
            self._make_room(2 * last)
        return True

    def search(self, query: Vector, k: int, now: float) -> list[Match]:
        """Return the `k` nearest that have not expired by `now`, best first."""
        matches = self._search_tail(query, k, now)
        if self.graph is not None:
            matches += self.graph.search(query, k, now)
        matches.sort(key=lambda match: (-match.score, match.key))
        return matches[:k]

    def _search_tail(self, query: Vector, k: int, now: float) -> list[Match]:
        count = len(self._keys)
        if not count:
            return []
        scores = self._tail[:count] @ query
        scores[self._expires_at[:count] <= now] = -np.inf
        if count > k:
            # All that score as the k-th does, so that equal scores are ordered by key.
            least = np.partition(scores, count - k)[count - k]
            rows = np.flatnonzero(scores >= least)
        else:
            rows = np.arange(count)
        return [Match(self._keys[row], float(scores[row])) for row in rows if scores[row] > -np.inf]

    def expired(self, now: float) -> list[bytes]:
        """Return the keys of what has expired by `now`."""
        return self._where(self._expires_at, lambda graph: graph.expires_at, now)

    def older_than(self, generation: int) -> list[bytes]:
        """Return the keys of what was last added before `generation`."""
        return self._where(self._generations, lambda graph: graph.generations, generation - 1)

    def _where(self, tail: NDArray[Any], of_graph: Any, most: float) -> list[bytes]:
        count = len(self._keys)
        found = [self._keys[row] for row in np.flatnonzero(tail[:count] <= most)]
        if self.graph is not None:
            rows = np.flatnonzero(of_graph(self.graph)[: len(self.graph.keys)] <= most)
            found += [key for row in rows if (key := self.graph.keys[row]) is not None]
        return found

    @property
    def is_untidy(self) -> bool:
        """Whether vectors should move from the tail into the graph."""
        count = len(self._keys)
        return not self.holds and (count > 0 if self.graph is not None else count > GRAPH_AT)

    @property
    def is_behind(self) -> bool:
        """Whether so much should move that it makes searches slow."""
        return self.is_untidy and len(self._keys) > 2 * GRAPH_AT

    def begin_graph(self) -> None:
        """Have a graph, empty, made for vectors like those in the tail."""
        self.graph = Graph.trained(self._tail[: len(self._keys)])

    def tend(self, most: int) -> None:
        """Move at most `most` vectors from the tail into the graph."""
        if not self.is_untidy:
            return
        count = len(self._keys)
        if self.graph is None:
            self.begin_graph()
        assert self.graph is not None
        first = max(0, count - most)
        keys = self._keys[first:]
        row = self.graph.add(
            keys,
            self._tail[first:count],
            self._expires_at[first:count],
            self._generations[first:count],
        )
        del self._keys[first:]
        for offset, key in enumerate(keys):
            self._rows[key] = -1 - row - offset
        if len(self._tail) > 4 * first + 8:
            self._make_room(max(8, 2 * first))

    @property
    def is_worn(self) -> bool:
        """Whether so much of the graph is dead that it should be made anew."""
        return self.graph is not None and not self.holds and self.graph.is_worn

    def begin_renewal(self) -> None:
        """Note from now on what leaves the graph, until `take_over`."""
        self._died = []

    def take_over(self, renewal: "Renewal | None") -> None:
        """Use a graph made of the one here, which was held, in its place; None: keep that one.

        Of a million rows that takes 70 ms, for letting go of the old tables.
        """
        died, self._died = self._died, None
        if renewal is None:
            return
        graph, rows = renewal
        for key in died or ():
            row = rows.pop(key, None)
            if row is not None:
                graph.kill(-1 - row)
        rows.update({key: row for row, key in enumerate(self._keys)})
        self.graph, self._rows = graph, rows

    def absorb(self, newer: "Partition") -> None:
        """Add what is in `newer`, which has no graph, in place of what is here under its keys."""
        for row, key in enumerate(newer._keys):
            vector, expires_at = newer._tail[row], float(newer._expires_at[row])
            one = IndexedVector(key, self.name, vector, expires_at)
            self.add(one, int(newer._generations[row]))

    def tail(
        self,
    ) -> tuple[list[bytes], NDArray[np.float32], NDArray[np.float64], NDArray[np.int32]]:
        """Return a copy of the tail: keys, vectors, times of expiry, generations."""
        count = len(self._keys)
        return (
            list(self._keys),
            self._tail[:count].copy(),
            self._expires_at[:count].copy(),
            self._generations[:count].copy(),
        )

    def restore(
        self,
        keys: list[bytes],
        vectors: NDArray[np.float32],
        expires_at: NDArray[np.float64],
        generations: NDArray[np.int32],
        graph: Graph | None,
    ) -> None:
        """Become what was saved."""
        self._keys = keys
        self._tail = vectors
        self._expires_at = expires_at
        self._generations = generations
        self._rows = {key: row for row, key in enumerate(keys)}
        self.graph = graph
        if graph is not None:
            for row, key in enumerate(graph.keys):
                if key is not None:
                    self._rows[key] = -1 - row

    def _kill(self, key: bytes, row: int) -> None:
        if self.graph is not None:
            self.graph.kill(-1 - row)
            if self._died is not None:
                self._died.append(key)

    def _make_room(self, rows: int) -> None:
        count = len(self._keys)
        for name in ("_tail", "_expires_at", "_generations"):
            old = getattr(self, name)
            new = np.empty((rows, *old.shape[1:]), old.dtype)
            new[:count] = old[:count]
            setattr(self, name, new)


Renewal = tuple[Graph, dict[bytes, int]]
"""A graph without dead rows, and each key's row as a `Partition` has it: from -1 down."""


def renewed(graph: Graph, goes_on: Callable[[], bool] = lambda: True) -> Renewal | None:
    """Return `graph` made anew without its dead; None if it does not go on, or nothing is left.

    Reads only: may run on another thread, while the partition is held.
    """
    smaller = graph.without_dead(goes_on)
    if smaller is None:
        return None
    rows: dict[bytes, int] = {}
    for row, key in enumerate(smaller.keys):
        if key:
            rows[key] = -1 - row
        else:
            smaller.kill(row)  # it died while they were copied
    return smaller, rows
