"""The partitions in memory, coldest first: how much they take, and the upkeep of their graphs.

Vectors move into graphs some at a time between other calls; a graph with much that is dead is made
anew beside. Used by the index's owner alone.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from typing import Final

from embeddings.index.partition import Partition, Renewal, renewed
from embeddings.index.threads import IndexThreads
from embeddings.index.vector_index import IndexedVector

_SLICE: Final = 16
"""Vectors moved into graphs between two calls: about 2 ms, which a search may have to wait."""

_log = logging.getLogger("recollect.embeddings")


class InMemory:
    """Partitions by name.

    Attributes:
        partitions: Coldest first.
        size_bytes: Memory they take, estimated.
        is_tending: Whether vectors are on their way into graphs.
    """

    def __init__(self, threads: IndexThreads) -> None:
        """Start empty."""
        self._threads = threads
        self.partitions: OrderedDict[bytes, Partition] = OrderedDict()
        self.size_bytes = 0
        self.is_tending = False
        self._untidy: set[bytes] = set()
        """Partitions that may have something to move, or to be rid of."""

    def __len__(self) -> int:
        return len(self.partitions)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.partitions)

    def __contains__(self, name: bytes) -> bool:
        return name in self.partitions

    def get(self, name: bytes) -> Partition | None:
        """Return a partition; it is the warmest now."""
        partition = self.partitions.get(name)
        if partition is not None:
            self.partitions.move_to_end(name)
        return partition

    def put(self, partition: Partition) -> None:
        """Hold a partition."""
        self.partitions[partition.name] = partition
        self.size_bytes += partition.size_bytes
        self.look_later(partition)

    def drop(self, partition: Partition) -> None:
        """Hold a partition no longer."""
        self.size_bytes -= partition.size_bytes
        del self.partitions[partition.name]
        self._untidy.discard(partition.name)

    def coldest(self, most: int, enough_bytes: float) -> list[Partition]:
        """Return what may go to disk next, as nobody reads it: a large one, or small ones together.

        Args:
            most: How many at most.
            enough_bytes: Of memory; no more are taken once they come to that.
        """
        coldest: list[Partition] = []
        for partition in self.partitions.values():
            if len(coldest) >= most or enough_bytes <= 0:
                break
            if partition.holds:
                continue
            if partition.is_large:
                return coldest or [partition]
            coldest.append(partition)
            enough_bytes -= partition.size_bytes
        return coldest

    def add(self, partition: Partition, vector: IndexedVector, generation: int) -> None:
        """Add a vector to one of these."""
        size_bytes = partition.size_bytes
        partition.add(vector, generation)
        self.size_bytes += partition.size_bytes - size_bytes
        self.look_later(partition)

    def remove(self, partition: Partition, key: bytes) -> None:
        """Forget a vector of one of these, and with the last one the partition."""
        size_bytes = partition.size_bytes
        partition.remove(key)
        self.size_bytes += partition.size_bytes - size_bytes
        if partition:
            self.look_later(partition)
        else:
            self.drop(partition)

    def clear(self) -> None:
        """Forget everything."""
        self.partitions.clear()
        self._untidy.clear()
        self.size_bytes = 0

    def look_later(self, partition: Partition) -> None:
        """Tend to a partition that needs it, at the next `tend_soon`."""
        if partition.is_untidy or partition.is_worn:
            self._untidy.add(partition.name)

    def tend_soon(self) -> None:
        """Tend to what needs it, behind the calls that have come."""
        if self._untidy and not self.is_tending and not self._threads.is_closed:
            self.is_tending = True
            self._threads.later(self._tend)

    def _tend(self) -> None:
        """Move some vectors into a graph; go on behind the calls that have come meanwhile."""
        self.is_tending = False
        while self._untidy:
            name = next(iter(self._untidy))
            partition = self.partitions.get(name)
            if partition is not None and partition.is_worn:
                self._renew(partition)
            if partition is not None and partition.is_untidy:
                size_bytes = partition.size_bytes
                partition.tend(_SLICE)
                self.size_bytes += partition.size_bytes - size_bytes
                break
            self._untidy.discard(name)
        self.tend_soon()

    def _renew(self, partition: Partition) -> None:
        graph = partition.graph
        if graph is None:
            return
        if not partition.in_graph:
            self.size_bytes -= partition.size_bytes
            partition.graph = None
            self.size_bytes += partition.size_bytes
            return
        partition.holds += 1
        partition.begin_renewal()
        self._threads.beside(
            self._threads.renewer,
            lambda: renewed(graph, lambda: not self._threads.is_closed),
            partial(self._renewed, partition),
        )

    def _renewed(self, partition: Partition, done: "Future[Renewal | None]") -> None:
        partition.holds -= 1
        error = done.exception()
        if error is not None:
            _log.error("a graph could not be made anew", exc_info=error)
        if self.partitions.get(partition.name) is not partition:
            return  # its last vector has gone meanwhile
        size_bytes = partition.size_bytes
        partition.take_over(None if error is not None else done.result())
        self.size_bytes += partition.size_bytes - size_bytes
        if error is None:
            self.look_later(partition)
            self.tend_soon()
