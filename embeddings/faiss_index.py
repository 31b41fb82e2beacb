"""The index of one host: each partition's vectors in memory, the coldest ones on disk.

One thread owns everything and does one thing at a time; the event loop hands it whole calls. What
takes long and only reads (making a graph anew, writing it) runs on a second thread while that
graph is frozen: searches go on, additions wait in the tail.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import faiss

from embeddings.encoder import Vector
from embeddings.index import (
    KEY_BYTES,
    PARTITION_BYTES,
    IndexedVector,
    IndexStats,
    Match,
)
from embeddings.observer import Observer
from embeddings.partition import Graph, Partition
from embeddings.snapshot import (
    FORMAT,
    Part,
    SnapshotError,
    discard,
    read_graph,
    read_manifest,
    read_parts,
    write_graph,
    write_manifest,
    write_parts,
)

_Result = TypeVar("_Result")

_SLICE: Final = 16
"""Vectors moved into graphs between two calls: about 2 ms, which a search may have to wait."""
_LOOKED_THROUGH: Final = 500
"""Partitions looked through for what has to go, between two calls: about 2 ms."""

_log = logging.getLogger("recollect.embeddings")


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
        self._spilled: dict[bytes, tuple[str, ...]] = {}
        """Files of partitions out of memory: the flat part, then the graph."""
        self._spilled_keys: dict[bytes, set[bytes]] = {}
        self._where: dict[bytes, bytes] = {}
        """Each key's partition."""
        self._held_bytes = 0
        self._generation = 0
        self._graph_files: dict[bytes, tuple[Graph, int, str]] = {}
        """A partition's graph as it was written: the graph, its rows, the file."""
        self._untidy: set[bytes] = set()
        """Partitions that may have something to move, or to be rid of."""
        self._is_tending = False
        self._is_closed = False
        self._owner = ThreadPoolExecutor(1, thread_name_prefix="index")
        self._second = ThreadPoolExecutor(1, thread_name_prefix="index-files")
        faiss.omp_set_num_threads(1)

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

    async def remove(self, keys: Sequence[bytes]) -> None:
        """Forget the vectors under `keys`."""
        await self._run(self._remove, keys)

    async def expire(self, now: float) -> int:
        """Forget what has expired by `now`; return how many vectors that were."""
        return await self._remove_where(lambda partition: partition.expired(now))

    async def begin_sweep(self) -> None:
        """Begin a rebuild."""
        await self._run(self._begin_sweep)

    async def end_sweep(self) -> int:
        """Forget what was not added since `begin_sweep`; return how many vectors that were."""
        return await self._remove_where(lambda partition: partition.older_than(self._generation))

    async def save(self, position: str) -> None:
        """Write a snapshot that stands at `position`."""
        parts, graphs = await self._run(self._begin_save)
        try:
            await asyncio.wrap_future(
                self._second.submit(self._write, position, parts, graphs, dict(self._spilled))
            )
        finally:
            await self._run(self._thaw, [partition for partition, _ in graphs])

    async def load(self) -> str | None:
        """Take up the snapshot; return its position, None if there is none to be used."""
        return await self._run(self._load)

    async def stats(self) -> IndexStats:
        """Return how much is held."""
        return await self._run(self._stats)

    async def close(self) -> None:
        """End the threads. Nothing is saved."""
        self._is_closed = True
        # A graph that is being written is waited for; one that waits to be is not.
        await asyncio.to_thread(self._second.shutdown, cancel_futures=True)
        await asyncio.to_thread(self._owner.shutdown, cancel_futures=True)

    async def _remove_where(self, found: Callable[[Partition], list[bytes]]) -> int:
        # Some at a time: searches have their turn between. What lies on disk is left: what has
        # expired is not found there either.
        names = await self._run(lambda: list(self._partitions))
        removed = 0
        for at in range(0, len(names), _LOOKED_THROUGH):
            some = names[at : at + _LOOKED_THROUGH]
            removed += await self._run(self._remove_found, some, found)
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
        self._spill()
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

    def _remove(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            name = self._where.pop(key, None)
            partition = self._in_memory(name) if name is not None else None
            if name is None or partition is None:
                continue
            size = partition.size_bytes
            partition.remove(key)
            self._held_bytes += partition.size_bytes - size
            self._look_later(partition)
            if not partition and not partition.frozen:
                self._held_bytes -= partition.size_bytes
                del self._partitions[name]
                self._graph_files.pop(name, None)
        self._spill()
        self._tend_soon()

    def _remove_found(self, names: Sequence[bytes], found: Callable[[Partition], Any]) -> int:
        partitions = [self._partitions[name] for name in names if name in self._partitions]
        keys = [key for partition in partitions for key in found(partition)]
        self._remove(keys)
        return len(keys)

    def _begin_sweep(self) -> None:
        self._generation += 1
        # Vectors on disk cannot be marked: they are read anew from the store like all others.
        for name in list(self._spilled):
            for key in self._spilled_keys[name]:
                self._where.pop(key, None)
            del self._spilled[name], self._spilled_keys[name]

    def _stats(self) -> IndexStats:
        living = self._partitions.values()
        in_graphs = sum(partition.in_graph for partition in living)
        return IndexStats(
            vectors={
                "flat": sum(map(len, living)) - in_graphs,
                "graph": in_graphs,
                "spilled": sum(map(len, self._spilled_keys.values())),
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
            self._owner.submit(self._tend)

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
        partition.frozen = True
        making = self._second.submit(graph.without_dead)
        making.add_done_callback(lambda made: self._hand_back(partition, made))

    def _hand_back(self, partition: Partition, made: "Future[Graph]") -> None:
        # On the second thread, or on the one that cancelled it while closing.
        if not self._is_closed:
            self._owner.submit(self._renewed, partition, made)

    def _renewed(self, partition: Partition, made: "Future[Graph]") -> None:
        partition.frozen = False
        error = made.exception()
        if error is not None:
            _log.error("a graph could not be made anew", exc_info=error)
            return
        size = partition.size_bytes
        partition.take_over(made.result())
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
        files = self._spilled.pop(name, None)
        if files is None:
            return None
        keys = self._spilled_keys.pop(name)
        try:
            partition = self._read(name, files)
        except SnapshotError as error:
            _log.error("a partition was lost: %s", error)
            for key in keys:
                self._where.pop(key, None)
            return None
        for key in set(partition.keys) - keys:
            partition.remove(key)
        self._partitions[name] = partition
        self._held_bytes += partition.size_bytes
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
            self._graph_files[part.name] = (graph, len(graph.keys), graph_file)
        elif part.graph is not None:
            raise SnapshotError("a graph has no file")
        partition = Partition(part.name, self._dimension)
        partition.restore(part.keys, part.vectors, part.expires_at, graph)
        partition.touch(self._generation)
        return partition

    def _spill(self) -> None:
        """Put the coldest partitions on disk until the others fit."""
        if self._held_bytes <= self._memory_bytes:
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in list(self._partitions):
            partition = self._partitions[name]
            if self._held_bytes <= self._memory_bytes or len(self._partitions) == 1:
                return
            if partition.frozen:
                continue
            try:
                files = self._written(partition)
            except (OSError, RuntimeError) as error:
                _log.error("a partition cannot be put on disk: %s", error)
                return
            self._held_bytes -= partition.size_bytes
            del self._partitions[name]
            self._spilled[name] = files
            self._spilled_keys[name] = set(partition.keys)

    def _written(self, partition: Partition) -> tuple[str, ...]:
        flat = write_parts(self._folder, [_part(partition)])
        if partition.graph is None:
            return (flat,)
        return flat, self._graph_file(partition.name, partition.graph)

    def _graph_file(self, name: bytes, graph: Graph) -> str:
        """Return the file that holds `graph`'s index, written now unless it is there."""
        known = self._graph_files.get(name)
        is_written = known is not None and known[0] is graph and known[1] == len(graph.keys)
        if known is not None and is_written and (self._folder / known[2]).exists():
            return known[2]
        file = write_graph(self._folder, graph)
        self._graph_files[name] = (graph, len(graph.keys), file)
        return file

    # Snapshots.

    def _begin_save(self) -> tuple[list[Part], list[tuple[Partition, Graph]]]:
        """Copy what is flat, and freeze the graphs."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        graphs = []
        for partition in self._partitions.values():
            # One that is being made anew is only read, here as there.
            if partition.graph is not None:
                graphs.append((partition, partition.graph))
        parts = [_part(partition) for partition in self._partitions.values()]
        for partition, _ in graphs:
            partition.frozen = True
        return parts, graphs

    def _thaw(self, partitions: Sequence[Partition]) -> None:
        for partition in partitions:
            partition.frozen = False
            self._look_later(partition)
        self._tend_soon()

    def _load(self) -> str | None:
        began = time.perf_counter()
        try:
            manifest = read_manifest(self._folder)
            if manifest is None:
                discard(self._folder, set())
                return None
            position = self._take_up(manifest)
        except (SnapshotError, KeyError, TypeError, ValueError) as error:
            _log.warning("the snapshot of the index is not used: %s", error)
            self._observer.snapshot("unusable", time.perf_counter() - began)
            for table in (self._partitions, self._spilled, self._spilled_keys, self._where):
                table.clear()
            self._graph_files.clear()
            self._held_bytes = 0
            discard(self._folder, set())
            return None
        self._tend_soon()
        return position

    def _take_up(self, manifest: dict[str, Any]) -> str:
        """Fill the empty index with what `manifest` names; return its position."""
        wanted = (FORMAT, self._fingerprint, self._dimension)
        if (manifest["format"], manifest["fingerprint"], manifest["dimension"]) != wanted:
            raise SnapshotError("it is of another format or encoder")
        graph_files = {bytes.fromhex(name): str(file) for name, file in manifest["graphs"].items()}
        for part in read_parts(self._folder, str(manifest["flat"]), self._dimension):
            partition = self._restored(part, graph_files.get(part.name))
            self._partitions[part.name] = partition
            self._held_bytes += partition.size_bytes
            self._look_later(partition)
            self._where.update(dict.fromkeys(partition.keys, partition.name))
        for name_hex, files in manifest["spilled"].items():
            name = bytes.fromhex(name_hex)
            [part] = read_parts(self._folder, str(files[0]), self._dimension)
            keys = set(part.keys)
            if part.graph is not None:
                keys |= {key for key in part.graph.keys if key is not None}
            self._spilled[name] = tuple(map(str, files))
            self._spilled_keys[name] = keys
            self._where.update(dict.fromkeys(keys, name))
        return str(manifest["position"])

    # On the second thread.

    def _write(
        self,
        position: str,
        parts: list[Part],
        graphs: list[tuple[Partition, Graph]],
        spilled: dict[bytes, tuple[str, ...]],
    ) -> None:
        flat = write_parts(self._folder, parts)
        files = {
            partition.name: self._graph_file(partition.name, graph) for partition, graph in graphs
        }
        write_manifest(
            self._folder,
            {
                "format": FORMAT,
                "fingerprint": self._fingerprint,
                "dimension": self._dimension,
                "position": position,
                "flat": flat,
                "graphs": {name.hex(): file for name, file in files.items()},
                "spilled": {name.hex(): list(names) for name, names in spilled.items()},
            },
        )
        kept = {"manifest.json", "encoder.json", flat, *files.values()}
        kept |= {name for names in spilled.values() for name in names}
        self._owner.submit(self._discard_but, kept)

    def _discard_but(self, kept: set[str]) -> None:
        # On the owner's thread: a partition may have been put on disk since.
        discard(self._folder, kept | {name for names in self._spilled.values() for name in names})


def _part(partition: Partition) -> Part:
    """Return a copy of a partition, but for its graph's index."""
    keys, vectors, expires_at = partition.tail()
    graph = partition.graph
    if graph is not None:
        rows = len(graph.keys)
        graph = Graph(
            None,
            list(graph.keys),
            graph.expires_at[:rows].copy(),
            graph.generations[:rows].copy(),
            graph.dead,
        )
    return Part(partition.name, keys, vectors, expires_at, graph)
