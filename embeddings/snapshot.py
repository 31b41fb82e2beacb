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
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any, Final

import faiss
import numpy as np
import orjson
from numpy.typing import NDArray

from embeddings.index import KEY_BYTES, PARTITION_BYTES
from embeddings.partition import Graph

FORMAT: Final = 1
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
        graph: The graph; its index is None where that lies in a file of its own.
    """

    name: bytes
    keys: list[bytes]
    vectors: NDArray[np.float32]
    expires_at: NDArray[np.float64]
    graph: Graph | None


def write_parts(folder: Path, parts: Sequence[Part]) -> str:
    """Write partitions into one file of `folder`, and return its name."""
    draft = folder / f".{os.getpid()}.draft"
    digest = blake2b(digest_size=_DIGEST_BYTES)
    with draft.open("wb") as file:
        for part in parts:
            for piece in _pieces(part):
                digest.update(piece)
                file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return _named(draft, digest.hexdigest(), "flat")


def write_graph(folder: Path, graph: Graph) -> str:
    """Write a graph's index into a file of `folder`, and return its name. It must not change."""
    draft = folder / f".{os.getpid()}.graph-draft"
    faiss.write_index(graph.index, str(draft))
    with draft.open("r+b") as file:
        digest = file_digest(file, _blake).hexdigest()
        os.fsync(file.fileno())
    return _named(draft, digest, "graph")


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
    part.graph.index = index
    return part.graph


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Make `content` the snapshot."""
    body = orjson.dumps(content)
    draft = folder / f".{_MANIFEST}.{os.getpid()}"
    with draft.open("wb") as file:
        file.write(blake2b(body, digest_size=_DIGEST_BYTES).hexdigest().encode() + b"\n" + body)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / _MANIFEST)
    _sync_folder(folder)


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
        is_ours = path.suffix in (".flat", ".graph") or "draft" in path.name
        if path.name not in kept and (is_ours or (path.name == _MANIFEST and not kept)):
            with suppress(OSError):
                path.unlink()


def _blake() -> Any:
    return blake2b(digest_size=_DIGEST_BYTES)


def _pieces(part: Part) -> Iterator[bytes]:
    graph = part.graph
    rows = 0 if graph is None else len(graph.keys)
    yield _HEAD.pack(part.name, len(part.keys), rows, part.vectors.shape[1])
    yield b"".join(part.keys)
    yield part.vectors.tobytes()
    yield part.expires_at.tobytes()
    if graph is not None:
        yield b"".join(_DEAD_KEY if key is None else key for key in graph.keys[:rows])
        yield graph.expires_at[:rows].tobytes()


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
    graph = None
    if rows:
        found = _keys(take(rows * KEY_BYTES))
        living: list[bytes | None] = [None if key == _DEAD_KEY else key for key in found]
        expiries = np.frombuffer(take(8 * rows), "<f8").copy()
        graph = Graph(None, living, expiries, np.zeros(rows, np.int32), living.count(None))
    return Part(name, keys, vectors, expires_at, graph), at


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


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
