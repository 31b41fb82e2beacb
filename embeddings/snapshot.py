"""Partitions as files, and the snapshot that names them.

    manifest.json      which files make up the index, and where in the log of changes it stood
    DIGEST.flat        some partitions without a graph
    DIGEST.graph       one graph, as faiss writes it, and beside it, in a .flat, its keys and tail

A file is named by its BLAKE2b digest and never changed, so that a snapshot can share files with the
one before it and with partitions that were put out of memory. The manifest is replaced by renaming:
whenever the process dies, a whole snapshot is there. Nothing is pickled; each file is compared with
its name before any of it is used.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b, file_digest
from pathlib import Path
from threading import get_native_id
from typing import Any, Final, Self

import faiss
import numpy as np
import orjson
from numpy.typing import NDArray

from embeddings.graph import Graph
from embeddings.index import KEY_BYTES, PARTITION_BYTES

FORMAT: Final = 2
_MANIFEST: Final = "manifest.json"
_DIGEST_BYTES: Final = 16
# partition, rows in the tail, rows in the graph, dimension
_HEAD: Final = struct.Struct(f"<{PARTITION_BYTES}sQQI")
_DEAD_KEY: Final = b"\0" * KEY_BYTES


class SnapshotError(Exception):
    """What is on disk is not what was written."""


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


class PartsWriter:
    """Writes partitions into one file, which is there once it is finished."""

    def __init__(self, folder: Path) -> None:
        """Begin; to be left as a context manager."""
        self._draft = _draft(folder, "flat")
        self._file = self._draft.open("wb")
        self._digest = blake2b(digest_size=_DIGEST_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._draft.unlink(missing_ok=True)

    def write(self, part: Part) -> None:
        """Append a partition, without its graph's index."""
        for piece in _pieces(part):
            self._digest.update(piece)
            self._file.write(piece)

    def finish(self) -> str:
        """Return the name of the file that has it all."""
        self._file.close()
        return _named(self._draft, self._digest.hexdigest(), "flat")


def write_graph(folder: Path, graph: Graph) -> str:
    """Write a graph's index into a file of `folder`, and return its name. It must not change."""
    draft = _draft(folder, "graph")
    faiss.write_index(graph.index, str(draft))
    with draft.open("rb") as file:
        digest = file_digest(file, _blake).hexdigest()
    return _named(draft, digest, "graph")


def make_durable(folder: Path, names: Iterable[str]) -> None:
    """Have files of `folder` outlive a loss of power."""
    for path in (*(folder / name for name in names), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Make `content` the snapshot; the files it names are durable."""
    body = orjson.dumps(content)
    draft = _draft(folder, "manifest")
    draft.write_bytes(blake2b(body, digest_size=_DIGEST_BYTES).hexdigest().encode() + b"\n" + body)
    make_durable(folder, [draft.name])
    draft.replace(folder / _MANIFEST)
    make_durable(folder, ())


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the snapshot's manifest; None if there is none.

    Raises:
        SnapshotError: It is not what was written.
    """
    try:
        digest, _, body = (folder / _MANIFEST).read_bytes().partition(b"\n")
        if digest.decode() != blake2b(body, digest_size=_DIGEST_BYTES).hexdigest():
            raise SnapshotError("the manifest is not what was written")
        content = orjson.loads(body)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SnapshotError("the manifest cannot be read") from error
    if not isinstance(content, dict):
        raise SnapshotError("the manifest cannot be read")
    return content


def discard(folder: Path, kept: set[str]) -> None:
    """Remove all files of snapshots in `folder` but those in `kept`."""
    for path in folder.glob("*"):
        is_ours = path.suffix in (".flat", ".graph", ".draft")
        if path.name not in kept and (is_ours or (path.name == _MANIFEST and not kept)):
            with suppress(OSError):
                path.unlink()


def _draft(folder: Path, kind: str) -> Path:
    # One thread writes one file of a kind at a time.
    return folder / f"{kind}-{os.getpid()}-{get_native_id()}.draft"


def _blake() -> Any:
    return blake2b(digest_size=_DIGEST_BYTES)


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


def _checked(folder: Path, name: str) -> Path:
    path = folder / name
    try:
        with path.open("rb") as file:
            digest = file_digest(file, _blake).hexdigest()
    except OSError as error:
        raise SnapshotError(f"{name} cannot be read") from error
    if path.stem != digest or path.parent != folder:
        raise SnapshotError(f"{name} is not what was written")
    return path


def _named(draft: Path, digest: str, kind: str) -> str:
    path = draft.with_name(f"{digest}.{kind}")
    draft.replace(path)
    return path.name
