"""The index of one host: each partition's vectors in memory, the coldest ones on disk.

One thread owns everything and does one thing at a time; the event loop hands it whole calls. What
takes long and only reads (writing a snapshot, making a graph anew) has a thread of its own, which
asks the owner for copies and holds the graph it reads: searches go on, additions wait in the tail.
These threads may wait for the owner, never the other way round.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import faiss

from embeddings.encoder import Vector
from embeddings.graph import Graph
from embeddings.index import (
    KEY_BYTES,
    PARTITION_BYTES,
    IndexedVector,
    IndexStats,
    Match,
)
from embeddings.observer import Observer
from embeddings.partition import Partition
from embeddings.snapshot import (
    FORMAT,
    Part,
    PartsWriter,
    SnapshotError,
    discard,
    make_durable,
    read_graph,
    read_manifest,
    read_parts,
    write_graph,
    write_manifest,
)

_Result = TypeVar("_Result")

_SLICE: Final = 16
"""Vectors moved into graphs between two calls: about 2 ms, which a search may have to wait."""
_LOOKED_THROUGH: Final = 500
"""Partitions looked through for what has to go, between two calls: about 2 ms."""
_REMOVED: Final = 1000
"""Vectors removed of those, between two calls: about 2 ms."""
_COPIED_BYTES: Final = 4 * 1024**2
"""Memory copied for a snapshot between two calls: about 2 ms."""

_log = logging.getLogger("recollect.embeddings")


@dataclass(frozen=True, slots=True)
class _Spilled:
    """A partition on disk.

    Attributes:
        files: The flat part, then the graph if there is one.
        keys: Of all its vectors.
        expires_at: When the last of them expires.
        oldest: The generation of the one that was added first.
    """

    files: tuple[str, ...]
    keys: frozenset[bytes]
    expires_at: float
    oldest: int


class FaissIndex:
    """Vectors of one encoder; see `VectorIndex` for the contract."""

    def __init__(
        self,
        folder: Path,
        dimension: int,
        fingerprint: str,
        *,
        memory_bytes: int,
        observer: Observer,
    ) -> None:
        """Start empty.

        Args:
            folder: Of this index alone; made if it is missing.
            dimension: Numbers in a vector.
            fingerprint: The encoder's; a snapshot with another one's is not used.
            memory_bytes: What partitions may take; the coldest beyond that lie on disk.
            observer: Told of snapshots that could not be used.
        """
        self._folder = folder
        self._dimension = dimension
        self._fingerprint = fingerprint
        self._memory_bytes = memory_bytes
        self._observer = observer
        # Coldest first.
        self._partitions: OrderedDict[bytes, Partition] = OrderedDict()
        self._spilled: dict[bytes, _Spilled] = {}
        self._where: dict[bytes, bytes] = {}
        """Each key's partition."""
        self._held_bytes = 0
        self._generation = 0
        self._durable: set[str] = set()
        """Files that the last snapshot made durable; the saver's."""
        self._untidy: set[bytes] = set()
        """Partitions that may have something to move, or to be rid of."""
        self._is_tending = False
        self._is_closed = False
        # OpenMP's number of threads is a setting of each thread that asks.
        self._owner = ThreadPoolExecutor(1, "index", faiss.omp_set_num_threads, (1,))
        self._saver = ThreadPoolExecutor(1, "index-saver")
        self._renewer = ThreadPoolExecutor(1, "index-renewer", faiss.omp_set_num_threads, (1,))

    async def search(
        self, queries: Sequence[tuple[bytes, Vector]], k: int, now: float
    ) -> list[list[Match]]:
        """Return for each query the `k` nearest vectors of its partition, best first."""
        for _, vector in queries:
            self._check(vector)
        return await self._run(self._search, queries, k, now)

    async def add(self, vectors: Sequence[IndexedVector]) -> None:
        """Add vectors, each in place of what was there under its key."""
        for one in vectors:
            self._check(one.vector)
            if len(one.key) != KEY_BYTES or len(one.partition) != PARTITION_BYTES:
                raise ValueError("a key and a partition have 32 bytes")
        await self._run(self._add, vectors)
        # Who adds faster than graphs grow waits for them: a long tail would make searches slow.
        names = {one.partition for one in vectors}
        while await self._run(self._is_behind, names):
            pass

    async def remove(self, keys: Sequence[bytes]) -> None:
        """Forget the vectors under `keys`."""
        await self._run(self._remove, keys)

    async def expire(self, now: float) -> int:
        """Forget what has expired by `now`; return how many vectors that were."""
        # On disk only what has expired as a whole: the rest is not found there either.
        removed = await self._run(self._drop_spilled, lambda one: one.expires_at <= now)
        return removed + await self._remove_where(lambda partition: partition.expired(now))

    async def begin_sweep(self) -> None:
        """Begin a rebuild."""
        await self._run(self._begin_sweep)

    async def end_sweep(self) -> int:
        """Forget what was not added since `begin_sweep`; return how many vectors that were."""
        generation = self._generation
        removed = await self._remove_where(lambda partition: partition.older_than(generation))
        # What lies on disk, and was not looked at from there, is read one by one.
        for name in await self._run(self._spilled_before, generation):
            removed += await self._run(self._remove_old, name, generation)
        return removed

    async def save(self, position: str) -> None:
        """Write a snapshot that stands at `position`.

        It may hold what was added while it was written: who goes on from `position` looks at that
        once more.
        """
        # Goes on to its end if the caller is cancelled; the next one comes after it.
        await asyncio.wrap_future(self._saver.submit(self._save, position))

    async def load(self) -> str | None:
        """Take up the snapshot; return its position, None if there is none to be used."""
        return await self._run(self._load)

    async def stats(self) -> IndexStats:
        """Return how much is held."""
        return await self._run(self._stats)

    async def close(self) -> None:
        """End the threads. Nothing is saved."""
        self._is_closed = True
        # They see that it is closed, and end soon. The owner last: they may wait for it.
        for thread in (self._saver, self._renewer, self._owner):
            await asyncio.to_thread(thread.shutdown, cancel_futures=True)

    async def _remove_where(self, found: Callable[[Partition], list[bytes]]) -> int:
        # Some at a time: searches have their turn between.
        names = await self._run(lambda: list(self._partitions))
        removed = 0
        for at in range(0, len(names), _LOOKED_THROUGH):
            some = names[at : at + _LOOKED_THROUGH]
            while count := await self._run(self._remove_found, some, found):
                removed += count
        return removed

    def _check(self, vector: Vector) -> None:
        if vector.shape != (self._dimension,):
            raise ValueError(f"a vector has {self._dimension} numbers, not {vector.shape}")

    def _run(self, call: Callable[..., _Result], *args: Any) -> "asyncio.Future[_Result]":
        return asyncio.wrap_future(self._owner.submit(call, *args))

    # From here on, on the owner's thread.

    def _search(
        self, queries: Sequence[tuple[bytes, Vector]], k: int, now: float
    ) -> list[list[Match]]:
        found: list[list[Match]] = []
        for name, vector in queries:
            partition = self._in_memory(name)
            found.append([] if partition is None else partition.search(vector, k, now))
        if self._held_bytes > self._memory_bytes:
            self._later(self._spill)  # nobody waits for that
        return found

    def _add(self, vectors: Sequence[IndexedVector]) -> None:
        for vector in vectors:
            before = self._where.get(vector.key)
            if before is not None and before != vector.partition:
                self._remove([vector.key])
            partition = self._in_memory(vector.partition)
            if partition is None:
                partition = Partition(vector.partition, self._dimension)
                self._partitions[vector.partition] = partition
                self._held_bytes += partition.size_bytes
            size = partition.size_bytes
            partition.add(vector, self._generation)
            self._held_bytes += partition.size_bytes - size
            # The very bytes that name the partition, not a copy for each key.
            self._where[vector.key] = partition.name
            self._look_later(partition)
        self._spill()
        self._tend_soon()

    def _is_behind(self, names: set[bytes]) -> bool:
        # Asked again behind the next slice that `_tend` moves.
        some = (self._partitions.get(name) for name in names)
        return self._is_tending and any(one is not None and one.is_behind for one in some)

    def _remove(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            name = self._where.pop(key, None)
            partition = self._in_memory(name) if name is not None else None
            if name is None or partition is None:
                continue
            size = partition.size_bytes
            partition.remove(key)
            self._held_bytes += partition.size_bytes - size
            if partition:
                self._look_later(partition)
            else:
                self._forget(partition)
        self._spill()
        self._tend_soon()

    def _forget(self, partition: Partition) -> None:
        self._held_bytes -= partition.size_bytes
        del self._partitions[partition.name]
        self._untidy.discard(partition.name)

    def _remove_found(self, names: Sequence[bytes], found: Callable[[Partition], Any]) -> int:
        partitions = [self._partitions[name] for name in names if name in self._partitions]
        keys = [key for partition in partitions for key in found(partition)][:_REMOVED]
        self._remove(keys)
        return len(keys)

    def _drop_spilled(self, is_over: Callable[[_Spilled], bool]) -> int:
        removed = 0
        for name, spilled in list(self._spilled.items()):
            if is_over(spilled):
                del self._spilled[name]
                for key in spilled.keys:
                    del self._where[key]
                removed += len(spilled.keys)
        return removed

    def _begin_sweep(self) -> None:
        self._generation += 1

    def _spilled_before(self, generation: int) -> list[bytes]:
        return [name for name, one in self._spilled.items() if one.oldest < generation]

    def _remove_old(self, name: bytes, generation: int) -> int:
        partition = self._in_memory(name)
        if partition is None:
            return 0
        keys = partition.older_than(generation)
        self._remove(keys)
        return len(keys)

    def _stats(self) -> IndexStats:
        living = self._partitions.values()
        in_graphs = sum(partition.in_graph for partition in living)
        return IndexStats(
            vectors={
                "flat": sum(map(len, living)) - in_graphs,
                "graph": in_graphs,
                "spilled": sum(len(one.keys) for one in self._spilled.values()),
            },
            partitions=len(self._partitions) + len(self._spilled),
            bytes=self._held_bytes,
        )

    # Graphs.

    def _look_later(self, partition: Partition) -> None:
        if partition.is_untidy or partition.is_worn:
            self._untidy.add(partition.name)

    def _tend_soon(self) -> None:
        if self._untidy and not self._is_tending and not self._is_closed:
            self._is_tending = True
            self._later(self._tend)

    def _later(self, call: Callable[..., None], *args: Any) -> None:
        """Do something behind the calls that have come meanwhile; from any thread."""
        self._owner.submit(call, *args).add_done_callback(_log_failure)

    def _tend(self) -> None:
        """Move some vectors into a graph; go on behind the calls that have come meanwhile."""
        self._is_tending = False
        while self._untidy:
            name = next(iter(self._untidy))
            partition = self._partitions.get(name)
            if partition is not None and partition.is_worn:
                self._renew(partition)
            if partition is not None and partition.is_untidy:
                size = partition.size_bytes
                partition.tend(_SLICE)
                self._held_bytes += partition.size_bytes - size
                break
            self._untidy.discard(name)
        self._tend_soon()

    def _renew(self, partition: Partition) -> None:
        graph = partition.graph
        if graph is None:
            return
        if not partition.in_graph:
            self._held_bytes -= partition.size_bytes
            partition.graph = None
            self._held_bytes += partition.size_bytes
            return
        partition.holds += 1
        making = self._renewer.submit(graph.without_dead, lambda: not self._is_closed)
        making.add_done_callback(lambda made: self._hand_back(partition, made))

    def _hand_back(self, partition: Partition, made: "Future[Graph | None]") -> None:
        # On the thread that made it, or on the one that cancelled it while closing.
        if not self._is_closed:
            self._later(self._renewed, partition, made)

    def _renewed(self, partition: Partition, made: "Future[Graph | None]") -> None:
        partition.holds -= 1
        error = made.exception()
        if error is not None:
            _log.error("a graph could not be made anew", exc_info=error)
            return
        if self._partitions.get(partition.name) is not partition:
            return  # its last vector has gone meanwhile
        graph = made.result()
        if graph is not None:
            size = partition.size_bytes
            partition.take_over(graph)
            self._held_bytes += partition.size_bytes - size
        self._look_later(partition)
        self._tend_soon()

    # Memory.

    def _in_memory(self, name: bytes) -> Partition | None:
        """Return a partition, fetched from disk if it lies there; None if there is none."""
        partition = self._partitions.get(name)
        if partition is not None:
            self._partitions.move_to_end(name)
            return partition
        spilled = self._spilled.pop(name, None)
        if spilled is None:
            return None
        try:
            partition = self._read(name, spilled.files)
        except SnapshotError as error:
            _log.error("a partition was lost: %s", error)
            for key in spilled.keys:
                self._where.pop(key, None)
            return None
        self._partitions[name] = partition
        self._held_bytes += partition.size_bytes
        self._look_later(partition)
        return partition

    def _read(self, name: bytes, files: Sequence[str]) -> Partition:
        parts = read_parts(self._folder, files[0], self._dimension)
        if len(parts) != 1 or parts[0].name != name:
            raise SnapshotError(f"{files[0]} is another partition's")
        return self._restored(parts[0], files[1] if len(files) > 1 else None)

    def _restored(self, part: Part, graph_file: str | None) -> Partition:
        graph = None
        if graph_file is not None:
            graph = read_graph(self._folder, graph_file, part)
        elif part.graph is not None:
            raise SnapshotError("a graph has no file")
        partition = Partition(part.name, self._dimension)
        partition.restore(part.keys, part.vectors, part.expires_at, part.generations, graph)
        return partition

    def _spill(self) -> None:
        """Put the coldest partitions on disk until the others fit."""
        if self._held_bytes <= self._memory_bytes:
            return
        for name in list(self._partitions):
            partition = self._partitions[name]
            if self._held_bytes <= self._memory_bytes or len(self._partitions) == 1:
                return
            if partition.holds:
                continue
            try:
                spilled = self._put_on_disk(partition)
            except (OSError, RuntimeError) as error:
                _log.error("a partition cannot be put on disk: %s", error)
                return
            self._held_bytes -= partition.size_bytes
            del self._partitions[name]
            self._spilled[name] = spilled

    def _put_on_disk(self, partition: Partition) -> _Spilled:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with PartsWriter(self._folder) as writer:
            writer.write(_part(partition))
            files: tuple[str, ...] = (writer.finish(),)
        if partition.graph is not None:
            files += (self._graph_file(partition.graph),)
        return _spilled(partition, files)

    def _graph_file(self, graph: Graph) -> str:
        """Return the file that holds `graph`'s index, written now unless it is there."""
        if graph.file is None or not (self._folder / graph.file).exists():
            graph.file = write_graph(self._folder, graph)
        return graph.file

    # Snapshots.

    def _copy(
        self, names: list[bytes]
    ) -> tuple[list[tuple[Partition, Part]], dict[bytes, _Spilled]]:
        """Take some of `names` away, and return what they name.

        Partitions are held until `_let_go`: their graphs are still to be written.
        """
        copies: list[tuple[Partition, Part]] = []
        spilled: dict[bytes, _Spilled] = {}
        copied_bytes = 0
        while names and copied_bytes < _COPIED_BYTES:
            name = names.pop()
            partition = self._partitions.get(name)
            if partition is not None:
                partition.holds += 1
                copies.append((partition, _part(partition)))
                copied_bytes += partition.size_bytes
            elif name in self._spilled:
                spilled[name] = self._spilled[name]
        return copies, spilled

    def _let_go(self, copies: list[tuple[Partition, Part]]) -> None:
        for partition, part in copies:
            partition.holds -= 1
            ours, written = partition.graph, part.graph
            # It may have been made anew meanwhile.
            if ours is not None and written is not None and ours.index is written.index:
                ours.file = written.file
            if self._partitions.get(partition.name) is partition:
                self._look_later(partition)
        self._tend_soon()

    def _discard_but(self, kept: set[str]) -> None:
        # A partition may have been put on disk since.
        discard(self._folder, kept | {name for one in self._spilled.values() for name in one.files})

    def _load(self) -> str | None:
        began = time.perf_counter()
        try:
            manifest = read_manifest(self._folder)
            if manifest is None:
                discard(self._folder, set())
                return None
            position = self._take_up(manifest)
        except (SnapshotError, LookupError, AttributeError, TypeError, ValueError) as error:
            _log.warning("the snapshot of the index is not used: %s", error)
            self._observer.snapshot("unusable", time.perf_counter() - began)
            for table in (self._partitions, self._spilled, self._where):
                table.clear()
            self._held_bytes = 0
            discard(self._folder, set())
            return None
        self._spill()
        self._tend_soon()
        return position

    def _take_up(self, manifest: dict[str, Any]) -> str:
        """Fill the empty index with what `manifest` names; return its position."""
        wanted = (FORMAT, self._fingerprint, self._dimension)
        if (manifest["format"], manifest["fingerprint"], manifest["dimension"]) != wanted:
            raise SnapshotError("it is of another format or encoder")
        self._generation = int(manifest["generation"])
        graph_files = {bytes.fromhex(name): str(file) for name, file in manifest["graphs"].items()}
        for part in read_parts(self._folder, str(manifest["flat"]), self._dimension):
            partition = self._restored(part, graph_files.get(part.name))
            self._claim(partition.keys, partition.name)
            self._partitions[part.name] = partition
            self._held_bytes += partition.size_bytes
            self._look_later(partition)
        for name_hex, files in manifest["spilled"].items():
            name = bytes.fromhex(name_hex)
            partition = self._read(name, [str(file) for file in files])
            self._claim(partition.keys, name)
            self._spilled[name] = _spilled(partition, tuple(map(str, files)))
        return str(manifest["position"])

    def _claim(self, keys: list[bytes], name: bytes) -> None:
        # A key that went from one partition to another while the snapshot was written is in both;
        # the log of changes says where it belongs.
        if not self._where.keys().isdisjoint(keys):
            self._remove([key for key in keys if key in self._where])
        self._where.update(dict.fromkeys(keys, name))

    # On the saver's thread.

    def _ask(self, call: Callable[..., _Result], *args: Any) -> _Result:
        return self._owner.submit(call, *args).result()

    def _save(self, position: str) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = self._ask(lambda: [*self._partitions, *self._spilled])
        graph_files: dict[bytes, str] = {}
        spilled: dict[bytes, _Spilled] = {}
        with PartsWriter(self._folder) as writer:
            while names:
                if self._is_closed:
                    raise SnapshotError("the index was closed before it was saved")
                copies, some_spilled = self._ask(self._copy, names)
                spilled |= some_spilled
                try:
                    for _, part in copies:
                        writer.write(part)
                        if part.graph is not None:
                            graph_files[part.name] = self._graph_file(part.graph)
                finally:
                    self._ask(self._let_go, copies)
            flat = writer.finish()
        files = {flat, *graph_files.values()}
        files |= {file for one in spilled.values() for file in one.files}
        # Files never change: what an earlier snapshot made durable still is.
        make_durable(self._folder, files - self._durable)
        self._durable = files
        write_manifest(
            self._folder,
            {
                "format": FORMAT,
                "fingerprint": self._fingerprint,
                "dimension": self._dimension,
                "position": position,
                "generation": self._generation,
                "flat": flat,
                "graphs": {name.hex(): file for name, file in graph_files.items()},
                "spilled": {name.hex(): one.files for name, one in spilled.items()},
            },
        )
        # Waited for, so that it does not take away what the next snapshot has written.
        self._ask(self._discard_but, files)


def _part(partition: Partition) -> Part:
    """Return a copy of a partition, but for its graph's index."""
    graph = partition.graph
    return Part(partition.name, *partition.tail(), None if graph is None else graph.copy())


def _spilled(partition: Partition, files: tuple[str, ...]) -> _Spilled:
    return _Spilled(
        files, frozenset(partition.keys), partition.last_expiry, partition.oldest_generation
    )


def _log_failure(done: "Future[None]") -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        _log.error("the index was not tended", exc_info=error)
