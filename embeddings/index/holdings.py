"""What an index holds, in memory and on disk, and what goes from one to the other.

All is done by one thread, the index's owner, one thing at a time. What takes long and only reads
(making a graph anew, writing or reading a large partition) is done beside it. A partition whose
graph is read is held meanwhile: it is searched, and additions wait in its tail.

Of a partition that is being read from disk a search finds nothing until it is there; what is added
meanwhile lies in a partition of its own, where it is found, and what is removed is noted.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from embeddings.encoding.encoder import Vector
from embeddings.index.in_memory import InMemory
from embeddings.index.key_table import KeyTable
from embeddings.index.part_files import Part, Row, SnapshotError
from embeddings.index.partition import LARGE_BYTES, Partition
from embeddings.index.spilling import Spilled, Spot, read, write
from embeddings.index.threads import IndexThreads
from embeddings.index.vector_index import IndexedVector, Match
from embeddings.observer import IndexStats

_AT_ONCE: Final = 1000
"""Vectors removed, or partitions on disk forgotten, between two calls: about 2 ms."""
_PACK_BYTES: Final = 256 * 1024
"""Memory of the small partitions that are put on disk between two calls: 2.3 ms for 91 of them."""
_ROOM_SHARE: Final = 1 / 16
"""Of the memory allowed, so much is made free at once: else each addition would write a pack."""
_SPILLED_SHARE: Final = 1 / 2
"""Of the memory allowed, so much may be taken by keys and names of what lies on disk."""

_log = logging.getLogger("recollect.embeddings")


@dataclass(frozen=True, slots=True)
class _Reading:
    """A partition that is being read.

    Attributes:
        over: Done when it is there, or lost.
        removed: Keys that have been removed meanwhile.
    """

    over: "Future[None]" = field(default_factory=Future)
    removed: set[bytes] = field(default_factory=set)


class Holdings:
    """The vectors of one index.

    Attributes:
        in_memory, spilled: The partitions there and on disk.
        generation: Of what is added now.
        is_whole: Whether none was lost since somebody set this.
    """

    def __init__(
        self, folder: Path, dimension: int, *, memory_bytes: int, threads: IndexThreads
    ) -> None:
        """Start empty; see `FaissIndex`."""
        self._folder = folder
        self._dimension = dimension
        self._memory_bytes = memory_bytes
        self._threads = threads
        self.in_memory = InMemory(threads)
        self._reading: dict[bytes, _Reading] = {}
        self.spilled = Spilled(folder, threads, self._reading)
        self._leaving: dict[bytes, Partition] = {}
        """Partitions that are being written, and go if nobody wants them meanwhile."""
        self._keys = KeyTable(threads, lambda name: name in self.in_memory or name in self.spilled)
        self.generation = 0
        self.is_whole = True
        self._is_forgetting = False
        self._has_forgotten = False

    def search(
        self, queries: Sequence[tuple[bytes, Vector]], k: int, now: float
    ) -> list[list[Match]]:
        """Return for each query the `k` nearest vectors of its partition, best first."""
        found: list[list[Match]] = []
        for name, vector in queries:
            partition = self._get(name)
            if partition is None:
                found.append([])
                continue
            found.append(partition.search(vector, k, now))
            self.in_memory.look_later(partition)  # what is dead may have been in the way
        if self._is_full:
            self._threads.later(self.spill)  # nobody waits for that
        self.in_memory.tend_soon()
        return found

    def add(self, vectors: Sequence[IndexedVector]) -> None:
        """Add vectors, each in place of what was there under its key."""
        for vector in vectors:
            before = self._keys.get(vector.key)
            if before is not None and before != vector.partition:
                self._remove([vector.key])
            partition = self._get(vector.partition)
            if partition is None:
                partition = Partition(vector.partition, self._dimension)
                if vector.partition in self._reading:
                    partition.holds += 1  # gets no graph: what is read may have one
                self.in_memory.put(partition)
            self.in_memory.add(partition, vector, self.generation)
            self._keys.put([vector.key], partition.name)
        self.settle()

    def is_behind(self, names: Iterable[bytes]) -> bool:
        """Whether one of `names` has so much to move into its graph that searches are slow."""
        # Asked again behind the next slice that is moved.
        some = (self.in_memory.partitions.get(name) for name in names)
        return self.in_memory.is_tending and any(one is not None and one.is_behind for one in some)

    def remove(self, keys: Sequence[bytes]) -> None:
        """Forget the vectors under `keys`."""
        self._remove(keys)
        self.settle()

    def remove_found(self, names: Iterable[bytes], found: Callable[[Partition], Any]) -> int:
        """Remove some of what is `found` in those of `names` that are in memory; say how many."""
        some = (self.in_memory.partitions.get(name) for name in names)
        keys = [key for one in some if one is not None for key in found(one)][:_AT_ONCE]
        self.remove(keys)
        return len(keys)

    def older(self, names: Iterable[bytes], generation: int) -> list[bytes]:
        """Return those of `names` that may have what was added before `generation`."""

        def has_older(name: bytes) -> bool:
            partition = self.in_memory.partitions.get(name)
            if name in self._reading or partition is None:
                return name in self.spilled and self.spilled.place(name).oldest < generation
            return bool(partition.older_than(generation))

        return [name for name in names if has_older(name)]

    def remove_older(self, name: bytes, generation: int) -> "int | Future[None]":
        """Remove some of what was added before `generation` to a partition, wherever it is.

        Returns:
            How many vectors that were, 0 when there are no more; or what to wait for before.
        """
        partition = self._get(name)
        if name in self._reading:
            return self._reading[name].over
        if partition is None:
            return 0
        return self.remove_found([name], lambda one: one.older_than(generation))

    def expire_spilled(self, names: Iterable[bytes], now: float) -> int:
        """Forget those that have expired as a whole on disk; say how many vectors that were."""
        removed = self.spilled.drop_expired(names, now)
        if removed:
            self._keys.purge_soon()
        return removed

    def names(self) -> list[bytes]:
        """Return all partitions, the coldest first."""
        return [*self.spilled, *(name for name in self.in_memory if name not in self._reading)]

    def stats(self) -> IndexStats:
        """Return how much is held."""
        living = self.in_memory.partitions.values()
        in_graphs = sum(partition.in_graph for partition in living)
        in_both = sum(name in self.in_memory for name in self._reading)
        return IndexStats(
            vectors={
                "flat": sum(map(len, living)) - in_graphs,
                "graph": in_graphs,
                "spilled": self.spilled.vectors,
            },
            partitions=len(living) + len(self.spilled) - in_both,
            bytes=self.in_memory.size_bytes + self.spilled.size_bytes,
        )

    def settle(self) -> None:
        """Do what changes leave to be done."""
        self.spill()
        self.in_memory.tend_soon()

    # Snapshots.

    def copy(self, name: bytes) -> "tuple[Partition, Part] | Spot | Future[None] | None":
        """Return a partition as it is saved.

        Returns:
            One in memory, held until `let_go`, and a copy of it but for its graph's index; or where
            it lies; or what to wait for before asking again; or None if it is gone.
        """
        if name in self._reading:
            return self._reading[name].over
        partition = self.in_memory.partitions.get(name)
        if partition is not None:
            return partition, self._held_copy(partition)
        return self.spilled.keep(name) if name in self.spilled else None

    def let_go(self, partition: Partition, part: Part) -> None:
        """Hold a partition no longer; `part` is its copy, whose graph may have a file by now."""
        partition.holds -= 1
        ours, written = partition.graph, part.graph
        # It may have been made anew meanwhile.
        if ours is not None and written is not None and ours.index is written.index:
            ours.file = written.file
        if self.in_memory.partitions.get(partition.name) is partition:
            self.in_memory.look_later(partition)
            self.in_memory.tend_soon()

    def take_up(self, partition: Partition) -> None:
        """Have a partition that a snapshot has whole."""
        self._claim(partition.keys, partition.name)
        self.in_memory.put(partition)

    def take_up_pack(self, file: str, rows: Sequence[Row], offsets: set[int]) -> None:
        """Have those partitions of a pack that a snapshot has at `offsets`."""
        self.spilled.put(file, rows, lambda row: row.offset in offsets)
        for row in rows:
            if row.offset in offsets:
                self._claim(row.keys, row.name)

    def clear(self) -> None:
        """Forget everything; files stay."""
        self.close()
        self.in_memory.clear()
        self._leaving.clear()
        self.spilled = Spilled(self._folder, self._threads, self._reading)
        self._keys.clear()

    def close(self) -> None:
        """Have nobody wait for what is being read: it is not taken back any more."""
        for reading in self._reading.values():
            reading.over.set_result(None)
        self._reading.clear()

    def _claim(self, keys: Sequence[bytes], name: bytes) -> None:
        # A key that went from one partition to another while the snapshot was written is in both;
        # the log of changes says where it belongs.
        self._remove(keys)
        self._keys.put(keys, name)

    def _held_copy(self, partition: Partition) -> Part:
        partition.holds += 1
        graph = partition.graph
        return Part(partition.name, *partition.tail(), None if graph is None else graph.copy())

    # From disk.

    def _get(self, name: bytes) -> Partition | None:
        """Return what is in memory of a partition, read from disk if that is soon done."""
        partition = self.in_memory.get(name)
        if partition is not None:
            self._leaving.pop(name, None)
            return partition
        if name not in self.spilled or name in self._reading or self._threads.is_closed:
            return None
        spot = self.spilled.spot(name)
        fetch = partial(read, self._folder, spot, self._dimension)
        if spot.graph_file is not None or spot.length > LARGE_BYTES:
            self._reading[name] = _Reading()
            self._threads.beside(self._threads.loader, fetch, partial(self._arrived, name))
            return None
        try:
            partition = fetch()
        except SnapshotError as error:
            self._lose(name, error)
            return None
        self._keys.put(partition.keys, partition.name)
        self._take_back(partition)
        return partition

    def _arrived(self, name: bytes, done: "Future[Partition]") -> None:
        reading = self._reading.pop(name, None)
        if reading is None:
            return  # it is closed
        newer = self.in_memory.get(name)
        if newer is not None:
            self.in_memory.drop(newer)
            newer.holds -= 1
        error = done.exception()
        if error is not None:
            self._lose(name, error)
            if newer is not None:
                self.in_memory.put(newer)
        else:
            partition = done.result()
            for key in reading.removed:
                partition.remove(key)
            if newer is not None:
                partition.absorb(newer)
            self._take_back(partition)
        reading.over.set_result(None)
        self.settle()

    def _take_back(self, partition: Partition) -> None:
        self.spilled.drop(partition.name)
        if partition:
            self.in_memory.put(partition)

    def _lose(self, name: bytes, error: BaseException) -> None:
        # Perhaps only now, for want of a file descriptor, say. But what is added next needs a place
        # at once, and then the two would have to be put together: the store has it all.
        _log.error("a partition was lost: %s", error)
        self.is_whole = False
        self.spilled.drop(name)
        self._keys.purge_soon()

    def _remove(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            name = self._keys.get(key)
            if name is None:
                continue
            partition = self._get(name)
            self._keys.drop(key)
            if name in self._reading:
                self._reading[name].removed.add(key)
            if partition is not None:
                self.in_memory.remove(partition, key)

    # To disk.

    @property
    def _is_full(self) -> bool:
        leaving_bytes = sum(partition.size_bytes for partition in self._leaving.values())
        held_bytes = self.in_memory.size_bytes + self.spilled.size_bytes - leaving_bytes
        return held_bytes > self._memory_bytes

    def spill(self) -> None:
        """Put the coldest partitions on disk until the others fit."""
        while self._is_full:
            # Never the last one: what is asked for now would have to come back at once.
            most = len(self.in_memory) - len(self._leaving) - 1
            coldest = self.in_memory.coldest(
                most, min(_PACK_BYTES, self._memory_bytes * _ROOM_SHARE)
            )
            if not coldest:
                break
            try:
                self._put_on_disk(coldest)
            except OSError as error:
                _log.error("partitions cannot be put on disk: %s", error)
                break
        most_bytes = self._memory_bytes * _SPILLED_SHARE
        if self.spilled.size_bytes > most_bytes and not self._is_forgetting:
            self._is_forgetting = True
            self._forget_coldest()

    def _put_on_disk(self, coldest: list[Partition]) -> None:
        if coldest[0].is_large:
            [partition] = coldest
            part = self._held_copy(partition)
            self._leaving[partition.name] = partition
            self._threads.beside(
                self._threads.saver,
                lambda: write(self._folder, [part]),
                partial(self._left, partition, part),
            )
            return
        parts = [Part(partition.name, *partition.tail(), None) for partition in coldest]
        self.spilled.put(*write(self._folder, parts))
        for partition in coldest:
            self.in_memory.drop(partition)

    def _left(
        self, partition: Partition, part: Part, done: "Future[tuple[str, list[Row]]]"
    ) -> None:
        is_wanted = self._leaving.get(partition.name) is not partition
        if not is_wanted:
            del self._leaving[partition.name]
        self.let_go(partition, part)
        error = done.exception()
        if error is not None:
            _log.error("partitions cannot be put on disk: %s", error)
            return
        self.spilled.put(*done.result(), lambda row: not is_wanted)
        if not is_wanted:
            self.in_memory.drop(partition)
        self.settle()

    def _forget_coldest(self) -> None:
        """Forget some of what lies on disk; go on behind the calls that have come meanwhile."""
        if not self._has_forgotten:
            self._has_forgotten = True
            _log.warning("too much lies on disk for the memory allowed: the coldest is forgotten")
        most_bytes = int(self._memory_bytes * (_SPILLED_SHARE - _ROOM_SHARE))
        if self.spilled.drop_coldest(most_bytes, _AT_ONCE):
            self._threads.later(self._forget_coldest)
        else:
            self._is_forgetting = False
            self._keys.purge_soon()
