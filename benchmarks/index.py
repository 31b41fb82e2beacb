"""The index of one host at several sizes: search, recall, memory, snapshot.

    python -m benchmarks.index               # tables in Markdown; a million takes some ten minutes
    python -m benchmarks.index 10000 100000

All vectors of a size are in one partition, which is the worst case. They lie in clusters of 20, as
questions do; a query has a cosine of about .96 with one of them, as a paraphrase has. They vary in
96 directions and little in the others: those of real questions (NQ-open, all-MiniLM-L6-v2) vary in
about 130 overall but in 10 among neighbours (TwoNN; here 50), which is what makes a graph's work
easy or hard. With vectors that vary evenly in all 384, recall of a graph is lower. Each size is
filled, searched and saved in one process of its own, and loaded and searched again in another, as
after a restart; memory is the whole process's. A search is timed as the engine asks for it, one at
a time, on one thread.

The second table shows where a graph becomes as fast as comparing with all.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from embeddings.index.faiss_index import FaissIndex
from embeddings.index.partition import Partition
from embeddings.index.vector_index import IndexedVector
from embeddings.observer import IndexStats
from proxy.embedding.start import ONE_BLAS_THREAD

SIZES: Final = (10_000, 100_000, 1_000_000)
_CROSSOVER_SIZES: Final = (500, 1000, 2000, 4000, 8000)
_DIMENSION: Final = 384
_PARTITION: Final = b"p" * 32
_CHUNK: Final = 10_000
_BATCH: Final = 500
_QUERIES: Final = 1000
_CLUSTER: Final = 20
_DIRECTIONS: Final = 96
_FOREVER: Final = 4e9

_Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Row:
    """What one size came to.

    Attributes:
        vectors: In one partition.
        search_p50_ms: Of one search for one nearest.
        recall_at_1: Share of queries whose nearest was found.
        adds_per_s: Into the graph, batches of 500.
        estimated_bytes: What the index says it takes.
        save_s: Writing the snapshot.
        load_s: Reading it in a new process, its files in the page cache.
        restarted_bytes: Memory of that process before the first search.
        restarted_p50_ms: Of one search there.
    """

    vectors: int
    search_p50_ms: float
    recall_at_1: float
    adds_per_s: float
    estimated_bytes: int
    save_s: float
    load_s: float
    restarted_bytes: int
    restarted_p50_ms: float


def rows(sizes: Sequence[int] = SIZES) -> list[Row]:
    """Measure each size."""
    return [_row(size) for size in sizes]


def _row(size: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        measured = _child("fill", folder, str(size)) | _child("restart", folder, str(size))
    return Row(vectors=size, **measured)


def _child(*args: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.index", *args],
        env={**os.environ, **ONE_BLAS_THREAD},
        stdout=subprocess.PIPE,
        check=True,
    )
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


class _NoObserver:
    """Counts nothing; of an observer an index needs no more."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None

    def indexed(self, stats: IndexStats) -> None:
        """Let it pass."""


def _index(folder: str) -> FaissIndex:
    return FaissIndex(
        Path(folder), _DIMENSION, "benchmark", memory_bytes=1 << 40, observer=_NoObserver()
    )


def _unit(vectors: _Vectors) -> _Vectors:
    unit: _Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _noise(chance: np.random.Generator, rows: int) -> _Vectors:
    """Return vectors of norm about 1."""
    along = chance.standard_normal((rows, _DIRECTIONS), np.float32) @ _directions()
    across = chance.standard_normal((rows, _DIMENSION), np.float32) / np.float32(_DIMENSION**0.5)
    return 0.95 * along + 0.3 * across


@cache
def _directions() -> _Vectors:
    chance = np.random.default_rng(5)
    directions = chance.standard_normal((_DIRECTIONS, _DIMENSION), np.float32)
    return directions / np.float32((_DIRECTIONS * _DIMENSION) ** 0.5)


def _chunk(number: int, size: int) -> _Vectors:
    """Return some of the vectors; the same for the same number."""
    chance = np.random.default_rng(number)
    centres = _unit(_noise(chance, max(1, size // _CLUSTER)))
    return _unit(centres[chance.integers(0, len(centres), size)] + 0.6 * _noise(chance, size))


def _queries(size: int) -> _Vectors:
    """Return questions near to vectors of all chunks."""
    chance = np.random.default_rng(1 << 20)
    chunks = range(0, size, _CHUNK)
    of_chunk = -(-_QUERIES // len(chunks))
    near = np.concatenate(
        [
            _chunk(at // _CHUNK, min(_CHUNK, size - at))[
                chance.integers(0, min(_CHUNK, size - at), of_chunk)
            ]
            for at in chunks
        ]
    )
    chance.shuffle(near)
    return _unit(near[:_QUERIES] + 0.3 * _noise(chance, min(_QUERIES, len(near))))


async def _fill(folder: str, size: int) -> dict[str, Any]:
    index = _index(folder)
    queries = _queries(size)
    nearest = np.full(len(queries), -1)
    best = np.full(len(queries), -2, np.float32)
    adding_s = 0.0
    for at in range(0, size, _CHUNK):
        vectors = _chunk(at // _CHUNK, min(_CHUNK, size - at))
        scores = queries @ vectors.T
        rows = scores.argmax(1)
        top = scores[np.arange(len(queries)), rows]
        nearest = np.where(top > best, at + rows, nearest)
        best = np.maximum(top, best)
        began = time.perf_counter()
        for first in range(0, len(vectors), _BATCH):
            await index.add(
                [
                    IndexedVector(_key(at + first + offset), _PARTITION, vector, _FOREVER)
                    for offset, vector in enumerate(vectors[first : first + _BATCH])
                ]
            )
        adding_s += time.perf_counter() - began
    began = time.perf_counter()
    while (stats := await index.stats()).vectors["flat"]:
        pass
    adding_s += time.perf_counter() - began
    p50_ms, found = await _search(index, queries)
    began = time.perf_counter()
    await index.save("0-0")
    save_s = time.perf_counter() - began
    await index.close()
    return {
        "search_p50_ms": p50_ms,
        "recall_at_1": statistics.mean(
            one == _key(int(right)) for one, right in zip(found, nearest, strict=True)
        ),
        "adds_per_s": size / adding_s,
        "estimated_bytes": stats.bytes,
        "save_s": save_s,
    }


async def _restart(folder: str, size: int) -> dict[str, Any]:
    index = _index(folder)
    began = time.perf_counter()
    assert await index.load() == "0-0"
    load_s = time.perf_counter() - began
    held_bytes = _resident_bytes()
    p50_ms, _ = await _search(index, _queries(size))
    await index.close()
    return {"load_s": load_s, "restarted_bytes": held_bytes, "restarted_p50_ms": p50_ms}


async def _search(index: FaissIndex, queries: _Vectors) -> tuple[float, list[bytes]]:
    seconds, found = [], []
    for query in queries:
        began = time.perf_counter()
        [matches] = await index.search([(_PARTITION, query)], 1, 0.0)
        seconds.append(time.perf_counter() - began)
        found.append(matches[0].key)
    return 1e3 * statistics.median(seconds), found


def _key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _crossover() -> dict[str, dict[str, float]]:
    """Return, by size, the milliseconds of a search in the tail and in a graph."""
    measured = {}
    for size in _CROSSOVER_SIZES:
        queries = _queries(size)
        partition = Partition(_PARTITION, _DIMENSION)
        for number, vector in enumerate(_chunk(0, size)):
            partition.add(IndexedVector(_key(number), _PARTITION, vector, _FOREVER), 0)
        flat_ms = _search_ms(partition, queries)
        # By hand: the partition itself waits until it is worth it.
        partition.begin_graph()
        while partition.is_untidy:
            partition.tend(100)
        measured[str(size)] = {"flat": flat_ms, "graph": _search_ms(partition, queries)}
    return measured


def _search_ms(partition: Partition, queries: _Vectors) -> float:
    seconds = []
    for query in queries:
        began = time.perf_counter()
        partition.search(query, 1, 0.0)
        seconds.append(time.perf_counter() - began)
    return 1e3 * statistics.median(seconds)


def main() -> None:
    """Print tables in Markdown."""
    match sys.argv[1:]:
        case ["fill", folder, size]:
            print(json.dumps(asyncio.run(_fill(folder, int(size)))))
        case ["restart", folder, size]:
            print(json.dumps(asyncio.run(_restart(folder, int(size)))))
        case ["crossover"]:
            print(json.dumps(_crossover()))
        case sizes:
            _print_tables([int(size) for size in sizes] or SIZES)


def _print_tables(sizes: Sequence[int]) -> None:
    names = list(asdict(Row(0, 0, 0, 0, 0, 0, 0, 0, 0)))
    print(f"| {' | '.join(names)} |\n|{'--:|' * len(names)}")
    for size in sizes:
        cells = [f"{value:,.3f}" for value in asdict(_row(size)).values()]
        print(f"| {' | '.join(cell.removesuffix('.000') for cell in cells)} |", flush=True)
    print("\n| vectors | flat, ms | graph, ms |\n|--:|--:|--:|")
    for vectors, of_kind in _child("crossover").items():
        print(f"| {int(vectors):,} | {of_kind['flat']:.3f} | {of_kind['graph']:.3f} |")


if __name__ == "__main__":
    main()
