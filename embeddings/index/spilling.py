"""Partitions out of memory: which lie on disk, in which files, and where in them.

Those put there together share a file, a pack. What is taken back or dropped leaves its place in the
pack unused. A pack of which nothing is needed is removed at once; of eight packs that are more than
half unused, what is left is written into a new one. So packs take about twice what lies in them at
most, beside those that only the last snapshot needs.

Of a partition its name and where it lies stay in memory; and, with `holdings`, to which partition
each key belongs.
"""

import logging
import struct
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from embeddings.index.graph import Graph
from embeddings.index.part_files import (
    PackWriter,
    Part,
    Row,
    SnapshotError,
    read_graph,
    read_packed,
    read_raw,
    read_table,
    write_graph,
)
from embeddings.index.partition import Partition
from embeddings.index.threads import IndexThreads

_TOGETHER: Final = 8
"""Packs whose rest is written anew together."""
_PARTITION_BYTES: Final = 230
"""What stays in memory of a partition: its name, its place, a dictionary's entry; measured."""
_KEY_BYTES: Final = 130
"""What stays in memory of a vector: its key, and an entry of the index's dictionary; measured."""

_log = logging.getLogger("recollect.embeddings")


class Place(NamedTuple):
    """Where a partition lies.

    Attributes:
        pack: The pack's number.
        offset: Where in the pack it begins.
        length: How long it is there, in bytes.
        vectors: How many it has.
        expires_at: When the last of them expires.
        oldest: The generation of the one that was added first.
    """

    pack: int
    offset: int
    length: int
    vectors: int
    expires_at: float
    oldest: int


_PLACE: Final = struct.Struct("<IQQIdi")
"""A place as it is kept: in less than half the memory."""


class Spot(NamedTuple):
    """Where a partition lies, for another thread."""

    name: bytes
    file: str
    offset: int
    length: int
    graph_file: str | None


class _Pack:
    __slots__ = ("file", "is_left", "living", "size")

    def __init__(self, file: str) -> None:
        self.file = file
        self.size = 0
        # Bytes of it that are needed.
        self.living = 0
        # Whether it was to be written anew: what could not be read stays.
        self.is_left = False


class Spilled:
    """Where partitions lie, coldest first; used by the index's owner alone."""

    def __init__(self, folder: Path, threads: IndexThreads, busy: Container[bytes]) -> None:
        """Start empty.

        Args:
            folder: The index's.
            threads: The index's.
            busy: Partitions that another thread reads: they stay where they are.
        """
        self._folder = folder
        self._threads = threads
        self._busy = busy
        self._places: dict[bytes, bytes] = {}
        self._graph_files: dict[bytes, str] = {}
        self._packs: dict[int, _Pack] = {}
        self._numbers: dict[str, int] = {}
        self._next_number = 0
        self._wasteful: set[int] = set()
        self._is_rewriting = False
        self._saved: set[str] = set()
        self.vectors = 0

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: bytes) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._places)

    @property
    def size_bytes(self) -> int:
        """Memory that what lies on disk still takes, estimated."""
        return len(self._places) * _PARTITION_BYTES + self.vectors * _KEY_BYTES

    @property
    def files(self) -> set[str]:
        """All in which something lies."""
        return {*self._numbers, *self._graph_files.values()}

    def place(self, name: bytes) -> Place:
        """Return where a partition lies."""
        return Place._make(_PLACE.unpack(self._places[name]))

    def spot(self, name: bytes) -> Spot:
        """Return where a partition lies, for `read`."""
        place = self.place(name)
        file = self._packs[place.pack].file
        return Spot(name, file, place.offset, place.length, self._graph_files.get(name))

    def put(
        self, file: str, rows: Iterable[Row], is_needed: Callable[[Row], bool] = lambda row: True
    ) -> None:
        """Note that partitions lie in a pack now, and no longer where they lay.

        Args:
            file: The pack.
            rows: All it has.
            is_needed: Whether a partition is to be found there.
        """
        number = self._numbers.get(file)
        if number is None:
            number = self._numbers[file] = self._next_number
            self._next_number += 1
            self._packs[number] = _Pack(file)
        pack = self._packs[number]
        for row in rows:
            pack.size = max(pack.size, row.offset + row.length)
            if not is_needed(row):
                continue
            place = Place(number, row.offset, row.length, len(row.keys), row.expires_at, row.oldest)
            before = self._places.get(row.name)
            self._places[row.name] = _PLACE.pack(*place)
            self.vectors += place.vectors
            pack.living += place.length
            if row.graph_file is not None:
                self._graph_files[row.name] = row.graph_file
            if before is not None:
                self._leave(Place._make(_PLACE.unpack(before)))
        self._look_at(number)

    def drop(self, name: bytes) -> int:
        """Let go of a partition; return how many vectors it had."""
        place = Place._make(_PLACE.unpack(self._places.pop(name)))
        self._graph_files.pop(name, None)
        self._leave(place)
        return place.vectors

    def drop_coldest(self, most_bytes: int, most: int) -> int:
        """Let go of the coldest, `most` at most, until the others take no more than `most_bytes`.

        Returns:
            How many partitions those were.
        """
        names: list[bytes] = []
        size_bytes = self.size_bytes
        for name in self._places:
            if size_bytes <= most_bytes or len(names) == most:
                break
            if name not in self._busy:
                names.append(name)
                size_bytes -= _PARTITION_BYTES + self.place(name).vectors * _KEY_BYTES
        for name in names:
            self.drop(name)
        return len(names)

    def drop_expired(self, names: Iterable[bytes], now: float) -> int:
        """Let go of those that have expired as a whole; return how many vectors they had."""
        return sum(
            self.drop(name)
            for name in names
            if name in self._places
            and name not in self._busy
            and self.place(name).expires_at <= now
        )

    # Snapshots.

    def keep(self, name: bytes) -> Spot:
        """Return where a partition lies, for a snapshot; its pack stays until `saved`."""
        spot = self.spot(name)
        self._saved.add(spot.file)
        return spot

    def saved(self, files: set[str]) -> None:
        """Note which files the last snapshot needs."""
        self._saved = files

    # Files of which little is needed.

    def _rewrite_soon(self) -> None:
        if len(self._wasteful) >= _TOGETHER and not self._is_rewriting:
            self._is_rewriting = True
            self._threads.beside(self._threads.saver, self._rewrite, self._rewritten)

    def _rewritten(self, done: "Future[None]") -> None:
        self._is_rewriting = False
        if done.exception() is not None:
            # They stay as they are, for as long as something of them is needed.
            _log.error("files of partitions cannot be written anew: %s", done.exception())
        self._rewrite_soon()

    def _rewrite(self) -> None:
        # On the saver's thread.
        ask = self._threads.ask
        left: list[tuple[str, int]] = []
        with PackWriter(self._folder) as writer:
            for file in ask(self._begin_rewrite):
                try:
                    rows = ask(self._living, file, read_table(self._folder, file))
                except SnapshotError as error:
                    _log.error("a file of partitions stays as it is: %s", error)
                    continue
                for row in rows:
                    try:
                        raw = read_raw(self._folder, file, row.offset, row.length)
                    except SnapshotError:
                        continue  # told when it is asked for
                    writer.copy(raw, row)
                    left.append((file, row.offset))
            if left:
                ask(self._end_rewrite, left, writer.finish(), writer.rows)

    def _begin_rewrite(self) -> list[str]:
        packs = [self._packs[number] for number in self._wasteful]
        self._wasteful.clear()
        for pack in packs:
            pack.is_left = True
        return [pack.file for pack in packs]

    def _living(self, file: str, rows: Sequence[Row]) -> list[Row]:
        return [row for row in rows if self._lies_at(row.name, file, row.offset)]

    def _lies_at(self, name: bytes, file: str, offset: int) -> bool:
        return name in self._places and self.spot(name)[1:3] == (file, offset)

    def _end_rewrite(self, left: list[tuple[str, int]], file: str, rows: Sequence[Row]) -> None:
        before = {row.name: place for row, place in zip(rows, left, strict=True)}
        # Some may have been taken back meanwhile.
        self.put(
            file,
            rows,
            lambda row: row.name not in self._busy and self._lies_at(row.name, *before[row.name]),
        )

    def _leave(self, place: Place) -> None:
        self.vectors -= place.vectors
        self._packs[place.pack].living -= place.length
        self._look_at(place.pack)

    def _look_at(self, number: int) -> None:
        pack = self._packs[number]
        if not pack.living:
            del self._packs[number], self._numbers[pack.file]
            self._wasteful.discard(number)
            if pack.file not in self._saved:
                with suppress(OSError):  # a snapshot's end does it, then
                    (self._folder / pack.file).unlink()
        elif 2 * pack.living < pack.size and not pack.is_left:
            self._wasteful.add(number)
            self._rewrite_soon()


def write(folder: Path, parts: Sequence[Part]) -> tuple[str, list[Row]]:
    """Write partitions into a pack; return its name and its table.

    Raises:
        OSError, RuntimeError: The disk is full, say; there is no pack.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with PackWriter(folder) as writer:
        for part in parts:
            if part.graph is not None:
                keep_graph(folder, part.graph)
            writer.write(part)
        return writer.finish(), writer.rows


def keep_graph(folder: Path, graph: Graph) -> str:
    """Return the file that holds `graph`'s index, written now unless it is there."""
    if graph.file is None or not (folder / graph.file).exists():
        graph.file = write_graph(folder, graph)
    return graph.file


def read(folder: Path, spot: Spot, dimension: int) -> Partition:
    """Return the partition that lies there; on any thread.

    Raises:
        SnapshotError: It is not what was written.
    """
    part = read_packed(folder, spot.file, spot.offset, spot.length, dimension)
    if part.name != spot.name:
        raise SnapshotError(f"{spot.file} has another partition there")
    return restored(folder, part, spot.graph_file, dimension)


def restored(folder: Path, part: Part, graph_file: str | None, dimension: int) -> Partition:
    """Return a partition that was read, but for its graph's index.

    Raises:
        SnapshotError: The graph is not what was written.
    """
    graph = None
    if graph_file is not None:
        graph = read_graph(folder, graph_file, part)
    elif part.graph is not None:
        raise SnapshotError("a graph has no file")
    partition = Partition(part.name, dimension)
    partition.restore(part.keys, part.vectors, part.expires_at, part.generations, graph)
    return partition
