"""Partitions on disk: few files, little memory, and what becomes of them when something fails."""

import asyncio
import os
import resource
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from embeddings.encoding.encoder import Vector
from embeddings.index.faiss_index import FaissIndex
from embeddings.index.part_files import Part, SnapshotError
from embeddings.index.partition import GRAPH_AT, Partition
from embeddings.index.spilling import Spilled, read, write
from embeddings.index.threads import IndexThreads
from tests.embeddings.fakes import CountingObserver
from tests.embeddings.index.index_rig import (
    DIMENSION,
    LATER,
    NOW,
    OTHER_PARTITION,
    PARTITION,
    entries,
    files,
    found,
    key,
    some_vectors,
)

# Room for the names and keys of some thousand vectors, and for few vectors.
CRAMPED = 800_000
BIG = some_vectors(GRAPH_AT + 300)
MOVED = some_vectors(10, seed=8)


def name_of(number: int) -> bytes:
    """Return a partition's name."""
    return number.to_bytes(32, "big")


@asynccontextmanager
async def opened(folder: Path, memory_bytes: int = CRAMPED) -> AsyncIterator[FaissIndex]:
    """An empty index that is closed again."""
    index = FaissIndex(
        folder, DIMENSION, "e" * 32, memory_bytes=memory_bytes, observer=CountingObserver()
    )
    try:
        yield index
    finally:
        await index.close()


async def add_small_ones(index: FaissIndex, count: int, expires_at: float = LATER) -> None:
    """Add so many partitions of one vector, each under its own number."""
    for number, vector in enumerate(some_vectors(count)):
        await index.add(entries([vector], number, name_of(number), expires_at))


async def found_numbers(index: FaissIndex, numbers: range) -> list[int]:
    """Return which of those are found."""
    vectors = some_vectors(numbers.stop)
    answers = [await found(index, vectors[at], 1, name_of(at)) for at in numbers]
    return [number for answer in answers for number in answer]


async def until_spilled(index: FaissIndex, count: int) -> None:
    """Wait until so many vectors lie on disk."""
    async with asyncio.timeout(20):
        while (await index.stats()).vectors["spilled"] != count:
            pass


async def until_found(index: FaissIndex, vector: Vector, number: int) -> None:
    """Wait until a large partition has come from disk, in which this is found."""
    async with asyncio.timeout(20):
        while await found(index, vector) != [number]:
            pass


@contextmanager
def busy(thread: Executor) -> Iterator[None]:
    """Keep one of an index's threads from what it is given, for a while."""
    may_go_on = threading.Event()
    thread.submit(may_go_on.wait, 30)
    try:
        yield
    finally:
        may_go_on.set()


@contextmanager
def full_disk(most_bytes: int) -> Iterator[None]:
    """Have no file become longer than that: as on a full disk, writing fails in its middle."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def with_a_big_one_on_disk(index: FaissIndex) -> None:
    """Add a partition with a graph, and have it put on disk."""
    await index.add(entries(BIG))
    async with asyncio.timeout(20):
        while (await index.stats()).vectors["graph"] != len(BIG):
            pass
    await index.add(entries(MOVED, first=80_000, partition=OTHER_PARTITION))
    await until_spilled(index, len(BIG))


# Files.


async def test_small_partitions_share_files(tmp_path: Path) -> None:
    """Thousands of files would take their time at each start and each snapshot."""
    async with opened(tmp_path) as index:
        await add_small_ones(index, 1000)
        stats = await index.stats()
        assert stats.vectors["spilled"] > 500
        assert len(files(tmp_path)) < stats.vectors["spilled"] / 20
        assert await found_numbers(index, range(1000)) == list(range(1000))
        assert (await index.stats()).bytes <= CRAMPED


async def test_taking_back_and_forth_does_not_fill_the_disk(tmp_path: Path) -> None:
    """Though no snapshot is written: what is unused is no more than what is used, and a little."""
    async with opened(tmp_path) as index:
        await add_small_ones(index, 1000)
        for _ in range(5):
            assert await found_numbers(index, range(0, 1000, 3)) == list(range(0, 1000, 3))
            assert await found_numbers(index, range(1, 1000, 3)) == list(range(1, 1000, 3))
        await index.save("1-0")  # behind whatever is being written anew
        length = 16 + 52 + 32 + 4 * DIMENSION + 12 + 32 + 80
        async with asyncio.timeout(20):
            while True:
                spilled = (await index.stats()).vectors["spilled"]
                on_disk = sum(path.stat().st_size for path in files(tmp_path, "*.pack"))
                if on_disk <= 2 * spilled * length + 8 * 64 * 1024:
                    break
        assert await found_numbers(index, range(1000)) == list(range(1000))


@asynccontextmanager
async def spilled_in(
    folder: Path, packs: int, each: int, busy: set[bytes]
) -> AsyncIterator[tuple[Spilled, IndexThreads]]:
    """Partitions of two vectors in so many packs of so many."""
    threads = IndexThreads()
    spilled = Spilled(folder, threads, busy)
    for pack in range(packs):
        parts = []
        for number in range(pack * each, (pack + 1) * each):
            partition = Partition(name_of(number), DIMENSION)
            for one in entries(some_vectors(2, seed=number), 2 * number, name_of(number)):
                partition.add(one, 0)
            parts.append(Part(partition.name, *partition.tail(), None))
        spilled.put(*write(folder, parts))
    try:
        yield spilled, threads
    finally:
        await threads.close()


async def check(spilled: Spilled, folder: Path, numbers: set[int]) -> None:
    """Check that these are on disk, whole, and no others."""
    assert set(spilled) == {name_of(number) for number in numbers}
    assert spilled.vectors == 2 * len(numbers)
    for number in numbers:
        partition = read(folder, spilled.spot(name_of(number)), DIMENSION)
        assert partition.keys == [key(2 * number), key(2 * number + 1)]
        [match] = partition.search(some_vectors(2, seed=number)[0], 1, NOW)
        assert match.key == key(2 * number)


async def until_files(folder: Path, threads: IndexThreads, count: int) -> None:
    """Wait until there are so many packs."""
    async with asyncio.timeout(20):
        while len(files(folder, "*.pack")) != count:
            await threads.call(len, ())


async def test_a_file_of_which_nothing_is_needed_is_removed(tmp_path: Path) -> None:
    """Unless the last snapshot names it."""
    async with spilled_in(tmp_path, 3, 4, set()) as (spilled, threads):
        spilled.saved({spilled.keep(name_of(0)).file})
        for number in range(8):
            assert await threads.call(spilled.drop, name_of(number)) == 2
        assert len(files(tmp_path)) == 2
        assert spilled.files < {path.name for path in files(tmp_path)}
        await check(spilled, tmp_path, {8, 9, 10, 11})


async def test_what_is_left_of_many_files_is_written_into_one(tmp_path: Path) -> None:
    """Once that are eight, in which more than half is unused; the order of coldness stays."""
    async with spilled_in(tmp_path, 9, 10, set()) as (spilled, threads):
        left = {number for number in range(90) if number >= 80 or number % 10 < 4}
        for number in set(range(70)) - left:
            await threads.call(spilled.drop, name_of(number))
        await threads.call(len, spilled)
        assert len(files(tmp_path, "*.pack")) == 9
        for number in set(range(70, 80)) - left:
            await threads.call(spilled.drop, name_of(number))
        await until_files(tmp_path, threads, 2)
        await check(spilled, tmp_path, left)
        assert list(spilled) == sorted(spilled)


async def test_what_is_being_read_or_cannot_be_read_stays_where_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While others are written anew, once: what fails is not tried for ever."""
    busy = {name_of(3)}
    async with spilled_in(tmp_path, 8, 10, busy) as (spilled, threads):
        before = spilled.spot(name_of(3))
        flip(tmp_path / spilled.spot(name_of(10)).file, 200)  # in its first partition
        os.truncate(tmp_path / spilled.spot(name_of(20)).file, 20)
        left = {number for number in range(80) if number % 10 < 4}
        for number in set(range(80)) - left:
            await threads.call(spilled.drop, name_of(number))
        await until_files(tmp_path, threads, 4)
        assert "stays as it is" in caplog.text
        assert spilled.spot(name_of(3)) == before
        await check_left(spilled, tmp_path, left - {10, 20, 21, 22, 23})
        for number in (10, 20):
            with pytest.raises(SnapshotError):
                read(tmp_path, spilled.spot(name_of(number)), DIMENSION)


async def check_left(spilled: Spilled, folder: Path, numbers: set[int]) -> None:
    """Check that these can be read."""
    for number in numbers:
        partition = read(folder, spilled.spot(name_of(number)), DIMENSION)
        assert partition.keys == [key(2 * number), key(2 * number + 1)]


async def test_files_are_not_written_anew_on_a_full_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They stay as they are."""
    async with spilled_in(tmp_path, 8, 10, set()) as (spilled, threads):
        left = {number for number in range(80) if number % 10 < 4}
        with full_disk(1000):
            for number in set(range(80)) - left:
                await threads.call(spilled.drop, name_of(number))
            async with asyncio.timeout(20):
                while "cannot be written anew" not in caplog.text:
                    await threads.call(len, ())
        assert len(files(tmp_path)) == 8
        await check(spilled, tmp_path, left)


async def test_what_a_snapshot_names_outlives_what_comes_after(tmp_path: Path) -> None:
    """Whenever the process dies, the last snapshot is whole: one written here, or taken up."""
    async with opened(tmp_path, 300_000) as index:
        await add_small_ones(index, 300)
        await index.save("1-0")
        assert await found_numbers(index, range(300)) == list(range(300))
        await index.remove([key(number) for number in range(300)])
        await index.add(entries(BIG[:300], 1000))
    for _ in range(2):
        async with opened(tmp_path, 300_000) as index:
            assert await index.load() == "1-0"
            assert await found_numbers(index, range(300)) == list(range(300))
            assert await index.expire(LATER) == 300
    async with opened(tmp_path, 300_000) as index:
        assert await index.load() == "1-0"
        await index.remove([key(number) for number in range(300)])
        await index.save("2-0")
        assert files(tmp_path, "*.pack") == []


# Memory.


async def test_what_stays_in_memory_of_what_lies_on_disk_is_counted_and_bounded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Past half of what is allowed the coldest is forgotten: a miss, told once."""
    limit = 100_000
    async with opened(tmp_path, limit) as index:
        await add_small_ones(index, 100)
        assert caplog.text == ""
        assert (await index.stats()).partitions == 100
        await add_small_ones(index, 1000)
        stats = await index.stats()
        assert stats.bytes <= limit
        assert 100 < stats.vectors["spilled"] < 200
        assert caplog.text.count("forgotten") == 1
        assert await found_numbers(index, range(500)) == []
        assert await found_numbers(index, range(950, 1000)) == list(range(950, 1000))
        await index.remove([key(number) for number in range(1000)])
        assert (await index.stats()).bytes == 0
        assert files(tmp_path) == []
        await add_small_ones(index, 10)
        assert await found_numbers(index, range(10)) == list(range(10))


# A large partition is read and written beside.


async def test_what_changes_while_a_partition_is_read_is_not_lost(tmp_path: Path) -> None:
    """Additions are found at once, all else when it is there."""
    async with opened(tmp_path) as index:
        await with_a_big_one_on_disk(index)
        with busy(index._threads.loader):
            assert await found(index, BIG[0]) == []
            await index.add(entries(MOVED[:4], first=5))  # in place of others
            await index.add(entries(MOVED[4:6], first=9000))
            await index.remove([key(7), key(9001), key(20), key(21)])
            await index.add(entries(BIG[21:22], first=21))
            await index.add(entries(BIG[30:31], first=30, partition=OTHER_PARTITION))
            assert await found(index, MOVED[0]) == [5]
            assert await found(index, MOVED[4]) == [9000]
            assert set(await found(index, BIG[0], k=9)) == {5, 6, 8, 9000, 21}
            stats = await index.stats()
            assert stats.partitions == 2
            assert stats.vectors["spilled"] == len(BIG)
        await until_found(index, BIG[0], 0)
        for number, vector in ((5, MOVED[0]), (6, MOVED[1]), (8, MOVED[3]), (9000, MOVED[4])):
            assert await found(index, vector) == [number]
        for number in (5, 6, 7, 8, 20, 30):
            assert number not in await found(index, BIG[number], k=3)
        assert await found(index, BIG[21]) == [21]
        assert await found(index, BIG[30], partition=OTHER_PARTITION) == [30]
        vectors = (await index.stats()).vectors
        assert sum(vectors.values()) == len(BIG) - 3 + 1 + len(MOVED) + 1


async def test_closing_while_a_partition_is_read(tmp_path: Path) -> None:
    """Nobody is left waiting, and what was saved is whole."""
    async with opened(tmp_path) as index:
        await with_a_big_one_on_disk(index)
        await index.save("1-0")
        await index.begin_sweep()
        with busy(index._threads.loader):
            assert await found(index, BIG[0]) == []
            waiting = [
                asyncio.create_task(index.end_sweep()),
                asyncio.create_task(index.save("2-0")),
            ]
            for _ in range(10):
                await index.stats()
            closing = asyncio.create_task(index.close())
            async with asyncio.timeout(20):
                await asyncio.wait(waiting)
        await closing
        with pytest.raises((SnapshotError, asyncio.CancelledError)):
            await waiting[1]
        await asyncio.gather(*waiting, return_exceptions=True)
    async with opened(tmp_path) as index:
        assert await index.load() == "1-0"
        await until_found(index, BIG[0], 0)


async def test_a_sweep_waits_for_a_partition_that_is_read(tmp_path: Path) -> None:
    """What is old in it goes; what was added meanwhile stays."""
    async with opened(tmp_path) as index:
        await with_a_big_one_on_disk(index)
        await index.begin_sweep()
        with busy(index._threads.loader):
            await index.add(entries(BIG[:20]))
            await index.add(entries(MOVED, first=80_000, partition=OTHER_PARTITION))
            assert await index.expire(NOW) == 0
            sweep = asyncio.create_task(index.end_sweep())
            for _ in range(10):
                await index.stats()
            assert not sweep.done()
        assert await sweep == len(BIG) - 20
        await until_found(index, BIG[3], 3)
        assert sum((await index.stats()).vectors.values()) == 20 + len(MOVED)


async def test_a_snapshot_waits_for_a_partition_that_is_read(tmp_path: Path) -> None:
    """It has what was changed before it began."""
    async with opened(tmp_path) as index:
        await with_a_big_one_on_disk(index)
        with busy(index._threads.loader):
            await index.add(entries(MOVED, first=9000))
            await index.remove([key(7)])
            saving = asyncio.create_task(index.save("1-0"))
            for _ in range(10):
                await index.stats()
            assert not saving.done()
        await saving
    async with opened(tmp_path, 1 << 30) as index:
        assert await index.load() == "1-0"
        await until_found(index, MOVED[0], 9000)
        await until_found(index, BIG[8], 8)
        assert 7 not in await found(index, BIG[7], k=3)


async def test_a_partition_lost_while_it_is_read_keeps_what_is_added(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And grows again."""
    async with opened(tmp_path) as index:
        await with_a_big_one_on_disk(index)
        assert index.is_whole
        [graph] = files(tmp_path, "*.graph")
        flip(graph)
        with busy(index._threads.loader):
            await index.add(entries(MOVED, first=9000))
            await index.remove([key(7)])
            await index.stats()
        async with asyncio.timeout(20):
            while "was lost" not in caplog.text:
                await index.stats()
        assert not index.is_whole
        assert await found(index, MOVED[3]) == [9003]
        assert len(await found(index, BIG[0], k=99)) == len(MOVED)
        await index.add(entries(BIG))
        async with asyncio.timeout(20):
            while not (await index.stats()).vectors["graph"]:
                pass
        await until_found(index, BIG[0], 0)


async def test_a_partition_wanted_while_it_is_written_stays(tmp_path: Path) -> None:
    """With all that has happened to it."""
    async with opened(tmp_path) as index:
        await index.add(entries(BIG))
        async with asyncio.timeout(20):
            while (await index.stats()).vectors["graph"] != len(BIG):
                pass
        with busy(index._threads.saver):
            await index.add(entries(MOVED, first=80_000, partition=OTHER_PARTITION))
            await index.add(entries(MOVED[:1], first=80_000, partition=OTHER_PARTITION))
            await index.remove([key(3)])
            assert await found(index, BIG[0]) == [0]
            saving = asyncio.create_task(index.save("1-0"))
            await index.stats()
        await saving
        stats = await index.stats()
        assert sum(stats.vectors.values()) == len(BIG) - 1 + len(MOVED)
        await until_found(index, BIG[0], 0)
        assert 3 not in await found(index, BIG[3], k=3)


# Faults.


def flip(path: Path, at: int | None = None) -> None:
    """Change one bit, in the middle unless it is told where."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 if at is None else at] ^= 1
    path.write_bytes(raw)


def cut(path: Path) -> None:
    """Leave half of it."""
    os.truncate(path, path.stat().st_size // 2)


def lose(path: Path) -> None:
    """Remove it."""
    path.unlink()


@pytest.mark.parametrize(("damage", "most_lost"), [(flip, 1), (cut, 60), (lose, 60)])
async def test_a_damaged_file_costs_what_lay_there(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    most_lost: int,
) -> None:
    """The rest is found, saved and changed as ever."""
    async with opened(tmp_path, 300_000) as index:
        await add_small_ones(index, 300)
        packs = files(tmp_path, "*.pack")
        assert len(packs) > 3
        damage(packs[0])
        await index.save("1-0")
        answers = await found_numbers(index, range(300))
        assert 300 - most_lost <= len(answers) < 300
        assert caplog.text.count("a partition was lost") == 300 - len(answers)
        assert not index.is_whole
        assert sum((await index.stats()).vectors.values()) == len(answers)
        await index.save("2-0")
        await index.begin_sweep()
        await add_small_ones(index, 300)
        assert index.is_whole
        assert await found_numbers(index, range(300)) == list(range(300))
        await index.remove([key(number) for number in range(300)])
        assert (await index.stats()).partitions == 0


@pytest.mark.parametrize("damage", [cut, lose])
async def test_a_file_lost_between_two_starts_has_the_index_filled_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    """The store has what lay there; until it was asked the rest is found."""
    async with opened(tmp_path, 300_000) as index:
        await add_small_ones(index, 300)
        await index.save("1-0")
    damage(files(tmp_path, "*.pack")[0])
    async with opened(tmp_path, 300_000) as index:
        assert await index.load() is None
        assert "partitions were lost" in caplog.text
        assert 200 < len(await found_numbers(index, range(300))) < 300
        await index.begin_sweep()
        await add_small_ones(index, 290)
        assert 0 < await index.end_sweep() <= 10
        assert await found_numbers(index, range(300)) == list(range(290))
        await index.save("2-0")
    async with opened(tmp_path, 300_000) as index:
        assert await index.load() == "2-0"
        assert await found_numbers(index, range(300)) == list(range(290))


async def test_a_disk_that_fills_while_small_ones_are_written_keeps_them_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """More memory than allowed is better than no answers; later they go."""
    async with opened(tmp_path, 100_000) as index:
        with full_disk(1500):
            await add_small_ones(index, 100)
            assert "cannot be put on disk: [Errno" in caplog.text
            assert files(tmp_path) == []
            assert (await index.stats()).vectors["flat"] == 100
            assert await found_numbers(index, range(100)) == list(range(100))
        await add_small_ones(index, 101)
        stats = await index.stats()
        assert stats.bytes <= 100_000
        assert stats.vectors["spilled"]
        assert await found_numbers(index, range(101)) == list(range(101))


async def test_a_disk_that_fills_while_a_graph_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In its middle or at its very end: no part of it is taken for the whole."""
    async with opened(tmp_path / "first") as index:
        await with_a_big_one_on_disk(index)
    [graph] = files(tmp_path / "first", "*.graph")
    for most_bytes in (graph.stat().st_size // 2, graph.stat().st_size - 100):
        caplog.clear()
        folder = tmp_path / str(most_bytes)
        async with opened(folder) as index:
            await index.add(entries(BIG))
            async with asyncio.timeout(20):
                while (await index.stats()).vectors["graph"] != len(BIG):
                    pass
            with full_disk(most_bytes):
                await index.add(entries(MOVED, first=80_000, partition=OTHER_PARTITION))
                async with asyncio.timeout(20):
                    while "cannot be put on disk" not in caplog.text:
                        await index.stats()
                with pytest.raises(OSError, match="too large"):
                    await index.save("1-0")
                assert files(folder, "*.graph") == files(folder, "*.draft") == []
                assert await found(index, BIG[0]) == [0]
            await index.save("2-0")
        async with opened(folder, 1 << 30) as index:
            assert await index.load() == "2-0"
            assert await found(index, BIG[0]) == [0]
            assert await found(index, MOVED[0], partition=OTHER_PARTITION) == [80_000]


async def test_a_snapshot_that_does_not_fit_leaves_the_last_one(tmp_path: Path) -> None:
    """And no drafts."""
    async with opened(tmp_path) as index:
        await add_small_ones(index, 20)
        await index.save("1-0")
        await add_small_ones(index, 100)
        with full_disk(4000), pytest.raises(OSError, match="too large"):
            await index.save("2-0")
        assert files(tmp_path, "*.draft") == []
    async with opened(tmp_path) as index:
        assert await index.load() == "1-0"
        assert await found_numbers(index, range(100)) == list(range(20))


def test_a_name_that_leads_elsewhere_is_no_file_of_ours(tmp_path: Path) -> None:
    """A manifest may say what it likes."""
    partition = Partition(PARTITION, DIMENSION)
    partition.add(entries(BIG[:1])[0], 0)
    file, [row] = write(tmp_path, [Part(PARTITION, *partition.tail(), None)])
    spilled = Spilled(tmp_path, IndexThreads(), set())
    spilled.put(file, [row])
    spot = spilled.spot(PARTITION)
    assert read(tmp_path, spot, DIMENSION).keys == [key(0)]
    for other in (
        spot._replace(file=f"../{tmp_path.name}/{file}"),
        spot._replace(name=OTHER_PARTITION),
        spot._replace(offset=1),
        spot._replace(length=spot.length - 1),
    ):
        with pytest.raises(SnapshotError):
            read(tmp_path, other, DIMENSION)
    with pytest.raises(SnapshotError):
        read(tmp_path, spot, DIMENSION + 1)
