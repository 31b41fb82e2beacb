"""The snapshot: which files make up an index, and where in the log of changes it stood.

It lies in `manifest.json`. The files it names are those of `part_files`, which never change, so
that a snapshot can share them with the one before it and with partitions that are out of memory.
The manifest is replaced by renaming: whenever the process dies, a whole snapshot is there.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import orjson

from embeddings.index.part_files import SnapshotError, digest_of, draft_path

FORMAT: Final = 3
_MANIFEST: Final = "manifest.json"


def make_durable(folder: Path, names: Iterable[str]) -> None:
    """Have files of `folder` outlive a loss of power."""
    for path in (*(folder / name for name in names), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Make `content` the snapshot; the files it names are durable."""
    body = orjson.dumps(content)
    draft = draft_path(folder, "manifest")
    draft.write_bytes(digest_of(body).hexdigest().encode() + b"\n" + body)
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
        if digest.decode() != digest_of(body).hexdigest():
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
        is_ours = path.suffix in (".flat", ".pack", ".graph", ".draft")
        if path.name not in kept and (is_ours or (path.name == _MANIFEST and not kept)):
            with suppress(OSError):
                path.unlink()
