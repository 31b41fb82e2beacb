"""The index of one host: each partition's vectors in memory, the coldest ones on disk.

The event loop hands whole calls to one thread, which owns everything (`holdings`). What is longer
than a search may wait for comes as several calls, or is done on another thread beside.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

from embeddings.encoding.encoder import Vector
from embeddings.index.holdings import Holdings
from embeddings.index.part_files import Part, PartsWriter, SnapshotError, read_parts, read_table
from embeddings.index.partition import Partition
from embeddings.index.snapshot import FORMAT, discard, make_durable, read_manifest, write_manifest
from embeddings.index.spilling import Spot, keep_graph, restored
from embeddings.index.threads import IndexThreads
from embeddings.index.vector_index import KEY_BYTES, PARTITION_BYTES, IndexedVector, Match
from embeddings.observer import IndexStats, Observer

_LOOKED_THROUGH: Final = 500
"""Partitions looked through for what has to go, between two calls: about 2 ms."""
_COPIED_BYTES: Final = 4 * 1024**2
"""Memory copied for a snapshot between two calls: about 2 ms."""

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
            memory_bytes: What all may take; the coldest partitions beyond that lie on disk.
            observer: Told of snapshots that could not be used.
        """
        self._folder = folder
        self._dimension = dimension
        self._fingerprint = fingerprint
        self._observer = observer
        self._threads = IndexThreads()
        self._run = self._threads.call
        self._holdings = Holdings(
            folder, dimension, memory_bytes=memory_bytes, threads=self._threads
        )
        self._durable: set[str] = set()
        """Files that the last snapshot made durable; the saver's."""

    @property
    def is_whole(self) -> bool:
        """Whether no partition that lay on disk could not be read since the last sweep began."""
        return self._holdings.is_whole

    async def search(
        self, queries: Sequence[tuple[bytes, Vector]], k: int, now: float
    ) -> list[list[Match]]:
        """Return for each query the `k` nearest vectors of its partition, best first."""
        for _, vector in queries:
            self._check(vector)
        return await self._run(self._holdings.search, queries, k, now)

    async def add(self, vectors: Sequence[IndexedVector]) -> None:
        """Add vectors, each in place of what was there under its key."""
        for one in vectors:
            self._check(one.vector)
            if len(one.key) != KEY_BYTES or len(one.partition) != PARTITION_BYTES:
                raise ValueError("a key and a partition have 32 bytes")
        await self._run(self._holdings.add, vectors)
        # Who adds faster than graphs grow waits for them: a long tail would make searches slow.
        names = {one.partition for one in vectors}
        while await self._run(self._holdings.is_behind, names):
            pass

    async def remove(self, keys: Sequence[bytes]) -> None:
        """Forget the vectors under `keys`."""
        await self._run(self._holdings.remove, keys)

    async def expire(self, now: float) -> int:
        """Forget what has expired by `now`; return how many vectors that were."""
        holdings, removed = self._holdings, 0
        for names in await self._names(lambda: holdings.spilled):
            removed += await self._run(holdings.expire_spilled, names, now)
        for names in await self._names(lambda: holdings.in_memory):
            removed += await self._remove_found(names, lambda one: one.expired(now))
        return removed

    async def begin_sweep(self) -> None:
        """Begin a rebuild."""
        await self._run(self._begin_sweep)

    async def end_sweep(self) -> int:
        """Forget what was not added since `begin_sweep`; return how many vectors that were."""
        holdings, removed = self._holdings, 0
        generation = holdings.generation
        # All of them now: meanwhile some go to disk, and some come from there.
        groups = await self._names(holdings.names)
        for names in groups:
            removed += await self._remove_found(names, lambda one: one.older_than(generation))
        # What was on disk then, and has not been looked at from there, is read one by one.
        for names in groups:
            for name in await self._run(holdings.older, names, generation):
                while some := await self._run(holdings.remove_older, name, generation):
                    if isinstance(some, Future):
                        await asyncio.shield(asyncio.wrap_future(some))
                    else:
                        removed += some
        return removed

    async def save(self, position: str) -> None:
        """Write a snapshot that stands at `position`.

        It may hold what was added while it was written: who goes on from `position` looks at that
        once more.
        """
        # Goes on to its end if the caller is cancelled; the next one comes after it.
        await asyncio.wrap_future(self._threads.saver.submit(self._save, position))

    async def load(self) -> str | None:
        """Take up the snapshot; return its position, None if there is none to be used.

        Of a snapshot that lacks only partitions which lay on disk the rest is taken up, and None
        returned all the same: the store has what is lost.
        """
        return await self._run(self._load)

    async def stats(self) -> IndexStats:
        """Return how much is held."""
        return await self._run(self._holdings.stats)

    async def close(self) -> None:
        """End the threads. Nothing is saved."""
        if not self._threads.is_closed:
            self._threads.is_closed = True
            await self._run(self._holdings.close)
        await self._threads.close()

    async def _names(self, of: Callable[[], Iterable[bytes]]) -> list[list[bytes]]:
        """Return the names of partitions as many together as are looked through at once."""
        names = await self._run(lambda: list(of()))
        return [names[at : at + _LOOKED_THROUGH] for at in range(0, len(names), _LOOKED_THROUGH)]

    async def _remove_found(
        self, names: list[bytes], found: Callable[[Partition], list[bytes]]
    ) -> int:
        # Some at a time: searches have their turn between.
        removed = 0
        while count := await self._run(self._holdings.remove_found, names, found):
            removed += count
        return removed

    def _check(self, vector: Vector) -> None:
        if vector.shape != (self._dimension,):
            raise ValueError(f"a vector has {self._dimension} numbers, not {vector.shape}")

    # From here on, on the owner's thread.

    def _begin_sweep(self) -> None:
        self._holdings.generation += 1
        self._holdings.is_whole = True

    def _load(self) -> str | None:
        began = time.perf_counter()
        try:
            manifest = read_manifest(self._folder)
            if manifest is None:
                discard(self._folder, set())
                return None
            is_whole = self._take_up(manifest)
            position = str(manifest["position"])
        except (SnapshotError, LookupError, AttributeError, TypeError, ValueError) as error:
            _log.warning("the snapshot of the index is not used: %s", error)
            self._observer.snapshot("unusable", time.perf_counter() - began)
            self._holdings.clear()
            discard(self._folder, set())
            return None
        self._holdings.settle()
        if not is_whole:
            self._observer.snapshot("unusable", time.perf_counter() - began)
            return None
        return position

    def _take_up(self, manifest: dict[str, Any]) -> bool:
        """Fill the empty index with what `manifest` names; say whether all was there."""
        wanted = (FORMAT, self._fingerprint, self._dimension)
        if (manifest["format"], manifest["fingerprint"], manifest["dimension"]) != wanted:
            raise SnapshotError("it is of another format or encoder")
        holdings = self._holdings
        holdings.generation = int(manifest["generation"])
        packs = {str(file): set(map(int, at)) for file, at in manifest["packs"].items()}
        # Until the next snapshot this one is to be found as it is.
        holdings.spilled.saved(set(packs))
        graph_files = {bytes.fromhex(name): str(file) for name, file in manifest["graphs"].items()}
        for part in read_parts(self._folder, str(manifest["flat"]), self._dimension):
            graph_file = graph_files.get(part.name)
            holdings.take_up(restored(self._folder, part, graph_file, self._dimension))
        is_whole = True
        for file, offsets in packs.items():
            try:
                rows = read_table(self._folder, file)
            except SnapshotError as error:
                _log.error("partitions were lost: %s", error)
                is_whole = False
                continue
            holdings.take_up_pack(file, rows, offsets)
        return is_whole

    def _copy(
        self, names: list[bytes]
    ) -> tuple[list[tuple[Partition, Part]], list[Spot], "Future[None] | None"]:
        """Take some of `names` away, and return what they name.

        Returns:
            Copies of what is in memory, held until `_let_go`: their graphs are still to be written.
            Then where others lie on disk, and what to wait for before the next.
        """
        copies: list[tuple[Partition, Part]] = []
        spots: list[Spot] = []
        copied_bytes = 0
        for _ in range(_LOOKED_THROUGH):
            if not names or copied_bytes >= _COPIED_BYTES:
                break
            found = self._holdings.copy(names[-1])
            if isinstance(found, Future):
                return copies, spots, found
            names.pop()
            if isinstance(found, Spot):
                spots.append(found)
            elif found is not None:
                copies.append(found)
                copied_bytes += found[0].size_bytes
        return copies, spots, None

    def _let_go(self, copies: list[tuple[Partition, Part]]) -> None:
        for partition, part in copies:
            self._holdings.let_go(partition, part)

    def _saved(self, files: set[str]) -> None:
        self._holdings.spilled.saved(files)
        # Partitions may have been put on disk since.
        discard(self._folder, files | self._holdings.spilled.files)

    # On the saver's thread.

    def _save(self, position: str) -> None:
        ask = self._threads.ask
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # To be taken from the end: the coldest first, as they are taken up again.
        names = ask(self._holdings.names)[::-1]
        graph_files: dict[bytes, str] = {}
        packs: dict[str, list[int]] = {}
        files: set[str] = set()
        with PartsWriter(self._folder) as writer:
            while names:
                if self._threads.is_closed:
                    raise SnapshotError("the index was closed before it was saved")
                copies, spots, before = ask(self._copy, names)
                for spot in spots:
                    packs.setdefault(spot.file, []).append(spot.offset)
                    files |= {spot.file, spot.graph_file or spot.file}
                try:
                    for _, part in copies:
                        writer.write(part)
                        if part.graph is not None:
                            graph_files[part.name] = keep_graph(self._folder, part.graph)
                finally:
                    ask(self._let_go, copies)
                if before is not None:
                    before.result()
            flat = writer.finish()
        # What somebody has removed under us is lost, and no reason to save nothing.
        files = {file for file in files if (self._folder / file).exists()}
        packs = {file: offsets for file, offsets in packs.items() if file in files}
        files |= {flat, *graph_files.values()}
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
                "generation": self._holdings.generation,
                "flat": flat,
                "graphs": {name.hex(): file for name, file in graph_files.items()},
                "packs": packs,
            },
        )
        # Waited for, so that it does not take away what the next snapshot has written.
        ask(self._saved, files)
