"""Partitions as files.

    DIGEST.flat        some partitions, but for their graphs; read as a whole
    DIGEST.pack        some partitions, each of which can be read alone, and a table of them
    DIGEST.graph       one graph, as faiss writes it

A file is named by its BLAKE2b digest and never changed. Nothing is pickled, and nothing is used
before it has been compared with its digest: a file with its name, but for a pack, of which the
table and each partition have their own.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b, file_digest
from pathlib import Path
from threading import get_native_id
from typing import Any, ClassVar, Final, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from embeddings.index.graph import Graph
from embeddings.index.vector_index import KEY_BYTES, PARTITION_BYTES

_DIGEST_BYTES: Final = 16
# partition, rows in the tail, rows in the graph, dimension
_HEAD: Final = struct.Struct(f"<{PARTITION_BYTES}sQQI")
_DEAD_KEY: Final = b"\0" * KEY_BYTES
# A pack's table: partition, offset, length, keys, last expiry, oldest generation, graph's digest.
_ROW: Final = struct.Struct(f"<{PARTITION_BYTES}sQQQdi{_DIGEST_BYTES}s")
_NO_GRAPH: Final = bytes(_DIGEST_BYTES)
# A pack's end: where its table begins, rows in it, its digest.
_END: Final = struct.Struct(f"<QQ{_DIGEST_BYTES}s")


class SnapshotError(Exception):
    """What is on disk is not what was written."""


def digest_of(raw: bytes = b"") -> Any:
    """Return a digest as `hashlib` has it, of `raw` so far."""
    return blake2b(raw, digest_size=_DIGEST_BYTES)


def draft_path(folder: Path, kind: str) -> Path:
    """Return where a file is written before it has its name; one of a kind on each thread."""
    return folder / f"{kind}-{os.getpid()}-{get_native_id()}.draft"


@dataclass(frozen=True, slots=True)
class Part:
    """One partition as it is saved.

    Attributes:
        name: The partition.
        keys: Of the tail.
        vectors: Of the tail, shape (n, dimension), float32.
        expires_at: Of the tail, Unix seconds.
        generations: Of the tail; see `Graph`.
        graph: The graph; its index lies in a file of its own, and is None until that is read.
    """

    name: bytes
    keys: list[bytes]
    vectors: NDArray[np.float32]
    expires_at: NDArray[np.float64]
    generations: NDArray[np.int32]
    graph: Graph | None


@dataclass(frozen=True, slots=True)
class Row:
    """One partition in a pack, as its table has it.

    Attributes:
        name: The partition.
        offset: Where it begins.
        length: How long it is there, in bytes.
        keys: Of all its vectors.
        expires_at: When the last of them expires.
        oldest: The generation of the one that was added first.
        graph_file: That holds its graph, if it has one.
    """

    name: bytes
    offset: int
    length: int
    keys: list[bytes]
    expires_at: float
    oldest: int
    graph_file: str | None


class _Writer:
    """Writes one file, which is there once it is finished; to be left as a context manager."""

    kind: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        """Begin."""
        self._draft = draft_path(folder, self.kind)
        self._file = self._draft.open("wb")
        self._digest = digest_of()
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # a full disk, which has been told already
            self._file.close()
        self._draft.unlink(missing_ok=True)

    def append(self, piece: bytes) -> None:
        """Append bytes."""
        self._digest.update(piece)
        self._file.write(piece)
        self._size += len(piece)

    def finish(self) -> str:
        """Return the name of the file that has it all."""
        self._file.close()
        path = self._draft.with_name(f"{self._digest.hexdigest()}.{self.kind}")
        self._draft.replace(path)
        return path.name


class PartsWriter(_Writer):
    """Writes partitions into one file, which is read as a whole."""

    kind = "flat"

    def write(self, part: Part) -> None:
        """Append a partition, without its graph's index."""
        for piece in _pieces(part):
            self.append(piece)


class PackWriter(_Writer):
    """Writes partitions into one file, of which each can be read alone."""

    kind = "pack"

    def __init__(self, folder: Path) -> None:
        """Begin."""
        super().__init__(folder)
        self.rows: list[Row] = []

    def write(self, part: Part) -> None:
        """Append a partition; its graph's index has a file already."""
        body = b"".join(_pieces(part))
        keys, expires_at, generations = part.keys, part.expires_at, part.generations
        graph, graph_file = part.graph, None
        if graph is not None:
            count = len(graph.keys)
            keys = keys + [key for key in graph.keys if key is not None]
            expires_at = np.concatenate([expires_at, graph.expires_at[:count]])
            generations = np.concatenate([generations, graph.generations[:count]])
            graph_file = graph.file
        last, oldest = float(expires_at.max()), int(generations.min())
        row = Row(part.name, 0, 0, keys, last, oldest, graph_file)
        self.copy(digest_of(body).digest() + body, row)

    def copy(self, raw: bytes, row: Row) -> None:
        """Append a partition as it stands in another pack; `row` is that one's."""
        self.rows.append(replace(row, offset=self._size, length=len(raw)))
        self.append(raw)

    def finish(self) -> str:
        """Return the name of the file that has it all."""
        table = b"".join(piece for row in self.rows for piece in _row_pieces(row))
        at = self._size
        self.append(table)
        self.append(_END.pack(at, len(self.rows), digest_of(table).digest()))
        return super().finish()


class _GraphWriter(_Writer):
    kind = "graph"


def write_graph(folder: Path, graph: Graph) -> str:
    """Write a graph's index into a file of `folder`, and return its name. It must not change."""
    with _GraphWriter(folder) as writer:
        # Not to a path: what does not fit a full disk when faiss closes it is not told there.
        # Not in faiss' stub.
        into = faiss.PyCallbackIOWriter(writer.append)  # type: ignore[attr-defined]
        faiss.write_index(graph.index, into)
        return writer.finish()


def read_parts(folder: Path, name: str, dimension: int) -> list[Part]:
    """Return the partitions in a file; a graph's index is None, see `read_graph`.

    Raises:
        SnapshotError: It is missing, or not what was written.
    """
    path = _checked(folder, name)
    parts = []
    try:
        raw = memoryview(path.read_bytes())
        at = 0
        while at < len(raw):
            part, at = _part(raw, at, dimension)
            parts.append(part)
    except (OSError, struct.error, ValueError) as error:
        raise SnapshotError(f"{name} cannot be read") from error
    return parts


def read_table(folder: Path, name: str) -> list[Row]:
    """Return what a pack holds, in the order it was put there.

    Raises:
        SnapshotError: It is missing, or not what was written.
    """
    try:
        with _path(folder, name).open("rb") as file:
            end = file.seek(-_END.size, os.SEEK_END)
            at, count, digest = _END.unpack(file.read())
            file.seek(at)
            table = file.read(end - at)
        if len(table) != end - at or digest_of(table).digest() != digest:
            raise SnapshotError(f"{name} is not what was written")
        return _rows(memoryview(table), count)
    except (OSError, struct.error, ValueError) as error:
        raise SnapshotError(f"{name} cannot be read") from error


def read_raw(folder: Path, name: str, offset: int, length: int) -> bytes:
    """Return a partition as it stands in a pack.

    Raises:
        SnapshotError: It is missing, or not what was written.
    """
    try:
        with _path(folder, name).open("rb", buffering=0) as file:
            file.seek(offset)
            raw = file.read(length)
    except OSError as error:
        raise SnapshotError(f"{name} cannot be read") from error
    if len(raw) != length or digest_of(raw[_DIGEST_BYTES:]).digest() != raw[:_DIGEST_BYTES]:
        raise SnapshotError(f"{name} is not what was written")
    return raw


def read_packed(folder: Path, name: str, offset: int, length: int, dimension: int) -> Part:
    """Return one partition of a pack; a graph's index is None, see `read_graph`.

    Raises:
        SnapshotError: It is missing, or not what was written.
    """
    raw = memoryview(read_raw(folder, name, offset, length))
    try:
        part, end = _part(raw, _DIGEST_BYTES, dimension)
    except (struct.error, ValueError) as error:
        raise SnapshotError(f"{name} cannot be read") from error
    if end != length:
        raise SnapshotError(f"{name} is not what was written")
    return part


def read_graph(folder: Path, name: str, part: Part) -> Graph:
    """Return the graph of `part`.

    Raises:
        SnapshotError: The file is missing, or not what was written, or another partition's.
    """
    path = _checked(folder, name)
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise SnapshotError(f"{name} cannot be read") from error
    if part.graph is None or index.ntotal != len(part.graph.keys):
        raise SnapshotError(f"{name} is another partition's")
    part.graph.index, part.graph.file = index, name
    return part.graph


def _row_pieces(row: Row) -> Iterator[bytes]:
    graph = _NO_GRAPH if row.graph_file is None else bytes.fromhex(Path(row.graph_file).stem)
    yield _ROW.pack(
        row.name, row.offset, row.length, len(row.keys), row.expires_at, row.oldest, graph
    )
    yield b"".join(row.keys)


def _rows(raw: memoryview, count: int) -> list[Row]:
    rows, at = [], 0
    for _ in range(count):
        name, offset, length, keys, expires_at, oldest, graph = _ROW.unpack_from(raw, at)
        at += _ROW.size + keys * KEY_BYTES
        graph_file = None if graph == _NO_GRAPH else f"{graph.hex()}.graph"
        found = _keys(raw[at - keys * KEY_BYTES : at])
        rows.append(Row(name, offset, length, found, expires_at, oldest, graph_file))
    return rows


def _pieces(part: Part) -> Iterator[bytes]:
    graph = part.graph
    rows = 0 if graph is None else len(graph.keys)
    yield _HEAD.pack(part.name, len(part.keys), rows, part.vectors.shape[1])
    yield b"".join(part.keys)
    yield part.vectors.tobytes()
    yield part.expires_at.tobytes()
    yield part.generations.tobytes()
    if graph is not None:
        yield b"".join(_DEAD_KEY if key is None else key for key in graph.keys[:rows])
        yield graph.expires_at[:rows].tobytes()
        yield graph.generations[:rows].tobytes()


def _part(raw: memoryview, at: int, dimension: int) -> tuple[Part, int]:
    name, tail, rows, width = _HEAD.unpack_from(raw, at)
    if width != dimension:
        raise ValueError("another dimension")
    at += _HEAD.size

    def take(size: int) -> memoryview:
        nonlocal at
        if size > len(raw) - at:
            raise ValueError("cut")
        at += size
        return raw[at - size : at]

    keys = _keys(take(tail * KEY_BYTES))
    vectors = np.frombuffer(take(4 * tail * dimension), "<f4").reshape(tail, dimension).copy()
    expires_at = np.frombuffer(take(8 * tail), "<f8").copy()
    generations = np.frombuffer(take(4 * tail), "<i4").copy()
    graph = None
    if rows:
        found = _keys(take(rows * KEY_BYTES))
        living: list[bytes | None] = [None if key == _DEAD_KEY else key for key in found]
        expiries = np.frombuffer(take(8 * rows), "<f8").copy()
        added = np.frombuffer(take(4 * rows), "<i4").copy()
        graph = Graph(None, living, expiries, added, living.count(None))
    return Part(name, keys, vectors, expires_at, generations, graph), at


def _keys(raw: memoryview) -> list[bytes]:
    whole = bytes(raw)
    return [whole[at : at + KEY_BYTES] for at in range(0, len(whole), KEY_BYTES)]


def _path(folder: Path, name: str) -> Path:
    path = folder / name
    if path.parent != folder:
        raise SnapshotError(f"{name} is not in the folder")
    return path


def _checked(folder: Path, name: str) -> Path:
    path = _path(folder, name)
    try:
        with path.open("rb") as file:
            digest = file_digest(file, digest_of).hexdigest()
    except OSError as error:
        raise SnapshotError(f"{name} cannot be read") from error
    if path.stem != digest:
        raise SnapshotError(f"{name} is not what was written")
    return path
